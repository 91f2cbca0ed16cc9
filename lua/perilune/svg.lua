--- Plots as SVG: lines and points over two axes, linear or logarithmic.

local svg = {}

local WIDTH, HEIGHT = 720, 440
local LEFT, RIGHT, TOP, BOTTOM = 70, 20, 40, 50
local COLOURS = { "#4269d0", "#efb118", "#ff725c", "#6cc5b0", "#3ca951", "#a463f2", "#97bbf5", "#9c6b4e" }

local function escape(text)
  return (tostring(text):gsub("[&<>\"]", { ["&"] = "&amp;", ["<"] = "&lt;", [">"] = "&gt;", ['"'] = "&quot;" }))
end

-- Round numbers that divide low to high into about five parts; powers of ten on a logarithmic axis.
local function ticks(low, high, log)
  local list = {}
  if log then
    for e = math.floor(low), math.ceil(high) do
      for _, m in ipairs(high - low < 1.5 and { 1, 2, 5 } or { 1 }) do
        local at = e + math.log(m, 10)
        if at >= low - 1e-9 and at <= high + 1e-9 then list[#list + 1] = at end
      end
    end
    return list
  end
  local raw = (high - low) / 5
  local step = 10 ^ math.floor(math.log(raw, 10))
  for _, m in ipairs({ 1, 2, 5, 10 }) do
    if step * m >= raw then step = step * m break end
  end
  for i = math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9) do list[#list + 1] = i * step end
  return list
end

local function label(value, log)
  local n = log and 10 ^ value or value
  if n ~= 0 and (math.abs(n) >= 1e5 or math.abs(n) < 1e-3) then return ("%.0e"):format(n) end
  return ("%g"):format(tonumber(("%.4g"):format(n)))
end

local function limits(series, key, log)
  local low, high = math.huge, -math.huge
  for _, s in ipairs(series) do
    for _, value in ipairs(s[key]) do
      local v = log and math.log(value, 10) or value
      if v == v and v > -math.huge and v < math.huge then low, high = math.min(low, v), math.max(high, v) end
    end
  end
  if low > high then low, high = 0, 1 end
  if low == high then low, high = low - 0.5, high + 0.5 end
  return low, high
end

--- A plot. Each series is {name, x = {...}, y = {...}, points = true for dots, dashed = true}; dots may
--- have labels = {...}.
---@param opts {title?: string, x_label?: string, y_label?: string, log_x?: boolean, log_y?: boolean, series: table[]}
---@return string text of an SVG file
function svg.plot(opts)
  local x0, x1 = limits(opts.series, "x", opts.log_x)
  local y0, y1 = limits(opts.series, "y", opts.log_y)
  local function px(x)
    if opts.log_x then x = math.log(x, 10) end
    return LEFT + (x - x0) / (x1 - x0) * (WIDTH - LEFT - RIGHT)
  end
  local function py(y)
    if opts.log_y then y = math.log(y, 10) end
    return HEIGHT - BOTTOM - (y - y0) / (y1 - y0) * (HEIGHT - TOP - BOTTOM)
  end
  local out = {}
  local function put(format, ...) out[#out + 1] = format:format(...) end
  put('<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 %d %d" font-family="sans-serif" font-size="12">',
    WIDTH, HEIGHT)
  put('<rect width="%d" height="%d" fill="white"/>', WIDTH, HEIGHT)
  put('<text x="%d" y="22" font-size="15">%s</text>', LEFT, escape(opts.title or ""))
  for _, t in ipairs(ticks(x0, x1, opts.log_x)) do
    local x = LEFT + (t - x0) / (x1 - x0) * (WIDTH - LEFT - RIGHT)
    put('<path d="M%.1f %d V%d" stroke="#ddd"/>', x, TOP, HEIGHT - BOTTOM)
    put('<text x="%.1f" y="%d" text-anchor="middle">%s</text>', x, HEIGHT - BOTTOM + 16, label(t, opts.log_x))
  end
  for _, t in ipairs(ticks(y0, y1, opts.log_y)) do
    local y = HEIGHT - BOTTOM - (t - y0) / (y1 - y0) * (HEIGHT - TOP - BOTTOM)
    put('<path d="M%d %.1f H%d" stroke="#ddd"/>', LEFT, y, WIDTH - RIGHT)
    put('<text x="%d" y="%.1f" text-anchor="end">%s</text>', LEFT - 6, y + 4, label(t, opts.log_y))
  end
  put('<text x="%d" y="%d" text-anchor="middle">%s</text>', (LEFT + WIDTH - RIGHT) // 2, HEIGHT - 12,
    escape(opts.x_label or ""))
  put('<text transform="translate(16 %d) rotate(-90)" text-anchor="middle">%s</text>', (TOP + HEIGHT - BOTTOM) // 2,
    escape(opts.y_label or ""))
  for i, s in ipairs(opts.series) do
    local colour, path = s.colour or COLOURS[(i - 1) % #COLOURS + 1], {}
    for j, x in ipairs(s.x) do
      local at = ("%.1f %.1f"):format(px(x), py(s.y[j]))
      if not at:find("n") then -- neither nan nor inf
        if s.points then
          local cx, cy = at:match("^%S+"), at:match("%S+$")
          put('<circle cx="%s" cy="%s" r="3.5" fill="%s"/>', cx, cy, colour)
          if s.labels then
            put('<text x="%s" y="%s" dx="5" dy="4" font-size="10" fill="%s">%s</text>', cx, cy, colour,
              escape(s.labels[j]))
          end
        else
          path[#path + 1] = (#path == 0 and "M" or "L") .. at
        end
      end
    end
    if #path > 0 then
      put('<path d="%s" fill="none" stroke="%s" stroke-width="1.6"%s/>', table.concat(path, " "), colour,
        s.dashed and ' stroke-dasharray="5 4"' or "")
    end
    put('<rect x="%d" y="%d" width="146" height="18" fill="white" opacity="0.7"/>', WIDTH - RIGHT - 154,
      TOP + 2 + 18 * (i - 1))
    put('<rect x="%d" y="%d" width="10" height="10" fill="%s"/>', WIDTH - RIGHT - 150, TOP + 6 + 18 * (i - 1), colour)
    put('<text x="%d" y="%d">%s</text>', WIDTH - RIGHT - 134, TOP + 15 + 18 * (i - 1), escape(s.name or ""))
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
