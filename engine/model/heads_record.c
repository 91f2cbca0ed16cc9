/* What single heads read and write in a pass whose gradients are recorded: the same as in heads.c,
 * of all rows and by operations that have a gradient. The values are those of heads.c, bit by bit.
 */
#include <stdlib.h>
#include <string.h>

#include "../base/error.h"
#include "../tensor/elementwise.h"
#include "../tensor/reduce.h"
#include "adapter.h"
#include "heads.h"

static pl_status no_memory(pl_pass *p) {
    return pl_fail(&p->call.err, PL_ERR_MEMORY, "out of memory for the heads of a pass");
}

static float *row_of(const pl_tensor *t, int64_t row) {
    return (float *)t->data + row * t->stride[0];
}

/* x [n_rows, n_heads, width], of parts [n_rows, width]. */
static pl_status join_heads(pl_pass *p, pl_tensor *x, pl_tensor *parts, int64_t n_heads) {
    const pl_tensor **list = pl_arena_alloc(p->call.arena, (size_t)n_heads * sizeof *list);
    if (!list) return no_memory(p);
    for (int64_t h = 0; h < n_heads; h++) {
        TRY(pl_tensor_view(&parts[h], 3, (int64_t[]){p->n_rows, 1, -1}, &p->call.err));
        list[h] = &parts[h];
    }
    return pl_op_cat(&p->call, x, list, (int)n_heads, 1);
}

static pl_tensor *new_parts(pl_pass *p, int64_t n_heads) {
    size_t bytes = (size_t)n_heads * sizeof(pl_tensor);
    pl_tensor *parts = pl_arena_alloc(p->call.arena, bytes);
    if (parts) memset(parts, 0, bytes);
    return parts;
}

/* -- what heads read ------------------------------------------------------------------------ */

/* x [n_rows, d_model] seen as [n_rows, n_heads, d_model]. */
static pl_tensor spread(const pl_tensor *x, int64_t n_heads) {
    pl_tensor out = *x;
    memset(out.dim, 0, sizeof out.dim);
    out.n_dims = 3;
    out.shape[1] = n_heads;
    out.stride[1] = 0;
    out.shape[2] = x->shape[1];
    out.stride[2] = x->stride[1];
    return out;
}

static pl_status share(pl_pass *p, pl_tensor *out, const pl_tensor *attn_in, int64_t n_heads) {
    int64_t d = p->model->config.d_model;
    pl_tensor groups = *attn_in;
    TRY(pl_tensor_view(&groups, 4, (int64_t[]){p->n_rows, n_heads, -1, d}, &p->call.err));
    TRY(pl_op_reduce(&p->call, out, &groups, PL_MEAN, 2, false));
    pl_share_heads(out, attn_in);
    return PL_OK;
}

pl_status pl_record_head_inputs(pl_pass *p, int layer, pl_tensor *inputs,
                                const pl_tensor *residual) {
    const pl_config *config = &p->model->config;
    const int64_t n_heads[] = {config->n_heads, config->n_kv_heads, config->n_kv_heads};
    pl_tensor attn_in, copies;
    bool split = pl_listens(p, PL_HOOK_ATTN_IN, layer);
    if (split) {
        copies = spread(residual, config->n_heads);
        TRY(pl_op_to(&p->call, &attn_in, &copies, PL_F32));
        TRY(pl_tap(p, PL_HOOK_ATTN_IN, layer, &attn_in));
    }
    for (int i = 0; i < PL_N_HEAD_INPUTS; i++) {
        if (!split && !pl_listens(p, pl_head_input_points[i], layer)) continue;
        copies = split ? attn_in : spread(residual, n_heads[i]);
        if (split && n_heads[i] != config->n_heads) {
            TRY(share(p, &inputs[i], &attn_in, n_heads[i]));
        } else {
            TRY(pl_op_to(&p->call, &inputs[i], &copies, PL_F32));
        }
        TRY(pl_tap(p, pl_head_input_points[i], layer, &inputs[i]));
    }
    return PL_OK;
}

/* What heads read after ln1. */
typedef struct norm {
    pl_pass *p;
    const pl_norm_weights *weights;
    bool scales_set;
    pl_tensor is_set; /* [n_rows, 1, 2], 1 where a hook has set the scale */
} norm;

static pl_status measure(pl_pass *p, pl_tensor *stats, const pl_tensor *x) {
    const pl_config *config = &p->model->config;
    return config->norm == PL_NORM_LAYER
               ? pl_op_layer_norm_stats(&p->call, stats, x, config->norm_eps)
               : pl_op_rms_norm_stats(&p->call, stats, x, config->norm_eps);
}

