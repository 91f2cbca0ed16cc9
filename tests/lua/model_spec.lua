local pl = require "perilune"
local tiny = dofile "tests/lua/tiny.lua"

describe("a model", function()
  local scratch = require "tests.lua.scratch"(teardown)

  it("says what it is", function()
    local model = tiny.model(pl)
    local c = model.config
    assert.are.equal(32, c.d_model)
    assert.are.equal(8, c.d_head)
    assert.are.equal(128, c.d_mlp)
    assert.are.equal(262, c.d_vocab)
    assert.are.equal("learned", c.positions)
    assert.is_true(c.tied and c.causal and c.norm_before)
    assert.is_nil(model.path)
    local n = 0
    for _, w in ipairs(model:weights()) do n = n + w.n_params end
    assert.are.equal(model.n_params, n)
    assert.is_truthy(tostring(model):find("gpt2"))
    assert.is_nil(model:find_bad_weight())
  end)

  it("names the nearest field of a description", function()
    local err = tiny.failure(pl.new_model, { n_layer = 2 })
    assert.are.equal("argument", err.kind)
    assert.is_truthy(err.message:find("n_layers", 1, true))
    assert.is_truthy(tiny.failure(pl.new_model, { arch = "gpt3" }).message:find("gpt2", 1, true))
    assert.is_truthy(tiny.failure(tiny.model, pl, { activation = "gelo" }).message:find("gelu", 1, true))
    assert.is_truthy(tiny.failure(tiny.model, pl, { n_layers = "many" }).message:find("whole number"))
    assert.is_truthy(tiny.failure(tiny.model, pl, {}, { treads = 1 }).message:find("threads", 1, true))
    assert.is_truthy(tiny.failure(tiny.model, pl, {}, { precision = "best" }).message:find("exact"))
  end)

  it("names the nearest method", function()
    local err = tiny.failure(function() return tiny.model(pl).forwrd end)
    assert.is_truthy(err.message:find("forward", 1, true))
  end)

  it("builds every shape that a description can say", function()
    for _, fields in ipairs({
      { norm_before = false, norm_after_add = true }, { parallel = true }, { causal = false },
      { arch = "llama", n_kv_heads = 2, qkv_bias = true },
      { dtype = "f16" }, { dtype = "q8_0" },
    }) do
      local logits = tiny.model(pl, fields):forward({ 1, 2, 3 })
      assert.are.same({ 3, 262 }, { table.unpack(logits.shape) })
    end
  end)

  it("encodes and decodes", function()
    local model = tiny.model(pl)
    local text = "then the inner \u{e9} \xff end"
    local ids = model:encode(text)
    assert.are.equal(text, model:decode(ids))
    assert.are.equal(text, model:decode(ids:to_table()))
    assert.are.equal(text, table.concat(model:to_str_tokens(text)))
    assert.are.same({ "the", "Ġthe" }, model:pieces("the the"))
    assert.are.equal(model:encode("the")[0], model:to_single_token("the"))
    assert.is_truthy(tiny.failure(model.to_single_token, model, "xyz").message:find("3"))
  end)

  it("runs stateless passes over text, lists and tensors", function()
    local model = tiny.model(pl)
    local a, b = model:forward("the end"), model:forward(model:encode("the end"))
    assert.is_true(tiny.same(a, b))
    assert.is_true(tiny.same(a, model:forward(model:encode("the end"):to_table())))
    assert.are.equal(0, model:sequence().length)
    local best = model:topk(a[-1], 3)
    assert.are.equal(3, #best)
    assert.is_true(best[1].value >= best[2].value)
  end)

  it("refuses ids and prompts that do not fit, by name", function()
    local model = tiny.model(pl)
    assert.is_truthy(tiny.failure(model.forward, model, { 1, 262 }).message:find("262", 1, true))
    assert.is_truthy(tiny.failure(model.forward, model, { 1, -1 }).message:find("-1", 1, true))
    assert.is_truthy(tiny.failure(model.forward, model, { 1, "x" }).message:find("item 2", 1, true))
    assert.is_truthy(tiny.failure(model.forward, model, { 1.5 }).message:find("item 1", 1, true))
    assert.is_truthy(tiny.failure(model.forward, model, "").message:find("no tokens", 1, true))
    assert.is_truthy(tiny.failure(model.forward, model, ("the "):rep(200)).message:find("n_ctx", 1, true))
    local bare = tiny.model(pl, { tokenizer = false, d_vocab = 50 })
    assert.is_truthy(tiny.failure(bare.forward, bare, "text").message:find("tokenizer", 1, true))
  end)

  -- Gemma 3 of one billion parameters has a token for pictures, but no row for it.
  it("wants a row of the embedding for every token that a text may need", function()
    local folder = scratch.at "rows"
    tiny.model(pl, { tokenizer = false, d_vocab = 3 }):save(folder)
    local function load(added, config)
      scratch.write("rows/tokenizer.json", ([[{"added_tokens": [%s], "model": {"type": "BPE", "unk_token": "?",
        "vocab": {"?": 0, "a": 1, "b": 2%s}, "merges": []}}]]):format(added, config or ""))
      return pl.load(folder)
    end
    local model = load '{"id": 3, "content": "<image>", "special": true}'
    assert.are.same({ 1, 2 }, model:encode("ab"):to_table())
    assert.are.same({ 1, 3 }, model:encode("a<image>"):to_table())
    assert.is_truthy(tiny.failure(model.forward, model, "a<image>").message:find("token id 3", 1, true))
    assert.is_true(#model:complete("a", { max_new_tokens = 4, temp = 0, ignore_eos = true }).text > 0)
    for _, case in ipairs { { '{"id": 3, "content": "<eos>", "special": true}' },
      { '{"id": 3, "content": "<tag>", "special": false}' },
      { "", ', "c": 3' },
      { '{"id": 4, "content": "<image>", "special": true}', ', "c": 3' } } do
      assert.is_truthy(tiny.failure(load, table.unpack(case)).message:find("tokens, the model 3", 1, true), case[1])
    end
  end)

  it("stays alive as long as a sequence does, and is closed once", function()
    local seq
    do
      local model <close> = tiny.model(pl)
      seq = model:sequence()
      model:close()
      assert.are.equal("state", tiny.failure(model.session, model).kind)
      assert.is_truthy(tostring(model):find("closed"))
    end
    collectgarbage()
    collectgarbage()
    assert.is_truthy(seq:extend({ 1, 2 }))
  end)

  it("has sessions with options of their own", function()
    local model = tiny.model(pl)
    local session <close> = model:session({ precision = "exact", kv = "f32", threads = 2, n_batch = 3 })
    assert.are.equal("exact", session.precision)
    assert.are.equal(2, session.threads)
    local seq = session:sequence()
    seq:extend({ 1, 2, 3, 4, 5, 6, 7 })
    local c = session:counters()
    assert.are.equal(3, c.passes)
    assert.are.equal(7, c.rows)
    assert.is_true(c.kv_bytes > 0 and c.weight_bytes > 0)
    session:close()
    session:close()
    assert.are.equal("state", tiny.failure(seq.extend, seq, 1).kind)
  end)

  it("says where the embedded default should be when it is not there", function()
    local home = pl.home
    pl.home = "/nonexistent"
    local err = tiny.failure(pl.load)
    pl.home = home
    assert.are.equal("io", err.kind)
    assert.is_truthy(err.message:find("/nonexistent/models/default.gguf", 1, true))
  end)
end)
