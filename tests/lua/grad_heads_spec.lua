-- Gradients of what single heads read and write, through hooks that edit.

local pl = require "perilune"
local tiny = dofile "tests/lua/tiny.lua"

local ids = pl.tensor({ 1, 4, 2, 3, 0 }, { dtype = "int32" })
local points = { "hook_attn_in", "hook_q_input", "hook_k_input", "hook_v_input", "attn.hook_result" }

-- The loss of one recorded pass with hooks, a list of {point, function, options}.
local function loss_of(model, hooks)
  local handles = {}
  for i, hook in ipairs(hooks) do handles[i] = model:hook(table.unpack(hook)) end
  local loss = pl.grad(function() return model:forward(ids):cross_entropy(ids:long()) end)
  for _, handle in ipairs(handles) do handle:remove() end
  return loss
end

local function near(a, b, most)
  local off = (a - b):abs():max()
  assert.is_true(off <= (most or 1e-6) * math.max(1, b:abs():max()), "off by " .. off)
end

-- The gradients of activations of layer 0 in one pass, by point.
local function gradients(model, names)
  local acts, hooks = {}, {}
  for _, name in ipairs(names) do
    hooks[#hooks + 1] = { "blocks.0." .. name, function(act) acts[name] = act:requires_grad() end }
  end
  loss_of(model, hooks):backward()
  local out = {}
  for name, act in pairs(acts) do out[name] = act.grad:clone() end
  return out
end

describe("gradients of heads", function()
  local models = {
    ["GPT-2"] = tiny.model(pl, { n_layers = 2 }),
    ["a Llama with shared keys"] = tiny.model(pl, { arch = "llama", n_layers = 2, n_heads = 4, n_kv_heads = 2 }),
  }
  for name, model in pairs(models) do
    it("add up to those of the residual stream, in " .. name, function()
      local config = model.config
      local group = config.n_heads // config.n_kv_heads
      local g = gradients(model, { "hook_resid_pre", "hook_resid_mid", "hook_attn_out", table.unpack(points) })
      near(g.hook_attn_in:sum(1) + g.hook_resid_mid, g.hook_resid_pre)
      for head = 0, config.n_heads - 1 do
        near(g["attn.hook_result"]:select(1, head), g.hook_attn_out, 0)
        local shared = (g.hook_k_input + g.hook_v_input):select(1, head // group) / group
        near(g.hook_q_input:select(1, head) + shared, g.hook_attn_in:select(1, head))
      end
    end)

    it("pass through edits, in " .. name, function()
      for _, point in ipairs(points) do
        local by = pl.zeros(model.config.d_model):requires_grad()
        local function with(step)
          local function edit(act) act:select(1, 1):narrow(0, 1, 2):add_(step) end
          return loss_of(model, { { "blocks.1." .. point, edit } })
        end
        with(by):backward()
        for i = 0, 2 do
          local step = pl.zeros(model.config.d_model)
          step[i] = 0.02
          local slope = (with(step) - with(-step)) / 0.04
          assert.is_true(math.abs(by.grad[i] - slope) < 2e-3 * math.max(1, math.abs(slope)),
            ("%s [%d]: %g, expected %g"):format(point, i, by.grad[i], slope))
        end
      end
    end)
  end

  it("come by at backward hooks", function()
    local model = models["GPT-2"]:trainable()
    for _, point in ipairs(points) do
      local seen
      local function look(g) seen = g:abs():max() end
      loss_of(model, { { "blocks.1." .. point, look, { backward = true } } }):backward()
      assert.is_true(seen > 0, point)
    end
  end)

  it("reach adapters as without listeners", function()
    local function found(listening)
      local model = tiny.model(pl, { arch = "llama", n_layers = 1, n_heads = 4, n_kv_heads = 2 })
      local adapter = model:new_adapter({ targets = "all-linear" })
      model:set_adapter(adapter, 0.5)
      pl.no_grad(function()
        for i, p in ipairs(adapter:parameters()) do p.tensor:normal_(0, 0.1, { seed = i }) end
      end)
      local hooks = {}
      for _, point in ipairs(listening and points or {}) do
        hooks[#hooks + 1] = { "blocks.0." .. point, function() end }
      end
      loss_of(model, hooks):backward()
      return adapter:parameters()
    end
    local plain, heard = found(false), found(true)
    for i, p in ipairs(plain) do near(heard[i].tensor.grad, p.tensor.grad, 1e-5) end
  end)

  it("pass through half-precision matrices, whichever way round they are stored", function()
    local path = os.tmpname()
    os.remove(path)
    local model = pl.new_model({ arch = "gpt2", d_model = 96, n_heads = 3, n_layers = 2, n_ctx = 16, d_vocab = 20,
      std = 0.1 })
    local names = { "hook_resid_pre", "mlp.hook_post", table.unpack(points) }
    for _, format in ipairs { "gguf", "safetensors" } do
      model:save(path, { format = format, dtype = "f16" })
      local half = pl.load(path)
      local found, expected = gradients(half, names), gradients(half:trainable(), names)
      for _, name in ipairs(names) do near(found[name], expected[name]) end
      os.execute("rm -r " .. path)
    end
  end)
end)
