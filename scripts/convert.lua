-- Writes a model in another format: safetensors to GGUF and back.
--
-- An output that ends in .gguf becomes one file with the tokenizer inside; any other becomes a folder
-- as Hugging Face publishes them. Numbers stay as they are unless --dtype asks for another type.
--
--   perilune convert folder-from-the-hub model.gguf
--   perilune convert openai-community/gpt2 gpt2.gguf --dtype f16
--   perilune convert model.gguf folder

local cli = require "perilune.cli"
local terminal = require "perilune.terminal"

local parser = cli.parser("convert", "Writes a model in another format.")
parser:argument("input", "A file, a folder or a hub id; -m names it as well"):args "?"
parser:argument("output", "FILE.gguf, or a folder")
parser:option("--dtype", "Type of the matrices"):choices { "f32", "f16", "bf16" }

local args = cli.parse(parser)
if not (args.input or args.model) then cli.usage("the model to convert is missing\n%s", parser:get_usage()) end
args.model = args.input or args.model
local model = cli.load(args)
model:save(args.output, { format = args.output:find("%.gguf$") and "gguf" or "safetensors", dtype = args.dtype })
print(("%s: %s parameters, as %s"):format(args.output, terminal.thousands(model.n_params), args.dtype or "they were"))
