#include "config.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

#include "../base/error.h"
#include "registry.h"

pl_status pl_config_init(pl_config *config, const char *arch, pl_error *err) {
    return pl_families_init_config(NULL, config, arch, err);
}

typedef struct field {
    const char *name;
    int64_t value, least, most;
} field;

static pl_status check_ranges(const pl_config *c, pl_error *err) {
    enum { WIDTH = 1 << 24 };
    const field fields[] = {
        {"d_model", c->d_model, 1, WIDTH},
        {"d_mlp", c->d_mlp, 1, WIDTH},
        {"d_head", c->d_head, 1, WIDTH},
        {"d_vocab", c->d_vocab, 1, INT32_MAX},
        {"n_layers", c->n_layers, 1, 1 << 16},
        {"n_heads", c->n_heads, 1, 1 << 16},
        {"n_kv_heads", c->n_kv_heads, 1, 1 << 16},
        {"n_ctx", c->n_ctx, 1, INT32_MAX},
        {"rope_dims", c->rope_dims, 0, c->d_head},
        {"n_token_types", c->n_token_types, 0, 1 << 16},
        {"window", c->window, 0, INT32_MAX},
        {"window_period", c->window_period, 0, 1 << 16},
        {"n_experts", c->n_experts, 0, 1 << 10},
        {"n_experts_used", c->n_experts_used, c->n_experts ? 1 : 0, c->n_experts},
    };
    for (size_t i = 0; i < sizeof fields / sizeof *fields; i++) {
        const field *f = &fields[i];
        if (f->value < f->least || f->value > f->most) {
            return pl_fail(err, PL_ERR_ARGUMENT, "%s = %lld: expected %lld to %lld", f->name,
                           (long long)f->value, (long long)f->least, (long long)f->most);
        }
    }
    return PL_OK;
}

static pl_status check_reals(const pl_config *c, pl_error *err) {
    const struct {
        const char *name;
        float value;
        bool positive; /* else from 0 */
    } reals[] = {{"norm_eps", c->norm_eps, false},
                 {"rope_base", c->rope_base, c->positions == PL_POSITIONS_ROTARY},
                 {"rope_base_local", c->rope_base_local, false},
                 {"rope_factor", c->rope_factor, c->rope_scaling != PL_ROPE_UNSCALED},
                 {"rope_beta_fast", c->rope_beta_fast, true},
                 {"rope_beta_slow", c->rope_beta_slow, true},
                 {"rope_attn_factor", c->rope_attn_factor, true},
                 {"embed_scale", c->embed_scale, true},
                 {"attn_softcap", c->attn_softcap, false},
                 {"logit_softcap", c->logit_softcap, false}};
    for (size_t i = 0; i < sizeof reals / sizeof *reals; i++) {
        float value = reals[i].value;
        if (isfinite(value) && (value > 0 || (value == 0 && !reals[i].positive))) continue;
        return pl_fail(err, PL_ERR_ARGUMENT, "%s = %g: expected a %s", reals[i].name, (double)value,
                       reals[i].positive ? "positive number" : "number from 0");
    }
    return PL_OK;
}

static pl_status check_rope(const pl_config *c, pl_error *err) {
    if (c->rope_dims % 2) {
        return pl_fail(err, PL_ERR_ARGUMENT, "rope_dims = %lld: expected an even number",
                       (long long)c->rope_dims);
    }
    bool original = c->rope_scaling == PL_ROPE_LLAMA3 || c->rope_scaling == PL_ROPE_YARN ||
                    c->rope_scaling == PL_ROPE_LONG;
    if (!original) return PL_OK;
    if (c->rope_original_ctx < 1 || c->rope_original_ctx > INT32_MAX) {
        return pl_fail(err, PL_ERR_ARGUMENT, "rope_original_ctx = %lld: expected 1 to %d",
                       (long long)c->rope_original_ctx, INT32_MAX);
    }
    if (c->rope_scaling == PL_ROPE_YARN && !(c->rope_beta_slow < c->rope_beta_fast)) {
        return pl_fail(err, PL_ERR_ARGUMENT,
                       "rope_beta_slow = %g, rope_beta_fast = %g: expected the second greater",
                       (double)c->rope_beta_slow, (double)c->rope_beta_fast);
    }
    if (c->rope_scaling != PL_ROPE_LLAMA3) return PL_OK;
    if (c->rope_low_freq_factor > 0 && isfinite(c->rope_high_freq_factor) &&
        c->rope_high_freq_factor > c->rope_low_freq_factor) {
        return PL_OK;
    }
    return pl_fail(err, PL_ERR_ARGUMENT,
                   "rope_low_freq_factor = %g, rope_high_freq_factor = %g: expected two positive "
                   "numbers, the second greater",
                   (double)c->rope_low_freq_factor, (double)c->rope_high_freq_factor);
}

