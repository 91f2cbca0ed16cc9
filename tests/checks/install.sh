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

printf '#include <perilune.h>\nint main(void) { return 0; }\n' >"$prefix/user.c"
${CC:-cc} -std=c11 -I"$prefix/include" -c "$prefix/user.c" -o "$prefix/user.o"

[ -e "$prefix/bin/perilune" ] || exit 0
cd /
unset PERILUNE_HOME LUA_PATH LUA_CPATH LUA_INIT
"$prefix/bin/perilune" -e 'assert(require "perilune")'
LUA_CPATH="$prefix/lib/lua/5.4/?.so" lua5.4 -e 'assert(require "perilune")'
if [ -d "$prefix/share/perilune/models" ]; then
    text=$("$prefix/bin/perilune" generate --seed 1 --max-new-tokens 8 "Once upon a time")
    [[ $text == *"Once upon a time"* ]] || { echo "generate printed: $text"; exit 1; }
fi
