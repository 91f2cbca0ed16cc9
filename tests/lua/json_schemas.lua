-- For the specs of JSON Schema: a validator written from the specification, which knows nothing of
-- grammars, and random schemas.
local pl = require "perilune"

local schemas = {}
local json = pl.json

-- -- validation: draft 2020-12, the keywords that the converter takes ----------------------------

local valid

local function kind_of(value)
  if value == json.null then return "null" end
  if type(value) ~= "table" then return type(value) end
  return json.is_array(value) and "array" or "object"
end

local function same(a, b)
  if kind_of(a) ~= kind_of(b) then return false end
  if type(a) ~= "table" then return a == b end
  for key, value in pairs(a) do
    if b[key] == nil or not same(value, b[key]) then return false end
  end
  for key in pairs(b) do
    if a[key] == nil then return false end
  end
  return true
end

local function is_type(value, name)
  local kind = kind_of(value)
  if name == "integer" then return kind == "number" and value == math.floor(value) end
  return kind == name
end

local function count(list, test)
  local n = 0
  for _, item in ipairs(list) do n = n + (test(item) and 1 or 0) end
  return n
end

-- Expressions that the specs use, as Lua patterns.
schemas.patterns = { ["^[a-c]{2,5}$"] = function(s) return #s >= 2 and #s <= 5 and s:find("^[a-c]+$") end,
  ["\\d"] = function(s) return s:find("%d") end,
  ["^(x|yz)+\\.[A-Z]$"] = function(s)
    local head = s:match("^([xyz]+)%.[A-Z]$")
    return head and head:gsub("yz", ""):gsub("x", "") == ""
  end,
  ["^\"q\\\\"] = function(s) return s:sub(1, 3) == '"q\\' end }

local days = { 31, 28, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31 }
local function is_date(s)
  local year, month, day = s:match("^(%d%d%d%d)%-(%d%d)%-(%d%d)$")
  return year and tonumber(year) > 0 and days[tonumber(month)] and tonumber(day) >= 1
    and tonumber(day) <= days[tonumber(month)]
end
local function is_time(s)
  local hour, minute, second, rest = s:match("^(%d%d):(%d%d):(%d%d)(.*)$")
  if not hour or tonumber(hour) > 23 or tonumber(minute) > 59 or tonumber(second) > 59 then return false end
  rest = rest:gsub("^%.%d+", "")
  local h, m = rest:match("^[+-](%d%d):(%d%d)$")
  return rest == "Z" or h and tonumber(h) < 24 and tonumber(m) < 60
end
schemas.formats = { date = is_date, time = is_time,
  ["date-time"] = function(s)
    return #s > 11 and is_date(s:sub(1, 10)) and s:sub(11, 11) == "T" and is_time(s:sub(12))
  end,
  uuid = function(s) return #s == 36 and s:find("^%x+%-%x%x%x%x%-%x%x%x%x%-%x%x%x%x%-%x+$") and s:sub(9, 9) == "-" end,
  ipv4 = function(s)
    local parts = { s:match("^(%d+)%.(%d+)%.(%d+)%.(%d+)$") }
    return #parts == 4 and count(parts, function(p) return tonumber(p) < 256 and tostring(tonumber(p)) == p end) == 4
  end,
  email = function(s) return s:find("^[^@]+@[^@]+$") end }

