-- Scaling laws: how the loss falls with parameters, data and computation.
--
-- Kaplan et al. 2020 (arXiv:2001.08361) found that a language model's loss falls as a power of each,
-- as long as the other two are not in the way: a straight line where both axes are logarithmic.
-- Hoffmann et al. 2022 added what no model can learn, the entropy of the text: L(x) = E + A x^-alpha.
-- Here families of tiny models are trained, and alpha is fitted by least squares to log(L - E).
--
-- The text is drawn from a source whose every probability is known, so that E is known too: the loss
-- of the source itself on the held-out text. Each token depends on the one before it; some tokens are
-- common, most are rare, and so there is always something left to learn. With --text FILE the models
-- read its bytes instead, and E is the one that makes the line straightest.
--
-- Parameters are counted without embeddings, as the paper does; computation is 6 N for each token.
--
--   perilune scaling
--   perilune scaling --svg scaling.svg --steps 600
--   perilune scaling --text book.txt --widths 8,16,32,64,128

local pl = require "perilune"
local cli = require "perilune.cli"
local powers = require "perilune.powers"
local svg = require "perilune.svg"
local terminal = require "perilune.terminal"

local function whole_list(text)
  local list = {}
  for word in text:gmatch("[^,]+") do
    local n = math.tointeger(tonumber(word))
    if not n or n < 1 then return nil, ("'%s': expected whole numbers with commas between them"):format(text) end
    list[#list + 1] = n
  end
  return list
end

local parser = cli.parser("scaling", "Scaling laws, from families of tiny models trained on the spot.")
parser:option("--text", "A text to learn instead of the source"):argname "FILE"
parser:option("--widths", "Widths of the models"):argname "LIST":convert(whole_list):default "2,4,6,8,12,16,24,32"
parser:option("--data", "Tokens that the widest model is given"):argname "LIST":convert(whole_list)
  :default "1000,2000,4000,8000,16000,32000"
parser:option("--steps", "Steps of training"):argname "N":convert(cli.whole(10)):default "300"
parser:option("--svg", "Write the three plots: FILE-n.svg, FILE-d.svg, FILE-c.svg"):argname "FILE"
local args = cli.parse(parser)
if #args.widths < 3 or #args.data < 3 then cli.usage("a line takes three points: give more widths or data") end
local seed = args.seed or 1

local LENGTH, BATCH, TRAIN, VALID = 32, 32, 200000, 8192

-- -- what is learned ----------------------------------------------------------------------------------

-- ids to train on, ids held out, how many ids there are, and the loss of the source on the held out.
local function from_source()
  local V = 128
  local state = seed
  local function random() -- in [0, 1)
    state = (state * 6364136223846793005 + 1442695040888963407) & 0x7fffffffffffffff
    return (state >> 10) / 2 ^ 53
  end
  local zipf, total = {}, 0
  for k = 1, V do
    zipf[k] = k ^ -1.2
    total = total + zipf[k]
  end
  for k = 1, V do zipf[k] = zipf[k] / total end
  -- After each token all others are likely in an order of its own: rank -> token, and back.
  local token_of, rank_of = {}, {}
  for a = 0, V - 1 do
    token_of[a], rank_of[a] = {}, {}
    for k = 1, V do token_of[a][k] = k - 1 end
    for k = V, 2, -1 do
      local other = 1 + math.floor(random() * k)
      token_of[a][k], token_of[a][other] = token_of[a][other], token_of[a][k]
    end
    for k = 1, V do rank_of[a][token_of[a][k]] = k end
  end
  local function draw()
    local x, k = random(), 1
    while x > zipf[k] and k < V do x, k = x - zipf[k], k + 1 end
    return k
  end
  local ids, a, floor = {}, 0, 0
  for i = 1, TRAIN + VALID do
    local rank = draw()
    local token = random() < 0.5 and rank - 1 or token_of[a][rank] -- half of the time from the common list
    if i > TRAIN + 1 then floor = floor - math.log(0.5 * zipf[token + 1] + 0.5 * zipf[rank_of[a][token]]) end
    ids[i], a = token, token
  end
  local tensor = pl.tensor(ids, { dtype = "int32" })
  return tensor:narrow(0, 0, TRAIN), tensor:narrow(0, TRAIN, VALID), V, floor / (VALID - 1)
end

local function from_text(path)
  local text = cli.read_file(path)
  if #text < 4 * VALID then
    pl.fail("argument", "%s: %d bytes are too few; expected %d or more", path, #text, 4 * VALID)
  end
  local parts = {}
  for at = 1, math.min(#text, TRAIN + VALID), 4096 do
    parts[#parts + 1] = pl.tensor({ text:byte(at, math.min(at + 4095, #text)) }, { dtype = "int32" })
  end
  local ids = pl.cat(parts, 0)
  local n = #ids - VALID
  return ids:narrow(0, 0, n), ids:narrow(0, n, VALID), 256, nil
end

local train, valid, n_ids, entropy
if args.text then train, valid, n_ids = from_text(args.text) else train, valid, n_ids, entropy = from_source() end
local valid_data = pl.token_data(valid)

-- -- training -----------------------------------------------------------------------------------------

local show, finish = terminal.progress()
local n_runs, runs_done = #args.widths + #args.data - 1, 0

-- Trains a model of a width on n tokens. The best held-out loss, its parameters, and points of its way:
-- {computation, loss}.
local function run(width, n)
  local heads = width % 16 == 0 and width // 16 or width % 8 == 0 and width // 8 or 1
  local model = pl.new_model({ arch = "gpt2", n_layers = 1, n_heads = heads, d_model = width, d_mlp = 4 * width,
    n_ctx = LENGTH, d_vocab = n_ids, tied = false }):trainable({ threads = args.threads })
  pl.init_weights(model, { seed = seed, std = 0.08 })
  local N = 0
  for _, weight in ipairs(model:weights()) do
    if weight.name:find("^blk%.") then N = N + weight.n_params end
  end
  local data, best, way = pl.token_data(train:narrow(0, 0, math.min(n, #train))), math.huge, {}
  pl.fit({ optimizer = pl.optim.adamw(model:parameters(), { lr = 0.01, weight_decay = 0.01, clip = 1 }),
    n_steps = args.steps, progress = false,
    schedule = pl.optim.cosine({ lr = 0.01, min_lr = 0.0005, warmup = 10, n_steps = args.steps }),
    loss = function(step)
      local x, y = data:batch(BATCH, math.min(LENGTH, n - 1), seed, step)
      return model:forward(x):cross_entropy(y)
    end,
    evaluate = function() return (valid_data:loss(model, LENGTH, 64)) end,
    evaluate_every = math.max(1, args.steps // 10),
    report = function(state)
      local loss = state.valid_losses[#state.valid_losses]
      best = math.min(best, loss)
      way[#way + 1] = { 6 * N * BATCH * LENGTH * state.step, loss }
      show((runs_done + state.step / args.steps) / n_runs, ("width %d, %d tokens: loss %.3f"):format(width, n, loss))
    end })
  runs_done = runs_done + 1
  return best, N, way
end

local by_n, by_d, ways = { x = {}, y = {} }, { x = {}, y = {} }, {}
local function add(series, x, y) series.x[#series.x + 1], series.y[#series.y + 1] = x, y end
table.sort(args.widths)
table.sort(args.data)
local widest = args.widths[#args.widths]
for _, width in ipairs(args.widths) do
  local loss, N, way = run(width, #train)
  add(by_n, N, loss)
  ways[#ways + 1] = way
end
for _, n in ipairs(args.data) do
  if n < #train then add(by_d, n, (run(widest, n))) end
end
finish()
if #by_d.x < 3 then cli.usage("--data: fewer than three of them are less than the %d tokens there are", #train) end

-- The least loss that so much computation has reached, whatever the width.
local by_c = { x = {}, y = {} }
local points = {}
for _, way in ipairs(ways) do
  for _, point in ipairs(way) do points[#points + 1] = point end
end
table.sort(points, function(p, q) return p[1] < q[1] end)
local least = math.huge
for _, point in ipairs(points) do
  if point[2] < least then
    least = point[2]
    add(by_c, point[1], point[2])
  end
end

-- -- the laws -----------------------------------------------------------------------------------------

print(("%s: %d tokens to train on, %d held out, %d kinds"):format(args.text or "a source whose probabilities are known",
  #train, #valid, n_ids))
if entropy then
  print(("no model can be better than %.4f nats per token, the source's own loss; guessing costs %.4f"):format(
    entropy, math.log(n_ids)))
end

local published = { N = 0.076, D = 0.095, C = 0.050 }
local function law(name, what, series, note)
  local fit = powers.fit(series.x, series.y, entropy)
  print("\n" .. terminal.paint(("L(%s), %s"):format(name, what), "bold"))
  local step = math.max(1, (#series.x + 7) // 8) -- eight lines say enough
  for i = 1, #series.x, step do
    local x = series.x[i]
    print(("  %12.4g  %.4f  %s fitted %.4f"):format(x, series.y[i],
      terminal.fit(terminal.bar((series.y[i] - fit.offset) / (series.y[1] - fit.offset), 24), 24), fit.at(x)))
  end
  print(("  L = %.4f + %.3g %s^-%.3f   R^2 of the logarithms %.3f   (Kaplan et al. 2020: alpha %.3f)"):format(
    fit.offset, fit.factor, name, fit.alpha, fit.r2, published[name]))
  if note then print("  " .. terminal.paint(note, "grey")) end
  return fit
end
local fits = {
  N = law("N", ("parameters without embeddings, all of %d tokens"):format(#train), by_n),
  D = law("D", ("tokens of data, width %d"):format(widest), by_d),
  C = law("C", "floating-point operations, the best width for each", by_c),
}
print("\nThe exponents differ from the published ones as the texts do: they say how fast what is still unknown\n"
  .. "grows rarer, and this source, with " .. n_ids .. " kinds of tokens, runs out of rare things sooner than English.")

if args.svg then
  local stem = args.svg:gsub("%.svg$", "")
  local labels = { N = "parameters without embeddings", D = "tokens", C = "floating-point operations" }
  for _, one in ipairs { { "N", by_n }, { "D", by_d }, { "C", by_c } } do
    local name, series = one[1], one[2]
    local above, line = {}, {}
    for i, x in ipairs(series.x) do
      above[i], line[i] = series.y[i] - fits[name].offset, fits[name].at(x) - fits[name].offset
    end
    local path = ("%s-%s.svg"):format(stem, name:lower())
    svg.save(path, { title = ("L(%s), above the floor of %.3f nats"):format(name, fits[name].offset), log_x = true,
      log_y = true, x_label = labels[name], y_label = "nats per token above the floor", series = {
        { name = "measured", x = series.x, y = above, points = true },
        { name = ("power %.3f"):format(-fits[name].alpha), x = series.x, y = line, dashed = true } } })
    print(terminal.paint(path .. " is written", "grey"))
  end
end
