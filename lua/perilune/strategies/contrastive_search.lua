-- Contrastive search: likely tokens that are not what was said before.
--
--     pl.strategies.contrastive_search(model, "Once", { penalty_alpha = 0.6, top_k = 4 })
--
-- Of the top_k likeliest tokens the one with the largest
--     (1 - penalty_alpha) p(token) - penalty_alpha max over the text of cos(h(token), h(earlier token))
-- is taken, h being the last hidden state; nothing is random (Su et al. 2022, "A contrastive framework
-- for neural text generation", NeurIPS). The candidates are forks, fed in one pass, of which one goes on.

local pl = require "perilune"
local Run = require "perilune.strategies.run"

-- The final norm of rows [pos, d_model]; a pass computes it only for rows whose logits are asked for.
local function final_norm(model, x)
  local config = model.config
  if not config.norm_final then return x end
  if config.norm == "layer" then x = x - x:mean(-1, { keepdim = true }) end
  x = x / (x:square():mean(-1, { keepdim = true }) + config.norm_eps):sqrt() * model.ln_final_w
  return config.norm == "layer" and x + model.ln_final_b or x
end

-- The last hidden states of this sequence's rows and, as hooks go with them, its forks', at length 1.
local function listen(run, seq, states)
  run:hook(seq, "resid_post", function(act, at)
    local rows = final_norm(run.model, act)
    rows = rows / (rows:norm(-1, { keepdim = true }) + 1e-12)
    states[at.seq] = states[at.seq] and pl.cat({ states[at.seq], rows }, 0) or rows
  end, { layer = run.model.config.n_layers - 1, read = true })
end

return Run.strategy("contrastive_search", { "penalty_alpha", "top_k" }, function(run)
  local alpha = run:number("penalty_alpha", 0.6, 0, 1)
  local k = math.min(run:whole("top_k", 4, 1), run.n_vocab)
  local seq, states = run:sequence(), {}
  listen(run, seq, states)
  local logits = run:feed(seq, run.prompt)
  local text = states[seq]
  local over
  repeat
    run:draw(logits, 0, "token") -- refuses what is no distribution
    local p, ids = logits:softmax():topk(k)
    local items = {}
    for i = 0, k - 1 do items[i + 1] = { run:fork(seq), { ids[i] }, logits = "last" } end
    for passed in pairs(states) do states[passed] = nil end
    local results = run:extend(items)
    local best, best_score
    for i, item in ipairs(items) do
      local likeness = text:matmul(states[item[1]]:transpose()):max()
      local score = (1 - alpha) * p[i - 1] - alpha * likeness
      if not best or score > best_score then best, best_score = i, score end
    end
    over = run:put(ids[best - 1], { prob = p[best - 1], score = best_score })
    run:drop(seq)
    for i, item in ipairs(items) do
      if i ~= best then run:drop(item[1]) end
    end
    seq, logits = items[best][1], results[best]
    text = pl.cat({ text, states[seq] }, 0)
  until over
end)
