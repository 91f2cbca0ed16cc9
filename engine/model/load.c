/* Loading: what the file says of the model becomes a description; its tensors, found by the names
 * of the family's table and held to the description's shapes, become the weights. Nothing is copied
 * but vectors, which are widened to float32. */
#include "load.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "../base/error.h"
#include "../base/size.h"
#include "../format/json.h"
#include "../format/locate.h"
#include "../format/weights_file.h"
#include "../text/tokenizer.h"
#include "build.h"
#include "description.h"
#include "families.h"
#include "walk.h"

/* The rules of a family, applied to a file. */
typedef struct loader {
    pl_model *model;
    const pl_family *family;
    const pl_weights_file *file;
    const json_t *json; /* config.json; NULL: there is none */
    const pl_kernels *kernels;
    bool gguf;
    bool *used; /* [n_tensors of the file] */
    pl_error *err;
} loader;

static bool find_tensor(const loader *l, const char *name, size_t *index) {
    if (pl_weights_file_find(l->file, name, index)) return true;
    char longer[160];
    snprintf(longer, sizeof longer, "%s%s", l->family->hf_prefix, name);
    return !l->gguf && *l->family->hf_prefix && pl_weights_file_find(l->file, longer, index);
}

static const char *pattern_of(const loader *l, const pl_tensor_rule *rule) {
    return l->gguf ? rule->gguf : rule->hf;
}

static bool is_norm(pl_place place) {
    return place == PL_PLACE_NORM_EMBED || place == PL_PLACE_NORM_FINAL ||
           place == PL_PLACE_NORM_ATTENTION || place == PL_PLACE_NORM_MLP;
}

/* The file's tensor of a rule; an absent one leaves t empty. */
static pl_status take_one(loader *l, const pl_tensor_rule *rule, int64_t layer, int64_t expert,
                          const char *ending, bool required, pl_tensor *t) {
    char name[160];
    size_t index;
    pl_tensor_rule_name(name, sizeof name, pattern_of(l, rule), layer, expert, ending);
    *t = (pl_tensor){0};
    bool found = find_tensor(l, name, &index);
    if (!found && is_norm(rule->place) && !l->gguf) {
        char old[160]; /* what TensorFlow called them, which the first files of BERT kept */
        pl_tensor_rule_name(old, sizeof old, pattern_of(l, rule), layer, expert,
                            strcmp(ending, "bias") == 0 ? "beta" : "gamma");
        found = find_tensor(l, old, &index);
    }
    if (!found) {
        if (!required) return PL_OK;
        return pl_fail(l->err, PL_ERR_FORMAT, "tensor '%s' is missing", name);
    }
    l->used[index] = true;
    return pl_weights_file_tensor(l->file, index, t, l->err);
}

static pl_status take(loader *l, const pl_tensor_rule *rule, int64_t layer, const char *ending,
                      bool required, pl_tensor *t) {
    return take_one(l, rule, layer, -1, ending, required, t);
}

/* Kernels read vectors as float32; other types are widened once, here. */
static pl_status widen_vector(loader *l, pl_tensor *t) {
    if (!t->data || t->n_dims != 1) return PL_OK; /* a wrong shape is refused below */
    if (t->dtype == PL_F32 && (uintptr_t)t->data % _Alignof(float) == 0) return PL_OK;
    if (!l->kernels->to_f32[t->dtype]) return PL_OK;
    float *wide = pl_arena_alloc(&l->model->memory, (size_t)t->shape[0] * sizeof *wide);
    if (!wide) return pl_fail(l->err, PL_ERR_MEMORY, "out of memory for vectors");
    l->kernels->to_f32[t->dtype](wide, t->data, (size_t)t->shape[0]);
    return pl_tensor_wrap(t, PL_F32, 1, t->shape, wide, l->err);
}

static pl_status take_vector(loader *l, const pl_tensor_rule *rule, int64_t layer,
                             const char *ending, bool required, pl_tensor *t) {
    pl_status status = take(l, rule, layer, ending, required, t);
    return status == PL_OK ? widen_vector(l, t) : status;
}

