#!/usr/bin/env bash
# Runs each fuzz target given for FUZZ_SECONDS. What it finds new is kept in build/fuzz/corpus/NAME
# for the next run; a crashing input in build/fuzz/NAME-*. Seeds come from tests/fuzz/seeds/NAME.
failed=0
for target in "$@"; do
    name=${target##*/fuzz_}
    corpus=build/fuzz/corpus/$name
    seeds=tests/fuzz/seeds/$name
    mkdir -p "$corpus"
    [ -d "$seeds" ] || seeds=
    echo "== $name, ${FUZZ_SECONDS:-600} s"
    "$target" -max_total_time="${FUZZ_SECONDS:-600}" -timeout=10 -rss_limit_mb=2048 -print_final_stats=1 \
        -verbosity=0 -artifact_prefix="build/fuzz/$name-" "$corpus" $seeds || failed=1
done
exit $failed
