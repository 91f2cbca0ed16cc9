-- Sparse autoencoders as SAELens saves them: a folder with cfg.json and sae_weights.safetensors.
--   features = activation((x - b_dec) W_enc + b_enc), reconstruction = features W_dec + b_dec

return function(pl, core)
  local Sae = {}
  Sae.__index = Sae

  -- What each architecture makes of x W_enc [pos, d_sae].
  local activations = {
    standard = function(w, pre) return (pre + w.b_enc):relu() end,
    jumprelu = function(w, pre)
      pre = pre + w.b_enc
      return pre:relu() * pre:gt(w.threshold):float()
    end,
    topk = function(w, pre, sae)
      pre = pre + w.b_enc
      if sae.decoder_norms then pre = pre * sae.decoder_norms end
      local values = pre:topk(sae.k)
      local least = values:narrow(1, sae.k - 1, 1)
      return pre:relu() * pre:ge(least):float()
    end,
    gated = function(w, pre)
      local open = (pre + w.b_gate):gt(0):float()
      return open * (pre * w.r_mag:exp() + w.b_mag):relu()
    end,
  }

  -- How activations are scaled before and after: x -> scaled, and a function for the way back.
  local scalings = {
    none = function(x) return x, function(out) return out end end,
    constant_norm_rescale = function(x)
      local factor = x.shape[2] ^ 0.5 / x:norm(1, { keepdim = true })
      return x * factor, function(out) return out / factor end
    end,
    layer_norm = function(x)
      local mean = x:mean(1, { keepdim = true })
      local deviation = x:std(1, { keepdim = true }) + 1e-5
      return (x - mean) / deviation, function(out) return out * deviation + mean end
    end,
  }

  local function flat(x)
    return x:contiguous():view(x.shape[1], -1)
  end

  -- x [pos, d_in], or [pos, head, d_head] -> features [pos, d_sae], and the way back to x's scale
  function Sae:encode(x)
    local scaled, back = self.scaling(flat(x))
    if self.scale then scaled = scaled * self.scale end
    if self.subtract_b_dec then scaled = scaled - self.weights.b_dec end
    return self.activation(self.weights, scaled:matmul(self.weights.W_enc), self), back
  end

  function Sae:decode(features, back)
    if self.decoder_norms then features = features / self.decoder_norms end
    local out = features:matmul(self.weights.W_dec) + self.weights.b_dec
    if self.scale then out = out / self.scale end
    return back and back(out) or out
  end

  -- The reconstruction of x, in x's shape. fn(features, at) may edit them, or return others; then what
  -- the autoencoder misses is added again, so that only the edit is felt.
  function Sae:splice(x, fn, at)
    local features, back = self:encode(x)
    if not fn then return self:decode(features, back):view(x.shape) end
    local missed = flat(x) - self:decode(features, back)
    return (self:decode(fn(features, at) or features, back) + missed):view(x.shape)
  end
  function Sae:__call(x) return self:splice(x) end

  function Sae:__tostring()
    return ("sparse autoencoder (%s, %d to %d, %s)"):format(self.architecture, self.d_in, self.d_sae, self.point or "?")
  end

  local function check(sae, folder)
    local w, wanted = sae.weights, { W_enc = { sae.d_in, sae.d_sae }, W_dec = { sae.d_sae, sae.d_in },
      b_dec = { sae.d_in } }
    local gated = sae.architecture == "gated"
    for _, name in ipairs(gated and { "b_gate", "b_mag", "r_mag" } or { "b_enc" }) do wanted[name] = { sae.d_sae } end
    if sae.architecture == "jumprelu" then wanted.threshold = { sae.d_sae } end
    for name, shape in pairs(wanted) do
      local got = w[name] and table.concat(w[name].shape, ", ")
      if got ~= table.concat(shape, ", ") then
        pl.fail("format", "%s: %s is %s, expected [%s]", folder, name, got and "[" .. got .. "]" or "absent",
          table.concat(shape, ", "))
      end
    end
  end

  local function remove_nulls(object)
    for key, value in pairs(object) do
      if value == pl.json.null then
        object[key] = nil
      elseif type(value) == "table" then
        remove_nulls(value)
      end
    end
    return object
  end

  local function read_config(path)
    local cfg = pl.json.decode(pl.read_file(path), path)
    if not pl.json.is_object(cfg) then pl.fail("format", "%s: expected an object", path) end
    return remove_nulls(cfg)
  end

  -- opts.scale: the factor for autoencoders that were trained on scaled activations
  -- (expected_average_only_in), which their files do not hold.
  function pl.load_sae(folder, opts)
    opts = pl.check_options("load_sae", opts, { "scale" })
    local cfg = read_config(folder .. "/cfg.json")
    local meta = type(cfg.metadata) == "table" and cfg.metadata or {}
    local weights = core.load_tensors(folder .. "/sae_weights.safetensors")
    local w = weights.W_enc or pl.fail("format", "%s: sae_weights.safetensors has no W_enc", folder)
    local architecture = cfg.architecture or "standard"
    if cfg.activation_fn_str == "topk" then architecture = "topk" end
    local activation = cfg.activation_fn_str or cfg.activation_fn or "relu"
    if activation ~= "relu" and activation ~= "topk" then
      pl.fail("unsupported", "%s: activation '%s': known are relu and topk", folder, tostring(activation))
    end
    local scaling = cfg.normalize_activations or "none"
    if opts.scale then scaling = "none" end
    if not activations[architecture] then
      pl.fail("unsupported", "%s: architecture '%s': known are gated, jumprelu, standard and topk", folder,
        tostring(architecture))
    elseif not scalings[scaling] then
      pl.fail("unsupported", "%s: normalize_activations = '%s': give its factor as {scale = ...}", folder,
        tostring(scaling))
    end
    local kwargs = type(cfg.activation_fn_kwargs) == "table" and cfg.activation_fn_kwargs or {}
    local sae = setmetatable({ weights = weights, architecture = architecture, cfg = cfg, scale = opts.scale,
      d_in = cfg.d_in or w.shape[1], d_sae = cfg.d_sae or w.shape[2], k = cfg.k or kwargs.k,
      point = cfg.hook_name or meta.hook_name or cfg.hook_point, subtract_b_dec = cfg.apply_b_dec_to_input ~= false,
      activation = activations[architecture], scaling = scalings[scaling] }, Sae)
    check(sae, folder)
    if architecture == "topk" and (math.type(sae.k) ~= "integer" or sae.k < 1 or sae.k > sae.d_sae) then
      pl.fail("format", "%s: k = %s: expected 1 to %d", folder, tostring(sae.k), sae.d_sae)
    end
    if cfg.rescale_acts_by_decoder_norm then sae.decoder_norms = weights.W_dec:norm(1) end
    return sae
  end

  -- Puts an autoencoder into the pass, at its own point unless opts.point names another; fn as in
  -- sae:splice.
  function pl.edit.splice_sae(on, sae, fn, opts)
    opts = pl.check_options("splice_sae", opts, { "point", "pos" })
    local point = opts.point or sae.point
      or pl.fail("argument", "splice_sae: the autoencoder names no hook point: give {point = ...}")
    return on:hook(point, function(act, at) return sae:splice(act, fn, at) end, { pos = opts.pos })
  end
end
