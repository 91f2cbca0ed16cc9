-- Decoding strategies: pl.strategies.NAME(model, prompt, opts), each a page of Lua in strategies/.
--
-- A strategy's file is read when it is first asked for. One of your own is a file
-- perilune/strategies/NAME.lua anywhere on package.path.

return function(pl, core)
  local names = { "beam_search", "best_of_n", "classifier_free_guidance", "contrastive_decoding",
    "contrastive_search", "dola", "mcts", "phrase_ban", "prompt_lookup", "sample", "self_consistency",
    "speculative", "watermark" }

  local function unknown(name)
    local near = core.nearest(name, names)
    pl.fail("argument", "no strategy is called '%s'%s", name, near and ("; did you mean '%s'?"):format(near)
      or ("; there are %s"):format(table.concat(names, ", ")))
  end

  local function load_strategy(list, name)
    if type(name) ~= "string" then pl.fail("argument", "a strategy's name is a string, got %s", type(name)) end
    local module = "perilune.strategies." .. name
    if name:find("[^%w_]") or not package.searchpath(module, package.path) then unknown(name) end
    require "perilune.strategies.run".core = core
    local strategy = require(module)
    if type(strategy) ~= "table" or not strategy.options then unknown(name) end -- what strategies share
    rawset(list, name, strategy)
    return strategy
  end

  pl.strategies = setmetatable({}, {
    __index = load_strategy,
    __pairs = function(list)
      for _, name in ipairs(names) do local _ = list[name] end
      return next, list, nil
    end,
  })

  -- Several prompts by one strategy, whose passes are joined: each gives what it gives alone.
  function pl.batch(model, prompts, opts)
    local name, own = "sample", {}
    for key, value in pairs(opts or {}) do own[key] = value end
    if own.strategy ~= nil then name, own.strategy = own.strategy, nil end
    return pl.strategies[name]:batch(model, prompts, own)
  end
end
