-- The programs that show what a lecture tells: how learning works, and what was learned.
local program = dofile "tests/lua/program.lua"
require "perilune" -- makes the library found
local terminal = require "perilune.terminal"

describe("learning:", function()
  local path = program.model()

  local function run(args, input)
    local status, out, err = program.run(args, input)
    assert.are.equal("", status == 0 and "" or err)
    for line in out:gmatch("[^\n]+") do assert.is_true(terminal.columns(line) <= 100, line) end
    return out, err
  end

  local function has(out, ...)
    for _, part in ipairs({ ... }) do assert.is_truthy(out:find(part, 1, true), part .. " in:\n" .. out) end
  end

  local names = { "attribution", "count_params", "exactly_two", "instruct", "neuron", "one_step", "preference",
    "surprise" }

  it("the programs know --help", function()
    for _, name in ipairs(names) do
      local out = run({ name, "--help" })
      has(out, "-m, --model NAME", "-t, --threads N", "--seed N", "-h, --help")
      for line in out:gmatch("[^\n]+") do assert.is_true(#line <= 80, line) end
    end
  end)

  it("a neuron learns AND and OR, and not XOR", function()
    local svg = os.tmpname()
    local out = run({ "neuron", "--svg", svg })
    assert.are.equal(2, select(2, out:gsub("4 of 4 right", "")))
    has(out, "XOR", "loss 0.6931", "0.500, wanted 1", "?????")
    assert.are.equal(out, run({ "neuron" }) .. svg .. " is written\n")
    local file = assert(io.open(svg))
    has(file:read("a"), "<svg", ">and<", ">or<")
    file:close()
    os.remove(svg)
    for seed = 2, 4 do
      has(run({ "neuron", "--seed", tostring(seed), "and" }), "4 of 4 right")
      assert.is_falsy(run({ "neuron", "--seed", tostring(seed), "xor" }):find("4 of 4", 1, true))
    end
    local status, _, err = program.run({ "neuron", "nand" })
    assert.are.equal(2, status)
    has(err, "'nand': expected and, or, xor")
  end)

  it("a perceptron finds exactly two ones, by hand and trained, in three spellings", function()
    for _, unit in ipairs({ "step", "sigmoid" }) do
      local out = run({ "exactly_two", "--unit", unit, "--seed", "2" })
      assert.are.equal(2, select(2, out:gsub("8 of 8 right", "")))
      assert.are.equal(6, select(2, out:gsub("1  right", "")))
      assert.is_falsy(out:find("wrong", 1, true))
    end
    has(run({ "exactly_two", "--steps", "1", "--lr", "0" }), "wrong") -- untrained weights do not know it
  end)

  it("one step makes the masked word likelier", function()
    if not path then return pending("no trained model is here") end
    local out = run({ "one_step", "-m", path, "-t", "1" })
    has(out, "a little ____", "dragon", "<- right")
    local before, after = out:match("loss of the word (%S+) %-> (%S+) nats")
    assert.is_true(tonumber(after) < tonumber(before))
    local low, high = out:match("(%S+) %%%s+(%S+) %%[^\n]*<%- right")
    assert.is_true(tonumber(high) > tonumber(low))
    local place, new_place = out:match("place of the right token (%d+) before, (%d+) after")
    assert.is_true(tonumber(new_place) < tonumber(place))
    -- No step: nothing changes.
    out = run({ "one_step", "-m", path, "-t", "1", "--lr", "0", "--other", "The end of it", "He ate a stone" })
    has(out, "He ate a ____", "it fell by 0.0000", "0.0000\n")
    local status, _, err = program.run({ "one_step", "-m", path, "dragon" })
    assert.are.equal(2, status)
    has(err, "two words")
  end)

  it("preferences make a reward, and the model follows it by either way", function()
    if not path then return pending("no trained model is here") end
    for _, method in ipairs({ "dpo", "reinforce" }) do
      local out = run({ "preference", "-m", path, "-t", "1", "--method", method, "-n", "8", "--ranking", "5,2,1,3,4" })
      has(out, "5 > 2 > 1 > 3 > 4", "p(5 beats 2) = sigmoid(2.09 - 0.98) = 0.752")
      local rewards, gains = {}, {}
      for n, reward, gain in out:gmatch("\n  (%d) +(%S+) +%S+ +%S+ +(%S+) +%S+ %% %->") do
        rewards[#rewards + 1], gains[#gains + 1] = tonumber(reward), tonumber(gain)
        assert.are.equal(({ "5", "2", "1", "3", "4" })[#rewards], n)
      end
      assert.are.equal(5, #gains)
      for i = 2, 5 do assert.is_true(rewards[i] < rewards[i - 1]) end
      assert.is_true(gains[1] > 0 and gains[5] < 0)
      assert.is_true(tonumber(out:match("in (%d+) of 10 pairs")) >= 8)
      local kl = out:match("KL%(new || old%) (%S+)")
      assert.is_true(tonumber(kl) > 0)
    end
    local out = run({ "preference", "-m", path, "--steps", "0", "-n", "4" }) -- the default, as nobody is asked
    has(out, "3 > 1 > 2 > 5 > 4", "KL(new || old) 0.0000")
    for _, ranking in ipairs({ "1,2,3", "1,2,3,4,4", "1,2,3,4,6", "best" }) do
      local status, _, err = program.run({ "preference", "--ranking", ranking })
      assert.are.equal(2, status)
      has(err, "expected the numbers 1 to 5")
    end
  end)

  it("a person at a terminal is asked for the ranking", function()
    if not path then return pending("no trained model is here") end
    local session = program.terminal({ "preference", "-m", path, "--steps", "1", "-n", "4" })
    if not session then return pending("script(1) is missing") end
    session:expect("Five numbers")
    session:type("1 2 3\n")
    session:expect("each once")
    session:type("5 4 3 2 1\n")
    session:expect("5 > 4 > 3 > 2 > 1")
    assert.are.equal(0, session:close())
    session:remove()
  end)

  it("instruction tuning teaches the answers, and says how little spreads", function()
    if not path then return pending("no trained model is here") end
    local out, err = run({ "instruct", "-m", path, "--steps", "16", "--batch", "12", "--lr", "0.002", "--show", "2",
      "Who are you?" })
    has(out, "An example", "queen]", "[<|endoftext|>]", "-- yours", "Who are you?")
    assert.is_falsy(out:find("ho]", 1, true)) -- the question does not count
    assert.are.equal("", err)
    local before, after = out:match("before (%S+), after (%S+) nats per token, of the 32")
    assert.is_true(tonumber(before) > 3 and tonumber(after) < 1)
    local right, asked = out:match("(%d) of (%d) as we would answer")
    assert.is_true(tonumber(right) < tonumber(asked))
  end)

  it("attribution patching agrees with patching, and integrated gradients add up", function()
    if not path then return pending("no trained model is here") end
    local html = os.tmpname()
    local out = run({ "attribution", "-m", path, "-t", "1", "--html", html })
    local n = 0
    for value in out:gmatch("\n  %l[%a ,]+%d+ +([+-]%d%.%d+)") do
      n = n + 1
      assert.is_true(tonumber(value) > 0.9)
    end
    assert.are.equal(5, n)
    has(out, "all of them", "single heads, at all tokens: estimate", "single heads, at all tokens: exact")
    local wanted = tonumber(out:match("a difference of (%S+)"))
    local errors = {}
    for points, sum, off in out:gmatch("(%d+) points: the shares add up to (%S+), off by (%S+)\n") do
      errors[#errors + 1] = tonumber(off)
      assert.is_true(math.abs(tonumber(sum) - wanted) < 0.1, points)
    end
    assert.is_true(#errors == 3 and errors[3] < 0.002 and errors[3] < errors[1])
    local file = assert(io.open(html))
    has(file:read("a"), "<html", "Integrated gradients")
    file:close()
    os.remove(html)

    out = run({ "attribution", "-m", path, "-t", "1", "--maps", "--baseline", "zero", "The king said to his",
      "The queen said to her" })
    assert.is_falsy(out:find("incomplete", 1, true))
    has(out, "what the MLP adds: exact", "baseline (zero)")
    local status, _, err = program.run({ "attribution", "-m", path, "One", "Two of them are here" })
    assert.are.equal(2, status)
    has(err, "tokens")
    status = program.run({ "attribution", "one alone" })
    assert.are.equal(2, status)
  end)

  it("count_params counts what the released files hold", function()
    local out = run({ "count_params" })
    has(out, "116,534,784", "124,439,808", "354,823,168", "774,030,080", "1,557,611,200", "174,604,259,328",
      "68,976,648,192", "46,702,792,704", "never published")
    assert.is_falsy(out:find(": -%d+ operations") or out:find("-%d[%d.,]* years"))
    has(run({ "count_params", "mixtral-8x7b" }), "W_router", "12.88 billion")
    local status, _, err = program.run({ "count_params", "gpt9" })
    assert.are.equal(2, status)
    has(err, "'gpt9': expected one of gpt1")
  end)

  it("surprise adds the bits of the tokens up", function()
    if not path then return pending("no trained model is here") end
    local html = os.tmpname()
    local out = run({ "surprise", "-m", path, "-t", "1", "--html", html, "Once upon a time\nthere was" })
    local sum = 0
    for bits in out:gmatch("\n%S+ +(%d+%.%d%d)  ") do sum = sum + tonumber(bits) end
    local told = tonumber(out:match("tokens, (%S+) bits in all"))
    assert.is_true(sum > 0 and math.abs(sum - told) < 0.1, out)
    local file = assert(io.open(html))
    has(file:read("a"), "How surprising each token is")
    file:close()
    os.remove(html)
    local status, _, err = program.run({ "surprise", "-m", path, "" })
    assert.are.equal(2, status)
    has(err, "takes at least 2")
  end)
end)
