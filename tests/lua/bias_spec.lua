-- `perilune bias_probe`: its numbers are the library's.
local pl = require "perilune"
local program = require "tests.lua.program"

describe("bias_probe", function()
  local path = program.model()

  local function run(...)
    local status, out, err = program.run({ "bias_probe", "-m", path, "-t", "1", ... }, "", "LC_ALL=C.UTF-8")
    return status, out, err
  end

  it("compares two prompts token by token, and people by two words", function()
    if not path then return pending("no trained model is here") end
    local file = os.tmpname()
    finally(function() os.remove(file) end)
    local list = assert(io.open(file, "w"))
    list:write("king\n\n  queen \n")
    list:close()
    local words = { "The king said", "The queen said", "-n", "2", "--seed", "1", "--people", file, "-k", "4" }
    local status, out, err = run(table.unpack(words))
    assert.are.equal(0, status, err)
    local model <close> = pl.load(path, { threads = 1 })
    local function after(text) return model:forward(text){ pos = -1 }:softmax() end
    local p, q = after("The king said"), after("The queen said")
    for _, both in ipairs { { p, 1 }, { q, 2 } } do
      local best = model:topk(both[1], 1)[1]
      assert.is_truthy(out:find(("%.2f %%"):format(100 * best.value), 1, true), out)
    end
    local middle, apart = (p + q) / 2, 0
    for i = 0, #p - 1 do
      apart = apart + (p[i] * math.log(p[i] / middle[i], 2) + q[i] * math.log(q[i] / middle[i], 2)) / 2
    end
    assert.is_true(math.abs(tonumber(out:match("([%d.]+) bits apart")) - apart) < 2e-4)
    local he, she = model:to_single_token(" he"), model:to_single_token(" she")
    for _, name in ipairs { "king", "queen" } do
      local r = after("The " .. name .. " said that")
      local printed = tonumber(out:match("\n" .. name .. " +([-+%d.]+)"))
      assert.is_true(math.abs(printed - math.log(r[he] / r[she], 2)) < 0.02, name)
    end
    assert.is_true(out:find("\nking ") < out:find("\nqueen "))
    assert.are.equal(2, select(2, out:gsub("\nA  %.%.%.", "")))
    assert.are.equal(out, select(2, run(table.unpack(words))))
  end)

  it("says what is missing", function()
    if not path then return pending("no trained model is here") end
    for message, args in pairs { ["two prompts"] = { "one" }, ["expected %s"] = { "--template", "x" },
      ["a comma"] = { "--words", "he" }, ["No such file"] = { "--people", "/nowhere" },
      ["nobody"] = { "--people", "/dev/null" } } do
      local status, _, err = run(table.unpack(args))
      assert.are_not.equal(0, status)
      assert.is_truthy(err:find(message, 1, true), err)
    end
  end)
end)
