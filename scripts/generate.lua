-- Continues a prompt, token by token.
--
-- The text appears as it is made. With --step every token is shown being made: what the model thinks
-- likely, what was chosen, how the text grows. --temp 1 draws tokens from the model's own
-- distribution; below 1 makes likely ones likelier still, and --temp 0 always takes the first.
--
--   perilune generate "Once upon a time"
--   perilune generate --temp 0.8 --top-p 0.95 --seed 7 -n 200 "The king said"
--   perilune generate --sampler penalties:penalty_repeat=1.2 --sampler top_a:top_a=0.2 "Once upon a"
--   perilune generate --step -n 5 "Once upon a"
--   echo "Once upon a time" | perilune generate

local pl = require "perilune"
local cli = require "perilune.cli"
local terminal = require "perilune.terminal"

local parser = cli.parser("generate", "Continues a prompt, token by token.")
parser:argument("prompt", "The text to continue (default: standard input)"):args "*"
parser:option("-n --max-new-tokens", "Tokens to make at most"):argname "N":default "128":convert(cli.whole(0))
parser:option("--temp", "Temperature; 0 takes the likeliest token"):argname "T":default "0.8"
  :convert(cli.number(0))
parser:option("--top-k", "Keep the k likeliest tokens"):argname "K":convert(cli.whole(0))
parser:option("--top-p", "Keep the likeliest tokens that make up P"):argname "P":convert(cli.number(0, 1))
parser:option("--min-p", "Keep tokens P times as likely as the likeliest"):argname "P"
  :convert(cli.number(0, 1))
parser:option("--sampler", "A sampler by name, NAME or NAME:PARAM=NUMBER,... (may be repeated; `perilune "
  .. "plugins` lists more)"):argname "NAME":count "*":convert(cli.sampler)
parser:option("--stop", "Stop before this text (may be repeated)"):argname "TEXT":count "*"
parser:flag("--step", "Show how each token is chosen")
parser:flag("-q --quiet", "No report at the end")

local args = cli.parse(parser)
local prompt = cli.text(args.prompt)
local model = cli.load(args)

-- The likeliest tokens as bars, the chosen one marked.
local function show_step(step, text)
  local p, listed = step.logits:softmax(), false
  print(terminal.paint(("position %d, entropy %.2f bits; drawn at temperature %g"):format(step.pos,
    step.entropy / math.log(2), args.temp), "grey"))
  local function show(piece, probability, chosen)
    local line = ("%s %s  %5.1f %%  %s"):format(chosen and ">" or " ", terminal.fit(terminal.piece(piece), 16),
      100 * probability, terminal.bar(probability, 40):gsub(" +$", ""))
    print(chosen and terminal.paint(line, "orange") or line)
  end
  for _, token in ipairs(model:topk(p, math.min(8, model.config.d_vocab))) do
    show(token.piece, token.value, token.id == step.id)
    listed = listed or token.id == step.id
  end
  if not listed then show(model:to_str_tokens({ step.id })[1], step.prob, true) end
  print("\n" .. text .. "\n")
end

local generator = model:generate(prompt, { max_new_tokens = args.max_new_tokens, temp = args.temp,
  top_k = args.top_k, top_p = args.top_p, min_p = args.min_p, seed = args.seed, stop = args.stop,
  sampler = #args.sampler > 0 and args.sampler or nil,
  logits = args.step })
local start, first, last = pl.clock(), nil, nil
local text = ""
if not args.step then io.write(terminal.paint(prompt, "bold")) io.flush() end
for piece, step in generator do
  last = pl.clock()
  first = first or last
  text = text .. piece
  if args.step then
    show_step(step, terminal.paint(prompt, "bold") .. text)
  else
    io.write(piece)
    io.flush()
  end
end
if not args.step then print() end

local n = #generator.ids
if not args.quiet and n > 0 then
  local speed = n > 1 and (", %.0f tokens/s after the first"):format((n - 1) / (last - first)) or ""
  local report = ("%d tokens (%s)%s, which took %s; seed %d"):format(n, generator.finish_reason, speed,
    terminal.duration(first - start), generator.seed)
  io.stderr:write(terminal.paint(report, "grey", 2), "\n")
end
