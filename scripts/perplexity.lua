-- How well a model predicts a text file: perplexity and bits per byte.
--
-- The text is cut into windows of --window tokens, and in each window every token but the first is
-- predicted from those before it. Windows lie side by side unless --stride says how far the next one
-- begins after this one: then they overlap, only tokens that are new are counted, and each of those
-- is predicted from at least window - stride tokens, which is kinder to the model and takes longer.
-- Perplexity is exp of the mean loss in nats; bits per byte can be compared between vocabularies.
--
--   perilune perplexity book.txt
--   perilune perplexity --window 256 --stride 128 book.txt

local pl = require "perilune"
local cli = require "perilune.cli"
local terminal = require "perilune.terminal"

local ROWS = 64 -- logits of so many positions are held at once

local parser = cli.parser("perplexity", "How well a model predicts a text file.")
parser:argument("file", "The text file, or - for standard input")
parser:option("-w --window", "Tokens seen at once (default: all that the model can)"):argname "N"
  :convert(cli.whole(2))
parser:option("-s --stride", "Tokens from one window to the next (default: window)"):argname "N"
  :convert(cli.whole(1))

local args = cli.parse(parser)
local text = cli.read_file(args.file)
local model = cli.load(args)
local most = model.config.n_ctx
local window = args.window or most
local stride = args.stride or window
if window > most then cli.usage("--window %d: the model sees %d tokens at most", window, most) end
if stride > window then cli.usage("--stride %d: at most the window, %d", stride, window) end

local ids = model:encode(text, { add_special = false })
local n = #ids
if n < 2 then pl.fail("argument", "%s: a text of %d tokens has none to predict", args.file, n) end

local nats, n_predicted, n_bytes = 0, 0, #text
local show, finish = terminal.progress()

-- Predicts tokens first to stop - 1 from the window that begins at `start`, a few rows at a time.
local function run_window(start, first, stop)
  local seq <close> = model:sequence()
  for from = start, stop - 2, ROWS do
    local to = math.min(from + ROWS, stop - 1) -- the row of token i predicts token i + 1
    local skipped = math.max(from, first - 1)
    local wanted = skipped < to
    local logits = seq:extend(ids:narrow(0, from, to - from), { logits = wanted and "all" or "none" })
    if wanted then
      local rows = logits:narrow(0, skipped - from, to - skipped)
      nats = nats + rows:cross_entropy(ids:narrow(0, skipped + 1, to - skipped), { reduction = "sum" })
      n_predicted = n_predicted + to - skipped
      show(to / (n - 1), ("%.3f nats a token"):format(nats / n_predicted))
    end
  end
end

-- The bytes of a token that no window predicts are not counted.
local function leave_out(index)
  n_bytes = n_bytes - #model:to_str_tokens({ ids[index] })[1]
end

local began, start, done = pl.clock(), 0, 1 -- tokens before `done` are dealt with
leave_out(0)
while done < n do
  if start >= done then
    leave_out(start)
    done = start + 1
  end
  local stop = math.min(start + window, n)
  run_window(start, done, stop)
  done, start = stop, start + stride
end
finish()

print(("%-18s %d of %d, window %d, stride %d"):format("tokens predicted", n_predicted, n, window, stride))
print(("%-18s %.4f"):format("nats per token", nats / n_predicted))
print(("%-18s %.3f"):format("perplexity", math.exp(nats / n_predicted)))
print(("%-18s %.4f"):format("bits per byte", nats / math.log(2) / n_bytes))
io.stderr:write(terminal.paint(("%.0f tokens/s"):format(n_predicted / (pl.clock() - began)), "grey", 2), "\n")