static pl_status take_linear(loader *l, const pl_tensor_rule *rule, int64_t layer,
                             pl_linear *linear) {
    linear->transposed = rule->conv1d && !l->gguf;
    bool required = rule->place != PL_PLACE_UNEMBED && rule->place != PL_PLACE_POOLER;
    pl_status status = take(l, rule, layer, "weight", required, &linear->w);
    if (status != PL_OK || rule->bias == PL_BIAS_NEVER) return status;
    if (rule->place == PL_PLACE_POOLER && !linear->w.data) return PL_OK;
    return take_vector(l, rule, layer, "bias", rule->bias == PL_BIAS_ALWAYS, &linear->b);
}

/* Gains that the file gives as their distance from 1, made whole. */
static pl_status offset_gain(loader *l, pl_tensor *gain) {
    if (gain->n_dims != 1 || gain->dtype != PL_F32) return PL_OK; /* refused below */
    float *whole = pl_arena_alloc(&l->model->memory, (size_t)gain->shape[0] * sizeof *whole);
    if (!whole) return pl_fail(l->err, PL_ERR_MEMORY, "out of memory for vectors");
    for (int64_t i = 0; i < gain->shape[0]; i++) {
        whole[i] = ((const float *)gain->data)[i] + l->family->hf_gain_offset;
    }
    return pl_tensor_wrap(gain, PL_F32, 1, gain->shape, whole, l->err);
}

static pl_status take_norm(loader *l, const pl_tensor_rule *rule, int64_t layer,
                           pl_norm_weights *norm) {
    pl_status status = take_vector(l, rule, layer, "weight", true, &norm->gain);
    if (status == PL_OK && !l->gguf && l->family->hf_gain_offset != 0) {
        status = offset_gain(l, &norm->gain);
    }
    if (status != PL_OK || rule->bias == PL_BIAS_NEVER) return status;
    return take_vector(l, rule, layer, "bias", rule->bias == PL_BIAS_ALWAYS, &norm->bias);
}

/* Cuts the outputs [start, start + n) from a fused matrix and its bias. */
static pl_status cut(loader *l, pl_linear *out, const pl_linear *fused, int64_t start, int64_t n) {
    *out = *fused;
    pl_status status = pl_tensor_narrow(&out->w, fused->transposed ? 1 : 0, start, n, l->err);
    if (status != PL_OK || !fused->b.data) return status;
    return pl_tensor_narrow(&out->b, 0, start, n, l->err);
}

/* A fused map of `n` outputs, and its bias if there is one. */
static pl_status take_fused(loader *l, const pl_tensor_rule *rule, int64_t layer, pl_linear *fused,
                            int64_t n, const char *what) {
    char shape[PL_SHAPE_TEXT], name[160];
    pl_status status = take_linear(l, rule, layer, fused);
    if (status != PL_OK) return status;
    pl_tensor_rule_name(name, sizeof name, pattern_of(l, rule), layer, -1, "weight");
    if (fused->w.n_dims != 2 || pl_linear_n_out(fused) != n) {
        return pl_fail(l->err, PL_ERR_SHAPE,
                       "tensor '%s' has shape %s: expected %lld outputs for %s", name,
                       pl_tensor_shape_text(&fused->w, shape), (long long)n, what);
    }
    if (fused->b.data && (fused->b.n_dims != 1 || fused->b.shape[0] != n)) {
        return pl_fail(l->err, PL_ERR_SHAPE, "the bias of '%s' has shape %s", name,
                       pl_tensor_shape_text(&fused->b, shape));
    }
    return PL_OK;
}

/* Rows that the file stores as [n_heads, 3, d_head], copied as [3, n_heads, d_head]. */
static pl_status regroup(loader *l, pl_tensor *t) {
    const pl_config *c = &l->model->config;
    if (!t->data) return PL_OK;
    int64_t n_rows = t->shape[0];
    size_t row_bytes = t->n_dims == 2 ? pl_tensor_row_bytes(t) : sizeof(float), total;
    if (!pl_size_mul(&total, row_bytes, (size_t)n_rows)) return PL_ERR_MEMORY;
    char *out = pl_arena_alloc(&l->model->memory, total);
    if (!out) return pl_fail(l->err, PL_ERR_MEMORY, "out of memory for queries, keys and values");
    for (int64_t row = 0; row < n_rows; row++) {
        int64_t head = row / (3 * c->d_head), part = row / c->d_head % 3, at = row % c->d_head;
        int64_t to = (part * c->n_heads + head) * c->d_head + at;
        memcpy(out + (size_t)to * row_bytes, (const char *)t->data + (size_t)row * row_bytes,
               row_bytes);
    }
    return pl_tensor_wrap(t, t->dtype, t->n_dims, t->shape, out, l->err);
}

