-- How a model knows the order of its tokens.
--
-- Attention alone does not: what it adds is a sum over the tokens before, and a sum has no order.
-- There are three usual remedies, each shown here with numbers, and then the order is destroyed:
--
--   sinusoidal  waves of different lengths are added to the embeddings (Vaswani et al. 2017); how two
--               of these vectors agree depends on their distance alone
--   learned     one vector for each position is trained (GPT-2's W_pos): near positions become alike
--   rotary      queries and keys are turned by an angle that grows with the position (Su et al. 2021),
--               so that their product knows the distance, and nothing is added to the residual stream
--
--   perilune positions
--   perilune positions --svg positions.svg "Once upon a time a little girl lived in a wood."
--   perilune positions -m llama.gguf

local pl = require "perilune"
local cli = require "perilune.cli"
local heatmap = require "perilune.heatmap"
local svg = require "perilune.svg"
local terminal = require "perilune.terminal"

local parser = cli.parser("positions", "How a model knows the order of its tokens, and what happens without.")
parser:argument("text", "A text whose order is destroyed (default: one of ours)"):args "*"
parser:option("--svg", "Write what learned positions are made of as a plot"):argname "FILE"
local args = cli.parse(parser)
local model = cli.load(args)
local ids = cli.prompt(model, args.text, "Once upon a time there was a poor woodcutter who lived with his wife and "
  .. "his two children at the edge of a great forest. One day the king came riding through the wood, and he asked "
  .. "the children to show him the way to the castle.", 8)
local seed = args.seed or 1
local config = model.config

local function headline(text) print("\n" .. terminal.paint(text, "bold")) end

-- -- sinusoidal ---------------------------------------------------------------------------------------

local width = 64
local function wave(position)
  local v = {}
  for i = 0, width - 1, 2 do
    local angle = position / 10000 ^ (i / width)
    v[i + 1], v[i + 2] = math.sin(angle), math.cos(angle)
  end
  return v
end
local function dot(a, b)
  local sum = 0
  for i = 1, #a do sum = sum + a[i] * b[i] end
  return sum
end

local distances = { 0, 1, 2, 4, 8, 16, 64 }
local function by_distance(label, product, places)
  print(("%-22s %s"):format("distance", (("%9d"):rep(#distances)):format(table.unpack(distances))))
  for _, at in ipairs(places) do
    local cells = {}
    for i, distance in ipairs(distances) do cells[i] = ("%9.3f"):format(product(at, at + distance)) end
    print(("%-22s %s"):format(label:format(at), table.concat(cells)))
  end
end

headline("Sinusoidal: sin and cos of position / 10000^(2i/d), d = 64; products of two positions")
by_distance("from position %d", function(a, b) return dot(wave(a), wave(b)) end, { 0, 100, 1000 })

-- -- rotary -------------------------------------------------------------------------------------------

local noise = pl.randn(2, width, { seed = seed }):to_table()
local function turned(v, position)
  local out = {}
  for i = 1, width, 2 do
    local angle = position / 10000 ^ ((i - 1) / width)
    out[i] = v[i] * math.cos(angle) - v[i + 1] * math.sin(angle)
    out[i + 1] = v[i] * math.sin(angle) + v[i + 1] * math.cos(angle)
  end
  return out
end

headline("Rotary: one query and one key, both random, turned by their positions; their product")
by_distance("query at %d", function(a, b) return dot(turned(noise[1], a), turned(noise[2], b)) end, { 0, 100, 1000 })

-- -- learned ------------------------------------------------------------------------------------------

local learned = config.positions == "learned"
if learned then
  local W = model.W_pos
  local step = math.max(1, W.shape[1] // 10)
  local chosen = {}
  for at = 0, W.shape[1] - 1, step do chosen[#chosen + 1] = at end
  local rows = W:index_select(0, chosen)
  local unit = rows / rows:norm(1, { keepdim = true })
  local labels = {}
  for i, at in ipairs(chosen) do labels[i] = tostring(at) end
  headline(("Learned: W_pos [%d, %d] of %s; how alike two positions are (cosine)"):format(W.shape[1], W.shape[2],
    model.name))
  heatmap.print { values = unit:matmul(unit:transpose(0, 1)), rows = labels, columns = labels, format = "%.2f",
    diverging = true }
  local centred = W - W:mean(0)
  local _, scales, V = centred:svd()
  local total, so_far, shares = scales:square():sum(), 0, {}
  for i = 0, 4 do
    so_far = so_far + scales[i] ^ 2 / total
    shares[i + 1] = ("%d: %.1f %%"):format(i + 1, 100 * so_far)
  end
  print("share of the variance in so many directions: " .. table.concat(shares, ", "))
  if args.svg then
    local along, series, x = centred:matmul(V:narrow(0, 0, 4):transpose(0, 1)):to_table(), {}, {}
    for at = 1, #along do x[at] = at - 1 end
    for k = 1, 4 do
      local y = {}
      for at = 1, #along do y[at] = along[at][k] end
      series[k] = { name = "direction " .. k, x = x, y = y }
    end
    svg.save(args.svg, { title = "Learned positions along their main directions", x_label = "position",
      y_label = "length along the direction", series = series })
    print(terminal.paint(args.svg .. " is written", "grey"))
  end
elseif args.svg then
  cli.usage("--svg: %s has no learned positions (%s)", model.name, config.positions)
end

-- -- order destroyed ----------------------------------------------------------------------------------

local n = #ids
local function loss(tokens)
  return model:forward(tokens):narrow(0, 0, n - 1):cross_entropy(tokens:narrow(0, 1, n - 1):long())
end

-- Every position told as the first, as long as the handles live.
local function forget_positions()
  if learned then
    return { model:hook("hook_pos_embed", function(act) act:copy_(model.W_pos[0]) end) }
  end
  if config.positions ~= "rotary" then return {} end
  local kept = {}
  local function keep(name) return function(act, at) kept[name .. at.layer] = act:clone() end end
  local function put(name) return function(act, at) act:copy_(kept[name .. at.layer]) end end
  local queries = config.qk_norm == "none" and "attn.hook_q" or "attn.q_norm.hook_normalized"
  local keys = config.qk_norm == "none" and "attn.hook_k" or "attn.k_norm.hook_normalized"
  return { model:hook(queries, keep "q"), model:hook("attn.hook_rot_q", put "q"), model:hook(keys, keep "k"),
    model:hook("attn.hook_rot_k", put "k") }
end

local function without_positions(fn)
  local handles = forget_positions()
  local good, value = pcall(fn)
  for _, handle in ipairs(handles) do handle:remove() end
  if not good then error(value, 0) end
  return value
end

local order = pl.rand(n, { seed = seed }):argsort()
local shuffled = ids:index_select(0, order)
headline(("Order destroyed: the loss of %s on a text of %d tokens, in nats per token"):format(model.name, n))
for _, row in ipairs {
  { "as it is", loss(ids) },
  { "its tokens in any order", loss(shuffled) },
  { "as it is, every position told as the first", without_positions(function() return loss(ids) end) },
} do
  print(("%-44s %7.3f  %s"):format(row[1], row[2], terminal.paint(terminal.bar(row[2] / 12, 20), "orange")))
end

-- The last token stays; those before it change places.
local mixed = pl.cat({ ids:narrow(0, 0, n - 1):index_select(0, pl.rand(n - 1, { seed = seed }):argsort()),
  ids:narrow(0, n - 1, 1) })
local function last_of(tokens, layer)
  local name = ("blocks.%d.hook_attn_out"):format(layer)
  local _, cache = model:run_with_cache(tokens, name)
  return cache[name][-1]
end
local function moved(layer)
  local before, after = last_of(ids, layer), last_of(mixed, layer)
  return (after - before):norm() / before:norm()
end
headline("What attention adds at the last token when those before it change places, by how much it moves")
print(("%-22s %12s %22s"):format("", "as it is", "all positions alike"))
for _, layer in ipairs { 0, config.n_layers - 1 } do
  print(("%-22s %10.2f %% %20.2f %%"):format("layer " .. layer, 100 * moved(layer),
    100 * without_positions(function() return moved(layer) end)))
end
print(terminal.paint("Without positions the first layer sums up a bag of words. Later layers still know some order:\n"
  .. "each token sees only those before it, and so the causal mask alone tells who came first.", "grey"))
