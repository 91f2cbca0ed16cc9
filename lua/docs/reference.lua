-- Prepares the Lua library for LDoc: lua5.4 lua/docs/reference.lua FOLDER FILE...
-- The sources carry the annotations of the Lua language server (`---@param name type text`), which
-- editors read as they are. LDoc has its own tags, so each file is copied to FOLDER with its
-- comments rewritten; the code between them stays.

-- Splits "type rest" where the type ends: at the first space outside brackets that does not follow
-- `fun(...):`, `,` or `|`.
local function split_type(text)
  local depth, i = 0, 1
  while i <= #text do
    local c = text:sub(i, i)
    if c:match("[%(%[{<]") then
      depth = depth + 1
    elseif c:match("[%)%]}>]") then
      depth = depth - 1
    elseif c == " " and depth == 0 then
      local before, after = text:sub(i - 1, i - 1), text:match("^%s*(.)", i)
      if not before:match("[:|,]") and after ~= "|" then return text:sub(1, i - 1), text:sub(i + 1) end
    end
    i = i + 1
  end
  return text, ""
end

local function typed(text)
  local kind, rest = split_type(text)
  return ("`%s` %s"):format(kind, (rest:gsub("^#%s*", "")))
end

-- Each takes what follows the tag and adds lines to the block: `text` before the tags, or `tags`.
local TAG = {
  class = function(block, rest)
    local name, parent = rest:match("^([%w_.]+)%s*:?%s*([%w_.]*)")
    block.tags[#block.tags + 1] = "@type " .. name
    if parent ~= "" then block.text[#block.text + 1] = ("A kind of `%s`."):format(parent) end
  end,
  field = function(block, rest)
    local name, text = rest:gsub("^public%s+", ""):match("^(%S+)%s+(.*)$")
    if name then block.text[#block.text + 1] = ("\n- `%s` %s"):format(name, typed(text)) end
  end,
  operator = function(block, rest) block.text[#block.text + 1] = ("\n- operator `%s`"):format(rest) end,
  overload = function(block, rest) block.text[#block.text + 1] = ("\nAlso called as `%s`.\n"):format(rest) end,
  param = function(block, rest)
    local name, optional, text = rest:match("^([%w_.]+)(%??)%s*(.*)$")
    if not name then name, optional, text = "...", "", rest:gsub("^%.%.%.%s*", "") end
    local tag = optional == "?" and "@param[opt]" or "@param"
    block.tags[#block.tags + 1] = ("%s %s %s"):format(tag, name, typed(text))
  end,
  ["return"] = function(block, rest) block.tags[#block.tags + 1] = "@return " .. typed(rest) end,
}
-- What LDoc knows itself, in files that use its tags.
for _, name in ipairs { "module", "classmod", "script", "usage", "see", "raise", "section", "tparam", "treturn",
  "function", "table", "local", "type" } do
  TAG[name] = TAG[name] or function(block, rest) block.tags[#block.tags + 1] = ("@%s %s"):format(name, rest) end
end
TAG.type = function(block, rest) block.text[#block.text + 1] = ("Of type `%s`."):format(rest) end

local function flush(block, out)
  if not block then return end
  if #block.text == 0 and #block.tags == 0 then return end
  if #block.text == 0 then block.text[1] = "" end
  local first = true
  for _, lines in ipairs { block.text, block.tags } do
    for _, text in ipairs(lines) do
      for line in (text .. "\n"):gmatch("(.-)\n") do
        out:write(first and "--- " or "-- ", line, "\n")
        first = false
      end
    end
  end
end

local function convert(path, name, out)
  local source = assert(io.open(path)):read("a")
  if not source:find("%-%-%-%s?@%a") then
    out:write(source)
    return
  end
  if not source:find("@module") and not source:find("@script") then
    local head = source:match("^%-%-%-?%s*([^@%-%s][^\n]*)") or name
    out:write(("--- %s\n-- @module %s\n\n"):format(head, name))
  end
  local block
  for line in source:gmatch("([^\n]*)\n?") do
    local tag, rest = line:match("^%s*%-%-%-?%s?@(%a+)%s*(.*)$")
    local comment = line:match("^%s*%-%-%-%s?(.*)$") or (block and line:match("^%s*%-%-%s?(.*)$"))
    if tag then
      block = block or { text = {}, tags = {} }
      if TAG[tag] then TAG[tag](block, rest) end
    elseif comment then
      block = block or { text = {}, tags = {} }
      local into = #block.tags > 0 and block.tags or block.text
      into[#into + 1] = (comment:gsub("^|", "- "))
    else
      flush(block, out)
      block = nil
      out:write(line, "\n")
    end
  end
  flush(block, out)
end

local folder = assert(arg[1], "usage: reference.lua FOLDER FILE...")
for i = 2, #arg do
  local name = arg[i]:gsub("^lua/", ""):gsub("/meta/", "/"):gsub("/init%.lua$", ""):gsub("%.lua$", ""):gsub("/", ".")
  local meta = arg[i]:find("/meta/") and "meta-" or ""
  local out = assert(io.open(("%s/%s%s.lua"):format(folder, meta, name), "w"))
  convert(arg[i], name, out)
  out:close()
end
