local pl = require "perilune"
local tiny = dofile "tests/lua/tiny.lua"

local function reference()
  local file <close> = assert(io.open("tests/data/jinja_reference.json"))
  return pl.json.decode(file:read("a"))
end

describe("Jinja", function()
  it("writes what Python's does", function()
    local all = reference().expressions
    for _, case in ipairs(all.cases) do
      assert.are.equal(case.text, pl.jinja(case.template)(all.variables), case.template)
    end
  end)

  it("writes whole conversations as Python's does", function()
    for _, conversation in ipairs(reference().conversations) do
      local render = pl.jinja(conversation.template)
      for _, case in ipairs(conversation.cases) do
        if case.error then
          assert.is_truthy(tiny.failure(render, case.variables).message:find(case.error, 1, true))
        else
          assert.are.equal(case.text, render(case.variables))
        end
      end
    end
  end)

  it("names what it does not have, and the line", function()
    for word, template in pairs({
      ["line 2: {% include %} is not supported"] = "a\n{% include 'x' %}",
      ["the filter 'trimm' is not supported; did you mean 'trim'"] = "{{ x|trimm }}",
      ["the test 'foo'"] = "{{ 1 is foo }}", ["the function 'lipsum'"] = "{{ lipsum() }}",
      ["the method 'encode' of texts"] = "{{ 'a'.encode() }}",
      ["the method 'append' of lists"] = "{{ [].append(1) }}", ["this tag has no end"] = "{{ 1",
      ["there is no elif or else or endif"] = "{% if 1 %}", ["a string without"] = "{{ 'a }}",
      ["'x' is not defined"] = "{{ x.y }}", ["unexpected character '!'"] = "{{ a!b }}",
      ["expected 'in'"] = "{% for a of b %}", ["expected a value"] = "{{ 1 + }}",
      ["division by zero"] = "{{ 1 / 0 }}", ["no order"] = "{{ 1 < 'a' }}",
      ["recursive loops"] = "{% for x in y recursive %}{% endfor %}",
      ["is no namespace"] = "{% set d = {} %}{% set d.x = 1 %}", ["a comment without an end"] = "{# a",
      ["raw without endraw"] = "{% raw %}", ["cannot be gone through"] = "{% for x in 5 %}{% endfor %}",
      ["expected two texts"] = "{{ 'a'|replace('a') }}", ["expected a whole number"] = "{{ 'a b'.split(' ', 'x') }}",
      ["cannot be called"] = "{% set x = 1 %}{{ x() }}", ["has no form in JSON"] = "{{ x|tojson }}",
    }) do
      local text = tiny.failure(function() return pl.jinja(template)({}) end).message
      assert.is_truthy(text:find(word, 1, true), template .. ": " .. text)
    end
    assert.are.equal("argument", tiny.failure(pl.jinja("{{ raise_exception('no') }}"), {}).kind)
  end)

  it("never hangs and never fills the memory", function()
    for _, template in ipairs({
      "{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}",
      "{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}", "{{ 'x' * 1000000000 }}", "{{ [1] * 1000000000 }}",
      "{% set ns = namespace(x='ab') %}{% for i in range(99) %}{% set ns.x = ns.x ~ ns.x %}{% endfor %}",
      "{% set ns = namespace(x=[1]) %}{% for i in range(99) %}{% set ns.x = ns.x + ns.x %}{% endfor %}",
      "{{ ('a' * 9999999)|replace('a', 'b' * 9999) }}", "{{ range(999999999) }}", "{{ 1|tojson(indent=9999999) }}",
      "{{ " .. ("("):rep(10000) .. " }}", "{{ " .. ("not "):rep(10000) .. "1 }}", ("{% if 1 %}"):rep(10000),
      "{{ 1" .. ("+1"):rep(100000) .. "}}", ("x"):rep(1 << 21),
    }) do
      local start = pl.clock()
      local good, result = pcall(function() return pl.jinja(template)({}) end)
      assert.is_true(not good and result.kind ~= nil, tostring(result):sub(1, 200))
      assert.is_true(pl.clock() - start < 20)
    end
    local loop = {}
    loop[1] = loop
    assert.are.equal("unsupported", tiny.failure(pl.jinja("{{ x }}"), { x = loop }).kind)
  end)

  it("reads damaged templates without harm", function()
    local template = reference().conversations[1].template
    for i = 1, #template, 7 do
      for _, text in ipairs({ template:sub(1, i), template:sub(1, i - 1) .. "%" .. template:sub(i + 1),
        template:sub(1, i - 1) .. template:sub(i + 3) }) do
        local good, err = pcall(function() return pl.jinja(text)({ messages = pl.json.array() }) end)
        assert.is_true(good or err.kind ~= nil, tostring(err))
      end
    end
  end)
end)

describe("a model's chat template", function()
  local model = tiny.model(pl)
  local template = "{{ eos_token }}{% for m in messages %}[{{ m.role }}] {{ m.content }}\n{% endfor %}"
    .. "{% if add_generation_prompt %}[assistant]{% endif %}{{ mood }}"

  it("makes a text of messages", function()
    assert.is_nil(model:chat_template())
    local text = model:apply_chat_template({ { role = "user", content = "hi" } },
      { chat_template = template, add_generation_prompt = true, variables = { mood = "!" } })
    assert.are.equal("<|endoftext|>[user] hi\n[assistant]!", text)
    local ids = model:apply_chat_template("hi", { chat_template = template, tokenize = true })
    assert.are.equal(model.tokenizer.special.eos, ids[0])
    assert.are.equal("[user] hi\n", model:decode(ids))
    local messages = { { role = "user", content = "a" }, { role = "assistant", content = " the " } }
    assert.are.equal("<|endoftext|>[user] a\n[assistant] the", model:apply_chat_template(messages,
      { chat_template = template:gsub("m.content", "m.content|trim"), continue_final_message = true }))
  end)

  it("comes from the tokenizer's files", function()
    local folder = os.tmpname()
    os.remove(folder)
    assert(os.execute(("mkdir -p %s && cp %s/* %s"):format(folder, tiny.tokenizer(), folder)))
    local file = io.open(folder .. "/chat_template.jinja", "w")
    file:write(template)
    file:close()
    local other = tiny.model(pl, { tokenizer = folder })
    os.execute("rm -r " .. folder)
    assert.are.equal(template, other:chat_template())
    assert.are.equal("<|endoftext|>[user] x\n", other:apply_chat_template("x"))
  end)

  it("says what is wrong", function()
    assert.are.equal("state", tiny.failure(model.apply_chat_template, model, "x").kind)
    for _, messages in ipairs({ 5, { role = "user" }, { { content = "x" } }, { "x" } }) do
      assert.are.equal("argument", tiny.failure(model.apply_chat_template, model, messages,
        { chat_template = template }).kind)
    end
    local text = tiny.failure(model.apply_chat_template, model, "x", { add_generation_promt = true }).message
    assert.is_truthy(text:find("add_generation_prompt", 1, true))
  end)

  it("has a plain form beside it", function()
    assert.are.equal("System: s\nUser: a\nAssistant:", pl.plain_chat({ { role = "system", content = "s" },
      { role = "user", content = "a" } }, { add_generation_prompt = true }))
    assert.are.equal("argument", tiny.failure(pl.plain_chat, { { role = "tool", content = "x" } }).kind)
  end)
end)
