-- Phrases that a text must hold, for beam search: how far each beam has come with them, and which
-- beams stay so that the phrases come in.
--
-- Beams that have met as much of the phrases share a bank, and places go round the banks, so that
-- neither likely texts without the phrases nor unlikely ones with them crowd out the others (Post
-- and Vilar 2018, "Fast lexically constrained decoding with dynamic beam allocation", NAACL; phrases
-- with alternatives: Li et al. 2021, "Guided generation of cause and effect", IJCAI).

local pl = require "perilune"

local ForceWords = {}
ForceWords.__index = ForceWords

local function is_list_of_lists(value) return type(value) == "table" and type(value[1]) ~= "number" and #value > 0 end

-- Each phrase is a text or a list of ids; a list of phrases asks for one of them.
local function new(run, phrases)
  if type(phrases) ~= "table" or #phrases == 0 then
    pl.fail("argument", "force_words_ids: expected a list of phrases, each a text, ids or a list of alternatives")
  end
  local self = setmetatable({ constraints = {}, longest = 0 }, ForceWords)
  local function read(phrase)
    local ids = type(phrase) == "string" and run.model:encode(phrase, { add_special = false }):to_table()
      or run:encode(phrase, "force_words_ids: a phrase")
    if #ids == 0 then pl.fail("argument", "force_words_ids: a phrase is empty") end
    for _, id in ipairs(ids) do
      if math.type(id) ~= "integer" or id < 0 or id >= run.n_vocab then
        pl.fail("argument", "force_words_ids: %s is no id: expected 0 to %d", tostring(id), run.n_vocab - 1)
      end
    end
    self.longest = math.max(self.longest, #ids)
    return ids
  end
  for i, phrase in ipairs(phrases) do
    local alternatives = {}
    for j, one in ipairs(is_list_of_lists(phrase) and phrase or { phrase }) do alternatives[j] = read(one) end
    self.constraints[i] = alternatives
  end
  self.first = { met = {}, n_met = 0, tail = {}, bank = 0 }
  return self
end

local function begins_with(ids, tail)
  for i, id in ipairs(tail) do
    if ids[i] ~= id then return false end
  end
  return true
end

-- The state after a token: which phrases are met, and the longest end of the text that begins one.
function ForceWords:step(state, id)
  local text = table.move(state.tail, 1, #state.tail, 1, {})
  text[#text + 1] = id
  local after = { met = state.met, n_met = state.n_met, tail = {} }
  for from = 1, #text do
    local tail, part = table.move(text, from, #text, 1, {}), false
    for i, alternatives in ipairs(self.constraints) do
      for _, ids in ipairs(state.met[i] and {} or alternatives) do
        if begins_with(ids, tail) and #ids == #tail then
          after.met = setmetatable({ [i] = true }, { __index = state.met })
          after.n_met, after.bank = state.n_met + 1, (state.n_met + 1) * self.longest
          return after
        end
        part = part or begins_with(ids, tail)
      end
    end
    if part then
      after.tail = tail
      break
    end
  end
  after.bank = after.n_met * self.longest + #after.tail
  return after
end

-- The tokens that bring a state nearer to its phrases.
function ForceWords:next_ids(state)
  local list = {}
  for i, alternatives in ipairs(self.constraints) do
    for _, ids in ipairs(state.met[i] and {} or alternatives) do
      if #ids > #state.tail and begins_with(ids, state.tail) then list[#list + 1] = ids[#state.tail + 1] end
    end
  end
  return list
end

function ForceWords:complete(state) return state.n_met == #self.constraints end

-- The n candidates that stay: the best of each bank, then the second of each, and so on.
function ForceWords.pick(candidates, n)
  local function better(a, b)
    if a.score ~= b.score then return a.score > b.score end
    return a.order < b.order
  end
  table.sort(candidates, better)
  local seen = {}
  for _, candidate in ipairs(candidates) do
    local bank = candidate.state.bank
    seen[bank] = (seen[bank] or 0) + 1
    candidate.turn = seen[bank]
  end
  table.sort(candidates, function(a, b)
    if a.turn ~= b.turn then return a.turn < b.turn end
    if a.state.bank ~= b.state.bank then return a.state.bank > b.state.bank end
    return better(a, b)
  end)
  return table.move(candidates, 1, math.min(n, #candidates), 1, {})
end

return new
