-- Beam search: the num_beams most likely beginnings, each continued in every way, the best kept.
--
--     local result = pl.strategies.beam_search(model, "Once upon", { num_beams = 4, max_new_tokens = 20 })
--     for _, found in ipairs(result.sequences) do print(found.score, found.text) end
--
-- A step is one pass over all beams, which share the keys and values of what they have in common. A
-- text's score is the sum of its tokens' log probabilities divided by length^length_penalty, the
-- ending token counted, as Hugging Face has it (Wu et al. 2016, "Google's neural machine translation
-- system", for length normalisation).
--
--   num_beam_groups, diversity_penalty   groups choose one after the other, and a token that an
--     earlier group chose in this step costs the penalty for each time (Vijayakumar et al. 2018,
--     "Diverse beam search", AAAI)
--   force_words_ids   phrases that must come in; see force_words.lua
--   do_sample         the beams of each step are drawn without replacement by their probability,
--     instead of the best being taken: those that Gumbel noise on the scores puts first (Kool et al.
--     2019, "Stochastic beams and where to find them", ICML)
--   early_stopping    true: stop with num_beams texts ended; false: when the best beam, at its
--     length, scores below them all; "never": when no beam can come to score above them

local pl = require "perilune"
local Run = require "perilune.strategies.run"

-- The first k candidates of a group by `order`: {parent, id, score}; and whether these are all.
local function candidates_of(run, group, scores, order, k)
  k = math.min(k, scores:count())
  local values, places = order:topk(k)
  local list = {}
  for i = 0, k - 1 do
    local place = places[i]
    if values[i] == -math.huge then break end
    local parent = group.beams[place // run.n_vocab + 1]
    list[#list + 1] = { parent = parent, id = place % run.n_vocab, score = scores[place], order = i }
  end
  return list, k == scores:count()
end

local function hold(run, group, ids, sum, reason, n)
  local list = group.ended
  list[#list + 1] = { ids = ids, sum_logprobs = sum, score = sum / n ^ run.length_penalty, finish_reason = reason,
    order = #list }
  table.sort(list, function(a, b)
    if a.score ~= b.score then return a.score > b.score end
    return a.order < b.order
  end)
  for i, text in ipairs(list) do text.order = i end
  list[run.group_size + 1] = nil
end

-- Why a token ends the text, if it does, and whether it belongs to the text itself.
local function ending(run, ids, id)
  local reason = run:ends(id)
  local plain = #run.stops == 0 and not (run.grammars and run.grammars[1])
  if reason or plain then return reason, false end
  local all = table.move(ids, 1, #ids, 1, {})
  all[#all + 1] = id
  if run:is_whole(all) then return "grammar", true end
  local text = run:text_of(all)
  for _, stop in ipairs(run.stops) do
    if text:find(stop, 1, true) then return "stop", true end
  end
end

local function extended(ids, id)
  local longer = table.move(ids, 1, #ids, 1, {})
  longer[#longer + 1] = id
  return longer
end

-- The beams of the next step, and the texts that end here: only those among the best group_size.
local function advance(run, group, rows)
  local k, scores = 2 * run.group_size, pl.cat(rows, 0)
  local order = run.noise and scores + run.noise(scores:count()) or scores
  local going, ended, all, list
  repeat
    going, ended = {}, {}
    list, all = candidates_of(run, group, scores, order, k)
    if run.words then run.add_forced(group, rows, list) end
    for rank, candidate in ipairs(list) do
      local reason, inside = ending(run, candidate.parent.ids, candidate.id)
      candidate.state = run.words and run.words:step(candidate.parent.state, candidate.id)
      local may_end = not run.words or run.words:complete(inside and candidate.state or candidate.parent.state)
      if not reason then
        going[#going + 1] = candidate
      elseif rank <= run.group_size and may_end then
        candidate.reason, candidate.inside = reason, inside
        ended[#ended + 1] = candidate
      end
    end
    k = 2 * k
  until #going >= run.group_size or all
  for _, candidate in ipairs(ended) do
    local ids = candidate.parent.ids
    local with = candidate.inside and extended(ids, candidate.id) or ids
    hold(run, group, with, candidate.score, candidate.reason, #ids + 1)
  end
  if run.words then return run.words.pick(going, run.group_size) end
  return table.move(going, 1, math.min(run.group_size, #going), 1, {})
end

-- Whether no beam is likely to become better than what the group holds (early_stopping).
local function is_done(run, group, n)
  if #group.beams == 0 then return true end
  if #group.ended < run.group_size then return false end
  if run.early == true then return true end
  local best = -math.huge
  for _, beam in ipairs(group.beams) do best = math.max(best, beam.score) end
  local length = run.early == "never" and run.length_penalty > 0 and run.limit or n
  return group.ended[#group.ended].score >= best / length ^ run.length_penalty
end

-- The sequences of the new beams: the first child of a beam takes its sequence over.
local function branch(run, group, chosen)
  local taken, beams = {}, {}
  for i, candidate in ipairs(chosen) do
    local parent = candidate.parent
    local seq = taken[parent] and run:fork(parent.seq) or parent.seq
    taken[parent] = true
    beams[i] = { seq = seq, ids = extended(parent.ids, candidate.id), score = candidate.score,
      state = candidate.state, parent = parent }
  end
  for _, beam in ipairs(group.beams) do
    if not taken[beam] then run:drop(beam.seq) end
    beam.parent = nil -- only the last step is told
  end
  group.beams = beams
end

-- One step of one group, whose beams have their logits.
local function step_group(run, group, chosen_ids, n)
  local rows = {}
  for i, beam in ipairs(group.beams) do
    local pos = run.n_prompt + #beam.ids
    local row = run:log_probs(beam.logits, pos, beam.ids, beam.seq) + beam.score
    for id, times in pairs(chosen_ids) do row[id] = row[id] - run.diversity_penalty * times end
    rows[i] = row
  end
  branch(run, group, advance(run, group, rows))
  for _, beam in ipairs(group.beams) do
    local id = beam.ids[#beam.ids]
    chosen_ids[id] = (chosen_ids[id] or 0) + 1
  end
  group.done = is_done(run, group, n)
end

local function read_options(run)
  run.num_beams = run:whole("num_beams", 4, 1)
  run.n_return = run:whole("num_return_sequences", 1, 1)
  local n_groups = run:whole("num_beam_groups", 1, 1)
  if run.num_beams % n_groups ~= 0 then
    pl.fail("argument", "num_beam_groups = %d: num_beams = %d is no multiple of it", n_groups, run.num_beams)
  end
  if run.n_return > run.num_beams then
    pl.fail("argument", "num_return_sequences = %d: num_beams = %d is less", run.n_return, run.num_beams)
  end
  run.group_size = run.num_beams // n_groups
  run.length_penalty = run:number("length_penalty", 1)
  run.diversity_penalty = run:number("diversity_penalty", 0, 0)
  run.early = run.opts.early_stopping or false
  if run.early ~= true and run.early ~= false and run.early ~= "never" then
    pl.fail("argument", "early_stopping = %s: expected true, false or \"never\"", tostring(run.early))
  end
  if run.opts.do_sample then
    local n = 0
    run.noise = function(count) -- -log(-log(u)), u never 0 or 1
      n = n + 1
      local place = run.seed * 65537 + n
      return -(-(pl.zeros(count):uniform_(2 ^ -24, 1 - 2 ^ -24, { seed = place & 0x7fffffff }):log())):log()
    end
  end
  if run.opts.force_words_ids ~= nil then
    if n_groups > 1 or run.noise then
      pl.fail("unsupported", "force_words_ids goes with neither num_beam_groups nor do_sample")
    end
    run.words = require "perilune.strategies.force_words"(run, run.opts.force_words_ids)
  end
  return n_groups
end

-- Candidates that bring a phrase on, whatever they score.
local function forced_adder(run)
  return function(group, rows, list)
    local seen, place = {}, {}
    for i, beam in ipairs(group.beams) do place[beam] = i end
    for _, candidate in ipairs(list) do seen[place[candidate.parent] * run.n_vocab + candidate.id] = true end
    for i, beam in ipairs(group.beams) do
      for _, id in ipairs(run.words:next_ids(beam.state)) do
        local score = rows[i][id]
        if not seen[i * run.n_vocab + id] and score > -math.huge then
          seen[i * run.n_vocab + id] = true
          list[#list + 1] = { parent = beam, id = id, score = score, order = #list }
        end
      end
    end
  end
end

-- What is still open at the end counts too, where it is not yet settled.
local function gather(run, groups)
  local all, met = {}, true
  for _, group in ipairs(groups) do
    for pass = 1, run.words and 2 or 1 do -- texts that lack a phrase only where there are no others
      for _, beam in ipairs(group.done and {} or group.beams) do
        if not run.words or pass == 2 and #group.ended == 0 or pass == 1 and run.words:complete(beam.state) then
          met = met and pass == 1
          hold(run, group, beam.ids, beam.score, run.finish_reason or "length", #beam.ids)
        end
      end
      if #group.ended > 0 then break end
    end
    table.move(group.ended, 1, #group.ended, #all + 1, all)
  end
  for i, found in ipairs(all) do found.order = i end
  table.sort(all, function(a, b)
    if a.score ~= b.score then return a.score > b.score end
    return a.order < b.order
  end)
  if not run.words then return all end
  return all, met
end

return Run.strategy("beam_search", { "num_beams", "num_return_sequences", "length_penalty", "early_stopping",
  "num_beam_groups", "diversity_penalty", "force_words_ids", "do_sample", "sampling" }, function(run)
  local n_groups, groups = read_options(run), {}
  run.add_forced = run.words and forced_adder(run)
  local root, ids = run:start()
  local logits = run:feed(root, ids)
  for g = 1, n_groups do
    groups[g] = { ended = {}, beams = { { seq = g == 1 and root or run:fork(root), ids = {}, score = 0,
      logits = logits, state = run.words and run.words.first } } }
  end
  for n = 1, run.limit do
    local items, fed, chosen_ids = {}, {}, {}
    for _, group in ipairs(groups) do
      if not group.done then step_group(run, group, chosen_ids, n) end
      for _, beam in ipairs(group.done and {} or group.beams) do
        items[#items + 1], fed[#fed + 1] = { beam.seq, { beam.ids[#beam.ids] }, logits = "last" }, beam
      end
    end
    if run.on_step and run.on_step("", { n = n, beams = fed, groups = groups }) == false then
      run.finish_reason = "script"
    elseif run.deadline and pl.clock() >= run.deadline then
      run.finish_reason = "time"
    end
    if #items == 0 or n == run.limit or run.finish_reason then break end
    for i, result in ipairs(run:extend(items)) do fed[i].logits = result end
  end

  local all, met = gather(run, groups)
  local sequences, scores = {}, {}
  for i = 1, math.min(run.n_return, #all) do
    local found = all[i]
    local text = run:text_of(found.ids)
    for _, stop in ipairs(run.stops) do text = text:sub(1, (text:find(stop, 1, true) or #text + 1) - 1) end
    sequences[i] = { text = text, ids = found.ids, score = found.score, sum_logprobs = found.sum_logprobs,
      finish_reason = found.finish_reason }
    scores[i] = found.score
  end
  local best = sequences[1] or pl.fail("state", "beam_search: every continuation is ruled out")
  run.ids = best.ids
  return { text = best.text, finish_reason = best.finish_reason, sequences = sequences, scores = scores,
    constraints_met = met }
end)
