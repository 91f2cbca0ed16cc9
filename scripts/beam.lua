-- Beam search as a tree: all beginnings that were kept for a while, and what came of them.
--
-- A step goes on with every beam and keeps the likeliest of all continuations. Each token is shown
-- with the probability that the model gives it; branches end where others were likelier. The text that
-- won is marked, and greedy search, which keeps one beginning only, stands beside it.
--
--   perilune beam "Once upon a"
--   perilune beam --beams 6 -n 8 --length-penalty 0.5 "The king"
--   perilune beam --beams 6 --groups 3 --diversity 1 "The king"

local pl = require "perilune"
local cli = require "perilune.cli"
local terminal = require "perilune.terminal"

local parser = cli.parser("beam", "Beam search, drawn as a tree.")
parser:argument("prompt", "The text to continue (default: standard input)"):args "*"
parser:option("-n --max-new-tokens", "Tokens to make at most"):argname "N":default "8":convert(cli.whole(1))
parser:option("-b --beams", "Beginnings that are kept (num_beams)"):argname "N":default "4":convert(cli.whole(1))
parser:option("--length-penalty", "Scores are divided by length to this power"):argname "P":default "1"
  :convert(cli.number(-10, 10))
parser:option("--groups", "Groups that keep apart (num_beam_groups)"):argname "N":default "1":convert(cli.whole(1))
parser:option("--diversity", "What a token costs that another group took"):argname "P":default "0"
  :convert(cli.number(0))

local args = cli.parse(parser)
if args.beams % args.groups ~= 0 then cli.usage("--groups %d: --beams %d is no multiple", args.groups, args.beams) end
local prompt = cli.text(args.prompt)
local model = cli.load(args)

-- -- the search ----------------------------------------------------------------------------------

local root = { children = {} }
local nodes = {} -- a beam's node in the tree

local function child_with(node, id)
  for _, child in ipairs(node.children) do
    if child.id == id then return child end
  end
end

-- Adds a step's beams; the first step's all come from the prompt, and groups may share theirs.
local function grow(_, step)
  for _, beam in ipairs(step.beams) do
    local parent, id = nodes[beam.parent] or root, beam.ids[#beam.ids]
    nodes[beam] = child_with(parent, id)
    if not nodes[beam] then
      nodes[beam] = { id = id, children = {}, logprob = beam.score - beam.parent.score }
      parent.children[#parent.children + 1] = nodes[beam]
    end
  end
end

local options = { num_beams = args.beams, num_return_sequences = args.beams, max_new_tokens = args.max_new_tokens,
  length_penalty = args.length_penalty, num_beam_groups = args.groups, diversity_penalty = args.diversity,
  on_step = grow }
local found = pl.strategies.beam_search(model, prompt, options)
local greedy = pl.strategies.beam_search(model, prompt, { num_beams = 1, max_new_tokens = args.max_new_tokens,
  length_penalty = args.length_penalty })

-- -- the tree ------------------------------------------------------------------------------------

local function mark(ids, key)
  local node = root
  for _, id in ipairs(ids) do
    node = child_with(node, id)
    if not node then return end
    node[key] = true
  end
end

for _, one in ipairs(found.sequences) do mark(one.ids, "alive") end
mark(found.ids, "best")
mark(greedy.ids, "greedy")

local lines = terminal.ascii and { "|-", "`-", "| ", "  " } or { "├─", "└─", "│ ", "  " }

local function label(node)
  local piece = terminal.piece(model:to_str_tokens({ node.id })[1])
  local text = ("%s %.0f%%"):format(piece, 100 * math.exp(math.min(0, node.logprob)))
  return terminal.paint(text, node.best and "orange" or node.alive and "blue" or "grey")
end

-- A node and, while each has one child, those after it on one line; then its branches.
local function draw(node, indent, branch, rest)
  local parts = { label(node) }
  while #node.children == 1 do
    node = node.children[1]
    parts[#parts + 1] = label(node)
  end
  local ending = node.best and #node.children == 0 and terminal.paint(" *", "orange")
    or node.greedy and #node.children == 0 and terminal.paint(" (greedy)", "green") or ""
  print(indent .. branch .. " " .. table.concat(parts, " ") .. ending)
  for i, child in ipairs(node.children) do
    local last = i == #node.children
    draw(child, indent .. rest .. " ", last and lines[2] or lines[1], last and lines[4] or lines[3])
  end
end

print(terminal.paint(terminal.visible(prompt), "bold") .. " ...\n")
for i, child in ipairs(root.children) do
  local last = i == #root.children
  draw(child, "", last and lines[2] or lines[1], last and lines[4] or lines[3])
end

-- -- the texts -----------------------------------------------------------------------------------

print("\n  score  probability  text")
local function row(one, name)
  print(("%7.3f  %11.3g  %s%s"):format(one.score, math.exp(one.sum_logprobs), terminal.visible(one.text),
    terminal.paint(name, "grey")))
end
for i, one in ipairs(found.sequences) do row(one, i == 1 and "  *" or "") end
row(greedy.sequences[1], "  (greedy search)")