static pl_status take_qkv(loader *l, const pl_tensor_rule *rule, int64_t layer,
                          pl_block_weights *block) {
    const pl_config *c = &l->model->config;
    int64_t d_q = c->n_heads * c->d_head, d_kv = c->n_kv_heads * c->d_head;
    pl_linear fused = {0};
    pl_status status =
        take_fused(l, rule, layer, &fused, d_q + 2 * d_kv, "queries, keys and values");
    if (status == PL_OK && rule->by_head && !l->gguf) {
        if (c->n_kv_heads != c->n_heads) {
            return pl_fail(l->err, PL_ERR_UNSUPPORTED,
                           "n_kv_heads = %lld: expected n_heads = %lld in files of the family %s",
                           (long long)c->n_kv_heads, (long long)c->n_heads, l->family->name);
        }
        status = regroup(l, &fused.w);
        if (status == PL_OK) status = regroup(l, &fused.b);
    }
    if (status == PL_OK) status = cut(l, &block->q, &fused, 0, d_q);
    if (status == PL_OK) status = cut(l, &block->k, &fused, d_q, d_kv);
    if (status == PL_OK) status = cut(l, &block->v, &fused, d_q + d_kv, d_kv);
    return status;
}

static pl_status take_gate_in(loader *l, const pl_tensor_rule *rule, int64_t layer,
                              pl_block_weights *block) {
    int64_t d_mlp = l->model->config.d_mlp;
    pl_linear fused = {0};
    pl_status status = take_fused(l, rule, layer, &fused, 2 * d_mlp, "gate and in");
    if (status == PL_OK) status = cut(l, &block->gate, &fused, 0, d_mlp);
    if (status == PL_OK) status = cut(l, &block->in, &fused, d_mlp, d_mlp);
    return status;
}

static pl_linear *expert_map(pl_expert_weights *expert, pl_place place) {
    return place == PL_PLACE_EXPERT_GATE ? &expert->gate
           : place == PL_PLACE_EXPERT_IN ? &expert->in
                                         : &expert->out;
}

/* Every expert's own tensor, or in GGUF one of all of them. */
static pl_status take_experts(loader *l, const pl_tensor_rule *rule, int64_t layer) {
    int64_t n = l->model->config.n_experts;
    pl_expert_weights *experts = l->model->weights.blocks[layer].experts;
    pl_tensor_rule merged = {.place = rule->place, .gguf = rule->merged, .hf = rule->hf};
    pl_tensor all = {0};
    pl_status status = PL_OK;
    char shape[PL_SHAPE_TEXT];
    if (l->gguf) status = take(l, &merged, layer, "weight", false, &all);
    if (status == PL_OK && all.data && (all.n_dims != 3 || all.shape[0] != n)) {
        return pl_fail(l->err, PL_ERR_SHAPE,
                       "the experts of blk.%lld have shape %s: expected %lld of them",
                       (long long)layer, pl_tensor_shape_text(&all, shape), (long long)n);
    }
    for (int64_t e = 0; e < n && status == PL_OK; e++) {
        pl_linear *map = expert_map(&experts[e], rule->place);
        if (all.data) {
            map->w = all;
            status = pl_tensor_select(&map->w, 0, e, l->err);
        } else {
            status = take_one(l, rule, layer, e, "weight", true, &map->w);
        }
    }
    return status;
}

/* The unembedding's bias under its own name. The matrix's own may be there too, as a copy. */
static pl_status take_unembed_bias(loader *l, const pl_tensor_rule *rule) {
    pl_tensor *copy = &l->model->weights.unembed.b, own;
    pl_status status = take_vector(l, rule, -1, "bias", !copy->data, &own);
    if (status != PL_OK || !own.data) return status;
    if (copy->data && copy->dtype == PL_F32 && own.dtype == PL_F32 && own.n_dims == 1 &&
        (copy->n_dims != 1 || copy->shape[0] != own.shape[0] ||
         memcmp(copy->data, own.data, (size_t)own.shape[0] * sizeof(float)) != 0)) {
        return pl_fail(l->err, PL_ERR_FORMAT,
                       "tensor '%s.bias' differs from '%s.decoder.bias', its copy", rule->hf,
                       rule->hf);
    }
    *copy = own;
    return PL_OK;
}

