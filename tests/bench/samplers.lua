-- What sampling costs through Lua: microseconds a token, taking the logits up and telling their
-- entropy included; and what a sampler written in Lua adds to that.
local pl = require "perilune"

local ROUNDS = 100

local function median(n_vocab, fn)
  local logits = pl.randn({ n_vocab }, { seed = 1 }):mul_(2.5)
  local times = {}
  for i = 1, ROUNDS do
    local work = logits:clone()
    local start = pl.clock()
    fn(work, i)
    times[i] = 1e6 * (pl.clock() - start)
  end
  table.sort(times)
  return times[ROUNDS // 2]
end

pl.sampler("three_operations", function(logits)
  logits:sub_(logits:max())
  logits:div_(0.8)
end)

for _, n_vocab in ipairs({ 50257, 151936 }) do
  local model = pl.new_model({ d_model = 8, n_layers = 1, n_heads = 1, d_mlp = 8, n_ctx = 16, d_vocab = n_vocab })
  local function cost(list)
    local chain <close> = model:chain(list, { seed = 1 })
    return median(n_vocab, function(logits, i) chain:sample(logits, i) end)
  end
  local greedy = cost({ "greedy" })
  print(("samplers from Lua: %d logits"):format(n_vocab))
  print(("  %-40s %8.1f us"):format("default chain",
    cost({ { top_k = 40 }, { top_p = 0.95 }, { min_p = 0.05 }, { temp = 0.8 }, "dist" })))
  print(("  %-40s %8.1f us"):format("greedy", greedy))
  print(("  %-40s %8.1f us"):format("a function of three tensor operations adds",
    cost({ "three_operations", "greedy" }) - greedy))
  model:close()
end
