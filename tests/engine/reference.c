#include "reference.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "../../engine/base/error.h"

/* -- weights -------------------------------------------------------------------------------- */

/* IEEE half precision by its definition: sign, 5 bits of exponent, 10 of fraction. */
static double half_value(uint16_t bits) {
    int exponent = bits >> 10 & 31, fraction = bits & 1023;
    double value = exponent == 0    ? ldexp(fraction, -24)
                   : exponent == 31 ? (fraction ? NAN : INFINITY)
                                    : ldexp(1024 + fraction, exponent - 25);
    return bits >> 15 ? -value : value;
}

static double bfloat_value(uint16_t bits) {
    uint32_t wide = (uint32_t)bits << 16;
    float value;
    memcpy(&value, &wide, sizeof value);
    return (double)value;
}

static double plain_value(const pl_tensor *t, int64_t offset) {
    if (t->dtype == PL_F32) return (double)((const float *)t->data)[offset];
    uint16_t bits = ((const uint16_t *)t->data)[offset];
    return t->dtype == PL_F16 ? half_value(bits) : bfloat_value(bits);
}

/* Row-major float64 of a vector or matrix, `swapped` where rows and columns are exchanged. */
static pl_status widen(reference *r, double **out, const pl_tensor *t, bool swapped,
                       pl_error *err) {
    *out = NULL;
    if (!t->data) return PL_OK;
    int64_t n_rows = t->n_dims == 2 ? t->shape[0] : 1, n = t->shape[t->n_dims - 1];
    double *wide = pl_arena_alloc(&r->memory, (size_t)(n_rows * n) * sizeof *wide);
    if (!wide) return pl_fail(err, PL_ERR_MEMORY, "out of memory for a reference");
    *out = wide;
    if (pl_dtype_get(t->dtype)->quantised) {
        float *row = malloc((size_t)n * sizeof *row);
        if (!row) return pl_fail(err, PL_ERR_MEMORY, "out of memory for a reference");
        for (int64_t i = 0; i < n_rows; i++) {
            const char *source = (const char *)t->data + (size_t)i * pl_tensor_row_bytes(t);
            pl_kernels_for(PL_ISA_PLAIN)->to_f32[t->dtype](row, source, (size_t)n);
            for (int64_t j = 0; j < n; j++) wide[i * n + j] = (double)row[j];
        }
        free(row);
        return PL_OK;
    }
    for (int64_t i = 0; i < n_rows; i++) {
        for (int64_t j = 0; j < n; j++) {
            int64_t offset = (n_rows > 1 || t->n_dims == 2 ? i * t->stride[0] : 0) +
                             j * t->stride[t->n_dims - 1];
            wide[swapped ? j * n_rows + i : i * n + j] = plain_value(t, offset);
        }
    }
    return PL_OK;
}

static pl_status widen_linear(reference *r, reference_linear *out, const pl_linear *l,
                              pl_error *err) {
    pl_status status = widen(r, &out->w, &l->w, l->transposed, err);
    return status == PL_OK ? widen(r, &out->b, &l->b, false, err) : status;
}

static pl_status widen_norm(reference *r, reference_norm *out, const pl_norm_weights *norm,
                            pl_error *err) {
    pl_status status = widen(r, &out->gain, &norm->gain, false, err);
    return status == PL_OK ? widen(r, &out->bias, &norm->bias, false, err) : status;
}

static pl_status widen_experts(reference *r, reference_block *out, const pl_block_weights *b,
                               pl_error *err) {
    size_t n = (size_t)r->config.n_experts;
    out->experts = pl_arena_alloc(&r->memory, n * sizeof *out->experts);
    if (!out->experts) return pl_fail(err, PL_ERR_MEMORY, "out of memory for a reference");
    pl_status status = widen_linear(r, &out->router, &b->router, err);
    for (size_t i = 0; i < n && status == PL_OK; i++) {
        status = widen_linear(r, &out->experts[i].gate, &b->experts[i].gate, err);
        if (status == PL_OK) status = widen_linear(r, &out->experts[i].in, &b->experts[i].in, err);
        if (status == PL_OK) {
            status = widen_linear(r, &out->experts[i].out, &b->experts[i].out, err);
        }
    }
    return status;
}

