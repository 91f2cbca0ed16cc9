local pl = require "perilune"
local tiny = dofile "tests/lua/tiny.lua"

describe("generate", function()
  local model = tiny.model(pl)

  it("gives the same text for the same seed, whatever the threads", function()
    local opts = { max_new_tokens = 30, seed = 7, ignore_eos = true }
    local one = tiny.model(pl, nil, { threads = 1 }):complete("then", opts)
    local two = tiny.model(pl, nil, { threads = 2 }):complete("then", opts)
    assert.are.same(one.ids, two.ids)
    assert.are.equal(one.text, two.text)
    assert.are.equal(7, one.seed)
    assert.are.equal("length", one.finish_reason)
    assert.are.equal(30, one.n_new)
    opts.seed = 8
    assert.are_not.same(one.ids, model:complete("then", opts).ids)
    assert.are.same(one.ids, model:complete("then", { max_new_tokens = 30, seed = 7, ignore_eos = true }).ids)
  end)

  -- Runs itself again, because the instruction set is chosen once per process.
  it("gives the same text for every instruction set", function()
    local probe = io.popen("readlink /proc/$PPID/exe")
    local program = probe:read("l")
    probe:close()
    local function text(isa)
      local child = io.popen(("PERILUNE_CPU=%s '%s' -e '%s'"):format(isa, program, [[
        local pl = require "perilune"
        local model = dofile("tests/lua/tiny.lua").model(pl, { dtype = "q8_0" })
        local ids = model:complete({ 7, 8, 9 }, { max_new_tokens = 25, seed = 11 }).ids
        print("ids", table.concat(ids, " "))
      ]]))
      local out = child:read("a"):match("ids\t([%d ]+)")
      child:close()
      return out
    end
    local plain = text("plain")
    assert.is_truthy(plain)
    local others = 0
    for _, isa in ipairs({ "avx2", "avx512" }) do
      local found = text(isa)
      others = others + (found and 1 or 0)
      assert.are.equal(plain, found or plain)
    end
    if others == 0 then pending("this processor has plain C only") end
  end)

  it("says the seed it took", function()
    local first = model:complete("in", { max_new_tokens = 8 })
    assert.are.same(first.ids, model:complete("in", { max_new_tokens = 8, seed = first.seed }).ids)
  end)

  it("is greedy at temp = 0, as the forward pass says", function()
    local result = model:complete("the", { temp = 0, max_new_tokens = 5, ignore_eos = true })
    local ids = model:encode("the"):to_table()
    for i = 1, 5 do
      local logits = model:forward(ids)[-1]
      assert.are.equal(math.tointeger(logits:argmax()), result.ids[i])
      ids[#ids + 1] = result.ids[i]
    end
  end)

  it("gives a token and its facts a call", function()
    local n, pos = 0, model:encode("the in").shape[1]
    for piece, step in model:generate("the in", { seed = 1, max_new_tokens = 4, ignore_eos = true, logits = true }) do
      assert.are.equal("string", type(piece))
      assert.are.equal(pos + n, step.pos)
      local p = step.logits:softmax()[step.id]
      assert.is_true(math.abs(p - step.prob) < 1e-5)
      assert.is_true(step.entropy > 0 and step.entropy <= math.log(262) + 1e-6)
      n = n + 1
      assert.are.equal(n == 4 and "length" or nil, step.finish_reason)
    end
    assert.are.equal(4, n)
  end)

  it("pulls nothing before it is asked, and frees on break", function()
    local session = model.default_session
    local before = session:counters().rows
    local gen = model:generate("the", { seed = 1, ignore_eos = true })
    assert.are.equal(before, session:counters().rows)
    gen()
    assert.are.equal(before + 1, session:counters().rows)
    gen()
    assert.are.equal(before + 2, session:counters().rows)
    gen:close()
    assert.is_nil(gen())
    assert.are.equal("script", gen.finish_reason)
    local held
    for _ in model:generate("the", { sampler = function(_, ctx) held = ctx.seq end }) do
      if held then break end
    end
    assert.are.equal("state", tiny.failure(held.extend, held, 1).kind)
  end)

  it("ends before a stop string, of which nothing leaks", function()
    local words = model:encode("in the erx then"):to_table()
    local function speak(_, ctx) return words[ctx.n + 1] end
    local function run(opts)
      opts.sampler = speak
      opts.max_new_tokens = #words
      local pieces, reason = {}, nil
      for piece, step in model:generate("x", opts) do
        pieces[#pieces + 1] = piece
        reason = step.finish_reason
      end
      return table.concat(pieces), reason, pieces
    end
    assert.are.same({ "in the erx then", "length" }, { (run({})), (select(2, run({}))) })
    assert.are.same({ "in the ", "stop" }, { (run({ stop = "erx" })), (select(2, run({ stop = "erx" }))) })
    assert.are.same({ "in", "stop" }, { (run({ stop = { "nope", " the" } })), "stop" })
    local text, reason, pieces = run({ stop = "erx!" })
    assert.are.equal("in the erx then", text)
    assert.are.equal("length", reason)
    for _, piece in ipairs(pieces) do assert.is_falsy(piece == "er" or piece == "e") end
    local result = model:complete("x", { sampler = speak, stop = "he", max_new_tokens = 20 })
    assert.are.equal("in t", result.text)
    assert.are.equal("he", result.stop)
  end)

  it("ends at ids, at the end of the context, in time, or when a script says so", function()
    local eos = model.tokenizer.special.eos or model.tokenizer:find_piece("<|endoftext|>")
    local always = model:to_single_token("in")
    local function just() return always end
    assert.are.equal("stop", model:complete("x", { sampler = just, stop_token_ids = { always } }).finish_reason)
    local full = model:complete("x", { sampler = just })
    assert.are.equal("length", full.finish_reason)
    assert.are.equal(127, full.n_new)
    assert.are.equal(0, model:complete("x", { max_new_tokens = 0 }).n_new)
    assert.are.equal("time", model:complete("x", { sampler = just, max_time = 0 }).finish_reason)
    local result = model:complete("x", { sampler = just, on_step = function(_, step) return step.pos < 3 end })
    assert.are.equal("script", result.finish_reason)
    assert.are.equal(3, result.n_new)
    if model.tokenizer:is_end(eos) then
      local ended = model:complete("x", { sampler = function() return eos end })
      assert.are.equal("eos", ended.finish_reason)
      assert.are.equal("", ended.text)
      assert.are.equal(0, ended.n_new)
    end
  end)

  it("never splits a character", function()
    local ids = model:encode("\u{e9}\u{1f600}\u{e9}"):to_table()
    for piece in model:generate("x", { sampler = function(_, ctx) return ids[ctx.n + 1] end,
      max_new_tokens = #ids }) do
      assert.is_truthy(utf8.len(piece))
    end
  end)

  it("goes on from a sequence, which then holds all of it", function()
    local opts = { seed = 3, max_new_tokens = 12, ignore_eos = true }
    local whole = model:complete("the in", opts)
    local seq = model:sequence()
    seq:extend("the in", { logits = "none" })
    local copy = seq:fork()
    assert.are.same(whole.ids, seq:complete(opts).ids)
    assert.are.equal(whole.n_prompt + 12, seq.length)
    local half = { seed = 3, max_new_tokens = 6, ignore_eos = true }
    local first, second = copy:complete(half), copy:complete(half)
    for i = 1, 6 do
      assert.are.equal(whole.ids[i], first.ids[i])
      assert.are.equal(whole.ids[i + 6], second.ids[i])
    end
    for _ in seq:generate(" the", { max_new_tokens = 3, ignore_eos = true }) do end
    assert.are.equal(whole.n_prompt + 16, seq.length)
    local empty = model:sequence()
    assert.are.equal("argument", tiny.failure(empty.complete, empty, {}).kind)
  end)

  it("explains options by their nearest or their usual name", function()
    for name, word in pairs({ temperature = "temp", max_tokens = "max_new_tokens", n_predict = "max_new_tokens",
      top_kk = "top_k", stop_strings = "stop" }) do
      local err = tiny.failure(model.generate, model, "x", { [name] = 1 })
      assert.is_truthy(err.message:find("'" .. word .. "'", 1, true), err.message)
    end
    for name, value in pairs({ top_p = 1.5, temp = "hot", top_k = 2.5, max_new_tokens = -1, seed = "x",
      stop = 5, max_time = -1, sampler = 5 }) do
      local err = tiny.failure(model.generate, model, "x", { [name] = value })
      assert.is_truthy(err.message:find(name, 1, true), err.message)
    end
    assert.are.equal("argument", tiny.failure(model.generate, model).kind)
    assert.are.equal("argument", tiny.failure(model.generate, model, "x", { chain = { "dist" }, temp = 1 }).kind)
    local bert = tiny.model(pl, { causal = false })
    assert.are.equal("unsupported", tiny.failure(bert.generate, bert, "x").kind)
  end)

  it("brings a script's error out, from coroutines too", function()
    local function bad() error("my mistake") end
    local good, err = pcall(model.complete, model, "x", { sampler = bad })
    assert.is_false(good)
    assert.is_truthy(tostring(err):find("generate_spec.lua:%d+: my mistake"))
    local co = coroutine.wrap(function() model:complete("x", { sampler = bad }) end)
    good, err = pcall(co)
    assert.is_false(good)
    assert.is_truthy(tostring(err):find("my mistake"))
  end)

  it("works in coroutines, a token at a time", function()
    local co = coroutine.wrap(function()
      for piece in model:generate("x", { seed = 1, max_new_tokens = 5, ignore_eos = true }) do
        coroutine.yield(piece)
      end
    end)
    local n = 0
    while co() do n = n + 1 end
    assert.are.equal(5, n)
  end)

  it("works on ids alone where there is no tokenizer", function()
    local bare = tiny.model(pl, { tokenizer = false, d_vocab = 50 })
    local result = bare:complete({ 1, 2 }, { max_new_tokens = 4, seed = 1 })
    assert.are.equal(4, #result.ids)
    assert.are.equal("", result.text)
  end)
end)

describe("a trained model", function()
  local function exists(path)
    local file = io.open(path, "rb")
    if file then file:close() end
    return file ~= nil
  end
  local function check(model)
    local text = "Once upon a time"
    assert.are.equal(text, model:decode(model:encode(text)))
    local result = model:complete(text, { max_new_tokens = 20, seed = 1 })
    assert.is_true(#result.text > 0)
    assert.are.equal(result.text, model:complete(text, { max_new_tokens = 20, seed = 1 }).text)
    -- Taken one by one or all at once, greedy choices are the forward pass's own.
    local greedy = model:complete(text, { max_new_tokens = 10, temp = 0 })
    local all = model:forward(text .. greedy.text)
    for i, id in ipairs(greedy.ids) do
      assert.are.equal(id, math.tointeger(all[greedy.n_prompt + i - 2]:argmax()))
    end
  end

  it("comes along", function()
    if not exists((pl.home or ".") .. "/models/default.gguf") then
      return pending("models/default.gguf is not here")
    end
    check(pl.load())
  end)

  it("is read from a Hugging Face folder", function()
    local folder = (os.getenv("PERILUNE_TEST_DATA") or "../shared/data") .. "/models/default"
    if not exists(folder .. "/config.json") then return pending(folder .. " is not here") end
    check(pl.load(folder, { precision = "exact", kv = "f32" }))
  end)
end)
