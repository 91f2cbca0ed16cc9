-- Runs through some of the layers: pl.partial.

return function(pl, core)
  local function check_layer(value, name, otherwise, n_layers)
    if value == nil then return otherwise end
    local layer = math.tointeger(value)
    if layer and layer < 0 then layer = layer + n_layers end
    if not layer or layer < 0 or layer > n_layers then
      pl.fail("argument", "%s = %s: expected 0 to %d", name, tostring(value), n_layers)
    end
    return layer
  end

  -- Rows of several sequences through layers from_layer to to_layer - 1, in one pass. Nothing is
  -- kept: no sequence advances, and what they remember stays as it was.
  function pl.partial(items)
    if type(items) ~= "table" then pl.fail("argument", "expected a list of items, got a %s", type(items)) end
    for key in pairs(items) do
      if math.type(key) ~= "integer" and key ~= "from_layer" and key ~= "to_layer" then
        pl.fail("argument", "partial: no option is called '%s'; there are from_layer, to_layer", tostring(key))
      end
    end
    local first = type(items[1]) == "table" and items[1][1]
    if type(first) ~= "userdata" then pl.fail("argument", "partial: expected items {sequence, ...}") end
    local n_layers = first.model.config.n_layers
    return core.partial(first.session, items, check_layer(items.from_layer, "from_layer", 0, n_layers),
      check_layer(items.to_layer, "to_layer", n_layers, n_layers))
  end
end