/* Whether the file has something of what makes logits; then it must have all. */
static bool has_head(const loader *l) {
    for (size_t i = 0; i < l->family->n_rules; i++) {
        const pl_tensor_rule *rule = &l->family->rules[i];
        size_t index;
        char name[160];
        if (!pl_place_in_head(rule->place) || !pattern_of(l, rule)) continue;
        for (int bias = 0; bias < 2; bias++) {
            pl_tensor_rule_name(name, sizeof name, pattern_of(l, rule), -1, -1,
                                bias ? "bias" : "weight");
            if (find_tensor(l, name, &index)) return true;
        }
    }
    return false;
}

/* A head that the description does not speak of is taken all the same; one that it promises must
 * be there. */
static void settle_head(loader *l) {
    pl_config *c = &l->model->config;
    const pl_config *f = &l->family->config;
    if (!c->headless || !has_head(l)) return;
    c->headless = false;
    c->norm_final = f->norm_final;
    c->unembed_dense = f->unembed_dense;
    c->unembed_bias = f->unembed_bias;
}

/* A table of the scaling that the description names; others are left over, and refused. */
static pl_status take_factors(loader *l, const pl_tensor_rule *rule) {
    pl_weights *w = &l->model->weights;
    bool longer = l->model->config.rope_scaling == PL_ROPE_LONG;
    if (longer == (rule->place == PL_PLACE_ROPE_FACTORS)) return PL_OK;
    bool brief = rule->place == PL_PLACE_ROPE_FACTORS_SHORT;
    return take_vector(l, rule, -1, "weight", false,
                       brief ? &w->rope_factors_short : &w->rope_factors);
}

/* config.json has the tables themselves. */
static pl_status take_json_factors(loader *l) {
    pl_weights *w = &l->model->weights;
    int64_t n = l->model->config.rope_dims / 2;
    for (int brief = 0; brief < 2; brief++) {
        pl_tensor *t = brief ? &w->rope_factors_short : &w->rope_factors;
        float *factors = pl_arena_alloc(&l->model->memory, (size_t)n * sizeof *factors);
        if (!factors) return pl_fail(l->err, PL_ERR_MEMORY, "out of memory for rotary factors");
        pl_status status = pl_describe_hf_factors(factors, n, l->json, brief, l->err);
        if (status == PL_OK) status = pl_tensor_wrap(t, PL_F32, 1, &n, factors, l->err);
        if (status != PL_OK) return status;
    }
    return PL_OK;
}

static pl_status take_outside(loader *l, const pl_tensor_rule *rule) {
    pl_weights *w = &l->model->weights;
    if (l->model->config.headless && pl_place_in_head(rule->place)) return PL_OK;
    switch (rule->place) {
    case PL_PLACE_TOKEN_TYPES:
        return take(l, rule, -1, "weight", l->model->config.n_token_types > 0, &w->token_types);
    case PL_PLACE_UNEMBED_DENSE:
        return take_linear(l, rule, -1, &w->unembed_dense);
    case PL_PLACE_UNEMBED_BIAS:
        return take_unembed_bias(l, rule);
    case PL_PLACE_POOLER:
        return take_linear(l, rule, -1, &w->pooler);
    case PL_PLACE_EMBED:
        return take(l, rule, -1, "weight", true, &w->embed);
    case PL_PLACE_POSITIONS:
        return take(l, rule, -1, "weight", true, &w->positions);
    case PL_PLACE_NORM_EMBED:
        return take_norm(l, rule, -1, &w->norm_embed);
    case PL_PLACE_NORM_FINAL:
        return take_norm(l, rule, -1, &w->norm_final);
    case PL_PLACE_ROPE_FACTORS:
    case PL_PLACE_ROPE_FACTORS_LONG:
    case PL_PLACE_ROPE_FACTORS_SHORT:
        return take_factors(l, rule);
    default:
        return take_linear(l, rule, -1, &w->unembed);
    }
}

