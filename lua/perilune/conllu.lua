--- Sentences of CoNLL-U, the format of treebanks: a word a line, in ten columns between tabs.
--
--     local conllu = require "perilune.conllu"
--     for _, sentence in ipairs(conllu.read("heads.conllu")) do
--       for _, word in ipairs(sentence.words) do print(word.form, word.head, word.deprel) end
--     end
--
-- Words are counted from 1, and a head of 0 is the root's. What is written as one and analysed as
-- several (3-4 del) is kept beside the words as `ranges`, words that were left out in writing (5.1) as
-- `empty`. Errors of the kind "format" name the file and the line.

local pl = require "perilune"

local conllu = {}

---@class perilune.ConlluWord
---@field form string
---@field lemma? string
---@field upos? string
---@field xpos? string
---@field feats table<string, string>
---@field head? integer 0 for the root, nil where the column is _
---@field deprel? string
---@field deps? string
---@field misc table<string, string> Name=Value, or Name = "" for a name alone
---@field line integer in the file

---@class perilune.ConlluSentence
---@field words perilune.ConlluWord[]
---@field comments string[] without the #
---@field meta table<string, string> of comments such as "# text = ..."
---@field ranges {first: integer, last: integer, form: string, misc: table<string, string>}[]
---@field empty {after: integer, form: string}[] words that are not in the text, and the word before
---@field line integer of its first word

local function fail(source, line, format, ...)
  pl.fail("format", "%s:%d: %s", source, line, format:format(...))
end

-- The columns of a line; there are ten, and none is empty.
local function columns_of(source, number, line)
  local columns = {}
  for column in (line .. "\t"):gmatch("(.-)\t") do columns[#columns + 1] = column end
  if #columns ~= 10 then fail(source, number, "a word with %d columns: expected 10 between tabs", #columns) end
  for i, column in ipairs(columns) do
    if column == "" then fail(source, number, "column %d is empty: expected a value or _", i) end
  end
  return columns
end

local function value(column) return column ~= "_" and column or nil end

-- "A=1|B=2" by names.
local function pairs_of(column)
  local all = {}
  if column == "_" then return all end
  for item in column:gmatch("[^|]+") do
    local name, text = item:match("^(.-)=(.*)$")
    all[name or item] = text or ""
  end
  return all
end

-- Whole numbers of at most nine digits; no sentence has as many words.
local function whole(text) return #text <= 9 and text:find("^%d+$") and math.tointeger(tonumber(text)) or nil end

local function add_word(sentence, source, number, columns)
  local words = sentence.words
  local id = whole(columns[1])
  if id ~= #words + 1 then
    fail(source, number, "the word's number is %s: expected %d", columns[1], #words + 1)
  end
  local head = value(columns[7]) and whole(columns[7])
  if value(columns[7]) and not head then
    fail(source, number, "the head is %s: expected a word's number, 0 or _", columns[7])
  end
  if head == id then fail(source, number, "the word %d is its own head", id) end
  -- The form and the lemma may be an underscore themselves.
  words[id] = { form = columns[2], lemma = (columns[2] == "_" and columns[3]) or value(columns[3]),
    upos = value(columns[4]), xpos = value(columns[5]), feats = pairs_of(columns[6]), head = head,
    deprel = value(columns[8]), deps = value(columns[9]), misc = pairs_of(columns[10]), line = number }
end

local function add_range(sentence, source, number, columns, first, last)
  first, last = whole(first), whole(last)
  local before = sentence.ranges[#sentence.ranges]
  if first ~= #sentence.words + 1 or not last or last <= first or before and before.last >= first then
    fail(source, number, "the range %s: expected one that begins with %d, behind the one before", columns[1],
      #sentence.words + 1)
  end
  sentence.ranges[#sentence.ranges + 1] = { first = first, last = last, form = columns[2],
    misc = pairs_of(columns[10]), line = number }
end

local function add_line(sentence, source, number, line)
  local columns = columns_of(source, number, line)
  local first, last = columns[1]:match("^(%d+)%-(%d+)$")
  if first then return add_range(sentence, source, number, columns, first, last) end
  local after = columns[1]:match("^(%d+)%.%d+$")
  if not after then return add_word(sentence, source, number, columns) end
  if whole(after) ~= #sentence.words then
    fail(source, number, "the empty word %s stands behind the word %d", columns[1], #sentence.words)
  end
  sentence.empty[#sentence.empty + 1] = { after = whole(after), form = columns[2] }
end

-- What only the whole sentence shows: heads and ranges within it.
local function check(sentence, source)
  local n = #sentence.words
  for _, word in ipairs(sentence.words) do
    if word.head and word.head > n then
      fail(source, word.line, "the head is %d: the sentence has %d words", word.head, n)
    end
  end
  for _, range in ipairs(sentence.ranges) do
    if range.last > n then
      fail(source, range.line, "the range %d-%d: the sentence has %d words", range.first, range.last, n)
    end
  end
end

local function comment(sentence, line)
  local text = line:sub(2):gsub("^%s+", "")
  sentence.comments[#sentence.comments + 1] = text
  local name, said = text:match("^([%w_%.]+)%s*=%s*(.*)$")
  if name then sentence.meta[name] = said end
end

--- The sentences of a text in CoNLL-U.
---@param text string
---@param source? string what errors call it
---@return perilune.ConlluSentence[]
function conllu.parse(text, source)
  source = source or "CoNLL-U"
  if type(text) ~= "string" then pl.fail("argument", "%s is a %s: expected a text", source, type(text)) end
  local sentences, sentence, number = {}, nil, 0
  local function finish()
    if sentence and #sentence.words > 0 then
      check(sentence, source)
      sentences[#sentences + 1] = sentence
    elseif sentence and (#sentence.ranges > 0 or #sentence.empty > 0) then
      fail(source, number, "a sentence without words")
    end
    sentence = nil
  end
  for line in (text:gsub("^\xEF\xBB\xBF", "") .. "\n"):gmatch("(.-)\n") do
    number = number + 1
    line = line:gsub("\r$", "")
    if not utf8.len(line) then fail(source, number, "bytes that are no UTF-8") end
    if not line:find("%S") then
      finish()
    else
      sentence = sentence or { words = {}, comments = {}, meta = {}, ranges = {}, empty = {} }
      if line:sub(1, 1) == "#" and #sentence.words == 0 then
        comment(sentence, line)
      else
        sentence.line = sentence.line or number
        add_line(sentence, source, number, line)
      end
    end
  end
  finish()
  return sentences
end

--- The sentences of a file.
---@param path string
---@return perilune.ConlluSentence[]
function conllu.read(path)
  return conllu.parse(pl.read_file(path), path)
end

--- Whether the heads of a sentence make one tree; where not, why.
---@param sentence perilune.ConlluSentence
---@return boolean
---@return string? why
function conllu.is_tree(sentence)
  local roots, words = 0, sentence.words
  for i, word in ipairs(words) do
    if not word.head then return false, ("the word %d has no head"):format(i) end
    if word.head == 0 then roots = roots + 1 end
    local at, steps = word.head, 0
    while at and at ~= 0 do
      at, steps = words[at] and words[at].head, steps + 1
      if steps > #words then return false, ("the word %d is in a circle"):format(i) end
    end
  end
  if roots ~= 1 then return false, ("%d roots"):format(roots) end
  return true
end

return conllu
