-- `perilune positions`: products that depend on distances alone, and order that is lost without positions.
local pl = require "perilune"
local program = require "tests.lua.program"
local tiny = require "tests.lua.tiny"

describe("positions", function()
  local function run(...)
    return program.run({ "positions", "-t", "1", "--seed", "3", ... }, "", "LC_ALL=C.UTF-8")
  end

  -- The numbers that follow a label.
  local function numbers(out, label)
    local list = {}
    for word in out:match("\n" .. label .. "%s+([^\n]+)"):gmatch("%-?[%d.]+") do list[#list + 1] = tonumber(word) end
    return list
  end

  local function saved(description)
    description.std = 0.3
    local path = os.tmpname() .. ".gguf"
    tiny.model(pl, description):save(path)
    finally(function() os.remove(path) end)
    return path
  end

  it("agree by distance alone, whether waves or turns", function()
    local _, out = run("-m", saved {}, "the inner order of this")
    for _, label in ipairs { "from position", "query at" } do
      local first = numbers(out, label .. " 0")
      assert.are.same(first, numbers(out, label .. " 100"))
      assert.are.same(first, numbers(out, label .. " 1000"))
    end
    local d, x = 64, 0 -- the wave's own product: a sum of cosines
    for i = 0, d - 1, 2 do x = x + math.cos(4 / 10000 ^ (i / d)) end
    assert.are.equal(("%.3f"):format(x), ("%.3f"):format(numbers(out, "from position 0")[4]))
  end)

  it("are what tells the first layer of the order, learned or rotary", function()
    for _, description in ipairs { {}, { arch = "llama" }, { arch = "qwen3" } } do
      local status, out, err = run("-m", saved(description), "the inner order of this")
      assert.are.equal(0, status, err)
      local _, with, without = table.unpack(numbers(out, "layer"))
      assert.is_true(with > 1 and without < 0.01, out)
      assert.are.equal(description.arch == nil, out:find("Learned: W_pos", 1, true) ~= nil)
    end
  end)

  it("are drawn where they are learned, and only there", function()
    local file = os.tmpname()
    finally(function() os.remove(file) end)
    local status, out, err = run("-m", saved {}, "--svg", file, "the inner order of this")
    assert.are.equal(0, status, err)
    assert.is_truthy(io.open(file):read("a"):find("direction 4", 1, true), out)
    status, out, err = run("-m", saved { arch = "llama" }, "--svg", file, "the inner order of this")
    assert.are.equal(2, status, out)
    assert.is_truthy(err:find("no learned positions", 1, true))
    assert.are.equal(2, (run("-m", saved {}, "a")))
  end)
end)
