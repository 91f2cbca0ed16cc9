-- Runs the perilune program for the specs: with pipes, or at a terminal of its own.
local program = {}

-- The program beside the module that these specs run on.
local function find_program()
  for folder in package.cpath:gmatch("([^;]-)/%?%.so") do
    local file = io.open(folder .. "/perilune", "rb")
    if file then
      file:close()
      return folder .. "/perilune"
    end
  end
  return "build/perilune"
end

program.path = find_program()

local function quote(text) return "'" .. text:gsub("'", "'\\''") .. "'" end

local function read(path)
  local file = assert(io.open(path, "rb"))
  local text = file:read("a")
  file:close()
  return text
end

local function words(args)
  local list = {}
  for i, word in ipairs(args) do list[i] = quote(word) end
  return table.concat(list, " ")
end

-- Runs the program with args (a list), `input` on standard input, and a prefix of the shell such as
-- "NO_COLOR=1 timeout 5"; returns the exit status, standard output, standard error.
function program.run(args, input, prefix)
  local files = { os.tmpname(), os.tmpname(), os.tmpname() }
  local file = assert(io.open(files[1], "wb"))
  file:write(input or "")
  file:close()
  local _, _, status = os.execute(("%s %s %s <%s >%s 2>%s"):format(prefix or "", program.path, words(args),
    files[1], files[2], files[3]))
  local out, err = read(files[2]), read(files[3])
  for _, path in ipairs(files) do os.remove(path) end
  return status, out, err
end

-- The path of a trained model, or nil: the one that comes along, or the test data's.
function program.model()
  local data = os.getenv("PERILUNE_TEST_DATA") or "../shared/data"
  for _, path in ipairs({ "models/default.gguf", data .. "/models/default/model.safetensors" }) do
    local file = io.open(path, "rb")
    if file then
      file:close()
      return path
    end
  end
end

-- -- a terminal ----------------------------------------------------------------------------------

local Terminal = {}
Terminal.__index = Terminal

-- A pseudo-terminal with the program in it, made by script(1); nil where that is missing. What the
-- program writes appears in a file as it is written.
function program.terminal(args, environment)
  if not os.execute("command -v script >/dev/null 2>&1") then return nil end
  local self = setmetatable({ path = os.tmpname(), home = os.tmpname(), from = 1 }, Terminal)
  os.remove(self.home)
  assert(os.execute("mkdir " .. self.home))
  -- Ctrl-C is for the program, not for the shell that reports how it ended.
  local command = ("trap : INT; env HOME=%s TERM=xterm LC_ALL=C.UTF-8 INPUTRC=/dev/null %s %s %s; echo [exit $?]")
    :format(self.home, environment or "", program.path, words(args))
  self.input = assert(io.popen(("script -qefc %s %s >/dev/null 2>&1"):format(quote(command), self.path), "w"))
  return self
end

-- Nothing is typed into a program that has ended: the pipe's signal would end the specs too.
function Terminal:type(text)
  if self:status() then return end
  self.input:write(text)
  self.input:flush()
end

-- All that was written so far, without the terminal's own codes.
function Terminal:screen()
  return (read(self.path):gsub("\27%[[%d;?]*[%a]", ""):gsub("\r", ""):gsub("\a", ""))
end

-- The program's exit status, once it has ended.
function Terminal:status() return tonumber(self:screen():match("%[exit (%d+)%]")) end

-- Waits until `text` appears after what was seen before; fails after ten seconds.
function Terminal:expect(text)
  for _ = 1, 200 do
    local screen = self:screen()
    local _, to = screen:find(text, self.from, true)
    if to then
      self.from = to + 1
      return
    end
    os.execute("sleep 0.05")
  end
  error(("expected %q, got:\n%s"):format(text, self:screen():sub(self.from)), 2)
end

-- Types a line and waits for what it answers, then for the prompt.
function Terminal:ask(line, answer)
  self:type(line .. "\n")
  self:expect(line)
  self:expect("\n")
  if answer then self:expect(answer) end
  self:expect("> ")
end

-- Ends the session by typing `how`, or by waiting for its end, and gives its exit status.
function Terminal:close(how)
  if how then self:type(how) end
  self:expect("[exit")
  self.input:close()
  self.closed = true
  local status = self:status()
  os.remove(self.path)
  return status
end

-- Forgets what the session has left behind.
function Terminal:remove()
  os.execute("rm -rf " .. self.home)
end

return program
