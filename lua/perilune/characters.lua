-- Sets of characters as lists of {first, last}, and how GBNF writes them.

local characters = {}

local MOST = 0x10FFFF

function characters.complement(ranges)
  local sorted, result, from = table.move(ranges, 1, #ranges, 1, {}), {}, 0
  table.sort(sorted, function(a, b) return a[1] < b[1] end)
  for _, range in ipairs(sorted) do
    if range[1] > from then result[#result + 1] = { from, range[1] - 1 } end
    from = math.max(from, range[2] + 1)
  end
  if from <= MOST then result[#result + 1] = { from, MOST } end
  return result
end

function characters.contain(ranges, code)
  for _, range in ipairs(ranges) do
    if code >= range[1] and code <= range[2] then return true end
  end
  return false
end

local function escaped(code) return ("\\U%08X"):format(code) end

-- A class, without surrogates, which are no characters; nil when nothing is in it.
function characters.class(ranges)
  local list = {}
  for _, range in ipairs(ranges) do
    local first, last = range[1], range[2]
    if first >= 0xD800 and first <= 0xDFFF then first = 0xE000 end
    if last >= 0xD800 and last <= 0xDFFF then last = 0xD7FF end
    if first <= last then
      list[#list + 1] = first == last and escaped(first) or escaped(first) .. "-" .. escaped(last)
    end
  end
  return list[1] and "[" .. table.concat(list) .. "]"
end

local SHORT = { [8] = "b", [9] = "t", [10] = "n", [12] = "f", [13] = "r", [34] = '"', [92] = "\\" }

-- The same within a JSON string: what must be escaped there is, and nothing else.
function characters.json_class(ranges)
  local special, list = { { 0, 31 }, { 34, 34 }, { 92, 92 } }, {}
  local outside = characters.complement(ranges)
  table.move(special, 1, #special, #outside + 1, outside)
  list[1] = characters.class(characters.complement(outside))
  for code = 0, 92 do
    if (code < 32 or code == 34 or code == 92) and characters.contain(ranges, code) then
      list[#list + 1] = '"' .. escaped(92) .. (SHORT[code] and escaped(SHORT[code]:byte()) or ("u%04x"):format(code))
        .. '"'
    end
  end
  return list[1] and "(" .. table.concat(list, " | ") .. ")"
end

return characters
