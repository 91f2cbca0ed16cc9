-- Runs the Lua specs in whichever Lua this is: stock lua5.4 with the module, or the program.
-- Debian's `busted` starts through `env lua`, which may be another version.
require "busted.runner"({ standalone = false })
