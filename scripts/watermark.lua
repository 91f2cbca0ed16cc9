-- Marks a text with a watermark, or looks for one.
--
-- The token before seeds a choice of green tokens, a quarter of the vocabulary, which are made
-- likelier. A reader sees nothing; who knows the key counts green tokens, a quarter without a
-- watermark and far more with it. The z-score says by how many standard deviations, p how often chance
-- does as much. (Kirchenbauer et al. 2023, "A watermark for large language models".)
--
--   perilune watermark --seed 1 "Once upon a time"
--   perilune watermark --bias 4 --key 1234 -n 100 "The king said"
--   perilune watermark --detect < text.txt

local pl = require "perilune"
local cli = require "perilune.cli"
local terminal = require "perilune.terminal"

local parser = cli.parser("watermark", "Marks a text with a watermark, or looks for one.")
parser:argument("prompt", "The text to continue, or to look at (default: standard input)"):args "*"
parser:option("-n --max-new-tokens", "Tokens to make at most"):argname "N":default "80":convert(cli.whole(1))
parser:option("--temp", "Temperature"):argname "T":default "1":convert(cli.number(0))
parser:option("--bias", "What is added to green logits (delta)"):argname "D":default "2":convert(cli.number(0))
parser:option("--ratio", "Share of green tokens (gamma)"):argname "G":default "0.25":convert(cli.number(0.01, 0.99))
parser:option("--key", "What only the detector's owner knows"):argname "N":default "15485863":convert(cli.whole(0))
parser:option("--width", "How many tokens before seed the choice"):argname "N":default "1":convert(cli.whole(1))
parser:flag("--detect", "Look for a watermark in the text")

local args = cli.parse(parser)
local text = cli.text(args.prompt)
local model = cli.load(args)
local watermark = pl.strategies.watermark

local function detect(what)
  return watermark.detect(model, what, { hashing_key = args.key, greenlist_ratio = args.ratio,
    context_width = args.width })
end

-- The tokens, green ones green; where there is no colour they stand in brackets.
local function show(found)
  local parts = {}
  for i, piece in ipairs(model:to_str_tokens(found.ids)) do
    local bracketed = not terminal.coloured and found.green[i] and ("[" .. piece .. "]") or piece
    parts[i] = terminal.paint(bracketed, found.green[i] == nil and "grey" or found.green[i] and "green" or "red")
  end
  print(table.concat(parts))
end

local function report(found)
  print(("%d of %d tokens are green, %.1f %% (%.1f %% without a watermark)"):format(found.n_green, found.n_scored,
    100 * found.green_fraction, 100 * args.ratio))
  print(("z = %.2f, p = %.2g: %s"):format(found.z, found.p_value, found.prediction
    and terminal.paint("there is a watermark", "green") or "no watermark is found"))
end

if args.detect then
  local found = detect(text)
  show(found)
  print()
  report(found)
  return
end

local options = { seed = args.seed or math.random(0) & 0xffffffff, max_new_tokens = args.max_new_tokens,
  temp = args.temp }
local plain = model:complete(text, options)
options.bias, options.hashing_key, options.greenlist_ratio, options.context_width = args.bias, args.key, args.ratio,
  args.width
local marked = watermark(model, text, options)

for _, one in ipairs({ { "without a watermark", plain }, { "with one", marked } }) do
  print(terminal.paint(one[1], "bold"))
  local found = detect(one[2].ids)
  show(found)
  print()
  report(found)
  print()
end
print(terminal.paint(("seed %d"):format(options.seed), "grey"))
