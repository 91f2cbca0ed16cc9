-- A map of the embedding: which tokens a model takes to be alike.
--
-- Every token is a row of W_E, a point in d_model dimensions. Principal component analysis (Pearson
-- 1901) turns the points so that the first directions hold as much of their spread as possible, and
-- the map shows the first two. What lies near on the map may lie far apart in the other directions:
-- the share of the spread that the map shows is printed, and so are the true neighbours, by cosine.
--
-- The words come in groups, which a trained model tends to keep together though nobody told it of
-- them. A word counts where it is one token of the model, with a space before it.
--
--   perilune embedding_map
--   perilune embedding_map --svg map.svg
--   perilune embedding_map --groups mine.txt --neighbours king,red,seven

local pl = require "perilune"
local cli = require "perilune.cli"
local svg = require "perilune.svg"
local terminal = require "perilune.terminal"

local parser = cli.parser("embedding_map", "A map of the embedding: which tokens a model takes to be alike.")
parser:option("--groups", "A file with lines NAME: WORD WORD ..."):argname "FILE"
parser:option("--neighbours", "Words whose neighbours are listed"):argname "WORDS":convert(cli.names)
  :default "king,red,seven,mother"
parser:option("-k --top", "How many neighbours"):argname "K":convert(cli.whole(1)):default "5"
parser:option("--svg", "Write the map"):argname "FILE"
local args = cli.parse(parser)
local model = cli.load(args)
local W = model.W_E

-- The id of a word that is one token, or nil.
local function id_of(word)
  local ids = model:encode(" " .. word, { add_special = false })
  return #ids == 1 and ids[0] or nil
end

local path = args.groups or pl.home .. "/scripts/data/word_groups.txt"
local groups, all, missing, number = {}, {}, {}, 0
for line in (cli.read_file(path) .. "\n"):gmatch("(.-)\r?\n") do
  number = number + 1
  local name, words = line:match("^%s*([^:#]-)%s*:%s*(.-)%s*$")
  if not name and line:find("^%s*[^#%s]") then
    pl.fail("format", "%s, line %d: expected NAME: WORD WORD ...", path, number)
  end
  local group = { name = name, words = {}, first = #all + 1 }
  for word in (words or ""):gmatch("%S+") do
    local id = id_of(word)
    if id then
      group.words[#group.words + 1], all[#all + 1] = word, id
    else
      missing[#missing + 1] = word
    end
  end
  if #group.words > 0 then groups[#groups + 1] = group end
end
if #all < 3 then cli.usage("%s: %d of its words are tokens of %s; a map takes 3", path, #all, model.name) end

-- -- the map ------------------------------------------------------------------------------------------

local points = W:index_select(0, all)
local centred = points - points:mean(0)
local _, scales, V = centred:svd()
local variance, shares = scales:square(), {}
for i = 0, 1 do shares[i + 1] = 100 * variance[i] / variance:sum() end
local places = centred:matmul(V:narrow(0, 0, 2):transpose(0, 1)):to_table()

print(("%d words of %d groups; the map shows %.1f %% + %.1f %% of their spread in %d dimensions"):format(#all, #groups,
  shares[1], shares[2], W.shape[2]))
if #missing > 0 then print(terminal.paint("not one token: " .. table.concat(missing, " "), "grey")) end

-- A coarse map of letters for the terminal, one letter for each group.
local COLUMNS, ROWS = 72, 22
local function bounds(axis)
  local low, high = math.huge, -math.huge
  for _, p in ipairs(places) do low, high = math.min(low, p[axis]), math.max(high, p[axis]) end
  return low, high > low and high - low or 1
end
local left, wide = bounds(1)
local low, tall = bounds(2)
local grid = {}
for row = 1, ROWS do
  grid[row] = {}
  for column = 1, COLUMNS do grid[row][column] = " " end
end
for g, group in ipairs(groups) do
  for i = 1, #group.words do
    local p = places[group.first + i - 1]
    local column = 1 + math.floor((p[1] - left) / wide * (COLUMNS - 1) + 0.5)
    local row = ROWS - math.floor((p[2] - low) / tall * (ROWS - 1) + 0.5)
    grid[row][column] = terminal.band(string.char(96 + (g - 1) % 26 + 1), g)
  end
end
for _, row in ipairs(grid) do print((table.concat(row):gsub("%s+$", ""))) end
for g, group in ipairs(groups) do
  print(("%s  %s %s"):format(terminal.band(string.char(96 + (g - 1) % 26 + 1), g), terminal.fit(group.name, 12),
    table.concat(group.words, " ")))
end

if args.svg then
  local series = {}
  for g, group in ipairs(groups) do
    local x, y = {}, {}
    for i = 1, #group.words do
      local p = places[group.first + i - 1]
      x[i], y[i] = p[1], p[2]
    end
    series[g] = { name = group.name, x = x, y = y, points = true, labels = group.words }
  end
  svg.save(args.svg, { title = "W_E of " .. model.name, x_label = ("first direction, %.1f %%"):format(shares[1]),
    y_label = ("second direction, %.1f %%"):format(shares[2]), series = series })
  print(terminal.paint(args.svg .. " is written", "grey"))
end

-- -- how far groups hold together, and neighbours -----------------------------------------------------

local unit = points / points:norm(1, { keepdim = true })
local likeness = unit:matmul(unit:transpose(0, 1))
local within, between, n_within, n_between = 0, 0, 0, 0
local group_of = {}
for g, group in ipairs(groups) do
  for i = 1, #group.words do group_of[group.first + i - 1] = g end
end
local rows = likeness:to_table()
for i = 1, #rows do
  for j = 1, i - 1 do
    if group_of[i] == group_of[j] then
      within, n_within = within + rows[i][j], n_within + 1
    else
      between, n_between = between + rows[i][j], n_between + 1
    end
  end
end
print(("\nmean cosine of two words: %.3f in one group, %.3f in two"):format(within / math.max(1, n_within),
  between / math.max(1, n_between)))

local norms = W:norm(1)
for _, word in ipairs(args.neighbours) do
  local id = id_of(word)
  if not id then
    print(("%s is not one token"):format(terminal.fit(word, 12)))
  else
    local cosines = W:matmul(W[id]) / (norms * norms[id])
    cosines[id] = -1
    local cells = {}
    for i, token in ipairs(model:topk(cosines, math.min(args.top, #cosines - 1))) do
      cells[i] = ("%s %.2f"):format(terminal.piece(token.piece), token.value)
    end
    print(terminal.fit(word, 12) .. " " .. table.concat(cells, "  "))
  end
end
