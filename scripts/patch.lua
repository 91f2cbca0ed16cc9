-- Where the difference between two prompts is carried: activation patching.
--
-- Two prompts of equal length lead to different answers. The corrupted one runs again and again, each
-- time with one activation put in that the clean one had at the same place; the number says how much
-- of the way from the corrupted to the clean answer that goes: 0 nothing, 1 all of it. By layer and
-- token for the residual stream, attention and MLP, by layer and head for the heads at all tokens.
--
--   perilune patch
--   perilune patch --answer " she" --wrong " he" "The girl said that" "The boy said that"
--   perilune patch --html patch.html

local pl = require "perilune"
local cli = require "perilune.cli"
local heatmap = require "perilune.heatmap"
local terminal = require "perilune.terminal"

local parser = cli.parser("patch", "Where the difference between two prompts is carried.")
parser:argument("clean", "A prompt (default: one of ours)"):args "?"
parser:argument("corrupted", "One of as many tokens that leads elsewhere"):args "?"
parser:option("--answer", "What should follow the clean prompt (default: what the model takes)"):argname "TOKEN"
parser:option("--wrong", "What should follow the corrupted one (likewise)"):argname "TOKEN"
cli.page_option(parser)

local args = cli.parse(parser)
if args.clean and not args.corrupted then cli.usage("two prompts are needed, or none") end
local model = cli.load(args)
local clean, clean_tokens = cli.prompt(model, { args.clean },
  "The little girl went home to her mother, and the little")
local corrupted, tokens = cli.prompt(model, { args.corrupted },
  "The little boy went home to his father, and the little")
if #clean ~= #corrupted then
  cli.usage("the prompts have %d and %d tokens; places can only be exchanged if there are as many: %s / %s", #clean,
    #corrupted, table.concat(clean_tokens, "|"), table.concat(tokens, "|"))
end
local differing, marked = {}, {} -- what the columns are called on the page, and in the terminal
for i, token in ipairs(clean_tokens) do
  local same = token == tokens[i]
  marked[i] = same and token or token .. "*"
  if not same then
    tokens[i] = token .. "/" .. tokens[i]
    differing[#differing + 1] = tokens[i]
  end
end
if #differing == 0 then cli.usage("the prompts are the same") end

local points = { "resid_pre", "attn_out", "mlp_out" }
local clean_logits, corrupted_logits = model:forward(clean), model:forward(corrupted)
local answer = args.answer and model:to_single_token(args.answer) or clean_logits[-1]:argmax()
local wrong = args.wrong and model:to_single_token(args.wrong) or corrupted_logits[-1]:argmax()
if answer == wrong then
  cli.usage("%s follows both prompts; name two tokens to tell apart with --answer and --wrong",
    terminal.piece(model:to_str_tokens({ answer })[1]))
end
local function difference(logits) return logits[answer] - logits[wrong] end
local best, worst = difference(clean_logits[-1]), difference(corrupted_logits[-1])
local function recovered(logits) return (difference(logits) - worst) / (best - worst) end

-- A row for each layer, in it a column for each position or head.
local function sweep(point, by)
  local show, finish = terminal.progress()
  local values = pl.patching.sweep(model, clean, corrupted, point, recovered, { by = { "layer", by },
    progress = function(share) show(share, point) end })
  finish()
  return values:to_table()
end

local function piece(id) return terminal.piece(model:to_str_tokens({ id })[1]) end
local summary = ("logit of %s less logit of %s: %+.2f after the clean prompt, %+.2f after the corrupted one"):format(
  piece(answer), piece(wrong), best, worst)
local names = { resid_pre = "residual stream before each block", attn_out = "what attention adds",
  mlp_out = "what the MLP adds" }

print("clean        " .. terminal.paint(terminal.visible(model:decode(clean)), "bold"))
print("corrupted    " .. terminal.paint(terminal.visible(model:decode(corrupted)), "bold"))
print("* differing  " .. table.concat(differing, " "))
print(summary .. "\n\nHow much of the way back one clean activation goes:")
local views = {}
for i, point in ipairs(points) do
  views[i] = { name = names[point], values = sweep(point, "pos"), format = "%.2f", diverging = true }
  print("\n" .. terminal.paint(names[point], "orange"))
  heatmap.print { values = views[i].values, rows = "layer", columns = marked, format = "%.2f", diverging = true }
end
local heads = sweep("z", "head")
print("\n" .. terminal.paint("single heads, at all tokens", "orange"))
heatmap.print { values = heads, rows = "layer", columns = "head", format = "%.2f", diverging = true }

if args.html then
  local page = require("perilune.page").new("Where the difference is carried", summary)
  page:lines("clean      " .. model:decode(clean) .. "\ncorrupted  " .. model:decode(corrupted))
  page:heat { views = views, rows = "layer", columns = tokens, column_name = "token" }
  page:heading "Single heads, at all tokens"
  page:heat { name = "recovered", values = heads, rows = "layer", columns = "head", format = "%.2f", diverging = true }
  cli.write_page(args, page)
end
