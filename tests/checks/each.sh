#!/usr/bin/env bash
# Runs each suite given, also after one has failed; fails if any did. Suites that crash, and so
# print no count, leave a line that the summary counts.
failed=0
for suite in "$@"; do
    echo "== $suite"
    # cmocka's own signal handler would hide a sanitizer's report.
    ASAN_OPTIONS=handle_segv=2:handle_abort=2 "$suite" 2>&1
    status=$?
    [ $status -eq 0 ] || failed=1
    [ $status -lt 128 ] && [ $status -ne 99 ] || echo "SUITE CRASHED: $suite (status $status)"
done
exit $failed
