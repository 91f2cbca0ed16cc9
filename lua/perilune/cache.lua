-- Activations kept from a run: a table of named tensors, and the runs that fill it.

return function(pl, core, resolve)
  local Model = core.types["perilune.model"]

  -- -- the cache --------------------------------------------------------------------------------
  --
  -- A cache holds tensors by the full names of their points. What a run brings in several pieces (a
  -- prompt longer than n_batch, tokens generated one by one) is joined when the run is over.

  local Cache, data = {}, setmetatable({}, { __mode = "k" }) -- data: {config, points, pieces, folder}
  Cache.__name = "perilune.cache"

  local function sorted(list)
    table.sort(list)
    return list
  end

  function Cache.names(cache)
    local names = {}
    for name in pairs(data[cache].pieces) do names[#names + 1] = name end
    for name in pairs(cache) do
      if not data[cache].pieces[name] then names[#names + 1] = name end
    end
    return sorted(names)
  end

  -- Rows follow one another; attention, whose pieces see ever more keys, is filled up with what a
  -- masked key has.
  local function join(pieces, point)
    if #pieces == 1 then return pieces[1] end
    if point.dims ~= "head,query,key" then return pl.cat(pieces, 0) end
    local n_keys = pieces[#pieces].shape[3]
    local masked = point.name == "hook_attn_scores" and -math.huge or 0
    for i, piece in ipairs(pieces) do
      local shape = piece.shape
      if shape[3] < n_keys then
        pieces[i] = pl.full({ shape[1], shape[2], n_keys }, masked)
        pieces[i]:narrow(2, 0, shape[3]):copy_(piece)
      end
    end
    return pl.cat(pieces, 1):names("head", "query", "key")
  end

  local function load_pieces(paths)
    local pieces = {}
    for i, path in ipairs(paths) do pieces[i] = pl.load_npy(path) end
    return pieces
  end

  -- The tensor of a full name, or nil.
  local function fetch(cache, name)
    local d = data[cache]
    local pieces = d.pieces[name]
    if not pieces then return nil end
    local tensor = join(d.folder and load_pieces(pieces) or pieces, d.points[name])
    local dims = {}
    for dim in d.points[name].dims:gmatch("[^,]+") do dims[#dims + 1] = dim == "1" and "" or dim end
    tensor:names(table.unpack(dims))
    if not d.folder then
      rawset(cache, name, tensor)
      d.pieces[name] = nil
    end
    return tensor
  end

  -- The tensor at a point: a full name, or a short one with its layer.
  function Cache.get(cache, name, layer)
    local places = resolve(data[cache].config, name, layer)
    if #places ~= 1 then
      pl.fail("argument", "'%s' means %d points: name a layer", name, #places)
    end
    return cache[places[1].name]
  end

  function Cache.__index(cache, name)
    if Cache[name] and type(name) == "string" and not name:find("^__") then return Cache[name] end
    return type(name) == "string" and fetch(cache, name)
      or pl.fail("argument", "'%s' was not cached: name it in run_with_cache", tostring(name))
  end

  function Cache.__tostring(cache)
    local lines = {}
    for _, name in ipairs(cache:names()) do
      local tensor = cache[name]
      lines[#lines + 1] = ("%-40s [%s]"):format(name, table.concat(tensor.shape, ", "))
    end
    return ("cache of %d activations\n%s"):format(#lines, table.concat(lines, "\n"))
  end

  -- Writes every tensor, as safetensors or GGUF.
  function Cache.save(cache, path)
    local tensors = {}
    for _, name in ipairs(cache:names()) do tensors[name] = cache[name] end
    pl.save_tensors(path, tensors)
  end

  local function new_cache(config, points, folder)
    local cache = setmetatable({}, Cache)
    data[cache] = { config = config, points = points, pieces = {}, folder = folder }
    return cache
  end

  -- One piece: kept, or written to the cache's folder as NAME.POSITION.npy.
  local function put(cache, act, at)
    local d = data[cache]
    local pieces = d.pieces[at.point] or {}
    d.pieces[at.point] = pieces
    if d.folder then
      pieces[#pieces + 1] = ("%s/%s.%08d.npy"):format(d.folder, at.point, at.pos)
      act:contiguous():save(pieces[#pieces])
    else
      pieces[#pieces + 1] = act:clone()
    end
  end

  local function finish(cache)
    if data[cache].folder then return end
    for _, name in ipairs(cache:names()) do fetch(cache, name) end
  end

  -- -- places -----------------------------------------------------------------------------------

  -- What the patterns mean: a list for core.hooks.add, and name -> point.
  local function places_of(config, patterns)
    local list, points = {}, {}
    if type(patterns) == "string" then patterns = { patterns } end
    if patterns ~= nil and type(patterns) ~= "table" then
      pl.fail("argument", "patterns are a string or a list of strings, got a %s", type(patterns))
    end
    for _, pattern in ipairs(patterns or { "*" }) do
      for _, place in ipairs(resolve(config, pattern)) do
        if not points[place.name] then
          points[place.name] = place.point
          list[#list + 1] = { place.point.index, place.layer }
        end
      end
    end
    return list, points
  end

  -- Registers the edits {point, fn, opts} on a sequence; the hooks.
  local function add_hooks(seq, hooks)
    local handles = {}
    for i, hook in ipairs(hooks or {}) do
      if type(hook) ~= "table" then
        pl.fail("argument", "hook %d is a %s: expected {point, function, options}", i, type(hook))
      end
      handles[i] = seq:hook(hook[1], hook[2], hook[3])
    end
    return handles
  end

  local function check_fired(handles)
    for i, handle in ipairs(handles) do
      if handle.fired == 0 then
        pl.fail("state", "hook %d (%s) never fired: no row of the prompt has its position", i, handle.point)
      end
    end
  end

  -- -- runs -------------------------------------------------------------------------------------

  local function is_prompt(value)
    return type(value) == "string" or type(value) == "userdata" or type(value) == "table"
  end

  -- A list of prompts begins with a prompt; ids begin with a number.
  local function is_list(prompt) return type(prompt) == "table" and is_prompt(prompt[1]) end

  -- The kinds of tokens, a list for each prompt.
  local function types_of(opts, many)
    return opts.types and (many and opts.types or { opts.types })
  end

  -- The rows of all prompts in one pass: logits, or the residual stream before a layer.
  local function run(model, seqs, prompts, stop_at_layer, types)
    if model.config.headless then stop_at_layer = stop_at_layer or model.config.n_layers end
    local items = {}
    for i, seq in ipairs(seqs) do items[i] = { seq, prompts[i], types = types and types[i] } end
    if not stop_at_layer then return (core.logits_of(model, items)) end
    items.to_layer = stop_at_layer
    for _, item in ipairs(items) do item.logits = "none" end
    return pl.partial(items)
  end

  local Sequences = { __close = function(seqs) for _, seq in ipairs(seqs) do seq:close() end end }

  local function sequences_for(model, prompts)
    local seqs = setmetatable({}, Sequences)
    for i = 1, #prompts do seqs[i] = model:sequence() end
    return seqs
  end

  local function make_folder(path)
    if path == nil then return nil end
    if type(path) ~= "string" then pl.fail("argument", "to is a %s: expected the path of a folder", type(path)) end
    pl.make_folder(path)
    return path
  end

  function Model:run_with_cache(prompt, patterns, opts)
    opts = pl.check_options("run_with_cache", opts, { "hooks", "stop_at_layer", "to", "types" })
    local many = is_list(prompt)
    local types = types_of(opts, many)
    local prompts = many and prompt or { prompt }
    local places, points = places_of(self.config, patterns)
    if opts.to and many then pl.fail("argument", "to: one prompt at a time is written to a folder") end
    local folder = make_folder(opts.to)
    local seqs <close> = sequences_for(self, prompts)
    local caches, by_seq, handles = {}, {}, {}
    for i, seq in ipairs(seqs) do
      caches[i] = new_cache(self.config, points, folder)
      by_seq[seq] = caches[i]
      for _, handle in ipairs(add_hooks(seq, opts.hooks)) do handles[#handles + 1] = handle end
    end
    -- After the edits: what is kept is what was used.
    local keeper <close> = core.hooks.add(self.default_session, places, function(act, at) -- luacheck: ignore 211
      if by_seq[at.seq] then put(by_seq[at.seq], act, at) end
    end, nil, { read = true }, "run_with_cache")
    local results = run(self, seqs, prompts, opts.stop_at_layer, types)
    check_fired(handles)
    for _, cache in ipairs(caches) do finish(cache) end
    if many then return results, caches end
    return results[1], caches[1]
  end

  function Model:run_with_hooks(prompt, hooks, opts)
    opts = pl.check_options("run_with_hooks", opts, { "stop_at_layer", "types" })
    local many = is_list(prompt)
    local types = types_of(opts, many)
    local prompts = many and prompt or { prompt }
    if type(hooks) ~= "table" then
      pl.fail("argument", "hooks is a %s: expected a list of {point, function, options}", type(hooks))
    end
    local seqs <close> = sequences_for(self, prompts)
    local handles = {}
    for _, seq in ipairs(seqs) do
      for _, handle in ipairs(add_hooks(seq, hooks)) do handles[#handles + 1] = handle end
    end
    local results = run(self, seqs, prompts, opts.stop_at_layer, types)
    check_fired(handles)
    return many and results or results[1]
  end

  -- A cache that run_with_cache wrote to a folder; tensors are read when they are asked for.
  function pl.load_cache(model, folder)
    local config = model.config
    local _, points = places_of(config, "*")
    local cache = new_cache(config, points, folder)
    local pieces = data[cache].pieces
    for _, file in ipairs(sorted(core.list_folder(folder) or pl.fail("io", "%s: cannot be read", folder))) do
      local name = file:match("^(.+)%.%d+%.npy$")
      if name and points[name] then
        pieces[name] = pieces[name] or {}
        table.insert(pieces[name], folder .. "/" .. file)
      end
    end
    if not next(pieces) then pl.fail("format", "%s: there is no cache in it", folder) end
    return cache
  end

  -- -- recording during generation -----------------------------------------------------------------

  local Record = { __name = "perilune.record" }
  Record.__index = Record

  -- Keeps activations of every call over a sequence; `keep` is called before the sequence goes.
  function core.record(seq, patterns)
    local config = seq.model.config
    local places, points = places_of(config, patterns)
    local record = setmetatable({ seq = seq, n_prompt = 0, parts = new_cache(config, points) }, Record)
    record.handle = core.hooks.add(seq.session, places, function(act, at)
      if at.seq == record.seq then put(record.parts, act, at) end
    end, seq, { read = true }, "record")
    return record
  end

  -- Ends the recording, with a fork of the sequence to replay from.
  function Record:finish(n_prompt)
    if self.finished then return end
    self.finished, self.n_prompt = true, n_prompt
    self.handle:remove()
    self.seq = self.seq:fork()
    self.handle = nil
    finish(self.parts)
  end

  -- The activations, as used: edits by hooks included. Rows are positions of prompt and text; the
  -- last token drawn was not fed, so that it has none.
  function Record:cache()
    if not self.finished then pl.fail("state", "the generation that is recorded goes on") end
    return self.parts
  end

  -- Goes on from step k (0: the first token drawn) with edits: options of generate, and
  -- hooks = {{point, function, options}, ...}.
  function Record:replay(k, opts)
    if not self.finished then pl.fail("state", "the generation that is recorded goes on") end
    local most = #self.seq - self.n_prompt
    local step = math.tointeger(k)
    if not step or step < 0 or step > most then
      pl.fail("argument", "step %s: expected 0 to %d", tostring(k), most)
    end
    local rest, hooks = {}, opts and opts.hooks
    for key, value in pairs(opts or {}) do rest[key] = key ~= "hooks" and value or nil end
    local seq = self.seq:fork():truncate(self.n_prompt + step)
    local handles = add_hooks(seq, hooks)
    return seq:generate(nil, rest), seq, handles
  end

  function Record:close() self.seq:close() end
  Record.__close = Record.close
end
