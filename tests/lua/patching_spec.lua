-- Patching sweeps, against runs of the whole prompt with the same edit, and what they cost.
local pl = require "perilune"
local tiny = require "tests.lua.tiny"

local clean, corrupted = { 5, 17, 3, 99, 42, 7 }, { 5, 18, 3, 99, 41, 7 }
local n, n_layers, n_heads = #clean, 3, 4
local function metric(logits) return logits[3] - logits[7] end

-- A number of the sweep is the metric as float32.
local function assert_same(want, got)
  assert.is_true(math.abs(want - got) <= 1e-7 * math.abs(want), want .. " " .. got)
end

describe("a patching sweep", function()
  local model, cache
  setup(function()
    model = tiny.model(pl, { arch = "llama", n_layers = n_layers, n_kv_heads = 2 }, { threads = 1, n_batch = 16 })
    cache = select(2, model:run_with_cache(clean))
  end)

  local function naive(point, layer, head, pos)
    local dims = cache:get(point, layer):names()
    return metric(model:run_with_hooks(corrupted, { { point, function(act, at)
      local from = cache:get(point, layer)
      if pos then from = from:narrow(0, at.pos, 1) end
      if head then
        local name = dims[1] == "head" and "head" or dims[2]
        act, from = act:select(name, head), from:select(name, head)
      end
      act:copy_(from)
    end, { layer = layer, pos = pos } } })[-1])
  end

  local function layer_rows(fn)
    local before = model.default_session:counters().layer_rows
    fn()
    return model.default_session:counters().layer_rows - before
  end

  it("by layer and position equals naive runs, and starts at the patch", function()
    for _, point in ipairs { "resid_pre", "resid_mid", "attn_out", "mlp_out", "resid_post" } do
      local got
      local rows = layer_rows(function() got = pl.patching.sweep(model, clean, corrupted, point, metric) end)
      assert.are.same({ "layer", "pos" }, { table.unpack(got:names()) })
      for layer = 0, n_layers - 1 do
        for pos = 0, n - 1 do assert_same(naive(point, layer, nil, pos), got[layer][pos]) end
      end
      -- Three whole runs, then for each layer l and position p (3 - l) layers of n - p rows.
      assert.are.equal(3 * n * n_layers + (3 + 2 + 1) * (6 + 5 + 4 + 3 + 2 + 1), rows)
    end
  end)

  it("by layer and head, and by head and position, equals naive runs", function()
    for _, point in ipairs { "z", "q", "k", "v", "pattern", "result" } do
      local got = pl.patching.sweep(model, clean, corrupted, point, metric, { batch = 3 })
      local heads = (point == "k" or point == "v") and 2 or n_heads
      assert.are.same({ n_layers, heads }, got.shape)
      for layer = 0, n_layers - 1 do
        for head = 0, heads - 1 do
          assert.is_true(math.abs(naive(point, layer, head) - got[layer][head]) < 1e-5, point)
        end
      end
    end
    local shares = {}
    local got = pl.patching.sweep(model, clean, corrupted, "z", metric, { by = { "layer", "head", "pos" },
      progress = function(share) shares[#shares + 1] = share end })
    assert.are.same({ n_layers, n_heads, n }, got.shape)
    for head = 0, n_heads - 1 do
      for pos = 0, n - 1 do assert_same(naive("z", 1, head, pos), got[1][head][pos]) end
    end
    assert.are.equal(n_layers, #shares)
  end)

  it("along paths equals naive runs with everything else held", function()
    local _, other = model:run_with_cache(corrupted)
    -- The direct effect on the logits.
    local got = pl.patching.paths(model, clean, corrupted, "logits", metric)
    local function sender(layer, head)
      local hooks = { { "z", function(act) act:select(1, head):copy_(cache:get("z", layer):select(1, head)) end,
        { layer = layer } } }
      for later = layer + 1, n_layers - 1 do
        hooks[#hooks + 1] = { "z", function(act) act:copy_(other:get("z", later)) end, { layer = later } }
      end
      return hooks
    end
    for layer = 0, n_layers - 1 do
      for head = 0, n_heads - 1 do
        assert_same(metric(model:run_with_hooks(corrupted, sender(layer, head))[-1]), got[layer][head])
      end
    end
    -- Through the query of one head and the value of another.
    local receivers = { { layer = 1, head = 2, input = "q" }, { layer = 2, head = 1, input = "v" } }
    got = pl.patching.paths(model, clean, corrupted, receivers, metric)
    for layer = 0, n_layers - 1 do
      for head = 0, n_heads - 1 do
        local heard, hooks, back = {}, sender(layer, head), {}
        for i, r in ipairs(receivers) do
          hooks[#hooks + 1] = { r.input, function(act) heard[i] = act:select(1, r.head):clone() end,
            { layer = r.layer } }
          if r.layer > layer then
            back[#back + 1] = { r.input, function(act) act:select(1, r.head):copy_(heard[i]) end, { layer = r.layer } }
          end
        end
        model:run_with_hooks(corrupted, hooks)
        assert.is_true(math.abs(metric(model:run_with_hooks(corrupted, back)[-1]) - got[layer][head]) < 1e-6)
      end
    end
  end)

  it("says what does not fit", function()
    local sweep = pl.patching.sweep
    local function message(...) return tiny.failure(sweep, model, ...).message end
    assert.matches("6 and 5 tokens", message(clean, { 1, 2, 3, 4, 5 }, "z", metric))
    assert.matches("metric is a number", message(clean, corrupted, "z", 1))
    assert.matches("returned a string", message(clean, corrupted, "z", function() return "x" end))
    local by_head = { by = { "layer", "head" } }
    assert.matches("resid_pre has no heads", message(clean, corrupted, "resid_pre", metric, by_head))
    assert.matches("expected layer with", message(clean, corrupted, "z", metric, { by = { "layer" } }))
    assert.matches("batch = 0", message(clean, corrupted, "z", metric, { batch = 0 }))
    assert.matches("zz", message(clean, corrupted, "zz", metric))
    local far, other = { layer = 9, head = 0, input = "q" }, { layer = 0, head = 0, input = "z" }
    for _, bad in ipairs { "x", {}, { far }, { other } } do
      assert.matches("receiver", tiny.failure(pl.patching.paths, model, clean, corrupted, bad, metric).message)
    end
    assert.are.equal(0, #model:hooks())
  end)
end)
