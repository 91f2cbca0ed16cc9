-- One step of learning: a masked word is guessed, and the right one told.
--
-- The word is the last of the sentence. The loss is -log of the probability of the right word. Its
-- gradient says for every weight which way the loss rises; one step of gradient descent goes the other
-- way, in a copy of the model. The right word becomes likelier, and what else has changed shows that
-- the weights are shared by all sentences.
--
--   perilune one_step
--   perilune one_step --lr 0.005 "The king gave his daughter a golden apple"
--   perilune one_step --other "There was a king" --other "He went home" "She ate a red stone"

local pl = require "perilune"
local cli = require "perilune.cli"
local terminal = require "perilune.terminal"

local parser = cli.parser("one_step", "A masked word is guessed, and learned in one step.")
parser:argument("sentence", "Its last word is masked (default: one of ours; - reads standard input)"):args "*"
parser:option("--lr", "The step: the learning rate of gradient descent"):argname "X":convert(cli.number(0))
  :default "0.002"
parser:option("-k --top", "How many tokens to show"):argname "K":default "8":convert(cli.whole(1))
parser:option("--other", "Another sentence to look at (default: four of ours)"):argname "TEXT":count "*"

local args = cli.parse(parser)
local base = cli.load(args)
local _, _, text = cli.prompt(base, args.sentence, "Once upon a time there was a little dragon", 2)
local head, word = text:match("^(.*%S)(%s+%S+)%s*$")
if not head then cli.usage("'%s': expected two words or more, the last of which is masked", text) end
local others = #args.other > 0 and args.other or { "Once upon a time there was a little girl",
  "The king had a daughter who was as beautiful as the day", "The old woman went into the wood",
  "He took the bread out of the oven" }

local before = base:encode(head)
local answer = base:encode(word, { add_special = false })
local ids = pl.cat({ before, answer })
local from = #before - 1 -- the row that predicts the word's first token

-- Passes that are recorded compute exactly; those that are compared with them shall too.
local model = base:trainable({ threads = args.threads, precision = "exact", kv = "f32" })
local top = math.min(args.top, base.config.d_vocab)

-- The mean loss of the word's tokens, those of the sentence before it being given.
local function word_loss()
  local logits = model:forward(ids:narrow(0, 0, #ids - 1))
  return logits:narrow(0, from, #answer):cross_entropy(answer:long())
end

local function next_probabilities()
  return pl.no_grad(function() return model:forward(before)[-1]:softmax() end)
end

-- Mean loss of all tokens of a sentence but the first, and its rows of probabilities.
local function reading(sentence)
  local tokens = model:encode(sentence)
  if #tokens < 2 then cli.usage("--other '%s': expected two tokens or more", sentence) end
  return pl.no_grad(function()
    local logits = model:forward(tokens:narrow(0, 0, #tokens - 1))
    return { loss = logits:cross_entropy(tokens:narrow(0, 1, #tokens - 1):long()), log_p = logits:log_softmax() }
  end)
end

-- How far the predictions have moved: the mean over places of KL(old || new), in nats.
local function moved(old, new)
  return (old.log_p:exp() * (old.log_p - new.log_p)):sum(-1):mean()
end

local function read_others()
  local list = {}
  for i, sentence in ipairs(others) do list[i] = reading(sentence) end
  return list
end

-- -- before, the step, after ------------------------------------------------------------------------

local p_old, others_old = next_probabilities(), read_others()
local optimizer = pl.optim.sgd(model:parameters(), { lr = args.lr })
local loss = word_loss()
local loss_old = loss:item()
loss:backward()
local norm = optimizer:step()
local p_new, others_new = next_probabilities(), read_others()
local loss_new = pl.no_grad(word_loss)

-- The likeliest tokens of both, and the right one.
local function shown_tokens()
  local list, seen = {}, {}
  local function add(id)
    if not seen[id] then list[#list + 1], seen[id] = id, true end
  end
  for _, p in ipairs({ p_old, p_new }) do
    for _, token in ipairs(model:topk(p, top)) do add(token.id) end
  end
  add(answer[0])
  return list
end

local function rank_of(p, id) return 1 + math.tointeger(p:gt(p[id]):float():sum()) end

local function masked() return terminal.visible(head) .. " " .. terminal.paint("____", "orange") end

print(terminal.paint("The sentence  ", "grey") .. masked())
print(terminal.paint("The word      ", "grey") .. terminal.visible(word:gsub("^%s+", "")))
print(("\n%-18s %9s %9s"):format("next token", "before", "after"))
for _, id in ipairs(shown_tokens()) do
  local right = id == answer[0]
  local bar = terminal.bar(p_new[id], 30):gsub(" +$", "")
  print(("%s %7.3f %% %7.3f %%  %s%s"):format(terminal.fit(terminal.piece(model:to_str_tokens({ id })[1]), 18),
    100 * p_old[id], 100 * p_new[id], terminal.paint(bar, right and "orange" or "blue"), right and " <- right" or ""))
end
print(("\nplace of the right token %d before, %d after, of %d"):format(rank_of(p_old, answer[0]),
  rank_of(p_new, answer[0]), model.config.d_vocab))
print(("loss of the word %.4f -> %.4f nats (%d token%s); the gradient's norm %.2f"):format(loss_old, loss_new,
  #answer, #answer == 1 and "" or "s", norm))
print(("expected from the slope alone: a fall by lr * norm^2 = %.4f; it fell by %.4f"):format(args.lr * norm ^ 2,
  loss_old - loss_new))

print("\nAnd the others, of which the step knew nothing:")
print(("%-58s %7s    %7s  %s"):format("  sentence", "loss", "", "moved (KL)"))
for i, sentence in ipairs(others) do
  local old, new = others_old[i], others_new[i]
  local colour = new.loss > old.loss and "red" or "green"
  print(("  %s %7.4f -> %s  %.4f"):format(terminal.fit(terminal.visible(sentence), 56), old.loss,
    terminal.paint(("%7.4f"):format(new.loss), colour), moved(old, new)))
end
