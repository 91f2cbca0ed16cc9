--- Top-level locals that live on from one line of the interactive session to the next.
--
-- A line is a chunk of its own, and Lua forgets a chunk's locals at its end. Here every variable is
-- kept as Lua itself keeps one that a function has captured. A line that says
--
--     local n = n + step
--
-- when n and step are known is compiled as
--
--     local n, step = ...  return function(...) local n = n + step
--     ;_KEEP(function() return n end) end
--
-- and the function's upvalues n and step are joined (debug.upvaluejoin) to the session's variables,
-- so that assigning to one is seen by the functions of earlier lines, and the other way round. What
-- _KEEP gets has captured the line's new variables, and they join the session. The result is what
-- one long chunk would do: a second `local n` is a new variable and leaves functions their old one,
-- `<const>` holds, `local function` may call itself. Two things differ: a line that fails declares
-- nothing, and a `<close>` variable is closed at the end of the session.

local locals = {}

-- -- reading ---------------------------------------------------------------------------------

local opens = { ["function"] = 1, ["do"] = 1, ["then"] = 1, ["repeat"] = 1, ["end"] = -1, ["until"] = -1,
  ["elseif"] = -1, ["("] = 1, ["["] = 1, ["{"] = 1, [")"] = -1, ["]"] = -1, ["}"] = -1 }

