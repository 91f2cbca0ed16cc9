-- Hooks with positions, states and reports; caches, recordings and replays.
local pl = require "perilune"
local tiny = require "tests.lua.tiny"

local ids = { 5, 17, 3, 99, 42, 7, 250, 11 }

describe("hook options", function()
  local model
  before_each(function() model = tiny.model(pl, { n_layers = 3 }) end)

  it("narrow to lists of layers and positions, and count from the prompt's end", function()
    local seen = {}
    local function note(act, at) seen[#seen + 1] = ("%d:%d:%d"):format(at.layer, at.pos, act.shape[1]) end
    model:hook("resid_post", note, { layer = { 0, -1 }, pos = { 2, -1 } })
    local seq = model:sequence()
    seq:extend(ids)
    assert.are.same({ "0:2:1", "0:7:1", "2:2:1", "2:7:1" }, seen)
    seq:extend(4)
    assert.are.equal(4, #seen) -- a token after the prompt has no "prompt's last"
    seen = {}
    model:complete(ids, { max_new_tokens = 3, temp = 0 })
    assert.are.equal(4, #seen)
    -- The prompt in chunks is one prompt.
    local small = tiny.model(pl, { n_layers = 3 }, { threads = 1, n_batch = 3 })
    seen = {}
    small:hook("resid_post", note, { layer = 1, pos = { -1, -8 } })
    small:sequence():extend(ids)
    assert.are.same({ "1:0:1", "1:7:1" }, seen)
  end)

  it("tell the phase", function()
    local phases = {}
    model:hook("embed", function(_, at) phases[#phases + 1] = at.phase end, { read = true })
    local seq = model:sequence()
    seq:extend(1)
    seq:extend(2)
    seq:extend({ 3, 4 })
    assert.are.same({ "prefill", "decode", "prefill" }, phases)
  end)

  it("give all rows at once when batched", function()
    local spans, rows = nil, 0
    model:hook("resid_mid", function(act, at)
      spans, rows = at.spans, act.shape[1]
      act:mul_(2)
    end, { layer = 1, batched = true })
    local a, b = model:sequence(), model:sequence()
    a:extend({ 1, 2 }, { logits = "none" })
    local logits = pl.extend({ { a, { 3 } }, { b, ids } })
    assert.are.equal(9, rows)
    assert.are.same({ { a, 2, 1, 0 }, { b, 0, 8, 1 } }, { { spans[1].seq, spans[1].pos, spans[1].n, spans[1].first },
      { spans[2].seq, spans[2].pos, spans[2].n, spans[2].first } })
    model:reset_hooks()
    local want = model:run_with_hooks(ids, { { "resid_mid", function(act) act:mul_(2) end, { layer = 1 } } })
    assert.is_true(tiny.same(want[-1], logits[2]))
    assert.are.equal("argument", tiny.failure(model.hook, model, "pattern", print, { batched = true }).kind)
    assert.are.equal("argument", tiny.failure(model.hook, model, "embed", print, { batched = true, pos = 1 }).kind)
  end)

  it("keep a state for each sequence, which forks and rollbacks copy", function()
    local function count(act, _, state)
      state.n = state.n + act.shape[1]
      state.sum:add_(1)
    end
    local states = {}
    model:hook("embed", function(act, at, state)
      states[at.seq] = state
      count(act, at, state)
    end, { state = { n = 0, sum = pl.zeros(1) } })
    local seq = model:sequence()
    seq:extend(ids)
    local fork, checkpoint = seq:fork(), seq:checkpoint()
    fork:extend(1)
    seq:extend(2)
    seq:extend(3)
    assert.are.equal(9, states[fork].n)
    assert.are.equal(10, states[seq].n)
    assert.are.equal(3, states[seq].sum[0])
    seq:rollback(checkpoint)
    seq:extend(4)
    assert.are.equal(9, states[seq].n)
    assert.are.equal(2, states[seq].sum[0])
    local other = model:sequence()
    other:extend({ 1, 2 })
    assert.are.equal(2, states[other].n)
    -- A function that makes states, and one that copies them.
    model:reset_hooks()
    local made, copied = 0, 0
    model:hook("embed", function(_, _, state) state[1] = state[1] + 1 end, {
      state = function() made = made + 1 return { 0 } end,
      clone = function(state) copied = copied + 1 return { state[1] } end,
    })
    seq = model:sequence()
    seq:extend(1)
    seq:fork():extend(2)
    assert.are.same({ 1, 1 }, { made, copied })
  end)

  it("are checked", function()
    local function message(opts) return tiny.failure(model.hook, model, "resid_post", print, opts).message end
    assert.matches("pos = x", message({ pos = "x" }))
    assert.matches("pos = 1.5", message({ pos = { 1, 1.5 } }))
    assert.matches("empty list", message({ pos = {} }))
    assert.matches("layer = 3", message({ layer = { 0, 3 } }))
    assert.matches("empty list", message({ layer = {} }))
    assert.matches("clone is a number", message({ clone = 1 }))
    assert.matches("layer", message({ layr = 1 }))
    assert.are.equal(0, #model:hooks())
  end)

  it("are listed and reported in the order of registration", function()
    for _, name in ipairs({ "embed", "resid_post", "attn.hook_z", "hook_z" }) do model:hook(name, function() end) end
    model:forward(ids)
    local names = {}
    for i, hook in ipairs(model:hooks()) do names[i] = hook.point end
    assert.are.same({ "embed", "resid_post", "attn.hook_z", "hook_z" }, names)
    local report = model:hook_report()
    assert.are.same({ 1, 3, 3, 3 }, { report[1].calls, report[2].calls, report[3].calls, report[4].calls })
    assert.is_true(report[2].seconds > 0)
    assert.matches("calls.*3 .*resid_post", tostring(report))
  end)

  it("find NaN where it is asked for", function()
    model:hook("resid_post", function(act) act[1][4] = 0 / 0 end, { layer = 1 })
    model:forward(ids)
    model.default_session:check_finite(true)
    local err = tiny.failure(model.forward, model, ids)
    assert.matches("hook_resid_post, layer 1: .*position 1, column 4, written by a hook", err.message)
    model:reset_hooks()
    model:forward(ids)
    local strict = tiny.model(pl, nil, { threads = 1, check_finite = true })
    strict:hook("embed", function(act) act:fill_(math.huge) end)
    assert.matches("hook_embed", tiny.failure(strict.forward, strict, ids).message)
  end)
end)

describe("a cache", function()
  local model
  before_each(function() model = tiny.model(pl, { n_layers = 2 }, { threads = 1, n_batch = 5 }) end)

  it("answers to short names, prints what it holds, and is written and read", function()
    local _, cache = model:run_with_cache(ids, { "resid_post", "pattern" })
    assert.is_true(tiny.same(cache["blocks.1.hook_resid_post"], cache:get("resid_post", 1)))
    assert.are.same({ 4, 8, 8 }, cache:get("pattern", -1).shape)
    assert.are.equal(4, #cache:names())
    assert.matches("blocks.0.attn.hook_pattern +%[4, 8, 8%]", tostring(cache))
    assert.matches("name a layer", tiny.failure(cache.get, cache, "resid_post").message)
    assert.matches("not cached", tiny.failure(cache.get, cache, "embed").message)
    local path = os.tmpname()
    cache:save(path .. ".safetensors")
    local tensors = pl.load_tensors(path .. ".safetensors")
    assert.is_true(tiny.same(cache:get("resid_post", 0), tensors["blocks.0.hook_resid_post"]))
    os.remove(path)
    os.remove(path .. ".safetensors")
  end)

  it("goes to a folder piece by piece, and comes back the same", function()
    local folder = os.tmpname()
    os.remove(folder)
    local _, want = model:run_with_cache(ids)
    local _, streamed = model:run_with_cache(ids, nil, { to = folder })
    local back = pl.load_cache(model, folder)
    assert.are.same(want:names(), back:names())
    for _, name in ipairs(want:names()) do
      assert.is_true(tiny.same(want[name], streamed[name]), name)
      assert.is_true(tiny.same(want[name], back[name]), name)
    end
    os.execute("rm -r " .. folder)
    assert.are.equal("io", tiny.failure(pl.load_cache, model, folder).kind)
    assert.are.equal("io", tiny.failure(model.run_with_cache, model, ids, nil, { to = "/nowhere/at/all" }).kind)
  end)

  it("holds several prompts of different lengths from one pass, with edits, up to a layer", function()
    local prompts = { ids, { 1, 2, 3 }, "the" }
    local wide = tiny.model(pl, { n_layers = 2 })
    local before = wide.default_session:counters().passes
    local logits, caches = wide:run_with_cache(prompts, "resid_post")
    assert.are.equal(1, wide.default_session:counters().passes - before)
    for i, prompt in ipairs(prompts) do
      local l, c = model:run_with_cache(prompt, "resid_post")
      assert.is_true(tiny.same(l, logits[i]))
      assert.is_true(tiny.same(c:get("resid_post", 1), caches[i]:get("resid_post", 1)))
    end
    local edit = { "resid_mid", function(act) act:mul_(2) end, { layer = 0 } }
    local l, c = model:run_with_cache(ids, { "resid_mid", "resid_post" }, { hooks = { edit } })
    assert.is_true(tiny.same(l, model:run_with_hooks(ids, { edit })))
    local _, plain = model:run_with_cache(ids, "resid_mid")
    assert.is_true(tiny.same(c:get("resid_mid", 0), plain:get("resid_mid", 0) * 2))
    local residual, part = model:run_with_cache(ids, "resid_post", { hooks = { edit }, stop_at_layer = 1 })
    assert.is_true(tiny.same(residual, c:get("resid_post", 0)))
    assert.are.equal(1, #part:names())
    assert.is_true(tiny.same(residual, model:run_with_hooks(ids, { edit }, { stop_at_layer = 1 })))
    assert.are.equal(0, #model:hooks())
  end)

  it("complains of hooks that never fired, and leaves none behind", function()
    local nothing = function() end
    local err = tiny.failure(model.run_with_hooks, model, ids, { { "embed", nothing }, { "z", nothing, { pos = 8 } } })
    assert.matches("hook 2 %(z%) never fired", err.message)
    assert.matches("never fired", tiny.failure(model.run_with_cache, model, ids, "z",
      { hooks = { { "embed", nothing, { pos = -9 } } } }).message)
    assert.has_error(function() model:run_with_hooks(ids, { { "embed", function() error("oops") end } }) end)
    assert.are.equal("argument", tiny.failure(model.run_with_hooks, model, ids, { 1 }).kind)
    assert.are.equal("argument", tiny.failure(model.run_with_hooks, model, ids, 1).kind)
    assert.are.equal("argument", tiny.failure(model.run_with_cache, model, ids, 1).kind)
    assert.are.equal(0, #model:hooks())
  end)
end)

describe("a recording", function()
  it("keeps what generation used, and replays from any step under other hooks", function()
    local model = tiny.model(pl, { n_layers = 2 })
    local edit <close> = model:hook("resid_mid", function(act) act:mul_(1.5) end, { layer = 0 }) -- luacheck: ignore 211
    local result = model:complete(ids, { max_new_tokens = 6, seed = 3, record = { "resid_post", "pattern" } })
    local record <close> = result.record
    local all = { table.unpack(ids) }
    for i = 1, 5 do all[#all + 1] = result.ids[i] end
    local _, want = model:run_with_cache(all, { "resid_post", "pattern" })
    for _, name in ipairs(want:names()) do assert.is_true(tiny.same(want[name], record:cache()[name]), name) end
    -- Without other hooks the replay draws what was drawn.
    local gen = record:replay(2, { max_new_tokens = 4, seed = 3 })
    for _ in gen do end -- luacheck: ignore 542
    assert.are.same({ table.unpack(result.ids, 3, 6) }, gen.ids)
    -- With one it goes another way, from that step on.
    local fired = 0
    local changed, seq = record:replay(2, { max_new_tokens = 4, temp = 0, hooks = {
      { "resid_post", function(act) fired = fired + 1; act:neg_() end, { layer = 1 } } } })
    for _ in changed do end -- luacheck: ignore 542
    assert.is_true(fired >= 4)
    assert.are.equal(8 + 2 + 4, #seq)
    seq:close() -- and its hooks with it
    assert.matches("step 6", tiny.failure(record.replay, record, 6).message)
    assert.are.equal(1, #model:hooks())
  end)
end)
