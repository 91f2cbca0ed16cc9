-- Instruction tuning: a model that continues texts becomes one that answers.
--
-- The data are JSON lines, {"prompt": ..., "answer": ...} or {"messages": [...]} with roles. Prompts
-- are written by the model's chat template where it has one, else as they are and a new line. The
-- model predicts every token, but only those of the answer, and the end of text after it, count in the
-- loss. The base model stays as it is; the tuned one goes to --out.
--
--   perilune finetune questions.jsonl --out tuned.gguf
--   perilune finetune -m base.gguf --steps 500 --lr 3e-5 --dtype q8_0 chats.jsonl --out chat.gguf

local pl = require "perilune"
local cli = require "perilune.cli"
local examples = require "perilune.examples"

local parser = cli.parser("finetune", "Instruction tuning: loss on the answers only.")
parser:argument("data", "JSON lines of prompts and answers")
parser:option("-o --out", "Where the tuned model goes: a .gguf file or a folder"):argname "PATH":count(1)
parser:option("--steps"):argname "N":convert(cli.whole(1)):default "200"
parser:option("--batch", "Examples of a step"):argname "N":convert(cli.whole(1)):default "8"
parser:option("--lr", "The highest learning rate"):argname "X":convert(cli.number(0)):default "0.0003"
parser:option("--warmup"):argname "N":convert(cli.whole(0)):default "10"
parser:option("--weight-decay"):argname "X":convert(cli.number(0)):default "0"
parser:option("--checkpoint", "A file to go on from when started again"):argname "FILE"
parser:option("--dtype", "The type of the tuned model's matrices"):argname "TYPE":default "f32"

local args = cli.parse(parser)
cli.refuse_adapters(args)
pl.check_saving(args.out, args.dtype)
local base = cli.load(args)
local list = examples.read(base, args.data)
local model = base:trainable({ threads = args.threads })
local seed = args.seed or 0

local measured = examples.spread(list, 128) -- a long list would be read for minutes

print(("%-26s %d%s"):format("examples", #list,
  #measured < #list and (", the loss is of %d of them"):format(#measured) or ""))
print(("%-26s %.4f nats per token"):format("answers' loss before", examples.mean_loss(model, measured)))
local run = pl.fit({
  optimizer = pl.optim.adamw(model:parameters(), { lr = args.lr, weight_decay = args.weight_decay, clip = 1 }),
  n_steps = args.steps, checkpoint = args.checkpoint, loss_limit = 2 * math.log(model.config.d_vocab),
  schedule = pl.optim.cosine({ lr = args.lr, min_lr = args.lr / 10, warmup = args.warmup, n_steps = args.steps }),
  loss = function(step) return examples.loss(model, examples.draw(list, args.batch, seed, step)) end,
})
print(("%-26s %.4f nats per token, after %d steps"):format("answers' loss after", examples.mean_loss(model, measured),
  run.step))
local first = list[1]
print(("%-26s %s"):format("the first prompt", first.prompt:gsub("\n", " ")))
print(("%-26s %s"):format("its answer", first.answer))
print(("%-26s %s"):format("the tuned model's", model:complete(first.prompt, { temp = 0, max_new_tokens = 60 }).text
  :gsub("\n", " ")))
model:save(args.out, { dtype = args.dtype })
