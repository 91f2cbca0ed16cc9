-- The filters and tests of Jinja, and the methods of its texts and dicts.
--
-- Each is called as fn(arguments, named, line): arguments is a list whose first item is the value,
-- named what was given by name. What is not here is an error that names it.

local lexer = require "perilune.jinja_lexer"
local values = require "perilune.jinja_values"

local MAX_INDENT, MAX_SORTED = 64, 4096

return function(pl)
  local json = pl.json
  local none, text_of = values.none, values.text
  local filters, tests, text_methods, dict_methods = {}, {}, {}, {}

  local function fail(line, format, ...) lexer.fail(line, format, ...) end

  local function argument(arguments, named, at, name, default)
    local value = arguments[at]
    if value == nil then value = named[name] end
    if value == nil or values.is_undefined(value) then return default end
    return value
  end

  local function need_text(value, line, what)
    if values.is_undefined(value) then return "" end
    if type(value) ~= "string" then fail(line, "%s: expected a text, got a %s", what, values.kind(value)) end
    return value
  end

  local function need_whole(value, line, what)
    if value == nil or value == none then return nil end
    return math.type(value) == "integer" and value
      or fail(line, "%s: expected a whole number, got a %s", what, values.kind(value))
  end

  -- -- texts ---------------------------------------------------------------------------------

  -- A set of characters as a Lua pattern class; whitespace when there is none.
  local function class_of(characters)
    if characters == nil or characters == none then return "%s" end
    return "[" .. characters:gsub("%W", "%%%0") .. "]"
  end

  local function strip(text, characters, left, right)
    if characters and characters ~= none and characters:find("[\128-\255]") then
      local set, list = {}, values.characters(text)
      for _, c in ipairs(values.characters(characters)) do set[c] = true end
      local from, to = 1, list.n
      while left and from <= to and set[list[from]] do from = from + 1 end
      while right and to >= from and set[list[to]] do to = to - 1 end
      return table.concat(list, "", from, to)
    end
    if characters == "" then return text end
    local class = class_of(characters)
    local from = left and text:find("[^" .. class:gsub("^%[(.*)%]$", "%1") .. "]") or (left and #text + 1 or 1)
    local to = #text
    while right and to >= from and text:sub(to, to):find(class) do to = to - 1 end
    return text:sub(from, to)
  end

  local function replace(text, old, new, count, line)
    local out, at, n = {}, 1, 0
    if old == "" then fail(line, "replace: the text to be replaced is empty") end
    while not count or n < count do
      local from, to = text:find(old, at, true)
      if not from then break end
      out[#out + 1] = text:sub(at, from - 1)
      n, at = n + 1, to + 1
    end
    values.check_text(#text + n * #new, line)
    out[#out + 1] = text:sub(at)
    return table.concat(out, new)
  end

  local function capitalize(text) return text:sub(1, 1):upper() .. text:sub(2):lower() end
  local function title(text)
    return (text:lower():gsub("%f[%w]%w", string.upper))
  end

  local function split(text, separator, most)
    local parts, at = {}, 1
    if separator == nil or separator == none then
      for word, after in text:gmatch("(%S+)%s*()") do
        if most and #parts == most then
          parts[#parts + 1] = text:sub(at)
          return values.list(parts)
        end
        parts[#parts + 1], at = word, after
      end
      return values.list(parts)
    end
    while not most or #parts < most do
      local from, to = text:find(separator, at, true)
      if not from then break end
      parts[#parts + 1] = text:sub(at, from - 1)
      at = to + 1
    end
    parts[#parts + 1] = text:sub(at)
    return values.list(parts)
  end

  local function method(name, fn)
    text_methods[name] = function(arguments, named, line)
      return fn(arguments[1], arguments[2], arguments[3], named, line)
    end
  end

  for name, sides in pairs({ strip = { true, true }, lstrip = { true, false }, rstrip = { false, true } }) do
    method(name, function(text, characters, _, _, line)
      if characters == none then characters = nil end
      return strip(text, characters and need_text(characters, line, name), sides[1], sides[2])
    end)
  end
  method("upper", string.upper)
  method("lower", string.lower)
  method("capitalize", capitalize)
  method("title", title)
  method("replace", function(text, old, new, _, line)
    return replace(text, need_text(old, line, "replace"), need_text(new, line, "replace"), nil, line)
  end)
  method("split", function(text, separator, most, named, line)
    separator, most = separator or named.sep, need_whole(most or named.maxsplit, line, "split")
    if separator ~= nil and separator ~= none then separator = need_text(separator, line, "split") end
    if separator == "" then fail(line, "split: the separator is empty") end
    return split(text, separator, most and most >= 0 and most or nil)
  end)
  method("rsplit", function(text, separator, most, named, line)
    separator, most = separator or named.sep, need_whole(most or named.maxsplit, line, "rsplit")
    if type(separator) ~= "string" or separator == "" then fail(line, "rsplit needs a separator") end
    local parts = split(text, separator)
    if most and most >= 0 and parts.n > most + 1 then
      local first = table.concat(parts, separator, 1, parts.n - most)
      parts = values.list(table.move(parts, parts.n - most + 1, parts.n, 2, { first }))
    end
    return parts
  end)
  method("splitlines", function(text)
    local parts = {}
    for part in text:gmatch("([^\n]*)\n?") do parts[#parts + 1] = part end
    if parts[#parts] == "" then parts[#parts] = nil end
    return values.list(parts)
  end)

  -- Whether one of the texts (one, or a list of them) is at that end.
  local function at_end(text, what, line, test)
    if not values.is_list(what) then return test(text, need_text(what, line, "startswith or endswith")) end
    for i = 1, what.n do
      if test(text, need_text(what[i], line, "startswith or endswith")) then return true end
    end
    return false
  end
  local function starts(text, what) return text:sub(1, #what) == what end
  local function ends(text, what) return what == "" or text:sub(-#what) == what end
  method("startswith", function(text, what, _, _, line) return at_end(text, what, line, starts) end)
  method("endswith", function(text, what, _, _, line) return at_end(text, what, line, ends) end)
  method("removeprefix", function(text, what, _, _, line)
    need_text(what, line, "removeprefix")
    return starts(text, what) and text:sub(#what + 1) or text
  end)
  method("removesuffix", function(text, what, _, _, line)
    need_text(what, line, "removesuffix")
    return ends(text, what) and text:sub(1, #text - #what) or text
  end)
  local function find(text, what)
    local from = text:find(what, 1, true)
    return from and values.length(text:sub(1, from - 1)) or -1
  end
  method("find", function(text, what, _, _, line) return find(text, need_text(what, line, "find")) end)
  method("rfind", function(text, what, _, _, line)
    local last, at = nil, 1
    need_text(what, line, "rfind")
    while true do
      local from = text:find(what, at, true)
      if not from then break end
      last, at = from, from + 1
    end
    return last and values.length(text:sub(1, last - 1)) or -1
  end)
  method("index", function(text, what, _, _, line)
    local at = find(text, need_text(what, line, "index"))
    return at >= 0 and at or fail(line, "index: '%s' is not in the text", what)
  end)
  method("count", function(text, what, _, _, line)
    return split(text, what ~= "" and need_text(what, line, "count") or fail(line, "count: an empty text")).n - 1
  end)
  method("isdigit", function(text) return text:find("^%d+$") ~= nil end)
  method("isalpha", function(text) return text:find("^%a+$") ~= nil end)
  method("isalnum", function(text) return text:find("^%w+$") ~= nil end)
  method("isspace", function(text) return text:find("^%s+$") ~= nil end)
  method("isupper", function(text) return text:find("%u") ~= nil and not text:find("%l") end)
  method("islower", function(text) return text:find("%l") ~= nil and not text:find("%u") end)

  local function join(list, separator, line)
    local parts, size = {}, 0
    for i = 1, list.n do
      parts[i] = text_of(list[i])
      size = size + #parts[i] + #separator
      values.check_text(size, line)
    end
    return table.concat(parts, separator)
  end
  method("join", function(text, list, _, _, line) return join(values.iterate(list, line), text, line) end)

  -- -- dicts ---------------------------------------------------------------------------------

  local function pairs_of(dict)
    local list = {}
    for i, key in ipairs(dict.keys) do list[i] = values.tuple({ key, dict.map[key] }) end
    return values.list(list)
  end

  dict_methods.get = function(arguments)
    local dict, key, default = arguments[1], arguments[2], arguments[3]
    local value = type(key) ~= "table" and dict.map[key]
    if value == nil then return default == nil and none or default end
    return value
  end
  dict_methods.keys = function(arguments) return values.iterate(arguments[1]) end
  dict_methods.items = function(arguments) return pairs_of(arguments[1]) end
  dict_methods.values = function(arguments)
    local list = {}
    for i, key in ipairs(arguments[1].keys) do list[i] = arguments[1].map[key] end
    return values.list(list)
  end

  -- -- tests ---------------------------------------------------------------------------------

  local function is(name, fn)
    tests[name] = function(arguments, _, line) return fn(arguments[1], arguments[2], line) end
  end

  is("defined", function(v) return not values.is_undefined(v) end)
  is("undefined", values.is_undefined)
  is("none", function(v) return v == none end)
  is("string", function(v) return type(v) == "string" end)
  is("number", function(v) return type(v) == "number" or type(v) == "boolean" end)
  is("integer", function(v) return math.type(v) == "integer" end)
  is("float", function(v) return math.type(v) == "float" end)
  is("boolean", function(v) return type(v) == "boolean" end)
  is("true", function(v) return v == true end)
  is("false", function(v) return v == false end)
  is("mapping", function(v) return values.is_dict(v) end)
  is("sequence", function(v) return type(v) == "string" or values.is_list(v) or values.is_dict(v) end)
  is("iterable", function(v)
    return type(v) == "string" or values.is_list(v) or values.is_dict(v) or values.is_undefined(v)
  end)
  is("callable", function(v) return type(v) == "function" end)
  is("equalto", values.equal)
  is("ne", function(a, b) return not values.equal(a, b) end)
  is("sameas", function(a, b) return rawequal(a, b) end)
  is("lt", values.less)
  is("gt", function(a, b, line) return values.less(b, a, line) end)
  is("le", function(a, b, line) return not values.less(b, a, line) end)
  is("ge", function(a, b, line) return not values.less(a, b, line) end)
  is("in", function(a, b, line) return values.contains(b, a, line) end)
  local function divides(value, by, line)
    if math.type(value) ~= "integer" or math.type(by) ~= "integer" or by == 0 then
      fail(line, "expected whole numbers")
    end
    return value % by == 0
  end
  is("odd", function(v, _, line) return not divides(v, 2, line) end)
  is("even", function(v, _, line) return divides(v, 2, line) end)
  is("divisibleby", divides)
  is("upper", function(v) return type(v) == "string" and v:find("%u") ~= nil and not v:find("%l") end)
  is("lower", function(v) return type(v) == "string" and v:find("%l") ~= nil and not v:find("%u") end)
  for name, other in pairs({ ["eq"] = "equalto", ["=="] = "equalto", ["!="] = "ne", ["<"] = "lt", [">"] = "gt",
    ["<="] = "le", [">="] = "ge", lessthan = "lt", greaterthan = "gt" }) do
    tests[name] = tests[other]
  end

  -- -- filters -------------------------------------------------------------------------------

  local function filter(name, fn)
    filters[name] = function(arguments, named, line) return fn(arguments[1], arguments, named, line) end
  end

  filter("trim", function(v, arguments, named, line)
    local chars = argument(arguments, named, 2, "chars")
    if chars == none then chars = nil end
    return strip(text_of(v), chars and need_text(chars, line, "trim"), true, true)
  end)
  filter("upper", function(v) return text_of(v):upper() end)
  filter("lower", function(v) return text_of(v):lower() end)
  filter("capitalize", function(v) return capitalize(text_of(v)) end)
  filter("title", function(v) return title(text_of(v)) end)
  filter("string", function(v) return text_of(v) end)
  filter("safe", function(v) return v end)
  local ENTITIES = { ["&"] = "&amp;", ["<"] = "&lt;", [">"] = "&gt;", ["'"] = "&#39;", ['"'] = "&#34;" }
  filter("escape", function(v) return (text_of(v):gsub("[&<>'\"]", ENTITIES)) end)
  filter("replace", function(v, arguments, named, line)
    local count = need_whole(argument(arguments, named, 4, "count"), line, "replace")
    if arguments[2] == nil or arguments[3] == nil then fail(line, "replace: expected two texts") end
    return replace(text_of(v), text_of(arguments[2]), text_of(arguments[3]), count, line)
  end)
  filter("default", function(v, arguments, named)
    local value = argument(arguments, named, 2, "default_value", "")
    local falsy = argument(arguments, named, 3, "boolean", false)
    if values.is_undefined(v) or values.truth(falsy) and not values.truth(v) then return value end
    return v
  end)
  filter("length", function(v, _, _, line)
    if type(v) == "string" then return values.length(v) end
    if type(v) ~= "table" or v == none then fail(line, "length: a %s has none", values.kind(v)) end
    return values.iterate(v, line).n
  end)
  filter("join", function(v, arguments, named, line)
    local list = values.iterate(v, line)
    local name = argument(arguments, named, 3, "attribute")
    if name then list = filters.map({ list }, { attribute = name }, line) end
    return join(list, text_of(argument(arguments, named, 2, "d", "")), line)
  end)
  filter("tojson", function(v, arguments, named, line)
    local indent = argument(arguments, named, 2, "indent")
    if indent == none then indent = nil end
    if indent and (math.type(indent) ~= "integer" or indent < 0 or indent > MAX_INDENT) then
      fail(line, "tojson: indent is %s: expected 0 to %d", text_of(indent), MAX_INDENT)
    end
    local separators = argument(arguments, named, 99, "separators")
    if separators and not values.is_list(separators) then separators = nil end
    return json.encode(values.to_lua(v, json, line), { indent = indent, spaces = true, separators = separators,
      ascii = values.truth(argument(arguments, named, 99, "ensure_ascii", false)),
      sort_keys = values.truth(argument(arguments, named, 99, "sort_keys", false)) })
  end)
  local function item_at(list, i, name)
    if list[i] == nil then return values.undefined(name) end
    return list[i]
  end
  filter("first", function(v, _, _, line) return item_at(values.iterate(v, line), 1, "first") end)
  filter("last", function(v, _, _, line)
    local list = values.iterate(v, line)
    return item_at(list, list.n, "last")
  end)
  filter("list", function(v, _, _, line)
    local list = values.iterate(v, line)
    return values.list(table.move(list, 1, list.n, 1, {}), list.n)
  end)
  filter("items", function(v, _, _, line)
    if values.is_undefined(v) then return values.list({}) end
    if not values.is_dict(v) then fail(line, "items: expected a dict, got a %s", values.kind(v)) end
    return pairs_of(v)
  end)
  filter("reverse", function(v, _, _, line)
    local list, turned = values.iterate(v, line), {}
    for i = 1, list.n do turned[i] = list[list.n + 1 - i] end
    return type(v) == "string" and table.concat(turned) or values.list(turned, list.n)
  end)
  filter("int", function(v, arguments, named)
    if type(v) == "boolean" then return v and 1 or 0 end
    if type(v) == "string" then v = strip(v, nil, true, true) end
    local number = (type(v) == "string" or type(v) == "number") and tonumber(v)
    if not number then return argument(arguments, named, 2, "default", 0) end
    return math.tointeger(number < 0 and math.ceil(number) or math.floor(number)) or number
  end)
  filter("float", function(v, arguments, named)
    local number = type(v) ~= "table" and type(v) ~= "function" and tonumber(v)
    return number and number + 0.0 or argument(arguments, named, 2, "default", 0.0)
  end)
  filter("abs", function(v, _, _, line)
    return type(v) == "number" and math.abs(v) or fail(line, "abs: expected a number, got a %s", values.kind(v))
  end)
  filter("round", function(v, arguments, named, line)
    local digits = argument(arguments, named, 2, "precision", 0)
    if type(v) ~= "number" or math.type(digits) ~= "integer" or math.abs(digits) > 15 then
      fail(line, "round: expected a number and up to 15 digits")
    end
    return tonumber(("%%.%df"):format(math.max(digits, 0)):format(v)) + 0.0
  end)
  filter("indent", function(v, arguments, named, line)
    local width = argument(arguments, named, 2, "width", 4)
    local first, blank = argument(arguments, named, 3, "first", false), argument(arguments, named, 4, "blank", false)
    if math.type(width) ~= "integer" or width < 0 or width > MAX_INDENT then
      fail(line, "indent: expected 0 to %d", MAX_INDENT)
    end
    local text, margin = text_of(v), (" "):rep(width)
    values.check_text(#text * (width + 1), line)
    text = text:gsub("\n([^\n]?)", function(c) return "\n" .. ((c ~= "" or blank) and margin or "") .. c end)
    return values.truth(first) and margin .. text or text
  end)
  filter("wordcount", function(v) return split(text_of(v)).n end)

  -- -- filters over lists --------------------------------------------------------------------

  -- "a.b.0" of an item, each step an attribute or a place.
  local function attribute_of(item, path, default, line)
    if math.type(path) == "integer" then path = tostring(path) end
    for part in need_text(path, line, "attribute"):gmatch("[^.]+") do
      local place = math.tointeger(tonumber(part))
      local value
      if values.is_dict(item) then
        value = item.map[part]
      elseif values.is_list(item) and place then
        value = item[place + 1]
      end
      if value == nil then return default == nil and values.undefined(part) or default end
      item = value
    end
    return item
  end

  local function named_test(name, line)
    return tests[name] or fail(line, "the test '%s' is not supported", tostring(name))
  end

  filter("map", function(v, arguments, named, line)
    local list, out = values.iterate(v, line), {}
    if named.attribute then
      for i = 1, list.n do out[i] = attribute_of(list[i], named.attribute, named.default, line) end
      return values.list(out, list.n)
    end
    local fn = filters[arguments[2]] or fail(line, "map: the filter '%s' is not supported", text_of(arguments[2]))
    for i = 1, list.n do
      out[i] = fn({ list[i], table.unpack(arguments, 3) }, named, line)
    end
    return values.list(out, list.n)
  end)

  -- select, reject, selectattr, rejectattr: keep the items for which the test says `wanted`.
  local function selecting(name, by_attribute, wanted)
    filter(name, function(v, arguments, _, line)
      local list, out = values.iterate(v, line), {}
      local at = by_attribute and 3 or 2
      local test = arguments[at] and named_test(arguments[at], line)
      for i = 1, list.n do
        local value = list[i]
        if by_attribute then value = attribute_of(value, arguments[2], nil, line) end
        local holds
        if test then holds = test({ value, arguments[at + 1] }, {}, line) else holds = values.truth(value) end
        if holds == wanted then out[#out + 1] = list[i] end
      end
      return values.list(out)
    end)
  end
  selecting("select", false, true)
  selecting("reject", false, false)
  selecting("selectattr", true, true)
  selecting("rejectattr", true, false)

  filter("unique", function(v, _, _, line)
    local list, out = values.iterate(v, line), {}
    if list.n > MAX_SORTED then fail(line, "unique: a list of over %d items", MAX_SORTED) end
    for i = 1, list.n do
      if not values.contains(values.list(out), list[i], line) then out[#out + 1] = list[i] end
    end
    return values.list(out)
  end)

  -- Merges sorted halves, so that equal items keep their order.
  local function sorted(list, less)
    if #list < 2 then return list end
    local half = #list // 2
    local a, b = sorted({ table.unpack(list, 1, half) }, less), sorted({ table.unpack(list, half + 1) }, less)
    local out, i, k = {}, 1, 1
    while i <= #a or k <= #b do
      if k > #b or i <= #a and not less(b[k], a[i]) then
        out[#out + 1], i = a[i], i + 1
      else
        out[#out + 1], k = b[k], k + 1
      end
    end
    return out
  end

  local function sort_by(list, arguments, named, key, line)
    local turned = values.truth(argument(arguments, named, 2, "reverse", false))
    local exact = values.truth(argument(arguments, named, 3, "case_sensitive", false))
    local function folded(item)
      local value = key(item)
      return not exact and type(value) == "string" and value:lower() or value
    end
    if list.n > MAX_SORTED then fail(line, "sort: a list of over %d items", MAX_SORTED) end
    return values.list(sorted({ table.unpack(list, 1, list.n) }, function(a, b)
      if turned then a, b = b, a end
      return values.less(folded(a), folded(b), line)
    end))
  end

  filter("sort", function(v, arguments, named, line)
    local name = argument(arguments, named, 4, "attribute")
    return sort_by(values.iterate(v, line), arguments, named, function(item)
      if not name then return item end
      return attribute_of(item, name, nil, line)
    end, line)
  end)
  filter("dictsort", function(v, _, named, line)
    if not values.is_dict(v) then fail(line, "dictsort: expected a dict, got a %s", values.kind(v)) end
    local by_value = named.by == "value"
    return sort_by(pairs_of(v), {}, { reverse = named.reverse, case_sensitive = named.case_sensitive },
      function(item) return item[by_value and 2 or 1] end, line)
  end)
  filter("sum", function(v, arguments, named, line)
    local list, total = values.iterate(v, line), argument(arguments, named, 3, "start", 0)
    local name = argument(arguments, named, 2, "attribute")
    for i = 1, list.n do
      local item = list[i]
      if name then item = attribute_of(item, name, nil, line) end
      total = values.arithmetic("+", total, item, line)
    end
    return total
  end)
  local function extreme(name, wins)
    filter(name, function(v, _, _, line)
      local list = values.iterate(v, line)
      local best = list[1]
      for i = 2, list.n do
        if wins(list[i], best, line) then best = list[i] end
      end
      return item_at({ best }, 1, name)
    end)
  end
  extreme("min", values.less)
  extreme("max", function(a, b, line) return values.less(b, a, line) end)

  filters.count, filters.d, filters.e = filters.length, filters.default, filters.escape

  return { filters = filters, tests = tests, text_methods = text_methods, dict_methods = dict_methods }
end
