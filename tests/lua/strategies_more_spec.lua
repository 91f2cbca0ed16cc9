-- Strategies that judge, mark or take back what was drawn.
local pl = require "perilune"
local tiny = dofile "tests/lua/tiny.lua"

local model = tiny.model(pl)

describe("phrase_ban", function()
  local ban = pl.strategies.phrase_ban

  -- A text as it would be without the ban, so that there is something to take back.
  local function plain(seed, n) return model:complete("x", { seed = seed, max_new_tokens = n, ignore_eos = true }) end

  it("takes back what is banned, and nothing else", function()
    local rewound = 0
    for seed = 1, 12 do
      local text = plain(seed, 20)
      local pieces = model:to_str_tokens(text.ids)
      local banned = { pieces[3] .. pieces[4], pieces[9] .. pieces[10] .. pieces[11] }
      local shown = {}
      local found = ban(model, "x", { seed = seed, max_new_tokens = 20, ignore_eos = true, banned_strings = banned,
        on_step = function(piece) shown[#shown + 1] = piece end })
      local good = true
      for _, phrase in ipairs(banned) do
        if utf8.len(phrase) then assert.is_nil(found.text:find(phrase, 1, true)) else good = false end
      end
      assert.are.equal(20, found.n_new)
      assert.are.equal(found.text, table.concat(shown))
      if good then assert.is_true(found.n_rewinds >= 1) end
      rewound = rewound + found.n_rewinds
      assert.are.same(text.ids[1], found.ids[1])
      assert.are.same(text.ids[2], found.ids[2])
    end
    assert.is_true(rewound > 0)
    local same = ban(model, "x", { seed = 3, max_new_tokens = 20, ignore_eos = true, banned_strings = { "no such" } })
    assert.are.same(plain(3, 20).ids, same.ids)
    assert.are.equal(0, same.n_rewinds)
  end)

  it("goes on with the next likeliest token at temp = 0", function()
    local function letters(logits) logits:narrow(0, 90, #logits - 90):fill_(-math.huge) end
    local opts = { temp = 0, max_new_tokens = 1, sampler = letters }
    local first = model:complete("the", opts)
    local _, order = model:forward("the")[-1]:narrow(0, 0, 90):topk(2)
    opts.banned_strings = first.text
    local found = ban(model, "the", opts)
    assert.are.equal(order[1], found.ids[1])
  end)

  it("sees phrases across tokens, in any case if asked", function()
    local words = model:encode("in the erx then"):to_table()
    local function speak(logits, ctx)
      logits:fill_(-math.huge)
      logits[words[ctx.n + 1] or 0] = 1
      logits[model:to_single_token("z")] = 0 -- what comes where the rest is banned
    end
    local function run(banned, ignore_case)
      return ban(model, "x", { sampler = speak, banned_strings = banned, ignore_case = ignore_case, temp = 0,
        max_new_tokens = #words }).text
    end
    assert.are.equal("in the erx then", run({ "THE" }))
    assert.is_nil(run({ "THE" }, true):lower():find("the"))
    assert.is_nil(run({ "e er" }):find("e er", 1, true))
    assert.are.equal("in the erz then", run({ "x t" }))
  end)

  it("steps back over a place where all is banned, and says when there is no way", function()
    local a, b = model:to_single_token("a"), model:to_single_token("b")
    local function only(logits)
      logits:fill_(-math.huge)
      logits[a], logits[b] = 2, 1
    end
    local opts = { sampler = only, temp = 0, max_new_tokens = 3, banned_strings = { "aa", "ab" } }
    assert.are.equal("bba", ban(model, "x", opts).text)
    opts.banned_strings = { "a", "b" }
    assert.are.equal("state", tiny.failure(ban, model, "x", opts).kind)
    for _, bad in ipairs({ {}, { "" }, { 5 } }) do
      assert.are.equal("argument", tiny.failure(ban, model, "x", { banned_strings = bad }).kind)
    end
  end)
end)

describe("watermark", function()
  local mark = pl.strategies.watermark

  it("is found, and nowhere else", function()
    local found, clean = {}, {}
    for seed = 1, 6 do
      local opts = { seed = seed, max_new_tokens = 100, ignore_eos = true, temp = 2 }
      found[seed] = mark.detect(model, mark(model, "in", opts).ids)
      clean[seed] = mark.detect(model, model:complete("in", opts).ids)
      assert.is_true(found[seed].prediction and found[seed].p_value < 1e-3, found[seed].z)
      assert.is_false(clean[seed].prediction)
    end
    local other = mark(model, "in", { seed = 1, max_new_tokens = 100, ignore_eos = true, temp = 2, hashing_key = 5 })
    assert.is_false(mark.detect(model, other.ids).prediction)
    assert.is_true(mark.detect(model, other.ids, { hashing_key = 5 }).prediction)
    local wide = mark(model, "in", { seed = 1, max_new_tokens = 100, ignore_eos = true, temp = 2, context_width = 2,
      greenlist_ratio = 0.5, bias = 8 })
    local seen = mark.detect(model, wide.ids, { context_width = 2, greenlist_ratio = 0.5 })
    assert.is_true(seen.green_fraction > 0.9)
    assert.are.equal(98, seen.n_scored)
  end)

  it("raises the green tokens by bias, which a chain can do too", function()
    local opts = { seed = 4, max_new_tokens = 30, ignore_eos = true }
    local plain = model:complete("in", opts)
    opts.sampler = mark.sampler({ bias = 3 })
    local by_chain = model:complete("in", opts)
    assert.are_not.same(plain.ids, by_chain.ids)
    opts.sampler, opts.bias = nil, 3
    assert.are.same(by_chain.ids, mark(model, "in", opts).ids)
    local logits = pl.zeros(5000)
    mark.sampler({ bias = 1.5, greenlist_ratio = 0.3 })(logits, { ids = { 7 } })
    assert.is_true(math.abs(logits:gt(0):float():mean() - 0.3) < 0.03)
    assert.are.equal(1.5, logits:max())
    opts.bias, opts.sampler = 0, nil
    assert.are.same(plain.ids, mark(model, "in", opts).ids)
  end)

  it("counts as the formulas say", function()
    local all_green = { 5 }
    for i = 2, 21 do
      local logits = pl.zeros(262)
      mark.sampler({ bias = 1 })(logits, { ids = all_green })
      all_green[i] = math.tointeger((logits + pl.rand(262, { seed = i })):argmax())
    end
    local found = mark.detect(model, all_green)
    assert.are.equal(20, found.n_green)
    assert.is_true(math.abs(found.z - 15 / math.sqrt(20 * 0.25 * 0.75)) < 1e-9)
    assert.is_true(math.abs(found.p_value / 0.25 ^ 20 - 1) < 1e-6)
    assert.are.equal(1, mark.detect(model, { 1, 2, 1, 2, 1, 2 }).n_scored - 1)
    assert.are.equal(5, mark.detect(model, { 1, 2, 1, 2, 1, 2 }, { ignore_repeated_ngrams = false }).n_scored)
    assert.are.equal(0, mark.detect(model, {}).n_scored)
    assert.is_truthy(tiny.failure(mark, model, "x", { gamma = 0.2 }).message:find("greenlist_ratio"))
    assert.are.equal("argument", tiny.failure(mark.detect, model, "x", { greenlist_ratio = 1 }).kind)
  end)
end)

describe("best_of_n and self_consistency", function()
  it("draw what the seeds give alone, in one pass a step", function()
    local before = model.default_session:counters().passes
    local opts = { n = 5, seed = 11, max_new_tokens = 9, ignore_eos = true, temp = 0.9, num_return_sequences = 5 }
    local found = pl.strategies.best_of_n(model, "the in", opts)
    assert.are.equal(9, model.default_session:counters().passes - before)
    assert.are.equal(5, #found.sequences)
    for i, one in ipairs(found.sequences) do
      assert.are.same(model:complete("the in", { seed = one.seed, max_new_tokens = 9, ignore_eos = true,
        temp = 0.9 }).ids, one.ids)
      assert.is_true(i == 1 or one.score <= found.scores[i - 1])
      assert.is_true(math.abs(one.score - one.sum_logprobs / 9) < 1e-12)
    end
    assert.are.same(found.sequences[1].ids, found.ids)
  end)

  it("take the best by a function", function()
    local opts = { n = 8, seed = 1, max_new_tokens = 6, ignore_eos = true, num_return_sequences = 8,
      score = function(sample) return -sample.ids[1] end }
    local found = pl.strategies.best_of_n(model, "the in", opts)
    for _, one in ipairs(found.sequences) do assert.is_true(one.ids[1] >= found.ids[1]) end
    opts.score = function() return "good" end
    assert.are.equal("argument", tiny.failure(pl.strategies.best_of_n, model, "x", opts).kind)
  end)

  it("count answers", function()
    local n, said = 0, { "yes", "no", "no", nil, "yes", "no" }
    local opts = { n = 6, seed = 2, max_new_tokens = 3, ignore_eos = true, answer = function()
      n = n + 1
      return said[n]
    end }
    local found = pl.strategies.self_consistency(model, "the in", opts)
    assert.are.same({ "no", { yes = 2, no = 3 }, 0.6 }, { found.answer, found.votes, found.agreement })
    assert.are.same(model:complete("the in", { seed = found.seed, max_new_tokens = 3, ignore_eos = true }).ids,
      found.ids)
    n = 0
    opts.score = function() return said[n] == "yes" and 4 or 1 end
    assert.are.equal("yes", pl.strategies.self_consistency(model, "the in", opts).answer)
    opts.answer = function() end
    assert.is_nil(pl.strategies.self_consistency(model, "the in", opts).answer)
    opts.answer = nil
    assert.are.equal("argument", tiny.failure(pl.strategies.self_consistency, model, "x", opts).kind)
  end)
end)

describe("mcts", function()
  local small = tiny.model(pl, { tokenizer = false, d_vocab = 6, n_ctx = 16, d_model = 16, n_heads = 2, std = 0.5 })

  local function count(_, info)
    local n = 0
    for _, id in ipairs(info.ids) do n = n + (id == 3 and 1 or 0) end
    return n
  end

  it("finds what the value function wants", function()
    for _, more in ipairs({ {}, { n_parallel = 1 }, { n_rollout = 2 } }) do
      local opts = { value = count, n_simulations = 200, max_new_tokens = 4, seed = 1, temp = 5 }
      for key, value in pairs(more) do opts[key] = value end
      local found = pl.strategies.mcts(small, { 1, 2 }, opts)
      assert.are.same({ 3, 3, 3, 3 }, found.ids)
      assert.are.same(found.ids, pl.strategies.mcts(small, { 1, 2 }, opts).ids)
    end
  end)

  it("finds the likeliest text, past what greedy search takes", function()
    local better = 0
    for seed = 1, 6 do
      local other = tiny.model(pl, { tokenizer = false, d_vocab = 6, n_ctx = 16, d_model = 16, n_heads = 2, std = 0.4,
        seed = seed })
      local greedy = pl.strategies.beam_search(other, { 1 }, { num_beams = 1, max_new_tokens = 3, length_penalty = 0 })
      local best = pl.strategies.beam_search(other, { 1 }, { num_beams = 216, max_new_tokens = 3, length_penalty = 0 })
      local found = pl.strategies.mcts(other, { 1 }, { n_simulations = 400, max_new_tokens = 3, c_puct = 1,
        value = function(_, info) return info.ended and math.exp(info.sum_logprobs) or 0 end })
      assert.are.same(best.ids, found.ids)
      if best.scores[1] > greedy.scores[1] + 1e-6 then better = better + 1 end
    end
    assert.is_true(better > 0)
  end)

  it("ends a text at its end, and says what is wrong with a value", function()
    local found = pl.strategies.mcts(small, { 1, 2 }, { stop_token_ids = 4, max_new_tokens = 6, n_simulations = 60,
      value = function(_, info) return info.ended and -#info.ids or -10 end })
    assert.are.equal("stop", found.finish_reason)
    assert.are.same({}, found.ids)
    for _, value in ipairs({ function() end, function() return 0 / 0 end, function() return math.huge end }) do
      assert.are.equal("argument", tiny.failure(pl.strategies.mcts, small, { 1 }, { value = value }).kind)
    end
    assert.are.equal("argument", tiny.failure(pl.strategies.mcts, small, { 1 }).kind)
  end)
end)

it("all strategies go on from a sequence, which then holds the text", function()
  local other = tiny.model(pl, { n_layers = 1 })
  local all = { sample = {}, beam_search = { num_beams = 3 }, best_of_n = { n = 3 }, dola = {}, watermark = {},
    classifier_free_guidance = {}, contrastive_decoding = { amateur_model = other }, contrastive_search = {},
    mcts = { n_simulations = 9, value = function(text) return #text end }, phrase_ban = { banned_strings = "e" },
    prompt_lookup = {}, self_consistency = { n = 3, answer = function(sample) return sample.ids[1] % 2 end },
    speculative = { assistant_model = other } }
  local session = model:session()
  for name in pairs(pl.strategies) do
    local opts = assert(all[name], name)
    opts.max_new_tokens, opts.seed, opts.strategy, opts.ignore_eos = 5, 4, name, true
    local expected = model:complete("the in er", opts)
    local seq <close> = session:sequence()
    seq:extend("the in", { logits = "none" })
    local found = seq:complete(model:encode(" er"), opts)
    assert.are.same(expected.ids, found.ids, name)
    assert.are.equal(expected.n_prompt + #found.ids, seq.length)
    assert.are.equal(found.ids[#found.ids], seq:tokens()[-1])
    assert.are.equal(0, #session:hooks())
    local empty <close> = session:sequence()
    assert.are.equal("argument", tiny.failure(empty.complete, empty, opts).kind)
  end
end)

it("no strategy goes on with logits that are no distribution", function()
  local broken = tiny.model(pl)
  broken:hook("hook_resid_post", function(act) act:fill_(0 / 0) end)
  local all = { sample = {}, beam_search = {}, best_of_n = {}, dola = {}, watermark = {}, contrastive_search = {},
    classifier_free_guidance = {}, contrastive_decoding = { amateur_model = model }, prompt_lookup = {},
    mcts = { value = function() return 1 end }, phrase_ban = { banned_strings = "e" },
    self_consistency = { answer = function() end }, speculative = { assistant_model = model } }
  for name in pairs(pl.strategies) do
    local opts = assert(all[name], name)
    opts.max_new_tokens = 3
    local err = tiny.failure(pl.strategies[name], broken, "the in", opts)
    assert.is_truthy(err.message:lower():find("nan", 1, true), name .. ": " .. err.message)
    if name ~= "contrastive_search" then
      opts.sampler = function(logits) logits:fill_(-math.huge) end
      err = tiny.failure(pl.strategies[name], model, "the in", opts)
      assert.is_truthy(err.message:find("token", 1, true), name .. ": " .. err.message)
    end
  end
end)

it("all of these work in a batch", function()
  local prompts = { "the in", "er", "in the in" }
  for name, opts in pairs({ phrase_ban = { banned_strings = { "e", "\u{e9}" } }, watermark = {},
    best_of_n = { n = 3 }, mcts = { n_simulations = 9, value = function(text) return #text end },
    self_consistency = { n = 3, answer = function(sample) return sample.ids[1] % 2 end } }) do
    opts.max_new_tokens, opts.seed, opts.strategy = 5, 4, name
    local together = pl.batch(model, prompts, opts)
    for i, one in ipairs(prompts) do assert.are.same(model:complete(one, opts).ids, together[i].ids) end
  end
end)
