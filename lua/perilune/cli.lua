--- What every script's command line has in common.
--
--     local cli = require "perilune.cli"
--     local parser = cli.parser("next", "The distribution of the next token.")
--     parser:argument("prompt"):args "*"
--     local args = cli.parse(parser)
--     local model = cli.load(args)

local argparse = require "argparse"
local pl = require "perilune"

local cli = {}

local Mistake = { __tostring = function(mistake) return mistake.message end }

--- Ends the script with status 2 and a message about how it was called.
---@param format string as of string.format
---@param ... any
function cli.usage(format, ...)
  error(setmetatable({ kind = "usage", message = format:format(...) }, Mistake), 0)
end

--- A converter for argparse: "path" or "path:scale".
---@param text string
---@return {path: string, scale: number}
function cli.adapter(text)
  local path, scale = text:match("^(.+):([-+.%w]+)$")
  if tonumber(scale) then return { path = path, scale = tonumber(scale) } end
  return { path = text, scale = 1 }
end

--- An argparse parser with -m/--model, -t/--threads, --adapter, --seed and --help.
---@param name string of the program
---@param description string
---@return table parser
function cli.parser(name, description)
  local parser = argparse("perilune " .. name, description)
  parser:usage_max_width(78):help_max_width(78):help_description_margin(31)
  parser:option("-m --model", "A file, a folder or a hub id (default: the model that comes along)")
    :argname "NAME"
  parser:option("-t --threads", "How many threads (default: as many as cores)"):argname "N"
    :convert(cli.whole(1))
  parser:option("--adapter", "A low-rank adapter for the model, at SCALE (1)"):argname "NAME[:SCALE]"
    :count("*"):convert(cli.adapter)
  parser:option("--seed", "Where random numbers begin (default: anew each time)"):argname "N"
    :convert(cli.whole(0))
  return parser
end

-- "-m, --model NAME" on one line of the help; argparse takes two.
local function join_labels(parser)
  for _, option in ipairs(parser._options or {}) do
    local lines = option:_get_label_lines()
    if #lines == 2 then
      local label = ("%s, %s"):format(lines[1]:match("(%S+)"), (lines[2]:gsub("^ +", "")))
      option._get_label_lines = function() return { label } end
    end
  end
end

