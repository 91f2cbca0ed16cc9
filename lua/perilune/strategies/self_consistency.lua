-- Self-consistency: several texts are drawn, and the answer that most of them come to is taken (Wang
-- et al. 2022, "Self-consistency improves chain of thought reasoning in language models", ICLR 2023).
--
--     local result = pl.strategies.self_consistency(model, question, { n = 16, temp = 0.7,
--       answer = function(sample) return sample.text:match("answer is (%d+)") end })
--     print(result.answer, result.agreement)
--
-- answer(sample) gives what a text says, or nil where it says nothing; score(sample), if there is one,
-- gives its vote another weight than 1. The text is the likeliest of those with the winning answer.

local pl = require "perilune"
local Run = require "perilune.strategies.run"

-- The winning answer: the most votes, then the greatest probability of its texts, then the first.
local function winner(answers)
  local best
  for _, one in ipairs(answers) do
    local better = not best or one.votes > best.votes
      or one.votes == best.votes and one.probability > best.probability
    if better then best = one end
  end
  return best
end

return Run.strategy("self_consistency", { "n", "answer", "score", "sampling" }, function(run)
  local n, answer = run:whole("n", 8, 1), run:typed("answer", "function", true)
  local weigh = run:typed("score", "function") or function() return 1 end
  local answers, by_answer, votes, total = {}, {}, {}, 0
  local samples = run:samples(n)
  for _, sample in ipairs(samples) do
    local said = answer(sample)
    if said ~= nil then
      local weight = weigh(sample)
      if type(weight) ~= "number" or weight ~= weight then
        pl.fail("argument", "score gave %s: expected a number", tostring(weight))
      end
      local one = by_answer[said]
      if not one then
        one = { answer = said, votes = 0, probability = 0, sample = sample }
        answers[#answers + 1], by_answer[said] = one, one
      end
      one.votes, total = one.votes + weight, total + weight
      one.probability = one.probability + math.exp(sample.sum_logprobs)
      if sample.sum_logprobs > one.sample.sum_logprobs then one.sample = sample end
      votes[said] = one.votes
    end
  end
  local best = winner(answers)
  local sample = best and best.sample or samples[1]
  run.ids, run.text = sample.ids, sample.text
  return { answer = best and best.answer, votes = votes, agreement = best and best.votes / total or 0,
    finish_reason = sample.finish_reason, stop = sample.stop, seed = sample.seed }
end)