static pl_status widen_block(reference *r, reference_block *out, const pl_block_weights *b,
                             pl_error *err) {
    pl_status status = widen_linear(r, &out->q, &b->q, err);
    if (status == PL_OK) status = widen_linear(r, &out->k, &b->k, err);
    if (status == PL_OK) status = widen_linear(r, &out->v, &b->v, err);
    if (status == PL_OK) status = widen_linear(r, &out->o, &b->o, err);
    if (status == PL_OK) status = widen_linear(r, &out->gate, &b->gate, err);
    if (status == PL_OK) status = widen_linear(r, &out->in, &b->in, err);
    if (status == PL_OK) status = widen_linear(r, &out->out, &b->out, err);
    if (status == PL_OK) status = widen_norm(r, &out->q_norm, &b->q_norm, err);
    if (status == PL_OK) status = widen_norm(r, &out->k_norm, &b->k_norm, err);
    if (status == PL_OK && r->config.n_experts) status = widen_experts(r, out, b, err);
    for (int i = 0; i < PL_N_SUBLAYERS * PL_N_NORM_SLOTS && status == PL_OK; i++) {
        int sublayer = i / PL_N_NORM_SLOTS, slot = i % PL_N_NORM_SLOTS;
        status = widen_norm(r, &out->norm[sublayer][slot], &b->norm[sublayer][slot], err);
    }
    return status;
}

pl_status reference_new(reference **out, const pl_model *model, pl_error *err) {
    const pl_weights *w = &model->weights;
    reference *r = calloc(1, sizeof *r);
    if (!r) return pl_fail(err, PL_ERR_MEMORY, "out of memory for a reference");
    r->config = model->config;
    r->blocks = calloc((size_t)r->config.n_layers, sizeof *r->blocks);
    pl_status status = PL_OK;
    if (!r->blocks) status = pl_fail(err, PL_ERR_MEMORY, "out of memory for a reference");
    if (status == PL_OK) status = widen(r, &r->embed, &w->embed, false, err);
    if (status == PL_OK) status = widen(r, &r->positions, &w->positions, false, err);
    if (status == PL_OK) status = widen(r, &r->token_types, &w->token_types, false, err);
    if (status == PL_OK) status = widen_linear(r, &r->unembed_dense, &w->unembed_dense, err);
    if (status == PL_OK) status = widen_linear(r, &r->pooler, &w->pooler, err);
    if (status == PL_OK) status = widen(r, &r->rope_factors, &w->rope_factors, false, err);
    if (status == PL_OK) {
        status = widen(r, &r->rope_factors_short, &w->rope_factors_short, false, err);
    }
    if (status == PL_OK) status = widen_norm(r, &r->norm_embed, &w->norm_embed, err);
    if (status == PL_OK) status = widen_norm(r, &r->norm_final, &w->norm_final, err);
    if (status == PL_OK) status = widen_linear(r, &r->unembed, &w->unembed, err);
    for (int64_t l = 0; l < r->config.n_layers && status == PL_OK; l++) {
        status = widen_block(r, &r->blocks[l], &w->blocks[l], err);
    }
    if (status != PL_OK) {
        reference_free(r);
        return status;
    }
    *out = r;
    return PL_OK;
}

void reference_free(reference *r) {
    if (!r) return;
    pl_arena_clear(&r->memory);
    free(r->blocks);
    free(r);
}

/* -- the pass ------------------------------------------------------------------------------- */

typedef struct run {
    const reference *r;
    const pl_config *c;
    int64_t n;
    reference_watch watch;
    void *context;
    /* Activations, by the names of the points. */
    double *resid, *x, *scale, *q, *k, *v, *scores, *z, *means, *attn_out, *mlp_out, *pre, *linear;
    double *attn_in, *input, *result, *mlp_in, *copy; /* the first three: one for each head */
    double *expert_weights, *expert_indices;
} run;

static void show(const run *w, pl_point point, int64_t layer, double *values, int64_t a, int64_t b,
                 int64_t c) {
    int64_t shape[] = {a, b, c};
    if (w->watch) w->watch(w->context, point, (int)layer, values, c ? 3 : 2, shape);
}

