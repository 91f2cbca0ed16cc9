-- One block of the model, written out in Lua, step by step, and held against the engine.
--
-- What a transformer block computes fits on a page: norm, queries, keys and values, scores, softmax,
-- the mix of values, the way back into the stream, norm, MLP. Each line shows the formula, the shape
-- and how far the Lua result is from what the engine computed at the same point. GPT-2's and Llama's
-- families. Read the source of this program along with it: `perilune layer_walk --source`.
--
--   perilune layer_walk
--   perilune layer_walk --layer 5 "The king said to his daughter"
--   perilune layer_walk -m openai-community/gpt2

local pl = require "perilune"
local cli = require "perilune.cli"
local terminal = require "perilune.terminal"

local parser = cli.parser("layer_walk", "One block of the model, written out in Lua.")
parser:argument("prompt", "The text (default: one of ours; - reads standard input)"):args "*"
parser:option("-l --layer", "Which block"):argname "L":default "0":convert(cli.integer)
parser:flag("--source", "Print this program instead")

local args = cli.parse(parser)
if args.source then
  io.write(cli.read_file(pl.home .. "/scripts/layer_walk.lua"))
  return
end
-- The engine rounds activations and remembered keys where that is faster; here it shall not.
local model = cli.load(args, { precision = "exact", kv = "f32" })
local config = model.config
local layer = cli.index(args.layer, config.n_layers, "--layer")
local ids, _, text = cli.prompt(model, args.prompt, "The king said to his daughter that he would go")
for _, name in ipairs({ "parallel", "norm_after_sublayer", "norm_after_add" }) do
  if config[name] then pl.fail("unsupported", "a model with %s is built otherwise than this program shows", name) end
end

local n, d_head, group = #ids, config.d_head, config.n_heads // config.n_kv_heads
local logits, cache = model:run_with_cache(ids, "*")

print(terminal.paint(terminal.visible(text), "bold"))
print(("block %d of %d, d_model %d, %d heads of %d, d_mlp %d, %d tokens\n"):format(layer, config.n_layers,
  config.d_model, config.n_heads, d_head, config.d_mlp, n))
print(terminal.paint(("%-22s %-44s %-14s %s"):format("point", "formula", "shape", "difference"), "grey"))

-- Shows a step, and how far it is from the engine's: the largest difference, in units of the largest value.
local worst = 0
local function step(point, formula, ours, theirs)
  theirs = theirs or cache[("blocks.%d.%s"):format(layer, point)]
  local hidden = pl.full({ 1 }, -math.huge)
  local seen = theirs:ne(hidden) -- masked scores are -inf on both sides
  local zero = pl.zeros(1)
  local largest = pl.where(seen, theirs, zero):abs():max()
  local far = (pl.where(seen, ours, zero) - pl.where(seen, theirs, zero)):abs():max() / math.max(largest, 1e-30)
  if far > worst or far ~= far then worst = far end
  print(("%-22s %-44s %-14s %.1e"):format(point, formula, table.concat(ours.shape, " x "), far))
  return ours
end

-- -- the parts --------------------------------------------------------------------------------------

local function norm_of(x, weight, bias, part, name)
  if config.norm == "rms" then
    local scale = step(part .. ".hook_scale", "sqrt(mean(x^2) + eps)",
      ((x * x):mean(-1, { keepdim = true }) + config.norm_eps):sqrt())
    return step(part .. ".hook_normalized", "x / scale; times " .. name .. "_w from here on", x / scale) * weight
  end
  local centred = x - x:mean(-1, { keepdim = true })
  local scale = step(part .. ".hook_scale", "sqrt(var(x) + eps)",
    ((centred * centred):mean(-1, { keepdim = true }) + config.norm_eps):sqrt())
  return step(part .. ".hook_normalized", ("(x - mean) / scale * %s_w + %s_b"):format(name, name),
    centred / scale * weight + bias)
end

-- Rotates pairs of numbers by angles that grow with the position: x is [pos, head, d_head].
local function rotate(x)
  local half = config.rope_dims // 2
  local turns = pl.tensor(config.rope_base):pow(pl.arange(half):float() * (-2 / config.rope_dims))
  local angles = pl.arange(n):float():unsqueeze(1) * turns:unsqueeze(0)
  local cos, sin = angles:cos():unsqueeze(1), angles:sin():unsqueeze(1) -- [pos, 1, pair]
  local turned, rest, heads = x:narrow(2, 0, 2 * half), x:narrow(2, 2 * half, d_head - 2 * half), x.shape[2]
  local first, second
  if config.rope_half then -- pairs are (i, i + half)
    first, second = turned:narrow(2, 0, half), turned:narrow(2, half, half)
  else -- pairs are (2 i, 2 i + 1)
    local pairs_of = turned:contiguous():view(n, heads, half, 2)
    first, second = pairs_of:select(3, 0), pairs_of:select(3, 1)
  end
  local a, b = first * cos - second * sin, first * sin + second * cos
  local both = config.rope_half and pl.cat({ a, b }, 2) or pl.stack({ a, b }, 3):view(n, heads, 2 * half)
  return pl.cat({ both, rest }, 2)
