local program = dofile "tests/lua/program.lua"

describe("the programs about strategies", function()
  local path = program.model()
  local names = { "beam", "samplers", "speculative", "watermark" }

  local function run(name, args, input, prefix)
    local list = { name, "-m", path, "-t", "1" }
    for _, word in ipairs(args) do list[#list + 1] = word end
    local status, out, err = program.run(list, input, prefix)
    assert.are.equal("", status == 0 and "" or err)
    return out
  end

  local function with_model(what, test)
    it(what, function()
      if not path then return pending("no trained model is here") end
      test()
    end)
  end

  it("each know --help", function()
    for _, name in ipairs(names) do
      local status, out = program.run({ name, "--help" })
      assert.are.equal(0, status)
      assert.is_truthy(out:find("-m, --model NAME", 1, true), name)
      for line in out:gmatch("[^\n]+") do assert.is_true(#line <= 80, line) end
    end
    for _, args in ipairs({ { "beam", "--beams", "4", "--groups", "3", "x" },
      { "speculative", "--guesses", "2,a", "x" }, { "samplers", "--sampler", "top_p=x", "x" },
      { "watermark", "--ratio", "1", "x" } }) do
      assert.are.equal(2, (program.run(args)))
    end
  end)

  with_model("beam: a tree, and the texts by score", function()
    local pl = require "perilune"
    local out = run("beam", { "--beams", "3", "-n", "5", "Once upon a" })
    local model <close> = pl.load(path, { threads = 1 })
    local found = pl.strategies.beam_search(model, "Once upon a", { num_beams = 3, num_return_sequences = 3,
      max_new_tokens = 5 })
    for _, one in ipairs(found.sequences) do
      assert.is_truthy(out:find(("%.3f"):format(one.score), 1, true), out)
      assert.is_truthy(out:find(one.text:gsub("\n", "\\n"), 1, true), out)
    end
    assert.is_truthy(out:find("greedy search", 1, true))
    assert.is_truthy(out:find("└─", 1, true))
    local plain = run("beam", { "--beams", "4", "--groups", "2", "--diversity", "1", "-n", "3", "The king" }, nil,
      "LC_ALL=C")
    assert.is_truthy(plain:find("`-", 1, true))
    assert.is_nil(plain:find("[\128-\255]"))
  end)

  with_model("samplers: before and after", function()
    local out = run("samplers", { "-k", "3", "Once upon a" })
    for _, name in ipairs({ "top_k", "min_p", "xtc", "mirostat", "dist", "greedy", "penalties" }) do
      assert.is_truthy(out:find("\n" .. name .. "  ", 1, true), name)
    end
    local one = run("samplers", { "-k", "3", "--sampler", "top_k=2", "Once upon a" })
    assert.is_truthy(one:find("2 of %d+ tokens are left"))
    assert.are.equal(one, run("samplers", { "-k", "3", "--sampler", "top_k=2" }, "Once upon a"))
    local status, _, err = program.run({ "samplers", "-m", path, "--sampler", "top_q=2", "x" })
    assert.are.equal(1, status)
    assert.is_truthy(err:find("top_q", 1, true))
  end)

  with_model("speculative: kept tokens and the same text", function()
    local prompt = "The king said to the queen, the king said"
    local out = run("speculative", { "--guesses", "3", "-n", "20", prompt })
    assert.is_truthy(out:find("token for token", 1, true))
    assert.is_truthy(out:find("none +20"))
    local drafted = run("speculative", { "--draft", path, "--guesses", "4", "-n", "20", prompt })
    assert.is_truthy(drafted:find("100 %", 1, true), drafted)
    assert.is_truthy(drafted:find("\n      4       4 "), drafted)
    run("speculative", { "--temp", "0.8", "--seed", "3", "--guesses", "2", "-n", "10", prompt })
  end)

  with_model("watermark: marked and found", function()
    local out = run("watermark", { "--seed", "1", "-n", "60", "--bias", "6", "Once upon a time" })
    local plain, marked = out:match("without a watermark\n(.-)\nwith one\n(.*)")
    assert.is_truthy(plain:find("no watermark is found", 1, true), plain)
    assert.is_truthy(marked:find("there is a watermark", 1, true), marked)
    local text = marked:match("^(.-)\n\n%d+ of"):gsub("[%[%]]", "")
    assert.is_truthy(run("watermark", { "--detect" }, text):find("there is a watermark", 1, true))
    assert.is_truthy(run("watermark", { "--detect", "--key", "7" }, text):find("no watermark", 1, true))
  end)
end)