/* out[t] = W x[t] + b */
static void linear(double *out, const double *x, const reference_linear *l, int64_t n,
                   int64_t n_out, int64_t n_in) {
    for (int64_t t = 0; t < n; t++) {
        for (int64_t j = 0; j < n_out; j++) {
            double sum = l->b ? l->b[j] : 0;
            for (int64_t i = 0; i < n_in; i++) sum += l->w[j * n_in + i] * x[t * n_in + i];
            out[t * n_out + j] = sum;
        }
    }
}

/* Ba et al. 2016 and Zhang and Sennrich 2019, of rows of width d: the model's, or of so many heads,
 * which are shown as [n, heads, -1]. */
static void norm_rows(const run *w, double *out, const double *x, const reference_norm *weights,
                      int64_t n, int64_t d, bool shown, pl_point scale_point, int64_t layer,
                      int64_t heads) {
    double *means = w->means;
    int64_t groups = n / w->n, width = groups * d;
    for (int64_t t = 0; t < n; t++) {
        double mean = 0, square = 0;
        for (int64_t i = 0; i < d; i++) mean += x[t * d + i] / (double)d;
        if (w->c->norm == PL_NORM_RMS) mean = 0;
        for (int64_t i = 0; i < d; i++) square += pow(x[t * d + i] - mean, 2) / (double)d;
        means[t] = mean;
        w->scale[t] = sqrt(square + (double)w->c->norm_eps);
    }
    int64_t b = heads ? heads : width, c = heads ? width / heads : 0;
    if (shown) show(w, scale_point, layer, w->scale, w->n, groups, heads ? 1 : 0);
    for (int64_t i = 0; i < n * d; i++) out[i] = (x[i] - means[i / d]) / w->scale[i / d];
    /* TransformerLens shows an RMSNorm before its gain, a LayerNorm after gain and bias. */
    bool early = w->c->norm == PL_NORM_RMS;
    if (shown && early) show(w, (pl_point)(scale_point + 1), layer, out, w->n, b, c);
    for (int64_t i = 0; i < n * d; i++) {
        out[i] *= weights->gain[i % d];
        if (weights->bias) out[i] += weights->bias[i % d];
    }
    if (shown && !early) show(w, (pl_point)(scale_point + 1), layer, out, w->n, b, c);
}

static void norm(const run *w, double *out, const double *x, const reference_norm *weights,
                 bool shown, pl_point scale_point, int64_t layer) {
    norm_rows(w, out, x, weights, w->n, w->c->d_model, shown, scale_point, layer, 0);
}

/* Each head by itself as in Dehghani et al. 2023, or all as one row as in OLMo 2. */
static void norm_heads(const run *w, double *x, const reference_norm *weights, int64_t heads,
                       pl_point scale_point, int64_t layer) {
    bool whole = w->c->qk_norm == PL_QK_NORM_WHOLE;
    if (w->c->qk_norm == PL_QK_NORM_NONE) return;
    norm_rows(w, x, x, weights, whole ? w->n : w->n * heads,
              whole ? heads * w->c->d_head : w->c->d_head, true, scale_point, layer, heads);
}

/* The norm of a slot, or a copy where it is empty. ln1 and ln2 are the first that a sublayer has,
 * ln1_post and ln2_post the second. */
static void slot(const run *w, int64_t layer, pl_sublayer sublayer, pl_norm_slot which, double *out,
                 const double *x) {
    static const pl_point points[PL_N_SUBLAYERS][2] = {{PL_HOOK_LN1_SCALE, PL_HOOK_LN1_POST_SCALE},
                                                       {PL_HOOK_LN2_SCALE, PL_HOOK_LN2_POST_SCALE}};
    if (!w->c->norm_slot[which]) {
        if (out != x) memcpy(out, x, (size_t)(w->n * w->c->d_model) * sizeof *out);
        return;
    }
    int before = 0;
    for (int i = 0; i < (int)which; i++) before += w->c->norm_slot[i];
    norm(w, out, x, &w->r->blocks[layer].norm[sublayer][which], before < 2,
         points[sublayer][before < 2 ? before : 0], layer);
}

static bool windowed(const run *w, int64_t layer) {
    int64_t period = w->c->window_period;
    return w->c->window > 0 && !(period > 0 && layer % period == period - 1);
}

/* YaRN's "NTK-by-parts", section 3.2 of arXiv:2309.00071: the ramp runs between the dimensions that
 * turn beta_fast and beta_slow times in the original context, rounded outwards. */
