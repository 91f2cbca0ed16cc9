/* A description as Hugging Face's config.json. */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "export_plan.h"

static const char *activation_name(pl_activation activation, bool newer) {
    static const char *const names[PL_N_ACTIVATIONS] = {[PL_ACT_GELU_TANH] = "gelu_new",
                                                        [PL_ACT_GELU_ERF] = "gelu",
                                                        [PL_ACT_SILU] = "silu",
                                                        [PL_ACT_RELU] = "relu",
                                                        [PL_ACT_TANH] = "tanh"};
    return newer && activation == PL_ACT_GELU_TANH ? "gelu_pytorch_tanh" : names[activation];
}

/* The shortest decimal that reads as the same float: 1e-05, not 9.99999974738e-06. */
static json_t *short_real(float value) {
    char text[32];
    for (int digits = 1; digits <= 9; digits++) {
        snprintf(text, sizeof text, "%.*g", digits, (double)value);
        if (strtof(text, NULL) == value) break;
    }
    return json_real(strtod(text, NULL));
}

/* GPT-2's, or with another name GPT-1's. */
static json_t *gpt_config(const pl_family *family, const pl_config *c) {
    bool first = family->hf_gelu_tanh;
    const char *activation = activation_name(c->activation, false);
    if (first && c->activation == PL_ACT_GELU_TANH) activation = "gelu";
    return json_pack("{s:I, s:I, s:I, s:I, s:I, s:I, s:I, s:s, s:o}", "vocab_size",
                     (json_int_t)c->d_vocab, "n_positions", (json_int_t)c->n_ctx, "n_ctx",
                     (json_int_t)c->n_ctx, "n_embd", (json_int_t)c->d_model, "n_layer",
                     (json_int_t)c->n_layers, "n_head", (json_int_t)c->n_heads, "n_inner",
                     (json_int_t)c->d_mlp, first ? "afn" : "activation_function", activation,
                     "layer_norm_epsilon", short_real(c->norm_eps));
}

/* What those that are not GPT-2 agree on. */
static json_t *common_config(const pl_family *family, const pl_config *c) {
    bool newer = family->hf_gain_offset != 0;
    const char *activation = activation_name(c->activation, newer);
    return json_pack("{s:I, s:I, s:I, s:I, s:I, s:I, s:I, s:s, s:s*, s:o}", "vocab_size",
                     (json_int_t)c->d_vocab, "max_position_embeddings", (json_int_t)c->n_ctx,
                     "hidden_size", (json_int_t)c->d_model, "num_hidden_layers",
                     (json_int_t)c->n_layers, "num_attention_heads", (json_int_t)c->n_heads,
                     "num_key_value_heads", (json_int_t)c->n_kv_heads, "intermediate_size",
                     (json_int_t)c->d_mlp, "hidden_act", activation, "hidden_activation",
                     newer ? activation : NULL, family->hf_eps, short_real(c->norm_eps));
}

/* BERT's, or with other names DistilBERT's. */
static json_t *encoder_config(const pl_family *family, const pl_config *c) {
    static const char *const names[2][5] = {
        {"hidden_size", "num_hidden_layers", "num_attention_heads", "intermediate_size",
         "hidden_act"},
        {"dim", "n_layers", "n_heads", "hidden_dim", "activation"}};
    const char *const *name = names[strcmp(family->model_type, "distilbert") == 0];
    return json_pack("{s:I, s:I, s:I, s:I, s:I, s:I, s:I, s:s, s:o}", "vocab_size",
                     (json_int_t)c->d_vocab, "max_position_embeddings", (json_int_t)c->n_ctx,
                     name[0], (json_int_t)c->d_model, name[1], (json_int_t)c->n_layers, name[2],
                     (json_int_t)c->n_heads, name[3], (json_int_t)c->d_mlp, "type_vocab_size",
                     (json_int_t)c->n_token_types, name[4], activation_name(c->activation, false),
                     family->hf_eps, short_real(c->norm_eps));
}

