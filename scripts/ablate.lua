-- What each head is worth: the loss without it, less the loss with it.
--
-- One head after the other is silenced: its output is set to 0, or with --mean to its own mean over
-- the text, so that only what it says about single places is lost. Orange heads help to predict
-- this text, blue ones are in the way here. The same for the MLP of every block.
--
--   perilune ablate
--   perilune ablate --mean "Once upon a time there was a king who had three sons."
--   perilune ablate --html ablate.html - <story.txt

local pl = require "perilune"
local cli = require "perilune.cli"
local heatmap = require "perilune.heatmap"
local terminal = require "perilune.terminal"

local story = "Once upon a time there was a king who had a daughter, and the daughter of the king had a golden ball. "
  .. "One day the king said to his daughter, \"Where is your golden ball?\" And the daughter of the king said, "
  .. "\"It has fallen into the well.\""

local parser = cli.parser("ablate", "What each head is worth: the loss without it.")
parser:argument("text", "The text (default: one of ours; - reads standard input)"):args "*"
parser:flag("--mean", "Put the mean over the text in a head's place, not 0")
parser:option("-k --top", "How many heads to list"):argname "K":default "5":convert(cli.whole(0))
cli.page_option(parser)

local args = cli.parse(parser)
local model = cli.load(args)
local config = model.config
local ids, _, text = cli.prompt(model, args.text, story, 2)
local n = #ids

-- Nats a token under an edit, which ends with this.
local function loss(edit)
  local _ <close> = edit
  local logits = model:forward(ids)
  return logits:narrow(0, 0, n - 1):cross_entropy(ids:narrow(0, 1, n - 1))
end

-- What is put in the place of heads and MLPs.
local no_heads = args.mean and pl.edit.means(model, { ids }, "z") or 0
local no_mlp = args.mean and pl.edit.means(model, { ids }, "mlp_out") or 0

local whole = loss()
local heads, mlps, ranking = {}, {}, {}
local show, finish = terminal.progress()
for layer = 0, config.n_layers - 1 do
  heads[layer + 1] = {}
  for head = 0, config.n_heads - 1 do
    local effect = loss(pl.edit.ablate(model, "z", { layer = layer, head = head, to = no_heads })) - whole
    heads[layer + 1][head + 1] = effect
    ranking[#ranking + 1] = { layer = layer, head = head, effect = effect }
  end
  mlps[layer + 1] = { loss(pl.edit.ablate(model, "mlp_out", { layer = layer, to = no_mlp })) - whole }
  show((layer + 1) / config.n_layers, ("layer %d"):format(layer))
end
finish()
table.sort(ranking, function(a, b)
  if a.effect ~= b.effect then return a.effect > b.effect end
  return a.layer * config.n_heads + a.head < b.layer * config.n_heads + b.head
end)

print(("%d tokens, %.4f nats a token with everything in place"):format(n, whole))
print(("\nNats that are added when a head's output becomes %s:\n"):format(args.mean and "its mean" or "0"))
heatmap.print { values = heads, rows = "layer", columns = "head", format = "%+.3f", diverging = true }
print "\nThe same for the MLPs:\n"
heatmap.print { values = mlps, rows = "layer", columns = { "mlp" }, format = "%+.3f", diverging = true }
if args.top > 0 then print "\nMissed most:" end
for i = 1, math.min(args.top, #ranking) do
  local head = ranking[i]
  print(("  layer %-2d head %-2d %+.4f"):format(head.layer, head.head, head.effect))
end

if args.html then
  local page = require("perilune.page").new("What each head is worth",
    ("Nats a token that are added when a head's output becomes %s. Everything in place: %.4f."):format(
      args.mean and "its mean over the text" or "0", whole))
  page:lines(text)
  page:heat { name = "added loss", values = heads, rows = "layer", columns = "head", format = "%.3f", diverging = true }
  page:heading("MLPs")
  page:heat { name = "added loss", values = mlps, rows = "layer", columns = { "mlp" }, format = "%.3f",
    diverging = true }
  cli.write_page(args, page)
end
