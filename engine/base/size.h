/* Sizes that come from files and scripts are multiplied and added with these, or not at all. */
#ifndef PL_BASE_SIZE_H
#define PL_BASE_SIZE_H

#include <stdbool.h>
#include <stddef.h>

/* *out = a * b, or a + b; false when it does not fit, and then *out is unspecified. */
static inline bool pl_size_mul(size_t *out, size_t a, size_t b) {
    return !__builtin_mul_overflow(a, b, out);
}
static inline bool pl_size_add(size_t *out, size_t a, size_t b) {
    return !__builtin_add_overflow(a, b, out);
}

/* Rounds up to a multiple of align, a power of two; the caller knows that it fits. */
static inline size_t pl_size_align(size_t n, size_t align) {
    return (n + align - 1) & ~(align - 1);
}

#endif
