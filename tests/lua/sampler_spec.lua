local pl = require "perilune"
local tiny = dofile "tests/lua/tiny.lua"

describe("a chain of samplers", function()
  local model = tiny.model(pl)

  it("may hold names, parameters and functions in any order", function()
    local calls = 0
    local function no_th(logits) logits:narrow(0, 256, 3):fill_(-math.huge) calls = calls + 1 end
    local result = model:complete("the", { seed = 2, max_new_tokens = 10, ignore_eos = true,
      chain = { no_th, { top_k = 40 }, { top_p = 0.9 }, { "temp", temp = 0.7 }, "dist" } })
    assert.are.equal(10, calls)
    for _, id in ipairs(result.ids) do assert.is_true(id < 256 or id > 258) end
  end)

  it("equals the options of the same meaning", function()
    local a = model:complete("the", { seed = 2, max_new_tokens = 10, top_k = 20, temp = 0.5 })
    local b = model:complete("the", { seed = 2, max_new_tokens = 10,
      chain = { { top_k = 20 }, { temp = 0.5 }, "dist" } })
    assert.are.same(a.ids, b.ids)
  end)

  it("takes what a function returns: a choice, or logits", function()
    local function run(fn) return model:complete("x", { chain = { fn, "greedy" }, max_new_tokens = 2 }).ids end
    assert.are.same({ 65, 65 }, run(function() return 65 end))
    assert.are.same({ 70, 70 }, run(function(logits)
      local new = logits:clone():fill_(0)
      new[70] = 1
      return new
    end))
    assert.are.same({ 71, 71 }, run(function(logits)
      logits:fill_(-math.huge)
      logits[71] = 1
      return logits
    end))
  end)

  it("tells a function where it is", function()
    local seen = {}
    model:complete("the", { chain = { function(_, ctx)
      seen[#seen + 1] = { ctx.pos, ctx.n, #ctx.ids }
      return 65
    end }, max_new_tokens = 3 })
    assert.are.same({ { 1, 0, 1 }, { 2, 1, 2 }, { 3, 2, 3 } }, seen)
  end)

  it("says what is wrong with it", function()
    local function message(chain)
      return tiny.failure(model.complete, model, "x", { chain = chain, max_new_tokens = 1 }).message
    end
    for word, chain in pairs({
      ["'top_k'"] = { "topk" }, ["'temp'"] = { { temperature = 1 } }, ["from 0 to 1"] = { { top_p = 2 } },
      ["'dist' or 'greedy'"] = { "top_k" }, ["is nan"] = { function(l) l:fill_(0 / 0) end, "dist" },
      ["no token is left"] = { function(l) l:fill_(-math.huge) end, "dist" },
      ["expected 0 to 261"] = { function() return 262 end }, ["returned a string"] = { function() return "x" end },
      ["item 1"] = { 5 }, ["expected a number"] = { { temp = "x" } },
    }) do
      local text = message(chain)
      assert.is_truthy(text:find(word, 1, true), text)
    end
  end)

  it("names the weight behind logits that are NaN", function()
    local broken = tiny.model(pl, { std = 3e38 })
    local err = tiny.failure(broken.complete, broken, "x", { max_new_tokens = 1 })
    assert.is_truthy(err.message:find("the logit of token %d+ is .*, because the weight .* is "), err.message)
    assert.is_truthy(err.message:find(broken:find_bad_weight(), 1, true))
  end)

  it("lists the samplers", function()
    local names = {}
    for _, sampler in ipairs(pl.samplers()) do names[sampler.name] = sampler.params[1] or true end
    assert.are.equal(1, names.top_p.neutral)
    assert.are.equal(0, names.top_k.neutral)
    assert.is_true(names.greedy)
  end)
end)
