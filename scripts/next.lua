-- The distribution of the next token, as bars, at several temperatures.
--
-- Entropy says how uncertain the model is, in bits: 0 when one token is certain, and one more for
-- each doubling of the number of equally likely tokens that it is worth.
--
--   perilune next "Once upon a"
--   perilune next --temps 0.5,1,2 -k 12 "The king said to his"

require "perilune"
local cli = require "perilune.cli"
local terminal = require "perilune.terminal"

local parser = cli.parser("next", "The distribution of the next token.")
parser:argument("prompt", "The text before it (default: standard input)"):args "*"
parser:option("-k --top", "How many tokens to show"):argname "K":default "8":convert(cli.whole(1))
parser:option("--temps", "Temperatures, with commas between"):argname "LIST":default "0.5,1,1.5"

local args = cli.parse(parser)
local temps = {}
for word in args.temps:gmatch("[^,]+") do
  local temp = tonumber(word)
  if not temp or temp <= 0 then cli.usage("--temps: '%s' is no temperature above 0", word) end
  temps[#temps + 1] = temp
end

local prompt = cli.text(args.prompt)
local model = cli.load(args)
local logits = model:forward(prompt){ pos = -1 }

local function entropy_bits(p)
  local bits = 0
  for _, x in ipairs(p:to_table()) do
    if x > 0 then bits = bits - x * math.log(x, 2) end
  end
  return bits
end

local likeliest = model:topk(logits, math.min(args.top, model.config.d_vocab))
print(terminal.paint(terminal.visible(prompt), "bold") .. " ...")
for _, temp in ipairs(temps) do
  local p = (logits / temp):softmax()
  local values, bits = p:to_table(), entropy_bits(p)
  print(("\ntemperature %g  %s"):format(temp, terminal.paint(
    ("entropy %.2f bits, worth %.3g equal choices"):format(bits, 2 ^ bits), "grey")))
  for _, token in ipairs(likeliest) do
    local probability = values[token.id + 1] -- ids count from 0, Lua's tables from 1
    print(("  %s %5.1f %%  %s"):format(terminal.fit(terminal.piece(token.piece), 16), 100 * probability,
      terminal.paint(terminal.bar(probability, 44):gsub(" +$", ""), "blue")))
  end
end
