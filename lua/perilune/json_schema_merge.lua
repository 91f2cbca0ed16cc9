-- What is common to JSON Schemas before they become grammars: which keywords are known, and how two
-- schemas become one that holds when both do.

-- Keywords that say nothing about the value.
local SILENT = { title = true, description = true, default = true, examples = true, ["$schema"] = true,
  ["$id"] = true, ["$comment"] = true, ["$defs"] = true, definitions = true, ["$anchor"] = true,
  deprecated = true, readOnly = true, writeOnly = true, ["$vocabulary"] = true }

-- Keywords by the type whose values they speak of.
local OF_TYPE = {
  object = { "properties", "required", "additionalProperties", "minProperties", "maxProperties" },
  array = { "items", "prefixItems", "minItems", "maxItems" },
  string = { "minLength", "maxLength", "pattern", "format" },
  number = { "minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum", "multipleOf" },
}
local TYPES = { "object", "array", "string", "number", "integer", "boolean", "null" }
local COMBINED = { type = true, enum = true, const = true, nullable = true, anyOf = true, oneOf = true,
  allOf = true, ["$ref"] = true }
local KNOWN = {}
for _, list in pairs(OF_TYPE) do
  for _, name in ipairs(list) do KNOWN[name] = true end
end

return function(pl)
  local json = pl.json
  local keywords = { types = TYPES, of_type = OF_TYPE, silent = SILENT, known = KNOWN }

  local function fail(at, format, ...)
    pl.fail("unsupported", "json_schema: %s: %s", at, format:format(...))
  end

  local function is_list(value)
    return type(value) == "table" and (json.is_array(value) or next(value) == nil)
  end

  local function is_list_of_texts(value)
    if not is_list(value) then return false end
    for _, item in ipairs(value) do
      if type(item) ~= "string" or not utf8.len(item) then return false end
    end
    return true
  end

  local function is_object(value)
    if not json.is_object(value) then return false end
    for key in pairs(value) do
      if type(key) ~= "string" or not utf8.len(key) then return false end
    end
    return true
  end

  local function is_text(value) return type(value) == "string" end

  -- What keywords must be: a test, and what it is called.
  local EXPECTED = {
    properties = { is_object, "an object" }, required = { is_list_of_texts, "a list of names" },
    prefixItems = { is_list, "a list of schemas" }, anyOf = { is_list, "a list of schemas" },
    oneOf = { is_list, "a list of schemas" }, allOf = { is_list, "a list of schemas" },
    enum = { is_list, "a list" }, ["$ref"] = { is_text, "a text" }, pattern = { is_text, "a text" },
    format = { is_text, "a text" },
    type = { function(value) return is_text(value) or is_list_of_texts(value) end, "a type or a list of types" },
  }
  for _, name in ipairs({ "minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum", "multipleOf", "minLength",
    "maxLength", "minItems", "maxItems", "minProperties", "maxProperties" }) do
    EXPECTED[name] = { function(value) return type(value) == "number" and value == value end, "a number" }
  end

  local function check_keyword(at, key, value)
    if key == "uniqueItems" and value == false then return end
    if not (SILENT[key] or KNOWN[key] or COMBINED[key]) then fail(at, "the keyword '%s' is not supported", key) end
    local expected = EXPECTED[key]
    if expected and not expected[1](value) then fail(at, "%s: expected %s", key, expected[2]) end
  end

  local function check_schema(schema, at)
    if type(schema) == "boolean" then return end
    if not json.is_object(schema) then fail(at, "expected a schema: an object or a boolean") end
    for key, value in pairs(schema) do check_keyword(at, tostring(key), value) end
  end

  local function as_list(types)
    return type(types) == "string" and { types } or types
  end

  local function shared_types(a, b)
    local list = json.array()
    for _, x in ipairs(as_list(a)) do
      for _, y in ipairs(as_list(b)) do
        if x == y or x == "integer" and y == "number" then
          list[#list + 1] = x
        elseif x == "number" and y == "integer" then
          list[#list + 1] = y
        end
      end
    end
    return list
  end

  local function equal(a, b)
    if type(a) ~= type(b) then return false end
    if type(a) ~= "table" then return a == b end
    if json.is_array(a) ~= json.is_array(b) or #a ~= #b then return false end
    for key, value in pairs(a) do
      if not equal(value, b[key]) then return false end
    end
    for key in pairs(b) do
      if a[key] == nil then return false end
    end
    return true
  end

  local function both(a, b)
    if a == true then return b end
    if b == true then return a end
    if a == false or b == false then return false end
    return { allOf = json.array({ a, b }) }
  end

  local function merge_properties(into, from)
    local list = {}
    for _, side in ipairs({ into, from }) do
      local other = side == into and from or into
      local named, theirs = side.properties or {}, other.properties or {}
      for _, key in ipairs(json.keys(named)) do
        local value = named[key]
        if theirs[key] == nil then
          if other.additionalProperties ~= nil then value = both(value, other.additionalProperties) end
        elseif side == into then
          value = both(value, theirs[key])
        end
        if theirs[key] == nil or side == into then list[#list + 1] = { key, value } end
      end
    end
    return json.object(list)
  end

  local function union(a, b)
    local list, seen = json.array(), {}
    for _, side in ipairs({ a, b }) do
      for _, item in ipairs(side) do
        if not seen[item] then list[#list + 1] = item end
        seen[item] = true
      end
    end
    return list
  end

  -- How two values of one keyword become one that holds when both do.
  local MERGE = {
    type = shared_types, minimum = math.max, exclusiveMinimum = math.max, maximum = math.min,
    exclusiveMaximum = math.min, minLength = math.max, maxLength = math.min, minItems = math.max,
    maxItems = math.min, minProperties = math.max, maxProperties = math.min, required = union, items = both,
    additionalProperties = both,
    enum = function(a, b)
      local list = json.array()
      for _, x in ipairs(a) do
        for _, y in ipairs(b) do
          if equal(x, y) then list[#list + 1] = x end
        end
      end
      return list
    end,
  }

  local function merge(a, b, at)
    if a == false or b == false then return false end
    if a == true then return b end
    if b == true then return a end
    check_schema(a, at)
    check_schema(b, at)
    local result = {}
    for key, value in pairs(a) do result[key] = value end
    for key, value in pairs(b) do
      local had = a[key]
      if had == nil or SILENT[key] then
        result[key] = value
      elseif key == "allOf" or key == "anyOf" or key == "oneOf" or key == "$ref" then
        result.allOf = union(result.allOf or {}, { { [key] = value } })
      elseif key == "properties" then
        result.properties = merge_properties(a, b)
      elseif key == "nullable" then
        result.nullable = had and value
      elseif MERGE[key] then
        result[key] = MERGE[key](had, value)
      elseif not equal(had, value) then
        if key == "const" then return false end
        fail(at, "two different values of '%s' cannot be merged", key)
      end
    end
    if (a.properties or b.properties) and not (a.properties and b.properties) then
      result.properties = merge_properties(a, b)
    end
    local plain = a.prefixItems == nil and a or b
    if (a.prefixItems == nil) ~= (b.prefixItems == nil) and plain.items ~= nil then
      fail(at, "'prefixItems' cannot be merged with 'items' of another schema")
    end
    return result
  end

  keywords.fail, keywords.check_schema, keywords.merge = fail, check_schema, merge
  keywords.as_list, keywords.union, keywords.same_values = as_list, union, MERGE.enum
  return keywords
end
