-- Prompt lookup: speculation without a second model. Where the last tokens occurred before, what
-- followed them there is proposed, and the model checks it in one pass (Saxena 2023, "Prompt lookup
-- decoding"; Yang et al. 2023, "Inference with reference: lossless acceleration").
--
-- It speeds up texts that repeat their prompt: summaries, code, corrections. The text is the same,
-- token for token, as without it under the same seed.
--
--   prompt_lookup_num_tokens   how many are proposed at a time; 10
--   max_matching_ngram_size    how many last tokens are looked for, then ever fewer; 2

local Run = require "perilune.strategies.run"
local verify = require "perilune.strategies.verify"

-- Where the last n of the tokens occurred before, the latest first: the place after them, or nil.
local function find_last(all, n)
  for from = #all - n, 1, -1 do
    local same = true
    for i = 0, n - 1 do
      if all[from + i] ~= all[#all - n + 1 + i] then
        same = false
        break
      end
    end
    if same then return from + n end
  end
end

return Run.strategy("prompt_lookup", { "prompt_lookup_num_tokens", "max_matching_ngram_size", "sampling" },
  function(run)
    local n_tokens = run:whole("prompt_lookup_num_tokens", 10, 1)
    local n_gram = run:whole("max_matching_ngram_size", 2, 1)
    local all, known = table.move(run.prompt, 1, run.n_prompt, 1, {}), 0
    return verify(run, function(_, most)
      table.move(run.ids, known + 1, #run.ids, #all + 1, all)
      known = #run.ids
      for n = math.min(n_gram, #all - 1), 1, -1 do
        local at = find_last(all, n)
        if at then return table.move(all, at, math.min(#all, at + math.min(n_tokens, most) - 1), 1, {}) end
      end
      return {}
    end)
  end)
