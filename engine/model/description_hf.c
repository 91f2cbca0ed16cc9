/* Hugging Face's config.json as a description. */
#include "description_parts.h"

#include <math.h>
#include <stddef.h>
#include <stdio.h>
#include <string.h>

#include "../base/error.h"

/* The names of a number, a family's own first; NULL where there are no more. */
static const char *hf_name(const pl_family *family, const pl_number *n, size_t i) {
    for (size_t j = 0; j < family->n_sizes; j++) {
        if (family->sizes[j].offset != n->offset) continue;
        if (i == 0) return family->sizes[j].key;
        i--;
        break;
    }
    return i < sizeof n->hf / sizeof *n->hf ? n->hf[i] : NULL;
}

static pl_status hf_number(pl_config *config, const pl_family *family, const pl_number *n,
                           const json_t *json, pl_error *err) {
    const char *name;
    for (size_t i = 0; (name = hf_name(family, n, i)); i++) {
        const json_t *value = json_object_get(json, name);
        if (!value) continue;
        if (json_is_null(value)) {
            if (n->null_is_zero) return pl_number_set(config, n, 0, name, err);
            continue;
        }
        if (json_is_number(value)) {
            return pl_number_set(config, n, json_number_value(value), name, err);
        }
        return pl_fail(err, PL_ERR_FORMAT, "%s: expected a number", name);
    }
    if (!n->required || pl_number_has_default(config, n)) return PL_OK;
    return pl_fail(err, PL_ERR_FORMAT, "%s is missing", hf_name(family, n, 0));
}

static pl_status hf_activation(pl_config *config, const pl_family *family, const json_t *json,
                               pl_error *err) {
    static const struct {
        const char *name;
        pl_activation activation;
    } known[] = {{"gelu_new", PL_ACT_GELU_TANH},  {"gelu_pytorch_tanh", PL_ACT_GELU_TANH},
                 {"gelu_fast", PL_ACT_GELU_TANH}, {"gelu", PL_ACT_GELU_ERF},
                 {"silu", PL_ACT_SILU},           {"swish", PL_ACT_SILU},
                 {"relu", PL_ACT_RELU},           {"tanh", PL_ACT_TANH}};
    const json_t *value = json_object_get(json, "hidden_activation");
    if (!value || json_is_null(value)) value = json_object_get(json, "hidden_act");
    if (!value) value = json_object_get(json, "activation_function");
    if (!value) value = json_object_get(json, "activation");
    if (!value) value = json_object_get(json, "afn");
    if (!value) return PL_OK;
    const char *name = json_string_value(value);
    if (name && family->hf_gelu_tanh && strcmp(name, "gelu") == 0) name = "gelu_new";
    for (size_t i = 0; name && i < sizeof known / sizeof *known; i++) {
        if (strcmp(name, known[i].name) == 0) {
            config->activation = known[i].activation;
            return PL_OK;
        }
    }
    return pl_fail(err, PL_ERR_UNSUPPORTED, "activation '%s' is not known", name ? name : "?");
}

/* Settings that change what a model computes, each with the only value that is supported. */
static pl_status refuse_hf_settings(const json_t *json, pl_error *err) {
    static const struct {
        const char *name;
        bool supported;
    } settings[] = {{"scale_attn_weights", true},   {"scale_attn_by_inverse_layer_idx", false},
                    {"add_cross_attention", false}, {"qk_layernorm", false},
                    {"is_decoder", false},          {"use_bidirectional_attention", false}};
    for (size_t i = 0; i < sizeof settings / sizeof *settings; i++) {
        const json_t *value = json_object_get(json, settings[i].name);
        if (value && json_is_boolean(value) && json_is_true(value) != settings[i].supported) {
            return pl_fail(err, PL_ERR_UNSUPPORTED, "%s: only %s is supported", settings[i].name,
                           settings[i].supported ? "true" : "false");
        }
    }
    return PL_OK;
}

/* -- rotations -- */

/* A positive number of an object; absent: 0. */
static pl_status hf_positive(float *out, const json_t *json, const char *name, pl_error *err) {
    const json_t *value = json_object_get(json, name);
    *out = 0;
    if (!value || json_is_null(value)) return PL_OK;
    *out = (float)json_number_value(value);
    if (json_is_number(value) && *out > 0 && isfinite(*out)) return PL_OK;
    return pl_fail(err, PL_ERR_FORMAT, "%s: expected a positive number", name);
}

