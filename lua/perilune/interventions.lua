-- pl.edit: the usual interventions, each a few lines over hooks. The first argument is what is
-- hooked (a model, a session or a sequence), the second a point; each returns the hook's handle.

return function(pl, core)
  local edit = {}
  pl.edit = edit

  local place = { "layer", "head", "pos" } -- where: options that all share

  local function options(what, opts, ...)
    local known = { table.unpack(place) }
    for _, name in ipairs { ... } do known[#known + 1] = name end
    return pl.check_options(what, opts, known)
  end

  local head_dims = { head = true, kv_head = true }
  local function one_head(act, head)
    if head == nil then return act end
    for _, name in ipairs(act:names()) do
      if head_dims[name] then return act:select(name, head) end
    end
    return act:select("head", head) -- which says what dimensions there are
  end

  -- fn(view, at) sees the rows, and of them the head, that opts name; what it returns is written.
  local function hook(on, point, opts, fn)
    return on:hook(point, function(act, at)
      local view = one_head(act, opts.head)
      local new = fn(view, at)
      if new then view:copy_(new) end
    end, { layer = opts.layer, pos = opts.pos })
  end

  local function model_of(on)
    if core.is_model(on) then return on end
    return on.model
  end

  local function check_tensor(what, value)
    if not core.is_tensor(value) then
      pl.fail("argument", "%s: expected a tensor, got a %s", what, type(value))
    end
  end

  local function check_table(what, value, expected)
    if type(value) ~= "table" then
      pl.fail("argument", "%s: expected %s, got a %s", what, expected, type(value))
    end
    return value
  end

  -- -- ablating ----------------------------------------------------------------------------------

  -- Puts opts.to in the activation's place: 0, a number, a tensor that fits one position's
  -- activation, or what edit.means gave.
  function edit.ablate(on, point, opts)
    opts = options("ablate", opts, "to")
    local to = opts.to or 0
    if type(to) ~= "number" and type(to) ~= "table" then check_tensor("ablate: to", to) end
    return hook(on, point, opts, function(view, at)
      local value = to
      if type(to) == "table" then
        value = to[at.point] or pl.fail("argument", "ablate: no mean of %s was taken", at.point)
        if opts.head then value = value[opts.head] end
      end
      if type(value) == "number" then view:fill_(value) else view:copy_(value) end
    end)
  end

  -- Averages over all positions of a list of prompts, by full name: what edit.ablate{to = ...} takes.
  function edit.means(model, prompts, point, opts)
    opts = pl.check_options("means", opts, { "layer" })
    local sums, counts = {}, {}
    for _, prompt in ipairs(check_table("means", prompts, "a list of prompts")) do
      local seq <close> = model:sequence()
      seq:hook(point, function(act, at)
        if act:names()[1] ~= "pos" then
          pl.fail("argument", "means: %s has no dimension over which prompts of different lengths agree", at.point)
        end
        local sum = act:sum(0)
        sums[at.point] = sums[at.point] and sums[at.point] + sum or sum
        counts[at.point] = (counts[at.point] or 0) + act.shape[1]
      end, { layer = opts.layer, read = true })
      seq:extend(prompt, { logits = "none" })
    end
    if not next(sums) then pl.fail("argument", "means: the list of prompts is empty") end
    for name, sum in pairs(sums) do sum:div_(counts[name]) end
    return sums
  end

  -- Every position gets the activation that a randomly drawn position of the cache had.
  function edit.resample(on, point, cache, opts)
    opts = options("resample", opts, "seed")
    check_table("resample", cache, "a cache")
    local state = opts.seed or 0
    return hook(on, point, opts, function(view, at)
      local source = one_head(cache[at.point], opts.head)
      state = state + 1
      local rows = pl.rand(view.shape[1], { seed = state }) * source.shape[1]
      return source:index_select(0, rows:floor():clamp(0, source.shape[1] - 1):long())
    end)
  end

  -- -- patching ----------------------------------------------------------------------------------

  -- A cache, or the activations of a prompt or sequence that is run for them.
  local function cache_of(on, source, point)
    if type(source) == "table" and type(next(source)) == "string" then return source end
    local ids = core.is_sequence(source) and source:tokens() or source
    local _, cache = model_of(on):run_with_cache(ids, { point })
    return cache
  end

  -- Rows get what the source has at the same positions, or at opts.from_pos; those beyond its end
  -- stay. source: a cache, a prompt or a sequence.
  function edit.patch(on, point, source, opts)
    opts = options("patch", opts, "from_pos")
    if opts.from_pos and not opts.pos then pl.fail("argument", "patch: from_pos goes with pos") end
    local cache = cache_of(on, source, point)
    return hook(on, point, opts, function(view, at)
      local from = one_head(cache[at.point], opts.head)
      local dim = 0
      for i, name in ipairs(view:names()) do
        if name == "pos" or name == "query" then dim = i - 1 end
      end
      local first = opts.from_pos or at.pos
      local n = math.min(view.shape[dim + 1], from.shape[dim + 1] - first)
      if n <= 0 then return end
      view, from = view:narrow(dim, 0, n), from:narrow(dim, first, n)
      if view:names()[view.n_dims] == "key" then
        local keys = math.min(view.shape[view.n_dims], from.shape[from.n_dims])
        view, from = view:narrow("key", 0, keys), from:narrow("key", 0, keys)
      end
      view:copy_(from)
    end)
  end

  -- Attention looks where it looked in the cached run.
  function edit.freeze_pattern(on, source, opts) return edit.patch(on, "attn.hook_pattern", source, opts) end

  -- Norms divide by what they divided by in the cached run: the rest of the model becomes linear.
  function edit.freeze_norms(on, source, opts)
    local cache, list = cache_of(on, source, "*.hook_scale"), {}
    for _, point in ipairs(model_of(on):hook_points()) do
      local wanted = not (opts and opts.layer) or point.layer == opts.layer
      if point.name:find("hook_scale$") and rawget(cache, point.name) and wanted then
        list[#list + 1] = edit.patch(on, point.name, cache, { pos = opts and opts.pos })
      end
    end
    return list
  end

  -- -- steering ----------------------------------------------------------------------------------

  -- Adds scale * vector. gate: a direction; only rows that lie along it by more than `threshold` (0)
  -- are moved.
  function edit.add(on, point, vector, opts)
    opts = options("add", opts, "scale", "gate", "threshold")
    check_tensor("add", vector)
    if opts.gate then check_tensor("add: gate", opts.gate) end
    local scale, gate = opts.scale or 1, opts.gate
    return hook(on, point, opts, function(view)
      if not gate then return view + vector * scale end
      local open = view:matmul(gate):gt(opts.threshold or 0):float()
      return view + open:unsqueeze(-1) * vector * scale
    end)
  end

  -- Rows of unit length, at right angles, that span the same as the direction or the rows given.
  local function orthonormal(directions)
    if directions.n_dims == 1 then directions = directions:unsqueeze(0) end
    local q = directions:transpose():qr()
    return q:transpose()
  end

  -- Takes a direction [d], or the space that several span [n, d], out of the activation.
  function edit.project_out(on, point, directions, opts)
    opts = options("project_out", opts)
    check_tensor("project_out", directions)
    local basis = orthonormal(directions)
    return hook(on, point, opts, function(view)
      return view - view:matmul(basis:transpose()):matmul(basis)
    end)
  end

  -- Keeps the component along a direction between min and max; with both equal, sets it.
  function edit.clamp(on, point, direction, opts)
    opts = options("clamp", opts, "min", "max")
    check_tensor("clamp", direction)
    local unit = direction / direction:norm()
    return hook(on, point, opts, function(view)
      local along = view:matmul(unit)
      local kept = along:clamp(opts.min or -math.huge, opts.max or math.huge)
      return view + (kept - along):unsqueeze(-1) * unit
    end)
  end

  -- Multiplies what a head adds to the residual stream.
  function edit.scale_head(on, layer, head, factor, opts)
    opts = pl.check_options("scale_head", opts, { "pos" })
    if type(factor) ~= "number" then pl.fail("argument", "scale_head: expected a factor, got a %s", type(factor)) end
    return hook(on, "attn.hook_z", { layer = layer, head = head, pos = opts.pos },
      function(view) return view * factor end)
  end

  -- -- attention ---------------------------------------------------------------------------------

  local function positions(value, what)
    if value == nil then return nil end
    local set = {}
    for _, pos in ipairs(type(value) == "table" and value or { value }) do
      if math.type(pos) ~= "integer" or pos < 0 then
        pl.fail("argument", "knock_out: %s = %s: expected positions from 0", what, tostring(pos))
      end
      set[#set + 1] = pos
    end
    return set
  end

  -- Head `head` of `layer` (all unless named) cannot look from positions `query` at positions `key`.
  function edit.knock_out(on, opts)
    opts = pl.check_options("knock_out", opts, { "layer", "head", "query", "key" })
    local queries, keys = positions(opts.query, "query"), positions(opts.key, "key")
    return on:hook("attn.hook_attn_scores", function(scores, at)
      if opts.head then scores = scores:narrow("head", opts.head, 1) end
      local rows = queries or {}
      for i = 1, queries and 0 or at.n do rows[i] = at.pos + i - 1 end
      for _, query in ipairs(rows) do
        if query >= at.pos and query < at.pos + at.n then
          local row = scores:select("query", query - at.pos)
          for _, key in ipairs(keys or {}) do
            if key < row.shape[2] then row:select("key", key):fill_(-math.huge) end
          end
          if not keys or row:max(1):min() == -math.huge then
            pl.fail("argument", "knock_out: position %d would be left with nothing to look at", query)
          end
        end
      end
    end, { layer = opts.layer })
  end

  -- -- splicing ----------------------------------------------------------------------------------

  -- The activation goes through fn(act, at), whatever it is: a function, or a sparse autoencoder.
  function edit.splice(on, point, fn, opts)
    opts = options("splice", opts)
    if type(fn) ~= "function" and type(fn) ~= "table" then
      pl.fail("argument", "splice: expected a function, got a %s", type(fn))
    end
    return hook(on, point, opts, function(view, at) return fn(view, at) end)
  end
end
