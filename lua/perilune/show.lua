--- Values as people want to read them: tables with their fields sorted, short ones on one line, deep
-- and long ones cut.

local show = {}

local MOST_DEPTH, MOST_ITEMS, MOST_KEYS, LINE = 4, 20, 60, 78
local escapes = { ["\n"] = "\\n", ["\r"] = "\\r", ["\t"] = "\\t", ['"'] = '\\"', ["\\"] = "\\\\" }

local function quoted(text)
  return '"' .. text:gsub('[%c"\\]', function(c) return escapes[c] or ("\\x%02x"):format(c:byte()) end) .. '"'
end

-- Whether a value has something better to say of itself than its fields.
local function speaks(value)
  local meta = getmetatable(value)
  return type(value) ~= "table" or (type(meta) == "table" and meta.__tostring ~= nil)
end

local value_text

local function key_text(key, depth, seen)
  if type(key) == "string" and key:find("^[%a_][%w_]*$") then return key end
  return "[" .. value_text(key, depth + 1, seen) .. "]"
end

-- Numbers before words, and each in order.
local function before(a, b)
  local x, y = math.type(a) ~= nil, math.type(b) ~= nil
  if x ~= y then return x end
  if x then return a < b end
  return tostring(a) < tostring(b)
end

local function parts_of(value, depth, seen)
  local parts, n, keys = {}, #value, {}
  for i = 1, math.min(n, MOST_ITEMS) do parts[i] = value_text(value[i], depth + 1, seen) end
  if n > MOST_ITEMS then parts[#parts + 1] = ("... %d more"):format(n - MOST_ITEMS) end
  for key in next, value do
    if not (math.type(key) == "integer" and key >= 1 and key <= n) then keys[#keys + 1] = key end
  end
  table.sort(keys, before)
  for i = 1, math.min(#keys, MOST_KEYS) do
    parts[#parts + 1] = key_text(keys[i], depth, seen) .. " = " .. value_text(value[keys[i]], depth + 1, seen)
  end
  if #keys > MOST_KEYS then parts[#parts + 1] = ("... %d more"):format(#keys - MOST_KEYS) end
  return parts
end

-- A few to a line, where they are short.
local function fill(parts, indent)
  local lines, line = {}, ""
  for i, part in ipairs(parts) do
    if i < #parts then part = part .. "," end
    if line ~= "" and #indent + #line + #part + 1 > LINE then
      lines[#lines + 1], line = line, ""
    end
    line = line == "" and part or line .. " " .. part
  end
  lines[#lines + 1] = line
  return table.concat(lines, "\n" .. indent)
end

function value_text(value, depth, seen)
  if type(value) == "string" then return quoted(value) end
  if depth > 0 and math.type(value) == "float" and value ~= math.floor(value) then return ("%.7g"):format(value) end
  if speaks(value) then
    local text = tostring(value)
    return depth > 0 and text:find("\n") and text:match("^[^\n]*") .. " ..." or text
  end
  if next(value) == nil then return "{}" end
  if seen[value] or depth >= MOST_DEPTH then return "{...}" end
  seen[value] = true
  local parts, indent = parts_of(value, depth, seen), ("  "):rep(depth + 1)
  seen[value] = nil
  local line = "{" .. table.concat(parts, ", ") .. "}"
  if #line <= LINE - 2 * depth and not line:find("\n") then return line end
  local simple = #value > 0 and type(value[1]) ~= "table"
  local body = simple and fill(parts, indent) or table.concat(parts, ",\n" .. indent)
  return "{\n" .. indent .. body .. "\n" .. ("  "):rep(depth) .. "}"
end

--- A value's text; strings as they are, but quoted inside of tables.
---@param value any
---@return string
function show.value(value)
  if type(value) == "string" then return value end
  return value_text(value, 0, {})
end

--- The texts of values 1 to n of a packed table, tabs between.
---@param results table as of table.pack
---@return string
function show.results(results)
  local parts = {}
  for i = 1, results.n do parts[i] = show.value(results[i]) end
  return table.concat(parts, "\t")
end

return show
