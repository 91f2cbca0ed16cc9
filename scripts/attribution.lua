-- Which activations and tokens an answer is owed to: attribution patching, integrated gradients.
--
-- Attribution patching (Nanda 2023) estimates what `perilune patch` measures. Putting a clean
-- activation into the corrupted run changes the answer by about
--     (clean - corrupted) . gradient of the answer at that place of the corrupted run
-- for all places at once: two passes forward and one backward, instead of a pass for every place. It
-- is the first term of a series, so it is good where the rest of the model is nearly straight, and
-- wrong where it bends, as it does most early in the residual stream. Here both are computed, and
-- correlated.
--
-- Integrated gradients (Sundararajan et al. 2017) share an answer out among the input tokens: from a
-- baseline without them (the mean of all embeddings, or 0), the embeddings go in a straight line to
-- what they are; a token's share is (embedding - baseline) . the mean gradient on the way. The shares
-- add up to the difference of the answers at both ends: completeness, checked here. From 0 that may
-- fail in models without position embeddings: their norms divide next to nothing by next to nothing,
-- and no number of points follows so steep a way.
--
--   perilune attribution
--   perilune attribution "The king said to his" "The queen said to her" --html a.html
--   perilune attribution --maps --baseline zero --points 200

local pl = require "perilune"
local cli = require "perilune.cli"
local heatmap = require "perilune.heatmap"
local terminal = require "perilune.terminal"

local parser = cli.parser("attribution", "Which activations and tokens an answer is owed to, by gradients.")
parser:argument("clean", "A prompt (default: one of ours)"):args "?"
parser:argument("corrupted", "One of as many tokens that leads elsewhere"):args "?"
parser:option("--answer", "What should follow the clean prompt (default: what the model takes)"):argname "TOKEN"
parser:option("--wrong", "What should follow the corrupted one (likewise)"):argname "TOKEN"
parser:option("--baseline", "Where integrated gradients begin: mean or zero"):argname "NAME"
  :choices({ "zero", "mean" }):default "mean"
parser:option("--points", "Points on the way of integrated gradients"):argname "N":convert(cli.whole(1)):default "64"
parser:flag("--maps", "Draw all places, not the heads alone")
cli.page_option(parser)

local args = cli.parse(parser)
if args.clean and not args.corrupted then cli.usage("two prompts are needed, or none") end
-- Passes that are recorded compute exactly; those that are compared with them shall too.
local model = cli.load(args, { precision = "exact", kv = "f32" })
local clean, tokens = cli.prompt(model, { args.clean }, "The little girl went home to her mother, and the little", 2)
local corrupted, other_tokens = cli.prompt(model, { args.corrupted },
  "The little boy went home to his father, and the little", 2)
