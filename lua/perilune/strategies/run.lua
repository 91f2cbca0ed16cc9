-- What strategies have in common: a run holds the options, the prompt, the sequences and the text of
-- one continuation. A strategy is made of a name, options of its own and a function of the run:
--
--     return Run.strategy("mine", { "my_option" }, function(run)
--       local seq, ids = run:start()
--       local logits = run:feed(seq, ids)
--       repeat
--         local id = logits:argmax()
--         local over = run:put(id)
--         if not over then logits = run:feed(seq, id) end
--       until over
--     end)
--
-- The function may return a table of further fields for the result. All that the run opened is
-- closed at its end. In a batch, run:feed and run:extend join the passes of all runs.

local pl = require "perilune"

local Run = {}
Run.__index = Run

local shared = { "max_new_tokens", "seed", "stop", "stop_token_ids", "ignore_eos", "max_time", "on_step" }
local sampling = { "sampler", "chain", "grammar", "regex", "json_schema" } -- and what samplers take
local synonyms = { temperature = "temp", max_tokens = "max_new_tokens", n_predict = "max_new_tokens",
  max_length = "max_new_tokens", stop_strings = "stop", eos_token_id = "stop_token_ids", random_seed = "seed",
  beams = "num_beams", beam_width = "num_beams", beam_size = "num_beams", n_beams = "num_beams",
  n_best = "num_return_sequences", cfg_scale = "guidance_scale", draft_model = "assistant_model",
  draft = "assistant_model", n_draft = "num_assistant_tokens", gamma = "greenlist_ratio", delta = "bias",
  phrases = "banned_strings", banned_phrases = "banned_strings", best_of = "n", num_samples = "n", reward = "score" }

-- -- options ---------------------------------------------------------------------------------------

-- A whole number of the options, from `least` on.
function Run:whole(name, otherwise, least)
  local value = self.opts[name]
  if value == nil then return otherwise end
  local whole = math.tointeger(value)
  if not whole or whole < (least or 0) then
    pl.fail("argument", "%s = %s: expected a whole number from %d", name, tostring(value), least or 0)
  end
  return whole
end

-- A number of the options, from `least` to `most`.
function Run:number(name, otherwise, least, most)
  local value = self.opts[name]
  if value == nil then return otherwise end
  if type(value) ~= "number" or not (value >= (least or -math.huge) and value <= (most or math.huge))
    or value ~= value or math.abs(value) == math.huge then
    pl.fail("argument", "%s = %s: expected a number%s%s", name, tostring(value),
      least and (" from %g"):format(least) or "", most and (" to %g"):format(most) or "")
  end
  return value
end

-- A value of the options that must be of a type: "function", "table", ...
function Run:typed(name, kind, needed)
  local value = self.opts[name]
  if value == nil and not needed then return nil end
  if type(value) ~= kind then pl.fail("argument", "%s is a %s: expected a %s", name, type(value), kind) end
  return value
end

