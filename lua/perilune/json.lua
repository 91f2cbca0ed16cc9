-- JSON: pl.json.decode and pl.json.encode.
--
-- Objects read from a text remember the order of their keys, and arrays that they are arrays, so
-- that a text written again is the same but for its spaces:
--
--     local t = pl.json.decode('{"b": [], "a": 1.0, "c": null}')
--     pl.json.keys(t)                     -- {"b", "a", "c"}
--     t.c == pl.json.null                 -- true
--     pl.json.encode(t)                   -- '{"b":[],"a":1.0,"c":null}'
--
-- A table made in Lua is an array when it has items from 1 on and nothing else; an empty one is an
-- object unless pl.json.array marks it.

local MAX_DEPTH = 500

return function(pl, core)
  local json = {}
  local Array = { __name = "json array" }

  -- A light userdata: true in conditions, equal only to itself.
  json.null = core.json_decode("null", Array)

  -- name is for messages.
  function json.decode(text, name)
    if type(text) ~= "string" then
      pl.fail("argument", "json.decode: got a %s, expected a text", type(text))
    end
    return core.json_decode(text, Array, name)
  end

  -- Marks a table as an array, which matters for empty ones.
  function json.array(list) return setmetatable(list or {}, Array) end

  function json.is_array(value)
    if type(value) ~= "table" then return false end
    local meta = getmetatable(value)
    if meta == Array then return true end
    if meta and rawget(meta, "keys") then return false end
    local n = 0
    for _ in pairs(value) do n = n + 1 end
    return n > 0 and n == #value
  end

  function json.is_object(value) return type(value) == "table" and not json.is_array(value) end

  -- An object whose keys keep the order of the list of {key, value} pairs.
  function json.object(pairs_list)
    local object, keys = {}, {}
    for i, pair in ipairs(pairs_list or {}) do
      object[pair[1]] = pair[2]
      keys[i] = pair[1]
    end
    return setmetatable(object, { keys = keys })
  end

  -- The keys of an object: first those of the text that it was read from, in that order, then the
  -- others, sorted.
  function json.keys(object)
    local meta, list, seen = getmetatable(object), {}, {}
    for _, key in ipairs(meta and rawget(meta, "keys") or {}) do
      if object[key] ~= nil and not seen[key] then
        list[#list + 1] = key
        seen[key] = true
      end
    end
    local rest = {}
    for key in pairs(object) do
      if not seen[key] then rest[#rest + 1] = key end
    end
    table.sort(rest, function(a, b) return tostring(a) < tostring(b) end)
    return table.move(rest, 1, #rest, #list + 1, list)
  end

  local escapes = { ['"'] = '\\"', ["\\"] = "\\\\", ["\b"] = "\\b", ["\f"] = "\\f", ["\n"] = "\\n",
    ["\r"] = "\\r", ["\t"] = "\\t" }

  local function quote(text, ascii)
    text = text:gsub('[%c"\\]', function(c)
      if c == "\127" then return c end
      return escapes[c] or ("\\u%04x"):format(c:byte())
    end)
    if ascii then
      text = text:gsub(utf8.charpattern, function(c)
        local code = #c > 1 and utf8.len(c) and utf8.codepoint(c)
        if not code then return nil end
        if code < 0x10000 then return ("\\u%04x"):format(code) end
        code = code - 0x10000
        return ("\\u%04x\\u%04x"):format(0xD800 + (code >> 10), 0xDC00 + (code & 0x3FF))
      end)
    end
    return '"' .. text .. '"'
  end

  -- The fewest digits that read back as the same number.
  local function number(value)
    if math.type(value) == "integer" then return tostring(value) end
    if value ~= value or value == math.huge or value == -math.huge then
      pl.fail("argument", "json.encode: %s has no form in JSON", tostring(value))
    end
    for digits = 15, 17 do
      local text = ("%%.%dg"):format(digits):format(value)
      if tonumber(text) == value then
        return text:find("[%.e]") and text or text .. ".0"
      end
    end
  end

  local encode

  local function encode_items(out, list, open, close, depth, opts, write_item)
    if #list == 0 then
      out[#out + 1] = open .. close
      return
    end
    local indent = opts.indent and "\n" .. (" "):rep(opts.indent * (depth + 1))
    out[#out + 1] = open
    for i, item in ipairs(list) do
      if i > 1 then out[#out + 1] = opts.item_separator end
      if indent then out[#out + 1] = indent end
      write_item(item)
    end
    if indent then out[#out + 1] = "\n" .. (" "):rep(opts.indent * depth) end
    out[#out + 1] = close
  end

  function encode(out, value, depth, opts)
    local kind = type(value)
    if depth > MAX_DEPTH then
      pl.fail("argument", "json.encode: a table nested over %d deep, or inside itself", MAX_DEPTH)
    end
    if value == json.null or value == nil then
      out[#out + 1] = "null"
    elseif kind == "boolean" then
      out[#out + 1] = tostring(value)
    elseif kind == "number" then
      out[#out + 1] = number(value)
    elseif kind == "string" then
      out[#out + 1] = quote(value, opts.ascii)
    elseif kind ~= "table" then
      pl.fail("argument", "json.encode: a %s has no form in JSON", kind)
    elseif json.is_array(value) then
      encode_items(out, value, "[", "]", depth, opts, function(item)
        encode(out, item, depth + 1, opts)
      end)
    else
      local keys = json.keys(value)
      if opts.sort_keys then table.sort(keys) end
      encode_items(out, keys, "{", "}", depth, opts, function(key)
        if type(key) ~= "string" then
          pl.fail("argument", "json.encode: a key is a %s, expected a string", type(key))
        end
        out[#out + 1] = quote(key, opts.ascii) .. opts.key_separator
        encode(out, value[key], depth + 1, opts)
      end)
    end
  end

  -- indent: spaces for each level, and every item on a line of its own; sort_keys; spaces: after
  -- commas and colons, or separators: {between items, after keys}; ascii: everything else escaped.
  function json.encode(value, opts)
    opts = pl.check_options("json.encode", opts, { "indent", "sort_keys", "spaces", "ascii", "separators" }, {})
    local out, separators = {}, opts.separators or {}
    encode(out, value, 0, { indent = opts.indent, sort_keys = opts.sort_keys, ascii = opts.ascii,
      item_separator = separators[1] or opts.spaces and not opts.indent and ", " or ",",
      key_separator = separators[2] or (opts.spaces or opts.indent) and ": " or ":" })
    return table.concat(out)
  end

  pl.json = json
end
