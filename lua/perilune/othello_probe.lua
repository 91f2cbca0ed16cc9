--- Where a model of Othello keeps its board: linear probes of the residual stream, and edits by them.
---
--- A probe reads every square as mine, yours or empty, of the one to move next: for each square three
--- linear functions of the residual stream after a layer, by ridge regression to 1 for what the square
--- is and 0 for what it is not; the largest wins.

local pl = require "perilune"
local othello = require "perilune.othello"

local probes = {}

local n_squares <const>, n_moves <const> = 64, 60

--- What a square can be: by the one to move, as Nanda et al. read it, or by colour, as Li et al. did.
probes.classes = { relative = { "mine", "yours", "empty" }, absolute = { "black", "white", "empty" } }

--- The board after each move of a game that others follow.
---@param moves integer[] squares
---@return perilune.othello.Game[] boards [i]: after i moves; [0]: the opening
function probes.boards(moves)
  local game, boards = othello.start(), {}
  for i = 0, #moves do
    if i > 0 then othello.play(game, moves[i]) end
    boards[i] = { mine = game.mine, yours = game.yours, black = game.black, n_moves = i, n_passes = game.n_passes,
      ended = game.ended }
  end
  return boards
end

-- What the squares of a board are, as 64 classes from 0, behind others in a list.
local function add_classes(list, board, view)
  local first, second = board.mine, board.yours
  if view == "absolute" and not board.black then first, second = second, first end
  for square = 0, n_squares - 1 do
    list[#list + 1] = first >> square & 1 ~= 0 and 0 or second >> square & 1 ~= 0 and 1 or 2
  end
end

---@class perilune.othello.Sample
---@field streams perilune.Tensor[] [layer], 0 the embedding: [row, d_model]
---@field labels {relative: perilune.Tensor, absolute: perilune.Tensor} int64 [row, 64]
---@field n integer rows: one for each move of each game but the last

--- Runs games through a model and keeps the residual stream at every move, and what the board was.
---@param model perilune.Model
---@param games {moves: integer[]}[]
---@param views? string[] "relative" unless said otherwise
---@return perilune.othello.Sample
function probes.sample(model, games, views)
  views = views or { "relative" }
  local n_layers, ids, labels = model.config.n_layers, {}, {}
  for _, view in ipairs(views) do labels[view] = {} end
  for g, game in ipairs(games) do
    local n = math.min(#game.moves - 1, n_moves - 1)
    ids[g] = pl.tensor(othello.ids(game.moves, n), { dtype = "int32" })
    local boards = probes.boards(game.moves)
    for i = 0, n do
      for _, view in ipairs(views) do add_classes(labels[view], boards[i], view) end
    end
  end
  local parts = {}
  for layer = 0, n_layers do parts[layer] = {} end
  for first = 1, #ids, 32 do
    local some = table.move(ids, first, math.min(first + 31, #ids), 1, {})
    local _, caches = pl.no_grad(function() -- of a model being trained, nothing is recorded
      return model:run_with_cache(some, { "blocks.0.hook_resid_pre", "hook_resid_post" })
    end)
    for _, cache in ipairs(caches) do
      table.insert(parts[0], cache["blocks.0.hook_resid_pre"])
      for layer = 1, n_layers do
        table.insert(parts[layer], cache[("blocks.%d.hook_resid_post"):format(layer - 1)])
      end
    end
  end
  local sample = { streams = {}, labels = {} }
  for layer = 0, n_layers do sample.streams[layer] = pl.cat(parts[layer]) end
  for view, list in pairs(labels) do
    sample.labels[view] = pl.tensor(list, { dtype = "int64" }):view(-1, n_squares)
  end
  sample.n = sample.streams[0]:size(0)
  return sample
end

-- Ones for what squares are: float32 [row, 64 * 3].
local function one_hot(labels)
  local parts = {}
  for class = 0, 2 do parts[class + 1] = labels:eq(class):float() end
  return pl.stack(parts, 2):view(labels:size(0), 3 * n_squares)
end

---@class perilune.othello.Probe
---@field weight perilune.Tensor [64, 3, d_model]
---@field bias perilune.Tensor [64, 3]
local Probe = {}
Probe.__index = Probe

--- Fits the probes of a layer. With them comes what ridge regression does not punish: the means.
---@param x perilune.Tensor [row, d_model]
---@param labels perilune.Tensor int64 [row, 64]
---@param ridge? number times the mean variance of the stream and the rows; 0.001 unless said otherwise
---@return perilune.othello.Probe
function probes.fit(x, labels, ridge)
  local y, n, d = one_hot(labels), x:size(0), x:size(1)
  local x_mean, y_mean = x:mean(0), y:mean(0)
  local centred = x - x_mean
  local gram = centred:transpose(0, 1):matmul(centred)
  local size = (centred * centred):sum() / d
  gram = gram + pl.eye(d) * (size * (ridge or 1e-3) + 1e-12)
  local weight = gram:solve(centred:transpose(0, 1):matmul(y - y_mean)) -- [d_model, 64 * 3]
  local bias = y_mean - x_mean:view(1, d):matmul(weight):view(-1)
  return setmetatable({ weight = weight:transpose(0, 1):contiguous():view(n_squares, 3, d),
    bias = bias:view(n_squares, 3) }, Probe), n
end

--- What the probes say: for every row and square three numbers.
---@param x perilune.Tensor [row, d_model]
---@return perilune.Tensor [row, 64, 3]
function Probe:scores(x)
  local d = x:size(1)
  return (x:matmul(self.weight:view(3 * n_squares, d):transpose(0, 1)) + self.bias:view(-1)):view(-1, n_squares, 3)
end

--- The classes read: int64 [row, 64].
---@param x perilune.Tensor [row, d_model]
---@return perilune.Tensor
function Probe:read(x) return self:scores(x):argmax(2) end

--- The direction from yours to mine of a square, and the number to add to a stream's component along it:
--- above 0 the square is read as mine rather than yours.
---@param square integer
---@return perilune.Tensor direction [d_model]
---@return number offset
function Probe:direction(square)
  local weight, bias = self.weight[square], self.bias[square]
  return weight[0] - weight[1], bias[0] - bias[1]
end

--- How much of what was read is so: of all squares, and of those with a disc.
---@param read perilune.Tensor int64 [row, 64]
---@param labels perilune.Tensor int64 [row, 64]
---@return number all from 0 to 1
---@return number discs
function probes.accuracy(read, labels)
  local right, disc = read:eq(labels):float(), labels:lt(2):float()
  return right:mean(), (right * disc):sum() / disc:sum()
end

--- What the most frequent class of each square makes, as if it were read: int64 [row, 64].
---@param labels perilune.Tensor int64 [row, 64] that are counted
---@param n integer rows to make
---@return perilune.Tensor
function probes.majority(labels, n)
  local counts = one_hot(labels):sum(0):view(n_squares, 3)
  return counts:argmax(1):view(1, n_squares):expand(n, n_squares):contiguous()
end

-- -- edits ------------------------------------------------------------------------------------------

---@class perilune.othello.Edit
---@field ids integer[] the game so far
---@field board perilune.othello.Game before the edit
---@field square integer whose disc changes sides
---@field legal integer the legal moves of the board as it is
---@field edited integer the legal moves of the edited board

--- A board with one disc turned over alone, or nil where that changes no legal move, or leaves none.
---@param moves integer[] the game's
---@param n integer how many of them were made
---@param board perilune.othello.Game after them
---@param square integer
---@return perilune.othello.Edit?
function probes.edit(moves, n, board, square)
  local bit = 1 << square
  if (board.mine | board.yours) & bit == 0 then return nil end
  local legal = othello.legal(board.mine, board.yours)
  local edited = othello.legal(board.mine ~ bit, board.yours ~ bit)
  if legal == edited or edited == 0 or legal == 0 then return nil end
  return { ids = othello.ids(moves, n), board = board, square = square, legal = legal, edited = edited }
end

--- Edits drawn from games: one of each, after `first` to `last` moves.
---@param games {moves: integer[]}[]
---@param first? integer 10 unless said otherwise
---@param last? integer 50 unless said otherwise
---@return perilune.othello.Edit[]
function probes.edits(games, first, last)
  local list = {}
  first, last = first or 10, last or 50
  for _, game in ipairs(games) do
    local boards, tries = probes.boards(game.moves), 0
    while tries < 1000 and #game.moves > first do -- a game where nothing changes is left out
      tries = tries + 1
      local n = math.random(first, math.min(last, #game.moves - 1))
      local edit = probes.edit(game.moves, n, boards[n], math.random(0, n_squares - 1))
      if edit then
        list[#list + 1] = edit
        break
      end
    end
  end
  return list
end

--- The logits of the next move, with the residual stream after some layers changed at the last
--- position.
---@param model perilune.Model
---@param ids integer[]
---@param change? fun(x: perilune.Tensor, layer: integer): perilune.Tensor? of [d_model]; layer as in `sample`
---@param first? integer layer; 1 unless said otherwise
---@param last? integer layer; the last unless said otherwise
---@return perilune.Tensor [61]
function probes.logits(model, ids, change, first, last)
  local hooks = {}
  for layer = first or 1, change and (last or model.config.n_layers) or 0 do
    hooks[#hooks + 1] = { ("blocks.%d.hook_resid_post"):format(layer - 1), function(act)
      local x = act:select(0, #ids - 1)
      local new = change(x, layer)
      if new then x:copy_(new) end
    end }
  end
  local tokens = pl.tensor(ids, { dtype = "int32" })
  local logits = #hooks > 0 and model:run_with_hooks(tokens, hooks) or model:forward(tokens)
  return logits[#ids - 1]
end

--- A change that sets what the probes of each layer read of a square: along the direction from yours to
--- mine, as far as mine - yours becomes `target`.
---@param layers table<integer, perilune.othello.Probe>
---@param square integer
---@param target number above 0: mine
---@return fun(x: perilune.Tensor, layer: integer): perilune.Tensor
function probes.setter(layers, square, target)
  return function(x, layer)
    local direction, offset = layers[layer]:direction(square)
    local margin = (x * direction):sum() + offset
    return x + direction * ((target - margin) / (direction * direction):sum())
  end
end

--- The likeliest moves, as many as there are legal ones, against those: how many false positives and
--- false negatives there are together.
---@param logits perilune.Tensor [61]
---@param legal integer set
---@return integer errors
---@return integer predicted set
function probes.errors(logits, legal)
  local n, predicted = othello.count(legal), 0
  local values = logits:to_table()
  local order = {}
  for token = 1, n_moves do order[token] = token end
  table.sort(order, function(a, b)
    local x, y = values[a + 1], values[b + 1]
    return x > y or x == y and a < b
  end)
  for i = 1, n do predicted = predicted | 1 << othello.square_of(order[i]) end
  return othello.count(predicted ~ legal), predicted
end

return probes
