#include "description.h"

#include <math.h>
#include <stddef.h>
#include <stdio.h>
#include <string.h>

#include "../base/error.h"

/* One number of a description, under its names. Hugging Face's families spell it differently: the
 * first name of the list that is there counts. */
typedef struct number {
    size_t offset;
    bool whole, required;
    const char *gguf;  /* after the family's name and a dot; NULL: not in GGUF */
    const char *hf[3]; /* NULL where there are no more */
} number;

#define AT(field) offsetof(pl_config, field)
static const number numbers[] = {
    {AT(d_model), true, true, "embedding_length", {"hidden_size", "n_embd"}},
    {AT(n_layers), true, true, "block_count", {"num_hidden_layers", "n_layer"}},
    {AT(n_heads), true, true, "attention.head_count", {"num_attention_heads", "n_head"}},
    {AT(n_kv_heads), true, false, "attention.head_count_kv", {"num_key_value_heads"}},
    {AT(d_head), true, false, "attention.key_length", {"head_dim"}},
    {AT(d_mlp), true, false, "feed_forward_length", {"intermediate_size", "n_inner"}},
    {AT(n_ctx), true, true, "context_length", {"max_position_embeddings", "n_positions", "n_ctx"}},
    {AT(rope_dims), true, false, "rope.dimension_count", {NULL}},
    {AT(rope_base), false, false, "rope.freq_base", {"rope_theta"}},
    {AT(norm_eps),
     false,
     false,
     "attention.layer_norm_epsilon",
     {"layer_norm_epsilon", "rms_norm_eps", "layer_norm_eps"}},
    {AT(norm_eps), false, false, "attention.layer_norm_rms_epsilon", {NULL}},
};
#undef AT

static pl_status set_number(pl_config *config, const number *n, double value, const char *name,
                            pl_error *err) {
    char *place = (char *)config + n->offset;
    if (!isfinite(value) || (n->whole && (value < 0 || value > 0x1p40 || value != floor(value)))) {
        return pl_fail(err, PL_ERR_FORMAT, "%s = %g: expected %s", name, value,
                       n->whole ? "a whole number" : "a number");
    }
    if (n->whole) {
        int64_t whole = (int64_t)value;
        memcpy(place, &whole, sizeof whole);
    } else {
        float real = (float)value;
        memcpy(place, &real, sizeof real);
    }
    return PL_OK;
}

static pl_status unknown_family(const char *name, pl_error *err) {
    pl_config ignored;
    pl_error reason = {0};
    pl_config_init(&ignored, name, &reason);
    return pl_fail(err, PL_ERR_UNSUPPORTED, "%s", reason.message);
}

/* -- GGUF ------------------------------------------------------------------------------------ */

static pl_status gguf_numbers(pl_config *config, const char *family, const pl_gguf *gguf,
                              pl_error *err) {
    for (size_t i = 0; i < sizeof numbers / sizeof *numbers; i++) {
        const number *n = &numbers[i];
        char key[128];
        double value;
        if (!n->gguf) continue;
        snprintf(key, sizeof key, "%s.%s", family, n->gguf);
        if (pl_gguf_find_float(gguf, key, &value)) {
            pl_status status = set_number(config, n, value, key, err);
            if (status != PL_OK) return pl_error_prefix(err, status, "%s", pl_gguf_path(gguf));
        } else if (pl_gguf_find(gguf, key)) {
            return pl_fail(err, PL_ERR_FORMAT, "%s: key '%s': expected a number",
                           pl_gguf_path(gguf), key);
        } else if (n->required) {
            return pl_fail(err, PL_ERR_FORMAT, "%s: key '%s' is missing", pl_gguf_path(gguf), key);
        }
    }
    return PL_OK;
}

static pl_status gguf_vocabulary(pl_config *config, const pl_gguf *gguf, pl_error *err) {
    size_t index;
    pl_tensor embed;
    if (!pl_gguf_find_tensor(gguf, "token_embd.weight", &index)) {
        return pl_fail(err, PL_ERR_FORMAT, "%s: tensor 'token_embd.weight' is missing",
                       pl_gguf_path(gguf));
    }
    pl_status status = pl_gguf_tensor(gguf, index, &embed, err);
    if (status == PL_OK) config->d_vocab = embed.shape[0];
    return status;
}

/* Rotary scaling changes every position; to leave it out would compute something else. */
static pl_status refuse_gguf_scaling(const char *family, const pl_gguf *gguf, pl_error *err) {
    char key[128];
    pl_gguf_string kind;
    snprintf(key, sizeof key, "%s.rope.scaling.type", family);
    if (!pl_gguf_find_string(gguf, key, &kind)) return PL_OK;
    if (kind.size == 4 && memcmp(kind.data, "none", 4) == 0) return PL_OK;
    return pl_fail(err, PL_ERR_UNSUPPORTED, "%s: %s = '%.*s': only 'none' is supported",
                   pl_gguf_path(gguf), key, (int)(kind.size < 40 ? kind.size : 40), kind.data);
}

