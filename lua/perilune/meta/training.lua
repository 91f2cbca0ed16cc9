---@meta

-- Gradients and training. Words and behaviour are PyTorch's: what went into a number is recorded as
-- soon as a tensor that requires grad takes part, and backward walks the record back.
--
-- * Weights get gradients in a model made by model:trainable(); activations of any model, quantised
--   ones included, where the pass runs inside pl.grad and a hook asks with act:requires_grad().
-- * Edits that hooks make with tensor operations are part of the record: those of model:hook,
--   run_with_hooks and run_with_cache, in passes that go to the logits.
-- * Passes that are recorded compute in precision "exact" with float32 keys and values, and give the
--   bits of a session made so.
-- * What gives a number, such as the mean, cross_entropy, kl_div, cosine and det, gives a tensor of no
--   dimensions where a gradient passes through; item() is its number.
-- * No gradient goes through eig.
-- * The factors of svd, eigh and qr have gradients where they are determined: singular values and
--   eigenvalues apart from each other, full rank; elsewhere backward says so.

---@class perilune
local pl = {}

--- Calls fn(...) with recording on: the forward passes in it are recorded, so that activations may
--- require grad. Returns what fn returns.
---@param fn function
---@param ... any
---@return any
function pl.grad(fn, ...) end

--- Calls fn(...) with recording off: parameters may be changed in place.
---@param fn function
---@param ... any
---@return any
function pl.no_grad(fn, ...) end

---@class perilune.Tensor
---@field grad perilune.Tensor|nil what backward found; adds up until zero_grad; of the same memory at each call
---@field tracked boolean whether a gradient passes through this tensor
local Tensor = {}

--- Asks for the gradient with respect to this tensor as it is now; false: no more.
---@param wanted? boolean true unless said otherwise
---@return perilune.Tensor itself
function Tensor:requires_grad(wanted) end

--- Walks the record back from this tensor, one number, and frees it.
---@param opts? {gradient?: perilune.Tensor, retain_graph?: boolean, threads?: integer} gradient: of a tensor of more numbers, in its shape
function Tensor:backward(opts) end

--- Forgets the gradient found so far.
---@return perilune.Tensor itself
function Tensor:zero_grad() end

--- A copy that no gradient passes through.
---@return perilune.Tensor
function Tensor:detach() end

---@class perilune.Model
---@field is_trainable boolean
local Model = {}

--- A copy of the model whose weights, float32 in memory of their own, require grad.
---@param opts? perilune.SessionOptions of the default session
---@return perilune.Model
function Model:trainable(opts) end

--- The weights of a trainable model themselves: what is written to them changes the model.
---@return {name: string, tensor: perilune.Tensor}[]
function Model:parameters() end

---@class perilune.Optimizer
---@field n_steps integer
---@field lr number
local Optimizer = {}

--- Stochastic gradient descent with momentum. Matrices decay, vectors do not.
---@param parameters table model:parameters(), or a list of tensors that require grad
---@param opts {lr: number, momentum?: number, weight_decay?: number, clip?: number} clip: the most that the norm of all gradients may be
---@return perilune.Optimizer
function pl.optim.sgd(parameters, opts) end

--- AdamW (arXiv:1711.05101): decay is apart from the gradient.
---@param parameters table as for sgd
---@param opts {lr: number, beta1?: number, beta2?: number, eps?: number, weight_decay?: number, clip?: number} 0.9, 0.999, 1e-8, 0
---@return perilune.Optimizer
function pl.optim.adamw(parameters, opts) end

--- A schedule: the learning rate as a function of the step, counted from 1.
---@param opts {lr: number, n_steps: integer, warmup?: integer, min_lr?: number}
---@return fun(step: integer): number
function pl.optim.cosine(opts) end

--- Changes the parameters by one step; gradients stay. A gradient that is no number raises and
--- changes nothing.
---@param lr? number for this step
---@return number norm of all gradients, before clipping
function Optimizer:step(lr) end

--- Forgets the gradients of all parameters.
function Optimizer:zero_grad() end

--- The Euclidean norm of all gradients together.
---@return number
function Optimizer:grad_norm() end

--- All that is needed to go on later: {n_steps, tensors by name}.
---@return table
function Optimizer:state() end

---@param state table from `Optimizer:state`
function Optimizer:load_state(state) end

--- Training: n_steps times a loss, its walk back, and a step of the optimizer, with a line of progress
--- at a terminal. With a checkpoint that exists it goes on from there, to the same bits as if it had
--- never stopped; a checkpoint is written whole or not at all. A loss that is no number raises an error
--- of kind "diverged" that names the last checkpoint, which stays; Ctrl-C leaves a checkpoint.
---@param opts perilune.FitOptions
---@return perilune.FitResult
function pl.fit(opts) end

---@class perilune.FitOptions
---@field loss fun(step: integer, part: integer): perilune.Tensor one number; step and part from 1
---@field optimizer perilune.Optimizer
---@field n_steps integer
---@field schedule? fun(step: integer): number the learning rate
---@field accumulate? integer losses whose gradients make one step
---@field evaluate? fun(): number a held-out loss
---@field evaluate_every? integer steps, 250
---@field report? fun(run: perilune.FitResult) called after each evaluation
---@field checkpoint? string path of a .safetensors file
---@field checkpoint_every? integer steps, 100
---@field curve? string path of an SVG file of the losses
---@field tokens_per_step? integer for the line of progress
---@field progress? boolean false: no line
---@field loss_limit? number a loss above it for ten steps on average has diverged too
local FitOptions = {}

---@class perilune.FitResult
---@field step integer
---@field losses number[] of every step
---@field valid_steps integer[] when evaluate was called
---@field valid_losses number[] what it gave
---@field resumed_at integer? the checkpoint's step
---@field seconds number
local FitResult = {}

--- Tokens to train on.
---@param source perilune.Tensor|string whole numbers in one dimension, or the path of an .npy file of them
---@return perilune.TokenData
function pl.token_data(source) end

---@class perilune.TokenData
---@field tokens perilune.Tensor
local TokenData = {}

--- Windows at places that depend on seed and step alone.
---@param n integer windows
---@param length integer tokens of a window
---@param seed integer
---@param step integer
---@return perilune.Tensor ids [n, length]
---@return perilune.Tensor targets the token after each
function TokenData:batch(n, length, seed, step) end

--- The mean loss over windows side by side.
---@param model perilune.Model
---@param length integer tokens of a window
---@param most? integer windows
---@return number nats per token
---@return integer tokens
function TokenData:loss(model, length, most) end

--- Sets the weights that training begins from, as GPT-2's: matrices normal with deviation std, those
--- that write to the residual stream smaller by the root of 2 n_layers, gains 1, biases 0.
---@param model perilune.Model trainable
---@param opts? {std?: number, seed?: integer} 0.02, 0
---@return perilune.Model itself
function pl.init_weights(model, opts) end

--- Files as they are given, and the .txt files of folders and their folders, in the order of names.
---@param paths string[]
---@return string[]
function pl.text_files(paths) end

--- Raises where `model:save(path, {dtype = dtype})` could not be done: no such folder, or no such type.
---@param path string
---@param dtype? string
function pl.check_saving(path, dtype) end

--- Makes a folder, unless it is there.
---@param path string
---@return string path
function pl.make_folder(path) end
