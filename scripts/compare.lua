-- How far one model's predictions are from another's: a quantised file against the one it was made of.
--
-- For every token of a text, predicted from those before it in its window: the perplexity of both
-- models; the mean Kullback-Leibler divergence of B's distribution from A's, in nats; how often both
-- find the same token most likely; and the mean change of the probability of the right token.
--
--   perilune compare gpt2-f32.gguf gpt2-q4_k.gguf book.txt
--   perilune compare --window 128 a.gguf b.gguf book.txt

local pl = require "perilune"
local cli = require "perilune.cli"
local terminal = require "perilune.terminal"

local ROWS = 64 -- logits of so many positions are held at once

local parser = cli.parser("compare", "How far one model's predictions are from another's.")
parser:argument("a", "The model to hold the other against")
parser:argument("b", "The other model")
parser:argument("file", "The text file, or - for standard input")
parser:option("-w --window", "Tokens seen at once (default: all that both can, at most 512)"):argname "N"
  :convert(cli.whole(2))

local args = cli.parse(parser)
if args.model then cli.usage("-m: the two models are arguments") end
local text = cli.read_file(args.file)
local models = {}
for i, name in ipairs({ args.a, args.b }) do models[i] = pl.load(name, { threads = args.threads }) end
local a, b = models[1], models[2]
if a.config.d_vocab ~= b.config.d_vocab then
  pl.fail("argument", "%s has %d tokens and %s has %d: their distributions cannot be compared",
    args.a, a.config.d_vocab, args.b, b.config.d_vocab)
end
local ids = a:encode(text, { add_special = false })
local others = b:encode(text, { add_special = false })
if #others ~= #ids or ids:eq(others):all() == 0 then
  pl.fail("argument", "%s and %s cut the text into different tokens", args.a, args.b)
end
local n, most = #ids, math.min(a.config.n_ctx, b.config.n_ctx)
local window = args.window or math.min(most, 512)
if window > most then cli.usage("--window %d: the models see %d tokens at most", window, most) end
if n < 2 then pl.fail("argument", "%s: a text of %d tokens has none to predict", args.file, n) end

local sums = { a = 0, b = 0, kl = 0, same = 0, change = 0 }
local count = 0
local show, finish = terminal.progress()

for start = 0, n - 2, window do
  local stop = math.min(start + window, n)
  local seq_a <close> = a:sequence()
  local seq_b <close> = b:sequence()
  for from = start, stop - 2, ROWS do
    local rows = math.min(ROWS, stop - 1 - from)
    local tokens, right = ids:narrow(0, from, rows), ids:narrow(0, from + 1, rows)
    local log_a = seq_a:extend(tokens, { logits = "all" }):log_softmax()
    local log_b = seq_b:extend(tokens, { logits = "all" }):log_softmax()
    local index = right:view(rows, 1)
    local right_a, right_b = log_a:gather(1, index), log_b:gather(1, index)
    sums.a = sums.a - right_a:sum()
    sums.b = sums.b - right_b:sum()
    sums.kl = sums.kl + (log_a:exp() * (log_a - log_b)):sum()
    sums.same = sums.same + log_a:argmax(1):eq(log_b:argmax(1)):sum()
    sums.change = sums.change + (right_b:exp() - right_a:exp()):sum()
    count = count + rows
    show((from + rows) / (n - 1), ("%.4f nats apart"):format(sums.kl / count))
  end
end
finish()

local function line(name, format, value) print(("%-28s " .. format):format(name, value)) end
line("tokens predicted", "%d", count)
line("perplexity of A", "%.4f", math.exp(sums.a / count))
line("perplexity of B", "%.4f", math.exp(sums.b / count))
line("mean KL divergence, nats", "%.6f", sums.kl / count)
line("same most likely token", "%.2f %%", 100 * sums.same / count)
line("right token's probability", "%+.4f %% on average", 100 * sums.change / count)
