/* Between heads.c, which works out what single heads read and write, and heads_record.c, which does
 * so by operations with gradients. */
#ifndef PL_MODEL_HEADS_H
#define PL_MODEL_HEADS_H

#include "pass.h"

/* For queries, keys and values. */
enum { PL_N_HEAD_INPUTS = 3 };
extern const pl_point pl_head_input_points[PL_N_HEAD_INPUTS];

/* out [n_rows, n_heads, d_model] = the mean of attn_in [n_rows, config.n_heads, d_model] over the
 * query heads that share a key-value head; exact where they agree. */
void pl_share_heads(const pl_tensor *out, const pl_tensor *attn_in);

/* The rows of a linear map that make one head. */
pl_status pl_rows_of_head(pl_linear *out, const pl_linear *linear, int64_t head, int64_t d_head,
                          pl_error *err);

/* The columns of W_O that meet one head, as a map of their own without b_O. False where blocks of
 * quantised weights lie across heads. */
bool pl_columns_of_head(pl_linear *out, const pl_linear *linear, int64_t head, int64_t d_head);

/* out[row] = sum over heads of result[row, head], + bias where there is one, for those rows that
 * are no longer as in before, contiguous in the shape of result. */
void pl_sum_changed_results(const pl_tensor *out, const pl_tensor *result, const float *before,
                            const float *bias);

/* As pl_tap_head_inputs, pl_use_head_inputs and pl_tap_results, under a record of gradients. */
pl_status pl_record_head_inputs(pl_pass *p, int layer, pl_tensor *inputs,
                                const pl_tensor *residual);
pl_status pl_record_head_maps(pl_pass *p, int layer, pl_tensor *qkv, const pl_tensor *inputs,
                              const pl_tensor *residual, const pl_tensor *normalized);
pl_status pl_record_results(pl_pass *p, int layer, pl_tensor *out, const pl_tensor *z);

#endif
