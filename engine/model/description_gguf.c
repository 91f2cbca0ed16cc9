/* The metadata of a GGUF file as a description. */
#include "description_parts.h"

#include <math.h>
#include <stddef.h>
#include <stdio.h>
#include <string.h>

#include "../base/error.h"

static pl_status gguf_numbers(pl_config *config, const char *family, const pl_gguf *gguf,
                              pl_error *err) {
    for (size_t i = 0; i < pl_n_numbers; i++) {
        const pl_number *n = &pl_numbers[i];
        char key[128];
        double value;
        if (!n->gguf) continue;
        snprintf(key, sizeof key, "%s.%s", family, n->gguf);
        if (pl_gguf_find_float(gguf, key, &value)) {
            pl_status status = pl_number_set(config, n, value, key, err);
            if (status != PL_OK) return pl_error_prefix(err, status, "%s", pl_gguf_path(gguf));
        } else if (pl_gguf_find(gguf, key)) {
            return pl_fail(err, PL_ERR_FORMAT, "%s: key '%s': expected a number",
                           pl_gguf_path(gguf), key);
        } else if (n->required && !pl_number_has_default(config, n)) {
            return pl_fail(err, PL_ERR_FORMAT, "%s: key '%s' is missing", pl_gguf_path(gguf), key);
        }
    }
    return PL_OK;
}

/* What GGUF files of the family call the tensor of a place, in the blocks that of the first. */
static void gguf_name(char out[128], const pl_family *family, pl_place place) {
    *out = 0;
    for (size_t i = 0; i < family->n_rules; i++) {
        const pl_tensor_rule *rule = &family->rules[i];
        if (rule->place != place || !rule->gguf) continue;
        pl_tensor_rule_name(out, 128, rule->gguf, 0, -1, "weight");
    }
}

static pl_status gguf_vocabulary(pl_config *config, const pl_family *family, const pl_gguf *gguf,
                                 pl_error *err) {
    size_t index;
    pl_tensor embed;
    char name[128];
    gguf_name(name, family, PL_PLACE_EMBED);
    if (pl_gguf_n_tensors(gguf) == 0) {
        return pl_fail(err, PL_ERR_FORMAT, "%s: has no tensors: a vocabulary without its model",
                       pl_gguf_path(gguf));
    }
    if (!pl_gguf_find_tensor(gguf, name, &index)) {
        return pl_fail(err, PL_ERR_FORMAT, "%s: tensor '%s' is missing", pl_gguf_path(gguf), name);
    }
    pl_status status = pl_gguf_tensor(gguf, index, &embed, err);
    if (status == PL_OK) config->d_vocab = embed.shape[0];
    if (status != PL_OK || !config->n_token_types) return status;
    gguf_name(name, family, PL_PLACE_TOKEN_TYPES);
    bool types = pl_gguf_find_tensor(gguf, name, &index);
    config->n_token_types = 0;
    if (!types) return PL_OK;
    status = pl_gguf_tensor(gguf, index, &embed, err);
    if (status == PL_OK) config->n_token_types = embed.n_dims == 2 ? embed.shape[0] : 1;
    return status;
}

static void gguf_pooling(pl_config *config, const pl_family *family, const pl_gguf *gguf) {
    char key[128];
    double type = 0; /* none, mean, cls, last, rank */
    snprintf(key, sizeof key, "%s.pooling_type", family->gguf);
    pl_gguf_find_float(gguf, key, &type);
    config->pooling = type == 2 ? PL_POOLING_CLS : type <= 1 ? PL_POOLING_MEAN : PL_POOLING_OTHER;
}

static bool gguf_is(pl_gguf_string s, const char *text) {
    return s.size == strlen(text) && memcmp(s.data, text, s.size) == 0;
}

static bool gguf_has(const pl_gguf *gguf, const char *tensor) {
    size_t index;
    return pl_gguf_find_tensor(gguf, tensor, &index);
}

/* A float of the family's; absent: *out stays. */
static pl_status gguf_real(float *out, const pl_family *family, const pl_gguf *gguf,
                           const char *ending, pl_error *err) {
    char key[128];
    double value = (double)*out;
    snprintf(key, sizeof key, "%s.rope.scaling.%s", family->gguf, ending);
    pl_status status = pl_gguf_read_float(gguf, key, &value, err);
    if (status == PL_OK && !(value >= 0 && value < 1e9)) {
        status = pl_fail(err, PL_ERR_FORMAT, "%s: %s = %g: expected a number from 0",
                         pl_gguf_path(gguf), key, value);
    }
    *out = (float)value;
    return status;
}

