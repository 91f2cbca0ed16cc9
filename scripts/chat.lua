-- A conversation with a model.
--
-- Messages become text by the model's chat template; a model without one gets a plain form of
-- "User:" and "Assistant:" lines, and no more sense than it was trained to. What was said stays in the
-- sequence, so that each answer costs only what is new. /new begins again, /quit ends; Ctrl-C ends an
-- answer.
--
--   perilune chat -m model.gguf
--   perilune chat -m model.gguf --system "Answer in one sentence." --temp 0.7
--   echo "What is a tensor?" | perilune chat -m model.gguf

local pl = require "perilune"
local cli = require "perilune.cli"
local terminal = require "perilune.terminal"

local parser = cli.parser("chat", "A conversation with a model.")
parser:option("--system", "What the model is told first"):argname "TEXT"
parser:option("-n --max-new-tokens", "Tokens of an answer at most"):argname "N":default "512":convert(cli.whole(1))
parser:option("--temp", "Temperature; 0 takes the likeliest token"):argname "T":default "0.8"
  :convert(cli.number(0))
parser:option("--top-p", "Keep the likeliest tokens that make up P"):argname "P":default "0.95"
  :convert(cli.number(0, 1))
parser:option("--template", "A file with another chat template"):argname "FILE"

local args = cli.parse(parser)
local model = cli.load(args)
local seq = model:sequence()

local function note(format, ...) io.stderr:write(terminal.paint(format:format(...), "grey", 2), "\n") end

local template = args.template and pl.read_file(args.template) or model:chat_template()
if not template then
  note("%s has no chat template: it gets a plain User/Assistant form.", model.name or "the model")
end

local function start() return args.system and { { role = "system", content = args.system } } or {} end

-- The conversation as ids.
local function ids_of(messages)
  if template then
    return model:apply_chat_template(messages, { add_generation_prompt = true, chat_template = template,
      tokenize = true }):to_table()
  end
  return model:encode(pl.plain_chat(messages, { add_generation_prompt = true })):to_table()
end

-- Drops the oldest turns until an answer has room.
local function fit(messages)
  local first, ids = args.system and 2 or 1, ids_of(messages)
  local room = math.min(args.max_new_tokens, seq.session.n_ctx // 4)
  local dropped = 0
  while #ids + room > seq.session.n_ctx and #messages > first do
    table.remove(messages, first)
    if messages[first] and messages[first].role == "assistant" then table.remove(messages, first) end
    dropped = dropped + 1
    ids = ids_of(messages)
  end
  if dropped > 0 then note("(the oldest %d of the questions no longer fit and are forgotten)", dropped) end
  return ids
end

-- Keeps what the sequence has in common with ids, and gives the rest.
local function rest_of(ids)
  local held, n = seq:tokens():to_table(), 0
  while n < #held and n < #ids - 1 and held[n + 1] == ids[n + 1] do n = n + 1 end
  if n < #held then seq:truncate(n) end
  return table.move(ids, n + 1, #ids, 1, {})
end

local function answer(messages)
  local first = true
  local result = seq:complete(rest_of(fit(messages)), { max_new_tokens = args.max_new_tokens, temp = args.temp,
    top_p = args.top_p, seed = args.seed, stop = not template and "\nUser:" or nil,
    on_step = function(piece)
      if first then piece = piece:gsub("^%s+", "") end
      first = first and piece == ""
      io.write(piece)
      io.flush()
    end })
  print()
  if result.finish_reason == "length" then note("(cut after %d tokens)", result.n_new) end
  return result.text
end

local asking = terminal.is_terminal(0)
if asking then note("/new begins again, /quit ends.") end
local messages = start()
while true do
  if asking then
    io.write(terminal.paint("> ", "blue"))
    io.flush()
  end
  local line = io.read("l")
  if not line or line == "/quit" then break end
  if line == "/new" then
    messages = start()
    seq:truncate(0)
  elseif line:find("^/%w+$") then
    note("%s is no command; there are /new and /quit", line)
  elseif line:find("%S") then
    messages[#messages + 1] = { role = "user", content = line }
    messages[#messages + 1] = { role = "assistant", content = answer(messages) }
  end
end
if asking then print() end
