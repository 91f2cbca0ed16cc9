/* Elementwise operations on float32 alone, in loops that the compiler makes vectors of. They give
 * the numbers of elementwise.c's walk over any types, and false where they do not apply. */
#ifndef PL_TENSOR_FLOAT_ROWS_H
#define PL_TENSOR_FLOAT_ROWS_H

#include "elementwise.h"

bool pl_float_unary(const pl_tensor *out, const pl_tensor *x, pl_unary op);

/* The four operations; comparisons into I32. */
bool pl_float_binary(const pl_tensor *out, const pl_tensor *a, const pl_tensor *b, pl_binary op);

/* condition: I32. */
bool pl_float_where(const pl_tensor *out, const pl_tensor *condition, const pl_tensor *a,
                    const pl_tensor *b);

#endif
