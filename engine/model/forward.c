/* The forward pass, as the diagram of a transformer: one call per operation.
 *
 * A description (config.h) says which parts there are; an absent part is the identity. What a hook
 * may see stands between the operations as a tap. */
#include <string.h>

#include "pass.h"

enum { OUTSIDE = -1 };

#define BIT(point) ((uint64_t)1 << (point))

/* The two taps of a norm. */
typedef struct norm_points {
    pl_point scale, normalized;
} norm_points;
/* Of a sublayer's first norm, and of its second. */
static const norm_points block_points[PL_N_SUBLAYERS][2] = {
    [PL_ATTENTION] = {{PL_HOOK_LN1_SCALE, PL_HOOK_LN1_NORMALIZED},
                      {PL_HOOK_LN1_POST_SCALE, PL_HOOK_LN1_POST_NORMALIZED}},
    [PL_MLP] = {{PL_HOOK_LN2_SCALE, PL_HOOK_LN2_NORMALIZED},
                {PL_HOOK_LN2_POST_SCALE, PL_HOOK_LN2_POST_NORMALIZED}},
};
static const norm_points final_points = {PL_HOOK_LN_FINAL_SCALE, PL_HOOK_LN_FINAL_NORMALIZED};
static const norm_points query_points = {PL_HOOK_Q_NORM_SCALE, PL_HOOK_Q_NORMALIZED};
static const norm_points key_points = {PL_HOOK_K_NORM_SCALE, PL_HOOK_K_NORMALIZED};
/* Those who look at what single heads read need the norm's stats. */
static const uint64_t stats_readers =
    BIT(PL_HOOK_ATTN_IN) | BIT(PL_HOOK_Q_INPUT) | BIT(PL_HOOK_K_INPUT) | BIT(PL_HOOK_V_INPUT);

/* x as listeners see it: [rows, width], or with heads [rows, n_heads, -1]. */
static pl_status tap_as(pl_pass *p, pl_point point, int layer, const pl_tensor *x,
                        int64_t n_heads) {
    pl_tensor view = *x;
    if (n_heads) {
        TRY(pl_tensor_view(&view, 3, (int64_t[]){p->n_rows, n_heads, -1}, &p->call.err));
    }
    return pl_tap(p, point, layer, &view);
}

/* What a hook sees and sets of stats [n, 2]: its second column. */
static pl_status tap_scale(pl_pass *p, pl_point point, int layer, const pl_tensor *stats,
                           int64_t n_heads) {
    pl_tensor scale = *stats;
    if (n_heads) {
        int64_t groups = stats->shape[0] / p->n_rows;
        TRY(pl_tensor_view(&scale, 3, (int64_t[]){p->n_rows, groups, 2}, &p->call.err));
    }
    TRY(pl_tensor_narrow(&scale, n_heads ? 2 : 1, 1, 1, &p->call.err));
    return pl_tap(p, point, layer, &scale);
}

/* out = norm(x), row by row; out may be x. points NULL: nobody can listen. n_heads: the rows are
 * shown as so many heads, 0: as they are. */
static pl_status normalize(pl_pass *p, const norm_points *points, int layer, pl_tensor *out,
                           const pl_tensor *x, const pl_norm_weights *weights, int64_t n_heads) {
    const pl_config *config = &p->model->config;
    pl_tensor stats;
    uint64_t between = points ? BIT(points->scale) | BIT(points->normalized) | stats_readers : 0;
    if (!pl_stands(p, between, layer)) {
        return pl_op_norm(&p->call, out, x, config->norm == PL_NORM_LAYER, config->norm_eps,
                          weights);
    }
    if (config->norm == PL_NORM_LAYER) {
        TRY(pl_op_layer_norm_stats(&p->call, &stats, x, config->norm_eps));
    } else {
        TRY(pl_op_rms_norm_stats(&p->call, &stats, x, config->norm_eps));
    }
    if (points) {
        TRY(tap_scale(p, points->scale, layer, &stats, n_heads));
        p->stats = stats;
    }
    /* As in TransformerLens, what RMSNorm shows has not met its gain, what LayerNorm shows has. */
    if (points && config->norm == PL_NORM_RMS && pl_listens(p, points->normalized, layer)) {
        TRY(pl_op_normalize(&p->call, out, x, &stats, &(pl_norm_weights){0}));
        TRY(tap_as(p, points->normalized, layer, out, n_heads));
        return pl_op_gain_(&p->call, out, weights);
    }
    TRY(pl_op_normalize(&p->call, out, x, &stats, weights));
    return points ? tap_as(p, points->normalized, layer, out, n_heads) : PL_OK;
}

