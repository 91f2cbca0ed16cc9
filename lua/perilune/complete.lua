--- What Tab offers: names in sight, fields and methods, string keys, the session's commands, and the
-- names of models.

local complete = {}

local pl = require "perilune"
local has_host, host = pcall(require, "perilune.host")

-- -- models ------------------------------------------------------------------------------------

local function list(folder) return has_host and host.list(folder) or {} end

local function hub_folder()
  local function set(name)
    local value = os.getenv(name)
    return value ~= "" and value or nil
  end
  local home = set("HF_HOME") or (set("XDG_CACHE_HOME") or (set("HOME") or "") .. "/.cache") .. "/huggingface"
  return set("HF_HUB_CACHE") or home .. "/hub"
end

--- Names of models that begin with `stem`: hub ids in the local cache, model files, and folders.
function complete.models(stem)
  local found = {}
  for _, name in ipairs(list(hub_folder())) do
    local owner, rest = name:match("^models%-%-(.-)%-%-(.+)/$")
    if owner then found[#found + 1] = owner .. "/" .. rest end
    local alone = not owner and name:match("^models%-%-(.+)/$")
    if alone then found[#found + 1] = alone end
  end
  local folder = stem:match("^(.*/)[^/]*$") or ""
  local place = folder == "" and "." or folder
  if place:sub(1, 2) == "~/" then place = (os.getenv("HOME") or "") .. place:sub(2) end
  for _, name in ipairs(list(place)) do
    local wanted = name:find("/$") or name:find("%.gguf$") or name:find("%.safetensors$")
    if wanted and (name:sub(1, 1) ~= "." or stem:find("/?%.[^/]*$")) then found[#found + 1] = folder .. name end
  end
  local matching = {}
  for _, name in ipairs(found) do
    if name:sub(1, #stem) == stem then matching[#matching + 1] = name end
  end
  table.sort(matching)
  return matching
end

-- -- values ------------------------------------------------------------------------------------

-- Adds a table's string keys, those of what it inherits too.
local function add_keys(into, from, depth)
  if type(from) ~= "table" or depth > 8 then return end
  for key in next, from do
    if type(key) == "string" then into[key] = true end
  end
  local meta = getmetatable(from)
  if type(meta) == "table" then add_keys(into, rawget(meta, "__index"), depth + 1) end
end

--- The set of names that may follow `value` and a "." or, if `methods`, a ":".
function complete.members(value, methods)
  local names = {}
  if type(value) == "table" then add_keys(names, value, 0) end
  if type(value) == "string" then add_keys(names, string, 0) end
  if type(value) ~= "userdata" then return names end
  local meta = debug.getmetatable(value)
  if type(meta) ~= "table" then return names end
  local index, getters = rawget(meta, "__index"), rawget(meta, "getters")
  add_keys(names, pl.types[rawget(meta, "__name")] or index, 0)
  for i = 1, type(index) == "function" and math.huge or 0 do -- the binding keeps its tables there
    local name, upvalue = debug.getupvalue(index, i)
    if not name then break end
    if upvalue ~= getters then add_keys(names, upvalue, 0) end
  end
  if not methods then add_keys(names, getters, 0) end
  return names
end

-- The value of "a.b.c", nil when there is none; runs no code but a userdata's own fields.
local function value_of(path, scope)
  local value, first = nil, true
  for name in path:gmatch("[%a_][%w_]*") do
    if first then
      value = scope:get(name)
      if value == nil then value = _G[name] end
    elseif type(value) == "table" then
      value = rawget(value, name)
    elseif type(value) == "userdata" and complete.members(value)[name] then
      local held = value
      local good, field = pcall(function() return held[name] end)
      value = good and field or nil
    else
      value = nil
    end
    first = false
    if value == nil then return nil end
  end
  return value
end

local keywords = { "and", "break", "do", "else", "elseif", "end", "false", "for", "function", "goto", "if", "in",
  "local", "nil", "not", "or", "repeat", "return", "then", "true", "until", "while" }

local function names_in_sight(scope)
  local names = {}
  for _, name in ipairs(scope:names()) do names[name] = true end
  for _, name in ipairs(keywords) do names[name] = true end
  names.model = true
  add_keys(names, _G, 0)
  return names
end

-- -- the line ----------------------------------------------------------------------------------

-- The names that begin with `last`, each after `before`; names in underscores only when asked for.
local function matching(names, before, last, after)
  local found = {}
  for name in pairs(names) do
    if name:sub(1, #last) == last and (last ~= "" or name:sub(1, 1) ~= "_") then
      found[#found + 1] = before .. name .. (after or "")
    end
  end
  table.sort(found)
  return found
end

-- Whole candidates for what is typed from `stem` on, as what readline wants: its own word, gone on.
local function continue(word, stem, candidates)
  for i, candidate in ipairs(candidates) do candidates[i] = word .. candidate:sub(#stem + 1) end
  return candidates
end

--- A completer for readline: what `word`, which begins after `start` bytes of `line`, may become.
---@param scope table the session's locals
---@param commands string[] ":help", ...
---@return fun(line: string, start: integer, word: string): string[]
function complete.new(scope, commands)
  return function(line, start, word)
    local typed = line:sub(1, start) .. word
    if typed:find("^%s*:%a*$") then
      local set = {}
      for _, command in ipairs(commands) do set[command] = true end
      return matching(set, "", word)
    end
    local stem = typed:match("^%s*:model%s+(.*)$") or typed:match("load%s*%(?%s*[\"']([^\"']*)$")
      or typed:match("load_tokenizer%s*%(?%s*[\"']([^\"']*)$")
    if stem then return continue(word, stem, complete.models(stem)) end
    local path, quote, key = typed:match("([%a_][%w_%.]*)%[([\"'])([^\"']*)$")
    if path then
      local value = value_of(path, scope)
      local names = type(value) == "table" and complete.members(value) or {}
      return continue(word, key, matching(names, "", key, quote .. "]"))
    end
    local separator, last
    path, separator, last = word:match("^([%w_%.]-)([%.:]?)([%w_]*)$")
    if not path then return {} end
    if separator == "" then return matching(names_in_sight(scope), "", last) end
    local value = value_of(path, scope)
    if path == "" or value == nil then return {} end
    return matching(complete.members(value, separator == ":"), path .. separator, last)
  end
end

return complete