-- Where the string, comment or space that starts at `at` ends; nil for anything else.
local function skip(code, at)
  local _, to = code:find("^%s+", at)
  if to then return to end
  local level = code:match("^%-%-%[(=*)%[", at) or code:match("^%[(=*)%[", at)
  if level then return select(2, code:find("]" .. level .. "]", at, true)) or #code end
  if code:find("^%-%-", at) then return select(2, code:find("^[^\n]*", at)) end
  local quote = code:match("^[\"']", at)
  if not quote then return nil end
  to = at + 1
  while to <= #code and code:sub(to, to) ~= quote do to = to + (code:sub(to, to) == "\\" and 2 or 1) end
  return math.min(to, #code)
end

-- The words and symbols of code, each {text, from, to, depth}, depth 0 outside of every block.
local function read(code)
  local tokens, at, depth = {}, 1, 0
  while at <= #code do
    local to = skip(code, at)
    if not to then
      to = select(2, code:find("^[%a_][%w_]*", at)) or select(2, code:find("^%.*%d[%w%.]*", at))
        or select(2, code:find("^%.+", at)) or at
      local text = code:sub(at, to)
      tokens[#tokens + 1] = { text = text, from = at, to = to, depth = depth }
      depth = depth + (opens[text] or 0)
    end
    at = to + 1
  end
  return tokens
end

local function is_name(token) return token ~= nil and token.text:find("^[%a_]") ~= nil end

-- The names that code declares at its top level, in order: {name, attribute, from, to of "<close>"},
-- and where its last `return` at the top level begins.
local function declarations(tokens)
  local found, final = {}, nil
  for i, token in ipairs(tokens) do
    if token.depth == 0 and token.text == "return" then final = token.from end
    if token.depth == 0 and token.text == "local" then
      if tokens[i + 1].text == "function" then
        found[#found + 1] = { name = tokens[i + 2].text }
      else
        local j = i + 1
        while is_name(tokens[j]) do
          local declared = { name = tokens[j].text }
          found[#found + 1] = declared
          if tokens[j + 1] and tokens[j + 1].text == "<" then
            declared.attribute = tokens[j + 2].text
            declared.from, declared.to = tokens[j + 1].from, tokens[j + 3].to
            j = j + 3
          end
          if not (tokens[j + 1] and tokens[j + 1].text == ",") then break end
          j = j + 2
        end
      end
    end
  end
  return found, final
end

-- -- the session's variables -------------------------------------------------------------------

-- A function whose first upvalue is a new variable.
local function cell(value)
  return function() return value end
end

local Scope = {}
Scope.__index = Scope

--- An empty scope. Its variables: name -> {holder, index, constant}, upvalue `index` of `holder`.
function locals.new()
  return setmetatable({ variables = {}, to_close = {} }, Scope)
end

function Scope:has(name) return self.variables[name] ~= nil end

function Scope:get(name)
  local variable = self.variables[name]
  if not variable then return nil end
  return select(2, debug.getupvalue(variable.holder, variable.index))
end

--- The names of all variables.
function Scope:names()
  local names = {}
  for name in pairs(self.variables) do names[#names + 1] = name end
  table.sort(names)
  return names
end

-- Takes over the variables that `getter` has captured and returns, in the order of `list`.
local function keep(scope, list, getter)
  local captured, values = {}, table.pack(getter())
  for i = 1, math.huge do
    local name = debug.getupvalue(getter, i)
    if not name then break end
    captured[name] = i
  end
  for i, declared in ipairs(list) do
    local constant = declared.attribute == "const" or declared.attribute == "close"
    if captured[declared.name] then
      scope.variables[declared.name] = { holder = getter, index = captured[declared.name], constant = constant }
    else -- a constant that the compiler has put in its place
      scope.variables[declared.name] = { holder = cell(values[i]), index = 1, constant = constant }
    end
    if declared.attribute == "close" then scope.to_close[#scope.to_close + 1] = values[i] end
  end
end

-- "local a, b<const> = ... ": declares the session's variables that the tokens may mean, so that they
-- are upvalues of the function that follows.
local function prelude(scope, tokens)
  local list, seen = {}, {}
  for _, token in ipairs(tokens) do
    local variable = scope.variables[token.text]
    if variable and not seen[token.text] then
      seen[token.text] = true
      list[#list + 1] = token.text .. (variable.constant and "<const>" or "")
    end
  end
  return #list > 0 and ("local %s = ... "):format(table.concat(list, ", ")) or ""
end

-- The last declaration of each name.
local function last_of_each(found)
  local list, place = {}, {}
  for _, declared in ipairs(found) do
    place[declared.name] = place[declared.name] or #list + 1
    list[place[declared.name]] = declared
  end
  return list
end

-- code with `<close>` turned into `<const>`, and `call` where the top level's variables are all there.
local function edit(code, found, final, call)
  local parts, from = {}, 1
  for _, declared in ipairs(found) do
    if declared.attribute == "close" then
      parts[#parts + 1] = code:sub(from, declared.from - 1) .. "<const>"
      from = declared.to + 1
    end
  end
  if not final then return table.concat(parts) .. code:sub(from) .. "\n" .. call end
  return table.concat(parts) .. code:sub(from, final - 1) .. call .. code:sub(final) .. "\n"
end

-- A function that makes the line's function, and the declarations of the variables that it keeps.
local function make(scope, code, name)
  local tokens = read(code)
  local found, final = declarations(tokens)
  local list, words = last_of_each(found), {}
  for i, declared in ipairs(list) do words[i] = declared.name end
  local call = #list > 0 and (";_KEEP(function() return %s end) "):format(table.concat(words, ", ")) or ""
  local frame = "local _KEEP = ... " .. prelude(scope, tokens) .. "return function(...) "
  local function try(with)
    return load(frame .. edit(code, found, final, with) .. " end", name, "t")
  end
  local maker, why = try(call)
  if not maker and #list > 0 then maker, list = try(""), {} end -- a label may have to stand last
  return maker, maker and list or why
end

--- Compiles code to a function that sees the session's variables and adds its own; nil, why.
function Scope:compile(code, name)
  local chunk, why = load(code, name, "t")
  if not chunk then return nil, why end
  local maker, list = make(self, code, name)
  if not maker then return nil, list end
  local fn = maker(function(getter) keep(self, list, getter) end)
  for i = 1, math.huge do
    local upvalue = debug.getupvalue(fn, i)
    if not upvalue then break end
    local variable = self.variables[upvalue]
    if variable then debug.upvaluejoin(fn, i, variable.holder, variable.index) end
  end
  return fn
end

--- Makes the variables of a running function known: those that it has captured are shared with it;
--- its locals are copies, listed as {name, index} for who puts them back.
---@param scope table
---@param fn function
---@param get_local fun(i: integer): string?, any name and value of its i-th local
---@return table[]
function locals.of_function(scope, fn, get_local)
  for i = 1, math.huge do
    local name = debug.getupvalue(fn, i)
    if not name then break end
    if name ~= "_ENV" and name ~= "" then scope.variables[name] = { holder = fn, index = i } end
  end
  local slots = {}
  for i = 1, math.huge do
    local name, value = get_local(i)
    if not name then break end
    if not name:find("^%(") then
      scope.variables[name] = { holder = cell(value), index = 1 }
      slots[#slots + 1] = { name = name, index = i }
    end
  end
  return slots
end

--- Closes the variables declared with `<close>`, the last one first; nothing that goes wrong stops it.
function Scope:close()
  for i = #self.to_close, 1, -1 do
    local value <const> = self.to_close[i]
    if value then pcall(function() local closing <close> = value end) end -- luacheck: ignore 211
  end
  self.to_close = {}
end

return locals
