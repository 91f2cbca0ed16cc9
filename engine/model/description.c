#include "description_parts.h"

#include <math.h>
#include <stddef.h>
#include <stdio.h>
#include <string.h>

#include "../base/error.h"

#define AT(field) offsetof(pl_config, field)
const pl_number pl_numbers[] = {
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
const size_t pl_n_numbers = sizeof pl_numbers / sizeof *pl_numbers;

pl_status pl_number_set(pl_config *config, const pl_number *n, double value, const char *name,
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

bool pl_number_has_default(const pl_config *config, const pl_number *n) {
    int64_t whole = 0;
    if (n->whole) memcpy(&whole, (const char *)config + n->offset, sizeof whole);
    return whole > 0;
}

pl_status pl_unknown_family(const pl_families *set, const char *name, const char *files,
                            pl_error *err) {
    pl_config ignored;
    pl_error reason = {0};
    if (pl_families_init_config(set, &ignored, name, &reason) == PL_OK) { /* elsewhere */
        return pl_fail(err, PL_ERR_UNSUPPORTED, "there are no %s files of the family %s", files,
                       name);
    }
    return pl_fail(err, PL_ERR_UNSUPPORTED, "%s", reason.message);
}

void pl_drop_head(pl_config *config) {
    config->headless = true;
    config->norm_final = config->unembed_dense = config->unembed_bias = false;
}

pl_status pl_take_layer(int64_t *period, int64_t layer, bool full, const char *what,
                        pl_error *err) {
    if (full && *period == 0) *period = layer + 1;
    if (full == (*period > 0 && (layer + 1) % *period == 0)) return PL_OK;
    return pl_fail(err, PL_ERR_UNSUPPORTED,
                   "%s: layer %lld breaks the pattern of one full layer in %lld", what,
                   (long long)layer, (long long)*period);
}
