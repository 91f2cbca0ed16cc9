-- Training from text: `perilune train`, checkpoints, and what becomes of bad input.
local pl = require "perilune"
local program = require "tests.lua.program"
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
    fails(scratch.write("one.txt", "a"), "tokens to train on")
    fails(at("none.txt"), "none.txt")
    fails(scratch.write("rate.txt", sentence()), "learning rate", { "--steps", "300", "--lr", "1e5" })
    -- A file larger than the shell allows stands for a full disk.
    fails(scratch.write("disk.txt", sentence()), "checkpoint.safetensors", { "--steps", "5" },
      "trap '' XFSZ; ulimit -f 20;")
  end)

  it("keeps the last good checkpoint when the loss diverges", function()
    local text = scratch.write("diverge.txt", sentence())
    assert.are.equal(0, (train(text, "kept", { "--steps", "20" })))
    local before = scratch.read("kept/checkpoint.safetensors")
    local status, _, err = train(text, "kept", { "--steps", "400", "--lr", "1e5" })
    assert.are_not.equal(0, status)
    assert.truthy(err:find("last good checkpoint", 1, true) or err:find("learning rate", 1, true), err)
    assert.are.equal(before, scratch.read("kept/checkpoint.safetensors"))
  end)

  it("refuses a checkpoint of another model", function()
    local text = scratch.write("other.txt", sentence())
    assert.are.equal(0, (train(text, "shape", { "--steps", "5" })))
    local status, _, err = train(text, "shape", { "--steps", "9", "--width", "32" })
    assert.are_not.equal(0, status)
    assert.truthy(err:find("another model", 1, true), err)
  end)
end)
