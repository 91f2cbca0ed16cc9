local pl = require "perilune"
local tiny = dofile "tests/lua/tiny.lua"

local ids, others = { 5, 9, 200, 31, 7, 9 }, { 44, 3, 9, 120, 8, 61, 2 }

local function close(a, b, tolerance) assert.is_true(a:allclose(b, { atol = tolerance or 1e-5, rtol = 1e-4 })) end

describe("pl.edit", function()
  local model
  before_each(function() model = tiny.model(pl) end)

  -- The logits under an intervention, and that nothing is left of it.
  local function under(fn, prompt)
    local before = model:forward(prompt or ids)
    local handle = fn(model)
    local logits, cache = model:run_with_cache(prompt or ids)
    for _, hook in ipairs(type(handle) == "table" and handle or { handle }) do
      assert.is_true(hook.fired > 0)
      hook:remove()
    end
    assert.is_true(tiny.same(before, model:forward(prompt or ids)))
    return logits, cache, before
  end

  local function by_hand(point, opts, fn)
    return model:run_with_hooks(ids, { { point, fn, opts } })
  end

  it("ablates a head to zero, to a number, to a mean over prompts", function()
    local zero = under(function(m) return pl.edit.ablate(m, "attn.hook_z", { layer = 1, head = 2 }) end)
    assert.is_true(tiny.same(zero, by_hand("attn.hook_z", { layer = 1 }, function(z) z:select("head", 2):zero_() end)))
    local seven = under(function(m) return pl.edit.ablate(m, "mlp_out", { layer = 0, pos = 3, to = 7 }) end)
    assert.is_true(tiny.same(seven, by_hand("mlp_out", { layer = 0, pos = 3 }, function(x) x:fill_(7) end)))

    local sum = pl.zeros(4, 8)
    for _, prompt in ipairs { ids, others } do
      local _, cache = model:run_with_cache(prompt, "blocks.1.attn.hook_z")
      sum = sum + cache["blocks.1.attn.hook_z"]:sum(0)
    end
    local mean = sum / (#ids + #others)
    local means = pl.edit.means(model, { ids, others }, "attn.hook_z")
    close(means["blocks.1.attn.hook_z"], mean)
    local ablated = under(function(m) return pl.edit.ablate(m, "attn.hook_z", { layer = 1, head = 2, to = means }) end)
    close(ablated, by_hand("attn.hook_z", { layer = 1 }, function(z) z:select("head", 2):copy_(mean[2]) end))
    assert.are.equal("argument", tiny.failure(pl.edit.means, model, { ids }, "attn.hook_pattern").kind)
    assert.are.equal("argument", tiny.failure(pl.edit.means, model, {}, "attn.hook_z").kind)
  end)

  it("resamples rows of another run", function()
    local _, source = model:run_with_cache(others)
    local _, cache = under(function(m) return pl.edit.resample(m, "resid_post", source, { layer = 0, seed = 3 }) end)
    local name = "blocks.0.hook_resid_post"
    for _, row in cache[name]:each() do
      local found = false
      for _, other in source[name]:each() do found = found or tiny.same(row, other) end
      assert.is_true(found)
    end
  end)

  it("patches from a cache, a prompt or a sequence", function()
    local _, source = model:run_with_cache(others)
    local seq = model:sequence()
    seq:extend(others)
    local name = "blocks.0.hook_resid_post"
    for _, from in ipairs { source, others, seq } do
      local _, cache = under(function(m) return pl.edit.patch(m, name, from) end)
      assert.is_true(tiny.same(cache[name], source[name]:narrow(0, 0, #ids)))
    end
    -- all rows of a layer patched: the rest runs as in the other prompt
    local logits = under(function(m) return pl.edit.patch(m, name, source) end)
    close(logits, model:forward(others):narrow(0, 0, #ids))
    local _, cache = under(function(m)
      return pl.edit.patch(m, "attn.hook_z", source, { layer = 1, head = 3, pos = 5, from_pos = 6 })
    end)
    local z = "blocks.1.attn.hook_z"
    assert.is_true(tiny.same(cache[z][5][3], source[z][6][3]))
    local _, plain = model:run_with_cache(ids)
    assert.is_true(tiny.same(cache[z][5][2], plain[z][5][2]))
    assert.are.equal("argument", tiny.failure(pl.edit.patch, model, z, source, { from_pos = 1 }).kind)
  end)

  it("freezes patterns and scales", function()
    local _, source = model:run_with_cache(others)
    local name = "blocks.0.attn.hook_pattern"
    local _, cache = under(function(m) return pl.edit.freeze_pattern(m, source) end)
    assert.is_true(tiny.same(cache[name], source[name]:narrow(1, 0, 6):narrow(2, 0, 6)))
    local _, scaled = under(function(m) return pl.edit.freeze_norms(m, source) end)
    for _, point in ipairs { "blocks.1.ln2.hook_scale", "ln_final.hook_scale" } do
      assert.is_true(tiny.same(scaled[point], source[point]:narrow(0, 0, 6)))
    end
  end)

  it("steers: adds, gates, projects out, clamps, scales a head", function()
    local v = pl.randn(32, { seed = 1 })
    local unit = v / v:norm()
    local name = "blocks.0.hook_resid_post"
    local _, plain = model:run_with_cache(ids)
    local function edited(fn)
      local _, cache = under(fn)
      return cache[name]
    end
    close(edited(function(m) return pl.edit.add(m, name, v, { scale = 3 }) end), plain[name] + v * 3)
    local gated = edited(function(m) return pl.edit.add(m, name, v, { gate = unit }) end)
    for i, row in plain[name]:each() do
      close(gated[i], (row * unit):sum() > 0 and row + v or row)
    end
    local space = pl.randn(3, 32, { seed = 2 })
    local out = edited(function(m) return pl.edit.project_out(m, name, space) end)
    close(out:matmul(space:transpose()), pl.zeros(6, 3), 1e-4)
    out = edited(function(m) return pl.edit.project_out(m, name, v, { pos = 2 }) end)
    close(out[2], plain[name][2] - unit * (plain[name][2] * unit):sum())
    close(out[3], plain[name][3])
    local clamped = edited(function(m) return pl.edit.clamp(m, name, v, { min = 2, max = 2 }) end)
    close(clamped:matmul(unit), pl.full({ 6 }, 2.0), 1e-4)
    local doubled = under(function(m) return pl.edit.scale_head(m, 1, 2, 2.5) end)
    close(doubled, by_hand("attn.hook_z", { layer = 1 }, function(z) z:select("head", 2):mul_(2.5) end))
  end)

  it("knocks out edges of attention, at prefill and at decode", function()
    local _, cache = under(function(m)
      return pl.edit.knock_out(m, { layer = 1, head = 2, query = 4, key = { 1, 2 } })
    end)
    local pattern = cache["blocks.1.attn.hook_pattern"]
    assert.are.equal(0, pattern[2][4][1])
    assert.are.equal(0, pattern[2][4][2])
    assert.is_true(pattern[2][3][1] > 0 and pattern[1][4][1] > 0)
    close(pattern:sum(2), pl.ones(4, 6), 1e-5)
    local handle = pl.edit.knock_out(model, { key = 0, query = 4 })
    local once = model:forward(ids)
    local seq = model:sequence()
    for i = 1, 4 do seq:extend({ ids[i] }) end
    close(seq:extend({ ids[5] }), once[4])
    handle:remove()
    handle = pl.edit.knock_out(model, { key = 0 })
    assert.is_truthy(tiny.failure(model.forward, model, ids).message:find("position 0"))
    handle:remove()
    assert.are.equal("argument", tiny.failure(pl.edit.knock_out, model, { query = -1 }).kind)
  end)

  it("splices a function, and acts on a sequence alone", function()
    local doubled = under(function(m) return pl.edit.splice(m, "mlp_out", function(x) return x * 2 end) end)
    assert.is_true(tiny.same(doubled, by_hand("mlp_out", nil, function(x) x:mul_(2) end)))
    local seq, alone = model:sequence(), model:sequence()
    pl.edit.ablate(seq, "mlp_out")
    pl.edit.patch(seq, "resid_pre", others, { layer = 0 })
    seq:extend(ids)
    assert.is_true(tiny.same(alone:extend(ids, { logits = "all" }), model:forward(ids)))
  end)

  it("says what is wrong", function()
    assert.are.equal("argument", tiny.failure(pl.edit.ablate, model, "attn.hook_z", { haed = 1 }).kind)
    assert.is_truthy(tiny.failure(pl.edit.ablate, model, "blocks.0.attn.hook_zz").message:find("attn.hook_z"))
    for name, args in pairs { add = { "resid_post" }, project_out = { "resid_post", {} }, clamp = { "resid_post", 1 },
      resample = { "resid_post" }, scale_head = { 1, 2 }, splice = { "resid_post", 3 },
      ablate = { "resid_post", { to = true } } } do
      assert.are.equal("argument", tiny.failure(pl.edit[name], model, table.unpack(args)).kind, name)
    end
    local handle = pl.edit.ablate(model, "mlp_out", { head = 1 })
    assert.is_truthy(tiny.failure(model.forward, model, ids).message:find("head"))
    handle:remove()
  end)
end)

describe("a sparse autoencoder", function()
  local folder, weights

  local function write(cfg, more)
    local file = assert(io.open(folder .. "/cfg.json", "w"))
    file:write(cfg)
    file:close()
    local all = {}
    for name, t in pairs(weights) do all[name] = t end
    for name, t in pairs(more or {}) do all[name] = t end
    pl.save_tensors(folder .. "/sae_weights.safetensors", all)
  end

  before_each(function()
    folder = os.tmpname()
    os.remove(folder)
    os.execute("mkdir -p " .. folder)
    weights = { W_enc = pl.randn(32, 80, { seed = 1 }), b_enc = pl.randn(80, { seed = 2 }),
      W_dec = pl.randn(80, 32, { seed = 3 }), b_dec = pl.randn(32, { seed = 4 }) }
  end)
  after_each(function() os.execute("rm -r " .. folder) end)

  local x = pl.randn(5, 32, { seed = 9 })

  it("encodes and decodes as its formula says", function()
    write [[{"architecture": "standard", "hook_name": "blocks.0.hook_resid_post", "d_in": 32, "d_sae": 80,
      "apply_b_dec_to_input": true, "normalize_activations": "none", "activation_fn_str": "relu"}]]
    local sae = pl.load_sae(folder)
    local features = ((x - weights.b_dec):matmul(weights.W_enc) + weights.b_enc):relu()
    close(sae:encode(x), features)
    close(sae(x), features:matmul(weights.W_dec) + weights.b_dec)
    assert.are.equal("blocks.0.hook_resid_post", sae.point)
    local model = tiny.model(pl)
    local before = model:forward(ids)
    local hook = pl.edit.splice_sae(model, sae)
    local changed, cache = model:run_with_cache(ids)
    assert.is_false(before:allclose(changed))
    hook:remove()
    local _, plain = model:run_with_cache(ids)
    close(cache[sae.point], sae(plain[sae.point]), 1e-4)
    -- with a function that edits nothing, what the autoencoder misses comes back
    hook = pl.edit.splice_sae(model, sae, function(f) return f end)
    close(model:forward(ids), before, 1e-3)
    hook:remove()
  end)

  it("knows topk, jumprelu and gated ones, and scaled activations", function()
    write [[{"architecture": "topk", "k": 4, "apply_b_dec_to_input": false,
      "normalize_activations": "constant_norm_rescale", "metadata": {"hook_name": "hook_embed"}}]]
    local sae = pl.load_sae(folder)
    local features = sae:encode(x)
    for _, row in features:gt(0):float():each() do assert.is_true(row:sum() <= 4) end
    close(sae(x * 3), sae(x) * 3, 1e-3)
    write([[{"architecture": "jumprelu"}]], { threshold = pl.full({ 80 }, 2.0) })
    features = pl.load_sae(folder):encode(x)
    assert.are.equal(0, (features:gt(0) * features:le(2)):sum())
    write([[{"architecture": "gated"}]], { b_gate = pl.zeros(80), b_mag = pl.ones(80), r_mag = pl.zeros(80) })
    local pre = (x - weights.b_dec):matmul(weights.W_enc)
    close(pl.load_sae(folder):encode(x), pre:gt(0):float() * (pre + 1):relu())
    write [[{"normalize_activations": "layer_norm"}]]
    sae = pl.load_sae(folder)
    close(sae(x * 2 + 1), sae(x) * 2 + 1, 1e-2)
  end)

  it("refuses what it does not know", function()
    for cfg, kind in pairs {
      [ [[{"architecture": "other"}]] ] = "unsupported",
      [ [[{"normalize_activations": "expected_average_only_in"}]] ] = "unsupported",
      [ [[{"activation_fn_str": "tanh-relu"}]] ] = "unsupported",
      [ [[{"d_in": 31}]] ] = "format",
      [ [[{"architecture": "topk", "k": 0}]] ] = "format",
      [ [[{"architecture": "jumprelu"}]] ] = "format",
      [ [[{"architecture"]] ] = "format",
    } do
      write(cfg)
      assert.are.equal(kind, tiny.failure(pl.load_sae, folder).kind, cfg)
    end
    write [[{"normalize_activations": "expected_average_only_in"}]]
    local scaled = pl.load_sae(folder, { scale = 0.5 })
    write [[{}]]
    close(scaled:encode(x * 2), pl.load_sae(folder):encode(x), 1e-4)
    assert.are.equal("io", tiny.failure(pl.load_sae, folder .. "/absent").kind)
  end)
end)
