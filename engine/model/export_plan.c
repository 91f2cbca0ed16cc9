#include "export_plan.h"

#include <math.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "../base/error.h"
#include "../base/threads.h"
#include "../kernels/quantize.h"

/* -- whether the family's files can say it --------------------------------------------------- */

static pl_status cannot_say(const pl_export_plan *plan, const char *what, pl_error *err) {
    return pl_fail(err, PL_ERR_UNSUPPORTED,
                   "%s files of the family %s cannot express this model's %s",
                   plan->gguf ? "GGUF" : "Hugging Face", plan->family->name, what);
}

static bool has_place(const pl_export_plan *plan, pl_place place) {
    for (size_t i = 0; i < plan->family->n_rules; i++) {
        const pl_tensor_rule *rule = &plan->family->rules[i];
        if (rule->place == place && (plan->gguf ? rule->gguf : rule->hf)) return true;
    }
    return false;
}

/* Whether config.json has a name of the family's own for a number. */
static bool says_size(const pl_export_plan *plan, size_t offset) {
    for (size_t i = 0; !plan->gguf && i < plan->family->n_sizes; i++) {
        if (plan->family->sizes[i].offset == offset) return true;
    }
    return false;
}

/* What the family's files leave open; all else must be as the family has it. */
static pl_status check_options(const pl_export_plan *plan, pl_error *err) {
    const pl_config *c = &plan->model->config, *f = &plan->family->config;
    const pl_family *family = plan->family;
    bool rotary = c->positions == PL_POSITIONS_ROTARY, gguf = plan->gguf;
    bool sqrt_width = f->embed_scale == PL_EMBED_SCALE_SQRT_WIDTH;
    float fixed_scale = f->embed_scale > 0 ? f->embed_scale : 1;
    float embed_scale = sqrt_width ? (float)sqrt((double)c->d_model) : fixed_scale;
    float plain_scale = (float)(1.0 / sqrt((double)c->d_head));
    float attn_scale = gguf ? pl_family_attn_scale(family, c) : plain_scale;
    bool any_scale = !gguf && family->hf_gain_offset != 0; /* query_pre_attn_scalar */
    bool capped = f->attn_softcap > 0;
    bool encoder = family->hf_encoder,
         plain_heads = c->n_kv_heads == c->n_heads && c->d_head * c->n_heads == c->d_model;
    const struct {
        const char *what;
        bool same;
    } parts[] = {
        {"activation (only config.json names one)",
         c->activation == f->activation || (!gguf && c->activation != PL_ACT_SIGMOID)},
        {"activation (gelu there is the one by tanh)",
         !family->hf_gelu_tanh || c->activation != PL_ACT_GELU_ERF},
        {"parallel blocks", c->parallel == f->parallel || family->may_be_parallel},
        {"norm shared by parallel sublayers",
         c->shared_norm == (c->parallel && family->parallel_shares_norm)},
        {"rope_dims (only GGUF has them)", gguf || !rotary || c->rope_dims == c->d_head ||
                                               family->hf_partial ||
                                               says_size(plan, offsetof(pl_config, rope_dims))},
        {"attn_scale", c->attn_scale == (f->attn_scale > 0 ? f->attn_scale : attn_scale) ||
                           any_scale || says_size(plan, offsetof(pl_config, attn_scale))},
        {"soft-capped scores", c->attn_softcap == 0 || capped},
        {"soft-capped logits", c->logit_softcap == 0 || capped},
        {"scale of the embedding", c->embed_scale == embed_scale},
        {"window", c->window == 0 || family->windowed},
        {"pattern of windows", c->window == 0 || c->window_period == f->window_period},
        {"rotation of layers with a window", (c->rope_base_local > 0) == (f->rope_base_local > 0)},
        {"table of rotary factors (only GGUF has one)", gguf || c->rope_scaling != PL_ROPE_TABLE},
        {"tables for long contexts",
         c->rope_scaling != PL_ROPE_LONG || !gguf || has_place(plan, PL_PLACE_ROPE_FACTORS_LONG)},
        {"rotary scaling", rotary || c->rope_scaling == PL_ROPE_UNSCALED},
        {"experts", (c->n_experts > 0) == family->experts},
        {"kinds of tokens", c->n_token_types == 0 || has_place(plan, PL_PLACE_TOKEN_TYPES)},
        {"pooling", !encoder || c->pooling != PL_POOLING_OTHER},
        {"pooler", !c->pooler || has_place(plan, PL_PLACE_POOLER)},
        {"want of an unembedding", !c->headless || encoder},
        {"map before the unembedding", c->headless || c->unembed_dense == f->unembed_dense},
        {"bias of the unembedding", c->headless || c->unembed_bias == f->unembed_bias},
        {"heads (their keys, or their width)", !encoder || plain_heads},
    };
    for (size_t i = 0; i < sizeof parts / sizeof *parts; i++) {
        if (!parts[i].same) return cannot_say(plan, parts[i].what, err);
    }
    return PL_OK;
}

