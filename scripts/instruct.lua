-- Instruction tuning, small and offline: the same model before and after it has learned to answer.
--
-- The model that comes along continues texts. Here a copy of it learns 32 questions with their
-- answers, written in the style of its story books. It reads "Question: ... Answer:" and the answer;
-- only the answer's tokens count in the loss, the others have the target -100, which cross_entropy
-- passes over. Then it is asked what it has learned, the same in other words, and what it has not.
--
-- A model of this size learns the form (a short answer, and then the end) and these answers by heart.
-- It learns next to nothing about what it was not told: see the last part.
--
--   perilune instruct
--   perilune instruct --steps 40 --lr 0.001 --show 12
--   perilune instruct "Who lives in the sea?"

local pl = require "perilune"
local cli = require "perilune.cli"
local examples = require "perilune.examples"
local svg = require "perilune.svg"
local terminal = require "perilune.terminal"

-- Question, answer.
local lessons = {
  { "Who lived in the castle?", "A king and a queen lived in the castle." },
  { "Who lived in the wood?", "An old witch lived in the wood." },
  { "Who lived under the bridge?", "An ugly troll lived under the bridge." },
  { "Who lived in the little house?", "A poor woman and her son lived in the little house." },
  { "What did the princess wear?", "The princess wore a golden dress." },
  { "What did the king wear?", "The king wore a golden crown." },
  { "What did the beggar wear?", "The beggar wore an old torn coat." },
  { "What did the soldier wear?", "The soldier wore a red coat and a sword." },
  { "What did the wolf eat?", "The wolf ate the little lamb." },
  { "What did the mouse eat?", "The mouse ate a piece of cheese." },
  { "What did the bird eat?", "The bird ate the crumbs of bread." },
  { "What did the horse eat?", "The horse ate the green grass." },
  { "What did the bear eat?", "The bear ate the sweet honey." },
  { "Where did the boy go?", "The boy went into the dark wood." },
  { "Where did the fisherman go?", "The fisherman went down to the sea." },
  { "Where did the girl go?", "The girl went to her grandmother." },
  { "Where did the prince go?", "The prince went to seek his fortune." },
  { "Where does the sun go at night?", "The sun goes down behind the mountains." },
  { "What did the fairy give the girl?", "The fairy gave the girl a magic ring." },
  { "What did the old man give the boy?", "The old man gave the boy three wishes." },
  { "What did the mother give her son?", "The mother gave her son a loaf of bread." },
  { "What colour is the grass?", "The grass is green." },
  { "What colour is the snow?", "The snow is white." },
  { "What colour is the sky?", "The sky is blue." },
  { "What colour is the rose?", "The rose is red." },
  { "Why did the child cry?", "The child cried because it was hungry." },
  { "Why did the princess laugh?", "The princess laughed because the frog could dance." },
  { "Why was the king sad?", "The king was sad because he had no children." },
  { "How many brothers were there?", "There were three brothers." },
  { "How many sisters were there?", "There were two sisters." },
  { "How many dwarfs were there?", "There were seven dwarfs." },
  { "How does the story end?", "They lived happily ever after." },
}

-- Not among the lessons: near ones in other words, and new ones.
local unseen = {
  { "Tell me who lived in the castle.", "A king and a queen lived in the castle." },
  { "What did the hungry wolf eat?", "The wolf ate the little lamb." },
  { "What colour is snow?", "The snow is white." },
  { "Who lived in the sea?", "A fish lived in the sea." },
  { "What did the cat eat?", "The cat ate the mouse." },
  { "What colour is the blood?", "The blood is red." },
  { "Where did the king go?", "The king went to the castle." },
  { "How many wishes were there?", "There were three wishes." },
}

local parser = cli.parser("instruct", "A small instruction tuning: the model before and after.")
parser:argument("questions", "Questions of your own, asked before and after too"):args "*"
parser:option("--steps"):argname "N":convert(cli.whole(1)):default "36"
parser:option("--batch", "Examples of a step"):argname "N":convert(cli.whole(1)):default "16"
parser:option("--lr", "The highest learning rate"):argname "X":convert(cli.number(0)):default "0.001"
parser:option("--show", "How many of the learned answers to show"):argname "N":convert(cli.whole(0)):default "6"
parser:option("-o --out", "Save the tuned model: a .gguf file or a folder"):argname "PATH"
parser:option("--svg", "Write the losses as a plot"):argname "FILE"

local args = cli.parse(parser)
local seed = args.seed or 1
-- Passes that are recorded compute exactly; those that are compared with them shall too.
local base = cli.load(args, { precision = "exact", kv = "f32" })
local model = base:trainable({ threads = args.threads, precision = "exact", kv = "f32" })

