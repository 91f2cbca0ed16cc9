-- Probes: ridge regression, held-out R^2, controls, tables, and `perilune probe`.
local pl = require "perilune"
local probing = require "perilune.probing"
local program = require "tests.lua.program"
local tiny = require "tests.lua.tiny"

describe("probing", function()
  local scratch = require "tests.lua.scratch"(teardown)
  local function write(text) return scratch.write("file", text) end

  -- (X^T X + lambda)^-1 X^T y by Gauss, in float64.
  local function plain_ridge(X, y, lambda)
    local n, d, a = #X, #X[1], {}
    for i = 1, d do
      a[i] = {}
      for j = 1, d do
        local sum = i == j and lambda or 0
        for r = 1, n do sum = sum + X[r][i] * X[r][j] end
        a[i][j] = sum
      end
      local sum = 0
      for r = 1, n do sum = sum + X[r][i] * y[r] end
      a[i][d + 1] = sum
    end
    for i = 1, d do
      for r = 1, d do
        local factor = r ~= i and a[r][i] / a[i][i] or 0
        for j = i, d + 1 do a[r][j] = a[r][j] - factor * a[i][j] end
      end
    end
    local w = {}
    for i = 1, d do w[i] = a[i][d + 1] / a[i][i] end
    return w
  end

  it("is ridge regression, by columns or by rows", function()
    for _, shape in ipairs { { 9, 4 }, { 4, 9 } } do
      local X, y = pl.randn(shape[1], shape[2], { seed = 1 }), pl.randn(shape[1], 1, { seed = 2 })
      local W = probing.ridge(X, y, 0.7)
      local rows, list = X:to_table(), y:view(-1):to_table()
      for i, w in ipairs(plain_ridge(rows, list, 0.7)) do assert.is_true(math.abs(W[i - 1][0] - w) < 1e-4, i) end
    end
  end)

  it("finds what was planted, and nothing where nothing is", function()
    local X = pl.randn(80, 10, { seed = 3 })
    local Y = X:matmul(pl.randn(10, 2, { seed = 4 })) * 5 + 100
    assert.is_true(probing.cross_validate(X, Y).r2 > 0.99)
    assert.is_true(probing.control(X, Y).r2 < 0.1)
    assert.is_true(probing.cross_validate(X, pl.randn(80, 1, { seed = 5 })).r2 < 0.1)
    local noisy = Y + pl.randn(80, 2, { seed = 6 }) * Y:std(0)
    local r2 = probing.cross_validate(X, noisy).r2
    assert.is_true(r2 > 0.2 and r2 < 0.75, r2) -- half of the variance is noise
    local wide = pl.cat({ X, pl.randn(80, 200, { seed = 7 }) }, 1) -- more columns than rows
    assert.is_true(probing.cross_validate(wide, Y).r2 > 0.1)
    local again = probing.cross_validate(X, noisy, { seed = 9 })
    assert.are.equal(again.r2, probing.cross_validate(X, noisy, { seed = 9 }).r2)
  end)

  it("measures the share of the variance", function()
    local Y = pl.tensor { { 1, 10 }, { 2, 20 }, { 3, 30 }, { 6, 60 } }
    assert.are.equal(1, probing.r2(Y, Y))
    assert.is_true(math.abs(probing.r2(Y, pl.zeros(4, 2) + Y:mean(0))) < 1e-6)
    -- errors 1, 0, 0, 1 of spread 4 + 1 + 0 + 9 = 14 in the first column, none in the second
    local said = pl.tensor { { 2, 10 }, { 2, 20 }, { 3, 30 }, { 5, 60 } }
    assert.is_true(math.abs(probing.r2(Y, said) - (1 - 2 / 14 / 2)) < 1e-6)
    local message = tiny.failure(probing.cross_validate, pl.zeros(5, 2), pl.zeros(5, 1)).message
    assert.is_truthy(message:find("5 rows in 5 folds", 1, true))
  end)

  it("reads tables, and names the line that is wrong", function()
    local texts, Y = probing.read_table(write('name,x,"the, y"\r\n"a ""b"", c", 1.5 ,-2\n\nd,0,1e3\n'), "name",
      { "the, y", "x" })
    assert.are.same({ 'a "b", c', "d" }, texts)
    assert.are.same({ { -2, 1.5 }, { 1000, 0 } }, Y:to_table())
    for text, message in pairs { ["name,x\na,b\n"] = "line 2: x = 'b'", ["name,x\na\n"] = "line 2: 1 fields",
      ["name\na\n"] = "no column 'x'", ["name,x\n"] = "no rows", ['name,x\n"a,1\n'] = "line 2: a quote is not closed",
      ['name,x\n"a"b,1\n'] = "expected a comma", ["name,x\na,nan\n"] = "x = 'nan'" } do
      assert.is_truthy(tiny.failure(probing.read_table, write(text), "name", { "x" }).message:find(message, 1, true))
    end
    local cities, where = probing.read_table(pl.home .. "/scripts/data/places.csv", "name", { "latitude", "longitude" })
    assert.is_true(#cities > 100 and where:abs():max(0)[0] < 90 and where:abs():max(0)[1] <= 180)
    assert.is_true(#probing.read_table(pl.home .. "/scripts/data/dates.csv", "name", { "year" }) > 80)
  end)

  it("reads positions off a model that has learned them", function()
    local path = program.model()
    if not path then return pending("no trained model is here") end
    local svg = scratch.at("positions.svg")
    local status, out, err = program.run({ "probe", "-m", path, "-t", "1", "--task", "position", "--svg", svg })
    assert.are.equal(0, status, err)
    local r2, shuffled = out:match("embedding +([-%d.]+) +([-%d.]+)")
    assert.is_true(tonumber(r2) > 0.4 and tonumber(shuffled) < 0.1, out)
    assert.is_truthy(scratch.read("positions.svg"):find(">read<", 1, true))
    local file = write("river,length\n" .. ("Rhine,1230\nDanube,2850\nNile,6650\nThames,346\n"):rep(6))
    status, out, err = program.run({ "probe", "-m", path, "--table", file, "--text", "river", "--label", "length" })
    assert.are.equal(0, status, err)
    assert.is_truthy(out:find("24 of them", 1, true))
    for message, args in pairs { ["which --label"] = { "--table", file }, ["expected %s"] = { "--template", "x" },
      ["of which --task"] = { "--svg", svg },
      ["no column 'x'"] = { "--table", file, "--text", "river", "--label", "x" } } do
      status, out, err = program.run({ "probe", "-m", path, table.unpack(args) })
      assert.are_not.equal(0, status, out)
      assert.is_truthy(err:find(message, 1, true), err)
    end
  end)
end)
