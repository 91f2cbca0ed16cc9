-- Text of a prescribed form: a grammar, a regular expression or a JSON Schema.
--
-- At every step the tokens that would break the form are removed before one is drawn, so that
-- whatever the model thinks, the text keeps it. The report tells how much of the model's own
-- probability the form left on average: near 100 % it wanted that form anyway.
--
--   perilune constrain --regex "(yes|no), because [a-z ]{10,60}\." "Is it late?"
--   perilune constrain --schema person.json "Describe a person: "
--   perilune constrain --grammar chess.gbnf "A game of chess: "
--   perilune constrain --schema person.json --show-grammar

local pl = require "perilune"
local cli = require "perilune.cli"
local terminal = require "perilune.terminal"

local parser = cli.parser("constrain", "Text that keeps to a grammar, regular expression or JSON Schema.")
parser:argument("prompt", "The text to continue (default: standard input)"):args "*"
parser:option("--grammar", "A file with a grammar in GBNF"):argname "FILE"
parser:option("--regex", "The whole text matches this"):argname "PATTERN"
parser:option("--schema", "A file with a JSON Schema"):argname "FILE"
parser:flag("--show-grammar", "Only print the grammar that the form becomes")
parser:option("-n --max-new-tokens", "Tokens to make at most"):argname "N":default "256":convert(cli.whole(0))
parser:option("--temp", "Temperature; 0 takes the likeliest token"):argname "T":default "0.8"
  :convert(cli.number(0))
parser:option("--top-p", "Keep the likeliest tokens that make up P"):argname "P":convert(cli.number(0, 1))
parser:flag("--heal", "Let the prompt's last token be made anew")
parser:flag("-q --quiet", "No report at the end")

local args = cli.parse(parser)

local forms = (args.grammar and 1 or 0) + (args.regex and 1 or 0) + (args.schema and 1 or 0)
if forms ~= 1 then cli.usage("one of --grammar, --regex and --schema is needed") end
local gbnf = args.grammar and cli.read_file(args.grammar) or args.regex and pl.regex_grammar(args.regex)
  or pl.json_schema_grammar(pl.json.decode(cli.read_file(args.schema), args.schema))
if args.show_grammar then
  pl.grammar(gbnf)
  io.write(gbnf)
  return
end

local model = cli.load(args)
local prompt = cli.text(args.prompt)
local grammar = pl.grammar(gbnf, model)
local generator = model:generate(prompt, { grammar = grammar, max_new_tokens = args.max_new_tokens,
  seed = args.seed, temp = args.temp, top_p = args.top_p, token_healing = args.heal, logits = not args.heal })

-- The probability that the model itself gave to the tokens that the form allows.
local function share(logits)
  local allowed = grammar:apply(logits:clone())
  return math.exp(allowed:logsumexp() - logits:logsumexp())
end

io.write(terminal.paint(prompt, "bold"))
io.flush()
local left, steps = 0, 0
for piece, step in generator do
  io.write(piece)
  io.flush()
  if step.logits then
    left, steps = left + share(step.logits), steps + 1
    grammar:accept(step.id)
  end
end
print()

if not args.quiet then
  local kept = steps > 0 and (", which left %.0f %% of the model's probability on average")
    :format(100 * left / steps) or ""
  local ended = ({ grammar = "complete", eos = "complete", length = "cut" })[generator.finish_reason]
    or generator.finish_reason
  io.stderr:write(terminal.paint(("%d tokens (%s)%s; seed %d"):format(#generator.ids, ended, kept, generator.seed),
    "grey", 2), "\n")
end
