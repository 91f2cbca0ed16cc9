/* From float32 to quantised blocks: the inverse of blocks.h, for writing files.
 *
 *     pl_quantize_row(PL_Q4_K, row, x, n, NULL);
 *
 * Scales are searched for, block by block, so that the squared error is least, weighted by the
 * importance of each element where it is given. Plain C: the same bytes on every processor. */
#ifndef PL_KERNELS_QUANTIZE_H
#define PL_KERNELS_QUANTIZE_H

#include "../base/dtype.h"

/* Writes a row of n elements as a quantised dtype; n is a multiple of its block.
 *   importance  [n], each >= 0: how much an element's squared error counts, for instance the mean
 *               square of the activations that meet it; NULL: the larger elements count more
 * A block with NaN or infinity gets a scale of NaN, so that it is found and not taken for numbers.
 */
void pl_quantize_row(pl_dtype dtype, void *out, const float *x, size_t n, const float *importance);

#endif
