-- Constraints on a text: a grammar in GBNF, a regular expression or a JSON Schema.
--
--     local g = pl.grammar('root ::= "yes" | "no"', model)
--     g:accept("y").may_end               -- false
--     for piece in model:generate(prompt, {grammar = g}) do io.write(piece) end
--
-- generate takes {grammar = text, path or object}, {regex = "..."} and {json_schema = table or
-- text}; whichever it is becomes a grammar over the model's vocabulary.

return function(pl, core)
  local function tokenizer_of(owner)
    if owner == nil then return nil end
    local is_model, tok = pcall(function() return owner.tokenizer end)
    if not is_model then return owner end
    return tok or pl.fail("state", "a grammar needs a vocabulary, and the model has no tokenizer")
  end

  -- GBNF as text, or the path of a file with it: what has no "::=" is a path.
  function pl.grammar(text, owner)
    if type(text) ~= "string" then
      pl.fail("argument", "grammar is a %s: expected GBNF or the path of a file", type(text))
    end
    local name = "grammar"
    if not text:find("::=", 1, true) then name, text = text, pl.read_file(text) end
    return core.new_grammar(text, name, tokenizer_of(owner))
  end

  local Grammar = core.types["perilune.grammar"]

  function pl.is_grammar(value)
    if type(value) ~= "userdata" then return false end
    local good, method = pcall(function() return value.allowed_ids end)
    return good and method == Grammar.allowed_ids
  end

  local kinds = { "grammar", "regex", "json_schema" }

  -- Which of the options constrains the text, or nil.
  function pl.constraint_name(opts)
    local found
    for _, name in ipairs(kinds) do
      if opts[name] ~= nil then
        if found then pl.fail("argument", "'%s' and '%s' both say what the text is", found, name) end
        found = name
      end
    end
    return found
  end

  -- The grammar that the options ask for, or nil: one of its own, at its beginning or, for a
  -- grammar that is an object, where that stands.
  function pl.constraint(opts, tok)
    local name = pl.constraint_name(opts)
    if not name then return nil end
    if not tok then pl.fail("state", "%s: the model has no tokenizer", name) end
    local value = opts[name]
    if name == "grammar" and pl.is_grammar(value) then return value:fork() end
    if name == "grammar" then return pl.grammar(value, tok) end
    return core.new_grammar(pl[name .. "_grammar"](value), name, tok)
  end
end