/* Whether json took it. */
static bool put(json_t *json, const char *key, json_t *value) {
    return json_object_set_new(json, key, value) == 0;
}

static json_t *factors(const pl_tensor *t) {
    json_t *list = json_array();
    for (int64_t i = 0; i < t->shape[0]; i++) {
        if (json_array_append_new(list, short_real(((const float *)t->data)[i])) != 0) break;
    }
    return list;
}

static json_t *rope_scaling(const pl_model *model) {
    const pl_config *c = &model->config;
    json_int_t original = (json_int_t)c->rope_original_ctx;
    if (c->rope_scaling == PL_ROPE_YARN) {
        return json_pack("{s:s, s:s, s:o, s:o, s:o, s:o, s:I}", "rope_type", "yarn", "type", "yarn",
                         "factor", short_real(c->rope_factor), "attention_factor",
                         short_real(c->rope_attn_factor), "beta_fast",
                         short_real(c->rope_beta_fast), "beta_slow", short_real(c->rope_beta_slow),
                         "original_max_position_embeddings", original);
    }
    if (c->rope_scaling == PL_ROPE_LONG) {
        return json_pack("{s:s, s:s, s:o, s:o, s:o, s:I}", "rope_type", "longrope", "type",
                         "longrope", "attention_factor", short_real(c->rope_attn_factor),
                         "long_factor", factors(&model->weights.rope_factors), "short_factor",
                         factors(&model->weights.rope_factors_short),
                         "original_max_position_embeddings", original);
    }
    if (c->rope_scaling == PL_ROPE_LINEAR) {
        return json_pack("{s:s, s:s, s:o}", "rope_type", "linear", "type", "linear", "factor",
                         short_real(c->rope_factor));
    }
    if (c->rope_scaling == PL_ROPE_LLAMA3) {
        return json_pack("{s:s, s:o, s:o, s:o, s:I}", "rope_type", "llama3", "factor",
                         short_real(c->rope_factor), "low_freq_factor",
                         short_real(c->rope_low_freq_factor), "high_freq_factor",
                         short_real(c->rope_high_freq_factor), "original_max_position_embeddings",
                         original);
    }
    return json_null();
}

static bool put_rotations(json_t *json, const pl_family *family, const pl_model *model) {
    const pl_config *c = &model->config;
    bool ok = put(json, "rope_theta", short_real(c->rope_base));
    ok &= put(json, "rope_scaling", rope_scaling(model));
    if (family->hf_partial) {
        json_t *part = json_real((double)c->rope_dims / (double)c->d_head);
        ok &= put(json, family->hf_partial, part);
    }
    if (family->hf_partial && strcmp(family->hf_partial, "rotary_pct") == 0) {
        ok &= put(json, "rotary_emb_base", short_real(c->rope_base));
    }
    if (c->rope_base_local > 0) {
        ok &= put(json, "rope_local_base_freq", short_real(c->rope_base_local));
    }
    return ok;
}

static bool put_windows(json_t *json, const pl_config *c) {
    bool ok = put(json, "sliding_window", c->window ? json_integer(c->window) : json_null());
    ok &= put(json, "use_sliding_window", json_boolean(c->window > 0));
    ok &= put(json, "max_window_layers", json_integer(c->window > 0 ? 0 : c->n_layers));
    if (c->window == 0) return ok;
    json_t *types = json_array();
    for (int64_t l = 0; l < c->n_layers; l++) {
        bool windowed = pl_config_windowed(c, l);
        json_array_append_new(types,
                              json_string(windowed ? "sliding_attention" : "full_attention"));
    }
    if (c->window_period) {
        ok &= put(json, "sliding_window_pattern", json_integer(c->window_period));
    }
    return put(json, "layer_types", types) && ok;
}

