local program = dofile "tests/lua/program.lua"

-- The program's exit status, output and errors.
local function run(...) return program.run({ ... }) end

local function script(text)
  local path = os.tmpname()
  os.rename(path, path .. ".lua")
  path = path .. ".lua"
  local file = assert(io.open(path, "wb"))
  file:write(text)
  file:close()
  return path
end

describe("the program", function()
  it("tells its version and what there is", function()
    local status, out = run("--version")
    assert.are.equal(0, status)
    assert.is_truthy(out:find("^perilune %d+%.%d+"))
    status, out = run("help")
    assert.are.equal(0, status)
    for _, name in ipairs({ "convert", "generate", "inspect", "next", "perplexity", "tokens" }) do
      assert.is_truthy(out:find("\n  " .. name .. " +%u"), name)
    end
    status, out = run("help", "generate")
    assert.are.equal(0, status)
    assert.is_truthy(out:find("perilune generate --step", 1, true))
  end)

  it("names the nearest program", function()
    local status, out, err = run("genrate")
    assert.are.equal(2, status)
    assert.are.equal("", out)
    assert.is_truthy(err:find("^perilune: there is no program 'genrate', did you mean 'generate'?"))
    assert.are.equal(2, (run("help", "tokns")))
  end)

  it("refuses options that it does not know", function()
    for _, args in ipairs({ { "--nonsense" }, { "-e" }, { "-t", "many" }, { "next", "--nonsense" },
      { "next", "--top", "none", "text" }, { "next", "-t", "0", "text" } }) do
      local status, _, err = run(table.unpack(args))
      assert.are.equal(2, status, table.concat(args, " "))
      assert.is_truthy(err:find("^perilune: "))
      assert.is_falsy(err:find("traceback"))
    end
  end)

  it("runs code and scripts with arg", function()
    local status, out = run("-e", "print(1 + 1, arg[0], arg[1], ..., pl.version ~= nil)", "x")
    assert.are.equal(0, status)
    assert.are.equal("2\t-e\tx\tx\ttrue\n", out)
    local path = script("print(#arg, arg[1], arg[2], (select('#', ...)), rawget(_G, 'pl'))")
    status, out = run(path, "a", "b c")
    assert.are.equal(0, status)
    assert.are.equal("2\ta\tb c\t2\tnil\n", out)
    os.remove(path)
  end)

  it("runs what comes on standard input", function()
    local status, out = program.run({}, "local x = 3\nprint(x * 2, pl ~= nil)")
    assert.are.equal(0, status)
    assert.are.equal("6\ttrue\n", out)
    status, out = program.run({ "-", "a" }, "print(arg[1], ...)")
    assert.are.equal(0, status)
    assert.are.equal("a\ta\n", out)
  end)

  it("reports an error with the script's line, and a traceback when asked", function()
    local path = script("\nlocal t\nprint(t.x)\n")
    local status, _, err = run(path)
    assert.are.equal(1, status)
    assert.is_truthy(err:find("^perilune: " .. path:gsub("%p", "%%%0") .. ":3: "))
    assert.is_falsy(err:find("traceback"))
    status, _, err = run("--traceback", path)
    assert.are.equal(1, status)
    assert.is_truthy(err:find("stack traceback"))
    _, _, err = program.run({ path }, nil, "PERILUNE_TRACEBACK=1")
    assert.is_truthy(err:find("stack traceback"))
    os.remove(path)
    status, _, err = run("-e", "coroutine.wrap(function() error('inside') end)()")
    assert.are.equal(1, status)
    assert.is_truthy(err:find("inside"))
    status, _, err = run("-e", "pl.load('/nowhere/at/all.gguf')")
    assert.are.equal(1, status)
    assert.is_truthy(err:find("(command line):1: ", 1, true) and err:find("/nowhere/at/all.gguf", 1, true))
    status, _, err = run("-e", "error({code = 5})")
    assert.are.equal(1, status)
    assert.is_truthy(err:find("code = 5", 1, true))
    status, _, err = run("/nowhere/script.lua")
    assert.are.equal(1, status)
    assert.is_truthy(err:find("/nowhere/script.lua", 1, true))
    status, _, err = run("-e", "x y")
    assert.are.equal(1, status)
    assert.is_truthy(err:find("syntax error"))
  end)

  it("lets a script choose its exit status", function()
    assert.are.equal(3, (run("-e", "os.exit(3)")))
  end)

  it("stops at Ctrl-C with status 130", function()
    local status, _, err = program.run({ "-e", "while true do end" }, nil, "timeout --preserve-status -s INT 0.5")
    assert.are.equal(130, status)
    assert.are.equal("perilune: interrupted\n", err)
  end)

  it("is quiet when its output is no longer wanted", function()
    local err = os.tmpname()
    os.execute(("%s -e 'for i = 1, 100000 do print(i) end' 2>%s | head -n 1 >/dev/null"):format(program.path, err))
    assert.are.equal("", io.open(err):read("a"))
    os.remove(err)
  end)

  it("uses no colour where it is not wanted", function()
    local _, out, err = run("help")
    assert.is_falsy((out .. err):find("\27"))
    local code = "io.write('<', require 'perilune.terminal'.paint('x', 'red'), '>')"
    local function at_terminal(environment)
      local term = program.terminal({ "-e", code }, environment)
      if not term then return nil end
      term:expect(">")
      local file = io.open(term.path)
      local text = file:read("a")
      file:close()
      term:close()
      term:remove()
      return text
    end
    local plain = at_terminal("NO_COLOR=1")
    if not plain then return pending("script(1) is not here") end
    assert.is_truthy(plain:find("<x>", 1, true))
    assert.is_truthy(at_terminal("TERM=dumb"):find("<x>", 1, true))
    assert.is_truthy(at_terminal():find("<\27[38;5;166mx\27[0m>", 1, true))
  end)
end)

describe("terminal output", function()
  local terminal = require "perilune" and require "perilune.terminal"

  it("measures and cuts text by columns", function()
    assert.are.equal(4, terminal.columns("子供"))
    assert.are.equal(1, terminal.columns("e\u{301}"))
    assert.are.equal("ab   ", terminal.fit("ab", 5))
    assert.are.equal(5, terminal.columns(terminal.fit("abcdefgh", 5)))
    assert.are.equal(5, terminal.columns(terminal.fit("子供子供", 5)))
  end)

  it("draws bars of a fixed width", function()
    for _, fraction in ipairs({ -1, 0, 0.01, 0.5, 0.99, 1, 2, 0 / 0 }) do
      assert.are.equal(10, terminal.columns(terminal.bar(fraction, 10)))
    end
  end)

  it("spells out what would disturb a line", function()
    assert.are.equal("a\\nb\\x1b", terminal.visible("a\nb\27"))
    assert.are.equal("\\xff", terminal.visible("\255"))
    assert.are.equal("1,234,567", terminal.thousands(1234567))
    assert.are.equal("-123", terminal.thousands(-123))
    assert.are.equal("8.5 MiB", terminal.bytes(8.5 * 2 ^ 20))
    assert.are.equal("2 min 5 s", terminal.duration(125))
  end)
end)
