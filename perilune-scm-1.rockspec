rockspec_format = "3.0"
package = "perilune"
version = "scm-1"
source = { url = "." }
description = {
  summary = "A language-model engine in C with Lua inside",
  detailed = [[
Runs GPT-2 and Llama models from GGUF and safetensors files. Every decision is Lua's: how a token
is chosen, how a prompt is built, which activation is read, changed or removed.]],
  license = "MIT",
}
supported_platforms = { "linux" }
dependencies = { "lua ~> 5.4", "argparse" }
external_dependencies = {
  OPENBLAS = { library = "libopenblas.so.0" },
  PCRE2 = { header = "pcre2.h" },
  JANSSON = { header = "jansson.h" },
  CURL = { header = "curl/curl.h" },
  CRYPTO = { header = "openssl/evp.h" },
}
build = {
  type = "make",
  build_target = "all",
  install_target = "install",
  -- LuaRocks moves the module away from the rest, so the rest's place is compiled in.
  build_variables = { BUILD = "build/rock", HOME_DIR = "$(PREFIX)/share/perilune" },
  install_variables = {
    BUILD = "build/rock",
    PREFIX = "$(PREFIX)",
    MODULE_DIR = "$(LIBDIR)",
    HOME_DIR = "$(PREFIX)/share/perilune",
  },
}
