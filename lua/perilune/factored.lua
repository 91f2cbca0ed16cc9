-- Products of two thin matrices, kept as their factors: QK and OV circuits are [d_model, d_model] but of
-- rank d_head. Everything here costs what the factors cost.

return function(pl, core)
  local Model = core.types["perilune.model"]
  local Factored = {}

  local function new(a, b) return setmetatable({ A = a, B = b }, Factored) end

  -- A [m, r] times B [r, n].
  function pl.factored(a, b)
    if a.n_dims ~= 2 or b.n_dims ~= 2 or a.shape[2] ~= b.shape[1] then
      pl.fail("shape", "factored: [%s] times [%s]: expected [m, r] and [r, n]", table.concat(a.shape, ", "),
        table.concat(b.shape, ", "))
    end
    return new(a, b)
  end

  local methods = {}

  function methods:full() return self.A:matmul(self.B) end
  function methods:transpose() return new(self.B:transpose(), self.A:transpose()) end

  -- self x other, other a matrix or factored too; the smaller rank is kept.
  function methods:matmul(other)
    if getmetatable(other) ~= Factored then return new(self.A, self.B:matmul(other)) end
    local middle = self.B:matmul(other.A)
    if middle.shape[1] <= middle.shape[2] then return new(self.A, middle:matmul(other.B)) end
    return new(self.A:matmul(middle), other.B)
  end

  -- Frobenius: the square root of the trace of (A^T A)(B B^T).
  function methods:norm()
    local a = self.A:transpose():matmul(self.A)
    local b = self.B:matmul(self.B:transpose())
    return math.sqrt(math.max(0, (a * b:transpose()):sum()))
  end

  -- The eigenvalues that are not 0 are those of B A.
  function methods:eigvals() return self.B:matmul(self.A):eigvals() end
  function methods:trace() return (self.A * self.B:transpose()):sum() end

  -- U diag(S) V^T = A B, through the small matrix between their orthonormal bases.
  function methods:svd()
    local qa, ra = self.A:qr()
    local qb, rb = self.B:transpose():qr()
    local u, s, vt = ra:matmul(rb:transpose()):svd()
    return qa:matmul(u), s, vt:matmul(qb:transpose())
  end

  function Factored:__index(key)
    if key == "shape" then return { self.A.shape[1], self.B.shape[2] } end
    if key == "rank" then return self.A.shape[2] end
    return methods[key]
  end
  function Factored:__tostring()
    return ("factored [%d, %d] of rank %d"):format(self.shape[1], self.shape[2], self.rank)
  end

  -- -- circuits ----------------------------------------------------------------------------------

  local function kv_head(model, head)
    local c = model.config
    if math.type(head) ~= "integer" or head < 0 or head >= c.n_heads then
      pl.fail("argument", "head %s: expected 0 to %d", tostring(head), c.n_heads - 1)
    end
    return head // (c.n_heads // c.n_kv_heads)
  end

  -- What a head looks for and finds: x_query QK x_key^T is the score before scale, bias and rotation.
  function Model:QK(layer, head)
    local kv = kv_head(self, head)
    return new(self.W_Q[layer][head], self.W_K[layer][kv]:transpose())
  end

  -- What a head moves: x_key OV is added to the stream.
  function Model:OV(layer, head)
    local kv = kv_head(self, head)
    return new(self.W_V[layer][kv], self.W_O[layer][head])
  end

  -- |L R| / (|L| |R|) for every pair of heads, [layer, head, later layer, head], 0 where the second is not
  -- later; L is the first's OV, R the second's QK ("Q"), QK^T ("K") or OV ("V"). Elhage et al. 2021.
  function Model:composition_scores(mode)
    local right = ({ Q = function(l, h) return self:QK(l, h) end,
      K = function(l, h) return self:QK(l, h):transpose() end,
      V = function(l, h) return self:OV(l, h) end })[mode]
    if not right then pl.fail("argument", "composition_scores(%s): expected 'Q', 'K' or 'V'", tostring(mode)) end
    local c = self.config
    local scores = pl.zeros(c.n_layers, c.n_heads, c.n_layers, c.n_heads):names("layer", "head", "to_layer", "to_head")
    for layer = 0, c.n_layers - 2 do
      for head = 0, c.n_heads - 1 do
        local ov = self:OV(layer, head)
        local length = ov:norm()
        for later = layer + 1, c.n_layers - 1 do
          for other = 0, c.n_heads - 1 do
            local to = right(later, other)
            scores[layer][head][later][other] = ov:matmul(to):norm() / (length * to:norm())
          end
        end
      end
    end
    return scores
  end
end
