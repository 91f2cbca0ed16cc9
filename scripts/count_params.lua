-- How many parameters a model has, matrix by matrix, and how long a laptop would train it.
--
-- The numbers of layers, heads and so on are those that the models' papers and released files give;
-- the sums are held against the totals that were published. A book here is 300 pages of 2,000
-- characters, one character to a parameter, rounded to a digit.
--
-- Training reads D tokens once in each pass, at about 6 N D operations: 2 N D forwards, 4 N D back.
-- Token counts of GPT-1's and GPT-2's texts were never published: the sizes of the texts were.
--
--   perilune count_params
--   perilune count_params --matrices gpt2-xl mixtral-8x7b
--   perilune count_params --flops 1e12

local cli = require "perilune.cli"
local terminal = require "perilune.terminal"

local table_of = require "perilune.data.published"

local parser = cli.parser("count_params", "Parameters matrix by matrix, and training time on a laptop.")
parser:argument("models", "Which of the models (default: all; the program lists them)"):args "*"
parser:flag("--matrices", "Show every matrix (with models named: always)")
parser:option("--flops", "Operations per second of the laptop"):argname "X":default "1e11":convert(cli.number(1))
parser:option("--bytes-per-token", "What a token of the published texts takes"):argname "X":default "4"
  :convert(cli.number(0.1))

local args = cli.parse(parser)

local function find(name)
  local names = {}
  for i, m in ipairs(table_of) do
    if m.id == name then return m end
    names[i] = m.id
  end
  cli.usage("'%s': expected one of %s", name, table.concat(names, ", "))
end

local chosen = {}
for i, name in ipairs(args.models) do chosen[i] = find(name) end
local with_matrices = args.matrices or #chosen > 0
if #chosen == 0 then chosen = table_of end

-- The matrices of a model: {name, shape in words, elements of one, how many}.
local function matrices(m)
  local list, d, f, layers = {}, m.d_model, m.d_mlp, m.n_layers
  local function add(name, copies, ...)
    local elements, words = 1, {}
    for i, size in ipairs({ ... }) do elements, words[i] = elements * size, terminal.thousands(size) end
    list[#list + 1] = { name = name, shape = table.concat(words, " x "), n = elements * copies, copies = copies }
  end
  local q, kv = m.n_heads * m.d_head, (m.n_kv_heads or m.n_heads) * m.d_head
  add("W_E", 1, m.d_vocab, d)
  if m.learned_positions then add("W_pos", 1, m.n_ctx, d) end
  add("W_Q", layers, d, q)
  add("W_K", layers, d, kv)
  add("W_V", layers, d, kv)
  add("W_O", layers, q, d)
  if m.biases then add("b_Q, b_K, b_V, b_O", layers, q + 2 * kv + d) end
  local experts = m.n_experts or 1
  if m.n_experts then add("W_router", layers, d, experts) end
  add("W_in", layers * experts, d, f)
  if m.gated then add("W_gate", layers * experts, d, f) end
  add("W_out", layers * experts, f, d)
  if m.biases then add("b_in, b_out", layers, f + d) end
  add("norms in blocks", layers, m.norms, m.norm_bias and 2 * d or d)
  if m.final_norm then add("last norm", 1, m.norm_bias and 2 * d or d) end
  if not m.tied then add("W_U", 1, d, m.d_vocab) end
  return list
end

local function total(list)
  local n = 0
  for _, row in ipairs(list) do n = n + row.n end
  return n
end

-- 1.24e8 -> "124 million".
local function large(n)
  if n >= 1e9 then return ("%.4g billion"):format(n / 1e9) end
  return ("%.4g million"):format(n / 1e6)
end

local CHARACTERS = 300 * 2000

local function show_matrices(m, list, sum)
  print(("\n%s: %d layers, %d heads of %d, width %d, MLP %d, vocabulary %s"):format(terminal.paint(m.name, "orange"),
    m.n_layers, m.n_heads, m.d_head, m.d_model, m.d_mlp, terminal.thousands(m.d_vocab)))
  for _, row in ipairs(list) do
    print(("  %-19s %5d x %-22s %19s  %5.1f %% %s"):format(row.name, row.copies, row.shape, terminal.thousands(row.n),
      100 * row.n / sum, terminal.paint(terminal.bar(row.n / sum, 12):gsub(" +$", ""), "blue")))
  end
  if m.tied then print("  W_U is W_E again: the model uses the one matrix at both ends") end
  if m.n_experts then
    local idle = 0
    for _, row in ipairs(list) do
      if row.copies > m.n_layers then idle = idle + row.n * (1 - m.n_used / m.n_experts) end
    end
    print(("  of its %d experts a token meets %d: %s parameters work for it (published: %s)"):format(m.n_experts,
      m.n_used, large(sum - idle), m.published_active))
  end
  print(terminal.paint("  from: " .. m.from, "grey"))
  if m.unpublished then print(terminal.paint("  not published: " .. m.unpublished, "grey")) end
end

local sums = {}
print(("%-14s %17s  %-18s %8s  %s"):format("model", "parameters", "published", "off by", "in books"))
for i, m in ipairs(chosen) do
  sums[i] = total(matrices(m))
  print(("%-14s %17s  %-18s %+7.1f%%  %s"):format(m.name, terminal.thousands(sums[i]), large(m.published),
    100 * (sums[i] / m.published - 1), terminal.thousands(math.floor(sums[i] / CHARACTERS + 0.5))))
  if m.note then print(terminal.paint("  " .. m.note, "grey")) end
end
print(terminal.paint("a book: 300 pages of 2,000 characters, a parameter for each character", "grey"))
print(terminal.paint("never published: the sizes of GPT-4 and its successors, of Claude and of Gemini's large models",
  "grey"))
if with_matrices then
  for i, m in ipairs(chosen) do show_matrices(m, matrices(m), sums[i]) end
end

-- -- training --------------------------------------------------------------------------------------

local YEAR = 365.25 * 86400

local function years_of(n, tokens, passes) return 6.0 * n * tokens * passes / args.flops / YEAR end

-- 1617.3 -> "1,617", 13.27 -> "13".
local function whole(x) return x >= 10 and terminal.thousands(math.floor(x + 0.5)) or ("%.2g"):format(x) end

print("\n" .. terminal.paint(("Training at %.3g operations a second: 6 N D a pass"):format(args.flops), "orange"))
for i, m in ipairs(chosen) do
  for _, data in ipairs(m.data or {}) do
    local tokens = data.tokens or data.bytes / args.bytes_per_token
    local years = years_of(sums[i], tokens, data.passes)
    print(("  %-14s %s"):format(m.name, data.what))
    print(("  %-14s 6 x %.4g x %.3g tokens x %d pass%s = %.2g operations: %s years"):format("", sums[i], tokens,
      data.passes, data.passes == 1 and "" or "es", 6.0 * sums[i] * tokens * data.passes, whole(years)))
  end
  if m.lecture then
    local per_year = 6.0 * sums[i] * m.lecture.passes / args.flops / YEAR
    print(terminal.paint(("  %-14s a lecture's table says %s years (at 1e11): so many for %.3g tokens"):format("",
      terminal.thousands(m.lecture.years), m.lecture.years / (per_year * args.flops / 1e11)), "grey"))
  end
end
print(terminal.paint(("  sizes in bytes are turned into tokens at %g bytes each"):format(args.bytes_per_token), "grey"))
