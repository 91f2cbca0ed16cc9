-- The interactive session: a prompt where `pl` and `model` are ready and top-level locals live on.
-- How they do is told in perilune.locals.

local pl = require "perilune"
local host = require "perilune.host"
local locals = require "perilune.locals"
local complete = require "perilune.complete"
local show = require "perilune.show"
local terminal = require "perilune.terminal"
local reference = require "perilune.reference"

local HISTORY_LINES = 2000

local help_text = [[
Type Lua. An expression shows its value, and _ is the last one shown.

  pl       the library: pl.load, pl.new_model, pl.tensor, ...
  model    the model, loaded when it is first used

Try
  model:complete("Once upon a time", {max_new_tokens = 30, seed = 1})
  model:topk(model:forward("Once upon a"){pos = -1}:softmax(), 5)
  model.config

  :help NAME     what a function does, as in :help generate
  :model NAME    another model: a file, a folder or a hub id
  :time EXPR     the value, and how long it took
  :reload        loads the plugins anew; new chains have the new ones
  :quit          leave; so does Ctrl-D
  :continue      go on after pl.breakpoint()

Tab completes, and a statement may go on over several lines. Ctrl-C stops what
is running and keeps everything.]]

local Session = {}
Session.__index = Session

-- -- telling -----------------------------------------------------------------------------------

local function kind_of(problem)
  return type(problem) == "table" and rawget(problem, "kind") or nil
end

local function report(problem, trace)
  io.stdout:flush()
  if kind_of(problem) == "interrupted" then return print(terminal.paint("\ninterrupted", "orange")) end
  local text = type(problem) == "string" and problem or show.value(problem)
  print(terminal.paint(text, "red"))
  if trace then print(terminal.paint(trace, "grey")) end
end

-- -- lines -------------------------------------------------------------------------------------

-- A function for code, as an expression if it is one. nil, why, whether more lines may mend it.
function Session:compile(code)
  local chunk, first = self.scope:compile("return " .. code, "=stdin")
  if chunk then return chunk end
  local statement, why = self.scope:compile(code, "=stdin")
  if statement then return statement end
  local function unfinished(message) return message:find("<eof>'?$") ~= nil end
  return nil, why, unfinished(why) or unfinished(first)
end

-- Runs a chunk, shows what it returns; Ctrl-C ends it.
function Session:run(chunk)
  local trace
  local results = table.pack(xpcall(chunk, function(problem)
    if self.traceback then trace = debug.traceback(nil, 2) end
    return problem
  end))
  host.clear_interrupt()
  if not results[1] then return report(results[2], trace) end
  io.stdout:flush()
  if results.n > 1 then
    _G._ = results[2]
    local good, text = pcall(show.results, table.pack(table.unpack(results, 2, results.n)))
    if good then print(text) else report(text) end
  end
end

local commands = {}
local Interactive = {}