/* Numbers under the names that an added family has for them. */
static bool put_sizes(json_t *json, const pl_family *family, const pl_config *c) {
    bool ok = true;
    for (size_t i = 0; i < family->n_sizes; i++) {
        const char *at = (const char *)c + family->sizes[i].offset;
        int64_t whole;
        float real;
        if (pl_size_is_whole(family->sizes[i].offset)) {
            memcpy(&whole, at, sizeof whole);
            ok &= put(json, family->sizes[i].key, json_integer(whole));
        } else {
            memcpy(&real, at, sizeof real);
            ok &= put(json, family->sizes[i].key, short_real(real));
        }
    }
    return ok;
}

/* What some families have beyond the common. */
static bool put_parts(json_t *json, const pl_export_plan *plan) {
    const pl_family *family = plan->family;
    const pl_config *c = &plan->model->config;
    bool ok = put(json, "attention_bias", json_boolean(c->qkv_bias));
    ok &= put(json, "mlp_bias", json_boolean(c->mlp_bias));
    ok &= put_rotations(json, family, plan->model);
    if (family->windowed) ok &= put_windows(json, c);
    if (family->may_be_parallel) {
        ok &= put(json, "use_parallel_residual", json_boolean(c->parallel));
        ok &= put(json, "use_qkv_bias", json_boolean(c->qkv_bias));
    }
    if (c->n_experts) {
        ok &= put(json, "num_local_experts", json_integer(c->n_experts));
        ok &= put(json, "num_experts_per_tok", json_integer(c->n_experts_used));
    }
    if (family->config.attn_softcap > 0) {
        bool scores = c->attn_softcap > 0, logits = c->logit_softcap > 0;
        ok &=
            put(json, "attn_logit_softcapping", scores ? short_real(c->attn_softcap) : json_null());
        ok &= put(json, "final_logit_softcapping",
                  logits ? short_real(c->logit_softcap) : json_null());
    }
    if (family->hf_gain_offset != 0) {
        double scale = (double)c->attn_scale;
        ok &= put(json, "query_pre_attn_scalar", json_real(1 / (scale * scale)));
    }
    return ok;
}

/* The name that torch has for the type of the embedding. */
static const char *torch_dtype(const pl_export_plan *plan) {
    switch (plan->items[0].announced.dtype) {
    case PL_F16:
        return "float16";
    case PL_BF16:
        return "bfloat16";
    default:
        return "float32";
    }
}

json_t *pl_export_config(const pl_export_plan *plan) {
    const pl_config *c = &plan->model->config;
    const pl_family *family = plan->family;
    bool encoder = family->hf_encoder;
    bool gpt = c->positions == PL_POSITIONS_LEARNED && !encoder && !family->added;
    json_t *json = encoder ? encoder_config(family, c)
                   : gpt   ? gpt_config(family, c)
                           : common_config(family, c);
    if (!json) return NULL;
    bool ok = put_sizes(json, family, c);
    const char *class = c->headless ? family->hf_encoder : family->hf_class;
    ok &= put(json, "architectures", json_pack("[s]", class));
    ok &= put(json, "model_type", json_string(family->model_type));
    if (!gpt && !encoder) ok &= put_parts(json, plan);
    ok &= put(json, "tie_word_embeddings", json_boolean(c->tied || c->headless));
    ok &= put(json, "torch_dtype", json_string(torch_dtype(plan)));
    if (c->d_head * c->n_heads != c->d_model || family->config.qk_norm == PL_QK_NORM_HEAD ||
        family->hf_gain_offset != 0) {
        ok &= put(json, "head_dim", json_integer(c->d_head));
    }
    if (plan->model->tokenizer) {
        pl_special_ids ids = pl_tokenizer_special_ids(plan->model->tokenizer);
        if (ids.bos >= 0) ok &= put(json, "bos_token_id", json_integer(ids.bos));
        if (ids.eos >= 0) ok &= put(json, "eos_token_id", json_integer(ids.eos));
    }
    if (ok) return json;
    json_decref(json);
    return NULL;
}
