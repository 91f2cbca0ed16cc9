-- cooling: a temperature that changes as the text goes on, from `hot` towards `cold`, by half the
-- distance in `half_life` tokens: lively beginnings that come to a sober end.

return {
  name = "cooling",
  summary = "a temperature that falls, or rises, as the text goes on",
  params = {
    hot = { 1, min = 0.01, max = 100, help = "the temperature at first" },
    cold = { 1, min = 0.01, max = 100, help = "the temperature that it comes to" },
    half_life = { 32, min = 1, max = 1e6, help = "tokens in which half of the way is gone" },
  },
  new = function(params)
    return { temp = params.hot, cold = params.cold, keep = 0.5 ^ (1 / params.half_life) }
  end,
  apply = function(state, logits)
    if state.temp ~= 1 then logits:div_(state.temp) end
  end,
  accept = function(state)
    state.temp = state.cold + (state.temp - state.cold) * state.keep
  end,
}