/* A scale that a hook has set for a row holds for its copies. */
static pl_status begin_norm(norm *n, pl_pass *p, int layer, const pl_tensor *residual) {
    pl_tensor own;
    *n = (norm){.p = p};
    n->weights = &p->model->weights.blocks[layer].norm[PL_ATTENTION][PL_NORM_BEFORE];
    if (!pl_writes(p, PL_HOOK_LN1_SCALE, layer)) return PL_OK;
    TRY(measure(p, &own, residual));
    TRY(pl_call_tensor(&p->call, &n->is_set, PL_I32, 3, (int64_t[]){p->n_rows, 1, 2}));
    int32_t *set = n->is_set.data;
    for (int64_t row = 0; row < p->n_rows; row++) {
        set[2 * row] = 0;
        set[2 * row + 1] = row_of(&own, row)[1] != row_of(&p->stats, row)[1];
        n->scales_set |= set[2 * row + 1];
    }
    return PL_OK;
}

/* out = ln1(x), [n_rows, n_heads, d_model] contiguous. */
static pl_status run_norm(norm *n, pl_tensor *out, const pl_tensor *x) {
    pl_pass *p = n->p;
    pl_error *err = &p->call.err;
    pl_tensor rows = *x, stats;
    TRY(pl_tensor_view(&rows, 2, (int64_t[]){-1, x->shape[2]}, err));
    TRY(measure(p, &stats, &rows));
    if (n->scales_set) {
        pl_tensor set = p->stats, chosen;
        TRY(pl_tensor_view(&set, 3, (int64_t[]){p->n_rows, 1, 2}, err));
        TRY(pl_tensor_view(&stats, 3, (int64_t[]){p->n_rows, -1, 2}, err));
        TRY(pl_op_where(&p->call, &chosen, &n->is_set, &set, &stats));
        TRY(pl_tensor_view(&chosen, 2, (int64_t[]){-1, 2}, err));
        stats = chosen;
    }
    TRY(pl_op_normalize(&p->call, out, &rows, &stats, n->weights));
    return pl_tensor_view(out, 3, x->shape, err);
}

/* What hooks have made of the norm since, [n_rows, 1, d_model]: 0 where nothing, but with the
 * gradients of what they saw. */
static pl_status norm_edit(norm *n, pl_tensor *edit, const pl_tensor *residual,
                           const pl_tensor *normalized) {
    pl_tensor plain, x = *residual, seen = *normalized;
    const int64_t shape[] = {n->p->n_rows, 1, residual->shape[1]};
    TRY(pl_tensor_view(&x, 3, shape, &n->p->call.err));
    TRY(pl_tensor_view(&seen, 3, shape, &n->p->call.err));
    TRY(run_norm(n, &plain, &x));
    return pl_op_binary(&n->p->call, edit, &seen, &plain, PL_SUB);
}

/* x += edit, for copies that are as the residual stream is: of others only their own norm is
 * known. */
static pl_status add_norm_edit(pl_pass *p, pl_tensor *x, const pl_tensor *edit,
                               const pl_tensor *input, const pl_tensor *residual) {
    int64_t n_heads = input->shape[1], d = input->shape[2];
    pl_tensor same, part, sum;
    TRY(pl_call_tensor(&p->call, &same, PL_F32, 3, (int64_t[]){p->n_rows, n_heads, 1}));
    for (int64_t i = 0; i < p->n_rows * n_heads; i++) {
        const float *copy = row_of(input, i / n_heads) + i % n_heads * input->stride[1];
        bool kept = memcmp(copy, row_of(residual, i / n_heads), (size_t)d * sizeof *copy) == 0;
        ((float *)same.data)[i] = kept;
    }
    TRY(pl_op_binary(&p->call, &part, edit, &same, PL_MUL));
    TRY(pl_op_binary(&p->call, &sum, x, &part, PL_ADD));
    *x = sum;
    return PL_OK;
}

/* out [n_rows, n_heads, d_head] = x[:, head] W_head + b_head */
static pl_status map_heads(pl_pass *p, pl_tensor *out, const pl_tensor *x,
                           const pl_linear *linear) {
    int64_t n_heads = x->shape[1], d_head = p->model->config.d_head;
    pl_tensor *parts = new_parts(p, n_heads);
    if (!parts) return no_memory(p);
    for (int64_t head = 0; head < n_heads; head++) {
        pl_tensor copy = *x;
        pl_linear one;
        const pl_cut cut = {.first_out = head * d_head, .n_out = d_head};
        TRY(pl_tensor_select(&copy, 1, head, &p->call.err));
        TRY(pl_rows_of_head(&one, linear, head, d_head, &p->call.err));
        TRY(pl_op_linear(&p->call, &parts[head], &copy, (const pl_linear *[]){&one}, 1));
        if (!p->adapted) continue;
        TRY(pl_adapt(p, &parts[head], &copy, linear, &cut, p->spans, p->n_spans));
    }
    return join_heads(p, out, parts, n_heads);
}

