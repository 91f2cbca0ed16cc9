-- One attention head at one place: what is sought, who has it, what is fetched.
--
-- The asking token's query says what is sought. The key of every token up to there says what it has;
-- the product of the two is its score, and softmax makes weights of the scores. The value of each
-- token is what can be fetched there: the mix by weight goes through W_O into the residual stream, and
-- the unembedding tells which next tokens that speaks for. Unless named, the head is the one that
-- speaks most for the model's choice.
--
--   perilune one_head
--   perilune one_head --layer 4 --head 0 "The king said to his daughter"
--   perilune one_head --pos 3 --html head.html

local pl = require "perilune"
local cli = require "perilune.cli"
local heatmap = require "perilune.heatmap"
local terminal = require "perilune.terminal"

local parser = cli.parser("one_head", "One attention head at one place, step by step.")
parser:argument("prompt", "The text (default: one of ours; - reads standard input)"):args "*"
parser:option("-l --layer", "The head's layer"):argname "L":convert(cli.integer)
parser:option("--head", "The head"):argname "H":convert(cli.integer)
parser:option("-p --pos", "Which token asks (default: the last)"):argname "P":convert(cli.integer)
parser:option("-k --top", "How many next tokens to list"):argname "K":default "6":convert(cli.whole(1))
cli.page_option(parser)