static double yarn(const pl_config *c, double f, int64_t i) {
    double dims = (double)c->rope_dims, original = (double)c->rope_original_ctx;
    double at[2];
    for (int k = 0; k < 2; k++) {
        double turns = (double)(k ? c->rope_beta_slow : c->rope_beta_fast);
        at[k] = dims * log(original / (turns * 2 * M_PI)) / (2 * log((double)c->rope_base));
    }
    double low = floor(at[0]) < 0 ? 0 : floor(at[0]);
    double high = ceil(at[1]) > dims - 1 ? dims - 1 : ceil(at[1]);
    if (low == high) high += 0.001;
    double ramp = ((double)i - low) / (high - low);
    ramp = ramp < 0 ? 0 : ramp > 1 ? 1 : ramp;
    return f / (double)c->rope_factor * ramp + f * (1 - ramp);
}

/* base^(-2 i / rope_dims), and what longer contexts make of it: Chen et al. 2023 (linear); for
 * Llama 3.1 a passage from kept to divided frequencies by wavelength. */
static double frequency(const run *w, int64_t layer, int64_t i) {
    const pl_config *c = w->c;
    bool local = windowed(w, layer) && c->rope_base_local > 0;
    double base = (double)(local ? c->rope_base_local : c->rope_base);
    double f = pow(base, -2 * (double)i / (double)c->rope_dims);
    if (local || c->rope_scaling == PL_ROPE_UNSCALED) return f;
    if (c->rope_scaling == PL_ROPE_LINEAR) return f / (double)c->rope_factor;
    if (c->rope_scaling == PL_ROPE_TABLE) return f / w->r->rope_factors[i];
    if (c->rope_scaling == PL_ROPE_LONG) {
        return f / (w->r->long_context ? w->r->rope_factors[i] : w->r->rope_factors_short[i]);
    }
    if (c->rope_scaling == PL_ROPE_YARN) return yarn(c, f, i);
    double wavelength = 2 * M_PI / f, original = (double)c->rope_original_ctx;
    double low = (double)c->rope_low_freq_factor, high = (double)c->rope_high_freq_factor;
    if (wavelength < original / high) return f;
    if (wavelength > original / low) return f / (double)c->rope_factor;
    double smooth = (original / wavelength - low) / (high - low);
    return (1 - smooth) * f / (double)c->rope_factor + smooth * f;
}

/* Su et al. 2021: pairs are turned by position * frequency. */
static void rotate(const run *w, double *x, int64_t n_heads, int64_t layer) {
    int64_t d = w->c->d_head, pairs = w->c->rope_dims / 2;
    bool local = windowed(w, layer) && w->c->rope_base_local > 0;
    double warmth = local ? 1 : (double)w->c->rope_attn_factor;
    for (int64_t t = 0; t < w->n; t++) {
        for (int64_t h = 0; h < n_heads; h++) {
            double *head = x + (t * n_heads + h) * d;
            for (int64_t i = 0; i < pairs; i++) {
                double angle = (double)t * frequency(w, layer, i);
                double *a = &head[w->c->rope_half ? i : 2 * i];
                double *b = &head[w->c->rope_half ? i + pairs : 2 * i + 1];
                double turned = *a * cos(angle) - *b * sin(angle);
                *b = warmth * (*a * sin(angle) + *b * cos(angle));
                *a = warmth * turned;
            }
        }
    }
}

static void softmax(double *x, int64_t n) {
    double most = -INFINITY, sum = 0;
    for (int64_t i = 0; i < n; i++) most = fmax(most, x[i]);
    for (int64_t i = 0; i < n; i++) sum += x[i] = exp(x[i] - most);
    for (int64_t i = 0; i < n; i++) x[i] /= sum;
}

/* Gemma 2. */
static double softcap(double x, float cap) {
    return cap > 0 ? (double)cap * tanh(x / (double)cap) : x;
}

