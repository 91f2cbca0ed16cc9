-- Othello: its rules.
require "perilune" -- which knows where its modules are
local othello = require "perilune.othello"
local om = require "perilune.othello_model"
local tiny = dofile "tests/lua/tiny.lua"

local function sq(name) return othello.square(name) end

local function set(names)
  local bits = 0
  for name in names:gmatch("%S+") do bits = bits | 1 << sq(name) end
  return bits
end

local function names(bits)
  local list = {}
  for i, square in ipairs(othello.squares(bits)) do list[i] = othello.name(square) end
  return table.concat(list, " ")
end

describe("the rules of Othello", function()
  it("count the games from the opening", function()
    local game = othello.start()
    for depth, n in ipairs { 4, 12, 56, 244, 1396, 8200, 55092 } do
      assert.equal(n, othello.perft(game.mine, game.yours, depth))
    end
  end)

  it("name squares", function()
    assert.equal(0, sq "a1")
    assert.equal(7, sq "h1")
    assert.equal(63, sq "H8")
    for square = 0, 63 do assert.equal(square, sq(othello.name(square))) end
    for _, wrong in ipairs { "i1", "a9", "a0", "", "a", "a11" } do assert.is_nil(sq(wrong)) end
    assert.is_nil(sq(nil))
  end)

  it("number the 60 squares that can be moved to", function()
    local seen = {}
    for square = 0, 63 do
      local token = othello.token(square)
      assert.equal(othello.center >> square & 1 == 1, token == nil)
      if token then
        assert.equal(square, othello.square_of(token))
        seen[token] = true
      end
    end
    assert.equal(60, #seen)
    assert.equal(othello.n_tokens, #seen + 1)
    assert.same({ 0, othello.token(sq "d3") }, othello.ids({ sq "d3", sq "c3" }, 1))
  end)

  it("let black begin", function()
    local game = othello.start()
    assert.equal("d3 c4 f5 e6", names(othello.legal(game.mine, game.yours)))
    othello.play(game, sq "d3")
    assert.is_false(game.black)
    assert.equal("e5", names(game.mine))
    assert.equal("d3 d4 e4 d5", names(game.yours))
  end)

  it("turn discs over in all eight directions", function()
    local steps = { n = -8, s = 8, e = 1, w = -1, ne = -7, nw = -9, se = 9, sw = 7 }
    local all_mine, all_yours = 0, 0
    for _, by in pairs(steps) do
      local yours, mine = 1 << 27 + by | 1 << 27 + 2 * by, 1 << 27 + 3 * by
      assert.equal(yours, othello.flips(mine, yours, 27))
      assert.equal(1 << 27, othello.legal(mine, yours) & 1 << 27)
      all_mine, all_yours = all_mine | mine, all_yours | yours
    end
    assert.equal(16, othello.count(all_yours))
    assert.equal(all_yours, othello.flips(all_mine, all_yours, 27))
  end)

  it("turn over up to six discs in a line, and none beyond a gap or without an end", function()
    assert.equal("b1 c1 d1 e1 f1 g1", names(othello.flips(set "h1", set "b1 c1 d1 e1 f1 g1", sq "a1")))
    assert.equal("a1", names(othello.legal(set "h1", set "b1 c1 d1 e1 f1 g1")))
    assert.equal(set "a1", othello.legal(set "a8", set "a2 a3 a4 a5 a6 a7"))
    assert.equal(set "h8", othello.legal(set "a1", set "b2 c3 d4 e5 f6 g7"))
    assert.equal(set "h1", othello.legal(set "a8", set "b7 c6 d5 e4 f3 g2"))
    assert.equal(0, othello.flips(set "h1", set "b1 c1 e1 f1 g1", sq "a1"))
    assert.equal(0, othello.flips(0, set "b1 c1", sq "a1"))
    assert.equal(0, othello.flips(set "a1", set "b1", sq "b1"))
  end)

  it("do not go round the edges", function()
    -- h1 and a2 are neighbours by number only
    assert.equal(0, othello.legal(set "g1", set "h1"))
    assert.equal(0, othello.legal(set "b2", set "a2"))
    assert.equal(0, othello.legal(set "g2 g7", set "h1 h2 h7 h8"))
    assert.equal(0, othello.flips(set "g1", set "h1", sq "a2"))
    assert.equal(0, othello.flips(set "b3", set "a2", sq "h1"))
    assert.equal(0, othello.flips(set "c1", set "a2 b2", sq "h1"))
  end)

  it("agree with a board walked square by square", function()
    local function slow(mine, yours)
      local function at(x, y)
        if x < 0 or x > 7 or y < 0 or y > 7 then return nil end
        local bit = 1 << 8 * y + x
        return mine & bit ~= 0 and "mine" or yours & bit ~= 0 and "yours" or "empty"
      end
      local legal, flips = 0, {}
      for square = 0, 63 do
        flips[square] = 0
        for dx = -1, 1 do
          for dy = -1, 1 do
            local x, y, line = square % 8 + dx, square // 8 + dy, 0
            while (dx ~= 0 or dy ~= 0) and at(x, y) == "yours" do
              x, y, line = x + dx, y + dy, line | 1 << 8 * y + x
            end
            if at(x, y) == "mine" then flips[square] = flips[square] | line end
          end
        end
        if at(square % 8, square // 8) ~= "empty" then flips[square] = 0 end
        if flips[square] ~= 0 then legal = legal | 1 << square end
      end
      return legal, flips
    end
    for _, game in ipairs(om.games(3, 11)) do
      local state = othello.start()
      for i, move in ipairs(game.moves) do
        local legal, flips = slow(state.mine, state.yours)
        assert.equal(legal, othello.legal(state.mine, state.yours))
        assert.equal(legal, game.legal[i])
        for square = 0, 63 do
          assert.equal(flips[square], othello.flips(state.mine, state.yours, square))
        end
        othello.play(state, move)
      end
      assert.is_true(state.ended)
      assert.equal(0, othello.legal(state.mine, state.yours) | othello.legal(state.yours, state.mine))
    end
  end)

  it("pass for a player without a move", function()
    -- white's one disc, b8, has only a8 beside it, behind which the board ends; black takes b8 by c8
    local game = { mine = set "c1 a8", yours = set "b1 b8", black = true, n_moves = 5, n_passes = 0, ended = false }
    local legal = othello.play(game, sq "a1")
    assert.equal(1, game.n_passes)
    assert.is_true(game.black)
    assert.is_false(game.ended)
    assert.equal("c8", names(legal))
    assert.equal(set "a1 b1 c1 a8", game.mine)
    othello.play(game, sq "c8")
    assert.is_true(game.ended)
  end)

  it("end when neither player can move, empty squares or not", function()
    local game = { mine = set "c1", yours = set "b1", black = true, n_moves = 0, n_passes = 0, ended = false }
    assert.equal(0, othello.play(game, sq "a1"))
    assert.is_true(game.ended)
    assert.equal(0, game.n_passes)
    -- the shortest game there is: white is wiped out by black's fifth move
    game = othello.start()
    for name in ("e6 f4 e3 f6 g5 d6 e7 f5 c5"):gmatch("%S+") do othello.play(game, sq(name)) end
    assert.is_true(game.ended)
    assert.equal(9, game.n_moves)
    assert.equal(13, othello.count(game.mine | game.yours))
  end)

  it("refuse a move that is not legal by name", function()
    local game = othello.start()
    local err = tiny.failure(othello.play, game, sq "a1")
    assert.equal("argument", err.kind)
    assert.match("a1 is no legal move for black after 0 moves", err.message)
    assert.equal(0, game.n_moves)
    tiny.failure(othello.play, game, sq "d4")
  end)
end)
