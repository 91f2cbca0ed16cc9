-- A board nobody showed: where a model that only read moves of Othello keeps the discs.
--
-- A small model learned to predict the next legal move from lists of moves such as "d3 c5 d6", made at
-- random by the rules in perilune.othello. Nobody told it that there is a board. To know what is
-- legal it helps to know where the discs are; does it?
--
--  1. Probes: linear functions of the residual stream after each layer, fitted to say of every square
--     whether it is mine (of the one to move), yours or empty, and held to games they were not fitted
--     on. A model with random weights, and each square's most frequent state, are the controls. Probes
--     for black and white are beside them: the board is kept from the mover's side.
--  2. An edit: one disc of the board in the stream changes sides, along the direction that the probe
--     found. If the model uses that board, it now predicts the legal moves of the edited board.
--     Of as many likeliest moves as the edited board has legal ones, false positives and false
--     negatives are counted: without the edit (the null intervention), with it, and with an edit of
--     the same length in a random direction.
--
-- After Li et al., "Emergent World Representations" (2023), and Nanda et al., "Emergent Linear
-- Representations in World Models of Self-Supervised Sequence Models" (2023).
--
--   perilune othello
--   perilune othello --moves "d3 c5 d6 e3 f4" --square d4
--   perilune othello --train --out mine.gguf --steps 2000 && perilune othello -m mine.gguf

local pl = require "perilune"
local cli = require "perilune.cli"
local terminal = require "perilune.terminal"
local othello = require "perilune.othello"
local om = require "perilune.othello_model"
local probes = require "perilune.othello_probe"

local parser = cli.parser("othello", "Finds the board in a model of Othello moves, and edits it.")
parser:option("--moves", "A game to show, as \"d3 c5 ...\" (default: a random one)"):argname "MOVES"
parser:option("--square", "The square to edit in it (default: one that changes much)"):argname "NAME"
parser:option("--games", "Games to fit the probes on; a third as many are held out"):argname "N"
  :convert(cli.whole(3)):default "300"
parser:option("--edits", "Boards to edit and count errors on"):argname "N":convert(cli.whole(1)):default "200"
parser:option("--first-layer", "Edit after this layer and all later ones, counted from 1 (default: tried out)")
  :argname "N":convert(cli.whole(1))
parser:option("--strength", "What mine - yours is set to; 1 is a disc seen plainly (default: tried out)")
  :argname "X":convert(cli.number(0))
parser:flag("--train", "Train a model instead, and write it to --out")
parser:option("-o --out", "The GGUF file to write"):argname "FILE"
parser:option("--steps", "Training: steps"):argname "N":convert(cli.whole(1)):default "10000"
parser:option("--batch", "Training: games of a step"):argname "N":convert(cli.whole(1)):default "32"
parser:option("--lr", "Training: the highest learning rate"):argname "X":convert(cli.number(0)):default "0.002"
parser:option("--layers", "Training"):argname "N":convert(cli.whole(1)):default "5"
parser:option("--heads", "Training"):argname "N":convert(cli.whole(1)):default "8"
parser:option("--width", "Training: d_model"):argname "N":convert(cli.whole(1)):default "128"
parser:option("--dtype", "Training: the type of the weights in the file"):argname "TYPE":default "q8_0"
parser:option("--checkpoint", "Training: a .safetensors file to go on from after a stop"):argname "FILE"

local args = cli.parse(parser)
local seed = args.seed or 1

local function heading(text) print("\n" .. terminal.paint(text, "bold")) end
local function percent(x) return ("%.1f %%"):format(100 * x) end

-- -- training ---------------------------------------------------------------------------------------

local function say_quality(quality)
  print(("%d positions of %d random games it never saw: the likeliest move is legal in %.2f %%, legal moves"
    .. "\nhave %.2f %% of the probability; cross-entropy against all legal moves %.4f nats, %.4f at best"):format(
    quality.n, quality.n_games, 100 * quality.rate, 100 * quality.mass, quality.loss, quality.floor))
end

local function measure(model, n)
  local quality = om.measure(model, om.games(n, om.held_out_seed))
  quality.n_games = n
  return quality
end

