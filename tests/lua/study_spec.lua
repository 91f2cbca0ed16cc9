-- The programs that look inside of a model: what they print holds against the library, and their
-- pages are written.
local pl = require "perilune"
local program = dofile "tests/lua/program.lua"
local terminal = require "perilune.terminal"
local tiny = dofile "tests/lua/tiny.lua"

describe("the programs that look inside", function()
  local path = program.model()
  local names = { "ablate", "attention", "induction", "layer_walk", "logit_lens", "one_head", "patch",
    "residual", "steer" }

  local short = { ablate = { "Once upon a time there was a king." }, induction = { "-n", "8", "--samples", "1" } }

  local function run(name, args, input)
    local list = { name, "-m", path, "-t", "1" }
    for _, word in ipairs(args or {}) do list[#list + 1] = word end
    local status, out, err = program.run(list, input, "LC_ALL=C.UTF-8")
    assert.are.equal("", status == 0 and "" or err)
    return out, err
  end

  local function with_model(what, test)
    it(what, function()
      if not path then return pending("no trained model is here") end
      test(function(precision)
        return pl.load(path, { threads = 1, precision = precision, kv = precision == "exact" and "f32" or nil })
      end)
    end)
  end

  -- The numbers of the lines that begin with `label N`, N counting from 0 after the given place.
  local function rows_after(out, mark, label)
    local rows = {}
    local from = select(2, out:find(mark, 1, true)) + 1
    for line in out:sub(from):gmatch("[^\n]+") do
      local n, rest = line:match("^" .. label .. " (%d+) +(.*)$")
      if tonumber(n) == #rows then
        local row = {}
        for word in rest:gmatch("[-+]?%d+%.%d+") do row[#row + 1] = tonumber(word) end
        rows[#rows + 1] = row
      elseif #rows > 0 then
        break
      end
    end
    return rows
  end

  local function near(a, b, tolerance) assert.is_true(math.abs(a - b) <= tolerance, a .. " and " .. b) end

  it("explain themselves: `perilune help` shows what each is for, with examples", function()
    for _, name in ipairs(names) do
      local status, out = program.run({ "help", name })
      assert.are.equal(0, status)
      local _, examples = out:gsub("\n  perilune " .. name, "")
      assert.is_true(examples >= 2, name)
      assert.is_true(#out > 250, name)
      assert.is_truthy(out:find("perilune " .. name .. " --help lists its options.", 1, true))
      for line in out:gmatch("[^\n]+") do assert.is_true(utf8.len(line) <= 105, line) end
    end
  end)

  with_model("write a page that names every token and no address", function()
    for _, name in ipairs(names) do
      if name == "layer_walk" then goto continue end -- has no page
      local file = os.tmpname()
      finally(function() os.remove(file) end)
      local out, err = run(name, { "--html", file, table.unpack(short[name] or {}) })
      assert.is_true(#out > 300, name)
      assert.is_truthy(err:find(file .. " is written", 1, true))
      local handle = io.open(file)
      local html = handle:read("a")
      handle:close()
      assert.is_truthy(html:find('<section data-part="0">', 1, true), name)
      assert.is_falsy(html:find("%a+://"), name)
      os.remove(file)
      ::continue::
    end
  end)

  with_model("say in one line what is wrong with their arguments", function()
    local mistakes = {
      { 1, "ablate", "--html", "/nowhere/x.html" }, { 2, "ablate", "x" },
      { 2, "attention", "--layer", "99" }, { 2, "attention", "--head", "99" }, { 2, "attention", "" },
      { 2, "induction", "x" }, { 2, "induction", "-n", "300" }, { 2, "logit_lens", ("word "):rep(600) },
      { 2, "layer_walk", "--layer", "8" }, { 2, "one_head", "--pos", "99" }, { 2, "one_head", "--head", "x" },
      { 2, "patch", "the king" }, { 2, "patch", "the king", "the king" }, { 2, "patch", "a king", "a king said" },
      { 1, "patch", "--answer", "not one token" }, { 2, "residual", "" }, { 2, "steer", " king" },
      { 2, "steer", "--strengths", "much" }, { 1, "steer", "--vectors", "/nowhere/v.gguf" },
      { 2, "steer", "--layer", "8" },
    }
    for _, mistake in ipairs(mistakes) do
      local list = { mistake[2], "-m", path, table.unpack(mistake, 3) }
      local status, _, err = program.run(list)
      assert.are.equal(mistake[1], status, err)
      assert.is_falsy(err:match("^[^\n]*\n"):find("traceback"), err)
      if not err:find("\nUsage:") then assert.are.equal(1, select(2, err:gsub("\n", "")), err) end
      assert.is_truthy(err:find("^perilune: "), err)
    end
    for _, name in ipairs(names) do
      local status, _, err = program.run({ name, "--nothing" })
      assert.are.equal(2, status)
      assert.is_truthy(err:find("unknown option '--nothing'", 1, true), err)
    end
  end)

  with_model("attention: rows sum to 1, and are the pattern's", function(load)
    local text = "The king said to the queen"
    local out = run("attention", { "--layer", "3", "--head", "1", text })
    local model <close> = load()
    local _, cache = model:run_with_cache(text, "blocks.3.attn.hook_pattern")
    local pattern = cache["blocks.3.attn.hook_pattern"]:select(0, 1)
    local query = 0
    for line in out:sub((out:find("layer 3, head 1", 1, true))):gmatch("[^\n]+") do
      local sum, key = 0, 0
      for word in line:gmatch("%d%.%d%d") do
        near(tonumber(word), pattern[query][key], 0.006)
        sum, key = sum + tonumber(word), key + 1
      end
      if key > 0 then
        near(sum, 1, 0.03)
        query = query + 1
        assert.are.equal(query, key)
      end
    end
    assert.are.equal(6, query)
    local firsts = rows_after(out, "at the first token", "layer")
    assert.are.equal(model.config.n_layers, #firsts)
    near(firsts[4][2], pattern:select(1, 0):mean(), 0.006)
  end)

  with_model("attention: of long texts only the last tokens, and no line beyond the terminal's", function()
    local out = run("attention", { ("The king said to the queen. "):rep(20) })
    assert.is_truthy(out:find("the last 48 of 1%d%d tokens"), out)
    local rest = out:sub((out:find("Where the attention", 1, true)))
    for line in rest:gmatch("[^\n]+") do assert.is_true(utf8.len(line) <= 80, line) end
  end)

  with_model("logit_lens: the last layer says what the model says", function(load)
    local text = "The little girl went home to her mother, and the little"
    local out = run("logit_lens", { "-k", "3", text })
    local model <close> = load("exact")
    local best = model:topk(model:forward(text){ pos = -1 }:softmax(), 3)
    local candidates = out:match("candidates after the last token:\n\n( +[^\n]+)\n")
    local at = 1
    for _, token in ipairs(best) do
      local word = token.piece:gsub("^ ", "␣")
      at = assert(select(2, candidates:find(word, at, true)), candidates)
    end
    local rows = rows_after(out, "candidates after the last token", "layer")
    for k = 1, 3 do near(rows[#rows][k], best[k].value, 6e-4) end
  end)

  with_model("ablate: adds what silencing a head adds", function(load)
    local text = "Once upon a time there was a king who had a daughter."
    local out = run("ablate", { "-k", "2", text })
    local model <close> = load()
    local ids = model:encode(text)
    local function loss(logits)
      return logits:narrow(0, 0, #ids - 1):cross_entropy(ids:narrow(0, 1, #ids - 1))
    end
    local whole = loss(model:forward(ids))
    near(tonumber(out:match("([%d.]+) nats a token with everything")), whole, 1e-4)
    local rows = rows_after(out, "becomes 0:", "layer")
    assert.are.equal(model.config.n_layers, #rows)
    local layer, head = 4, 0
    local without = loss(model:run_with_hooks(ids, { { ("blocks.%d.attn.hook_z"):format(layer), function(z)
      z:select(1, head):zero_()
    end } }))
    near(rows[layer + 1][head + 1], without - whole, 6e-4)
    assert.are_not.equal(out, (run("ablate", { "-k", "2", "--mean", text })))
    assert.are.equal(out, (run("ablate", { "-k", "2", "-" }, text .. "\n")))
  end)

  with_model("induction: the mean of each pattern's diagonal, for random tokens and for a text", function(load)
    local text = " One day the wolf met a little girl in the wood."
    local out = run("induction", { text })
    local model <close> = load()
    local once = model:encode(text, { add_special = false }):to_table()
    local n = #once
    local ids = table.move(once, 1, n, n + 1, { table.unpack(once) })
    local _, cache = model:run_with_cache(ids, "pattern")
    local rows = rows_after(out, "\nlooks", "layer")
    for _, place in ipairs({ { 0, 0 }, { 6, 4 } }) do
      local pattern, sum = cache[("blocks.%d.attn.hook_pattern"):format(place[1])]:select(0, place[2]), 0
      for query = n, 2 * n - 1 do sum = sum + pattern[query][query - n + 1] end
      near(rows[place[1] + 1][place[2] + 1], sum / n, 0.006)
    end
    local even = 0
    for query = n, 2 * n - 1 do even = even + 1 / (query + 1) / n end
    near(tonumber(out:match("would look ([%d.]+) there")), even, 6e-4)
    out = run("induction", { "-n", "8", "--samples", "1", "--seed", "3", "-k", "2" })
    assert.are.equal(out, (run("induction", { "-n", "8", "--samples", "1", "--seed", "3", "-k", "2" })))
    assert.is_truthy(out:find("8 random tokens (seed 3, texts: 1), twice", 1, true))
    local _, listed = out:gsub(" looks %d", "")
    assert.are.equal(2, listed)
  end)

  with_model("residual: norms of the stream, and shares that sum to 1", function(load)
    local text = "The king said to the queen"
    local out = run("residual", { text })
    local model <close> = load("exact")
    local _, cache = model:run_with_cache(text, "resid_post")
    local last = cache[("blocks.%d.hook_resid_post"):format(model.config.n_layers - 1)]
    local row = out:match("Norm of the stream.-\nmlp " .. model.config.n_layers - 1 .. " +([^\n]+)")
    local pos = 0
    for word in row:gmatch("[%d.]+") do
      near(tonumber(word), last[pos]:norm(), 0.06)
      pos = pos + 1
    end
    assert.are.equal(6, pos)
    local sum, parts = 0, 0
    for share in out:gmatch("share ([-+%d.]+)") do sum, parts = sum + tonumber(share), parts + 1 end
    near(sum, 1, 0.01)
    local logits = model:forward(text)
    local stack, of_biases = pl.analysis.logit_attrs(model, select(2, model:run_with_cache(text)),
      last:unsqueeze(0), logits:argmax(-1))
    local spoken = 0
    for word in out:gmatch("logit +([-+%d.]+)") do spoken = spoken + tonumber(word) end
    near(spoken, stack[0][-1], 0.1)
    near(spoken + of_biases[-1], logits[-1]:max(), 0.1)
    assert.are.equal(2 + 2 * model.config.n_layers, parts)
  end)

  with_model("take numbers below 0 as they are typed", function()
    local text = "The king said to the queen"
    local out = run("one_head", { "--pos", "-2", "-l", "-1", text })
    assert.is_truthy(out:find("^[^\n]*\nlayer 7, head %d; the token that asks: 4 "), out)
    assert.are.equal(out, (run("one_head", { "--pos=-2", "--layer", "7", text })))
    assert.is_truthy(run("steer", { "--strengths", "-0.5,0", "-n", "2" }):find("\n +-0%.5 +moved"))
  end)

  -- Steps and the largest difference that layer_walk shows.
  local function walk(args)
    local out = run("layer_walk", args)
    local steps = 0
    for far in out:gmatch("\n[%w_.]-hook_%S+ [^\n]* (%d%.%de[-+]%d+)") do
      assert.is_true(tonumber(far) < 1e-4, out)
      steps = steps + 1
    end
    assert.is_truthy(out:find("are the same, but for rounding", 1, true), out)
    return steps, out
  end

  with_model("layer_walk: the block in Lua is the engine's, in every layer", function(load)
    local model <close> = load()
    for layer = 0, model.config.n_layers - 1, 3 do
      local steps, out = walk({ "--layer", tostring(layer), "The king said to the queen" })
      assert.is_true(steps >= 14, steps)
      assert.is_truthy(out:find("gelu_new(pre)", 1, true))
    end
    assert.is_truthy(run("layer_walk", { "--source" }):find("local function rotate", 1, true))
  end)

  with_model("layer_walk and one_head: the same with quantised weights", function()
    local file = os.tmpname() .. ".gguf"
    finally(function() os.remove(file) os.remove((file:gsub("%.gguf$", ""))) end)
    assert.are.equal(0, (program.run({ "quantize", path, file, "q8_0" })))
    for _, name in ipairs({ "layer_walk", "one_head" }) do
      local status, out, err = program.run({ name, "-m", file, "The king said to the queen" })
      assert.are.equal(0, status, err .. out)
    end
  end)

  it("layer_walk: the same for Llama's family, whichever pairs are rotated, and with shared keys", function()
    for _, half in ipairs({ true, false }) do
      local file = os.tmpname()
      os.remove(file)
      file = half and file or file .. ".gguf"
      finally(function() os.execute("rm -rf " .. file) end)
      local model <close> = pl.new_model({ arch = "llama", tokenizer = tiny.tokenizer(), n_layers = 2, d_model = 32,
        n_heads = 4, n_kv_heads = 2, d_head = 8, d_mlp = 48, n_ctx = 64, d_vocab = 262, std = 0.3, seed = 5 })
      model:save(file)
      local status, out, err = program.run({ "layer_walk", "-m", file, "--layer", "1", "the inner thing" })
      assert.are.equal(0, status, err .. out)
      assert.is_truthy(out:find("attn.hook_rot_k", 1, true) and out:find("silu(pre) * pre_linear", 1, true))
      assert.are.equal(0, (program.run({ "one_head", "-m", file, "the inner thing" })))
      os.execute("rm -rf " .. file)
    end
  end)

  with_model("one_head: weights, the mix and what it speaks for are the model's", function(load)
    local text = "The little girl went home to her mother, and the little"
    local out = run("one_head", { "--layer", "6", "--head", "4", "-k", "3", text })
    local model <close> = load("exact")
    local ids = model:encode(text)
    local logits, cache = model:run_with_cache(ids, { "blocks.6.attn.hook_*", "ln_final.hook_scale" })
    local pattern = cache["blocks.6.attn.hook_pattern"]:select(0, 4)[-1]
    local key = 0
    for weight in out:gmatch("\n  %S+ +%-?[%d.]+ +%-?[%d.]+  (%d%.%d%d%d)") do
      near(tonumber(weight), pattern[key], 2e-3)
      key = key + 1
    end
    assert.are.equal(#ids, key)
    local written = cache["blocks.6.attn.hook_result"]:select(1, 4)[-1]
    written = (written - written:mean()) / cache["ln_final.hook_scale"][-1][0] * model.ln_final_w
    local best = model:topk(written:unsqueeze(0):matmul(model.W_U):squeeze(0), 1)[1]
    assert.is_truthy(out:find(("for      %s %+.2f"):format(best.piece:gsub("^ ", "␣"), best.value), 1, true), out)
    local with, without = out:match("has ([%d.]+) %% with this head's word at this place, ([%d.]+) %% without")
    local choice = logits[-1]:argmax()
    near(tonumber(with), 100 * logits[-1]:softmax()[choice], 0.2)
    local function silence(z) z:select(1, 4):zero_() end
    local silent = model:run_with_hooks(ids, { { "z", silence, { layer = 6, pos = #ids - 1 } } })
    near(tonumber(without), 100 * silent[-1]:softmax()[choice], 0.2)
    assert.is_truthy(run("one_head", { "--pos", "2", text }):find("masked  0.000", 1, true))
  end)

  with_model("patch: nothing of the way, all of it, and what the library says between", function(load)
    local clean, corrupted = "The little girl went home, and the little", "The little boy went home, and the little"
    local out = run("patch", { clean, corrupted, "--answer", " girl", "--wrong", " boy" })
    local model <close> = load()
    local girl, boy = model:to_single_token(" girl"), model:to_single_token(" boy")
    local function difference(logits) return logits[-1][girl] - logits[-1][boy] end
    local point = "blocks.5.hook_resid_pre"
    local clean_logits, cache = model:run_with_cache(clean, point)
    local best, worst = difference(clean_logits), difference(model:forward(corrupted))
    local rows = rows_after(out, "residual stream before each block", "layer")
    assert.are.equal(model.config.n_layers, #rows)
    for layer = 1, #rows do assert.are.equal(0, rows[layer][1]) end -- the same token with nothing before it
    local n = #model:encode(clean)
    for _, pos in ipairs({ 2, n - 1 }) do
      local patched = model:run_with_hooks(corrupted, { { point, function(act)
        act:copy_(cache[point]:narrow(0, pos, 1))
      end, { pos = pos } } })
      near(rows[6][pos + 1], (difference(patched) - worst) / (best - worst), 0.006)
    end
    assert.is_true(rows[1][3] > 0.95) -- the whole difference is one token
    local heads = rows_after(out, "single heads", "layer")
    assert.are.same({ model.config.n_layers, model.config.n_heads }, { #heads, #heads[1] })
  end)

  with_model("steer: strength 0 changes nothing, others what the library says", function(load)
    local file = os.tmpname() .. ".gguf"
    finally(function() os.remove(file) os.remove((file:gsub("%.gguf$", ""))) end)
    local out = run("steer", { " king", " wolf", "--layer", "3", "--strengths", "0,1", "-n", "8", "-k", "1",
      "--save", file })
    local again = run("steer", { "--vectors", file, "--strengths", "0,1", "-n", "8", "-k", "1" })
    assert.are.equal(out:gsub("^[^\n]*", ""), (again:gsub("^[^\n]*", "")))
    local model <close> = load()
    local function stream(text)
      local _, cache = model:run_with_cache(text, "blocks.3.hook_resid_post")
      return cache["blocks.3.hook_resid_post"][-1]
    end
    local prompt = "He went to the"
    local function text()
      return prompt .. terminal.visible(model:complete(prompt, { max_new_tokens = 8, temp = 0 }).text)
    end
    assert.is_truthy(out:find("    0  moved  0.00 bits  " .. text() .. "\n", 1, true), out)
    local _ <close> = pl.edit.add(model, "resid_post", stream(" king") - stream(" wolf"), { layer = 3 })
    assert.is_truthy(out:find("bits  " .. text() .. "\n", 1, true), out)
    local best = model:topk(model:forward(prompt)[-1]:softmax(), 1)[1]
    assert.is_truthy(out:match("\n%+1 +[%d. ]+\n"):find(("%.3f"):format(best.value), 1, true), out)
  end)

  it("show colours on a terminal and none with NO_COLOR", function()
    if not path then return pending("no trained model is here") end
    for environment, coloured in pairs({ ["A=1"] = true, ["NO_COLOR=1"] = false }) do
      local screen = program.terminal({ "attention", "-m", path, "--head", "0", "The king" }, environment)
      if not screen then return pending("script(1) is not installed") end
      finally(function() screen:remove() end)
      screen:expect("[exit 0]")
      local file = io.open(screen.path, "rb")
      local raw = file:read("a")
      file:close()
      assert.are.equal(coloured, raw:find("\27[48;5;", 1, true) ~= nil)
      screen.from = 1
      assert.are.equal(0, screen:close())
      screen:remove()
    end
  end)
end)
