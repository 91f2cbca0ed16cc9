local program = dofile "tests/lua/program.lua"
local tiny = dofile "tests/lua/tiny.lua"
local pl = require "perilune"

describe("base_vs_chat", function()
  local scratch = require "tests.lua.scratch"(teardown)
  local base, chat = scratch.at "base", scratch.at "chat"

  setup(function()
    tiny.model(pl):save(base, { format = "safetensors" })
    tiny.model(pl, { seed = 6 }):save(chat, { format = "safetensors" })
    scratch.write("chat/chat_template.jinja",
      "{% for m in messages %}[{{ m.role }}] {{ m.content }}\n{% endfor %}[assistant]")
  end)

  local function run(...) return program.run({ "base_vs_chat", ... }, nil, "LC_ALL=C.UTF-8") end

  it("says in one line how to get the models that are missing", function()
    for _, words in ipairs { {}, { base } } do
      local status, out, err = run(table.unpack(words))
      assert.are.equal(2, status)
      assert.are.equal("", out)
      assert.is_truthy(err:find("^perilune: two models are needed: `perilune pull [^\n]*\n$"), err)
    end
  end)

  it("shows the template's text, then both answers side by side", function()
    local status, out, err = run(base, chat, "-n", "5")
    assert.are.equal(0, status, err)
    assert.are.equal("", err)
    assert.is_truthy(out:find("  [user] What is the capital of Australia?\n  [assistant]\n", 1, true), out)
    assert.is_truthy(out:find("\nbase: [^\n]* │ tuned: "), out)
    assert.is_truthy(out:find("\nWhat is the capital of", 1, true), out)
    for line in out:gmatch("[^\n]+") do assert.is_true(utf8.len(line) <= 80, line) end
    assert.are.equal(out, select(2, run(base, chat, "-n", "5")))
    status, out = run(base, chat, "-n", "5", "--question", "Who?")
    assert.are.equal(0, status)
    assert.is_truthy(out:find("[user] Who?\n", 1, true), out)
  end)

  it("tells that a model has no chat template", function()
    local status, out, err = run(base, base, "-n", "2")
    assert.are.equal(0, status)
    assert.is_truthy(err:find("has no chat template", 1, true), err)
    assert.is_truthy(out:find("User: What is", 1, true), out)
  end)
end)