pl_status pl_record_head_maps(pl_pass *p, int layer, pl_tensor *qkv, const pl_tensor *inputs,
                              const pl_tensor *residual, const pl_tensor *normalized) {
    const pl_block_weights *w = &p->model->weights.blocks[layer];
    const pl_linear *const linears[] = {&w->q, &w->k, &w->v};
    bool any = false, has_norm = p->model->config.norm_slot[PL_NORM_BEFORE];
    bool seen =
        pl_listens(p, PL_HOOK_LN1_SCALE, layer) || pl_listens(p, PL_HOOK_LN1_NORMALIZED, layer);
    norm n;
    pl_tensor edit;
    for (int i = 0; i < PL_N_HEAD_INPUTS; i++) any |= inputs[i].data != NULL;
    if (!any) return PL_OK;
    if (has_norm) TRY(begin_norm(&n, p, layer, residual));
    if (has_norm && seen) TRY(norm_edit(&n, &edit, residual, normalized));
    for (int i = 0; i < PL_N_HEAD_INPUTS; i++) {
        if (!inputs[i].data) continue;
        pl_tensor x = inputs[i];
        if (has_norm) TRY(run_norm(&n, &x, &inputs[i]));
        if (has_norm && seen) TRY(add_norm_edit(p, &x, &edit, &inputs[i], residual));
        TRY(map_heads(p, &qkv[i], &x, linears[i]));
    }
    return PL_OK;
}

/* -- what heads write ----------------------------------------------------------------------- */

/* Its own part of z, or zeros for the other heads. */
static pl_status part_of_z(pl_pass *p, pl_tensor *x, const pl_tensor *z, int64_t head, bool alone) {
    int64_t d_head = p->model->config.d_head, first = head * d_head;
    if (alone) {
        *x = *z;
        return pl_tensor_narrow(x, 1, first, d_head, &p->call.err);
    }
    pl_tensor own, zero;
    float none = 0;
    TRY(pl_call_tensor(&p->call, &own, PL_I32, 1, &z->shape[1]));
    for (int64_t i = 0; i < z->shape[1]; i++) {
        ((int32_t *)own.data)[i] = i >= first && i < first + d_head;
    }
    TRY(pl_tensor_wrap(&zero, PL_F32, 0, NULL, &none, &p->call.err));
    return pl_op_where(&p->call, x, &own, z, &zero);
}

/* result [n_rows, n_heads, d_model] = z[:, head] W_O[head] */
static pl_status results(pl_pass *p, pl_tensor *result, const pl_tensor *z, const pl_linear *o) {
    int64_t n_heads = p->model->config.n_heads, d_head = p->model->config.d_head;
    pl_tensor *parts = new_parts(p, n_heads);
    if (!parts) return no_memory(p);
    for (int64_t head = 0; head < n_heads; head++) {
        pl_tensor x;
        pl_linear one;
        pl_cut cut = {.first_in = head * d_head, .n_in = d_head};
        bool alone = pl_columns_of_head(&one, o, head, d_head);
        if (!alone) {
            one = (pl_linear){.w = o->w, .transposed = o->transposed};
            cut = (pl_cut){0};
        }
        TRY(part_of_z(p, &x, z, head, alone));
        TRY(pl_op_linear(&p->call, &parts[head], &x, (const pl_linear *[]){&one}, 1));
        if (!p->adapted) continue;
        TRY(pl_adapt(p, &parts[head], &x, o, &cut, p->spans, p->n_spans));
    }
    return join_heads(p, result, parts, n_heads);
}

pl_status pl_record_results(pl_pass *p, int layer, pl_tensor *out, const pl_tensor *z) {
    const pl_tensor *bias = &p->model->weights.blocks[layer].o.b;
    pl_tensor result, sum, all = *out;
    float *before = NULL;
    TRY(results(p, &result, z, &p->model->weights.blocks[layer].o));
    if (pl_writes(p, PL_HOOK_RESULT, layer)) {
        before = malloc(result.storage->bytes);
        if (!before) return no_memory(p);
        memcpy(before, result.data, result.storage->bytes);
    }
    pl_status status = pl_tap(p, PL_HOOK_RESULT, layer, &result);
    if (status == PL_OK) status = pl_op_reduce(&p->call, &sum, &result, PL_SUM, 1, false);
    if (status == PL_OK && bias->data) {
        *out = (pl_tensor){0};
        status = pl_op_binary(&p->call, out, &sum, bias, PL_ADD);
    } else if (status == PL_OK) {
        *out = sum;
    }
    if (status == PL_OK) { /* the same sums, rounded as without a record */
        memcpy(out->data, all.data, out->storage->bytes);
        if (before) pl_sum_changed_results(out, &result, before, bias->data);
    }
    free(before);
    return status;
}
