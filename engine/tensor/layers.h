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
    pl_tensor b;     /* [n_out] F32, or absent (data NULL) */
} pl_linear;

typedef struct pl_norm_weights {
    pl_tensor gain, bias; /* [width] F32; bias may be absent */
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
                          const pl_norm_weights *weights); /* out may be x; no gain: none */

/* Both steps at once, the same bits, where nobody needs stats. layer: LayerNorm, else RMSNorm. */
pl_status pl_op_norm(pl_call *c, pl_tensor *out, const pl_tensor *x, bool layer, float eps,
                     const pl_norm_weights *weights); /* out may be x */

/* x = x * gain + bias: what is left to do after pl_op_normalize without weights, same bits. */
pl_status pl_op_gain_(pl_call *c, pl_tensor *x, const pl_norm_weights *weights);

/* Several linear maps of the same x in one go: outs[i] = x Wᵢᵀ + bᵢ, each [n_rows, n_out_i].
 * Quantised weights take x rounded to int8 blocks, unless c->exact. An out whose data is set
 * (contiguous rows of the right shape) is written there, else it is made. Needs a call with an
 * arena, which keeps the rounded activations. */
pl_status pl_op_linear(pl_call *c, pl_tensor *outs, const pl_tensor *x,
                       const pl_linear *const *linears, int n_linears);

/* y += x Wᵀ + b: pl_op_linear and pl_op_add_rows_ at once, tile by tile, the same bits. Not
 * recorded. */
pl_status pl_op_linear_add_(pl_call *c, pl_tensor *y, const pl_tensor *x, const pl_linear *linear);

/* out = activation(x W0ᵀ + b0) or, with a second map of the same width, that times x W1ᵀ + b1:
 * pl_op_linear and pl_op_activate at once, tile by tile, the same bits. */
pl_status pl_op_linear_activate(pl_call *c, pl_tensor *out, const pl_tensor *x,
                                const pl_linear *const *linears, int n_linears,
                                pl_activation activation);

/* Cosines and sines of every rotation, out [2, n_rows, n_pairs]: of positions[r] * frequencies[i],
 * worked out in float64, times a factor. frequencies [n_pairs]: radians per position. */
pl_status pl_op_rotations(pl_call *c, pl_tensor *out, const int32_t *positions, int64_t n_rows,
                          const double *frequencies, int64_t n_pairs, float factor);

/* Rotates the first 2 n_pairs elements of every head of x [n_rows, n_heads, d_head], in place. */
pl_status pl_op_rotate(pl_call *c, pl_tensor *x, const pl_tensor *rotations, bool half);

/* out = activation(x) or, with a second input, activation(x) * y. */
pl_status pl_op_activate(pl_call *c, pl_tensor *out, const pl_tensor *x, const pl_tensor *y,
                         pl_activation activation);

/* x += y, same shape. */
pl_status pl_op_add_rows_(pl_call *c, pl_tensor *x, const pl_tensor *y);

/* x = x * factor, and x = cap * tanh(x / cap). */
pl_status pl_op_scale_rows_(pl_call *c, pl_tensor *x, float factor);
pl_status pl_op_softcap_(pl_call *c, pl_tensor *x, float cap);

/* x = softmax(x), row by row. */
pl_status pl_op_softmax_rows_(pl_call *c, pl_tensor *x);

/* shares [n_rows, n_experts]: the weights of the chosen, scaled to sum to 1; of the others 0.
 * weights [n_rows, n_experts], indices [n_rows, n_used] whole numbers in range, as float32. */
pl_status pl_op_expert_shares(pl_call *c, pl_tensor *shares, const pl_tensor *weights,
                              const pl_tensor *indices);

/* out[rows[i]] += shares[rows[i], expert] * result[i], i < n; out [n_rows, width]. */
pl_status pl_op_add_expert_(pl_call *c, pl_tensor *out, const pl_tensor *result,
                            const pl_tensor *shares, int64_t expert, const int32_t *rows,
                            int64_t n);

/* out[i] = x[rows[i]] */
pl_status pl_op_take_rows(pl_call *c, pl_tensor *out, const pl_tensor *x, const int32_t *rows,
                          int64_t n_rows);

#endif
