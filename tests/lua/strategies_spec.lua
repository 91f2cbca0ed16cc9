local pl = require "perilune"
local tiny = dofile "tests/lua/tiny.lua"

-- A model of a few tokens without a tokenizer, whose every text can be tried.
local function small(fields, opts)
  local description = { tokenizer = false, d_vocab = 6, n_ctx = 16, d_model = 16, n_heads = 2, std = 1 }
  for key, value in pairs(fields or {}) do description[key] = value end
  return tiny.model(pl, description, opts)
end

-- All texts of up to n tokens that end by `eos` or by length: {ids, sum, length}.
local function exhaust(model, prompt, n, eos, temp)
  local found = {}
  local function go(ids, sum)
    local all = table.move(prompt, 1, #prompt, 1, {})
    table.move(ids, 1, #ids, #all + 1, all)
    local p = (model:forward(all)[-1] / (temp or 1)):log_softmax():to_table()
    for id = 0, model.config.d_vocab - 1 do
      local longer, total = table.move(ids, 1, #ids, 1, {}), sum + p[id + 1]
      if id ~= eos then longer[#longer + 1] = id end
      if id == eos or #longer == n then
        found[#found + 1] = { ids = longer, sum = total, length = #ids + 1 }
      else
        go(longer, total)
      end
    end
  end
  go({}, 0)
  return found
end

local function best_of(found, length_penalty)
  local best
  for _, text in ipairs(found) do
    text.score = text.sum / text.length ^ length_penalty
    if not best or text.score > best.score then best = text end
  end
  table.sort(found, function(a, b) return a.score > b.score end)
  return best
end

local function near(a, b, tolerance)
  assert.is_true(math.abs(a - b) <= (tolerance or 1e-4), ("%.9g and %.9g"):format(a, b))
end

describe("pl.strategies", function()
  it("name what is nearest, and know their options", function()
    local err = tiny.failure(function() return pl.strategies.beam_serch end)
    assert.is_truthy(err.message:find("beam_search", 1, true), err.message)
    local model = small()
    err = tiny.failure(pl.strategies.beam_search, model, { 1 }, { num_beam = 3 })
    assert.is_truthy(err.message:find("num_beams", 1, true), err.message)
    err = tiny.failure(pl.strategies.sample, model, { 1 }, { temperature = 1 })
    assert.is_truthy(err.message:find("'temp'", 1, true), err.message)
    for name, value in pairs({ num_beams = 0, length_penalty = "x", early_stopping = "no", num_beam_groups = 3,
      num_return_sequences = 9, force_words_ids = {}, max_new_tokens = -1, seed = "x" }) do
      err = tiny.failure(pl.strategies.beam_search, model, { 1 }, { [name] = value })
      assert.is_truthy(err.message:find(name, 1, true), err.message)
    end
    assert.are.equal("argument", tiny.failure(pl.strategies.sample, model, {}).kind)
    local found = model:complete({ 1 }, { strategy = "beam_search", num_beams = 2, max_new_tokens = 3 })
    assert.are.equal(3, #found.sequences[1].ids)
    assert.is_truthy(tiny.failure(model.complete, model, { 1 }, { strategy = "bean_search" }).message:find("beam"))
    err = tiny.failure(model.complete, model, { 1 }, { num_beams = 2 })
    assert.is_truthy(err.message:find('strategy = "beam_search"', 1, true), err.message)
    local bert = tiny.model(pl, { causal = false })
    assert.are.equal("unsupported", tiny.failure(pl.strategies.sample, bert, "x").kind)
  end)
end)

describe("sample", function()
  local model = tiny.model(pl)

  it("gives what complete gives", function()
    for _, opts in ipairs({ { temp = 0 }, { seed = 3 }, { seed = 4, temp = 0.7, top_k = 40, stop = "t" },
      { seed = 5, chain = { { top_p = 0.9 }, "dist" } }, { seed = 7, xtc_probability = 0.5, xtc_threshold = 0.01 },
      { seed = 6, chain = { { "penalties", penalty_repeat = 1.5, penalty_last_n = 8 },
        { "min_new_tokens", min_new_tokens = 6 }, "dist" } } }) do
      opts.max_new_tokens = 20
      local one, two = model:complete("the in", opts), pl.strategies.sample(model, "the in", opts)
      opts.seed = opts.seed or 1
      assert.are.same(one.text, two.text)
      assert.are.equal(one.finish_reason, two.finish_reason)
      assert.are.equal(one.n_prompt, two.n_prompt)
    end
  end)

  it("gives in a batch what it gives alone, in one pass a step", function()
    local prompts = { "the in", "then", "er", "in the in the", "x" }
    local opts = { max_new_tokens = 12, seed = 9, temp = 0.9 }
    local before = model.default_session:counters().passes
    local together = pl.batch(model, prompts, opts)
    assert.is_true(model.default_session:counters().passes - before <= 12)
    for i, prompt in ipairs(prompts) do
      local alone = model:complete(prompt, opts)
      assert.are.same(alone.ids, together[i].ids)
      assert.are.equal(alone.text, together[i].text)
    end
  end)

  it("keeps to a grammar, as every strategy does", function()
    local words = { yes = true, ["in the"] = true, [" then"] = true }
    local opts = { grammar = 'root ::= "yes" | "in the" | " then"', max_new_tokens = 10, seed = 2 }
    for seed = 1, 5 do
      opts.seed = seed
      local found, expected = pl.strategies.sample(model, "er", opts), model:complete("er", opts)
      assert.are.equal(expected.text, found.text)
      assert.are.equal(expected.finish_reason, found.finish_reason)
    end
    opts.regex, opts.grammar, opts.num_beams, opts.num_return_sequences = "yes|in the| then", nil, 8, 3
    local found = pl.strategies.beam_search(model, "er", opts)
    assert.are.equal(3, #found.sequences)
    for _, one in ipairs(found.sequences) do
      assert.is_true(words[one.text], one.text)
      assert.are.equal("grammar", one.finish_reason)
    end
    opts.num_beams, opts.num_return_sequences = nil, nil
    opts.assistant_model = tiny.model(pl, { n_layers = 1 })
    assert.is_truthy(pl.strategies.speculative(model, "er", opts).text:find("^[yi ]"))
    local err = tiny.failure(pl.strategies.sample, model, "er", { mirostat = 2 })
    assert.is_truthy(err.message:find("mirostat", 1, true), err.message)
  end)

  it("ends at Ctrl-C with what there is", function()
    local n = 0
    local found = pl.strategies.sample(model, "x", { max_new_tokens = 9, seed = 1, ignore_eos = true,
      sampler = function()
        n = n + 1
        if n == 4 then error({ kind = "interrupted", message = "interrupted" }) end
      end })
    assert.are.equal("interrupted", found.finish_reason)
    assert.are.equal(3, found.n_new)
    local err = tiny.failure(pl.strategies.best_of_n, model, "x", { on_step = print })
    assert.are.equal("unsupported", err.kind)
  end)

  it("holds back what may begin a stop string, and frees all", function()
    local words, pieces = model:encode("in the erx then"):to_table(), {}
    local result = pl.strategies.sample(model, "x", { stop = "erx then", max_new_tokens = 40, temp = 0,
      sampler = function(logits, ctx)
        logits:fill_(-math.huge)
        logits[words[ctx.n + 1]] = 0
      end,
      on_step = function(piece) pieces[#pieces + 1] = piece end })
    assert.are.equal("in the ", table.concat(pieces))
    assert.are.equal("in the ", result.text)
    assert.are.equal("stop", result.finish_reason)
    assert.is_false((pcall(pl.strategies.sample, model, "x", { sampler = function() error("mine") end })))
  end)
end)

describe("beam_search", function()
  it("finds what trying everything finds", function()
    for seed = 1, 3 do
      local model = small({ seed = seed, d_vocab = 5 })
      local expected = exhaust(model, { 1, 2 }, 4, 4)
      for _, length_penalty in ipairs({ 0, 1, 2 }) do
        local best = best_of(expected, length_penalty)
        local found = pl.strategies.beam_search(model, { 1, 2 }, { num_beams = 340, num_return_sequences = 10,
          length_penalty = length_penalty, early_stopping = "never", max_new_tokens = 4, stop_token_ids = 4 })
        assert.are.same(best.ids, found.ids)
        assert.are.equal(best.length == 4 and found.finish_reason or "stop", found.finish_reason)
        for i = 1, 10 do
          near(expected[i].score, found.scores[i])
          near(expected[i].sum, found.sequences[i].sum_logprobs)
        end
      end
    end
  end)

  -- Beam search by the definition, over whole forward passes: the texts held at the end, the best first.
  local function by_definition(model, prompt, n_beams, n_tokens, length_penalty, early, eos)
    local beams, held = { { ids = {}, sum = 0 } }, {}
    local function hold(ids, sum, length)
      held[#held + 1] = { ids = ids, score = sum / length ^ length_penalty }
      table.sort(held, function(a, b) return a.score > b.score end)
      held[n_beams + 1] = nil
    end
    for n = 1, n_tokens do
      local all = {}
      for _, beam in ipairs(beams) do
        local text = table.move(beam.ids, 1, #beam.ids, #prompt + 1, table.move(prompt, 1, #prompt, 1, {}))
        for id, log_p in ipairs(model:forward(text)[-1]:log_softmax():to_table()) do
          all[#all + 1] = { id = id - 1, ids = beam.ids, sum = beam.sum + log_p }
        end
      end
      table.sort(all, function(a, b) return a.sum > b.sum end)
      beams = {}
      for rank, one in ipairs(all) do
        if one.id == eos and rank <= n_beams then
          hold(one.ids, one.sum, n)
        elseif one.id ~= eos and #beams < n_beams then
          local ids = table.move(one.ids, 1, #one.ids, 1, {})
          ids[#ids + 1] = one.id
          beams[#beams + 1] = { ids = ids, sum = one.sum }
        end
      end
      local length = early == "never" and length_penalty > 0 and n_tokens or n
      if #held == n_beams and (early == true or held[n_beams].score >= beams[1].sum / length ^ length_penalty) then
        return held, n
      end
    end
    for _, beam in ipairs(beams) do hold(beam.ids, beam.sum, #beam.ids) end
    return held, n_tokens
  end

  it("keeps and stops as it is defined, however early", function()
    local steps = {}
    for seed = 1, 8 do
      local model = small({ seed = seed, std = 0.3 })
      for _, early in ipairs({ false, true, "never" }) do
        for _, length_penalty in ipairs({ -1, 0, 1.5 }) do
          local expected, n = by_definition(model, { 1, 2 }, 3, 7, length_penalty, early, 5)
          local taken = 0
          local found = pl.strategies.beam_search(model, { 1, 2 }, { num_beams = 3, num_return_sequences = 3,
            max_new_tokens = 7, length_penalty = length_penalty, early_stopping = early, stop_token_ids = 5,
            on_step = function() taken = taken + 1 end })
          assert.are.equal(n, taken)
          steps[tostring(early)] = (steps[tostring(early)] or 0) + n
          for i = 1, 3 do
            assert.are.same(expected[i].ids, found.sequences[i].ids)
            near(expected[i].score, found.scores[i])
          end
        end
      end
    end
    assert.is_true(steps["true"] < steps["false"] and steps["false"] < steps["never"])
  end)

  it("is greedy with one beam, and never worse with more", function()
    local model = tiny.model(pl)
    local opts = { max_new_tokens = 10, ignore_eos = true }
    local greedy = model:complete("the", { max_new_tokens = 10, temp = 0, ignore_eos = true })
    opts.num_beams = 1
    local one = pl.strategies.beam_search(model, "the", opts)
    assert.are.same(greedy.ids, one.ids)
    assert.are.equal(greedy.text, one.text)
    opts.num_beams = 8
    assert.is_true(pl.strategies.beam_search(model, "the", opts).scores[1] >= one.scores[1] - 1e-6)
  end)

  it("gives the same again, in a batch too, and closes all it opened", function()
    local model = tiny.model(pl)
    local prompts = { "the in", "then", "er" }
    for _, more in ipairs({ {}, { num_beam_groups = 2, diversity_penalty = 0.7 }, { do_sample = true, seed = 4 },
      { force_words_ids = { " the", "er" } } }) do
      local opts = { strategy = "beam_search", num_beams = 4, num_return_sequences = 4, max_new_tokens = 8 }
      for key, value in pairs(more) do opts[key] = value end
      local together = pl.batch(model, prompts, opts)
      opts.strategy = nil
      for i, prompt in ipairs(prompts) do
        local alone = pl.strategies.beam_search(model, prompt, opts)
        assert.are.same(alone.ids, together[i].ids)
        assert.are.same(alone.scores, together[i].scores)
        assert.is_true(#alone.sequences == 4 or more.force_words_ids ~= nil)
      end
    end
  end)

  it("takes one pass a step, and computes nothing twice", function()
    local model = tiny.model(pl)
    for _, more in ipairs({ {}, { num_beam_groups = 3 }, { force_words_ids = { "er" } }, { do_sample = true } }) do
      local opts = { num_beams = 6, max_new_tokens = 9, ignore_eos = true }
      for key, value in pairs(more) do opts[key] = value end
      local before = model.default_session:counters()
      pl.strategies.beam_search(model, "the in er", opts)
      local after = model.default_session:counters()
      assert.are.equal(9, after.passes - before.passes)
      assert.is_true(after.rows - before.rows <= #model:encode("the in er") + 8 * 6)
    end
  end)

  it("scores as the model does", function()
    local model = tiny.model(pl)
    local found = pl.strategies.beam_search(model, "in", { num_beams = 3, num_return_sequences = 3,
      length_penalty = 0.5, max_new_tokens = 6, ignore_eos = true })
    local prompt = model:encode("in"):to_table()
    for _, one in ipairs(found.sequences) do
      local all = table.move(one.ids, 1, #one.ids, #prompt + 1, table.move(prompt, 1, #prompt, 1, {}))
      local p, sum = model:forward(all):log_softmax(), 0
      for i, id in ipairs(one.ids) do sum = sum + p[#prompt + i - 2][id] end
      near(sum, one.sum_logprobs)
      near(sum / (#one.ids) ^ 0.5, one.score)
    end
  end)

  it("keeps groups apart", function()
    local model = tiny.model(pl)
    local opts = { num_beams = 4, num_beam_groups = 4, diversity_penalty = 1000, num_return_sequences = 4,
      max_new_tokens = 1, ignore_eos = true }
    local found, first = pl.strategies.beam_search(model, "in", opts), {}
    for _, one in ipairs(found.sequences) do first[one.ids[1]] = true end
    local n = 0
    for _ in pairs(first) do n = n + 1 end
    assert.are.equal(4, n)
    opts.diversity_penalty, opts.max_new_tokens = 0, 5
    found = pl.strategies.beam_search(model, "in", opts)
    for _, one in ipairs(found.sequences) do assert.are.same(found.ids, one.ids) end
  end)

  it("puts the phrases in, in the best way there is", function()
    local model = small({ seed = 3 })
    local function holds(ids, phrase)
      return (" " .. table.concat(ids, " ") .. " "):find(" " .. table.concat(phrase, " ") .. " ", 1, true) ~= nil
    end
    local expected = exhaust(model, { 1, 2 }, 4, 5)
    for _, forced in ipairs({ { { 3 } }, { { 0, 4 } }, { { 3 }, { 4, 0 } }, { { { 0, 0, 1 }, { 4, 4 } } } }) do
      local fitting = {}
      for _, text in ipairs(expected) do
        local good = true
        for _, phrase in ipairs(forced) do
          local any = false
          for _, one in ipairs(type(phrase[1]) == "table" and phrase or { phrase }) do
            any = any or holds(text.ids, one)
          end
          good = good and any
        end
        if good then fitting[#fitting + 1] = text end
      end
      local found = pl.strategies.beam_search(model, { 1, 2 }, { num_beams = 1300, force_words_ids = forced,
        early_stopping = "never", max_new_tokens = 4, stop_token_ids = 5 })
      assert.are.same(best_of(fitting, 1).ids, found.ids)
      assert.is_true(found.constraints_met)
      local few = pl.strategies.beam_search(model, { 1, 2 }, { num_beams = 4, force_words_ids = forced,
        max_new_tokens = 4, stop_token_ids = 5 })
      assert.is_true(few.constraints_met)
    end
    local none = pl.strategies.beam_search(model, { 1, 2 }, { force_words_ids = { { 1, 2, 3 } }, max_new_tokens = 2 })
    assert.is_false(none.constraints_met)
  end)

  it("draws beams by their probability", function()
    local model = small({ seed = 2 })
    local p = model:forward({ 1 })[-1]:softmax():to_table()
    local counts, n, chi = {}, 800, 0
    for seed = 1, n do
      local found = pl.strategies.beam_search(model, { 1 }, { num_beams = 1, do_sample = true, max_new_tokens = 1,
        seed = seed })
      counts[found.ids[1]] = (counts[found.ids[1]] or 0) + 1
    end
    for id = 0, 5 do chi = chi + ((counts[id] or 0) - n * p[id + 1]) ^ 2 / (n * p[id + 1]) end
    assert.is_true(chi < 20.5, chi) -- five degrees of freedom: one in a thousand is above
    local found = pl.strategies.beam_search(model, { 1 }, { num_beams = 4, do_sample = true, max_new_tokens = 1,
      num_return_sequences = 4, seed = 1 })
    local seen = {}
    for _, one in ipairs(found.sequences) do
      assert.is_nil(seen[one.ids[1]])
      seen[one.ids[1]] = true
    end
  end)
end)

describe("strategies that contrast", function()
  local large, bad = tiny.model(pl), tiny.model(pl, { n_layers = 1, seed = 9 })
  local prompt = large:encode("the in then"):to_table()

  -- Greedy ids by scores(all ids so far), computed from whole forward passes.
  local function greedy(scores, n)
    local all, ids = table.move(prompt, 1, #prompt, 1, {}), {}
    for i = 1, n do
      ids[i] = math.tointeger(scores(all):argmax())
      all[#all + 1] = ids[i]
    end
    return ids
  end

  it("are what their formulas say: guidance", function()
    local negative = large:encode("x in"):to_table()
    local added = 0
    local expected = greedy(function(all)
      local other = table.move(all, #prompt + 1, #all, #negative + 1, table.move(negative, 1, #negative, 1, {}))
      added = added + 1
      local p, q = large:forward(all)[-1]:log_softmax(), large:forward(other)[-1]:log_softmax()
      return q + (p - q) * 2.5
    end, 8)
    local opts = { guidance_scale = 2.5, negative_prompt = "x in", temp = 0, max_new_tokens = 8, ignore_eos = true }
    assert.are.same(expected, pl.strategies.classifier_free_guidance(large, prompt, opts).ids)
    local plain = { guidance_scale = 1, seed = 3, max_new_tokens = 8, ignore_eos = true }
    assert.are.same(large:complete(prompt, { seed = 3, max_new_tokens = 8, ignore_eos = true }).ids,
      pl.strategies.classifier_free_guidance(large, prompt, plain).ids)
  end)

  it("are what their formulas say: contrastive decoding", function()
    local expected = greedy(function(all)
      local p, q = large:forward(all)[-1]:log_softmax(), (bad:forward(all)[-1] / 0.5):log_softmax()
      return (p - q):masked_fill(p:lt(p:max() + math.log(0.2)), -math.huge)
    end, 8)
    assert.are.same(expected, pl.strategies.contrastive_decoding(large, prompt, { amateur_model = bad, alpha = 0.2,
      amateur_temp = 0.5, temp = 0, max_new_tokens = 8, ignore_eos = true }).ids)
    assert.are.equal("argument", tiny.failure(pl.strategies.contrastive_decoding, large, prompt).kind)
  end)

  it("are what their formulas say: DoLa", function()
    for _, arch in ipairs({ "gpt2", "llama" }) do
      local model, n = tiny.model(pl, { arch = arch, n_layers = 4, seed = 2 }), 0
      local layers = {}
      local expected = greedy(function(all)
        local logits, cache = model:run_with_cache(all)
        local p, farthest, found = logits[-1]:log_softmax(), -1, nil
        for _, layer in ipairs({ 0, 1, 3 }) do
          local stream = cache[("blocks.%d.hook_resid_pre"):format(layer)]
          local q = pl.analysis.unembed(model, stream:narrow(0, #all - 1, 1))[0]:log_softmax()
          local middle = (p:exp() + q:exp()) / 2
          local distance = p:exp():kl_div(middle) + q:exp():kl_div(middle)
          if distance > farthest then farthest, found, layers[n + 1] = distance, q, layer end
        end
        n = n + 1
        return (p - found):masked_fill(p:lt(p:max() + math.log(0.1)), -math.huge)
      end, 6)
      local found = pl.strategies.dola(model, prompt, { dola_layers = { 0, 1, 3 }, temp = 0, max_new_tokens = 6,
        ignore_eos = true })
      assert.are.same(expected, found.ids)
      assert.are.same(layers, found.layers)
      for _, which in ipairs({ "low", "high", 2 }) do
        assert.are.equal(6, pl.strategies.dola(model, prompt, { dola_layers = which, max_new_tokens = 6,
          ignore_eos = true }).n_new)
      end
      assert.is_truthy(tiny.failure(pl.strategies.dola, model, prompt, { dola_layers = 4 }).message:find("0 to 3"))
      assert.are.equal(0, #model:hooks())
    end
  end)

  it("are what their formulas say: contrastive search", function()
    for _, fields in ipairs({ { arch = "gpt2" }, { arch = "llama" }, { norm_final = false } }) do
      local model = tiny.model(pl, fields)
      local final = fields.norm_final == nil and "ln_final.hook_normalized" or "blocks.1.hook_resid_post"
      local function hidden(all)
        local _, cache = model:run_with_cache(all, { final })
        local h = cache[final]
        return fields.arch == "llama" and h * model.ln_final_w or h
      end
      local expected = greedy(function(all)
        local p, ids = model:forward(all)[-1]:softmax():topk(5)
        local scores = pl.full({ model.config.d_vocab }, -math.huge)
        for i = 0, 4 do
          local longer = table.move(all, 1, #all, 1, {})
          longer[#longer + 1] = ids[i]
          local h, most = hidden(longer), -1
          for j = 0, #all - 1 do most = math.max(most, h[#all]:cosine(h[j])) end
          scores[ids[i]] = (1 - 0.55) * p[i] - 0.55 * most
        end
        return scores
      end, 6)
      local found = pl.strategies.contrastive_search(model, prompt, { penalty_alpha = 0.55, top_k = 5,
        max_new_tokens = 6, ignore_eos = true })
      assert.are.same(expected, found.ids)
    end
    local plain = pl.strategies.contrastive_search(large, prompt, { penalty_alpha = 0, max_new_tokens = 100,
      ignore_eos = true })
    assert.are.same(large:complete(prompt, { temp = 0, max_new_tokens = 100, ignore_eos = true }).ids, plain.ids)
  end)

  it("work in a batch", function()
    local prompts = { "the in", "er", "in the in" }
    for name, opts in pairs({ classifier_free_guidance = { negative_prompt = "x" }, dola = {},
      contrastive_decoding = { amateur_model = bad }, contrastive_search = { top_k = 3 } }) do
      opts.max_new_tokens, opts.seed, opts.strategy = 6, 4, name
      local together = pl.batch(large, prompts, opts)
      for i, one in ipairs(prompts) do assert.are.same(large:complete(one, opts).ids, together[i].ids) end
    end
  end)
end)

-- Chi-square of how often each text came against its probability, and the degrees of freedom.
local function chi_square(texts, counts, n)
  local chi, cells, rest, rest_expected = 0, 0, 0, 0
  for _, text in ipairs(texts) do
    local expected, found = n * math.exp(text.sum), counts[table.concat(text.ids, " ") .. "/" .. text.length] or 0
    if expected >= 5 then
      chi, cells = chi + (found - expected) ^ 2 / expected, cells + 1
    else
      rest, rest_expected = rest + found, rest_expected + expected
    end
  end
  if rest_expected > 0 then chi, cells = chi + (rest - rest_expected) ^ 2 / rest_expected, cells + 1 end
  return chi, cells - 1
end

-- Wilson and Hilferty's cube root: whether a chi-square is one that chance gives but once in 3,000.
local function too_large(chi, freedom)
  local z = ((chi / freedom) ^ (1 / 3) - (1 - 2 / (9 * freedom))) / math.sqrt(2 / (9 * freedom))
  return z > 3.4
end

describe("speculation", function()
  local model, other = small({ seed = 3 }), small({ seed = 8, n_layers = 1 })

  local function check_distribution(name, opts, prompt)
    local texts, counts, n = exhaust(model, prompt, 3, 5, opts.temp), {}, 1000
    opts.max_new_tokens, opts.stop_token_ids = 3, 5
    for seed = 1, n do
      opts.seed = seed
      local found = pl.strategies[name](model, prompt, opts)
      local length = #found.ids + (found.finish_reason == "stop" and 1 or 0)
      local key = table.concat(found.ids, " ") .. "/" .. length
      counts[key] = (counts[key] or 0) + 1
    end
    local chi, freedom = chi_square(texts, counts, n)
    assert.is_false(too_large(chi, freedom), ("chi-square %g, %d degrees of freedom"):format(chi, freedom))
  end

  it("draws from the model's own distribution, whatever drafts", function()
    check_distribution("speculative", { assistant_model = other, num_assistant_tokens = 3 }, { 1, 2 })
    check_distribution("speculative", { assistant_model = other, num_assistant_tokens = 2, temp = 2 }, { 1, 2 })
    check_distribution("prompt_lookup", { prompt_lookup_num_tokens = 3 }, { 1, 2, 0, 1, 2 })
  end)

  it("would notice another distribution", function()
    local texts, counts = exhaust(model, { 1, 2 }, 3, 5), {}
    for seed = 1, 300 do
      local found = pl.strategies.sample(other, { 1, 2 }, { max_new_tokens = 3, stop_token_ids = 5, seed = seed })
      local length = #found.ids + (found.finish_reason == "stop" and 1 or 0)
      local key = table.concat(found.ids, " ") .. "/" .. length
      counts[key] = (counts[key] or 0) + 1
    end
    assert.is_true(too_large(chi_square(texts, counts, 300)))
  end)

  it("is the greedy text, token for token", function()
    local large = tiny.model(pl)
    for seed = 1, 4 do
      local draft = tiny.model(pl, { n_layers = 1, seed = seed == 1 and 5 or seed })
      for _, prompt in ipairs({ "the in the in", "x", "then er then" }) do
        local greedy = large:complete(prompt, { temp = 0, max_new_tokens = 24, ignore_eos = true })
        for _, opts in ipairs({ { assistant_model = draft }, { assistant_model = draft, num_assistant_tokens = 1 },
          { assistant_model = draft, num_assistant_tokens_schedule = "heuristic" } }) do
          opts.temp, opts.max_new_tokens, opts.ignore_eos = 0, 24, true
          assert.are.same(greedy.ids, pl.strategies.speculative(large, prompt, opts).ids)
        end
        assert.are.same(greedy.ids, pl.strategies.prompt_lookup(large, prompt, { temp = 0, max_new_tokens = 24,
          ignore_eos = true }).ids)
      end
    end
  end)

  it("keeps all that the model itself drafts, in fewer passes", function()
    local twin = small({ seed = 3, n_ctx = 16 })
    local found = pl.strategies.speculative(model, { 1, 2 }, { assistant_model = twin, num_assistant_tokens = 4,
      max_new_tokens = 10, seed = 2 })
    assert.are.equal(1, found.acceptance)
    assert.are.equal(2, found.n_passes)
    assert.are.equal(10, found.n_new)
  end)

  it("gives the same text as without, where tokens are looked up", function()
    local large = tiny.model(pl, { std = 0.8 })
    local prompt, accepted = "the in the in the er in the in", 0
    for seed = 1, 8 do
      local opts = { seed = seed, max_new_tokens = 40, ignore_eos = true, top_k = 3 }
      local found = pl.strategies.prompt_lookup(large, prompt, opts)
      assert.are.same(large:complete(prompt, opts).ids, found.ids)
      accepted = accepted + found.n_accepted
      assert.is_true(found.n_passes <= 40)
    end
    assert.is_true(accepted > 0)
  end)

  it("runs to the end of the context, and says what is wrong with a draft model", function()
    local short = small({ seed = 8, n_ctx = 6 })
    local found = pl.strategies.speculative(model, { 1, 2 }, { assistant_model = short, temp = 0 })
    assert.are.same(model:complete({ 1, 2 }, { temp = 0 }).ids, found.ids)
    assert.are.equal(14, found.n_new)
    local err = tiny.failure(pl.strategies.speculative, model, { 1 }, { assistant_model = small({ d_vocab = 7 }) })
    assert.is_truthy(err.message:find("7 tokens", 1, true), err.message)
    assert.are.equal("argument", tiny.failure(pl.strategies.speculative, model, { 1 }).kind)
  end)

  it("works in a batch", function()
    local prompts = { { 1, 2 }, { 3 }, { 4, 4, 4 } }
    local opts = { strategy = "speculative", assistant_model = other, max_new_tokens = 8, seed = 5 }
    local together = pl.batch(model, prompts, opts)
    opts.strategy = nil
    for i, prompt in ipairs(prompts) do
      assert.are.same(pl.strategies.speculative(model, prompt, opts).ids, together[i].ids)
    end
  end)
end)
