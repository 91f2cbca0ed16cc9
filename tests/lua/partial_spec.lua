-- Runs through some of the layers, and the keys and values that a sequence holds.
local pl = require "perilune"
local tiny = require "tests.lua.tiny"

local ids = { 5, 17, 3, 99, 42, 7, 250, 11 }

describe("a partial run", function()
  local model
  before_each(function() model = tiny.model(pl, { arch = "llama", n_layers = 3, n_kv_heads = 2 }) end)

  it("stops before a layer, without logits", function()
    local logits, cache = model:run_with_cache(ids)
    for layer = 0, 3 do
      local want = layer < 3 and cache["blocks." .. layer .. ".hook_resid_pre"] or cache["blocks.2.hook_resid_post"]
      local before = model.default_session:counters().layer_rows
      assert.is_true(tiny.same(want, model:forward(ids, { stop_at_layer = layer })))
      assert.are.equal(layer * #ids, model.default_session:counters().layer_rows - before)
    end
    assert.is_true(tiny.same(logits, model:forward(ids)))
    assert.is_true(tiny.same(cache["blocks.2.hook_resid_pre"], model:forward(ids, { stop_at_layer = -1 })))
  end)

  it("starts at a layer with the bits of a whole run, and keeps nothing", function()
    local logits, cache = model:run_with_cache(ids)
    local seq = model:sequence()
    seq:extend(ids, { logits = "none" })
    local k, v = seq:kv(2)
    for layer = 0, 2 do
      for n = 1, #ids do
        local residual = cache["blocks." .. layer .. ".hook_resid_pre"]:narrow(0, #ids - n, n):clone()
        local before = model.default_session:counters().layer_rows
        local got = pl.partial({ { seq, n = n, residual = residual, logits = "all" }, from_layer = layer })[1]
        assert.are.equal((3 - layer) * n, model.default_session:counters().layer_rows - before)
        assert.is_true(tiny.same(logits:narrow(0, #ids - n, n), got))
      end
    end
    -- Changed rows go through, and the sequence stays as it was.
    local other = cache["blocks.1.hook_resid_pre"]:narrow(0, 4, 4):clone()
    other:mul_(3)
    local changed = pl.partial({ { seq, n = 4, residual = other }, from_layer = 1 })[1]
    assert.is_false(tiny.same(logits[-1], changed))
    assert.are.equal(#ids, #seq)
    local k2, v2 = seq:kv(2)
    assert.is_true(tiny.same(k, k2) and tiny.same(v, v2))
    local again = pl.partial({ { seq } })[1]
    assert.is_true(tiny.same(logits[-1], again))
    local on = seq:extend(8)
    assert.is_true(tiny.same(model:forward({ 5, 17, 3, 99, 42, 7, 250, 11, 8 })[-1], on))
  end)

  it("gives what a hook gives, in one pass over many forks, and fires hooks of its own", function()
    local _, cache = model:run_with_cache(ids)
    local seq = model:sequence()
    seq:extend(ids, { logits = "none" })
    local items, want, forks = { from_layer = 1 }, {}, {}
    for p = 0, #ids - 1 do
      local residual = cache["blocks.1.hook_resid_pre"]:narrow(0, p, #ids - p):clone()
      residual[0]:fill_(0.5)
      forks[p] = seq:fork()
      forks[p]:hook("resid_post", function(act) act:add_(p) end, { layer = 2, pos = #ids - 1 })
      items[p + 1] = { forks[p], n = #ids - p, residual = residual }
      want[p + 1] = model:run_with_hooks(ids, {
        { "blocks.1.hook_resid_pre", function(act) act:fill_(0.5) end, { pos = p } },
        { "blocks.2.hook_resid_post", function(act) act:add_(p) end, { pos = #ids - 1 } },
      })[-1]
    end
    local before = model.default_session:counters().passes
    local got = pl.partial(items)
    assert.are.equal(1, model.default_session:counters().passes - before)
    for p = 1, #ids do assert.is_true(tiny.same(want[p], got[p]), "position " .. p - 1) end
  end)

  it("runs in chunks as a whole run does", function()
    local small = tiny.model(pl, { arch = "llama", n_layers = 3, n_kv_heads = 2 }, { threads = 1, n_batch = 3 })
    assert.is_true(tiny.same(model:forward(ids, { stop_at_layer = 2 }), small:forward(ids, { stop_at_layer = 2 })))
    local seq = small:sequence()
    seq:extend(ids, { logits = "none" })
    local fork = seq:fork()
    local residual = small:forward(ids, { stop_at_layer = 2 })
    local got = pl.partial({ { seq, residual = residual }, { fork, residual = residual }, from_layer = 2 })
    assert.is_true(tiny.same(model:forward(ids)[-1], got[1]))
    assert.is_true(tiny.same(got[1], got[2]))
  end)

  it("leaves all as it was when it fails", function()
    local seq = model:sequence()
    local logits = seq:extend(ids)
    local fork = seq:fork()
    fork:hook("blocks.2.hook_resid_mid", function() error("enough") end)
    local residual = pl.zeros(#ids, 32)
    assert.has_error(function() pl.partial({ { seq }, { fork } }) end)
    local function message(...) return tiny.failure(pl.partial, ...).message end
    assert.matches("needs a residual", message({ { seq }, from_layer = 1 }))
    assert.matches("f32 %[3, 32%]", message({ { seq, n = 3, residual = residual }, from_layer = 1 }))
    assert.matches("n = 9", message({ { seq, n = 9 } }))
    assert.matches("one sequence", message({ { seq }, { seq } }))
    assert.matches("to_layer = 4", message({ { seq }, to_layer = 4 }))
    assert.matches("ascending", message({ { seq, residual = residual }, from_layer = 2, to_layer = 1 }))
    assert.matches("logits need all layers", message({ { seq, logits = "last" }, to_layer = 1 }))
    local stranger = tiny.model(pl):sequence()
    stranger:extend(ids, { logits = "none" })
    assert.matches("two sessions", message({ { seq }, { stranger } }))
    assert.matches("form_layer", message({ { seq }, form_layer = 1 }))
    for _, bad in ipairs({ 1, "x", {}, { 1 }, { {} }, { { 1 } } }) do tiny.failure(pl.partial, bad) end
    seq:truncate(-1)
    assert.is_true(tiny.same(logits, seq:extend(ids[#ids])))
  end)
end)

describe("keys and values", function()
  it("are those that hooks see, as stored", function()
    for _, kv in ipairs({ "f32", "f16" }) do
      local model = tiny.model(pl, { arch = "llama", n_kv_heads = 2 }, { threads = 1, kv = kv })
      local _, cache = model:run_with_cache(ids)
      local seq = model:sequence()
      seq:extend(ids, { logits = "none" })
      local k, v = seq:kv(1)
      assert.are.same({ "pos", "kv_head", "d_head" }, { table.unpack(k:names()) })
      assert.is_true(tiny.same(cache["blocks.1.attn.hook_kv_k"], k))
      assert.is_true(tiny.same(cache["blocks.1.attn.hook_kv_v"], v))
    end
  end)

  it("are changed in one sequence only, and seen by what follows", function()
    local model = tiny.model(pl, nil, { threads = 1, kv = "f32" })
    local seq = model:sequence()
    seq:extend(ids, { logits = "none" })
    local before = seq:fork()
    local _, v = seq:kv(0)
    local row = v:narrow(0, 2, 1):clone()
    row:mul_(-1)
    seq:set_kv(0, 2, nil, row)
    local _, got = seq:kv(0)
    assert.is_true(tiny.same(row, got:narrow(0, 2, 1)))
    local _, kept = before:kv(0)
    assert.is_true(tiny.same(v, kept))
    -- The same edit by a hook, for the last position alone.
    local want = model:sequence()
    want:extend({ table.unpack(ids, 1, 7) }, { logits = "none" })
    local _, v0 = want:kv(0)
    assert.is_true(tiny.same(v0:narrow(0, 0, 2), v:narrow(0, 0, 2)))
    want:set_kv(0, 2, nil, row)
    want:extend(ids[8], { logits = "none" })
    local changed, plain = seq:extend(9), before:extend(9)
    assert.is_false(tiny.same(changed, plain))
    seq:truncate(8):set_kv(0, 2, nil, v:narrow(0, 2, 1):clone())
    assert.is_true(tiny.same(plain, seq:extend(9)))
  end)

  it("refuses what does not fit", function()
    local model = tiny.model(pl)
    local seq = model:sequence()
    seq:extend(ids, { logits = "none" })
    local row = pl.zeros(1, 4, 8)
    local function message(...) return tiny.failure(seq.set_kv, seq, ...).message end
    assert.matches("layer 2", message(2, 0, row))
    assert.matches("positions 8", message(0, 8, row))
    assert.matches("f32 %[1, 4, 8%]", message(0, 0, row, pl.zeros(2, 4, 8)))
    assert.matches("neither", message(0, 0))
    assert.matches("layer 7", tiny.failure(seq.kv, seq, 7).message)
  end)
end)
