--- Word vectors: read from files, trained by skip-gram, and put to analogies.
--
--     local word_vectors = require "perilune.word_vectors"
--     local v = word_vectors.read("GoogleNews-vectors-negative300.bin", { limit = 50000 })
--     for _, found in ipairs(v:analogy("man", "woman", "king")) do print(found.word, found.value) end

local pl = require "perilune"

local word_vectors = {}

---@class perilune.WordVectors
---@field words string[]
---@field index table<string, integer> from a word to its place in words
---@field unit perilune.Tensor [n, d], each of length 1
local WordVectors = {}
WordVectors.__index = WordVectors

--- Words with their vectors; a word that comes twice counts the first time.
---@param words string[]
---@param vectors perilune.Tensor float32 [n, d]
---@return perilune.WordVectors
function word_vectors.new(words, vectors)
  local index = {}
  for i, word in ipairs(words) do index[word] = index[word] or i end
  local lengths = vectors:norm(1, { keepdim = true })
  return setmetatable({ words = words, index = index, unit = vectors / lengths:clamp(1e-12, math.huge) }, WordVectors)
end

-- -- files --------------------------------------------------------------------------------------------

local CHUNK = 256 -- rows made into one tensor

-- Collects rows of numbers.
local function collector()
  local parts, rows = {}, {}
  local function flush()
    if #rows > 0 then parts[#parts + 1] = pl.tensor(rows) end
    rows = {}
  end
  return function(row)
    rows[#rows + 1] = row
    if #rows == CHUNK then flush() end
  end, function()
    flush()
    return #parts > 0 and pl.cat(parts, 0) or nil
  end
end

local function number_of(word, path, entry)
  local x = word:find("^[-+.%de]+$") and tonumber(word)
  if not x or x ~= x or x == math.huge or x == -math.huge then
    pl.fail("format", "%s: %s: '%s' is no number", path, entry, word:sub(1, 40))
  end
  return x
end

local function text_row(line, d, path, entry)
  local word, rest = line:match("^(%S+)%s+(.-)%s*$")
  if not word then pl.fail("format", "%s: %s: expected a word and numbers", path, entry) end
  local row = {}
  for part in rest:gmatch("%S+") do row[#row + 1] = number_of(part, path, entry) end
  if d and #row ~= d then pl.fail("format", "%s: %s: %d numbers, expected %d", path, entry, #row, d) end
  return word, row
end

local function read_text(file, path, first, n, d, limit)
  local words, add, finish = {}, collector()
  local line = first or file:read("l")
  local number = first and 1 or 2
  while line and #words < limit and not (n and #words == n) do
    if line:find("%S") then
      local word, row = text_row(line:gsub("\r$", ""), d, path, "line " .. number)
      d = d or #row
      words[#words + 1] = word
      add(row)
    end
    line, number = file:read("l"), number + 1
  end
  if n and #words < math.min(n, limit) then
    pl.fail("format", "%s: ends after %d words of %d", path, #words, n)
  end
  return words, finish()
end

local MAX_WORD = 1024

local function read_binary(file, path, n, d, limit)
  local words, format = {}, "<" .. ("f"):rep(d)
  local add, finish = collector()
  for i = 1, math.min(n, limit) do
    local letters = {}
    while true do
      local c = file:read(1)
      if not c then pl.fail("format", "%s: ends after %d words of %d", path, i - 1, n) end
      if c == " " then break end
      if #letters == MAX_WORD then
        pl.fail("format", "%s: word %d is longer than %d bytes: no word2vec file", path, i, MAX_WORD)
      end
      if c ~= "\n" or #letters > 0 then letters[#letters + 1] = c end
    end
    local bytes = file:read(4 * d)
    if not bytes or #bytes < 4 * d then
      pl.fail("format", "%s: ends within word %d of %d", path, i, n)
    end
    local row = { format:unpack(bytes) }
    row[d + 1] = nil -- where the next would begin
    for k = 1, d do
      if row[k] ~= row[k] or math.abs(row[k]) == math.huge then
        pl.fail("format", "%s: word %d: number %d is not finite", path, i, k)
      end
    end
    words[i] = table.concat(letters)
    add(row)
  end
  return words, finish()
end

-- Whether what follows the header is text: its first line has one word and d numbers.
local function is_text(file, d)
  local at = file:seek()
  local line = file:read("l") or ""
  file:seek("set", at)
  local _, count = line:gsub("%S+", "")
  return count == d + 1 and not line:find("[%z\1-\8\14-\31]")
end

local MAX_D = 10000

--- Reads word2vec's text or binary files, or GloVe's, which have no header.
---@param path string
---@param opts? {limit?: integer} words to read at most; 200,000 unless said otherwise
---@return perilune.WordVectors
function word_vectors.read(path, opts)
  opts = pl.check_options("word_vectors.read", opts, { "limit" })
  local limit = opts.limit or 200000
  local file <close>, why = io.open(path, "rb")
  if not file then pl.fail("io", "%s", why) end
  local head = file:read("l")
  if not head then pl.fail("format", "%s: is empty", path) end
  local n, d = head:match("^(%d+)%s+(%d+)%s*$")
  n, d = math.tointeger(tonumber(n)), math.tointeger(tonumber(d))
  if n and d and (n < 1 or d < 1 or d > MAX_D) then
    pl.fail("format", "%s: %d words of %d numbers: expected at least one word of 1 to %d", path, n, d, MAX_D)
  end
  local words, vectors
  if not n then
    words, vectors = read_text(file, path, head, nil, nil, limit)
  elseif is_text(file, d) then
    words, vectors = read_text(file, path, nil, n, d, limit)
  else
    words, vectors = read_binary(file, path, n, d, limit)
  end
  if not vectors or vectors.shape[2] == 0 then pl.fail("format", "%s: there are no vectors in it", path) end
  return word_vectors.new(words, vectors)
end

-- -- analogies ----------------------------------------------------------------------------------------

local function place(self, word)
  return self.index[word] or pl.fail("argument", "'%s' is not among the %d words", word, #self.words)
end

local function rows_of(self, places)
  local list = {}
  for i, at in ipairs(places) do list[i] = at - 1 end
  return self.unit:index_select(0, pl.tensor(list, { dtype = "int32" }))
end

-- How well every word stands to c as b to a: [n, words]. add: the cosine with b - a + c; mul: the products
-- of the cosines moved to 0 to 1, those with b and c over those with a (Levy and Goldberg 2014).
local function scores_of(self, a, b, c, method)
  local table_ = self.unit:transpose(0, 1)
  local x, y, z = rows_of(self, a), rows_of(self, b), rows_of(self, c)
  if method == "mul" then
    local function moved(rows) return (rows:matmul(table_) + 1) / 2 end
    return moved(y) * moved(z) / (moved(x) + 0.001)
  end
  local wanted = y - x + z
  return (wanted / wanted:norm(1, { keepdim = true })):matmul(table_)
end

local function check_method(method)
  if method == nil or method == "add" or method == "mul" then return method end
  return pl.fail("argument", "method = %s: expected 'add' or 'mul'", tostring(method))
end

--- The words that stand to c as b stands to a, the best first: {word, value}. The three themselves are
--- left out, unless opts.all.
---@param a string
---@param b string
---@param c string
---@param opts? {k?: integer, method?: "add"|"mul", all?: boolean}
---@return {word: string, value: number}[]
function WordVectors:analogy(a, b, c, opts)
  opts = pl.check_options("analogy", opts, { "k", "method", "all" })
  local places = { place(self, a), place(self, b), place(self, c) }
  local scores = scores_of(self, { places[1] }, { places[2] }, { places[3] }, check_method(opts.method))[0]
  if not opts.all then
    for _, at in ipairs(places) do scores[at - 1] = -math.huge end
  end
  local most = #self.words - (opts.all and 0 or 3)
  return self:best(scores, math.min(opts.k or 5, math.max(0, most)))
end

--- The k words with the greatest of some scores [n].
---@param scores perilune.Tensor
---@param k integer
---@return {word: string, value: number}[]
function WordVectors:best(scores, k)
  local list = {}
  if k < 1 then return list end
  local values, ids = scores:topk(k)
  for i = 0, k - 1 do list[i + 1] = { word = self.words[ids[i] + 1], value = values[i] } end
  return list
end

--- The words nearest to one, by cosine.
---@param word string
---@param k? integer 5 unless said otherwise
---@return {word: string, value: number}[]
function WordVectors:neighbours(word, k)
  local at = place(self, word)
  local scores = self.unit:matmul(self.unit[at - 1])
  scores[at - 1] = -math.huge
  return self:best(scores, math.min(k or 5, #self.words - 1))
end

--- Sections of questions, in the form of word2vec's questions-words.txt: ": name", then lines a b c d,
--- where d stands to c as b to a.
---@param path string
---@return {name: string, questions: string[][]}[]
function word_vectors.read_questions(path)
  local file <close>, why = io.open(path, "rb")
  if not file then pl.fail("io", "%s", why) end
  local sections, number = {}, 0
  for line in file:lines() do
    number = number + 1
    local name = line:match("^:%s*(.-)%s*$")
    if name then
      sections[#sections + 1] = { name = name, questions = {} }
    elseif line:find("%S") then
      local words = {}
      for word in line:gmatch("%S+") do words[#words + 1] = word end
      if #words ~= 4 or #sections == 0 then
        pl.fail("format", "%s, line %d: expected ': section', or four words in one", path, number)
      end
      local list = sections[#sections].questions
      list[#list + 1] = words
    end
  end
  if #sections == 0 then pl.fail("format", "%s: there are no questions in it", path) end
  return sections
end

-- The places of a question's words, or nil: one is not known, as it is or in small letters.
local function places_of(self, question)
  local places = {}
  for i, word in ipairs(question) do
    places[i] = self.index[word] or self.index[word:lower()]
    if not places[i] then return nil end
  end
  return places
end

--- Asks all questions of one section; those with unknown words are left out. answers: {question, got}.
---@param section {name: string, questions: string[][]}
---@param method? "add"|"mul"
---@return {right: integer, asked: integer, skipped: integer, answers: table[]}
function WordVectors:score(section, method)
  check_method(method)
  local result = { right = 0, asked = 0, skipped = 0, answers = {} }
  local batch = { {}, {}, {}, {} }
  local questions = {}
  local function ask()
    if #questions == 0 then return end
    local scores = scores_of(self, batch[1], batch[2], batch[3], method)
    for i, question in ipairs(questions) do
      for k = 1, 3 do scores[i - 1][batch[k][i] - 1] = -math.huge end
      local got = scores[i - 1]:argmax() + 1
      if got == batch[4][i] then result.right = result.right + 1 end
      result.answers[#result.answers + 1] = { question = question, got = self.words[got], right = got == batch[4][i] }
    end
    result.asked = result.asked + #questions
    batch, questions = { {}, {}, {}, {} }, {}
  end
  for _, question in ipairs(section.questions) do
    local places = places_of(self, question)
    if places then
      questions[#questions + 1] = question
      for k = 1, 4 do batch[k][#questions] = places[k] end
      if #questions == CHUNK then ask() end
    else
      result.skipped = result.skipped + 1
    end
  end
  ask()
  return result
end

-- -- skip-gram ----------------------------------------------------------------------------------------

-- Ids, each as often as its weight says, to draw from; what word2vec does.
local function fill_urn(weights)
  local size, total, list = math.max(10000, 20 * #weights), 0, {}
  for _, weight in ipairs(weights) do total = total + weight end
  local so_far = 0
  for i, weight in ipairs(weights) do
    so_far = so_far + weight
    while #list < math.floor(so_far / total * size + 0.5) do list[#list + 1] = i - 1 end
  end
  return pl.tensor(list, { dtype = "int32" })
end

local function places_drawn(n, count, seed)
  return (pl.rand(count, { seed = seed }) * n):floor():clamp(0, n - 1):int()
end

---@class perilune.SkipGramOptions
---@field d? integer numbers of a vector; 32
---@field window? integer how far neighbours may stand apart; 4
---@field steps? integer 600
---@field batch? integer pairs of a step; 1024
---@field negatives? integer words drawn at random beside each pair; 5
---@field lr? number the first learning rate, which falls to a twentieth; 0.02
---@field least? integer how often a word must occur; 1
---@field seed? integer 0
---@field show? fun(done: number, loss: number)

--- Trains vectors by skip-gram with negative sampling (Mikolov et al. 2013): a word's vector tells which
--- words stand near it from words drawn at random, as often as count^0.75 says.
---@param sentences string[][]
---@param opts? perilune.SkipGramOptions
---@return perilune.WordVectors
---@return number loss of the last steps, in nats for each pair
function word_vectors.train(sentences, opts)
  opts = pl.check_options("word_vectors.train", opts, { "d", "window", "steps", "batch", "negatives", "lr", "least",
    "seed", "show" })
  local d, window, steps, batch = opts.d or 32, opts.window or 4, opts.steps or 600, opts.batch or 1024
  local negatives, lr, least, seed = opts.negatives or 5, opts.lr or 0.02, opts.least or 1, opts.seed or 0
  local counts, words = {}, {}
  for _, sentence in ipairs(sentences) do
    for _, word in ipairs(sentence) do counts[word] = (counts[word] or 0) + 1 end
  end
  for word, n in pairs(counts) do
    if n >= least then words[#words + 1] = word end
  end
  if #words < 4 then pl.fail("argument", "word_vectors.train: %d words occur %d times or more", #words, least) end
  table.sort(words, function(x, y)
    if counts[x] ~= counts[y] then return counts[x] > counts[y] end
    return x < y
  end)
  local id, weights = {}, {}
  for i, word in ipairs(words) do id[word], weights[i] = i - 1, counts[word] ^ 0.75 end

  local centres, contexts = {}, {}
  for _, sentence in ipairs(sentences) do
    local ids = {}
    for _, word in ipairs(sentence) do
      if id[word] then ids[#ids + 1] = id[word] end
    end
    for i = 1, #ids do
      for j = math.max(1, i - window), math.min(#ids, i + window) do
        if i ~= j then centres[#centres + 1], contexts[#contexts + 1] = ids[i], ids[j] end
      end
    end
  end
  if #centres == 0 then pl.fail("argument", "word_vectors.train: no two words stand together") end
  centres, contexts = pl.tensor(centres, { dtype = "int32" }), pl.tensor(contexts, { dtype = "int32" })
  local urn = fill_urn(weights)

  local W = pl.randn(#words, d, { seed = seed }):mul_(0.5 / math.sqrt(d)):requires_grad()
  local C = pl.randn(#words, d, { seed = seed + 1 }):mul_(0.5 / math.sqrt(d)):requires_grad()
  local optimizer = pl.optim.adamw({ { name = "W", tensor = W }, { name = "C", tensor = C } },
    { lr = lr, weight_decay = 0 })
  local signs = pl.full({ batch, 1 + negatives }, 1) -- softplus(-x) for the pair, softplus(x) for the others
  signs:narrow(1, 0, 1):fill_(-1)
  local loss_sum, loss_n = 0, 0
  for step = 1, steps do
    local drawn = places_drawn(#centres, batch, seed * 7919 + 2 * step)
    local noise = urn:index_select(0, places_drawn(#urn, batch * negatives, seed * 7919 + 2 * step + 1))
    local others = pl.cat({ contexts:index_select(0, drawn):view(batch, 1), noise:view(batch, negatives) }, 1)
    local v = W:index_select(0, centres:index_select(0, drawn)):view(batch, 1, d)
    local u = C:index_select(0, others:view(-1)):view(batch, 1 + negatives, d)
    local x = (v * u):sum(2) * signs
    local loss = (x:maximum(0) + (-x:abs()):exp():add(1):log()):sum() / batch -- softplus that never overflows
    optimizer:zero_grad()
    loss:backward()
    optimizer:step(lr * math.max(0.05, 1 - step / steps))
    if step > steps * 0.9 then loss_sum, loss_n = loss_sum + loss:item(), loss_n + 1 end
    if opts.show then opts.show(step / steps, loss:item()) end
  end
  return word_vectors.new(words, W:detach()), loss_sum / loss_n
end

return word_vectors
