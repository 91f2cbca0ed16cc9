--- What `:help NAME` knows: the comments of the annotations in lua/perilune/meta.

local pl = require "perilune"

local reference = {}

--- Columns for the name of a parameter or field, before a space and what it is.
reference.NAME_WIDTH = 15

local has_host, host = pcall(require, "perilune.host")
local entries

-- "name? type what it is" as "name: what it is (type)".
local function described(line)
  local name, rest = line:match("^(%S+)%s+(.*)$")
  local padded = ("%-" .. reference.NAME_WIDTH .. "s"):format((name:gsub("?$", "")))
  return padded .. " " .. rest:gsub("perilune%.", "")
end

local function readable(line)
  if line:find("^@param") then return described(line:match("^@param%s+(.*)$")) end
  local result = line:match("^@return%s+(.*)$")
  if result then return described("returns " .. result) end
  return not line:find("^@") and line or nil
end

local function read_function(into, line, comment)
  local signature, name = line:match("^function%s+(([%w_%.:]+)%(.-%))")
  if not signature then return end
  into[#into + 1] = { signature = signature, name = name, method = name:match("([%w_]+)$"),
    text = table.concat(comment, "\n") }
end

-- Functions with the comments before them, and classes with their fields.
local function read_file(path, into)
  local comment, class = {}, nil
  for line in io.lines(path) do
    local text = line:match("^%-%-%-%s?(.*)$")
    local name = text and text:match("^@class%s+([%w_%.]+)")
    local field = text and text:match("^@field%s+(.*)$")
    if name then
      class = { signature = name, name = name, method = name:match("([%w_]+)$"), fields = {} }
      into[#into + 1] = class
    elseif field and class then
      class.fields[#class.fields + 1] = described(field)
      class.text = table.concat(class.fields, "\n")
    elseif text then
      comment[#comment + 1] = readable(text)
    else
      read_function(into, line, comment)
      comment, class = {}, nil
    end
  end
end

local function load_entries()
  if entries then return entries end
  entries = {}
  local folder = pl.home .. "/lua/perilune/meta/"
  local files = has_host and host.list(folder) or {}
  table.sort(files)
  for _, file in ipairs(files) do
    if file:find("%.lua$") then read_file(folder .. file, entries) end
  end
  return entries
end

-- The fields of the class of options that a text mentions, unless they are told already.
local function options_of(text, told)
  local kind = text:match("(%w+Options)")
  if not kind or told[kind] then return "" end
  told[kind] = true
  for _, class in ipairs(entries) do
    if class.fields and class.method == kind then
      return "\n\n" .. kind .. "\n" .. (class.text or ""):gsub("[^\n]+", "  %0")
    end
  end
  return ""
end

--- Everything called `name`: "generate", "pl.load", "Model:generate", "GenerateOptions".
---@param name string
---@return table[] entries {signature, text}
function reference.find(name)
  local found, told, wanted = {}, {}, name:gsub("%(.*$", ""):gsub(":", "."):lower()
  for _, entry in ipairs(load_entries()) do
    local known = entry.method:lower() == wanted or entry.name:gsub(":", "."):lower() == wanted
    if entry.text and known then
      found[#found + 1] = { signature = entry.signature, text = entry.text .. options_of(entry.text, told) }
    end
  end
  return found
end

--- The known name that is most like `name`.
---@param name string
---@return string?
function reference.nearest(name)
  local names, seen = {}, {}
  for _, entry in ipairs(load_entries()) do
    if not seen[entry.method] then
      seen[entry.method] = true
      names[#names + 1] = entry.method
    end
  end
  return pl.nearest(name:match("[%w_]*$"), names)
end

return reference
