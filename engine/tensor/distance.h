/* Numbers that say how far apart rows are. */
#ifndef PL_TENSOR_DISTANCE_H
#define PL_TENSOR_DISTANCE_H

#include "call.h"

/* Both inputs are [n, width] or [width] (n 1), of float32 or whole numbers; out [n] is float32,
 * worked out in float64. PL_ERR_SHAPE names shapes that do not fit. */

/* out = sum of p log(p / q) over a row, in nats; where p is 0 it adds 0 and passes no gradient. */
pl_status pl_op_kl_div(pl_call *c, pl_tensor *out, const pl_tensor *p, const pl_tensor *q);

/* out = cosine of the angle between two rows; NaN where one is 0. */
pl_status pl_op_cosine(pl_call *c, pl_tensor *out, const pl_tensor *x, const pl_tensor *y);

#endif
