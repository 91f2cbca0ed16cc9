-- Tokens of a Jinja template to a tree. Nodes are tables {kind, line, ...}; see jinja.lua for what
-- each kind does.

local lexer = require "perilune.jinja_lexer"

local MAX_DEPTH = 100

local Parser = {}
Parser.__index = Parser

local CONSTANTS = { ["true"] = true, ["True"] = true, ["false"] = false, ["False"] = false }
local NONE = { none = true, None = true }

-- -- tokens --------------------------------------------------------------------------------------

function Parser:peek(offset) return self.tokens[self.at + (offset or 0)] or { kind = "over", line = self.last_line } end

function Parser:next()
  local token = self:peek()
  self.at = self.at + 1
  return token
end

function Parser:is(kind, value)
  local token = self:peek()
  return token.kind == kind and (value == nil or token.value == value)
end

function Parser:skip(kind, value)
  if not self:is(kind, value) then return false end
  self.at = self.at + 1
  return true
end

local function shown(token)
  if token.kind == "over" then return "the template's end" end
  if token.kind == "end" then return "the tag's end" end
  return ("'%s'"):format(tostring(token.value):sub(1, 40))
end

function Parser:expect(kind, value)
  local token = self:next()
  if token.kind ~= kind or value ~= nil and token.value ~= value then
    lexer.fail(token.line, "expected %s, found %s", value and ("'%s'"):format(value) or "a " .. kind, shown(token))
  end
  return token
end

function Parser:node(kind, fields)
  fields.kind, fields.line = kind, fields.line or self:peek().line
  return fields
end

function Parser:deeper(method, ...)
  self.depth = self.depth + 1
  if self.depth > MAX_DEPTH then lexer.fail(self:peek().line, "nested over %d deep", MAX_DEPTH) end
  local result = method(self, ...)
  self.depth = self.depth - 1
  return result
end

-- -- expressions ---------------------------------------------------------------------------------

-- A condition `a if b else c`, unless plain is set.
function Parser:expression(plain)
  return self:deeper(function()
    local value = self:either()
    while not plain and self:is("name", "if") do
      local line = self:next().line
      local test, other = self:either(), nil
      if self:skip("name", "else") then other = self:expression() end
      value = self:node("condition", { test = test, yes = value, no = other, line = line })
    end
    return value
  end)
end

local function binary(name, inner, operators)
  Parser[name] = function(self)
    local left = inner(self)
    while true do
      local token = self:peek()
      if (token.kind ~= "operator" and token.kind ~= "name") or not operators[token.value] then return left end
      self.at = self.at + 1
      left = self:node(operators[token.value], { left = left, right = inner(self), operator = token.value,
        line = token.line })
    end
  end
end

function Parser:unary(with_filters)
  return self:deeper(function()
    local token = self:peek()
    local value
    if token.kind == "operator" and (token.value == "-" or token.value == "+") then
      self.at = self.at + 1
      value = self:node("negate", { value = self:unary(false), operator = token.value, line = token.line })
    else
      value = self:primary()
    end
    value = self:postfix(value)
    return with_filters and self:filters(value) or value
  end)
end

local function unary_with_filters(self) return self:unary(true) end

binary("power", unary_with_filters, { ["**"] = "arithmetic" })
binary("product", function(self) return self:power() end, { ["*"] = "arithmetic", ["/"] = "arithmetic",
  ["//"] = "arithmetic", ["%"] = "arithmetic" })
binary("joined", function(self) return self:product() end, { ["~"] = "concat" })
binary("sum", function(self) return self:joined() end, { ["+"] = "arithmetic", ["-"] = "arithmetic" })

local COMPARED = { ["=="] = true, ["!="] = true, ["<"] = true, [">"] = true, ["<="] = true, [">="] = true }