static pl_status set_partial(pl_config *config, const char *name, float part, pl_error *err) {
    int64_t d_head = config->d_head;
    if (d_head == 0 && config->n_heads > 0) d_head = config->d_model / config->n_heads;
    if (part > 1) {
        return pl_fail(err, PL_ERR_FORMAT, "%s = %g: expected more than 0 and at most 1", name,
                       (double)part);
    }
    config->rope_dims = (int64_t)((double)d_head * (double)part);
    if (config->rope_dims >= 2 && config->rope_dims % 2 == 0) return PL_OK;
    return pl_fail(err, PL_ERR_FORMAT,
                   "%s = %g of heads of %lld: expected an even number of rotated dimensions", name,
                   (double)part, (long long)d_head);
}

/* How much of a head is rotated: in older files at the top, in newer ones with the rotations. */
static pl_status hf_partial(pl_config *config, const pl_family *family, const json_t *json,
                            pl_error *err) {
    const json_t *places[] = {json, json, json_object_get(json, "rope_parameters")};
    const char *names[] = {family->hf_partial, "partial_rotary_factor", "partial_rotary_factor"};
    if (!family->hf_partial) return PL_OK;
    for (size_t i = 0; i < sizeof places / sizeof *places; i++) {
        float part;
        pl_status status = hf_positive(&part, places[i], names[i], err);
        if (status != PL_OK) return status;
        if (part > 0) return set_partial(config, names[i], part, err);
    }
    float part = family->hf_partial_default;
    return part > 0 ? set_partial(config, family->hf_partial, part, err) : PL_OK;
}

/* original_max_position_embeddings of the scaling, or of the whole. 0: neither has it. */
static pl_status hf_original(pl_config *config, const json_t *json, const json_t *whole,
                             const char *name, pl_error *err) {
    float original;
    pl_status status = hf_positive(&original, json, "original_max_position_embeddings", err);
    if (status == PL_OK && original == 0) {
        status = hf_positive(&original, whole, "original_max_position_embeddings", err);
    }
    if (status != PL_OK) return status;
    if (original != 0 && (original < 1 || original > 0x1p30f)) {
        return pl_fail(err, PL_ERR_FORMAT,
                       "%s: original_max_position_embeddings = %g: expected 1 to 2^30", name,
                       (double)original);
    }
    config->rope_original_ctx = (int64_t)original;
    return PL_OK;
}

static pl_status hf_llama3(pl_config *config, const json_t *json, const char *name, pl_error *err) {
    pl_status status = hf_positive(&config->rope_low_freq_factor, json, "low_freq_factor", err);
    if (status == PL_OK) {
        status = hf_positive(&config->rope_high_freq_factor, json, "high_freq_factor", err);
    }
    if (status == PL_OK) status = hf_original(config, json, NULL, name, err);
    if (status != PL_OK) return status;
    if (config->rope_original_ctx > 0 && config->rope_low_freq_factor > 0 &&
        config->rope_high_freq_factor > config->rope_low_freq_factor) {
        return PL_OK;
    }
    return pl_fail(err, PL_ERR_FORMAT,
                   "%s: llama3: expected original_max_position_embeddings, and low_freq_factor "
                   "less than high_freq_factor",
                   name);
}

/* attention_factor, or for yarn the quotient of two of its own, as DeepSeek has it; 0: the usual.
 */
static pl_status hf_attn_factor(pl_config *config, const json_t *json, pl_error *err) {
    float over, under;
    pl_status status = hf_positive(&config->rope_attn_factor, json, "attention_factor", err);
    if (status == PL_OK) status = hf_positive(&over, json, "mscale", err);
    if (status == PL_OK) status = hf_positive(&under, json, "mscale_all_dim", err);
    if (status != PL_OK || config->rope_attn_factor > 0 || over == 0 || under == 0) return status;
    double growth = config->rope_factor > 1 ? 0.1 * log((double)config->rope_factor) : 0;
    config->rope_attn_factor = (float)((growth * (double)over + 1) / (growth * (double)under + 1));
    return PL_OK;
}

static pl_status hf_yarn(pl_config *config, const json_t *json, const json_t *whole,
                         const char *name, pl_error *err) {
    pl_status status = hf_original(config, json, whole, name, err);
    if (status == PL_OK) status = hf_positive(&config->rope_beta_fast, json, "beta_fast", err);
    if (status == PL_OK) status = hf_positive(&config->rope_beta_slow, json, "beta_slow", err);
    if (status == PL_OK) status = hf_attn_factor(config, json, err);
    if (status == PL_OK && json_is_false(json_object_get(json, "truncate"))) {
        status = pl_fail(err, PL_ERR_UNSUPPORTED, "%s: truncate = false is not supported", name);
    }
    if (config->rope_original_ctx == 0) config->rope_original_ctx = config->n_ctx;
    return status;
}

