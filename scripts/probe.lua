-- What a model knows of places and dates: straight lines from its residual stream to numbers.
--
-- In the manner of Gurnee and Tegmark 2023 (arXiv:2310.02207): the name of each city goes through the
-- model, and ridge regression reads latitude and longitude off the activation at its last token, layer
-- by layer. Only cities that a probe has not seen count: R^2 is the share of their variance that it
-- explains, 0 for one that always says the mean. The same with labels dealt out at random shows what a
-- probe reads where there is nothing to read; what is left above that is its selectivity (Hewitt and
-- Liang 2019).
--
-- The model that comes along has read story books and knows next to no geography: expect R^2 around 0
-- for places, and try a larger one. What it does know is told by --task position (where in a text a
-- token stands) and --task length (how many letters a word has), which nobody taught it either.
--
--   perilune probe
--   perilune probe --task places -m openai-community/gpt2 --svg places.svg
--   perilune probe --table rivers.csv --text name --label length,area

local pl = require "perilune"
local cli = require "perilune.cli"
local probing = require "perilune.probing"
local svg = require "perilune.svg"
local terminal = require "perilune.terminal"

local parser = cli.parser("probe", "What can be read off the residual stream: places, dates, positions.")
parser:option("--task", "What is read"):argname "NAME":choices({ "position", "length", "places", "dates", "all" })
  :default "all"
parser:option("--table", "A CSV file of your own in place of a task"):argname "FILE"
parser:option("--text", "The column of it with texts"):argname "NAME":default "name"
parser:option("--label", "The columns of it with numbers"):argname "NAMES":convert(cli.names)
parser:option("--template", "What goes through the model, with %s for the text"):argname "TEXT"
parser:option("--svg", "Plot true and read numbers of the best layer"):argname "FILE"
local args = cli.parse(parser)
if args.table and not args.label then cli.usage("--table: which --label?") end
if args.template and not args.template:find("%s", 1, true) then
  cli.usage("--template: expected %%s where the text stands")
end
if args.svg and args.task == "all" and not args.table then cli.usage("--svg: of which --task?") end
local model = cli.load(args)
local seed = args.seed or 1

local function filled(template, texts)
  local list = {}
  for i, text in ipairs(texts) do list[i] = (template:gsub("%%s", function() return text end)) end
  return list
end

-- Tokens of texts that the model writes itself: activations of every layer, and a number for each token.
local function of_tokens(label_of)
  local n_layers, rows, labels = model.config.n_layers, {}, {}
  for layer = 0, n_layers do rows[layer + 1] = {} end
  local length = math.min(96, model.default_session.n_ctx)
  for text = 1, 6 do
    local ids = model:complete(({ "Once upon a time", "The king said", "One day the girl" })[text % 3 + 1],
      { max_new_tokens = length - 8, seed = seed + text, ignore_eos = true })
    local all = model:encode(ids.prompt and ids.prompt .. ids.text or ids.text)
    local pieces = model:to_str_tokens(all)
    local _, cache = model:run_with_cache(all, { "blocks.0.hook_resid_pre", "blocks.*.hook_resid_post" })
    for at = 1, #pieces - 1, 2 do
      local label = label_of(pieces[at + 1], at)
      if label then
        labels[#labels + 1] = { label }
        local i = #labels
        rows[1][i] = cache["blocks.0.hook_resid_pre"][at]
        for layer = 0, n_layers - 1 do rows[layer + 2][i] = cache[("blocks.%d.hook_resid_post"):format(layer)][at] end
      end
    end
  end
  for layer, list in ipairs(rows) do rows[layer] = pl.stack(list) end
  return rows, pl.tensor(labels)
end

local home = pl.home .. "/scripts/data/"
local tasks = {
  position = { what = "where in the text a token stands", labels = { "position" },
    make = function() return of_tokens(function(_, at) return at end) end },
  length = { what = "how many letters the token's word has", labels = { "letters" },
    make = function() -- each word once: a probe shall not meet it again
      local seen = {}
      return of_tokens(function(piece)
        local word = piece:match("^ (%a+)$")
        if not word or seen[word] then return nil end
        seen[word] = true
        return #word
      end)
    end },
  places = { what = "where a city lies", labels = { "latitude", "longitude" }, file = home .. "places.csv",
    template = "They went to %s" },
  dates = { what = "when something happened", labels = { "year" }, file = home .. "dates.csv",
    template = "That was the year of %s" },
}
local order = { "position", "length", "places", "dates" }
if args.table then
  tasks.table = { what = args.table, labels = args.label, file = args.table, template = "%s" }
  order = { "table" }
elseif args.task ~= "all" then
  order = { args.task }
end

local function activations(task)
  if task.make then return task.make() end
  local texts, Y = probing.read_table(task.file, args.table and args.text or "name", task.labels)
  return probing.last_tokens(model, filled(args.template or task.template, texts)), Y, texts
end

local function plot(path, task, Y, predicted)
  local truth, said, series = Y:to_table(), predicted:to_table(), {}
  if #task.labels == 2 then -- a map: where they are, and where the probe has them
    local a, b = { x = {}, y = {} }, { x = {}, y = {} }
    for i = 1, #truth do
      a.x[i], a.y[i], b.x[i], b.y[i] = truth[i][2], truth[i][1], said[i][2], said[i][1]
    end
    series = { { name = "true", x = a.x, y = a.y, points = true }, { name = "read", x = b.x, y = b.y, points = true } }
    return svg.save(path, { title = task.what, x_label = task.labels[2], y_label = task.labels[1], series = series })
  end
  for k, label in ipairs(task.labels) do
    local x, y = {}, {}
    for i = 1, #truth do x[i], y[i] = truth[i][k], said[i][k] end
    series[k] = { name = label, x = x, y = y, points = true }
  end
  svg.save(path, { title = task.what, x_label = "true", y_label = "read", series = series })
end

for _, name in ipairs(order) do
  local task = tasks[name]
  local X, Y = activations(task)
  print(("%s%s (%s); %d of them, 5 folds"):format(name == order[1] and "" or "\n", terminal.paint(task.what, "bold"),
    table.concat(task.labels, " and "), Y.shape[1]))
  print(("%-14s %9s %9s %12s"):format("", "R^2", "shuffled", "selectivity"))
  local best
  for layer, x in ipairs(X) do
    local real, control = probing.cross_validate(x, Y, { seed = seed }), probing.control(x, Y, { seed = seed })
    print(("%-14s %9.3f %9.3f %12.3f  %s"):format(layer == 1 and "embedding" or "after layer " .. layer - 2, real.r2,
      control.r2, real.r2 - control.r2, terminal.paint(terminal.bar(math.max(0, real.r2), 24), "orange")))
    if not best or real.r2 > best.r2 then best = real end
  end
  if args.svg then
    plot(args.svg, task, Y, best.predicted)
    print(terminal.paint(args.svg .. " is written", "grey"))
  end
end
