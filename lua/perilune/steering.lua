-- Steering vectors: one direction per layer, from pairs of prompts, added to the residual stream; and
-- llama.cpp's files of them.

return function(pl, core)
  local Vectors = {}

  -- What the residual stream holds at the end of a prompt: {layer = [d_model]}.
  local function last_rows(model, prompt, wanted, point)
    local rows = {}
    local seq <close> = model:sequence()
    seq:hook(point, function(act, at)
      if wanted[at.layer] then rows[at.layer] = act[-1]:clone() end
    end, { read = true })
    seq:extend(prompt, { logits = "none" })
    return rows
  end

  -- Directions from rows of differences [n, d_model].
  local methods = {
    mean = function(differences) return differences:mean(0) end,
    -- The first principal component. Exchanging the prompts of a pair changes the sign of its
    -- difference and must not matter, so the rows are not centred; the sign is that of most of them.
    pca = function(differences)
      local _, _, vt = differences:svd()
      local first = vt[0]:clone()
      return differences:matmul(first):sum() < 0 and -first or first
    end,
  }

  local function check_layers(config, layers)
    if layers == nil then
      layers = {}
      for layer = math.min(1, config.n_layers - 1), config.n_layers - 1 do layers[#layers + 1] = layer end
    end
    local wanted = {}
    for _, layer in ipairs(layers) do
      if math.type(layer) ~= "integer" or layer < 0 or layer >= config.n_layers then
        pl.fail("argument", "layer %s: expected 0 to %d", tostring(layer), config.n_layers - 1)
      end
      wanted[layer] = true
    end
    return wanted
  end

  local meta = {
    __index = function(self, key)
      if math.type(key) == "integer" then return rawget(self, "directions")[key] end
      return Vectors[key]
    end,
    __tostring = function(self)
      return ("steering vectors of layers %s (%s)"):format(table.concat(self:layers(), ", "), self.model_hint)
    end,
  }

  local function new(directions, model_hint)
    return setmetatable({ directions = directions, model_hint = model_hint }, meta)
  end

  -- pairs: list of {positive, negative} prompts; what makes them differ at their last token, in the
  -- output of every layer.
  function pl.steering_vectors(model, pairs_, opts)
    opts = pl.check_options("steering_vectors", opts, { "method", "layers" })
    local method = methods[opts.method or "mean"]
    if not method then
      pl.fail("argument", "method = %s: expected 'mean' or 'pca'", tostring(opts.method))
    end
    if type(pairs_) ~= "table" or #pairs_ == 0 then
      pl.fail("argument", "steering_vectors: expected a list of {positive, negative} prompts")
    end
    local wanted, rows = check_layers(model.config, opts.layers), {}
    for _, pair in ipairs(pairs_) do
      local with = last_rows(model, pair[1], wanted, "resid_post")
      local without = last_rows(model, pair[2], wanted, "resid_post")
      for layer in pairs(wanted) do
        rows[layer] = rows[layer] or {}
        table.insert(rows[layer], with[layer] - without[layer])
      end
    end
    local directions = {}
    for layer, list in pairs(rows) do directions[layer] = method(pl.stack(list, 0)) end
    return new(directions, model.config.arch)
  end

  function Vectors:layers()
    local list = {}
    for layer in pairs(self.directions) do list[#list + 1] = layer end
    table.sort(list)
    return list
  end

  -- Adds scale times each direction to the output of its layer, wherever the tokens stand.
  function pl.edit.steer(on, vectors, opts)
    opts = pl.check_options("steer", opts, { "scale", "layers", "pos" })
    local scale, wanted = opts.scale or 1, nil
    if opts.layers then
      wanted = {}
      for _, layer in ipairs(opts.layers) do
        if not vectors[layer] then pl.fail("argument", "steer: there is no direction of layer %s", tostring(layer)) end
        wanted[layer] = true
      end
    end
    return on:hook("resid_post", function(act, at)
      local direction = (not wanted or wanted[at.layer]) and vectors[at.layer]
      if direction then act:add_(direction, { alpha = scale }) end
    end, { pos = opts.pos })
  end

  -- -- llama.cpp's files: direction.l is added to the output of layer l, from 1 on ------------------

  function Vectors:save(path)
    if type(path) ~= "string" or not path:find("%.gguf$") then
      pl.fail("argument", "%s: steering vectors are written to a .gguf file", tostring(path))
    end
    local tensors, n = {}, 0
    for layer, direction in pairs(self.directions) do
      if layer == 0 then pl.fail("unsupported", "%s: the format has no direction of layer 0", path) end
      tensors[("direction.%d"):format(layer)] = direction:contiguous()
      n = n + 1
    end
    pl.save_tensors(path, tensors, { ["general.architecture"] = "controlvector",
      ["controlvector.model_hint"] = self.model_hint, ["controlvector.layer_count"] = n })
  end

  function pl.load_steering_vectors(path)
    local tensors, metadata = core.load_tensors(path)
    local kind = metadata["general.architecture"]
    if kind ~= nil and kind ~= "controlvector" then
      pl.fail("format", "%s: general.architecture = '%s', expected 'controlvector'", path, tostring(kind))
    end
    local directions, size, first = {}, nil, nil
    for name, direction in pairs(tensors) do
      local layer = math.tointeger(tonumber(name:match("^direction%.(%d+)$")))
      if not layer or layer < 1 then
        pl.fail("format", "%s: tensor '%s', expected direction.1, direction.2, ...", path, name)
      end
      size, first = size or direction:count(), first or name
      if direction.n_dims ~= 1 or direction:count() ~= size then
        pl.fail("format", "%s: %s is [%s], expected one dimension of %d, as %s has", path, name,
          table.concat(direction.shape, ", "), size, first)
      end
      directions[layer] = direction
    end
    if not first then pl.fail("format", "%s: there is no direction in it", path) end
    return new(directions, metadata["controlvector.model_hint"] or "")
  end
end