static pl_status check_description(const pl_export_plan *plan, pl_error *err) {
    const pl_config *c = &plan->model->config, *f = &plan->family->config;
    const struct {
        const char *what;
        bool same;
    } parts[] = {
        {"kind of norm", c->norm == f->norm},
        {"norm slots", memcmp(c->norm_slot, f->norm_slot, sizeof c->norm_slot) == 0},
        {"norm after the embedding", c->norm_embed == f->norm_embed},
        {"norm before the unembedding", c->headless || c->norm_final == f->norm_final},
        {"norm biases", c->norm_bias == f->norm_bias},
        {"norm of queries and keys", c->qk_norm == f->qk_norm},
        {"norm of queries and keys in this order of rotated pairs", !c->qk_norm || !plan->reorder},
        {"positions", c->positions == f->positions},
        {"gated mlp", c->gated == f->gated},
        {"causal mask", c->causal == f->causal},
    };
    for (size_t i = 0; i < sizeof parts / sizeof *parts; i++) {
        if (!parts[i].same) return cannot_say(plan, parts[i].what, err);
    }
    return check_options(plan, err);
}

/* -- items ---------------------------------------------------------------------------------- */

static pl_export_item *new_item(pl_export_plan *plan, const pl_tensor_rule *rule, int64_t layer,
                                int64_t expert, const char *ending, int64_t n_parts) {
    if (plan->n == plan->capacity) {
        size_t capacity = plan->capacity ? 2 * plan->capacity : 64;
        pl_export_item *items = realloc(plan->items, capacity * sizeof *items);
        if (!items) return NULL;
        plan->items = items;
        plan->capacity = capacity;
    }
    pl_export_part *parts = calloc((size_t)n_parts, sizeof *parts);
    if (!parts) return NULL;
    pl_export_item *item = &plan->items[plan->n++];
    *item = (pl_export_item){.plan = plan, .place = rule->place, .layer = layer, .parts = parts};
    bool stacked = plan->gguf && rule->merged;
    const char *pattern = stacked ? rule->merged : plan->gguf ? rule->gguf : rule->hf;
    bool bare = plan->family->hf_encoder
                    ? plan->model->config.headless || pl_place_in_head(rule->place)
                    : rule->place == PL_PLACE_UNEMBED;
    bool prefixed = !plan->gguf && !bare;
    int used =
        snprintf(item->name, sizeof item->name, "%s", prefixed ? plan->family->hf_prefix : "");
    pl_tensor_rule_name(item->name + used, sizeof item->name - (size_t)used, pattern, layer, expert,
                        ending);
    item->stacked = stacked;
    return item;
}

