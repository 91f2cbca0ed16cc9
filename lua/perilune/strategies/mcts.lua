-- Monte Carlo tree search: tokens whose continuations a function of yours finds good.
--
--     pl.strategies.mcts(model, "Once", { n_simulations = 64, top_k = 8, n_rollout = 10,
--       value = function(text, info) return text:find("dragon") and 1 or 0 end })
--
-- Before each token the tree of continuations grows n_simulations times: from the root to a leaf along
-- the children with the largest Q + c_puct p sqrt(N parent) / (1 + N), p being the model's probability
-- and Q the mean value found beneath, scaled to 0..1 by the least and the largest seen; the leaf gets
-- its top_k likeliest tokens as children, and its value counts for all above it. Then the child most
-- often visited is the next token, and its part of the tree is kept (Kocsis and Szepesvari 2006,
-- "Bandit based Monte-Carlo planning", ECML; Silver et al. 2017, "Mastering the game of Go without
-- human knowledge", Nature; for text: Liu et al. 2023, "Don't throw away your value model!").
--
--   value(text, info)   any number; info has ids, ended, sum_logprobs and seq (what the text is in)
--   n_rollout           tokens drawn after a leaf before value sees it; 0
--   n_parallel          leaves that grow in one pass; 8

local pl = require "perilune"
local Run = require "perilune.strategies.run"

local function child_of(parent, id, prior, log_prob)
  local ids = table.move(parent.ids, 1, #parent.ids, 1, {})
  ids[#ids + 1] = id
  return { parent = parent, id = id, ids = ids, prior = prior, sum = parent.sum + log_prob, visits = 0, total = 0 }
end

-- The child with the largest upper bound.
local function pick(run, node)
  local best, best_bound
  for _, child in ipairs(node.children) do
    local spread = run.most - run.least
    local mean = child.visits > 0 and child.total / child.visits or node.total / math.max(1, node.visits)
    local q = spread > 0 and (mean - run.least) / spread or 0
    local bound = q + run.c_puct * child.prior * math.sqrt(node.visits) / (1 + child.visits)
    if not best or bound > best_bound then best, best_bound = child, bound end
  end
  return best
end

-- A leaf, which counts as visited without a value until it has one, so that others look elsewhere.
local function descend(run, root)
  local node = root
  while node.children do node = pick(run, node) end
  local up = node
  while up do
    up.visits = up.visits + 1
    up.total = up.total + (run.least < math.huge and run.least or 0)
    up = up.parent
  end
  return node
end

local function back_up(run, node, value)
  local charged = node.charged
  while node do
    node.total = node.total - charged + value
    node = node.parent
  end
  run.least, run.most = math.min(run.least, value), math.max(run.most, value)
end

local function expand(run, node, logits)
  local p = run:shape(logits, run.n_prompt + #node.ids, node.ids, node.seq):softmax()
  local own = logits:log_softmax()
  local values, ids = p:topk(math.min(run.top_k, run.n_vocab))
  node.children = {}
  for i = 0, values:count() - 1 do
    if values[i] > 0 then node.children[#node.children + 1] = child_of(node, ids[i], values[i], own[ids[i]]) end
  end
end

-- What the value function sees: the node's text, gone on for n_rollout tokens.
local function roll_out(run, nodes)
  local rolls, active = {}, {}
  for i, node in ipairs(nodes) do
    rolls[i] = { ids = table.move(node.ids, 1, #node.ids, 1, {}), sum = node.sum, ended = node.ended,
      logits = node.logits, seq = node.seq }
    if run.n_rollout > 0 and not node.ended then
      rolls[i].seq, active[#active + 1] = run:fork(node.seq), rolls[i]
      rolls[i].own = true
    end
  end
  for _ = 1, run.n_rollout do
    local items, going = {}, {}
    for _, roll in ipairs(active) do
      run.n_drawn = run.n_drawn + 1
      local pos = run.n_prompt + #roll.ids
      local id = run:draw(run:shape(roll.logits, pos, roll.ids, roll.seq), run.n_drawn, "tree")
      roll.sum = roll.sum + roll.logits:log_softmax()[id]
      if run:ends(id) then
        roll.ended = true
      else
        roll.ids[#roll.ids + 1] = id
        roll.ended = #roll.ids >= run.limit
        if not roll.ended then going[#going + 1], items[#items + 1] = roll, { roll.seq, { id }, logits = "last" } end
      end
    end
    for i, result in ipairs(run:extend(items)) do going[i].logits = result end
    active = going
  end
  return rolls
end

local function judge(run, roll)
  local value = run.value(run:text_of(roll.ids), { ids = roll.ids, ended = roll.ended or false,
    sum_logprobs = roll.sum, seq = roll.seq })
  if type(value) ~= "number" or value ~= value or math.abs(value) == math.huge then
    pl.fail("argument", "value gave %s: expected a number", tostring(value))
  end
  return value
end

-- n simulations at once: the leaves are fed in one pass, and those that are new get children.
local function simulate(run, root, n)
  local leaves, items, fed, new, known = {}, {}, {}, {}, {}
  for _ = 1, n do
    local node = descend(run, root)
    node.charged = run.least < math.huge and run.least or 0
    leaves[#leaves + 1] = node
    if not known[node] and node.value == nil then
      known[node], new[#new + 1] = true, node
      node.ended = run:ends(node.id) ~= nil or #node.ids >= run.limit
      if run:ends(node.id) then node.ids[#node.ids] = nil end
      if node.ended then
        node.seq = node.parent.seq
      else
        node.seq = run:fork(node.parent.seq)
        items[#items + 1], fed[#fed + 1] = { node.seq, { node.id }, logits = "last" }, node
      end
    end
  end
  for i, logits in ipairs(run:extend(items)) do fed[i].logits = logits end
  for i, roll in ipairs(roll_out(run, new)) do
    new[i].value = judge(run, roll)
    if roll.own then run:drop(roll.seq) end
  end
  for _, node in ipairs(leaves) do back_up(run, node, node.value) end
  for _, node in ipairs(fed) do
    expand(run, node, node.logits)
    node.logits = nil
  end
end

local function drop_tree(run, node, keep)
  if node == keep then return end
  for _, child in ipairs(node.children or {}) do drop_tree(run, child, keep) end
  if node.seq and not node.ended then run:drop(node.seq) end
end

return Run.strategy("mcts", { "value", "n_simulations", "n_parallel", "n_rollout", "c_puct", "sampling" },
  function(run)
    run.value = run:typed("value", "function", true)
    run.c_puct, run.n_rollout = run:number("c_puct", 1, 0), run:whole("n_rollout", 0)
    run.top_k = run:whole("top_k", 8, 1)
    run.least, run.most, run.n_drawn = math.huge, -math.huge, 0
    local n_simulations, n_parallel = run:whole("n_simulations", 32, 1), run:whole("n_parallel", 8, 1)
    local seq, first = run:start()
    local root = { ids = {}, sum = 0, visits = 0, total = 0, seq = seq }
    expand(run, root, run:feed(seq, first))
    local over
    repeat
      for n = 0, n_simulations - 1, n_parallel do simulate(run, root, math.min(n_parallel, n_simulations - n)) end
      local best
      for _, child in ipairs(root.children) do
        if not best or child.visits > best.visits
          or child.visits == best.visits and child.total / child.visits > best.total / best.visits then
          best = child
        end
      end
      over = run:put(best.id, { visits = best.visits, value = best.total / best.visits })
      drop_tree(run, root, best)
      best.parent, root = nil, best
    until over
    return { value = root.total / root.visits }
  end)
