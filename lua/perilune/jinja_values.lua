-- The values of Jinja, which are Python's: what is true, how values print, compare and combine.
--
-- Texts, booleans and numbers are Lua's own; `none` is a value of its own, and so is what is not
-- defined. Lists are {n = length, items...}, dicts {keys in order, map}, both with metatables.

local lexer = require "perilune.jinja_lexer"

local values = {}

local MAX_TEXT, MAX_ITEMS, MAX_DEPTH = 16 << 20, 1 << 20, 60

local List = { __name = "jinja list" }
local Dict = { __name = "jinja dict" }
local Undefined = { __name = "jinja undefined" }

values.none = setmetatable({}, { __name = "jinja none" })

function values.undefined(name) return setmetatable({ name = name }, Undefined) end
function values.is_undefined(value) return getmetatable(value) == Undefined end
function values.is_list(value) return type(value) == "table" and getmetatable(value) == List end
function values.is_dict(value) return type(value) == "table" and getmetatable(value) == Dict end

function values.list(items, n)
  items.n = n or #items
  return setmetatable(items, List)
end

-- A list that prints as a tuple.
function values.tuple(items)
  items.tuple = true
  return values.list(items)
end

function values.dict() return setmetatable({ keys = {}, map = {} }, Dict) end

local function check_key(key, line)
  if type(key) == "table" or type(key) == "function" then lexer.fail(line, "a %s cannot be a key", values.kind(key)) end
  return key
end

function values.get(dict, key) return dict.map[key] end

