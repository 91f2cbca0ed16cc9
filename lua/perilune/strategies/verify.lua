-- Speculation: cheaply proposed tokens are checked by the model in one pass, and the text that comes
-- out has exactly the model's own distribution (Leviathan et al. 2023, "Fast inference from
-- transformers via speculative decoding", ICML; Chen et al. 2023, "Accelerating large language model
-- decoding with speculative sampling").
--
-- A token that was drawn from q is kept with probability min(1, p / q), p being the model's; the
-- first that is not kept is drawn anew from what p has above q, max(0, p - q). A token that was only
-- guessed is kept when it is what the model draws here itself.

-- A token in place of a refused one, from max(0, p - q).
local function draw_rest(run, p, q, pos)
  local rest = (p - q):clamp(0)
  if rest:max() <= 0 then rest = p end -- p and q differ by rounding only
  return run:draw(rest:log(), pos, "rest")
end

-- The token at pos where `id` is proposed, drawn from q if that is given: `id` itself if it is kept.
local function settle(run, logits, pos, id, q)
  if not q then return (run:choose(logits, pos)) end
  local shaped = run:shape(logits, pos)
  if not id then return (run:draw(shaped, pos, "token")) end
  local p = shaped:softmax()
  if run:uniform(pos, "accept") * q[id] < p[id] then return id end
  return (draw_rest(run, p, q, pos))
end

--- Runs to the end of the text. propose(run, most) gives up to `most` tokens that may come next
-- and, if they were drawn, their distributions; settled(run, n_kept, n_proposed) hears what became of them.
---@param run table
---@param propose fun(run: table, most: integer): integer[], perilune.Tensor[]?
---@param settled? fun(run: table, n_kept: integer, n_proposed: integer)
---@return table of n_passes, n_drafted, n_accepted
local function verify(run, propose, settled)
  local counts = { n_passes = 0, n_drafted = 0, n_accepted = 0 }
  local seq, first = run:start()
  local last = run.prompt[run.n_prompt]
  if #first > 1 then run:feed(seq, table.move(first, 1, #first - 1, 1, {}), "none") end
  local over
  repeat
    local most = run.limit - #run.ids - 1
    local ids, drawn_from = {}, nil
    if most > 0 then ids, drawn_from = propose(run, most) end
    local fed = table.move(ids, 1, #ids, 2, { last })
    local start = seq.length
    local rows = run:feed(seq, fed, "all")
    local n_kept = 0
    for i = 0, #ids do
      local proposed = ids[i + 1]
      last = settle(run, rows[i], start + i + 1, proposed, drawn_from and drawn_from[i + 1])
      local kept = last == proposed
      over = run:put(last, { accepted = kept, drafted = proposed })
      n_kept = n_kept + (kept and 1 or 0)
      if over or not kept then break end
    end
    seq:truncate(start + 1 + n_kept)
    counts.n_passes = counts.n_passes + 1
    counts.n_drafted, counts.n_accepted = counts.n_drafted + #ids, counts.n_accepted + n_kept
    if settled and not over then settled(run, n_kept, #ids) end
  until over
  counts.acceptance = counts.n_drafted > 0 and counts.n_accepted / counts.n_drafted or 0
  return counts
end

return verify
