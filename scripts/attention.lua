-- Where each head looks: attention patterns.
--
-- Every position asks, and each head answers with a weight for every position up to there; the weights
-- of a row sum to 1. First an overview of all heads: how much they look at the first token, at the
-- token before and at the asking token itself, and how far back. Then the patterns of one layer, row
-- by row who asks, column by column who is looked at. With --head one pattern with its numbers. The
-- page has them all.
--
--   perilune attention
--   perilune attention --layer 3 "The king and the wolf went into the wood, and the king and the"
--   perilune attention --layer 3 --head 1
--   perilune attention --html attention.html

local pl = require "perilune"
local cli = require "perilune.cli"
local heatmap = require "perilune.heatmap"
local terminal = require "perilune.terminal"

local parser = cli.parser("attention", "Where each head looks: attention patterns.")
parser:argument("prompt", "The text (default: one of ours; - reads standard input)"):args "*"
parser:option("-l --layer", "Show the patterns of this layer (default: 0)"):argname "L":convert(cli.integer)
parser:option("--head", "Show one head's pattern with its numbers"):argname "H":convert(cli.integer)
cli.page_option(parser)

local args = cli.parse(parser)
local model = cli.load(args)
local config = model.config
local layer = cli.index(args.layer or 0, config.n_layers, "--layer")
local head = cli.index(args.head, config.n_heads, "--head")
local ids, tokens, text = cli.prompt(model, args.prompt,
  "The king and the wolf went into the wood, and the king and the", 2)

local _, cache = model:run_with_cache(ids, "pattern")

local function pattern(l, h) return cache[("blocks.%d.attn.hook_pattern"):format(l)]:select(0, h) end

local summary = pl.analysis.attention_summary(model, cache) -- [layer, head] each
local looks = {
  { name = "at the first token", values = summary.first, format = "%.2f", low = 0, high = 1 },
  { name = "at the token before", values = summary.previous, format = "%.2f", low = 0, high = 1 },
  { name = "at the asking token", values = summary.current, format = "%.2f", low = 0, high = 1 },
  { name = "how far back, in tokens", values = summary.distance, format = "%.1f", low = 0 },
}

-- Of long texts the last tokens are shown, as many as there is room for.
local function last_tokens(most)
  return table.move(tokens, math.max(1, #tokens - most + 1), #tokens, 1, {})
end

-- The last rows and columns of a pattern without what the mask hides: those keys lie in the future.
local function visible(weights, most)
  local first = math.max(0, #ids - most)
  local rows = weights:narrow(0, first, #ids - first):narrow(1, first, #ids - first):to_table()
  for query, row in ipairs(rows) do
    for key = query + 1, #row do row[key] = 0 / 0 end
  end
  return rows
end

local IN_TERMINAL, ON_PAGE = 48, 96
local function told(most)
  return #ids > most and ("; the last %d of %d tokens"):format(most, #ids) or ""
end

print(terminal.paint(terminal.visible(text), "bold"))
print("\nWhere the attention of each head goes, on average:\n")
local maps = {}
for i, look in ipairs(looks) do
  maps[i] = setmetatable({ title = look.name, rows = "layer", columns = "head" }, { __index = look })
end
heatmap.print_tiles(maps)

if head then
  print(("layer %d, head %d: each row shares out its attention among the columns%s"):format(layer, head,
    told(IN_TERMINAL)))
  local labels = last_tokens(IN_TERMINAL)
  heatmap.print { values = visible(pattern(layer, head), IN_TERMINAL), rows = labels, columns = labels,
    format = "%.2f", low = 0, high = 1 }
else
  print(("layer %d: rows ask, columns are looked at%s"):format(layer, told(IN_TERMINAL)))
  local tiles = {}
  for h = 0, config.n_heads - 1 do
    tiles[h + 1] = { title = ("head %d"):format(h), values = visible(pattern(layer, h), IN_TERMINAL),
      rows = last_tokens(IN_TERMINAL), columns = false, label_width = 8, root = true, low = 0, high = 1 }
  end
  heatmap.print_tiles(tiles)
end

if args.html then
  local page = require("perilune.page").new("Where each head looks",
    "Rows ask, columns are looked at. The pointer tells a weight; a click shows a head large" .. told(ON_PAGE) .. ".")
  page:lines(text)
  local all = {}
  for l = 0, config.n_layers - 1 do
    all[l + 1] = {}
    for h = 0, config.n_heads - 1 do all[l + 1][h + 1] = visible(pattern(l, h), ON_PAGE) end
  end
  page:tiles { values = all, rows = "layer", columns = "head", labels = last_tokens(ON_PAGE) }
  page:heading("Where the attention of each head goes, on average")
  page:heat { views = looks, rows = "layer", columns = "head" }
  cli.write_page(args, page)
end
