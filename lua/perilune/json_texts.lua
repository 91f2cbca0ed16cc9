-- Texts of JSON in GBNF that need no schema: values of each type, and the formats of strings.

local texts = {}

-- Rules that every grammar may need: name -> {body, names of rules that it needs}.
texts.rules = {
  char = { [=[[^"\\\x00-\x1F\x7F] | "\\" (["\\/bfnrt] | "u" unit)]=], "unit" },
  -- An escape by number: never half of a surrogate pair, which is no character.
  unit = { [=[[0-9a-cefA-CEF] [0-9a-fA-F]{3} | [dD] [0-7] [0-9a-fA-F]{2}]=] },
  string = { [=["\"" char* "\""]=], "char" },
  integer = { [=["-"? ("0" | [1-9] [0-9]{0,15})]=] },
  number = { [=[integer ("." [0-9]{1,16})? ([eE] [-+]? [0-9]{1,2})?]=], "integer" },
  boolean = { [=["true" | "false"]=] },
  null = { [=["null"]=] },
  value = { "object | array | string | number | boolean | null", "object", "array", "string", "number", "boolean",
    "null" },
  object = { [=["{" ws (member ("," ws member)*)? "}"]=], "member", "ws" },
  member = { [=[string ":" ws value ws]=], "string", "value", "ws" },
  array = { [=["[" ws (value ws ("," ws value ws)*)? "]"]=], "value", "ws" },
}
texts.spaces = [=[" "? | "\n" [ \t]{0,20}]=]

local DATE = "[12] [0-9]{3} \"-\" ((\"0\" [13578] | \"1\" [02]) \"-\" (\"0\" [1-9] | [12] [0-9] | \"3\" [01])"
  .. " | (\"0\" [469] | \"11\") \"-\" (\"0\" [1-9] | [12] [0-9] | \"30\")"
  .. " | \"02-\" (\"0\" [1-9] | \"1\" [0-9] | \"2\" [0-8]))"
local TIME = "([01] [0-9] | \"2\" [0-3]) \":\" [0-5] [0-9] \":\" [0-5] [0-9] (\".\" [0-9]{1,9})?"
  .. " (\"Z\" | [+-] ([01] [0-9] | \"2\" [0-3]) \":\" [0-5] [0-9])"
local OCTET = "(\"25\" [0-5] | \"2\" [0-4] [0-9] | \"1\" [0-9]{2} | [1-9]? [0-9])"
local LABEL = "[a-zA-Z0-9] ([a-zA-Z0-9-]{0,20} [a-zA-Z0-9])?"
local HOST = LABEL .. " (\".\" " .. LABEL .. "){0,5}"
texts.formats = {
  date = DATE, time = TIME, ["date-time"] = DATE .. ' "T" ' .. TIME,
  uuid = '[0-9a-fA-F]{8} ("-" [0-9a-fA-F]{4}){3} "-" [0-9a-fA-F]{12}',
  ipv4 = OCTET .. " (\".\" " .. OCTET .. "){3}",
  ipv6 = '[0-9a-fA-F]{1,4} (":" [0-9a-fA-F]{1,4}){7}',
  hostname = HOST,
  email = "[a-zA-Z0-9_+-]{1,30} (\".\" [a-zA-Z0-9_+-]{1,30}){0,3} \"@\" " .. HOST,
  uri = '("http" "s"? | "ftp") "://" ' .. HOST .. ' ("/" [a-zA-Z0-9._~-]*)*',
  duration = '"P" ([0-9]{1,4} ("Y" ([0-9]{1,4} "M" ([0-9]{1,4} "D")?)? | "M" ([0-9]{1,4} "D")? | "D" | "W")'
    .. ' | "T" [0-9]{1,4} ("H" ([0-9]{1,4} "M" ([0-9]{1,4} "S")?)? | "M" ([0-9]{1,4} "S")? | "S"))',
}

return texts
