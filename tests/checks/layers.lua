-- Holds the sources to their layers: a file includes its own folder and lower ranks only; Lua is
-- known to lua/ alone, threads to threads.c, OpenBLAS to linalg.c; the forward pass names no family.
local RANK = {
  ["engine"] = 0, ["plugins"] = 0,
  ["engine/base"] = 1,
  ["engine/kernels"] = 2,
  ["engine/tensor"] = 3,
  ["engine/format"] = 4, ["engine/text"] = 4,
  ["engine/model"] = 5,
  ["engine/sample"] = 6,
  ["lua"] = 7,
}
local MOST_LINES = 800
-- Folders of one rank that may still use one another, in one direction only.
local ALLOWED = { ["engine/text"] = { ["engine/format"] = true } }
local FAMILIES = { "gpt", "llama", "bert", "mistral", "mixtral", "qwen", "gemma", "phi", "neox", "falcon",
  "olmo", "opt", "bloom", "mpt" }

local problems = 0
local function report(file, line, message)
  problems = problems + 1
  io.stderr:write(("%s:%d: %s\n"):format(file, line, message))
end

-- "engine/tensor/../base/error.h" -> "engine/base/error.h"
local function normal(path)
  local parts = {}
  for part in path:gmatch("[^/]+") do
    if part == ".." and #parts > 0 then
      table.remove(parts)
    elseif part ~= "." then
      parts[#parts + 1] = part
    end
  end
  return table.concat(parts, "/")
end

local function folder_of(path) return path:match("^(.*)/[^/]*$") or "" end

local function check_local(file, number, target)
  local from, to = folder_of(file), folder_of(normal(folder_of(file) .. "/" .. target))
  if from == to then return end
  if not RANK[to] then
    report(file, number, ("includes %q, which is in no layer"):format(target))
  elseif RANK[to] >= RANK[from] and not (ALLOWED[from] and ALLOWED[from][to]) then
    report(file, number, ("%s (rank %d) includes %s (rank %d): lower ranks only")
      :format(from, RANK[from], to, RANK[to]))
  end
end

local SYSTEM = {
  { header = "^lua[%w]*%.h", only = "^lua/", who = "lua/" },
  { header = "^lauxlib%.h", only = "^lua/", who = "lua/" },
  { header = "^readline/", only = "^lua/", who = "lua/" },
  { header = "^pthread%.h", only = "^engine/base/threads%.c$", who = "engine/base/threads.c" },
}

local function check_system(file, number, header)
  for _, rule in ipairs(SYSTEM) do
    if header:match(rule.header) and not file:match(rule.only) then
      report(file, number, ("includes <%s>, which is for %s only"):format(header, rule.who))
    end
  end
  if RANK[folder_of(file)] == 0 and not header:match("^std%w+%.h$") then
    report(file, number, ("a public header includes <%s>: standard headers only"):format(header))
  end
end

local function check_line(file, number, line)
  local target = line:match('^%s*#%s*include%s*"([^"]+)"')
  if target then
    if target:match("%.c$") then report(file, number, "includes a source file") end
    check_local(file, number, target)
  end
  local header = line:match("^%s*#%s*include%s*<([^>]+)>")
  if header then check_system(file, number, header) end
  if file == "engine/model/forward.c" then
    for _, family in ipairs(FAMILIES) do
      if line:lower():find("%f[%a]" .. family .. "%f[%A]") then
        report(file, number, ("names the family %q: families are data"):format(family))
      end
    end
  end
end

local count = 0
local list = assert(io.popen("find engine lua plugins -name '*.[ch]' 2>/dev/null | sort"))
for file in list:lines() do
  count = count + 1
  if not RANK[folder_of(file)] then report(file, 1, "is in a folder without a rank") end
  local number = 0
  for line in io.lines(file) do
    number = number + 1
    if not (folder_of(file) == "plugins" and file:match("%.c$")) then check_line(file, number, line) end
  end
  if number > MOST_LINES then report(file, number, ("is longer than %d lines"):format(MOST_LINES)) end
end
list:close()
assert(count > 0, "no sources found: run this from the project's root")
print(("%d files, %d problems"):format(count, problems))
os.exit(problems == 0)
