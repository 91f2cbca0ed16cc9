local pl = require "perilune"
local tiny = dofile "tests/lua/tiny.lua"

describe("pl.pipeline", function()
  local model = tiny.model(pl)
  local opts = { max_new_tokens = 12, seed = 3, ignore_eos = true }

  it("changes nothing without functions", function()
    local plain, found = model:complete("the", opts), pl.pipeline({}):complete(model, "the", opts)
    assert.are.same(plain.ids, found.ids)
    assert.are.equal(plain.text, found.text)
    assert.are.equal(found.text, found.raw_text)
  end)

  it("runs before, during and after, in turn", function()
    local heard = {}
    local a = model:to_single_token("a")
    local one = pl.pipeline({
      before = { function(prompt) return prompt .. " in" end, function(prompt) heard[#heard + 1] = prompt end },
      during = function(logits)
        logits:fill_(-math.huge)
        logits[a] = 0
      end,
      after = function(text, result)
        heard[#heard + 1] = result.finish_reason
        return text:upper()
      end,
    })
    local found = one:complete(model, "the", opts)
    assert.are.same({ "the in", "length" }, heard)
    assert.are.equal(("A"):rep(12), found.text)
    assert.are.equal(("a"):rep(12), found.raw_text)
    assert.are.equal(#model:encode("the in"), found.n_prompt)
    local both = one .. pl.pipeline({ after = function(text) return text .. "!" end })
    assert.are.equal(("A"):rep(12) .. "!", both:complete(model, "the", opts).text)
  end)

  it("goes with samplers, chains, strategies and pieces", function()
    local a, b = model:to_single_token("a"), model:to_single_token("b")
    local function only(logits)
      logits:fill_(-math.huge)
      logits[a], logits[b] = 1, 0
    end
    local during = pl.pipeline({ during = only })
    for _, more in ipairs({ { temp = 0 }, { chain = { "greedy" } }, { strategy = "beam_search", num_beams = 2 },
      { sampler = function() end, temp = 0 }, { sampler = { "temp", temp = 1 }, top_k = 1 } }) do
      more.max_new_tokens, more.seed = 5, 1
      assert.are.equal("aaaaa", during:complete(model, "x", more).text)
    end
    local text = {}
    for piece in during:generate(model, "x", { temp = 0, max_new_tokens = 3 }) do text[#text + 1] = piece end
    assert.are.equal("aaa", table.concat(text))
  end)

  it("says what is wrong", function()
    assert.is_truthy(tiny.failure(pl.pipeline, { inmod = print }).message:find("before"))
    assert.are.equal("argument", tiny.failure(pl.pipeline, { after = 5 }).kind)
    assert.are.equal("argument", tiny.failure(pl.pipeline, { after = { 5 } }).kind)
    local bad = pl.pipeline({ after = function() return 5 end })
    assert.are.equal("argument", tiny.failure(bad.complete, bad, model, "x", opts).kind)
    assert.are.equal("argument", tiny.failure(bad.complete, bad, model, { 1 }, opts).kind)
    assert.are.equal("argument", tiny.failure(bad.generate, bad, model, "x", opts).kind)
  end)
end)
