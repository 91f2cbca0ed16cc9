-- One prompt through each sampler: the distribution of the next token before and after.
--
-- Samplers stand between the model and the choice. Most of them remove tokens or make them less
-- likely: they are shown with the probability of the likeliest tokens before (blue) and after
-- (orange). Some choose the token themselves: for them "after" is how often each came in 400 draws.
--
--   perilune samplers "Once upon a"
--   perilune samplers --sampler top_p=0.5 --sampler min_p=0.2 "Once upon a"
--   perilune samplers --sampler "xtc_probability=1,xtc_threshold=0.05" -k 12 "Once upon a"

local pl = require "perilune"
local cli = require "perilune.cli"
local terminal = require "perilune.terminal"

local parser = cli.parser("samplers", "One prompt through each sampler.")
parser:argument("prompt", "The text before the token (default: standard input)"):args "*"
parser:option("-s --sampler", "NAME=VALUE, more of one sampler with commas between"):argname "SPEC":count "*"
parser:option("-k --top", "How many tokens to show"):argname "K":default "6":convert(cli.whole(1))

local args = cli.parse(parser)
local prompt = cli.text(args.prompt)
local model = cli.load(args)
local ids = model:encode(prompt)
local logits = model:forward(ids){ pos = -1 }:clone()
local before = logits:softmax()
local shown = model:topk(before, math.min(args.top, model.config.d_vocab))
local seed = args.seed or 1

-- -- what to show --------------------------------------------------------------------------------

-- Settings with an effect that can be seen; a token is one of the likeliest here.
local first, second = shown[1].id, shown[math.min(2, #shown)].id
local examples = {
  logit_bias = { logit_bias = { [first] = -2 } },
  suppress_tokens = { suppress_tokens = { first } },
  penalties = { "penalties", penalty_repeat = 1.3, penalty_freq = 0.5, penalty_present = 0.5 },
  top_n_sigma = { top_n_sigma = 1 }, top_k = { top_k = 3 }, typ_p = { typ_p = 0.5 }, top_p = { top_p = 0.5 },
  min_p = { min_p = 0.3 }, epsilon_cutoff = { epsilon_cutoff = 0.03 }, eta_cutoff = { eta_cutoff = 0.05 },
  xtc = { "xtc", xtc_probability = 1, xtc_threshold = math.min(0.5, 0.9 * before[second]) }, temp = { temp = 0.5 },
  bad_words_ids = { bad_words_ids = { { first }, { second } } },
  mirostat = { "mirostat", mirostat_tau = 3 }, mirostat_v2 = { "mirostat_v2", mirostat_tau = 3 },
  adaptive_p = { "adaptive_p", adaptive_target = 0.1 }, dist = { "dist" }, greedy = { "greedy" },
}

-- Penalties are shown as if the likeliest token had just been said.
local said = table.move({ first }, 1, 1, #ids + 1, ids:to_table())

-- "name=1,other=2" as an item of a chain; a name alone is a sampler's.
local function read_spec(spec)
  local item = {}
  for part in spec:gmatch("[^,]+") do
    local name, value = part:match("^%s*([%w_]+)%s*=%s*(.-)%s*$")
    if name and not tonumber(value) then cli.usage("--sampler: '%s' is no number", value) end
    if name then item[name] = tonumber(value) else item[1] = part:match("^%s*(.-)%s*$") end
  end
  return item
end

local function title(item)
  local parts = {}
  for name, value in pairs(item) do
    local text = value
    if type(value) == "table" then
      text = {}
      for id, bias in pairs(value) do
        local token = type(bias) == "table" and bias[1] or value[1] or id
        local piece = terminal.piece(model:to_str_tokens({ token })[1])
        text[#text + 1] = value[1] and piece or ("%s: %g"):format(piece, bias)
      end
      table.sort(text)
      text = "{" .. table.concat(text, ", ") .. "}"
    end
    if name ~= 1 then parts[#parts + 1] = ("%s = %s"):format(name, tostring(text)) end
  end
  table.sort(parts)
  return table.concat(parts, ", ")
end

-- -- before and after ----------------------------------------------------------------------------

local n_draws = 400

-- The distribution after a sampler, and whether it chose tokens itself.
local function pass(item, history, chooses)
  local after = pl.zeros(model.config.d_vocab)
  if chooses then
    for draw = 1, n_draws do
      local chain <close> = model:chain({ item }, { seed = seed })
      chain:reset(history)
      local id = chain:sample(logits:clone(), #ids + draw)
      after[id] = after[id] + 1 / n_draws
    end
    return after
  end
  local chain <close> = model:chain({ item, function(shaped)
    after = shaped:softmax()
    return 0
  end }, { seed = seed })
  chain:reset(history)
  chain:sample(logits:clone(), #ids)
  return after
end

-- The likeliest tokens before, and two that are likeliest after if they are not among them.
local function rows_of(after)
  local rows, listed = table.move(shown, 1, #shown, 1, {}), {}
  for _, token in ipairs(shown) do listed[token.id] = true end
  for _, token in ipairs(model:topk(after, math.min(2, model.config.d_vocab))) do
    if not listed[token.id] and token.value > 0 then
      rows[#rows + 1] = { id = token.id, piece = token.piece, value = before[token.id] }
    end
  end
  return rows
end

local function show(name, summary, item, chooses)
  local history = name == "penalties" and said or ids
  local after = pass(item, history, chooses)
  print(("\n%s  %s%s"):format(terminal.paint(name, "bold"), terminal.paint(title(item), "blue"),
    history == said and (" (after %s)"):format(terminal.piece(shown[1].piece)) or ""))
  if summary then print(terminal.paint("  " .. summary, "grey")) end
  local rows, most = rows_of(after), 1e-9
  for _, token in ipairs(rows) do most = math.max(most, token.value, after[token.id]) end
  for _, token in ipairs(rows) do
    local function bar(p, colour) return terminal.paint(terminal.bar(p / most, 18), colour) end
    local p = after[token.id]
    print(("  %s %5.1f %% %s %s %s"):format(terminal.fit(terminal.piece(token.piece), 12), 100 * token.value,
      bar(token.value, "blue"), p > 0 and ("%5.1f %%"):format(100 * p) or "      -", bar(p, "orange"):gsub(" +$", "")))
  end
  local left = math.tointeger(after:gt(0):float():sum())
  print(terminal.paint(chooses and ("  %d different tokens in %d draws"):format(left, n_draws)
    or ("  %d of %d tokens are left"):format(left, model.config.d_vocab), "grey"))
end

print(terminal.paint(terminal.visible(prompt), "bold") .. " ...")
local kinds = {}
for _, kind in ipairs(pl.samplers()) do kinds[kind.name] = kind end
for _, spec in ipairs(args.sampler or {}) do
  local item = read_spec(spec)
  local kind = kinds[item[1] or next(item)]
  show(kind and kind.name or spec:match("^[%w_]+"), kind and kind.summary, item, kind and kind.chooses)
end
if #(args.sampler or {}) == 0 then
  for _, kind in ipairs(pl.samplers()) do
    if examples[kind.name] then show(kind.name, kind.summary, examples[kind.name], kind.chooses) end
  end
end