static pl_status take_in_block(loader *l, const pl_tensor_rule *rule, int64_t layer) {
    pl_block_weights *b = &l->model->weights.blocks[layer];
    switch (rule->place) {
    case PL_PLACE_NORM_ATTENTION:
        return take_norm(l, rule, layer, &b->norm[PL_ATTENTION][rule->slot]);
    case PL_PLACE_NORM_MLP:
        if (l->model->config.shared_norm && rule->slot == PL_NORM_BEFORE) return PL_OK;
        return take_norm(l, rule, layer, &b->norm[PL_MLP][rule->slot]);
    case PL_PLACE_Q_NORM:
        return take_norm(l, rule, layer, &b->q_norm);
    case PL_PLACE_K_NORM:
        return take_norm(l, rule, layer, &b->k_norm);
    case PL_PLACE_GATE_IN:
        return take_gate_in(l, rule, layer, b);
    case PL_PLACE_ROUTER:
        return take_linear(l, rule, layer, &b->router);
    case PL_PLACE_EXPERT_GATE:
    case PL_PLACE_EXPERT_IN:
    case PL_PLACE_EXPERT_OUT:
        return take_experts(l, rule, layer);
    case PL_PLACE_QKV:
        return take_qkv(l, rule, layer, b);
    case PL_PLACE_Q:
        return take_linear(l, rule, layer, &b->q);
    case PL_PLACE_K:
        return take_linear(l, rule, layer, &b->k);
    case PL_PLACE_V:
        return take_linear(l, rule, layer, &b->v);
    case PL_PLACE_O:
        return take_linear(l, rule, layer, &b->o);
    case PL_PLACE_GATE:
        return take_linear(l, rule, layer, &b->gate);
    case PL_PLACE_IN:
        return take_linear(l, rule, layer, &b->in);
    default:
        return take_linear(l, rule, layer, &b->out);
    }
}

static pl_status take_all(loader *l) {
    for (size_t i = 0; i < l->family->n_rules; i++) {
        const pl_tensor_rule *rule = &l->family->rules[i];
        if (!pattern_of(l, rule)) continue;
        bool in_block = strstr(pattern_of(l, rule), "%d");
        pl_status status = in_block ? PL_OK : take_outside(l, rule);
        for (int64_t layer = 0; in_block && layer < l->model->config.n_layers; layer++) {
            if (status == PL_OK) status = take_in_block(l, rule, layer);
        }
        if (status != PL_OK) return status;
    }
    return PL_OK;
}

/* What a tensor is left over for is unknown: leaving it out would compute something else. */
static pl_status refuse_unused(loader *l) {
    for (size_t i = 0; i < pl_weights_file_n_tensors(l->file); i++) {
        bool known = l->used[i];
        char name[128];
        pl_weights_file_name(l->file, i, name, sizeof name);
        size_t length = strlen(name);
        for (const char *const *end = l->family->ignored; *end && !known; end++) {
            size_t n = strlen(*end);
            known = length >= n && strcmp(name + length - n, *end) == 0;
        }
        if (!known) {
            return pl_fail(l->err, PL_ERR_UNSUPPORTED, "tensor '%s' is no part of a %s model", name,
                           l->family->name);
        }
    }
    return PL_OK;
}

/* Which optional parts the file has. A GGUF file without an output matrix ties it to the embedding;
 * config.json says so, and then a matrix that lies there all the same is a copy. */
static void settle_options(loader *l) {
    pl_config *c = &l->model->config;
    pl_weights *w = &l->model->weights;
    if (l->gguf) c->tied = !w->unembed.w.data;
    if (c->headless) c->tied = false;
    if (c->tied) w->unembed.w = (pl_tensor){0};
    if (c->tied) w->unembed.transposed = false;
    const pl_block_weights *b = w->blocks;
    c->norm_bias = w->norm_final.bias.data;
    for (int slot = 0; slot < PL_N_NORM_SLOTS && !c->norm_final; slot++) {
        if (c->norm_slot[slot]) c->norm_bias = b->norm[PL_ATTENTION][slot].bias.data;
    }
    c->unembed_bias = w->unembed.b.data;
    c->pooler = w->pooler.w.data;
    c->qkv_bias = b->q.b.data || b->k.b.data || b->v.b.data;
    c->attn_out_bias = b->o.b.data;
    c->mlp_bias = c->n_experts == 0 && (b->in.b.data || b->out.b.data);
}