if #clean ~= #corrupted then
  cli.usage("the prompts have %d and %d tokens; places can only be exchanged if there are as many", #clean, #corrupted)
end
local columns = {}
for i, token in ipairs(tokens) do columns[i] = token == other_tokens[i] and token or token .. "/" .. other_tokens[i] end

local clean_logits, corrupted_logits = model:forward(clean)[-1], model:forward(corrupted)[-1]
local answer = args.answer and model:to_single_token(args.answer) or clean_logits:argmax()
local wrong = args.wrong and model:to_single_token(args.wrong) or corrupted_logits:argmax()
local function piece(id) return terminal.piece(model:to_str_tokens({ id })[1]) end
if answer == wrong then
  cli.usage("%s follows both prompts; name two tokens to tell apart with --answer and --wrong", piece(answer))
end
local function difference(logits) return logits[answer] - logits[wrong] end
local best, worst = difference(clean_logits), difference(corrupted_logits)

-- The answer's difference with hooks set; a number whose record can be walked back.
local function recorded(ids) return pl.grad(function() return difference(model:forward(ids)[-1]) end) end

print("clean        " .. terminal.paint(terminal.visible(model:decode(clean)), "bold"))
print("corrupted    " .. terminal.paint(terminal.visible(model:decode(corrupted)), "bold"))
print(("answer       logit of %s less logit of %s: %+.3f clean, %+.3f corrupted"):format(piece(answer), piece(wrong),
  best, worst))

-- -- attribution patching ---------------------------------------------------------------------------

-- What is summed over: {short name, words, the dimension that the columns are}.
local points = {
  { "resid_pre", "residual stream before each block", "pos" },
  { "attn_out", "what attention adds", "pos" },
  { "mlp_out", "what the MLP adds", "pos" },
  { "z", "single heads, at all tokens", "head" },
}
local patterns = {}
for i, point in ipairs(points) do patterns[i] = point[1] end

-- One pass forward and one backward of the corrupted prompt: activations with their gradients.
local function gradients()
  local kept, hooks = {}, {}
  local function keep(act, at)
    act:requires_grad()
    kept[at.point] = act
  end
  for i, pattern in ipairs(patterns) do hooks[i] = model:hook(pattern, keep) end
  local done, why = pcall(function() recorded(corrupted):backward() end)
  for _, hook in ipairs(hooks) do hook:remove() end
  if not done then error(why, 0) end
  return kept
end

-- The sum over an activation's numbers: per position, or per head where by says so.
local function by_places(product, by)
  if by == "head" then return product:sum(-1):sum(0) end
  return product:sum(-1)
end

local started = pl.clock()
local _, cache = model:run_with_cache(clean, patterns)
local kept = gradients()
local estimates = {}
for _, point in ipairs(points) do
  local rows = {}
  for layer = 0, model.config.n_layers - 1 do
    local name = (point[1] == "z" and "blocks.%d.attn.hook_%s" or "blocks.%d.hook_%s"):format(layer, point[1])
    local act = kept[name]
    rows[layer + 1] = by_places((cache[name] - act:detach()) * act.grad, point[3])
  end
  estimates[point[1]] = pl.stack(rows)
end
local estimate_seconds = pl.clock() - started

started = pl.clock()
local exact = {}
for _, point in ipairs(points) do
  exact[point[1]] = pl.patching.sweep(model, clean, corrupted, point[1], difference, { by = { "layer", point[3] } })
    - worst
end
local exact_seconds = pl.clock() - started

-- Pearson's; nothing to correlate where one is the same everywhere.
local function correlation(a, b)
  a, b = a:contiguous():view(-1), b:contiguous():view(-1)
  a, b = a - a:mean(), b - b:mean()
  local scale = a:norm() * b:norm()
  return scale > 0 and (a * b):sum() / scale or 0 / 0
end

print("\n" .. terminal.paint("Attribution patching and the patching that it estimates", "bold"))
print(("  %-33s %7s %12s %13s %14s"):format("", "places", "correlation", "mean |error|", "mean |effect|"))
local all_estimates, all_exact, views = {}, {}, {}
for i, point in ipairs(points) do
  local name, words = point[1], point[2]
  local a, b = estimates[name], exact[name]
  all_estimates[i], all_exact[i] = a:contiguous():view(-1), b:contiguous():view(-1)
  print(("  %-33s %7d %+12.3f %13.3f %14.3f"):format(words, #all_exact[i], correlation(a, b), (a - b):abs():mean(),
    b:abs():mean()))
  views[i] = { name = name, words = words, estimate = a, exact = b, columns = point[3] == "head" and "head" or columns }
end
print(("  %-33s %7d %+12.3f"):format("all of them", #pl.cat(all_exact, 0),
  correlation(pl.cat(all_estimates, 0), pl.cat(all_exact, 0))))
print(terminal.paint(("  %s for the estimates, %s for the patches"):format(terminal.duration(estimate_seconds),
  terminal.duration(exact_seconds)), "grey"))

for i = args.maps and 1 or #views, #views do
  local view = views[i]
  for _, kind in ipairs({ "estimate", "exact" }) do
    print("\n" .. terminal.paint(("%s: %s"):format(view.words, kind), "orange"))
    heatmap.print { values = view[kind]:to_table(), rows = "layer", columns = view.columns, format = "%.2f",
      diverging = true }
  end
end

-- -- integrated gradients ---------------------------------------------------------------------------

local embeddings = select(2, model:run_with_cache(clean, { "hook_embed" })).hook_embed
local baseline = embeddings * 0
if args.baseline == "mean" then -- of all tokens; some families multiply embeddings before the first block
  local scale = embeddings:norm() / model.W_E:index_select(0, clean:long()):norm()
  baseline = baseline + model.W_E:mean(0) * scale
end

-- The answer with embeddings that have gone a share of the way from the baseline, and their gradient.
local function on_the_way(share, wants_gradient)
  local point
  local function put(act)
    act:copy_(baseline + (embeddings - baseline) * share)
    if wants_gradient then point = act:requires_grad() end
  end
  local hook <close> = model:hook("hook_embed", put) -- luacheck: ignore 211
  if not wants_gradient then return difference(model:forward(clean)[-1]) end
  recorded(clean):backward()
  return point.grad
end

-- Shares of the tokens, by the midpoint rule.
local function integrated(n)
  local sum
  for i = 1, n do
    local gradient = on_the_way((i - 0.5) / n, true)
    sum = sum and sum + gradient or gradient:clone()
  end
  return ((embeddings - baseline) * sum / n):sum(-1)
end

local from, to = on_the_way(0), on_the_way(1)
print("\n" .. terminal.paint("Integrated gradients of the clean prompt's answer", "bold"))
print(("  answer %+.4f at the baseline (%s), %+.4f with the tokens: a difference of %+.4f"):format(from,
  args.baseline, to, to - from))
local shares
local n = math.max(1, args.points // 16)
while true do -- fewer points first, to show what they do
  shares = integrated(n)
  print(("  %4d points: the shares add up to %+.4f, off by %.4f"):format(n, shares:sum(),
    math.abs(shares:sum() - (to - from))))
  if n >= args.points then break end
  n = math.min(args.points, n * 4)
end
if math.abs(shares:sum() - (to - from)) > 0.05 * math.abs(to - from) then
  print(terminal.paint("  incomplete: take more --points, or another --baseline; the shares below mean little", "red"))
end
local largest = math.max(shares:abs():max(), 1e-9)
for i = 0, #clean - 1 do
  local share = shares[i]
  print(("  %s %+8.4f  %s"):format(terminal.fit(tokens[i + 1], 16), share, terminal.paint(
    terminal.bar(math.abs(share) / largest, 30):gsub(" +$", ""), share >= 0 and "blue" or "red")))
end

if args.html then
  local page = require("perilune.page").new("Which activations and tokens an answer is owed to",
    ("Logit of %s less logit of %s: %+.3f after the clean prompt, %+.3f after the corrupted one"):format(
      piece(answer), piece(wrong), best, worst))
  page:lines("clean      " .. model:decode(clean) .. "\ncorrupted  " .. model:decode(corrupted))
  for _, view in ipairs(views) do
    page:heading(view.words)
    page:heat { views = { { name = "estimate", values = view.estimate:to_table(), format = "%.3f", diverging = true },
      { name = "exact", values = view.exact:to_table(), format = "%.3f", diverging = true } }, rows = "layer",
      columns = view.columns, column_name = view.columns == "head" and "head" or "token" }
  end
  page:heading "Integrated gradients"
  page:heat { name = "share", values = { shares:to_table() }, rows = { "share" }, columns = tokens, diverging = true,
    format = "%.3f", column_name = "token" }
  cli.write_page(args, page)
end
