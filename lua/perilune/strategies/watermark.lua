-- A watermark that a reader does not see and a detector finds (Kirchenbauer et al. 2023, "A watermark
-- for large language models", ICML).
--
--     local result = pl.strategies.watermark(model, "Once", { max_new_tokens = 200, seed = 1 })
--     local found = pl.strategies.watermark.detect(model, result.text)
--     print(found.z, found.p_value, found.prediction)
--
-- The tokens before the next one seed a random choice of green tokens, a share greenlist_ratio of the
-- vocabulary, whose logits are raised by bias. Who knows hashing_key counts the green ones: without a
-- watermark the share is greenlist_ratio. Options of both: greenlist_ratio (gamma, 0.25), hashing_key
-- (15485863), context_width (1, the tokens that seed); bias (delta, 2) when making; z_threshold (3),
-- ignore_repeated_ngrams (true: the same tokens in the same place count once) when detecting.

local pl = require "perilune"
local Run = require "perilune.strategies.run"

local function read(opts, known)
  opts = pl.check_options("watermark", opts, known, { gamma = "greenlist_ratio", delta = "bias" })
  local run = setmetatable({ opts = opts }, Run)
  return { ratio = run:number("greenlist_ratio", 0.25, 1e-6, 1 - 1e-6), bias = run:number("bias", 2),
    key = run:whole("hashing_key", 15485863), width = run:whole("context_width", 1, 1),
    threshold = run:number("z_threshold", 3), repeated = opts.ignore_repeated_ngrams ~= false }
end

-- For each token of the vocabulary 1 where it is green after ids[1] to ids[at], else 0.
local function green_after(ids, at, n_vocab, mark)
  local seed = mark.key
  for i = at - mark.width + 1, at do seed = (seed * 1000003 ~ (ids[i] + 1)) & 0x7fffffffffff end
  return pl.rand(n_vocab, { seed = seed }):lt(mark.ratio):float()
end

-- A sampler for any chain: function(logits, ctx).
local function sampler(opts)
  local mark = read(opts, { "greenlist_ratio", "hashing_key", "context_width", "bias" })
  return function(logits, ctx)
    if #ctx.ids < mark.width then return end
    logits:add_(green_after(ctx.ids, #ctx.ids, logits.shape[1], mark) * mark.bias)
  end
end

-- P(at least k of n), each having probability p: exact, by logarithms from the largest term on.
local function binomial_tail(k, n, p)
  local log_term, log_terms = n * math.log(1 - p), {}
  for i = 0, n do
    log_terms[i] = log_term
    log_term = log_term + math.log((n - i) / (i + 1)) + math.log(p / (1 - p))
  end
  local sum = 0
  for i = n, k, -1 do sum = sum + math.exp(log_terms[i]) end
  return math.min(1, sum)
end

local function detect(model, text, opts)
  local mark = read(opts, { "greenlist_ratio", "hashing_key", "context_width", "z_threshold",
    "ignore_repeated_ngrams" })
  local ids = type(text) == "string" and model:encode(text, { add_special = false }):to_table() or text
  if type(ids) == "userdata" then ids = ids:to_table() end
  if type(ids) ~= "table" then pl.fail("argument", "detect: expected a text or ids, got a %s", type(text)) end
  local n, n_green, seen, sets, green = 0, 0, {}, {}, {}
  for i = mark.width + 1, #ids do
    local before, place = table.concat(ids, " ", i - mark.width, i - 1), table.concat(ids, " ", i - mark.width, i)
    sets[before] = sets[before] or green_after(ids, i - 1, model.config.d_vocab, mark)
    green[i] = sets[before][ids[i]] == 1
    if not (mark.repeated and seen[place]) then
      seen[place] = true
      n, n_green = n + 1, n_green + (green[i] and 1 or 0)
    end
  end
  local z = n > 0 and (n_green - mark.ratio * n) / math.sqrt(n * mark.ratio * (1 - mark.ratio)) or 0
  return { n_scored = n, n_green = n_green, green_fraction = n > 0 and n_green / n or 0, z = z,
    p_value = binomial_tail(n_green, n, mark.ratio), ids = ids, green = green, prediction = z > mark.threshold }
end

local strategy = Run.strategy("watermark", { "greenlist_ratio", "bias", "hashing_key", "context_width", "sampling" },
  function(run)
    local seq, first = run:start()
    local mark = sampler({ greenlist_ratio = run.opts.greenlist_ratio, bias = run.opts.bias,
      hashing_key = run.opts.hashing_key, context_width = run.opts.context_width })
    local function marked(logits)
      mark(logits, run:context(seq.length))
      return logits
    end
    run:loop(marked(run:feed(seq, first)), function(id) return marked(run:feed(seq, id)) end)
  end)
strategy.sampler, strategy.detect = sampler, detect
return strategy
