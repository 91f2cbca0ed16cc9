-- Word vectors: their files, analogies on vectors made by hand, skip-gram, and `perilune analogy`.
local pl = require "perilune"
local program = require "tests.lua.program"
local tiny = require "tests.lua.tiny"
local word_vectors = require "perilune.word_vectors"

describe("word vectors", function()
  local scratch = require "tests.lua.scratch"(teardown)
  local function write(text) return scratch.write("file", text) end

  local words = { "king", "queen", "man", "woman", "apple", "z\xC3\xBCrich" }
  local rows = { { 1, 1, 0 }, { 1, -1, 0 }, { 0, 1, 0.1 }, { 0, -1, 0.1 }, { 0, 0, 1 }, { -0.5, 0, 2 } }

  local function as_text(header)
    local lines = { header }
    for i, word in ipairs(words) do lines[#lines + 1] = word .. " " .. table.concat(rows[i], " ") end
    return table.concat(lines, "\n") .. "\n"
  end
  local function as_binary(newline)
    local parts = { "6 3\n" }
    for i, word in ipairs(words) do
      parts[#parts + 1] = word .. " " .. ("<fff"):pack(table.unpack(rows[i])) .. (newline and "\n" or "")
    end
    return table.concat(parts)
  end

  it("are read from word2vec's text and binary files and from GloVe's", function()
    local from_windows = as_text("6 3"):gsub("\n", " \r\n")
    for _, text in ipairs { as_text("6 3"), as_text(nil), as_binary(false), as_binary(true), from_windows } do
      local v = word_vectors.read(write(text))
      assert.are.same(words, v.words)
      for i, row in ipairs(rows) do
        local length = math.sqrt(row[1] ^ 2 + row[2] ^ 2 + row[3] ^ 2)
        for k = 1, 3 do assert.is_true(math.abs(v.unit[i - 1][k - 1] - row[k] / length) < 1e-6) end
      end
    end
    assert.are.same({ "king", "queen" }, word_vectors.read(write(as_binary(true)), { limit = 2 }).words)
    assert.are.same({ "king", "queen" }, word_vectors.read(write(as_text("6 3")), { limit = 2 }).words)
  end)

  it("name the place where a file lies", function()
    local text, binary = as_text("6 3"), as_binary(false)
    for message, bytes in pairs {
      ["is empty"] = "",
      ["ends after 6 words of 7"] = as_text("7 3"),
      ["line 3: 3 numbers, expected 4"] = "2 4\na 1 2 3 4\nb 1 2 3\n",
      ["line 2: 'x' is no number"] = "1 2\na 1 x\n",
      ["line 2: '0x10' is no number"] = "a 1 2\nb 0x10 2\n",
      ["expected at least one word"] = "0 3\n",
      ["1 to 10000"] = "5 999999999\n",
      ["ends within word 6 of 6"] = binary:sub(1, -2),
      ["longer than 1024 bytes"] = "2 2\n" .. ("\1"):rep(3000),
      ["word 1: number 2 is not finite"] = "1 2\na " .. ("<ff"):pack(1, 0 / 0),
      ["expected a word and numbers"] = "lonely\n",
    } do
      assert.is_truthy(tiny.failure(word_vectors.read, write(bytes)).message:find(message, 1, true), message)
    end
    for n = 0, #binary - 1 do -- cut anywhere: an error object, or fewer words
      local good, why = pcall(word_vectors.read, write(binary:sub(1, n)))
      assert.is_true(good or why.kind == "format", n)
    end
    for n = 0, #text - 1, 3 do
      local good, why = pcall(word_vectors.read, write(text:sub(1, n)))
      assert.is_true(good or why.kind == "format", n)
    end
  end)

  it("answer analogies as the arithmetic says", function()
    local v = word_vectors.new(words, pl.tensor(rows))
    for _, method in ipairs { "add", "mul" } do
      assert.are.equal("queen", v:analogy("man", "woman", "king", { method = method })[1].word)
      assert.are.equal("king", v:analogy("woman", "man", "queen", { method = method })[1].word)
    end
    local function unit(i)
      local r = rows[i]
      local length = math.sqrt(r[1] ^ 2 + r[2] ^ 2 + r[3] ^ 2)
      return { r[1] / length, r[2] / length, r[3] / length }
    end
    local a, b, c, q = unit(3), unit(4), unit(1), unit(2)
    local dot, length = 0, 0
    for k = 1, 3 do
      local wanted = b[k] - a[k] + c[k]
      dot, length = dot + wanted * q[k], length + wanted ^ 2
    end
    local found = v:analogy("man", "woman", "king", { k = 99 })
    assert.are.equal(3, #found)
    assert.is_true(math.abs(found[1].value - dot / math.sqrt(length)) < 1e-5)
    assert.are.equal(6, #v:analogy("man", "woman", "king", { k = 99, all = true }))
    assert.are.equal("apple", v:neighbours(words[6], 1)[1].word)
    local function refused(...) return tiny.failure(v.analogy, v, "man", "woman", ...).message end
    assert.is_truthy(refused("pear"):find("'pear' is not among", 1, true))
    assert.is_truthy(refused("king", { method = "div" }):find("div", 1, true))
  end)

  it("are scored question by question", function()
    local v = word_vectors.new(words, pl.tensor(rows))
    local sections = word_vectors.read_questions(write(": he and she\nman woman king queen\nMAN WOMAN KING apple\n"
      .. "man woman duke duchess\n\n: none\nx y z w\n"))
    assert.are.equal(2, #sections)
    local score = v:score(sections[1])
    assert.are.same({ 1, 2, 1 }, { score.right, score.asked, score.skipped })
    assert.are.equal("queen", score.answers[2].got)
    score = v:score(sections[2])
    assert.are.same({ 0, 0, 1 }, { score.right, score.asked, score.skipped })
    for text, message in pairs { ["a b c d"] = "line 1", [": x\na b c"] = "line 2", [""] = "no questions" } do
      assert.is_truthy(tiny.failure(word_vectors.read_questions, write(text)).message:find(message, 1, true))
    end
    local published = (os.getenv("PERILUNE_TEST_DATA") or "../shared/data") .. "/text/questions-words.txt"
    if not io.open(published) then return pending("needs " .. published) end
    local n, list = 0, word_vectors.read_questions(published)
    for _, section in ipairs(list) do n = n + #section.questions end
    assert.are.same({ 14, 19544 }, { #list, n })
  end)

  it("of words in like company come out alike by skip-gram", function()
    local sentences = {}
    for i = 1, 300 do
      sentences[2 * i - 1] = { i % 2 == 0 and "cat" or "kitten", "purrs", "softly" }
      sentences[2 * i] = { i % 2 == 0 and "car" or "lorry", "drives", "fast" }
    end
    local function train()
      return word_vectors.train(sentences, { d = 8, steps = 120, batch = 128, seed = 3 })
    end
    local v, loss = train()
    local function cosine(a, b) return v.unit[v.index[a] - 1]:matmul(v.unit[v.index[b] - 1]) end
    assert.is_true(cosine("cat", "kitten") > 0.8 and cosine("car", "lorry") > 0.8)
    assert.is_true(cosine("cat", "car") < 0.5)
    assert.is_true(loss < 6 * math.log(2) / 2) -- half of what knowing nothing costs
    assert.are.equal(loss, select(2, train()))
    assert.is_truthy(tiny.failure(word_vectors.train, { { "a", "b" } }).message:find("2 words", 1, true))
  end)

  it("are asked by a script, with the language model's beside", function()
    local path = program.model()
    if not path then return pending("no trained model is here") end
    local status, out, err = program.run({ "analogy", "-m", path, "-t", "1", "--steps", "150", "--seed", "2" })
    assert.are.equal(0, status, err)
    assert.is_true(tonumber(out:match("he and she +([%d.]+) %%")) > 60, out)
    assert.is_truthy(out:find("king is to", 1, true) and out:find("W_E of", 1, true))
    local file = write(as_text("6 3"))
    status, out, err = program.run({ "analogy", "man", "woman", "king", "--vectors", file, "--no-model" })
    assert.are.equal(0, status, err)
    assert.is_truthy(out:find(file:match("[^/]+$") .. " +queen"), out)
    for message, args in pairs { ["three words"] = { "man" }, ["No such file"] = { "--vectors", "/nowhere" },
      ["either --vectors"] = { "--vectors", file, "--text", file } } do
      status, out, err = program.run({ "analogy", table.unpack(args) })
      assert.are_not.equal(0, status, out)
      assert.is_truthy(err:find(message, 1, true), err)
    end
  end)
end)
