-- Greedy search and sampling, a token at a time: what model:complete does, in the fewest words.
--
-- temp = 0 takes the most likely token. Alone or in a batch, the same seed gives the same text.

local Run = require "perilune.strategies.run"

return Run.strategy("sample", { "sampling" }, function(run)
  local seq = run:sequence()
  local logits = run:feed(seq, run.prompt)
  local over
  repeat
    local pos = seq.length
    local id, prob, entropy = run:draw(run:shape(logits, pos), pos, "token")
    over = run:put(id, { prob = prob, entropy = entropy })
    if not over then logits = run:feed(seq, id) end
  until over
end)
