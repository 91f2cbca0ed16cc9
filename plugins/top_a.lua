-- top_a: keeps tokens of probability a p^2 or more, where p is that of the likeliest (BlinkDL 2022,
-- "Top-a sampling"). Sure of itself, the model keeps few; unsure, it keeps many.

return {
  name = "top_a",
  summary = "keeps tokens of probability a times the square of the likeliest one's",
  params = { top_a = { 0, min = 0, max = 1, help = "a; 0 keeps all" } },
  apply = function(params, logits)
    if params.top_a == 0 then return end
    local p = logits:softmax()
    local top = p:max()
    logits:masked_fill_(p:lt(params.top_a * top * top), -math.huge)
  end,
}
