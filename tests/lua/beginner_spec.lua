-- What the program says to somebody who gives it the wrong file.
local program = dofile "tests/lua/program.lua"
local tiny = dofile "tests/lua/tiny.lua"
local pl = require "perilune"

local pointer = "version https://git-lfs.github.com/spec/v1\noid sha256:" .. ("0"):rep(64) .. "\nsize 12345\n"

local home

local function path_of(name) return home .. "/" .. name end

local function write(name, text)
  local folder = path_of(name):match("^(.*)/")
  assert(os.execute(("mkdir -p '%s'"):format(folder)))
  local file = assert(io.open(path_of(name), "wb"))
  file:write(text)
  file:close()
end

local function read(name)
  local file = assert(io.open(path_of(name), "rb"))
  local text = file:read("a")
  file:close()
  return text
end

-- Every program that loads a model fails so, in one line, and prints nothing else.
local function says(model, expected)
  local elsewhere = ("env HF_HUB_CACHE=%s/cache"):format(home)
  for _, args in ipairs { { "inspect" }, { "generate", "-n", "1", "x" }, { "tokens", "x" }, { "next", "x" } } do
    local status, out, err = program.run({ args[1], "-m", path_of(model), table.unpack(args, 2) }, nil, elsewhere)
    assert.are.equal(1, status, args[1] .. " " .. err)
    assert.are.equal("", out)
    assert.is_truthy(err:find("^perilune: [^\n]+\n$"), err)
    assert.is_truthy(err:find(expected, 1, true), ("%s: expected '%s', got '%s'"):format(args[1], expected, err))
  end
end

describe("a beginner is told", function()
  setup(function()
    home = os.tmpname()
    os.remove(home)
    assert(os.execute("mkdir -p " .. home))
    local model = tiny.model(pl)
    model:save(path_of("whole"), { format = "safetensors" })
    model:save(path_of("whole.gguf"))
  end)
  teardown(function() os.execute(("rm -rf '%s'"):format(home)) end)

  it("of a folder without weights, or with those of others", function()
    write("none/README.md", "nothing")
    says("none", "no model.safetensors, no model.safetensors.index.json and no .gguf file there")
    write("torch/pytorch_model.bin", "PK")
    says("torch", "only pytorch_model.bin there, which perilune does not read: it reads safetensors and GGUF")
  end)

  it("of an architecture that is not known", function()
    write("other/model.safetensors", read("whole/model.safetensors"))
    write("other/config.json", '{"model_type": "mamba"}')
    says("other", "model_type: unknown architecture 'mamba'; known: gpt2, ")
    write("other.gguf", (read("whole.gguf"):gsub("(general%.architecture............)gpt2", "%1gpt9")))
    says("other.gguf", "other.gguf: general.architecture: unknown architecture 'gpt9'")
  end)

  it("of safetensors alone", function()
    write("alone/model.safetensors", read("whole/model.safetensors"))
    says("alone", "there is no " .. path_of("alone/config.json"))
    says("alone/model.safetensors", "there is no " .. path_of("alone/config.json"))
  end)

  it("of a model without a tokenizer", function()
    write("mute/model.safetensors", read("whole/model.safetensors"))
    write("mute/config.json", read("whole/config.json"))
    local status, out, err = program.run { "generate", "-m", path_of("mute"), "-n", "1", "x" }
    assert.are.equal(1, status)
    assert.are.equal("", out)
    assert.is_truthy(err:find("the model has no tokenizer (tokenizer.json, ", 1, true), err)
    status = program.run { "inspect", "-m", path_of("mute") }
    assert.are.equal(0, status)
  end)

  it("of what Git LFS left", function()
    write("pointer.gguf", pointer)
    says("pointer.gguf", "pointer.gguf: is a pointer that Git LFS left, not the file itself; `git lfs pull`")
    write("pointer/model.safetensors", pointer)
    write("pointer/config.json", read("whole/config.json"))
    says("pointer", "pointer/model.safetensors: is a pointer that Git LFS left")
    write("described/model.safetensors", read("whole/model.safetensors"))
    write("described/config.json", pointer)
    says("described", "described/config.json: is a pointer that Git LFS left")
  end)

  it("of a file that was cut off", function()
    local text = read("whole.gguf")
    write("cut.gguf", text:sub(1, -1000))
    says("cut.gguf", "the file may have been cut off")
    write("cut.gguf", text:sub(1, 20))
    says("cut.gguf", "the file ends inside the header")
    write("empty.gguf", "")
    says("empty.gguf", "the file ends inside the header, at byte 0")
    write("cut/config.json", read("whole/config.json"))
    write("cut/model.safetensors", read("whole/model.safetensors"):sub(1, -1000))
    says("cut", "the file may have been cut off")
  end)

  it("of files that are no models", function()
    write("story.txt", "Once upon a time there was a king.\n")
    says("story.txt", "story.txt: is neither a GGUF nor a safetensors file")
    write("story.gguf", "Once upon a time there was a king.\n")
    says("story.gguf", "not a GGUF file")
  end)

  it("of what is not there", function()
    says("whole.gguff", "no such file or folder")
    says("whole.gguff", "did you mean " .. path_of("whole.gguf"))
    local status, _, err = program.run({ "inspect", "-m", "some-org/some-model" }, nil,
      ("env HF_HUB_CACHE=%s/cache"):format(home))
    assert.are.equal(1, status)
    assert.is_truthy(err:find("`perilune pull some-org/some-model` downloads it", 1, true), err)
  end)
end)
