--- Plots as SVG: lines and points over two axes, linear or logarithmic.

local svg = {}

local WIDTH, HEIGHT = 720, 440
local LEFT, RIGHT, TOP, BOTTOM = 70, 20, 40, 50
local COLOURS = { "#4269d0", "#efb118", "#ff725c", "#6cc5b0", "#3ca951", "#a463f2", "#97bbf5", "#9c6b4e" }

local function escape(text)
  return (tostring(text):gsub("[&<>\"]", { ["&"] = "&amp;", ["<"] = "&lt;", [">"] = "&gt;", ['"'] = "&quot;" }))
end

-- Round numbers that divide low to high into about five parts.
local function linear_ticks(low, high)
  local raw, list = (high - low) / 5, {}
  local step = 10 ^ math.floor(math.log(raw, 10))
  for _, m in ipairs({ 1, 2, 5, 10 }) do
    if step * m >= raw then step = step * m break end
  end
  for i = math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9) do list[#list + 1] = i * step end
  return list
end

-- Powers of ten; where fewer than three of them are in sight, numbers between them too.
local function log_ticks(low, high)
  for _, parts in ipairs({ { 1 }, { 1, 2, 5 } }) do
    local list = {}
    for e = math.floor(low), math.ceil(high) do
      for _, m in ipairs(parts) do
        local at = e + math.log(m, 10)
        if at >= low - 1e-9 and at <= high + 1e-9 then list[#list + 1] = at end
      end
    end
    if #list >= 3 then return list end
  end
  local list = linear_ticks(10 ^ low, 10 ^ high)
  for i, value in ipairs(list) do list[i] = math.log(value, 10) end
  return list
end

local function label(value, log)
  local n = log and 10 ^ value or value
  if n ~= 0 and (math.abs(n) >= 1e5 or math.abs(n) < 1e-3) then return ("%.0e"):format(n) end
  return ("%g"):format(tonumber(("%.4g"):format(n)))
end

local function finite(value) return value == value and math.abs(value) < math.huge end

-- An axis from `from` to `to` on the paper, over all values of x or y; dots do not stand on its ends.
local function axis(series, key, log, from, to)
  local low, high, dots = math.huge, -math.huge, false
  for _, s in ipairs(series) do
    dots = dots or s.points
    for _, value in ipairs(s[key]) do
      local v = log and math.log(value, 10) or value
      if finite(v) then low, high = math.min(low, v), math.max(high, v) end
    end
  end
  if low > high then low, high = 0, 1 end
  if low == high then low, high = low - 0.5, high + 0.5 end
  local margin = dots and 0.03 * (high - low) or 0
  low, high = low - margin, high + margin
  local function place(v) return from + (v - low) / (high - low) * (to - from) end
  return { from = from, to = to, log = log, ticks = (log and log_ticks or linear_ticks)(low, high), place = place,
    at = function(value) return place(log and math.log(value, 10) or value) end }
end

local function draw_frame(put, opts, x, y)
  put('<text x="%d" y="22" font-size="15">%s</text>', LEFT, escape(opts.title or ""))
  for _, t in ipairs(x.ticks) do
    put('<path d="M%.1f %d V%d" stroke="#ddd"/>', x.place(t), y.to, y.from)
    put('<text x="%.1f" y="%d" text-anchor="middle">%s</text>', x.place(t), y.from + 16, label(t, x.log))
  end
  for _, t in ipairs(y.ticks) do
    put('<path d="M%d %.1f H%d" stroke="#ddd"/>', x.from, y.place(t), x.to)
    put('<text x="%d" y="%.1f" text-anchor="end">%s</text>', x.from - 6, y.place(t) + 4, label(t, y.log))
  end
  put('<text x="%d" y="%d" text-anchor="middle">%s</text>', (x.from + x.to) // 2, HEIGHT - 12,
    escape(opts.x_label or ""))
  put('<text transform="translate(16 %d) rotate(-90)" text-anchor="middle">%s</text>', (y.from + y.to) // 2,
    escape(opts.y_label or ""))
end

-- A line; of the points in one column of the paper only the lowest and the highest, as more of them
-- cannot be seen.
local function draw_line(put, s, colour, x, y)
  local path, column = {}, {}
  local function flush()
    if column.low then
      local first, last = column.low, column.high
      if last.i < first.i then first, last = last, first end
      path[#path + 1] = ("%.1f %.1f"):format(first.x, first.y)
      if last ~= first then path[#path + 1] = ("%.1f %.1f"):format(last.x, last.y) end
    end
    column = {}
  end
  for i, value in ipairs(s.x) do
    local p = { i = i, x = x.at(value), y = y.at(s.y[i]) }
    if finite(p.x) and finite(p.y) then
      local n = #s.x > 2 * WIDTH and p.x // 1 or i
      if column.n ~= n then flush() end
      column.n = n
      if not column.low or p.y < column.low.y then column.low = p end
      if not column.high or p.y > column.high.y then column.high = p end
    end
  end
  flush()
  if #path == 0 then return end
  put('<path d="M%s" fill="none" stroke="%s" stroke-width="1.6" stroke-linejoin="round"%s/>',
    table.concat(path, " L"), colour, s.dashed and ' stroke-dasharray="5 4"' or "")
end

local function overlap(a, b) return a[1] < b[3] and b[1] < a[3] and a[2] < b[4] and b[2] < a[4] end

-- Where the name of a dot covers nothing that is there already: right of it, left, above or below, or
-- in the end at the right all the same. Boxes are {left, top, right, bottom}.
local function place_label(taken, cx, cy, text)
  local w = 5.6 * (utf8.len(text) or #text)
  local tries = { { cx + 5, cy + 3.5, "start", cx + 5 }, { cx - 5, cy + 3.5, "end", cx - 5 - w },
    { cx, cy - 6, "middle", cx - w / 2 }, { cx, cy + 13, "middle", cx - w / 2 } }
  local function box(try) return { try[4], try[2] - 8, try[4] + w, try[2] + 2 } end
  for _, try in ipairs(tries) do
    local mine, free = box(try), try[4] > LEFT and try[4] + w < WIDTH
    for _, other in ipairs(taken) do free = free and not overlap(mine, other) end
    if free then
      taken[#taken + 1] = mine
      return try
    end
  end
  taken[#taken + 1] = box(tries[1])
  return tries[1]
end

local function draw_dots(put, series, colours, x, y)
  local taken, labels = {}, {}
  for i, s in ipairs(series) do
    for j, value in ipairs(s.points and s.x or {}) do
      local cx, cy = x.at(value), y.at(s.y[j])
      if finite(cx) and finite(cy) then
        put('<circle cx="%.1f" cy="%.1f" r="3.5" fill="%s"/>', cx, cy, colours[i])
        taken[#taken + 1] = { cx - 3.5, cy - 3.5, cx + 3.5, cy + 3.5 }
        if s.labels then labels[#labels + 1] = { cx, cy, tostring(s.labels[j]), colours[i] } end
      end
    end
  end
  for _, l in ipairs(labels) do
    local at = place_label(taken, l[1], l[2], l[3])
    put('<text x="%.1f" y="%.1f" text-anchor="%s" font-size="10" fill="%s">%s</text>', at[1], at[2], at[3], l[4],
      escape(l[3]))
  end
end

-- Beside the axes, the names of all series that have one, where there is more than one to tell apart.
local function legend(series, colours)
  local list, longest = {}, 0
  for i, s in ipairs(series) do
    if s.name and s.name ~= "" then
      list[#list + 1] = { name = s.name, colour = colours[i] }
      longest = math.max(longest, utf8.len(s.name) or #s.name)
    end
  end
  if #list < 2 then return {}, 0 end
  return list, 28 + 6.8 * longest // 1
end

--- A plot. Each series is {name, x = {...}, y = {...}, points = true for dots, dashed = true}; dots may
--- have labels = {...}.
---@param opts {title?: string, x_label?: string, y_label?: string, log_x?: boolean, log_y?: boolean, series: table[]}
---@return string text of an SVG file
function svg.plot(opts)
  local out, colours = {}, {}
  local function put(format, ...) out[#out + 1] = format:format(...) end
  for i, s in ipairs(opts.series) do colours[i] = s.colour or COLOURS[(i - 1) % #COLOURS + 1] end
  local names, beside = legend(opts.series, colours)
  local x = axis(opts.series, "x", opts.log_x, LEFT, WIDTH - RIGHT - beside)
  local y = axis(opts.series, "y", opts.log_y, HEIGHT - BOTTOM, TOP)
  put('<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 %d %d" font-family="sans-serif" font-size="12">',
    WIDTH, HEIGHT)
  put('<rect width="%d" height="%d" fill="white"/>', WIDTH, HEIGHT)
  draw_frame(put, opts, x, y)
  for i, s in ipairs(opts.series) do
    if not s.points then draw_line(put, s, colours[i], x, y) end
  end
  draw_dots(put, opts.series, colours, x, y)
  for i, entry in ipairs(names) do
    put('<rect x="%d" y="%d" width="10" height="10" fill="%s"/>', x.to + 14, TOP + 18 * (i - 1), entry.colour)
    put('<text x="%d" y="%d">%s</text>', x.to + 30, TOP + 9 + 18 * (i - 1), escape(entry.name))
  end
  out[#out + 1] = "</svg>\n"
  return table.concat(out, "\n")
end

--- Writes a plot to a file.
---@param path string
---@param opts table of svg.plot
function svg.save(path, opts)
  local pl = require "perilune"
  local file, why = io.open(path, "w")
  if not file then pl.fail("io", "%s", why) end
  local done, reason = file:write(svg.plot(opts))
  if not (done and file:close()) then pl.fail("io", "%s: %s", path, reason or "cannot be written") end
end

return svg
