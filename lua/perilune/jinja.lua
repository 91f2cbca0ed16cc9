-- Jinja, as chat templates use it: pl.jinja(source) -> template; template(variables) -> text.
--
--     local render = pl.jinja("{% for m in messages %}{{ m.role }}: {{ m.content }}\n{% endfor %}")
--     render({ messages = { { role = "user", content = "Hi" } } })     -- "user: Hi\n"
--
-- There are for (with else, if, break and continue; loop.*), if, set, set blocks, macro, raw,
-- generation; conditions, comparisons, arithmetic, ~, slices, calls; the filters, tests and methods
-- of jinja_filters.lua; range, namespace, dict, raise_exception, strftime_now. Whatever is outside of
-- that is an error that names it and its line. No template can hang: steps, nesting and the size of
-- texts are limited.

local lexer = require "perilune.jinja_lexer"
local parser = require "perilune.jinja_parser"
local values = require "perilune.jinja_values"

local MAX_STEPS, MAX_DEPTH, MAX_RANGE, ROUND_STEPS = 2000000, 120, 100000, 8

return function(pl)
  local library = require "perilune.jinja_filters"(pl)
  local Run = {}
  Run.__index = Run

  local function fail(line, format, ...) lexer.fail(line, format, ...) end

  -- Everything costs steps, long values more than short ones.
  function Run:charge(value, line)
    local cost = 1
    if type(value) == "string" then
      cost = 1 + (#value >> 8)
    elseif values.is_list(value) then
      cost = 1 + value.n
    end
    self.steps = self.steps + cost
    if self.steps > MAX_STEPS then fail(line, "the template takes over %d steps", MAX_STEPS) end
    return value
  end

  local function suggest(name, set)
    local names = {}
    for known in pairs(set) do names[#names + 1] = known end
    table.sort(names)
    local near = pl.nearest and pl.nearest(name, names)
    return near and ("; did you mean '%s'?"):format(near) or ""
  end

  -- -- names ---------------------------------------------------------------------------------

  local function lookup(scope, name)
    while scope do
      local value = scope.names[name]
      if value ~= nil then return value end
      scope = scope.outer
    end
    return values.undefined(name)
  end

  local function new_scope(outer) return { names = {}, outer = outer } end

  -- -- expressions ---------------------------------------------------------------------------

  local EXPRESSIONS = {}

  function Run:value(node, scope)
    self.depth = self.depth + 1
    if self.depth > MAX_DEPTH then fail(node.line, "nested over %d deep", MAX_DEPTH) end
    local value = EXPRESSIONS[node.kind](self, node, scope)
    self.depth = self.depth - 1
    return self:charge(value, node.line)
  end

  function EXPRESSIONS.constant(_, node) return node.value end
  function EXPRESSIONS.none() return values.none end
  function EXPRESSIONS.name(_, node, scope) return lookup(scope, node.name) end

  function EXPRESSIONS.list(run, node, scope)
    local list = {}
    for i, item in ipairs(node.items) do list[i] = run:value(item, scope) end
    return node.tuple and values.tuple(list) or values.list(list)
  end

  function EXPRESSIONS.dict(run, node, scope)
    local dict = values.dict()
    for _, item in ipairs(node.items) do
      values.set(dict, run:value(item[1], scope), run:value(item[2], scope), node.line)
    end
    return dict
  end

  function EXPRESSIONS.condition(run, node, scope)
    if values.truth(run:value(node.test, scope)) then return run:value(node.yes, scope) end
    return node.no and run:value(node.no, scope) or values.undefined("else")
  end
  EXPRESSIONS["and"] = function(run, node, scope)
    local left = run:value(node.left, scope)
    if not values.truth(left) then return left end
    return run:value(node.right, scope)
  end
  EXPRESSIONS["or"] = function(run, node, scope)
    local left = run:value(node.left, scope)
    if values.truth(left) then return left end
    return run:value(node.right, scope)
  end
  EXPRESSIONS["not"] = function(run, node, scope) return not values.truth(run:value(node.value, scope)) end

  function EXPRESSIONS.negate(run, node, scope)
    local value = run:value(node.value, scope)
    if type(value) ~= "number" then fail(node.line, "%s of a %s", node.operator, values.kind(value)) end
    return node.operator == "-" and -value or value
  end

  function EXPRESSIONS.arithmetic(run, node, scope)
    local left, right = run:value(node.left, scope), run:value(node.right, scope)
    return values.arithmetic(node.operator, left, right, node.line)
  end

  function EXPRESSIONS.concat(run, node, scope)
    local left, right = values.text(run:value(node.left, scope)), values.text(run:value(node.right, scope))
    values.check_text(#left + #right, node.line)
    return left .. right
  end

  local function compare(run, operator, a, b, line)
    if operator == "in" or operator == "not in" then
      run:charge(b, line)
      return values.contains(b, a, line) == (operator == "in")
    end
    if operator == "==" then return values.equal(a, b) end
    if operator == "!=" then return not values.equal(a, b) end
    if operator == "<" then return values.less(a, b, line) end
    if operator == ">" then return values.less(b, a, line) end
    if operator == "<=" then return not values.less(b, a, line) end
    return not values.less(a, b, line)
  end

  function EXPRESSIONS.compare(run, node, scope)
    local left = run:value(node.first, scope)
    for _, part in ipairs(node.list) do
      local right = run:value(part.value, scope)
      if not compare(run, part.operator, left, right, node.line) then return false end
      left = right
    end
    return true
  end

  local function bound_method(value, set, name)
    local fn = set[name]
    return fn and function(arguments, named, line)
      return fn({ value, table.unpack(arguments) }, named, line)
    end
  end

  -- value.name: Python's methods come before a dict's own keys.
  function EXPRESSIONS.attribute(run, node, scope)
    local value, name = run:value(node.value, scope), node.name
    if values.is_undefined(value) then
      fail(node.line, "'%s' is not defined, so it has no '%s'", tostring(value.name), name)
    end
    if type(value) == "string" then
      local method = bound_method(value, library.text_methods, name)
      if method then return method end
    elseif values.is_dict(value) then
      local method = not value.namespace and bound_method(value, library.dict_methods, name)
      if method then return method end
      if value.map[name] ~= nil then return value.map[name] end
    end
    local missing = values.undefined(name)
    missing.owner = values.kind(value)
    return missing
  end

  function EXPRESSIONS.item(run, node, scope)
    local value, key = run:value(node.value, scope), run:value(node.key, scope)
    if values.is_undefined(value) then
      fail(node.line, "'%s' is not defined, so it has no items", tostring(value.name))
    end
    if values.is_dict(value) then
      if type(key) ~= "table" and value.map[key] ~= nil then return value.map[key] end
      local method = type(key) == "string" and bound_method(value, library.dict_methods, key)
      return method or values.undefined(values.text(key))
    end
    if math.type(key) == "integer" and (values.is_list(value) or type(value) == "string") then
      local list = type(value) == "string" and values.characters(value) or value
      run:charge(value, node.line)
      local item = list[(key < 0 and key + list.n or key) + 1]
      if item ~= nil and key >= -list.n then return item end
      return values.undefined(values.text(key))
    end
    return values.undefined(values.text(key))
  end

  function EXPRESSIONS.slice(run, node, scope)
    local function index(part)
      local value = part and run:value(part, scope)
      if value == nil or value == values.none then return nil end
      return math.type(value) == "integer" and value or fail(node.line, "a slice with a %s", values.kind(value))
    end
    return values.slice(run:value(node.value, scope), index(node.from), index(node.to), index(node.step), node.line)
  end

  -- The arguments of a call: a list, and a table by name whose items are the names in order.
  local function evaluate(run, node, scope, first)
    local list, named = { first }, {}
    for _, argument in ipairs(node.arguments) do
      if argument.kind == "spread" then
        local items = values.iterate(run:value(argument.value, scope), argument.line)
        table.move(items, 1, items.n, #list + 1, list)
      else
        list[#list + 1] = run:value(argument, scope)
      end
    end
    for i, name in ipairs(node.named or {}) do
      named[i], named[name] = name, run:value(node.named[name], scope)
    end
    return list, named
  end

  local function call(run, node, scope, caller)
    local callee = run:value(node.callee, scope)
    if type(callee) ~= "function" then
      local name = node.callee.name or "this"
      if values.is_undefined(callee) then
        if callee.owner then fail(node.line, "the method '%s' of %ss is not supported", name, callee.owner) end
        fail(node.line, "the function '%s' is not supported", name)
      end
      fail(node.line, "'%s' is a %s and cannot be called", name, values.kind(callee))
    end
    local arguments, named = evaluate(run, node, scope)
    named.caller = caller
    local result = callee(arguments, named, node.line)
    if result == nil then return values.none end
    return result
  end
  EXPRESSIONS.call = call

  function EXPRESSIONS.spread(_, node) fail(node.line, "* stands before arguments only") end

  function EXPRESSIONS.filter(run, node, scope)
    local filter = library.filters[node.name]
      or fail(node.line, "the filter '%s' is not supported%s", node.name, suggest(node.name, library.filters))
    local value = run:value(node.value, scope)
    local arguments, named = evaluate(run, node, scope, value)
    return filter(arguments, named, node.line)
  end

  function EXPRESSIONS.test(run, node, scope)
    local test = library.tests[node.name]
      or fail(node.line, "the test '%s' is not supported%s", node.name, suggest(node.name, library.tests))
    local value = run:value(node.value, scope)
    local result = test(evaluate(run, node, scope, value), {}, node.line)
    return (result and true or false) ~= node.negated
  end

  -- -- statements ----------------------------------------------------------------------------

  local STATEMENTS = {}

  function Run:write(text, line)
    self.size = self.size + #text
    values.check_text(self.size, line)
    self.out[#self.out + 1] = self:charge(text, line)
  end

  -- Returns "break" or "continue" when the loop around is to do that.
  function Run:body(list, scope)
    for _, node in ipairs(list) do
      local jump = STATEMENTS[node.kind](self, node, scope)
      if jump then return jump end
    end
  end

  -- The text that a body writes.
  function Run:capture(list, scope)
    local out, size = self.out, self.size
    self.out, self.size = {}, 0
    self:body(list, scope)
    local text = table.concat(self.out)
    self.out, self.size = out, size
    return text
  end

  function STATEMENTS.text(run, node) run:write(node.value, node.line) end
  function STATEMENTS.print(run, node, scope) run:write(values.text(run:value(node.value, scope)), node.line) end
  function STATEMENTS.group(run, node, scope) return run:body(node.body, new_scope(scope)) end
  STATEMENTS["break"] = function() return "break" end
  STATEMENTS["continue"] = function() return "continue" end

  STATEMENTS["if"] = function(run, node, scope)
    for _, branch in ipairs(node.branches) do
      if values.truth(run:value(branch.test, scope)) then return run:body(branch.body, scope) end
    end
    if node.otherwise then return run:body(node.otherwise, scope) end
  end

  local function assign(scope, names, value, line)
    if #names == 1 then
      scope.names[names[1]] = value
      return
    end
    local list = values.iterate(value, line)
    if list.n ~= #names then fail(line, "%d values for %d names", list.n, #names) end
    for i, name in ipairs(names) do scope.names[name] = list[i] end
  end

  function STATEMENTS.set(run, node, scope) assign(scope, node.names, run:value(node.value, scope), node.line) end
  function STATEMENTS.set_block(run, node, scope)
    scope.names[node.name] = run:capture(node.body, new_scope(scope))
  end
  function STATEMENTS.set_attribute(run, node, scope)
    local object = lookup(scope, node.object)
    if not values.is_dict(object) or not object.namespace then
      fail(node.line, "'%s' is no namespace: its '%s' cannot be set", node.object, node.name)
    end
    values.set(object, node.name, run:value(node.value, scope), node.line)
  end

  -- What `loop` is in round i of a list.
  local function loop_of(list, i, loop)
    local function set(name, value) values.set(loop, name, value) end
    local missing = values.undefined("item")
    set("index", i)
    set("index0", i - 1)
    set("revindex", list.n - i + 1)
    set("revindex0", list.n - i)
    set("first", i == 1)
    set("last", i == list.n)
    set("length", list.n)
    set("previtem", i > 1 and list[i - 1] or missing)
    set("nextitem", i < list.n and list[i + 1] or missing)
    set("cycle", function(arguments) return arguments[(i - 1) % #arguments + 1] end)
  end

  STATEMENTS["for"] = function(run, node, scope)
    local list = values.iterate(run:value(node.list, scope), node.line)
    if node.test then
      local kept = {}
      for i = 1, list.n do
        local inner = new_scope(scope)
        assign(inner, node.names, list[i], node.line)
        if values.truth(run:value(node.test, inner)) then kept[#kept + 1] = list[i] end
      end
      list = values.list(kept)
    end
    if list.n == 0 and node.otherwise then return run:body(node.otherwise, new_scope(scope)) end
    local loop = values.dict()
    loop.namespace = false
    for i = 1, list.n do
      local inner = new_scope(scope)
      run.steps = run.steps + ROUND_STEPS
      run:charge(nil, node.line)
      loop_of(list, i, loop)
      inner.names.loop = loop
      assign(inner, node.names, list[i], node.line)
      if run:body(node.body, inner) == "break" then break end
    end
  end

  -- A function that writes a body with its parameters set.
  local function make_macro(run, name, node, scope)
    return function(arguments, named, line)
      local inner = new_scope(scope)
      if #arguments > #node.parameters then
        fail(line, "%s takes %d arguments, got %d", name, #node.parameters, #arguments)
      end
      inner.names.caller = named.caller
      for i, parameter in ipairs(node.parameters) do
        local value = arguments[i]
        if value == nil then value = named[parameter.name] end
        if value == nil and parameter.default then value = run:value(parameter.default, inner) end
        if value == nil then value = values.undefined(parameter.name) end
        inner.names[parameter.name] = value
      end
      run.depth = run.depth + 1
      if run.depth > MAX_DEPTH then fail(line, "macros within macros over %d deep", MAX_DEPTH) end
      local text = run:capture(node.body, inner)
      run.depth = run.depth - 1
      return text
    end
  end

  function STATEMENTS.macro(run, node, scope)
    scope.names[node.name] = make_macro(run, node.name, node, scope)
  end

  function STATEMENTS.call_block(run, node, scope)
    run:write(values.text(call(run, node.call, scope, make_macro(run, "caller", node, scope))), node.line)
  end

  -- -- the functions that every template has ---------------------------------------------------

  local globals = {}

  function globals.range(arguments, _, line)
    local from, to, step = arguments[1], arguments[2], arguments[3] or 1
    if to == nil then from, to = 0, from end
    if math.type(from) ~= "integer" or math.type(to) ~= "integer" or math.type(step) ~= "integer" or step == 0 then
      fail(line, "range: expected whole numbers")
    end
    if (to - from) // step > MAX_RANGE then fail(line, "range: over %d numbers", MAX_RANGE) end
    local list = {}
    for i = from, to - (step > 0 and 1 or -1), step do list[#list + 1] = i end
    return values.list(list)
  end

  function globals.dict(arguments, named, line)
    local dict = values.dict()
    for _, key in ipairs(arguments[1] and values.is_dict(arguments[1]) and arguments[1].keys or {}) do
      values.set(dict, key, arguments[1].map[key], line)
    end
    for _, name in ipairs(named) do values.set(dict, name, named[name], line) end
    return dict
  end

  function globals.namespace(arguments, named, line)
    local dict = globals.dict(arguments, named, line)
    dict.namespace = true
    return dict
  end

  function globals.raise_exception(arguments)
    pl.fail("argument", "chat template: %s", values.text(arguments[1] == nil and "" or arguments[1]))
  end

  function globals.strftime_now(arguments, _, line)
    local format = arguments[1]
    if type(format) ~= "string" or #format > 200 then fail(line, "strftime_now: expected a format") end
    if format:gsub("%%[aAbBdHIjmMpSwyYZ%%]", ""):find("%%") then
      fail(line, "strftime_now: the format '%s' is not supported", format)
    end
    return os.date(format)
  end

  -- A template: a function from a table of variables to the text. Errors are of kind "unsupported"
  -- for what this Jinja does not have, "argument" for what the template itself raises.
  function pl.jinja(source)
    if type(source) ~= "string" then
      pl.fail("argument", "a chat template is a %s: expected a text", type(source))
    end
    local tree = parser.parse(lexer.read(source))
    return function(variables)
      local run = setmetatable({ steps = 0, depth = 0, size = 0, out = {} }, Run)
      local scope = new_scope({ names = globals })
      for name, value in pairs(variables or {}) do
        scope.names[name] = type(value) == "function" and value or values.from_lua(value, pl.json)
      end
      local good, err = pcall(run.body, run, tree, scope)
      if not good and type(err) == "string" then pl.fail("unsupported", "chat template: %s", err) end
      if not good then error(err, 0) end
      return table.concat(run.out)
    end
  end
end
