/* What single heads read and write: copies of the residual stream for each head, and each head's
 * share of attention's output.
 *
 *     resid_pre -> attn_in [pos, head, d_model] -> q_input, k_input, v_input -> ln1 -> q, k, v
 *     z [pos, head, d_head] -> result [pos, head, d_model] -> sum over heads + b_O -> attn_out
 *
 * The pass needs none of this: it is made beside the pass, for listeners. Only the rows that a
 * hook has changed are worked out again and put into the pass; all others keep their bits. */
#include <string.h>

#include "../base/error.h"
#include "adapter.h"
#include "heads.h"

const pl_point pl_head_input_points[PL_N_HEAD_INPUTS] = {PL_HOOK_Q_INPUT, PL_HOOK_K_INPUT,
                                                         PL_HOOK_V_INPUT};

static float *row_of(const pl_tensor *t, int64_t row) {
    return (float *)t->data + row * t->stride[0];
}

static float *head_row(const pl_tensor *t, int64_t row, int64_t head) {
    return row_of(t, row) + head * t->stride[1];
}

static bool same_row(const float *a, const float *b, int64_t n) {
    return memcmp(a, b, (size_t)n * sizeof *a) == 0;
}

static void copy_row(float *out, const float *x, int64_t n) {
    memcpy(out, x, (size_t)n * sizeof *out);
}

/* -- what heads read ------------------------------------------------------------------------ */

/* out[row, head] = x[row] */
static pl_status repeat(pl_pass *p, pl_tensor *out, const pl_tensor *x, int64_t n_heads) {
    int64_t d = p->model->config.d_model;
    TRY(pl_call_tensor(&p->call, out, PL_F32, 3, (int64_t[]){p->n_rows, n_heads, d}));
    for (int64_t row = 0; row < p->n_rows; row++) {
        for (int64_t h = 0; h < n_heads; h++) copy_row(head_row(out, row, h), row_of(x, row), d);
    }
    return PL_OK;
}

void pl_share_heads(const pl_tensor *out, const pl_tensor *attn_in) {
    int64_t n_rows = out->shape[0], n_heads = out->shape[1], d = out->shape[2];
    int64_t group = attn_in->shape[1] / n_heads;
    for (int64_t i = 0; i < n_rows * n_heads; i++) {
        const float *first = head_row(attn_in, i / n_heads, i % n_heads * group);
        float *mean = head_row(out, i / n_heads, i % n_heads);
        for (int64_t j = 0; j < d; j++) {
            float off = 0;
            for (int64_t g = 1; g < group; g++) off += first[g * attn_in->stride[1] + j] - first[j];
            mean[j] = off != 0 ? first[j] + off / (float)group : first[j];
        }
    }
}

static pl_status share(pl_pass *p, pl_tensor *out, const pl_tensor *attn_in, int64_t n_heads) {
    int64_t d = p->model->config.d_model;
    TRY(pl_call_tensor(&p->call, out, PL_F32, 3, (int64_t[]){p->n_rows, n_heads, d}));
    pl_share_heads(out, attn_in);
    return PL_OK;
}

pl_status pl_tap_head_inputs(pl_pass *p, int layer, pl_tensor *inputs, const pl_tensor *residual) {
    const pl_config *config = &p->model->config;
    const int64_t n_heads[PL_N_HEAD_INPUTS] = {config->n_heads, config->n_kv_heads,
                                               config->n_kv_heads};
    pl_tensor attn_in;
    bool split = false;
    if (p->call.keep) return pl_record_head_inputs(p, layer, inputs, residual);
    if (pl_listens(p, PL_HOOK_ATTN_IN, layer)) {
        TRY(repeat(p, &attn_in, residual, config->n_heads));
        split = pl_writes(p, PL_HOOK_ATTN_IN, layer);
        TRY(pl_tap(p, PL_HOOK_ATTN_IN, layer, &attn_in));
    }
    for (int i = 0; i < PL_N_HEAD_INPUTS; i++) {
        if (!split && !pl_listens(p, pl_head_input_points[i], layer)) continue;
        pl_tensor input;
        if (split)
            TRY(share(p, &input, &attn_in, n_heads[i]));
        else
            TRY(repeat(p, &input, residual, n_heads[i]));
        if (split || pl_writes(p, pl_head_input_points[i], layer)) inputs[i] = input;
        TRY(pl_tap(p, pl_head_input_points[i], layer, &input));
    }
    return PL_OK;
}

