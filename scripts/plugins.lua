-- Lists the samplers of plugins: their parameters, where they came from, why one was refused.
--
-- A plugin is a file of C, built into a shared library, or of Lua that lies in one of the folders
-- listed at the end; plugins/template.c and plugins/template.lua are there to be copied. Whatever is
-- found is known by its name in chains and to --sampler.
--
--   perilune plugins
--   perilune plugins tfs
--   perilune plugins --builtin

local pl = require "perilune"
local cli = require "perilune.cli"
local terminal = require "perilune.terminal"

local parser = cli.parser("plugins", "Lists the samplers of plugins, and why a plugin was refused.")
parser:argument("name", "Only this sampler"):args "?"
parser:flag("--builtin", "The built-in samplers instead")
local args = cli.parse(parser)

local function range(param)
  local low, high = param.min, param.max
  if low < -1e30 and high > 1e30 then return "any number" end
  if high > 1e30 or high == 2147483647 then return ("from %g"):format(low) end
  return ("%g to %g"):format(low, high)
end

local function show(sampler)
  print(terminal.paint(sampler.name, "bold") .. "  " .. sampler.summary)
  for _, param in ipairs(sampler.params) do
    print(("    %-20s %-8s %-18s %s"):format(param.name, ("%g"):format(param.neutral), range(param), param.help or ""))
  end
  if sampler.list then print(("    %-20s a list of tokens"):format(sampler.list)) end
  if sampler.path then
    print(terminal.paint(("    %s%s"):format(sampler.path,
      sampler.abi and (", ABI version %d"):format(sampler.abi) or ""), "grey"))
  end
end

local list = args.builtin and pl.samplers() or pl.plugins.list()
local shown = 0
for _, sampler in ipairs(list) do
  if sampler.problem then
    if not args.name then print(terminal.paint("refused", "orange") .. "  " .. sampler.problem) end
  elseif not args.name or args.name == sampler.name then
    show(sampler)
    shown = shown + 1
  end
end
if args.name and shown == 0 then
  local names = {}
  for _, sampler in ipairs(list) do names[#names + 1] = sampler.name end
  local near = pl.nearest(args.name, names)
  cli.usage("no %s is called '%s'%s", args.builtin and "built-in sampler" or "plugin", args.name,
    near and (", did you mean '%s'?"):format(near) or "")
end
if not args.name and not args.builtin then
  print(terminal.paint("\nlooked for .so and .lua in:", "grey"))
  for _, folder in ipairs(pl.plugins.folders()) do print(terminal.paint("    " .. folder, "grey")) end
end
