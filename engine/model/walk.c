#include "walk.h"

#include <stdio.h>

typedef struct walker {
    const pl_config *config;
    pl_walk_fn visit;
    void *context;
    pl_error *err;
    int64_t layer; /* -1 outside the blocks */
} walker;

static pl_status stop_at(const walker *w, pl_stop stop, const char *name, const char *ending) {
    if (w->layer < 0) {
        snprintf(stop.name, sizeof stop.name, "%s.%s", name, ending);
    } else {
        snprintf(stop.name, sizeof stop.name, "blk.%lld.%s.%s", (long long)w->layer, name, ending);
    }
    return w->visit(w->context, &stop, w->err);
}

static pl_status vector(const walker *w, pl_tensor *t, pl_role role, const char *name,
                        int64_t width) {
    pl_stop stop = {.tensor = t, .role = role, .n_dims = 1, .shape = {width}};
    return stop_at(w, stop, name, role == PL_ROLE_BIAS ? "bias" : "weight");
}

static pl_status matrix(const walker *w, pl_tensor *t, bool *transposed, const char *name,
                        int64_t n_out, int64_t n_in) {
    pl_stop stop = {.tensor = t,
                    .transposed = transposed,
                    .role = PL_ROLE_MATRIX,
                    .n_dims = 2,
                    .shape = {n_out, n_in}};
    return stop_at(w, stop, name, "weight");
}

static pl_status norm_of(const walker *w, pl_norm_weights *norm, const char *name, int64_t width) {
    pl_status status = vector(w, &norm->gain, PL_ROLE_GAIN, name, width);
    if (status != PL_OK || !w->config->norm_bias) return status;
    return vector(w, &norm->bias, PL_ROLE_BIAS, name, width);
}

static pl_status norm(const walker *w, pl_norm_weights *norm, const char *name) {
    return norm_of(w, norm, name, w->config->d_model);
}

static pl_status linear(const walker *w, pl_linear *linear, const char *name, int64_t n_out,
                        int64_t n_in, bool bias) {
    pl_status status = matrix(w, &linear->w, &linear->transposed, name, n_out, n_in);
    if (status != PL_OK || !bias) return status;
    return vector(w, &linear->b, PL_ROLE_BIAS, name, n_out);
}

static pl_status norms(const walker *w, pl_block_weights *b, pl_sublayer sublayer) {
    static const char *const names[PL_N_SUBLAYERS][PL_N_NORM_SLOTS] = {
        [PL_ATTENTION] = {"attn_norm", "post_attention_norm", "attn_output_norm"},
        [PL_MLP] = {"ffn_norm", "post_ffw_norm", "layer_output_norm"},
    };
    pl_status status = PL_OK;
    for (int slot = 0; slot < PL_N_NORM_SLOTS && status == PL_OK; slot++) {
        bool shared = w->config->shared_norm && sublayer == PL_MLP && slot == PL_NORM_BEFORE;
        if (w->config->norm_slot[slot] && !shared) {
            status = norm(w, &b->norm[sublayer][slot], names[sublayer][slot]);
        }
    }
    return status;
}

static pl_status attention(const walker *w, pl_block_weights *b) {
    const pl_config *c = w->config;
    int64_t d_q = c->n_heads * c->d_head, d_kv = c->n_kv_heads * c->d_head;
    bool whole = c->qk_norm == PL_QK_NORM_WHOLE;
    pl_status status = norms(w, b, PL_ATTENTION);
    if (status == PL_OK) status = linear(w, &b->q, "attn_q", d_q, c->d_model, c->qkv_bias);
    if (status == PL_OK) status = linear(w, &b->k, "attn_k", d_kv, c->d_model, c->qkv_bias);
    if (status == PL_OK) status = linear(w, &b->v, "attn_v", d_kv, c->d_model, c->qkv_bias);
    if (status == PL_OK && c->qk_norm) {
        status = norm_of(w, &b->q_norm, "attn_q_norm", whole ? d_q : c->d_head);
    }
    if (status == PL_OK && c->qk_norm) {
        status = norm_of(w, &b->k_norm, "attn_k_norm", whole ? d_kv : c->d_head);
    }
    if (status != PL_OK) return status;
    return linear(w, &b->o, "attn_output", c->d_model, d_q, c->attn_out_bias);
}