static pl_status check_stop(void *context, const pl_stop *stop, pl_error *err) {
    const loader *l = context;
    const pl_tensor *t = stop->tensor;
    if (!t->data) return pl_fail(err, PL_ERR_FORMAT, "tensor '%s' is missing", stop->name);
    bool swapped = stop->transposed && *stop->transposed;
    int64_t first = stop->shape[swapped ? 1 : 0], second = stop->shape[swapped ? 0 : 1];
    char shape[PL_SHAPE_TEXT];
    if (t->n_dims != stop->n_dims || t->shape[0] != first ||
        (stop->n_dims == 2 && t->shape[1] != second)) {
        char wanted[64];
        if (stop->n_dims == 2) {
            snprintf(wanted, sizeof wanted, "[%lld, %lld]", (long long)first, (long long)second);
        } else {
            snprintf(wanted, sizeof wanted, "[%lld]", (long long)first);
        }
        return pl_fail(err, PL_ERR_SHAPE, "tensor '%s' has shape %s: expected %s", stop->name,
                       pl_tensor_shape_text(t, shape), wanted);
    }
    if (!l->kernels->to_f32[t->dtype] || (swapped && pl_dtype_get(t->dtype)->quantised)) {
        return pl_fail(err, PL_ERR_UNSUPPORTED,
                       "tensor '%s' has type %s, which weights cannot have", stop->name,
                       pl_dtype_get(t->dtype)->name);
    }
    return PL_OK;
}

/* Fills the weights of l->model from l->file. */
static pl_status load_weights(loader *l) {
    size_t n = pl_weights_file_n_tensors(l->file);
    l->used = calloc(n ? n : 1, sizeof *l->used);
    if (!l->used) return pl_fail(l->err, PL_ERR_MEMORY, "out of memory");
    settle_head(l);
    pl_status status = take_all(l);
    if (status == PL_OK) status = refuse_unused(l);
    bool tables = l->model->config.rope_scaling == PL_ROPE_LONG && l->json;
    if (status == PL_OK && tables) status = take_json_factors(l);
    if (status == PL_OK) {
        settle_options(l);
        status = pl_walk_weights(&l->model->config, &l->model->weights, check_stop, l, l->err);
    }
    free(l->used);
    return status;
}

/* -- tokenizers ----------------------------------------------------------------------------- */

static bool meta_text(void *context, const char *key, pl_bytes *value) {
    pl_gguf_string s;
    if (!pl_gguf_find_string(context, key, &s)) return false;
    *value = (pl_bytes){s.data, s.size};
    return true;
}

static bool meta_integer(void *context, const char *key, int64_t *value) {
    uint64_t whole;
    bool truth;
    if (pl_gguf_find_bool(context, key, &truth)) {
        *value = truth;
        return true;
    }
    if (!pl_gguf_find_uint(context, key, &whole) || whole > INT64_MAX) return false;
    *value = (int64_t)whole;
    return true;
}

static size_t meta_length(void *context, const char *key) {
    const pl_gguf_value *v = pl_gguf_find(context, key);
    return v && v->type == PL_GGUF_ARRAY ? (size_t)v->n : 0;
}

static bool meta_texts(void *context, const char *key, pl_bytes *values) {
    const pl_gguf_value *v = pl_gguf_find_array(context, key, PL_GGUF_STRING);
    if (!v) return false;
    const uint8_t *at = v->data;
    for (pl_gguf_string s; pl_gguf_next_string(v, &at, &s);) *values++ = (pl_bytes){s.data, s.size};
    return true;
}

static bool meta_numbers(void *context, const char *key, void *values, pl_gguf_type type,
                         pl_gguf_type same_size) {
    const pl_gguf_value *v = pl_gguf_find_array(context, key, type);
    if (!v) v = pl_gguf_find_array(context, key, same_size);
    if (v) memcpy(values, v->data, v->size);
    return v;
}

static bool meta_f32s(void *context, const char *key, float *values) {
    return meta_numbers(context, key, values, PL_GGUF_F32, PL_GGUF_F32);
}

static bool meta_i32s(void *context, const char *key, int32_t *values) {
    return meta_numbers(context, key, values, PL_GGUF_I32, PL_GGUF_U32);
}

static bool meta_bytes(void *context, const char *key, pl_bytes *value) {
    const pl_gguf_value *v = pl_gguf_find_array(context, key, PL_GGUF_U8);
    if (!v) v = pl_gguf_find_array(context, key, PL_GGUF_I8);
    if (v) *value = (pl_bytes){(const char *)v->data, v->size};
    return v;
}

