-- What models and sequences do beyond the binding: text in and out, stateless passes.

return function(pl, core)
  local Model = core.types["perilune.model"]
  local Sequence = core.types["perilune.sequence"]

  local function tokenizer(model)
    return model.tokenizer
      or pl.fail("state", "the model %s has no tokenizer: work with token ids", model.name or "")
  end

  function Model:encode(text, opts) return tokenizer(self):encode(text, opts) end
  function Model:decode(ids, opts) return tokenizer(self):decode(ids, opts) end
  function Model:pieces(text_or_ids) return tokenizer(self):pieces(text_or_ids) end
  function Model:to_str_tokens(text_or_ids) return tokenizer(self):to_str_tokens(text_or_ids) end
  function Model:to_single_token(text) return tokenizer(self):to_single_token(text) end

  function Model:sequence() return self.default_session:sequence() end

  function Model:set_adapter(adapter, scale)
    self.default_session:set_adapter(adapter, scale)
    return self
  end

  -- The k largest of a [d_vocab] tensor with their pieces: {id, piece, value}, the best first.
  function Model:topk(values, k)
    local best, ids = values:topk(k or 5)
    local tok, list = self.tokenizer, {}
    for i = 0, (k or 5) - 1 do
      local id = ids[i]
      list[i + 1] = { id = id, value = best[i],
        piece = tok and tok:to_str_tokens({ id })[1] or tostring(id) }
    end
    return list
  end

  function Sequence:text(opts) return tokenizer(self.model):decode(self:tokens(), opts) end

  -- A list of n copies.
  function pl.fork(seq, n)
    local list = {}
    for i = 1, n or 1 do list[i] = seq:fork() end
    return list
  end

  local function readable(path)
    local file = io.open(path, "rb")
    if file then file:close() end
    return file ~= nil
  end

  -- Loads a model: a file, a folder, a hub id; without a name the one that comes along.
  function pl.load(name, opts)
    if type(name) == "table" and opts == nil then name, opts = nil, name end
    if name == nil then
      name = (pl.home or ".") .. "/models/default.gguf"
      if not readable(name) then
        pl.fail("io", "no model is named, and the one that comes along is not at %s", name)
      end
    end
    return core.load(name, opts)
  end
end