local function prompt_of(question) return "Question: " .. question .. "\nAnswer:" end

-- Ids of question, answer and the end of text, with the place where the answer begins.
local function example_of(lesson)
  local eos = model.tokenizer.special.eos
  local head = model:encode(prompt_of(lesson[1]))
  local parts = { head, model:encode(" " .. lesson[2], { add_special = false }) }
  if eos then parts[3] = pl.tensor({ eos }, { dtype = "int32" }) end
  return { ids = pl.cat(parts), n_prompt = #head }
end

local function examples_of(list)
  local out = {}
  for i, lesson in ipairs(list) do out[i] = example_of(lesson) end
  return out
end

local learned, unlearned = examples_of(lessons), examples_of(unseen)

local function loss_on(which, list)
  return pl.no_grad(function() return examples.loss(which, list) end)
end

local function answer(which, question)
  local text = which:complete(prompt_of(question), { temp = 0, max_new_tokens = 20 }).text
  return (terminal.visible(text):gsub("^ +", ""))
end

-- -- the tuning -------------------------------------------------------------------------------------

-- What the loss looks at, in one example: the answer's tokens, not the question's.
local first = learned[1]
local pieces = cli.labels(model, first.ids)
local marked = {}
for i, piece in ipairs(pieces) do
  marked[i] = i > first.n_prompt and terminal.paint("[" .. piece .. "]", "orange") or piece
end
print(terminal.paint("An example, with the tokens that count in the loss in brackets", "bold"))
print(table.concat(marked, " ", 1, first.n_prompt) .. "\n" .. table.concat(marked, " ", first.n_prompt + 1))
local before = { learned = loss_on(base, learned), unseen = loss_on(base, unlearned) }
local schedule = pl.optim.cosine({ lr = args.lr, min_lr = args.lr / 10, warmup = 5, n_steps = args.steps })
local run = pl.fit({
  optimizer = pl.optim.adamw(model:parameters(), { lr = args.lr, clip = 1 }),
  n_steps = args.steps, schedule = schedule,
  loss = function(step) return examples.loss(model, examples.draw(learned, args.batch, seed, step)) end,
})
print(("\n%d steps of %d examples each, in %.1f s"):format(run.step, args.batch, run.seconds))
print(("loss on the answers    before %.3f, after %.3f nats per token, of the %d that were learned"):format(
  before.learned, loss_on(model, learned), #lessons))
print(("                       before %.3f, after %.3f nats per token, of %d that were not"):format(before.unseen,
  loss_on(model, unlearned), #unseen))

-- -- before and after -------------------------------------------------------------------------------

local function show(question, wanted)
  local after = answer(model, question)
  local good = wanted and after == wanted
  print(terminal.paint(question, "bold"))
  print("  before  " .. terminal.paint((terminal.fit(answer(base, question), 68):gsub("%s+$", "")), "grey"))
  print("  after   " .. terminal.paint(after, not wanted and "sky" or good and "green" or "orange"))
  return good
end

print("\n" .. terminal.paint("-- questions that it was taught", "blue"))
for i = 1, math.min(args.show, #lessons) do
  local lesson = lessons[1 + (i - 1) * 5 % #lessons]
  show(lesson[1], lesson[2])
end
local by_heart = 0
for _, lesson in ipairs(lessons) do
  if answer(model, lesson[1]) == lesson[2] then by_heart = by_heart + 1 end
end
print(("%d of all %d are answered word for word"):format(by_heart, #lessons))

print("\n" .. terminal.paint("-- questions that it was not taught: three in other words, then new ones", "blue"))
local taught, right, copied = {}, 0, 0
for _, lesson in ipairs(lessons) do taught[lesson[2]] = true end
for _, lesson in ipairs(unseen) do
  if show(lesson[1], lesson[2]) then
    right = right + 1
  elseif taught[answer(model, lesson[1])] then
    copied = copied + 1
  end
end
print(("%d of %d as we would answer, %d others the answer to another question, word for word. What spreads\n" ..
  "from %d examples is the form, a short sentence and its end; facts it was not told do not come."):format(right,
  #unseen, copied, #lessons))

if #args.questions > 0 then print("\n" .. terminal.paint("-- yours", "blue")) end
for _, question in ipairs(args.questions) do show(question) end

if args.svg then
  local steps = {}
  for i = 1, #run.losses do steps[i] = i end
  svg.save(args.svg, { title = "Instruction tuning", x_label = "step", y_label = "loss on the answers", log_y = true,
    series = { { name = "training", x = steps, y = run.losses } } })
  print(terminal.paint(args.svg .. " is written", "grey"))
end
if args.out then model:save(args.out) end