local function train()
  if not args.out then cli.usage("--train needs --out, the file to write the model to") end
  if not args.out:find("%.gguf$") then cli.usage("--out %s: expected a name that ends in .gguf", args.out) end
  local file, why = io.open(args.out, "ab") -- better now than after the training
  if not file then pl.fail("io", "%s", why) end
  file:close()
  local model = om.new({ n_layers = args.layers, n_heads = args.heads, d_model = args.width, seed = args.seed },
    { threads = args.threads })
  print(("%s parameters: %d layers, %d heads, %d wide; %d steps of %d games"):format(
    terminal.thousands(model.n_params), args.layers, args.heads, args.width, args.steps, args.batch))
  local run = om.train(model, { steps = args.steps, batch = args.batch, lr = args.lr, seed = seed,
    checkpoint = args.checkpoint, report = function(run, quality)
      print(("step %6d   training %.4f   held out %.4f nats (%.4f at best)   legal %.2f %%"):format(run.step,
        run.losses[run.step], quality.loss, quality.floor, 100 * quality.rate))
      io.stdout:flush()
    end })
  model:save(args.out, { dtype = args.dtype, name = "othello" })
  print(("%s is written after %s"):format(args.out, terminal.duration(run.seconds)))
  local saved <close> = om.check(pl.load(args.out, { threads = args.threads }))
  say_quality(measure(saved, 256))
end

if args.train then return train() end

-- -- the model --------------------------------------------------------------------------------------

-- Without -m it is the one that comes along for this.
local function load_model()
  local path = args.model or (pl.home or ".") .. "/models/othello.gguf"
  return om.check(pl.load(path, { threads = args.threads }))
end