/* Type and shape of what is written, once the parts stand. */
static pl_status announce(pl_export_item *item, bool vector, pl_error *err) {
    const pl_export_plan *plan = item->plan;
    const pl_tensor *first = item->parts[0].t;
    int64_t n_rows = 0, width = vector ? 1 : first->shape[item->parts[0].transposed ? 0 : 1];
    pl_dtype dtype = pl_export_dtype(item, first->dtype, width);
    if (vector) {
        dtype = PL_F32;
        const pl_tensor *embed = &plan->model->weights.embed;
        if (!plan->gguf) dtype = plan->options.cast ? plan->options.dtype : embed->dtype;
    }
    for (int64_t i = 0; i < item->n_parts; i++) {
        const pl_tensor *t = item->parts[i].t;
        n_rows += item->parts[i].n_rows;
        if (!vector && !plan->options.cast && t->dtype != dtype) {
            return pl_fail(err, PL_ERR_UNSUPPORTED,
                           "tensor '%s' would hold both %s and %s: give a dtype to cast to",
                           item->name, pl_dtype_get(dtype)->name, pl_dtype_get(t->dtype)->name);
        }
    }
    if (pl_dtype_get(dtype)->quantised && !plan->gguf) {
        return pl_fail(err, PL_ERR_UNSUPPORTED,
                       "tensor '%s': safetensors cannot hold %s: give a dtype to cast to",
                       item->name, pl_dtype_get(dtype)->name);
    }
    item->announced = (pl_tensor){.dtype = dtype, .n_dims = vector ? 1 : 2};
    item->announced.shape[0] = item->conv1d ? width : n_rows;
    item->announced.shape[1] = item->conv1d ? n_rows : width;
    item->announced.stride[0] = vector ? 1 : item->announced.shape[1];
    item->announced.stride[1] = 1;
    if (!item->stacked) return PL_OK;
    int64_t each = n_rows / item->n_parts;
    item->announced = (pl_tensor){.dtype = dtype,
                                  .n_dims = 3,
                                  .shape = {item->n_parts, each, width},
                                  .stride = {each * width, width, 1}};
    return PL_OK;
}

static void add_part(pl_export_item *item, const pl_tensor *t, bool transposed, int64_t n_heads) {
    int64_t n_rows = t->shape[transposed ? 1 : 0];
    bool reorder = item->plan->reorder;
    item->parts[item->n_parts++] = (pl_export_part){t, transposed, n_rows, reorder ? n_heads : 0};
}

static pl_status no_memory(pl_error *err) {
    return pl_fail(err, PL_ERR_MEMORY, "out of memory for the list of tensors");
}

/* A linear map of one to three parts; n_heads[i] > 0 for queries and keys. */
static pl_status add_linears(pl_export_plan *plan, const pl_tensor_rule *rule, int64_t layer,
                             const pl_linear *const *linears, const int64_t *n_heads, int n,
                             pl_error *err) {
    pl_export_item *item = new_item(plan, rule, layer, -1, "weight", n);
    if (!item) return no_memory(err);
    item->conv1d = rule->conv1d && !plan->gguf;
    item->by_head = rule->by_head && !plan->gguf;
    int n_biases = 0;
    for (int i = 0; i < n; i++) {
        add_part(item, &linears[i]->w, linears[i]->transposed, n_heads[i]);
        if (linears[i]->b.data) n_biases++;
    }
    pl_status status = announce(item, false, err);
    if (status != PL_OK) return status;
    if ((n_biases && rule->bias == PL_BIAS_NEVER) ||
        (n_biases < n && rule->bias == PL_BIAS_ALWAYS)) {
        return cannot_say(plan, n_biases ? "biases" : "maps without a bias", err);
    }
    if (!n_biases) return PL_OK;
    if (!(item = new_item(plan, rule, layer, -1, "bias", n))) return no_memory(err);
    item->by_head = rule->by_head && !plan->gguf;
    for (int i = 0; i < n; i++) add_part(item, &linears[i]->b, false, n_heads[i]);
    return announce(item, true, err);
}

static pl_status add_linear(pl_export_plan *plan, const pl_tensor_rule *rule, int64_t layer,
                            const pl_linear *linear, int64_t n_heads, pl_error *err) {
    return add_linears(plan, rule, layer, &linear, &n_heads, 1, err);
}

static pl_status add_norm(pl_export_plan *plan, const pl_tensor_rule *rule, int64_t layer,
                          const pl_norm_weights *norm, pl_error *err) {
    pl_export_item *item = new_item(plan, rule, layer, -1, "weight", 1);
    if (!item) return no_memory(err);
    if (!plan->gguf) item->offset = plan->family->hf_gain_offset;
    add_part(item, &norm->gain, false, 0);
    pl_status status = announce(item, true, err);
    if (status != PL_OK || !norm->bias.data) return status;
    if (!(item = new_item(plan, rule, layer, -1, "bias", 1))) return no_memory(err);
    add_part(item, &norm->bias, false, 0);
    return announce(item, true, err);
}

