-- Conversations as text: chat templates of models, and a plain form for models without one.

return function(pl, core)
  local Model = core.types["perilune.model"]

  local known = { "add_generation_prompt", "continue_final_message", "tools", "documents", "tokenize",
    "chat_template", "variables" }
  local synonyms = { template = "chat_template", kwargs = "variables", template_kwargs = "variables" }

  -- The source of the model's chat template, or nil.
  function Model:chat_template()
    local tok = self.tokenizer
    return tok and tok.chat_template
  end

  local function check_messages(messages)
    if type(messages) == "string" then return pl.json.array({ { role = "user", content = messages } }) end
    if type(messages) ~= "table" or #messages == 0 and next(messages) ~= nil then
      pl.fail("argument", "messages: expected a list of {role = ..., content = ...}")
    end
    local list = pl.json.array()
    for i, message in ipairs(messages) do
      if type(message) ~= "table" or type(message.role) ~= "string" then
        pl.fail("argument", "messages: item %d has no role", i)
      end
      list[i] = message
    end
    return list
  end

  -- What templates may name: the spelling of special tokens, and what the options add.
  local function variables_of(model, messages, opts)
    local tok = model.tokenizer
    local all = { messages = messages, tools = opts.tools or pl.json.null, documents = opts.documents,
      add_generation_prompt = opts.add_generation_prompt == true }
    for name, id in pairs(tok and tok.special or {}) do all[name .. "_token"] = tok:pieces({ id })[1] end
    for name, value in pairs(opts.variables or {}) do all[name] = value end
    return all
  end

  -- The text up to the end of the last message's content, for the model to go on with it.
  local function cut_after(text, message)
    local content = type(message.content) == "string" and message.content:match("^%s*(.-)%s*$") or ""
    local last, at = nil, 1
    while content ~= "" do
      local from, to = text:find(content, at, true)
      if not from then break end
      last, at = to, from + 1
    end
    return last and text:sub(1, last)
      or pl.fail("argument", "continue_final_message: the template does not write the last message as it is")
  end

  -- The text that the model's chat template makes of messages, or with tokenize = true its ids.
  function Model:apply_chat_template(messages, opts)
    opts = pl.check_options("apply_chat_template", opts, known, synonyms)
    messages = check_messages(messages)
    local source = opts.chat_template or self:chat_template()
      or pl.fail("state", "the model %s has no chat template; give one as chat_template", self.name or "")
    if opts.add_generation_prompt and opts.continue_final_message then
      pl.fail("argument", "add_generation_prompt and continue_final_message exclude each other")
    end
    local text = pl.jinja(source)(variables_of(self, messages, opts))
    if opts.continue_final_message then text = cut_after(text, messages[#messages]) end
    if not opts.tokenize then return text end
    return self:encode(text, { add_special = false, parse_special = true })
  end

  -- A conversation for models that know none: "User: ...\nAssistant: ...". generate needs
  -- stop = "\nUser:" with it.
  function pl.plain_chat(messages, opts)
    opts = pl.check_options("plain_chat", opts, { "add_generation_prompt" }, {})
    local names, parts = { user = "User", assistant = "Assistant", system = "System" }, {}
    for i, message in ipairs(check_messages(messages)) do
      local name = names[message.role]
      if not name then pl.fail("argument", "messages: item %d: the role '%s' is not known", i, message.role) end
      parts[i] = ("%s: %s\n"):format(name, tostring(message.content or ""))
    end
    return table.concat(parts) .. (opts.add_generation_prompt and "Assistant:" or "")
  end
end