static pl_status hf_long(pl_config *config, const json_t *json, const json_t *whole,
                         const char *name, pl_error *err) {
    pl_status status = hf_original(config, json, whole, name, err);
    if (status == PL_OK) status = hf_attn_factor(config, json, err);
    if (status == PL_OK && config->rope_original_ctx == 0) {
        status =
            pl_fail(err, PL_ERR_FORMAT, "%s: original_max_position_embeddings is missing", name);
    }
    return status;
}

/* What the type wants beside a factor; PL_ERR_UNSUPPORTED: it is not known. */
static pl_status hf_kind(pl_config *config, const char *type, const json_t *json,
                         const json_t *whole, const char *name, pl_error *err) {
    bool longrope = strcmp(type, "longrope") == 0 || strcmp(type, "su") == 0;
    if (strcmp(type, "linear") == 0) {
        config->rope_scaling = PL_ROPE_LINEAR;
    } else if (strcmp(type, "llama3") == 0) {
        config->rope_scaling = PL_ROPE_LLAMA3;
    } else if (strcmp(type, "yarn") == 0) {
        config->rope_scaling = PL_ROPE_YARN;
    } else if (longrope) {
        config->rope_scaling = PL_ROPE_LONG;
        return hf_long(config, json, whole, name, err);
    } else {
        return pl_fail(err, PL_ERR_UNSUPPORTED,
                       "%s: rope_type '%s': only default, linear, llama3, yarn and longrope are "
                       "supported",
                       name, type);
    }
    pl_status status = hf_positive(&config->rope_factor, json, "factor", err);
    if (status == PL_OK && config->rope_factor == 0) {
        status = pl_fail(err, PL_ERR_FORMAT, "%s: factor is missing", name);
    }
    if (status != PL_OK || config->rope_scaling == PL_ROPE_LINEAR) return status;
    if (config->rope_scaling == PL_ROPE_YARN) return hf_yarn(config, json, whole, name, err);
    return hf_llama3(config, json, name, err);
}

/* rope_scaling of older files and rope_parameters of newer ones, which has the base too. whole: of
 * which it is a part. */
static pl_status hf_scaling(pl_config *config, const json_t *json, const json_t *whole,
                            const char *name, pl_error *err) {
    float base;
    if (!json || json_is_null(json)) return PL_OK;
    if (!json_is_object(json)) return pl_fail(err, PL_ERR_FORMAT, "%s: expected an object", name);
    const char *type = json_string_value(json_object_get(json, "rope_type"));
    if (!type) type = json_string_value(json_object_get(json, "type"));
    if (!type) return pl_fail(err, PL_ERR_FORMAT, "%s: rope_type is missing", name);
    pl_status status = hf_positive(&base, json, "rope_theta", err);
    if (status == PL_OK && base > 0) config->rope_base = base;
    if (status != PL_OK || strcmp(type, "default") == 0) return status;
    return hf_kind(config, type, json, whole, name, err);
}

pl_status pl_describe_hf_factors(float *out, int64_t n, const json_t *json, bool brief,
                                 pl_error *err) {
    const char *name = brief ? "short_factor" : "long_factor";
    const json_t *parameters = json_object_get(json, "rope_parameters");
    const json_t *all = json_object_get(parameters, "full_attention");
    const json_t *places[] = {all, parameters, json_object_get(json, "rope_scaling")};
    const json_t *list = NULL;
    for (size_t i = 0; i < sizeof places / sizeof *places && !list; i++) {
        list = json_object_get(places[i], name);
    }
    if (!json_is_array(list) || json_array_size(list) != (size_t)n) {
        return pl_fail(err, PL_ERR_FORMAT, "config.json: %s: expected %lld numbers, got %zu", name,
                       (long long)n, json_array_size(list));
    }
    for (int64_t i = 0; i < n; i++) {
        const json_t *value = json_array_get(list, (size_t)i);
        out[i] = (float)json_number_value(value);
        if (json_is_number(value) && isfinite(out[i]) && out[i] > 0) continue;
        return pl_fail(err, PL_ERR_FORMAT, "config.json: %s: entry %lld is no positive number",
                       name, (long long)i);
    }
    return PL_OK;
}