/* One mlp: a block's, or an expert's with its number in the names. */
static pl_status mlp(const walker *w, pl_linear *gate, pl_linear *in, pl_linear *out,
                     const char *number) {
    const pl_config *c = w->config;
    char name[32];
    pl_status status = PL_OK;
    if (c->gated) {
        snprintf(name, sizeof name, "ffn_gate%s", number);
        status = linear(w, gate, name, c->d_mlp, c->d_model, c->mlp_bias);
    }
    snprintf(name, sizeof name, "ffn_up%s", number);
    if (status == PL_OK) status = linear(w, in, name, c->d_mlp, c->d_model, c->mlp_bias);
    snprintf(name, sizeof name, "ffn_down%s", number);
    return status == PL_OK ? linear(w, out, name, c->d_model, c->d_mlp, c->mlp_bias) : status;
}

static pl_status block(const walker *w, pl_block_weights *b) {
    const pl_config *c = w->config;
    pl_status status = attention(w, b);
    if (status == PL_OK) status = norms(w, b, PL_MLP);
    if (status != PL_OK) return status;
    if (c->n_experts == 0) return mlp(w, &b->gate, &b->in, &b->out, "");
    status = linear(w, &b->router, "ffn_gate_inp", c->n_experts, c->d_model, false);
    for (int64_t i = 0; i < c->n_experts && status == PL_OK; i++) {
        char number[24];
        pl_expert_weights *e = &b->experts[i];
        snprintf(number, sizeof number, ".%lld", (long long)i);
        status = mlp(w, &e->gate, &e->in, &e->out, number);
    }
    return status;
}

/* What makes logits of the last residual stream, and the pooler beside it. */
static pl_status head(const walker *w, pl_weights *weights) {
    const pl_config *c = w->config;
    pl_linear *unembed = &weights->unembed;
    pl_status status = PL_OK;
    if (c->unembed_dense) {
        status = linear(w, &weights->unembed_dense, "output_dense", c->d_model, c->d_model, true);
    }
    if (status == PL_OK && c->norm_final) status = norm(w, &weights->norm_final, "output_norm");
    if (status == PL_OK && !c->tied && !c->headless) {
        status = matrix(w, &unembed->w, &unembed->transposed, "output", c->d_vocab, c->d_model);
    }
    if (status == PL_OK && c->unembed_bias) {
        status = vector(w, &unembed->b, PL_ROLE_BIAS, "output", c->d_vocab);
    }
    if (status != PL_OK || !c->pooler) return status;
    return linear(w, &weights->pooler, "pooler", c->d_model, c->d_model, true);
}

pl_status pl_walk_weights(const pl_config *c, pl_weights *weights, pl_walk_fn visit, void *context,
                          pl_error *err) {
    walker w = {c, visit, context, err, -1};
    pl_status status = matrix(&w, &weights->embed, NULL, "token_embd", c->d_vocab, c->d_model);
    if (status == PL_OK && c->positions == PL_POSITIONS_LEARNED) {
        status = matrix(&w, &weights->positions, NULL, "position_embd", c->n_ctx, c->d_model);
    }
    if (status == PL_OK && c->n_token_types) {
        status =
            matrix(&w, &weights->token_types, NULL, "token_types", c->n_token_types, c->d_model);
    }
    if (status == PL_OK && c->rope_scaling == PL_ROPE_TABLE) {
        status = vector(&w, &weights->rope_factors, PL_ROLE_GAIN, "rope_freqs", c->rope_dims / 2);
    }
    if (status == PL_OK && c->rope_scaling == PL_ROPE_LONG) {
        int64_t n = c->rope_dims / 2;
        status = vector(&w, &weights->rope_factors, PL_ROLE_GAIN, "rope_factors_long", n);
        if (status != PL_OK) return status;
        status = vector(&w, &weights->rope_factors_short, PL_ROLE_GAIN, "rope_factors_short", n);
    }
    if (status == PL_OK && c->norm_embed) {
        status = norm(&w, &weights->norm_embed, "token_embd_norm");
    }
    for (w.layer = 0; w.layer < c->n_layers && status == PL_OK; w.layer++) {
        status = block(&w, &weights->blocks[w.layer]);
    }
    w.layer = -1;
    return status == PL_OK ? head(&w, weights) : status;
}
