-- Gathers an importance matrix: how large, on average, what meets each input of each matrix is.
--
-- A text runs through the model, and for every matrix the squares of its inputs are summed. `perilune
-- quantize --imatrix` then keeps better what meets large inputs. The file is llama.cpp's: GGUF, with
-- NAME.in_sum2 and NAME.counts for each matrix. Queries, keys and values are named both apart and as
-- one matrix, for files hold them either way.
--
--   perilune imatrix -m gpt2.gguf book.txt gpt2.imatrix.gguf
--   perilune quantize gpt2.gguf gpt2-q2_k.gguf q2_k --imatrix gpt2.imatrix.gguf

local pl = require "perilune"
local cli = require "perilune.cli"
local terminal = require "perilune.terminal"

local parser = cli.parser("imatrix", "Gathers an importance matrix for quantising.")
parser:argument("file", "The text file, or - for standard input")
parser:argument("output", "The GGUF file to write")
parser:option("-w --window", "Tokens of one chunk (default: all that the model can, at most 512)"):argname "N"
  :convert(cli.whole(1))

local args = cli.parse(parser)
if not args.output:find("%.gguf$") then cli.usage("%s: an importance matrix is a GGUF file", args.output) end
local text = cli.read_file(args.file)
local model = cli.load(args)
local config = model.config
local window = args.window or math.min(config.n_ctx, 512)
if window > config.n_ctx then
  cli.usage("--window %d: the model sees %d tokens at most", window, config.n_ctx)
end
local ids = model:encode(text, { add_special = false })
local n = #ids
if n == 0 then pl.fail("argument", "%s: there is nothing in it", args.file) end

-- Which matrices read which activation.
local readers = {
  ["ln1.hook_normalized"] = { "attn_qkv", "attn_q", "attn_k", "attn_v" },
  ["attn.hook_z"] = { "attn_output" },
  ["ln2.hook_normalized"] = { "ffn_gate", "ffn_up" },
  ["mlp.hook_post"] = { "ffn_down" },
}
local gains = { ["ln1.hook_normalized"] = "ln1_w", ["ln2.hook_normalized"] = "ln2_w" }

-- RMSNorm's hook shows what has not met its gain.
local function gain_of(point, layer)
  return config.norm == "rms" and gains[point] and model[gains[point]][layer] or nil
end

local sums = {} -- point -> layer -> sum of squares [n_in]
for point in pairs(readers) do
  local of_point = {}
  sums[point] = of_point
  model:hook(point, function(act, at)
    local x = act:view(act:size(0), -1)
    local square = x:square():sum(0)
    local layer = at.layer
    if of_point[layer] then of_point[layer]:add_(square) else of_point[layer] = square end
  end, { read = true })
end

local show, finish = terminal.progress()
local n_chunks = 0
for start = 0, n - 1, window do
  local seq <close> = model:sequence()
  seq:extend(ids:narrow(0, start, math.min(window, n - start)), { logits = "none" })
  n_chunks = n_chunks + 1
  show(math.min(start + window, n) / n)
end
finish()

local tensors = {}
for point, matrices in pairs(readers) do
  for layer, sum in pairs(sums[point]) do
    local gain = gain_of(point, layer)
    if gain then sum:mul_(gain:square()) end
    for _, matrix in ipairs(matrices) do
      local name = ("blk.%d.%s.weight"):format(layer, matrix)
      tensors[name .. ".in_sum2"] = sum
      tensors[name .. ".counts"] = pl.tensor({ n }):float()
    end
  end
end
pl.save_tensors(args.output, tensors, {
  ["general.type"] = "imatrix",
  ["imatrix.datasets"] = { args.file },
  ["imatrix.chunk_count"] = n_chunks,
  ["imatrix.chunk_size"] = window,
})
print(("%s: %s tokens in %d chunks, %d layers"):format(args.output, terminal.thousands(n), n_chunks, config.n_layers))
