-- The perilune program: what its arguments mean. Returns main(argv) -> exit status.

local pl = require "perilune"
local host = require "perilune.host"

local usage = [[
usage: perilune [OPTIONS]                   an interactive session
       perilune NAME [ARGUMENTS]            one of the programs below; each knows --help
       perilune SCRIPT.lua [ARGUMENTS]      a script of yours (- reads it from input)
       perilune [OPTIONS] -e CODE [...]     a piece of Lua, with pl and model ready
       perilune help [NAME]                 this, or all about one program
       perilune --version

options: -m, --model NAME    a file, a folder or a hub id
         -t, --threads N     how many threads
         --seed N            where random numbers begin
         --architecture FILE a family of models described in Lua, see scripts/architectures
         --traceback         show where an error passed through]]

local settings = { traceback = (os.getenv("PERILUNE_TRACEBACK") or "") ~= "" }

local function usage_error(...)
  error({ kind = "usage", message = (...):format(select(2, ...)) .. "\n`perilune help` tells how it is called" }, 0)
end

-- -- programs ----------------------------------------------------------------------------------

local function script_path(name)
  if not name:find("^[%w_-]+$") then return nil end
  local path = pl.home .. "/scripts/" .. name:gsub("-", "_") .. ".lua"
  local file = io.open(path, "rb")
  if not file then return nil end
  file:close()
  return path
end

local function script_names()
  local names = {}
  for _, file in ipairs(host.list(pl.home .. "/scripts") or {}) do
    names[#names + 1] = file:match("^([%w_-]+)%.lua$")
  end
  table.sort(names)
  return names
end

-- The lines of the comment at the head of a script; the first is its summary.
local function header(path)
  local lines = {}
  for line in io.lines(path) do
    local text = line:match("^%-%-%-? ?(.*)$")
    if not text then break end
    lines[#lines + 1] = text
  end
  return lines
end

local function fail_unknown(name)
  local near = pl.nearest(name, script_names())
  usage_error("there is no program '%s'%s", name, near and (", did you mean '%s'?"):format(near) or "")
end

local function help(name)
  if name then
    print(table.concat(header(script_path(name) or fail_unknown(name)), "\n"))
    print(("\nperilune %s --help lists its options."):format(name))
    return
  end
  print(usage .. "\n\nprograms:")
  for _, script in ipairs(script_names()) do
    print(("  %-15s %s"):format(script, header(script_path(script))[1] or ""))
  end
end

-- -- running -----------------------------------------------------------------------------------

-- Runs a chunk with arg and ... as lua does: the arguments from argv[first] on.
local function run(chunk, name, argv, first)
  local list = { [0] = name }
  for i = first, #argv do list[#list + 1] = argv[i] end
  _G.arg = list
  chunk(table.unpack(list))
end

local function compiled(chunk, why)
  if chunk then return chunk end
  error({ kind = "argument", message = why }, 0)
end

-- Puts `pl` and `model` in sight; the model is loaded when it is first looked at.
local function set_globals()
  _G.pl = pl
  setmetatable(_G, { __index = function(globals, name)
    if name ~= "model" then return nil end
    setmetatable(globals, nil)
    local good, model = pcall(pl.load, settings.model, { threads = settings.threads })
    if not good then
      set_globals()
      error(model, 0)
    end
    rawset(globals, "model", model)
    return model
  end })
end

-- The arguments of a program from argv[first] on, after the options that came before its name.
local function with_settings(argv, first)
  local list = {}
  for option, value in pairs({ ["--model"] = settings.model, ["--threads"] = settings.threads,
    ["--seed"] = settings.seed }) do
    table.move({ option, tostring(value) }, 1, 2, #list + 1, list)
  end
  return table.move(argv, first, #argv, #list + 1, list)
end

-- Everything after the options: a session, code, a program or a script.
local function dispatch(argv, first, code)
  local name = argv[first]
  if code or not name or name == "-" then set_globals() end
  if code then
    run(compiled(load(code, "=(command line)")), "-e", argv, first)
  elseif script_path(name or "") then
    run(compiled(loadfile(script_path(name))), name, with_settings(argv, first + 1), 1)
  elseif name and name ~= "-" then
    local path = (name:find("%.lua$") or name:find("/")) and name or fail_unknown(name)
    run(compiled(loadfile(path)), name, argv, first + 1)
  elseif not name and host.is_terminal(0) then
    require "perilune.interactive".run(settings.traceback)
  else
    run(compiled(load(io.read("a"), "=stdin")), "-", argv, first + 1)
  end
end

local function whole(text, option, least)
  local n = math.tointeger(tonumber(text or ""))
  if not n or n < least then
    usage_error("%s %s: expected a whole number from %d", option, text or "", least)
  end
  return n
end

-- The options before the name of a program; each returns how many words it took.
local options = {
  ["-m"] = function(value)
    settings.model = value or usage_error("-m: the name of a model is missing")
    return 2
  end,
  ["-t"] = function(value)
    settings.threads = whole(value, "-t", 1)
    return 2
  end,
  ["--seed"] = function(value)
    settings.seed = whole(value, "--seed", 0)
    math.randomseed(settings.seed)
    return 2
  end,
  ["--architecture"] = function(value)
    pl.use_architecture(value or usage_error("--architecture: the name of a file is missing"))
    return 2
  end,
  ["--traceback"] = function()
    settings.traceback = true
    return 1
  end,
}
options["--model"], options["--threads"] = options["-m"], options["-t"]

local function start(argv)
  local at, code = 1, nil
  while argv[at] and argv[at]:find("^%-.") do
    local word = argv[at]
    if word == "-h" or word == "--help" then return help() end
    if word == "--version" then return print("perilune " .. pl.version) end
    if word == "-e" then
      code = argv[at + 1] or usage_error("-e: the code is missing")
      at = at + 2
      break
    end
    local option = options[word] or usage_error("unknown option %s", word)
    at = at + option(argv[at + 1])
  end
  if not code and argv[at] == "help" then return help(argv[at + 1]) end
  dispatch(argv, at, code)
end

-- -- errors ------------------------------------------------------------------------------------

local statuses = { usage = 2, interrupted = 130 }

-- The exit status and the text of what went wrong.
local function on_error(problem)
  local kind = type(problem) == "table" and rawget(problem, "kind") or nil
  local where = kind and rawget(problem, "where")
  local ours = type(where) == "string" and where:sub(1, #pl.home + 9) == pl.home .. "/scripts/"
  local text = (kind == "usage" or ours) and problem.message or nil -- the line of a program is not its user's affair
  if not text then
    local meta = getmetatable(problem)
    local speaks = type(problem) ~= "table" or (type(meta) == "table" and meta.__tostring)
    text = speaks and tostring(problem) or rawget(problem, "message") or require "perilune.show".value(problem)
  end
  if settings.traceback and kind ~= "usage" then text = debug.traceback(text, 2) end
  return { status = statuses[kind] or 1, text = kind == "interrupted" and "interrupted" or text }
end

return function(argv)
  local good, problem = xpcall(start, on_error, argv)
  host.clear_interrupt()
  io.stdout:flush()
  if good then return 0 end
  local fresh = problem.status == statuses.interrupted and host.is_terminal(1) and "\n" or ""
  io.stderr:write(fresh, "perilune: ", problem.text, "\n")
  return problem.status
end
