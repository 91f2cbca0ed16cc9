-- Greedy search and sampling, a token at a time: what model:complete does, in the fewest words.
--
-- temp = 0 takes the most likely token. Alone or in a batch, the same seed gives the same text.

local Run = require "perilune.strategies.run"

return Run.strategy("sample", { "sampling" }, function(run)
  local seq, ids = run:start()
  run:loop(run:feed(seq, ids), function(id) return run:feed(seq, id) end)
end)
