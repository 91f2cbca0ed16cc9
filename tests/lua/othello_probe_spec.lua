-- Othello's model, the probes of its board, and the script that shows them.
local pl = require "perilune"
local othello = require "perilune.othello"
local om = require "perilune.othello_model"
local probes = require "perilune.othello_probe"
local program = dofile "tests/lua/program.lua"

local function percents(line)
  local list = {}
  for number in line:gmatch("([%d.]+) %%") do list[#list + 1] = tonumber(number) end
  return list
end

describe("othello", function()
  it("samples streams without a record, also of a model that is to be trained", function()
    local model <close> = om.new({ n_layers = 1, d_model = 8, n_heads = 2 })
    local sample = probes.sample(model, om.games(2, 1))
    for layer = 0, 1 do
      assert.are.same({ sample.n, 8 }, sample.streams[layer].shape)
      assert.is_false(sample.streams[layer].tracked)
    end
  end)

  it("reads streams that hold the board, and turns one square over in them", function()
    local games = om.games(12, 3)
    local rows, labels = {}, {}
    for _, game in ipairs(games) do
      for i, board in ipairs(probes.boards(game.moves)) do
        if i % 3 == 0 then
          local row = {}
          for square = 0, 63 do
            local mine, yours = board.mine >> square & 1, board.yours >> square & 1
            labels[#labels + 1] = mine == 1 and 0 or yours == 1 and 1 or 2
            row[2 * square + 1], row[2 * square + 2] = mine, yours
          end
          rows[#rows + 1] = row
        end
      end
    end
    local x = pl.tensor(rows)
    labels = pl.tensor(labels, { dtype = "int64" }):view(-1, 64)
    local probe = probes.fit(x, labels, 1e-6)
    local all, discs = probes.accuracy(probe:read(x), labels)
    assert.is_true(all > 0.999 and discs > 0.999, all .. " " .. discs)

    local square = othello.square("d4")
    local mine = probe:scores(probes.setter({ probe }, square, 1)(x[0], 1):view(1, -1))[0][square]
    local yours = probe:scores(probes.setter({ probe }, square, -1)(x[0], 1):view(1, -1))[0][square]
    assert.is_true(math.abs(mine[0] - mine[1] - 1) < 1e-3)
    assert.is_true(math.abs(yours[0] - yours[1] + 1) < 1e-3)
  end)

  it("draws edits that change the legal moves by one disc", function()
    math.randomseed(5)
    local edits = probes.edits(om.games(10, 5), 5, 40)
    assert.is_true(#edits > 5)
    for _, edit in ipairs(edits) do
      local bit = 1 << edit.square
      assert.are_not.equal(edit.legal, edit.edited)
      assert.are.equal(edit.legal, othello.legal(edit.board.mine, edit.board.yours))
      assert.are.equal(edit.edited, othello.legal(edit.board.mine ~ bit, edit.board.yours ~ bit))
      assert.are_not.equal(0, (edit.board.mine | edit.board.yours) & bit)
    end
  end)

  it("counts as many predictions as there are legal moves", function()
    local legal = othello.start().mine == 0 and 0 or othello.legal(othello.start().mine, othello.start().yours)
    local logits = {}
    for token = 0, othello.n_tokens - 1 do
      logits[token + 1] = token > 0 and legal >> othello.square_of(token) & 1 == 1 and 1 or 0
    end
    assert.are.equal(0, (probes.errors(pl.tensor(logits), legal)))
    assert.are.equal(2 * othello.count(legal), (probes.errors(-pl.tensor(logits), legal)))
  end)

  it("finds the board in the model that comes along, from the mover's side, and edits it", function()
    local status, out, err = program.run({ "othello", "--games", "60", "--edits", "100", "--threads", "2" })
    assert.are.equal(0, status, err)
    assert.is_true(percents(out:match("the likeliest move is legal in[^\n]+"))[1] > 97, out)
    local best = tonumber(out:match("board is read best after layer (%d)"))
    local read = percents(out:match("\n  after layer " .. best .. " +[^\n]+"))
    local majority = percents(out:match("\n  most frequent state[^\n]+"))
    assert.is_true(read[1] > read[3] + 5, "by the mover, not by colour\n" .. out)
    assert.is_true(read[1] > read[5] + 10, "not with random weights\n" .. out)
    assert.is_true(read[1] > majority[1] + 20, out)
    local function errors(what) return tonumber(out:match(what .. " +([%d.]+)")) end
    local null, random = errors "without an edit %(null%)", errors "edited in a random direction"
    local after = errors "edited along the probe"
    assert.is_true(after < 0.9 * null and after < 0.9 * random, out)
  end)

  it("shows a given game, and the square that is asked for", function()
    local status, out = program.run({ "othello", "--games", "6", "--edits", "5", "--moves", "d3 c5 d6 e3 f4",
      "--square", "d5" })
    assert.are.equal(0, status)
    assert.is_truthy(out:find("A game after 5 moves; white is to move\nd3 c5 d6 e3 f4\n", 1, true), out)
    assert.is_truthy(out:find("The same game with d5 ", 1, true) or out:find("Turning d5 over", 1, true), out)
  end)

  it("trains a model of its own, which it then reads", function()
    local file = os.tmpname() .. ".gguf"
    finally(function() os.remove(file) end)
    local train = { "othello", "--train", "--out", file, "--steps", "2", "--batch", "2", "--layers", "1",
      "--heads", "2", "--width", "32", "--seed", "3" }
    local status, first, err = program.run(train)
    assert.are.equal(0, status, err)
    local function losses(text) return text:match("step +2 [^\n]+") end
    assert.is_truthy(losses(first), first)
    local _, second = program.run(train)
    assert.are.equal(losses(first), losses(second))
    local out
    status, out, err = program.run({ "othello", "-m", file, "--games", "3", "--edits", "2" })
    assert.are.equal(0, status, err)
    assert.is_truthy(out:find("1 layers, 32 wide", 1, true), out)
  end)

  it("says in one line what is wrong", function()
    local mistakes = {
      { 2, "no legal move for white after 1 moves", "--moves", "d3 d3" }, { 2, "'zz' is no square", "--moves", "zz" },
      { 2, "there is no move", "--moves", " " }, { 2, "k9: expected a1 to h8", "--square", "k9" },
      { 2, "9: expected 1 to 5", "--first-layer", "9" }, { 2, "needs --out", "--train" },
      { 2, "ends in .gguf", "--train", "--out", "x.txt" }, { 1, "/nowhere", "--train", "--out", "/nowhere/x.gguf" },
      { 1, "a model of Othello has 61", "-m", "models/default.gguf" },
    }
    for _, mistake in ipairs(mistakes) do
      local status, _, err = program.run({ "othello", table.unpack(mistake, 3) })
      assert.are.equal(mistake[1], status, err)
      assert.is_truthy(err:find(mistake[2], 1, true), err)
      assert.are.equal(1, select(2, err:gsub("\n", "")), err)
    end
  end)
end)
