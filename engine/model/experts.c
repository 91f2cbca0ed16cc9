/* Mlps of which a router chooses a few for each position; the others are not computed.
 *
 *     x -> router -> softmax -> the greatest n_experts_used, their shares summing to 1
 *     out[row] = sum over the chosen of share * mlp(x[row])
 *
 * Each row's sum runs over the experts in their order, whatever other rows have chosen. */
#include <math.h>
#include <string.h>

#include "../base/error.h"
#include "adapter.h"

static float *row_of(const pl_tensor *t, int64_t row) {
    return (float *)t->data + row * t->stride[0];
}

/* indices [n_rows, n_experts_used]: of the greatest weights, in falling order; of equals the first.
 */
static pl_status choose(pl_pass *p, pl_tensor *indices, const pl_tensor *weights) {
    const pl_config *config = &p->model->config;
    int64_t n = config->n_experts, n_used = config->n_experts_used;
    TRY(pl_call_tensor(&p->call, indices, PL_F32, 2, (int64_t[]){p->n_rows, n_used}));
    for (int64_t row = 0; row < p->n_rows; row++) {
        const float *w = row_of(weights, row);
        float *chosen = row_of(indices, row);
        for (int64_t k = 0; k < n_used; k++) {
            int64_t best = -1;
            for (int64_t e = 0; e < n; e++) {
                bool taken = false;
                for (int64_t i = 0; i < k; i++) taken |= chosen[i] == (float)e;
                if (!taken && (best < 0 || w[e] > w[best])) best = e;
            }
            chosen[k] = (float)best;
        }
    }
    return PL_OK;
}

/* A hook may have written anything. */
static pl_status check_indices(pl_pass *p, int layer, const pl_tensor *indices) {
    const pl_config *config = &p->model->config;
    for (int64_t i = 0; i < p->n_rows * config->n_experts_used; i++) {
        float e = ((const float *)indices->data)[i];
        if (e >= 0 && e < (float)config->n_experts && e == floorf(e)) continue;
        return pl_fail(&p->call.err, PL_ERR_ARGUMENT,
                       "mlp.hook_expert_indices, layer %d: %g: expected an expert from 0 to %lld",
                       layer, (double)e, (long long)config->n_experts - 1);
    }
    return PL_OK;
}

/* The maps of an expert, of rows[i] of the pass. */
static pl_status expert_maps(pl_pass *p, pl_tensor *outs, const pl_tensor *x,
                             const pl_linear *const *linears, int n_linears, const int32_t *rows) {
    pl_span *spans = NULL;
    int64_t n_spans = 0;
    TRY(pl_op_linear(&p->call, outs, x, linears, n_linears));
    if (p->adapted) TRY(pl_spans_of_rows(p, &spans, &n_spans, rows, x->shape[0]));
    for (int i = 0; p->adapted && i < n_linears; i++) {
        TRY(pl_adapt(p, &outs[i], x, linears[i], NULL, spans, n_spans));
    }
    return PL_OK;
}

/* out[rows that chose the expert] += share * mlp(x) */
static pl_status add_expert(pl_pass *p, int layer, int64_t expert, pl_tensor *out,
                            const pl_tensor *x, const pl_tensor *indices, const pl_tensor *shares) {
    const pl_config *config = &p->model->config;
    const pl_expert_weights *w = &p->model->weights.blocks[layer].experts[expert];
    pl_tensor memory, in, hidden[2] = {{0}}, post, result = {0};
    int64_t n = 0;
    TRY(pl_call_tensor(&p->call, &memory, PL_I32, 1, (int64_t[]){p->n_rows}));
    int32_t *rows = memory.data;
    for (int64_t row = 0; row < p->n_rows; row++) {
        bool chosen = false;
        for (int64_t k = 0; k < config->n_experts_used; k++) {
            chosen |= row_of(indices, row)[k] == (float)expert;
        }
        if (chosen) rows[n++] = (int32_t)row;
    }
    if (n == 0) return PL_OK;
    TRY(pl_op_take_rows(&p->call, &in, x, rows, n));
    TRY(expert_maps(p, hidden, &in, (const pl_linear *[]){&w->gate, &w->in}, 2, rows));
    TRY(pl_op_activate(&p->call, &post, &hidden[0], &hidden[1], config->activation));
    TRY(expert_maps(p, &result, &post, (const pl_linear *[]){&w->out}, 1, rows));
    return pl_op_add_expert_(&p->call, out, &result, shares, expert, rows, n);
}

pl_status pl_experts(pl_pass *p, int layer, pl_tensor *out, const pl_tensor *x) {
    const pl_config *config = &p->model->config;
    const pl_linear *router = &p->model->weights.blocks[layer].router;
    pl_tensor weights = {0}, indices, shares;
    TRY(pl_linear_maps(p, &weights, x, (const pl_linear *[]){router}, 1));
    TRY(pl_op_softmax_rows_(&p->call, &weights));
    TRY(pl_tap(p, PL_HOOK_EXPERT_WEIGHTS, layer, &weights));
    TRY(choose(p, &indices, &weights));
    TRY(pl_tap(p, PL_HOOK_EXPERT_INDICES, layer, &indices));
    TRY(check_indices(p, layer, &indices));
    TRY(pl_op_expert_shares(&p->call, &shares, &weights, &indices));
    TRY(pl_call_tensor(&p->call, out, PL_F32, 2, (int64_t[]){p->n_rows, config->d_model}));
    memset(out->data, 0, (size_t)pl_tensor_count(out) * sizeof(float));
    for (int64_t e = 0; e < config->n_experts; e++) {
        pl_arena_mark mark = pl_arena_save(p->call.arena);
        TRY(add_expert(p, layer, e, out, x, &indices, &shares));
        pl_arena_rewind(p->call.arena, mark);
    }
    return PL_OK;
}
