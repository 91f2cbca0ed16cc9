-- Low-rank adapters: a few small matrices are trained beside the model's own, which stay as they are.
--
-- LoRA (Hu et al. 2021, arXiv:2106.09685) adds to y = x W^T the term scale * alpha / rank * (x A^T)
-- B^T, with A [rank, n_in] and B [n_out, rank]. Only A and B learn, so the base may be quantised, and
-- many adapters can share it. They are written as PEFT lays them out, and any script wears them:
--
--   perilune lora
--   perilune lora sayings.txt --out adapter --rank 16 --targets all-linear
--   perilune lora -m model.gguf questions.jsonl --out adapter --steps 300
--   perilune generate -m model.gguf --adapter adapter:0.7 "Once upon a time"
--   perilune lora -m model.gguf --adapter adapter:0.7 --merge merged.gguf
--
-- Data are a text, of which every token is predicted, or JSON lines as of `perilune finetune`, of
-- which the answers are. Without any, a page of proverbs is learned. With --merge the adapters are put
-- into the matrices of a model of the usual kind.

local pl = require "perilune"
local cli = require "perilune.cli"
local examples = require "perilune.examples"
local terminal = require "perilune.terminal"

local proverbs = [[
He who laughs last laughs best. A stitch in time saves nine. The early bird catches the worm.
All that glitters is not gold. Do not count your chickens before they are hatched. Many hands make
light work. Too many cooks spoil the broth. A bird in the hand is worth two in the bush. When the cat
is away the mice will play. Still waters run deep. Empty vessels make the most noise. Make hay while
the sun shines. Out of sight, out of mind. The grass is always greener on the other side of the fence.
You cannot have your cake and eat it too. Let sleeping dogs lie. Birds of a feather flock together.
A rolling stone gathers no moss. Where there is a will there is a way. No smoke without fire. Better
late than never. Practice makes perfect. Look before you leap. Strike while the iron is hot. Every
cloud has a silver lining. Rome was not built in a day. Slow and steady wins the race. An apple a day
keeps the doctor away. The pen is mightier than the sword. Actions speak louder than words. Never look
a gift horse in the mouth. Half a loaf is better than no bread. It never rains but it pours.]]

local parser = cli.parser("lora", "Low-rank adapters: trained, written in PEFT's layout, merged.")
parser:argument("data", "A text, or .jsonl with prompts and answers (default: proverbs)"):args "?"
parser:option("-o --out", "A folder for the adapter"):argname "FOLDER"
parser:option("--merge", "Write the model with the adapters in its matrices: a .gguf file or a folder")
  :argname "PATH"
parser:option("--dtype", "The type of the merged model's matrices (default: what they have)"):argname "TYPE"
parser:option("--rank", "Rows of A, columns of B"):argname "N":convert(cli.whole(1)):default "8"
parser:option("--alpha", "What alpha / rank is made of (default: twice the rank)"):argname "X":convert(cli.number(0))
parser:option("--targets", "Which matrices, by the ends of their names, or all-linear"):argname "NAMES"
  :convert(cli.names)
parser:option("--steps"):argname "N":convert(cli.whole(1)):default "60"
parser:option("--batch", "Examples, or windows of the text, of a step"):argname "N":convert(cli.whole(1)):default "8"
parser:option("--length", "Tokens of a window"):argname "N":convert(cli.whole(2)):default "64"
parser:option("--lr", "The highest learning rate"):argname "X":convert(cli.number(0)):default "0.005"
parser:option("--warmup"):argname "N":convert(cli.whole(0)):default "5"
parser:option("--checkpoint", "A file to go on from when started again"):argname "FILE"

local args = cli.parse(parser)
local merges_only = args.merge and not args.data and not args.out
if merges_only and #args.adapter == 0 then cli.usage("--merge: which --adapter?") end
local model = cli.load(args)
local seed = args.seed or 0
if args.merge then pl.check_saving(args.merge, args.dtype) end

local function write_merged()
  model:merge(model.default_session:adapters()):save(args.merge, { dtype = args.dtype })
  print(("%-26s %s"):format("merged", args.merge))
end

if merges_only then
  write_merged()
  return
end

-- -- what is learned ----------------------------------------------------------------------------------

-- loss(step), the mean loss over all of it or over what of a long text or list takes seconds, and how
-- an answer is asked for.
local function of_examples(path)
  local list = examples.read(model, path)
  local measured = examples.spread(list, 128)
  return function(step) return examples.loss(model, examples.draw(list, args.batch, seed, step)) end,
    function() return examples.mean_loss(model, measured) end,
    list[1].prompt
end

local function of_text(text)
  local ids = model:encode(text)
  if #ids < 2 then pl.fail("argument", "%s: %d tokens: there is nothing to predict", args.data, #ids) end
  local data = pl.token_data(ids)
  local length = math.min(args.length, #ids - 1, model.config.n_ctx)
  return function(step)
      local inputs, targets = data:batch(args.batch, length, seed, step)
      return model:forward(inputs):view(-1, model.config.d_vocab):cross_entropy(targets:view(-1))
    end,
    function() return (data:loss(model, length, 128)) end,
    model:decode(ids:narrow(0, 0, math.min(4, length)))
end

local loss, mean_loss, prompt
if args.data and args.data:find("%.jsonl$") then
  loss, mean_loss, prompt = of_examples(args.data)
else
  loss, mean_loss, prompt = of_text(args.data and cli.read_file(args.data) or proverbs:gsub("\n", " "))
end

-- -- training -----------------------------------------------------------------------------------------

local adapter = model:new_adapter({ rank = args.rank, alpha = args.alpha, targets = args.targets, seed = seed })
model:set_adapter(adapter)
print(("%-26s %d of %d in %d matrices, %.2f %%"):format("parameters that learn", adapter.n_params, model.n_params,
  #adapter:matrices(), 100 * adapter.n_params / model.n_params))
local before = mean_loss()
local run = pl.fit({
  optimizer = pl.optim.adamw(adapter:parameters(), { lr = args.lr, weight_decay = 0, clip = 1 }),
  n_steps = args.steps, checkpoint = args.checkpoint, loss = loss, loss_limit = 2 * math.log(model.config.d_vocab),
  schedule = pl.optim.cosine({ lr = args.lr, min_lr = args.lr / 10, warmup = args.warmup, n_steps = args.steps }),
})
print(("%-26s %.4f nats per token, %.4f after %d steps"):format("loss", before, mean_loss(), run.step))

-- -- what has been learned ----------------------------------------------------------------------------

print(("\n%-8s %-10s %s"):format("scale", "loss", "what follows " .. terminal.visible(prompt)))
for _, scale in ipairs { 0, 0.5, 1 } do
  model:set_adapter(adapter, scale)
  local text = terminal.visible(model:complete(prompt, { temp = 0, max_new_tokens = 20 }).text)
  print((("%-8g %-10.4f %s"):format(scale, mean_loss(), terminal.fit(text, 78)):gsub("%s+$", "")))
end
if args.out then
  adapter:save(args.out)
  print(("\n%-26s %s"):format("adapter", args.out))
end
if args.merge then write_merged() end
