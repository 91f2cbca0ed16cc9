#!/usr/bin/env bash
# Runs each suite given, also after one has failed; fails if any did. A suite that ends before it
# has printed its count leaves a line that the summary counts.
failed=0
for suite in "$@"; do
    echo "== $suite"
    # cmocka's own signal handler would hide a sanitizer's report.
    ASAN_OPTIONS=handle_segv=2:handle_abort=2 "$suite" 2>&1 |
        awk -v suite="$suite" '{ print } /test\(s\) run\./ { ended = 1 }
            END { if (!ended) print "SUITE CRASHED: " suite }'
    [ "${PIPESTATUS[0]}" -eq 0 ] || failed=1
done
exit $failed