static pl_status add_table(pl_export_plan *plan, const pl_tensor_rule *rule, const pl_tensor *t,
                           pl_error *err) {
    pl_export_item *item = new_item(plan, rule, -1, -1, "weight", 1);
    if (!item) return no_memory(err);
    add_part(item, t, false, 0);
    return announce(item, false, err);
}

static pl_status add_vector(pl_export_plan *plan, const pl_tensor_rule *rule, const pl_tensor *t,
                            const char *ending, pl_error *err) {
    if (!t->data) return PL_OK;
    pl_export_item *item = new_item(plan, rule, -1, -1, ending, 1);
    if (!item) return no_memory(err);
    add_part(item, t, false, 0);
    return announce(item, true, err);
}

/* One tensor of all experts in GGUF, else one for each. */
static pl_status add_experts(pl_export_plan *plan, const pl_tensor_rule *rule, int64_t layer,
                             pl_error *err) {
    int64_t n = plan->model->config.n_experts;
    const pl_expert_weights *experts = plan->model->weights.blocks[layer].experts;
    pl_export_item *item = NULL;
    for (int64_t e = 0; e < n; e++) {
        const pl_linear *map = rule->place == PL_PLACE_EXPERT_GATE ? &experts[e].gate
                               : rule->place == PL_PLACE_EXPERT_IN ? &experts[e].in
                                                                   : &experts[e].out;
        if (map->b.data) return cannot_say(plan, "biases", err);
        if (!item || !item->stacked) {
            item = new_item(plan, rule, layer, e, "weight", plan->gguf ? n : 1);
            if (!item) return no_memory(err);
        }
        add_part(item, &map->w, map->transposed, 0);
        if (item->stacked && e + 1 < n) continue;
        pl_status status = announce(item, false, err);
        if (status != PL_OK) return status;
    }
    return PL_OK;
}

/* A tied matrix is left out, but not its bias, which may have a rule of its own. */
static pl_status add_unembed(pl_export_plan *plan, const pl_tensor_rule *rule, pl_error *err) {
    const pl_linear *unembed = &plan->model->weights.unembed;
    bool bias = !has_place(plan, PL_PLACE_UNEMBED_BIAS);
    if (plan->model->config.tied) {
        return bias ? add_vector(plan, rule, &unembed->b, "bias", err) : PL_OK;
    }
    if (bias) return add_linear(plan, rule, -1, unembed, 0, err);
    pl_export_item *item = new_item(plan, rule, -1, -1, "weight", 1);
    if (!item) return no_memory(err);
    add_part(item, &unembed->w, unembed->transposed, 0);
    return announce(item, false, err);
}

static pl_status add_outside(pl_export_plan *plan, const pl_tensor_rule *rule, pl_error *err) {
    const pl_weights *w = &plan->model->weights;
    if (plan->model->config.headless && pl_place_in_head(rule->place)) return PL_OK;
    switch (rule->place) {
    case PL_PLACE_TOKEN_TYPES:
        return w->token_types.data ? add_table(plan, rule, &w->token_types, err) : PL_OK;
    case PL_PLACE_UNEMBED_DENSE:
        return add_linear(plan, rule, -1, &w->unembed_dense, 0, err);
    case PL_PLACE_UNEMBED_BIAS:
        return add_vector(plan, rule, &w->unembed.b, "bias", err);
    case PL_PLACE_POOLER:
        return w->pooler.w.data ? add_linear(plan, rule, -1, &w->pooler, 0, err) : PL_OK;
    case PL_PLACE_EMBED:
        return add_table(plan, rule, &w->embed, err);
    case PL_PLACE_POSITIONS:
        return add_table(plan, rule, &w->positions, err);
    case PL_PLACE_NORM_EMBED:
        return add_norm(plan, rule, -1, &w->norm_embed, err);
    case PL_PLACE_NORM_FINAL:
        return add_norm(plan, rule, -1, &w->norm_final, err);
    case PL_PLACE_ROPE_FACTORS:
        return add_vector(plan, rule, &plan->rope_factors, "weight", err);
    case PL_PLACE_ROPE_FACTORS_LONG:
    case PL_PLACE_ROPE_FACTORS_SHORT:
        if (plan->model->config.rope_scaling != PL_ROPE_LONG) return PL_OK;
        bool brief = rule->place == PL_PLACE_ROPE_FACTORS_SHORT;
        return add_vector(plan, rule, brief ? &w->rope_factors_short : &w->rope_factors, "weight",
                          err);
    default:
        return add_unembed(plan, rule, err);
    }
}

