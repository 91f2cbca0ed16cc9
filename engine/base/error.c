#include "error.h"

#include <stdarg.h>
#include <stdio.h>
#include <string.h>

const char *pl_status_name(pl_status status) {
    static const char *const names[] = {"ok",    "memory",      "io",    "format",      "argument",
                                        "shape", "unsupported", "state", "interrupted", "callback"};
    size_t i = (size_t)status;
    return i < sizeof names / sizeof *names ? names[i] : "unknown";
}

pl_status(pl_fail)(pl_error *err, pl_status status, const char *format, ...) {
    if (err) {
        va_list args;
        va_start(args, format);
        err->status = status;
        vsnprintf(err->message, sizeof err->message, format, args);
        va_end(args);
    }
    return status;
}

pl_status pl_error_prefix(pl_error *err, pl_status status, const char *format, ...) {
    if (err) {
        char old[PL_ERROR_MAX];
        memcpy(old, err->message, sizeof old);
        va_list args;
        va_start(args, format);
        int n = vsnprintf(err->message, sizeof err->message, format, args);
        va_end(args);
        size_t used = n < 0 ? 0 : (size_t)n < sizeof old ? (size_t)n : sizeof old - 1;
        snprintf(err->message + used, sizeof err->message - used, ": %s", old);
        err->status = status;
    }
    return status;
}

enum { NAME_MAX_LENGTH = 64 };

/* Levenshtein's distance with one row of the table; names longer than the limit are cut. */
static size_t edit_distance(const char *a, const char *b) {
    size_t n_b = strnlen(b, NAME_MAX_LENGTH);
    size_t row[NAME_MAX_LENGTH + 1];
    for (size_t j = 0; j <= n_b; j++) row[j] = j;
    for (size_t i = 0; a[i] && i < NAME_MAX_LENGTH; i++) {
        size_t diagonal = row[0];
        row[0] = i + 1;
        for (size_t j = 0; j < n_b; j++) {
            size_t best = diagonal + (a[i] != b[j]);
            if (row[j] + 1 < best) best = row[j] + 1;
            if (row[j + 1] + 1 < best) best = row[j + 1] + 1;
            diagonal = row[j + 1];
            row[j + 1] = best;
        }
    }
    return row[n_b];
}

const char *pl_nearest_name(const char *name, const char *const *candidates, size_t n) {
    size_t limit = strlen(name) / 3 > 2 ? strlen(name) / 3 : 2;
    const char *best = NULL;
    size_t best_distance = limit + 1;
    for (size_t i = 0; i < n; i++) {
        if (!candidates[i]) continue;
        size_t distance = edit_distance(name, candidates[i]);
        if (distance < best_distance) {
            best_distance = distance;
            best = candidates[i];
        }
    }
    return best;
}
