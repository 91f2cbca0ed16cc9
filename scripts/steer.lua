-- Pushes the model towards one text and away from another, harder and harder.
--
-- The direction is the residual stream after the first text less that after the second, at one layer.
-- Added to every token's stream there, times a strength, it changes what the model says: how the text
-- goes on, how likely some next tokens are, and how far the whole distribution has moved (in bits).
-- Strengths below 0 push the other way; too much of it and the text falls apart. Directions can be
-- exchanged with llama.cpp as control vectors, which may have one for each of several layers.
--
--   perilune steer
--   perilune steer " king" " wolf" --prompt "He went to the" --layer 3 --strengths 0,0.5,1,1.5
--   perilune steer " sea" " house" --html steer.html --save sea.gguf
--   perilune steer --vectors sea.gguf --prompt "The girl went to the"

local pl = require "perilune"
local cli = require "perilune.cli"
local heatmap = require "perilune.heatmap"
local terminal = require "perilune.terminal"

local parser = cli.parser("steer", "Pushes the model towards one text and away from another.")
parser:argument("towards", "A text to push towards (default: one of ours)"):args "?"
parser:argument("away", "A text to push away from"):args "?"
parser:option("-p --prompt", "The text that goes on"):argname "TEXT":default "He went to the"
parser:option("-l --layer", "After which block (default: in the middle)"):argname "L":convert(cli.integer)
parser:option("--strengths", "Numbers with commas between"):argname "LIST":default "-1,-0.5,0,0.5,1,1.5"
parser:option("--vectors", "A control vector (GGUF) in the place of two texts"):argname "FILE"
parser:option("--save", "Write the direction as a control vector (GGUF)"):argname "FILE"
parser:option("-n --max-new-tokens", "Tokens to make"):argname "N":default "16":convert(cli.whole(1))
parser:option("-k --top", "How many next tokens to follow"):argname "K":default "2":convert(cli.whole(1))
cli.page_option(parser)

local args = cli.parse(parser)
if args.towards and not args.away then cli.usage("two texts are needed, or none") end
local strengths = {}
for word in args.strengths:gmatch("[^,]+") do
  strengths[#strengths + 1] = tonumber(word) or cli.usage("--strengths: '%s' is no number", word)
end
if #strengths == 0 then cli.usage("--strengths: no number is given") end

local model = cli.load(args)
local layer = cli.index(args.layer or (model.config.n_layers - 1) // 2, model.config.n_layers, "--layer")
local prompt = cli.prompt(model, { args.prompt }, "")
if args.towards and args.vectors then cli.usage("--vectors takes the place of the two texts") end

local vectors, what
if args.vectors then
  vectors, what = pl.load_steering_vectors(args.vectors), terminal.visible(args.vectors)
else
  local towards, _, towards_text = cli.prompt(model, { args.towards }, " king")
  local away, _, away_text = cli.prompt(model, { args.away }, " wolf")
  vectors = pl.steering_vectors(model, { { towards, away } }, { layers = { layer } })
  what = ("(stream of %s less stream of %s)"):format(terminal.piece(towards_text), terminal.piece(away_text))
end
if args.save then vectors:save(args.save) end

local runs = {}
for i, strength in ipairs(strengths) do
  local _ <close> = pl.edit.steer(model, vectors, { scale = strength })
  runs[i] = { strength = strength, p = model:forward(prompt)[-1]:softmax(),
    text = model:complete(prompt, { max_new_tokens = args.max_new_tokens, temp = 0 }).text }
end
local unsteered = model:forward(prompt)[-1]:softmax()

-- The likeliest next tokens at every strength, each once, in the order of their first appearance.
local candidates, listed = {}, {}
for _, run in ipairs(runs) do
  for _, token in ipairs(model:topk(run.p, math.min(args.top, model.config.d_vocab))) do
    if not listed[token.id] then candidates[#candidates + 1] = token end
    listed[token.id] = true
  end
end

local labels, columns, values = {}, {}, {}
for k, token in ipairs(candidates) do columns[k] = terminal.piece(token.piece) end
for i, run in ipairs(runs) do
  labels[i] = ("%+g"):format(run.strength):gsub("^%+0$", "0")
  values[i] = {}
  for k, token in ipairs(candidates) do values[i][k] = run.p[token.id] end
  run.moved = run.p:kl_div(unsteered, { reduction = "sum" }) / math.log(2)
end

local layers = {}
for i, l in ipairs(vectors:layers()) do layers[i] = ("%d (norm %.1f)"):format(l, vectors[l]:norm()) end
local summary = ("strength times %s, after layer %s"):format(what, table.concat(layers, ", "))
print(summary .. "\n")
for i, run in ipairs(runs) do
  print(("%5s  moved %5.2f bits  %s"):format(labels[i], run.moved,
    terminal.paint(terminal.visible(args.prompt), "bold") .. terminal.visible(run.text)))
end
print("\nProbability of the next token, at each strength:\n")
heatmap.print { values = values, rows = labels, columns = columns, format = "%.3f", low = 0 }

if args.html then
  local page = require("perilune.page").new("Steered text", summary)
  local lines = {}
  for i, run in ipairs(runs) do
    lines[i] = ("%5s  moved %5.2f bits  %s"):format(labels[i], run.moved, terminal.visible(args.prompt .. run.text))
  end
  page:lines(table.concat(lines, "\n"))
  page:heat { name = "probability", values = values, rows = labels, columns = columns, format = "%.3f", low = 0,
    row_name = "strength", column_name = "next token" }
  cli.write_page(args, page)
end
