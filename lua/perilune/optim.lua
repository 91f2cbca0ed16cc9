-- Optimizers: pl.optim.sgd, pl.optim.adamw; schedules of the learning rate.

return function(pl, core)
  local optim = {}
  pl.optim = optim

  local function number(what, opts, name, otherwise, low, high)
    local value = opts[name]
    if value == nil then return otherwise end
    if type(value) ~= "number" or value ~= value or value < low or value > high then
      pl.fail("argument", "%s: %s = %s: expected a number from %g to %g", what, name, tostring(value), low, high)
    end
    return value
  end

  -- Parameters as a list of {name, tensor, decay}: model:parameters(), or tensors. As is usual,
  -- vectors (gains and biases) do not decay.
  local function read_parameters(what, parameters)
    if type(parameters) ~= "table" or #parameters == 0 then
      pl.fail("argument", "%s: expected a list of tensors, or model:parameters()", what)
    end
    local list = {}
    for i, item in ipairs(parameters) do
      local tensor = core.is_tensor(item) and item or type(item) == "table" and item.tensor
      if not core.is_tensor(tensor) or not tensor.tracked then
        pl.fail("argument", "%s: parameter %d is no tensor that requires grad", what, i)
      end
      list[i] = { name = type(item) == "table" and item.name or ("parameter %d"):format(i),
        tensor = tensor, decays = tensor.n_dims > 1 }
    end
    return list
  end

  local function zeros_like(tensor) return pl.zeros(tensor.shape) end

  local Optimizer = { __name = "perilune.optimizer" }
  Optimizer.__index = Optimizer

  -- The Euclidean norm of all gradients together.
  function Optimizer:grad_norm()
    local sum = 0
    for _, p in ipairs(self.parameters) do
      local grad = p.tensor.grad
      if grad then sum = sum + core.sum_squares(grad) end
    end
    return math.sqrt(sum)
  end

  function Optimizer:zero_grad()
    for _, p in ipairs(self.parameters) do p.tensor:zero_grad() end
  end

  -- One step with the gradients that are there; returns their norm before clipping. lr may be given
  -- for this step, as schedules do. A norm that is no number changes nothing and raises.
  function Optimizer:step(lr)
    local norm = self:grad_norm()
    if norm ~= norm or norm == math.huge then
      pl.fail("diverged", "the gradient is %s at step %d: the learning rate may be too high", tostring(math.abs(norm)),
        self.n_steps + 1)
    end
    local scale = self.clip and norm > self.clip and self.clip / norm or 1
    self.n_steps = self.n_steps + 1
    for _, p in ipairs(self.parameters) do
      local grad = p.tensor.grad
      if grad then self.update(self, p, grad, lr or self.lr, scale) end
    end
    return norm
  end

  -- What is needed to go on as if nothing had happened: name -> tensor, and the number of steps.
  function Optimizer:state()
    local tensors = {}
    for _, p in ipairs(self.parameters) do
      for _, kind in ipairs(self.kinds) do tensors[p.name .. "." .. kind] = p[kind] end
    end
    return { n_steps = self.n_steps, tensors = tensors }
  end

  function Optimizer:load_state(state)
    for name, mine in pairs(self:state().tensors) do
      local theirs = state.tensors[name] or pl.fail("format", "the optimizer's state lacks %s", name)
      mine:copy_(theirs)
    end
    self.n_steps = state.n_steps
  end

  local function new(what, parameters, opts, kinds, update)
    local self = setmetatable({ parameters = read_parameters(what, parameters), n_steps = 0, kinds = kinds,
      lr = number(what, opts, "lr", nil, 0, 1e6), clip = number(what, opts, "clip", nil, 0, math.huge),
      weight_decay = number(what, opts, "weight_decay", 0, 0, 1e6), update = update }, Optimizer)
    if not self.lr then pl.fail("argument", "%s: lr, the learning rate, is missing", what) end
    for _, p in ipairs(self.parameters) do
      for _, kind in ipairs(kinds) do p[kind] = zeros_like(p.tensor) end
    end
    return self
  end

  -- Stochastic gradient descent, with momentum.
  function optim.sgd(parameters, opts)
    opts = pl.check_options("optim.sgd", opts, { "lr", "momentum", "weight_decay", "clip" })
    local momentum = number("optim.sgd", opts, "momentum", 0, 0, 1)
    return new("optim.sgd", parameters, opts, momentum > 0 and { "velocity" } or {}, function(self, p, grad, lr, scale)
      core.sgd(p.tensor, grad, p.velocity, { rate = lr, momentum = momentum, scale = scale,
        decay = p.decays and self.weight_decay or 0 })
    end)
  end

  -- AdamW: Loshchilov and Hutter, "Decoupled weight decay regularization" (arXiv:1711.05101).
  function optim.adamw(parameters, opts)
    opts = pl.check_options("optim.adamw", opts, { "lr", "beta1", "beta2", "eps", "weight_decay", "clip" })
    local beta1 = number("optim.adamw", opts, "beta1", 0.9, 0, 0.999999)
    local beta2 = number("optim.adamw", opts, "beta2", 0.999, 0, 0.9999999)
    local eps = number("optim.adamw", opts, "eps", 1e-8, 0, 1)
    return new("optim.adamw", parameters, opts, { "mean", "square" }, function(self, p, grad, lr, scale)
      core.adamw(p.tensor, grad, p.mean, p.square, { rate = lr, beta1 = beta1, beta2 = beta2, eps = eps,
        scale = scale, step = self.n_steps, decay = p.decays and self.weight_decay or 0 })
    end)
  end

  -- A function of the step, from 1: a linear rise over `warmup` steps, then half a cosine from lr down
  -- to min_lr at n_steps.
  function optim.cosine(opts)
    opts = pl.check_options("optim.cosine", opts, { "lr", "min_lr", "warmup", "n_steps" })
    local lr, low = opts.lr, opts.min_lr or 0
    local warmup, n = opts.warmup or 0, opts.n_steps
    if not lr or not n then pl.fail("argument", "optim.cosine: lr and n_steps are needed") end
    return function(step)
      if step <= warmup then return lr * step / (warmup + 1) end
      local done = math.min(1, (step - warmup) / math.max(1, n - warmup))
      return low + (lr - low) * 0.5 * (1 + math.cos(math.pi * done))
    end
  end
end
