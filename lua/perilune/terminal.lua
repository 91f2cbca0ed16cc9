--- Colours, bars and widths for people at a terminal.
--
-- Colour is used only on terminals, never when NO_COLOR is set or TERM is "dumb". The colours are
-- those of Okabe and Ito (2008), which the colour-blind can tell apart, nearest in the 256 of
-- terminals.

local terminal = {}

local palette = { blue = 32, orange = 214, green = 36, pink = 175, sky = 117, red = 166, yellow = 227,
  grey = 245 }
local backgrounds = { 25, 130, 29, 90 }

local has_host, host = pcall(require, "perilune.host")

local function set(name)
  local value = os.getenv(name)
  return value ~= "" and value or nil
end

local locale = set("LC_ALL") or set("LC_CTYPE") or set("LANG")
local ascii = locale == "C" or locale == "POSIX"

--- Whether file descriptor fd (0: input, 1: output, 2: errors) is a terminal.
---@param fd integer
---@return boolean
function terminal.is_terminal(fd) return has_host and host.is_terminal(fd) end

--- Whether fd is a terminal that may show colour.
---@param fd integer
---@return boolean
function terminal.has_colour(fd)
  return not set("NO_COLOR") and os.getenv("TERM") ~= "dumb" and terminal.is_terminal(fd)
end

--- Columns of the terminal; 80 where output goes elsewhere.
---@return integer
function terminal.width()
  return has_host and host.width(1) or 80
end