static pl_status add_in_block(pl_export_plan *plan, const pl_tensor_rule *rule, int64_t layer,
                              pl_error *err) {
    const pl_config *c = &plan->model->config;
    const pl_block_weights *b = &plan->model->weights.blocks[layer];
    switch (rule->place) {
    case PL_PLACE_NORM_ATTENTION:
        return add_norm(plan, rule, layer, &b->norm[PL_ATTENTION][rule->slot], err);
    case PL_PLACE_NORM_MLP:
        if (c->shared_norm && rule->slot == PL_NORM_BEFORE) return PL_OK;
        return add_norm(plan, rule, layer, &b->norm[PL_MLP][rule->slot], err);
    case PL_PLACE_QKV:
        return add_linears(plan, rule, layer, (const pl_linear *[]){&b->q, &b->k, &b->v},
                           (const int64_t[]){c->n_heads, c->n_kv_heads, 0}, 3, err);
    case PL_PLACE_Q:
        return add_linear(plan, rule, layer, &b->q, c->n_heads, err);
    case PL_PLACE_K:
        return add_linear(plan, rule, layer, &b->k, c->n_kv_heads, err);
    case PL_PLACE_V:
        return add_linear(plan, rule, layer, &b->v, 0, err);
    case PL_PLACE_O:
        return add_linear(plan, rule, layer, &b->o, 0, err);
    case PL_PLACE_GATE:
        return add_linear(plan, rule, layer, &b->gate, 0, err);
    case PL_PLACE_IN:
        return add_linear(plan, rule, layer, &b->in, 0, err);
    case PL_PLACE_GATE_IN:
        return add_linears(plan, rule, layer, (const pl_linear *[]){&b->gate, &b->in},
                           (const int64_t[]){0, 0}, 2, err);
    case PL_PLACE_Q_NORM:
        return add_norm(plan, rule, layer, &b->q_norm, err);
    case PL_PLACE_K_NORM:
        return add_norm(plan, rule, layer, &b->k_norm, err);
    case PL_PLACE_ROUTER:
        return add_linear(plan, rule, layer, &b->router, 0, err);
    case PL_PLACE_EXPERT_GATE:
    case PL_PLACE_EXPERT_IN:
    case PL_PLACE_EXPERT_OUT:
        return add_experts(plan, rule, layer, err);
    default:
        return add_linear(plan, rule, layer, &b->out, 0, err);
    }
}

static pl_status add_all(pl_export_plan *plan, pl_error *err) {
    pl_status status = PL_OK;
    for (size_t i = 0; i < plan->family->n_rules && status == PL_OK; i++) {
        const pl_tensor_rule *rule = &plan->family->rules[i];
        const char *pattern = plan->gguf ? rule->gguf : rule->hf;
        if (!pattern) continue;
        bool in_block = strstr(pattern, "%d");
        if (!in_block) status = add_outside(plan, rule, err);
        for (int64_t l = 0; in_block && l < plan->model->config.n_layers; l++) {
            if (status == PL_OK) status = add_in_block(plan, rule, l, err);
        }
    }
    return status;
}

