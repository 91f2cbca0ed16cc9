#include "export_plan.h"

#include <math.h>
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

static pl_status check_description(const pl_export_plan *plan, pl_error *err) {
    const pl_config *c = &plan->model->config, *f = &plan->family->config;
    const struct {
        const char *what;
        bool same;
    } parts[] = {
        {"kind of norm", c->norm == f->norm},
        {"norm slots", memcmp(c->norm_slot, f->norm_slot, sizeof c->norm_slot) == 0},
        {"norm after the embedding", c->norm_embed == f->norm_embed},
        {"norm before the unembedding", c->norm_final == f->norm_final},
        {"norm biases", c->norm_bias == f->norm_bias},
        {"positions", c->positions == f->positions},
        {"activation (only config.json names one)",
         c->activation == f->activation || (!plan->gguf && c->activation != PL_ACT_SIGMOID)},
        {"gated mlp", c->gated == f->gated},
        {"parallel blocks", c->parallel == f->parallel},
        {"causal mask", c->causal == f->causal},
        {"rope_dims (only GGUF has them)",
         plan->gguf || c->positions != PL_POSITIONS_ROTARY || c->rope_dims == c->d_head},
        {"soft caps", c->attn_softcap == f->attn_softcap && c->logit_softcap == f->logit_softcap},
        {"scaled embedding", c->embed_scale == 1},
        {"norm of queries and keys", c->qk_norm == f->qk_norm},
        {"norm shared by parallel sublayers", c->shared_norm == f->shared_norm},
        {"window", c->window == f->window},
        {"rotary scaling", c->rope_scaling == f->rope_scaling && c->rope_base_local == 0},
        {"experts", c->n_experts == f->n_experts},
        {"attn_scale", c->attn_scale == (float)(1.0 / sqrt((double)c->d_head))},
    };
    for (size_t i = 0; i < sizeof parts / sizeof *parts; i++) {
        if (!parts[i].same) return cannot_say(plan, parts[i].what, err);
    }
    return PL_OK;
}

/* -- items ---------------------------------------------------------------------------------- */

