-- DoLa: what the last layer says more readily than an earlier one.
--
--     pl.strategies.dola(model, "The capital of France is", { dola_layers = "high", temp = 0 })
--
-- An early layer's logits are what the final norm and the output matrix make of the residual stream
-- that enters it. Of the candidate layers the one is taken whose distribution is farthest from the
-- last one's (Jensen-Shannon divergence), and a token's score is log p(last) - log p(early), among the
-- tokens at least `relative_top` times as likely as the last layer's likeliest (Chuang et al. 2023,
-- "DoLa: decoding by contrasting layers improves factuality in large language models", ICLR 2024).
--
--   dola_layers    "low" or "high", every other layer of that half, or a list of layers: 0 is the
--                  embedding, l the stream before block l; "low"
--   relative_top   0.1

local pl = require "perilune"
local Run = require "perilune.strategies.run"

local function candidate_layers(run)
  local config, which = run.model.config, run.opts.dola_layers or "low"
  local n, list = config.n_layers, {}
  if type(which) == "number" then which = { which } end
  if type(which) == "table" then
    for i, layer in ipairs(which) do
      list[i] = math.tointeger(layer)
      if not list[i] or layer < 0 or layer >= n then
        pl.fail("argument", "dola_layers: %s: expected layers from 0 to %d", tostring(layer), n - 1)
      end
    end
  elseif which == "low" or which == "high" then
    -- Where the output matrix is the embedding, the lowest layers only say the token itself again.
    local first = config.tied and math.min(2, n - 1) or 0
    local from = which == "low" and first or n > 40 and n - 20 or n // 2
    local to = which == "high" and n - 1 or math.max(from, (n > 40 and 20 or n // 2) - 1)
    for layer = from, to, 2 do list[#list + 1] = layer end
  end
  if #list == 0 then
    pl.fail("argument", "dola_layers = %s: expected \"low\", \"high\" or a list of layers", tostring(which))
  end
  return list
end

-- Jensen-Shannon divergence of distributions given by their logarithms.
local function divergence(p, q)
  local middle = ((p:exp() + q:exp()) / 2):log()
  return (((p - middle) * p:exp()):sum() + ((q - middle) * q:exp()):sum()) / 2
end

return Run.strategy("dola", { "dola_layers", "relative_top", "sampling" }, function(run)
  local layers, relative_top = candidate_layers(run), run:number("relative_top", 0.1, 0, 1)
  local n_layers, streams = run.model.config.n_layers, {}
  local seq, first = run:start()
  for _, layer in ipairs(layers) do
    run:hook(seq, ("blocks.%d.hook_resid_pre"):format(layer), function(act)
      streams[layer] = act:narrow(0, act.shape[1] - 1, 1):clone()
    end, { read = true })
  end

  local function feed(ids)
    local last = run:feed(seq, ids):log_softmax()
    local early, farthest = nil, -1
    for _, layer in ipairs(layers) do
      local logits = pl.partial({ { seq, n = 1, residual = streams[layer], logits = "last" }, from_layer = n_layers })
      local one = logits[1]:log_softmax()
      local distance = #layers == 1 and 0 or divergence(last, one)
      if distance > farthest then early, farthest, run.layer = one, distance, layer end
    end
    local score = last - early
    return score:masked_fill_(last:lt(last:max() + math.log(math.max(relative_top, 1e-300))), -math.huge)
  end

  local chosen = {}
  local function next_logits(ids)
    local logits = feed(ids)
    chosen[#chosen + 1] = run.layer
    return logits
  end
  run:loop(next_logits(first), next_logits)
  return { layers = chosen }
end)