-- The words with numbers below 0 joined to the options before them, which argparse takes for options
-- otherwise: --pos -1 becomes --pos=-1.
local function join_numbers(words)
  local list = {}
  for _, word in ipairs(words) do
    local option = list[#list]
    if word:find("^%-%.?%d") and option and option:find("^%-%-?%a[%w-]*$") then
      list[#list] = option .. (option:find("^%-%-") and "=" or "") .. word
    else
      list[#list + 1] = word
    end
  end
  return list
end

--- The arguments; a mistake ends the script with status 2 and the usage.
---@param parser table
---@return table args by name
function cli.parse(parser)
  join_labels(parser)
  local good, args = parser:pparse(join_numbers(_G.arg))
  if not good then cli.usage("%s\n%s", args, parser:get_usage()) end
  if args.seed then math.randomseed(args.seed) end
  return args
end

--- The model that -m names, on -t threads, with the adapters that --adapter names.
---@param args table of cli.parse
---@param opts? table more options of pl.load
---@return perilune.Model
function cli.load(args, opts)
  local all = { threads = args.threads }
  for key, value in pairs(opts or {}) do all[key] = value end
  local model = pl.load(args.model, all)
  for _, adapter in ipairs(args.adapter or {}) do
    model:set_adapter(model:load_adapter(adapter.path), adapter.scale)
  end
  return model
end

--- Ends the script where --adapter is given and the program makes a model of the base alone.
---@param args table of cli.parse
function cli.refuse_adapters(args)
  if #args.adapter == 0 then return end
  cli.usage("--adapter: merge it first, with perilune lora --adapter %s --merge FILE", args.adapter[1].path)
end

--- A converter for argparse: whole numbers from `least` on.
---@param least integer
---@return fun(text: string): integer?, string?
function cli.whole(least)
  return function(text)
    local n = math.tointeger(tonumber(text))
    if n and n >= least then return n end
    return nil, ("'%s': expected a whole number from %d"):format(text, least)
  end
end

--- A converter for argparse: names with commas between them.
---@param text string
---@return string[]?
---@return string?
function cli.names(text)
  local list = {}
  for name in text:gmatch("%s*([^,]*[^,%s])") do list[#list + 1] = name end
  if #list > 0 then return list end
  return nil, ("'%s': expected names with commas between them"):format(text)
end

--- A converter for argparse: "name" or "name:param=1,other=2" as an item of a chain.
---@param text string
---@return table?
---@return string?
function cli.sampler(text)
  local name, rest = text:match("^([%w_]+):?(.*)$")
  local item = { name }
  for param in (rest or ""):gmatch("[^,]+") do
    local key, value = param:match("^([%w_]+)=(.+)$")
    if not tonumber(value) then
      return nil, ("'%s': expected a sampler's name, or NAME:PARAM=NUMBER,..."):format(text)
    end
    item[key] = tonumber(value)
  end
  if name then return item end
  return nil, ("'%s': expected a sampler's name, or NAME:PARAM=NUMBER,..."):format(text)
end

--- A converter for argparse: any whole number, such as an index that `cli.index` checks.
---@param text string
---@return integer?
---@return string?
function cli.integer(text)
  local n = math.tointeger(tonumber(text))
  if n then return n end
  return nil, ("'%s': expected a whole number"):format(text)
end

--- A converter for argparse: numbers from `least` to `most`.
---@param least number
---@param most? number
---@return fun(text: string): number?, string?
function cli.number(least, most)
  return function(text)
    local x = tonumber(text)
    if x and x >= least and x <= (most or math.huge) then return x end
    return nil, ("'%s': expected a number %s"):format(text,
      most and ("from %g to %g"):format(least, most) or ("from %g"):format(least))
  end
end

--- A text: the words given, or all of standard input when there are none.
---@param words string[]
---@return string
function cli.text(words)
  if #words > 0 then return table.concat(words, " ") end
  if require("perilune.terminal").is_terminal(0) then
    cli.usage("a text is missing: give it as an argument or on standard input")
  end
  return (io.read("a"):gsub("\r?\n$", ""))
end

--- The option --html of programs that can write a page, see `cli.write_page`.
---@param parser table
function cli.page_option(parser)
  parser:option("--html", "Write a page for the browser too"):argname "FILE"
end

--- Writes the page that --html asked for.
---@param args table of cli.parse
---@param page perilune.Page
function cli.write_page(args, page)
  page:write(args.html)
  local terminal = require "perilune.terminal"
  io.stderr:write(terminal.paint(args.html .. " is written", "grey", 2), "\n")
end

--- A prompt for a model: the words given, standard input for "-", or the default. At least `least`
--- tokens, at most what the model sees.
---@param model perilune.Model
---@param words string[]
---@param default string
---@param least? integer 1 unless said otherwise
---@return perilune.Tensor ids
---@return string[] labels of the tokens on one line each
---@return string text
function cli.prompt(model, words, default, least)
  local text = #words > 0 and table.concat(words, " ") or default
  if text == "-" then text = io.read("a"):gsub("\r?\n$", "") end
  local ids = model:encode(text)
  if #ids < (least or 1) then
    cli.usage("the prompt has %d tokens; this takes at least %d", #ids, least or 1)
  end
  local most = model.default_session.n_ctx
  if #ids > most then cli.usage("the prompt has %d tokens; the model sees %d at most", #ids, most) end
  return ids, cli.labels(model, ids), text
end

--- What each token stands for, on one line each.
---@param model perilune.Model
---@param ids perilune.ids
---@return string[]
function cli.labels(model, ids)
  local labels = model:to_str_tokens(ids)
  for i, piece in ipairs(labels) do labels[i] = require("perilune.terminal").piece(piece) end
  return labels
end

--- The numbers from 0 to n - 1 as texts, to label columns with.
---@param n integer
---@return string[]
function cli.numbers(n)
  local list = {}
  for i = 1, n do list[i] = tostring(i - 1) end
  return list
end

--- An index of something that there are n of, counted from 0, or from -1 backwards.
---@param value integer?
---@param n integer
---@param option string "--layer", for the message
---@return integer?
function cli.index(value, n, option)
  if not value then return nil end
  if value < -n or value >= n then cli.usage("%s %d: expected 0 to %d", option, value, n - 1) end
  return value % n
end

--- A whole file, or standard input for "-".
---@param path string
---@return string
function cli.read_file(path)
  return path == "-" and io.read("a") or pl.read_file(path)
end

return cli
