local pl = require "perilune"
local tiny = dofile "tests/lua/tiny.lua"

local ids = { 5, 9, 200, 31, 7, 9 }
local exact = { threads = 1, precision = "exact", kv = "f32" }

local function largest(t) return t:abs():max() end

describe("a processed model", function()
  for _, fields in ipairs {
    { arch = "gpt2" }, { arch = "gpt2", dtype = "q8_0" }, { arch = "gpt2", tied = false },
    { arch = "llama", n_kv_heads = 2 }, { arch = "llama", n_kv_heads = 1, dtype = "f16" },
  } do
    local what = ("%s %s"):format(fields.arch, fields.dtype or "f32")
    it("predicts the same: " .. what, function()
      local model = tiny.model(pl, fields, exact)
      local processed = model:processed(nil, exact)
      local before, after = model:forward(ids), processed:forward(ids)
      assert.is_true(largest(before:log_softmax() - after:log_softmax()) < 1e-4)
      assert.is_true(largest(after:mean(1)) < 1e-3)
      assert.is_true(largest(processed.W_U:mean(1)) < 1e-5)
      for layer = 0, 1 do
        assert.are.equal(0, largest(processed.b_V[layer]))
        assert.are.equal(0, largest(processed.ln1_w[layer] - 1))
        assert.are.equal(0, largest(processed.ln2_b[layer]))
      end
      assert.are.equal(0, largest(processed.ln_final_w - 1))
      local _, cache = processed:run_with_cache(ids)
      if model.config.norm == "layer" then
        for layer = 0, 1 do
          assert.is_true(largest(cache[("blocks.%d.hook_resid_post"):format(layer)]:mean(1)) < 1e-5)
          assert.is_true(largest(processed.W_O[layer]:mean(2)) < 1e-6)
          assert.is_true(largest(processed.W_Q[layer]:mean(1)) < 1e-6)
        end
      end
    end)

    it("does each step alone without a change: " .. what, function()
      local model = tiny.model(pl, fields, exact)
      local before = model:forward(ids):log_softmax()
      local names = { "fold_ln", "center_writing_weights", "center_unembed", "fold_value_biases" }
      for _, name in ipairs(names) do
        local opts = {}
        for _, other in ipairs(names) do opts[other] = other == name end
        local after = model:processed(opts, exact):forward(ids):log_softmax()
        assert.is_true(largest(before - after) < 1e-4, name)
      end
    end)
  end

  it("leaves its source as it was, and lives without it", function()
    local model = tiny.model(pl, {}, exact)
    local before = model:forward(ids)
    local text = model:decode(ids)
    local processed = model:processed(nil, exact)
    assert.is_true(tiny.same(before, model:forward(ids)))
    model:close()
    model = nil
    collectgarbage()
    collectgarbage()
    assert.is_nil(model)
    assert.are.equal(text, processed:decode(ids))
    assert.is_true(largest(before:log_softmax() - processed:forward(ids):log_softmax()) < 1e-4)
  end)

  it("is what pl.load gives with process = 'tl'", function()
    local path = os.tmpname()
    local model = tiny.model(pl)
    model:save(path .. ".gguf")
    local good, err = pcall(function()
      local processed = pl.load(path .. ".gguf", { process = "tl", threads = 1, kv = "f32" })
      assert.are.equal("f32", processed.default_session.kv)
      assert.is_true(largest(processed:forward(ids):mean(1)) < 1e-3)
      assert.are.equal("argument", tiny.failure(pl.load, path .. ".gguf", { process = "other" }).kind)
      assert.are.equal("unsupported", tiny.failure(processed.save, processed, path .. ".2.gguf").kind)
    end)
    os.remove(path)
    os.remove(path .. ".gguf")
    if not good then error(err, 0) end
  end)

  it("refuses norms that it cannot fold", function()
    local model = tiny.model(pl, { norm_before = false, norm_after_add = true, norm_final = false })
    assert.are.equal("unsupported", tiny.failure(model.processed, model).kind)
    assert.are.equal("argument", tiny.failure(model.processed, tiny.model(pl), { fold = true }).kind)
  end)
end)
