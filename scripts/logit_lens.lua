-- What the model would say if it stopped after each layer: the logit lens.
--
-- The residual stream after each block goes straight to the last norm and the unembedding, as if the
-- blocks behind it did nothing. Column by column a token's successor takes shape; the colour is how
-- sure the model is. Below: the candidates after the last token, with their probability layer by
-- layer.
--
--   perilune logit_lens
--   perilune logit_lens "The little girl went home to her mother, and the little"
--   perilune logit_lens -k 8 --html lens.html

local pl = require "perilune"
local cli = require "perilune.cli"
local heatmap = require "perilune.heatmap"
local terminal = require "perilune.terminal"

local parser = cli.parser("logit_lens", "What the model would say if it stopped after each layer.")
parser:argument("prompt", "The text (default: one of ours; - reads standard input)"):args "*"
parser:option("-k --top", "How many candidates to follow"):argname "K":default "6":convert(cli.whole(1))
cli.page_option(parser)

local args = cli.parse(parser)
local model = cli.load(args, { precision = "exact", kv = "f32" })
local n_layers = model.config.n_layers
local ids, tokens, text = cli.prompt(model, args.prompt, "The little girl went home to her mother, and the little")

local logits, cache = model:run_with_cache(ids, { "blocks.0.hook_resid_pre", "resid_post" })

-- The candidates in the end.
local candidates, columns = model:topk(logits[-1], math.min(args.top, model.config.d_vocab)), {}
for k, token in ipairs(candidates) do columns[k] = terminal.piece(token.piece) end

-- depth 0 is the embedding, depth l + 1 the stream after block l.
local depths, texts, sure, notes, values = {}, {}, {}, {}, {}
for depth = 0, n_layers do
  local stream = cache[depth == 0 and "blocks.0.hook_resid_pre" or ("blocks.%d.hook_resid_post"):format(depth - 1)]
  local p = pl.analysis.unembed(model, stream):softmax() -- the last norm, then W_U
  local i = depth + 1
  depths[i] = depth == 0 and "embedding" or "layer " .. depth - 1
  texts[i], sure[i], notes[i], values[i] = {}, {}, {}, {}
  for pos = 0, #ids - 1 do
    local list = {}
    for k, token in ipairs(model:topk(p[pos], math.min(5, model.config.d_vocab))) do
      list[k] = ("%5.1f %%  %s"):format(100 * token.value, terminal.piece(token.piece))
      if k == 1 then texts[i][pos + 1], sure[i][pos + 1] = terminal.piece(token.piece), token.value end
    end
    notes[i][pos + 1] = table.concat(list, " | ")
  end
  for k, token in ipairs(candidates) do values[i][k] = p[-1][token.id] end
end

print(terminal.paint(terminal.visible(text), "bold"))
print("\nThe likeliest successor of each token, read after each layer:\n")
heatmap.print { values = sure, texts = texts, rows = depths, columns = tokens, low = 0, high = 1 }
print("\nProbability of the candidates after the last token:\n")
heatmap.print { values = values, rows = depths, columns = columns, format = "%.3f", low = 0, high = 1 }

if args.html then
  local page = require("perilune.page").new("What the model would say after each layer",
    "The pointer tells the five likeliest successors of a token as read after a layer.")
  page:lines(text)
  page:heat { name = "probability", values = sure, texts = texts, rows = depths, columns = tokens, low = 0, high = 1,
    notes = notes, row_name = "after", column_name = "token" }
  page:heading("Candidates after the last token")
  page:heat { name = "probability", values = values, rows = depths, columns = columns, format = "%.3f", low = 0,
    high = 1, row_name = "after" }
  cli.write_page(args, page)
end
