-- Heads that look for what came after the last time: induction.
--
-- A text of random tokens comes twice. Nothing helps to predict its first half; in the second half
-- each token follows the one that it followed before, which a model knows that has induction heads:
-- they look at the token behind the earlier one like the present. The first map is how much each head
-- looks there. The second is what silencing the head adds to the loss on the second half. A text of
-- yours comes twice in the place of random tokens. Small models may have no such heads at all.
--
--   perilune induction
--   perilune induction -n 60 --samples 8 --seed 1
--   perilune induction " One day the wolf met a little girl with a red cap in the wood."
--   perilune induction --html induction.html

local pl = require "perilune"
local cli = require "perilune.cli"
local heatmap = require "perilune.heatmap"
local terminal = require "perilune.terminal"

local parser = cli.parser("induction", "Heads that look for what came after the last time.")
parser:argument("text", "A text to come twice (default: random tokens)"):args "*"
parser:option("-n --length", "Random tokens before they repeat"):argname "N":default "40":convert(cli.whole(2))
parser:option("--samples", "How many random texts"):argname "N":default "2":convert(cli.whole(1))
parser:option("-k --top", "How many heads to list"):argname "K":default "5":convert(cli.whole(0))
cli.page_option(parser)

local args = cli.parse(parser)
local model = cli.load(args)
local config, n = model.config, args.length
local given = #args.text > 0 and model:encode(table.concat(args.text, " "), { add_special = false }):to_table() or nil
if given then n, args.samples = #given, 1 end
if n < 2 then cli.usage("the text has %d tokens; this takes at least 2", n) end
local seed = args.seed or math.random(0, 0xffffff)
math.randomseed(seed)
local prefix = model.tokenizer and model.tokenizer.prefix or {}
if #prefix + 2 * n > model.default_session.n_ctx then
  cli.usage("%d tokens: twice that is more than the %d that the model sees", n, model.default_session.n_ctx)
end

-- Ids of the text given or of random ordinary tokens, twice over, behind what every text begins with.
local function twice()
  local once, ids = given or {}, { table.unpack(prefix) }
  while #once < n do
    local id = math.random(0, config.d_vocab - 1)
    if not model.tokenizer or model.tokenizer:attr(id) == "normal" then once[#once + 1] = id end
  end
  table.move(once, 1, n, #ids + 1, ids)
  table.move(once, 1, n, #ids + 1, ids)
  return pl.tensor(ids, { dtype = "int32" })
end

local texts = {}
for i = 1, args.samples do texts[i] = twice() end
local first = #prefix -- the position of the first random token

-- Mean loss of the first tokens and of the same ones again, which is half the point.
local function losses()
  local before, again = 0, 0
  for _, ids in ipairs(texts) do
    local logits = model:forward(ids)
    local function loss(from, count)
      return logits:narrow(0, from - 1, count):cross_entropy(ids:narrow(0, from, count)) / #texts
    end
    before = before + loss(first + 1, n - 1)
    again = again + loss(first + n + 1, n - 1)
  end
  return before, again
end

-- How much each head looks at the token behind the earlier one: the mean of a diagonal of its pattern.
local looks = {}
for layer = 1, config.n_layers do
  looks[layer] = {}
  for head = 1, config.n_heads do looks[layer][head] = 0 end
end
for _, ids in ipairs(texts) do
  local _, cache = model:run_with_cache(ids, "pattern")
  for layer = 0, config.n_layers - 1 do
    local pattern = cache[("blocks.%d.attn.hook_pattern"):format(layer)]
    for query = first + n, first + 2 * n - 1 do
      local weights = pattern:select(1, query):select(1, query - n + 1)
      for head, weight in weights:each() do
        looks[layer + 1][head + 1] = looks[layer + 1][head + 1] + weight / (n * #texts)
      end
    end
  end
end

local before, again = losses()
local effects, ranking = {}, {}
local show, finish = terminal.progress()
for layer = 0, config.n_layers - 1 do
  effects[layer + 1] = {}
  for head = 0, config.n_heads - 1 do
    local _ <close> = pl.edit.ablate(model, "z", { layer = layer, head = head })
    local _, without = losses()
    effects[layer + 1][head + 1] = without - again
    ranking[#ranking + 1] = { layer = layer, head = head, look = looks[layer + 1][head + 1], effect = without - again }
  end
  show((layer + 1) / config.n_layers, ("layer %d"):format(layer))
end
finish()
table.sort(ranking, function(a, b) return a.look > b.look end)

local what = given and "tokens of a text" or ("random tokens (seed %d, texts: %d)"):format(seed, #texts)
local summary = ("%d %s, twice: %.2f nats a token the first time, %.2f the second"):format(n, what, before, again)
print(summary)
print("\nHow much each head looks behind the earlier token, of 1, and what silencing it adds to the loss:\n")
heatmap.print_tiles {
  { title = "looks", values = looks, rows = "layer", columns = "head", format = "%.2f", low = 0, high = 1 },
  { title = "adds, in nats", values = effects, rows = "layer", columns = "head", format = "%+.2f", diverging = true },
}
local even = 0 -- what a head would spend there that looked at all tokens alike
for query = first + n, first + 2 * n - 1 do even = even + 1 / (query + 1) / n end
print(("A head that looked at all tokens alike would look %.3f there.%s"):format(even, ranking[1].look < 5 * even
  and " None looks five times as much:\nthis model has no induction heads for such a text." or ""))
if args.top > 0 then print("They look there most:") end
for i = 1, math.min(args.top, #ranking) do
  local head = ranking[i]
  print(("  layer %-2d head %-2d looks %.2f, adds %+.3f"):format(head.layer, head.head, head.look, head.effect))
end

if args.html then
  local page = require("perilune.page").new("Induction heads", summary)
  page:heat { views = {
    { name = "looks behind the earlier token", values = looks, format = "%.2f", low = 0, high = 1 },
    { name = "silencing adds, in nats", values = effects, format = "%.2f", diverging = true },
  }, rows = "layer", columns = "head" }
  cli.write_page(args, page)
end