static pl_status hf_rotations(pl_config *config, const pl_family *family, const json_t *json,
                              pl_error *err) {
    static const char name[] = "rope_parameters";
    const json_t *parameters = json_object_get(json, name);
    const json_t *all = json_object_get(parameters, "full_attention");
    const json_t *local = json_object_get(parameters, "sliding_attention");
    pl_status status = hf_partial(config, family, json, err);
    if (status == PL_OK) {
        status =
            hf_scaling(config, json_object_get(json, "rope_scaling"), json, "rope_scaling", err);
    }
    if (status == PL_OK && parameters) {
        status = hf_scaling(config, all ? all : parameters, json, name, err);
    }
    if (status != PL_OK || !local) return status;
    pl_config layers = {.rope_base = config->rope_base_local};
    status = hf_scaling(&layers, local, NULL, "rope_parameters.sliding_attention", err);
    if (status == PL_OK && layers.rope_scaling != PL_ROPE_UNSCALED) {
        return pl_fail(err, PL_ERR_UNSUPPORTED,
                       "rope_parameters.sliding_attention: only rope_type default is supported");
    }
    config->rope_base_local = layers.rope_base;
    return status;
}

/* -- windows -- */

/* "layer_types": every so many-th layer is full, or none, or all. */
static pl_status hf_layer_types(pl_config *config, const json_t *types, pl_error *err) {
    int64_t n = (int64_t)json_array_size(types), period = 0;
    if (n != config->n_layers) {
        return pl_fail(err, PL_ERR_FORMAT, "layer_types: %lld layers, expected %lld", (long long)n,
                       (long long)config->n_layers);
    }
    for (int64_t i = 0; i < n; i++) {
        const char *type = json_string_value(json_array_get(types, (size_t)i));
        bool full = type && strcmp(type, "full_attention") == 0;
        if (!full && (!type || strcmp(type, "sliding_attention") != 0)) {
            return pl_fail(err, PL_ERR_UNSUPPORTED,
                           "layer_types: '%s': expected full_attention or sliding_attention",
                           type ? type : "?");
        }
        pl_status status = pl_take_layer(&period, i, full, "layer_types", err);
        if (status != PL_OK) return status;
    }
    config->window_period = period;
    return PL_OK;
}

static pl_status hf_window(pl_config *config, const pl_family *family, const json_t *json,
                           pl_error *err) {
    const json_t *window = json_object_get(json, "sliding_window");
    const json_t *types = json_object_get(json, "layer_types");
    const json_t *period = json_object_get(json, "sliding_window_pattern");
    const json_t *use = json_object_get(json, "use_sliding_window");
    const json_t *first = json_object_get(json, "max_window_layers");
    if (!family->windowed) return PL_OK;
    if (json_is_null(window) || (use && !json_is_true(use))) config->window = 0;
    if (json_is_integer(window) && (!use || json_is_true(use))) {
        config->window = json_integer_value(window);
        if (config->window < 1 || config->window > INT32_MAX) {
            return pl_fail(err, PL_ERR_FORMAT, "sliding_window = %lld: expected 1 to %d",
                           (long long)config->window, INT32_MAX);
        }
    } else if (window && !json_is_null(window) && !json_is_integer(window)) {
        return pl_fail(err, PL_ERR_FORMAT, "sliding_window: expected a whole number");
    }
    if (config->window == 0) return PL_OK;
    if (json_is_array(types)) return hf_layer_types(config, types, err);
    if (json_is_integer(period)) {
        config->window_period = json_integer_value(period);
        if (config->window_period < 1 || config->window_period > 1 << 16) {
            return pl_fail(err, PL_ERR_FORMAT, "sliding_window_pattern = %lld: expected 1 to %d",
                           (long long)config->window_period, 1 << 16);
        }
    }
    if (!json_is_integer(first) || json_integer_value(first) <= 0) return PL_OK;
    if (json_integer_value(first) < config->n_layers) {
        return pl_fail(err, PL_ERR_UNSUPPORTED,
                       "max_window_layers = %lld: only 0 and the number of layers are supported",
                       (long long)json_integer_value(first));
    }
    config->window = 0;
    return PL_OK;
}

/* Whether "architectures" names the class that has what makes logits. */
static bool names_head(const pl_family *family, const json_t *json) {
    const json_t *list = json_object_get(json, "architectures");
    for (size_t i = 0; i < json_array_size(list); i++) {
        const char *name = json_string_value(json_array_get(list, i));
        if (name && strcmp(name, family->hf_class) == 0) return true;
    }
    return false;
}

