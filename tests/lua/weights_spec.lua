local pl = require "perilune"
local tiny = dofile "tests/lua/tiny.lua"

local ids = { 5, 9, 200, 31, 7 }

local function close(a, b, tolerance) assert.is_true(a:allclose(b, { atol = tolerance or 1e-4, rtol = 1e-4 })) end

local function has_gain(model, cache, layer)
  local x, scale = cache["blocks." .. layer .. ".hook_resid_pre"], cache["blocks." .. layer .. ".ln1.hook_scale"]
  local centred = model.config.norm == "rms" and x or x - x:mean(1, { keepdim = true })
  return centred / scale * model.ln1_w[layer] + model.ln1_b[layer]
end

describe("weights by name", function()
  for _, fields in ipairs {
    { arch = "gpt2" }, { arch = "gpt2", dtype = "q8_0", d_model = 64 },
    { arch = "llama", n_kv_heads = 2 }, { arch = "llama", dtype = "q4_0", d_model = 64 },
  } do
    it("give the queries, the outputs and the logits: " .. fields.arch .. " " .. (fields.dtype or "f32"), function()
      local model = tiny.model(pl, fields, { threads = 1, precision = "exact", kv = "f32" })
      local c = model.config
      local logits, cache = model:run_with_cache(ids)
      for layer = 0, c.n_layers - 1 do
        local at = "blocks." .. layer .. "."
        local x = has_gain(model, cache, layer)
        local q = pl.einsum("pm,hmd->phd", x, model.W_Q[layer]) + model.b_Q[layer]
        local k = pl.einsum("pm,hmd->phd", x, model.W_K[layer]) + model.b_K[layer]
        local v = pl.einsum("pm,hmd->phd", x, model.W_V[layer]) + model.b_V[layer]
        close(q, cache[at .. "attn.hook_q"])
        close(k, cache[at .. "attn.hook_k"])
        close(v, cache[at .. "attn.hook_v"])
        local out = pl.einsum("phd,hdm->pm", cache[at .. "attn.hook_z"], model.W_O[layer]) + model.b_O[layer]
        close(out, cache[at .. "hook_attn_out"])
        local post = cache[at .. "mlp.hook_post"]
        close(post:matmul(model.W_out[layer]) + model.b_out[layer], cache[at .. "hook_mlp_out"])
        assert.are.same({ c.d_model, c.d_mlp }, model.W_in[layer].shape)
      end
      local last = cache["blocks." .. (c.n_layers - 1) .. ".hook_resid_post"]
      if c.norm ~= "rms" then last = last - last:mean(1, { keepdim = true }) end
      last = last / cache["ln_final.hook_scale"] * model.ln_final_w + model.ln_final_b
      close(last:matmul(model.W_U) + model.b_U, logits)
      close(model.W_E[9], cache["hook_embed"][1])
      close(model:token_embeddings({ 9, 31 })[1], model.W_E[31])
      close(model:tokens_to_residual_directions({ 9, 31 })[1], model.W_U:transpose()[31])
    end)
  end

  it("come out of fused and transposed matrices, as published files have them", function()
    local folder = (os.getenv("PERILUNE_TEST_DATA") or "../shared/data") .. "/models/default"
    local file = io.open(folder .. "/model.safetensors")
    if not file then return pending("the reference data are not here: " .. folder) end
    file:close()
    local model = pl.load(folder, { threads = 1, precision = "exact", kv = "f32" })
    local _, cache = model:run_with_cache(ids, { "blocks.3.*" })
    local x = has_gain(model, cache, 3)
    for name, point in pairs { Q = "q", K = "k", V = "v" } do
      local made = pl.einsum("pm,hmd->phd", x, model["W_" .. name][3]) + model["b_" .. name][3]
      close(made, cache["blocks.3.attn.hook_" .. point], 1e-3)
    end
    close(cache["blocks.3.mlp.hook_post"]:matmul(model.W_out[3]) + model.b_out[3], cache["blocks.3.hook_mlp_out"], 1e-3)
    local processed = model:processed(nil, { threads = 1, precision = "exact", kv = "f32" })
    close(model:forward(ids):log_softmax(), processed:forward(ids):log_softmax(), 1e-4)
  end)

  it("are lent where they are float32, and refuse to be written", function()
    local model = tiny.model(pl)
    local w = model.W_Q[1]
    assert.are.same({ "head", "d_model", "d_head" }, w:names())
    assert.are.equal("state", tiny.failure(w.fill_, w, 0).kind)
    local sum = w:sum()
    model:close()
    model = nil
    collectgarbage()
    collectgarbage()
    assert.are.equal(sum, w:sum())
    assert.is_nil(model)
  end)

  it("count layers and name what is wrong", function()
    local model = tiny.model(pl)
    assert.are.equal(2, #model.W_in)
    assert.are.equal(model.W_in[1]:sum(), model.W_in[-1]:sum())
    assert.are.equal("argument", tiny.failure(function() return model.W_in[2] end).kind)
    assert.is_truthy(tiny.failure(function() return model.W_gate[0] end).message:find("W_gate"))
    assert.is_truthy(tiny.failure(function() return model.W_Qq end).message:find("W_Q"))
    assert.are.equal("argument", tiny.failure(model.token_embeddings, model, { 9999 }).kind)
  end)
end)

describe("a file of tensors", function()
  local function with_file(ending, fn)
    local path = os.tmpname()
    local named = path .. ending
    local good, err = pcall(fn, named)
    os.remove(path)
    os.remove(named)
    if not good then error(err, 0) end
  end

  it("holds what was saved", function()
    for _, ending in ipairs { ".gguf", ".safetensors" } do
      with_file(ending, function(path)
        local a, b = pl.randn(3, 4, { seed = 1 }), pl.arange(5):int()
        pl.save_tensors(path, { a = a, ["b.c"] = b, turned = a:transpose() })
        local found = pl.load_tensors(path)
        assert.is_true(tiny.same(a, found.a))
        assert.is_true(tiny.same(b, found["b.c"]))
        assert.is_true(tiny.same(a:transpose(), found.turned))
      end)
    end
  end)

  it("keeps numbers, texts and truth values in GGUF", function()
    with_file(".gguf", function(path)
      pl.save_tensors(path, { x = pl.ones(2) }, { a = 3, b = -4, c = "text", d = true, e = 0.5, f = 1 << 40 })
      local _, metadata = pl.load_tensors(path)
      assert.are.same({ a = 3, b = -4, c = "text", d = true, e = 0.5, f = 1 << 40 }, metadata)
    end)
  end)

  it("refuses what it cannot hold", function()
    with_file(".safetensors", function(path)
      assert.are.equal("unsupported", tiny.failure(pl.save_tensors, path, {}, { a = 1 }).kind)
      assert.are.equal("argument", tiny.failure(pl.save_tensors, path, { a = 1 }).kind)
      assert.are.equal("argument", tiny.failure(pl.save_tensors, path, { pl.ones(1) }).kind)
      assert.are.equal("io", tiny.failure(pl.load_tensors, path).kind)
    end)
    with_file(".gguf", function(path)
      assert.are.equal("argument", tiny.failure(pl.save_tensors, path, { a = pl.ones(1) }, { b = { 1 } }).kind)
    end)
  end)
end)
