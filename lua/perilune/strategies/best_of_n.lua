-- Best of n: several texts are drawn side by side, and the one with the highest score is taken.
--
--     pl.strategies.best_of_n(model, "Once", { n = 8, max_new_tokens = 40,
--       score = function(sample) return -#sample.text end })
--
-- score(sample) sees text, ids, sum_logprobs, finish_reason and seed; without it a text's score is the
-- mean log probability of its tokens. (Stiennon et al. 2020, "Learning to summarize from human
-- feedback", NeurIPS, with a reward model as the score.) The samples share the prompt's pass and go on
-- together, a pass a step; sample i is what the seed + i - 1 gives alone.

local pl = require "perilune"
local Run = require "perilune.strategies.run"

local function mean_logprob(sample) return sample.sum_logprobs / math.max(1, #sample.ids) end

return Run.strategy("best_of_n", { "n", "score", "num_return_sequences", "sampling" }, function(run)
  local n, score = run:whole("n", 8, 1), run:typed("score", "function") or mean_logprob
  local n_return = run:whole("num_return_sequences", 1, 1)
  local list, scores = {}, {}
  for i, sample in ipairs(run:samples(n)) do
    local one = { text = sample.text, ids = sample.ids, sum_logprobs = sample.sum_logprobs, stop = sample.stop,
      finish_reason = sample.finish_reason, seed = sample.seed, order = i }
    one.score = score(one)
    if type(one.score) ~= "number" or one.score ~= one.score then
      pl.fail("argument", "score gave %s: expected a number", tostring(one.score))
    end
    list[i] = one
  end
  table.sort(list, function(a, b)
    if a.score ~= b.score then return a.score > b.score end
    return a.order < b.order
  end)
  for i = #list, n_return + 1, -1 do list[i] = nil end
  for i, one in ipairs(list) do scores[i], one.order = one.score, nil end
  run.ids, run.text = list[1].ids, list[1].text
  return { finish_reason = list[1].finish_reason, stop = list[1].stop, seed = list[1].seed, score = list[1].score,
    sequences = list, scores = scores }
end)
