--- Muon, an optimizer for the matrices inside of a network: momentum, made orthogonal.
---
--- The gradient of a matrix mostly points along few directions. Muon (Keller Jordan et al., "Muon: An
--- optimizer for hidden layers in neural networks", 2024) puts in the place of the momentum the nearest
--- matrix whose singular values are all about 1, found by five steps of a Newton-Schulz iteration, so
--- that rare directions are learned too. The step is scaled to the size of AdamW's (Liu et al.,
--- arXiv:2502.16982), so that learning rates of AdamW fit. Embeddings, the output matrix and vectors
--- go by AdamW. It is an optimizer for `pl.fit` like those of `pl.optim`.

local pl = require "perilune"

-- Of the quintic a x + b x^3 + c x^5, which sends what is between 0 and 1 to about 1 quickly.
local a <const>, b <const>, c <const> = 3.4445, -4.7750, 2.0315

local function orthogonal(x)
  local tall = x:size(0) > x:size(1)
  if tall then x = x:transpose(0, 1):contiguous() end
  x = x / (x:norm() + 1e-7)
  for _ = 1, 5 do
    local square = x:matmul(x:transpose(0, 1))
    x = x * a + (square * b + square:matmul(square) * c):matmul(x)
  end
  return tall and x:transpose(0, 1) or x
end

local Muon = { __name = "perilune.muon" }
Muon.__index = Muon

function Muon:zero_grad()
  for _, p in ipairs(self.parameters) do p.tensor:zero_grad() end
end

function Muon:grad_norm()
  local sum = self.others:grad_norm() ^ 2
  for _, p in ipairs(self.matrices) do sum = sum + (p.tensor.grad and p.tensor.grad:norm() ^ 2 or 0) end
  return math.sqrt(sum)
end

-- One step. A gradient that is no number changes nothing and raises.
function Muon:step(lr)
  lr = lr or self.lr
  local norm = self:grad_norm()
  if norm ~= norm or norm == math.huge then
    pl.fail("diverged", "the gradient is %s at step %d: the learning rate may be too high", tostring(math.abs(norm)),
      self.n_steps + 1)
  end
  self.n_steps = self.n_steps + 1
  self.others:step(lr)
  pl.no_grad(function()
    for _, p in ipairs(self.matrices) do
      local grad = p.tensor.grad
      if grad then
        p.momentum:mul_(self.beta):add_(grad)
        local size = 0.2 * math.sqrt(math.max(grad:size(0), grad:size(1)))
        p.tensor:mul_(1 - lr * self.weight_decay)
        p.tensor:add_(orthogonal(grad + p.momentum * self.beta) * (-lr * size))
      end
    end
  end)
  return norm
end

function Muon:state()
  local state = self.others:state()
  for _, p in ipairs(self.matrices) do state.tensors[p.name .. ".momentum"] = p.momentum end
  return { n_steps = self.n_steps, tensors = state.tensors }
end

function Muon:load_state(state)
  self.others:load_state(state)
  for _, p in ipairs(self.matrices) do
    local name = p.name .. ".momentum"
    p.momentum:copy_(state.tensors[name] or pl.fail("format", "the optimizer's state lacks %s", name))
  end
  self.n_steps = state.n_steps
end

---@class perilune.MuonOptions
---@field lr number
---@field beta? number of Muon's momentum; 0.95 unless said otherwise
---@field weight_decay? number 0
---@field beta2? number of AdamW
---@field clip? number of AdamW: the most that the norm of its gradients may be

--- An optimizer of a model's weights.
---@param parameters {name: string, tensor: perilune.Tensor}[] of model:parameters()
---@param opts perilune.MuonOptions
---@return perilune.Optimizer
return function(parameters, opts)
  opts = pl.check_options("muon", opts, { "lr", "beta", "weight_decay", "beta2", "clip" })
  local self = setmetatable({ parameters = parameters, matrices = {}, n_steps = 0, lr = opts.lr,
    beta = opts.beta or 0.95, weight_decay = opts.weight_decay or 0 }, Muon)
  local others = {}
  for _, p in ipairs(parameters) do
    if p.name:find("^blk%.") and p.tensor.n_dims == 2 then
      self.matrices[#self.matrices + 1] = { name = p.name, tensor = p.tensor, momentum = pl.zeros(p.tensor.shape) }
    else
      others[#others + 1] = p
    end
  end
  self.others = pl.optim.adamw(others, { lr = opts.lr, beta2 = opts.beta2, clip = opts.clip,
    weight_decay = opts.weight_decay })
  return self
end
