local pl = require "perilune"
local tiny = dofile "tests/lua/tiny.lua"

-- "yes": a whole text, "begun": a part of one, "no": neither.
local function judge(gbnf, text)
  local g = pl.grammar(gbnf)
  if not g:allows(text) then return "no" end
  return g:accept(text).may_end and "yes" or "begun"
end

describe("a grammar", function()
  local model = tiny.model(pl)

  it("says where a text stands in it", function()
    local g = pl.grammar('root ::= "a" "b"? | "c"', model)
    assert.is_false(g.may_end)
    assert.are.equal("grammar (must go on)", tostring(g))
    assert.are.same({ 65, 67 }, (function()
      local ids = {}
      for i, id in ipairs(g:allowed_ids()) do ids[i] = model:decode({ id }):byte() - 32 end
      return ids
    end)())
    local other = g:fork():accept("c")
    assert.is_true(other.may_end)
    assert.is_false(other.may_go_on)
    g:accept(model:to_single_token("a"))
    assert.is_true(g.may_end and g.may_go_on)
    assert.is_true(g:allows("b"))
    assert.is_false(g:allows("c"))
    assert.are.equal("argument", tiny.failure(g.accept, g, "c").kind)
    local eos = model.tokenizer.special.eos
    assert.is_true(g:accept(eos).ended)
    assert.are.same({}, g:allowed_ids())
    assert.is_false(g:reset().ended)
    g:close()
    assert.are.equal("state", tiny.failure(g.accept, g, "a").kind)
  end)

  it("masks logits", function()
    local g = pl.grammar('root ::= [x-z]', model)
    local logits = model:forward("a"){ pos = -1 }:clone()
    g:apply(logits)
    local n = 0
    for i = 0, 261 do n = n + (logits[i] > -math.huge and 1 or 0) end
    assert.are.equal(3, n)
  end)

  it("holds generated text, and ends it", function()
    for seed = 1, 20 do
      local result = model:complete("the", { seed = seed, temp = 2,
        grammar = 'root ::= "[" ("the" | [0-9]{1,3})* "]"', max_new_tokens = 60 })
      assert.is_true(result.finish_reason == "grammar" or result.finish_reason == "length")
      assert.is_truthy(result.text:find("^%[") and not result.text:find("[^%[%]the0-9]"))
    end
    local none = model:complete("the", { grammar = 'root ::= ""' })
    assert.are.equal("", none.text)
    assert.are.equal("grammar", none.finish_reason)
  end)

  it("goes before a chain, and leaves the script's own grammar where it is", function()
    local g = pl.grammar('root ::= "yes" | "no"', model)
    local result = model:complete("x", { grammar = g, chain = { { top_k = 1 }, "dist" } })
    assert.is_true(result.text == "yes" or result.text == "no")
    assert.is_true(g:allows("n") and g:allows("y"))
  end)

  it("may stand anywhere in a chain", function()
    local g = pl.grammar('root ::= "yes" | "no"', model)
    local result = model:complete("x", { chain = { { temp = 2 }, g, "dist" }, seed = 3 })
    assert.is_true(result.text == "yes" or result.text == "no")
    assert.are.equal("grammar", result.finish_reason)
    assert.is_true(g:allows("n") and g:allows("y"))
    local none = tiny.failure(model.complete, model, "x", { chain = { { top_k = 1 }, g, "dist" }, seed = 3 })
    assert.is_truthy(none.message:find("put it first in the chain", 1, true), none.message)
    g:close()
    assert.are.equal("state", tiny.failure(model.complete, model, "x", { chain = { g, "dist" } }).kind)
  end)

  it("is read from a file", function()
    local path = os.tmpname()
    local file <close> = io.open(path, "w")
    file:write('root ::= "a"')
    file:close()
    assert.is_true(pl.grammar(path):allows("a"))
    os.remove(path)
    assert.are.equal("io", tiny.failure(pl.grammar, path).kind)
  end)

  it("names what is wrong", function()
    for word, opts in pairs({
      ["1:10: rule 'x' is not defined"] = { grammar = "root ::= x" },
      ["begins with itself"] = { grammar = 'root ::= root "x" | "y"' },
      ["no text can end"] = { grammar = 'root ::= "x" root' },
      ["'grammar' and 'regex'"] = { grammar = 'root ::= "x"', regex = "x" },
      ["expected GBNF"] = { grammar = 5 },
    }) do
      opts.max_new_tokens = 1
      local text = tiny.failure(model.complete, model, "x", opts).message
      assert.is_truthy(text:find(word, 1, true), text)
    end
    local bare = tiny.model(pl, { tokenizer = false, d_vocab = 50 })
    assert.are.equal("state", tiny.failure(bare.complete, bare, { 1 }, { regex = "a" }).kind)
  end)
end)

