-- `perilune embedding_map`: what the map shows is what the embedding has.
local pl = require "perilune"
local program = require "tests.lua.program"

describe("embedding_map", function()
  it("keeps groups together, and says how much of the spread it shows", function()
    local file, map = os.tmpname(), os.tmpname()
    finally(function() for _, name in ipairs { file, map } do os.remove(name) end end)
    local trained = program.model()
    if not trained then return pending("no trained model is here") end
    local list = assert(io.open(file, "w"))
    list:write("# a comment\nnumbers: two three four\n\ncolours: red blue unbelievable\n")
    list:close()
    local status, out, err = program.run({ "embedding_map", "-m", trained, "--groups", file, "--svg", map,
      "--neighbours", "two,unbelievable", "-k", "3" }, "", "LC_ALL=C.UTF-8 NO_COLOR=1")
    assert.are.equal(0, status, err)
    assert.is_truthy(out:find("5 words of 2 groups", 1, true), out)
    assert.is_truthy(out:find("not one token: unbelievable", 1, true), out)
    assert.is_truthy(out:find("unbelievable is not one token", 1, true), out)
    local within, between = out:match("mean cosine of two words: (%S+) in one group, (%S+) in two")
    assert.is_true(tonumber(within) > tonumber(between), out)
    assert.is_truthy(io.open(map):read("a"):find(">three<", 1, true))

    -- The share of the first direction is the greatest eigenvalue's of the covariance.
    local model <close> = pl.load(trained)
    local rows = model.W_E:index_select(0, pl.tensor({ model:to_single_token(" two"), model:to_single_token(" three"),
      model:to_single_token(" four"), model:to_single_token(" red"), model:to_single_token(" blue") },
      { dtype = "int64" }))
    rows = rows - rows:mean(0)
    local values = rows:transpose(0, 1):matmul(rows):eigh()
    local share = 100 * values[-1] / values:sum()
    assert.is_true(math.abs(tonumber(out:match("shows ([%d.]+) %%")) - share) < 0.06, share)
  end)

  it("names the line that is no group, and what is too little for a map", function()
    local trained = program.model()
    if not trained then return pending("no trained model is here") end
    local file = os.tmpname()
    finally(function() os.remove(file) end)
    for text, message in pairs { ["numbers: two\nred blue\n"] = "line 2: expected NAME",
      ["a: two"] = "a map takes 3" } do
      local list = assert(io.open(file, "w"))
      list:write(text)
      list:close()
      local status, _, err = program.run({ "embedding_map", "-m", trained, "--groups", file })
      assert.are_not.equal(0, status)
      assert.is_truthy(err:find(message, 1, true), err)
    end
  end)
end)
