-- Tuning on examples: `perilune finetune`, `perilune prefer`, and the losses behind them.
local pl = require "perilune"
local examples = require "perilune.examples"
local program = require "tests.lua.program"
local tiny = require "tests.lua.tiny"

describe("tuning", function()
  local scratch = require "tests.lua.scratch"(teardown)
  local at, write = scratch.at, scratch.write

  local base_saved
  local function base()
    local path = at("base.gguf")
    if not base_saved then
      tiny.model(pl, { std = 0.1 }):save(path)
      base_saved = true
    end
    return path
  end

  it("counts the answer's tokens only, and its end", function()
    local model = tiny.model(pl)
    local example = examples.example(model, { { role = "user", content = "the inner" } }, "other")
    local logits = model:forward(example.ids)
    local expected, n = 0, 0
    for i = example.n_prompt, #example.ids - 1 do -- token i is predicted by row i - 1
      expected = expected - logits[i - 1]:log_softmax()[example.ids[i]]
      n = n + 1
    end
    assert.are.equal(#model:encode("other") + 1, n)
    local loss = examples.loss(model, { example })
    assert.is_true(math.abs(loss - expected / n) < 1e-5)
    local short = examples.example(model, { { role = "user", content = "the inner" } }, "o")
    local list = {}
    for i = 1, 20 do list[i] = i % 3 == 0 and example or short end
    local all = examples.loss(model, list)
    assert.is_true(math.abs(examples.mean_loss(model, list) - all) < 1e-5)
    assert.are.equal(list, examples.spread(list, 20))
    assert.are.same({ 1, 3, 6 }, examples.spread({ 1, 2, 3, 4, 5, 6, 7, 8 }, 3))
    local log_prob = examples.log_probs(model, { example, example })
    assert.is_true(math.abs(log_prob[2] + expected) < 1e-4)
  end)

  it("reads prompts, conversations and pairs, and names the line that is wrong", function()
    local model = tiny.model(pl)
    local list = examples.read(model, write("good.jsonl", '{"prompt": "a", "answer": "b"}\n\n{"messages": [{"role": '
      .. '"user", "content": "x"}, {"role": "assistant", "content": "y"}, {"role": "user", "content": "z"}, '
      .. '{"role": "assistant", "content": "w"}]}\n'))
    assert.are.equal(3, #list)
    assert.are.equal("x\ny\nz\n", list[3].prompt)
    for text, part in pairs({ ["{"] = "line 1", ['{"prompt": "a"}'] = "answer is a nil", [""] = "no example",
        ['{"messages": [{"role": "user"}]}'] = "message 1", ['{"prompt": "", "answer": "a"}'] = nil }) do
      assert.is_truthy(tiny.failure(examples.read, model, write("bad.jsonl", text)).message:find(part, 1, true), text)
    end
    assert.is_truthy(tiny.failure(examples.read_pairs, model, write("bad.jsonl", '{"prompt": "a", "chosen": "b"}'))
      .message:find("rejected", 1, true))
    assert.is_truthy(tiny.failure(examples.read, model, at("none.jsonl")).kind == "io")
    assert.is_truthy(tiny.failure(examples.read, model, write("long.jsonl", '{"prompt": "' .. ("x"):rep(300)
      .. '", "answer": "b"}')).message:find("context", 1, true))
  end)

  it("teaches answers by finetune", function()
    local data = write("questions.jsonl", '{"prompt": "who?", "answer": "the inner"}\n'
      .. '{"prompt": "where?", "answer": "in it"}\n')
    local status, out, err = program.run({ "finetune", "-m", base(), data, "--out", at("tuned.gguf"), "--steps", "60",
      "--batch", "2", "--lr", "0.01", "--seed", "1", "-t", "1" })
    assert.are.equal(0, status, err)
    local before, after = out:match("before%s+([%d.]+).-after%s+([%d.]+)")
    assert.is_true(tonumber(after) < 0.1 and tonumber(before) > 2, out)
    assert.truthy(out:find("the tuned model's          the inner", 1, true), out)
    local tuned = pl.load(at("tuned.gguf"))
    assert.are.equal("in it", tuned:complete("where?\n", { temp = 0, max_new_tokens = 8 }).text)
  end)

  it("moves from the rejected to the chosen by prefer", function()
    local data = write("pairs.jsonl", '{"prompt": "say", "chosen": "the", "rejected": "er"}\n')
    local status, out, err = program.run({ "prefer", "-m", base(), data, "--out", at("liked.gguf"), "--steps", "30",
      "--batch", "2", "--lr", "0.003", "--seed", "1", "-t", "1" })
    assert.are.equal(0, status, err)
    assert.truthy(out:find("100 %", 1, true), out)
    local old, new = pl.load(base()), pl.load(at("liked.gguf"))
    local function ratio(model)
      local pair = examples.read_pairs(model, data)[1]
      local p = examples.log_probs(model, { pair.chosen, pair.rejected })
      return p[1] - p[2]
    end
    assert.is_true(ratio(new) > ratio(old) + 1)
  end)

  it("follows a reward written in Lua", function()
    local reward = write("reward.lua", "return function(text) return select(2, text:gsub('e', '')) end")
    local status, out, err = program.run({ "prefer", "-m", base(), "--reward", reward, "--prompt", "in",
      "--steps", "25",
      "--batch", "8", "--lr", "0.02", "--max-new-tokens", "8", "--out", at("e.gguf"), "--seed", "1", "-t", "1" })
    assert.are.equal(0, status, err)
    local first, last = out:match("\n%s+1%s+(%S+).-\n%s+25%s+(%S+)")
    assert.is_true(tonumber(last) > tonumber(first) + 1, out)
    -- Untouched, it has left the old model by nothing.
    status, out, err = program.run({ "prefer", "-m", program.model() or base(), "--reward", reward, "--steps", "1",
      "--batch", "2", "--lr", "0", "--max-new-tokens", "4", "--out", at("e.gguf"), "--seed", "1", "-t", "1" })
    assert.are.equal(0, status, err)
    assert.truthy(out:find(" 0.000\n", 1, true), out)
    local odd = write("odd.lua", "return 1")
    status, out, err = program.run({ "prefer", "-m", base(), "--reward", odd, "--out", at("e.gguf") })
    assert.are.equal("", out)
    assert.are_not.equal(0, status)
    assert.truthy(err:find("expected a function", 1, true), err)
    status = program.run({ "prefer", "-m", base(), "--out", at("e.gguf") })
    assert.are.equal(2, status)
  end)

  it("goes on from its checkpoint, and says at once where nothing could be written", function()
    local data = write("pairs.jsonl", '{"prompt": "say", "chosen": "the", "rejected": "er"}\n')
    local function prefer(steps, out, ...)
      return program.run({ "prefer", "-m", base(), data, "--out", out, "--steps", steps, "--batch", "2", "--seed", "1",
        "-t", "1", ... })
    end
    local status, _, err = prefer("6", at("six.gguf"))
    assert.are.equal(0, status, err)
    for _, steps in ipairs { "2", "6" } do
      assert.are.equal(0, (prefer(steps, at("resumed.gguf"), "--checkpoint", at("prefer.safetensors"))))
    end
    assert.are.equal(scratch.read("six.gguf"), scratch.read("resumed.gguf"))
    for part, words in pairs { ["there is no folder"] = { at("none/x.gguf") },
        ["dtype = 'q9'"] = { at("x.gguf"), "--dtype", "q9" } } do
      local out
      status, out, err = prefer("1000000", table.unpack(words))
      assert.are.same({ 1, "" }, { status, out })
      assert.truthy(err:find(part, 1, true), err)
    end
  end)
end)
