-- The loop of training: pl.fit; token files, batches, and the first weights of a model.

local svg = require "perilune.svg"
local terminal = require "perilune.terminal"

return function(pl, core)
  -- -- data ----------------------------------------------------------------------------------------

  local Data = { __name = "perilune.token_data" }
  Data.__index = Data

  -- Windows of `length` + 1 tokens at places that depend on seed and step alone: ids [n, length], and
  -- the token after each.
  function Data:batch(n, length, seed, step)
    local most = #self.tokens - length
    if most < 1 then
      pl.fail("argument", "%d tokens: a window of %d and the token after it do not fit", #self.tokens, length)
    end
    local places = pl.rand(n, { seed = (seed * 1000003 + step) & 0x7fffffffffff }):to_table()
    local inputs, targets = {}, {}
    for i = 1, n do
      local at = math.min(most - 1, math.floor(places[i] * most))
      inputs[i] = self.tokens:narrow(0, at, length)
      targets[i] = self.tokens:narrow(0, at + 1, length)
    end
    return pl.cat(inputs):view(n, length), pl.cat(targets):view(n, length)
  end

  -- The mean loss in nats per token over windows that lie side by side, at most `most` of them.
  function Data:loss(model, length, most)
    local nats, n = 0, 0
    for at = 0, #self.tokens - 2, length do
      if most and n >= most * length then break end
      local size = math.min(length, #self.tokens - 1 - at)
      pl.no_grad(function()
        local seq <close> = model:sequence()
        local logits = seq:extend(self.tokens:narrow(0, at, size), { logits = "all" })
        nats = nats + logits:cross_entropy(self.tokens:narrow(0, at + 1, size), { reduction = "sum" })
      end)
      n = n + size
    end
    return nats / n, n
  end

  -- Tokens to train on: a tensor of ids, or the path of an .npy file of them, which stays on disk and
  -- is read where it is needed.
  function pl.token_data(source)
    local tokens = type(source) == "string" and pl.load_npy(source) or source
    if not core.is_tensor(tokens) or tokens.n_dims ~= 1 or tokens.dtype == "float32" then
      pl.fail("argument", "token_data: expected whole numbers in one dimension, or the path of an .npy file of them")
    end
    if #tokens < 2 then pl.fail("argument", "token_data: %d tokens: there is nothing to predict", #tokens) end
    return setmetatable({ tokens = tokens }, Data)
  end

  -- The weights that training begins from, as GPT-2's: matrices normal with deviation std, those that
  -- write to the residual stream smaller by sqrt(2 n_layers), gains 1, biases 0.
  function pl.init_weights(model, opts)
    opts = pl.check_options("init_weights", opts, { "std", "seed" })
    local std, seed = opts.std or 0.02, opts.seed or 0
    local into_stream = std / math.sqrt(2 * model.config.n_layers)
    pl.no_grad(function()
      for i, p in ipairs(model:parameters()) do
        if p.name:find("norm%.weight$") then p.tensor:fill_(1)
        elseif p.name:find("%.bias$") then p.tensor:zero_()
        else
          local writes = p.name:find("attn_output") or p.name:find("ffn_down")
          p.tensor:normal_(0, writes and into_stream or std, { seed = seed * 65536 + i })
        end
      end
    end)
    return model
  end

  function pl.make_folder(path)
    if not core.make_folder(path) then pl.fail("io", "%s: the folder cannot be made", path) end
    return path
  end

  -- Raises where model:save(path, {dtype = dtype}) could not be done: better before hours of training.
  function pl.check_saving(path, dtype)
    core.check_dtype(dtype)
    local folder = path:gsub("/+$", ""):match("^(.*/)[^/]*$") or "."
    if not core.list_folder(folder) then pl.fail("io", "%s: there is no folder %s", path, folder) end
  end

  -- -- checkpoints ---------------------------------------------------------------------------------

  local function exists(path)
    local file = io.open(path, "rb")
    if file then file:close() end
    return file ~= nil
  end

  local function numbers(list) return #list > 0 and pl.tensor(list) or pl.zeros(0) end

  local function write_checkpoint(path, run, optimizer)
    local state = optimizer:state()
    local tensors = { ["run.step"] = pl.tensor({ run.step }, { dtype = "int64" }),
      ["run.losses"] = numbers(run.losses), ["run.valid_steps"] = numbers(run.valid_steps),
      ["run.valid_losses"] = numbers(run.valid_losses),
      ["optimizer.n_steps"] = pl.tensor({ state.n_steps }, { dtype = "int64" }) }
    for name, tensor in pairs(state.tensors) do tensors["optimizer." .. name] = tensor end
    for _, p in ipairs(optimizer.parameters) do tensors["weight." .. p.name] = p.tensor:detach() end
    pl.save_tensors(path, tensors)
  end

  local function read_checkpoint(path, run, optimizer)
    local tensors = pl.load_tensors(path)
    local function get(name)
      return tensors[name] or pl.fail("format", "%s: %s is missing: no checkpoint of this training", path, name)
    end
    local state = { n_steps = get("optimizer.n_steps")[0], tensors = {} }
    for name in pairs(optimizer:state().tensors) do state.tensors[name] = get("optimizer." .. name) end
    local weights = {}
    for i, p in ipairs(optimizer.parameters) do
      local weight = get("weight." .. p.name)
      if table.concat(weight.shape, " ") ~= table.concat(p.tensor.shape, " ") then
        pl.fail("format", "%s: %s is [%s], expected [%s]: it belongs to another model", path, p.name,
          table.concat(weight.shape, ", "), table.concat(p.tensor.shape, ", "))
      end
      weights[i] = weight
    end
    pl.no_grad(function()
      for i, p in ipairs(optimizer.parameters) do p.tensor:copy_(weights[i]) end
    end)
    optimizer:load_state(state)
    run.step = get("run.step")[0]
    run.losses, run.valid_steps = get("run.losses"):to_table(), get("run.valid_steps"):to_table()
    run.valid_losses = get("run.valid_losses"):to_table()
  end

  -- -- the loop ------------------------------------------------------------------------------------

  local function duration(seconds)
    local s = math.floor(seconds + 0.5)
    if s >= 3600 then return ("%d:%02d h"):format(s // 3600, s % 3600 // 60) end
    return ("%d:%02d min"):format(s // 60, s % 60)
  end

  local function save_curve(path, run)
    local steps = {}
    for i = 1, #run.losses do steps[i] = i end
    svg.save(path, { title = "Loss", x_label = "step", y_label = "nats per token", series = {
      { name = "training", x = steps, y = run.losses },
      { name = "held out", x = run.valid_steps, y = run.valid_losses } } })
  end

  -- A loss that is no number; or one that has been above the limit for ten steps on average.
  local function check_loss(run, value, limit)
    if value ~= value or value == math.huge or value == -math.huge then
      pl.fail("diverged", "the loss is %s at step %d: the learning rate may be too high",
        tostring(math.abs(value)), run.step + 1)
    end
    if not limit or run.step < 9 then return end
    local mean = value / 10
    for i = run.step - 8, run.step do mean = mean + run.losses[i] / 10 end
    if mean > limit then
      pl.fail("diverged", "the loss of the ten steps to %d is %.4g, above %.4g: the learning rate may be too high",
        run.step + 1, mean, limit)
    end
  end

  local known = { "loss", "optimizer", "n_steps", "schedule", "accumulate", "evaluate", "evaluate_every", "checkpoint",
    "checkpoint_every", "curve", "tokens_per_step", "progress", "report", "loss_limit" }
  local functions = { loss = true, schedule = true, evaluate = true, report = true }
  local counts = { n_steps = true, accumulate = true, evaluate_every = true, checkpoint_every = true }
  local paths = { checkpoint = true, curve = true }

  local function check_fit(opts)
    opts = pl.check_options("fit", opts, known)
    for _, name in ipairs({ "loss", "optimizer", "n_steps" }) do
      if not opts[name] then pl.fail("argument", "fit: %s is missing", name) end
    end
    for name, value in pairs(opts) do
      if functions[name] and type(value) ~= "function" then
        pl.fail("argument", "fit: %s is a %s, expected a function", name, type(value))
      elseif counts[name] and not (math.tointeger(value) and value >= 1) then
        pl.fail("argument", "fit: %s = %s, expected a whole number from 1", name, tostring(value))
      elseif paths[name] and type(value) ~= "string" then
        pl.fail("argument", "fit: %s is a %s, expected a path", name, type(value))
      elseif name == "loss_limit" and type(value) ~= "number" then
        pl.fail("argument", "fit: loss_limit is a %s, expected a number", type(value))
      end
    end
    return opts
  end

  -- What opts.loss gave, which has to depend on what is trained.
  local function check_tensor(loss)
    if core.is_tensor(loss) and loss.tracked then return loss end
    pl.fail("argument", "fit: loss returned %s, expected a tensor of one number that depends on what is trained",
      core.is_tensor(loss) and "a tensor that no gradient passes through" or "a " .. type(loss))
  end

  local function one_step(run, opts)
    local sum, n = 0, opts.accumulate or 1
    opts.optimizer:zero_grad()
    for part = 1, n do
      local loss = check_tensor(opts.loss(run.step + 1, part))
      local value = loss:item()
      check_loss(run, value, opts.loss_limit)
      if n > 1 then loss = loss / n end
      loss:backward()
      sum = sum + value / n
    end
    opts.optimizer:step(opts.schedule and opts.schedule(run.step + 1))
    run.step = run.step + 1
    run.losses[run.step] = sum
    return sum
  end

  local function evaluate(run, opts)
    run.valid_steps[#run.valid_steps + 1] = run.step
    run.valid_losses[#run.valid_losses + 1] = opts.evaluate()
    if opts.report then opts.report(run) end
  end

  -- Trains: n_steps times loss(step, part), backward, and a step of the optimizer. With a checkpoint
  -- that exists it goes on from there, to the same bits as if it had never stopped.
  function pl.fit(opts)
    opts = check_fit(opts)
    local run = { step = 0, losses = {}, valid_steps = {}, valid_losses = {} }
    if opts.checkpoint and exists(opts.checkpoint) then read_checkpoint(opts.checkpoint, run, opts.optimizer) end
    run.resumed_at = run.step > 0 and run.step or nil
    local show, finish = terminal.progress()
    if opts.progress == false then show, finish = function() end, function() end end
    local function keep()
      if not opts.checkpoint then return end
      write_checkpoint(opts.checkpoint, run, opts.optimizer)
      if opts.curve then save_curve(opts.curve, run) end
    end
    local began, first = pl.clock(), run.step
    core.keep_memory(true)
    local good, why = pcall(function()
      while run.step < opts.n_steps do
        local loss = one_step(run, opts)
        local seconds = (pl.clock() - began) / (run.step - first)
        show(run.step / opts.n_steps, ("step %d  loss %.3f%s  %s left"):format(run.step, loss,
          opts.tokens_per_step and ("  %.0f tokens/s"):format(opts.tokens_per_step / seconds) or "",
          duration(seconds * (opts.n_steps - run.step))))
        local last = run.step == opts.n_steps
        if opts.evaluate and (last or run.step % (opts.evaluate_every or 250) == 0) then
          finish()
          evaluate(run, opts)
        end
        if last or run.step % (opts.checkpoint_every or 100) == 0 then keep() end
      end
    end)
    core.keep_memory(false)
    finish()
    run.seconds = pl.clock() - began
    if not good and type(why) == "table" and why.kind == "interrupted" and run.step > first then keep() end
    if not good and type(why) == "table" and why.kind == "diverged" and opts.checkpoint and exists(opts.checkpoint) then
      pl.fail("diverged", "%s; the last good checkpoint is %s", why.message, opts.checkpoint)
    end
    if not good then error(why, 0) end
    if opts.curve then save_curve(opts.curve, run) end
    return run
  end
end
