local pl = require "perilune"
local tiny = dofile "tests/lua/tiny.lua"

describe("a prompt program", function()
  local model = tiny.model(pl)

  -- That the sequence holds what the text says: the next logits are those of the text's tokens.
  local function check_held(p)
    assert.are.equal(p:text(), model:decode(p.seq:tokens()))
    local fork <close> = p.seq:fork()
    local ids = p.seq:tokens()
    assert.is_true(tiny.same(model:forward(ids)[-1], fork:truncate(-1):extend(ids[-1])))
  end

  it("adds, generates and captures", function()
    local p <close> = pl.prompt(model, { temp = 0.8, seed = 3, ignore_eos = true })
    p "the in" " er"
    local text = p:gen { name = "one", max_new_tokens = 6 }
    assert.are.equal(text, p.one)
    assert.are.equal("the in er" .. text, p:text())
    assert.are.equal(6, p.results.one.n_new)
    p(" then ")
    p:gen { max_new_tokens = 3, temp = 0, name = "two" }
    assert.are.equal("the in er" .. p.one .. " then " .. p.two, tostring(p))
    local again <close> = pl.prompt(model, { temp = 0.8, seed = 3, ignore_eos = true })
    again "the in er"
    assert.are.equal(text, again:gen { max_new_tokens = 6 })
    assert.are.equal(7, again:gen { max_new_tokens = 1, as = function() return 7 end })
  end)

  it("keeps the sequence to the text where a stop string cuts a token", function()
    for _, case in ipairs({ { "in the erx then", "he" }, { "in the erx then", "x t" }, { "then then", "n" },
      { "in the", "i" } }) do
      local words = model:encode(case[1]):to_table()
      local p <close> = pl.prompt(model)
      p "x"
      p:gen { stop = case[2], name = "cut", max_new_tokens = #words,
        sampler = function(_, ctx) return words[ctx.n + 1] end }
      assert.are.equal(case[1]:sub(1, case[1]:find(case[2], 1, true) - 1), p.cut)
      assert.are.equal("x" .. p.cut, p:text())
      check_held(p)
      p " er"
      check_held(p)
    end
  end)

  it("selects by exact log probabilities", function()
    local options = { " the", " in the", "er", "then er" }
    for _, normalize in ipairs({ "sum", "mean" }) do
      local p <close> = pl.prompt(model)
      p "the in"
      local before = model.default_session:counters().passes
      local chosen = p:select { " the", " in the", "er", "then er", name = "pick", normalize = normalize }
      assert.are.equal(1, model.default_session:counters().passes - before)
      local best, most, total = nil, -math.huge, 0
      for i, option in ipairs(options) do
        local prompt, ids = model:encode("the in"):to_table(), model:encode(option):to_table()
        local n = #prompt
        local log_p, sum = model:forward(table.move(ids, 1, #ids, n + 1, prompt)):log_softmax(), 0
        for k, id in ipairs(ids) do sum = sum + log_p[n + k - 2][id] end
        assert.is_true(math.abs(sum - p.scores.pick[i].logprob) < 1e-4)
        local weight = normalize == "mean" and sum / #ids or sum
        if weight > most then best, most = option, weight end
        total = total + p.scores.pick[i].prob
      end
      assert.are.equal(best, chosen)
      assert.are.equal(best, p.pick)
      assert.is_true(math.abs(total - 1) < 1e-12)
      assert.are.equal("the in" .. best, p:text())
      check_held(p)
    end
    local counts, expected = { 0, 0 }, nil
    for seed = 1, 400 do
      local p <close> = pl.prompt(model, { seed = seed })
      p "the in"
      local chosen = p:select { "er", " the", sample = true, name = "pick" }
      expected = p.scores.pick[1].prob
      counts[chosen == "er" and 1 or 2] = counts[chosen == "er" and 1 or 2] + 1
    end
    assert.is_true(math.abs(counts[1] - 400 * expected) < 4 * math.sqrt(400 * expected * (1 - expected)) + 1)
  end)

  it("forks and joins", function()
    local p <close> = pl.prompt(model, { seed = 1, ignore_eos = true, max_new_tokens = 4 })
    p "the in"
    local forks = p:fork(3, function(one, i)
      one(" er" .. i)
      one:gen { name = "tip" }
    end)
    assert.are_not.equal(forks[1].tip, forks[2].tip)
    local texts = {}
    for i, one in ipairs(forks) do texts[i] = one:text():sub(7) end
    local tips = { forks[1].tip, forks[2].tip, forks[3].tip }
    assert.is_nil(p.tip)
    p:join(forks, { separator = ";" })
    assert.are.same(tips, p.tip)
    assert.are.equal("the in" .. table.concat(texts, ";"), p:text())
    assert.are.equal("state", tiny.failure(forks[1].gen, forks[1]).kind)
    local again <close> = pl.prompt(model, { seed = 1, ignore_eos = true, max_new_tokens = 4 })
    again "the in"
    again:join(again:fork(3, function(one, i) one(" er" .. i):gen "tip" end))
    assert.are.same(tips, again.tip)
    assert.are.equal("the in", again:text())
  end)

  it("runs forks side by side, which changes nothing but the passes", function()
    local function work(one, i)
      one(" er" .. i)
      one:gen { name = "tip", max_new_tokens = 3 + i }
      one:select { " the", "in", name = "pick" }
      one:gen { name = "rest", strategy = i == 2 and "beam_search" or nil, max_new_tokens = 4 }
    end
    local alone, together = {}, {}
    local p <close> = pl.prompt(model, { seed = 1, ignore_eos = true })
    p "the in"
    for i, one in ipairs(p:fork(3)) do
      work(one, i)
      alone[i] = one:text()
      one:close()
    end
    local before = model.default_session:counters().passes
    for i, one in ipairs(p:fork(3, work)) do
      together[i] = one:text()
      check_held(one)
      assert.are.equal(3 + i, one.results.tip.n_new)
      one:close()
    end
    assert.are.same(alone, together)
    assert.is_true(model.default_session:counters().passes - before < 30)
    local good, err = pcall(p.fork, p, 3, function(one, i)
      one:gen { max_new_tokens = 2 }
      if i == 2 then error("mine", 0) end
    end)
    assert.is_false(good)
    assert.are.equal("mine", err)
  end)

  it("writes roles as templates and the plain form have them", function()
    local p <close> = pl.prompt(model, { seed = 1, max_new_tokens = 3, ignore_eos = true })
    p:system("in"):user "then"
    p:assistant(function(q) q:gen "answer" end)
    assert.are.equal("System: in\nUser: then\nAssistant: " .. p.answer .. "\n", p:text())
    assert.are.same({ role = "assistant", content = p.answer }, p.messages[3])
    local q <close> = pl.prompt(model, { roles = { user = { "<", ">" } } })
    q:user "then"
    assert.are.equal("<then>", q:text())
    assert.are.equal(pl.plain_chat(p.messages), p:text())
    local template = "{{ 'the' }}{% for m in messages %}[{{ m.role }}]{{ m.content + '<|endoftext|>' }}{% endfor %}"
    local t <close> = pl.prompt(model, { chat_template = template, seed = 1, max_new_tokens = 3, ignore_eos = true })
    t:user("in <|endoftext|>"):assistant(function(one) one:gen "answer" end):user "x"
    assert.are.equal(model:apply_chat_template(t.messages, { chat_template = template }), t:text())
    local ends, eos = 0, model:encode("<|endoftext|>"):to_table()[1]
    for _, id in t.seq:tokens():each() do ends = ends + (id == eos and 1 or 0) end
    assert.are.equal(3, ends) -- what a message only quotes is no control token
    local changing <close> = pl.prompt(model, { chat_template = "{{ messages | length }}{{ messages[-1].content }}" })
    changing:user "x"
    assert.are.equal("unsupported", tiny.failure(changing.user, changing, "y").kind)
  end)

  -- luacheck: push ignore 113
  it("runs as a function with names of its own", function()
    local p <close> = pl.program(model, { seed = 2, max_new_tokens = 3, ignore_eos = true }, function(_ENV) -- luacheck: ignore
      text "the in"
      select { "er", "in", name = "pick" }
      if pick == "er" then text " then" else text " x" end
      gen "rest"
      assert(type(rest) == "string" and prompt.rest == rest)
    end)
    assert.are.equal("the in" .. p.pick .. (p.pick == "er" and " then" or " x") .. p.rest, p:text())
  end)
  -- luacheck: pop

  it("says what is wrong", function()
    local p <close> = pl.prompt(model)
    assert.are.equal("state", tiny.failure(p.gen, p, {}).kind)
    assert.are.equal("state", tiny.failure(p.select, p, { "a" }).kind)
    p "x"
    assert.are.equal("argument", tiny.failure(p.select, p, {}).kind)
    assert.are.equal("argument", tiny.failure(p.select, p, { "a", "" }).kind)
    assert.is_truthy(tiny.failure(p.select, p, { "a", normalise = "mean" }).message:find("normalize"))
    assert.are.equal("argument", tiny.failure(p.gen, p, { name = "gen", max_new_tokens = 1 }).kind)
    assert.is_truthy(tiny.failure(p.gen, p, { temperature = 1 }).message:find("'temp'"))
    assert.are.equal("argument", tiny.failure(p.add, p, {}).kind)
    assert.are.equal("argument", tiny.failure(p.join, p, { p }).kind)
    assert.are.equal("argument", tiny.failure(pl.prompt, tiny.model(pl, { tokenizer = false, d_vocab = 9 })).kind)
    assert.are.equal("argument", tiny.failure(pl.program, model, {}).kind)
  end)
end)
