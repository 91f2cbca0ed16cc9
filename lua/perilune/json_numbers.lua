-- Numbers between bounds as GBNF: what JSON Schema's minimum, maximum, their exclusive forms and
-- multipleOf ask for.
--
-- A range of natural numbers is cut into patterns, one class of digits for each place:
--
--     37 to 220:   [3][7-9]   [4-9][0-9]   [1][0-9][0-9]   [2][0-1][0-9]   [2][2][0]
--
-- Numbers with decimals are natural numbers of the smallest decimal, with the point put in.

local numbers = {}

local DIGITS, DECIMALS, USUAL_DECIMALS, MOST_MULTIPLES = 15, 6, 3, 1000
local LARGEST = math.tointeger(10 ^ DIGITS) - 1

local function digits_of(n, places) return (("%%0%dd"):format(places)):format(n) end

-- Patterns for lo..hi, both written with the same number of places: lists of {low, high} digits.
local function patterns(lo, hi, list)
  local n, at = #lo, 1
  while at <= n and lo:sub(at, at) == hi:sub(at, at) do at = at + 1 end
  local function add(head, low, high)
    if low > high then return end
    local pattern = {}
    for i = 1, #head do pattern[i] = { head:byte(i) - 48, head:byte(i) - 48 } end
    pattern[#pattern + 1] = { low, high }
    while #pattern < n do pattern[#pattern + 1] = { 0, 9 } end
    list[#list + 1] = pattern
  end
  if at > n then
    add(lo:sub(1, n - 1), lo:byte(n) - 48, lo:byte(n) - 48)
    return
  end
  -- Above lo: equal up to place i, greater there; below hi likewise; and between them.
  for i = n, at + 1, -1 do
    add(lo:sub(1, i - 1), lo:byte(i) - 48 + (i == n and 0 or 1), 9)
  end
  local last = at == n
  add(lo:sub(1, at - 1), lo:byte(at) - 48 + (last and 0 or 1), hi:byte(at) - 48 - (last and 0 or 1))
  for i = at + 1, n do
    add(hi:sub(1, i - 1), 0, hi:byte(i) - 48 - (i == n and 0 or 1))
  end
end

local function class(range)
  return range[1] == range[2] and ('"%d"'):format(range[1]) or ("[%d-%d]"):format(range[1], range[2])
end

-- A pattern with a point before its last `decimals` places.
local function write(pattern, decimals)
  local parts = {}
  for i, range in ipairs(pattern) do
    if decimals > 0 and i == #pattern - decimals + 1 then parts[#parts + 1] = '"."' end
    parts[#parts + 1] = class(range)
  end
  return table.concat(parts, " ")
end

-- Natural numbers lo..hi, the last `decimals` places after the point.
local function naturals(lo, hi, decimals, prefix, out)
  local least = decimals + 1
  for places = least, math.max(least, #tostring(hi)) do
    local first = math.max(lo, places == least and 0 or math.tointeger(10 ^ (places - 1)))
    local last = math.min(hi, math.tointeger(10 ^ places) - 1)
    if first <= last then
      local list = {}
      patterns(digits_of(first, places), digits_of(last, places), list)
      for _, pattern in ipairs(list) do out[#out + 1] = prefix .. write(pattern, decimals) end
    end
  end
end

local function integers(lo, hi, decimals)
  local out = {}
  if lo < 0 then naturals(math.max(1, -hi), -lo, decimals, '"-" ', out) end
  if hi >= 0 then naturals(math.max(0, lo), hi, decimals, "", out) end
  return table.concat(out, " | ")
end

-- Decimals that a bound is written with, at most DECIMALS + 1.
local function decimals_of(value)
  for n = 0, DECIMALS do
    if tonumber(("%%.%df"):format(n):format(value)) == value then return n end
  end
  return DECIMALS + 1
end

-- value × 10^scale, rounded inwards, and once more if exclusive; within what the patterns write.
local function scaled(value, scale, up, exclusive)
  local digits = decimals_of(value)
  local x, exact
  if digits <= scale then
    -- By its digits: 0.29 * 100 is not 29.
    x, exact = tonumber((("%%.%df"):format(scale):format(value):gsub("%.", ""))), true
  else
    x = value * 10.0 ^ scale
    x, exact = up and math.ceil(x) or math.floor(x), false
  end
  if x > LARGEST then x = LARGEST + (up and 1 or 0) end
  if x < -LARGEST then x = -LARGEST - (up and 0 or 1) end
  x = math.tointeger(x)
  if exclusive and exact then x = up and x + 1 or x - 1 end
  return x
end

-- The bounds as lo and hi with so many decimals, rounded inwards.
local function limits(schema, scale, whole)
  local reach = whole and LARGEST or 10 ^ (DIGITS - scale) - 1
  local lo, hi = scaled(-reach, scale, true), scaled(reach, scale, false)
  if schema.minimum then lo = math.max(lo, scaled(schema.minimum, scale, true)) end
  if schema.exclusiveMinimum then lo = math.max(lo, scaled(schema.exclusiveMinimum, scale, true, true)) end
  if schema.maximum then hi = math.min(hi, scaled(schema.maximum, scale, false)) end
  if schema.exclusiveMaximum then hi = math.min(hi, scaled(schema.exclusiveMaximum, scale, false, true)) end
  return lo, hi
end

-- true and a body, or true and nothing (any number); false: no number; nil and what is wrong.
function numbers.expression(schema, whole)
  local bounded, most = false, USUAL_DECIMALS
  for _, name in ipairs({ "minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum", "multipleOf" }) do
    local value = schema[name]
    if value ~= nil and type(value) ~= "number" then return nil, ("%s: expected a number"):format(name) end
    if value and name ~= "multipleOf" then bounded, most = true, math.max(most, decimals_of(value)) end
  end
  local step = schema.multipleOf
  if step ~= nil and (not whole or not math.tointeger(step) or step < 1) then
    return nil, "multipleOf is supported for integers, with a whole number"
  end
  if not bounded and (not step or step == 1) then return true end
  if whole then
    local lo, hi = limits(schema, 0, true)
    if lo > hi then return false end
    if not step or step == 1 then return true, integers(lo, hi, 0) end
    return numbers.multiples(lo, hi, math.tointeger(step))
  end
  if most > DECIMALS then return nil, ("bounds with over %d decimals are not supported"):format(DECIMALS) end
  local out = {}
  for decimals = 0, most do
    local lo, hi = limits(schema, decimals, false)
    if lo <= hi then out[#out + 1] = integers(lo, hi, decimals) end
  end
  return #out > 0, table.concat(out, " | ")
end

-- Listed where they are few; powers of ten by their zeros.
function numbers.multiples(lo, hi, step)
  local first, last = -(-lo // step), hi // step
  if first > last then return false end
  local zeros = tostring(step):match("^1(0+)$")
  if zeros then
    local out = {}
    if first <= 0 and last >= 0 then out[1] = '"0"' end
    if last >= 1 then out[#out + 1] = ('(%s) "%s"'):format(integers(math.max(first, 1), last, 0), zeros) end
    if first <= -1 then out[#out + 1] = ('(%s) "%s"'):format(integers(first, math.min(last, -1), 0), zeros) end
    return true, table.concat(out, " | ")
  end
  if last - first >= MOST_MULTIPLES then
    return nil, ("multipleOf %d: over %d multiples; give a minimum and a maximum"):format(step, MOST_MULTIPLES)
  end
  local out = {}
  for i = first, last do out[#out + 1] = ('"%d"'):format(i * step) end
  return true, table.concat(out, " | ")
end

return numbers