/* What a few writers add to yarn and nothing here computes, where it is not neutral. */
static pl_status refuse_gguf_yarn(const pl_family *family, const pl_gguf *gguf, pl_error *err) {
    static const struct {
        const char *ending;
        float neutral;
    } keys[] = {{"yarn_ext_factor", 1}, {"yarn_attn_factor", 1}, {"yarn_log_multiplier", 0}};
    for (size_t i = 0; i < sizeof keys / sizeof *keys; i++) {
        float value = keys[i].neutral;
        pl_status status = gguf_real(&value, family, gguf, keys[i].ending, err);
        if (status != PL_OK) return status;
        if (value == keys[i].neutral) continue;
        return pl_fail(err, PL_ERR_UNSUPPORTED, "%s: %s.rope.scaling.%s = %g: only %g is supported",
                       pl_gguf_path(gguf), family->gguf, keys[i].ending, (double)value,
                       (double)keys[i].neutral);
    }
    return PL_OK;
}

/* yarn, and tables for long contexts: what they scale, and by how much scores grow warmer.
 * llama.cpp multiplies what the file says by yarn's own factor. */
static pl_status gguf_long(pl_config *config, const pl_family *family, const pl_gguf *gguf,
                           pl_error *err) {
    float original = (float)config->n_ctx, warmth = 0;
    bool yarn = config->rope_scaling == PL_ROPE_YARN;
    pl_status status = gguf_real(&original, family, gguf, "original_context_length", err);
    if (status == PL_OK && original < 1 && config->n_ctx > 0) {
        status = pl_fail(err, PL_ERR_FORMAT,
                         "%s: %s.rope.scaling.original_context_length = %g: expected 1 or more",
                         pl_gguf_path(gguf), family->gguf, (double)original);
    }
    if (status == PL_OK) status = gguf_real(&warmth, family, gguf, "attn_factor", err);
    if (status == PL_OK && yarn) {
        status = gguf_real(&config->rope_beta_fast, family, gguf, "yarn_beta_fast", err);
    }
    if (status == PL_OK && yarn) {
        status = gguf_real(&config->rope_beta_slow, family, gguf, "yarn_beta_slow", err);
    }
    if (status == PL_OK && yarn) status = refuse_gguf_yarn(family, gguf, err);
    config->rope_original_ctx = (int64_t)original;
    config->rope_attn_factor = warmth;
    if (yarn && warmth > 0 && config->rope_factor > 1) {
        config->rope_attn_factor *= (float)(1 + 0.1 * log((double)config->rope_factor));
    }
    return status;
}

/* Rotary scaling changes every position; to leave it out would compute something else. */
static pl_status gguf_scaling(pl_config *config, const pl_family *family, const pl_gguf *gguf,
                              pl_error *err) {
    char key[128];
    pl_gguf_string kind = {"none", 4};
    bool tables = gguf_has(gguf, "rope_factors_long.weight");
    if (tables) config->rope_scaling = PL_ROPE_LONG;
    if (gguf_has(gguf, "rope_freqs.weight")) config->rope_scaling = PL_ROPE_TABLE;
    snprintf(key, sizeof key, "%s.rope.scaling.type", family->gguf);
    pl_gguf_find_string(gguf, key, &kind);
    bool plain = gguf_is(kind, "none") || (tables && gguf_is(kind, "longrope"));
    if (!plain && config->rope_scaling == PL_ROPE_UNSCALED && gguf_is(kind, "linear")) {
        config->rope_scaling = PL_ROPE_LINEAR;
    } else if (!plain && config->rope_scaling == PL_ROPE_UNSCALED && gguf_is(kind, "yarn")) {
        config->rope_scaling = PL_ROPE_YARN;
    } else if (!plain) {
        return pl_fail(err, PL_ERR_UNSUPPORTED,
                       "%s: %s = '%.*s': only 'none', 'linear', 'yarn' and tables of factors in "
                       "tensors are supported, one at a time",
                       pl_gguf_path(gguf), key, (int)(kind.size < 40 ? kind.size : 40), kind.data);
    }
    bool longer = config->rope_scaling == PL_ROPE_LONG || config->rope_scaling == PL_ROPE_YARN;
    return longer ? gguf_long(config, family, gguf, err) : PL_OK;
}

/* Whether blocks are parallel. Writers say so of StableLM wherever config.json is silent, which
 * means the opposite; there the mlp has a norm of its own. */
