-- The residual stream, step by step: how long it is, where it points, who wrote it.
--
-- Every block reads the stream and adds to it twice, once by attention and once by its MLP. Row by row
-- the stream grows, column by column for each token. The norm is its length, the cosine how much of
-- the direction that it has in the end it has already. A part's share is how far it lies along the
-- whole; shares sum to 1, and negative ones lie against it. And it adds to the logit of the token that
-- the model takes next. In the page a click on a place lists the shares of its parts.
--
--   perilune residual
--   perilune residual "The king and the wolf went into the wood"
--   perilune residual --html residual.html

local pl = require "perilune"
local cli = require "perilune.cli"
local heatmap = require "perilune.heatmap"
local terminal = require "perilune.terminal"

local parser = cli.parser("residual", "The residual stream, step by step.")
parser:argument("prompt", "The text (default: one of ours; - reads standard input)"):args "*"
cli.page_option(parser)

local args = cli.parse(parser)
local model = cli.load(args, { precision = "exact", kv = "f32" })
local config = model.config
local ids, tokens, text = cli.prompt(model, args.prompt, "The little girl went home to her mother, and the little")

local points = { "embed", "resid_pre", "resid_mid", "resid_post", "attn_out", "ln_final.hook_scale" }
if config.positions == "learned" then points[#points + 1] = "pos_embed" end
local logits, cache = model:run_with_cache(ids, points)

-- What was added, in order, and the stream after it: {name, added [pos, d_model], stream}.
local steps = {}
local function step(name, added)
  local before = steps[#steps]
  steps[#steps + 1] = { name = name, added = added, stream = before and before.stream + added or added }
end

local function at_layer(name, layer) return cache[("blocks.%d.hook_%s"):format(layer, name)] end

step("token", cache["hook_embed"])
if config.positions == "learned" then step("position", cache["hook_pos_embed"]) end
for layer = 0, config.n_layers - 1 do
  local attention = config.parallel and at_layer("attn_out", layer)
    or at_layer("resid_mid", layer) - at_layer("resid_pre", layer)
  step("attn " .. layer, attention)
  step("mlp " .. layer, at_layer("resid_post", layer) - at_layer("resid_pre", layer) - attention)
end

local names, norms, cosines, added, turns = {}, {}, {}, {}, {}
local final = steps[#steps].stream
for i, s in ipairs(steps) do
  names[i] = s.name
  norms[i] = s.stream:norm(1):to_table()
  cosines[i] = s.stream:cosine(final):to_table()
  added[i] = s.added:norm(1):to_table()
  turns[i] = i > 1 and s.added:cosine(steps[i - 1].stream):to_table() or {}
  for pos = 1, #ids do turns[i][pos] = turns[i][pos] or 0 / 0 end
end

-- The shares of the parts so far in the stream after step i, for each token: [part][pos].
local function shares(i)
  local whole, list = steps[i].stream, {}
  local square = (whole * whole):sum(1)
  for k = 1, i do list[k] = ((steps[k].added * whole):sum(1) / square):to_table() end
  return list
end

-- What each part adds to the logit of the token that the model takes next: [part, pos].
local stack, taken = {}, logits:argmax(-1)
for i, s in ipairs(steps) do stack[i] = s.added end
local speaks = pl.analysis.logit_attrs(model, cache, pl.stack(stack, 0), taken):to_table()
local next_tokens = cli.labels(model, taken)
local pairs_of_tokens = {}
for pos, token in ipairs(tokens) do pairs_of_tokens[pos] = token .. " > " .. next_tokens[pos] end

print(terminal.paint(terminal.visible(text), "bold"))
print("\nNorm of the stream after each part:\n")
heatmap.print { values = norms, rows = names, columns = tokens, format = "%.1f", low = 0 }
print("\nCosine between the stream there and in the end:\n")
heatmap.print { values = cosines, rows = names, columns = tokens, format = "%.2f", diverging = true, low = -1,
  high = 1 }
print(("\nEach part at the last token, %s: its share in the end, what it adds to the logit of %s:\n"):format(
  tokens[#tokens], next_tokens[#tokens]))
local last = shares(#steps)
for i, name in ipairs(names) do
  local share = last[i][#ids]
  print(("  %-9s norm %6.2f  logit %+6.2f  share %+.3f  %s"):format(name, added[i][#ids], speaks[i][#ids], share,
    terminal.paint(terminal.bar(math.abs(share), 20):gsub(" +$", ""), share < 0 and "blue" or "orange")))
end

if args.html then
  local page = require("perilune.page").new("The residual stream, step by step",
    "Each row is the stream after one more part. A click on a place lists the shares that its parts have in it.")
  page:lines(text)
  local details = {}
  for i = 1, #steps do
    local list = shares(i)
    details[i] = {}
    for pos = 1, #ids do
      details[i][pos] = {}
      for k = 1, i do details[i][pos][k] = list[k][pos] end
    end
  end
  page:heat { rows = names, columns = tokens, row_name = "after", column_name = "token", details = details,
    detail_labels = names, detail_title = "shares", views = {
      { name = "norm", values = norms, format = "%.1f", low = 0 },
      { name = "cosine with the end", values = cosines, format = "%.2f", diverging = true, low = -1, high = 1 },
      { name = "norm of what was added", values = added, format = "%.1f", low = 0 },
      { name = "cosine of what was added with the stream before", values = turns, format = "%.2f",
        diverging = true, low = -1, high = 1 },
    } }
  page:heading("What each part adds to the logit of the token that comes next")
  page:heat { name = "logit", values = speaks, rows = names, columns = pairs_of_tokens, format = "%.2f",
    diverging = true, row_name = "part", column_name = "token" }
  cli.write_page(args, page)
end
