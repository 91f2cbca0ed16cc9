-- king - man + woman: what can be read off the directions between word vectors, and what cannot.
--
-- Vectors come from a skip-gram model (Mikolov et al. 2013), which learns to tell a word's neighbours
-- from words drawn at random. Without a file it is trained on the spot, on sentences of a small
-- made-up language in which a word's company is set by what it means: "king" stands with crown and
-- throne, and with he and his. That is why king - man + woman can work at all: he's company is taken
-- away, she's is added. A text of your own (--text) gives messier company and messier answers.
--
-- The answer is the word whose vector has the greatest cosine with b - a + c, or with --method mul the
-- greatest product of cosines (Levy and Goldberg 2014). The three words of the question are left out
-- everywhere, as is usual: with them left in, the nearest is often c itself, which is shown too.
-- Beside it stands W_E of a language model, whose rows are word vectors of a kind.
--
--   perilune analogy
--   perilune analogy man woman king --vectors GoogleNews-vectors-negative300.bin --limit 50000
--   perilune analogy --text books.txt --steps 3000 --questions questions-words.txt
--
-- --vectors reads word2vec's text and binary files, and GloVe's.

local pl = require "perilune"
local cli = require "perilune.cli"
local terminal = require "perilune.terminal"
local word_vectors = require "perilune.word_vectors"

local parser = cli.parser("analogy", "Analogies between words: king - man + woman.")
parser:argument("words", "Three words: a is to b as c is to what?"):args "*"
parser:option("--vectors", "Word vectors of word2vec (text or binary) or GloVe"):argname "FILE"
parser:option("--limit", "Words read of them at most"):argname "N":convert(cli.whole(4)):default "200000"
parser:option("--text", "A text to train on instead"):argname "FILE"
parser:option("--questions", "Questions in the form of questions-words.txt"):argname "FILE"
parser:option("--method", "How candidates are weighed: add or mul"):argname "NAME":choices({ "add", "mul" })
  :default "add"
parser:option("-k --top", "How many answers to show"):argname "K":convert(cli.whole(1)):default "4"
parser:option("--width", "Numbers of a vector trained here"):argname "D":convert(cli.whole(2)):default "32"
parser:option("--window", "How far neighbours may stand apart"):argname "N":convert(cli.whole(1)):default "5"
parser:option("--steps", "Steps of training"):argname "N":convert(cli.whole(1)):default "400"
parser:option("--least", "How often a word of --text must occur"):argname "N":convert(cli.whole(1)):default "20"
parser:flag("--no-model", "Leave the language model out")
local args = cli.parse(parser)
if #args.words > 0 and #args.words ~= 3 then cli.usage("three words are needed, or none") end
if args.vectors and args.text then cli.usage("either --vectors or --text") end
local seed = args.seed or 1

-- -- a made-up language -------------------------------------------------------------------------------

-- Words that belong together, what stands with all of them, and what with the first, and the second.
local pairs_of = {
  { "he him his beard boots", "she her hers dress ribbon", {
    { "man", "woman", "grown street walked work" }, { "king", "queen", "crown throne rules palace" },
    { "prince", "princess", "young crown heir castle" }, { "boy", "girl", "young school plays small" },
    { "father", "mother", "home child supper grown" }, { "son", "daughter", "child home born youngest" },
    { "brother", "sister", "same parents quarrels young" }, { "husband", "wife", "married ring wedding home" },
    { "uncle", "aunt", "visits parents cousin gift" } } },
  { "city streets mayor tower square", "country border army flag fields", {
    { "Paris", "France", "french wine seine bread" }, { "Rome", "Italy", "italian olive pope tiber" },
    { "Madrid", "Spain", "spanish orange bull guitar" }, { "Athens", "Greece", "greek temple olive island" },
    { "Cairo", "Egypt", "egyptian nile pyramid desert" }, { "Tokyo", "Japan", "japanese rice sushi island" },
    { "Berlin", "Germany", "german beer spree bread" } } },
  { "a one this single its", "many two these all their", {
    { "dog", "dogs", "barks tail bone runs" }, { "cat", "cats", "purrs tail mice sleeps" },
    { "horse", "horses", "gallops saddle hay runs" }, { "bird", "birds", "sings nest wings flies" },
    { "tree", "trees", "leaves roots wood grows" }, { "house", "houses", "door roof windows rooms" } } },
  { "now today often every", "yesterday once ago last", {
    { "walk", "walked", "road feet far" }, { "talk", "talked", "words voice loud" },
    { "play", "played", "ball games fun" }, { "work", "worked", "hands field hard" },
    { "look", "looked", "eyes window see" } } },
  { "like gladly welcome praise", "dislike sadly avoid blame", {
    { "good", "bad", "deed heart people" }, { "big", "small", "size room measure" },
    { "young", "old", "years age days" }, { "happy", "sad", "feels face tears" } } },
}

