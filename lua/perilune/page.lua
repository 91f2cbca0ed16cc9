--- Pages for the browser: heat maps that tell their numbers under the pointer, in one HTML file.
--
--     local page = require "perilune.page"
--     local p = page.new("Every head's effect", "Loss without the head, less the loss with it.")
--     p:heat { values = effect, rows = "layer", columns = "head", diverging = true, format = "%.3f" }
--     p:write("ablate.html")
--
-- The file holds all that it needs, and forbids itself the network. Texts, tokens among them, are data
-- and never become markup.

local heatmap = require "perilune.heatmap"
local terminal = require "perilune.terminal"
local script = require "perilune.page_script"

local page = {}

local Page = {}
Page.__index = Page

local entities = { ["&"] = "&amp;", ["<"] = "&lt;", [">"] = "&gt;", ['"'] = "&quot;", ["'"] = "&#39;" }

--- text for HTML, with control characters and bytes that are no UTF-8 spelled out.
---@param text string
---@return string
function page.escape(text) return (terminal.visible(text):gsub("[&<>\"']", entities)) end

-- -- data ------------------------------------------------------------------------------------------

local json

local function json_table(value, digits)
  local parts = {}
  if #value > 0 or next(value) == nil then
    for i = 1, #value do parts[i] = json(value[i], digits) end
    return "[" .. table.concat(parts, ",") .. "]"
  end
  local names = {}
  for name in pairs(value) do names[#names + 1] = name end
  table.sort(names)
  for i, name in ipairs(names) do parts[i] = json(name) .. ":" .. json(value[name], digits) end
  return "{" .. table.concat(parts, ",") .. "}"
end

-- JSON that may stand inside of a script element: no "<" and no "&" of a text comes through.
function json(value, digits)
  local kind = type(value)
  if kind == "table" then return json_table(value, digits) end
  if kind == "boolean" then return tostring(value) end
  if kind == "number" then
    return heatmap.is_finite(value) and ("%." .. (digits or 5) .. "g"):format(value) or "null"
  end
  local text = terminal.visible(tostring(value))
  return '"' .. text:gsub('[<>&"\\\']', function(c) return ("\\u%04x"):format(c:byte()) end) .. '"'
end

-- Rows as the page gets them: what no colour can stand for becomes null.
local function plain(values)
  local rows = {}
  for i, row in ipairs(heatmap.rows_of(values)) do
    rows[i] = {}
    for j, x in ipairs(row) do rows[i][j] = heatmap.is_finite(x) and x or 0 / 0 end
  end
  return rows
end

-- "%.2f" -> 2 digits behind the point.
local function decimals(format) return tonumber((format or "%.3f"):match("%.(%d+)")) or 3 end

local function view_of(options)
  local rows = heatmap.rows_of(options.values)
  local low, high = heatmap.range(rows, options.diverging)
  return { name = options.name or options.title or "", values = plain(rows), low = options.low or low,
    high = options.high or high, diverging = options.diverging or false, decimals = decimals(options.format),
    texts = options.texts or false, numbers = options.format ~= nil }
end

-- -- parts -----------------------------------------------------------------------------------------

--- A new page; the texts of all parameters are shown as they are.
---@param title string
---@param introduction? string
---@return perilune.Page
function page.new(title, introduction)
  local self = setmetatable({ title = title, body = {}, parts = {} }, Page)
  if introduction then self:text(introduction) end
  return self
end

---@class perilune.Page
---@field title string

local function add(self, part)
  self.parts[#self.parts + 1] = part
  self.body[#self.body + 1] = ('<section data-part="%d"></section>'):format(#self.parts - 1)
end

--- A heading.
---@param text string
function Page:heading(text) self.body[#self.body + 1] = "<h2>" .. page.escape(text) .. "</h2>" end

--- A paragraph.
---@param text string
function Page:text(text) self.body[#self.body + 1] = "<p>" .. page.escape(text) .. "</p>" end

--- Lines as they are, in type of one width.
---@param text string
function Page:lines(text)
  local lines = {}
  for line in (text .. "\n"):gmatch("(.-)\n") do lines[#lines + 1] = page.escape(line) end
  self.body[#self.body + 1] = "<pre>" .. table.concat(lines, "\n") .. "</pre>"
end

---@class perilune.PageHeat: perilune.HeatOptions
---@field views? perilune.HeatOptions[] several sets of values for the same cells, each with its name, to choose from
---@field row_name? string what a row is, for what the pointer tells
---@field column_name? string
---@field notes? string[][] more for the pointer to tell, [row][column]
---@field details? number[][][] for each cell that is clicked: numbers drawn as bars, [row][column][i]
---@field detail_labels? string[] what each number is
---@field detail_title? string

--- A heat map; a click on a cell shows its details where there are any.
---@param options perilune.PageHeat
function Page:heat(options)
  local views = {}
  for i, view in ipairs(options.views or { options }) do views[i] = view_of(view) end
  local n, m = #views[1].values, views[1].values[1] and #views[1].values[1] or 0
  add(self, { kind = "heat", title = options.title or "", views = views, rows = heatmap.labels_of(options.rows, n),
    columns = heatmap.labels_of(options.columns, m), row_name = options.row_name or "",
    column_name = options.column_name or "", notes = options.notes or {}, details = options.details or {},
    detail_labels = options.detail_labels or {}, detail_title = options.detail_title or "" })
end

---@class perilune.PageTiles
---@field title? string
---@field values (perilune.Tensor|number[][])[][] [row][column]: one small map each
---@field rows? string[]|string labels of the rows of tiles
---@field columns? string[]|string
---@field labels string[] of the rows and columns within each map: the tokens
---@field row_name? string what a map's row is: "query"
---@field column_name? string
---@field high? number 1 unless said otherwise

--- Small maps in rows and columns, such as the attention patterns of layers and heads; the one that is
--- clicked is shown large.
---@param options perilune.PageTiles
function Page:tiles(options)
  local maps, most = {}, 0
  for i, row in ipairs(options.values) do
    maps[i] = {}
    for j, values in ipairs(row) do maps[i][j] = plain(values) end
    most = math.max(most, #row)
  end
  add(self, { kind = "tiles", title = options.title or "", maps = maps, rows = heatmap.labels_of(options.rows, #maps),
    columns = heatmap.labels_of(options.columns, most), labels = options.labels,
    row_name = options.row_name or "query", column_name = options.column_name or "key", high = options.high or 1 })
end

-- -- the file ----------------------------------------------------------------------------------------

-- Eleven colours of each kind, which the page blends between.
local function colours(diverging)
  local list = {}
  for i = 0, 10 do
    list[i + 1] = { heatmap.colour(diverging and i / 5 - 1 or i / 10, diverging) }
  end
  return list
end

--- The page as text.
---@return string
function Page:html()
  local data = json({ parts = self.parts, rising = colours(false), two_sided = colours(true) }, 4)
  return table.concat({
    '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n',
    '<meta name="viewport" content="width=device-width, initial-scale=1">\n',
    '<meta http-equiv="Content-Security-Policy" content="default-src \'none\'; ',
    "style-src 'unsafe-inline'; script-src 'unsafe-inline'\">\n",
    "<title>", page.escape(self.title), "</title>\n<style>\n", script.css, "</style>\n</head>\n<body>\n<h1>",
    page.escape(self.title), "</h1>\n", table.concat(self.body, "\n"),
    "\n<noscript><p>The maps are drawn by this page's own script, which is switched off.</p></noscript>\n",
    '<div id="told" hidden></div>\n<script type="application/json" id="data">', data,
    "</script>\n<script>\n", script.js, "</script>\n</body>\n</html>\n",
  })
end

--- Writes the page to a file.
---@param path string
function Page:write(path)
  local pl = require "perilune"
  local file, why = io.open(path, "wb")
  if not file then pl.fail("io", "%s", why) end
  local good, problem = file:write(self:html())
  if not file:close() or not good then pl.fail("io", "%s: %s", path, problem or "cannot be written") end
end

return page
