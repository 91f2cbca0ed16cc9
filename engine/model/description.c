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
    bool null_is_zero; /* else null leaves what the family says */
    const char *gguf;  /* after the family's name and a dot; NULL: not in GGUF */
    const char *hf[3]; /* NULL where there are no more */
} number;

#define AT(field) offsetof(pl_config, field)
static const number numbers[] = {
    {AT(d_model), true, true, false, "embedding_length", {"hidden_size", "n_embd", "dim"}},
    {AT(n_layers), true, true, false, "block_count", {"num_hidden_layers", "n_layer", "n_layers"}},
    {AT(n_heads),
     true,
     true,
     false,
     "attention.head_count",
     {"num_attention_heads", "n_head", "n_heads"}},
    {AT(n_kv_heads), true, false, false, "attention.head_count_kv", {"num_key_value_heads"}},
    {AT(d_head), true, false, false, "attention.key_length", {"head_dim"}},
    {AT(d_mlp),
     true,
     false,
     false,
     "feed_forward_length",
     {"intermediate_size", "n_inner", "hidden_dim"}},
    {AT(n_ctx),
     true,
     true,
     false,
     "context_length",
     {"max_position_embeddings", "n_positions", "n_ctx"}},
    {AT(n_token_types), true, false, false, NULL, {"type_vocab_size"}},
    {AT(rope_dims), true, false, false, "rope.dimension_count", {NULL}},
    {AT(rope_base), false, false, false, "rope.freq_base", {"rope_theta", "rotary_emb_base"}},
    {AT(rope_base_local), false, false, false, "rope.freq_base_swa", {"rope_local_base_freq"}},
    {AT(rope_factor), false, false, false, "rope.scaling.factor", {NULL}},
    {AT(n_experts), true, false, false, "expert_count", {"num_local_experts"}},
    {AT(n_experts_used), true, false, false, "expert_used_count", {"num_experts_per_tok"}},
    {AT(window), true, false, false, "attention.sliding_window", {NULL}},
    {AT(attn_scale), false, false, false, "attention.scale", {NULL}},
    {AT(attn_softcap), false, false, true, "attn_logit_softcapping", {"attn_logit_softcapping"}},
    {AT(logit_softcap), false, false, true, "final_logit_softcapping", {"final_logit_softcapping"}},
    {AT(norm_eps),
     false,
     false,
     false,
     "attention.layer_norm_epsilon",
     {"layer_norm_epsilon", "rms_norm_eps", "layer_norm_eps"}},
    {AT(norm_eps), false, false, false, "attention.layer_norm_rms_epsilon", {NULL}},
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

/* Whether the family itself has a value for what files usually say. */
static bool has_default(const pl_config *config, const number *n) {
    int64_t whole = 0;
    if (n->whole) memcpy(&whole, (const char *)config + n->offset, sizeof whole);
    return whole > 0;
}

static pl_status unknown_family(const pl_families *set, const char *name, const char *files,
                                pl_error *err) {
    pl_config ignored;
    pl_error reason = {0};
    if (pl_families_init_config(set, &ignored, name, &reason) == PL_OK) { /* elsewhere */
        return pl_fail(err, PL_ERR_UNSUPPORTED, "there are no %s files of the family %s", files,
                       name);
    }
    return pl_fail(err, PL_ERR_UNSUPPORTED, "%s", reason.message);
}

/* Whether layers so far follow the pattern of one full layer in *period, 0 while there is none. */
static bool fits_period(int64_t *period, int64_t layer, bool full) {
    if (full && *period == 0) *period = layer + 1;
    return full == (*period > 0 && (layer + 1) % *period == 0);
}

static pl_status broken_period(const char *what, int64_t layer, int64_t period, pl_error *err) {
    return pl_fail(err, PL_ERR_UNSUPPORTED,
                   "%s: layer %lld breaks the pattern of one full layer in %lld", what,
                   (long long)layer, (long long)period);
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
        } else if (n->required && !has_default(config, n)) {
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

/* A description without what makes logits; loading puts it back where the file has it. */
static void drop_head(pl_config *config) {
    config->headless = true;
    config->norm_final = config->unembed_dense = config->unembed_bias = false;
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
        if (fits_period(&config->window_period, i, full)) continue;
        return pl_error_prefix(err, broken_period(key, i, config->window_period, err), "%s",
                               pl_gguf_path(gguf));
    }
    return PL_OK;
}

/* What is no number, and what depends on one. */
static pl_status gguf_rest(pl_config *config, const pl_family *family, const pl_gguf *gguf,
                           pl_error *err) {
    gguf_parallel(config, family, gguf);
    config->rope_half = family->gguf_rope_half;
    if (family->hf_encoder) drop_head(config);
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
        status = unknown_family(set, name, "GGUF", err);
        return pl_error_prefix(err, status, "%s: general.architecture", pl_gguf_path(gguf));
    }
    status = pl_families_init_config(set, config, (*family)->name, err);
    if (status == PL_OK) status = gguf_numbers(config, name, gguf, err);
    if (status == PL_OK) status = gguf_vocabulary(config, *family, gguf, err);
    if (status == PL_OK) status = gguf_rest(config, *family, gguf, err);
    return status;
}