/* Vaswani et al. 2017; several query heads share a key-value head as in Ainslie et al. 2023. */
static void attend(const run *w, int64_t layer) {
    int64_t n = w->n, d = w->c->d_head, heads = w->c->n_heads, kv_heads = w->c->n_kv_heads;
    for (int64_t h = 0; h < heads; h++) {
        int64_t g = h * kv_heads / heads;
        for (int64_t t = 0; t < n; t++) {
            for (int64_t s = 0; s < n; s++) {
                double sum = 0;
                for (int64_t i = 0; i < d; i++) {
                    sum += w->q[(t * heads + h) * d + i] * w->k[(s * kv_heads + g) * d + i];
                }
                bool masked = w->c->causal && s > t;
                masked |= windowed(w, layer) && t - s >= w->c->window;
                sum = softcap(sum * (double)w->c->attn_scale, w->c->attn_softcap);
                w->scores[(h * n + t) * n + s] = masked ? -INFINITY : sum;
            }
        }
    }
    show(w, PL_HOOK_ATTN_SCORES, layer, w->scores, heads, n, n);
    for (int64_t row = 0; row < heads * n; row++) softmax(w->scores + row * n, n);
    show(w, PL_HOOK_PATTERN, layer, w->scores, heads, n, n);
    for (int64_t h = 0; h < heads; h++) {
        int64_t g = h * kv_heads / heads;
        for (int64_t t = 0; t < n; t++) {
            for (int64_t i = 0; i < d; i++) {
                double sum = 0;
                for (int64_t s = 0; s < n; s++) {
                    sum += w->scores[(h * n + t) * n + s] * w->v[(s * kv_heads + g) * d + i];
                }
                w->z[(t * heads + h) * d + i] = sum;
            }
        }
    }
    show(w, PL_HOOK_Z, layer, w->z, n, heads, d);
}

static bool same(const double *a, const double *b, int64_t n) {
    for (int64_t i = 0; i < n; i++) {
        if (!(fabs(a[i] - b[i]) <= 1e-12 * fmax(1, fabs(b[i])))) return false;
    }
    return true;
}

/* out[t, h] = W_h norm(input[t, h]) + b_h, where input is a copy of attn_in; a key-value head's is
 * the mean over its query heads. An unchanged copy takes the norm in w->x, which watches saw. */
static void project(const run *w, int64_t layer, pl_point input_point, double *out,
                    const reference_linear *map, int64_t heads) {
    int64_t n = w->n, d = w->c->d_model, d_head = w->c->d_head;
    int64_t group = w->c->n_heads / heads;
    for (int64_t i = 0; i < n * heads * d; i++) {
        w->input[i] = 0;
        for (int64_t g = 0; g < group; g++) {
            int64_t t = i / d / heads, h = i / d % heads * group + g;
            w->input[i] += w->attn_in[(t * w->c->n_heads + h) * d + i % d] / (double)group;
        }
    }
    show(w, input_point, layer, w->input, n, heads, d);
    run quiet = *w; /* the norm of a changed copy is no point */
    quiet.watch = NULL;
    for (int64_t h = 0; h < heads; h++) {
        reference_linear one = {map->w + h * d_head * d, map->b ? map->b + h * d_head : NULL};
        for (int64_t i = 0; i < n * d; i++) w->copy[i] = w->input[(i / d * heads + h) * d + i % d];
        slot(&quiet, layer, PL_ATTENTION, PL_NORM_BEFORE, w->copy, w->copy);
        for (int64_t t = 0; t < n; t++) {
            bool kept = same(w->input + (t * heads + h) * d, w->resid + t * d, d);
            linear(out + (t * heads + h) * d_head, (kept ? w->x : w->copy) + t * d, &one, 1, d_head,
                   d);
        }
    }
}

/* result[t, h] = z[t, h] W_O[h]; attn_out is their sum, + b_O */
static void sum_results(const run *w, int64_t layer) {
    const reference_linear *o = &w->r->blocks[layer].o;
    int64_t n = w->n, d = w->c->d_model, d_head = w->c->d_head, heads = w->c->n_heads;
    for (int64_t i = 0; i < n * heads * d; i++) {
        int64_t h = i / d % heads, row = i % d;
        w->result[i] = 0;
        for (int64_t j = 0; j < d_head; j++) {
            w->result[i] += o->w[(row * heads + h) * d_head + j] * w->z[i / d * d_head + j];
        }
    }
    show(w, PL_HOOK_RESULT, layer, w->result, n, heads, d);
    for (int64_t i = 0; i < n * d; i++) {
        w->attn_out[i] = o->b ? o->b[i % d] : 0;
        for (int64_t h = 0; h < heads; h++) {
            w->attn_out[i] += w->result[(i / d * heads + h) * d + i % d];
        }
    }
}