end

local function gelu_new(x)
  return 0.5 * x * (1 + (math.sqrt(2 / math.pi) * (x + 0.044715 * x * x * x)):tanh())
end

local activations = { gelu_new = gelu_new, gelu = function(x) return x:gelu() end,
  silu = function(x) return x:silu() end, relu = function(x) return x:relu() end }

local function activate(x)
  local f = activations[config.activation] or pl.fail("unsupported", "activation %s is not shown", config.activation)
  return f(x)
end

-- -- attention --------------------------------------------------------------------------------------

local function at(point) return cache[("blocks.%d.%s"):format(layer, point)] end

local x = step("hook_resid_pre", "what the blocks before left", at("hook_resid_pre"))
local x_norm = norm_of(x, model.ln1_w[layer], model.ln1_b[layer], "ln1", "ln1")

-- W_Q is [head, d_model, d_head]: every head has its own questions, keys and values.
local q = step("attn.hook_q", "x W_Q + b_Q", pl.einsum("pm,hmd->phd", x_norm, model.W_Q[layer]) + model.b_Q[layer])
local k = step("attn.hook_k", "x W_K + b_K", pl.einsum("pm,hmd->phd", x_norm, model.W_K[layer]) + model.b_K[layer])
local v = step("attn.hook_v", "x W_V + b_V", pl.einsum("pm,hmd->phd", x_norm, model.W_V[layer]) + model.b_V[layer])
if config.positions == "rotary" then
  q = step("attn.hook_rot_q", "q turned by its position", rotate(q))
  k = step("attn.hook_rot_k", "k turned by its position", rotate(k))
end

-- Where heads share keys and values, head h has those of h // group.
local shared = pl.arange(config.n_heads) // group
k, v = k:index_select(1, shared), v:index_select(1, shared)

local future = pl.arange(n):unsqueeze(1):lt(pl.arange(n):unsqueeze(0)) -- [query, key]: the key is behind the query
local scores = pl.einsum("qhd,khd->hqk", q, k) * config.attn_scale
scores = step("attn.hook_attn_scores", "q . k * attn_scale, -inf in the future", scores:masked_fill(future, -math.huge))
local pattern = step("attn.hook_pattern", "softmax(scores)", scores:softmax(-1))
local z = step("attn.hook_z", "pattern v", pl.einsum("hqk,khd->qhd", pattern, v))
local result = step("attn.hook_result", "z W_O, head by head", pl.einsum("qhd,hdm->qhm", z, model.W_O[layer]))
local attn_out = step("hook_attn_out", "sum over heads + b_O", result:sum(1) + model.b_O[layer])
x = step("hook_resid_mid", "resid_pre + attn_out", x + attn_out)

-- -- mlp --------------------------------------------------------------------------------------------

local mlp_norm = norm_of(x, model.ln2_w[layer], model.ln2_b[layer], "ln2", "ln2")
local post
if config.gated then
  local pre = step("mlp.hook_pre", "x W_gate + b_gate", mlp_norm:matmul(model.W_gate[layer]) + model.b_gate[layer])
  local linear = step("mlp.hook_pre_linear", "x W_in + b_in", mlp_norm:matmul(model.W_in[layer]) + model.b_in[layer])
  post = step("mlp.hook_post", config.activation .. "(pre) * pre_linear", activate(pre) * linear)
else
  local pre = step("mlp.hook_pre", "x W_in + b_in", mlp_norm:matmul(model.W_in[layer]) + model.b_in[layer])
  post = step("mlp.hook_post", config.activation .. "(pre)", activate(pre))
end
local mlp_out = step("hook_mlp_out", "post W_out + b_out", post:matmul(model.W_out[layer]) + model.b_out[layer])
x = step("hook_resid_post", "resid_mid + mlp_out", x + mlp_out)

-- -- and out ----------------------------------------------------------------------------------------

-- The engine goes on from our stream instead of its own: the blocks behind change nothing of that.
local replaced = model:run_with_hooks(ids, { { ("blocks.%d.hook_resid_post"):format(layer),
  function(_, where) return x:narrow(0, where.pos, where.n) end } })
step("hook_logits", "the rest of the model, from our stream", replaced, logits)

print(("\nlargest difference: %.1e of the largest value"):format(worst))
if worst > 1e-3 or worst ~= worst then pl.fail("state", "the block in Lua and the engine's differ by %.1e", worst) end
print("The block in Lua and the engine's are the same, but for rounding.")
