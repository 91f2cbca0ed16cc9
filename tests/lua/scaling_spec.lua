-- Power laws, fitted to points made by one, and `perilune scaling`.
require "perilune" -- finds the modules beside it
local powers = require "perilune.powers"
local program = require "tests.lua.program"
local tiny = require "tests.lua.tiny"

describe("power laws", function()
  local x, y = {}, {}
  for i = 1, 9 do
    x[i] = 10 * 3 ^ i
    y[i] = 1.7 + 12 * x[i] ^ -0.31
  end

  it("are found as they were made, whether the offset is known or not", function()
    local known, unknown = powers.fit(x, y, 1.7), powers.fit(x, y)
    for _, fit in ipairs { known, unknown } do
      assert.is_true(math.abs(fit.alpha - 0.31) < 1e-3 and math.abs(fit.offset - 1.7) < 1e-3, fit.alpha)
      assert.is_true(math.abs(fit.factor - 12) < 0.1 and fit.r2 > 0.999999)
      assert.is_true(math.abs(fit.at(1000) - (1.7 + 12 * 1000 ^ -0.31)) < 1e-3)
    end
    assert.is_true(math.abs(known.alpha - 0.31) < 1e-12)
  end)

  it("explain less where points lie off the line", function()
    local off = table.move(y, 1, #y, 1, {})
    off[5] = off[5] + 0.5
    assert.is_true(powers.fit(x, off, 1.7).r2 < 0.99)
  end)

  it("want points that make a line", function()
    for message, args in pairs { ["2 x and 1 y"] = { { 1, 2 }, { 3 } }, ["positive number"] = { { 0, 2 }, { 3, 4 } },
      ["not above the offset"] = { { 1, 2 }, { 3, 4 }, 3 }, ["all x are equal"] = { { 2, 2 }, { 3, 4 } } } do
      assert.is_truthy(tiny.failure(powers.fit, table.unpack(args)).message:find(message, 1, true), message)
    end
  end)

  it("come out of a family of models", function()
    local stem = os.tmpname()
    local words = { "scaling", "-t", "1", "--widths", "2,4,8", "--data", "500,1000,2000", "--steps", "30", "--svg",
      stem }
    local status, out, err = program.run(words)
    finally(function() for _, end_ in ipairs { "", "-n.svg", "-d.svg", "-c.svg" } do os.remove(stem .. end_) end end)
    assert.are.equal(0, status, err)
    local floor = tonumber(out:match("better than ([%d.]+) nats"))
    local losses = {}
    for loss in out:match("L%(N%).-L ="):gmatch("\n +[%d.e+]+  ([%d.]+)") do losses[#losses + 1] = tonumber(loss) end
    assert.are.equal(3, #losses)
    assert.is_true(losses[3] > floor and losses[3] < losses[1], out)
    assert.is_truthy(io.open(stem .. "-c.svg"):read("a"):find("floating-point", 1, true))
    assert.are.equal(out, select(2, program.run(words))) -- the same seed, the same losses
    for message, args in pairs { ["three points"] = { "--widths", "4,8" }, ["whole numbers"] = { "--data", "a" },
      ["too few"] = { "--text", "LICENSE" } } do
      status, out, err = program.run({ "scaling", table.unpack(args) })
      assert.are_not.equal(0, status, out)
      assert.is_truthy(err:find(message, 1, true), err)
    end
  end)
end)
