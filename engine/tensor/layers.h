/* The operations of a transformer: embedding, norm, linear, rotation, activation.
 *
 * x is float32 [n_rows, width], contiguous rows. Under rule "one number, whatever the company" a
 * row of the output depends on its own row of x and the weights only. */
#ifndef PL_TENSOR_LAYERS_H
#define PL_TENSOR_LAYERS_H

#include "call.h"

/* y = x Wᵀ + b */
typedef struct pl_linear {
    pl_tensor w;     /* [n_out, n_in], any float or quantised type */
    bool transposed; /* w is stored as [n_in, n_out] (Conv1D); plain float types only */
    pl_tensor b;     /* [n_out] float type, or absent (data NULL) */
} pl_linear;

typedef struct pl_norm_weights {
    pl_tensor gain, bias; /* [width] float types; bias may be absent */
} pl_norm_weights;

int64_t pl_linear_n_out(const pl_linear *linear);
int64_t pl_linear_n_in(const pl_linear *linear);

/* out[r] = table[ids[r]], widened to float32. Every id is checked: PL_ERR_ARGUMENT names the
 * first outside the table. table [n, width] of any float or quantised type. */
pl_status pl_op_embed(pl_call *c, pl_tensor *out, const pl_tensor *table, const int32_t *ids,
                      int64_t n_rows);

/* Normalisation in two steps, as drawn; stats [n_rows, 2] holds mean and scale of each row. */
pl_status pl_op_layer_norm_stats(pl_call *c, pl_tensor *stats, const pl_tensor *x, float eps);
pl_status pl_op_rms_norm_stats(pl_call *c, pl_tensor *stats, const pl_tensor *x, float eps);
pl_status pl_op_normalize(pl_call *c, pl_tensor *out, const pl_tensor *x, const pl_tensor *stats,
                          const pl_norm_weights *weights);

/* Several linear maps of the same x in one go: outs[i] = x Wᵢᵀ + bᵢ, each [n_rows, n_out_i].
 * Quantised weights take x rounded to int8 blocks, unless c->exact. */
pl_status pl_op_linear(pl_call *c, pl_tensor *outs, const pl_tensor *x,
                       const pl_linear *const *linears, int n_linears);

/* Rotates the first rope_dims of every head of x [n_rows, n_heads, d_head], in place; row r by
 * positions[r]. frequencies [rope_dims / 2]: radians per position of each pair. */
pl_status pl_op_rotate(pl_call *c, pl_tensor *x, const int32_t *positions,
                       const double *frequencies, int64_t rope_dims, bool half);

/* out = activation(x) or, with a second input, activation(x) * y. */
pl_status pl_op_activate(pl_call *c, pl_tensor *out, const pl_tensor *x, const pl_tensor *y,
                         pl_activation activation);

/* out = a + b, same shape, float32 rows. */
pl_status pl_op_add_rows(pl_call *c, pl_tensor *out, const pl_tensor *a, const pl_tensor *b);

/* out[i] = x[rows[i]] */
pl_status pl_op_take_rows(pl_call *c, pl_tensor *out, const pl_tensor *x, const int32_t *rows,
                          int64_t n_rows);

#endif
