-- Quantised files: `perilune quantize`, `perilune compare`, and model:save with importance.
local pl = require "perilune"
local program = require "tests.lua.program"
local tiny = require "tests.lua.tiny"

describe("quantising", function()
  local scratch = require "tests.lua.scratch"(teardown)
  local at = scratch.at

  local function number(text, label)
    return tonumber(text:match(label:gsub("%p", "%%%0") .. "%s+(%-?[%d.]+)"))
  end

  it("makes smaller files whose predictions stay near, the nearer the more bits", function()
    local path = program.model()
    if not path then return pending("no trained model here") end
    local text = at("text.txt")
    local file = assert(io.open(text, "wb"))
    file:write(("Once upon a time there was a king who lived in a great house by the sea. "):rep(20))
    file:close()
    local before = math.huge
    for _, dtype in ipairs({ "q2_k", "q4_k_m", "q6_k" }) do
      local status, out, err = program.run({ "quantize", path, at("q.gguf"), dtype })
      assert.are.equal(0, status, err)
      assert.truthy(out:find("bits a parameter", 1, true))
      status, out, err = program.run({ "compare", path, at("q.gguf"), text })
      assert.are.equal(0, status, err)
      local apart = number(out, "mean KL divergence, nats")
      assert.is_true(apart > 0 and apart < before, out)
      before = apart
    end
    local _, out = program.run({ "compare", path, path, text })
    assert.are.equal(0, number(out, "mean KL divergence, nats"))
    assert.are.equal(100, number(out, "same most likely token"))
  end)

  it("predicts as well with activations rounded to eight bits as with exact ones", function()
    local path = program.model()
    if not path then return pending("no trained model here") end
    local text = ("Once upon a time there was a king who lived in a great house by the sea. One day he said to "
      .. "his youngest son, Go out into the world and seek the bird that sings in the night. "):rep(3)
    for dtype, most in pairs({ q8_0 = 1e-3, q4_0 = 5e-3, q4_k = 5e-3, q6_k = 5e-3 }) do
      pl.load(path):save(at("rounded.gguf"), { dtype = dtype })
      local model = pl.load(at("rounded.gguf"))
      local ids = model:encode(text)
      local function perplexity(precision)
        local logits = model:session({ precision = precision }):sequence():extend(ids, { logits = "all" })
        return math.exp(logits:narrow(0, 0, #ids - 1):cross_entropy(ids:narrow(0, 1, #ids - 1)))
      end
      local exact = perplexity("exact")
      local apart = math.abs(perplexity("default") - exact) / exact
      assert.is_true(apart > 0 and apart < most, ("%s: %g apart"):format(dtype, apart))
    end
  end)

  it("rounds otherwise when it is told what matters", function()
    local model = tiny.model(pl, { d_model = 256, n_layers = 1, arch = "llama" })
    local ids = { 1, 2, 3, 4, 5, 6, 7, 8 }
    local importance = {}
    local _, cache = model:run_with_cache(ids, "mlp.hook_post")
    local post = cache["blocks.0.mlp.hook_post"]
    importance["blk.0.ffn_down.weight"] = post:square():mean(0)
    model:save(at("plain.gguf"), { dtype = "q2_k" })
    model:save(at("told.gguf"), { dtype = "q2_k", importance = importance })
    local function bytes(name)
      local file <close> = assert(io.open(at(name), "rb"))
      return file:read("a")
    end
    assert.are_not.equal(bytes("plain.gguf"), bytes("told.gguf"))
    assert.are.equal(#bytes("plain.gguf"), #bytes("told.gguf"))
  end)

  it("gathers what meets each matrix", function()
    local model = tiny.model(pl, { arch = "llama", n_layers = 2, d_model = 64, n_heads = 4 })
    model:save(at("m.gguf"), { dtype = "f32" })
    local text = at("text.txt")
    local file = assert(io.open(text, "wb"))
    file:write("the thin inner thinner")
    file:close()
    local status, out, err = program.run({ "imatrix", "-m", at("m.gguf"), text, at("i.gguf") })
    assert.are.equal(0, status, err)
    assert.truthy(out:find("1 chunks", 1, true))
    local tensors, about = pl.load_tensors(at("i.gguf"))
    assert.are.equal("imatrix", about["general.type"])
    assert.are.equal(1, about["imatrix.chunk_count"])
    local ids = model:encode("the thin inner thinner")
    local _, cache = model:run_with_cache(ids)
    local x = cache["blocks.1.hook_resid_mid"] -- RMSNorm written out, with its gain
    x = x / (x:square():mean(1, { keepdim = true }) + model.config.norm_eps):sqrt() * model.ln2_w[1]
    local want = x:square():sum(0)
    assert.is_true(want:allclose(tensors["blk.1.ffn_up.weight.in_sum2"], { rtol = 1e-4 }))
    assert.are.equal(#ids, tensors["blk.1.ffn_up.weight.counts"][0])
    assert.are.equal(0, (program.run({ "quantize", at("m.gguf"), at("q.gguf"), "q4_0", "--imatrix", at("i.gguf") })))
    local _, _, problem = program.run({ "quantize", at("m.gguf"), at("q.gguf"), "q4_0", "--imatrix", at("m.gguf") })
    assert.truthy(problem:find("expected imatrix", 1, true))
  end)

  it("names what it was told wrongly", function()
    local model = tiny.model(pl)
    local function message(opts) return tiny.failure(model.save, model, at("x.gguf"), opts).message end
    assert.truthy(message({ dtype = "q9" }):find("q4_k_m", 1, true))
    assert.truthy(message({ dtype = "q8_0_m" }):find("q4_k", 1, true))
    assert.truthy(message({ dtype = "q4_0", importance = 1 }):find("table", 1, true))
    assert.truthy(message({ dtype = "q4_0", importance = { a = 1 } }))
    assert.truthy(message({ dtype = "q4_0", importance = { a = pl.zeros(2, 2) } }):find("float32", 1, true))
    assert.truthy(tiny.failure(model.save, model, at("folder"), { dtype = "q4_0" }).message:find("safetensors"))
    assert.are.equal(2, (program.run({ "quantize", "a", "b", "q8_0" })))
    assert.are.equal(2, (program.run({ "compare", "a", "b" })))
  end)
end)
