-- Writes a model in another format: safetensors to GGUF and back.
--
-- An output that ends in .gguf becomes one file with the tokenizer inside; any other becomes a folder
-- as Hugging Face publishes them. Numbers stay as they are unless --dtype asks for another type.
--
--   perilune convert folder-from-the-hub model.gguf
--   perilune convert openai-community/gpt2 gpt2.gguf --dtype f16
--   perilune convert model.gguf folder

require "perilune"
local cli = require "perilune.cli"
local terminal = require "perilune.terminal"

local parser = cli.parser("convert", "Writes a model in another format.")
parser:argument("paths", "The model (a file, a folder, a hub id; or -m), and where to: FILE.gguf or a folder")
  :args "1-2"
parser:option("--dtype", "Type of the matrices"):choices { "f32", "f16", "bf16" }

local args = cli.parse(parser)
cli.refuse_adapters(args)
local output = table.remove(args.paths)
args.model = args.paths[1] or args.model
if not args.model then cli.usage("the model to convert is missing\n%s", parser:get_usage()) end
local model = cli.load(args)
model:save(output, { format = output:find("%.gguf$") and "gguf" or "safetensors", dtype = args.dtype })
print(("%s: %s parameters, as %s"):format(output, terminal.thousands(model.n_params), args.dtype or "they were"))