/* The norm in a slot of a sublayer; an empty slot is the identity. A sublayer's first filled slot
 * is its ln1 or ln2, its second is ln1_post or ln2_post. */
static pl_status norm_slot(pl_pass *p, int layer, pl_sublayer sublayer, pl_norm_slot slot,
                           pl_tensor *out, const pl_tensor *x) {
    const bool *filled = p->model->config.norm_slot;
    if (!filled[slot]) {
        *out = *x;
        return PL_OK;
    }
    int earlier = 0;
    for (int i = 0; i < (int)slot; i++) earlier += filled[i];
    const norm_points *points = earlier < 2 ? &block_points[sublayer][earlier] : NULL;
    const pl_norm_weights *weights = &p->model->weights.blocks[layer].norm[sublayer][slot];
    return normalize(p, points, layer, out, x, weights, 0);
}

/* The norm of queries or keys x [rows, head, d_head], in place. */
static pl_status norm_heads(pl_pass *p, const norm_points *points, int layer, pl_tensor *x,
                            const pl_norm_weights *weights) {
    const pl_config *config = &p->model->config;
    if (config->qk_norm == PL_QK_NORM_NONE) return PL_OK;
    int64_t n_heads = x->shape[1];
    int64_t width = config->qk_norm == PL_QK_NORM_WHOLE ? n_heads * config->d_head : config->d_head;
    pl_tensor rows = *x;
    TRY(pl_tensor_view(&rows, 2, (int64_t[]){-1, width}, &p->call.err));
    TRY(normalize(p, points, layer, &rows, &rows, weights, n_heads));
    TRY(pl_tensor_view(&rows, 3, x->shape, &p->call.err));
    *x = rows;
    return PL_OK;
}

/* Queries, keys and values [rows, head, d_head], rotated where positions are. */
static pl_status project(pl_pass *p, int layer, pl_tensor qkv[3], const pl_tensor *residual) {
    const pl_config *config = &p->model->config;
    const pl_block_weights *w = &p->model->weights.blocks[layer];
    pl_error *err = &p->call.err;
    pl_tensor x, inputs[3] = {{0}}, *q = &qkv[0], *k = &qkv[1], *v = &qkv[2];

    TRY(pl_tap_head_inputs(p, layer, inputs, residual));
    TRY(norm_slot(p, layer, PL_ATTENTION, PL_NORM_BEFORE, &x, residual));
    TRY(pl_linear_maps(p, qkv, &x, (const pl_linear *[]){&w->q, &w->k, &w->v}, 3));
    TRY(pl_tensor_view(q, 3, (int64_t[]){p->n_rows, config->n_heads, config->d_head}, err));
    TRY(pl_tensor_view(k, 3, (int64_t[]){p->n_rows, config->n_kv_heads, config->d_head}, err));
    TRY(pl_tensor_view(v, 3, (int64_t[]){p->n_rows, config->n_kv_heads, config->d_head}, err));
    TRY(pl_use_head_inputs(p, layer, qkv, inputs, residual, &x));
    TRY(pl_tap(p, PL_HOOK_Q, layer, q));
    TRY(pl_tap(p, PL_HOOK_K, layer, k));
    TRY(pl_tap(p, PL_HOOK_V, layer, v));

    TRY(norm_heads(p, &query_points, layer, q, &w->q_norm));
    TRY(norm_heads(p, &key_points, layer, k, &w->k_norm));
    if (config->positions == PL_POSITIONS_ROTARY) {
        const pl_tensor *rotations = &p->rotations[pl_config_windowed(config, layer)];
        TRY(pl_op_rotate(&p->call, q, rotations, config->rope_half));
        TRY(pl_op_rotate(&p->call, k, rotations, config->rope_half));
        TRY(pl_tap(p, PL_HOOK_ROT_Q, layer, q));
        TRY(pl_tap(p, PL_HOOK_ROT_K, layer, k));
    }
    return PL_OK;
}