describe("token healing", function()
  local model = tiny.model(pl)

  it("begins with tokens that begin like the prompt's last one, and does not repeat it", function()
    local th = model:to_single_token("th")
    assert.are.same({ th }, { model:encode("th"):to_table()[1] })
    for seed = 1, 10 do
      local gen = model:generate("a th", { seed = seed, token_healing = true, max_new_tokens = 6, temp = 2 })
      local pieces = {}
      for piece in gen do pieces[#pieces + 1] = piece end
      local text = model:decode(gen.ids, { keep_leading = true, replace_invalid = false })
      assert.are.equal("th", text:sub(1, 2))
      assert.are.equal(text:sub(3), table.concat(pieces))
    end
  end)

  it("is followed by a grammar", function()
    for seed = 1, 10 do
      local result = model:complete("a th", { seed = seed, token_healing = true, grammar = 'root ::= "er"+ "!"',
        max_new_tokens = 30 })
      assert.is_truthy(result.text:find("^er[er]*!?$") or result.text:find("^e?r?$"), result.text)
    end
  end)

  it("needs a prompt", function()
    local seq = model:sequence()
    seq:extend("ab")
    assert.are.equal("argument", tiny.failure(seq.complete, seq, { token_healing = true }).kind)
  end)
end)

describe("a regular expression", function()
  it("becomes a grammar", function()
    for pattern, texts in pairs({
      ["^\\d{3}-[a-f]+$"] = { yes = { "123-abc" }, begun = { "12", "123-" }, no = { "12x", "123-g" } },
      ["(a|bc)*d?"] = { yes = { "", "abcad", "d" }, begun = { "b" }, no = { "dd" } },
      ["[^\\s\\d]+\\.x"] = { yes = { "é!.x" }, begun = { "é" }, no = { " ", "1" } },
      ["\\w+@\\w+(?:\\.\\w{2,3})+"] = { yes = { "a_1@b.com" }, begun = { "a@b.c" }, no = { "@" } },
      ["\\u00e9\\x41\\u{1F600}\\t"] = { yes = { "éA😀\t" }, no = { "e" } },
      ["\\uD83D\\uDE00"] = { yes = { "😀" } },
      ["(?<year>[0-9]{4})|n/a"] = { yes = { "2024", "n/a" }, begun = { "20" } },
      ["a.c"] = { yes = { "abc", "aéc" }, no = { "a\n" } },
      ["^a$|^b+?$"] = { yes = { "a", "bb" }, no = { "ab" } },
      ["[]a]"] = false, ["[\\]a-]"] = { yes = { "]", "a", "-" } },
      ["a{2}{3}"] = false, ["a**"] = false, ["x{,3}"] = false, ["a{"] = { yes = { "a{" } },
    }) do
      if not texts then
        tiny.failure(pl.regex_grammar, pattern)
      else
        for verdict, list in pairs(texts) do
          for _, text in ipairs(list) do
            assert.are.equal(verdict, judge(pl.regex_grammar(pattern), text), pattern .. " on " .. text)
          end
        end
      end
    end
  end)

  it("names what it does not support", function()
    for word, pattern in pairs({
      ["looking ahead"] = "a(?=b)", ["looking behind"] = "(?<!b)a", ["back-reference \\1"] = "(a)\\1",
      ["a word's edge"] = "\\ba", ["Unicode properties"] = "\\p{L}", ["possessive"] = "a*+",
      ["$ in the middle"] = "a$b", ["^ inside a group"] = "(^a)", ["nothing for * to repeat"] = "*a",
      ["no closing )"] = "(a", ["a ) without its ("] = "a)", ["no closing ]"] = "[a", ["atomic"] = "(?>a)",
      ["a backslash at the end"] = "a\\", ["(?i is not supported"] = "(?i)a", ["no character"] = "\\uDC00",
    }) do
      local text = tiny.failure(pl.regex_grammar, pattern).message
      assert.is_truthy(text:find(word, 1, true), text)
    end
    assert.are.equal("unsupported", tiny.failure(pl.regex_grammar, ("("):rep(500)).kind)
  end)

  it("holds generated text", function()
    local model = tiny.model(pl)
    for seed = 1, 10 do
      local result = model:complete("x", { regex = "[A-C]{2}\\d+(th|er)", seed = seed, max_new_tokens = 100 })
      if result.finish_reason == "grammar" then
        assert.is_truthy(result.text:find("^[A-C][A-C]%d+[te][hr]$"), result.text)
      end
    end
  end)
end)

describe("JSON", function()
  it("is read and written again alike, keys in order", function()
    for _, text in ipairs({ '{"b":[],"a":1.0,"c":null,"":{}}', "[1,-2,3.5,1e+300,9007199254740993]",
      '"é\\u0000\\n\\"\\\\"', "true", "null", "[[[]]]", "0.1" }) do
      assert.are.equal(text, pl.json.encode(pl.json.decode(text)))
    end
    local t = pl.json.decode('{"b":1,"a":2}')
    t.c, t.b = 3, nil
    assert.are.same({ "a", "c" }, pl.json.keys(t))
    assert.are.equal(pl.json.null, pl.json.decode("[null]")[1])
    assert.are.equal('{"z":1,"a":[]}', pl.json.encode(pl.json.object({ { "z", 1 }, { "a", pl.json.array() } })))
    assert.are.equal('{"a": 1, "z": "\\u00e9\\ud83d\\ude00"}',
      pl.json.encode({ z = "é😀", a = 1 }, { spaces = true, ascii = true }))
    assert.are.equal('[\n  1,\n  {}\n]', pl.json.encode({ 1, {} }, { indent = 2 }))
  end)

  it("says what is wrong", function()
    assert.is_truthy(tiny.failure(pl.json.decode, '{"a": 1,}', "x.json").message:find("x.json: line 1", 1, true))
    assert.are.equal("format", tiny.failure(pl.json.decode, '{"a":1,"a":2}').kind)
    assert.are.equal("format", tiny.failure(pl.json.decode, ("["):rep(100000)).kind)
    assert.are.equal("argument", tiny.failure(pl.json.encode, { print }).kind)
    assert.are.equal("argument", tiny.failure(pl.json.encode, 0 / 0).kind)
    local loop = {}
    loop[1] = loop
    assert.are.equal("argument", tiny.failure(pl.json.encode, loop).kind)
  end)
end)

describe("a JSON Schema", function()
  local schemas = dofile "tests/lua/json_schemas.lua"
  local model = tiny.model(pl, { n_layers = 1, d_model = 8, n_heads = 1, n_ctx = 3000, std = 0.1 })

  -- A random model seldom closes what it opens: after a while closing is made likely.
  local function closing(logits, ctx)
    if ctx.n < 150 then return end
    for _, c in ipairs({ '"', "}", "]", ":" }) do
      local id = model:to_single_token(c)
      logits[id] = logits[id] + 12
    end
  end

  it("holds random text, as a validator of its own sees it", function()
    local complete, refused = 0, 0
    for seed = 1, 300 do
      local schema = schemas.random(seed)
      local good, grammar = pcall(pl.json_schema_grammar, schema)
      if not good then
        assert.is_truthy(grammar.message:find("nothing satisfies", 1, true), grammar.message)
        refused = refused + 1
      else
        local result = model:complete("x", { grammar = grammar, sampler = closing, seed = seed, max_new_tokens = 1500 })
        if result.finish_reason == "grammar" or result.finish_reason == "eos" then
          complete = complete + 1
          assert.is_true(schemas.valid(pl.json.decode(result.text), schema),
            pl.json.encode(schema) .. "\n" .. result.text)
        end
      end
    end
    assert.is_true(complete > 270 and refused < 20, complete .. " complete, " .. refused .. " refused")
  end)

  local function check(schema, yes, no)
    local gbnf = pl.json_schema_grammar(schema)
    for _, text in ipairs(yes) do assert.are.equal("yes", judge(gbnf, text), schema .. " on " .. text) end
    for _, text in ipairs(no or {}) do assert.are_not.equal("yes", judge(gbnf, text), schema .. " on " .. text) end
  end

  it("keeps whole numbers between their bounds", function()
    for low = -25, 25, 5 do
      for high = low, 120, 17 do
        local gbnf = pl.json_schema_grammar({ type = "integer", minimum = low, maximum = high })
        for value = -30, 130 do
          assert.are.equal(value >= low and value <= high, judge(gbnf, tostring(value)) == "yes")
        end
      end
    end
  end)

  it("accepts what satisfies it and nothing else", function()
    check('{"type":"number","exclusiveMinimum":0,"maximum":1}', { "0.5", "1", "0.001" }, { "0", "1.1", "0.0", "-0.5" })
    check('{"type":"number","minimum":0.29,"maximum":1e300}', { "0.29", "1", "123456789" }, { "0.28", "0", "-1" })
    check('{"type":"integer","multipleOf":100,"minimum":0}', { "0", "300" }, { "50", "-100" })
    check('{"type":"integer","multipleOf":7,"minimum":-20,"maximum":20}', { "0", "14", "-7" }, { "-21", "1" })
    check('{"properties":{"b":{"type":"integer"},"a":{"type":"string"}},"required":["b"]}',
      { '{"b":1}', '{"b": 1, "a":"x\\n"}' }, { "{}", '{"a":"x"}', '{"b":1,"c":2}', "3" })
    check('{"type":"object","properties":{"ab":{"type":"integer"},"a":{}},"additionalProperties":{"type":"boolean"}}',
      { "{}", '{"ab":1}', '{"a":[1,{}],"abc":true}', '{"x":true,"y":false}', '{"":true}' },
      { '{"ab":true}', '{"\\u0061b":true}', '{"x":1}' })
    check('{"items":{"type":"integer"},"minItems":2,"maxItems":3}', { "[1,2]", "[ 1, 2, 3]" },
      { "[1]", "[1,2,3,4]", "[]" })
    check('{"prefixItems":[{"type":"integer"},{"type":"string"}],"items":false}', { '[1,"a"]', "[1]", "[]" },
      { '["a"]', '[1,"a",3]' })
    check('{"type":"string","pattern":"^[a-c\\"]+$"}', { '"ab"', '"a\\"c"' }, { '"d"', '""' })
    check('{"type":"string","pattern":"b"}', { '"ab\\n"', '"b"' }, { '"d"', '""' })
    check('{"minLength":2,"maxLength":3}', { '"ab"', '"a\\u00e9c"' }, { '"d"', '"abcd"' })
    check('{"$defs":{"n":{"type":"object","properties":{"v":{"type":"integer"},"next":{"$ref":"#/$defs/n",'
      .. '"description":"the next"}},"required":["v"]}},"$ref":"#/$defs/n"}',
      { '{"v":1,"next":{"v":2,"next":{"v":3}}}' }, { '{"next":{"v":2}}' })
    check('{"type":"string","nullable":true}', { '"x"', "null" }, { "1" })
    check('{"oneOf":[{"properties":{"k":{"const":"a"}},"required":["k"]},{"properties":{"k":{"const":"b"},"n":'
      .. '{"type":"null"}},"required":["k","n"]}]}', { '{"k":"a"}', '{"k":"b","n":null}' }, { '{"k":"b"}' })
    check('{"type":"object","properties":{"a":{"type":"null"}}}', { '{"a":null}', "{ }" })
    check("true", { "0", "[{}]" })
    assert.are.equal("no", judge(pl.json_schema_grammar('{"type":"array"}', { whitespace = false }), "[ 1]"))
  end)

  it("names what it does not support, and where", function()
    for word, schema in pairs({
      ["'not'"] = '{"not":{}}', ["#/properties/a: the keyword 'patternProperties'"] =
        '{"properties":{"a":{"patternProperties":{}}}}', ["'foo' does not exist"] = '{"type":"foo"}',
      ["oneOf: alternatives 0 and 1"] = '{"oneOf":[{"type":"string"},{"enum":["x"]}]}',
      ["leads nowhere"] = '{"$ref":"#/x"}', ["nothing satisfies"] = "false", ["deep"] = '{"$ref":"#"}',
      ["looking ahead"] = '{"type":"string","pattern":"a(?=b)"}', ["format 'foo'"] = '{"type":"string","format":"foo"}',
      ["'if'"] = '{"if":true}', ["uniqueItems"] = '{"type":"array","uniqueItems":true}', ["line 1"] = "{",
      ["over 10000"] = '{"type":"string","minLength":20000}', ["within the schema"] = '{"$ref":"http://x/y"}',
      ["expected a number"] = '{"type":"integer","minimum":"x"}', ["whole number"] = '{"type":"array","minItems":-1}',
      ["a list of names"] = '{"required":5}', ["an object"] = '{"properties":[1]}',
      ["a list of schemas"] = '{"anyOf":3}',
      ["expected a schema"] = '{"items":3}', ["a type or"] = '{"type":{"a":1}}',
    }) do
      local text = tiny.failure(pl.json_schema_grammar, schema).message
      assert.is_truthy(text:find(word, 1, true), schema .. ": " .. text)
    end
    local endless = '{"type":"object","properties":{"a":{"$ref":"#"}},"required":["a"]}'
    local message = tiny.failure(model.complete, model, "x", { json_schema = endless }).message
    assert.is_truthy(message:find("no text can end", 1, true), message)
    assert.are.equal("argument", tiny.failure(pl.json_schema_grammar, 5).kind)
  end)

  it("is an option of generate", function()
    local result = model:complete("x", { json_schema = { type = "object", properties = { ok = { type = "boolean" } },
      required = { "ok" } }, seed = 1, max_new_tokens = 100 })
    assert.are.equal("boolean", type(pl.json.decode(result.text).ok))
  end)
end)
