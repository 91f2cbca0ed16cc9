/* The forward pass, as the diagram of a transformer: one call per operation.
 *
 * A description (config.h) says which parts there are; an absent part is the identity. What a hook
 * may see stands between the operations as a tap. */
#include "pass.h"

enum { OUTSIDE = -1 };

/* The two taps of a norm. */
typedef struct norm_points {
    pl_point scale, normalized;
} norm_points;
static const norm_points block_points[PL_N_SUBLAYERS] = {
    [PL_ATTENTION] = {PL_HOOK_LN1_SCALE, PL_HOOK_LN1_NORMALIZED},
    [PL_MLP] = {PL_HOOK_LN2_SCALE, PL_HOOK_LN2_NORMALIZED},
};
static const norm_points final_points = {PL_HOOK_LN_FINAL_SCALE, PL_HOOK_LN_FINAL_NORMALIZED};

/* out = norm(x); out may be x. points NULL: nobody can listen. */
static pl_status normalize(pl_pass *p, const norm_points *points, int layer, pl_tensor *out,
                           const pl_tensor *x, const pl_norm_weights *weights) {
    const pl_config *config = &p->model->config;
    pl_tensor stats;
    if (config->norm == PL_NORM_LAYER) {
        TRY(pl_op_layer_norm_stats(&p->call, &stats, x, config->norm_eps));
    } else {
        TRY(pl_op_rms_norm_stats(&p->call, &stats, x, config->norm_eps));
    }
    if (points) {
        pl_tensor scale = stats;
        TRY(pl_tensor_narrow(&scale, 1, 1, 1, &p->call.err));
        TRY(pl_tap(p, points->scale, layer, &scale));
        p->stats = stats;
    }
    /* As in TransformerLens, what RMSNorm shows has not met its gain, what LayerNorm shows has. */
    if (points && config->norm == PL_NORM_RMS && pl_listens(p, points->normalized, layer)) {
        TRY(pl_op_normalize(&p->call, out, x, &stats, &(pl_norm_weights){0}));
        TRY(pl_tap(p, points->normalized, layer, out));
        return pl_op_gain_(&p->call, out, weights);
    }
    TRY(pl_op_normalize(&p->call, out, x, &stats, weights));
    return points ? pl_tap(p, points->normalized, layer, out) : PL_OK;
}

/* The norm in a slot of a sublayer; an empty slot is the identity. A sublayer's first filled slot
 * is its ln1 or ln2. */
static pl_status norm_slot(pl_pass *p, int layer, pl_sublayer sublayer, pl_norm_slot slot,
                           pl_tensor *out, const pl_tensor *x) {
    const bool *filled = p->model->config.norm_slot;
    if (!filled[slot]) {
        *out = *x;
        return PL_OK;
    }
    bool first = true;
    for (int earlier = 0; earlier < (int)slot; earlier++) first &= !filled[earlier];
    const pl_norm_weights *weights = &p->model->weights.blocks[layer].norm[sublayer][slot];
    return normalize(p, first ? &block_points[sublayer] : NULL, layer, out, x, weights);
}

/* Queries, keys and values [rows, head, d_head], rotated where positions are. */
static pl_status project(pl_pass *p, int layer, pl_tensor qkv[3], const pl_tensor *residual) {
    const pl_config *config = &p->model->config;
    const pl_block_weights *w = &p->model->weights.blocks[layer];
    pl_error *err = &p->call.err;
    pl_tensor x, inputs[3] = {{0}}, *q = &qkv[0], *k = &qkv[1], *v = &qkv[2];

    TRY(pl_tap_head_inputs(p, layer, inputs, residual));
    TRY(norm_slot(p, layer, PL_ATTENTION, PL_NORM_BEFORE, &x, residual));
    TRY(pl_op_linear(&p->call, qkv, &x, (const pl_linear *[]){&w->q, &w->k, &w->v}, 3));
    TRY(pl_tensor_view(q, 3, (int64_t[]){p->n_rows, config->n_heads, config->d_head}, err));
    TRY(pl_tensor_view(k, 3, (int64_t[]){p->n_rows, config->n_kv_heads, config->d_head}, err));
    TRY(pl_tensor_view(v, 3, (int64_t[]){p->n_rows, config->n_kv_heads, config->d_head}, err));
    TRY(pl_use_head_inputs(p, layer, qkv, inputs, residual));
    TRY(pl_tap(p, PL_HOOK_Q, layer, q));
    TRY(pl_tap(p, PL_HOOK_K, layer, k));
    TRY(pl_tap(p, PL_HOOK_V, layer, v));

    if (config->positions == PL_POSITIONS_ROTARY) {
        TRY(pl_op_rotate(&p->call, q, &p->rotations, config->rope_half));
        TRY(pl_op_rotate(&p->call, k, &p->rotations, config->rope_half));
        TRY(pl_tap(p, PL_HOOK_ROT_Q, layer, q));
        TRY(pl_tap(p, PL_HOOK_ROT_K, layer, k));
    }
    return PL_OK;
}