/* out = x Wᵀ + b, the end of a sublayer; or, where nothing stands between it and the residual
 * stream, that is added to it at once, and out has no data. */
static pl_status map_out(pl_pass *p, int layer, uint64_t between, pl_tensor *out,
                         pl_tensor *residual, const pl_tensor *x, const pl_linear *map) {
    const pl_config *config = &p->model->config;
    *out = (pl_tensor){0};
    if (!p->adapted && !config->parallel && !config->norm_slot[PL_NORM_AFTER_SUBLAYER] &&
        !pl_stands(p, between, layer)) {
        return pl_op_linear_add_(&p->call, residual, x, map);
    }
    return pl_linear_maps(p, out, x, &map, 1);
}

/* Unless it was added already, out [rows, d_model] is normed and shown. */
static pl_status show_out(pl_pass *p, int layer, pl_sublayer sublayer, pl_tensor *out) {
    if (!out->data) return PL_OK;
    pl_tensor result = *out;
    TRY(norm_slot(p, layer, sublayer, PL_NORM_AFTER_SUBLAYER, out, &result));
    return pl_tap(p, sublayer == PL_ATTENTION ? PL_HOOK_ATTN_OUT : PL_HOOK_MLP_OUT, layer, out);
}

static pl_status attention(pl_pass *p, int layer, pl_tensor *out, pl_tensor *residual) {
    const pl_block_weights *w = &p->model->weights.blocks[layer];
    pl_tensor qkv[3] = {{0}}, z;

    TRY(project(p, layer, qkv, residual));
    if (p->call.keep) {
        TRY(pl_attend_recorded(p, layer, &z, &qkv[0], &qkv[1], &qkv[2]));
    } else {
        TRY(pl_attend(p, layer, &z, &qkv[0], &qkv[1], &qkv[2]));
    }
    TRY(pl_tap(p, PL_HOOK_Z, layer, &z));
    TRY(pl_tensor_view(&z, 2, (int64_t[]){p->n_rows, -1}, &p->call.err));
    uint64_t between = BIT(PL_HOOK_RESULT) | BIT(PL_HOOK_ATTN_OUT);
    TRY(map_out(p, layer, between, out, residual, &z, &w->o));
    if (out->data) TRY(pl_tap_results(p, layer, out, &z));
    return show_out(p, layer, PL_ATTENTION, out);
}

/* The mlp without its norms. */
static pl_status feed_forward(pl_pass *p, int layer, pl_tensor *out, pl_tensor *residual,
                              const pl_tensor *x) {
    const pl_config *config = &p->model->config;
    const pl_block_weights *w = &p->model->weights.blocks[layer];
    const pl_linear *maps[] = {config->gated ? &w->gate : &w->in, &w->in};
    int n_maps = config->gated ? 2 : 1;
    pl_tensor hidden[2] = {{0}}, post;
    if (p->adapted || pl_stands(p, BIT(PL_HOOK_MLP_PRE) | BIT(PL_HOOK_MLP_PRE_LINEAR), layer)) {
        TRY(pl_linear_maps(p, hidden, x, maps, n_maps));
        TRY(pl_tap(p, PL_HOOK_MLP_PRE, layer, &hidden[0]));
        if (config->gated) TRY(pl_tap(p, PL_HOOK_MLP_PRE_LINEAR, layer, &hidden[1]));
        TRY(pl_op_activate(&p->call, &post, &hidden[0], config->gated ? &hidden[1] : NULL,
                           config->activation));
    } else {
        TRY(pl_op_linear_activate(&p->call, &post, x, maps, n_maps, config->activation));
    }
    TRY(pl_tap(p, PL_HOOK_MLP_POST, layer, &post));
    return map_out(p, layer, BIT(PL_HOOK_MLP_OUT), out, residual, &post, &w->out);
}

