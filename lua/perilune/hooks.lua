-- Names of hook points: full, short, or globs; and what is built on hooks.

return function(pl, core)
  local Model = core.types["perilune.model"]
  local Session = core.types["perilune.session"]
  local Sequence = core.types["perilune.sequence"]
  local points = core.hooks.points()

  -- What follows "blocks.{l}." (or stands alone) -> index of the point, from 0.
  local by_name, by_short = {}, {}
  for i, point in ipairs(points) do
    point.index = i - 1
    point.full = point.part .. point.name
    by_name[point.full] = point
    local short = point.name:gsub("^hook_", "")
    by_short[point.part .. short] = point
    by_short[point.part:gsub("%.$", "_") .. short] = point
    if not point.part:find("^ln") then by_short[short] = by_short[short] or point end
  end

  -- Points that this model's diagram lacks.
  local function exists(config, point)
    if point.full == "hook_pos_embed" then return config.positions == "learned" end
    if point.full:find("hook_rot_") then return config.positions == "rotary" end
    if point.full == "mlp.hook_pre_linear" then return config.gated end
    if point.part == "ln_final." then return config.norm_final end
    return true
  end

  local function full_name(point, layer)
    return point.in_block and ("blocks.%d.%s"):format(layer, point.full) or point.full
  end

  -- Every place of the model: {name, point, layer (-1 outside of the blocks)}, in order.
  local function all_places(config)
    local list = {}
    local function add(in_block, layer)
      for _, point in ipairs(points) do
        if point.in_block == in_block and exists(config, point) then
          list[#list + 1] = { name = full_name(point, layer), point = point, layer = layer }
        end
      end
    end
    add(false, -1)
    for layer = 0, config.n_layers - 1 do add(true, layer) end
    return list
  end

  local function check_layer(config, layer, name)
    local n = config.n_layers
    if math.type(layer) ~= "integer" or layer < -n or layer >= n then
      pl.fail("argument", "%s: layer = %s: expected 0 to %d", name, tostring(layer), n - 1)
    end
    return layer < 0 and layer + n or layer
  end

  local function unknown(config, name)
    local names = {}
    for _, place in ipairs(all_places(config)) do names[#names + 1] = place.name end
    for short in pairs(by_short) do names[#names + 1] = short end
    table.sort(names)
    local near = core.nearest(name, names)
    pl.fail("argument", "no hook point is called '%s'%s", name,
      near and ("; did you mean '%s'?"):format(near) or "; model:hook_points() lists them")
  end

  local function glob_to_pattern(glob)
    return "^" .. glob:gsub("[%^%$%(%)%%%.%[%]%+%-]", "%%%0"):gsub("%*", ".*"):gsub("%?", ".") .. "$"
  end

  -- The places that a name means: a list of {name, point, layer}.
  local function resolve(config, name, layer)
    if type(name) ~= "string" then
      pl.fail("argument", "a hook point's name is a string, got %s", type(name))
    end
    if layer ~= nil then layer = check_layer(config, layer, name) end
    local places = {}
    local function take(point, l)
      places[#places + 1] = { name = full_name(point, l), point = point, layer = l }
    end
    if name:find("[*?]") then
      local pattern = glob_to_pattern(name)
      for _, place in ipairs(all_places(config)) do
        if place.name:find(pattern) and (layer == nil or place.layer == layer) then
          places[#places + 1] = place
        end
      end
      if #places == 0 then unknown(config, name) end
      return places
    end
    local number, rest = name:match("^blocks%.(%d+)%.(.+)$")
    local point = by_name[rest or name] or (not rest and by_short[name])
    if not point or not exists(config, point) or (rest and not point.in_block) then
      unknown(config, name)
    end
    if not point.in_block then
      if layer then pl.fail("argument", "%s is outside of the blocks: it has no layer", name) end
      take(point, -1)
    elseif rest then
      local named = check_layer(config, math.tointeger(tonumber(number)), name)
      if layer and layer ~= named then
        pl.fail("argument", "%s and layer = %d contradict one another", name, layer)
      end
      take(point, named)
    else
      for l = layer or 0, layer or config.n_layers - 1 do take(point, l) end
    end
    return places
  end

  local known = { "layer", "pos", "read" }
  local function add(session, seq, name, fn, opts)
    opts = pl.check_options("hook", opts, known)
    if type(fn) ~= "function" then
      pl.fail("argument", "hook %s: expected a function(act, at), got %s", tostring(name), type(fn))
    end
    local list = {}
    for i, place in ipairs(resolve(session.model.config, name, opts.layer)) do
      list[i] = { place.point.index, place.layer }
    end
    return core.hooks.add(session, list, fn, seq, opts, name)
  end

  function Session:hook(name, fn, opts) return add(self, nil, name, fn, opts) end
  function Session:hooks() return core.hooks.list(self) end
  function Session:reset_hooks() core.hooks.reset(self) end
  function Sequence:hook(name, fn, opts) return add(self.session, self, name, fn, opts) end
  function Model:hook(name, fn, opts) return add(self.default_session, nil, name, fn, opts) end
  function Model:hooks() return core.hooks.list(self.default_session) end
  function Model:reset_hooks() core.hooks.reset(self.default_session) end

  function Model:hook_points()
    local list = {}
    for i, place in ipairs(all_places(self.config)) do
      list[i] = { name = place.name, layer = place.layer >= 0 and place.layer or nil,
        dims = place.point.dims, formula = place.point.formula }
    end
    return list
  end

  -- A prompt longer than n_batch comes in chunks: rows are joined, and attention, whose chunks see
  -- ever more keys, is filled up with what a masked key has.
  local function join(before, act, dims, masked)
    if not before then return act:clone() end
    if dims ~= "head,query,key" then return pl.cat({ before, act }, 0) end
    local old = before.shape
    local wider = pl.full({ old[1], old[2], act.shape[3] }, masked)
    wider:narrow(2, 0, old[3]):copy_(before)
    return pl.cat({ wider, act }, 1):names("head", "query", "key")
  end

  local cache_meta = {
    __index = function(_, name)
      pl.fail("argument", "'%s' was not cached: name it in run_with_cache", tostring(name))
    end,
  }

  function Model:run_with_cache(prompt, patterns)
    local cache, list, seen = {}, {}, {}
    local config = self.config
    if type(patterns) == "string" then patterns = { patterns } end
    for _, pattern in ipairs(patterns or { "*" }) do
      for _, place in ipairs(resolve(config, pattern)) do
        if not seen[place.name] then
          seen[place.name] = place.point
          list[#list + 1] = { place.point.index, place.layer }
        end
      end
    end
    local seq <close> = self:sequence()
    core.hooks.add(seq.session, list, function(act, at)
      local point = seen[at.point]
      local masked = point.name == "hook_attn_scores" and -math.huge or 0
      cache[at.point] = join(cache[at.point], act, point.dims, masked)
    end, seq, { read = true }, "run_with_cache")
    local logits = seq:extend(prompt, { logits = "all" })
    return logits, setmetatable(cache, cache_meta)
  end

  function Model:run_with_hooks(prompt, hooks)
    local seq <close> = self:sequence()
    for _, hook in ipairs(hooks) do seq:hook(hook[1], hook[2], hook[3]) end
    return seq:extend(prompt, { logits = "all" })
  end
end
