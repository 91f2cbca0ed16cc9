-- JSON Schema to GBNF: pl.json_schema_grammar.
--
-- Draft 2020-12. Each schema becomes a rule for the texts of its values. A keyword that is not
-- known here is an error that names it and its place: what generate writes always validates.
--
-- Supported:
--
-- - type, enum, const, nullable (OpenAPI's), $ref and $anchor within the schema, $defs; title,
--   description, default, examples, $comment and the like are passed over;
-- - properties, required, additionalProperties: named properties come in the schema's order, others
--   after them; without additionalProperties only those are written that are named;
-- - items, prefixItems, minItems, maxItems;
-- - minLength and maxLength, or pattern, or format: date, time, date-time, duration, uuid, ipv4, ipv6,
--   hostname, email, uri;
-- - minimum, maximum, exclusiveMinimum, exclusiveMaximum; multipleOf of integers; numbers between
--   bounds have up to 3 decimals, or as many as the bounds;
-- - anyOf, allOf (merged), oneOf of alternatives that exclude one another by type, constant or a
--   required constant.
--
-- A schema without type whose keywords speak of some types is taken to mean these types.

local characters = require "perilune.characters"
local merging = require "perilune.json_schema_merge"
local numbers = require "perilune.json_numbers"
local texts = require "perilune.json_texts"

local MAX_RULES, MAX_DEPTH, MAX_COUNT = 20000, 64, 10000

return function(pl)
  local json = pl.json
  local Builder = {}
  Builder.__index = Builder

  local keywords = merging(pl)
  local fail, check_schema, merge = keywords.fail, keywords.check_schema, keywords.merge
  local SILENT, TYPES, OF_TYPE = keywords.silent, keywords.types, keywords.of_type
  local as_list, same_values = keywords.as_list, keywords.same_values

  local function quote(text)
    return '"' .. text:gsub('[%c"\\]', function(c)
      return c == "\127" and "\\x7F" or ("\\x%02X"):format(c:byte())
    end) .. '"'
  end

  -- The empty language: a schema that nothing satisfies.
  local NEVER = false

  local function choice(list)
    local seen, unique = {}, {}
    for _, item in ipairs(list) do
      if item and not seen[item] then
        seen[item] = true
        unique[#unique + 1] = item
      end
    end
    if #unique == 0 then return NEVER end
    return #unique == 1 and unique[1] or "(" .. table.concat(unique, " | ") .. ")"
  end

  function Builder:shared(name)
    if name == "ws" then
      if not self.rules.ws then self:set("ws", self.spaces and texts.spaces or '""') end
    elseif not self.rules[name] then
      self:set(name, texts.rules[name][1])
      for i = 2, #texts.rules[name] do self:shared(texts.rules[name][i]) end
    end
    return name
  end

  function Builder:set(name, body)
    if #self.names >= MAX_RULES then fail("#", "a schema of over %d rules", MAX_RULES) end
    self.names[#self.names + 1] = name
    self.rules[name] = body
    return name
  end

  -- A new rule, unless there is one with the same body.
  function Builder:add(body)
    if not body then return NEVER end
    local name = self.by_body[body]
    if not name then
      self.n = self.n + 1
      name = self:set("r" .. self.n, body)
      self.by_body[body] = name
    end
    return name
  end

  -- -- reading a schema ----------------------------------------------------------------------

  local function unescape(part)
    part = part:gsub("%%(%x%x)", function(hex) return string.char(tonumber(hex, 16)) end)
    return (part:gsub("~1", "/"):gsub("~0", "~"))
  end

  local function find_anchor(node, name, depth)
    if type(node) ~= "table" or depth > MAX_DEPTH then return nil end
    if rawget(node, "$anchor") == name then return node end
    for _, inner in pairs(node) do
      local found = find_anchor(inner, name, depth + 1)
      if found then return found end
    end
  end

  function Builder:resolve(ref, at)
    if ref == "#" then return self.root end
    local anchor = ref:match("^#([^/]+)$")
    if anchor then
      return find_anchor(self.root, anchor, 0) or fail(at, "$ref: there is no $anchor '%s'", anchor)
    end
    if ref:sub(1, 2) ~= "#/" then fail(at, "$ref '%s': only references within the schema are supported", ref) end
    local node = self.root
    for part in ref:sub(2):gmatch("/([^/]*)") do
      part = unescape(part)
      local key = part
      if type(node) == "table" and json.is_array(node) then
        key = math.tointeger(tonumber(part)) and math.tointeger(tonumber(part)) + 1 or 0
      end
      node = type(node) == "table" and node[key]
      if node == nil then fail(at, "$ref '%s' leads nowhere", ref) end
    end
    return node
  end

  -- The schema without $ref and allOf at its top. A $ref alone stays: it becomes a rule.
  function Builder:flatten(schema, at, depth)
    if type(schema) == "boolean" then return schema end
    check_schema(schema, at)
    if depth > MAX_DEPTH then fail(at, "references or allOf nested over %d deep", MAX_DEPTH) end
    local parts = {}
    if schema["$ref"] ~= nil then parts[1] = self:resolve(schema["$ref"], at) end
    for i, part in ipairs(schema.allOf or {}) do
      check_schema(part, at .. "/allOf/" .. i - 1)
      parts[#parts + 1] = part
    end
    if #parts == 0 then return schema end
    local rest = {}
    for key, value in pairs(schema) do
      if key ~= "$ref" and key ~= "allOf" then rest[key] = value end
    end
    local result = rest
    for _, part in ipairs(parts) do
      result = merge(result, self:flatten(part, at, depth + 1), at)
    end
    return self:flatten(result, at, depth + 1)
  end

  -- -- values --------------------------------------------------------------------------------

  local function write_value(value) return quote(json.encode(value)) end

  local function type_of(value)
    if value == json.null then return "null" end
    if type(value) == "table" then return json.is_array(value) and "array" or "object" end
    if math.type(value) == "integer" then return "integer" end
    return type(value)
  end

  local function check_count(schema, name, at, default)
    local value = schema[name]
    if value == nil then return default end
    local whole = type(value) == "number" and math.tointeger(value)
    if not whole or whole < 0 then fail(at, "%s: expected a whole number", name) end
    if whole > MAX_COUNT then
      if name:find("^max") then return MAX_COUNT end
      fail(at, "%s: %d is over %d", name, whole, MAX_COUNT)
    end
    return whole
  end

  local function times(min, max)
    if min == 0 and not max then return "*" end
    return ("{%d,%s}"):format(min, max or "")
  end

  function Builder:string(schema, at)
    local min, max = check_count(schema, "minLength", at, 0), check_count(schema, "maxLength", at)
    local limited = min > 0 or max
    if max and max < min then return NEVER end
    if schema.pattern ~= nil or schema.format ~= nil then
      if schema.pattern ~= nil and schema.format ~= nil then
        fail(at, "'pattern' and 'format' together are not supported")
      end
      local name = schema.pattern ~= nil and "pattern" or "format"
      if limited then fail(at, "'%s' with minLength or maxLength is not supported", name) end
      if name == "pattern" then return self:add('"\\"" (' .. self:pattern(schema.pattern, at) .. ') "\\""') end
      local body = texts.formats[schema.format]
      if not body then fail(at, "the format '%s' is not supported", tostring(schema.format)) end
      return self:add('"\\"" (' .. body .. ') "\\""')
    end
    if not limited then return self:shared("string") end
    self:shared("char")
    return self:add('"\\"" char' .. times(min, max) .. ' "\\""')
  end

  -- A pattern speaks of the string's characters, and some of those are written with escapes.
  function Builder:pattern(pattern, at)
    local any = self:shared("char")
    local good, body = pcall(pl.regex_expression, pattern, any, characters.json_class)
    if not good then
      if type(body) ~= "table" and type(body) ~= "userdata" then error(body, 0) end
      fail(at, "pattern: %s", body.message)
    end
    return body
  end

  function Builder:array(schema, at)
    local min, max = check_count(schema, "minItems", at, 0), check_count(schema, "maxItems", at)
    local ws = self:shared("ws")
    local parts, prefix = {}, schema.prefixItems or {}
    local rest = self:schema(schema.items == nil and true or schema.items, at .. "/items")
    for i, item in ipairs(prefix) do parts[i] = self:schema(item, at .. "/prefixItems/" .. i - 1) end
    for i = 1, #prefix do
      if not parts[i] then max = math.min(max or i - 1, i - 1) end
    end
    if not rest then max = math.min(max or #prefix, #prefix) end
    if max and max < min then return NEVER end
    -- What may follow n items, from the last of the prefix backwards.
    local n = math.min(#prefix, max or #prefix)
    local body = ""
    if rest and (not max or max > n) then
      body = ("(%s %s %s)%s"):format(n > 0 and '"," ' .. ws or "", rest, ws,
        times(math.max(min - n, 0), max and max - n))
      if n == 0 then
        local more = ('("," %s %s %s)%s'):format(ws, rest, ws,
          times(math.max(min - 1, 0), max and math.max(max - 1, 0)))
        body = ("(%s %s %s)"):format(rest, ws, more) .. (min == 0 and "?" or "")
      end
    end
    for i = n, 1, -1 do
      local item = ("%s%s %s %s"):format(i > 1 and '"," ' .. ws .. " " or "", parts[i], ws, body)
      body = i <= min and item or "(" .. item .. ")?"
      if #body > 4000 then body = self:add(body) end
    end
    return self:add(('"[" %s %s "]"'):format(ws, body))
  end

  -- -- objects -------------------------------------------------------------------------------

  -- A string that is none of the names: a walk down their letters, each turned away from once.
  function Builder:other_key(names)
    local char = self:shared("char")
    local tree = {}
    for _, name in ipairs(names) do
      local node = tree
      for _, code in utf8.codes(name) do
        node[code] = node[code] or {}
        node = node[code]
      end
      node.last = true
    end
    local function walk(node)
      local codes, branches = {}, {}
      for code in pairs(node) do
        if code ~= "last" then codes[#codes + 1] = code end
      end
      table.sort(codes)
      if #codes == 0 then return self:add(char .. "+") end
      local taken = {}
      for _, code in ipairs(codes) do
        taken[#taken + 1] = { code, code }
        branches[#branches + 1] = characters.json_class({ { code, code } }) .. " " .. walk(node[code])
      end
      branches[#branches + 1] = characters.json_class(characters.complement(taken)) .. " " .. char .. "*"
      return self:add((node.last and "" or '"" | ') .. table.concat(branches, " | "))
    end
    return self:add('"\\"" ' .. walk(tree) .. ' "\\""')
  end

  function Builder:member(name, value)
    local ws = self:shared("ws")
    return self:add(('%s ":" %s %s %s'):format(quote(json.encode(name)), ws, value, ws))
  end

  -- Members in order. after[i]: what may follow when something stands before member i, begun[i]:
  -- when nothing does.
  function Builder:object(schema, at)
    local ws, list, names, required = self:shared("ws"), {}, {}, {}
    local properties = schema.properties or {}
    for _, name in ipairs(schema.required or {}) do required[name] = true end
    for _, name in ipairs(json.keys(properties)) do
      names[#names + 1] = name
      local value = self:schema(properties[name], at .. "/properties/" .. name)
      if value then
        list[#list + 1] = { body = self:member(name, value), required = required[name] }
      elseif required[name] then
        return NEVER
      end
      required[name] = nil
    end
    local more = schema.additionalProperties
    if more == nil then more = #names == 0 or next(required) ~= nil end
    local other = more and self:schema(more, at .. "/additionalProperties")
    local missing = {}
    for name in pairs(required) do missing[#missing + 1] = name end
    table.sort(missing)
    for _, name in ipairs(missing) do
      if not other then return NEVER end
      names[#names + 1] = name
      list[#list + 1] = { body = self:member(name, other), required = true }
    end
    if schema.additionalProperties == nil and #names > 0 then other = nil end
    return self:members(schema, list, other and self:add(self:other_member(names, other)), at, ws)
  end

  function Builder:other_member(names, value)
    local ws = self:shared("ws")
    local key = #names == 0 and self:shared("string") or self:other_key(names)
    return ('%s ":" %s %s %s'):format(key, ws, value, ws)
  end

  function Builder:members(schema, list, other, at, ws)
    local min, max = check_count(schema, "minProperties", at, 0), check_count(schema, "maxProperties", at)
    local n_required = 0
    for _, item in ipairs(list) do n_required = n_required + (item.required and 1 or 0) end
    if (min > n_required or max and max < #list + (other and 1 or 0)) and #list > 0 then
      fail(at, "minProperties and maxProperties beside named properties are not supported")
    end
    if #list == 0 then
      if min > 0 or max then fail(at, "minProperties and maxProperties are not supported: keys must differ") end
      local body = other and ('(%s ("," %s %s)*)?'):format(other, ws, other) or ""
      return self:add(('"{" %s %s "}"'):format(ws, body))
    end
    local after = other and ('("," %s %s)*'):format(ws, other) or '""'
    local begun = other and ('(%s %s)?'):format(other, after) or '""'
    for i = #list, 1, -1 do
      local item, last_after, last_begun = list[i], self:add(after), self:add(begun)
      local with = ('"," %s %s %s'):format(ws, item.body, last_after)
      local first = ("%s %s"):format(item.body, last_after)
      after = item.required and with or ("%s | %s"):format(with, last_after)
      begun = item.required and first or ("%s | %s"):format(first, last_begun)
    end
    return self:add(('"{" %s %s "}"'):format(ws, self:add(begun)))
  end

  -- -- types and combinations ----------------------------------------------------------------

  function Builder:of_type(kind, schema, at)
    if kind == "object" or kind == "array" or kind == "string" then
      local plain = true
      for _, name in ipairs(OF_TYPE[kind]) do plain = plain and schema[name] == nil end
      return plain and self:shared(kind) or self[kind](self, schema, at)
    elseif kind == "number" or kind == "integer" then
      local good, body = numbers.expression(schema, kind == "integer")
      if good == nil then fail(at, "%s", body) end
      if not good then return NEVER end
      return body and self:add(body) or self:shared(kind)
    elseif kind == "boolean" or kind == "null" then
      return self:shared(kind)
    end
    fail(at, "the type '%s' does not exist", tostring(kind))
  end

  -- The types that keywords speak of, for a schema that names none; nil when there is no such one.
  local function implied(schema)
    local list = {}
    for _, kind in ipairs(TYPES) do
      for _, name in ipairs(OF_TYPE[kind] or {}) do
        if schema[name] ~= nil and list[#list] ~= kind then list[#list + 1] = kind end
      end
    end
    return list[1] and list
  end

  -- Which types a schema allows, as a set; constants count as their types.
  local function types_of(schema)
    if schema == true then schema = {} end
    local set = {}
    for _, kind in ipairs(as_list(schema.type or TYPES)) do set[kind] = true end
    if set.number then set.integer = true end
    return set
  end

  -- Whether no value satisfies both, as far as types, constants and required constants tell.
  function Builder:disjoint(a, b, depth)
    a, b = self:flatten(a, "#", 0), self:flatten(b, "#", 0)
    if a == false or b == false then return true end
    if a == true or b == true or depth > 4 then return false end
    local function constants(schema)
      return schema.const ~= nil and { schema.const } or schema.enum
    end
    local x, y = constants(a), constants(b)
    local left, right = types_of(a), types_of(b)
    if x and y then return #same_values(x, y) == 0 end
    if x or y then
      local types = x and right or left
      for _, value in ipairs(x or y) do
        if types[type_of(value)] then return false end
      end
      return true
    end
    -- What one writes must not be what the other allows.
    local wrote, writes = types_of({ type = a.type or implied(a) }), types_of({ type = b.type or implied(b) })
    local objects = false
    for _, kind in ipairs(TYPES) do
      if wrote[kind] and right[kind] or writes[kind] and left[kind] then
        if kind ~= "object" then return false end
        objects = true
      end
    end
    if not objects then return true end
    local required = {}
    for _, name in ipairs(a.required or {}) do required[name] = true end
    for _, name in ipairs(b.required or {}) do
      local p, q = (a.properties or {})[name], (b.properties or {})[name]
      if required[name] and p ~= nil and q ~= nil and self:disjoint(p, q, depth + 1) then return true end
    end
    return false
  end

  function Builder:alternatives(schema, name, at)
    local list, rest = schema[name], {}
    if #list == 0 then fail(at, "'%s' is empty", name) end
    for key, value in pairs(schema) do
      if key ~= name and not SILENT[key] then rest[key] = value end
    end
    local bodies, merged = {}, {}
    for i, item in ipairs(list) do
      local here = ("%s/%s/%d"):format(at, name, i - 1)
      check_schema(item, here)
      merged[i] = next(rest) and merge(rest, self:flatten(item, here, 0), here) or item
      bodies[i] = self:schema(merged[i], here)
    end
    if name == "oneOf" then
      for i = 1, #list do
        for k = i + 1, #list do
          if not self:disjoint(merged[i], merged[k], 0) then
            fail(at, "oneOf: alternatives %d and %d may hold both; only ones that differ by type, constant or "
              .. "a required constant are supported (or use anyOf)", i - 1, k - 1)
          end
        end
      end
    end
    return choice(bodies)
  end

  local COMPARE = {
    minimum = function(v, limit) return v >= limit end, maximum = function(v, limit) return v <= limit end,
    exclusiveMinimum = function(v, limit) return v > limit end,
    exclusiveMaximum = function(v, limit) return v < limit end,
    multipleOf = function(v, step) return v % step == 0 end,
    minLength = function(v, n) return utf8.len(v) >= n end, maxLength = function(v, n) return utf8.len(v) <= n end,
  }

  -- Whether a constant satisfies the keywords beside it.
  local function satisfies(value, schema, at)
    local kind = type_of(value)
    for _, name in ipairs(OF_TYPE[kind == "integer" and "number" or kind] or {}) do
      if schema[name] ~= nil then
        if not COMPARE[name] then fail(at, "'%s' beside 'enum' or 'const' is not supported", name) end
        if not COMPARE[name](value, schema[name]) then return false end
      end
    end
    return true
  end

  local function constants_body(schema, at)
    local list, bodies = schema.const ~= nil and { schema.const } or schema.enum, {}
    if schema.const ~= nil and schema.enum ~= nil then list = same_values(list, schema.enum) end
    local types = types_of(schema)
    for _, value in ipairs(list) do
      local kind = type_of(value)
      local whole = kind == "number" and value == math.floor(value)
      if (types[kind] or whole and types.integer) and satisfies(value, schema, at) then
        bodies[#bodies + 1] = write_value(value)
      end
    end
    return choice(bodies)
  end

  function Builder:compile(schema, at)
    if schema == true then return self:shared("value") end
    if schema == false then return NEVER end
    schema = self:flatten(schema, at, 0)
    if type(schema) == "boolean" then return self:compile(schema, at) end
    if schema.nullable and schema.type then
      local types = table.move(as_list(schema.type), 1, #as_list(schema.type), 1, json.array())
      types[#types + 1] = "null"
      local wider = {}
      for key, value in pairs(schema) do wider[key] = value end
      wider.type, wider.nullable = types, nil
      schema = wider
    end
    if schema.anyOf ~= nil then return self:alternatives(schema, "anyOf", at) end
    if schema.oneOf ~= nil then return self:alternatives(schema, "oneOf", at) end
    if schema.const ~= nil or schema.enum ~= nil then return constants_body(schema, at) end
    local types, bodies = as_list(schema.type or implied(schema)), {}
    if not types then return self:shared("value") end
    local set = types_of({ type = types })
    for _, kind in ipairs(types) do
      if not (kind == "integer" and set.number) then bodies[#bodies + 1] = self:of_type(kind, schema, at) end
    end
    return choice(bodies)
  end

  -- The name of the rule of a schema. The rule exists before its body, for schemas within
  -- themselves; those that never end come out as errors of the grammar.
  function Builder:schema(schema, at)
    if type(schema) == "table" then
      check_schema(schema, at)
      local only = schema["$ref"] ~= nil
      for key in pairs(schema) do only = only and (key == "$ref" or SILENT[key]) end
      if only then return self:reference(schema, at) end
    end
    self.depth = self.depth + 1
    if self.depth > MAX_DEPTH then fail(at, "nested over %d deep", MAX_DEPTH) end
    local body = self:compile(schema, at)
    self.depth = self.depth - 1
    return body
  end

  function Builder:reference(schema, at)
    local target = self:resolve(schema["$ref"], at)
    if type(target) ~= "table" then return self:schema(target, at) end
    local done = self.references[target]
    if done == nil then
      self.n = self.n + 1
      local name = "ref" .. self.n
      self.references[target] = name
      done = self:compile(target, schema["$ref"])
      if done then
        self:set(name, done)
        done = name
      elseif self.used[target] then
        fail(at, "$ref '%s': nothing satisfies it", schema["$ref"])
      end
      self.references[target] = done
    else
      self.used[target] = true
    end
    return done
  end

  -- schema: a table as pl.json.decode gives it (a table of Lua's own has its properties in
  -- alphabetical order), a boolean, or JSON as text.
  function pl.json_schema_grammar(schema, opts)
    opts = pl.check_options("json_schema_grammar", opts, { "whitespace" }, { ws = "whitespace" })
    if type(schema) == "string" then schema = json.decode(schema, "json_schema") end
    if type(schema) ~= "table" and type(schema) ~= "boolean" then
      pl.fail("argument", "json_schema is a %s: expected a schema or its text", type(schema))
    end
    local builder = setmetatable({ root = schema, rules = {}, names = {}, by_body = {}, references = {},
      used = {}, n = 0, depth = 0, spaces = opts.whitespace ~= false }, Builder)
    local body = builder:schema(schema, "#")
    if not body then pl.fail("argument", "json_schema: nothing satisfies this schema") end
    local out = { "root ::= " .. body }
    for _, name in ipairs(builder.names) do out[#out + 1] = name .. " ::= " .. builder.rules[name] end
    return table.concat(out, "\n") .. "\n"
  end
end
