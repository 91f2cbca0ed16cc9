-- Classifier-free guidance: away from what the model says to another prompt.
--
--     pl.strategies.classifier_free_guidance(model, "A cheerful tale: Once", { guidance_scale = 1.5,
--       negative_prompt = "A tale: Once" })
--
-- log p = log p(negative) + guidance_scale (log p(prompt) - log p(negative)): 1 is the model itself,
-- above 1 the prompt counts for more (Sanchez et al. 2023, "Stay on topic with classifier-free
-- guidance"). Without a negative prompt the last token of the prompt alone is the other one, as
-- Hugging Face has it. Both prompts take one pass a step together.

local Run = require "perilune.strategies.run"

return Run.strategy("classifier_free_guidance", { "guidance_scale", "negative_prompt", "sampling" }, function(run)
  local scale = run:number("guidance_scale", 1.5)
  local other = run:encode(run.opts.negative_prompt or run.prompt[run.n_prompt], "negative_prompt")
  run.limit = math.min(run.limit, run.session.n_ctx - #other)
  local negative, seq, first = run:sequence(), run:start()

  local function feed(ids, negative_ids)
    local with, without = table.unpack(run:extend({ { seq, ids, logits = "last" },
      { negative, negative_ids, logits = "last" } }))
    with, without = with:log_softmax(), without:log_softmax()
    return without + (with - without) * scale
  end

  run:loop(feed(first, other), function(id) return feed({ id }, { id }) end)
end)