local keyword = {
  type = function(value, kinds)
    if type(kinds) == "string" then return is_type(value, kinds) end
    return count(kinds, function(kind) return is_type(value, kind) end) > 0
  end,
  enum = function(value, list) return count(list, function(item) return same(value, item) end) > 0 end,
  const = same,
  minimum = function(v, limit) return type(v) ~= "number" or v >= limit end,
  maximum = function(v, limit) return type(v) ~= "number" or v <= limit end,
  exclusiveMinimum = function(v, limit) return type(v) ~= "number" or v > limit end,
  exclusiveMaximum = function(v, limit) return type(v) ~= "number" or v < limit end,
  multipleOf = function(v, step) return type(v) ~= "number" or v % step == 0 end,
  minLength = function(v, n) return type(v) ~= "string" or utf8.len(v) >= n end,
  maxLength = function(v, n) return type(v) ~= "string" or utf8.len(v) <= n end,
  pattern = function(v, p) return type(v) ~= "string" or schemas.patterns[p](v) end,
  format = function(v, name) return type(v) ~= "string" or schemas.formats[name](v) end,
  minItems = function(v, n) return kind_of(v) ~= "array" or #v >= n end,
  maxItems = function(v, n) return kind_of(v) ~= "array" or #v <= n end,
  prefixItems = function(v, list, _, root)
    if kind_of(v) ~= "array" then return true end
    for i = 1, math.min(#v, #list) do
      if not valid(v[i], list[i], root) then return false end
    end
    return true
  end,
  items = function(v, inner, schema, root)
    if kind_of(v) ~= "array" then return true end
    for i = #(schema.prefixItems or {}) + 1, #v do
      if not valid(v[i], inner, root) then return false end
    end
    return true
  end,
  required = function(v, names)
    return kind_of(v) ~= "object" or count(names, function(name) return v[name] == nil end) == 0
  end,
  properties = function(v, inner, _, root)
    if kind_of(v) ~= "object" then return true end
    for name, part in pairs(v) do
      if inner[name] ~= nil and not valid(part, inner[name], root) then return false end
    end
    return true
  end,
  additionalProperties = function(v, inner, schema, root)
    if kind_of(v) ~= "object" then return true end
    for name, part in pairs(v) do
      if (schema.properties or {})[name] == nil and not valid(part, inner, root) then return false end
    end
    return true
  end,
  anyOf = function(v, list, _, root) return count(list, function(s) return valid(v, s, root) end) > 0 end,
  oneOf = function(v, list, _, root) return count(list, function(s) return valid(v, s, root) end) == 1 end,
  allOf = function(v, list, _, root) return count(list, function(s) return valid(v, s, root) end) == #list end,
  ["$ref"] = function(v, ref, _, root)
    local node = root
    for part in ref:sub(2):gmatch("/([^/]+)") do node = node[part] end
    return valid(v, node, root)
  end,
}

function valid(value, schema, root)
  if type(schema) == "boolean" then return schema end
  for name, what in pairs(schema) do
    local check = keyword[name]
    if check and not check(value, what, schema, root) then return false end
  end
  return true
end

function schemas.valid(value, schema) return valid(value, schema, schema) end

-- -- random schemas ------------------------------------------------------------------------------

-- Numbers of a seed, the same on every machine.
local function new_random(seed)
  local state = seed * 2654435761 % 4294967296 + 1
  return function(n)
    state = (state * 1664525 + 1013904223) % 4294967296
    return (state >> 8) % n + 1
  end
end

local names = { "a", "ab", "id", "name", "x y", "é", "q\"", "abc" }
local make

local function number(random, kind)
  local schema, lo = { type = kind }, random(400) - 200
  local function bound() return kind == "number" and lo + random(100) / 100 or lo end
  if random(2) == 1 then schema[random(2) == 1 and "minimum" or "exclusiveMinimum"] = bound() end
  lo = lo + 1 + random(300)
  if random(2) == 1 then schema[random(2) == 1 and "maximum" or "exclusiveMaximum"] = bound() end
  if kind == "integer" and schema.minimum and schema.maximum and random(2) == 1 then schema.multipleOf = random(3) end
  return schema
end

local function text(random)
  local pick, schema = random(4), { type = "string" }
  local function any(set)
    local keys = {}
    for key in pairs(set) do keys[#keys + 1] = key end
    table.sort(keys)
    return keys[random(#keys)]
  end
  if pick == 1 then schema.format = any(schemas.formats) end
  if pick == 2 then schema.pattern = any(schemas.patterns) end
  if pick == 3 then
    schema.minLength = random(4) - 1
    schema.maxLength = schema.minLength + random(6)
  end
  return schema
end

local function object(random, depth)
  local list, required = {}, json.array()
  for _, name in ipairs(names) do
    if random(3) == 1 then
      list[#list + 1] = { name, make(random, depth + 1) }
      if random(2) == 1 then required[#required + 1] = name end
    end
  end
  if random(6) == 1 then required[#required + 1] = "other" end
  local schema = { type = "object", properties = json.object(list), required = required }
  local more = random(4)
  if more == 1 and required[#required] ~= "other" then schema.additionalProperties = false end
  if more == 2 then schema.additionalProperties = make(random, depth + 1) end
  return schema
end

local function array(random, depth)
  local schema = { type = "array" }
  if random(3) > 1 then schema.items = make(random, depth + 1) end
  if random(3) == 1 then
    schema.prefixItems = json.array({ make(random, depth + 1), make(random, depth + 1) })
  end
  if random(2) == 1 then schema.minItems = random(3) - 1 end
  if random(2) == 1 then schema.maxItems = (schema.minItems or 0) + random(4) end
  return schema
end

local function combined(random, depth)
  local pick = random(4)
  if pick == 1 then
    return { anyOf = json.array({ make(random, depth + 1), make(random, depth + 1) }) }
  elseif pick == 2 then
    return { oneOf = json.array({ text(random), { type = json.array({ "integer", "null" }) }, object(random, 3) }) }
  elseif pick == 3 then
    return { allOf = json.array({ object(random, 3), { type = "object",
      properties = json.object({ { "id", { type = "integer", minimum = 3 } } }), required = json.array({ "id" }) } }) }
  end
  return { type = json.array({ "string", "null", "number" }), maxLength = 3, minimum = 2 }
end

function make(random, depth)
  local pick = random(depth > 2 and 6 or 10)
  if pick == 1 then return { enum = json.array({ 1, "two", json.null, json.array({ 3 }), "é\"" }) } end
  if pick == 2 then return { const = ({ true, 5, "x", json.null, -1.5 })[random(5)] } end
  if pick == 3 then return number(random, "integer") end
  if pick == 4 then return number(random, "number") end
  if pick == 5 then return text(random) end
  if pick == 6 then return { type = ({ "boolean", "null", "integer" })[random(3)] } end
  if pick <= 8 then return object(random, depth) end
  if pick == 9 then return array(random, depth) end
  return combined(random, depth)
end

function schemas.random(seed)
  local random = new_random(seed)
  if random(12) == 1 then
    return { ["$defs"] = { tree = { type = "object", properties = json.object({ { "value", make(random, 2) },
      { "more", { type = "array", items = { ["$ref"] = "#/$defs/tree" }, maxItems = 2 } } }),
      required = json.array({ "value" }) } }, ["$ref"] = "#/$defs/tree" }
  end
  return make(random, 0)
end

return schemas
