-- template_lua: a sampler to copy. Every so often it lets the text be surprising: one token of a
-- stretch is drawn from much flatter logits.
--
-- Copy it to a folder of plugins (`perilune plugins` says which those are), change the name, and it
-- is there:  perilune generate --sampler mine:every=5 "Once upon a time"

return {
  name = "template_lua",
  summary = "an example: flattens the logits once in a while",

  -- Numbers that a chain may set: a default, or {default, min =, max =, help =}.
  params = {
    every = { 0, min = 0, max = 1000, help = "tokens from one surprise to the next; 0: none" },
    temp = { 4, min = 0.01, max = 100, help = "divides the logits then" },
  },

  -- The state of one text, from the parameters. A fork gets a deep copy, unless `clone` says otherwise.
  new = function(params) return { every = params.every, temp = params.temp, since = 0 } end,

  -- Edits the logits [d_vocab] in place (-inf: removed), or returns the id it chooses. ctx has the
  -- tokens so far (ids), step, seq, random() and, for points named in `wants`, activations.
  apply = function(state, logits)
    if state.every > 0 and state.since + 1 >= state.every then logits:div_(state.temp) end
  end,

  -- The text went on with this token. Only here may the state change.
  accept = function(state)
    state.since = (state.since + 1) % math.max(1, state.every)
  end,
}
