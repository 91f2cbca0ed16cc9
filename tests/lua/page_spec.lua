-- Heat maps as text, and pages as a browser sees them where one is installed.
local pl = require "perilune"
local heatmap = require "perilune.heatmap"
local page = require "perilune.page"
local program = dofile "tests/lua/program.lua"

local function find_browser()
  for _, name in ipairs({ "chromium", "chromium-browser", "google-chrome" }) do
    local pipe = io.popen("command -v " .. name)
    local path = pipe:read("l")
    pipe:close()
    if path then return path end
  end
end

local browser = find_browser()

-- The page's document after its script has run, and what the browser logged.
local function dump(path)
  local folder, log = os.tmpname(), os.tmpname()
  os.remove(folder)
  local pipe = io.popen(("HOME=%s timeout 60 %s --headless --no-sandbox --disable-gpu --enable-logging=stderr --v=0"
    .. " --user-data-dir=%s --host-resolver-rules='MAP * ~NOTFOUND' --dump-dom file://%s 2>%s"):format(
    folder, browser, folder, path, log))
  local dom = pipe:read("a")
  pipe:close()
  local said = io.open(log):read("a")
  os.execute("rm -rf " .. folder .. " " .. log)
  return dom, said
end

local function in_browser(what, test)
  it(what, function()
    if not browser then return pending("no chromium is installed") end
    local path = os.tmpname() .. ".html"
    finally(function() os.remove(path) os.remove((path:gsub("%.html$", ""))) end)
    test(path)
  end)
end