/* GGUF has Llama 3's scaling as the factor by which each frequency is divided. */
static pl_status make_factors(pl_export_plan *plan, pl_error *err) {
    const pl_config *c = &plan->model->config;
    if (c->rope_scaling == PL_ROPE_TABLE) plan->rope_factors = plan->model->weights.rope_factors;
    if (c->rope_scaling != PL_ROPE_LLAMA3) return PL_OK;
    pl_tensor *t = &plan->rope_factors;
    pl_status status = pl_tensor_new(t, PL_F32, 1, (int64_t[]){c->rope_dims / 2}, err);
    plan->owns_factors = status == PL_OK;
    for (int64_t i = 0; status == PL_OK && i < c->rope_dims / 2; i++) {
        double plain = pow((double)c->rope_base, -2.0 * (double)i / (double)c->rope_dims);
        ((float *)t->data)[i] = (float)(plain / plan->model->rope_frequencies[i]);
    }
    return status;
}

pl_status pl_export_plan_init(pl_export_plan *plan, const pl_model *model,
                              const pl_save_options *options, bool gguf, pl_error *err) {
    const pl_config *c = &model->config;
    *plan = (pl_export_plan){.model = model, .gguf = gguf};
    if (options) plan->options = *options;
    pl_dtype dtype = plan->options.dtype;
    if (plan->options.cast && (dtype == PL_I32 || dtype == PL_I64 || dtype >= PL_N_DTYPES)) {
        return pl_fail(err, PL_ERR_ARGUMENT, "dtype %s: expected a float or quantised type",
                       dtype < PL_N_DTYPES ? pl_dtype_get(dtype)->name : "?");
    }
    if (plan->options.mixed && dtype != PL_Q4_K && dtype != PL_Q5_K) {
        return pl_fail(err, PL_ERR_ARGUMENT, "there is a mix of q4_k and of q5_k only");
    }
    plan->family = pl_model_family(model);
    if (!plan->family) {
        return pl_fail(err, PL_ERR_UNSUPPORTED, "files of the family '%s' are not known", c->arch);
    }
    if (!(gguf ? plan->family->gguf : plan->family->model_type)) {
        return pl_fail(err, PL_ERR_UNSUPPORTED,
                       "there are no %s files of the family %s: save it as %s",
                       gguf ? "GGUF" : "Hugging Face", c->arch, gguf ? "safetensors" : "GGUF");
    }
    const pl_family *f = plan->family;
    bool half = gguf ? f->gguf_rope_half : f->config.rope_half;
    plan->reorder = c->positions == PL_POSITIONS_ROTARY && half != c->rope_half;
    pl_status status = pl_kernels_choose(&plan->kernels, err);
    if (status == PL_OK) status = check_description(plan, err);
    if (status == PL_OK && gguf) status = make_factors(plan, err);
    if (status == PL_OK) status = add_all(plan, err);
    if (status != PL_OK) pl_export_plan_clear(plan);
    return status;
}

void pl_export_plan_clear(pl_export_plan *plan) {
    for (size_t i = 0; i < plan->n; i++) free(plan->items[i].parts);
    free(plan->items);
    if (plan->owns_factors) pl_tensor_release(&plan->rope_factors);
    plan->items = NULL;
    plan->n = plan->capacity = 0;
}

/* -- making tensors ------------------------------------------------------------------------- */

bool pl_export_as_is(const pl_export_item *item) {
    const pl_export_part *part = &item->parts[0];
    return item->n_parts == 1 && !item->stacked && item->offset == 0 && part->n_heads == 0 &&
           part->transposed == item->conv1d && part->t->dtype == item->announced.dtype;
}

/* Which of the model's rows becomes this row of the file. */
static int64_t source_row(const pl_export_item *item, const pl_export_part *part, int64_t row) {
    return part->n_heads ? pl_config_other_row(&item->plan->model->config, row) : row;
}

/* One row of the model's weight, as it lies there or widened. */
static void widen_row(const pl_export_item *item, const pl_export_part *part, int64_t row,
                      float *out, int64_t width) {
    const pl_tensor *t = part->t;
    void (*widen)(float *, const void *, size_t) = item->plan->kernels->to_f32[t->dtype];
    const char *data = t->data;
    if (!part->transposed) {
        widen(out, data + (size_t)row * pl_tensor_row_bytes(t), (size_t)width);
        return;
    }
    size_t bytes = pl_dtype_get(t->dtype)->block_bytes;
    for (int64_t i = 0; i < width; i++) {
        widen(out + i, data + (size_t)(i * t->stride[0] + row * t->stride[1]) * bytes, 1);
    }
}

