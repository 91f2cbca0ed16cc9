-- Preference learning: of two answers the better one becomes more likely.
--
-- With a file of JSON lines {"prompt", "chosen", "rejected"}: direct preference optimization (Rafailov
-- et al. 2023, arXiv:2305.18290). The loss is -log sigmoid(beta ((log p(chosen) - log p0(chosen)) -
-- (log p(rejected) - log p0(rejected)))), where p0 is the model as it was: the reward of an answer is
-- by how much it has become more likely.
--
-- With --reward FILE.lua, a file that returns function(text) -> number: REINFORCE (Williams 1992). The
-- model continues --prompt many times, and each continuation becomes more likely by how much its
-- reward lies above the mean, less beta times how far it has left the old model (the KL divergence).
--
--   perilune prefer pairs.jsonl --out better.gguf
--   perilune prefer --reward short_words.lua --prompt "Once upon a time" --steps 30 --out better.gguf

local pl = require "perilune"
local cli = require "perilune.cli"
local examples = require "perilune.examples"

local parser = cli.parser("prefer", "Preference learning: DPO on pairs, or REINFORCE on a reward in Lua.")
parser:argument("pairs", "JSON lines of prompt, chosen and rejected"):args "?"
parser:option("--reward", "A Lua file that returns function(text) -> number"):argname "FILE"
parser:option("--prompt", "What is continued, with --reward"):argname "TEXT":default "Once upon a time"
parser:option("-o --out", "Where the new model goes: a .gguf file or a folder"):argname "PATH":count(1)
parser:option("--beta", "How strongly the old model holds"):argname "X":convert(cli.number(0)):default "0.1"
parser:option("--steps"):argname "N":convert(cli.whole(1)):default "50"
parser:option("--batch", "Pairs, or continuations, of a step"):argname "N":convert(cli.whole(2)):default "8"
parser:option("--lr", "The learning rate"):argname "X":convert(cli.number(0)):default "0.00005"
parser:option("--max-new-tokens", "Length of a continuation"):argname "N":convert(cli.whole(1)):default "24"
parser:option("--checkpoint", "A file to go on from when started again"):argname "FILE"
parser:option("--dtype", "The type of the new model's matrices"):argname "TYPE":default "f32"

local args = cli.parse(parser)
cli.refuse_adapters(args)
pl.check_saving(args.out, args.dtype)
if (args.pairs == nil) == (args.reward == nil) then cli.usage("either a file of pairs, or --reward FILE.lua") end
local old = cli.load(args, { precision = "exact", kv = "f32" }) -- as passes that are recorded compute
local model = old:trainable({ threads = args.threads })
local seed = args.seed or 0

-- Log probabilities of the answers under the model as it was.
local function old_log_probs(list) return pl.no_grad(function() return examples.log_probs(old, list) end) end

local function sides(drawn)
  local all = {}
  for i, pair in ipairs(drawn) do all[i], all[#drawn + i] = pair.chosen, pair.rejected end
  return all
end

-- log p - log p0 of each answer: its reward, divided by beta.
local function gains(list)
  local new, before, out = examples.log_probs(model, list), old_log_probs(list), {}
  for i = 1, #list do out[i] = new[i] - before[i] end
  return out
end

local function dpo_loss(drawn)
  local gain, n, total = gains(sides(drawn)), #drawn, 0
  for i = 1, n do -- -log sigmoid(z), written so that it never overflows
    local z = (gain[i] - gain[n + i]) * args.beta
    total = total + pl.stack({ -z, z * 0 }):logsumexp()
  end
  return total / n
end

local function show_pairs(list)
  local measured, right, margin = examples.spread(list, 128), 0, 0
  for _, pair in ipairs(measured) do
    local gain = pl.no_grad(function() return gains({ pair.chosen, pair.rejected }) end)
    local m = gain[1] - gain[2]
    right, margin = right + (m > 0 and 1 or 0), margin + m / #measured
  end
  print(("%-34s %.0f %% of %d pairs, by %.3f nats on average"):format("chosen gained more than rejected",
    100 * right / #measured, #measured, margin))
end

-- -- REINFORCE --------------------------------------------------------------------------------------

local function load_reward(path)
  local chunk, why = loadfile(path)
  if not chunk then pl.fail("format", "%s", why) end
  local reward = chunk()
  if type(reward) ~= "function" then pl.fail("format", "%s: returned a %s, expected a function", path, type(reward)) end
  return function(text)
    local value = reward(text)
    if type(value) ~= "number" or value ~= value then
      pl.fail("format", "%s: the reward of %q is %s, expected a number", path, text, tostring(value))
    end
    return value
  end
end

local function sample(step)
  local prompt, list = model:encode(args.prompt), {}
  for i = 1, args.batch do
    local run = model:complete(args.prompt, { temp = 1, max_new_tokens = args.max_new_tokens,
      seed = seed * 100003 + step * args.batch + i })
    local ids = pl.tensor(run.ids, { dtype = "int32" })
    list[i] = { ids = pl.cat({ prompt, ids }), n_prompt = #prompt, text = run.text }
  end
  return list
end

local function reinforce_loss(reward, step, shown)
  local list, rewards, mean = sample(step), {}, 0
  local before = old_log_probs(list)
  local new = examples.log_probs(model, list)
  local kl = 0
  for i, item in ipairs(list) do
    local r = reward(item.text)
    local moved = new[i]:item() - before[i]
    shown.reward = (shown.reward or 0) + r / #list
    kl = kl + moved / #list
    rewards[i] = r - args.beta * moved
    mean = mean + rewards[i] / #list
  end
  shown.kl = kl
  local total = 0
  for i = 1, #list do total = total - new[i] * ((rewards[i] - mean) / #list) end
  return total
end

local optimizer = pl.optim.adamw(model:parameters(), { lr = args.lr, clip = 1 })
if args.pairs then
  local list = examples.read_pairs(old, args.pairs)
  print(("%-34s %d"):format("pairs", #list))
  pl.fit({ optimizer = optimizer, n_steps = args.steps, checkpoint = args.checkpoint,
    loss = function(step) return dpo_loss(examples.draw(list, args.batch, seed, step)) end })
  show_pairs(list)
else
  local reward = load_reward(args.reward)
  print("  step   mean reward   KL to the old model, nats")
  pl.fit({ optimizer = optimizer, n_steps = args.steps, checkpoint = args.checkpoint, loss = function(step)
    local shown = {}
    local loss = reinforce_loss(reward, step, shown)
    if step == 1 or step % 5 == 0 or step == args.steps then
      print(("%6d   %11.3f   %.3f"):format(step, shown.reward, shown.kl))
    end
    return loss
  end })
end
model:save(args.out, { dtype = args.dtype })
