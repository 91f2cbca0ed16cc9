local pl = require "perilune"
local reference = require "perilune.reference"

-- The functions that the annotations describe, as a set of "Owner.name".
local function described()
  local set = {}
  for _, file in ipairs({ "model", "tensor", "sampler", "study", "grammar", "strategies", "training" }) do
    for line in io.lines(pl.home .. "/lua/perilune/meta/" .. file .. ".lua") do
      local name = line:match("^function%s+([%w_%.:]+)")
      if name then set[name:gsub(":", ".")] = true end
    end
  end
  return set
end

describe("the annotations", function()
  it("describe every method of tensors, and no other", function()
    local set, methods = described(), pl.types["perilune.tensor"]
    for name in pairs(methods) do assert.is_true(set["Tensor." .. name] or name:sub(1, 2) == "__", name) end
    for name in pairs(set) do
      local method = name:match("^Tensor%.(.*)$")
      assert.is_true(not method or methods[method] ~= nil, name)
    end
  end)

  it("describe methods that grammars have", function()
    local g = pl.grammar('root ::= "a"')
    for name in pairs(described()) do
      local method = name:match("^Grammar%.(.*)$")
      assert.is_true(not method or type(g[method]) == "function", name)
    end
  end)

  it("describe every method of chains and every function of plugins, and no other", function()
    local set = described()
    for owner, methods in pairs({ Chain = pl.types["perilune.chain"], ["pl.plugins"] = pl.plugins }) do
      for name in pairs(methods) do assert.is_true(set[owner .. "." .. name] or name:sub(1, 2) == "__", name) end
      for name in pairs(set) do
        local found = name:match("^" .. owner:gsub("%.", "%%.") .. "%.([%w_]+)$")
        assert.is_true(not found or methods[found] ~= nil, name)
      end
    end
  end)

  it("describe only functions of the library that are there", function()
    for name in pairs(described()) do
      local of_library = name:match("^pl%.([%w_]+)$")
      assert.is_true(not of_library or type(pl[of_library]) == "function", name)
    end
  end)
end)

describe("the annotations of pl.edit, pl.analysis and pl.patching", function()
  it("describe every function, and no other", function()
    local set = described()
    for _, part in ipairs { "edit", "analysis", "patching" } do
      for name in pairs(pl[part]) do assert.is_true(set["pl." .. part .. "." .. name], name) end
      for name in pairs(set) do
        local found = name:match("^pl%." .. part .. "%.(.*)$")
        assert.is_true(not found or pl[part][found] ~= nil, name)
      end
    end
  end)
end)

describe("the annotations of pl.strategies", function()
  it("describe every strategy, and no other", function()
    local set = described()
    for name in pairs(pl.strategies) do assert.is_true(set["pl.strategies." .. name], name) end
    for name in pairs(set) do
      local found = name:match("^pl%.strategies%.([%w_]+)$")
      assert.is_true(not found or pl.strategies[found] ~= nil, name)
    end
  end)
end)

describe(":help", function()
  it("needs the program's view of folders", function()
    if not pcall(require, "perilune.host") then return assert.are.same({}, reference.find("generate")) end
    assert.are.equal("Model:generate(prompt, opts)", reference.find("generate")[1].signature)
    assert.are.equal(1, #reference.find("model:generate"))
    assert.is_truthy(reference.find("generate")[1].text:find("top_p"))
    assert.are.equal("topk", reference.nearest("topkk"))
  end)

  it("breaks lines between words, indented as the text before them", function()
    local terminal = require "perilune.terminal"
    local text = "  name            " .. ("word "):rep(40) .. ("x"):rep(200)
    local lines = {}
    for line in (terminal.wrap(text, 18) .. "\n"):gmatch("(.-)\n") do lines[#lines + 1] = line end
    assert.is_true(#lines >= 4)
    for i, line in ipairs(lines) do
      assert.is_true(#line <= terminal.width() or i == #lines)
      if i > 1 then assert.truthy(line:find("^" .. (" "):rep(18) .. "[wx]")) end
    end
    assert.are.equal((text:gsub("%s+", " ")), (table.concat(lines, " "):gsub("%s+", " ")))
    assert.are.equal("short", terminal.wrap("short", 4))
  end)
end)
