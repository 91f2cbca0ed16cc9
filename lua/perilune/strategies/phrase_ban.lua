-- Phrases that must not come: when one has come, the text goes back to where it began, and the token
-- there is ruled out (the backtracking of Paech's antislop sampler, 2024).
--
--     pl.strategies.phrase_ban(model, "Once", { banned_strings = { "once upon a time", "tapestry" },
--       ignore_case = true })
--
-- A list of banned tokens would rule out their other uses as well; here every phrase stays possible up
-- to its last letter. The result tells how often it went back (`n_rewinds`). on_step gets text once no
-- phrase under way can take it back.

local pl = require "perilune"
local Run = require "perilune.strategies.run"

local function read_phrases(run)
  local phrases = run.opts.banned_strings
  if type(phrases) == "string" then phrases = { phrases } end
  if type(phrases) ~= "table" or #phrases == 0 then
    pl.fail("argument", "banned_strings: expected a list of strings")
  end
  if not run.tokenizer then pl.fail("argument", "banned_strings: the model has no tokenizer") end
  local list, longest = {}, 0
  for i, phrase in ipairs(phrases) do
    if type(phrase) ~= "string" or phrase == "" then
      pl.fail("argument", "banned_strings: item %d is not a string with something in it", i)
    end
    list[i] = run.fold(phrase)
    longest = math.max(longest, #phrase)
  end
  return list, longest
end

-- The token, counted from 1, at which a phrase begins that is complete with `id`; nil if there is none.
local function find_start(run, id, phrases, longest)
  local from = #run.ids + 1
  while from > 1 and #run.text - (run.marks[from] or #run.text) < longest - 1 do from = from - 1 end
  local decoder, text, starts = run.tokenizer:decoder({ keep_leading = true }), "", {}
  for i = from, #run.ids do
    starts[#starts + 1] = #text
    text = text .. decoder:put(run.ids[i])
  end
  starts[#starts + 1] = #text
  local known = #text
  text = run.fold(text .. decoder:put(id))
  local first
  for _, phrase in ipairs(phrases) do
    local at, to = text:find(phrase, math.max(1, known - #phrase + 2), true)
    if at and to > known and (not first or at < first) then first = at end
  end
  if not first then return nil end
  for i = #starts, 1, -1 do
    if starts[i] < first then return from + i - 1 end
  end
end

-- The length of text that no phrase or stop string under way can take back, up to a token's start.
local function settled(run, strings)
  local text, least = run.fold(run.text), #run.text
  for _, string in ipairs(strings) do
    for n = math.min(#string - 1, #text), 1, -1 do
      if text:sub(-n) == string:sub(1, n) then
        least = math.min(least, #text - n)
        break
      end
    end
  end
  for i = #run.ids, 1, -1 do
    if least < #text and run.marks[i] <= least then return run.marks[i] end
  end
  return least
end

return Run.strategy("phrase_ban", { "banned_strings", "ignore_case", "sampling" }, function(run)
  run.fold = run.opts.ignore_case and string.lower or function(text) return text end
  local phrases, longest = read_phrases(run)
  local strings = table.move(phrases, 1, #phrases, 1, {})
  for _, stop in ipairs(run.stops) do strings[#strings + 1] = run.fold(stop) end
  run.settled = function() return settled(run, strings) end
  local bans, n_rewinds, over = {}, 0, false
  local seq, first = run:start()
  local nothing_left
  local function remove_banned(logits)
    for id in pairs(bans[#run.ids + 1] or {}) do
      if id ~= "n" then logits[id] = -math.huge end
    end
    nothing_left = logits:max() == -math.huge
    if nothing_left then logits:zero_() end -- a chain would refuse it
  end
  run.edit = remove_banned -- before temp and others choose among what is left
  local logits = run:feed(seq, first)

  -- Back to before token `at`, counted from 1, which `id` may not be again.
  local function rewind(at, id)
    n_rewinds = n_rewinds + 1
    for i = at + 1, #run.ids + 1 do bans[i] = nil end
    bans[at] = bans[at] or { n = 0 }
    bans[at].n, bans[at][id] = bans[at].n + 1, true
    if at > #run.ids then return end
    run:take_back(at - 1)
    seq:truncate(run.n_prompt + at - 2)
    logits = run:feed(seq, run.ids[at - 1] or run.prompt[run.n_prompt])
  end

  repeat
    local at, pos = #run.ids + 1, run.n_prompt + #run.ids
    local shaped, n_bans = run:shape(logits, pos), bans[at] and bans[at].n or 0
    if not nothing_left then remove_banned(shaped) end -- again: a chain may have brought some back
    if nothing_left then
      if at == 1 then pl.fail("state", "phrase_ban: no beginning is left that leads to no banned string") end
      rewind(at - 1, run.ids[at - 1])
    else
      -- Another random number for each try: the one that led to the banned token says something about it.
      local id = run:draw(shaped, pos + (n_bans << 32), "token")
      local start = not run:ends(id) and find_start(run, id, phrases, longest)
      if start then
        rewind(start, run.ids[start] or id)
      else
        over = run:put(id)
        if not over then logits = run:feed(seq, id) end
      end
    end
  until over
  return { n_rewinds = n_rewinds }
end)
