-- Jinja templates to tokens: text, and the words inside {{ }} and {% %}.
--
-- Whitespace is treated as Hugging Face's chat templates are: trim_blocks and lstrip_blocks are on,
-- {%- -%} and {%+ +%} do what they say, one newline at the template's end is dropped.

local pl = require "perilune"

local lexer = {}

local MAX_BYTES = 1 << 20

-- A function from places, ascending, to their lines.
local function counter(source)
  local line, last = 1, 1
  return function(at)
    line = line + select(2, source:sub(last, at - 1):gsub("\n", ""))
    last = at
    return line
  end
end

function lexer.fail(line, format, ...)
  pl.fail("unsupported", "chat template: line %d: %s", line, format:format(...))
end

local ESCAPES = { n = "\n", t = "\t", r = "\r", b = "\b", f = "\f", v = "\v", a = "\a", ["0"] = "\0", ["\\"] = "\\",
  ["'"] = "'", ['"'] = '"', ["\n"] = "" }

local function unescape(text, line)
  local function code(digits)
    local value = tonumber(digits, 16)
    if value > 0x10FFFF then lexer.fail(line, "no such character: U+%s", digits) end
    return utf8.char(value)
  end
  local out, at = {}, 1
  while true do
    local slash = text:find("\\", at, true)
    if not slash then break end
    out[#out + 1] = text:sub(at, slash - 1)
    local c = text:sub(slash + 1, slash + 1)
    local digits = c == "x" and text:match("^%x%x", slash + 2) or c == "u" and text:match("^%x%x%x%x", slash + 2)
      or c == "U" and text:match("^" .. ("%x"):rep(8), slash + 2)
    out[#out + 1] = digits and code(digits) or ESCAPES[c] or "\\" .. c
    at = slash + 2 + (digits and #digits or 0)
  end
  out[#out + 1] = text:sub(at)
  return table.concat(out)
end

local OPERATORS = { "**", "//", "==", "!=", "<=", ">=", "+", "-", "*", "/", "%", "~", "<", ">", "=", "(", ")", "[",
  "]", "{", "}", ",", ":", ".", "|" }

-- The string that begins at `at`, and the place after it.
local function read_string(source, at, line)
  local quote, i = source:sub(at, at), at + 1
  while true do
    local found = source:find('[\\"\']', i)
    if not found then lexer.fail(line, "a string without an end") end
    local c = source:sub(found, found)
    if c == quote then return unescape(source:sub(at + 1, found - 1), line), found + 1 end
    i = found + (c == "\\" and 2 or 1)
  end
end

local function read_number(source, at)
  local text = source:match("^%d[%d_]*%.%d[%d_]*[eE][+-]?%d+", at) or source:match("^%d[%d_]*%.%d[%d_]*", at)
    or source:match("^%d[%d_]*[eE][+-]?%d+", at) or source:match("^%d[%d_]*", at)
  local digits = text:gsub("_", "")
  return text:find("[.eE]") and tonumber(digits) + 0.0 or math.tointeger(tonumber(digits)) or tonumber(digits),
    at + #text
end

-- Reads words until the tag's end; returns the place after it and its sign ("-", "+" or "").
local function read_tag(source, at, close, out, first_line)
  local line, depth, last = first_line, 0, at
  while true do
    local start = source:find("%S", at)
    if not start then lexer.fail(first_line, "this tag has no end (%s)", close) end
    at = start
    line = line + select(2, source:sub(last, at - 1):gsub("\n", ""))
    last = at
    local sign, ending = source:match("^([-+]?)(" .. close:gsub("%%", "%%%%") .. ")", at)
    if ending and depth == 0 then return at + #sign + #close, sign end
    local c = source:sub(at, at)
    local token = { line = line }
    if c == "'" or c == '"' then
      token.kind = "string"
      token.value, at = read_string(source, at, line)
    elseif c:find("%d") then
      token.kind = "number"
      token.value, at = read_number(source, at)
    elseif c:find("[%a_]") then
      token.kind, token.value = "name", source:match("^[%w_]+", at)
      at = at + #token.value
    else
      for _, operator in ipairs(OPERATORS) do
        if source:sub(at, at + #operator - 1) == operator then
          token.kind, token.value = "operator", operator
          break
        end
      end
      if not token.kind then lexer.fail(line, "unexpected character '%s'", c) end
      if c:find("[%(%[{]") then depth = depth + 1 end
      if c:find("[%)%]}]") then depth = depth - 1 end
      at = at + #token.value
    end
    out[#out + 1] = token
  end
end

-- The text before a tag, as much of it as stays.
local function before_tag(text, sign, opening, line_starting)
  if sign == "-" then return (text:gsub("%s+$", "")) end
  if sign == "+" or opening == "{{" then return text end
  local head, tail = text:match("^(.*\n)([^\n]*)$")
  if not head then
    if not line_starting then return text end
    head, tail = "", text
  end
  return tail:find("%S") and text or head
end

-- What follows a tag's end: the place where text goes on, and whether a line begins there.
local function after_tag(source, at, sign, opening)
  if sign == "-" then
    local next_at = source:find("%S", at) or #source + 1
    return next_at, source:sub(next_at - 1, next_at - 1) == "\n"
  end
  if opening ~= "{{" and sign ~= "+" and source:sub(at, at) == "\n" then return at + 1, true end
  return at, false
end

local CLOSE = { ["{{"] = "}}", ["{%"] = "%}" }

-- {% raw %} ... {% endraw %} from its opening tag on: the text, and what follows.
local function read_raw(source, at, line)
  local left, right, body_at = source:match("^{%%([-+]?)%s*raw%s*([-+]?)%%}()", at)
  if not left then return nil end
  local from, to, end_left, end_right = source:find("{%%([-+]?)%s*endraw%s*([-+]?)%%}", body_at)
  if not from then lexer.fail(line, "raw without endraw") end
  local begin, starting = after_tag(source, body_at, right, "{%")
  local text = before_tag(source:sub(begin, from - 1), end_left, "{%", starting)
  local next_at, line_starting = after_tag(source, to + 1, end_right, "{%")
  return left, text, next_at, line_starting
end

-- List of tokens {kind, value, line}: kinds text, begin and end ("{{" or "{%"), name, string, number,
-- operator.
function lexer.read(source)
  if #source > MAX_BYTES then lexer.fail(1, "a template of over %d bytes", MAX_BYTES) end
  source = source:gsub("\r\n?", "\n"):gsub("\n$", "")
  local out, at, line_starting, line_at = {}, 1, true, counter(source)
  local function add_text(text, line)
    if text ~= "" then out[#out + 1] = { kind = "text", value = text, line = line } end
  end
  while true do
    local from, _, opening = source:find("({[{%%#])", at)
    if not from then break end
    local line, sign = line_at(from), source:match("^[-+]", from + 2) or ""
    add_text(before_tag(source:sub(at, from - 1), sign, opening, line_starting), line)
    local raw_left, raw, raw_next, raw_starting = nil, nil, nil, nil
    if opening == "{%" then raw_left, raw, raw_next, raw_starting = read_raw(source, from, line) end
    if raw_left then
      add_text(raw, line)
      at, line_starting = raw_next, raw_starting
    elseif opening == "{#" then
      local _, to, closing = source:find("([-+]?)#}", from + 2)
      if not to then lexer.fail(line, "a comment without an end") end
      at, line_starting = after_tag(source, to + 1, closing, opening)
    else
      out[#out + 1] = { kind = "begin", value = opening, line = line }
      local closing
      at, closing = read_tag(source, from + 2 + #sign, CLOSE[opening], out, line)
      out[#out + 1] = { kind = "end", value = opening, line = line_at(at) }
      at, line_starting = after_tag(source, at, closing, opening)
    end
  end
  add_text(source:sub(at), line_at(at))
  return out
end

return lexer
