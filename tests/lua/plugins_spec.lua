-- Plugins dropped into a folder: found, listed, refused in words, reloaded, run by name.
local pl = require "perilune"
local tiny = dofile "tests/lua/tiny.lua"
local program = dofile "tests/lua/program.lua"

local function write(path, text)
  local file = assert(io.open(path, "wb"))
  file:write(text)
  file:close()
end

local function read(path)
  local file = assert(io.open(path, "rb"))
  local text = file:read("a")
  file:close()
  return text
end

-- A new folder that goes with the test.
local function folder()
  local path = os.tmpname()
  os.remove(path)
  assert(os.execute("mkdir " .. path))
  finally(function() os.execute("rm -rf " .. path) end)
  return path
end

-- What a perilune program says with that folder on its path, and its exit status.
local function perilune(path, args)
  local pipe = assert(io.popen(("PERILUNE_PLUGIN_PATH=%s HOME=%s %s %s 2>&1"):format(path, path, program.path, args)))
  local text = pipe:read("a")
  local _, _, status = pipe:close()
  return text, status
end

local fixed = [[return { name = "%s", summary = "always %d", chooses = true, params = { add = { 0, max = 5 } },
  apply = function(p) return %d + math.tointeger(p.add) end }]]

describe("the plugins that come along", function()
  local model = tiny.model(pl)
  local function ids(opts)
    opts.seed, opts.max_new_tokens, opts.ignore_eos = 3, 12, true
    return model:complete("the cat", opts).ids
  end

  it("are listed with parameters and where they are from", function()
    local names = {}
    for _, plugin in ipairs(pl.plugins.list()) do
      assert.is_nil(plugin.problem)
      names[plugin.name] = plugin
    end
    for _, name in ipairs({ "template", "tfs", "smoothing", "template_lua", "top_a", "cooling" }) do
      assert.is_truthy(names[name], name)
      assert.is_truthy(names[name].path:find("/plugins/", 1, true))
    end
    assert.are.equal("tfs_z", names.tfs.params[1].name)
    assert.are.equal(1, names.tfs.abi)
  end)

  it("change nothing at their neutral values", function()
    local plain = ids({})
    for _, name in ipairs({ "template", "tfs", "smoothing", "template_lua", "top_a", "cooling" }) do
      assert.are.same(plain, ids({ chain = { name, "dist" } }), name)
      assert.are.same(plain, ids({ sampler = name }), name)
    end
  end)

  it("do what they say", function()
    local logits = pl.randn({ 262 }, { seed = 4 }):mul_(3)
    local p = logits:softmax():to_table()
    local best = math.max(table.unpack(p))
    local function after(item)
      local copy = logits:clone()
      local chain <close> = model:chain({ item, "greedy" }, { seed = 1 })
      chain:sample(copy, 0)
      return copy:to_table()
    end
    for i, x in ipairs(after({ "top_a", top_a = 0.5 })) do
      assert.are.equal(p[i] >= 0.5 * best * best, x > -math.huge)
    end
    local top = math.max(table.unpack(logits:to_table()))
    for i, x in ipairs(after({ "smoothing", smoothing_factor = 0.3, smoothing_curve = 2 })) do
      local d = top - logits[i - 1]
      assert.is_true(math.abs(x - (top - 0.3 * (0.5 * d ^ 2 + 0.5 * d ^ 3))) < 1e-3)
    end
    local sorted = table.move(p, 1, #p, 1, {})
    table.sort(sorted, function(a, b) return a > b end)
    local total, sum, keep = 0, 0, nil
    local function bend(i) return math.abs(sorted[i] - 2 * sorted[i + 1] + sorted[i + 2]) end
    for i = 1, #sorted - 2 do total = total + bend(i) end
    for i = 1, #sorted - 2 do
      sum = sum + bend(i) / total
      keep = keep or (sum > 0.8 and math.max(1, i - 1)) or nil
    end
    local left = 0
    for _, x in ipairs(after({ "tfs", tfs_z = 0.8 })) do left = left + (x > -math.huge and 1 or 0) end
    assert.are.equal(keep, left)
    local chain <close> = model:chain({ { "cooling", hot = 4, cold = 1, half_life = 1 }, "greedy" })
    for step, temp in ipairs({ 4, 2.5, 1.75 }) do
      local copy = logits:clone()
      chain:accept(chain:sample(copy, step))
      assert.is_true(math.abs(copy[5] - logits[5] / temp) < 1e-4)
    end
  end)

  it("refuse wrong parameters by name", function()
    local function refused(chain) return tiny.failure(model.complete, model, "x", { chain = chain }).message end
    assert.is_truthy(refused({ { "tfs", tfs_z = 2 }, "dist" }):find("from 0 to 1", 1, true))
    assert.is_truthy(refused({ { "template", last_n = 2.5 }, "dist" }):find("whole number", 1, true))
    assert.is_truthy(refused({ { "tfs", tfz = 1 }, "dist" }):find("'tfs_z'", 1, true))
    assert.is_truthy(refused({ "smoothig", "dist" }):find("did you mean 'smoothing'", 1, true))
  end)
end)

describe("a folder of plugins", function()
  -- What the model that comes along writes for an id, n times.
  local default
  local function letters(id, n)
    default = default or pl.load()
    return default:decode({ id }):rep(n)
  end

  it("is looked through by the program, which says what it refused and why", function()
    local path = folder()
    write(path .. "/good.lua", fixed:format("good", 65, 65))
    write(path .. "/syntax.lua", "return {")
    write(path .. "/throws.lua", "error 'at once'")
    write(path .. "/number.lua", "return 5")
    write(path .. "/twice.lua", fixed:format("good", 66, 66))
    write(path .. "/text.so", "this is a text, which is long enough to be taken for something else altogether")
    os.execute("mkdir " .. path .. "/folder.so")
    local text = perilune(path, "plugins")
    for _, word in ipairs({ "good  always 65", "add ", "syntax.lua:1: ", "at once", "it returns a number",
      "the name 'good' is taken by " .. path .. "/good.lua", "text.so: no shared library", "folder.so: a folder" }) do
      assert.is_truthy(text:find(word, 1, true), word .. " in: " .. text)
    end
    local function written(sampler)
      return (perilune(path, "generate -q -n 4 --sampler " .. sampler .. " x"):gsub("^x", ""):gsub("%s", ""))
    end
    assert.are.equal(letters(65, 4), written("good"))
    assert.are.equal(letters(67, 4), written("good:add=2"))
    local why, status = perilune(path, "generate -q -n 4 --sampler god x")
    assert.are.equal(1, status)
    assert.is_truthy(why:find("did you mean 'good'", 1, true), why)
  end)

  it("is read anew without a restart", function()
    local path = folder()
    local file = path .. "/changing.lua"
    write(file, fixed:format("changing", 65, 65))
    local code = ([[
      local chain = {"changing"}
      local function say() io.write(model:complete("x", {chain = chain, max_new_tokens = 2}).text, " ") end
      say()
      local f = io.open("%s", "w") f:write((%q):format("changing", 66, 66)) f:close()
      say() pl.plugins.reload() say()
      os.remove("%s") pl.plugins.reload()
      print(pcall(say))]]):format(file, fixed, file)
    write(path .. "/script", code)
    local text = perilune(path, ("-e \"$(cat %s/script)\""):format(path))
    local before, after = letters(65, 2), letters(66, 2)
    assert.is_truthy(text:find(("%s %s %s false"):format(before, before, after), 1, true), text)
    assert.is_truthy(text:find("no sampler is called 'changing'", 1, true), text)
  end)

  it("may hold a library that was compiled outside of the tree", function()
    if not os.execute("command -v cc >/dev/null") then return pending("no C compiler here") end
    local path = folder()
    local source = read("plugins/template.c"):gsub('"template"', '"mine"')
    write(path .. "/mine.c", source)
    write(path .. "/perilune_plugin.h", read("plugins/perilune_plugin.h"))
    assert(os.execute(("cd %s && cc -Wall -Werror -shared -fPIC -o mine.so mine.c"):format(path)))
    local text = perilune(path, "plugins mine")
    assert.is_truthy(text:find("mine.so, ABI version 1", 1, true), text)
    local plain = perilune(path, "generate -q --seed 1 --temp 0 -n 8 Once")
    local other = perilune(path, "generate -q --seed 1 --temp 0 -n 8 --sampler mine:penalty=50 Once")
    assert.are_not.equal(plain, other)
  end)
end)