local args = cli.parse(parser)
-- The engine rounds remembered keys and values where that is faster; here it shall not.
local model = cli.load(args, { precision = "exact", kv = "f32" })
local config = model.config
local layer = cli.index(args.layer, config.n_layers, "--layer")
local head = cli.index(args.head, config.n_heads, "--head")
local ids, tokens, text = cli.prompt(model, args.prompt, "The little girl went home to her mother, and the little")
local pos = cli.index(args.pos or -1, #ids, "--pos")
local top = math.min(args.top, config.d_vocab)

local logits, cache = model:run_with_cache(ids, { "ln1.hook_normalized", "*.attn.*", "ln_final.hook_scale" })
local choice = logits[pos]:argmax()

local function at(point, l) return cache[("blocks.%d.%s"):format(l or layer, point)] end

-- What a vector written to the stream does to the logits, the last norm's scale being what it is.
local final_scale = cache["ln_final.hook_scale"][pos][0]
local function direct_logits(vector)
  if config.norm == "layer" then vector = vector - vector:mean() end
  return (vector / final_scale * model.ln_final_w):unsqueeze(0):matmul(model.W_U):squeeze(0)
end

-- The head that adds most to the logit of the choice, among those that were not excluded by name.
local function strongest()
  local unembedding = model.W_U:select(1, choice) * model.ln_final_w
  if config.norm == "layer" then unembedding = unembedding - unembedding:mean() end
  local best, where = -math.huge, {}
  for l = layer or 0, layer or config.n_layers - 1 do
    local written = at("attn.hook_result", l)[pos]:matmul(unembedding:unsqueeze(1)):squeeze(1)
    for h, value in written:each() do
      if value > best and (not head or h == head) then best, where = value, { l, h } end
    end
  end
  return where[1], where[2]
end
layer, head = strongest()

local asking = tokens[pos + 1]
print(terminal.paint(terminal.visible(text), "bold"))
print(("layer %d, head %d; the token that asks: %d %s; the model's choice: %s"):format(layer, head, pos, asking,
  terminal.piece(model:to_str_tokens({ choice })[1])))

local function title(words) print("\n" .. terminal.paint(words, "orange")) end

-- Shows rows of numbers, one strip of colour each.
local function strips(rows, labels)
  heatmap.print { values = rows, rows = labels, columns = false, diverging = true, label_width = 12 }
end

-- -- 1 ----------------------------------------------------------------------------------------------

title(("1. What is sought? The query of %s, %d numbers: q = x W_Q + b_Q"):format(asking, config.d_head))
local x = at("ln1.hook_normalized") -- what the head reads: the stream, normalized
if config.norm == "rms" then x = x * model.ln1_w[layer] end
local kv_head = head // (config.n_heads // config.n_kv_heads)
local q = x[pos]:unsqueeze(0):matmul(model.W_Q[layer][head]):squeeze(0) + model.b_Q[layer][head]
local k = x:matmul(model.W_K[layer][kv_head]) + model.b_K[layer][kv_head]
local v = x:matmul(model.W_V[layer][kv_head]) + model.b_V[layer][kv_head]
if config.positions == "rotary" then -- q and k are turned by their positions
  q, k = at("attn.hook_rot_q")[pos][head], at("attn.hook_rot_k"):select(1, kv_head)
end
strips({ q:to_table() }, { asking })

-- -- 2 ----------------------------------------------------------------------------------------------

title("2. Who has it? The keys: k = x W_K + b_K")
strips(k:to_table(), tokens)

local raw = k:matmul(q:unsqueeze(1)):squeeze(1) -- q . k of every token
local scores = raw * config.attn_scale
for key = pos + 1, #ids - 1 do scores[key] = -math.huge end -- the mask: nobody looks into the future
local weights = scores:softmax()
print(("\n  %-14s %9s %9s  %s"):format("token", "q . k", "score", "weight"))
for key = 0, #ids - 1 do
  local weight = weights[key]
  local bar = terminal.paint(terminal.bar(weight, 30):gsub(" +$", ""), "blue")
  local seen = ("%9s  %5.3f  %s"):format(key <= pos and ("%.2f"):format(scores[key]) or "masked", weight, bar)
  print(("  %s %9.2f %s"):format(terminal.fit(tokens[key + 1], 14), raw[key], seen))
end
print(terminal.paint(("  score = q . k * %.4g, which is 1 / sqrt(d_head); weight = softmax(score)"):format(
  config.attn_scale), "grey"))

-- -- 3 ----------------------------------------------------------------------------------------------

title("3. What is fetched? The values: v = x W_V + b_V, and their mix: z = sum of weight v")
local z = weights:unsqueeze(0):matmul(v):squeeze(0)
local rows, labels = v:to_table(), { table.unpack(tokens) }
rows[#rows + 1], labels[#labels + 1] = z:to_table(), "z, the mix"
strips(rows, labels)

local result = z:unsqueeze(0):matmul(model.W_O[layer][head]):squeeze(0)
local function far(ours, theirs) return (ours - theirs):abs():max() / theirs:abs():max() end
local difference = math.max(far(z, at("attn.hook_z")[pos][head]), far(result, at("attn.hook_result")[pos][head]),
  far(weights, at("attn.hook_pattern")[head][pos]))
if difference > 1e-3 or difference ~= difference then
  pl.fail("state", "the head in Lua and the engine's differ by %.1e of the largest value", difference)
end
print(("\n  z W_O goes into the stream: %d numbers of norm %.2f. The engine's are the same (to %.0e)."):format(
  config.d_model, result:norm(), difference))

-- The next tokens that a vector in the stream speaks for and against: {piece, value}, text.
local function spoken(vector, largest)
  local values, found = direct_logits(vector):topk(top, 0, { largest = largest })
  local list = {}
  for i = 0, top - 1 do
    list[i + 1] = ("%s %+.2f"):format(terminal.piece(model:to_str_tokens({ found[i] })[1]), values[i])
  end
  return list
end

title("And then? What that does to the logits of the next token")
print("  for      " .. table.concat(spoken(result, true), "  "))
print("  against  " .. table.concat(spoken(result, false), "  "))
local most = weights:argmax()
local alone = v[most]:unsqueeze(0):matmul(model.W_O[layer][head]):squeeze(0)
print(("  %s alone, with all the weight, would speak for\n           %s"):format(tokens[most + 1],
  table.concat(spoken(alone, true), "  ")))

local without = model:run_with_hooks(ids, { { "z", function(rows_of_z) rows_of_z:select(1, head):zero_() end,
  { layer = layer, pos = pos } } })
print(("\nThe choice %s has %.1f %% with this head's word at this place, %.1f %% without."):format(
  terminal.piece(model:to_str_tokens({ choice })[1]), 100 * logits[pos]:softmax()[choice],
  100 * without[pos]:softmax()[choice]))

if args.html then
  local page = require("perilune.page").new(
    ("Layer %d, head %d: what is sought, who has it, what is fetched"):format(layer, head),
    ("The token that asks is number %d, %s."):format(pos, asking))
  page:lines(text)
  local function strip_map(name, tensor, names)
    page:heat { name = name, values = tensor:to_table(), rows = names, columns = cli.numbers(config.d_head),
      diverging = true, row_name = "token", column_name = "dimension" }
  end
  page:heading "1. What is sought? The query"
  strip_map("q", q:unsqueeze(0), { asking })
  page:heading "2. Who has it? The keys, scores and weights"
  strip_map("k", k, tokens)
  page:heat { views = {
    { name = "weight", values = weights:unsqueeze(0), format = "%.3f", low = 0, high = 1 },
    { name = "score", values = scores:unsqueeze(0), format = "%.2f", diverging = true },
    { name = "q . k", values = raw:unsqueeze(0), format = "%.2f", diverging = true },
  }, rows = { asking }, columns = tokens, row_name = "asks:", column_name = "has it:" }
  page:heading "3. What is fetched? The values, and their mix z"
  strip_map("v", pl.cat({ v, z:unsqueeze(0) }, 0), labels)
  page:heading "And then? The next tokens that z W_O speaks for and against"
  page:lines("for      " .. table.concat(spoken(result, true), "  ") .. "\nagainst  "
    .. table.concat(spoken(result, false), "  "))
  cli.write_page(args, page)
end