static pl_status load_gguf_tokenizer(pl_model *model, pl_gguf *gguf, pl_error *err) {
    if (!pl_gguf_find(gguf, "tokenizer.ggml.model")) return PL_OK;
    pl_tokenizer_metadata metadata = {.context = gguf,
                                      .text = meta_text,
                                      .integer = meta_integer,
                                      .length = meta_length,
                                      .texts = meta_texts,
                                      .f32s = meta_f32s,
                                      .i32s = meta_i32s,
                                      .bytes = meta_bytes};
    return pl_tokenizer_from_metadata(&model->tokenizer, &metadata, pl_gguf_path(gguf), err);
}

static pl_status load_folder_tokenizer(pl_model *model, const char *folder, pl_error *err) {
    static const char *const names[] = {"tokenizer.json", "tokenizer.model",        "vocab.json",
                                        "encoder.json",   "encoder_bpe_40000.json", "vocab.txt"};
    for (size_t i = 0; i < sizeof names / sizeof *names; i++) {
        char path[PL_PATH_MAX];
        int n = snprintf(path, sizeof path, "%s/%s", folder, names[i]);
        if (n > 0 && (size_t)n < sizeof path && access(path, R_OK) == 0) {
            return pl_tokenizer_load(&model->tokenizer, folder, err);
        }
    }
    return PL_OK;
}

/* Whether an id without a row of the embedding is one of a token for something else than text, as
 * Gemma 3 has one for pictures: a text without it never needs it. */
static bool may_lack_row(const pl_tokenizer *tok, int32_t id) {
    size_t n;
    const int32_t *prefix = pl_tokenizer_prefix(tok, &n);
    for (size_t i = 0; i < n; i++) {
        if (prefix[i] == id) return false;
    }
    return pl_tokenizer_attr(tok, id) == PL_TOKEN_CONTROL && !pl_tokenizer_is_end(tok, id);
}

static pl_status load_tokenizer(pl_model *model, const pl_weights_file *file, const char *folder,
                                pl_error *err) {
    pl_status status = file->gguf ? load_gguf_tokenizer(model, file->gguf, err)
                                  : load_folder_tokenizer(model, folder, err);
    if (status != PL_OK || !model->tokenizer) return status;
    size_t n = pl_tokenizer_n_tokens(model->tokenizer), kept = n;
    while (kept > 0 && may_lack_row(model->tokenizer, (int32_t)kept - 1)) kept--;
    if (kept <= (size_t)model->config.d_vocab) return PL_OK;
    return pl_fail(err, PL_ERR_FORMAT, "%s: the tokenizer has %zu tokens, the model %lld",
                   pl_tokenizer_source(model->tokenizer), n, (long long)model->config.d_vocab);
}

/* -- models --------------------------------------------------------------------------------- */

static pl_status describe_pooling(pl_config *config, const pl_model_files *files, pl_error *err) {
    char path[PL_PATH_MAX + 32];
    snprintf(path, sizeof path, "%s/1_Pooling/config.json", files->folder);
    json_t *json = NULL;
    if (access(path, R_OK) != 0) return PL_OK;
    pl_status status = pl_json_open(&json, path, err);
    if (status != PL_OK) return status;
    status = pl_describe_pooling(config, json, err);
    json_decref(json);
    return status == PL_OK ? PL_OK : pl_error_prefix(err, status, "%s", path);
}

