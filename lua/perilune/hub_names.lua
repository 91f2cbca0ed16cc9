-- Names on a hub: which are safe, which of a model's files loading needs.

local names = {}

local least, most_length = 1, 200

--- Whether a file's name from a server may become a path: relative, of plain parts, of printable UTF-8.
---@param name any
---@return boolean
function names.is_safe(name)
  if type(name) ~= "string" or #name < least or #name > most_length then return false end
  if name:find("[%c\127\\:]") or not utf8.len(name) then return false end
  for part in (name .. "/"):gmatch("([^/]*)/") do
    if part == "" or part == "." or part == ".." then return false end
  end
  return true
end

--- Whether text is a hub id: ORG/NAME or NAME, of the characters that the hub allows.
---@param text string
---@return boolean
function names.is_id(text)
  local org, name = text:match("^([%w._-]+)/([%w._-]+)$")
  if not org then org, name = "x", text:match("^[%w._-]+$") end
  return name ~= nil and #text <= 200 and not org:find("^%.") and not name:find("^%.")
    and not text:find("..", 1, true) and not text:find("--", 1, true)
end

--- Whether text names a revision: a branch, a tag or a commit, as a relative path.
---@param text string
---@return boolean
function names.is_revision(text)
  return names.is_safe(text) and not text:find("[^%w._/-]")
end

--- A server's text for a message: on one line, without control characters, short.
---@param text any
---@return string
function names.shown(text)
  text = tostring(text):gsub("[^\32-\126]", "?")
  return #text > 120 and text:sub(1, 117) .. "..." or text
end

--- A path as part of an address.
---@param path string
---@return string
function names.escape(path)
  return (path:gsub("[^%w._~/-]", function(c) return ("%%%02X"):format(c:byte()) end))
end

local beside = { "config.json", "generation_config.json", "tokenizer.json", "tokenizer_config.json",
  "tokenizer.model", "vocab.json", "merges.txt", "vocab.txt", "special_tokens_map.json", "added_tokens.json",
  "chat_template.jinja", "chat_template.json", "1_Pooling/config.json", "adapter_config.json" }

--- The parts of a model in parts, NAME-00001-of-00003.ENDING; just the name where it is no part.
---@param name string
---@return string[]
function names.parts(name)
  local head, digits, ending = name:match("^(.*%-)%d%d%d%d%d%-of%-(%d%d%d%d%d)(%.%w+)$")
  local n = tonumber(digits)
  if not n or n < 1 or n > 1000 then return { name } end
  local list = {}
  for i = 1, n do list[i] = ("%s%05d-of-%s%s"):format(head, i, digits, ending) end
  return list
end

local function has_ending(name, ending) return name:sub(-#ending) == ending end

-- Models of an ending: whole files, and the first of parts.
local function models(files, ending)
  local list = {}
  for _, name in ipairs(files) do
    local part = name:match("%-(%d%d%d%d%d)%-of%-%d%d%d%d%d%.")
    if has_ending(name, ending) and (not part or part == "00001") then list[#list + 1] = name end
  end
  table.sort(list)
  return list
end

--- What loading needs of a model's files: a list to download, or the index file to read first, or nothing
--- and the models among which to choose (none: the hub has no weights that perilune reads).
---@param files string[] those of the hub
---@return string[]? wanted
---@return string? index NAME.index.json, when the weights are what it says
---@return string[]? choices
function names.needed(files)
  local there, list, tops = {}, {}, {}
  for _, name in ipairs(files) do
    there[name] = true
    if not name:find("/", 1, true) then tops[#tops + 1] = name end
  end
  for _, name in ipairs(beside) do
    if there[name] then list[#list + 1] = name end
  end
  if there["model.safetensors"] then
    list[#list + 1] = "model.safetensors"
    return list
  end
  local index = models(tops, ".safetensors.index.json")[1]
  if index then return list, index end
  local whole = models(tops, ".safetensors")
  local ggufs = models(files, ".gguf")
  local choices = #whole > 0 and whole or ggufs
  if #choices ~= 1 then return nil, nil, choices end
  if #whole == 1 then
    list[#list + 1] = whole[1]
    return list
  end
  return names.parts(ggufs[1])
end

return names
