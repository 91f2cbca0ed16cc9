--- Models of Othello: made, trained on random games, and measured.
---
--- A model reads the token of the beginning and those of the moves (see perilune.othello), and gives at
--- each position logits for the next move. It is told nothing of the board.

local pl = require "perilune"
local othello = require "perilune.othello"
local muon = require "perilune.muon"

local om = {}

local n_tokens <const>, n_moves <const> = othello.n_tokens, othello.n_moves

--- An untrained model: GPT-2's architecture, random weights.
---@param opts? {n_layers?: integer, d_model?: integer, n_heads?: integer, d_mlp?: integer, seed?: integer}
---@param session_options? perilune.SessionOptions
---@return perilune.Model
function om.new(opts, session_options)
  opts = pl.check_options("othello_model.new", opts, { "n_layers", "d_model", "n_heads", "d_mlp", "seed" })
  local width = opts.d_model or 128
  local model <close> = pl.new_model({ arch = "gpt2", n_layers = opts.n_layers or 5, d_model = width,
    n_heads = opts.n_heads or 8, d_mlp = opts.d_mlp or 3 * width, n_ctx = n_moves, d_vocab = n_tokens, tied = false })
  return pl.init_weights(model:trainable(session_options), { std = 0.04, seed = opts.seed or 0 })
end

--- Checks that a model reads games as they are written here.
---@param model perilune.Model
---@return perilune.Model itself
function om.check(model)
  local config = model.config
  if config.d_vocab ~= n_tokens or config.n_ctx < n_moves then
    pl.fail("argument", "%s: a vocabulary of %d and a context of %d: a model of Othello has %d and at least %d",
      model.path or model.name, config.d_vocab, config.n_ctx, n_tokens, n_moves)
  end
  return model
end

--- Games of random moves, which depend on the seed and the number alone.
---@param n integer
---@param seed integer
---@param number? integer of the lot: 0 unless said otherwise
---@return {moves: integer[], legal: integer[]}[]
function om.games(n, seed, number)
  math.randomseed(seed, number or 0)
  local list = {}
  for i = 1, n do
    local moves, legal = othello.random_game(math.random)
    list[i] = { moves = moves, legal = legal }
  end
  return list
end

--- What a model reads of games, and what it should say: all legal moves, equally likely. A game of
--- fewer than 60 moves is filled up with positions at which nothing is right.
---@param games {moves: integer[], legal: integer[]}[]
---@return perilune.Tensor ids int32 [game, 60]: the beginning and 59 moves
---@return perilune.Tensor targets float32 [game * 60, 61]
---@return integer n positions with a legal move
function om.batch(games)
  local ids, targets, n, at = {}, {}, 0, 0
  for _, game in ipairs(games) do
    for i = 1, n_moves do
      ids[#ids + 1] = i > 1 and game.moves[i - 1] and othello.token(game.moves[i - 1]) or 0
      for k = at + 1, at + n_tokens do targets[k] = 0 end
      if game.legal[i] then
        local squares = othello.squares(game.legal[i])
        for _, square in ipairs(squares) do targets[at + othello.token(square) + 1] = 1 / #squares end
        n = n + 1
      end
      at = at + n_tokens
    end
  end
  local rows = pl.tensor(ids, { dtype = "int32" }):view(#games, n_moves)
  return rows, pl.tensor(targets):view(#games * n_moves, n_tokens), n
end

--- The mean cross-entropy against all legal moves, in nats. It is what the loss on the moves played is
--- on average, as those are drawn evenly from the legal ones, with less noise.
---@param model perilune.Model
---@param games table[]
---@return perilune.Tensor|number
function om.loss(model, games)
  local ids, targets, n = om.batch(games)
  local logits = model:forward(ids):view(#games * n_moves, n_tokens)
  return -(logits:log_softmax() * targets):sum() / n
end

---@class perilune.othello.Quality
---@field rate number how often the likeliest move is legal, from 0 to 1
---@field mass number the mean probability of all legal moves together
---@field n integer positions
---@field loss number cross-entropy against all legal moves equally likely, in nats
---@field floor number what that is at best: the mean entropy of the legal moves

--- How well a model knows which moves are legal.
---@param model perilune.Model
---@param games table[]
---@return perilune.othello.Quality
function om.measure(model, games)
  local right, mass, n, loss, floor = 0, 0, 0, 0, 0
  for first = 1, #games, 32 do
    local part = table.move(games, first, math.min(first + 31, #games), 1, {})
    pl.no_grad(function()
      local ids, targets, count = om.batch(part)
      local logits = om.logits(model, ids)
      local is_legal = (targets:gt(0)):float()
      right = right + is_legal:gather(1, logits:argmax(1):view(-1, 1)):sum()
      mass = mass + (logits:softmax() * is_legal):sum()
      loss = loss - (logits:log_softmax() * targets):sum()
      n = n + count
    end)
    for _, game in ipairs(part) do
      for _, legal in ipairs(game.legal) do floor = floor + math.log(othello.count(legal)) end
    end
  end
  return { rate = right / n, mass = mass / n, n = n, loss = loss / n, floor = floor / n }
end

--- Logits of games side by side.
---@param model perilune.Model
---@param ids perilune.Tensor [game, pos]
---@return perilune.Tensor [game * pos, 61]
function om.logits(model, ids)
  if model.is_trainable then return model:forward(ids):view(-1, n_tokens) end
  local list = {}
  for i = 1, ids:size(0) do list[i] = ids[i - 1] end
  return pl.cat((model:run_with_cache(list, {})))
end

---@class perilune.othello.TrainOptions
---@field steps integer
---@field batch? integer games of a step; 32
---@field lr? number 0.002
---@field seed? integer 0
---@field checkpoint? string path of a .safetensors file, to go on from
---@field every? integer steps between measurements; 250
---@field report? fun(run: perilune.FitResult, quality: perilune.othello.Quality)
---@field progress? boolean

local train_options = { "steps", "batch", "lr", "seed", "checkpoint", "every", "report", "progress" }

--- Held-out games are of seeds that training does not use.
om.held_out_seed = 0x07e110

--- Trains a model on random games, each of which it sees once.
---@param model perilune.Model of om.new
---@param opts perilune.othello.TrainOptions
---@return perilune.FitResult
function om.train(model, opts)
  opts = pl.check_options("othello_model.train", opts, train_options)
  local n, lr, seed = opts.batch or 32, opts.lr or 0.002, opts.seed or 0
  local quality
  return pl.fit({
    optimizer = muon(model:parameters(), { lr = lr, beta2 = 0.99, clip = 1, weight_decay = 0.01 }),
    n_steps = opts.steps,
    schedule = pl.optim.cosine({ lr = lr, min_lr = lr / 50, warmup = math.min(100, opts.steps // 10),
      n_steps = opts.steps }),
    loss = function(step) return om.loss(model, om.games(n, seed, step)) end,
    evaluate = function()
      quality = om.measure(model, om.games(64, om.held_out_seed))
      return quality.loss
    end,
    evaluate_every = opts.every, report = opts.report and function(run) opts.report(run, quality) end,
    checkpoint = opts.checkpoint, checkpoint_every = opts.every, tokens_per_step = n * n_moves,
    progress = opts.progress,
  })
end

return om