pl_status pl_describe_gguf(pl_config *config, const pl_family **family, const pl_gguf *gguf,
                           pl_error *err) {
    pl_gguf_string arch;
    pl_status status = pl_gguf_get_string(gguf, "general.architecture", &arch, err);
    if (status != PL_OK) return status;
    char name[64];
    snprintf(name, sizeof name, "%.*s", (int)(arch.size < 63 ? arch.size : 63), arch.data);
    *family = pl_family_find(name);
    if (!*family) {
        status = unknown_family(name, err);
        return pl_error_prefix(err, status, "%s: general.architecture", pl_gguf_path(gguf));
    }
    status = pl_config_init(config, name, err);
    if (status == PL_OK) status = gguf_numbers(config, name, gguf, err);
    if (status == PL_OK) status = gguf_vocabulary(config, gguf, err);
    if (status == PL_OK) status = refuse_gguf_scaling(name, gguf, err);
    config->rope_half = (*family)->gguf_rope_half;
    return status;
}

/* -- Hugging Face's config.json -------------------------------------------------------------- */

static pl_status hf_number(pl_config *config, const number *n, const json_t *json, pl_error *err) {
    for (size_t i = 0; i < sizeof n->hf / sizeof *n->hf && n->hf[i]; i++) {
        const json_t *value = json_object_get(json, n->hf[i]);
        if (!value || json_is_null(value)) continue;
        if (json_is_number(value)) {
            return set_number(config, n, json_number_value(value), n->hf[i], err);
        }
        return pl_fail(err, PL_ERR_FORMAT, "%s: expected a number", n->hf[i]);
    }
    if (!n->required) return PL_OK;
    return pl_fail(err, PL_ERR_FORMAT, "%s is missing", n->hf[0]);
}

static pl_status hf_activation(pl_config *config, const json_t *json, pl_error *err) {
    static const struct {
        const char *name;
        pl_activation activation;
    } known[] = {{"gelu_new", PL_ACT_GELU_TANH}, {"gelu_pytorch_tanh", PL_ACT_GELU_TANH},
                 {"gelu", PL_ACT_GELU_ERF},      {"silu", PL_ACT_SILU},
                 {"swish", PL_ACT_SILU},         {"relu", PL_ACT_RELU},
                 {"tanh", PL_ACT_TANH}};
    const json_t *value = json_object_get(json, "hidden_act");
    if (!value) value = json_object_get(json, "activation_function");
    if (!value) return PL_OK;
    const char *name = json_string_value(value);
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
    } settings[] = {{"scale_attn_weights", true},
                    {"scale_attn_by_inverse_layer_idx", false},
                    {"add_cross_attention", false}};
    for (size_t i = 0; i < sizeof settings / sizeof *settings; i++) {
        const json_t *value = json_object_get(json, settings[i].name);
        if (value && json_is_boolean(value) && json_is_true(value) != settings[i].supported) {
            return pl_fail(err, PL_ERR_UNSUPPORTED, "%s: only %s is supported", settings[i].name,
                           settings[i].supported ? "true" : "false");
        }
    }
    const json_t *scaling = json_object_get(json, "rope_scaling");
    if (!scaling || json_is_null(scaling)) return PL_OK;
    return pl_fail(err, PL_ERR_UNSUPPORTED, "rope_scaling: only null is supported");
}

pl_status pl_describe_hf(pl_config *config, const pl_family **family, const json_t *json,
                         pl_error *err) {
    static const number vocabulary = {
        offsetof(pl_config, d_vocab), true, true, NULL, {"vocab_size"}};
    const char *type = json_string_value(json_object_get(json, "model_type"));
    if (!type) return pl_fail(err, PL_ERR_FORMAT, "model_type is missing");
    *family = pl_family_find_model_type(type);
    if (!*family) {
        return pl_error_prefix(err, unknown_family(type, err), "model_type");
    }
    pl_status status = pl_config_init(config, (*family)->name, err);
    for (size_t i = 0; i < sizeof numbers / sizeof *numbers && status == PL_OK; i++) {
        status = hf_number(config, &numbers[i], json, err);
    }
    if (status == PL_OK) status = hf_number(config, &vocabulary, json, err);
    if (status == PL_OK) status = hf_activation(config, json, err);
    if (status == PL_OK) status = refuse_hf_settings(json, err);
    const json_t *tied = json_object_get(json, "tie_word_embeddings");
    if (json_is_boolean(tied)) config->tied = json_is_true(tied);
    return status;
}
