-- Chains of samplers: samplers written in Lua, by name; what options of `generate` mean; what a
-- script may write where a sampler takes tokens.
--
--     pl.sampler("no_e", function(logits, ctx) logits:index_fill_(with_e, -math.huge) end)
--     pl.sampler { name = "cooling", params = { rate = 0.99 },
--       new = function(p) return { t = 1, rate = p.rate } end,
--       apply = function(s, logits, ctx) logits:div_(s.t) end,
--       accept = function(s, id) s.t = math.max(0.2, s.t * s.rate) end }
--     model:generate(prompt, { chain = { "penalties", "no_e", { "cooling", rate = 0.9 }, "dist" } })

return function(pl, core)
  local Model = core.types["perilune.model"]
  local Chain = core.types["perilune.chain"]
  local builder = {}
  core.chain_builder = builder

  local builtin, by_param = {}, {} -- kinds by name; by a parameter that only one kind has
  for _, kind in ipairs(core.samplers()) do
    builtin[kind.name] = kind
    for _, param in ipairs(kind.params) do
      by_param[param.name] = by_param[param.name] == nil and kind or false
    end
    if kind.list then by_param[kind.list] = by_param[kind.list] == nil and kind or false end
  end

  -- -- samplers written in Lua --------------------------------------------------------------

  local registered = {}
  builder.registered = registered
  local fields = { "name", "summary", "params", "new", "apply", "accept", "clone", "chooses", "wants" }

  -- A parameter is a number, its default, or {default, min =, max =, help =}.
  local function check_params(def)
    local params = {}
    for name, spec in pairs(def.params or {}) do
      if type(spec) ~= "table" then spec = { spec } end
      if type(name) ~= "string" or type(spec[1]) ~= "number" then
        pl.fail("argument", "sampler '%s': parameter %s: expected name = number, or name = {number, "
          .. "min =, max =, help =}", def.name, tostring(name))
      end
      params[name] = { neutral = spec[1], min = spec.min or -math.huge, max = spec.max or math.huge,
        help = spec.help }
    end
    return params
  end

  --- Registers a sampler under a name that chains may then hold. A second one of that name takes its
  --- place. With `source` (a plugin's file) beside the definition.
  local function register(def, source)
    if type(def.name) ~= "string" or not def.name:find("^[%a_][%w_]*$") then
      pl.fail("argument", "a sampler's name is %s: expected letters, digits and _", tostring(def.name))
    end
    pl.check_options("sampler '" .. def.name .. "'", def, fields)
    if builtin[def.name] then
      pl.fail("argument", "sampler '%s': that is one of the built-in ones", def.name)
    end
    for _, field in ipairs({ "new", "apply", "accept", "clone" }) do
      local fn = def[field]
      if (fn ~= nil or field == "apply") and type(fn) ~= "function" then
        pl.fail("argument", "sampler '%s': %s is a %s: expected a function", def.name, field, type(fn))
      end
    end
    local copy = {}
    for key, value in pairs(def) do copy[key] = value end
    copy.params, copy.source = check_params(def), source
    copy.wants = type(def.wants) == "string" and { def.wants } or def.wants
    registered[def.name] = copy
  end
  builder.register = register

  function pl.sampler(name, fn)
    if type(name) == "table" then return register(name) end
    if type(fn) ~= "function" then
      pl.fail("argument", "pl.sampler takes (name, function) or a table, got (%s, %s)", type(name), type(fn))
    end
    register({ name = name, apply = function(_, logits, ctx) return fn(logits, ctx) end })
  end

  local function copy_state(state)
    if core.is_tensor(state) then return state:clone() end
    if type(state) ~= "table" then return state end
    local copy = {}
    for key, value in pairs(state) do copy[key] = copy_state(value) end
    return setmetatable(copy, getmetatable(state))
  end

  local function instance(def, given)
    local params = {}
    for name, spec in pairs(def.params) do params[name] = spec.neutral end
    for name, value in pairs(given) do
      local spec = def.params[name]
      if not spec then
        local names = {}
        for known in pairs(def.params) do names[#names + 1] = known end
        local near = pl.nearest(tostring(name), names)
        pl.fail("argument", "sampler '%s' has no parameter '%s'%s", def.name, tostring(name),
          near and (", did you mean '%s'?"):format(near) or "")
      end
      if type(value) ~= "number" or not (value >= spec.min and value <= spec.max) then
        pl.fail("argument", "sampler '%s': %s = %s: expected a number from %g to %g", def.name, name,
          tostring(value), spec.min, spec.max)
      end
      params[name] = value
    end
    local function fresh()
      if def.new then return def.new(copy_state(params)) end
      return copy_state(params)
    end
    return { name = def.name, apply = def.apply, accept = def.accept, clone = def.clone, reset = fresh,
      state = fresh(), chooses = def.chooses, params = params }
  end

  -- -- what stands for tokens ---------------------------------------------------------------

  local function ids_of(value, tok, what)
    if math.type(value) == "integer" then return { value } end
    if type(value) == "string" then
      if not tok then pl.fail("argument", "%s: '%s': texts need a model with a tokenizer", what, value) end
      return tok:encode(value, { add_special = false, parse_special = true }):to_table()
    end
    if core.is_tensor(value) then return value:to_table() end
    if type(value) == "table" then
      for i, id in ipairs(value) do
        if math.type(id) ~= "integer" then
          pl.fail("argument", "%s: item %d of the list is %s: expected an id", what, i, tostring(id))
        end
      end
      return value
    end
    pl.fail("argument", "%s: %s: expected an id, a text or a list of ids", what, tostring(value))
  end

  local function all_ids(value, tok, what)
    if type(value) ~= "table" then return ids_of(value, tok, what) end
    local list = {}
    for _, item in ipairs(value) do
      for _, id in ipairs(ids_of(item, tok, what)) do list[#list + 1] = id end
    end
    return list
  end

  -- false stands for -inf: never.
  local function bias_of(value, what)
    if value == false then return -math.huge end
    if type(value) == "number" then return value end
    pl.fail("argument", "%s: a bias is %s: expected a number", what, tostring(value))
  end

  -- {[id or text] = bias} or {{id, text or ids, bias}, ...}
  local function valued_lists(kind, value, tok)
    local lists, what = {}, kind.list
    for key, item in pairs(value) do
      local tokens, bias = key, item
      if type(item) == "table" then tokens, bias = item[1] or item.ids, item[2] or item.value end
      local ids = ids_of(tokens, tok, what)
      bias = bias_of(bias, what)
      if kind.single then
        for _, id in ipairs(ids) do lists[#lists + 1] = { ids = { id }, value = bias } end
      else
        lists[#lists + 1] = { ids = ids, value = bias }
      end
    end
    table.sort(lists, function(a, b) return table.concat(a.ids, " ") < table.concat(b.ids, " ") end)
    return lists
  end

  local sequences = { bad_words_ids = true, dry_sequence_breakers = true }

  local function lists_of(kind, value, tok)
    local what = kind.list
    if kind.valued then
      if type(value) ~= "table" then
        pl.fail("argument", "%s = %s: expected {[id] = bias}", what, tostring(value))
      end
      return valued_lists(kind, value, tok)
    end
    if not sequences[what] then
      local ids = all_ids(value, tok, what)
      return #ids > 0 and { { ids = ids } } or {}
    end
    local lists = {}
    for i, item in ipairs(type(value) == "table" and value or { value }) do
      local text = what == "dry_sequence_breakers" and type(item) == "string"
      lists[i] = text and { text = item } or { ids = ids_of(item, tok, what) }
    end
    return lists
  end

  -- -- items of a chain ---------------------------------------------------------------------

  -- The sampler that a table means, and whether by a key of it.
  local function name_of(item)
    if type(item[1]) == "string" then return item[1] end
    local found
    for key in pairs(item) do
      if type(key) == "string" then
        if builtin[key] or registered[key] then return key end
        found = by_param[key] and by_param[key].name or found
      end
    end
    for key in pairs(found and {} or item) do
      if type(key) == "string" and builder.find_plugin(key) then return key end
    end
    return found
  end

  local function named(name, item, tok)
    if not builtin[name] and not registered[name] and not by_param[name]
      and not builder.find_plugin(name) then core.fail_unknown(name, builder.other_names()) end
    local def = registered[name] -- asking for plugins may have brought it
    local given = {}
    for key, value in pairs(item) do
      if key ~= 1 then given[key] = value end
    end
    if def then return instance(def, given), def end
    local kind = builtin[name] or by_param[name]
    if not kind then
      given[1] = name
      return given
    end
    given[1] = kind.name
    if kind.list and given[kind.list] ~= nil then given[kind.list] = lists_of(kind, given[kind.list], tok) end
    return given, kind
  end

  -- What core.new_chain takes for an item, and what is known of the sampler.
  local function resolve(item, tok)
    if type(item) == "string" then return named(item, {}, tok) end
    if type(item) ~= "table" or item.apply then return item end
    local name = name_of(item)
    if not name then return item end
    return named(name, item, tok)
  end

  --- A chain, and the hook points that its samplers want to see.
  function builder.open(list, model, seed, stream)
    if type(list) ~= "table" then
      pl.fail("argument", "chain is a %s: expected a list of samplers", type(list))
    end
    local items, wants = {}, {}
    for i, item in ipairs(list) do
      local known
      items[i], known = resolve(item, model.tokenizer)
      for _, point in ipairs(known and known.wants or {}) do wants[#wants + 1] = point end
    end
    return core.new_chain(items, model.config.d_vocab, seed, stream, model), wants
  end

  --- A chain of its own: `chain:sample(logits, pos)` chooses, `chain:accept(id)` goes on.
  function Model:chain(list, opts)
    opts = pl.check_options("chain", opts, { "seed", "stream" }, { random_seed = "seed" })
    local chain = builder.open(list, self, opts.seed or math.random(0) & 0xffffffff, opts.stream or 0)
    return chain
  end

  local function copy_item(item)
    if type(item) ~= "table" then return pl.is_grammar(item) and item:fork() or item end
    local copy = {}
    for key, value in pairs(item) do copy[key] = value end
    copy.state = (item.clone or copy_state)(item.state)
    return copy
  end

  --- A chain in the same state that goes its own way; with another stream its draws differ.
  function Chain:clone(stream) return core.clone_chain(self, copy_item, stream) end

  -- -- options of generate --------------------------------------------------------------------

  -- Names of options that are no parameter of a sampler by themselves.
  local special = { mirostat = true, infill = true, exponential_decay_length_penalty = true }
  local hidden = { eos_token_id = true, forced_eos_at = true, decay_start = true, decay_factor = true }
  local options = { "mirostat", "infill", "exponential_decay_length_penalty" }
  for _, kind in ipairs(core.samplers()) do
    for _, param in ipairs(kind.params) do
      if not hidden[param.name] and kind.name ~= "mirostat_v2" then options[#options + 1] = param.name end
    end
    if kind.list and not hidden[kind.list] then options[#options + 1] = kind.list end
  end
  builder.options = options

  builder.synonyms = { temperature = "temp", topk = "top_k", topp = "top_p", minp = "min_p",
    typical_p = "typ_p", typical = "typ_p", repetition_penalty = "penalty_repeat",
    repeat_penalty = "penalty_repeat", repeat_last_n = "penalty_last_n",
    frequency_penalty = "penalty_freq", presence_penalty = "penalty_present",
    top_nsigma = "top_n_sigma", dynatemp_exp = "dynatemp_exponent", mirostat_mode = "mirostat",
    mirostat_ent = "mirostat_tau", mirostat_lr = "mirostat_eta", dry_breakers = "dry_sequence_breakers",
    bad_words = "bad_words_ids", force_bos_token_id = "forced_bos_token_id",
    force_eos_token_id = "forced_eos_token_id", min_tokens = "min_new_tokens",
    min_length = "min_new_tokens", no_repeat_ngram = "no_repeat_ngram_size" }

  -- The parameters of a kind that the options give, or nil.
  local function given_to(kind, opts)
    local item
    local function take(name)
      if opts[name] == nil or hidden[name] or special[name] then return end
      item = item or { kind.name }
      item[name] = opts[name]
    end
    for _, param in ipairs(kind.params) do take(param.name) end
    if kind.list then take(kind.list) end
    return item
  end

  local function with_ends(item, opts, model)
    local stop = opts.stop_token_ids
    if stop == nil or not item then return item end
    local ids = all_ids(stop, model.tokenizer, "stop_token_ids")
    for id = 0, model.tokenizer and model.tokenizer.n_tokens - 1 or -1 do
      if model.tokenizer:is_end(id) then ids[#ids + 1] = id end
    end
    item.eos_token_id = ids
    return item
  end

  local adapt = {
    min_new_tokens = with_ends,
    exponential_decay_length_penalty = function(_, opts, model)
      local value = opts.exponential_decay_length_penalty
      if value == nil then return nil end
      if type(value) ~= "table" or #value ~= 2 then
        pl.fail("argument", "exponential_decay_length_penalty: expected {first token, factor}")
      end
      return with_ends({ "exponential_decay_length_penalty", decay_start = value[1],
        decay_factor = value[2] }, opts, model)
    end,
    forced_eos = function(item, opts)
      if item and not opts.max_new_tokens then
        pl.fail("argument", "forced_eos_token_id: it needs max_new_tokens")
      end
      if item then item.forced_eos_at = opts.max_new_tokens end
      return item
    end,
    infill = function(_, opts) return opts.infill and { "infill" } or nil end,
  }

  -- The sampler that chooses.
  local function chooser(opts)
    local mode = opts.mirostat or 0
    local item = given_to(builtin.mirostat, opts)
    if mode ~= 0 and mode ~= 1 and mode ~= 2 then
      pl.fail("argument", "mirostat = %s: expected 0, 1 or 2", tostring(mode))
    end
    if item and mode == 0 then
      pl.fail("argument", "%s: it needs mirostat = 1 or 2", item.mirostat_tau and "mirostat_tau" or "mirostat_eta")
    end
    local adaptive = given_to(builtin.adaptive_p, opts)
    if adaptive and mode ~= 0 then pl.fail("argument", "mirostat and adaptive_target both choose the token") end
    if mode == 0 then return adaptive or "dist" end
    item = item or {}
    item[1] = mode == 1 and "mirostat" or "mirostat_v2"
    return item
  end

  -- What the option `sampler` holds: a function, a name, {name, param = value}, or a list of those.
  local function own_samplers(value)
    if type(value) == "table" and not value.apply and (#value > 1 or type(value[1]) ~= "string")
      and not name_of(value) then return value end
    return { value }
  end

  local function chooses(item)
    local name = type(item) == "table" and name_of(item) or item
    local def = registered[name] or builtin[name]
      or type(name) == "string" and not by_param[name] and builder.find_plugin(name)
    return def and def.chooses
  end

  --- The list that options mean, in llama.cpp's order: first what rules tokens out or in, then `first`
  --- (grammars) and the option `sampler`, penalties and the others.
  function builder.from_options(opts, model, first)
    local list = { table.unpack(first) }
    local last = chooser(opts)
    for _, item in ipairs(opts.sampler == nil and {} or own_samplers(opts.sampler)) do
      if type(item) ~= "function" and type(item) ~= "string" and type(item) ~= "table" then
        pl.fail("argument", "sampler is a %s: expected a function or a sampler's name", type(item))
      end
      if chooses(item) then last = item else list[#list + 1] = item end
    end
    for _, kind in ipairs(core.samplers()) do
      local item = not kind.chooses and given_to(kind, opts) or nil
      if adapt[kind.name] then item = adapt[kind.name](item, opts, model) end
      list[#list + 1] = item
    end
    list[#list + 1] = last
    return list
  end

  --- Option names that a chain of the script's own leaves nothing to say for.
  function builder.check_alone(opts)
    for _, name in ipairs({ "sampler", table.unpack(options) }) do
      if opts[name] ~= nil then pl.fail("argument", "chain already says what '%s' would", name) end
    end
  end
end
