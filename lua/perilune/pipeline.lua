-- Text phases, in the manner of writing tools: functions on the prompt before, on the distribution
-- during, and on the text after.
--
--     local tidy = pl.pipeline {
--       before = function(prompt) return "[ Style: terse ]\n" .. prompt end,
--       during = function(logits, ctx) logits[unwanted] = -math.huge end,
--       after = function(text, result) return text:match("^%s*(.-)%s*$") end,
--     }
--     print(tidy:complete(model, "Once upon a time", { temp = 0.8, max_new_tokens = 60 }))
--     local both = tidy .. pl.pipeline { after = string.upper }
--
-- Each phase is a function or a list of them, called in turn; one that returns nothing leaves what it
-- got (`during` edits the logits in place). Options go to model:complete, a strategy's name among them.

return function(pl)
  local Pipeline = {}
  Pipeline.__index = Pipeline
  Pipeline.__name = "perilune.pipeline"

  local phases = { "before", "during", "after" }

  local function check_phase(name, value)
    local list = type(value) == "function" and { value } or value == nil and {} or value
    if type(list) ~= "table" then
      pl.fail("argument", "pipeline: %s is a %s: expected a function or a list", name, type(value))
    end
    for i, fn in ipairs(list) do
      if type(fn) ~= "function" then
        pl.fail("argument", "pipeline: %s: item %d is a %s: expected a function", name, i, type(fn))
      end
    end
    return table.move(list, 1, #list, 1, {})
  end

  function pl.pipeline(opts)
    opts = pl.check_options("pipeline", opts, phases, { prompt_hook = "before", input = "before", inmod = "before",
      sampler = "during", logits = "during", genmod = "during", output = "after", outmod = "after" })
    local self = setmetatable({}, Pipeline)
    for _, name in ipairs(phases) do self[name] = check_phase(name, opts[name]) end
    return self
  end

  -- The first one's functions come first in each phase.
  function Pipeline.__concat(a, b)
    local both = setmetatable({}, Pipeline)
    for _, name in ipairs(phases) do
      both[name] = table.move(b[name], 1, #b[name], #a[name] + 1, table.move(a[name], 1, #a[name], 1, {}))
    end
    return both
  end

  -- A text through the functions of a phase.
  local function pass(phase, functions, text, ...)
    for i, fn in ipairs(functions) do
      local changed = fn(text, ...)
      if changed ~= nil and type(changed) ~= "string" then
        pl.fail("argument", "pipeline: %s: item %d gave a %s: expected a text or nothing", phase, i, type(changed))
      end
      text = changed or text
    end
    return text
  end

  -- The options with `during` as samplers: first in a chain, else after the option `sampler`.
  local function with_during(functions, opts)
    local own = {}
    for key, value in pairs(opts or {}) do own[key] = value end
    if #functions == 0 then return own end
    local function during(logits, ctx)
      for _, fn in ipairs(functions) do
        local result = fn(logits, ctx)
        if result ~= nil then return result end
      end
    end
    if own.chain then
      own.chain = table.move(own.chain, 1, #own.chain, 2, { during })
    else
      local value = own.sampler
      local is_list = type(value) == "table" and not value.apply and #value > 0 and type(value[1]) ~= "string"
      own.sampler = is_list and table.move(value, 1, #value, 1, {}) or { value }
      own.sampler[#own.sampler + 1] = during
    end
    return own
  end

  local function check_prompt(prompt)
    if type(prompt) ~= "string" then
      pl.fail("argument", "pipeline: the prompt is a %s: expected a text", type(prompt))
    end
  end

  -- As model:complete; the text before the last phase is raw_text.
  function Pipeline:complete(model, prompt, opts)
    check_prompt(prompt)
    local own = with_during(self.during, opts)
    local result = model:complete(pass("before", self.before, prompt, own), own)
    result.raw_text = result.text
    result.text = pass("after", self.after, result.text, result)
    return result
  end

  -- As model:generate; a text that comes piece by piece has no phase after.
  function Pipeline:generate(model, prompt, opts)
    check_prompt(prompt)
    if #self.after > 0 then
      pl.fail("argument", "pipeline: a text that comes piece by piece has no phase after: use complete")
    end
    local own = with_during(self.during, opts)
    return model:generate(pass("before", self.before, prompt, own), own)
  end
end