-- a < b < c: all must hold.
function Parser:comparison()
  local first, list = self:sum(), {}
  while true do
    local token = self:peek()
    local operator
    if token.kind == "operator" and COMPARED[token.value] then
      operator = token.value
    elseif token.kind == "name" and token.value == "in" then
      operator = "in"
    elseif token.kind == "name" and token.value == "not" and self:peek(1).value == "in" then
      operator = "not in"
      self.at = self.at + 1
    else
      break
    end
    self.at = self.at + 1
    list[#list + 1] = { operator = operator, value = self:sum() }
  end
  return #list > 0 and self:node("compare", { first = first, list = list }) or first
end

function Parser:negation()
  if not self:is("name", "not") then return self:comparison() end
  local line = self:next().line
  return self:node("not", { value = self:deeper(self.negation), line = line })
end

binary("both", function(self) return self:negation() end, { ["and"] = "and" })
binary("either", function(self) return self:both() end, { ["or"] = "or" })

-- Items up to the closing bracket: expressions, or pairs for a dict.
function Parser:items(close, read)
  local list = {}
  while not self:is("operator", close) do
    if #list > 0 then
      self:expect("operator", ",")
      if self:is("operator", close) then break end
    end
    list[#list + 1] = read(self)
  end
  self:expect("operator", close)
  return list
end

function Parser:parenthesized(line)
  local list, comma = {}, false
  while not self:is("operator", ")") do
    list[#list + 1] = self:expression()
    comma = self:skip("operator", ",")
    if not comma then break end
  end
  self:expect("operator", ")")
  if #list == 1 and not comma then return list[1] end
  return self:node("list", { items = list, tuple = true, line = line })
end

function Parser:primary()
  local token = self:next()
  local line = token.line
  if token.kind == "name" then
    if CONSTANTS[token.value] ~= nil then
      return self:node("constant", { value = CONSTANTS[token.value], line = line })
    end
    if NONE[token.value] then return self:node("none", { line = line }) end
    return self:node("name", { name = token.value, line = line })
  elseif token.kind == "string" then
    local text = token.value
    while self:is("string") do text = text .. self:next().value end
    return self:node("constant", { value = text, line = line })
  elseif token.kind == "number" then
    return self:node("constant", { value = token.value, line = line })
  elseif token.value == "(" and token.kind == "operator" then
    return self:parenthesized(line)
  elseif token.value == "[" and token.kind == "operator" then
    return self:node("list", { items = self:items("]", self.expression), line = line })
  elseif token.value == "{" and token.kind == "operator" then
    return self:node("dict", { line = line, items = self:items("}", function()
      local key = self:expression()
      self:expect("operator", ":")
      return { key, self:expression() }
    end) })
  end
  lexer.fail(line, "expected a value, found %s", shown(token))
end

function Parser:subscript(value, line)
  local parts, n = {}, 1
  while not self:is("operator", "]") do
    if self:skip("operator", ":") then
      n = n + 1
    else
      parts[n] = self:expression()
      if not self:is("operator", "]") and not self:is("operator", ":") then
        lexer.fail(line, "expected ] or :, found %s", shown(self:peek()))
      end
    end
  end
  self:expect("operator", "]")
  if n == 1 then
    if not parts[1] then lexer.fail(line, "nothing between [ and ]") end
    return self:node("item", { value = value, key = parts[1], line = line })
  end
  return self:node("slice", { value = value, from = parts[1], to = parts[2], step = parts[3], line = line })
end

-- (a, *list, key = c) from behind the opening parenthesis. named[1], ... are the keys in order.
function Parser:arguments()
  local list, named = {}, {}
  self:items(")", function()
    if self:is("operator", "**") then lexer.fail(self:peek().line, "arguments with ** are not supported") end
    if self:is("name") and self:peek(1).kind == "operator" and self:peek(1).value == "=" then
      local name = self:next().value
      self.at = self.at + 1
      named[#named + 1], named[name] = name, self:expression()
    elseif self:is("operator", "*") then
      local line = self:next().line
      list[#list + 1] = self:node("spread", { value = self:expression(), line = line })
    else
      list[#list + 1] = self:expression()
    end
    return true
  end)
  return list, named
end

function Parser:postfix(value)
  while true do
    local token = self:peek()
    if token.kind ~= "operator" then return value end
    if token.value == "." then
      self.at = self.at + 1
      local name = self:next()
      if name.kind == "number" then
        value = self:node("item", { value = value, line = name.line,
          key = self:node("constant", { value = name.value, line = name.line }) })
      elseif name.kind == "name" then
        value = self:node("attribute", { value = value, name = name.value, line = name.line })
      else
        lexer.fail(name.line, "expected a name after the point, found %s", shown(name))
      end
    elseif token.value == "[" then
      self.at = self.at + 1
      value = self:subscript(value, token.line)
    elseif token.value == "(" then
      self.at = self.at + 1
      local arguments, named = self:arguments()
      value = self:node("call", { callee = value, arguments = arguments, named = named, line = token.line })
    else
      return value
    end
  end
end

local NO_ARGUMENT = { ["else"] = true, ["or"] = true, ["and"] = true, is = true, ["if"] = true, ["not"] = true,
  ["in"] = true }

function Parser:test(value)
  local line = self:next().line
  local negated = self:skip("name", "not")
  local name = self:expect("name").value
  local arguments = {}
  local token = self:peek()
  if self:skip("operator", "(") then
    arguments = self:arguments()
  elseif token.kind == "string" or token.kind == "number" or token.kind == "name" and not NO_ARGUMENT[token.value]
    or token.kind == "operator" and (token.value == "[" or token.value == "{") then
    arguments = { self:postfix(self:primary()) }
  end
  return self:node("test", { value = value, name = name, arguments = arguments, negated = negated, line = line })
end

function Parser:filter(value)
  local token = self:expect("name")
  local arguments, named = {}, {}
  if self:skip("operator", "(") then arguments, named = self:arguments() end
  return self:node("filter", { value = value, name = token.value, arguments = arguments, named = named,
    line = token.line })
end

function Parser:filters(value)
  while true do
    if self:skip("operator", "|") then
      value = self:filter(value)
    elseif self:is("name", "is") then
      value = self:test(value)
    elseif self:is("operator", "(") or self:is("operator", ".") or self:is("operator", "[") then
      value = self:postfix(value)
    else
      return value
    end
  end
end

-- -- statements ----------------------------------------------------------------------------------

local STATEMENTS = {}

-- Statements and text up to one of the words, whose tag is read up to behind the word.
function Parser:body(...)
  local words, list = {}, {}
  for _, word in ipairs({ ... }) do words[word] = true end
  local start = self:peek().line
  while true do
    local token = self:peek()
    if token.kind == "over" then
      if next(words) then lexer.fail(start, "there is no %s", table.concat({ ... }, " or ")) end
      return list
    elseif token.kind == "text" then
      self.at = self.at + 1
      list[#list + 1] = self:node("text", { value = token.value, line = token.line })
    elseif token.kind == "begin" and token.value == "{{" then
      self.at = self.at + 1
      list[#list + 1] = self:node("print", { value = self:tuple(), line = token.line })
      self:expect("end", "{{")
    else
      self:expect("begin", "{%")
      local word = self:expect("name")
      if words[word.value] then return list, word.value end
      local statement = STATEMENTS[word.value]
      if not statement then lexer.fail(word.line, "{%% %s %%} is not supported", word.value) end
      list[#list + 1] = self:deeper(statement, word.line)
    end
  end
end

-- a, b without parentheses: a list.
function Parser:tuple(plain)
  local first = self:expression(plain)
  if not self:is("operator", ",") then return first end
  local list = { first }
  while self:skip("operator", ",") do
    if self:is("end") then break end
    list[#list + 1] = self:expression(plain)
  end
  return self:node("list", { items = list })
end

function Parser:close() self:expect("end", "{%") end

STATEMENTS["if"] = function(self, line)
  local branches, otherwise = {}, nil
  local test = self:tuple()
  self:close()
  while true do
    local body, word = self:body("elif", "else", "endif")
    if test then branches[#branches + 1] = { test = test, body = body } else otherwise = body end
    if word == "endif" then break end
    test = word == "elif" and self:tuple() or nil
    self:close()
    if word == "else" then
      otherwise = self:body("endif")
      break
    end
  end
  self:close()
  return self:node("if", { branches = branches, otherwise = otherwise, line = line })
end

-- Names to assign to: `a`, `a, b` or `(a, b)`.
function Parser:targets()
  local names, closing = {}, self:skip("operator", "(")
  repeat names[#names + 1] = self:expect("name").value until not self:skip("operator", ",")
  if closing then self:expect("operator", ")") end
  return names
end

STATEMENTS["for"] = function(self, line)
  local names = self:targets()
  self:expect("name", "in")
  local list, test = self:tuple(true), nil
  if self:skip("name", "if") then test = self:expression() end
  if self:is("name", "recursive") then lexer.fail(line, "recursive loops are not supported") end
  self:close()
  local body, word = self:body("else", "endfor")
  local otherwise
  if word == "else" then
    self:close()
    otherwise = self:body("endfor")
  end
  self:close()
  return self:node("for", { names = names, list = list, test = test, body = body, otherwise = otherwise, line = line })
end

STATEMENTS["set"] = function(self, line)
  if self:is("name") and self:peek(1).value == "." then
    local object = self:next().value
    self.at = self.at + 1
    local name = self:expect("name").value
    self:expect("operator", "=")
    local value = self:tuple()
    self:close()
    return self:node("set_attribute", { object = object, name = name, value = value, line = line })
  end
  local names = self:targets()
  if self:skip("operator", "=") then
    local value = self:tuple()
    self:close()
    return self:node("set", { names = names, value = value, line = line })
  end
  if self:is("operator", "|") then lexer.fail(line, "{%% set x | filter %%} is not supported") end
  self:close()
  local body = self:body("endset")
  self:close()
  return self:node("set_block", { name = names[1], body = body, line = line })
end

-- (a, b = 1) from behind the opening parenthesis.
function Parser:parameters()
  return self:items(")", function()
    local parameter = { name = self:expect("name").value }
    if self:skip("operator", "=") then parameter.default = self:expression() end
    return parameter
  end)
end

STATEMENTS["macro"] = function(self, line)
  local name = self:expect("name").value
  self:expect("operator", "(")
  local parameters = self:parameters()
  self:close()
  local body = self:body("endmacro")
  self:close()
  return self:node("macro", { name = name, parameters = parameters, body = body, line = line })
end

-- Calls a macro that gets the body as its `caller`.
STATEMENTS["call"] = function(self, line)
  local parameters = self:skip("operator", "(") and self:parameters() or {}
  local call = self:expression()
  if call.kind ~= "call" then lexer.fail(line, "{%% call %%} without a call") end
  self:close()
  local body = self:body("endcall")
  self:close()
  return self:node("call_block", { call = call, parameters = parameters, body = body, line = line })
end

for _, word in ipairs({ "break", "continue" }) do
  STATEMENTS[word] = function(self, line)
    self:close()
    return self:node(word, { line = line })
  end
end

-- Marks what the model wrote, for training; the text is the same.
STATEMENTS["generation"] = function(self, line)
  self:close()
  local body = self:body("endgeneration")
  self:close()
  return self:node("group", { body = body, line = line })
end

-- The tree of a template's tokens: a list of statements.
local function parse(tokens)
  local last = tokens[#tokens]
  return setmetatable({ tokens = tokens, at = 1, depth = 0, last_line = last and last.line or 1 }, Parser):body()
end

return { parse = parse }