function commands.help(_, name)
  if name == "" then return print(help_text) end
  local found = reference.find(name)
  if #found == 0 then
    local near = reference.nearest(name)
    return report(("nothing is known of '%s'%s"):format(name,
      near and (", did you mean '%s'?"):format(near) or ""))
  end
  for i, entry in ipairs(found) do
    if i > 1 then print() end
    print(terminal.paint(entry.signature, "bold"))
    for line in (entry.text .. "\n"):gmatch("(.-)\n") do
      local indent, first = ("  " .. line):match("^(%s*)(%S*%s*)")
      print(terminal.wrap("  " .. line, #indent + (#first > reference.NAME_WIDTH and reference.NAME_WIDTH + 1 or 0)))
    end
  end
end

function commands.model(_, name)
  local good, loaded = pcall(pl.load, name ~= "" and name or nil)
  if not good then return report(loaded) end
  rawset(_G, "model", loaded)
  print(tostring(loaded))
end

function commands.time(self, code)
  local chunk, why = self:compile(code)
  if not chunk then return report(why) end
  local start = pl.clock()
  self:run(chunk)
  print(terminal.paint(terminal.duration(pl.clock() - start), "grey"))
end

function commands.reload()
  local n = 0
  for _, plugin in ipairs(pl.plugins.reload()) do
    if plugin.problem then report(plugin.problem) else n = n + 1 end
  end
  print(("%d samplers from plugins"):format(n))
end

function commands.quit(self) self.ended, self.stopped = true, true end

commands["continue"] = function(self)
  if self.names[1] ~= "continue" then return report("nothing waits: pl.breakpoint() stops what runs") end
  self.ended = true
end

local shorthand = { h = "help", m = "model", t = "time", q = "quit", c = "continue" }

function Session:command(line)
  local name, rest = line:match("^%s*:(%a*)%s*(.-)%s*$")
  name = shorthand[name] or name
  if commands[name] then return commands[name](self, rest) end
  local near = pl.nearest(name, self.names)
  report(("there is no command ':%s'%s; :help lists them"):format(name,
    near and (", did you mean ':%s'?"):format(near) or ""))
end

-- Takes one more line; self.pending is then what still waits for its end.
function Session:take(line)
  local code = self.pending and self.pending .. "\n" .. line or line
  if not self.pending and line:find("^%s*:%a") then return self:command(line) end
  if not code:find("%S") then return end
  local chunk, why, unfinished = self:compile((code:gsub("^%s*=", "", 1)))
  self.pending = unfinished and code or nil
  if chunk then return self:run(chunk) end
  if not unfinished then report(why) end
end

-- -- the terminal ------------------------------------------------------------------------------

-- Where the history lies; its folders are made.
local function history_path()
  local state, home = os.getenv("XDG_STATE_HOME"), os.getenv("HOME") or "."
  local folder = state and state ~= "" and state or home .. "/.local/state"
  local path = ""
  for name in (folder .. "/perilune"):gmatch("[^/]*") do
    path = path == "" and name or path .. "/" .. name
    if name == "" then path = "/" end
    if path ~= "/" then host.make_folder(path) end
  end
  return folder .. "/perilune/history"
end

function Session:read()
  io.stdout:flush()
  local line = host.read(self.pending and ">> " or self.prompt, self.complete)
  if line == nil then
    self.ended = true
    print()
  elseif line == false then
    self.pending = nil
  else
    if line:find("%S") then host.add(line) end
    self:take(line)
  end
end

local names = { "help", "model", "time", "reload", "quit" }

local function new_session(traceback)
  local self = setmetatable({ scope = locals.new(), traceback = traceback, prompt = "> ", names = names }, Session)
  self.complete = complete.new(self.scope, { ":help", ":model ", ":time ", ":reload", ":quit" })
  return self
end

local function run(session)
  while not session.ended do
    local good, problem = pcall(session.read, session) -- Ctrl-C may fall between two lines
    if not good then
      host.clear_interrupt()
      session.pending = nil
      report(problem)
    end
  end
end

--- Runs a session at the terminal until it ends.
---@param traceback boolean whether errors show where they passed through
---@return integer status
function Interactive.run(traceback)
  local path, session = history_path(), new_session(traceback)
  host.load(path)
  print(("perilune %s  %s"):format(pl.version, terminal.paint(":help for help, Ctrl-D to leave", "grey")))
  run(session)
  session.scope:close()
  host.save(path, HISTORY_LINES)
  return 0
end

--- Stops where the caller's caller stands: a session in which that function's variables are known and
--- can be assigned to, until `:continue`.
function Interactive.breakpoint()
  local level <const> = 3 -- this function, pl.breakpoint, the one that called it
  local info = debug.getinfo(level, "Slf")
  local session = new_session(false)
  local slots = locals.of_function(session.scope, info.func, function(i) return debug.getlocal(level + 2, i) end)
  session.prompt = ("%s:%d> "):format(info.short_src, info.currentline)
  session.names = { "continue", table.unpack(names) }
  print(terminal.paint(("stopped at %s:%d; :continue goes on, :quit ends what runs"):format(info.short_src,
    info.currentline), "grey"))
  run(session)
  for _, slot in ipairs(slots) do debug.setlocal(level, slot.index, session.scope:get(slot.name)) end
  session.scope:close()
  if session.stopped then pl.fail("state", "stopped at a breakpoint") end
end

return Interactive