static void attention(const run *w, int64_t layer) {
    const reference_block *b = &w->r->blocks[layer];
    int64_t n = w->n, d = w->c->d_model, d_head = w->c->d_head;
    int64_t heads = w->c->n_heads, kv_heads = w->c->n_kv_heads;
    for (int64_t i = 0; i < n * heads * d; i++) {
        w->attn_in[i] = w->resid[i / (heads * d) * d + i % d];
    }
    show(w, PL_HOOK_ATTN_IN, layer, w->attn_in, n, heads, d);
    slot(w, layer, PL_ATTENTION, PL_NORM_BEFORE, w->x, w->resid);
    project(w, layer, PL_HOOK_Q_INPUT, w->q, &b->q, heads);
    project(w, layer, PL_HOOK_K_INPUT, w->k, &b->k, kv_heads);
    project(w, layer, PL_HOOK_V_INPUT, w->v, &b->v, kv_heads);
    show(w, PL_HOOK_Q, layer, w->q, n, heads, d_head);
    show(w, PL_HOOK_K, layer, w->k, n, kv_heads, d_head);
    show(w, PL_HOOK_V, layer, w->v, n, kv_heads, d_head);
    norm_heads(w, w->q, &b->q_norm, heads, PL_HOOK_Q_NORM_SCALE, layer);
    norm_heads(w, w->k, &b->k_norm, kv_heads, PL_HOOK_K_NORM_SCALE, layer);
    if (w->c->positions == PL_POSITIONS_ROTARY) {
        rotate(w, w->q, heads, layer);
        rotate(w, w->k, kv_heads, layer);
        show(w, PL_HOOK_ROT_Q, layer, w->q, n, heads, d_head);
        show(w, PL_HOOK_ROT_K, layer, w->k, n, kv_heads, d_head);
    }
    show(w, PL_HOOK_KV_K, layer, w->k, n, kv_heads, d_head);
    show(w, PL_HOOK_KV_V, layer, w->v, n, kv_heads, d_head);
    attend(w, layer);
    sum_results(w, layer);
    slot(w, layer, PL_ATTENTION, PL_NORM_AFTER_SUBLAYER, w->attn_out, w->attn_out);
    show(w, PL_HOOK_ATTN_OUT, layer, w->attn_out, n, d, 0);
}

static double activate(pl_activation kind, double x) {
    switch (kind) {
    case PL_ACT_GELU_TANH:
        return 0.5 * x * (1 + tanh(sqrt(2 / M_PI) * (x + 0.044715 * x * x * x)));
    case PL_ACT_GELU_ERF:
        return 0.5 * x * (1 + erf(x / sqrt(2)));
    case PL_ACT_SILU:
        return x / (1 + exp(-x));
    case PL_ACT_RELU:
        return x > 0 ? x : 0;
    case PL_ACT_TANH:
        return tanh(x);
    default:
        return 1 / (1 + exp(-x));
    }
}

/* Gated as in Shazeer 2020. */
static void feed_forward(const run *w, int64_t layer) {
    const reference_block *b = &w->r->blocks[layer];
    int64_t n = w->n, d = w->c->d_model, d_mlp = w->c->d_mlp;
    linear(w->pre, w->x, w->c->gated ? &b->gate : &b->in, n, d_mlp, d);
    show(w, PL_HOOK_MLP_PRE, layer, w->pre, n, d_mlp, 0);
    if (w->c->gated) {
        linear(w->linear, w->x, &b->in, n, d_mlp, d);
        show(w, PL_HOOK_MLP_PRE_LINEAR, layer, w->linear, n, d_mlp, 0);
    }
    for (int64_t i = 0; i < n * d_mlp; i++) {
        w->pre[i] = activate(w->c->activation, w->pre[i]) * (w->c->gated ? w->linear[i] : 1);
    }
    show(w, PL_HOOK_MLP_POST, layer, w->pre, n, d_mlp, 0);
    linear(w->mlp_out, w->pre, &b->out, n, d, d_mlp);
}

/* Jiang et al. 2024: softmax over the logits of the chosen, which is the share that each has of
 * their part of the softmax over all. */
