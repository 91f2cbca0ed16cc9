local pl = require "perilune"
local tiny = dofile "tests/lua/tiny.lua"

local scratch = require "tests.lua.scratch"(teardown)

-- The path of a vocab.txt, whose lines are the ids.
local words = { "[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "the", "cat", "sat", "on", "mat", "##s", "." }
local function vocabulary() return scratch.write("vocab.txt", table.concat(words, "\n") .. "\n") end

local function model_of(fields, opts)
  local description = { arch = "bert", n_layers = 2, d_model = 16, n_heads = 4, n_ctx = 16, seed = 2,
    std = 0.5, pooler = true, tokenizer = vocabulary() }
  for key, value in pairs(fields or {}) do description[key] = value end
  return pl.new_model(description, opts or { threads = 1, kv = "f32", precision = "exact" })
end
local bare = { headless = true, norm_final = false, unembed_dense = false, unembed_bias = false, tied = false }

local function near(a, b, tolerance)
  assert.are.same({ table.unpack(a.shape) }, { table.unpack(b.shape) })
  local gap = (a - b):abs():max()
  assert.is_true(gap < (tolerance or 1e-5), ("differs by %g"):format(gap))
end

describe("an encoder", function()
  it("gives logits for every position, which see the whole text", function()
    local model = model_of()
    assert.are.same({ 2, 5, 6, 3 }, model:encode("The cat"):to_table())
    local a, b = model:forward({ 2, 5, 6, 3 }), model:forward({ 2, 5, 7, 3 })
    assert.are.same({ 4, #words }, { table.unpack(a.shape) })
    assert.is_false(tiny.same(a[0], b[0]))
  end)

  it("works out the same as its formulas", function()
    local model = model_of()
    local logits, cache = model:run_with_cache("the cat sat")
    local x = cache["blocks.1.ln2.hook_normalized"]
    local hidden = (pl.matmul(x, model.W_dense) + model.b_dense):gelu()
    local mean = hidden:mean(1, { keepdim = true })
    local var = (hidden - mean):square():mean(1, { keepdim = true })
    local normed = (hidden - mean) / (var + model.config.norm_eps):sqrt() * model.ln_final_w + model.ln_final_b
    near(cache["ln_final.hook_normalized"], normed, 1e-4)
    near(logits, pl.matmul(normed, model.W_U) + model.b_U, 1e-4)
    near(cache["hook_token_type_embed"][0], model.W_token_type[0])
    near(model:forward("the cat sat", { stop_at_layer = 2 }), x)
  end)

  it("takes kinds of tokens", function()
    local model = model_of()
    local ids, types = model:encode_pair("the cat", "sat")
    assert.are.same({ 2, 5, 6, 3, 7, 3 }, ids:to_table())
    assert.are.same({ 0, 0, 0, 0, 1, 1 }, types)
    local typed = model:forward(ids, { types = types })
    assert.is_false(tiny.same(typed, model:forward(ids)))
    assert.is_true(tiny.same(model:forward(ids), model:forward(ids, { types = { 0, 0, 0, 0, 0, 0 } })))
    local _, cache = model:run_with_cache(ids, "token_type_embed", { types = types })
    near(cache["hook_token_type_embed"][5], model.W_token_type[1])
    local several = model:run_with_hooks({ ids, ids }, {}, { types = { types } })
    assert.is_true(tiny.same(typed, several[1]))
    local seq = model:sequence()
    assert.is_true(tiny.same(typed[-1], seq:extend(ids, { types = pl.tensor(types, { dtype = "i32" }) })))
    assert.is_truthy(tiny.failure(model.forward, model, ids, { types = { 0 } }).message:find("1 of them for 6"))
    assert.is_truthy(tiny.failure(model.forward, model, { 2 }, { types = { 2 } }).message:find("token type 2"))
    assert.is_truthy(tiny.failure(model.forward, model, { 2 }, { types = 0 }).message:find("types is a number"))
    local gpt = tiny.model(pl)
    assert.is_truthy(tiny.failure(gpt.forward, gpt, { 2 }, { types = { 0 } }).message:find("no kinds"))
  end)

  it("reads a text in one call", function()
    local seq = model_of():sequence()
    seq:extend("the cat")
    local err = tiny.failure(seq.extend, seq, "sat")
    assert.are.equal("state", err.kind)
    assert.is_truthy(err.message:find("in one call", 1, true))
    assert.are.equal(4, seq.length)
    seq:truncate(0):extend("sat")
    assert.are.equal(3, seq.length)
  end)

  it("makes vectors of texts", function()
    local model = model_of(bare)
    local texts = { "the cat sat on the mats.", "cat", { "the cat", "sat" } }
    local rows = model:forward(texts[1], { stop_at_layer = 2 })
    local mean, first = rows:mean(0), rows[0]
    local all = model:encode_text(texts)
    assert.are.same({ 3, 16 }, { table.unpack(all.shape) })
    near(all[0], mean / mean:norm())
    near(all[1], model:encode_text("cat"))
    near(model:encode_text(texts[1], { pooling = "cls" }), first / first:norm())
    near(model:encode_text(texts[1], { normalize = false }), mean)
    local pooled = model:encode_text(texts[1], { pooling = "pooler", normalize = false })
    near(pooled, (pl.matmul(first, model.W_pool) + model.b_pool):tanh())
    local ids, types = model:encode_pair("the cat", "sat")
    local pair = model:forward(ids, { stop_at_layer = 2, types = types }):mean(0)
    near(all[2], pair / pair:norm())
  end)

  it("refuses or cuts what is longer than its context", function()
    local model = model_of()
    local long = ("cat "):rep(40)
    assert.is_truthy(tiny.failure(model.encode_text, model, long).message:find("n_ctx", 1, true))
    near(model:encode_text(long, { truncate = true }), model:encode_text(("cat "):rep(14)))
    near(model:encode_text({ { "the", long } }, { truncate = true })[0],
      model:encode_text({ { "the", ("cat "):rep(12) } })[0])
  end)

  it("fills masks", function()
    local model = model_of()
    local choices = model:fill_mask("the [MASK] sat.", { k = 3 })
    assert.are.equal(3, #choices)
    local probs = model:forward("the [MASK] sat.")[2]:softmax()
    assert.are.equal(math.tointeger(probs:argmax()), choices[1].id)
    assert.are.equal(words[choices[1].id + 1], choices[1].piece)
    assert.is_true(math.abs(probs[choices[2].id] - choices[2].prob) < 1e-6)
    assert.is_true(choices[1].prob >= choices[2].prob and choices[2].prob >= choices[3].prob)
    for _, choice in ipairs(model:fill_mask("the [MASK] sat.", { k = #words })) do
      if choice.piece == "cat" then assert.are.equal("the cat sat.", choice.text) end
      if choice.piece == "##s" then assert.are.equal("thes sat.", choice.text) end
    end
    local both = model:fill_mask("[MASK] cat [MASK]")
    assert.are.same({ 2, 5, 5 }, { #both, #both[1], #both[2] })
  end)

  it("says what it lacks", function()
    local model, gpt = model_of(bare), tiny.model(pl)
    local function message(...) return tiny.failure(...).message end
    assert.is_truthy(message(model.forward, model, "cat"):find("this model has no output matrix", 1, true))
    assert.is_truthy(message(model.fill_mask, model, "[MASK]"):find("no output matrix", 1, true))
    local rows, cache = model:run_with_cache("the cat")
    near(rows, cache["blocks.1.ln2.hook_normalized"])
    assert.is_truthy(message(model.fill_mask, model_of(), "the cat"):find("the text has no [MASK]", 1, true))
    assert.is_truthy(message(model.fill_mask, model_of(), "[MASK]", { k = 99 }):find("expected 1 to 12"))
    assert.is_truthy(message(gpt.fill_mask, gpt, "cat"):find("no mask token"))
    assert.is_truthy(message(gpt.encode_text, gpt, "cat"):find("left to right"))
    assert.is_truthy(message(model.encode_text, model, {}):find("empty list"))
    assert.is_truthy(message(model.encode_text, model, { 5 }):find("expected a text"))
    assert.is_truthy(message(model.encode_text, model, { { "a" } }):find("a pair has two"))
    assert.is_truthy(message(model.encode_text, model, "a", { pooling = "max" }):find("mean, cls or pooler"))
    local plain = model_of({ pooler = false })
    assert.is_truthy(message(plain.encode_text, plain, "a", { pooling = "pooler" }):find("has no pooler"))
  end)

  it("shows and takes edits at the usual points", function()
    local model = model_of()
    local plain = model:forward("the cat sat")
    local edited = model:run_with_hooks("the cat sat", {
      { "blocks.0.hook_attn_out", function(act) act[1]:zero_() end },
    })
    assert.is_false(tiny.same(plain, edited))
    local _, cache = model:run_with_cache("the cat sat")
    near(cache["blocks.0.attn.hook_pattern"]:sum(2), pl.ones(4, 5))
    near(cache["blocks.1.hook_resid_pre"], cache["blocks.0.ln2.hook_normalized"])
  end)

  it("is looked at through its own head", function()
    for _, activation in ipairs({ "gelu", "gelu_new", "silu", "relu", "tanh", "sigmoid" }) do
      local model = model_of({ activation = activation })
      local logits, cache = model:run_with_cache("the cat sat")
      local lens, labels = pl.analysis.logit_lens(model, cache)
      assert.are.same({ "0_pre", "1_pre", "final_post" }, labels)
      near(lens[2], logits, 1e-4)
      local function refused(fn, ...)
        local err = tiny.failure(fn, ...)
        assert.are.equal("unsupported", err.kind)
      end
      refused(pl.analysis.decompose_resid, model, cache)
      refused(pl.analysis.logit_attrs, model, cache, cache["hook_embed"]:unsqueeze(0), 5)
    end
  end)

  it("is saved and loaded again, with or without its head, in any form", function()
    local exact = { threads = 1, kv = "f32", precision = "exact" }
    for _, arch in ipairs({ "bert", "distilbert" }) do
      for i, fields in ipairs({ {}, bare, { tied = false } }) do
        local description = { arch = arch, d_model = 32, pooler = arch == "bert" }
        for key, value in pairs(fields) do description[key] = value end
        local model = model_of(description)
        local text, vector = "the [MASK] sat on the mats.", model:encode_text("the cat sat on the mats.")
        for _, name in ipairs({ "saved.gguf", "small.gguf", arch .. i }) do
          local path = scratch.at(name)
          model:save(path, name == "small.gguf" and { dtype = "q8_0" } or nil)
          local again = pl.load(path, exact)
          near(again:encode_text("The cat sat on the mats."), vector, name == "small.gguf" and 0.05 or 1e-6)
          assert.are.same(model:encode(text):to_table(), again:encode(text):to_table())
          assert.are.equal(model.config.headless, again.config.headless)
          if not model.config.headless and name ~= "small.gguf" then
            near(again:forward(text), model:forward(text), 1e-6)
            assert.are.equal(model:fill_mask(text)[1].text, again:fill_mask(text)[1].text)
          end
        end
      end
    end
  end)

  it("pools as its files say", function()
    local exact = { threads = 1, kv = "f32", precision = "exact" }
    local model = model_of({ pooling = "cls" })
    local vector = model:encode_text("the cat sat")
    near(vector, model:encode_text("the cat sat", { pooling = "cls" }))
    assert.is_false(tiny.same(vector, model:encode_text("the cat sat", { pooling = "mean" })))
    for _, name in ipairs({ "pooled.gguf", "pooled" }) do
      model:save(scratch.at(name))
      local again = pl.load(scratch.at(name), exact)
      assert.are.equal("cls", again.config.pooling)
      near(again:encode_text("the cat sat"), vector, 1e-6)
    end
    scratch.write("pooled/1_Pooling/config.json",
      '{"pooling_mode_max_tokens": true, "pooling_mode_mean_tokens": false}')
    local max = pl.load(scratch.at "pooled", exact)
    assert.is_truthy(tiny.failure(max.encode_text, max, "cat").message:find("not known here", 1, true))
    near(max:encode_text("the cat sat", { pooling = "cls" }), vector, 1e-6)
    assert.is_truthy(tiny.failure(max.save, max, scratch.at "max.gguf").message:find("pooling", 1, true))
    scratch.write("pooled/1_Pooling/config.json", '{"word_embedding_dimension": 17}')
    assert.is_truthy(tiny.failure(pl.load, scratch.at "pooled").message:find("word_embedding_dimension = 17", 1, true))
  end)

  it("keeps a cased vocabulary of another name", function()
    vocabulary()
    scratch.write("cased.txt", table.concat(words, "\n") .. "\nThe\n")
    local model = model_of({ tokenizer = scratch.at "cased.txt" })
    assert.are.same({ 2, 12, 5, 4, 3 }, model:encode("The the [MASK]"):to_table())
    for _, name in ipairs({ "cased.gguf", "cased" }) do
      model:save(scratch.at(name))
      local again = pl.load(scratch.at(name))
      assert.are.same({ 2, 12, 5, 4, 3 }, again:encode("The the [MASK]"):to_table())
      assert.are.equal(4, again.tokenizer.special.mask)
    end
  end)

  it("equals Hugging Face on its fixture", function()
    local data = os.getenv("PERILUNE_TEST_DATA") or "../shared/data"
    local path = data .. "/fixtures/bert/tiny_bert"
    local file = io.open(path .. "_hidden.json")
    if not file then return pending("needs " .. path .. "_hidden.json") end
    local expected = pl.json.decode(file:read("a"))
    file:close()
    vocabulary()
    local made = scratch.at "hf"
    assert(os.execute(("mkdir -p %s && cp %s.safetensors %s/model.safetensors && cp %s_config.json %s/config.json")
      :format(made, path, made, path, made)))
    local model = pl.load(made, { kv = "f32", precision = "exact" })
    for i, ids in ipairs(expected.sequences) do
      local types = expected.token_types[i]
      local rows = model:forward(ids, { stop_at_layer = 2, types = types })
      near(rows, pl.tensor(expected.hidden[i]), 2e-5)
      local pooled = (pl.matmul(rows[0], model.W_pool) + model.b_pool):tanh()
      near(pooled, pl.tensor(expected.pooler[i]), 2e-5)
    end
  end)
end)