describe("heat maps", function()
  -- The lines of a heat map where output goes to no terminal.
  local function lines_of(options, prefix)
    local status, out, err = program.run({ "-e", ("print(table.concat(require 'perilune.heatmap'.lines {%s}, '\\n'))")
      :format(options) }, nil, prefix)
    assert.are.equal(0, status, err)
    local lines = {}
    for line in out:gmatch("([^\n]*)\n") do lines[#lines + 1] = line end
    return lines
  end

  it("carry labels and numbers, and leave what is no number empty", function()
    local lines = lines_of [[values = pl.tensor({ { 1, -2.5 }, { 0, -math.huge } }), rows = "layer",
      columns = { "a", "b" }, format = "%.1f", diverging = true]]
    assert.are.same({ "            a    b", "layer 0   1.0 -2.5", "layer 1   0.0     " }, lines)
  end)

  it("without numbers are shades, with a sign where they are two-sided", function()
    local one = [[values = { { 0, 1 } }, rows = { "x" }, columns = false, low = 0, high = 1]]
    assert.are.same({ "x   ██" }, lines_of(one, "LC_ALL=C.UTF-8"))
    assert.are.same({ "x   ##" }, lines_of(one, "LC_ALL=C"))
    local two = [[values = { { -1, 1 } }, rows = { "x" }, columns = false, diverging = true]]
    assert.are.same({ "x -█+█" }, lines_of(two, "LC_ALL=C.UTF-8"))
  end)

  it("have colours that keep their order of brightness, and ends that differ for everybody", function()
    local last = -1
    for i = 0, 10 do
      local r, g, b = heatmap.colour(i / 10)
      local brightness = 0.3 * r + 0.59 * g + 0.11 * b
      assert.is_true(brightness > last)
      last = brightness
    end
    local _, _, cold = heatmap.colour(-1, true)
    local warm, _, little = heatmap.colour(1, true)
    assert.is_true(cold > 100 and warm > 150 and little < 50)
    assert.are.same({ heatmap.colour(1) }, { heatmap.colour(7) })
  end)

  it("span what they hold, around 0 where they are two-sided", function()
    assert.are.same({ -3, 2 }, { heatmap.range({ { -3, 2, 0 / 0, math.huge } }) })
    assert.are.same({ -3, 3 }, { heatmap.range({ { -3, 2 } }, true) })
    assert.are.same({ 0, 1 }, { heatmap.range({ { 0 / 0 } }) })
    assert.are.same({ 4, 5 }, { heatmap.range({ { 4, 4 } }) })
    assert.are.same({ -1, 1 }, { heatmap.range({ { 0, 0 } }, true) })
    assert.are.same({ 0, 1 }, { heatmap.range({}) })
  end)
end)

local evil = "</script><img src=http://example.com/x.png onerror=alert(1)>&\"'\0\255"

describe("pages", function()
  it("never let a text become markup, and name nothing outside", function()
    local p = page.new(evil, evil)
    p:heading(evil)
    p:lines(evil .. "\nsecond")
    p:heat { values = { { 1 } }, rows = { evil }, columns = { evil }, notes = { { evil } }, title = evil }
    p:tiles { values = { { { { 1 } } } }, labels = { evil } }
    local html = p:html()
    assert.is_falsy(html:find("<img", 1, true))
    local _, scripts = html:gsub("</script>", "")
    assert.are.equal(2, scripts)
    for address in html:gmatch("%a+://[%w.]+") do assert.are.equal("http://example.com", address) end
    assert.is_truthy(html:find("default-src 'none'", 1, true))
    assert.is_falsy(html:find("[%z\128-\255]"))
  end)

  it("that cannot be written say so", function()
    local good, problem = pcall(page.new("x").write, page.new("x"), "/nowhere/x.html")
    assert.is_false(good)
    assert.are.equal("io", problem.kind)
    assert.is_truthy(problem.message:find("/nowhere/x.html", 1, true))
  end)

  in_browser("draw every cell, with its number, and choose the last one's details", function(path)
    local p = page.new("A <test>", evil)
    p:heat { views = { { name = "first", values = pl.tensor({ { 1, 2 }, { 3, 0 / 0 } }), format = "%.1f" },
      { name = "second", values = { { 5, 6 }, { 7, 8 } }, format = "%.1f" } }, rows = "layer", columns = { evil, "␣b" },
      details = { { { 1 }, { 2 } }, { { 3 }, { -4.5 } } }, detail_labels = { "part <one>" } }
    p:write(path)
    local dom, said = dump(path)
    local _, cells = dom:gsub('data%-at="%d,%d"', "")
    assert.are.equal(3, cells)
    assert.is_truthy(dom:find("<h1>A &lt;test&gt;</h1>", 1, true))
    assert.is_truthy(dom:find(">3.0</td>", 1, true))
    assert.is_truthy(dom:find("-4.500</td>", 1, true))
    assert.is_truthy(dom:find("part &lt;one&gt;</th>", 1, true))
    assert.is_truthy(dom:find("␣b</th>", 1, true))
    local _, buttons = dom:gsub("<button", "")
    assert.are.equal(2, buttons)
    assert.is_falsy(said:find("CONSOLE", 1, true), said)
  end)

  in_browser("draw a tile for each of 12 x 12 heads, and the first one large", function(path)
    local values, T = {}, 16
    for l = 1, 12 do
      values[l] = {}
      for h = 1, 12 do
        values[l][h] = {}
        for i = 1, T do
          values[l][h][i] = {}
          for j = 1, T do values[l][h][i][j] = j > i and 0 / 0 or 1 / i end
        end
      end
    end
    local labels = {}
    for i = 1, T do labels[i] = "<t" .. i .. ">" end
    local p = page.new("tiles")
    p:tiles { values = values, rows = "layer", columns = "head", labels = labels }
    p:write(path)
    local dom, said = dump(path)
    local _, canvases = dom:gsub("<canvas", "")
    assert.are.equal(144, canvases)
    local _, cells = dom:gsub('data%-at="%d', "")
    assert.are.equal(T * (T + 1) // 2, cells)
    assert.is_truthy(dom:find("11 &lt;t12&gt;</th>", 1, true))
    assert.is_falsy(said:find("CONSOLE", 1, true), said)
  end)

  -- The document after a script of ours has clicked and pointed.
  local function dump_after(p, path, actions)
    local file = assert(io.open(path, "wb"))
    file:write((p:html():gsub("</body>", function() return "<script>" .. actions .. "</script></body>" end)))
    file:close()
    return dump(path)
  end

  in_browser("tell the number under the pointer, and follow clicks", function(path)
    local p = page.new("hover")
    p:heat { views = { { name = "first", values = { { 1, 2 }, { 3, 4 } }, format = "%.1f" },
      { name = "second", values = { { 5, 6 }, { 7, 8.25 } }, format = "%.2f" } }, rows = "layer",
      columns = { "<a>", "b" }, row_name = "after", column_name = "token", notes = { { "x", "a note" }, { "y", "z" } },
      details = { { { 1 }, { 2 } }, { { 3 }, { 4 } } }, detail_labels = { "part" }, detail_title = "shares" }
    local dom, said = dump_after(p, path, [[
      document.querySelectorAll("button")[1].click();
      const cell = document.querySelector('[data-at="0,1"]');
      cell.dispatchEvent(new MouseEvent("click", { bubbles: true }));
      cell.dispatchEvent(new MouseEvent("mousemove", { bubbles: true, clientX: 5, clientY: 5 }));]])
    assert.is_truthy(dom:find('<div id="told"[^>]*>after layer 0\ntoken b\nsecond: 6%.000\na note</div>'), dom)
    assert.is_truthy(dom:find(">8.25</td>", 1, true))
    assert.is_truthy(dom:find("<caption>shares · after layer 0 · token b</caption>", 1, true))
    assert.is_truthy(dom:find(">2.000</td>", 1, true))
    assert.is_falsy(said:find("CONSOLE", 1, true), said)
  end)

  in_browser("show the tile large that was clicked", function(path)
    local p = page.new("tiles")
    local a, b = { { 1, 0 / 0 }, { 0.25, 0.75 } }, { { 1, 0 / 0 }, { 0.5, 0.5 } }
    p:tiles { values = { { a, b }, { b, a } }, rows = "layer", columns = "head", labels = { "The", "<king>" } }
    local dom, said = dump_after(p, path, [[
      document.querySelectorAll("canvas")[3].click();
      document.querySelector('[data-at="1,0"]').dispatchEvent(
        new MouseEvent("mousemove", { bubbles: true, clientX: 5, clientY: 5 }));]])
    assert.is_truthy(dom:find("<caption>layer 1, head 1</caption>", 1, true), dom)
    assert.is_truthy(dom:find(">0.25</td>", 1, true) and dom:find("1 &lt;king&gt;</th>", 1, true))
    assert.is_truthy(dom:find('<div id="told"[^>]*>query 1 &lt;king&gt;\nkey 0 The\n0%.2500</div>'), dom)
    assert.is_falsy(said:find("CONSOLE", 1, true), said)
  end)

  -- Cells that the default prompt or text must give at least.
  local least = { ablate = 56, attention = 100, induction = 48, logit_lens = 100, one_head = 400, patch = 100,
    residual = 100, steer = 12 }
  for name, n in pairs(least) do
    in_browser("of " .. name .. " show their numbers", function(path)
      local model = program.model()
      if not model then return pending("no trained model is here") end
      local status, _, err = program.run({ name, "-m", model, "--seed", "1", "--html", path,
        table.unpack(name == "induction" and { "-n", "8" } or {}) })
      assert.are.equal(0, status, err)
      local dom, said = dump(path)
      local _, cells = dom:gsub('data%-at="%d', "")
      assert.is_true(cells >= n, cells)
      assert.is_falsy(said:find("CONSOLE", 1, true), said)
    end)
  end
end)
