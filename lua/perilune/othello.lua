--- The rules of Othello, on sets of squares.
---
--- A set of squares is an integer: bit 8 * row + column, counted from 0 at a1; columns are a to h, rows
--- 1 to 8 from the top. Black begins. A player without a move passes, which is no move of a game; when
--- both have none the game has ended.
---
---     local othello = require "perilune.othello"
---     local game = othello.start()
---     for _, square in ipairs(othello.squares(othello.legal(game.mine, game.yours))) do ... end
---     othello.play(game, othello.square("d3"))

local pl = require "perilune"

local othello = {}

local inner <const> = 0x7e7e7e7e7e7e7e7e -- without the columns a and h, at which lines end
local everything <const> = -1
local directions <const> = { 1, -1, 8, -8, 7, -7, 9, -9 }
local within <const> = { inner, inner, everything, everything, inner, inner, inner, inner }

--- The four squares of the opening, which nobody moves to: d4, e4, d5, e5.
othello.center = 1 << 27 | 1 << 28 | 1 << 35 | 1 << 36

--- Where the one with the discs `mine` may move against `yours`.
---@param mine integer
---@param yours integer
---@return integer set
function othello.legal(mine, yours)
  local empty, moves = ~(mine | yours), 0
  for i = 1, 8 do
    local by, over = directions[i], yours & within[i]
    local line = mine << by & over -- a shift by less than 0 goes to the right
    if line ~= 0 then
      line = line | line << by & over
      line = line | line << by & over
      line = line | line << by & over
      line = line | line << by & over
      line = line | line << by & over
      moves = moves | line << by & empty
    end
  end
  return moves
end

--- The discs of `yours` that turn over when `mine` moves to a square; 0 where the move is not legal.
---@param mine integer
---@param yours integer
---@param square integer 0 to 63
---@return integer set
function othello.flips(mine, yours, square)
  local at, turned = 1 << square, 0
  if (mine | yours) & at ~= 0 then return 0 end
  for i = 1, 8 do
    local by, over = directions[i], yours & within[i]
    local line, step = 0, at << by & over
    while step ~= 0 do
      line, step = line | step, step << by
      if step & mine ~= 0 then turned = turned | line end
      step = step & over
    end
  end
  return turned
end

--- The squares of a set, ascending.
---@param set integer
---@return integer[]
function othello.squares(set)
  local list, n = {}, 0
  for square = 0, 63 do
    if set >> square & 1 ~= 0 then
      n = n + 1
      list[n] = square
    end
  end
  return list
end

--- How many squares a set has.
---@param set integer
---@return integer
function othello.count(set)
  local n = 0
  while set ~= 0 do
    set, n = set & set - 1, n + 1
  end
  return n
end

--- "d3" for a square.
---@param square integer
---@return string
function othello.name(square) return string.char(97 + square % 8, 49 + square // 8) end

--- The square that is called so.
---@param name string
---@return integer? square nil for what is no square
function othello.square(name)
  if type(name) ~= "string" or not name:find("^[a-hA-H][1-8]$") then return nil end
  return name:lower():byte(1) - 97 + 8 * (name:byte(2) - 49)
end

---@class perilune.othello.Game
---@field mine integer discs of the one to move
---@field yours integer discs of the other
---@field black boolean black is to move
---@field n_moves integer passes not counted
---@field n_passes integer
---@field ended boolean nobody can move

--- A game before its first move.
---@return perilune.othello.Game
function othello.start()
  return { mine = 1 << 28 | 1 << 35, yours = 1 << 27 | 1 << 36, black = true, n_moves = 0, n_passes = 0,
    ended = false }
end

--- Moves, and passes for whoever cannot move next. A move that is not legal raises.
---@param game perilune.othello.Game is changed
---@param square integer
---@return integer legal where the next one may move; 0 when the game has ended
function othello.play(game, square)
  local turned = othello.flips(game.mine, game.yours, square)
  if turned == 0 then
    pl.fail("argument", "%s is no legal move for %s after %d moves", othello.name(square),
      game.black and "black" or "white", game.n_moves)
  end
  local mine, yours = game.yours & ~turned, game.mine | turned | 1 << square
  local black, legal = not game.black, othello.legal(mine, yours)
  if legal == 0 then
    legal = othello.legal(yours, mine)
    if legal ~= 0 then
      mine, yours, black, game.n_passes = yours, mine, not black, game.n_passes + 1
    end
  end
  game.mine, game.yours, game.black, game.n_moves = mine, yours, black, game.n_moves + 1
  game.ended = legal == 0
  return legal
end

--- A game of uniformly drawn legal moves, to its end.
---@param random fun(n: integer): integer from 1 to n
---@return integer[] moves squares
---@return integer[] legal the set that each was drawn from
function othello.random_game(random)
  local game, moves, sets = othello.start(), {}, {}
  local legal = othello.legal(game.mine, game.yours)
  while legal ~= 0 do
    local rest = legal
    for _ = 2, random(othello.count(legal)) do rest = rest & rest - 1 end
    local n, bit = 0, rest & -rest
    while bit ~= 1 do
      bit, n = bit >> 1, n + 1
    end
    moves[#moves + 1], sets[#sets + 1] = n, legal
    legal = othello.play(game, n)
  end
  return moves, sets
end

--- How many games of `depth` moves there are from here, passes counted as moves.
---@param mine integer
---@param yours integer
---@param depth integer
---@return integer
function othello.perft(mine, yours, depth)
  if depth == 0 then return 1 end
  local legal = othello.legal(mine, yours)
  if legal == 0 then
    if othello.legal(yours, mine) == 0 then return 1 end
    return othello.perft(yours, mine, depth - 1)
  end
  if depth == 1 then return othello.count(legal) end
  local n = 0
  for _, square in ipairs(othello.squares(legal)) do
    local turned = othello.flips(mine, yours, square)
    n = n + othello.perft(yours & ~turned, mine | turned | 1 << square, depth - 1)
  end
  return n
end

-- -- as tokens --------------------------------------------------------------------------------------

-- Token 0 begins a game, tokens 1 to 60 are the squares that can be moved to, ascending.
local token_of, square_of = {}, {}
for square = 0, 63 do
  if othello.center >> square & 1 == 0 then
    square_of[#square_of + 1] = square
    token_of[square] = #square_of
  end
end

othello.n_tokens = 61
othello.n_moves = 60

--- The token of a square: 1 to 60, nil for the four in the middle.
---@param square integer
---@return integer?
function othello.token(square) return token_of[square] end

--- The square of a token from 1 to 60.
---@param token integer
---@return integer?
function othello.square_of(token) return square_of[token] end

--- A game as a model reads it: the token of the beginning, then those of moves.
---@param moves integer[] squares
---@param n? integer how many of them; all unless said otherwise
---@return integer[] ids
function othello.ids(moves, n)
  local ids = { 0 }
  for i = 1, n or #moves do ids[i + 1] = token_of[moves[i]] end
  return ids
end

return othello
