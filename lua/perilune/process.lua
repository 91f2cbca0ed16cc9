-- Rewriting weights without changing what a model predicts, as TransformerLens does by default, so
-- that numbers compare: gains folded into the maps behind them, means taken out of what writes to
-- the residual stream. The source stays as it is.

return function(pl, core)
  local Model = core.types["perilune.model"]

  -- Matrices are [n_out, n_in] here, as in the file: y = x W^T + b.
  local function weights_of(model)
    local function get(name) return core.weight(model, name) end
    local function set(name, t) core.set_weight(model, name, t) end
    return get, set
  end

  -- x' = x * gain + bias before a map is the same as another map of x. After a LayerNorm x has mean
  -- 0, so that a map's mean over its inputs says nothing and goes.
  local function fold_norm(model, norm, maps)
    local get, set = weights_of(model)
    local layer_norm = model.config.norm == "layer"
    local gain = get(norm .. ".weight"):clone()
    local bias = model.config.norm_bias and get(norm .. ".bias"):clone()
    for _, map in ipairs(maps) do
      local w = get(map .. ".weight")
      if bias then set(map .. ".bias", get(map .. ".bias") + w:matmul(bias)) end
      w = w * gain
      if layer_norm then w = w - w:mean(1, { keepdim = true }) end
      set(map .. ".weight", w)
    end
    set(norm .. ".weight", pl.ones(gain.shape))
    if bias then set(norm .. ".bias", pl.zeros(gain.shape)) end
  end

  local function fold_norms(model)
    local c = model.config
    for layer = 0, c.n_layers - 1 do
      local at = ("blk.%d."):format(layer)
      fold_norm(model, at .. "attn_norm", { at .. "attn_q", at .. "attn_k", at .. "attn_v" })
      fold_norm(model, at .. "ffn_norm", { at .. "ffn_up", c.gated and at .. "ffn_gate" or nil })
    end
    if c.norm_final then fold_norm(model, "output_norm", { "output" }) end
  end

  -- A LayerNorm takes the mean of the stream away: what writes to it may as well write none.
  local function centre_writing(model)
    local c = model.config
    if c.norm ~= "layer" or not c.norm_final then return end
    local get, set = weights_of(model)
    local function centre(name, dim)
      local t = get(name)
      set(name, t - t:mean(dim, { keepdim = true }))
    end
    centre("token_embd.weight", 1)
    if c.positions == "learned" then centre("position_embd.weight", 1) end
    for layer = 0, c.n_layers - 1 do
      for _, name in ipairs { "attn_output", "ffn_down" } do
        centre(("blk.%d.%s.weight"):format(layer, name), 0)
        centre(("blk.%d.%s.bias"):format(layer, name), 0)
      end
    end
  end

  -- softmax does not see what is added to every logit.
  local function centre_unembed(model)
    local get, set = weights_of(model)
    for _, name in ipairs { "output.weight", "output.bias" } do
      local t = get(name)
      set(name, t - t:mean(0, { keepdim = true }))
    end
  end

  -- A pattern's row sums to 1, so that a value's bias arrives whole, wherever a head looks.
  local function fold_value_biases(model)
    local get, set = weights_of(model)
    local c = model.config
    for layer = 0, c.n_layers - 1 do
      local at = ("blk.%d."):format(layer)
      local b = get(at .. "attn_v.bias"):view(c.n_kv_heads, 1, c.d_head)
      local per_head = b:expand(-1, c.n_heads // c.n_kv_heads, -1):contiguous():view(-1)
      set(at .. "attn_output.bias",
        get(at .. "attn_output.bias") + get(at .. "attn_output.weight"):matmul(per_head))
      set(at .. "attn_v.bias", pl.zeros(c.n_kv_heads * c.d_head))
    end
  end

  local steps = {
    { "fold_ln", fold_norms }, { "center_writing_weights", centre_writing },
    { "center_unembed", centre_unembed }, { "fold_value_biases", fold_value_biases },
  }

  -- A model of float32 weights that predicts the same; every step is done unless it is false.
  function Model:processed(opts, session_options)
    opts = pl.check_options("processed", opts,
      { "fold_ln", "center_writing_weights", "center_unembed", "fold_value_biases" })
    local c = self.config
    if not c.norm_before or c.norm_after_sublayer or c.norm_after_add or c.norm_embed then
      pl.fail("unsupported", "the norms of the family '%s' do not all stand before what they feed: "
        .. "they cannot be folded", c.arch)
    end
    if c.n_experts > 0 or c.shared_norm or c.logit_softcap > 0 then
      pl.fail("unsupported", "the family '%s' has %s: its weights cannot be rewritten", c.arch,
        c.n_experts > 0 and "experts" or c.shared_norm and "a norm that attention and mlp share"
        or "soft-capped logits")
    end
    local model = core.widen(self, session_options)
    for _, step in ipairs(steps) do
      if opts[step[1]] ~= false then step[2](model) end
    end
    return model
  end

  local load = pl.load
  function pl.load(name, opts)
    if type(name) == "table" and opts == nil then name, opts = nil, name end
    if type(opts) ~= "table" or opts.process == nil then return load(name, opts) end
    if opts.process ~= "tl" then
      pl.fail("argument", "process = %s: expected 'tl', as TransformerLens does", tostring(opts.process))
    end
    local rest = {}
    for key, value in pairs(opts) do
      if key ~= "process" then rest[key] = value end
    end
    return load(name, rest):processed({}, rest)
  end
end
