-- Speculation measured: how many guessed tokens the model keeps, and what that saves.
--
-- A small model, or what the text said before, guesses the next tokens; the model checks all of them
-- in one pass and keeps those that fit. The text stays what the model alone would have written (with
-- temp 0, token for token), and a pass gives more than one token. Kept tokens are shown in green.
-- (Leviathan et al. 2023, "Fast inference from transformers via speculative decoding"; Saxena 2023,
-- "Prompt lookup decoding".)
--
--   perilune speculative "Mary had a little lamb, little lamb, little"
--   perilune speculative -m large.gguf --draft small.gguf "Once upon a time"
--   perilune speculative --guesses 2,4,8 --temp 0.8 --seed 1 -n 200 "Once upon a time"

local pl = require "perilune"
local cli = require "perilune.cli"
local terminal = require "perilune.terminal"

local parser = cli.parser("speculative", "Speculative decoding and prompt lookup, measured.")
parser:argument("prompt", "The text to continue (default: standard input)"):args "*"
parser:option("-d --draft", "A small model of the same vocabulary (default: prompt lookup)"):argname "NAME"
parser:option("-n --max-new-tokens", "Tokens to make at most"):argname "N":default "128":convert(cli.whole(1))
parser:option("--temp", "Temperature; 0 takes the likeliest token"):argname "T":default "0":convert(cli.number(0))
parser:option("--guesses", "How many tokens to guess at a time"):argname "LIST":default "2,4,8"

local args = cli.parse(parser)
local sizes = {}
for word in args.guesses:gmatch("[^,]+") do
  local n = math.tointeger(tonumber(word))
  if not n or n < 1 then cli.usage("--guesses: '%s' is no whole number from 1", word) end
  sizes[#sizes + 1] = n
end
local prompt = cli.text(args.prompt)
local model = cli.load(args)
local draft = args.draft and pl.load(args.draft, { threads = args.threads })
local seed = args.seed or math.random(0) & 0xffffffff

local function timed(strategy, opts)
  opts.seed, opts.temp, opts.max_new_tokens = seed, args.temp, args.max_new_tokens
  local start = pl.clock()
  local result = strategy(model, prompt, opts)
  return result, pl.clock() - start
end

local function guess(n, on_step)
  if draft then
    return timed(pl.strategies.speculative, { assistant_model = draft, num_assistant_tokens = n, on_step = on_step })
  end
  return timed(pl.strategies.prompt_lookup, { prompt_lookup_num_tokens = n, on_step = on_step })
end

timed(pl.strategies.sample, {}) -- reads the weights
local plain, plain_seconds = timed(pl.strategies.sample, {})

io.write(terminal.paint(prompt, "bold"))
guess(sizes[#sizes], function(piece, step) io.write(step.accepted and terminal.paint(piece, "green") or piece) end)
print("\n")

print("guesses  passes  kept of guessed  tokens/pass      time  tokens/s  speed-up")
local function row(name, passes, kept, result, seconds)
  print(("%7s  %6d  %15s  %11.2f  %8s  %8.0f  %7.2fx"):format(name, passes, kept, result.n_new / passes,
    terminal.duration(seconds), result.n_new / seconds, plain_seconds / seconds * result.n_new / plain.n_new))
end
row("none", plain.n_new, "-", plain, plain_seconds)
for _, n in ipairs(sizes) do
  local result, seconds = guess(n)
  row(tostring(n), result.n_passes, ("%d of %d, %.0f %%"):format(result.n_accepted, result.n_drafted,
    100 * result.acceptance), result, seconds)
  if (args.temp == 0 or not draft) and result.text ~= plain.text then
    pl.fail("state", "with %d guesses the text differs from the model's own", n)
  end
end
if args.temp == 0 or not draft then print(terminal.paint("\nThe text is the model's own, token for token.", "grey")) end