/* -- Hugging Face's config.json -------------------------------------------------------------- */

/* The names of a number, a family's own first; NULL where there are no more. */
static const char *hf_name(const pl_family *family, const number *n, size_t i) {
    for (size_t j = 0; j < family->n_sizes; j++) {
        if (family->sizes[j].offset != n->offset) continue;
        if (i == 0) return family->sizes[j].key;
        i--;
        break;
    }
    return i < sizeof n->hf / sizeof *n->hf ? n->hf[i] : NULL;
}

static pl_status hf_number(pl_config *config, const pl_family *family, const number *n,
                           const json_t *json, pl_error *err) {
    const char *name;
    for (size_t i = 0; (name = hf_name(family, n, i)); i++) {
        const json_t *value = json_object_get(json, name);
        if (!value) continue;
        if (json_is_null(value)) {
            if (n->null_is_zero) return set_number(config, n, 0, name, err);
            continue;
        }
        if (json_is_number(value)) {
            return set_number(config, n, json_number_value(value), name, err);
        }
        return pl_fail(err, PL_ERR_FORMAT, "%s: expected a number", name);
    }
    if (!n->required || has_default(config, n)) return PL_OK;
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
        if (!fits_period(&period, i, full)) return broken_period("layer_types", i, period, err);
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
    if (family->hf_encoder && !names_head(family, json)) drop_head(config);
    pl_status status = hf_positions(json, err);
    if (status == PL_OK) status = hf_positive(&scalar, json, "query_pre_attn_scalar", err);
    if (status == PL_OK && scalar > 0) config->attn_scale = (float)(1 / sqrt((double)scalar));
    if (status == PL_OK) status = hf_rotations(config, family, json, err);
    if (status == PL_OK) status = hf_window(config, family, json, err);
    return status;
}

pl_status pl_describe_hf(pl_config *config, const pl_family **family, const pl_families *set,
                         const json_t *json, pl_error *err) {
    static const number vocabulary = {
        offsetof(pl_config, d_vocab), true, true, false, NULL, {"vocab_size"}};
    const char *type = json_string_value(json_object_get(json, "model_type"));
    if (!type) return pl_fail(err, PL_ERR_FORMAT, "model_type is missing");
    *family = pl_families_find_model_type(set, type);
    if (!*family) {
        return pl_error_prefix(err, unknown_family(set, type, "Hugging Face", err), "model_type");
    }
    pl_status status = pl_families_init_config(set, config, (*family)->name, err);
    for (size_t i = 0; i < sizeof numbers / sizeof *numbers && status == PL_OK; i++) {
        status = hf_number(config, *family, &numbers[i], json, err);
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
