-- Text from a model, token by token.
--
-- A generator is an object that gives one token a call; `for` calls it, and closes it on break:
--
--     for piece, step in model:generate("Once", {temp = 0.8, seed = 7}) do io.write(piece) end
--
-- A model's generator works on a sequence of its own. A sequence's generator goes on from that
-- sequence, which then holds every token that was given out.

return function(pl, core)
  local Model = core.types["perilune.model"]
  local Sequence = core.types["perilune.sequence"]

  -- -- options ------------------------------------------------------------------------------

  local known = { "max_new_tokens", "seed", "stop", "stop_token_ids", "max_time", "sampler", "chain",
    "ignore_eos", "logits", "on_step", "grammar", "regex", "json_schema", "token_healing", "record" }
  local synonyms = { max_tokens = "max_new_tokens", n_predict = "max_new_tokens",
    max_length = "max_new_tokens", num_predict = "max_new_tokens", n = "max_new_tokens",
    stop_strings = "stop", stop_sequences = "stop", eos_token_id = "stop_token_ids",
    random_seed = "seed", samplers = "chain", timeout = "max_time",
    do_sample = "temp", greedy = "temp", callback = "on_step", on_token = "on_step",
    gbnf = "grammar", schema = "json_schema", guided_json = "json_schema", guided_regex = "regex",
    guided_grammar = "grammar", pattern = "regex", heal = "token_healing" }
  local builder = core.chain_builder
  table.move(builder.options, 1, #builder.options, #known + 1, known)
  for theirs, ours in pairs(builder.synonyms) do synonyms[theirs] = ours end

  local of_strategies = { num_beams = "beam_search", num_beam_groups = "beam_search", length_penalty = "beam_search",
    force_words_ids = "beam_search", penalty_alpha = "contrastive_search", dola_layers = "dola",
    guidance_scale = "classifier_free_guidance", negative_prompt = "classifier_free_guidance",
    assistant_model = "speculative", prompt_lookup_num_tokens = "prompt_lookup", banned_strings = "phrase_ban" }

  local function check_known(opts)
    for name, strategy in pairs(type(opts) == "table" and of_strategies or {}) do
      if opts[name] ~= nil then
        pl.fail("argument", "generate: '%s' belongs to a strategy: complete takes it with strategy = \"%s\"", name,
          strategy)
      end
    end
    return pl.check_options("generate", opts, known, synonyms)
  end

  local function check_integer(opts, name, least)
    local value = opts[name]
    if value == nil then return nil end
    local whole = math.tointeger(value)
    if not whole or (least and whole < least) then
      pl.fail("argument", "%s = %s: expected a whole number%s", name, tostring(value),
        least and (" from %d"):format(least) or "")
    end
    return whole
  end

  local function check_stops(stop)
    if type(stop) == "string" then stop = { stop } end
    if stop ~= nil and type(stop) ~= "table" then
      pl.fail("argument", "stop is a %s: expected a string or a list of strings", type(stop))
    end
    local list = {}
    for i, text in ipairs(stop or {}) do
      if type(text) ~= "string" or text == "" then
        pl.fail("argument", "stop: item %d is not a string with something in it", i)
      end
      list[i] = text
    end
    return list
  end

  local function check_end_ids(ids)
    if type(ids) == "number" then ids = { ids } end
    local set = {}
    for i, id in ipairs(ids or {}) do
      set[math.tointeger(id) or pl.fail("argument", "stop_token_ids: item %d is not an id", i)] = true
    end
    return set
  end

  local function check_function(opts, name)
    local fn = opts[name]
    if fn ~= nil and type(fn) ~= "function" then
      pl.fail("argument", "%s is a %s: expected a function", name, type(fn))
    end
    return fn
  end

  -- The chain that the options mean. With it, the grammars in it: copies of the script's own, which
  -- the generator moves on.
  local function make_chain(opts, model, grammar)
    local grammars = { grammar }
    if not opts.chain then return builder.from_options(opts, model, grammars), grammars end
    builder.check_alone(opts)
    if type(opts.chain) ~= "table" then return opts.chain, grammars end
    local chain = { grammar }
    for _, item in ipairs(opts.chain) do
      if pl.is_grammar(item) then
        item = item:fork()
        grammars[#grammars + 1] = item
      end
      chain[#chain + 1] = item
    end
    return chain, grammars
  end

  -- -- the generator ------------------------------------------------------------------------

  local Generator = {}
  Generator.__index = Generator
  Generator.__name = "perilune.generator"

  -- Takes the prompt's last token back: what comes next must begin with its text, which a longer
  -- token may do better. That text was given already, so it is not given out again.
  local function take_back(self)
    local tok, prompt = self.tokenizer, self.prompt
    if not tok or prompt == nil then
      pl.fail("argument", "token_healing: it needs a prompt and a model with a tokenizer")
    end
    local ids = type(prompt) == "table" and prompt or prompt.to_table and prompt:to_table() or {}
    local last = ids[#ids]
    if #ids == 0 or #ids + self.seq.length < 2 or tok:attr(last) ~= "normal" then return end
    local text = tok:to_str_tokens({ last })[1]
    self.grammar = self.grammar or pl.grammar('root ::= ""', tok)
    self.grammar:set_prefix(text, pl.constraint_name(self.opts) == nil)
    self.prompt = table.move(ids, 1, #ids - 1, 1, {})
    if #self.prompt == 0 then self.prompt = nil end
    self.given = #text
  end

  -- Keeps the last row of the activations that samplers want to see.
  local function watch(self, wants)
    self.activations, self.hooks = {}, {}
    for _, point in ipairs(wants) do
      self.hooks[#self.hooks + 1] = self.seq:hook(point, function(act)
        self.activations[point] = act[-1]:clone()
      end, { read = true })
    end
  end

  -- Reads the options; the first pass runs with the first token asked for.
  local function new(model, seq, prompt, opts)
    opts = check_known(opts)
    local config, tok = model.config, model.tokenizer
    if not config.causal then
      pl.fail("unsupported", "%s sees later tokens too: it cannot continue a text", config.arch)
    end
    local self = setmetatable({
      model = model, seq = seq or model:sequence(), private = seq == nil, tokenizer = tok, opts = opts,
      stops = check_stops(opts.stop), end_ids = check_end_ids(opts.stop_token_ids),
      max_new_tokens = check_integer(opts, "max_new_tokens", 0),
      seed = check_integer(opts, "seed") or math.random(0) & 0xffffffff,
      on_step = check_function(opts, "on_step"), ids = {}, pieces = {}, held = "", longest_stop = 0,
    }, Generator)
    if opts.max_time ~= nil and not (type(opts.max_time) == "number" and opts.max_time >= 0) then
      pl.fail("argument", "max_time = %s: expected seconds", tostring(opts.max_time))
    end
    if type(prompt) == "string" and not tok then
      pl.fail("argument", "the model has no tokenizer (tokenizer.json, tokenizer.model, vocab.json with merges.txt " ..
        "or vocab.txt beside its weights): give token ids instead of a text")
    end
    if #self.stops > 0 and not tok then pl.fail("argument", "stop: the model has no tokenizer") end
    for _, stop in ipairs(self.stops) do self.longest_stop = math.max(self.longest_stop, #stop) end
    self.prompt = type(prompt) == "string" and tok and tok:encode(prompt) or prompt
    self.grammar = pl.constraint(opts, tok)
    if opts.token_healing then take_back(self) end
    local chain, grammars = make_chain(opts, model, self.grammar)
    local wants
    self.chain, wants = builder.open(chain, model, self.seed, 0)
    self.grammars = grammars
    watch(self, wants)
    self.n_prompt = self.seq.length
    self.record = opts.record and core.record(self.seq, opts.record)
    return self
  end

  -- Logits of the position after the prompt, or after what the sequence holds already.
  local function start(self)
    local seq, out = self.seq, { logits = "last" }
    self.deadline = self.opts.max_time and core.clock() + self.opts.max_time
    if self.prompt then
      self.logits = seq:extend(self.prompt, out)
    elseif seq.length == 0 then
      pl.fail("argument", "there is nothing to continue: the sequence is empty and no prompt is given")
    else
      local again <close> = seq:fork()
      again:truncate(-1)
      self.logits = again:extend(seq:tokens()[-1], out)
    end
    self.feed = { logits = "last", out = self.logits }
    self.n_prompt = seq.length
    self.limit = math.min(self.max_new_tokens or math.maxinteger, seq.session.n_ctx - seq.length)
    if self.max_new_tokens then seq:reserve(seq.length + math.min(self.limit, 4096)) end
    if self.tokenizer then self.decoder = self.tokenizer:decoder({ keep_leading = true }) end
    self.context = { seq = seq, model = self.model, n_prompt = self.n_prompt, seed = self.seed,
      ids = seq:tokens():to_table(), activations = self.activations,
      random = function() return self.chain:random() end }
    self.chain:reset(self.context.ids)
  end

  local function finish(self, reason)
    self.finish_reason = self.finish_reason or reason
    self:close()
  end

  -- Frees what the generator holds; a break out of `for` does it.
  function Generator:close()
    if self.closed then return end
    self.closed = true
    self.finish_reason = self.finish_reason or "script"
    self.chain:close()
    for _, hook in ipairs(self.hooks) do hook:remove() end
    if self.record then self.record:finish(self.n_prompt) end
    if self.private then self.seq:close() end
  end
  Generator.__close = Generator.close

  -- What may be given out of the text held back: never a part of a stop string.
  local function release(self, text, last)
    local held = self.held .. text
    local first, found
    for _, stop in ipairs(self.stops) do
      local at = held:find(stop, 1, true)
      if at and (not first or at < first) then first, found = at, stop end
    end
    self.held = ""
    if first then
      self.stop = found
      return held:sub(1, first - 1), "stop"
    end
    if last then return held end
    for n = math.min(#held, self.longest_stop - 1), 1, -1 do
      local tail = held:sub(-n)
      for _, stop in ipairs(self.stops) do
        if stop:sub(1, n) == tail then
          self.held = tail
          return held:sub(1, -n - 1)
        end
      end
    end
    return held
  end

  -- Whether a grammar's text is whole, so that nothing may follow.
  local function is_complete(self)
    for _, grammar in ipairs(self.grammars) do
      if not grammar.may_go_on then return true end
    end
    return false
  end

  -- Why this token would be the last one, before its text is looked at.
  local function reason_to_end(self, id)
    if self.end_ids[id] then return "stop", true end
    if self.tokenizer and not self.opts.ignore_eos and id < self.tokenizer.n_tokens
      and self.tokenizer:is_end(id) then return "eos", true end
    if is_complete(self) then return "grammar" end
    if #self.ids + 1 >= self.limit then return "length" end
    if self.deadline and core.clock() >= self.deadline then return "time" end
  end

  local function text_of(self, id, silent, last)
    if not self.decoder then return "" end
    local text = silent and "" or self.decoder:put(id)
    if self.given and self.given > 0 then
      local n = math.min(self.given, #text)
      text, self.given = text:sub(n + 1), self.given - n
    end
    return last and text .. self.decoder:flush() or text
  end

  -- A private sequence is fed when the next token is asked for, which saves the last pass; one
  -- that the script holds is fed at once, so that it never lacks what was given out.
  local function pull(self)
    if not self.logits then
      start(self)
    elseif self.private then
      self.seq:extend(self.ids[#self.ids], self.feed)
    end
    if self.limit <= 0 then return finish(self, "length") end
    if is_complete(self) then return finish(self, "grammar") end
    local pos = self.n_prompt + #self.ids
    local context = self.context
    context.pos, context.n, context.step = pos, #self.ids, #self.ids
    local logits = self.opts.logits and self.logits:clone() or nil
    local id, prob, entropy = self.chain:sample(self.logits, pos, context)
    self.chain:accept(id)
    local reason, silent = reason_to_end(self, id)
    local piece, stopped = release(self, text_of(self, id, silent, reason ~= nil), reason ~= nil)
    reason = stopped or reason
    if not self.private and not silent then self.seq:extend(id, self.feed) end
    if not silent then
      self.ids[#self.ids + 1] = id
      context.ids[#context.ids + 1] = id
    end
    local step = { id = id, pos = pos, prob = prob, entropy = entropy, logits = logits,
      finish_reason = reason }
    self.pieces[#self.pieces + 1] = piece
    if reason then finish(self, reason) end
    if silent and piece == "" then return nil end
    return piece, step
  end

  function Generator:__call()
    if self.closed then return nil end
    local piece, step = pull(self)
    if piece and self.on_step and self.on_step(piece, step) == false then finish(self, "script") end
    return piece, step
  end

  -- -- the methods --------------------------------------------------------------------------

  -- An iterator over piece, step. step: id, pos, prob and entropy (nats) of the model's own
  -- distribution, logits (with logits = true), finish_reason on the last one.
  function Model:generate(prompt, opts)
    if prompt == nil then pl.fail("argument", "generate: a prompt is missing") end
    local gen = new(self, nil, prompt, opts)
    return gen, nil, nil, gen
  end

  -- (prompt, opts), (prompt), (opts) or (): a table without a list in it is options.
  local function shift(prompt, opts)
    if opts == nil and type(prompt) == "table" and #prompt == 0 then return nil, prompt end
    return prompt, opts
  end

  function Sequence:generate(prompt, opts)
    prompt, opts = shift(prompt, opts)
    local gen = new(self.model, self, prompt, opts)
    return gen, nil, nil, gen
  end

  local Result = { __tostring = function(result) return result.text end, __name = "perilune.result" }

  -- Runs a generator to its end. Ctrl-C ends it too, with what there is.
  local function complete(gen)
    local gen_scope <close> = gen -- luacheck: ignore 211
    repeat
      local good, piece = pcall(gen)
      if not good then
        if type(piece) ~= "table" and type(piece) ~= "userdata" or piece.kind ~= "interrupted" then
          error(piece, 0)
        end
        core.clear_interrupt()
        gen.pieces[#gen.pieces + 1] = gen.held
        finish(gen, "interrupted")
      end
    until not good or not piece
    return setmetatable({ text = table.concat(gen.pieces), ids = gen.ids,
      finish_reason = gen.finish_reason, stop = gen.stop, seed = gen.seed, n_prompt = gen.n_prompt,
      n_new = #gen.ids, record = gen.record }, Result)
  end

  -- The whole continuation: text, ids, finish_reason, stop (the stop string found), seed,
  -- n_prompt, n_new. The text ends before the stop string.
  -- With a strategy's name the options are that strategy's: see pl.strategies.
  local function strategy_of(opts)
    if type(opts) ~= "table" or opts.strategy == nil then return nil end
    local own = {}
    for key, value in pairs(opts) do own[key] = value end
    own.strategy = nil
    return pl.strategies[opts.strategy], own
  end

  function Model:complete(prompt, opts)
    local strategy, own = strategy_of(opts)
    if strategy then return strategy(self, prompt, own) end
    return complete((self:generate(prompt, opts)))
  end

  function Sequence:complete(prompt, opts)
    prompt, opts = shift(prompt, opts)
    local strategy, own = strategy_of(opts)
    if not strategy then return complete((self:generate(prompt, opts))) end
    if prompt ~= nil then self:extend(prompt, { logits = "none" }) end
    return strategy:on(self, own)
  end
end