function values.set(dict, key, value, line)
  check_key(key, line)
  if dict.map[key] == nil then dict.keys[#dict.keys + 1] = key end
  dict.map[key] = value
end

-- From a value of Lua; json is pl.json, which tells arrays from objects.
function values.from_lua(value, json, depth)
  depth = depth or 0
  if depth > MAX_DEPTH then lexer.fail(1, "a value nested over %d deep, or inside itself", MAX_DEPTH) end
  if value == nil or value == json.null then return values.none end
  if type(value) ~= "table" then
    return type(value) == "userdata" and lexer.fail(1, "a userdata is no value of templates") or value
  end
  if json.is_array(value) then
    local list = {}
    for i, item in ipairs(value) do list[i] = values.from_lua(item, json, depth + 1) end
    return values.list(list)
  end
  local dict = values.dict()
  for _, key in ipairs(json.keys(value)) do values.set(dict, key, values.from_lua(value[key], json, depth + 1), 1) end
  return dict
end

-- And back, for tojson.
function values.to_lua(value, json, line)
  if value == values.none then return json.null end
  if values.is_undefined(value) or type(value) == "function" then
    lexer.fail(line, "tojson: %s has no form in JSON", values.kind(value))
  end
  if values.is_list(value) then
    local list = json.array()
    for i = 1, value.n do list[i] = values.to_lua(value[i], json, line) end
    return list
  elseif values.is_dict(value) then
    local pairs_list = {}
    for i, key in ipairs(value.keys) do
      pairs_list[i] = { values.text(key), values.to_lua(value.map[key], json, line) }
    end
    return json.object(pairs_list)
  end
  return value
end

function values.kind(value)
  if value == values.none then return "none" end
  if values.is_undefined(value) then return "undefined value" end
  if values.is_list(value) then return "list" end
  if values.is_dict(value) then return "dict" end
  return type(value) == "string" and "text" or math.type(value) or type(value)
end

function values.truth(value)
  if value == values.none or value == false or value == "" or value == 0 then return false end
  if values.is_undefined(value) then return false end
  if values.is_list(value) then return value.n > 0 end
  if values.is_dict(value) then return #value.keys > 0 or value.namespace ~= nil end
  return true
end

-- -- printing ------------------------------------------------------------------------------------

local function number_text(value)
  if math.type(value) == "integer" then return tostring(value) end
  if value ~= value then return "nan" end
  if value == math.huge or value == -math.huge then return value > 0 and "inf" or "-inf" end
  if value == math.floor(value) and math.abs(value) < 1e16 then return ("%.1f"):format(value) end
  for digits = 15, 17 do
    local text = ("%%.%dg"):format(digits):format(value)
    if tonumber(text) == value then return text end
  end
end

-- As Python's repr writes it inside of lists and dicts.
local function quoted(text)
  local quote = text:find("'", 1, true) and not text:find('"', 1, true) and '"' or "'"
  return quote .. text:gsub("[%c\\'\"]", function(c)
    if c == "\n" then return "\\n" elseif c == "\r" then return "\\r" elseif c == "\t" then return "\\t" end
    if c == "\\" or c == quote then return "\\" .. c end
    return c:find("%c") and ("\\x%02x"):format(c:byte()) or c
  end) .. quote
end

local function represent(value, depth)
  if depth > MAX_DEPTH then return "..." end
  if type(value) == "string" then return quoted(value) end
  if values.is_list(value) then
    local parts = {}
    for i = 1, value.n do parts[i] = represent(value[i], depth + 1) end
    if value.tuple then return "(" .. table.concat(parts, ", ") .. (value.n == 1 and ",)" or ")") end
    return "[" .. table.concat(parts, ", ") .. "]"
  elseif values.is_dict(value) then
    local parts = {}
    for i, key in ipairs(value.keys) do
      parts[i] = represent(key, depth + 1) .. ": " .. represent(value.map[key], depth + 1)
    end
    return "{" .. table.concat(parts, ", ") .. "}"
  end
  return values.text(value)
end

function values.text(value)
  if type(value) == "string" then return value end
  if type(value) == "number" then return number_text(value) end
  if value == true then return "True" elseif value == false then return "False" end
  if value == values.none then return "None" end
  if values.is_undefined(value) then return "" end
  if type(value) == "function" then return "<function>" end
  if values.is_list(value) or values.is_dict(value) then return represent(value, 0) end
  return ""
end

-- -- texts as lists of characters ----------------------------------------------------------------

function values.length(text) return utf8.len(text) or #text end

local function byte_at(text, index) return utf8.len(text) and utf8.offset(text, index + 1) or index + 1 end

-- Characters from..to (from 0, to not included), both inside the text.
function values.sub(text, from, to)
  if from >= to then return "" end
  return text:sub(byte_at(text, from), byte_at(text, to) - 1)
end

function values.characters(text)
  local list = {}
  if not utf8.len(text) then
    for i = 1, #text do list[i] = text:sub(i, i) end
  else
    for _, code in utf8.codes(text) do list[#list + 1] = utf8.char(code) end
  end
  return values.list(list)
end

-- What a loop goes over, as a list.
function values.iterate(value, line)
  if values.is_list(value) then return value end
  if values.is_dict(value) then return values.list(table.move(value.keys, 1, #value.keys, 1, {})) end
  if type(value) == "string" then return values.characters(value) end
  if values.is_undefined(value) then return values.list({}) end
  lexer.fail(line, "a %s cannot be gone through", values.kind(value))
end

-- -- comparing and combining ---------------------------------------------------------------------

local function as_number(value)
  if value == true then return 1 elseif value == false then return 0 end
  return value
end

function values.equal(a, b)
  a, b = as_number(a), as_number(b)
  if values.is_undefined(a) and values.is_undefined(b) then return true end
  if values.is_list(a) and values.is_list(b) then
    if a.n ~= b.n then return false end
    for i = 1, a.n do
      if not values.equal(a[i], b[i]) then return false end
    end
    return true
  elseif values.is_dict(a) and values.is_dict(b) then
    if #a.keys ~= #b.keys then return false end
    for _, key in ipairs(a.keys) do
      if b.map[key] == nil or not values.equal(a.map[key], b.map[key]) then return false end
    end
    return true
  end
  return a == b
end

-- Whether a comes before b.
function values.less(a, b, line)
  a, b = as_number(a), as_number(b)
  if type(a) == type(b) and (type(a) == "number" or type(a) == "string") then return a < b end
  if values.is_list(a) and values.is_list(b) then
    for i = 1, math.min(a.n, b.n) do
      if not values.equal(a[i], b[i]) then return values.less(a[i], b[i], line) end
    end
    return a.n < b.n
  end
  lexer.fail(line, "a %s and a %s have no order", values.kind(a), values.kind(b))
end

function values.contains(value, item, line)
  if type(value) == "string" then
    if type(item) ~= "string" then lexer.fail(line, "'in': a %s cannot be in a text", values.kind(item)) end
    return value:find(item, 1, true) ~= nil
  elseif values.is_dict(value) then
    return type(item) ~= "table" and value.map[item] ~= nil
  elseif values.is_undefined(value) then
    return false
  end
  local list = values.iterate(value, line)
  for i = 1, list.n do
    if values.equal(list[i], item) then return true end
  end
  return false
end

function values.check_text(size, line)
  if size > MAX_TEXT then lexer.fail(line, "a text of over %d MB", MAX_TEXT >> 20) end
end

local function times(value, n, line)
  n = math.max(n, 0)
  if type(value) == "string" then
    values.check_text(#value * math.min(n, MAX_TEXT + 1), line)
    return value:rep(n)
  end
  if value.n * math.min(n, MAX_ITEMS + 1) > MAX_ITEMS then lexer.fail(line, "a list of over %d items", MAX_ITEMS) end
  local list = {}
  for i = 0, n - 1 do table.move(value, 1, value.n, i * value.n + 1, list) end
  return values.list(list, n * value.n)
end

local ARITHMETIC = {
  ["+"] = function(a, b) return a + b end, ["-"] = function(a, b) return a - b end,
  ["*"] = function(a, b) return a * b end, ["/"] = function(a, b) return a / b end,
  ["//"] = function(a, b) return a // b end, ["%"] = function(a, b) return a % b end,
  ["**"] = function(a, b)
    local power = a ^ b
    return math.type(a) == "integer" and math.type(b) == "integer" and b >= 0 and math.tointeger(power) or power
  end,
}

function values.arithmetic(operator, a, b, line)
  a, b = as_number(a), as_number(b)
  if type(a) == "number" and type(b) == "number" then
    if b == 0 and (operator == "/" or operator == "//" or operator == "%") then lexer.fail(line, "division by zero") end
    return ARITHMETIC[operator](a, b)
  end
  if operator == "+" then
    if type(a) == "string" and type(b) == "string" then
      values.check_text(#a + #b, line)
      return a .. b
    elseif values.is_list(a) and values.is_list(b) then
      if a.n + b.n > MAX_ITEMS then lexer.fail(line, "a list of over %d items", MAX_ITEMS) end
      local list = table.move(a, 1, a.n, 1, {})
      return values.list(table.move(b, 1, b.n, a.n + 1, list), a.n + b.n)
    end
  elseif operator == "*" then
    if math.type(a) == "integer" then a, b = b, a end
    if (type(a) == "string" or values.is_list(a)) and math.type(b) == "integer" then return times(a, b, line) end
  end
  if values.is_undefined(a) or values.is_undefined(b) then
    lexer.fail(line, "'%s' is not defined", tostring((values.is_undefined(a) and a or b).name))
  end
  lexer.fail(line, "a %s %s a %s is not supported", values.kind(a), operator, values.kind(b))
end

-- value[from:to:step], each of the three an integer or nil.
function values.slice(value, from, to, step, line)
  step = step or 1
  if step == 0 then lexer.fail(line, "a slice with step 0") end
  local is_text = type(value) == "string"
  if not is_text and not values.is_list(value) then lexer.fail(line, "a %s has no slices", values.kind(value)) end
  local n = is_text and values.length(value) or value.n
  local function clip(index, default, low, high)
    if index == nil then return default end
    if index < 0 then index = index + n end
    return math.max(low, math.min(index, high))
  end
  if step > 0 then
    from, to = clip(from, 0, 0, n), clip(to, n, 0, n)
  else
    from, to = clip(from, n - 1, -1, n - 1), clip(to, -1, -1, n - 1)
  end
  if is_text and step == 1 then return values.sub(value, from, to) end
  local source, list = is_text and values.characters(value) or value, {}
  for i = from, to - (step > 0 and 1 or -1), step do list[#list + 1] = source[i + 1] end
  return is_text and table.concat(list) or values.list(list)
end

return values
