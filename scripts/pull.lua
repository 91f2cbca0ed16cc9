-- Downloads a model from the Hugging Face hub into its cache.
--
-- Without FILE it brings what loading needs: config.json, the tokenizer's files and the weights in
-- safetensors, or the one GGUF file. What was cut off goes on where it ended; every file is checked
-- against the hub's digest. HF_TOKEN is sent for models that need it; HF_ENDPOINT names another hub,
-- HF_HUB_CACHE or HF_HOME another cache, and SSL_CERT_FILE a file of other certificate authorities.
--
--   perilune pull openai-community/gpt2
--   perilune generate -m openai-community/gpt2 "Once upon a time"
--   perilune pull ORG/NAME model-q8_0.gguf

local pl = require "perilune"
local cli = require "perilune.cli"
local terminal = require "perilune.terminal"

local parser = require "argparse"("perilune pull", "Downloads a model from the Hugging Face hub into its cache.")
parser:usage_max_width(78):help_max_width(78):help_description_margin(31)
parser:argument("id", "ORG/NAME, as the hub calls it")
parser:argument("file", "One file of it (default: what loading needs)"):args "?"
parser:option("--revision", "A branch, a tag or a commit"):argname "NAME":default "main"

local args = cli.parse(parser)
local show, finish = terminal.progress()
local began, name, first

local function on_progress(file, bytes, checking)
  if name ~= file.name then began, name, first = pl.clock(), file.name, bytes end
  local speed = (bytes - first) / math.max(pl.clock() - began, 1e-3)
  show(file.size > 0 and bytes / file.size or 1, checking and "checking " .. terminal.fit(file.name, 30)
    or ("%s of %s, %s/s  %s"):format(terminal.bytes(bytes), terminal.bytes(file.size), terminal.bytes(speed // 1),
      terminal.visible(file.name)))
end

local function on_file(file, was_there)
  finish()
  print(("%s  %s%s"):format(terminal.visible(file.name), terminal.bytes(file.size), was_there and ", was there" or ""))
  io.stdout:flush()
end

local function on_note(text)
  finish()
  io.stderr:write(terminal.paint(text, "grey", 2), "\n")
end

local good, result = xpcall(pl.pull, function(err)
  finish()
  return err
end, args.id, { file = args.file, revision = args.revision, on_progress = on_progress, on_file = on_file,
  on_note = on_note })
if not good then error(result, 0) end

local path = (args.file or result.files[1].name:find("/", 1, true)) and result.files[1].path
print(path or result.folder)
print(("perilune generate -m %s \"Once upon a time\""):format(
  path and path:find("%.gguf$") and path or args.revision ~= "main" and result.folder or args.id))
