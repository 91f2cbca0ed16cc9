-- Gradients: pl.grad, pl.no_grad, and passes whose gradients are recorded.

return function(pl, core)
  local Model = core.types["perilune.model"]

  pl.grad = core.grad
  pl.no_grad = core.no_grad

  -- A batch: a two-dimensional tensor of ids, or a list of lists, tensors or texts.
  local function batch_of(prompt)
    if core.is_tensor(prompt) then
      if prompt.n_dims ~= 2 then return { prompt }, false end
      local rows = {}
      for i, row in prompt:each() do rows[i + 1] = row end
      return rows, true
    end
    if type(prompt) == "table" and type(prompt[1]) ~= "number" and prompt[1] ~= nil then
      return prompt, true
    end
    return { prompt }, false
  end

  local function is_recorded(model)
    local activations, anything = core.recording()
    return activations or (anything and (model.is_trainable or core.trains_adapter(model.default_session)))
  end

  -- The logits at all rows of new sequences, recorded where gradients are asked for: a list, and
  -- where there is one that holds all rows, it.
  function core.logits_of(model, items)
    if not is_recorded(model) then
      for _, item in ipairs(items) do item.logits = "all" end
      local list = pl.extend(items)
      return list, #list == 1 and list[1] or nil
    end
    local whole, counts = core.forward(items)
    local list, first = {}, 0
    for i, n in ipairs(counts) do
      list[i] = #items == 1 and whole or whole:narrow(0, first, n)
      first = first + n
    end
    return list, whole
  end

  local function logits_of(model, rows, types)
    local items = {}
    for i, row in ipairs(rows) do items[i] = { model:sequence(), row, types = types } end
    local list, whole = core.logits_of(model, items)
    for _, item in ipairs(items) do item[1]:close() end
    return whole or pl.cat(list, 0)
  end

  function Model:forward(prompt, opts)
    opts = pl.check_options("forward", opts, { "stop_at_layer", "types" })
    if opts.stop_at_layer ~= nil then
      local seq <close> = self:sequence()
      local item = { seq, prompt, logits = "none", types = opts.types }
      return pl.partial({ item, to_layer = opts.stop_at_layer })[1]
    end
    local rows, batch = batch_of(prompt)
    local logits = logits_of(self, rows, opts.types)
    if not batch then return logits end
    local n, d_vocab = #logits // #rows, self.config.d_vocab
    if core.is_tensor(prompt) then return logits:view(#rows, n, d_vocab):names("batch", "pos", "d_vocab") end
    return logits
  end

  -- Name -> tensor: the weights of a trainable model themselves, which require grad.
  function Model:parameters()
    if not self.is_trainable then
      pl.fail("state", "the weights of %s are shared and fixed; model:trainable() makes a copy to train",
        self.name or "this model")
    end
    local list = {}
    for i, weight in ipairs(self:weights()) do
      list[i] = { name = weight.name, tensor = core.weight(self, weight.name) }
    end
    return list
  end
end
