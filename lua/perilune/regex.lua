-- Regular expressions to GBNF: pl.regex_grammar.
--
-- The subset that describes a whole text: literals, `.`, classes, groups, alternatives,
-- quantifiers (a lazy one means the same set of texts), anchors where they change nothing, the
-- escapes \d \w \s \D \W \S \t \n \r \f \v \0 \xHH \uHHHH \u{H} and punctuation. What looks
-- around, back or at words is no matter of a grammar and named in the error.

local characters = require "perilune.characters"

local complement = characters.complement
local MAX_NESTING = 100

return function(pl)
  -- Lists of {first, last}, as JSON Schema's dialect (ECMA-262) has them.
  local DIGIT = { { 48, 57 } }
  local WORD = { { 48, 57 }, { 65, 90 }, { 95, 95 }, { 97, 122 } }
  local SPACE = { { 9, 13 }, { 32, 32 }, { 0xA0, 0xA0 }, { 0x1680, 0x1680 }, { 0x2000, 0x200A },
    { 0x2028, 0x2029 }, { 0x202F, 0x202F }, { 0x205F, 0x205F }, { 0x3000, 0x3000 }, { 0xFEFF, 0xFEFF } }
  local MOST = 0x10FFFF
  local LINE_ENDS = { { 10, 10 }, { 13, 13 }, { 0x2028, 0x2029 } }

  local CLASSES = { d = DIGIT, w = WORD, s = SPACE, D = complement(DIGIT), W = complement(WORD),
    S = complement(SPACE) }
  local CONTROL = { t = 9, n = 10, r = 13, f = 12, v = 11, ["0"] = 0 }
  local NAMED = { b = "\\b (a word's edge)", B = "\\B", p = "\\p{...} (Unicode properties)", P = "\\P{...}",
    k = "\\k (a back-reference)", A = "\\A", Z = "\\Z", z = "\\z", G = "\\G", Q = "\\Q", E = "\\E", R = "\\R",
    X = "\\X", K = "\\K", h = "\\h", H = "\\H", c = "\\c", N = "\\N" }
  local GROUPS = { { "^%?=", "(?= (looking ahead)" }, { "^%?!", "(?! (looking ahead)" },
    { "^%?<=", "(?<= (looking behind)" }, { "^%?<!", "(?<! (looking behind)" }, { "^%?>", "(?> (atomic)" },
    { "^%?%(", "(?( (a condition)" }, { "^%?#", "(?# (a comment)" } }

  local Parser = {}
  Parser.__index = Parser

  function Parser:fail(at, format, ...)
    pl.fail("unsupported", "regex: character %d of '%s': %s", at, self.source, format:format(...))
  end

  -- The character at the parser's place and the place after it; nil at the end.
  function Parser:peek(offset)
    local at = self.at + (offset or 0)
    return self.codes[at] and utf8.char(self.codes[at])
  end

  function Parser:rest(n)
    local list = {}
    for i = self.at, math.min(self.at + n - 1, #self.codes) do list[#list + 1] = utf8.char(self.codes[i]) end
    return table.concat(list)
  end

  function Parser:hex(digits, at)
    local text = self:rest(digits)
    if #text ~= digits or not text:find("^%x+$") then
      self:fail(at, "expected %d hexadecimal digits", digits)
    end
    self.at = self.at + digits
    return tonumber(text, 16)
  end

  function Parser:unicode(at)
    if self:peek() ~= "{" then
      local high = self:hex(4, at)
      if high >= 0xD800 and high <= 0xDBFF and self:rest(2) == "\\u" then
        self.at = self.at + 2
        local low = self:hex(4, at)
        if low >= 0xDC00 and low <= 0xDFFF then return 0x10000 + (high - 0xD800 << 10) + low - 0xDC00 end
        self:fail(at, "half of a surrogate pair")
      end
      return high
    end
    local digits = self:rest(10):match("^{(%x+)}")
    if not digits or tonumber(digits, 16) > MOST then self:fail(at, "expected \\u{...}") end
    self.at = self.at + #digits + 2
    return tonumber(digits, 16)
  end

  -- After a backslash: a character's code, or a list of ranges.
  function Parser:escape(in_class)
    local at, c = self.at - 1, self:peek()
    if not c then self:fail(at, "a backslash at the end") end
    self.at = self.at + 1
    if CLASSES[c] then return nil, CLASSES[c] end
    if in_class and c == "b" then return 8 end
    if c == "0" and (self:peek() or ""):find("^%d") then self:fail(at, "octal escapes are not supported") end
    if CONTROL[c] then return CONTROL[c] end
    local code
    if c == "x" then
      code = self:hex(2, at)
    elseif c == "u" then
      code = self:unicode(at)
    elseif c:find("^[1-9]$") then
      self:fail(at, "the back-reference \\%s is not supported", c)
    elseif NAMED[c] then
      self:fail(at, "%s is not supported", NAMED[c])
    elseif c:find("^%a$") then
      self:fail(at, "no such escape: \\%s", c)
    else
      return utf8.codepoint(c)
    end
    if code >= 0xD800 and code <= 0xDFFF then self:fail(at, "U+%04X is no character", code) end
    return code
  end

  function Parser:class_item(at)
    local c = self:peek()
    if not c then self:fail(at, "this class has no closing ]") end
    if c == "[" and self:rest(2):find("^%[[:=.]") then self:fail(self.at, "[:...:] is not supported") end
    self.at = self.at + 1
    if c == "\\" then return self:escape(true) end
    return utf8.codepoint(c)
  end

  function Parser:class()
    local at, ranges = self.at, {}
    self.at = self.at + 1
    local negated = self:peek() == "^"
    if negated then self.at = self.at + 1 end
    while self:peek() ~= "]" do
      local first, set = self:class_item(at)
      if first and self:peek() == "-" and self:peek(1) ~= "]" then
        self.at = self.at + 1
        local last = self:class_item(at)
        if not last or last < first then self:fail(at, "an empty or unclear range in a class") end
        ranges[#ranges + 1] = { first, last }
      elseif first then
        ranges[#ranges + 1] = { first, first }
      else
        table.move(set, 1, #set, #ranges + 1, ranges)
      end
    end
    self.at = self.at + 1
    return self.write(negated and complement(ranges) or ranges) or self:fail(at, "a class without characters")
  end

  function Parser:group()
    local at = self.at
    self.at = self.at + 1
    local start = self:rest(4)
    for _, group in ipairs(GROUPS) do
      if start:find(group[1]) then self:fail(at, "%s is not supported", group[2]) end
    end
    if start:find("^%?:") then
      self.at = self.at + 2
    elseif start:find("^%?P?<%a") then
      while self:peek() and self:peek() ~= ">" do self.at = self.at + 1 end
      self.at = self.at + 1
    elseif start:find("^%?") then
      self:fail(at, "(%s is not supported", start:sub(1, 2))
    end
    self.depth = self.depth + 1
    if self.depth > MAX_NESTING then self:fail(at, "groups nested over %d deep", MAX_NESTING) end
    local inner = self:alternatives()
    if self:peek() ~= ")" then self:fail(at, "this group has no closing )") end
    self.at = self.at + 1
    self.depth = self.depth - 1
    return "(" .. inner .. ")"
  end

  -- A quantifier at the parser's place as GBNF, or nil.
  function Parser:quantifier()
    local c, at = self:peek(), self.at
    local bounds = c == "{" and self:rest(14):match("^{%d*,?%d*}")
    if not c or not (c:find("^[*+?]$") or bounds) then return nil end
    local text = bounds or c
    if bounds and not bounds:find("^{%d") then self:fail(at, "%s: expected a number first", bounds) end
    self.at = self.at + #text
    local after = self:peek()
    if after == "?" then self.at = self.at + 1 end
    if after == "+" then self:fail(at, "%s+ (a possessive quantifier) is not supported", text) end
    return text
  end

  function Parser:atom()
    local c, at = self:peek(), self.at
    if c == "[" then return self:class() end
    if c == "(" then return self:group() end
    self.at = self.at + 1
    if c == "." then return self.write(complement(LINE_ENDS)) end
    if c == "\\" then
      local code, set = self:escape(false)
      return self.write(code and { { code, code } } or set)
    end
    if c:find("^[*+?]$") or c == "{" and self:rest(14):find("^%d+,?%d*}") then
      self:fail(at, "there is nothing for %s to repeat", c)
    end
    local code = utf8.codepoint(c)
    return self.write({ { code, code } })
  end

  -- ^ and $ mean something only where nothing can stand before or after them.
  function Parser:anchor(parts)
    local c, at = self:peek(), self.at
    if c ~= "^" and c ~= "$" then return false end
    self.at = self.at + 1
    local after = self:peek()
    if self.depth > 0 then self:fail(at, "%s inside a group is not supported", c) end
    if c == "^" and #parts > 0 or c == "$" and after and after ~= "|" then
      self:fail(at, "%s in the middle is not supported", c)
    end
    if self:quantifier() then self:fail(at, "a repeated %s", c) end
    return true
  end

  function Parser:alternatives()
    local branches, parts, from, to = {}, {}, nil, nil
    while true do
      local c = self:peek()
      if not c or c == ")" and self.depth > 0 or c == "|" then
        if self.depth == 0 then self.ends(parts, from, to) end
        branches[#branches + 1] = #parts > 0 and table.concat(parts, " ") or '""'
        if c ~= "|" then break end
        self.at = self.at + 1
        parts, from, to = {}, nil, nil
      elseif c == ")" then
        self:fail(self.at, "a ) without its (")
      elseif self:anchor(parts) then
        from, to = from or c == "^", to or c == "$"
      else
        local atom = self:atom()
        parts[#parts + 1] = atom .. (self:quantifier() or "")
      end
    end
    return table.concat(branches, " | ")
  end

  -- The expression as alternatives in GBNF. The whole text must match; or, given `any`, contain a
  -- match, with any such characters around it. write: a set of characters as GBNF.
  function pl.regex_expression(pattern, any, write)
    if type(pattern) ~= "string" then
      pl.fail("argument", "regex is a %s: expected a string", type(pattern))
    end
    local codes, bad = {}, utf8.len(pattern)
    if not bad then pl.fail("argument", "regex: the pattern is not UTF-8") end
    for _, code in utf8.codes(pattern) do codes[#codes + 1] = code end
    local parser = setmetatable({ source = pattern, codes = codes, at = 1, depth = 0,
      write = write or characters.class }, Parser)
    parser.ends = function(parts, from, to)
      if not any then return end
      if not from then table.insert(parts, 1, any .. "*") end
      if not to then parts[#parts + 1] = any .. "*" end
    end
    return parser:alternatives()
  end

  function pl.regex_grammar(pattern) return "root ::= " .. pl.regex_expression(pattern) .. "\n" end
end