/* How far a position is from another does not count, nor does anything but learned positions. */
static pl_status hf_positions(const json_t *json, pl_error *err) {
    const json_t *kind = json_object_get(json, "position_embedding_type");
    if (!kind || json_is_null(kind)) return PL_OK;
    const char *name = json_string_value(kind);
    if (name && strcmp(name, "absolute") == 0) return PL_OK;
    return pl_fail(err, PL_ERR_UNSUPPORTED,
                   "position_embedding_type '%s': only 'absolute' is supported", name ? name : "?");
}

/* What is no number, and what depends on one. */
static pl_status hf_rest(pl_config *config, const pl_family *family, const json_t *json,
                         pl_error *err) {
    float scalar;
    const json_t *tied = json_object_get(json, "tie_word_embeddings");
    if (json_is_boolean(tied)) config->tied = json_is_true(tied);
    const json_t *parallel = json_object_get(json, "use_parallel_residual");
    if (family->may_be_parallel && json_is_boolean(parallel)) {
        config->parallel = json_is_true(parallel);
    }
    config->shared_norm = config->parallel && family->parallel_shares_norm;
    if (family->hf_encoder && !names_head(family, json)) pl_drop_head(config);
    pl_status status = hf_positions(json, err);
    if (status == PL_OK) status = hf_positive(&scalar, json, "query_pre_attn_scalar", err);
    if (status == PL_OK && scalar > 0) config->attn_scale = (float)(1 / sqrt((double)scalar));
    if (status == PL_OK) status = hf_rotations(config, family, json, err);
    if (status == PL_OK) status = hf_window(config, family, json, err);
    return status;
}

pl_status pl_describe_hf(pl_config *config, const pl_family **family, const pl_families *set,
                         const json_t *json, pl_error *err) {
    static const pl_number vocabulary = {
        offsetof(pl_config, d_vocab), true, true, false, NULL, {"vocab_size"}};
    const char *type = json_string_value(json_object_get(json, "model_type"));
    if (!type) return pl_fail(err, PL_ERR_FORMAT, "model_type is missing");
    *family = pl_families_find_model_type(set, type);
    if (!*family && json_is_object(json_object_get(json, "text_config"))) {
        return pl_fail(err, PL_ERR_UNSUPPORTED,
                       "model_type '%.40s' has a text_config beside other parts: models of text "
                       "alone are read, as a GGUF file of it is",
                       type);
    }
    if (!*family) {
        return pl_error_prefix(err, pl_unknown_family(set, type, "Hugging Face", err),
                               "model_type");
    }
    pl_status status = pl_families_init_config(set, config, (*family)->name, err);
    for (size_t i = 0; i < pl_n_numbers && status == PL_OK; i++) {
        status = hf_number(config, *family, &pl_numbers[i], json, err);
    }
    if (status == PL_OK) status = hf_number(config, *family, &vocabulary, json, err);
    if (status == PL_OK) status = hf_activation(config, *family, json, err);
    if (status == PL_OK) status = refuse_hf_settings(json, err);
    if (status == PL_OK) status = hf_rest(config, *family, json, err);
    return status;
}

pl_status pl_describe_pooling(pl_config *config, const json_t *json, pl_error *err) {
    static const char prefix[] = "pooling_mode_";
    const json_t *width = json_object_get(json, "word_embedding_dimension");
    if (json_is_integer(width) && json_integer_value(width) != config->d_model) {
        return pl_fail(err, PL_ERR_FORMAT,
                       "word_embedding_dimension = %lld: expected %lld, as config.json has it",
                       (long long)json_integer_value(width), (long long)config->d_model);
    }
    int n = 0;
    bool mean = json_is_true(json_object_get(json, "pooling_mode_mean_tokens"));
    bool cls = json_is_true(json_object_get(json, "pooling_mode_cls_token"));
    json_t *object = (json_t *)json; /* iterators want it so; nothing is changed */
    for (void *at = json_object_iter(object); at; at = json_object_iter_next(object, at)) {
        bool mode = strncmp(json_object_iter_key(at), prefix, sizeof prefix - 1) == 0;
        n += mode && json_is_true(json_object_iter_value(at));
    }
    config->pooling = n == 1 && mean  ? PL_POOLING_MEAN
                      : n == 1 && cls ? PL_POOLING_CLS
                                      : PL_POOLING_OTHER;
    return PL_OK;
}
