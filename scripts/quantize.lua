-- Writes a model with quantised matrices: smaller, faster, a little less exact.
--
-- TYPE is q8_0 q6_k q5_k_m q5_k q5_1 q5_0 q4_k_m q4_k q4_1 q4_0 q3_k q2_k (or f32, f16, bf16). q4_k_m
-- and q5_k_m are llama.cpp's mixes, which spend more bits on some matrices. The matrix that makes
-- logits becomes q6_k (q8_0 in q8_0); vectors and learned positions stay float32; rows that no block
-- divides get the next type that fits. `perilune compare` says what it costs.
--
--   perilune quantize openai-community/gpt2 gpt2-q4_k_m.gguf q4_k_m
--   perilune quantize model.gguf small.gguf q2_k --imatrix model.imatrix.gguf

local pl = require "perilune"
local cli = require "perilune.cli"
local terminal = require "perilune.terminal"

local parser = cli.parser("quantize", "Writes a model with quantised matrices.")
parser:argument("input", "The model: a file, a folder or a hub id")
parser:argument("output", "The GGUF file to write")
parser:argument("type", "What the matrices become: q8_0, q4_k_m, ...")
parser:option("--imatrix", "An importance matrix, of `perilune imatrix` or llama.cpp's"):argname "FILE"

local args = cli.parse(parser)
cli.refuse_adapters(args)
if args.model then cli.usage("-m: the model to quantise is the first argument") end
if not args.output:find("%.gguf$") then cli.usage("%s: quantised models are GGUF files", args.output) end
args.model = args.input
local model = cli.load(args)

-- The mean square of what meets each matrix, by its name; nil without a file.
local function read_importance(path)
  if not path then return nil end
  local tensors, about = pl.load_tensors(path)
  if about["general.type"] ~= "imatrix" then
    pl.fail("format", "%s: general.type is %s, expected imatrix", path, tostring(about["general.type"]))
  end
  local importance = {}
  for name, sum in pairs(tensors) do
    local matrix = name:match("^(.+)%.in_sum2$")
    local counts = matrix and tensors[matrix .. ".counts"]
    if counts and counts:count() == 1 then importance[matrix] = sum:view(-1) / counts:view(-1)[0] end
  end
  if not next(importance) then pl.fail("format", "%s: no tensor NAME.in_sum2 with its NAME.counts", path) end
  return importance
end

local began = pl.clock()
model:save(args.output, { format = "gguf", dtype = args.type, importance = read_importance(args.imatrix) })

local counts, order = {}, {}
for _, weight in ipairs(pl.load(args.output):weights()) do
  if not counts[weight.dtype] then order[#order + 1] = weight.dtype end
  counts[weight.dtype] = (counts[weight.dtype] or 0) + weight.n_params
end
for _, dtype in ipairs(order) do
  print(("%-6s %s parameters"):format(dtype, terminal.thousands(counts[dtype])))
end
local file = assert(io.open(args.output, "rb"))
local bytes = file:seek("end")
file:close()
print(("%s: %s bytes, %.2f bits a parameter, in %.1f s"):format(args.output, terminal.thousands(bytes),
  8 * bytes / model.n_params, pl.clock() - began))
