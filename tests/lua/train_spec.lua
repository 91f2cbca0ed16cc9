-- Training from text: `perilune train`, checkpoints, and what becomes of bad input.
local pl = require "perilune"
local program = require "tests.lua.program"
local terminal = require "perilune.terminal"
local tiny = require "tests.lua.tiny"

describe("training", function()
  local scratch = require "tests.lua.scratch"(teardown)
  local at = scratch.at

  local small = { "--vocab-size", "257", "--layers", "1", "--heads", "2", "--width", "16", "--ctx", "16",
    "--batch", "4", "--warmup", "2", "--seed", "7", "-t", "1" }

  local function train(text, out, more, prefix)
    local args = { "train", text, "--out", at(out) }
    for _, list in ipairs({ small, more or {} }) do table.move(list, 1, #list, #args + 1, args) end
    return program.run(args, "", prefix)
  end

  local function sentence() return ("the cat sat on the mat and the dog lay by the door. "):rep(60) end

  it("learns, says how far it came, and leaves a model that other programs load", function()
    local text = scratch.write("text.txt", sentence())
    local status, out, err = train(text, "first", { "--steps", "60", "--every", "30", "--lr", "0.01" })
    assert.are.equal(0, status, err)
    local early, late = out:match("step%s+30.-held out ([%d.]+).-step%s+60.-held out ([%d.]+)")
    assert.is_true(tonumber(late) < tonumber(early) and tonumber(late) < 3, out)
    local model = pl.load(at("first/model.gguf"))
    assert.are.equal(16, model.config.n_ctx)
    assert.are.equal("the", model:decode(model:encode("the")))
    assert.truthy(scratch.read("first/loss.svg"):find("<svg", 1, true))
  end)

  it("goes on after fifty kills to the very weights of a run that nobody killed", function()
    local text = scratch.write("kills.txt", sentence())
    local more = { "--steps", "1500", "--every", "1500" }
    assert.are.equal(0, (train(text, "whole", more)))
    local last, kills, rng = 0, 0, 12345
    local path = at("killed/checkpoint.safetensors")
    repeat
      rng = (rng * 1103515245 + 12345) % 2147483648
      local status = train(text, "killed", more, ("timeout -s KILL %.3f"):format(0.06 + rng % 1000 / 4000))
      if scratch.read("killed/checkpoint.safetensors") then
        local step = pl.load_tensors(path)["run.step"][0]
        assert.is_true(step >= last, ("from step %d back to %d"):format(last, step))
        last = step
      end
      kills = kills + (status == 0 and 0 or 1)
    until kills == 50 or status == 0
    if last < 1500 then assert.are.equal(0, (train(text, "killed", more))) end
    local a, b = pl.load_tensors(at("whole/checkpoint.safetensors")), pl.load_tensors(path)
    for name, tensor in pairs(a) do assert.is_true(tiny.same(tensor, b[name]), name) end
    assert.are.equal(scratch.read("whole/model.gguf"), scratch.read("killed/model.gguf"))
  end)

  it("names what is wrong with the corpus, the rate and the disk", function()
    local function fails(text, part, more, prefix)
      local status, _, err = train(text, "bad", more, prefix)
      assert.are_not.equal(0, status)
      assert.truthy(err:find(part, 1, true), err)
      os.execute("rm -rf " .. at("bad"))
    end
    fails(scratch.write("empty.txt", ""), "no text to train on")
    fails(scratch.write("one.txt", "a"), "one.txt: 1 tokens, 0 of them to train on")
    fails(scratch.write("few.txt", "abcdefghijklmnopqr"), "few.txt: 18 tokens, 16 of them to train on")
    fails(scratch.write("text.txt", sentence()), "empty.txt: 0 tokens to measure on", { "--valid", at("empty.txt") })
    fails(at("none.txt"), "none.txt")
    fails(scratch.write("rate.txt", sentence()), "learning rate", { "--steps", "300", "--lr", "1e5" })
    for _, rate in ipairs { "fast", "-1", "nan" } do
      fails(at("rate.txt"), "expected a number from 0", { "--lr", rate })
    end
    fails(at("rate.txt"), "dtype = 'q9': expected f32", { "--dtype", "q9" })
    fails(at("rate.txt"), "--arch bert: a model that sees the next token", { "--arch", "bert" })
    -- A file larger than the shell allows stands for a full disk.
    fails(scratch.write("disk.txt", sentence()), "checkpoint.safetensors", { "--steps", "5" },
      "trap '' XFSZ; ulimit -f 20;")
  end)

  it("keeps the last good checkpoint when the loss diverges, to no number or far above what guessing costs", function()
    local text = scratch.write("diverge.txt", sentence())
    assert.are.equal(0, (train(text, "kept", { "--steps", "20" })))
    local before = scratch.read("kept/checkpoint.safetensors")
    for rate, part in pairs { ["1e5"] = "may be too high", ["20"] = "above 11.1" } do
      local status, _, err = train(text, "kept", { "--steps", "400", "--lr", rate })
      assert.are_not.equal(0, status)
      for _, what in ipairs { part, "learning rate", "the last good checkpoint is " .. at("kept/checkpoint") } do
        assert.truthy(err:find(what, 1, true), err)
      end
      assert.are.equal(before, scratch.read("kept/checkpoint.safetensors"))
    end
  end)

  it("makes the tokenizer of the text it is given, and keeps it where it goes on", function()
    local digits = scratch.write("digits.txt", ("12 34 56 78 "):rep(60))
    local letters = scratch.write("letters.txt", sentence())
    local more = { "--steps", "2", "--vocab-size", "280" }
    assert.are_not.equal(0, (train(digits, "own", { "--arch", "none" }))) -- leaves its tokenizer
    local status, _, err = train(letters, "own", more)
    assert.are.equal(0, status, err)
    assert.falsy(err:find("goes on", 1, true))
    local tok = pl.load_tokenizer(at("own/tokenizer.json"))
    assert.is_true(#tok:encode("the cat") < 5)
    status, _, err = train(digits, "own", { "--steps", "4", "--vocab-size", "280" })
    assert.are.equal(0, status, err)
    assert.truthy(err:find("goes on from       step 2", 1, true), err)
    assert.are.equal(tok.n_tokens, pl.load_tokenizer(at("own/tokenizer.json")).n_tokens)
  end)

  it("names the option of pl.fit that is amiss", function()
    local weight = pl.zeros(2):requires_grad()
    local function fails(part, change)
      local opts = { n_steps = 1, optimizer = pl.optim.sgd({ weight }, { lr = 0.1 }),
        loss = function() return weight:sum() end }
      for name, value in pairs(change) do opts[name] = value end
      local good, why = pcall(pl.fit, opts)
      assert.is_false(good)
      assert.truthy(why.message:find(part, 1, true), why.message)
    end
    fails("fit: optimizer is missing", { optimizer = false })
    fails("fit: n_steps = 1.5, expected a whole number", { n_steps = 1.5 })
    fails("fit: checkpoint_every = 0", { checkpoint_every = 0 })
    fails("fit: schedule is a number", { schedule = 0.1 })
    fails("fit: curve is a boolean", { curve = true })
    fails("fit: loss returned a number", { loss = function() return 1 end })
    fails("no gradient passes", { loss = function() return pl.zeros(2) end })
    fails("unknown option 'steps'", { steps = 3 })
  end)

  it("refuses a checkpoint of another model", function()
    local text = scratch.write("other.txt", sentence())
    assert.are.equal(0, (train(text, "shape", { "--steps", "5" })))
    local status, _, err = train(text, "shape", { "--steps", "9", "--width", "32" })
    assert.are_not.equal(0, status)
    assert.truthy(err:find("another model", 1, true), err)
  end)

  it("keeps its line of progress on one line of the terminal", function()
    if not os.execute("command -v script >/dev/null 2>&1") then return pending("script(1) is missing") end
    local text = scratch.write("line.txt", sentence())
    for _, wide in ipairs { 30, 70, 160 } do
      local command = ("%s train %s --out %s %s --steps 10"):format(program.path, text, at("line" .. wide),
        table.concat(small, " "))
      os.execute(("TERM=xterm LC_ALL=C.UTF-8 script -qec 'stty cols %d; %s' %s >/dev/null 2>&1"):format(wide, command,
        at("screen")))
      local n, longest = 0, 0
      for line in scratch.read("screen"):gmatch("\r([^\r\n]+)\27%[K") do
        local columns = terminal.columns((line:gsub("\27%[[%d;]*m", "")))
        assert.is_true(columns < wide, line)
        n, longest = n + 1, math.max(longest, columns)
      end
      assert.are.equal(10, n)
      assert.is_true(longest >= math.min(wide - 1, 60)) -- the room is used
    end
  end)
end)