static void experts(const run *w, int64_t layer) {
    const reference_block *b = &w->r->blocks[layer];
    int64_t n = w->n, d = w->c->d_model, d_mlp = w->c->d_mlp;
    int64_t n_experts = w->c->n_experts, used = w->c->n_experts_used;
    linear(w->expert_weights, w->x, &b->router, n, n_experts, d);
    for (int64_t t = 0; t < n; t++) softmax(w->expert_weights + t * n_experts, n_experts);
    show(w, PL_HOOK_EXPERT_WEIGHTS, layer, w->expert_weights, n, n_experts, 0);
    for (int64_t t = 0; t < n; t++) {
        for (int64_t e = 0; e < n_experts; e++) {
            const double *weights = w->expert_weights + t * n_experts;
            int64_t rank = 0; /* how many come before this one */
            for (int64_t o = 0; o < n_experts; o++) {
                rank += weights[o] > weights[e] || (weights[o] == weights[e] && o < e);
            }
            if (rank < used) w->expert_indices[t * used + rank] = (double)e;
        }
    }
    show(w, PL_HOOK_EXPERT_INDICES, layer, w->expert_indices, n, used, 0);
    for (int64_t i = 0; i < n * d; i++) w->mlp_out[i] = 0;
    for (int64_t t = 0; t < n; t++) {
        double sum = 0;
        for (int64_t k = 0; k < used; k++) {
            sum += w->expert_weights[t * n_experts + (int64_t)w->expert_indices[t * used + k]];
        }
        for (int64_t k = 0; k < used; k++) {
            int64_t e = (int64_t)w->expert_indices[t * used + k];
            linear(w->pre, w->x + t * d, &b->experts[e].gate, 1, d_mlp, d);
            linear(w->linear, w->x + t * d, &b->experts[e].in, 1, d_mlp, d);
            for (int64_t i = 0; i < d_mlp; i++) {
                w->pre[i] = activate(w->c->activation, w->pre[i]) * w->linear[i];
            }
            linear(w->copy, w->pre, &b->experts[e].out, 1, d, d_mlp);
            for (int64_t i = 0; i < d; i++) {
                w->mlp_out[t * d + i] += w->expert_weights[t * n_experts + e] / sum * w->copy[i];
            }
        }
    }
}

static void mlp(const run *w, int64_t layer) {
    int64_t n = w->n, d = w->c->d_model;
    memcpy(w->mlp_in, w->resid, (size_t)(n * d) * sizeof *w->mlp_in);
    show(w, PL_HOOK_MLP_IN, layer, w->mlp_in, n, d, 0);
    slot(w, layer, PL_MLP, PL_NORM_BEFORE, w->x, w->mlp_in);
    if (w->c->n_experts)
        experts(w, layer);
    else
        feed_forward(w, layer);
    slot(w, layer, PL_MLP, PL_NORM_AFTER_SUBLAYER, w->mlp_out, w->mlp_out);
    show(w, PL_HOOK_MLP_OUT, layer, w->mlp_out, n, d, 0);
}

static void block(const run *w, int64_t layer) {
    int64_t count = w->n * w->c->d_model;
    show(w, PL_HOOK_RESID_PRE, layer, w->resid, w->n, w->c->d_model, 0);
    attention(w, layer);
    if (w->c->parallel) mlp(w, layer);
    for (int64_t i = 0; i < count; i++) w->resid[i] += w->attn_out[i];
    if (!w->c->parallel) {
        show(w, PL_HOOK_RESID_MID, layer, w->resid, w->n, w->c->d_model, 0);
        slot(w, layer, PL_ATTENTION, PL_NORM_AFTER_ADD, w->resid, w->resid);
        mlp(w, layer);
    }
    for (int64_t i = 0; i < count; i++) w->resid[i] += w->mlp_out[i];
    show(w, PL_HOOK_RESID_POST, layer, w->resid, w->n, w->c->d_model, 0);
    slot(w, layer, PL_MLP, PL_NORM_AFTER_ADD, w->resid, w->resid);
}