-- Ids of a text, a list or a tensor of ids, as a list.
function Run:encode(value, what)
  local kind = type(value)
  if kind == "string" then
    return self.model:encode(value):to_table()
  elseif kind == "number" then
    return { value }
  elseif kind == "userdata" and value.to_table then
    return value:to_table()
  elseif kind ~= "table" then
    pl.fail("argument", "%s is a %s: expected a text or ids", what, kind)
  end
  return table.move(value, 1, #value, 1, {})
end

local function check_stops(run)
  local stop = run.opts.stop
  if type(stop) == "string" then stop = { stop } end
  if stop ~= nil and type(stop) ~= "table" then pl.fail("argument", "stop: expected a string or a list of strings") end
  for i, text in ipairs(stop or {}) do
    if type(text) ~= "string" or text == "" then
      pl.fail("argument", "stop: item %d is not a string with something in it", i)
    end
  end
  if stop and #stop > 0 and not run.tokenizer then pl.fail("argument", "stop: the model has no tokenizer") end
  return stop or {}
end

local function check_end_ids(run)
  local ids, set = run.opts.stop_token_ids, {}
  if type(ids) == "number" then ids = { ids } end
  for i, id in ipairs(ids or {}) do
    set[math.tointeger(id) or pl.fail("argument", "stop_token_ids: item %d is not an id", i)] = true
  end
  return set
end

-- A run over a prompt, or over what the sequence `from` holds.
local function new(strategy, model, prompt, opts, from)
  opts = pl.check_options(strategy.name, opts, strategy.options, synonyms)
  if type(model) ~= "userdata" or not model.config then
    pl.fail("argument", "%s: expected a model, got a %s", strategy.name, type(model))
  end
  if not model.config.causal then
    pl.fail("unsupported", "%s sees later tokens too: it cannot continue a text", model.config.arch)
  end
  local session = from and from.session or model.default_session
  local self = setmetatable({ model = model, from = from, session = session, tokenizer = model.tokenizer, opts = opts,
    name = strategy.name, open = {}, ids = {}, text = "", given = 0, marks = {}, children = {}, chains = {} },
    Run)
  self.prompt = self:encode(from and from:tokens() or prompt, strategy.name .. ": the prompt")
  if #self.prompt == 0 then pl.fail("argument", "%s: the prompt is empty", strategy.name) end
  self.n_prompt, self.n_vocab = #self.prompt, model.config.d_vocab
  self.limit = math.min(self:whole("max_new_tokens", math.maxinteger), self.session.n_ctx - self.n_prompt)
  self.seed = self:whole("seed", nil, math.mininteger) or math.random(0) & 0xffffffff
  self.stops, self.end_ids = check_stops(self), check_end_ids(self)
  self.on_step = self:typed("on_step", "function")
  local max_time = self:number("max_time", nil, 0)
  self.deadline = max_time and pl.clock() + max_time
  if self.tokenizer then self.decoder = self.tokenizer:decoder({ keep_leading = true }) end
  return self
end

-- -- sequences and passes --------------------------------------------------------------------------

-- A new, empty sequence of this model, or of another one.
function Run:sequence(model)
  local seq = (model or self.session):sequence()
  self.open[seq] = true
  return seq
end

-- A sequence to go on with, and the ids to feed it first: the prompt, or the last of what is held.
function Run:start()
  if not self.from then return self:sequence(), self.prompt end
  return self:fork(self.from):truncate(-1), { self.prompt[self.n_prompt] }
end

function Run:fork(seq)
  local copy = seq:fork()
  self.open[copy] = true
  return copy
end

function Run:drop(seq)
  self.open[seq] = nil
  seq:close()
end

-- One pass over items {seq, ids, logits = "last"|"all"|"none"}: the logits of each.
function Run:extend(items)
  if #items == 0 then return {} end
  return self.batched and coroutine.yield(items) or pl.extend(items)
end

-- One sequence's pass: its last logits, or those of all rows.
function Run:feed(seq, ids, rows)
  return self:extend({ { seq, ids, logits = rows or "last" } })[1]
end

-- -- choosing --------------------------------------------------------------------------------------

-- Where random numbers come from: each purpose has a stream of its own, and each position a place.
Run.streams = { token = 0, draft = 1, accept = 2, rest = 3, shape = 4, tree = 5 }

-- A number in [0, 1) of this position.
function Run:uniform(pos, stream) return Run.core.uniform(self.seed, Run.streams[stream], pos) end

-- The option `sampler` with run.edit after it, a strategy's own.
local function with_edit(opts, edit)
  local own, value = {}, opts.sampler
  for key, item in pairs(opts) do own[key] = item end
  local is_list = type(value) == "table" and not value.apply and type(value[1]) ~= "string" and #value > 0
  own.sampler = is_list and table.move(value, 1, #value, 1, {}) or { value }
  own.sampler[#own.sampler + 1] = edit
  return own
end

-- The samplers that the options mean, but for the last one, which chooses. self.grammars: those among them.
local function shaping(run)
  local opts, builder = run.opts, Run.core.chain_builder
  local constraint = pl.constraint(opts, run.tokenizer)
  local list
  run.grammars = { constraint }
  if opts.chain ~= nil then
    if type(opts.chain) ~= "table" then pl.fail("argument", "chain is a %s: expected a list", type(opts.chain)) end
    builder.check_alone(opts)
    list = { constraint }
    list[#list + 1] = run.edit
    for _, item in ipairs(opts.chain) do
      list[#list + 1] = item
      if pl.is_grammar(item) then run.grammars[#run.grammars + 1] = item end
    end
  else
    list = builder.from_options(run.edit and with_edit(opts, run.edit) or opts, run.model, { constraint })
  end
  local last = list[#list]
  if last == "greedy" then
    list[#list] = { temp = 0 }
  elseif last == "dist" then
    list[#list] = nil
  elseif opts.chain == nil then
    pl.fail("unsupported", "%s chooses the token, which is for %s to do", tostring(last[1] or last), run.name)
  end
  return list
end

-- The chain of the options, `watch` called with what they leave, and a draw from that, which refuses
-- logits that are no distribution; built once for each purpose.
local function chain_for(run, purpose, watch)
  local chain = run.chains[purpose]
  if chain then return chain end
  local list = shaping(run)
  run.untouched = #list == 0
  list[#list + 1] = watch
  list[#list + 1] = "dist"
  local opened, wants = Run.core.chain_builder.open(list, run.model, run.seed, Run.streams[purpose])
  run.chains[purpose], chain = opened, opened
  if #wants > 0 then pl.fail("unsupported", "a sampler wants to see %s: only model:generate shows it", wants[1]) end
  return chain
end

-- Runs a chain over the logits. Its samplers see the text from the beginning on, so that beams and
-- rewinds need no state of theirs.
local function sample(run, chain, logits, pos, ids, seq)
  if run.untouched then return chain:sample(logits, pos) end
  local own = run.grammars[1] and chain:clone() or chain -- grammars know no reset
  own:reset(run.prompt)
  for _, id in ipairs(ids) do own:accept(id) end
  local context = run:context(pos, ids, seq)
  context.random = function() return own:random() end
  local id, prob, entropy = own:sample(logits, pos, context)
  if own ~= chain then own:close() end
  return id, prob, entropy
end

-- The logits of the position after the prompt and `ids` (run.ids unless said otherwise), as temp,
-- top_k and so on leave them (-inf: removed), as a new tensor.
function Run:shape(logits, pos, ids, seq)
  local shaped
  self.keep = function(result) shaped = result:clone() end
  local chain = chain_for(self, "shape", function(result) self.keep(result) end)
  sample(self, chain, logits:clone(), pos, ids or self.ids, seq)
  return shaped
end

-- The token that model:generate would draw here, with its probability under the model itself and the
-- model's entropy.
function Run:choose(logits, pos, ids, seq)
  local chain = chain_for(self, "token")
  return sample(self, chain, logits:clone(), pos, ids or self.ids, seq)
end

-- A token drawn from logits as they are, by the random number that this position has in this stream.
function Run:draw(logits, pos, stream)
  local key = "draw " .. stream
  self.chains[key] = self.chains[key]
    or Run.core.new_chain({ "dist" }, self.n_vocab, self.seed, Run.streams[stream], self.model)
  return self.chains[key]:sample(logits:clone(), pos)
end

-- What samplers written in Lua are told.
function Run:context(pos, ids, seq)
  local all = table.move(self.prompt, 1, self.n_prompt, 1, {})
  ids = ids or self.ids
  table.move(ids, 1, #ids, #all + 1, all)
  return { seq = seq, model = self.model, n_prompt = self.n_prompt, seed = self.seed, ids = all, pos = pos,
    n = #ids, step = #ids }
end

-- Log probabilities of the model itself, or of what temp and the others make of it.
function Run:log_probs(logits, pos, ids, seq) return self:shape(logits, pos, ids, seq):log_softmax() end

-- -- the text --------------------------------------------------------------------------------------

-- Why this token ends a text, if it does: "stop" or "eos".
function Run:ends(id)
  if self.end_ids[id] then return "stop" end
  local tok = self.tokenizer
  if tok and not self.opts.ignore_eos and id < tok.n_tokens and tok:is_end(id) then return "eos" end
end

-- Whether a grammar's text is whole with these ids, so that nothing may follow.
function Run:is_whole(ids)
  for _, grammar in ipairs(self.grammars or {}) do
    local at <close> = grammar:fork()
    for _, id in ipairs(ids) do at:accept(id) end
    if not at.may_go_on then return true end
  end
  return false
end

-- Where the first stop string begins in the text, if one is there.
local function find_stop(run)
  local first, found
  for _, stop in ipairs(run.stops) do
    local at = run.text:find(stop, 1, true)
    if at and (not first or at < first) then first, found = at, stop end
  end
  return first, found
end

-- How much of the text cannot be the beginning of a stop string, nor is held back by run:settled().
local function safe_length(run)
  if run.settled then return run:settled() end
  for n = #run.text, 1, -1 do
    local tail, apart = run.text:sub(-n), true
    for _, stop in ipairs(run.stops) do
      if n < #stop and stop:sub(1, n) == tail then apart = false end
    end
    if not apart then return #run.text - n end
  end
  return #run.text
end

-- Gives the text that is settled to on_step.
local function report(run, step, upto)
  local piece = run.text:sub(run.given + 1, upto)
  run.given = math.max(run.given, upto)
  if run.on_step and run.on_step(piece, step) == false then
    run.finish_reason = run.finish_reason or "script"
  end
end

-- Takes the next token of the text; true when it was the last one. `step` holds more fields for on_step.
function Run:put(id, step)
  id = math.tointeger(id)
  step = step or {}
  step.id, step.pos = id, self.n_prompt + #self.ids
  local ending = self:ends(id)
  if ending then
    self.finish_reason = ending
    if self.decoder then self.text = self.text .. self.decoder:flush() end
  else
    self.ids[#self.ids + 1] = id
    self.marks[#self.ids] = #self.text -- where its text begins
    if self.decoder then self.text = self.text .. self.decoder:put(id) end
    if self:is_whole(self.ids) then
      self.finish_reason = "grammar"
    elseif #self.ids >= self.limit then
      self.finish_reason = "length"
    end
    if self.finish_reason and self.decoder then self.text = self.text .. self.decoder:flush() end
  end
  local at, stop = find_stop(self)
  if at then self.text, self.stop, self.finish_reason = self.text:sub(1, at - 1), stop, "stop" end
  if not self.finish_reason and self.deadline and pl.clock() >= self.deadline then self.finish_reason = "time" end
  step.finish_reason = self.finish_reason
  if self.on_step then report(self, step, self.finish_reason and #self.text or safe_length(self)) end
  return self.finish_reason and true or false
end

-- Draws tokens until the text ends, first from `logits`, then from what feed(id) gives.
function Run:loop(logits, feed)
  local over
  repeat
    local pos = self.n_prompt + #self.ids
    local id, prob, entropy = self:choose(logits, pos)
    over = self:put(id, { prob = prob, entropy = entropy })
    if not over then logits = feed(id) end
  until over
end

-- Goes back to the first n tokens; what on_step was given is not taken back.
function Run:take_back(n)
  for i = #self.ids, n + 1, -1 do self.ids[i], self.marks[i] = nil, nil end
  if not self.decoder then return end
  self.decoder, self.text = self.tokenizer:decoder({ keep_leading = true }), ""
  for _, id in ipairs(self.ids) do self.text = self.text .. self.decoder:put(id) end
end

-- n continuations drawn side by side, a pass a step for all: a list of runs with ids, text,
-- finish_reason, sum_logprobs under the model itself, and seeds from this run's on. Each is what
-- the sample strategy gives under its seed.
function Run:samples(n)
  if self.on_step then pl.fail("unsupported", "%s: several texts grow at once: there is no on_step", self.name) end
  local active, opts, root, ids = {}, {}, self:start()
  local logits = self:feed(root, ids)
  for key, value in pairs(self.opts) do opts[key] = value end
  for i = 1, n do
    local child = setmetatable({ opts = opts, seed = self.seed + i - 1, open = {}, ids = {}, text = "", given = 0,
      marks = {}, children = {}, sum_logprobs = 0, seq = self:fork(root), logits = logits }, { __index = self })
    child.chains, child.finish_reason = {}, false
    if self.tokenizer then child.decoder = self.tokenizer:decoder({ keep_leading = true }) end
    self.children[i], active[i] = child, child
  end
  while #active > 0 do
    local items, going = {}, {}
    for _, child in ipairs(active) do
      local pos = self.n_prompt + #child.ids
      local id = child:choose(child.logits, pos, child.ids, child.seq)
      child.sum_logprobs = child.sum_logprobs + child.logits:log_softmax()[id]
      if child:put(id) then
        self:drop(child.seq)
      else
        going[#going + 1], items[#items + 1] = child, { child.seq, { id }, logits = "last" }
      end
    end
    for i, result in ipairs(self:extend(items)) do going[i].logits = result end
    active = going
  end
  return table.move(self.children, 1, n, 1, {})
end

-- The text of ids that continue the prompt.
function Run:text_of(ids)
  if not self.tokenizer then return "" end
  local decoder, pieces = self.tokenizer:decoder({ keep_leading = true }), {}
  for i, id in ipairs(ids) do pieces[i] = decoder:put(id) end
  return table.concat(pieces) .. decoder:flush()
end

-- -- strategies ------------------------------------------------------------------------------------

local Result = { __tostring = function(result) return result.text end, __name = "perilune.result" }

-- Closes all that the run opened.
function Run:close()
  for seq in pairs(self.open) do seq:close() end
  self.open = {}
  for _, child in ipairs(self.children) do child:close() end
  for _, chain in pairs(self.chains) do chain:close() end
  for _, hook in ipairs(rawget(self, "hooks") or {}) do hook:remove() end
end
Run.__close = Run.close

-- A hook on a sequence that is gone with the run.
function Run:hook(seq, ...)
  self.hooks = self.hooks or {}
  self.hooks[#self.hooks + 1] = seq:hook(...)
end

local function finish(run, extra)
  local result = { text = run.text, ids = run.ids, finish_reason = run.finish_reason or "length", stop = run.stop,
    seed = run.seed, n_prompt = run.n_prompt, n_new = #run.ids }
  for key, value in pairs(extra or {}) do result[key] = value end
  return setmetatable(result, Result)
end

local Strategy = {}
Strategy.__index = Strategy

-- Runs to the end. Ctrl-C ends it too, with what there is.
local function complete(run, body)
  if run.limit <= 0 then return finish(run) end
  local good, extra = pcall(body, run)
  if good then return finish(run, extra) end
  local kind = (type(extra) == "table" or type(extra) == "userdata") and extra.kind
  if kind ~= "interrupted" or #run.ids == 0 then error(extra, 0) end
  Run.core.clear_interrupt()
  run.finish_reason = "interrupted"
  return finish(run)
end

function Strategy:__call(model, prompt, opts)
  local run <close> = new(self, model, prompt, opts)
  return complete(run, self.run)
end

-- Goes on from a sequence, which then holds the tokens of the result.
function Strategy:on(seq, opts, batched)
  if seq.length == 0 then
    pl.fail("argument", "%s: there is nothing to go on from: the sequence is empty", self.name)
  end
  local run <close> = new(self, seq.model, nil, opts, seq)
  run.batched = batched
  local result = complete(run, self.run)
  if #result.ids > 0 then run:extend({ { seq, result.ids, logits = "none" } }) end
  return result
end

-- One step of all: what each wants fed is fed in one pass for each session.
local function feed_all(wanted)
  local passes, places = {}, {}
  for place, items in pairs(wanted) do
    local session = items[1][1].session
    local pass = passes[session] or {}
    passes[session] = pass
    places[place] = { session = session, from = #pass, n = #items }
    table.move(items, 1, #items, #pass + 1, pass)
  end
  for session, pass in pairs(passes) do passes[session] = pl.extend(pass) end
  for place, part in pairs(places) do
    places[place] = table.move(passes[part.session], part.from + 1, part.from + part.n, 1, {})
  end
  return places
end

--- Runs functions side by side, which yield the items that they want fed: what each gives.
---@param functions function[]
---@return any[]
function Run.together(functions)
  local threads, results, answers, n_open = {}, {}, {}, #functions
  local all <close> = setmetatable({}, { __close = function() -- luacheck: ignore 211
    for _, thread in ipairs(threads) do coroutine.close(thread) end
  end })
  for i, fn in ipairs(functions) do threads[i] = coroutine.create(fn) end
  while n_open > 0 do
    local wanted = {}
    for i, thread in ipairs(threads) do
      if coroutine.status(thread) ~= "dead" then
        local good, value = coroutine.resume(thread, answers[i])
        if not good then error(value, 0) end
        if coroutine.status(thread) == "dead" then
          results[i], n_open = value, n_open - 1
        else
          wanted[i] = value
        end
      end
    end
    answers = feed_all(wanted)
  end
  return results
end

-- Several prompts together: each result is what the prompt gives alone.
function Strategy:batch(model, prompts, opts)
  if type(prompts) ~= "table" then pl.fail("argument", "batch: expected a list of prompts, got a %s", type(prompts)) end
  local functions = {}
  for i, prompt in ipairs(prompts) do
    functions[i] = function()
      local run <close> = new(self, model, prompt, opts)
      run.batched = true
      return complete(run, self.run)
    end
  end
  return Run.together(functions)
end

--- A strategy: run(run) gives the tokens to run:put, or returns fields of the result.
---@param name string
---@param options string[] besides those that all have; "sampling" stands for temp, top_k, ...
---@param run fun(run: table): table?
function Run.strategy(name, options, run)
  local known = table.move(shared, 1, #shared, 1, {})
  for _, option in ipairs(options) do
    if option == "sampling" then
      local samplers = Run.core.chain_builder.options
      table.move(sampling, 1, #sampling, #known + 1, known)
      table.move(samplers, 1, #samplers, #known + 1, known)
    else
      known[#known + 1] = option
    end
  end
  return setmetatable({ name = name, options = known, run = run }, Strategy)
end

return Run