static void gguf_parallel(pl_config *config, const pl_family *family, const pl_gguf *gguf) {
    char name[128];
    if (!family->may_be_parallel) return;
    snprintf(name, sizeof name, "%s.use_parallel_residual", family->gguf);
    pl_gguf_find_bool(gguf, name, &config->parallel);
    gguf_name(name, family, PL_PLACE_NORM_MLP);
    if (family->parallel_shares_norm && gguf_has(gguf, name)) config->parallel = false;
    config->shared_norm = config->parallel && family->parallel_shares_norm;
}

/* attention.sliding_window_pattern: every so many-th layer is full, or for each whether it has a
 * window. */
static pl_status gguf_window(pl_config *config, const pl_family *family, const pl_gguf *gguf,
                             pl_error *err) {
    char key[128];
    uint64_t period;
    if (config->window == 0) return PL_OK;
    snprintf(key, sizeof key, "%s.attention.sliding_window", family->gguf);
    if (!family->windowed) {
        return pl_fail(err, PL_ERR_UNSUPPORTED, "%s: %s = %lld: expected 0 in the family %s",
                       pl_gguf_path(gguf), key, (long long)config->window, family->name);
    }
    snprintf(key, sizeof key, "%s.attention.sliding_window_pattern", family->gguf);
    if (pl_gguf_find_uint(gguf, key, &period)) {
        config->window_period = period > INT32_MAX ? INT32_MAX : (int64_t)period;
        return PL_OK;
    }
    const pl_gguf_value *list = pl_gguf_find_array(gguf, key, PL_GGUF_BOOL);
    if (!list && !pl_gguf_find(gguf, key)) return PL_OK;
    if (!list || (int64_t)list->n != config->n_layers) {
        return pl_fail(err, PL_ERR_FORMAT, "%s: %s: expected a number, or a bool for each layer",
                       pl_gguf_path(gguf), key);
    }
    config->window_period = 0;
    for (int64_t i = 0; i < config->n_layers; i++) {
        bool full = !((const uint8_t *)list->data)[i];
        pl_status status = pl_take_layer(&config->window_period, i, full, key, err);
        if (status != PL_OK) return pl_error_prefix(err, status, "%s", pl_gguf_path(gguf));
    }
    return PL_OK;
}

/* What is no number, and what depends on one. */
static pl_status gguf_rest(pl_config *config, const pl_family *family, const pl_gguf *gguf,
                           pl_error *err) {
    gguf_parallel(config, family, gguf);
    config->rope_half = family->gguf_rope_half;
    if (family->hf_encoder) pl_drop_head(config);
    if (family->hf_encoder) gguf_pooling(config, family, gguf);
    bool wide =
        family->gguf_wide_scale_layers && config->n_layers == family->gguf_wide_scale_layers;
    if (wide && config->n_heads > 0 && config->d_model > 0 && config->attn_scale == 0) {
        config->attn_scale = pl_family_attn_scale(family, config);
    }
    pl_status status = gguf_window(config, family, gguf, err);
    return status == PL_OK ? gguf_scaling(config, family, gguf, err) : status;
}

/* Of the families that share this name, the one with the parts that the file speaks of. */
static const pl_family *gguf_family(const pl_families *set, const pl_gguf *gguf, const char *name) {
    char key[128];
    double experts = 0, window = 0;
    snprintf(key, sizeof key, "%s.expert_count", name);
    pl_gguf_find_float(gguf, key, &experts);
    snprintf(key, sizeof key, "%s.attention.sliding_window", name);
    pl_gguf_find_float(gguf, key, &window);
    return pl_families_find_gguf(set, name, experts > 0, window > 0);
}

pl_status pl_describe_gguf(pl_config *config, const pl_family **family, const pl_families *set,
                           const pl_gguf *gguf, pl_error *err) {
    pl_gguf_string arch;
    pl_status status = pl_gguf_get_string(gguf, "general.architecture", &arch, err);
    if (status != PL_OK) return status;
    char name[64];
    snprintf(name, sizeof name, "%.*s", (int)(arch.size < 63 ? arch.size : 63), arch.data);
    *family = gguf_family(set, gguf, name);
    if (!*family) {
        status = pl_unknown_family(set, name, "GGUF", err);
        return pl_error_prefix(err, status, "%s: general.architecture", pl_gguf_path(gguf));
    }
    status = pl_families_init_config(set, config, (*family)->name, err);
    if (status == PL_OK) status = gguf_numbers(config, name, gguf, err);
    if (status == PL_OK) status = gguf_vocabulary(config, *family, gguf, err);
    if (status == PL_OK) status = gguf_rest(config, *family, gguf, err);
    return status;
}
