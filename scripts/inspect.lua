-- What a model holds: its sizes, its matrices with their parameters, the memory that it takes.
--
-- Shapes are [rows, columns] as the file stores them. Blocks are alike, so one is listed; --all lists
-- every one. Keys and values are what a sequence remembers of each position.
--
--   perilune inspect
--   perilune inspect -m openai-community/gpt2 --all

require "perilune"
local cli = require "perilune.cli"
local terminal = require "perilune.terminal"

local parser = cli.parser("inspect", "What a model holds: sizes, matrices, memory.")
parser:flag("-a --all", "List the matrices of every block")

local args = cli.parse(parser)
local model = cli.load(args)
local config, count = model.config, terminal.thousands

local function row(name, value) print(("  %-20s %s"):format(name, value)) end

local function heading(text) print("\n" .. terminal.paint(text, "bold")) end

print(terminal.paint(model.name or "model", "bold"))
row("file", model.path or "(random weights)")
row("architecture", config.arch)
row("parameters", count(model.n_params))

heading("sizes")
local named = { "n_layers", "d_model", "n_heads", "n_kv_heads", "d_head", "d_mlp", "n_ctx", "d_vocab" }
local told = { arch = true }
for _, name in ipairs(named) do
  told[name] = true
  row(name, count(config[name]))
end

heading("description")
local rest = {}
for name in pairs(config) do
  if not told[name] then rest[#rest + 1] = name end
end
table.sort(rest)
for _, name in ipairs(rest) do
  local value = config[name]
  row(name, math.type(value) == "float" and ("%.7g"):format(value) or tostring(value))
end

local tokenizer = model.tokenizer
if tokenizer then
  heading("tokenizer")
  row("kind", tokenizer.kind)
  row("tokens", count(tokenizer.n_tokens))
  for name, id in pairs(tokenizer.special) do
    row(name, ("%d  %s"):format(id, tokenizer:pieces({ id })[1]))
  end
end

heading("weights")
local function weight_row(name, shape, dtype, n)
  print(("  %-32s %-14s %-6s %13s %6.1f %%"):format(name, shape, dtype, count(n), 100 * n / model.n_params))
end
local in_blocks, listed_layer = 0, nil
for _, weight in ipairs(model:weights()) do
  local layer = weight.name:match("^%a+%.(%d+)%.")
  if layer then in_blocks = in_blocks + weight.n_params end
  listed_layer = listed_layer or layer
  if args.all or not layer or layer == listed_layer then
    weight_row(weight.name, table.concat(weight.shape, " x "), weight.dtype, weight.n_params)
  end
end
weight_row(("all %d blocks"):format(config.n_layers), "", "", in_blocks)
weight_row("all", "", "", model.n_params)

heading("memory")
local per_position = 2 * config.n_layers * config.n_kv_heads * config.d_head * 2 -- keys, values; 2 bytes each
row("weights", terminal.bytes(model.weight_bytes))
row("keys and values", ("%s a position, %s for all %s"):format(terminal.bytes(per_position),
  terminal.bytes(per_position * config.n_ctx), count(config.n_ctx)))
