local pl = require "perilune"
local tiny = dofile "tests/lua/tiny.lua"

describe("a hook", function()
  local model
  before_each(function() model = tiny.model(pl) end)
  local ids = { 5, 9, 200, 31 }

  it("sees activations with names and places", function()
    local seen
    model:hook("blocks.1.attn.hook_z", function(z, at)
      seen = { shape = { table.unpack(z.shape) }, at = at, seq = at.seq }
    end, { read = true })
    local seq = model:sequence()
    seq:extend(ids)
    seq:extend({ 7 })
    assert.are.same({ 1, 4, 8 }, seen.shape)
    assert.are.equal("blocks.1.attn.hook_z", seen.at.point)
    assert.are.equal(1, seen.at.layer)
    assert.are.equal(4, seen.at.pos)
    assert.are.equal(1, seen.at.n)
    assert.are.equal(seq, seen.seq)
  end)

  it("changes nothing by watching", function()
    local before = model:forward(ids)
    local list = {}
    for _, point in ipairs(model:hook_points()) do
      list[#list + 1] = model:hook(point.name, function() end, { read = true })
    end
    assert.is_true(tiny.same(before, model:forward(ids)))
    for _, hook in ipairs(list) do assert.are.equal(1, hook.fired) end
  end)

  it("on the last layer sees every row, which else only those with logits pass", function()
    local seq = model:sequence()
    local unseen = seq:extend(ids)
    local rows
    local watch <close> = model:hook("blocks.1.hook_mlp_out", function(out)
      rows = out.shape[1]
    end, { read = true })
    assert.is_true(tiny.same(model:sequence():extend(ids), unseen))
    assert.are.equal(#ids, rows)
    watch:remove()
    assert.is_true(tiny.same(model:forward(ids){ pos = -1 }, unseen))
    local later = model:sequence() -- without logits, then with
    later:extend({ table.unpack(ids, 1, 3) }, { logits = "none" })
    assert.is_true(tiny.same(later:extend({ ids[4] }), unseen))
  end)

  it("edits in place, or gives a replacement", function()
    local before = model:forward(ids)
    local h = model:hook("resid_post", function(act) act:mul_(0) end, { layer = 0 })
    local zeroed = model:forward(ids)
    assert.is_false(tiny.same(before, zeroed))
    h:remove()
    h = model:hook("resid_post", function(act) return act:clone():mul_(0) end, { layer = 0 })
    assert.is_true(tiny.same(zeroed, model:forward(ids)))
    h:remove()
    h = model:hook("resid_post", function(act) return act:mul_(0) end, { layer = -2 })
    assert.is_true(tiny.same(zeroed, model:forward(ids)))
    h:remove()
    assert.is_true(tiny.same(before, model:forward(ids)))
    model:hook("resid_post", function(act) return act[0] end, { layer = 0 })
    assert.are.equal("shape", tiny.failure(model.forward, model, ids).kind)
  end)

  it("acts on one position only when told so", function()
    local before = model:forward(ids)
    local shape
    model:hook("blocks.0.hook_resid_post", function(act, at)
      shape = { act.shape[1], at.pos, at.n }
      act:mul_(0)
    end, { pos = 2 })
    local after = model:forward(ids)
    assert.are.same({ 1, 2, 1 }, shape)
    assert.is_true(tiny.same(before[1], after[1]))
    assert.is_false(tiny.same(before[2], after[2]))
  end)

  it("with read = true cannot write", function()
    model:hook("resid_pre", function(act) act:mul_(2) end, { layer = 1, read = true })
    assert.is_truthy(tiny.failure(model.forward, model, ids))
  end)

  it("gives activations that expire with the call", function()
    local kept, view
    model:hook("hook_embed", function(act) kept, view = act, act[0] end)
    model:forward(ids)
    assert.are.equal("state", tiny.failure(function() return kept:sum() end).kind)
    assert.are.equal("state", tiny.failure(function() return view:clone() end).kind)
  end)

  it("is named in full, in short, or by globs", function()
    local names = {}
    local function note(_, at) names[#names + 1] = at.point end
    local function through(name, opts)
      names = {}
      local hook <close> = model:hook(name, note, opts)
      assert.are.equal(name, hook.point)
      model:forward(ids)
      return names
    end
    assert.are.same({ "blocks.0.attn.hook_pattern", "blocks.1.attn.hook_pattern" },
      through("blocks.*.attn.hook_pattern"))
    assert.are.same({ "blocks.1.hook_resid_mid" }, through("resid_mid", { layer = 1 }))
    assert.are.same({ "blocks.1.ln1.hook_scale" }, through("ln1.scale", { layer = -1 }))
    assert.are.same({ "ln_final.hook_normalized" }, through("ln_final.hook_normalized"))
    assert.are.same({ "hook_logits" }, through("logits"))
    for name, word in pairs({ resid_pst = "resid_post", ["blocks.0.hook_resid_pos"] = "resid_pos",
      ["blocks.2.hook_resid_post"] = "0 to 1", ["blocks.*.hook_nothing"] = "no hook point" }) do
      local err = tiny.failure(model.hook, model, name, note)
      assert.is_truthy(err.message:find(word, 1, true), err.message)
    end
    assert.is_truthy(tiny.failure(model.hook, model, "z", note, { layers = 1 }).message:find("layer", 1, true))
    assert.is_truthy(tiny.failure(model.hook, model, "z", "fn").message:find("function", 1, true))
  end)

  it("lives until it is removed, not until it is collected", function()
    local calls = 0
    model:hook("hook_embed", function() calls = calls + 1 end)
    collectgarbage()
    collectgarbage()
    model:forward(ids)
    assert.are.equal(1, calls)
    assert.are.equal(1, #model:hooks())
    model:reset_hooks()
    model:forward(ids)
    assert.are.equal(1, calls)
    do
      local hook <close> = model:hook("hook_embed", function() calls = calls + 1 end)
      model:forward(ids)
      assert.is_true(hook.active)
    end
    model:forward(ids)
    assert.are.equal(2, calls)
    assert.are.equal(0, #model:hooks())
  end)

  it("may remove itself, reset all and add others while it runs", function()
    local calls, h = 0, nil
    h = model:hook("hook_embed", function()
      calls = calls + 1
      h:remove()
      model:reset_hooks()
      model:hook("blocks.1.hook_resid_post", function() calls = calls + 10 end)
      collectgarbage()
    end)
    model:forward(ids)
    model:forward(ids)
    assert.are.equal(21, calls)
  end)

  it("of a sequence acts on it and its forks alone", function()
    local a, b = model:sequence(), model:sequence()
    local calls = 0
    local hook = a:hook("resid_post", function() calls = calls + 1 end, { layer = 0 })
    b:extend(ids)
    assert.are.equal(0, calls)
    a:extend(ids)
    local copy, checkpoint = a:fork(), a:checkpoint()
    copy:extend({ 1 })
    assert.are.equal(2, calls)
    a:rollback(checkpoint):extend({ 1 })
    assert.are.equal(3, calls)
    pl.extend({ { a, 1 }, { b, 1 }, { copy, 1 } })
    assert.are.equal(5, calls)
    hook:remove()
    a:extend({ 1 })
    assert.are.equal(5, calls)
  end)

  it("brings its error out of the pass, with the script's line, in coroutines too", function()
    model:hook("resid_mid", function(_, at)
      if at.layer == 1 then error("stop here") end
    end)
    local good, err = pcall(model.forward, model, ids)
    assert.is_false(good)
    assert.is_truthy(tostring(err):find("hooks_spec.lua:%d+: stop here"))
    local co = coroutine.create(function() model:forward(ids) end)
    good, err = coroutine.resume(co)
    assert.is_false(good)
    assert.is_truthy(tostring(err):find("hooks_spec.lua:%d+: stop here"))
    model:reset_hooks()
    model:hook("hook_embed", function() coroutine.yield() end)
    co = coroutine.wrap(function() model:forward(ids) end)
    assert.is_false(pcall(co))
    model:reset_hooks()
    assert.is_truthy(model:forward(ids))
  end)

  it("may run passes of its own", function()
    local inner
    local hook = model:hook("blocks.0.hook_resid_mid", function(_, at)
      if at.n > 1 then inner = model:sequence():extend({ 3 }) end
    end)
    model:forward(ids)
    hook:remove()
    assert.is_true(tiny.same(inner, model:sequence():extend({ 3 })))
  end)
end)

describe("run_with_cache", function()
  it("copies what was named, chunked or not", function()
    local model = tiny.model(pl)
    local small = tiny.model(pl, nil, { n_batch = 2 })
    local ids = { 5, 9, 200, 31, 8 }
    local logits, cache = model:run_with_cache(ids, { "blocks.*.attn.hook_pattern", "hook_embed" })
    assert.is_true(tiny.same(logits, model:forward(ids)))
    assert.are.same({ 4, 5, 5 }, { table.unpack(cache["blocks.1.attn.hook_pattern"].shape) })
    assert.are.same({ 5, 32 }, { table.unpack(cache.hook_embed.shape) })
    assert.is_truthy(tiny.failure(function() return cache.hook_z end).message:find("run_with_cache"))
    assert.are.equal(0, #model:hooks())
    local _, all = model:run_with_cache(ids)
    local chunked, parts = small:run_with_cache(ids)
    assert.is_true(tiny.same(logits, chunked))
    for name, value in pairs(all) do assert.is_true(tiny.same(value, parts[name]), name) end
  end)

  it("and run_with_hooks leave nothing behind", function()
    local model = tiny.model(pl)
    local ids = { 5, 9 }
    local plain = model:forward(ids)
    local changed = model:run_with_hooks(ids, { { "mlp_out", function(act) act:mul_(0) end, { layer = 0 } } })
    assert.is_false(tiny.same(plain, changed))
    assert.is_true(tiny.same(plain, model:forward(ids)))
    assert.are.equal(0, #model:hooks())
  end)

  it("let go of the functions and of what they hold", function()
    local model, ids = tiny.model(pl), { 5, 9 }
    local functions, handles = setmetatable({}, { __mode = "k" }), setmetatable({}, { __mode = "k" })
    local function watcher()
      local held = pl.zeros(2, 32)
      local fn = function(act) held = held + act end
      functions[fn] = true
      return fn
    end
    for _ = 1, 5 do
      model:run_with_hooks(ids, { { "resid_post", watcher() } })
      local seq <close> = model:sequence()
      handles[seq:hook("mlp_out", watcher(), { layer = 0, state = {} })] = true
      seq:extend(ids)
      local fork <close> = seq:fork()
      seq:close()
      fork:extend(ids) -- the hook is the fork's now
    end
    collectgarbage()
    collectgarbage()
    assert.is_nil(next(functions))
    assert.is_nil(next(handles))
    -- One that others hold says that it is over, and is removed as often as one likes.
    local seq = model:sequence()
    local handle = seq:hook("mlp_out", print)
    seq:close()
    assert.is_false(handle.active)
    handle:remove()
    assert.is_falsy(tostring(handle):find("active", 1, true))
  end)
end)