static pl_status mlp(pl_pass *p, int layer, pl_tensor *out, pl_tensor *residual) {
    pl_tensor in, x;
    *out = (pl_tensor){0};
    TRY(pl_tap_mlp_in(p, layer, &in, residual));
    TRY(norm_slot(p, layer, PL_MLP, PL_NORM_BEFORE, &x, &in));
    if (p->model->config.n_experts) {
        TRY(pl_experts(p, layer, out, &x));
    } else {
        TRY(feed_forward(p, layer, out, residual, &x));
    }
    return show_out(p, layer, PL_MLP, out);
}

/* residual = norm(residual + y), with the tap that stands after the addition; y without data was
 * added already. */
static pl_status add(pl_pass *p, int layer, pl_sublayer sublayer, pl_tensor *residual,
                     const pl_tensor *y) {
    if (y->data) TRY(pl_op_add_rows_(&p->call, residual, y));
    TRY(pl_tap(p, sublayer == PL_ATTENTION ? PL_HOOK_RESID_MID : PL_HOOK_RESID_POST, layer,
               residual));
    return norm_slot(p, layer, sublayer, PL_NORM_AFTER_ADD, residual, residual);
}

/* From here on the rows that need logits are the rows of the pass. */
static void leave_other_rows(pl_pass *p) {
    p->spans = p->logit_spans;
    p->n_spans = p->n_logit_spans;
    p->n_rows = p->n_logit_rows;
}

/* After the last attention only the rows that need logits go on, unless somebody looks at others:
 * the residual stream is cut down to them, in place, for it outlives what a block allocates. */
static pl_status cut_rows(pl_pass *p, int layer, pl_tensor *residual) {
    if (layer + 1 < p->model->config.n_layers || p->keeps_rows ||
        pl_stands(p, ~(uint64_t)0, layer)) {
        return PL_OK;
    }
    char *rows = residual->data;
    size_t row_bytes = (size_t)residual->stride[0] * sizeof(float);
    for (int64_t i = 0; i < p->n_logit_rows; i++) {
        memmove(rows + (size_t)i * row_bytes, rows + (size_t)p->logit_rows[i] * row_bytes,
                row_bytes);
    }
    leave_other_rows(p);
    return pl_tensor_narrow(residual, 0, 0, p->n_rows, &p->call.err);
}

static pl_status block(pl_pass *p, int layer, pl_tensor *residual) {
    pl_tensor attn_out, mlp_out;
    TRY(pl_tap(p, PL_HOOK_RESID_PRE, layer, residual));
    TRY(attention(p, layer, &attn_out, residual));
    if (p->model->config.parallel) {
        TRY(mlp(p, layer, &mlp_out, residual));
        TRY(pl_op_add_rows_(&p->call, residual, &attn_out));
    } else {
        TRY(add(p, layer, PL_ATTENTION, residual, &attn_out));
        TRY(cut_rows(p, layer, residual));
        if (p->n_rows == 0) return PL_OK;
        TRY(mlp(p, layer, &mlp_out, residual));
    }
    return add(p, layer, PL_MLP, residual, &mlp_out);
}

