-- Trains a tokenizer on text: a byte-level BPE like GPT-2's, as a tokenizer.json.
--
-- The text is cut into words by an expression; then the two neighbours that are seen side by side most
-- often become one token, again and again, until there are as many tokens as asked for. Any bytes can
-- be said with any such tokenizer; text like what it was trained on takes the fewest tokens. Ids:
-- special tokens, the 256 bytes, then the merges. Special tokens that the text holds are cut out of it
-- first.
--
--   perilune train-tokenizer book.txt -o tokenizer.json --vocab-size 4096 --special "<|endoftext|>"
--   perilune train-tokenizer folder-of-texts -o model-folder --pattern llama3

local pl = require "perilune"
local cli = require "perilune.cli"
local terminal = require "perilune.terminal"

local parser = cli.parser("train-tokenizer", "Trains a byte-level BPE tokenizer on text.")
parser:argument("texts", "Text files, or folders: all .txt files in them"):args "+"
parser:option("-o --output", "The tokenizer.json to write, or a folder for it"):argname "PATH"
parser:option("--vocab-size", "How many entries (default: 32768)"):argname "N":convert(cli.whole(0))
parser:option("--pattern", "How words are cut: gpt2 (the default), gpt4, gpt4o, llama3, qwen2, or an expression")
  :argname "NAME"
parser:option("--special", "A special token, such as <|endoftext|>; may be given again"):argname "TEXT":count "*"
parser:option("--min-frequency", "A pair seen less often is not merged (default: 2)"):argname "N"
  :convert(cli.whole(1))

local args = cli.parse(parser)
if args.model then cli.usage("-m: a tokenizer is trained without a model") end
if not args.output then cli.usage("where to write is missing: -o tokenizer.json\n%s", parser:get_usage()) end

local size = args.vocab_size or 32768
local began = pl.clock()
local show, finish = terminal.progress()
local good, tok, about = pcall(pl.train_tokenizer, {
  files = args.texts,
  vocab_size = size,
  pattern = args.pattern,
  special = args.special,
  min_frequency = args.min_frequency,
  save = args.output,
  progress = show,
})
finish()
if not good then error(tok, 0) end
if tok.n_tokens < size then
  io.stderr:write(("warning: %s entries, not %s: no other pair is seen %d times\n"):format(
    terminal.thousands(tok.n_tokens), terminal.thousands(size), args.min_frequency or 2))
end
print(("%s: %s entries from %s (%s different words) in %s"):format(args.output, terminal.thousands(tok.n_tokens),
  terminal.bytes(about.n_bytes), terminal.thousands(about.n_words), terminal.duration(pl.clock() - began)))
