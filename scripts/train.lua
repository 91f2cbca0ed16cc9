-- Trains a language model from text: the self-supervised step, in which the next token is the answer.
--
-- Texts are cut into tokens by --tokenizer, or by one trained on them (--vocab-size entries; 257 is
-- every byte by itself, and the mark between texts). Windows of --ctx tokens at random places make
-- the batches; every token of a window but the first is predicted from those before it. The weights
-- begin at random, as GPT-2's.
--
-- The folder --out gets tokenizer.json, checkpoint.safetensors (written whole or not at all, and gone
-- on from when the program is started again), loss.svg and, in the end, model.gguf. A loss of twice
-- what guessing costs, or one that is no number, ends the training; the last checkpoint stays.
--
--   perilune train book.txt --out small
--   perilune train shakespeare.txt --out char --vocab-size 257 --layers 4 --heads 4 --width 128 \
--     --ctx 64 --batch 12 --steps 2000 --lr 0.002

local pl = require "perilune"
local cli = require "perilune.cli"

local parser = cli.parser("train", "Trains a language model from text.")
parser:argument("text", "Text files, or folders of .txt files"):args "+"
parser:option("-o --out", "The folder for what comes of it"):argname "DIR":count(1)
parser:option("--valid", "Text to measure on (default: the last tenth of the texts)"):argname "FILE"
parser:option("--tokenizer", "A tokenizer.json or its folder (default: trained on the texts)"):argname "PATH"
parser:option("--vocab-size", "Entries of a tokenizer trained here"):argname "N":convert(cli.whole(257)):default "4096"
parser:option("--arch", "The family: gpt2, llama, ..."):argname "NAME":default "gpt2"
parser:option("--layers"):argname "N":convert(cli.whole(1)):default "6"
parser:option("--heads"):argname "N":convert(cli.whole(1)):default "6"
parser:option("--width", "d_model"):argname "N":convert(cli.whole(1)):default "192"
parser:option("--ctx", "Tokens of a window"):argname "N":convert(cli.whole(2)):default "256"
parser:option("--batch", "Windows of a step"):argname "N":convert(cli.whole(1)):default "16"
parser:option("--steps"):argname "N":convert(cli.whole(1)):default "2000"
parser:option("--lr", "The highest learning rate"):argname "X":convert(cli.number(0)):default "0.001"
parser:option("--warmup", "Steps of rising learning rate"):argname "N":convert(cli.whole(0)):default "100"
parser:option("--weight-decay"):argname "X":convert(cli.number(0)):default "0.1"
parser:option("--beta2", "AdamW's memory of squared gradients"):argname "X":convert(cli.number(0, 1)):default "0.99"
parser:option("--every", "Steps between measurements"):argname "N":convert(cli.whole(1)):default "250"
parser:option("--dtype", "The type of the weights in model.gguf"):argname "TYPE":default "f32"
parser:option("--name", "What the model is called in it (default: its family)"):argname "NAME"

local args = cli.parse(parser)
local seed = args.seed or 0
pl.make_folder(args.out)
local out = args.out:gsub("/+$", "") .. "/"
pl.check_saving(out .. "model.gguf", args.dtype)

local function say(format, ...) io.stderr:write(format:format(...), "\n") end

local function is_there(path)
  local file = io.open(path)
  return file ~= nil and file:close()
end

-- A training that goes on keeps its tokenizer; one that begins makes its own.
local checkpoint = out .. "checkpoint.safetensors"
local goes_on = is_there(checkpoint)

local function tokenizer()
  local path = args.tokenizer or out .. "tokenizer.json"
  local tok = (args.tokenizer or goes_on) and pl.load_tokenizer(path) or pl.train_tokenizer({ files = args.text,
    vocab_size = args.vocab_size, special = { "<|endoftext|>" }, save = path })
  say("tokenizer          %d entries, %s", tok.n_tokens, path)
  return tok, path
end

local function read_all(paths)
  local parts = {}
  for i, path in ipairs(pl.text_files(paths)) do parts[i] = cli.read_file(path) end
  return table.concat(parts, "\n")
end

if goes_on then
  local step = pl.load_tensors(checkpoint)["run.step"][0]
  say("goes on from       step %d, %s (remove it to begin anew)", step, checkpoint)
end
local tok, path = tokenizer()
local function encode(text) return tok:encode(text, { add_special = false, parse_special = true }) end
local ids = encode(read_all(args.text))
local valid_text = args.valid and cli.read_file(args.valid)
local n_train = #ids
local valid = valid_text and encode(valid_text)
if not valid then
  n_train = #ids * 9 // 10
  valid = ids:narrow(0, n_train, #ids - n_train)
  valid_text = tok:decode(valid)
end
if n_train <= args.ctx then
  pl.fail("argument", "%s: %d tokens, %d of them to train on: a window of --ctx %d and the token after it do not fit",
    table.concat(args.text, ", "), #ids, n_train, args.ctx)
end
if #valid < 2 then
  pl.fail("argument", "%s: %d tokens to measure on: there is nothing to predict", args.valid or "the texts' last tenth",
    #valid)
end
local train_data, valid_data = pl.token_data(ids:narrow(0, 0, n_train)), pl.token_data(valid)

local model = pl.new_model({ arch = args.arch, n_layers = args.layers, n_heads = args.heads, d_model = args.width,
  d_mlp = args.arch == "gpt2" and 4 * args.width or nil, n_ctx = args.ctx, tokenizer = path, tied = true }):trainable({
  threads = args.threads })
if not model.config.causal then
  pl.fail("argument", "--arch %s: a model that sees the next token has nothing to learn from it", args.arch)
end
pl.init_weights(model, { seed = seed })
say("parameters         %d", model.n_params)
say("tokens             %d to train on, %d held out", n_train, #valid)

local per_byte = #valid / #valid_text / math.log(2) -- nats per token -> bits per byte
local optimizer = pl.optim.adamw(model:parameters(), { lr = args.lr, beta2 = args.beta2, clip = 1,
  weight_decay = args.weight_decay })

local run = pl.fit({
  optimizer = optimizer, n_steps = args.steps,
  schedule = pl.optim.cosine({ lr = args.lr, min_lr = args.lr / 10, warmup = args.warmup, n_steps = args.steps }),
  loss = function(step)
    local x, y = train_data:batch(args.batch, args.ctx, seed, step)
    return model:forward(x):cross_entropy(y)
  end,
  evaluate = function() return (valid_data:loss(model, args.ctx)) end, evaluate_every = args.every,
  report = function(run)
    local loss = run.valid_losses[#run.valid_losses]
    print(("step %6d   training %.4f   held out %.4f nats per token, %.4f bits per byte"):format(run.step,
      run.losses[run.step], loss, loss * per_byte))
    io.stdout:flush()
  end,
  checkpoint = checkpoint, curve = out .. "loss.svg", tokens_per_step = args.batch * args.ctx,
  loss_limit = 2 * math.log(tok.n_tokens),
})
model:save(out .. "model.gguf", { dtype = args.dtype, name = args.name })
say("%d steps in %.0f s; the model is %smodel.gguf", run.step - (run.resumed_at or 0), run.seconds, out)