static pl_status attention(pl_pass *p, int layer, pl_tensor *out, const pl_tensor *residual) {
    const pl_block_weights *w = &p->model->weights.blocks[layer];
    pl_tensor qkv[3] = {{0}}, z, result = {0};

    TRY(project(p, layer, qkv, residual));
    TRY(pl_attend(p, layer, &z, &qkv[0], &qkv[1], &qkv[2]));
    TRY(pl_tap(p, PL_HOOK_Z, layer, &z));
    TRY(pl_tensor_view(&z, 2, (int64_t[]){p->n_rows, -1}, &p->call.err));
    TRY(pl_op_linear(&p->call, &result, &z, (const pl_linear *[]){&w->o}, 1));
    TRY(pl_tap_results(p, layer, &result, &z));
    TRY(norm_slot(p, layer, PL_ATTENTION, PL_NORM_AFTER_SUBLAYER, out, &result));
    return pl_tap(p, PL_HOOK_ATTN_OUT, layer, out);
}

static pl_status mlp(pl_pass *p, int layer, pl_tensor *out, const pl_tensor *residual) {
    const pl_config *config = &p->model->config;
    const pl_block_weights *w = &p->model->weights.blocks[layer];
    pl_tensor in, x, hidden[2] = {{0}}, post, result = {0};

    TRY(pl_tap_mlp_in(p, layer, &in, residual));
    TRY(norm_slot(p, layer, PL_MLP, PL_NORM_BEFORE, &x, &in));
    if (config->gated) {
        TRY(pl_op_linear(&p->call, hidden, &x, (const pl_linear *[]){&w->gate, &w->in}, 2));
        TRY(pl_tap(p, PL_HOOK_MLP_PRE, layer, &hidden[0]));
        TRY(pl_tap(p, PL_HOOK_MLP_PRE_LINEAR, layer, &hidden[1]));
        TRY(pl_op_activate(&p->call, &post, &hidden[0], &hidden[1], config->activation));
    } else {
        TRY(pl_op_linear(&p->call, hidden, &x, (const pl_linear *[]){&w->in}, 1));
        TRY(pl_tap(p, PL_HOOK_MLP_PRE, layer, &hidden[0]));
        TRY(pl_op_activate(&p->call, &post, &hidden[0], NULL, config->activation));
    }
    TRY(pl_tap(p, PL_HOOK_MLP_POST, layer, &post));
    TRY(pl_op_linear(&p->call, &result, &post, (const pl_linear *[]){&w->out}, 1));
    TRY(norm_slot(p, layer, PL_MLP, PL_NORM_AFTER_SUBLAYER, out, &result));
    return pl_tap(p, PL_HOOK_MLP_OUT, layer, out);
}

/* residual = norm(residual + y), with the tap that stands after the addition. */
static pl_status add(pl_pass *p, int layer, pl_sublayer sublayer, pl_tensor *residual,
                     const pl_tensor *y) {
    TRY(pl_op_add_rows_(&p->call, residual, y));
    TRY(pl_tap(p, sublayer == PL_ATTENTION ? PL_HOOK_RESID_MID : PL_HOOK_RESID_POST, layer,
               residual));
    return norm_slot(p, layer, sublayer, PL_NORM_AFTER_ADD, residual, residual);
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
        TRY(mlp(p, layer, &mlp_out, residual));
    }
    return add(p, layer, PL_MLP, residual, &mlp_out);
}

pl_status pl_position(pl_pass *p) {
    const pl_config *config = &p->model->config;
    if (config->positions != PL_POSITIONS_ROTARY) return PL_OK;
    return pl_op_rotations(&p->call, &p->rotations, p->positions, p->n_rows,
                           p->model->rope_frequencies, config->rope_dims / 2);
}

pl_status pl_embed(pl_pass *p, pl_tensor *residual) {
    const pl_config *config = &p->model->config;
    const pl_weights *w = &p->model->weights;
    TRY(pl_position(p));
    TRY(pl_op_embed(&p->call, residual, &w->embed, p->tokens, p->n_rows));
    TRY(pl_tap(p, PL_HOOK_EMBED, OUTSIDE, residual));
    if (config->positions == PL_POSITIONS_LEARNED) {
        pl_tensor positions;
        TRY(pl_op_embed(&p->call, &positions, &w->positions, p->positions, p->n_rows));
        TRY(pl_tap(p, PL_HOOK_POS_EMBED, OUTSIDE, &positions));
        TRY(pl_op_add_rows_(&p->call, residual, &positions));
    }
    return config->norm_embed ? normalize(p, NULL, OUTSIDE, residual, residual, &w->norm_embed)
                              : PL_OK;
}

pl_status pl_forward(pl_pass *p, int64_t from_layer, int64_t to_layer, pl_tensor *residual) {
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
    pl_tensor x;
    TRY(pl_op_take_rows(&p->call, &x, residual, p->logit_rows, p->n_logit_rows));
    p->spans = p->logit_spans;
    p->n_spans = p->n_logit_spans;
    p->n_rows = p->n_logit_rows;
    if (p->model->config.norm_final) {
        TRY(normalize(p, &final_points, OUTSIDE, &x, &x, &w->norm_final));
    }
    TRY(pl_op_linear(&p->call, logits, &x, (const pl_linear *[]){&w->unembed}, 1));
    return pl_tap(p, PL_HOOK_LOGITS, OUTSIDE, logits);
}