int64_t pl_config_default_ctx(const pl_config *c) {
    bool shorter = c->rope_scaling == PL_ROPE_LONG && c->rope_original_ctx < c->n_ctx;
    return shorter ? c->rope_original_ctx : c->n_ctx;
}

/* Peng et al. 2023 (yarn), Ding et al. 2024 (long). */
static float attn_factor(const pl_config *c) {
    double original = (double)c->rope_original_ctx, factor = (double)c->rope_factor;
    if (c->rope_scaling == PL_ROPE_YARN && factor > 1) return (float)(0.1 * log(factor) + 1);
    if (c->rope_scaling != PL_ROPE_LONG || original <= 1) return 1;
    factor = (double)c->n_ctx / original;
    return factor > 1 ? (float)sqrt(1 + log(factor) / log(original)) : 1;
}

int64_t pl_config_other_row(const pl_config *c, int64_t row) {
    int64_t first = row / c->d_head * c->d_head, at = row % c->d_head, pairs = c->rope_dims / 2;
    if (at >= c->rope_dims) return row;
    return first + (c->rope_half ? at % 2 * pairs + at / 2 : at % pairs * 2 + at / pairs);
}

bool pl_config_windowed(const pl_config *c, int64_t layer) {
    return c->window > 0 && (c->window_period == 0 || (layer + 1) % c->window_period != 0);
}

pl_status pl_config_check(pl_config *c, pl_error *err) {
    if (c->embed_scale == 0) c->embed_scale = 1;
    if (c->embed_scale == PL_EMBED_SCALE_SQRT_WIDTH && c->d_model > 0) {
        c->embed_scale = (float)sqrt((double)c->d_model);
    }
    if (c->rope_factor == 0) c->rope_factor = 1;
    if (c->rope_beta_fast == 0) c->rope_beta_fast = 32;
    if (c->rope_beta_slow == 0) c->rope_beta_slow = 1;
    if (c->rope_attn_factor == 0) c->rope_attn_factor = attn_factor(c);
    if (c->n_kv_heads == 0) c->n_kv_heads = c->n_heads;
    if (c->d_mlp == 0) c->d_mlp = 4 * c->d_model;
    if (c->d_head == 0 && c->n_heads > 0) {
        if (c->d_model % c->n_heads) {
            return pl_fail(err, PL_ERR_ARGUMENT,
                           "d_model = %lld: expected a multiple of n_heads = %lld",
                           (long long)c->d_model, (long long)c->n_heads);
        }
        c->d_head = c->d_model / c->n_heads;
    }
    if (c->rope_dims == 0 && c->positions == PL_POSITIONS_ROTARY) c->rope_dims = c->d_head;
    pl_status status = check_ranges(c, err);
    if (status != PL_OK) return status;

    if (c->n_heads % c->n_kv_heads) {
        return pl_fail(err, PL_ERR_ARGUMENT,
                       "n_kv_heads = %lld: expected a divisor of n_heads = %lld",
                       (long long)c->n_kv_heads, (long long)c->n_heads);
    }
    status = check_reals(c, err);
    if (status == PL_OK) status = check_rope(c, err);
    if (status != PL_OK) return status;
    if (c->window > 0 && !c->causal) {
        return pl_fail(err, PL_ERR_ARGUMENT, "window = %lld: expected 0 without a causal mask",
                       (long long)c->window);
    }
    if (c->shared_norm && !(c->parallel && c->norm_slot[PL_NORM_BEFORE])) {
        return pl_fail(err, PL_ERR_ARGUMENT,
                       "shared_norm: only parallel blocks with norm_before can share it");
    }
    if (c->headless && (c->norm_final || c->unembed_dense || c->unembed_bias)) {
        return pl_fail(err, PL_ERR_ARGUMENT,
                       "headless: expected no %s, which stands before or in the unembedding",
                       c->norm_final      ? "norm_final"
                       : c->unembed_dense ? "unembed_dense"
                                          : "unembed_bias");
    }
    if (c->n_experts && !c->gated) {
        return pl_fail(err, PL_ERR_ARGUMENT, "n_experts = %lld: expected 0 without gated mlps",
                       (long long)c->n_experts);
    }
    if (c->parallel && c->norm_slot[PL_NORM_AFTER_ADD]) {
        return pl_fail(
            err, PL_ERR_ARGUMENT,
            "parallel blocks have one addition: the norm slot after_add cannot be filled");
    }
    if (c->attn_scale == 0) c->attn_scale = (float)(1.0 / sqrt((double)c->d_head));
    return PL_OK;
}