static void embed(const run *w, const int32_t *tokens) {
    int64_t n = w->n, d = w->c->d_model;
    for (int64_t i = 0; i < n * d; i++) {
        w->resid[i] = w->r->embed[tokens[i / d] * d + i % d] * (double)w->c->embed_scale;
    }
    show(w, PL_HOOK_EMBED, -1, w->resid, n, d, 0);
    if (w->c->positions == PL_POSITIONS_LEARNED) {
        memcpy(w->x, w->r->positions, (size_t)(n * d) * sizeof *w->x);
        show(w, PL_HOOK_POS_EMBED, -1, w->x, n, d, 0);
        for (int64_t i = 0; i < n * d; i++) w->resid[i] += w->x[i];
    }
    if (w->c->n_token_types) {
        for (int64_t i = 0; i < n * d; i++) {
            int64_t type = w->r->types ? w->r->types[i / d] : 0;
            w->x[i] = w->r->token_types[type * d + i % d];
        }
        show(w, PL_HOOK_TOKEN_TYPE_EMBED, -1, w->x, n, d, 0);
        for (int64_t i = 0; i < n * d; i++) w->resid[i] += w->x[i];
    }
    if (w->c->norm_embed) norm(w, w->resid, w->resid, &w->r->norm_embed, false, 0, -1);
}

pl_status reference_forward(const reference *r, double *logits, const int32_t *tokens, int64_t n,
                            reference_watch watch, void *context, pl_error *err) {
    const pl_config *c = &r->config;
    for (int64_t i = 0; i < n; i++) {
        if (tokens[i] < 0 || tokens[i] >= c->d_vocab) {
            return pl_fail(err, PL_ERR_ARGUMENT, "token %d", tokens[i]);
        }
    }
    if (c->positions == PL_POSITIONS_LEARNED && n > c->n_ctx) {
        return pl_fail(err, PL_ERR_ARGUMENT, "%lld tokens", (long long)n);
    }
    run w = {.r = r, .c = c, .n = n, .watch = watch, .context = context};
    int64_t d = c->d_model, d_q = c->n_heads * c->d_head, d_kv = c->n_kv_heads * c->d_head;
    struct {
        double **place;
        int64_t width;
    } parts[] = {{&w.resid, d},
                 {&w.x, d},
                 {&w.scale, c->n_heads},
                 {&w.q, d_q},
                 {&w.k, d_kv},
                 {&w.v, d_kv},
                 {&w.z, d_q},
                 {&w.scores, c->n_heads * n},
                 {&w.means, c->n_heads},
                 {&w.attn_out, d},
                 {&w.mlp_out, d},
                 {&w.pre, c->d_mlp},
                 {&w.linear, c->d_mlp},
                 {&w.attn_in, c->n_heads * d},
                 {&w.input, c->n_heads * d},
                 {&w.result, c->n_heads * d},
                 {&w.mlp_in, d},
                 {&w.expert_weights, c->n_experts},
                 {&w.expert_indices, c->n_experts_used},
                 {&w.copy, d}};
    int64_t total = 0;
    for (size_t i = 0; i < sizeof parts / sizeof *parts; i++) total += n * parts[i].width;
    double *memory = malloc((size_t)total * sizeof *memory), *at = memory;
    if (!memory) return pl_fail(err, PL_ERR_MEMORY, "out of memory for a reference");
    for (size_t i = 0; i < sizeof parts / sizeof *parts; i++) {
        *parts[i].place = at;
        at += n * parts[i].width;
    }
    embed(&w, tokens);
    for (int64_t layer = 0; layer < c->n_layers; layer++) block(&w, layer);
    if (c->headless) {
        memcpy(logits, w.resid, (size_t)(n * d) * sizeof *logits);
        free(memory);
        return PL_OK;
    }
    if (c->unembed_dense) {
        linear(w.x, w.resid, &r->unembed_dense, n, d, d);
        for (int64_t i = 0; i < n * d; i++) w.resid[i] = activate(c->activation, w.x[i]);
    }
    if (c->norm_final) {
        norm(&w, w.resid, w.resid, &r->norm_final, true, PL_HOOK_LN_FINAL_SCALE, -1);
    }
    linear(logits, w.resid, &r->unembed, n, c->d_vocab, d);
    for (int64_t i = 0; i < n * c->d_vocab; i++) logits[i] = softcap(logits[i], c->logit_softcap);
    show(&w, PL_HOOK_LOGITS, -1, logits, n, c->d_vocab, 0);
    free(memory);
    return PL_OK;
}
