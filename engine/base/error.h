/* Errors travel upwards as a status and a message; nothing below lua/ prints or exits.
 *
 *     if (n > limit)
 *         return pl_fail(err, PL_ERR_FORMAT, "%s: %zu tensors, at most %zu", path, n, limit);
 */
#ifndef PL_BASE_ERROR_H
#define PL_BASE_ERROR_H

#include "../perilune.h"

/* Fills *err (which may be NULL) and returns status, which must not be PL_OK, so that it can
 * end a function. */
pl_status pl_fail(pl_error *err, pl_status status, const char *format, ...)
    __attribute__((format(printf, 3, 4)));

/* Puts "prefix: " before the message already in *err; err may be NULL. Returns its status. */
pl_status pl_error_prefix(pl_error *err, pl_status status, const char *format, ...)
    __attribute__((format(printf, 3, 4)));

/* Tells compilers and analysers that a failure is never PL_OK: without it they warn of outputs
 * that a failing function leaves unset. */
static inline pl_status pl_status_not_ok(pl_status status) {
    if (status == PL_OK) __builtin_unreachable();
    return status;
}
#define pl_fail(...) pl_status_not_ok(pl_fail(__VA_ARGS__))

/* The candidate nearest to name by edit distance, or NULL when none is near enough to be a
 * likely slip (more than a third of the name's length, at least 2, must differ).
 *   candidates  [n], entries may be NULL and are then passed over */
const char *pl_nearest_name(const char *name, const char *const *candidates, size_t n);

#endif