/* *kept: config.json, where there is one, for the caller to json_decref. */
static pl_status describe(pl_config *config, const pl_family **family, json_t **kept,
                          const pl_families *set, const pl_weights_file *file,
                          const pl_model_files *files, pl_error *err) {
    char path[PL_PATH_MAX + 32];
    const char *folder = files->folder;
    int n = (int)strlen(folder);
    if (n > 1 && folder[n - 1] == '/') n--;
    snprintf(path, sizeof path, "%.*s/adapter_config.json", n, folder);
    pl_gguf_string type = {0};
    if (file->gguf) pl_gguf_find_string(file->gguf, "general.type", &type);
    bool adapter = file->gguf ? pl_gguf_string_is(type, "adapter") : access(path, F_OK) == 0;
    snprintf(path, sizeof path, "%.*s/config.json", n, folder);
    if (adapter && (file->gguf || access(path, F_OK) != 0)) {
        return pl_fail(err, PL_ERR_ARGUMENT,
                       "%s: is an adapter: load the model that it is for, and put it on that",
                       files->weights);
    }
    if (file->gguf) return pl_describe_gguf(config, family, set, file->gguf, err);
    json_t *json = NULL;
    pl_status status = PL_OK;
    if (file->params && access(path, F_OK) != 0) {
        snprintf(path, sizeof path, "%s, without a config.json", files->weights);
        json = pl_openai_params_config(file->params);
        if (!json) status = pl_fail(err, PL_ERR_MEMORY, "out of memory");
    } else if (access(path, F_OK) != 0) {
        status = pl_fail(err, PL_ERR_IO,
                         "safetensors have the weights alone; what they are for stands in a "
                         "config.json beside them, and there is no %.300s",
                         path);
    } else {
        status = pl_json_open(&json, path, err);
    }
    if (status != PL_OK) return pl_error_prefix(err, status, "%s", files->weights);
    *kept = json;
    status = pl_describe_hf(config, family, set, json, err);
    if (status != PL_OK) return pl_error_prefix(err, status, "%s", path);
    return (*family)->hf_encoder ? describe_pooling(config, files, err) : PL_OK;
}

/* What a GGUF file says, the hub id, or the last part of the path. */
static char *model_name(const pl_weights_file *file, const pl_model_files *files) {
    pl_gguf_string name;
    char id[PL_PATH_MAX];
    if (file->gguf && pl_gguf_find_string(file->gguf, "general.name", &name)) {
        return strndup(name.data, name.size);
    }
    if (!file->gguf && pl_hub_id_of_folder(id, files->folder)) return strdup(id);
    const char *path = file->gguf ? files->weights : files->folder;
    size_t length = strlen(path);
    while (length > 1 && path[length - 1] == '/') length--;
    size_t start = length;
    while (start > 0 && path[start - 1] != '/') start--;
    return strndup(path + start, length - start);
}

/* Everything of the model from an open file, which the model takes over at once. */
static pl_status fill_model(pl_model *model, const pl_family *family, pl_weights_file *file,
                            const json_t *json, const pl_model_files *files, pl_error *err) {
    loader l = {.model = model,
                .family = family,
                .file = file,
                .json = json,
                .gguf = file->gguf,
                .err = err};
    pl_status status = pl_kernels_choose(&l.kernels, err);
    model->path = strdup(files->weights);
    model->name = model_name(file, files);
    if (status == PL_OK && (!model->path || !model->name)) {
        status = pl_fail(err, PL_ERR_MEMORY, "out of memory");
    }
    if (status == PL_OK) {
        status = load_weights(&l);
        if (status != PL_OK) pl_error_prefix(err, status, "%s", files->weights);
    }
    if (status == PL_OK) status = load_tokenizer(model, file, files->folder, err);
    if (status == PL_OK) status = pl_model_finish(model, err);
    return status;
}

pl_status pl_model_load(pl_model **out, const char *name, pl_error *err) {
    return pl_model_load_with(out, name, NULL, err);
}

pl_status pl_model_load_with(pl_model **out, const char *name, pl_families *families,
                             pl_error *err) {
    pl_model_files files;
    pl_config config;
    const pl_family *family = NULL;
    pl_model *model = NULL;
    json_t *json = NULL;
    pl_weights_file *file = calloc(1, sizeof *file);
    if (!file) return pl_fail(err, PL_ERR_MEMORY, "out of memory");
    pl_status status = pl_locate_model(&files, name, err);
    if (status == PL_OK) status = pl_weights_file_open(file, files.weights, err);
    if (status == PL_OK) status = describe(&config, &family, &json, families, file, &files, err);
    if (status == PL_OK) status = pl_model_begin(&model, &config, err);
    if (status != PL_OK) {
        pl_weights_file_close(file);
        free(file);
        json_decref(json);
        return status;
    }
    model->file = file;
    pl_model_adopt_family(model, families);
    status = fill_model(model, family, file, json, &files, err);
    json_decref(json);
    if (status != PL_OK) {
        pl_model_free(model);
        return status;
    }
    *out = model;
    return PL_OK;
}

void pl_model_close_file(pl_model *model) {
    if (!model->file) return;
    pl_weights_file_close(model->file);
    free(model->file);
    model->file = NULL;
}