/* What the rows of one tensor are made from, and where to. */
typedef struct making {
    const pl_export_item *item;
    pl_tensor *t;
    int64_t width;
    const float *importance; /* [width], or NULL */
    float *wide;             /* [n_threads, width] */
} making;

static void narrow_row(const making *m, const float *wide, int64_t to) {
    const pl_tensor *t = m->t;
    size_t bytes = pl_dtype_get(t->dtype)->block_bytes;
    char *data = t->data;
    if (pl_dtype_get(t->dtype)->quantised) {
        pl_quantize_row(t->dtype, data + (size_t)to * pl_tensor_row_bytes(t), wide,
                        (size_t)m->width, m->importance);
        return;
    }
    void (*narrow)(void *, const float *, size_t) = m->item->plan->kernels->from_f32[t->dtype];
    if (!m->item->conv1d) narrow(data + (size_t)(to * m->width) * bytes, wide, (size_t)m->width);
    for (int64_t i = 0; m->item->conv1d && i < m->width; i++) {
        narrow(data + (size_t)(i * t->shape[1] + to) * bytes, wide + i, 1);
    }
}

static void make_row(const making *m, const pl_export_part *part, int64_t from, int64_t to,
                     float *wide) {
    const pl_tensor *t = m->t;
    if (t->n_dims == 1) {
        float value = ((const float *)part->t->data)[from * part->t->stride[0]];
        value -= m->item->offset;
        narrow_row(m, &value, to);
    } else if (!part->transposed && !m->item->conv1d && part->t->dtype == t->dtype) {
        size_t row_bytes = pl_tensor_row_bytes(t);
        memcpy((char *)t->data + (size_t)to * row_bytes,
               (const char *)part->t->data + (size_t)from * pl_tensor_row_bytes(part->t),
               row_bytes);
    } else {
        widen_row(m->item, part, from, wide, m->width);
        narrow_row(m, wide, to);
    }
}

static void make_task(void *context, size_t row, int thread) {
    const making *m = context;
    int64_t first = 0, to = (int64_t)row;
    const pl_export_part *part = m->item->parts;
    if (m->item->by_head) {
        int64_t d_head = m->item->plan->model->config.d_head, n = m->item->n_parts;
        part += to / d_head % n;
        int64_t from = to / (n * d_head) * d_head + to % d_head;
        make_row(m, part, source_row(m->item, part, from), to, m->wide + thread * m->width);
        return;
    }
    while (to - first >= part->n_rows) first += part++->n_rows;
    make_row(m, part, source_row(m->item, part, to - first), to, m->wide + thread * m->width);
}

pl_status pl_export_make(void *context, pl_tensor *t, pl_error *err) {
    const pl_export_item *item = context;
    const pl_tensor *shape = &item->announced;
    const pl_save_options *options = &item->plan->options;
    pl_status status = pl_tensor_new(t, shape->dtype, shape->n_dims, shape->shape, err);
    if (status != PL_OK) return status;
    int64_t width = item->conv1d ? shape->shape[0] : shape->shape[shape->n_dims - 1];
    int64_t n_rows = shape->n_dims == 1 ? shape->shape[0] : pl_tensor_count(shape) / width;
    making m = {item, t, shape->n_dims == 1 ? 1 : width, NULL, NULL};
    int n_threads = pl_threads_default();
    m.wide = malloc((size_t)m.width * (size_t)n_threads * sizeof *m.wide);
    if (!m.wide) {
        pl_tensor_release(t);
        return no_memory(err);
    }
    if (options->importance && pl_dtype_get(t->dtype)->quantised) {
        m.importance = options->importance(options->importance_context, item->name, m.width);
    }
    pl_parallel(n_threads, (size_t)n_rows, make_task, &m);
    free(m.wide);
    return PL_OK;
}
