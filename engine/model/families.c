#include "families.h"

#include <string.h>

#define COUNT(array) (sizeof(array) / sizeof *(array))

static const pl_tensor_rule gpt2_rules[] = {
    {PL_PLACE_EMBED, "token_embd", "wte", PL_BIAS_NEVER, false, 0},
    {PL_PLACE_POSITIONS, "position_embd", "wpe", PL_BIAS_NEVER, false, 0},
    {PL_PLACE_NORM_FINAL, "output_norm", "ln_f", PL_BIAS_ALWAYS, false, 0},
    {PL_PLACE_UNEMBED, "output", "lm_head", PL_BIAS_NEVER, false, 0},
    {PL_PLACE_NORM_ATTENTION, "blk.%d.attn_norm", "h.%d.ln_1", PL_BIAS_ALWAYS, false,
     PL_NORM_BEFORE},
    {PL_PLACE_QKV, "blk.%d.attn_qkv", "h.%d.attn.c_attn", PL_BIAS_ALWAYS, true, 0},
    {PL_PLACE_O, "blk.%d.attn_output", "h.%d.attn.c_proj", PL_BIAS_ALWAYS, true, 0},
    {PL_PLACE_NORM_MLP, "blk.%d.ffn_norm", "h.%d.ln_2", PL_BIAS_ALWAYS, false, PL_NORM_BEFORE},
    {PL_PLACE_IN, "blk.%d.ffn_up", "h.%d.mlp.c_fc", PL_BIAS_ALWAYS, true, 0},
    {PL_PLACE_OUT, "blk.%d.ffn_down", "h.%d.mlp.c_proj", PL_BIAS_ALWAYS, true, 0},
};

static const pl_tensor_rule llama_rules[] = {
    {PL_PLACE_EMBED, "token_embd", "model.embed_tokens", PL_BIAS_NEVER, false, 0},
    {PL_PLACE_NORM_FINAL, "output_norm", "model.norm", PL_BIAS_NEVER, false, 0},
    {PL_PLACE_UNEMBED, "output", "lm_head", PL_BIAS_NEVER, false, 0},
    {PL_PLACE_NORM_ATTENTION, "blk.%d.attn_norm", "model.layers.%d.input_layernorm", PL_BIAS_NEVER,
     false, PL_NORM_BEFORE},
    {PL_PLACE_Q, "blk.%d.attn_q", "model.layers.%d.self_attn.q_proj", PL_BIAS_OPTIONAL, false, 0},
    {PL_PLACE_K, "blk.%d.attn_k", "model.layers.%d.self_attn.k_proj", PL_BIAS_OPTIONAL, false, 0},
    {PL_PLACE_V, "blk.%d.attn_v", "model.layers.%d.self_attn.v_proj", PL_BIAS_OPTIONAL, false, 0},
    {PL_PLACE_O, "blk.%d.attn_output", "model.layers.%d.self_attn.o_proj", PL_BIAS_OPTIONAL, false,
     0},
    {PL_PLACE_NORM_MLP, "blk.%d.ffn_norm", "model.layers.%d.post_attention_layernorm",
     PL_BIAS_NEVER, false, PL_NORM_BEFORE},
    {PL_PLACE_GATE, "blk.%d.ffn_gate", "model.layers.%d.mlp.gate_proj", PL_BIAS_OPTIONAL, false, 0},
    {PL_PLACE_IN, "blk.%d.ffn_up", "model.layers.%d.mlp.up_proj", PL_BIAS_OPTIONAL, false, 0},
    {PL_PLACE_OUT, "blk.%d.ffn_down", "model.layers.%d.mlp.down_proj", PL_BIAS_OPTIONAL, false, 0},
};

/* Masks and tables that old Hugging Face files carry along; they follow from the description. */
static const char *const gpt2_ignored[] = {".attn.bias", ".attn.masked_bias", NULL};
static const char *const llama_ignored[] = {".rotary_emb.inv_freq", NULL};

static const pl_family families[] = {
    {
        .name = "gpt2",
        .model_type = "gpt2",
        .hf_prefix = "transformer.",
        .config = {.norm = PL_NORM_LAYER,
                   .norm_eps = 1e-5f,
                   .norm_slot = {[PL_NORM_BEFORE] = true},
                   .norm_final = true,
                   .positions = PL_POSITIONS_LEARNED,
                   .activation = PL_ACT_GELU_TANH,
                   .qkv_bias = true,
                   .attn_out_bias = true,
                   .mlp_bias = true,
                   .norm_bias = true,
                   .causal = true,
                   .tied = true},
        .rules = gpt2_rules,
        .n_rules = COUNT(gpt2_rules),
        .ignored = gpt2_ignored,
    },
    {
        .name = "llama",
        .model_type = "llama",
        .hf_prefix = "",
        .config = {.norm = PL_NORM_RMS,
                   .norm_eps = 1e-5f,
                   .norm_slot = {[PL_NORM_BEFORE] = true},
                   .norm_final = true,
                   .positions = PL_POSITIONS_ROTARY,
                   .rope_base = 10000.0f,
                   .rope_half = true,
                   .activation = PL_ACT_SILU,
                   .gated = true,
                   .causal = true},
        .gguf_rope_half = false,
        .rules = llama_rules,
        .n_rules = COUNT(llama_rules),
        .ignored = llama_ignored,
    },
};

static const char *const family_names[COUNT(families)] = {"gpt2", "llama"};

size_t pl_config_families(const char *const **names) {
    *names = family_names;
    return COUNT(family_names);
}

const pl_family *pl_family_find(const char *name) {
    for (size_t i = 0; i < COUNT(families); i++) {
        if (strcmp(name, families[i].name) == 0) return &families[i];
    }
    return NULL;
}

const pl_family *pl_family_find_model_type(const char *model_type) {
    for (size_t i = 0; i < COUNT(families); i++) {
        if (strcmp(model_type, families[i].model_type) == 0) return &families[i];
    }
    return NULL;
}
