local pl = require "perilune"
local program = dofile "tests/lua/program.lua"

describe("the programs", function()
  local path = program.model()

  -- Runs a program on the trained model; gives its output and errors.
  local function run(name, args, input)
    local list = { name, "-m", path, "-t", "1" }
    for _, word in ipairs(args) do list[#list + 1] = word end
    local status, out, err = program.run(list, input)
    assert.are.equal("", status == 0 and "" or err)
    return out, err
  end

  local function with_model(what, test)
    it(what, function()
      if not path then return pending("no trained model is here") end
      test()
    end)
  end

  local names = { "ablate", "attention", "chat", "constrain", "convert", "generate", "induction", "inspect",
    "layer_walk", "logit_lens", "next", "one_head", "patch", "perplexity", "residual", "steer", "tokens" }

  it("each know --help, with options that all have", function()
    for _, name in ipairs(names) do
      local status, out = program.run({ name, "--help" })
      assert.are.equal(0, status)
      for _, option in ipairs({ "-m, --model NAME", "-t, --threads N", "--seed N", "-h, --help" }) do
        assert.is_truthy(out:find(option, 1, true), name .. " " .. option)
      end
      for line in out:gmatch("[^\n]+") do assert.is_true(#line <= 80, line) end
    end
  end)

  it("each say what they do, in a hundred columns", function()
    local n = 0
    for name in select(2, program.run({ "help" })):match("\nprograms:\n(.*)"):gmatch("  ([%l_]+) [^\n]*\n") do
      local status, out = program.run({ "help", name })
      assert.are.equal(0, status)
      for line in out:gmatch("[^\n]+") do assert.is_true(utf8.len(line) <= 100, name .. ": " .. line) end
      n = n + 1
    end
    assert.is_true(n > 40)
  end)

  it("each name a model that is not there", function()
    for _, name in ipairs(names) do
      local bare = name == "chat" or name == "inspect" or name == "patch" or name == "steer"
      local words = { name, "-m", "/nowhere/m.gguf", not bare and "tests/lua/run.lua" or nil }
      if name == "constrain" then words[4] = "--regex=a" end
      local status, _, err = program.run(words)
      assert.are.equal(1, status, name)
      assert.is_truthy(err:find("^perilune: /nowhere/m.gguf"), err)
    end
  end)

  with_model("generate: the same seed gives the same text, as arguments or on standard input", function()
    local out, err = run("generate", { "--seed", "7", "-n", "20", "Once", "upon a time" })
    assert.are.equal("Once upon a time", out:sub(1, 16))
    assert.is_true(#out > 40)
    assert.is_truthy(err:find("20 tokens (length)", 1, true) and err:find("seed 7", 1, true))
    assert.are.equal(out, (run("generate", { "--seed", "7", "-n", "20", "-q" }, "Once upon a time\n")))
    assert.are_not.equal(out, (run("generate", { "--seed", "8", "-n", "20", "Once upon a time" })))
    assert.are.equal(out, select(2, program.run({ "-m", path, "--seed", "7", "generate", "-n", "20",
      "Once upon a time" })))
  end)

  with_model("generate: stops before a text, and takes no sampler's parameter out of range", function()
    local out, err = run("generate", { "--temp", "0", "-n", "200", "--stop", ",", "Once upon a time there" })
    assert.is_falsy(out:find(",", 1, true))
    assert.is_truthy(err:find("(stop)", 1, true))
    local status = program.run({ "generate", "--top-p", "1.5", "x" })
    assert.are.equal(2, status)
  end)

  with_model("generate --step: marks the choice and lets the text grow", function()
    local out = run("generate", { "--step", "--temp", "0", "-n", "3", "Once upon a time" })
    local _, marks = out:gsub("\n> ", "")
    assert.are.equal(3, marks)
    local _, steps = out:gsub("position %d+, entropy %d", "")
    assert.are.equal(3, steps)
    local texts = {}
    for line in out:gmatch("\n(Once upon a time[^\n]+)") do texts[#texts + 1] = line end
    assert.are.equal(3, #texts)
    assert.are.equal(texts[1], texts[2]:sub(1, #texts[1]))
  end)

  with_model("next: entropies grow with the temperature", function()
    local out = run("next", { "--temps", "0.5,1,2", "-k", "3", "Once upon a" })
    local bits = {}
    for number in out:gmatch("entropy ([%d.]+) bits") do bits[#bits + 1] = tonumber(number) end
    assert.are.equal(3, #bits)
    assert.is_true(bits[1] < bits[2] and bits[2] < bits[3])
    local _, rows = out:gsub(" %%  ", "")
    assert.are.equal(9, rows)
    for _, temps in ipairs({ "0", "warm", "1,-1" }) do
      assert.are.equal(2, (program.run({ "next", "--temps", temps, "x" })))
    end
  end)

  with_model("tokens: pieces, ids and merges", function()
    local out = run("tokens", { "--merges", "the the\n" .. ("word "):rep(40) })
    assert.is_truthy(out:find("the%s"))
    assert.is_truthy(out:find("\\n", 1, true))
    assert.is_truthy(out:find("[Ġthe]", 1, true))
    assert.is_truthy(out:find("%d+ tokens, 208 characters, 208 bytes"))
    assert.is_truthy(run("tokens", {}, "\255\254"):find("2 bytes", 1, true))
    assert.is_truthy(run("tokens", {}, ""):find("0 tokens, 0 characters, 0 bytes\n", 1, true))
  end)

  with_model("inspect: parameters that add up", function()
    local out = run("inspect", { "--all" })
    local total = tonumber((out:match("parameters +([%d,]+)"):gsub(",", "")))
    local sum = 0
    for name, n in out:gmatch("\n  ([%w_.]+%.%w+) [^\n]- ([%d,]+) +[%d.]+ %%") do
      if name then sum = sum + tonumber((n:gsub(",", ""))) end
    end
    assert.are.equal(total, sum)
    assert.is_true(#run("inspect", {}) < #out)
  end)

  with_model("convert: there and back, with the same text", function()
    local folder = os.tmpname()
    os.remove(folder)
    assert.are.equal(0, (program.run({ "convert", path, folder, "--dtype", "f32" })))
    assert.are.equal(0, (program.run({ "convert", "-m", folder, folder .. "/again.gguf" })))
    local function text(model)
      return select(2, program.run({ "generate", "-m", model, "-t", "1", "--temp", "0", "-n", "20", "Once upon" }))
    end
    assert.are.equal(text(folder), text(folder .. "/again.gguf"))
    local exact = { precision = "exact" }
    local before, after = pl.load(path, exact):forward("Once upon"), pl.load(folder, exact):forward("Once upon")
    assert.is_true((before - after):abs():max() < 1e-4 * before:abs():max())
    os.execute("rm -rf " .. folder)
    assert.are.equal(2, (program.run({ "convert", folder })))
  end)

  with_model("perplexity: windows that overlap predict more", function()
    local text = {}
    for i = 1, 60 do text[i] = "Once upon a time there was a king who had a daughter. " end
    local function measure(...)
      local out = run("perplexity", { "-", ... }, table.concat(text))
      local n, all = out:match("predicted +(%d+) of (%d+)")
      local nats, bits = out:match("per token +([%d.]+)"), out:match("byte +([%d.]+)")
      return tonumber(n), tonumber(all), tonumber(nats), tonumber(bits)
    end
    local n, all, nats, bits = measure()
    assert.are.equal(all - math.ceil(all / 512), n)
    assert.is_true(nats > 0 and bits > 0)
    local n_64, _, nats_64 = measure("--window", "64")
    assert.are.equal(all - math.ceil(all / 64), n_64)
    local n_overlap, _, nats_overlap = measure("--window", "64", "--stride", "32")
    assert.are.equal(all - 1, n_overlap)
    assert.is_true(nats_overlap < nats_64)
    local status = program.run({ "perplexity", "-m", path, "--window", "9999", "-" }, "a b c")
    assert.are.equal(2, status)
    status = program.run({ "perplexity", "-m", path, "-" }, "")
    assert.are.equal(1, status)
  end)

  with_model("perplexity: what the library computes at once", function()
    local text = "The king said to his daughter that the night was long, and she went away."
    local model <close> = pl.load(path, { threads = 1 })
    local ids = model:encode(text, { add_special = false })
    local n = #ids
    local logits = model:forward(ids):narrow(0, 0, n - 1)
    local expected = logits:cross_entropy(ids:narrow(0, 1, n - 1))
    local out = run("perplexity", { "-" }, text)
    assert.is_true(math.abs(expected - tonumber(out:match("per token +([%d.]+)"))) < 1e-3)
  end)
end)

describe("the programs about form and conversation", function()
  local path = program.model()

  it("constrain: keeps to a regular expression and shows the grammar", function()
    local status, out = program.run({ "constrain", "--regex", "[ab]{2}", "--show-grammar" })
    assert.are.equal(0, status)
    assert.is_truthy(out:find("^root ::="))
    status = program.run({ "constrain", "x" })
    assert.are.equal(2, status)
    if not path then return pending("no trained model is here") end
    local _, text, err = program.run({ "constrain", "-m", path, "-t", "1", "--regex", "(yes|no), [a-z]{3}!", "Well: " })
    assert.is_truthy(text:find("^Well: yes, %l%l%l!\n") or text:find("^Well: no, %l%l%l!\n"), text)
    assert.is_truthy(err:find("(complete)", 1, true) and err:find("%% of the model's probability"), err)
  end)

  it("chat: answers line by line, with the model's template or a plain form", function()
    if not path then return pending("no trained model is here") end
    local args = { "chat", "-m", path, "-t", "1", "-n", "8", "--seed", "1" }
    local status, out, err = program.run(args, "hello\n/what\n/new\nhello\n/quit\nnever\n")
    assert.are.equal(0, status)
    assert.is_truthy(err:find("plain User/Assistant form", 1, true) and err:find("/what is no command", 1, true))
    local half = #out // 2
    assert.are.equal(out:sub(1, half), out:sub(half + 1))
    local file = os.tmpname()
    local handle = io.open(file, "w")
    handle:write("{% for m in messages %}<{{ m.role }}>{{ m.content }}{% endfor %}")
    handle:close()
    args[#args + 1], args[#args + 2] = "--template", file
    local good, _, notes = program.run(args, "hello\nagain\n")
    os.remove(file)
    assert.are.equal(0, good)
    assert.is_falsy(notes:find("plain", 1, true))
  end)
end)

describe("in a stock lua5.4, the programs", function()
  it("work too", function()
    if pcall(require, "perilune.host") then return end -- a sanitized module does not load into a stock Lua
    local pipe = io.popen("lua5.4 scripts/next.lua --help 2>&1")
    local out = pipe:read("a")
    assert.is_true(pipe:close(), out)
    assert.is_truthy(out:find("Usage: perilune next", 1, true))
  end)
end)
