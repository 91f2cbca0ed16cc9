--- Examples to tune a model on: JSON lines of prompts and answers, as token ids with the place where
--- the answer begins.

local pl = require "perilune"

local examples = {}

local function lines_of(path)
  local list, number = {}, 0
  for line in (pl.read_file(path) .. "\n"):gmatch("(.-)\r?\n") do
    number = number + 1
    if line:find("%S") then
      local good, value = pcall(pl.json.decode, line)
      if not good or type(value) ~= "table" then
        pl.fail("format", "%s, line %d: expected a JSON object%s", path, number,
          good and "" or ": " .. tostring(value.message or value))
      end
      list[#list + 1] = { value = value, where = ("%s, line %d"):format(path, number) }
    end
  end
  if #list == 0 then pl.fail("format", "%s: there is no example in it", path) end
  return list
end

local function text_of(line, name)
  local value = line.value[name]
  if type(value) ~= "string" then
    pl.fail("format", "%s: %s is a %s, expected a string", line.where, name, type(value))
  end
  return value
end

local function encode(model, text) return model:encode(text, { add_special = false, parse_special = true }) end

-- What stands before the answer: by the chat template where there is one, else the prompt and a new
-- line.
local function before_answer(model, messages)
  if model:chat_template() then
    return model:apply_chat_template(messages, { add_generation_prompt = true })
  end
  local parts = {}
  for i, message in ipairs(messages) do parts[i] = message.content .. "\n" end
  return table.concat(parts)
end

--- Ids of a prompt (messages) and its answer, which the end of text follows.
---@param model perilune.Model
---@param messages table[] {role, content}
---@param answer string
---@param where? string for errors
---@return table {ids, n_prompt, prompt, answer}
function examples.example(model, messages, answer, where)
  local prompt = before_answer(model, messages)
  local head, tail = encode(model, prompt), encode(model, answer)
  local eos = model.tokenizer.special.eos
  local parts = { head, tail }
  if eos then parts[3] = pl.tensor({ eos }, { dtype = "int32" }) end
  local ids = pl.cat(parts)
  local most = model.config.n_ctx
  if #ids > most then
    pl.fail("argument", "%s: %d tokens do not fit the context of %d", where or "an example", #ids, most)
  end
  if #head == 0 then pl.fail("argument", "%s: an empty prompt", where or "an example") end
  return { ids = ids, n_prompt = #head, prompt = prompt, answer = answer }
end

--- Reads {"prompt", "answer"} or {"messages": [{"role", "content"}, ...]} lines; of messages every
--- answer of the assistant becomes an example.
---@param model perilune.Model
---@param path string
---@return table[]
function examples.read(model, path)
  local list = {}
  for _, line in ipairs(lines_of(path)) do
    local messages = line.value.messages
    if messages then
      local so_far = {}
      for i, message in ipairs(messages) do
        if type(message) ~= "table" or type(message.content) ~= "string" then
          pl.fail("format", "%s: message %d has no content", line.where, i)
        end
        if message.role == "assistant" and #so_far > 0 then
          list[#list + 1] = examples.example(model, so_far, message.content, line.where)
        end
        so_far[#so_far + 1] = message
      end
    else
      list[#list + 1] = examples.example(model, { { role = "user", content = text_of(line, "prompt") } },
        text_of(line, "answer"), line.where)
    end
  end
  if #list == 0 then pl.fail("format", "%s: there is no answer in it", path) end
  return list
end

--- Reads {"prompt", "chosen", "rejected"} lines.
---@param model perilune.Model
---@param path string
---@return table[] {chosen, rejected}, both examples
function examples.read_pairs(model, path)
  local list = {}
  for i, line in ipairs(lines_of(path)) do
    local messages = { { role = "user", content = text_of(line, "prompt") } }
    list[i] = { chosen = examples.example(model, messages, text_of(line, "chosen"), line.where),
      rejected = examples.example(model, messages, text_of(line, "rejected"), line.where) }
  end
  return list
end

-- Inputs of several examples, and what follows each token: -100 where it is not the answer's.
local function inputs_and_targets(list)
  local inputs, targets = {}, {}
  for i, example in ipairs(list) do
    local n = #example.ids
    inputs[i] = example.ids:narrow(0, 0, n - 1)
    local target = example.ids:narrow(0, 1, n - 1):long()
    if example.n_prompt > 1 then target:narrow(0, 0, example.n_prompt - 1):fill_(-100) end
    targets[i] = target
  end
  return inputs, targets
end

--- The mean loss in nats over the tokens of the answers.
---@param model perilune.Model trainable, where a gradient is wanted
---@param list table[] examples
---@return perilune.Tensor|number
function examples.loss(model, list)
  local inputs, targets = inputs_and_targets(list)
  return model:forward(inputs):cross_entropy(pl.cat(targets))
end

--- The mean loss in nats over the tokens of all answers of a list, of which a few are read at a time.
---@param model perilune.Model
---@param list table[] examples
---@return number
function examples.mean_loss(model, list)
  local sum, count = 0, 0
  for i = 1, #list, 8 do
    local part, n = table.move(list, i, math.min(#list, i + 7), 1, {}), 0
    for _, example in ipairs(part) do n = n + #example.ids - example.n_prompt end
    sum = sum + n * pl.no_grad(function() return examples.loss(model, part) end)
    count = count + n
  end
  return sum / count
end

--- At most n of a list, evenly spread over it: enough of a long one to measure on.
---@param list table[]
---@param n integer
---@return table[]
function examples.spread(list, n)
  if #list <= n then return list end
  local some = {}
  for i = 1, n do some[i] = list[1 + (i - 1) * #list // n] end
  return some
end

--- The log probability of each answer, given its prompt.
---@param model perilune.Model
---@param list table[] examples
---@return table of perilune.Tensor|number
function examples.log_probs(model, list)
  local inputs, targets = inputs_and_targets(list)
  local losses = model:forward(inputs):cross_entropy(pl.cat(targets), { reduction = "none" })
  local out, at = {}, 0
  for i, target in ipairs(targets) do
    out[i] = -losses:narrow(0, at, #target):sum()
    at = at + #target
  end
  return out
end

--- A few of the list, drawn for a step.
---@param list table[]
---@param n integer
---@param seed integer
---@param step integer
---@return table[]
function examples.draw(list, n, seed, step)
  local places, drawn = pl.rand(n, { seed = (seed * 1000003 + step) & 0x7fffffffffff }):to_table(), {}
  for i = 1, n do drawn[i] = list[math.min(#list, 1 + math.floor(places[i] * #list))] end
  return drawn
end

return examples
