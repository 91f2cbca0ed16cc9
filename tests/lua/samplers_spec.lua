-- Samplers by name: options, chains, samplers written in Lua.
local pl = require "perilune"
local tiny = dofile "tests/lua/tiny.lua"

local model = tiny.model(pl)
local d_vocab = model.config.d_vocab

local function ids(opts, prompt)
  opts.seed, opts.max_new_tokens = opts.seed or 3, opts.max_new_tokens or 12
  opts.ignore_eos = true
  return model:complete(prompt or "the cat", opts).ids
end

local function message(...) return tiny.failure(...).message end

describe("options of generate", function()
  it("mean chains in llama.cpp's order", function()
    for _, case in ipairs({
      { { top_k = 20, temp = 0.5 }, { { top_k = 20 }, { temp = 0.5 }, "dist" } },
      { { penalty_repeat = 1.5, penalty_last_n = 8, min_p = 0.01 },
        { { "penalties", penalty_repeat = 1.5, penalty_last_n = 8 }, { min_p = 0.01 }, "dist" } },
      { { typ_p = 0.9, top_n_sigma = 2, xtc_probability = 0.5, xtc_threshold = 0.001 },
        { { top_n_sigma = 2 }, { typ_p = 0.9 }, { "xtc", xtc_probability = 0.5, xtc_threshold = 0.001 }, "dist" } },
      { { dry_multiplier = 2, dry_base = 2 }, { { dry_multiplier = 2, dry_base = 2 }, "dist" } },
      { { mirostat = 2, mirostat_tau = 3 }, { { "mirostat_v2", mirostat_tau = 3 } } },
      { { mirostat = 1 }, { "mirostat" } },
      { { adaptive_target = 0.1 }, { { adaptive_target = 0.1 } } },
      { { logit_bias = { [65] = 5, [66] = false } },
        { { "logit_bias", logit_bias = { { 65, 5 }, { 66, -math.huge } } }, "dist" } },
      { { epsilon_cutoff = 1e-3, eta_cutoff = 1e-3, no_repeat_ngram_size = 2 },
        { { no_repeat_ngram_size = 2 }, { epsilon_cutoff = 1e-3 }, { eta_cutoff = 1e-3 }, "dist" } },
    }) do
      assert.are.same(ids({ chain = case[2] }), ids(case[1]))
    end
  end)

  it("do what they say", function()
    for _, id in ipairs(ids({ suppress_tokens = { 10, "e", 11 }, max_new_tokens = 40 })) do
      assert.is_true(id ~= 10 and id ~= 11 and id ~= 101)
    end
    assert.are.equal(65, ids({ logit_bias = { A = 1000 } })[1])
    assert.are.equal(66, ids({ forced_bos_token_id = 66 })[1])
    assert.are.equal(67, ids({ forced_eos_token_id = 67, max_new_tokens = 5 })[5])
    local said = ids({ no_repeat_ngram_size = 1, max_new_tokens = 100 })
    local seen = {}
    for _, id in ipairs(said) do
      assert.is_nil(seen[id])
      seen[id] = true
    end
    assert.are.same({ 65, 66 }, ids({ chain = { { logit_bias = { [65] = 1000, [66] = 900 } },
      { bad_words_ids = { { 65, 65 } } }, "greedy" }, max_new_tokens = 2 }, "x"))
  end)

  it("refuse what makes no sense", function()
    local function refused(opts) return message(model.complete, model, "x", opts) end
    for word, opts in pairs({
      ["'typ_p'"] = { typical_p = 1 }, ["'penalty_repeat'"] = { repetition_penalty = 1.1 },
      ["'penalty_freq'"] = { frequency_penalty = 1 }, ["'temp'"] = { temperature = 1 },
      ["from 0.001 to 1000"] = { penalty_repeat = 0 }, ["from 0 to 1"] = { xtc_probability = -1 },
      ["expected 0, 1 or 2"] = { mirostat = 3 }, ["needs mirostat"] = { mirostat_tau = 5 },
      ["expected 0 to 261"] = { suppress_tokens = { 262 } }, ["a bias is x"] = { logit_bias = { [3] = "x" } },
      ["needs max_new_tokens"] = { forced_eos_token_id = 5 },
      ["expected {first token, factor}"] = { exponential_decay_length_penalty = 3 },
      ["both choose"] = { mirostat = 1, adaptive_target = 0.5 },
      ["no token is left"] = { suppress_tokens = (function()
        local all = {}
        for id = 0, d_vocab - 1 do all[#all + 1] = id end
        return all
      end)() },
      ["chain already says"] = { chain = { "dist" }, penalty_freq = 1 },
      ["would never run"] = { chain = { "greedy", "top_k" } },
      ["'dry_multiplier'"] = { chain = { { "dry", dry_multiplyer = 1 }, "dist" } },
    }) do
      local text = refused(opts)
      assert.is_truthy(text:find(word, 1, true), word .. " in: " .. text)
    end
  end)
end)

describe("a chain", function()
  it("prints itself", function()
    local chain <close> = model:chain({ { logit_bias = { [3] = 1 } }, { top_k = 40 },
      { penalty_repeat = 1.25 }, "temp", "dist" })
    assert.are.equal("chain (logit_bias (1) -> top_k 40 -> penalties penalty_repeat = 1.25 -> temp -> dist)",
      tostring(chain))
  end)

  it("is sampled from by hand, copied, begun again", function()
    local chain <close> = model:chain({ { penalty_repeat = 2, penalty_last_n = -1 }, {
      "mirostat_v2", mirostat_tau = 3 } }, { seed = 5 })
    local logits = pl.randn({ d_vocab }, { seed = 1 })
    chain:reset({ 1, 2, 3 })
    local function go(c, n, from)
      local list = {}
      for i = 1, n do
        list[i] = c:sample(logits:clone(), from + i)
        c:accept(list[i])
      end
      return list
    end
    go(chain, 10, 0)
    local copy <close> = chain:clone()
    local other <close> = chain:clone(9)
    local said = go(chain, 10, 10)
    assert.are.same(said, go(copy, 10, 10))
    assert.are_not.same(said, go(other, 10, 10))
    assert.is_truthy(message(chain.random, chain):find("ask in a sampler", 1, true))
    assert.is_truthy(message(chain.accept, chain, 500):find("expected 0 to 261", 1, true))
  end)
end)

describe("a sampler written in Lua", function()
  it("is found by its name, with parameters", function()
    pl.sampler("only", function(logits) logits:narrow(0, 0, 60):fill_(-math.huge) end)
    pl.sampler({ name = "pick", params = { id = { 70, min = 0, max = 261, help = "which" } },
      apply = function(s) return math.tointeger(s.id) end, chooses = true })
    assert.are.same({ 70, 70 }, ids({ chain = { "only", "pick" }, max_new_tokens = 2 }))
    assert.are.same({ 71, 71 }, ids({ chain = { "only", { "pick", id = 71 } }, max_new_tokens = 2 }))
    assert.are.same({ 72, 72 }, ids({ sampler = { "pick", id = 72 }, max_new_tokens = 2 }))
    for _, id in ipairs(ids({ sampler = "only", top_k = 100 })) do assert.is_true(id >= 60) end
    local chain <close> = model:chain({ "only", "dist" })
    assert.are.equal("chain (only -> dist)", tostring(chain))
  end)

  it("has state that accept changes, reset renews and clone copies", function()
    pl.sampler({ name = "counting", params = { from = 1 }, new = function(p) return { n = p.from } end,
      apply = function(s, logits)
        logits:fill_(-math.huge)
        logits[s.n] = 0
      end,
      accept = function(s, id) s.n = id + 1 end })
    assert.are.same({ 5, 6, 7 }, ids({ sampler = { "counting", from = 5 }, max_new_tokens = 3 }))
    local chain <close> = model:chain({ "counting", "greedy" })
    local function step(c)
      local id = c:sample(pl.zeros({ d_vocab }), 0)
      c:accept(id)
      return id
    end
    assert.are.same({ 1, 2 }, { step(chain), step(chain) })
    local copy <close> = chain:clone()
    assert.are.same({ 3, 3, 4 }, { step(chain), step(copy), step(copy) })
    chain:reset()
    assert.are.same({ 1, 5 }, { step(chain), step(copy) })
  end)

  it("sees where it is: tokens, step, sequence, random numbers, activations", function()
    local seen = {}
    pl.sampler({ name = "looking", wants = { "blocks.0.hook_resid_post" }, apply = function(_, _, ctx)
      local act = ctx.activations["blocks.0.hook_resid_post"]
      seen[#seen + 1] = { ctx.step, #ctx.ids, ctx.seq.length, act.shape[1], ctx.random() }
      return 65
    end })
    ids({ chain = { "looking" }, max_new_tokens = 3 }, "the")
    local d_model = model.config.d_model
    for i = 1, 3 do
      local n = seen[1][2] + i - 1
      assert.are.same({ i - 1, n, n, d_model }, { table.unpack(seen[i], 1, 4) })
    end
    local first = seen[1][5]
    seen = {}
    ids({ chain = { "looking" }, max_new_tokens = 1 }, "the")
    assert.are.equal(first, seen[1][5])
    assert.are.equal(0, #model.default_session:hooks())
  end)

  it("is refused with its name where it is wrong", function()
    for word, def in pairs({
      ["expected letters"] = { name = "a b", apply = print }, ["built-in"] = { name = "top_k", apply = print },
      ["'x': apply is a nil"] = { name = "x" }, ["parameter p"] = { name = "x", params = { p = "1" }, apply = print },
      ["'apply'"] = { name = "x", aply = print },
    }) do
      local text = message(pl.sampler, def)
      assert.is_truthy(text:find(word, 1, true), text)
    end
    local function refused(chain) return message(model.complete, model, "x", { chain = chain }) end
    assert.is_truthy(refused({ { "counting", form = 2 } }):find("did you mean 'from'", 1, true))
    assert.is_truthy(refused({ { "pick", id = 262 } }):find("from 0 to 261", 1, true))
    pl.sampler("broken", function() error("on purpose") end)
    local good, problem = pcall(model.complete, model, "x", { chain = { "broken", "dist" } })
    assert.is_false(good)
    assert.is_truthy(tostring(problem):find("sampler 'broken': .*on purpose"), tostring(problem))
    assert.is_truthy(refused({ "pick", "dist" }):find("'pick', chooses the token, so 'dist'", 1, true))
    pl.sampler("spoiled", function(logits) logits:fill_(0 / 0) end)
    assert.is_truthy(refused({ "spoiled", "dist" }):find("'spoiled'", 1, true))
  end)
end)