local function read_moves(text)
  local game, moves = othello.start(), {}
  for name in text:gmatch("[^%s,]+") do
    local square = othello.square(name)
    if not square then cli.usage("--moves: '%s' is no square: expected a1 to h8", name) end
    if game.ended then cli.usage("--moves: the game has ended before %s", name) end
    local good, why = pcall(othello.play, game, square)
    if not good then cli.usage("--moves: %s", why.message) end
    moves[#moves + 1] = square
  end
  if #moves == 0 then cli.usage("--moves: there is no move in it") end
  if game.ended then cli.usage("--moves: the game has ended: there is no move to predict") end
  return moves
end

local given = args.moves and read_moves(args.moves)
local given_square = args.square and (othello.square(args.square)
  or cli.usage("--square %s: expected a1 to h8", args.square))
local model = load_model()
local n_layers = model.config.n_layers
if args.first_layer and args.first_layer > n_layers then
  cli.usage("--first-layer %d: expected 1 to %d", args.first_layer, n_layers)
end

print(("%s: %d layers, %d wide, %s parameters"):format(model.name, n_layers, model.config.d_model,
  terminal.thousands(model.n_params)))
say_quality(measure(model, math.max(4, args.games // 5)))

-- -- probes -----------------------------------------------------------------------------------------

local views = { "relative", "absolute" }
local n_held_out = math.max(1, args.games // 3)

-- Probes of every layer, and how much they read of held-out games.
local function fit_probes(of, kinds)
  local train_sample = probes.sample(of, om.games(args.games, seed, -1), kinds)
  local test = probes.sample(of, om.games(n_held_out, seed, -2), kinds)
  local result = { layers = {}, n_train = train_sample.n, n_test = test.n }
  for _, view in ipairs(kinds) do
    result[view] = {}
    for layer = 0, of.config.n_layers do
      local probe = probes.fit(train_sample.streams[layer], train_sample.labels[view])
      local all, discs = probes.accuracy(probe:read(test.streams[layer]), test.labels[view])
      result[view][layer] = { all = all, discs = discs }
      if view == "relative" then result.layers[layer] = probe end
    end
  end
  local most = probes.majority(train_sample.labels.relative, test.n)
  result.majority = {}
  result.majority.all, result.majority.discs = probes.accuracy(most, test.labels.relative)
  return result
end

heading("What linear probes read")
local trained = fit_probes(model, views)
local random_model <close> = om.new({ n_layers = n_layers, d_model = model.config.d_model,
  n_heads = model.config.n_heads, d_mlp = model.config.d_mlp, seed = seed }, { threads = args.threads })
local random = fit_probes(random_model, { "relative" })
print(("Fitted on %s boards of %d games, measured on %s boards of %d others."
  .. "\nAll: of the 64 squares; discs: of the squares that have one.\n"):format(
  terminal.thousands(trained.n_train), args.games, terminal.thousands(trained.n_test), n_held_out))
print("                       mine / yours / empty    black / white / empty    random weights, mine ...")
print("                           all     discs           all     discs           all     discs")
local best = 0
for layer = 0, n_layers do
  local a, b, c = trained.relative[layer], trained.absolute[layer], random.relative[layer]
  if a.all > trained.relative[best].all then best = layer end
  local name = layer == 0 and "embedding" or "after layer " .. layer
  print(("  %-21s %8s  %8s      %8s  %8s      %8s  %8s"):format(name, percent(a.all), percent(a.discs), percent(b.all),
    percent(b.discs), percent(c.all), percent(c.discs)))
end
print(("  %-21s %8s  %8s"):format("most frequent state", percent(trained.majority.all),
  percent(trained.majority.discs)))
print(("The board is read best after layer %d."):format(best))

-- -- edits ------------------------------------------------------------------------------------------

local function target(edit, strength)
  return edit.board.mine >> edit.square & 1 ~= 0 and -strength or strength
end

-- Changes as long as those of the probe, in directions that mean nothing.
local function random_change(setter, number)
  return function(x, layer)
    local length = (setter(x, layer) - x):norm()
    local noise = pl.zeros(#x):normal_(0, 1, { seed = seed * 65536 + number * 64 + layer })
    return x + noise * (length / noise:norm())
  end
end

local function mean_errors(edits, fn)
  local n = 0
  for i, edit in ipairs(edits) do n = n + probes.errors(fn(edit, i), edit.edited) end
  return n / #edits
end

local function edited_logits(edit, first, strength)
  return probes.logits(model, edit.ids, probes.setter(trained.layers, edit.square, target(edit, strength)), first)
end

-- The first layer and the strength, each as asked for or the best on boards of their own.
local function choose(edits)
  local choice
  for first = args.first_layer or 1, args.first_layer or n_layers do
    for _, strength in ipairs(args.strength and { args.strength } or { 0.5, 1, 2, 3 }) do
      local errors = mean_errors(edits, function(edit) return edited_logits(edit, first, strength) end)
      if not choice or errors < choice.errors then choice = { first = first, strength = strength, errors = errors } end
    end
  end
  return choice
end

heading("One disc changes sides in the residual stream")
local function draw_edits(n, number)
  local games = om.games(n, seed, number)
  math.randomseed(seed, number)
  return probes.edits(games)
end
local edits = draw_edits(args.edits, -3)
local choice = choose(draw_edits(math.max(1, args.edits // 5), -4))
local own = 0
for _, edit in ipairs(edits) do own = own + probes.errors(probes.logits(model, edit.ids), edit.legal) end
own = own / #edits
local null = mean_errors(edits, function(edit) return probes.logits(model, edit.ids) end)
local after = mean_errors(edits, function(edit) return edited_logits(edit, choice.first, choice.strength) end)
local control = mean_errors(edits, function(edit, i)
  local setter = probes.setter(trained.layers, edit.square, target(edit, choice.strength))
  return probes.logits(model, edit.ids, random_change(setter, i), choice.first)
end)
print(("%d boards after 10 to 50 moves; after layer %d and all later ones, mine - yours of one square is set"
  .. "\nto %g or %g%s. Errors per board, against the legal moves:"):format(#edits, choice.first, choice.strength,
  -choice.strength, (args.first_layer and args.strength) and "" or " (the best of those tried, on other boards)"))
local longest = math.max(own, null, after, control, 1e-9)
local function bar(name, errors, colour)
  print(("  %-53s %6.2f  %s"):format(name, errors, terminal.paint(terminal.bar(errors / longest, 20), colour)))
end
bar("of the board as it is, without an edit", own, "grey")
bar("of the edited board, without an edit (null)", null, "orange")
bar("of the edited board, edited in a random direction", control, "orange")
bar("of the edited board, edited along the probe", after, "green")
if after < null then
  print(("The edit takes %.0f %% of the errors away: the board that the probe reads is one that the model uses.")
    :format(100 * (1 - after / null)))
else
  print("The edit takes no errors away: what the probe reads is not what the model uses, or not there.")
end

-- -- one game ---------------------------------------------------------------------------------------

local mine_mark, yours_mark = terminal.paint("X", "blue"), terminal.paint("O", "orange")

-- Eight lines of a board; mark(square) gives one character for each, with colour.
local function board_lines(title, mark)
  local lines = { terminal.fit(title, 23), "  a b c d e f g h      " }
  for row = 0, 7 do
    local cells = { tostring(row + 1) }
    for column = 0, 7 do cells[#cells + 1] = mark(8 * row + column) end
    lines[#lines + 1] = table.concat(cells, " ") .. "      "
  end
  return lines
end

local function side_by_side(boards)
  print()
  for i = 1, #boards[1] do
    local parts = {}
    for k, lines in ipairs(boards) do parts[k] = lines[i] end
    print("  " .. table.concat(parts, "  "):gsub("%s+$", ""))
  end
end

local function disc(board, square)
  return board.mine >> square & 1 ~= 0 and mine_mark or board.yours >> square & 1 ~= 0 and yours_mark
end

local function true_board(title, board)
  local legal = othello.legal(board.mine, board.yours)
  return board_lines(title, function(square)
    return disc(board, square) or legal >> square & 1 ~= 0 and terminal.paint("+", "green") or "."
  end)
end

local function read_board(title, x, board)
  local read = trained.layers[best]:read(x:view(1, -1)):view(-1):to_table()
  local wrong = 0
  local lines = board_lines(title, function(square)
    local class = read[square + 1]
    local is = board.mine >> square & 1 ~= 0 and 0 or board.yours >> square & 1 ~= 0 and 1 or 2
    if class ~= is then wrong = wrong + 1 end
    local mark = class == 0 and "X" or class == 1 and "O" or "."
    if class ~= is then return terminal.paint(class == 2 and "_" or mark:lower(), "red") end
    return class == 0 and mine_mark or class == 1 and yours_mark or mark
  end)
  return lines, wrong
end

-- The moves predicted, as many as there are legal ones: + legal, ! not, ? a legal one that is missed.
local function predicted_board(title, board, logits)
  local legal = othello.legal(board.mine, board.yours)
  local errors, predicted = probes.errors(logits, legal)
  return board_lines(title, function(square)
    local is, said = legal >> square & 1 ~= 0, predicted >> square & 1 ~= 0
    if is and said then return terminal.paint("+", "green") end
    if said then return terminal.paint("!", "red") end
    if is then return terminal.paint("?", "red") end
    return disc(board, square) or "."
  end), errors
end

local function likeliest(logits)
  local list = {}
  for i, item in ipairs(model:topk(logits:softmax(), 8)) do
    local name = item.id > 0 and othello.name(othello.square_of(item.id)) or "begin"
    list[i] = ("%s %.0f %%"):format(name, 100 * item.value)
  end
  return table.concat(list, "  ")
end

-- The edit that changes most legal moves, or the one that is asked for.
local function edit_of(moves, board)
  local most
  for square = given_square or 0, given_square or 63 do
    local edit = probes.edit(moves, #moves, board, square)
    if edit then
      edit.n_changed = othello.count(edit.legal ~ edit.edited)
      if not most or edit.n_changed > most.n_changed then most = edit end
    end
  end
  return most
end

local function example()
  local moves = given or table.move(om.games(1, seed, -5)[1].moves, 1, 22, 1, {})
  local board = probes.boards(moves)[#moves]
  local ids = othello.ids(moves)
  local names = {}
  for i, square in ipairs(moves) do names[i] = othello.name(square) end
  heading(("A game after %d moves; %s is to move"):format(#moves, board.black and "black" or "white"))
  print(table.concat(names, " "))
  print(("%s mine, of the one to move; %s yours; + a legal move. What is wrong: ! predicted, but not legal;"):format(
    mine_mark, yours_mark) .. "\n? legal, but not predicted; x, o, _ a square read wrongly as mine, yours, empty")
  local tokens = pl.tensor(ids, { dtype = "int32" })
  local _, cache = model:run_with_cache(tokens, { "blocks.0.hook_resid_pre", "hook_resid_post" })
  local x = cache[best == 0 and "blocks.0.hook_resid_pre" or ("blocks.%d.hook_resid_post"):format(best - 1)][#ids - 1]
  local logits = probes.logits(model, ids)
  local read, wrong = read_board(("read after layer %d"):format(best), x, board)
  local predicted, errors = predicted_board("predicted", board, logits)
  side_by_side({ true_board("the board", board), read, predicted })
  print(("\n  %d of 64 squares are read wrongly; %d errors in the moves predicted\n  likeliest: %s"):format(
    wrong, errors, likeliest(logits)))

  local edit = edit_of(moves, board)
  if not edit then
    print(given_square and ("\n  Turning %s over changes no legal move, or leaves none."):format(args.square)
      or "\n  No single disc changes the legal moves here.")
    return
  end
  local bit = 1 << edit.square
  local other = { mine = board.mine ~ bit, yours = board.yours ~ bit }
  local changed = edited_logits(edit, choice.first, choice.strength)
  heading(("The same game with %s %s in the residual stream"):format(othello.name(edit.square),
    board.mine & bit ~= 0 and "yours instead of mine" or "mine instead of yours"))
  local before, n_before = predicted_board("predicted without it", other, logits)
  local now, n_now = predicted_board("predicted with it", other, changed)
  side_by_side({ true_board("the edited board", other), before, now })
  print(("\n  against the edited board's legal moves: %d errors before the edit, %d after it\n  likeliest: %s"):format(
    n_before, n_now, likeliest(changed)))
end

example()
