-- Saving models from Lua.
local pl = require "perilune"

local function message(fn, ...)
  local good, problem = pcall(fn, ...)
  assert.is_false(good)
  return tostring(problem)
end

describe("model:save", function()
  local path = os.tmpname()
  local model = pl.new_model { arch = "gpt2", d_model = 32, n_heads = 2, n_layers = 1, n_ctx = 16,
    d_vocab = 20, std = 0.1 }
  local ids = { 1, 7, 19, 3 }

  teardown(function()
    os.remove(path)
    for _, name in ipairs { "/model.safetensors", "/config.json", "" } do
      os.remove(path .. ".hf" .. name)
    end
  end)

  it("writes a GGUF file that computes the same", function()
    model:save(path .. ".gguf", { name = "tiny" })
    local back = pl.load(path .. ".gguf")
    assert.equal("tiny", back.name)
    assert.same(model:forward(ids):to_table(), back:forward(ids):to_table())
    os.remove(path .. ".gguf")
  end)

  it("writes a folder, and casts", function()
    model:save(path .. ".hf", { format = "safetensors", dtype = "f16" })
    local back = pl.load(path .. ".hf")
    assert.equal(model.n_params, back.n_params)
    assert.is_true(back.weight_bytes < 0.7 * model.weight_bytes)
  end)

  it("puts no file in the place of what is none", function()
    local place = path .. ".gguf"
    assert.is_true(os.execute("mkfifo " .. place))
    assert.matches("it is a device, not a file", message(model.save, model, place))
    assert.matches("it is a device, not a file", message(pl.save_tensors, place, { x = pl.zeros(2) }))
    assert.is_true(os.execute("test -p " .. place))
    os.remove(place)
    assert.matches("it is a folder", message(pl.save_tensors, "tests", { x = pl.zeros(2) }))
  end)

  it("names what it does not know", function()
    assert.matches("'gguf'", message(model.save, model, path, { format = "ggml" }))
    assert.matches("safetensors cannot hold q8_0", message(model.save, model, path .. ".hf", { dtype = "q8_0" }))
    assert.matches("expected f32", message(model.save, model, path, { dtype = "half" }))
    assert.matches("dtype", message(model.save, model, path, { dtyp = "f16" }))
    assert.matches("No such file", message(model.save, model, "/no/such/folder/a.gguf"))
  end)
end)
