-- What hooks written in Lua cost: GPT-2 small's shape with random weights, in pairs that take turns, so
-- that both sides of a comparison see the same machine.
local pl = require "perilune"

local PAIRS, TOKENS, PROMPT = 15, 16, 512

local function median(list)
  table.sort(list)
  return list[#list // 2 + 1]
end

-- Runs both in turn; the medians of their times, and of the ratios of the pairs.
local function pairs_of(a, b)
  local times_a, times_b, ratios = {}, {}, {}
  for i = 1, PAIRS do
    local first, second = a, b
    if i % 2 == 0 then first, second = b, a end
    local x, y = first(), second()
    if i % 2 == 0 then x, y = y, x end
    times_a[i], times_b[i], ratios[i] = x, y, y / x
  end
  return median(times_a), median(times_b), median(ratios)
end

local function new_model(dtype)
  return pl.new_model({ arch = "gpt2", n_layers = 12, d_model = 768, n_heads = 12, n_ctx = 1024, d_vocab = 50257,
    dtype = dtype, seed = 1 })
end

local prompt = {}
for i = 1, PROMPT do prompt[i] = i * 37 % 50257 end

-- Seconds that fn takes on a sequence that holds a few tokens.
local function timed(model, fn)
  local seq <close> = model:sequence()
  seq:extend({ 1, 2, 3, 4 }, { logits = "none" })
  local start = pl.clock()
  fn(seq)
  return pl.clock() - start
end

-- Seconds of a token while hooks are there.
local function decode(model, set_up)
  local logits = pl.zeros(50257)
  return function()
    if set_up then set_up(model) end
    local seconds = timed(model, function(seq)
      for i = 1, TOKENS do seq:extend(i, { out = logits }) end
    end)
    model:reset_hooks()
    return seconds / TOKENS
  end
end

local function prefill(model, run)
  return function()
    local start = pl.clock()
    run(model)
    return pl.clock() - start
  end
end

local function line(dtype, what, a, b, ratio, most)
  print(("%-6s %-46s %9.3f ms %9.3f ms  %+6.2f %%  (at most %s)"):format(dtype, what, 1e3 * a, 1e3 * b,
    100 * (ratio - 1), most))
end

print(("%d threads, GPT-2 small's shape; medians of %d pairs in turn"):format(
  new_model("q8_0").default_session.threads, PAIRS))
print(("%-6s %-46s %12s %12s  %8s"):format("type", "what", "without", "with", "cost"))
for _, dtype in ipairs { "q8_0", "f32" } do
  local model = new_model(dtype)
  local direction = pl.zeros(768)
  direction:normal_(0, 0.01, { seed = 1 })
  local function nothing() end
  local function add(act) act:add_(direction) end
  local plain = decode(model)
  local a, b, ratio = pairs_of(plain, decode(model, function(m)
    m:hook("resid_post", nothing, { layer = 0 }):remove()
  end))
  line(dtype, "decode: no hooks, twice (noise)", a, b, ratio, "noise")
  a, b, ratio = pairs_of(plain, decode(model, function(m) m:hook("resid_post", nothing, { read = true }) end))
  line(dtype, "decode: an empty hook on every resid_post", a, b, ratio, "1 %")
  a, b, ratio = pairs_of(plain, decode(model, function(m) m:hook("resid_post", add) end))
  line(dtype, "decode: a vector added in every layer", a, b, ratio, "3 %")
  PAIRS = 5
  a, b, ratio = pairs_of(prefill(model, function(m)
    local seq <close> = m:sequence()
    seq:extend(prompt, { logits = "all" })
  end), prefill(model, function(m) m:run_with_cache(prompt, "resid_post") end))
  line(dtype, "prompt of 512: every residual stream kept", a, b, ratio, "10 %")
  PAIRS = 15
end

-- A sweep over heads and positions, against the same runs made whole.
local model = new_model("q8_0")
local clean, corrupted = {}, {}
for i = 1, 12 do clean[i], corrupted[i] = i * 31, i * 31 end
corrupted[5] = 777
local _, cache = model:run_with_cache(clean, "z")
local start = pl.clock()
pl.patching.sweep(model, clean, corrupted, "z", function(logits) return logits[0] end,
  { by = { "layer", "head", "pos" } })
local swept, runs, n = pl.clock() - start, 0, 12 * 12 * 12
start = pl.clock()
for layer = 0, 11 do -- one head and position of each layer stands for all of them
  local seq <close> = model:sequence()
  pl.edit.patch(seq, "z", cache, { layer = layer, head = layer, pos = layer })
  seq:extend(corrupted)
  runs = runs + 1
end
local naive = (pl.clock() - start) / runs * n
print(("\npatch sweep of %d heads x positions: %.2f s; run by run %.2f s; %.1f times as fast"):format(n, swept, naive,
  naive / swept))

dofile "tests/bench/samplers.lua"
