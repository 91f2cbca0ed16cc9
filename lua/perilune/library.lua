-- Builds the part of the library that concerns models: pl.load, pl.new_model, generation, hooks.

return function(pl, core)
  pl.new_model = core.new_model
  pl.load_tokenizer = core.load_tokenizer
  pl.extend = core.extend
  pl.samplers = core.samplers
  pl.clock = core.clock
  pl.nearest = core.nearest

  -- Stops here, in a session at the terminal that knows the variables of the caller.
  function pl.breakpoint()
    local there, host = pcall(require, "perilune.host")
    if not there or not (host.is_terminal(0) and host.is_terminal(1)) then
      pl.fail("unsupported", "breakpoint: only the perilune program at a terminal can stop and ask")
    end
    require "perilune.interactive".breakpoint()
  end

  -- The whole of a file.
  function pl.read_file(path)
    if type(path) ~= "string" then pl.fail("argument", "read_file: got a %s, expected a path", type(path)) end
    local file <close>, why = io.open(path, "rb")
    if not file then pl.fail("io", "%s", why) end
    local text, problem = file:read("a")
    return text or pl.fail("io", "%s: %s", path, problem)
  end

  -- A part that most programs never need is read when one of its functions is first called.
  local function later(part, names)
    for _, name in ipairs(names) do
      local function first_call(...)
        if pl[name] == first_call then require("perilune." .. part)(pl, core) end
        return pl[name](...)
      end
      pl[name] = first_call
    end
  end

  later("fit", { "fit", "token_data", "init_weights", "make_folder", "check_saving" })
  later("hub", { "pull" })
  later("jinja", { "jinja" })
  later("json_schema", { "json_schema_grammar" })
  later("pipeline", { "pipeline" })
  later("prompt", { "prompt", "program" })
  later("regex", { "regex_expression", "regex_grammar" })
  later("train", { "text_files", "train_tokenizer" })
  require "perilune.json"(pl, core)
  require "perilune.grammar"(pl, core)
  require "perilune.model"(pl, core)
  require "perilune.architecture"(pl, core)
  require "perilune.partial"(pl, core)
  require "perilune.encoder"(pl, core)
  require "perilune.grad"(pl, core)
  require "perilune.optim"(pl, core)
  require "perilune.chat"(pl, core)
  require "perilune.cache"(pl, core, require "perilune.hooks"(pl, core).resolve)
  require "perilune.weights"(pl, core)
  require "perilune.interventions"(pl, core)
  require "perilune.patching"(pl, core)
  require "perilune.sae"(pl, core)
  require "perilune.steering"(pl, core)
  require "perilune.process"(pl, core)
  require "perilune.factored"(pl, core)
  require "perilune.analysis"(pl, core)
  require "perilune.chain"(pl, core)
  require "perilune.plugins"(pl, core)
  require "perilune.generate"(pl, core)
  require "perilune.strategies"(pl, core)
end