--- text broken between words so that it fits the terminal.
---@param text string one line
---@param indent integer spaces before the lines that follow the first
---@return string
function terminal.wrap(text, indent)
  local room, lines = terminal.width(), {}
  while #text > room do
    local at = text:sub(1, room + 1):match("^.*%S()%s+")
    if not at or at <= indent + 1 then break end -- a long word stays whole
    lines[#lines + 1] = text:sub(1, at - 1)
    text = (" "):rep(indent) .. text:sub(at):gsub("^%s+", "")
  end
  lines[#lines + 1] = text
  return table.concat(lines, "\n")
end

local coloured = { [1] = terminal.has_colour(1), [2] = terminal.has_colour(2) }

--- text in a colour of the palette, or "bold", for fd 1 or 2; as it is where there is no colour.
---@param text string
---@param colour string blue, orange, green, pink, sky, red, yellow, grey or bold
---@param fd? integer 1 unless said otherwise
---@return string
function terminal.paint(text, colour, fd)
  if not coloured[fd or 1] then return text end
  if colour == "bold" then return "\27[1m" .. text .. "\27[0m" end
  return ("\27[38;5;%dm%s\27[0m"):format(palette[colour], text)
end

--- text on the i-th background of a cycle, so that neighbours differ.
---@param text string
---@param i integer
---@return string
function terminal.band(text, i)
  if not coloured[1] then return text end
  return ("\27[48;5;%dm\27[38;5;255m%s\27[0m"):format(backgrounds[i % #backgrounds + 1], text)
end

terminal.coloured = coloured[1]
terminal.ascii = ascii

local all_colours = set("COLORTERM") == "truecolor" or set("COLORTERM") == "24bit"

--- text on a background, in black or white, as is more legible.
---@param text string
---@param r number red from 0 to 255
---@param g number
---@param b number
---@param index integer the colour to take of a terminal's 256 where it has no others
---@return string
function terminal.on(text, r, g, b, index)
  if not coloured[1] then return text end
  local ink = 0.3 * r + 0.59 * g + 0.11 * b > 128 and 16 or 255
  local paper = all_colours and ("2;%d;%d;%d"):format(r // 1, g // 1, b // 1) or ("5;%d"):format(index)
  return ("\27[48;%s;38;5;%dm%s\27[0m"):format(paper, ink, text)
end

-- -- text ----------------------------------------------------------------------------------------

local names = { ["\n"] = "\\n", ["\r"] = "\\r", ["\t"] = "\\t" }

--- text on one line: control characters and bytes that are no UTF-8 are spelled out.
---@param text string
---@return string
function terminal.visible(text)
  text = text:gsub("[%c\127]", function(c) return names[c] or ("\\x%02x"):format(c:byte()) end)
  if utf8.len(text) then return text end
  return (text:gsub("[\128-\255]", function(c) return ("\\x%02x"):format(c:byte()) end))
end

--- A token's piece on one line, with the spaces at its ends shown.
---@param text string
---@return string
function terminal.piece(text)
  local space = ascii and "_" or "␣"
  local head, body, tail = text:match("^( *)(.-)( *)$")
  return space:rep(#head) .. terminal.visible(body) .. space:rep(#tail)
end

-- First and last code points that take two columns, and that take none.
local wide = { 0x1100, 0x115f, 0x2e80, 0xa4cf, 0xac00, 0xd7a3, 0xf900, 0xfaff, 0xfe30, 0xfe6f, 0xff00, 0xff60,
  0x1f300, 0x1faff, 0x20000, 0x3fffd }
local thin = { 0x300, 0x36f, 0x200b, 0x200f, 0xfe00, 0xfe0f }

local function within(code, ranges)
  for i = 1, #ranges, 2 do
    if code >= ranges[i] and code <= ranges[i + 1] then return true end
  end
  return false
end

--- The columns that text takes.
---@param text string
---@return integer
function terminal.columns(text)
  if not utf8.len(text) then return #text end
  local n = 0
  for _, code in utf8.codes(text) do
    n = n + (code < 0x300 and 1 or within(code, wide) and 2 or within(code, thin) and 0 or 1)
  end
  return n
end

--- text in exactly n columns: padded with spaces, or cut with a mark.
---@param text string
---@param n integer
---@return string
function terminal.fit(text, n)
  local length = terminal.columns(text)
  if length <= n then return text .. (" "):rep(n - length) end
  while terminal.columns(text) > n - 1 do
    text = text:sub(1, (utf8.offset(text, -1) or #text) - 1)
  end
  return text .. (ascii and "~" or "…") .. (" "):rep(n - 1 - terminal.columns(text))
end

-- -- numbers -------------------------------------------------------------------------------------

local eighths = { "▏", "▎", "▍", "▌", "▋", "▊", "▉" }

--- A bar of n columns filled to a fraction from 0 to 1, in steps of an eighth of a column.
---@param fraction number
---@param n integer
---@return string
function terminal.bar(fraction, n)
  local cells = math.max(0, math.min(1, fraction == fraction and fraction or 0)) * n
  local whole = math.floor(cells)
  if ascii then return ("#"):rep(whole) .. (" "):rep(n - whole) end
  local rest = eighths[math.floor((cells - whole) * 8)] or ""
  return ("█"):rep(whole) .. rest .. (" "):rep(n - whole - (rest == "" and 0 or 1))
end

--- A whole number with its thousands apart: 1,234,567.
---@param n integer
---@return string
function terminal.thousands(n)
  local text = ("%d"):format(n):reverse():gsub("(%d%d%d)", "%1,"):reverse()
  return (text:gsub("^(%-?),", "%1"))
end

--- Bytes: 8.5 MiB.
---@param n number
---@return string
function terminal.bytes(n)
  local unit, units = 1, { "bytes", "KiB", "MiB", "GiB", "TiB" }
  while n >= 1024 and unit < #units do n, unit = n / 1024, unit + 1 end
  return (unit == 1 and "%d %s" or "%.1f %s"):format(n, units[unit])
end

--- A length of time: 340 µs, 12.5 ms, 3.20 s, 2 min 5 s.
---@param seconds number
---@return string
function terminal.duration(seconds)
  if seconds < 1e-3 then return ("%.0f %s"):format(1e6 * seconds, ascii and "us" or "µs") end
  if seconds < 1 then return ("%.1f ms"):format(1e3 * seconds) end
  if seconds < 60 then return ("%.2f s"):format(seconds) end
  return ("%d min %d s"):format(seconds // 60, seconds % 60 // 1)
end

--- A line that is drawn over again, where errors go to a terminal: show(fraction, text), finish(). It is
--- never wider than the terminal: the bar gets shorter, and then the text.
---@return fun(fraction: number, text: string) show
---@return fun() finish
function terminal.progress()
  local nothing = function() end
  if not terminal.is_terminal(2) then return nothing, nothing end
  local function show(fraction, text)
    local room = (host.width(2) or 80) - 1
    text = ("%4d %%  %s"):format(fraction * 100 // 1, text)
    local length = terminal.columns(text)
    local bar = terminal.bar(fraction, math.max(0, math.min(30, room - length)))
    io.stderr:write("\r", terminal.paint(bar, "blue", 2), length > room and terminal.fit(text, room) or text, "\27[K")
    io.stderr:flush()
  end
  return show, function() io.stderr:write("\r\27[K") end
end

return terminal
