-- Speculative decoding: a small model drafts, the model checks all drafted tokens in one pass.
--
--     local result = pl.strategies.speculative(model, "Once", { assistant_model = small, temp = 0.8 })
--     print(result.text, result.acceptance, result.n_new / result.n_passes)
--
-- The text is distributed as if the model had drawn it alone; with temp = 0 it is the same token for
-- token. Only the time differs. See verify.lua for why, and for the papers.
--
--   assistant_model                  a model of the same vocabulary
--   num_assistant_tokens             how many are drafted at a time; 5
--   num_assistant_tokens_schedule    "constant", or "heuristic": 2 more after all were kept, else 1 less

local pl = require "perilune"
local Run = require "perilune.strategies.run"
local verify = require "perilune.strategies.verify"

local function read_options(run)
  local small = run.opts.assistant_model
  if type(small) ~= "userdata" or not small.config then
    pl.fail("argument", "speculative: assistant_model is a %s: expected a model", type(small))
  end
  if small.config.d_vocab ~= run.n_vocab then
    pl.fail("argument", "assistant_model has a vocabulary of %d tokens: expected the model's own %d",
      small.config.d_vocab, run.n_vocab)
  end
  local schedule = run.opts.num_assistant_tokens_schedule or "constant"
  if schedule ~= "constant" and schedule ~= "heuristic" then
    pl.fail("argument", "num_assistant_tokens_schedule = %s: expected \"constant\" or \"heuristic\"",
      tostring(schedule))
  end
  return small, run:whole("num_assistant_tokens", 5, 1), schedule
end

return Run.strategy("speculative", { "assistant_model", "num_assistant_tokens", "num_assistant_tokens_schedule",
  "sampling" }, function(run)
  local small, n_draft, schedule = read_options(run)
  local seq = run:sequence(small)
  local behind = table.move(run.prompt, 1, run.n_prompt, 1, {}) -- what the small model has not yet read
  local known = 0 -- how many of run.ids it has read or has in `behind`

  local function propose(_, most)
    most = math.min(most, n_draft, seq.session.n_ctx - run.n_prompt - #run.ids)
    for i = known + 1, #run.ids do behind[#behind + 1] = run.ids[i] end
    known = #run.ids
    local ids, drawn_from = {}, {}
    local so_far = table.move(run.ids, 1, #run.ids, 1, {})
    for i = 1, most do
      local logits = run:feed(seq, behind)
      local pos = seq.length
      local shaped = run:shape(logits, pos, so_far, seq)
      ids[i], drawn_from[i] = run:draw(shaped, pos, "draft"), shaped:softmax()
      so_far[#so_far + 1], behind = ids[i], { ids[i] }
      if run:ends(ids[i]) or run:is_whole(so_far) then break end
    end
    if most > 0 then behind = {} end
    return ids, drawn_from
  end

  -- The small model read all drafts but the last; it keeps those that the model kept.
  local function settled(_, n_kept, n_proposed)
    if n_proposed == 0 then return end
    local read = run.n_prompt + known + math.min(n_kept, n_proposed - 1)
    seq:truncate(read)
    known = read - run.n_prompt
    if schedule == "heuristic" then
      n_draft = n_kept == n_proposed and n_draft + 2 or math.max(1, n_draft - 1)
    end
  end

  return verify(run, propose, settled)
end)
