#!/usr/bin/env bash
# Runs every test and check, goes on after a failure, and ends with the sum over all of them:
# `N passed, N failed, N skipped`. With the argument `lint`, only the checks of the sources.
# Each part's output is kept in build/check/PART.log.
set -o pipefail
cd "$(dirname "$0")/../.." || exit 1
mkdir -p build/check
make="make --no-print-directory -j${JOBS:-$(nproc)} STRICT=1"
specs=$(compgen -G 'tests/lua/*_spec.lua')
passed=0 failed=0 skipped=0
broken=()

# number LOG EXPRESSION: the sum of the numbers that a sed expression extracts.
number() { sed -En "$2" "$1" | awk '{ n += $1 } END { print n + 0 }'; }

# part NAME COMMAND...: a check that passes or fails as a whole.
part() {
    local name=$1 log=build/check/$1.log
    shift
    echo "== $name"
    if "$@" >"$log" 2>&1; then
        passed=$((passed + 1))
    else
        failed=$((failed + 1)) broken+=("$name")
        grep -E ': (fatal )?(error|warning): ' "$log" | tail -n 60 || tail -n 60 "$log"
    fi
}

# tests NAME COMMAND...: suites whose own counts are added: cmocka's, busted's.
tests() {
    local name=$1 log=build/check/$1.log status p f s
    shift
    echo "== $name"
    "$@" 2>&1 | tee "$log" | grep -vE --line-buffered '^\[ +(RUN|OK) +\]'
    status=${PIPESTATUS[0]}
    p=$(number "$log" 's/^\[  PASSED  \] ([0-9]+) test.*/\1/p; s/^([0-9]+) success.*/\1/p')
    f=$(number "$log" 's/^\[  FAILED  \] ([0-9]+) test.*/\1/p; s/^SUITE CRASHED.*/1/p
        s/^[0-9]+ success[a-z]* \/ ([0-9]+) failure.*/\1/p; s/^[0-9]+ success.* ([0-9]+) error.*/\1/p')
    s=$(number "$log" 's/^\[  SKIPPED \] ([0-9]+) test.*/\1/p; s/^[0-9]+ success.* ([0-9]+) pending.*/\1/p')
    [ "$status" -ne 0 ] && [ "$f" -eq 0 ] && f=1
    [ "$status" -eq 0 ] && [ "$((p + s))" -eq 0 ] && f=$((f + 1)) && echo "$name: no test ran"
    [ "$f" -eq 0 ] || broken+=("$name")
    passed=$((passed + p)) failed=$((failed + f)) skipped=$((skipped + s))
}

headers_and_sources() { find engine lua plugins tests -name '*.[ch]' 2>/dev/null; }
lua_files() { find lua scripts plugins tests models -name '*.lua' 2>/dev/null; }

lint() {
    part layers lua5.4 tests/checks/layers.lua
    part clang-format clang-format --dry-run --Werror $(headers_and_sources)
    part luacheck lua5.1 /usr/bin/luacheck --no-color -q $(lua_files)
    part clang-tidy $make -k tidy
    part docs $make docs
}

if [ "${1:-}" = lint ]; then
    lint
else
    part build $make all suites
    tests engine $make test-engine
    [ -z "$specs" ] || tests lua $make test-lua
    part build-sanitized $make SANITIZE=1 all suites
    tests engine-sanitized $make SANITIZE=1 test-engine
    [ -z "$specs" ] || tests lua-sanitized $make SANITIZE=1 test-lua
    part install tests/checks/install.sh
    lint
fi

[ ${#broken[@]} -eq 0 ] || echo "failed: ${broken[*]} (see build/check)"
echo "$passed passed, $failed failed, $skipped skipped" | tee build/check/summary
[ "$failed" -eq 0 ]
