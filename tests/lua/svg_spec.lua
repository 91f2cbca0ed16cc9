-- Plots: what is drawn can be read.
require "perilune" -- makes the library found
local svg = require "perilune.svg"

describe("a plot", function()
  local function lines(text)
    local list = {}
    for path in text:gmatch('<path d="M([^"]*)" fill="none"') do
      local points = {}
      for x, y in path:gmatch("([%d.]+) ([%d.]+)") do points[#points + 1] = { tonumber(x), tonumber(y) } end
      list[#list + 1] = points
    end
    return list
  end

  -- {left, top, right, bottom} of the names of dots, at 5.6 wide and 10 high for a character.
  local function label_boxes(text)
    local boxes = {}
    local pattern = '<text x="([%d.]+)" y="([%d.]+)" text%-anchor="(%w+)" font%-size="10"[^>]*>(%w+)<'
    for x, y, anchor, name in text:gmatch(pattern) do
      local w = 5.6 * #name
      local left = x - (anchor == "start" and 0 or anchor == "end" and w or w / 2)
      boxes[#boxes + 1] = { left, y - 8, left + w, y + 2, name }
    end
    return boxes
  end

  it("has its names beside the axes, where no line and no dot goes", function()
    local text = svg.plot({ series = { { name = "first", x = { 1, 2, 3 }, y = { 3, 3, 3 } },
      { name = "the second", x = { 1, 2, 3 }, y = { 1, 2, 3 }, points = true }, { x = { 0 }, y = { 0 } } } })
    local names = 0
    for x in text:gmatch('<text x="(%d+)" y="%d+">') do
      names = names + 1
      for _, line in ipairs(lines(text)) do
        for _, p in ipairs(line) do assert.is_true(p[1] < tonumber(x) - 16) end
      end
      for cx in text:gmatch('cx="([%d.]+)"') do assert.is_true(tonumber(cx) + 3.5 < tonumber(x) - 16) end
    end
    assert.are.equal(2, names)
  end)

  it("tells nothing apart where there is one series", function()
    assert.is_falsy(svg.plot({ series = { { name = "alone", x = { 1, 2 }, y = { 1, 2 } } } }):find("alone", 1, true))
  end)

  it("numbers a logarithmic axis at three places or more, however short or long", function()
    for _, high in ipairs({ 1.5, 7, 80, 3e5, 1e12 }) do
      local text = svg.plot({ log_y = true, series = { { x = { 1, 2 }, y = { 1, high } } } })
      local n = 0
      for value in text:gmatch('text%-anchor="end">([^<]+)<') do
        n = n + 1
        assert.is_true(tonumber(value) >= 1 and tonumber(value) <= high * 1.001, value)
      end
      assert.is_true(n >= 3, ("%g: %d"):format(high, n))
    end
  end)

  it("keeps the extremes of a line of very many points, and few of the rest", function()
    local x, y = {}, {}
    for i = 1, 100000 do x[i], y[i] = i, math.sin(i) end
    y[40000], y[70001], y[5] = 9, -9, 0 / 0
    local line = lines(svg.plot({ series = { { x = x, y = y } } }))[1]
    assert.is_true(#line <= 1440, #line)
    local low, high, last = math.huge, 0, 0
    for _, p in ipairs(line) do
      low, high = math.min(low, p[2]), math.max(high, p[2])
      assert.is_true(p[1] >= last)
      last = p[1]
    end
    assert.are.same({ 40, 390 }, { low, high }) -- the ends of the axis
  end)

  it("puts the names of dots where they cover neither each other nor a dot", function()
    local x, y, labels = {}, {}, {}
    for i = 0, 29 do x[i + 1], y[i + 1], labels[i + 1] = i % 6, i // 6 + 0.08 * (i % 6 % 2), "name" .. i end
    table.move({ 0.2, 5 }, 1, 2, 31, x)
    table.move({ 0.01, 4.2 }, 1, 2, 31, y)
    table.move({ "near", "edge" }, 1, 2, 31, labels)
    local boxes = label_boxes(svg.plot({ series = { { x = x, y = y, points = true, labels = labels } } }))
    assert.are.equal(32, #boxes)
    for i, a in ipairs(boxes) do
      assert.is_true(a[1] > 0 and a[3] < 720, a[5])
      for k = i + 1, #boxes do
        local b = boxes[k]
        assert.is_false(a[1] < b[3] and b[1] < a[3] and a[2] < b[4] and b[2] < a[4], a[5] .. " over " .. b[5])
      end
    end
  end)

  it("draws what has no extent, or nothing", function()
    for _, series in ipairs({ { x = {}, y = {} }, { x = { 1 }, y = { 1 } }, { x = { 1, 2 }, y = { 0 / 0, 1 / 0 } } }) do
      local text = svg.plot({ series = { series } })
      assert.is_falsy(text:find("nan", 1, true) or text:find('"-?inf'), text)
    end
  end)
end)
