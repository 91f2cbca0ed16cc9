-- Contrastive decoding: what a good model says more readily than a bad one.
--
--     pl.strategies.contrastive_decoding(model, "Once", { amateur_model = small })
--
-- A token's score is log p(model) - log p(amateur), among the tokens at least `alpha` times as likely
-- as the model's likeliest, so that mistakes of the amateur alone make nothing likely (Li et al. 2022,
-- "Contrastive decoding: open-ended text generation as optimization", ACL 2023). Tokens are drawn from
-- softmax(score); temp = 0 takes the best.
--
--   amateur_model   a model of the same vocabulary, smaller or worse
--   alpha           0.1
--   amateur_temp    the amateur's temperature; 1

local pl = require "perilune"
local Run = require "perilune.strategies.run"

return Run.strategy("contrastive_decoding", { "amateur_model", "alpha", "amateur_temp", "sampling" }, function(run)
  local amateur = run.opts.amateur_model
  if type(amateur) ~= "userdata" or not amateur.config then
    pl.fail("argument", "contrastive_decoding: amateur_model is a %s: expected a model", type(amateur))
  end
  if amateur.config.d_vocab ~= run.n_vocab then
    pl.fail("argument", "amateur_model has a vocabulary of %d tokens: expected the model's own %d",
      amateur.config.d_vocab, run.n_vocab)
  end
  local alpha, temp = run:number("alpha", 0.1, 0, 1), run:number("amateur_temp", 1, 1e-6)
  local bad, good, first = run:sequence(amateur), run:start()
  run.limit = math.min(run.limit, bad.session.n_ctx - run.n_prompt)

  local function feed(ids, bad_ids)
    local expert = run:feed(good, ids):log_softmax()
    local score = expert - (run:feed(bad, bad_ids or ids) / temp):log_softmax()
    return score:masked_fill_(expert:lt(expert:max() + math.log(math.max(alpha, 1e-300))), -math.huge)
  end

  run:loop(feed(first, run.prompt), function(id) return feed(id) end)
end)
