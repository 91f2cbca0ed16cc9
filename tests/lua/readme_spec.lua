-- Every block of code in README.md and in the pages of lua/docs runs: ```lua blocks of a page one after
-- the other, as one script; a ```text block after one is what it prints; ```sh blocks by the shell.
local pl = require "perilune"
local program = dofile "tests/lua/program.lua"

local pages = { "README.md", "lua/docs/first-script.md", "lua/docs/indexing.md", "lua/docs/lifetimes.md",
  "lua/docs/learning.md", "lua/docs/glossary.md", "lua/docs/first-hook.md", "lua/docs/hook-points.md",
  "lua/docs/transformer-lens.md", "lua/docs/constraints.md", "lua/docs/samplers.md", "lua/docs/strategies.md" }

-- The blocks of a page: {kind, text, line}.
local function blocks_of(path)
  local blocks, block, line = {}, nil, 0
  for text in io.lines(path) do
    line = line + 1
    if text:find("^```") and block then
      blocks[#blocks + 1], block = block, nil
    elseif text:find("^```") then
      block = { kind = text:sub(4), text = "", line = line }
    elseif block then
      block.text = block.text .. text .. "\n"
    end
  end
  return blocks
end

-- One script of all Lua blocks, each on the page's own lines, with marks where its output begins.
local function script_of(blocks)
  local parts, at = {}, 1
  for i, block in ipairs(blocks) do
    if block.kind == "lua" then
      parts[#parts + 1] = ("\n"):rep(block.line + 1 - at - 1) .. ("MARK(%d)\n"):format(i) .. block.text
      at = block.line + 1 + select(2, block.text:gsub("\n", ""))
    end
  end
  return table.concat(parts)
end

-- Runs a page's script; gives what each block printed, by its number.
local function run_script(path, blocks)
  local outputs, current = {}, nil
  local function write(...) outputs[current] = outputs[current] .. table.concat({ ... }) end
  local environment = setmetatable({
    MARK = function(i) current, outputs[i] = i, "" end,
    print = function(...)
      local words = table.pack(...)
      for i = 1, words.n do words[i] = tostring(words[i]) end
      write(table.concat(words, "\t"), "\n")
    end,
    io = setmetatable({ write = write }, { __index = io }),
  }, { __index = _G, __newindex = function(self, name, value)
    rawset(name == "arg" and _G or self, name, value)
  end })
  local arg_before = _G.arg
  finally(function() _G.arg = arg_before end)
  assert(load(script_of(blocks), "@" .. path, "t", environment))()
  return outputs
end

local function run_shell(text)
  for line in text:gsub("\\\n", " "):gmatch("[^\n]+") do
    if line:find("^make ") then
      assert.is_truthy(io.open("Makefile"):read("a"):find("\n" .. line:match("^make (%a+)") .. ":"), line)
    else
      local command = line:gsub("%f[%w]build/perilune%f[^%w/]", program.path)
      local pipe = io.popen("( " .. command .. " ) 2>&1 </dev/null")
      local output = pipe:read("a")
      assert.is_true(pipe:close(), line .. "\n" .. output)
    end
  end
end

describe("the code in", function()
  for _, path in ipairs(pages) do
    it(path .. " runs and prints what the page says", function()
      if not pl.home or not io.open(pl.home .. "/models/default.gguf") then
        return pending("the default model is not here")
      end
      local blocks = blocks_of(path)
      local outputs = run_script(path, blocks)
      for i, block in ipairs(blocks) do
        if block.kind == "sh" then run_shell(block.text) end
        if block.kind == "text" then
          assert.are.equal(block.text, outputs[i - 1]:gsub("[^\n]$", "%0\n"), ("%s:%d"):format(path, block.line))
        end
      end
    end)
  end
end)

describe("the pages", function()
  -- The points of all families: {name, shape, formula} by name.
  it("list every hook point with the shape and the formula that the library tells", function()
    local told, listed = {}, 0
    local families = { { arch = "gpt2" }, { arch = "llama", qk_norm = "head", norm_after_sublayer = true },
      { arch = "llama", n_experts = 2, n_experts_used = 1 } }
    for _, description in ipairs(families) do
      for key in ("d_model d_mlp n_ctx d_vocab"):gmatch("%S+") do description[key] = 8 end
      description.n_layers, description.n_heads, description.d_head = 1, 2, 4
      local model <close> = pl.new_model(description)
      for _, point in ipairs(model:hook_points()) do
        local name = point.name:gsub("^blocks%.0%.", "")
        told[name] = ("| `%s` | %s | `%s` |"):format(name, point.dims:gsub(",", ", "), point.formula)
      end
    end
    local page = io.open("lua/docs/hook-points.md"):read("a")
    local diagram = page:match("```none\n(.-)```")
    for name, row in pairs(told) do
      assert.is_truthy(page:find(row, 1, true), row)
      assert.is_truthy(diagram:find(name, 1, true), name)
    end
    for name in page:gmatch("\n| `([%w_.]+)` |") do
      listed = listed + 1
      assert.is_truthy(told[name], name)
    end
    for _ in pairs(told) do listed = listed - 1 end
    assert.are.equal(0, listed)
  end)

  it("name only functions that the library has", function()
    local owners = { model = "Model", seq = "Sequence", handle = "Hook", chain = "Chain" }
    local described, n = {}, 0
    for _, file in ipairs({ "model", "study", "training", "adapters", "sampler" }) do
      for name in io.open("lua/perilune/meta/" .. file .. ".lua"):read("a"):gmatch("\nfunction ([%w_]+:[%w_]+)") do
        described[name] = true
      end
    end
    for _, path in ipairs(pages) do
      local text = io.open(path):read("a")
      for owner, name in text:gmatch("%f[%w](%w+):([%w_]+)%(") do
        if owners[owner] then
          assert.is_true(described[owners[owner] .. ":" .. name], path .. ": " .. owner .. ":" .. name)
          n = n + 1
        end
      end
      for name in text:gmatch("%f[%w]pl%.([%w_]+)%f[^%w_]") do
        assert.are_not.equal(nil, pl[name], path .. ": pl." .. name)
      end
      for name in text:gmatch("%f[%w]pl%.edit%.([%w_]+)") do
        assert.are.equal("function", type(pl.edit[name]), path .. ": pl.edit." .. name)
      end
    end
    assert.is_true(n > 50, n)
  end)

  it("link to pages that are there", function()
    for _, path in ipairs(pages) do
      local folder = path:match("^(.*/)") or ""
      for link in io.open(path):read("a"):gmatch("%]%(([^)#]+)[^)]*%)") do
        if not link:find("^https?:") then
          local file = io.open(folder .. link)
          assert.is_truthy(file, path .. " -> " .. link)
          file:close()
        end
      end
    end
  end)
end)