-- Each sentence is a word, some of its own company and some of its kind's, in any order.
local function made_up(n)
  local state = seed
  local function random(most)
    state = (state * 6364136223846793005 + 1442695040888963407) & 0x7fffffffffffffff
    return 1 + (state >> 33) % most
  end
  local function split(text)
    local list = {}
    for word in text:gmatch("%S+") do list[#list + 1] = word end
    return list
  end
  local entries = {}
  for _, kind in ipairs(pairs_of) do
    local sides = { split(kind[1]), split(kind[2]) }
    for _, pair in ipairs(kind[3]) do
      for side = 1, 2 do entries[#entries + 1] = { pair[side], split(pair[3]), sides[side] } end
    end
  end
  local fillers, sentences = split("the and of in very then so there"), {}
  for i = 1, n do
    local entry = entries[random(#entries)]
    local words = { entry[1], entry[2][random(#entry[2])], entry[2][random(#entry[2])], entry[3][random(#entry[3])],
      entry[3][random(#entry[3])], fillers[random(#fillers)] }
    for k = #words, 2, -1 do
      local other = random(k)
      words[k], words[other] = words[other], words[k]
    end
    sentences[i] = words
  end
  return sentences
end

-- The words of each line or sentence of a text, in small letters.
local function sentences_of(text)
  local list = {}
  for sentence in text:gmatch("[^.!?\n]+") do
    local words = {}
    for word in sentence:gmatch("[%a\128-\255][%a\128-\255']*") do words[#words + 1] = word:lower() end
    if #words > 1 then list[#list + 1] = words end
  end
  return list
end

local function train(sentences, least)
  local show, finish = terminal.progress()
  local vectors, loss = word_vectors.train(sentences, { d = args.width, window = args.window, steps = args.steps,
    least = least, seed = seed, show = function(done, at) show(done, ("loss %.3f"):format(at)) end })
  finish()
  print(("skip-gram with negative sampling: %d words, %d numbers each\n"
    .. "%d steps, loss %.3f nats for a pair and 5 others"):format(#vectors.words, args.width, args.steps, loss))
  return vectors
end

local vectors
if args.vectors then
  vectors = word_vectors.read(args.vectors, { limit = args.limit })
  print(("%s: %d words, %d numbers each"):format(args.vectors, #vectors.words, vectors.unit.shape[2]))
elseif args.text then
  vectors = train(sentences_of(cli.read_file(args.text)), args.least)
else
  print("trained on 12,000 sentences of a made-up language")
  vectors = train(made_up(12000), 1)
end

-- -- a language model's own ---------------------------------------------------------------------------

-- Rows of W_E of all tokens that are a whole word after a space.
local function of_model(model)
  local words, ids = {}, {}
  for id, piece in ipairs(model:to_str_tokens(pl.arange(model.config.d_vocab):int())) do
    local word = piece:match("^ (%a+)$")
    if word then words[#words + 1], ids[#ids + 1] = word, id - 1 end
  end
  return word_vectors.new(words, model.W_E:index_select(0, pl.tensor(ids, { dtype = "int32" })))
end

local sources = { { name = args.vectors and args.vectors:match("[^/]+$") or "skip-gram", vectors = vectors } }
if not args.no_model then
  local model = cli.load(args)
  sources[2] = { name = "W_E of " .. model.name, vectors = of_model(model) }
end

-- -- questions ----------------------------------------------------------------------------------------

local function show(source, a, b, c)
  local v = source.vectors
  for _, word in ipairs { a, b, c } do
    if not v.index[word] then
      return print(("  %s %s is not among its words"):format(terminal.fit(source.name, 18), word))
    end
  end
  local cells = {}
  for i, found in ipairs(v:analogy(a, b, c, { k = args.top, method = args.method })) do
    cells[i] = ("%s %.2f"):format(terminal.visible(found.word), found.value)
  end
  local cheat = v:analogy(a, b, c, { k = 1, method = args.method, all = true })[1].word
  print(("  %s %s  %s"):format(terminal.fit(source.name, 18), table.concat(cells, ", "),
    terminal.paint("(of all words: " .. terminal.visible(cheat) .. ")", "grey")))
end

local examples = #args.words > 0 and { args.words } or { { "man", "woman", "king" }, { "father", "mother", "son" },
  { "Paris", "France", "Rome" }, { "dog", "dogs", "house" }, { "good", "bad", "young" } }
if (args.text or args.vectors) and #args.words == 0 then
  examples = { { "man", "woman", "king" }, { "father", "mother", "son" }, { "good", "better", "great" } }
end
for _, q in ipairs(examples) do
  print(("\n%s is to %s as %s is to"):format(q[1], q[2], q[3]))
  for _, source in ipairs(sources) do show(source, q[1], q[2], q[3]) end
end

local path = args.questions or pl.home .. "/scripts/data/analogies.txt"
local sections = word_vectors.read_questions(path)
print("\n" .. terminal.paint("How many of " .. path:match("[^/]+$") .. " are right (asked; others have unknown words)",
  "bold"))
local totals, wrong = {}, {}
for _, section in ipairs(sections) do
  local cells = {}
  for s, source in ipairs(sources) do
    local result = source.vectors:score(section, args.method)
    local total = totals[s] or { right = 0, asked = 0 }
    totals[s] = { right = total.right + result.right, asked = total.asked + result.asked }
    cells[s] = result.asked == 0 and "    - of 0"
      or ("%5.1f %% of %d"):format(100 * result.right / result.asked, result.asked)
    for _, answer in ipairs(result.answers) do
      if s == 1 and not answer.right then wrong[#wrong + 1] = answer end
    end
  end
  print(("%s  %-20s %s"):format(terminal.fit(section.name, 28), cells[1], cells[2] or ""))
end
local cells = {}
for s, total in ipairs(totals) do
  cells[s] = ("%5.1f %% of %d"):format(total.asked > 0 and 100 * total.right / total.asked or 0, total.asked)
end
print(("%s  %-20s %s"):format(terminal.fit("all", 28), cells[1], cells[2] or ""))
print(("%s  %-20s %s"):format(terminal.fit("", 28), sources[1].name, sources[2] and sources[2].name or ""))
if #wrong > 0 then
  print(("\n%s failures of the first, among them:"):format(terminal.thousands(#wrong)))
  for i = 1, math.min(5, #wrong) do
    local q = wrong[i].question
    print(("  %s is to %s as %s is to %s, and not to %s"):format(q[1], q[2], q[3], q[4],
      terminal.visible(wrong[i].got)))
  end
end
