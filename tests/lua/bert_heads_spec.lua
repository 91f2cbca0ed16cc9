local pl = require "perilune"
local conllu = require "perilune.conllu"
local relations = require "perilune.head_relations"
local program = dofile "tests/lua/program.lua"
local tiny = dofile "tests/lua/tiny.lua"

local scratch = require "tests.lua.scratch"(teardown)

-- A random BERT that knows a few words, some of them only in pieces.
local words = { "[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "the", "dog", "chase", "##d", "a", "cat", "##s", "." }
local function bert()
  local vocab = scratch.write("vocab.txt", table.concat(words, "\n") .. "\n")
  return pl.new_model({ arch = "bert", n_layers = 2, d_model = 16, n_heads = 4, n_ctx = 16, seed = 3, std = 0.7,
    pooler = true, tokenizer = vocab }, { threads = 1, kv = "f32", precision = "exact" })
end

-- "1 the 2 det" -> a word's line.
local function line(id, form, head, relation, misc)
  return table.concat({ id, form, "_", "_", "_", "_", head, relation, "_", misc or "_" }, "\t") .. "\n"
end

local chased = "# sent_id = one\n" .. line(1, "the", 2, "det") .. line(2, "dogs", 3, "nsubj")
  .. line(3, "chased", 0, "root") .. line(4, "a", 5, "det") .. line(5, "cat", 3, "obj", "Coref=2")
  .. line(6, ".", 3, "punct") .. "\n"

describe("CoNLL-U", function()
  it("gives words, comments, ranges and empty words", function()
    local text = "\xEF\xBB\xBF# text = vámonos al mar\r\n# newpar\r\n" .. line("1-2", "vámonos", "_", "_")
      .. "1\tvamos\tir\tVERB\tV\tMood=Imp|Number=Plur\t0\troot\t0:root\tSpaceAfter=No|Odd\n"
      .. line(2, "nos", 1, "obj") .. line("2.1", "left", "_", "_") .. line(3, "_", 1, "obl") .. "\n\n\n" .. chased
    local sentences = conllu.parse(text)
    assert.are.equal(2, #sentences)
    local first = sentences[1]
    assert.are.same({ "text = vámonos al mar", "newpar" }, first.comments)
    assert.are.equal("vámonos al mar", first.meta.text)
    assert.are.equal(3, #first.words)
    assert.are.same({ form = "vamos", lemma = "ir", upos = "VERB", xpos = "V", feats = { Mood = "Imp",
      Number = "Plur" }, head = 0, deprel = "root", deps = "0:root", misc = { SpaceAfter = "No", Odd = "" },
      line = 4 }, first.words[1])
    assert.are.equal("_", first.words[3].form)
    assert.are.same({ { after = 2, form = "left" } }, first.empty)
    assert.are.same({ 1, 2, "vámonos" }, { first.ranges[1].first, first.ranges[1].last, first.ranges[1].form })
    assert.are.equal("2", sentences[2].words[5].misc.Coref)
    assert.are.same({}, conllu.parse(""))
    assert.are.same({}, conllu.parse("# only a comment\n"))
    assert.are.equal(6, #conllu.parse((chased:gsub("\n\n$", "")))[1].words)
  end)

  it("names the file and the line of what is wrong", function()
    local function refused(text, where, what)
      local err = tiny.failure(conllu.read, scratch.write("bad.conllu", text))
      assert.are.equal("format", err.kind)
      local expected = ("%s:%d: "):format(scratch.at("bad.conllu"), where)
      assert.are.equal(expected, err.message:sub(1, #expected))
      assert.is_truthy(err.message:find(what, 1, true), err.message)
    end
    refused(chased .. "1\tthe\n", 9, "2 columns")
    refused(line(1, "a", 0, "root"):gsub("\n", "\tmore\n"), 1, "11 columns")
    refused(line(1, "", 0, "root"), 1, "column 2 is empty")
    refused(line(2, "a", 0, "root"), 1, "number is 2: expected 1")
    refused(line(1, "a", 0, "root") .. line(1, "b", 1, "x"), 2, "expected 2")
    refused(line("x", "a", 0, "root"), 1, "number is x")
    refused(line(1, "a", 2, "det"), 1, "the head is 2: the sentence has 1")
    refused(line(1, "a", -1, "det"), 1, "the head is -1")
    refused(line(1, "a", ("9"):rep(40), "det"), 1, "the head is 999")
    refused(line(1, "a", 1, "det"), 1, "its own head")
    refused(line("1-3", "ab", "_", "_") .. line(1, "a", 0, "root") .. line(2, "b", 1, "x"), 1, "1-3")
    refused(line("2-1", "ab", "_", "_"), 1, "range 2-1")
    refused(line("1-2", "ab", "_", "_") .. line("1-2", "ab", "_", "_"), 2, "range 1-2")
    refused(line("4.1", "a", "_", "_"), 1, "empty word 4.1")
    refused(line(1, "a", 0, "root") .. line("1.1", "\xFF", "_", "_"), 2, "no UTF-8")
    refused(line("0.1", "a", "_", "_") .. "\n", 2, "without words")
    refused(line(1, "a", 0, "root") .. "# late\n", 2, "1 columns")
    assert.are.equal("io", tiny.failure(conllu.read, "/nowhere/a.conllu").kind)
    assert.are.equal("argument", tiny.failure(conllu.parse, 5).kind)
  end)

  it("tells trees from what is none", function()
    local function tree(...)
      local sentence = { words = {} }
      for i, head in ipairs({ ... }) do sentence.words[i] = { head = head or nil } end
      return conllu.is_tree(sentence)
    end
    assert.is_true(tree(2, 0, 2))
    assert.are.same({ false, "2 roots" }, { tree(0, 0) })
    assert.are.same({ false, "the word 1 is in a circle" }, { tree(2, 1, 0) })
    assert.are.same({ false, "the word 2 has no head" }, { tree(0, false) })
  end)

  it("survives any cut and any changed byte", function()
    for i = 0, #chased do pcall(conllu.parse, chased:sub(1, i)) end
    for i = 1, #chased do
      local good, err = pcall(conllu.parse, chased:sub(1, i - 1) .. string.char(i * 37 % 256) .. chased:sub(i + 1))
      assert.is_true(good or err.kind == "format")
    end
  end)
end)

describe("the sentences that come along", function()
  local sentences = conllu.read("scripts/data/heads.conllu")

  it("are at least sixty well-formed trees", function()
    assert.is_true(#sentences >= 60)
    for i, sentence in ipairs(sentences) do
      local good, why = conllu.is_tree(sentence)
      assert.is_true(good, ("sentence %d: %s"):format(i, tostring(why)))
      local text = {}
      for k, word in ipairs(sentence.words) do
        text[k] = word.form .. ((word.misc.SpaceAfter or k == #sentence.words) and "" or " ")
      end
      assert.are.equal(sentence.meta.text, table.concat(text))
    end
  end)

  it("ask for each relation of the paper often", function()
    local counts = {}
    for _, sentence in ipairs(sentences) do
      for _, question in ipairs(relations.questions(sentence)) do
        counts[question.relation] = (counts[question.relation] or 0) + 1
      end
    end
    for _, item in ipairs(relations.published) do
      assert.is_true((counts[item.relation] or 0) >= 20, item.relation)
    end
  end)
end)

-- What a head predicts for each word, worked out apart: the pattern comes from a hook, attention between
-- words from products of matrices. spans are {from, to} in tokens.
local function plainly(model, ids, spans, layer, head)
  local weights
  model:run_with_hooks(ids, { { ("blocks.%d.attn.hook_pattern"):format(layer), function(act)
    weights = act:select(0, head):clone()
  end } })
  local sum, mean = {}, {}
  for i, span in ipairs(spans) do
    sum[i], mean[i] = {}, {}
    for at = 0, #ids - 1 do
      local inside = at >= span[1] and at <= span[2]
      sum[i][at + 1] = inside and 1 or 0
      mean[i][at + 1] = inside and 1 / (span[2] - span[1] + 1) or 0
    end
  end
  local between = pl.matmul(pl.matmul(pl.tensor(mean), weights), pl.tensor(sum):transpose(0, 1))
  for i = 0, #spans - 1 do between[i][i] = -1 end
  local forward, backward = {}, {}
  for i = 0, #spans - 1 do
    forward[i + 1] = math.tointeger(between[i]:argmax()) + 1
    backward[i + 1] = math.tointeger(between:select(1, i):clone():argmax()) + 1
  end
  return forward, backward, between
end

describe("the measure of heads", function()
  it("cuts words into pieces and knows where they are", function()
    local ids, spans = relations.encode(bert(), { "The", "dogs", "chased", "a", "cat", "." })
    assert.are.same({ 2, 5, 6, 11, 7, 8, 9, 10, 12, 3 }, ids)
    assert.are.same({ { 1, 1 }, { 2, 3 }, { 4, 5 }, { 6, 6 }, { 7, 7 }, { 8, 8 } }, spans)
  end)

  it("adds up attention to pieces and averages attention from them", function()
    local rows = { { 9, 9, 9, 9 }, { 9, 0.1, 0.2, 0.3 }, { 9, 0.5, 0.1, 0.1 }, { 9, 0.3, 0.2, 0.4 } }
    local between = relations.between_words(rows, { { 1, 2 }, { 3, 3 } })
    local expected = { { 0.45, 0.2 }, { 0.5, 0.4 } }
    for i = 1, 2 do
      for j = 1, 2 do assert.is_true(math.abs(between[i][j] - expected[i][j]) < 1e-12) end
    end
    local forward, backward = relations.predictions({ { 9, 0.1, 0.3 }, { 0.2, 9, 0.1 }, { 0.4, 0.5, 9 } })
    assert.are.same({ { 3, 1, 2 }, { 3, 3, 1 } }, { forward, backward })
    assert.are.same({ {}, {} }, { relations.predictions({ { 1 } }) })
  end)

  it("asks for heads, antecedents, and of possessors through their 's", function()
    local text = line(1, "dog", 3, "nmod:poss") .. line(2, "'s", 1, "case") .. line(3, "cat", 0, "root", "Coref=1,2")
    local questions = relations.questions(conllu.parse(text)[1])
    assert.are.same({
      { relation = "poss", at = 1, goals = { [3] = true }, marker = 2 },
      { relation = "case", at = 2, goals = { [1] = true } },
      { relation = "coref", at = 3, goals = { true, true } },
    }, questions)
    for _, wrong in ipairs({ "Coref=x", "Coref=9", "Coref=1" }) do
      local sentence = conllu.parse(line(1, "dog", 0, "root", wrong))[1]
      assert.are.equal("format", tiny.failure(relations.questions, sentence).kind)
    end
  end)

  it("counts what a plain computation counts", function()
    local model = bert()
    local other = line(1, "a", 2, "det") .. line(2, "cats", 3, "obj") .. line(3, "chased", 0, "root")
      .. line(4, "the", 5, "det") .. line(5, "dog", 3, "nsubj", "Coref=2") .. "\n"
    local third = line(1, "dog", 4, "poss") .. line(2, "'s", 1, "possessive") .. line(3, "a", 4, "det")
      .. line(4, "cat", 5, "nsubj") .. line(5, "chased", 0, "root") .. "\n"
    local sentences = conllu.parse(chased .. other .. third)
    local found = relations.measure(model, sentences)
    assert.are.same({ 3, 0 }, { found.sentences, found.skipped })
    assert.are.same({ "det", "nsubj", "coref", "dobj", "poss", "possessive", "punct" }, found.names)
    local best = -1
    for layer = 0, 1 do
      for head = 0, 3 do
        local expected = {}
        for _, sentence in ipairs(sentences) do
          local ids, spans = relations.encode(model, relations.forms(sentence))
          local predicted = { forward = {}, backward = {} }
          predicted.forward, predicted.backward = plainly(model, ids, spans, layer, head)
          for _, question in ipairs(relations.questions(sentence)) do
            for way, list in pairs(predicted) do
              local key = question.relation .. way
              expected[key] = (expected[key] or 0) + (question.goals[list[question.marker or question.at]] and 1 or 0)
            end
          end
        end
        for _, name in ipairs(found.names) do
          local counts = found.relations[name]
          for _, way in ipairs({ "forward", "backward" }) do
            assert.are.equal(expected[name .. way] / counts.n, counts[way][layer * 4 + head])
            if name == "det" then best = math.max(best, counts[way][layer * 4 + head]) end
          end
        end
      end
    end
    local det = found.relations.det
    assert.are.equal(best, det.best.share)
    assert.are.equal(best, det[det.best.direction][det.best.layer * 4 + det.best.head])
    assert.are.same({ by = 1, share = 1 }, det.offset)
    assert.are.equal(5, det.n)
    assert.are.same({ by = -3, share = 1 }, found.relations.coref.offset)
    assert.are.same({ by = -2, share = 0.5 }, found.relations.dobj.offset)
  end)

  it("gives the attention between words that products give", function()
    local model = bert()
    local ids, spans = relations.encode(model, { "the", "dogs", "chased", "cats" })
    local _, _, expected = plainly(model, ids, spans, 1, 2)
    local _, cache = model:run_with_cache(ids, "pattern")
    local rows = cache["blocks.1.attn.hook_pattern"]:select(0, 2):to_table()
    local between = relations.between_words(rows, spans)
    for i = 1, 4 do
      for j = 1, 4 do
        if i ~= j then assert.is_true(math.abs(between[i][j] - expected[i - 1][j - 1]) < 1e-6) end
      end
    end
  end)

  it("leaves out what is too long, and refuses what reads from left to right", function()
    local long = line(1, "dogs", 0, "root")
    for i = 2, 12 do long = long .. line(i, "dogs", 1, "dep") end
    local found = relations.measure(bert(), conllu.parse(long .. "\n" .. chased))
    assert.are.same({ 1, 1 }, { found.sentences, found.skipped })
    local gpt = tiny.model(pl)
    assert.is_truthy(tiny.failure(relations.measure, gpt, {}).message:find("takes an encoder", 1, true))
  end)
end)

describe("perilune bert_heads", function()
  local path

  setup(function()
    path = scratch.at("bert.gguf")
    bert():save(path)
  end)

  local function run(...)
    local status, out, err = program.run({ "bert_heads", "-m", path, "-t", "1", ... })
    assert.are.equal("", status == 0 and "" or err)
    return out
  end

  it("shows what heads look at in a text, and writes a page", function()
    local out = run("--layer", "1", "--head", "2", "--html", scratch.at("text.html"), "The dogs chased", "a <cat>.")
    assert.is_truthy(out:find("layer 1, head 2 (2-3 in the paper)", 1, true))
    local arcs = {}
    for from, to in out:gmatch("\n +(%S+)  [<-][->]  (%S+) [01]%.%d%d") do arcs[#arcs + 1] = { from, to } end
    assert.are.equal(8, #arcs)
    assert.are.same({ "The", "dogs", "chased", "a", "<", "cat", ">", "." }, (function()
      local list = {}
      for i, arc in ipairs(arcs) do list[i] = arc[1] end
      return list
    end)())
    for _, arc in ipairs(arcs) do assert.are_not.equal(arc[1], arc[2]) end
    local file = assert(io.open(scratch.at("text.html")))
    local html = file:read("a")
    file:close()
    assert.is_truthy(html:find("a &lt;cat&gt;.", 1, true))
    assert.is_truthy(html:find('"kind":"tiles"', 1, true))
  end)

  it("measures a treebank, beside the published figures", function()
    local out = run("--conllu", scratch.write("two.conllu", (chased .. "\n"):rep(6)), "--limit", "5")
    assert.is_truthy(out:find("5 sentences of two.conllu", 1, true))
    assert.is_truthy(out:find("det%s+10%s+%d,%s+%d %("), out)
    for _, item in ipairs(relations.published) do
      local row = out:match(("%d%%-%d %%(%s%%)[^\n]*"):format(item.layer, item.head, item.relation))
      assert.is_truthy(row and row:find(("%d, %d "):format(item.layer - 1, item.head - 1), 1, true), item.relation)
      assert.is_truthy(row:find(("%.1f %%"):format(item.percent), 1, true))
    end
    local whole = run("--html", scratch.at("all.html"))
    assert.is_truthy(whole:find("sentences of heads.conllu", 1, true))
    for text in whole:gmatch("[^\n]+") do assert.is_true(#text <= 100, text) end
  end)

  it("tells its options, in lines of a terminal", function()
    local help = run("--help")
    for _, option in ipairs({ "-m, --model NAME", "--conllu FILE", "--limit N", "--head H", "--html FILE" }) do
      assert.is_truthy(help:find(option, 1, true), option)
    end
    for text in help:gmatch("[^\n]+") do assert.is_true(#text <= 80, text) end
  end)

  it("says how to get a BERT, and what is wrong", function()
    local nowhere = scratch.at("nowhere")
    local status, _, err = program.run({ "bert_heads" }, nil, ("HOME=%s HF_HOME=%s HF_HUB_CACHE=%s"):format(nowhere,
      nowhere, nowhere))
    assert.are.equal(1, status)
    assert.is_truthy(err:find("perilune pull google-bert/bert-base-uncased", 1, true), err)
    assert.are.equal(1, select(2, err:gsub("\n", "")))
    for _, case in ipairs({ { 1, "-m", "/nowhere/m.gguf" }, { 1, "-m", path, "--conllu", "/nowhere/a.conllu" },
      { 2, "-m", path, "--conllu", "a", "the dog" }, { 2, "-m", path, "dog" }, { 2, "--limit", "0" },
      { 2, "-m", path, "--layer", "9", "the dog" }, { 2, "-m", path, ("dog "):rep(20) } }) do
      local words_of_case = { "bert_heads", table.unpack(case, 2) }
      assert.are.equal(case[1], (program.run(words_of_case)), table.concat(words_of_case, " "))
    end
  end)
end)
