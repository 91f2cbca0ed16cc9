-- What the program says to somebody who gives it the wrong file.
local program = dofile "tests/lua/program.lua"
local tiny = dofile "tests/lua/tiny.lua"
local pl = require "perilune"

local pointer = "version https://git-lfs.github.com/spec/v1\noid sha256:" .. ("0"):rep(64) .. "\nsize 12345\n"

local scratch = require "tests.lua.scratch"(teardown)

-- Every program that loads a model fails so, in one line, and prints nothing else.
local function says(model, expected)
  local elsewhere = ("env HF_HUB_CACHE=%s/cache"):format(scratch.at())
  for _, args in ipairs { { "inspect" }, { "generate", "-n", "1", "x" }, { "tokens", "x" }, { "next", "x" } } do
    local status, out, err = program.run({ args[1], "-m", scratch.at(model), table.unpack(args, 2) }, nil, elsewhere)
    assert.are.equal(1, status, args[1] .. " " .. err)
    assert.are.equal("", out)
    assert.is_truthy(err:find("^perilune: [^\n]+\n$"), err)
    assert.is_truthy(err:find(expected, 1, true), ("%s: expected '%s', got '%s'"):format(args[1], expected, err))
  end
end

describe("a beginner is told", function()
  setup(function()
    local model = tiny.model(pl)
    model:save(scratch.at("whole"), { format = "safetensors" })
    model:save(scratch.at("whole.gguf"))
  end)

  it("of a folder without weights, or with those of others", function()
    scratch.write("none/README.md", "nothing")
    says("none", "no model.safetensors, no model.safetensors.index.json and no .gguf file there")
    scratch.write("torch/pytorch_model.bin", "PK")
    says("torch", "only pytorch_model.bin there, which perilune does not read: it reads safetensors and GGUF")
  end)

  it("of an architecture that is not known", function()
    scratch.write("other/model.safetensors", scratch.read("whole/model.safetensors"))
    scratch.write("other/config.json", '{"model_type": "mamba"}')
    says("other", "model_type: unknown architecture 'mamba'; known: gpt2, ")
    scratch.write("other.gguf", (scratch.read("whole.gguf"):gsub("(general%.architecture............)gpt2", "%1gpt9")))
    says("other.gguf", "other.gguf: general.architecture: unknown architecture 'gpt9'")
  end)

  it("of safetensors alone", function()
    scratch.write("alone/model.safetensors", scratch.read("whole/model.safetensors"))
    says("alone", "there is no " .. scratch.at("alone/config.json"))
    says("alone/model.safetensors", "there is no " .. scratch.at("alone/config.json"))
  end)

  it("of a model without a tokenizer", function()
    scratch.write("mute/model.safetensors", scratch.read("whole/model.safetensors"))
    scratch.write("mute/config.json", scratch.read("whole/config.json"))
    local status, out, err = program.run { "generate", "-m", scratch.at("mute"), "-n", "1", "x" }
    assert.are.equal(1, status)
    assert.are.equal("", out)
    assert.is_truthy(err:find("the model has no tokenizer (tokenizer.json, ", 1, true), err)
    status = program.run { "inspect", "-m", scratch.at("mute") }
    assert.are.equal(0, status)
  end)

  it("of what Git LFS left", function()
    scratch.write("pointer.gguf", pointer)
    says("pointer.gguf", "pointer.gguf: is a pointer that Git LFS left, not the file itself; `git lfs pull`")
    scratch.write("pointer/model.safetensors", pointer)
    scratch.write("pointer/config.json", scratch.read("whole/config.json"))
    says("pointer", "pointer/model.safetensors: is a pointer that Git LFS left")
    scratch.write("described/model.safetensors", scratch.read("whole/model.safetensors"))
    scratch.write("described/config.json", pointer)
    says("described", "described/config.json: is a pointer that Git LFS left")
  end)

  it("of a file that was cut off", function()
    local text = scratch.read("whole.gguf")
    scratch.write("cut.gguf", text:sub(1, -1000))
    says("cut.gguf", "the file may have been cut off")
    scratch.write("cut.gguf", text:sub(1, 20))
    says("cut.gguf", "the file ends inside the header")
    scratch.write("empty.gguf", "")
    says("empty.gguf", "the file ends inside the header, at byte 0")
    scratch.write("cut/config.json", scratch.read("whole/config.json"))
    scratch.write("cut/model.safetensors", scratch.read("whole/model.safetensors"):sub(1, -1000))
    says("cut", "the file may have been cut off")
  end)

  it("of files that are no models", function()
    scratch.write("story.txt", "Once upon a time there was a king.\n")
    says("story.txt", "story.txt: is neither a GGUF nor a safetensors file")
    scratch.write("story.gguf", "Once upon a time there was a king.\n")
    says("story.gguf", "not a GGUF file")
  end)

  it("of what is not there", function()
    says("whole.gguff", "no such file or folder")
    says("whole.gguff", "did you mean " .. scratch.at("whole.gguf"))
    local status, _, err = program.run({ "inspect", "-m", "some-org/some-model" }, nil,
      ("env HF_HUB_CACHE=%s/cache"):format(scratch.at()))
    assert.are.equal(1, status)
    assert.is_truthy(err:find("`perilune pull some-org/some-model` downloads it", 1, true), err)
  end)
end)
