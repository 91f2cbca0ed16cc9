/* Einstein's summation. */
#ifndef PL_TENSOR_EINSUM_H
#define PL_TENSOR_EINSUM_H

#include "call.h"

/* "ij,jk->ik": letters that the output lacks are summed over, a letter twice in one operand takes
 * its diagonal; without "->" the output has the letters that occur once, in alphabetical order.
 * Spaces are passed over. At most 8 letters and 8 operands of float32, int32 or int64; the result
 * is float32. Two operands become products of matrices (linalg.h) where they can; sums of others
 * are taken in float64. Errors: PL_ERR_ARGUMENT and PL_ERR_SHAPE name the letter. */
pl_status pl_op_einsum(pl_call *c, pl_tensor *out, const char *equation,
                       const pl_tensor *const *operands, int n_operands);

#endif
