-- pl.patching: sweeps that put single activations of one prompt into the run of another.
--
-- The corrupted prompt runs once and its keys and values stay. A patch at layer l and position p then
-- runs rows from p on and layers from l on only, on a fork; forks go through the model side by side.

return function(pl, core)
  local patching = {}
  pl.patching = patching

  local known = { "by", "batch", "progress" }
  local per_head = { q = true, k = true, v = true, z = true, rot_q = true, rot_k = true, pattern = true,
    attn_scores = true, result = true }

  -- -- both prompts -----------------------------------------------------------------------------

  local function ids_of(model, prompt)
    if type(prompt) == "string" then return model:encode(prompt) end
    return core.is_tensor(prompt) and prompt or pl.tensor(prompt, { dtype = "i32" })
  end

  -- What all patches of a pair of prompts share.
  local function prepare(model, clean, corrupted, points)
    clean, corrupted = ids_of(model, clean), ids_of(model, corrupted)
    if #clean ~= #corrupted then
      pl.fail("shape", "the prompts have %d and %d tokens: activations are exchanged position by position",
        #clean, #corrupted)
    end
    local _, cache = model:run_with_cache(clean, points)
    local base = model:sequence()
    local _, streams = model:run_with_cache(corrupted, { "resid_pre", table.unpack(points) })
    base:extend(corrupted, { logits = "none" })
    return { model = model, clean = cache, corrupted = streams, base = base, n = #corrupted,
      n_layers = model.config.n_layers }
  end

  -- The residual stream of the corrupted run that enters a layer, from a position on.
  local function entering(pair, layer, pos)
    local stream = pair.corrupted[("blocks.%d.hook_resid_pre"):format(layer)]
    return stream:narrow(0, pos, pair.n - pos)
  end

  local Forks = { __close = function(forks) for _, seq in ipairs(forks) do seq:close() end end }

  -- Runs jobs {pos, set_up = function(fork)} from one layer on, as many side by side as rows fit a
  -- pass or `batch` says; the results of pl.partial in their order.
  local function run(pair, jobs, from_layer, to_layer, batch)
    local results, first = {}, 1
    local most = pair.base.session.n_batch
    while first <= #jobs do
      local items, forks <close> = { from_layer = from_layer, to_layer = to_layer }, setmetatable({}, Forks)
      local rows = 0
      repeat
        local job = jobs[first]
        local fork = pair.base:fork()
        forks[#forks + 1] = fork
        job.set_up(fork)
        items[#items + 1] = { fork, n = pair.n - job.pos, residual = entering(pair, from_layer, job.pos) }
        rows = rows + pair.n - job.pos
        first = first + 1
      until first > #jobs or #forks >= batch or rows + pair.n - jobs[first].pos > most
      for _, result in ipairs(pl.partial(items)) do results[#results + 1] = result end
    end
    return results
  end

  -- -- sweeps -----------------------------------------------------------------------------------

  local function check_metric(metric)
    if type(metric) ~= "function" then
      pl.fail("argument", "metric is a %s: expected a function(logits) -> number", type(metric))
    end
  end

  local function measure(metric, logits)
    local value = metric(logits)
    if type(value) ~= "number" then pl.fail("argument", "metric returned a %s: expected a number", type(value)) end
    return value
  end

  -- How many heads the point's activations have.
  local function heads_of(pair, point)
    local act = pair.clean:get(point, 0)
    for i, name in ipairs(act:names()) do
      if name == "head" or name == "kv_head" then return act.shape[i] end
    end
    pl.fail("argument", "by: %s has no heads", point)
  end

  local function check_by(by, point)
    by = by or per_head[point] and { "layer", "head" } or { "layer", "pos" }
    local set = {}
    for _, name in ipairs(by) do set[name] = true end
    if not set.layer or not (set.pos or set.head) then
      pl.fail("argument", "by: expected layer with pos, head or both")
    end
    return set
  end

  local function check_batch(batch)
    local n = batch == nil and 32 or math.tointeger(batch)
    if not n or n < 1 then pl.fail("argument", "batch = %s: expected a whole number from 1", tostring(batch)) end
    return n
  end

  -- The metric of the corrupted run with one activation of the clean one in it, for every place.
  function patching.sweep(model, clean, corrupted, point, metric, opts)
    opts = pl.check_options("sweep", opts, known)
    check_metric(metric)
    local by, batch = check_by(opts.by, point), check_batch(opts.batch)
    local pair = prepare(model, clean, corrupted, { point })
    local base <close> = pair.base -- luacheck: ignore 211
    local n_heads, n_pos = by.head and heads_of(pair, point) or 1, by.pos and pair.n or 1
    local names, shape = { "layer" }, { pair.n_layers }
    if by.head then names[#names + 1], shape[#shape + 1] = "head", n_heads end
    if by.pos then names[#names + 1], shape[#shape + 1] = "pos", n_pos end
    local values = {}
    for layer = 0, pair.n_layers - 1 do
      local jobs = {}
      for i = 0, n_heads * n_pos - 1 do
        local where = { layer = layer, head = by.head and i // n_pos or nil, pos = by.pos and i % n_pos or nil }
        jobs[i + 1] = { pos = where.pos or 0,
          set_up = function(fork) pl.edit.patch(fork, point, pair.clean, where) end }
      end
      for _, logits in ipairs(run(pair, jobs, layer, nil, batch)) do values[#values + 1] = measure(metric, logits) end
      if opts.progress then opts.progress((layer + 1) / pair.n_layers) end
    end
    return pl.tensor(values):view(table.unpack(shape)):names(table.unpack(names))
  end

  -- -- paths ------------------------------------------------------------------------------------

  -- The sender's z is the clean one; later heads keep what they wrote in the corrupted run, MLPs are
  -- free: what the sender says reaches the receivers without a detour over other heads.
  local function send(pair, fork, layer, head)
    pl.edit.patch(fork, "z", pair.clean, { layer = layer, head = head })
    for later = layer + 1, pair.n_layers - 1 do pl.edit.patch(fork, "z", pair.corrupted, { layer = later }) end
  end

  local inputs = { q = true, k = true, v = true }

  local function check_receivers(receivers, n_layers)
    if receivers == "logits" then return nil end
    if type(receivers) ~= "table" or #receivers == 0 then
      pl.fail("argument", "receivers: expected \"logits\" or a list of {layer, head, input = \"q\", \"k\" or \"v\"}")
    end
    local first, last = math.huge, -1
    for i, receiver in ipairs(receivers) do
      local layer = math.tointeger(receiver.layer)
      local there = layer and layer >= 0 and layer < n_layers
      if not there or not math.tointeger(receiver.head) or not inputs[receiver.input] then
        pl.fail("argument", "receiver %d: expected {layer, head, input = \"q\", \"k\" or \"v\"}", i)
      end
      first, last = math.min(first, layer), math.max(last, layer)
    end
    return first, last
  end

  -- What the receivers read while the sender speaks: {activations by receiver} for each head of a layer.
  local function listen(pair, layer, receivers, last, batch)
    local heard, jobs = {}, {}
    for head = 0, pair.model.config.n_heads - 1 do
      heard[head] = {}
      jobs[head + 1] = { pos = 0, set_up = function(fork)
        send(pair, fork, layer, head)
        for i, receiver in ipairs(receivers) do
          fork:hook(receiver.input, function(act) heard[head][i] = act:select(1, receiver.head):clone() end,
            { layer = receiver.layer, read = true })
        end
      end }
    end
    run(pair, jobs, layer, last + 1, batch)
    return heard
  end

  -- Path patching (Wang et al. 2022, "Interpretability in the wild"): the metric of the corrupted run when
  -- the receivers read what they would had only this head said what it said in the clean run, for every
  -- head before them. [layer, head]; heads that cannot reach a receiver leave the corrupted metric.
  function patching.paths(model, clean, corrupted, receivers, metric, opts)
    opts = pl.check_options("paths", opts, { "batch" })
    check_metric(metric)
    local batch = check_batch(opts.batch)
    local first, last = check_receivers(receivers, model.config.n_layers)
    local pair = prepare(model, clean, corrupted, { "z" })
    local base <close> = pair.base -- luacheck: ignore 211
    local n_heads, values = model.config.n_heads, {}
    local nothing = measure(metric, pl.partial({ { pair.base } })[1])
    for layer = 0, pair.n_layers - 1 do
      local heard = last and layer < last and listen(pair, layer, receivers, last, batch)
      local jobs = {}
      for head = 0, n_heads - 1 do
        jobs[head + 1] = { pos = 0, set_up = function(fork)
          if not last then return send(pair, fork, layer, head) end
          for i, receiver in ipairs(receivers) do
            local value = receiver.layer > layer and heard[head][i]
            if value then
              fork:hook(receiver.input, function(act) act:select(1, receiver.head):copy_(value) end,
                { layer = receiver.layer })
            end
          end
        end }
      end
      local reached = not last or heard
      local results = reached and run(pair, jobs, last and math.max(first, layer + 1) or layer, nil, batch)
      for head = 1, n_heads do values[#values + 1] = reached and measure(metric, results[head]) or nothing end
    end
    return pl.tensor(values):view(pair.n_layers, n_heads):names("layer", "head")
  end
end