/* ln1 of changed rows, x = norm(x). A scale that a hook has set for a row holds for its copies. */
static pl_status norm_changed(pl_pass *p, int layer, pl_tensor *x, const int32_t *rows,
                              const pl_tensor *residual) {
    const pl_config *config = &p->model->config;
    if (!config->norm_slot[PL_NORM_BEFORE]) return PL_OK;
    pl_status (*measure)(pl_call *, pl_tensor *, const pl_tensor *, float) =
        config->norm == PL_NORM_LAYER ? pl_op_layer_norm_stats : pl_op_rms_norm_stats;
    pl_tensor stats, own;
    TRY(measure(&p->call, &stats, x, config->norm_eps));
    TRY(measure(&p->call, &own, residual, config->norm_eps));
    for (int64_t i = 0; i < x->shape[0]; i++) {
        const float *set = row_of(&p->stats, rows[i]);
        if (!same_row(set + 1, row_of(&own, rows[i]) + 1, 1)) row_of(&stats, i)[1] = set[1];
    }
    const pl_norm_weights *weights =
        &p->model->weights.blocks[layer].norm[PL_ATTENTION][PL_NORM_BEFORE];
    return pl_op_normalize(&p->call, x, x, &stats, weights);
}

pl_status pl_rows_of_head(pl_linear *out, const pl_linear *linear, int64_t head, int64_t d_head,
                          pl_error *err) {
    *out = *linear;
    TRY(pl_tensor_narrow(&out->w, linear->transposed, head * d_head, d_head, err));
    return out->b.data ? pl_tensor_narrow(&out->b, 0, head * d_head, d_head, err) : PL_OK;
}

/* q[changed rows, head] = ln1(input[rows, head]) W_head + b_head */
static pl_status project_changed(pl_pass *p, int layer, pl_tensor *q, const pl_tensor *input,
                                 const pl_linear *linear, int64_t head, const pl_tensor *residual) {
    int64_t d = p->model->config.d_model, d_head = p->model->config.d_head, n = 0;
    pl_tensor rows_memory, x, out = {0};
    TRY(pl_call_tensor(&p->call, &rows_memory, PL_I32, 1, (int64_t[]){p->n_rows}));
    int32_t *rows = rows_memory.data;
    for (int64_t row = 0; row < p->n_rows; row++) {
        if (!same_row(head_row(input, row, head), row_of(residual, row), d)) {
            rows[n++] = (int32_t)row;
        }
    }
    if (n == 0) return PL_OK;
    TRY(pl_call_tensor(&p->call, &x, PL_F32, 2, (int64_t[]){n, d}));
    for (int64_t i = 0; i < n; i++) copy_row(row_of(&x, i), head_row(input, rows[i], head), d);
    TRY(norm_changed(p, layer, &x, rows, residual));
    pl_linear one;
    TRY(pl_rows_of_head(&one, linear, head, d_head, &p->call.err));
    TRY(pl_op_linear(&p->call, &out, &x, (const pl_linear *[]){&one}, 1));
    if (p->adapted) {
        const pl_cut cut = {.first_out = head * d_head, .n_out = d_head};
        pl_span *spans;
        int64_t n_spans;
        TRY(pl_spans_of_rows(p, &spans, &n_spans, rows, n));
        TRY(pl_adapt(p, &out, &x, linear, &cut, spans, n_spans));
    }
    for (int64_t i = 0; i < n; i++) copy_row(head_row(q, rows[i], head), row_of(&out, i), d_head);
    return PL_OK;
}

pl_status pl_use_head_inputs(pl_pass *p, int layer, pl_tensor *qkv, const pl_tensor *inputs,
                             const pl_tensor *residual, const pl_tensor *normalized) {
    const pl_block_weights *w = &p->model->weights.blocks[layer];
    const pl_linear *const linears[PL_N_HEAD_INPUTS] = {&w->q, &w->k, &w->v};
    if (p->call.keep) return pl_record_head_maps(p, layer, qkv, inputs, residual, normalized);
    for (int i = 0; i < PL_N_HEAD_INPUTS; i++) {
        if (!inputs[i].data) continue;
        for (int64_t head = 0; head < inputs[i].shape[1]; head++) {
            pl_arena_mark mark = pl_arena_save(p->call.arena);
            TRY(project_changed(p, layer, &qkv[i], &inputs[i], linears[i], head, residual));
            pl_arena_rewind(p->call.arena, mark);
        }
    }
    return PL_OK;
}

pl_status pl_tap_mlp_in(pl_pass *p, int layer, pl_tensor *in, const pl_tensor *residual) {
    *in = *residual;
    if (!pl_listens(p, PL_HOOK_MLP_IN, layer)) return PL_OK;
    if (p->call.keep) {
        TRY(pl_op_scale_rows_(&p->call, in, 1)); /* a copy with a gradient */
        return pl_tap(p, PL_HOOK_MLP_IN, layer, in);
    }
    int64_t d = p->model->config.d_model;
    TRY(pl_call_tensor(&p->call, in, PL_F32, 2, (int64_t[]){p->n_rows, d}));
    for (int64_t row = 0; row < p->n_rows; row++)
        copy_row(row_of(in, row), row_of(residual, row), d);
    return pl_tap(p, PL_HOOK_MLP_IN, layer, in);
}

