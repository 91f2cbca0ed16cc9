-- The tokens of a text: pieces and ids, in colour, and how merging makes them.
--
-- Neighbouring pieces have different colours and their ids stand below. With --merges each word is
-- shown on its way from single characters to tokens: at every step the pair that the vocabulary
-- ranks first is joined, until no pair is left that it knows.
--
--   perilune tokens "Once upon a time"
--   perilune tokens --merges "unbelievable"

require "perilune"
local cli = require "perilune.cli"
local terminal = require "perilune.terminal"

local parser = cli.parser("tokens", "The tokens of a text: pieces and ids.")
parser:argument("text", "The text (default: standard input)"):args "*"
parser:flag("--merges", "Show each merge")

local args = cli.parse(parser)
local text = cli.text(args.text)
local model = cli.load(args)
local ids = model:encode(text):to_table()
local pieces = model:to_str_tokens(ids)

-- Pieces above, ids below, in columns as wide as the wider of the two.
local function show_columns()
  local above, below, used, width = "", "", 0, math.min(terminal.width(), 100)
  local function flush()
    if used > 0 then print(above .. "\n" .. terminal.paint(below, "grey") .. "\n") end
    above, below, used = "", "", 0
  end
  for i, piece in ipairs(pieces) do
    local shown, id = terminal.coloured and terminal.visible(piece) or terminal.piece(piece), tostring(ids[i])
    local length = terminal.columns(shown)
    local column = math.max(length, #id)
    if used + column + 1 > width then flush() end
    above = above .. terminal.band(shown, i) .. (" "):rep(column - length + 1)
    below = below .. id .. (" "):rep(column - #id + 1)
    used = used + column + 1
  end
  flush()
end

-- A word's symbols with the one just made marked.
local function show_symbols(state)
  local parts = {}
  for i, piece in ipairs(state.pieces) do
    parts[i] = i == state.merged and terminal.paint("[" .. piece .. "]", "orange") or piece
  end
  local rank = state.step > 0 and ("%7.0f"):format(state.rank) or ("%7s"):format("")
  print(terminal.paint(rank, "grey") .. "  " .. table.concat(parts, " "))
end

local function show_merges()
  print(terminal.paint("   rank  symbols, in the vocabulary's own spelling", "grey"))
  local word
  for _, state in ipairs(model.tokenizer:explain(text)) do
    if word and state.word ~= word then print() end
    word = state.word
    show_symbols(state)
  end
  print()
end

show_columns()
if args.merges then show_merges() end
local n_characters = utf8.len(text) or #text
print(("%d tokens, %d characters, %d bytes"):format(#ids, n_characters, #text)
  .. (#ids > 0 and (": %.2f bytes a token"):format(#text / #ids) or ""))
