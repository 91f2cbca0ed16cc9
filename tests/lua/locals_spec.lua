require "perilune"
local locals = require "perilune.locals"

describe("the session's locals", function()
  local scope

  before_each(function() scope = locals.new() end)

  -- What a line returns.
  local function run(code)
    local chunk = assert(scope:compile(code, "=stdin"))
    return chunk()
  end

  it("are shared by lines and functions, as Lua shares variables", function()
    run "local n = 0"
    run "local function up() n = n + 1 return n end local function down() n = n - 1 return n end"
    assert.are.equal(1, run "return up()")
    run "n = 10"
    assert.are.equal(9, run "return down()")
    assert.are.equal(9, run "return n")
    assert.is_nil(rawget(_G, "n"))
  end)

  it("shadow those of the same name, which functions keep", function()
    run "local x = 1 local function old() return x end"
    run "local x = x + 1"
    assert.are.same({ 2, 1 }, { run "return x, old()" })
    run "local y = 1 local y = y + 1"
    assert.are.equal(2, run "return y")
  end)

  it("keep const", function()
    run "local c <const>, d = 5, 6"
    run "local t <const> = {}"
    assert.are.same({ 5, 6 }, { run "return c, d" })
    assert.is_nil((scope:compile("c = 1", "=stdin")))
    assert.is_nil((scope:compile("t = 1", "=stdin")))
    run "local c = 7 c = 8"
    assert.are.equal(8, run "return c")
  end)

  it("are only those of the top level", function()
    run "do local inner = 1 end for i = 1, 2 do local inner = i end"
    run "if true then local inner = 1 elseif false then local inner = 2 else local inner = 3 end"
    run "local f = function() local inner = 1 while true do local inner = 2 break end repeat local inner until true end"
    run "local s, t = [[ local inner = 1 ]], 'local inner' -- local inner = 1"
    run "--[==[ local inner ]] ]==] local last = 3"
    assert.is_nil(run "return inner")
    assert.are.same({ "f", "last", "s", "t" }, scope:names())
    assert.are.equal(" local inner = 1 ", scope:get("s"))
  end)

  it("are kept before a return, around labels, and over lines", function()
    assert.are.equal(3, run "local a = 3 return a")
    assert.are.equal(3, scope:get("a"))
    run "local a\n= 4 -- said\n"
    assert.are.equal(4, scope:get("a"))
    run "goto done local b = 1 ::done::"
    run "local function fact(n) return n < 2 and 1 or n * fact(n - 1) end"
    assert.are.equal(120, run "return fact(5)")
  end)

  it("of a failed line do not exist", function()
    assert.is_false((pcall(run, "local gone = 1 error('x')")))
    assert.is_false(scope:has("gone"))
  end)

  it("may be many", function()
    for i = 1, 300 do run(("local v%d = %d"):format(i, i)) end
    assert.are.equal(301, run "return v1 + v300")
  end)

  it("tell the line of an error", function()
    run "local a = 1"
    local chunk = scope:compile("a = a +\n1\nerror('here')", "=stdin")
    local _, message = pcall(chunk)
    assert.are.equal("stdin:3: here", message)
  end)

  it("close at the end, the last first, whatever goes wrong", function()
    local closed = {}
    _G.closer = function(name)
      return setmetatable({}, { __close = function()
        closed[#closed + 1] = name
        error("no")
      end })
    end
    run "local a <close>, b = closer 'a', 1 local c <close> = closer 'c'"
    run "local nothing <close> = nil"
    assert.are.same({}, closed)
    scope:close()
    _G.closer = nil
    assert.are.same({ "c", "a" }, closed)
  end)
end)

describe("shown values", function()
  local show = require "perilune.show"

  it("fit a line where they can", function()
    assert.are.equal("{1, 2, x = \"a\\n\"}", show.value({ 1, 2, x = "a\n" }))
    assert.are.equal("plain\n", show.value("plain\n"))
    assert.are.equal("{}", show.value({}))
    assert.are.equal("0.1", show.value(0.1))
  end)

  it("are cut where they are deep, long or go round", function()
    local round = {}
    round.self = round
    assert.are.equal("{self = {...}}", show.value(round))
    local deep = {}
    for _ = 1, 50 do deep = { deep } end
    assert.is_true(#show.value(deep) < 200)
    local long = {}
    for i = 1, 1000 do long[i] = i end
    assert.is_truthy(show.value(long):find("980 more", 1, true))
    assert.is_true(#show.value(long) < 200)
  end)

  it("break into lines that fit", function()
    local wide = {}
    for i = 1, 30 do wide["name_" .. i] = ("x"):rep(10) end
    for line in show.value(wide):gmatch("[^\n]+") do assert.is_true(#line <= 80) end
  end)
end)
