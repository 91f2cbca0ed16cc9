#!/usr/bin/env bash
# Installs into an empty folder and uses what was installed from another working directory, with
# nothing of the source tree in reach.
set -euo pipefail
cd "$(dirname "$0")/../.."
prefix=$(mktemp -d)
trap 'rm -rf "$prefix"' EXIT
make --no-print-directory install PREFIX="$prefix"
for file in lib/libperilune.a include/perilune.h; do
    [ -s "$prefix/$file" ] || { echo "not installed: $file"; exit 1; }
done

cat >"$prefix/user.c" <<'END'
#include <perilune.h>
int main(int argc, char **argv) {
    pl_model *model;
    if (argc != 2 || pl_model_load(&model, argv[1], NULL) != PL_OK) return 1;
    int n = (int)pl_model_get_sizes(model).n_layers;
    pl_model_free(model);
    return n > 0 ? 0 : 1;
}
END
${CC:-cc} -std=c11 -I"$prefix/include" "$prefix/user.c" -o "$prefix/user" \
    -L"$prefix/lib" -lperilune -lpcre2-8 -ljansson -lm -ldl -lpthread
[ ! -d "$prefix/share/perilune/models" ] || "$prefix/user" "$prefix/share/perilune/models/default.gguf"

[ -e "$prefix/bin/perilune" ] || exit 0
cd /
unset PERILUNE_HOME LUA_PATH LUA_CPATH LUA_INIT
"$prefix/bin/perilune" -e 'assert(require "perilune")'
LUA_CPATH="$prefix/lib/lua/5.4/?.so" lua5.4 -e 'assert(require "perilune")'
printf '#include <perilune_plugin.h>\nint main(void) { return PERILUNE_OK; }\n' >"$prefix/plugin.c"
${CC:-cc} -std=c11 -I"$prefix/include" -c "$prefix/plugin.c" -o "$prefix/plugin.o"
if [ -d "$prefix/lib/perilune/plugins" ]; then
    text=$("$prefix/bin/perilune" plugins tfs)
    [[ $text == *"$prefix/lib/perilune/plugins/tfs.so"* ]] || { echo "plugins printed: $text"; exit 1; }
fi
if [ -d "$prefix/share/perilune/models" ]; then
    text=$("$prefix/bin/perilune" generate --seed 1 --max-new-tokens 8 "Once upon a time")
    [[ $text == *"Once upon a time"* ]] || { echo "generate printed: $text"; exit 1; }
fi