/* -- what heads write ----------------------------------------------------------------------- */

bool pl_columns_of_head(pl_linear *out, const pl_linear *linear, int64_t head, int64_t d_head) {
    const pl_dtype_info *dtype = pl_dtype_get(linear->w.dtype);
    int in = linear->transposed ? 0 : 1;
    if (d_head % (int64_t)dtype->block_elements != 0) return false;
    *out = (pl_linear){.w = linear->w, .transposed = linear->transposed};
    out->w.shape[in] = d_head;
    out->w.data = (char *)linear->w.data + head * d_head * linear->w.stride[in] /
                                               (int64_t)dtype->block_elements *
                                               (int64_t)dtype->block_bytes;
    return true;
}

/* result[:, head] = z[:, head] W_O[head] */
static pl_status result_of_head(pl_pass *p, pl_tensor *result, const pl_tensor *z,
                                const pl_linear *o, int64_t head) {
    int64_t d_head = p->model->config.d_head;
    pl_tensor out = *result, x = *z;
    TRY(pl_tensor_select(&out, 1, head, &p->call.err));
    pl_linear one;
    pl_cut cut = {0};
    if (pl_columns_of_head(&one, o, head, d_head)) {
        cut = (pl_cut){.first_in = head * d_head, .n_in = d_head};
        TRY(pl_tensor_narrow(&x, 1, head * d_head, d_head, &p->call.err));
    } else { /* all of W_O, and zeros for the other heads */
        one = (pl_linear){.w = o->w, .transposed = o->transposed};
        TRY(pl_call_tensor(&p->call, &x, PL_F32, 2, z->shape));
        memset(x.data, 0, (size_t)pl_tensor_count(&x) * sizeof(float));
        for (int64_t row = 0; row < p->n_rows; row++) {
            copy_row(row_of(&x, row) + head * d_head, row_of(z, row) + head * d_head, d_head);
        }
    }
    TRY(pl_op_linear(&p->call, &out, &x, (const pl_linear *[]){&one}, 1));
    return p->adapted ? pl_adapt(p, &out, &x, o, &cut, p->spans, p->n_spans) : PL_OK;
}

/* out[row] = sum over heads of result[row, head], + b_O */
static void sum_heads(const pl_tensor *result, int64_t row, float *out, const float *bias) {
    int64_t n_heads = result->shape[1], d = result->shape[2];
    for (int64_t j = 0; j < d; j++) {
        float sum = 0;
        for (int64_t h = 0; h < n_heads; h++) sum += head_row(result, row, h)[j];
        out[j] = bias ? sum + bias[j] : sum;
    }
}

void pl_sum_changed_results(const pl_tensor *out, const pl_tensor *result, const float *before,
                            const float *bias) {
    int64_t width = result->shape[1] * result->shape[2];
    for (int64_t row = 0; row < result->shape[0]; row++) {
        if (same_row(row_of(result, row), before + row * width, width)) continue;
        sum_heads(result, row, row_of(out, row), bias);
    }
}

pl_status pl_tap_results(pl_pass *p, int layer, pl_tensor *out, const pl_tensor *z) {
    if (!pl_listens(p, PL_HOOK_RESULT, layer)) return PL_OK;
    if (p->call.keep) return pl_record_results(p, layer, out, z);
    const pl_config *config = &p->model->config;
    const pl_linear *o = &p->model->weights.blocks[layer].o;
    bool writes = pl_writes(p, PL_HOOK_RESULT, layer);
    int64_t shape[] = {p->n_rows, config->n_heads, config->d_model}, width = shape[1] * shape[2];
    pl_tensor result, before;
    pl_arena_mark start = pl_arena_save(p->call.arena);
    TRY(pl_call_tensor(&p->call, &result, PL_F32, 3, shape));
    for (int64_t head = 0; head < config->n_heads; head++) {
        pl_arena_mark mark = pl_arena_save(p->call.arena);
        TRY(result_of_head(p, &result, z, o, head));
        pl_arena_rewind(p->call.arena, mark);
    }
    if (writes) {
        TRY(pl_call_tensor(&p->call, &before, PL_F32, 3, shape));
        copy_row(before.data, result.data, p->n_rows * width);
    }
    TRY(pl_tap(p, PL_HOOK_RESULT, layer, &result));
    if (writes) pl_sum_changed_results(out, &result, before.data, o->b.data);
    pl_arena_rewind(p->call.arena, start);
    return PL_OK;
}
