-- Prompt programs: text, generation and choices in the order of the program, on one sequence.
--
--     local p = pl.prompt(model, { temp = 0.7, seed = 1 })
--     p "The weather today is"
--     p:select { " sunny", " cloudy", name = "sky" }
--     p ", so I"
--     p:gen { name = "plan", stop = ".", max_new_tokens = 20 }
--     print(p.sky, p.plan, p:text())
--
-- or as a function whose names are the program's, what was captured among them:
--
--     local p = pl.program(model, { temp = 0.7 }, function(_ENV)
--       text "The weather today is" select { " sunny", " cloudy", name = "sky" }
--       text(sky == " sunny" and ", so let's" or ", but still we") gen { name = "plan", stop = "." }
--     end)
--
-- Each piece of text is tokenised by itself, so spaces belong before words, as tokens have them. The
-- sequence holds what the text holds: nothing is computed twice. (After Beurer-Kellner et al.
-- 2023, "Prompting is programming: a query language for large language models", PLDI; Zheng et al.
-- 2023, "SGLang", for fork and join.)

return function(pl, core)
  local Prompt = {}
  local methods = {}

  -- Methods first, then what was captured.
  function Prompt.__index(self, key)
    local method = methods[key]
    if method ~= nil then return method end
    local vars = rawget(self, "vars")
    return vars and vars[key]
  end
  Prompt.__name = "perilune.prompt"
  function Prompt.__call(self, text) return self:add(text) end
  function Prompt.__tostring(self) return self:text() end

  local own_options = { "roles", "chat_template", "seed" }

  function pl.prompt(model, opts)
    if type(model) ~= "userdata" or not model.tokenizer then
      pl.fail("argument", "prompt: expected a model with a tokenizer, got a %s", type(model))
    end
    local gen, own = {}, {}
    for key, value in pairs(opts or {}) do gen[key] = value end
    for _, name in ipairs(own_options) do own[name], gen[name] = gen[name], nil end
    return setmetatable({ model = model, seq = model:sequence(), opts = gen, roles = own.roles,
      chat_template = own.chat_template or model:chat_template(), seed = own.seed or math.random(0) & 0xffffffff,
      content = "", vars = {}, results = {}, scores = {}, messages = {} }, Prompt)
  end

  -- -- text ------------------------------------------------------------------------------------

  -- Appends text. parse_special = false: control tokens written in it stay plain text. add_special:
  -- whether BOS, where the vocabulary wants one, comes first; a text that begins has it.
  function methods.add(self, text, opts)
    if type(text) == "number" then text = tostring(text) end
    if type(text) ~= "string" then pl.fail("argument", "prompt: expected a text, got a %s", type(text)) end
    opts = pl.check_options("add", opts, { "parse_special", "add_special" })
    local begins = self.seq.length == 0 and opts.add_special ~= false
    local ids = self.model:encode(text, { add_special = begins, parse_special = opts.parse_special ~= false })
    if #ids > 0 then self.seq:extend(ids, { logits = "none" }) end
    self.content = self.content .. text
    return self
  end

  -- All of the text so far.
  function methods.text(self) return self.content end

  local function text_of(self, ids, n)
    local decoder, pieces = self.model.tokenizer:decoder({ keep_leading = true }), {}
    for i = 1, n do pieces[i] = decoder:put(ids[i]) end
    return table.concat(pieces) .. decoder:flush()
  end

  -- Drops from the sequence what was generated beyond the text (a stop string), tokens that are in
  -- part beyond it written anew.
  local function settle(self, start, text)
    local ids = self.seq:tokens():narrow(0, start, self.seq.length - start):to_table()
    local n = #ids
    local held = text_of(self, ids, n)
    while n > 0 and (#held > #text or text:sub(1, #held) ~= held) do
      n = n - 1
      held = text_of(self, ids, n)
    end
    if n < #ids then self.seq:truncate(start + n) end
    if #held < #text then
      self.seq:extend(self.model:encode(text:sub(#held + 1), { add_special = false, parse_special = false }),
        { logits = "none" })
    end
  end

  local function runner()
    local Run = require "perilune.strategies.run"
    Run.core = core
    return Run
  end

  -- One pass, joined with those of other forks where they run side by side.
  local function extend(self, items) return self.joined and coroutine.yield(items) or core.extend(items) end

  local function check_begun(self, what)
    if self.seq.length == 0 then pl.fail("state", "%s: there is no text yet to go on from", what) end
  end

  local function keep(self, name, value)
    if name == nil then return end
    if type(name) ~= "string" or methods[name] or rawget(self, name) ~= nil then
      pl.fail("argument", "name = %s: that is no name for what is captured", tostring(name))
    end
    self.vars[name] = value
  end

  -- -- generation and choices ------------------------------------------------------------------

  local alone = { "mirostat", "adaptive_target", "token_healing", "record", "logits" }

  local function generate(self, opts)
    local together = self.joined
    for _, name in ipairs(alone) do together = together and opts[name] == nil end
    if not together then return self.seq:complete(opts) end
    local strategy = pl.strategies[opts.strategy or "sample"]
    opts.strategy = nil
    return strategy:on(self.seq, opts, true)
  end

  -- The text generated, captured under `name`; options as of model:generate. `as`, a function, makes
  -- of the text what is captured and returned.
  function methods.gen(self, opts)
    check_begun(self, "gen")
    if type(opts) == "string" then opts = { name = opts } end
    local all = {}
    for key, value in pairs(self.opts) do all[key] = value end
    for key, value in pairs(opts or {}) do all[key] = value end
    local name, as = all.name, all.as
    all.name, all.as = nil, nil
    if all.seed == nil then all.seed = self.seed end -- positions differ, so the numbers do
    local start = self.seq.length
    local result = generate(self, all)
    settle(self, start, result.text)
    self.content = self.content .. result.text
    local value = result.text
    if as then value = as(value) end
    keep(self, name, value)
    if name then self.results[name] = result end
    return value
  end

  -- Forks that went on with each option, and the log probability of each: one pass over all.
  local function score(self, options)
    local last = self.seq:tokens()[-1]
    local items, lists = {}, {}
    for i, option in ipairs(options) do
      local ids = self.model:encode(option, { add_special = false, parse_special = false }):to_table()
      if #ids == 0 then pl.fail("argument", "select: option %d is empty", i) end
      lists[i] = ids
      items[i] = { self.seq:fork():truncate(-1), table.move(ids, 1, #ids, 2, { last }), logits = "all" }
    end
    local good, rows = pcall(extend, self, items)
    local list = {}
    for i, option in ipairs(options) do
      if not good then items[i][1]:close() else
        local log_p, sum = rows[i]:log_softmax(), 0
        for k, id in ipairs(lists[i]) do sum = sum + log_p[k - 1][id] end
        list[i] = { option = option, logprob = sum, n_tokens = #lists[i], seq = items[i][1] }
      end
    end
    if not good then error(rows, 0) end
    return list
  end

  -- The likeliest of the options, which are texts: by the sum of their tokens' log probabilities, or
  -- with normalize = "mean" by its mean. With sample = true it is drawn. The scores are kept in
  -- p.scores[name]: {option, logprob, prob} in the options' order.
  function methods.select(self, opts)
    check_begun(self, "select")
    if type(opts) ~= "table" or #opts == 0 then pl.fail("argument", "select: expected a list of texts") end
    for i, option in ipairs(opts) do
      if type(option) ~= "string" then pl.fail("argument", "select: option %d is a %s", i, type(option)) end
    end
    local rest = {}
    for key, value in pairs(opts) do
      if math.type(key) ~= "integer" then rest[key] = value end
    end
    rest = pl.check_options("select", rest, { "name", "normalize", "sample" })
    if rest.normalize ~= nil and rest.normalize ~= "mean" and rest.normalize ~= "sum" then
      pl.fail("argument", "normalize = %s: expected \"sum\" or \"mean\"", tostring(rest.normalize))
    end
    local list, total, best = score(self, opts), 0, nil
    local most = -math.huge
    for i, one in ipairs(list) do
      one.weight = rest.normalize == "mean" and one.logprob / one.n_tokens or one.logprob
      if one.weight > most then best, most = i, one.weight end
    end
    for _, one in ipairs(list) do total = total + math.exp(one.weight - most) end
    for _, one in ipairs(list) do one.prob = math.exp(one.weight - most) / total end
    if rest.sample then
      local u = core.uniform(self.seed, 6, self.seq.length)
      for i, one in ipairs(list) do
        best, u = i, u - one.prob
        if u < 0 then break end
      end
    end
    self.seq:close()
    for i, one in ipairs(list) do
      if i == best then self.seq = one.seq else one.seq:close() end
      one.seq, one.weight = nil, nil
    end
    self.content = self.content .. opts[best]
    keep(self, rest.name, opts[best])
    if rest.name then self.scores[rest.name] = list end
    return opts[best], list
  end

  -- -- fork and join ---------------------------------------------------------------------------

  -- n prompts that go on from here each in its own way; their draws differ. With a function it is
  -- called for each, fn(fork, i), all side by side: what they generate takes a pass a step together.
  function methods.fork(self, n, fn)
    local list = {}
    for i = 1, n or 1 do
      list[i] = setmetatable({ model = self.model, seq = self.seq:fork(), opts = self.opts, roles = self.roles,
        chat_template = self.chat_template,
        seed = (self.seed * 31 + i) & 0x7fffffffffff, content = self.content, from = #self.content,
        vars = setmetatable({}, { __index = self.vars }), results = {}, scores = {},
        messages = table.move(self.messages, 1, #self.messages, 1, {}) }, Prompt)
    end
    if not fn then return list end
    local functions = {}
    for i, one in ipairs(list) do
      one.joined = true
      functions[i] = function() fn(one, i) end
    end
    runner().together(functions)
    for _, one in ipairs(list) do one.joined = nil end
    return list
  end

  -- Takes over what forks captured, as lists under the same names, and closes the forks. With
  -- `separator` what they added is appended too, that text between the parts.
  function methods.join(self, forks, opts)
    opts = pl.check_options("join", opts, { "separator" })
    local parts = {}
    for i, one in ipairs(forks) do
      if getmetatable(one) ~= Prompt or not rawget(one, "from") then
        pl.fail("argument", "join: item %d is no fork of a prompt", i)
      end
      parts[i] = one.content:sub(one.from + 1)
      for name, value in pairs(one.vars) do
        local list = rawget(self.vars, name)
        if i == 1 or type(list) ~= "table" then list = {} end
        list[i] = value
        self.vars[name] = list
      end
    end
    if opts.separator and #parts > 0 then self:add(table.concat(parts, opts.separator)) end
    for _, one in ipairs(forks) do one:close() end
    return self
  end

  function methods.close(self) self.seq:close() end
  Prompt.__close = methods.close

  -- -- roles -----------------------------------------------------------------------------------

  -- The messages as text, by the chat template or as "Role: ...\n".
  local function written(self, messages)
    if #messages == 0 then return "" end
    if not self.chat_template then return pl.plain_chat(messages) end
    return self.model:apply_chat_template(messages, { chat_template = self.chat_template })
  end

  -- What stands before and after a message of this role, by the option `roles` or as written.
  local function around(self, role)
    local given = self.roles and self.roles[role]
    if given then return given[1] or "", given[2] or "" end
    local mark, before = "\1\2\1", written(self, self.messages)
    local messages = table.move(self.messages, 1, #self.messages, 1, {})
    messages[#messages + 1] = { role = role, content = mark }
    local whole = written(self, messages)
    local at, to = whole:find(mark, 1, true)
    if not at or whole:sub(1, #before) ~= before then
      pl.fail("unsupported", "the chat template writes earlier messages anew when one of the role '%s' comes", role)
    end
    return whole:sub(#before + 1, at - 1), whole:sub(to + 1)
  end

  -- A message of a role: a text, or a function that adds and generates it.
  function methods.role(self, role, what)
    local prefix, suffix = around(self, role)
    self:add(prefix, { add_special = not self.chat_template }) -- a template writes BOS itself
    local from = #self.content
    if type(what) == "function" then
      what(self)
    else
      self:add(what, { parse_special = false })
    end
    self.messages[#self.messages + 1] = { role = role, content = self.content:sub(from + 1) }
    return suffix ~= "" and self:add(suffix) or self
  end

  for _, role in ipairs({ "system", "user", "assistant" }) do
    methods[role] = function(self, what) return self:role(role, what) end
  end

  -- -- programs --------------------------------------------------------------------------------

  -- Runs fn(_ENV), in which text, gen, select, fork, join, role, system, user and assistant are the
  -- prompt's, and what was captured are variables; gives the prompt.
  function pl.program(model, opts, fn)
    if fn == nil then opts, fn = nil, opts end
    if type(fn) ~= "function" then pl.fail("argument", "program: expected a function, got a %s", type(fn)) end
    local p = pl.prompt(model, opts)
    local names = { prompt = p, text = function(text) return p:add(text) end }
    for _, name in ipairs({ "gen", "select", "fork", "join", "role", "system", "user", "assistant" }) do
      names[name] = function(...) return p[name](p, ...) end
    end
    local good, err = pcall(fn, setmetatable({}, { __index = function(_, name)
      local value = names[name]
      if value == nil then value = p.vars[name] end
      if value == nil then value = _G[name] end
      return value
    end }))
    if not good then
      p:close()
      error(err, 0)
    end
    return p
  end
end