pl_status pl_position(pl_pass *p) {
    const pl_config *config = &p->model->config;
    if (config->positions != PL_POSITIONS_ROTARY) return PL_OK;
    int64_t n_pairs = config->rope_dims / 2;
    const double *frequencies = p->model->rope_frequencies;
    int64_t n_ctx = pl_session_get_options(p->session)->n_ctx;
    bool brief = config->rope_scaling == PL_ROPE_LONG && n_ctx <= config->rope_original_ctx;
    TRY(pl_op_rotations(&p->call, &p->rotations[0], p->positions, p->n_rows,
                        frequencies + (brief ? 2 * n_pairs : 0), n_pairs,
                        config->rope_attn_factor));
    p->rotations[1] = p->rotations[0];
    if (config->rope_base_local == 0) return PL_OK;
    return pl_op_rotations(&p->call, &p->rotations[1], p->positions, p->n_rows,
                           frequencies + n_pairs, n_pairs, 1);
}

pl_status pl_embed(pl_pass *p, pl_tensor *residual) {
    const pl_config *config = &p->model->config;
    const pl_weights *w = &p->model->weights;
    TRY(pl_position(p));
    TRY(pl_op_embed(&p->call, residual, &w->embed, p->tokens, p->n_rows));
    if (config->embed_scale != 1) {
        TRY(pl_op_scale_rows_(&p->call, residual, config->embed_scale));
    }
    TRY(pl_tap(p, PL_HOOK_EMBED, OUTSIDE, residual));
    if (config->positions == PL_POSITIONS_LEARNED) {
        pl_tensor positions;
        TRY(pl_op_embed(&p->call, &positions, &w->positions, p->positions, p->n_rows));
        TRY(pl_tap(p, PL_HOOK_POS_EMBED, OUTSIDE, &positions));
        TRY(pl_op_add_rows_(&p->call, residual, &positions));
    }
    if (config->n_token_types) {
        pl_tensor types;
        TRY(pl_op_embed(&p->call, &types, &w->token_types, p->types, p->n_rows));
        TRY(pl_tap(p, PL_HOOK_TOKEN_TYPE_EMBED, OUTSIDE, &types));
        TRY(pl_op_add_rows_(&p->call, residual, &types));
    }
    if (!config->norm_embed) return PL_OK;
    return normalize(p, NULL, OUTSIDE, residual, residual, &w->norm_embed, 0);
}

pl_status pl_forward(pl_pass *p, int64_t from_layer, int64_t to_layer, pl_tensor *residual) {
    if (p->recompute) return pl_forward_recomputed(p, from_layer, to_layer, residual);
    return pl_forward_blocks(p, from_layer, to_layer, residual);
}

pl_status pl_forward_blocks(pl_pass *p, int64_t from_layer, int64_t to_layer, pl_tensor *residual) {
    for (int64_t layer = from_layer; layer < to_layer; layer++) {
        pl_arena_mark mark = pl_arena_save(p->call.arena);
        TRY(pl_pass_poll(p));
        TRY(block(p, (int)layer, residual));
        pl_arena_rewind(p->call.arena, mark);
    }
    return PL_OK;
}

pl_status pl_unembed(pl_pass *p, pl_tensor *logits, const pl_tensor *residual) {
    const pl_weights *w = &p->model->weights;
    pl_tensor x = *residual;
    if (p->spans != p->logit_spans) {
        TRY(pl_op_take_rows(&p->call, &x, residual, p->logit_rows, p->n_logit_rows));
        leave_other_rows(p);
    }
    if (p->model->config.unembed_dense) {
        pl_tensor hidden = {0};
        TRY(pl_linear_maps(p, &hidden, &x, (const pl_linear *[]){&w->unembed_dense}, 1));
        TRY(pl_op_activate(&p->call, &x, &hidden, NULL, p->model->config.activation));
    }
    if (p->model->config.norm_final) {
        TRY(normalize(p, &final_points, OUTSIDE, &x, &x, &w->norm_final, 0));
    }
    TRY(pl_linear_maps(p, logits, &x, (const pl_linear *[]){&w->unembed}, 1));
    float cap = p->model->config.logit_softcap;
    if (cap > 0) TRY(pl_op_softcap_(&p->call, logits, cap));
    return pl_tap(p, PL_HOOK_LOGITS, OUTSIDE, logits);
}