static pl_export_item *new_item(pl_export_plan *plan, const pl_tensor_rule *rule, int64_t layer,
                                const char *ending) {
    if (plan->n == plan->capacity) {
        size_t capacity = plan->capacity ? 2 * plan->capacity : 64;
        pl_export_item *items = realloc(plan->items, capacity * sizeof *items);
        if (!items) return NULL;
        plan->items = items;
        plan->capacity = capacity;
    }
    pl_export_item *item = &plan->items[plan->n++];
    *item = (pl_export_item){.plan = plan, .place = rule->place, .layer = layer};
    const char *pattern = plan->gguf ? rule->gguf : rule->hf;
    const char *number = strstr(pattern, "%d");
    bool prefixed = !plan->gguf && rule->place != PL_PLACE_UNEMBED;
    const char *prefix = prefixed ? plan->family->hf_prefix : "";
    if (number) {
        snprintf(item->name, sizeof item->name, "%s%.*s%lld%s.%s", prefix, (int)(number - pattern),
                 pattern, (long long)layer, number + 2, ending);
    } else {
        snprintf(item->name, sizeof item->name, "%s%s.%s", prefix, pattern, ending);
    }
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
    for (int i = 0; i < item->n_parts; i++) {
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
    pl_export_item *item = new_item(plan, rule, layer, "weight");
    if (!item) return no_memory(err);
    item->conv1d = rule->conv1d && !plan->gguf;
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
    if (!(item = new_item(plan, rule, layer, "bias"))) return no_memory(err);
    for (int i = 0; i < n; i++) add_part(item, &linears[i]->b, false, n_heads[i]);
    return announce(item, true, err);
}

static pl_status add_linear(pl_export_plan *plan, const pl_tensor_rule *rule, int64_t layer,
                            const pl_linear *linear, int64_t n_heads, pl_error *err) {
    return add_linears(plan, rule, layer, &linear, &n_heads, 1, err);
}

static pl_status add_norm(pl_export_plan *plan, const pl_tensor_rule *rule, int64_t layer,
                          const pl_norm_weights *norm, pl_error *err) {
    pl_export_item *item = new_item(plan, rule, layer, "weight");
    if (!item) return no_memory(err);
    add_part(item, &norm->gain, false, 0);
    pl_status status = announce(item, true, err);
    if (status != PL_OK || !norm->bias.data) return status;
    if (!(item = new_item(plan, rule, layer, "bias"))) return no_memory(err);
    add_part(item, &norm->bias, false, 0);
    return announce(item, true, err);
}

static pl_status add_table(pl_export_plan *plan, const pl_tensor_rule *rule, const pl_tensor *t,
                           pl_error *err) {
    pl_export_item *item = new_item(plan, rule, -1, "weight");
    if (!item) return no_memory(err);
    add_part(item, t, false, 0);
    return announce(item, false, err);
}

static pl_status add_outside(pl_export_plan *plan, const pl_tensor_rule *rule, pl_error *err) {
    const pl_weights *w = &plan->model->weights;
    switch (rule->place) {
    case PL_PLACE_EMBED:
        return add_table(plan, rule, &w->embed, err);
    case PL_PLACE_POSITIONS:
        return add_table(plan, rule, &w->positions, err);
    case PL_PLACE_NORM_EMBED:
        return add_norm(plan, rule, -1, &w->norm_embed, err);
    case PL_PLACE_NORM_FINAL:
        return add_norm(plan, rule, -1, &w->norm_final, err);
    default:
        if (plan->model->config.tied) return PL_OK;
        return add_linear(plan, rule, -1, &w->unembed, 0, err);
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
    default:
        return add_linear(plan, rule, layer, &b->out, 0, err);
    }
}

static pl_status add_all(pl_export_plan *plan, pl_error *err) {
    pl_status status = PL_OK;
    for (size_t i = 0; i < plan->family->n_rules && status == PL_OK; i++) {
        const pl_tensor_rule *rule = &plan->family->rules[i];
        bool in_block = strstr(rule->gguf, "%d");
        if (!in_block) status = add_outside(plan, rule, err);
        for (int64_t l = 0; in_block && l < plan->model->config.n_layers; l++) {
            if (status == PL_OK) status = add_in_block(plan, rule, l, err);
        }
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
    plan->family = pl_family_find(c->arch);
    if (!plan->family) {
        return pl_fail(err, PL_ERR_UNSUPPORTED, "files of the family '%s' are not known", c->arch);
    }
    bool half = !gguf || plan->family->gguf_rope_half;
    plan->reorder = c->positions == PL_POSITIONS_ROTARY && half != c->rope_half;
    pl_status status = pl_kernels_choose(&plan->kernels, err);
    if (status == PL_OK) status = check_description(plan, err);
    if (status == PL_OK) status = add_all(plan, err);
    if (status != PL_OK) pl_export_plan_clear(plan);
    return status;
}

void pl_export_plan_clear(pl_export_plan *plan) {
    free(plan->items);
    plan->items = NULL;
    plan->n = plan->capacity = 0;
}

/* -- making tensors ------------------------------------------------------------------------- */

bool pl_export_as_is(const pl_export_item *item) {
    const pl_export_part *part = &item->parts[0];
    return item->n_parts == 1 && part->n_heads == 0 && part->transposed == item->conv1d &&
           part->t->dtype == item->announced.dtype;
}

/* Which of the model's rows becomes this row of the file. */
static int64_t source_row(const pl_export_item *item, const pl_export_part *part, int64_t row) {
    const pl_config *c = &item->plan->model->config;
    if (!part->n_heads) return row;
    int64_t first = row / c->d_head * c->d_head, at = row % c->d_head, pairs = c->rope_dims / 2;
    if (at >= c->rope_dims) return row;
    return first + (c->rope_half ? at % 2 * pairs + at / 2 : at % pairs * 2 + at / pairs);
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
    while (to - first >= part->n_rows) first += part++->n_rows;
    make_row(m, part, source_row(m->item, part, to - first), to, m->wide + thread * m->width);
}

pl_status pl_export_make(void *context, pl_tensor *t, pl_error *err) {
    const pl_export_item *item = context;
    const pl_tensor *shape = &item->announced;
    const pl_save_options *options = &item->plan->options;
    pl_status status = pl_tensor_new(t, shape->dtype, shape->n_dims, shape->shape, err);
    if (status != PL_OK) return status;
    making m = {item, t, shape->n_dims == 1 ? 1 : shape->shape[item->conv1d ? 0 : 1], NULL, NULL};
    int n_threads = pl_threads_default();
    m.wide = malloc((size_t)m.width * (size_t)n_threads * sizeof *m.wide);
    if (!m.wide) {
        pl_tensor_release(t);
        return no_memory(err);
    }
    if (options->importance && pl_dtype_get(t->dtype)->quantised) {
        m.importance = options->importance(options->importance_context, item->name, m.width);
    }
    pl_parallel(n_threads, (size_t)shape->shape[item->conv1d ? 1 : 0], make_task, &m);
    free(m.wide);
    return PL_OK;
}
