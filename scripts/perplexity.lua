-- How well a model predicts a text file: perplexity and bits per byte.
--
-- The text is cut into windows of --window tokens that do not overlap; in each, every token but the
-- first is predicted from those before it in the window. The text's first token is never predicted.
-- A smaller --stride moves the window by that many tokens and counts only the new ones, so that each
-- is predicted from more context; it takes longer.
--
--   perilune perplexity book.txt
--   perilune perplexity --window 256 --stride 64 book.txt

local pl = require "perilune"
local cli = require "perilune.cli"
local terminal = require "perilune.terminal"

local parser = cli.parser("perplexity", "How well a model predicts a text file.")
parser:argument("file", "The text file, or - for standard input")
parser:option("--window", "Tokens seen at once (default: all that the model can)"):convert(cli.whole(2))
parser:option("--stride", "Tokens that the window moves by (default: the window)"):convert(cli.whole(1))

local args = cli.parse(parser)
local model = cli.load(args)
local text = cli.read_file(args.file)
local ids = model:encode(text, { add_special = false })
local n = #ids
local window = args.window or model.config.n_ctx
local stride = args.stride or window
if window > model.config.n_ctx then
  pl.fail("argument", "--window %d: the model sees %d tokens at most", window, model.config.n_ctx)
end
if stride > window then pl.fail("argument", "--stride %d: at most the window, %d", stride, window) end
if n < 2 then pl.fail("argument", "%s: %d tokens are too few to predict one", args.file, n) end

local show, finish = terminal.progress()
local nats, predicted, done, start = 0, 0, 0, 0
local chunk = 64 -- rows of logits held at once
local clock = pl.clock()
while done < n - 1 do
  local stop = math.min(start + window, n)
  local seq <close> = model:sequence()
  local from = start
  while from < stop do
    local to = math.min(from + chunk, stop)
    local counted = math.min(to, stop - 1)
    local first = math.max(from, done, start)
    local logits = seq:extend(ids:narrow(0, from, to - from), { logits = first < counted and "all" or "none" })
    if first < counted then
      local rows = logits:narrow(0, first - from, counted - first)
      local loss = rows:cross_entropy(ids:narrow(0, first + 1, counted - first), { reduction = "sum" })
      nats, predicted = nats + loss, predicted + counted - first
    end
    from = to
  end
  done = math.max(done, stop - 1)
  show(done / (n - 1), ("%.3f nats a token"):format(predicted > 0 and nats / predicted or 0))
  if stop == n then break end
  start = start + stride
  if stride == window then done = start end
end
finish()

local mean = nats / predicted
print(("%d tokens predicted, window %d, stride %d"):format(predicted, window, stride))
print(("%.4f nats a token"):format(mean))
print(("perplexity %.3f"):format(math.exp(mean)))
print(("%.4f bits a byte"):format(nats / math.log(2) / #text))
io.stderr:write(terminal.paint(("%.0f tokens/s\n"):format(predicted / (pl.clock() - clock)), "grey"))
