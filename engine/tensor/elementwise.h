/* Operations element by element, with broadcasting as in NumPy, on float32, int32 and int64.
 *
 * Results of float with integer are float32, of int32 with int64 int64. Integers never pass through
 * floats on the way to integers; they wrap round, as in Lua. Every function leaves *out
 * empty on failure, with the reason in c->err. */
#ifndef PL_TENSOR_ELEMENTWISE_H
#define PL_TENSOR_ELEMENTWISE_H

#include "call.h"

typedef enum pl_unary {
    PL_NEG,
    PL_ABS,
    PL_SIGN,
    PL_FLOOR,
    PL_CEIL,
    PL_ROUND, /* keep the dtype */
    PL_EXP,
    PL_LOG,
    PL_SQRT,
    PL_RSQRT,
    PL_SIN,
    PL_COS,
    PL_TANH,
    PL_SIGMOID,
    PL_RELU,
    PL_GELU,
    PL_SILU,
    PL_ERF,
    PL_SQUARE,
    PL_RECIPROCAL,
    PL_ISNAN,
    PL_N_UNARIES
} pl_unary;

typedef enum pl_binary {
    PL_ADD,
    PL_SUB,
    PL_MUL,
    PL_DIV, /* true division: float32 always */
    PL_FLOOR_DIV,
    PL_MOD, /* towards minus infinity, as in Lua */
    PL_POW,
    PL_MAXIMUM,
    PL_MINIMUM,
    PL_LT,
    PL_LE,
    PL_GT,
    PL_GE,
    PL_EQ,
    PL_NE, /* int32, 0 or 1 */
    PL_N_BINARIES
} pl_binary;

/* "neg", "add", ...: the names in Lua. */
const char *pl_unary_name(pl_unary op);
const char *pl_binary_name(pl_binary op);

pl_status pl_op_unary(pl_call *c, pl_tensor *out, const pl_tensor *x, pl_unary op);
pl_status pl_op_binary(pl_call *c, pl_tensor *out, const pl_tensor *a, const pl_tensor *b,
                       pl_binary op);

/* x = op(x), x = x op b: the shape of x stays, and b is read as it was before, also where it shares
 * memory with x. Here and below, no two elements of an x that is written may share memory. */
pl_status pl_op_unary_(pl_call *c, const pl_tensor *x, pl_unary op);
pl_status pl_op_binary_(pl_call *c, const pl_tensor *x, const pl_tensor *b, pl_binary op);

/* x[...] = source, broadcast and converted. */
pl_status pl_op_copy_(pl_call *c, const pl_tensor *x, const pl_tensor *source);

/* A contiguous copy of the given dtype; any float or quantised type can be read. */
pl_status pl_op_to(pl_call *c, pl_tensor *out, const pl_tensor *x, pl_dtype dtype);

void pl_op_fill_(const pl_tensor *x, double value);

/* condition (not 0) ? a : b */
pl_status pl_op_where(pl_call *c, pl_tensor *out, const pl_tensor *condition, const pl_tensor *a,
                      const pl_tensor *b);

/* The shape that two broadcast to. PL_ERR_SHAPE names both. */
pl_status pl_broadcast(pl_call *c, const pl_tensor *a, const pl_tensor *b, int *n_dims,
                       int64_t *shape);

#endif
