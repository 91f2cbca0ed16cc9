#include "families.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

#define COUNT(array) (sizeof(array) / sizeof *(array))
#define RULES(table) .rules = (table), .n_rules = COUNT(table)

/* One tensor; then some that many families share. */
#define TENSOR(place_, gguf_, hf_, bias_)                                                          \
    { .place = PL_PLACE_##place_, .gguf = (gguf_), .hf = (hf_), .bias = PL_BIAS_##bias_ }
#define CONV1D(place_, gguf_, hf_)                                                                 \
    {                                                                                              \
        .place = PL_PLACE_##place_, .gguf = (gguf_), .hf = (hf_), .bias = PL_BIAS_ALWAYS,          \
        .conv1d = true                                                                             \
    }
#define LAYER(place, gguf, hf, bias) TENSOR(place, "blk.%d." gguf, "model.layers.%d." hf, bias)
#define NORM(place_, gguf_, hf_, bias_, slot_)                                                     \
    {                                                                                              \
        .place = PL_PLACE_NORM_##place_, .gguf = "blk.%d." gguf_, .hf = "model.layers.%d." hf_,    \
        .bias = PL_BIAS_##bias_, .slot = PL_NORM_##slot_                                           \
    }
#define EXPERT(place_, gguf_, hf_)                                                                 \
    {                                                                                              \
        .place = PL_PLACE_EXPERT_##place_, .gguf = "blk.%d." gguf_ ".%e",                          \
        .hf = "model.layers.%d.block_sparse_moe.experts.%e." hf_,                                  \
        .merged = "blk.%d." gguf_ "_exps"                                                          \
    }
#define OUTSIDE(norm_bias)                                                                         \
    TENSOR(EMBED, "token_embd", "model.embed_tokens", NEVER),                                      \
        TENSOR(ROPE_FACTORS, "rope_freqs", NULL, NEVER),                                           \
        TENSOR(ROPE_FACTORS_LONG, "rope_factors_long", NULL, NEVER),                               \
        TENSOR(ROPE_FACTORS_SHORT, "rope_factors_short", NULL, NEVER),                             \
        TENSOR(NORM_FINAL, "output_norm", "model.norm", norm_bias),                                \
        TENSOR(UNEMBED, "output", "lm_head", NEVER)
#define NORMS_BEFORE(bias)                                                                         \
    NORM(ATTENTION, "attn_norm", "input_layernorm", bias, BEFORE),                                 \
        NORM(MLP, "ffn_norm", "post_attention_layernorm", bias, BEFORE)
#define NORMS_ROUND                                                                                \
    NORM(ATTENTION, "attn_norm", "input_layernorm", NEVER, BEFORE),                                \
        NORM(ATTENTION, "post_attention_norm", "post_attention_layernorm", NEVER, AFTER_SUBLAYER), \
        NORM(MLP, "ffn_norm", "pre_feedforward_layernorm", NEVER, BEFORE),                         \
        NORM(MLP, "post_ffw_norm", "post_feedforward_layernorm", NEVER, AFTER_SUBLAYER)
#define ATTENTION(bias_qkv, bias_o)                                                                \
    LAYER(Q, "attn_q", "self_attn.q_proj", bias_qkv),                                              \
        LAYER(K, "attn_k", "self_attn.k_proj", bias_qkv),                                          \
        LAYER(V, "attn_v", "self_attn.v_proj", bias_qkv),                                          \
        LAYER(O, "attn_output", "self_attn.o_proj", bias_o)
#define QK_NORMS                                                                                   \
    LAYER(Q_NORM, "attn_q_norm", "self_attn.q_norm", NEVER),                                       \
        LAYER(K_NORM, "attn_k_norm", "self_attn.k_norm", NEVER)
#define GATED_MLP(bias)                                                                            \
    LAYER(GATE, "ffn_gate", "mlp.gate_proj", bias), LAYER(IN, "ffn_up", "mlp.up_proj", bias),      \
        LAYER(OUT, "ffn_down", "mlp.down_proj", bias)

static const pl_tensor_rule gpt2_rules[] = {
    TENSOR(EMBED, "token_embd", "wte", NEVER),
    TENSOR(POSITIONS, "position_embd", "wpe", NEVER),
    TENSOR(NORM_FINAL, "output_norm", "ln_f", ALWAYS),
    TENSOR(UNEMBED, "output", "lm_head", NEVER),
    TENSOR(NORM_ATTENTION, "blk.%d.attn_norm", "h.%d.ln_1", ALWAYS),
    CONV1D(QKV, "blk.%d.attn_qkv", "h.%d.attn.c_attn"),
    CONV1D(O, "blk.%d.attn_output", "h.%d.attn.c_proj"),
    TENSOR(NORM_MLP, "blk.%d.ffn_norm", "h.%d.ln_2", ALWAYS),
    CONV1D(IN, "blk.%d.ffn_up", "h.%d.mlp.c_fc"),
    CONV1D(OUT, "blk.%d.ffn_down", "h.%d.mlp.c_proj"),
};

/* No GGUF file has this family. */
#define GPT1_NORM(place_, hf_)                                                                     \
    {                                                                                              \
        .place = PL_PLACE_NORM_##place_, .hf = (hf_), .bias = PL_BIAS_ALWAYS,                      \
        .slot = PL_NORM_AFTER_ADD                                                                  \
    }
static const pl_tensor_rule gpt1_rules[] = {
    TENSOR(EMBED, NULL, "tokens_embed", NEVER),
    TENSOR(POSITIONS, NULL, "positions_embed", NEVER),
    TENSOR(UNEMBED, NULL, "lm_head", NEVER),
    CONV1D(QKV, NULL, "h.%d.attn.c_attn"),
    CONV1D(O, NULL, "h.%d.attn.c_proj"),
    GPT1_NORM(ATTENTION, "h.%d.ln_1"),
    CONV1D(IN, NULL, "h.%d.mlp.c_fc"),
    CONV1D(OUT, NULL, "h.%d.mlp.c_proj"),
    GPT1_NORM(MLP, "h.%d.ln_2"),
};

static const pl_tensor_rule llama_rules[] = {
    OUTSIDE(NEVER),
    NORMS_BEFORE(NEVER),
    ATTENTION(OPTIONAL, OPTIONAL),
    GATED_MLP(OPTIONAL),
};

static const pl_tensor_rule mixtral_rules[] = {
    OUTSIDE(NEVER),
    NORMS_BEFORE(NEVER),
    ATTENTION(NEVER, NEVER),
    LAYER(ROUTER, "ffn_gate_inp", "block_sparse_moe.gate", NEVER),
    EXPERT(GATE, "ffn_gate", "w1"),
    EXPERT(IN, "ffn_up", "w3"),
    EXPERT(OUT, "ffn_down", "w2"),
};

static const pl_tensor_rule qwen2_rules[] = {
    OUTSIDE(NEVER),
    NORMS_BEFORE(NEVER),
    ATTENTION(ALWAYS, NEVER),
    GATED_MLP(NEVER),
};

static const pl_tensor_rule qwen3_rules[] = {
    OUTSIDE(NEVER), NORMS_BEFORE(NEVER), ATTENTION(OPTIONAL, OPTIONAL), QK_NORMS, GATED_MLP(NEVER),
};

static const pl_tensor_rule olmo2_rules[] = {
    OUTSIDE(NEVER),
    ATTENTION(NEVER, NEVER),
    QK_NORMS,
    NORM(ATTENTION, "post_attention_norm", "post_attention_layernorm", NEVER, AFTER_SUBLAYER),
    GATED_MLP(NEVER),
    NORM(MLP, "post_ffw_norm", "post_feedforward_layernorm", NEVER, AFTER_SUBLAYER),
};

static const pl_tensor_rule stablelm_rules[] = {
    OUTSIDE(OPTIONAL),
    NORMS_BEFORE(OPTIONAL),
    ATTENTION(OPTIONAL, NEVER),
    GATED_MLP(NEVER),
};

static const pl_tensor_rule phi3_rules[] = {
    OUTSIDE(NEVER),
    NORMS_BEFORE(NEVER),
    LAYER(QKV, "attn_qkv", "self_attn.qkv_proj", NEVER),
    LAYER(O, "attn_output", "self_attn.o_proj", NEVER),
    LAYER(GATE_IN, "ffn_up", "mlp.gate_up_proj", NEVER),
    LAYER(OUT, "ffn_down", "mlp.down_proj", NEVER),
};

#define NEOX(place, gguf, hf, bias) TENSOR(place, "blk.%d." gguf, "gpt_neox.layers.%d." hf, bias)
static const pl_tensor_rule gptneox_rules[] = {
    TENSOR(EMBED, "token_embd", "gpt_neox.embed_in", NEVER),
    TENSOR(NORM_FINAL, "output_norm", "gpt_neox.final_layer_norm", ALWAYS),
    TENSOR(UNEMBED, "output", "embed_out", NEVER),
    NEOX(NORM_ATTENTION, "attn_norm", "input_layernorm", ALWAYS),
    {.place = PL_PLACE_QKV,
     .gguf = "blk.%d.attn_qkv",
     .hf = "gpt_neox.layers.%d.attention.query_key_value",
     .bias = PL_BIAS_OPTIONAL,
     .by_head = true},
    NEOX(O, "attn_output", "attention.dense", OPTIONAL),
    NEOX(NORM_MLP, "ffn_norm", "post_attention_layernorm", ALWAYS),
    NEOX(IN, "ffn_up", "mlp.dense_h_to_4h", ALWAYS),
    NEOX(OUT, "ffn_down", "mlp.dense_4h_to_h", ALWAYS),
};

static const pl_tensor_rule gemma2_rules[] = {
    OUTSIDE(NEVER),
    NORMS_ROUND,
    ATTENTION(OPTIONAL, OPTIONAL),
    GATED_MLP(NEVER),
};

static const pl_tensor_rule gemma3_rules[] = {
    OUTSIDE(NEVER), NORMS_ROUND, ATTENTION(OPTIONAL, OPTIONAL), QK_NORMS, GATED_MLP(NEVER),
};

#define BERT(place, gguf, hf) TENSOR(place, "blk.%d." gguf, "encoder.layer.%d." hf, ALWAYS)
#define DISTIL(place, gguf, hf) TENSOR(place, "blk.%d." gguf, "transformer.layer.%d." hf, ALWAYS)
#define AFTER_ADD(place_, gguf_, hf_)                                                              \
    {                                                                                              \
        .place = PL_PLACE_NORM_##place_, .gguf = "blk.%d." gguf_, .hf = (hf_),                     \
        .bias = PL_BIAS_ALWAYS, .slot = PL_NORM_AFTER_ADD                                          \
    }
#define BERT_EMBEDDINGS                                                                            \
    TENSOR(EMBED, "token_embd", "embeddings.word_embeddings", NEVER),                              \
        TENSOR(POSITIONS, "position_embd", "embeddings.position_embeddings", NEVER),               \
        TENSOR(NORM_EMBED, "token_embd_norm", "embeddings.LayerNorm", ALWAYS)
static const pl_tensor_rule bert_rules[] = {
    BERT_EMBEDDINGS,
    TENSOR(TOKEN_TYPES, "token_types", "embeddings.token_type_embeddings", NEVER),
    BERT(Q, "attn_q", "attention.self.query"),
    BERT(K, "attn_k", "attention.self.key"),
    BERT(V, "attn_v", "attention.self.value"),
    BERT(O, "attn_output", "attention.output.dense"),
    AFTER_ADD(ATTENTION, "attn_output_norm", "encoder.layer.%d.attention.output.LayerNorm"),
    BERT(IN, "ffn_up", "intermediate.dense"),
    BERT(OUT, "ffn_down", "output.dense"),
    AFTER_ADD(MLP, "layer_output_norm", "encoder.layer.%d.output.LayerNorm"),
    TENSOR(UNEMBED_DENSE, "output_dense", "cls.predictions.transform.dense", ALWAYS),
    TENSOR(NORM_FINAL, "output_norm", "cls.predictions.transform.LayerNorm", ALWAYS),
    TENSOR(UNEMBED, "output", "cls.predictions.decoder", OPTIONAL),
    TENSOR(UNEMBED_BIAS, NULL, "cls.predictions", NEVER),
    TENSOR(POOLER, "pooler", "pooler.dense", ALWAYS),
};

static const pl_tensor_rule distilbert_rules[] = {
    BERT_EMBEDDINGS,
    DISTIL(Q, "attn_q", "attention.q_lin"),
    DISTIL(K, "attn_k", "attention.k_lin"),
    DISTIL(V, "attn_v", "attention.v_lin"),
    DISTIL(O, "attn_output", "attention.out_lin"),
    AFTER_ADD(ATTENTION, "attn_output_norm", "transformer.layer.%d.sa_layer_norm"),
    DISTIL(IN, "ffn_up", "ffn.lin1"),
    DISTIL(OUT, "ffn_down", "ffn.lin2"),
    AFTER_ADD(MLP, "layer_output_norm", "transformer.layer.%d.output_layer_norm"),
    TENSOR(UNEMBED_DENSE, "output_dense", "vocab_transform", ALWAYS),
    TENSOR(NORM_FINAL, "output_norm", "vocab_layer_norm", ALWAYS),
    TENSOR(UNEMBED, "output", "vocab_projector", OPTIONAL),
};

/* Masks and tables that old Hugging Face files carry along; they follow from the description. */
static const char *const gpt2_ignored[] = {".attn.bias", ".attn.masked_bias", NULL};
static const char *const gpt1_ignored[] = {".attn.bias", "position_ids",
                                           "multiple_choice_head.summary.weight",
                                           "multiple_choice_head.summary.bias", NULL};
static const char *const gptneox_ignored[] = {".attention.bias", ".attention.masked_bias",
                                              ".rotary_emb.inv_freq", NULL};
/* What tells whether one sentence follows another is a head of its own, which nothing here runs. */
static const char *const bert_ignored[] = {"embeddings.position_ids", "cls.seq_relationship.weight",
                                           "cls.seq_relationship.bias", NULL};
static const char *const llama_ignored[] = {".rotary_emb.inv_freq", NULL};

/* What Llama and those that follow it have in common. */
#define LLAMA_PARTS                                                                                \
    .norm = PL_NORM_RMS, .norm_slot = {[PL_NORM_BEFORE] = true}, .norm_final = true,               \
    .positions = PL_POSITIONS_ROTARY, .rope_base = 10000.0f, .rope_half = true,                    \
    .activation = PL_ACT_SILU, .gated = true, .causal = true
#define GEMMA_PARTS                                                                                \
    .norm = PL_NORM_RMS, .norm_eps = 1e-6f,                                                        \
    .norm_slot = {[PL_NORM_BEFORE] = true, [PL_NORM_AFTER_SUBLAYER] = true}, .norm_final = true,   \
    .positions = PL_POSITIONS_ROTARY, .rope_half = true, .activation = PL_ACT_GELU_TANH,           \
    .gated = true, .causal = true, .tied = true, .embed_scale = PL_EMBED_SCALE_SQRT_WIDTH

#define BERT_PARTS                                                                                 \
    .norm = PL_NORM_LAYER, .norm_eps = 1e-12f, .norm_slot = {[PL_NORM_AFTER_ADD] = true},          \
    .norm_embed = true, .norm_final = true, .norm_bias = true, .positions = PL_POSITIONS_LEARNED,  \
    .activation = PL_ACT_GELU_ERF, .qkv_bias = true, .attn_out_bias = true, .mlp_bias = true,      \
    .tied = true, .unembed_dense = true, .unembed_bias = true

static const pl_family families[] = {
    {
        .name = "gpt2",
        .gguf = "gpt2",
        .model_type = "gpt2",
        .hf_class = "GPT2LMHeadModel",
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
        RULES(gpt2_rules),
        .ignored = gpt2_ignored,
        .hf_eps = "layer_norm_epsilon",
    },
    {
        .name = "openai-gpt",
        .model_type = "openai-gpt",
        .hf_class = "OpenAIGPTLMHeadModel",
        .hf_prefix = "transformer.",
        .config = {.norm = PL_NORM_LAYER,
                   .norm_eps = 1e-5f,
                   .norm_slot = {[PL_NORM_AFTER_ADD] = true},
                   .positions = PL_POSITIONS_LEARNED,
                   .activation = PL_ACT_GELU_TANH,
                   .qkv_bias = true,
                   .attn_out_bias = true,
                   .mlp_bias = true,
                   .norm_bias = true,
                   .causal = true,
                   .tied = true},
        RULES(gpt1_rules),
        .ignored = gpt1_ignored,
        .hf_gelu_tanh = true,
        .hf_eps = "layer_norm_epsilon",
    },
    {
        .name = "llama",
        .gguf = "llama",
        .model_type = "llama",
        .hf_class = "LlamaForCausalLM",
        .hf_prefix = "",
        .config = {LLAMA_PARTS},
        RULES(llama_rules),
        .ignored = llama_ignored,
        .hf_eps = "rms_norm_eps",
    },
    {
        .name = "mistral",
        .gguf = "llama",
        .model_type = "mistral",
        .hf_class = "MistralForCausalLM",
        .hf_prefix = "",
        .config = {LLAMA_PARTS},
        RULES(llama_rules),
        .ignored = llama_ignored,
        .windowed = true,
        .hf_eps = "rms_norm_eps",
    },
    {
        .name = "mixtral",
        .gguf = "llama",
        .model_type = "mixtral",
        .hf_class = "MixtralForCausalLM",
        .hf_prefix = "",
        .config = {LLAMA_PARTS, .norm_eps = 1e-5f, .n_experts = 8, .n_experts_used = 2},
        RULES(mixtral_rules),
        .ignored = llama_ignored,
        .experts = true,
        .windowed = true,
        .hf_eps = "rms_norm_eps",
    },
    {
        .name = "qwen2",
        .gguf = "qwen2",
        .model_type = "qwen2",
        .hf_class = "Qwen2ForCausalLM",
        .hf_prefix = "",
        .config = {LLAMA_PARTS, .norm_eps = 1e-6f, .qkv_bias = true},
        .gguf_rope_half = true,
        RULES(qwen2_rules),
        .ignored = llama_ignored,
        .windowed = true,
        .hf_eps = "rms_norm_eps",
    },
    {
        .name = "qwen3",
        .gguf = "qwen3",
        .model_type = "qwen3",
        .hf_class = "Qwen3ForCausalLM",
        .hf_prefix = "",
        .config = {LLAMA_PARTS, .norm_eps = 1e-6f, .qk_norm = PL_QK_NORM_HEAD},
        .gguf_rope_half = true,
        RULES(qwen3_rules),
        .ignored = llama_ignored,
        .windowed = true,
        .hf_eps = "rms_norm_eps",
    },
    {
        .name = "olmo2",
        .gguf = "olmo2",
        .model_type = "olmo2",
        .hf_class = "Olmo2ForCausalLM",
        .hf_prefix = "",
        .config = {.norm = PL_NORM_RMS,
                   .norm_eps = 1e-5f,
                   .norm_slot = {[PL_NORM_AFTER_SUBLAYER] = true},
                   .norm_final = true,
                   .positions = PL_POSITIONS_ROTARY,
                   .rope_base = 10000.0f,
                   .rope_half = true,
                   .activation = PL_ACT_SILU,
                   .gated = true,
                   .causal = true,
                   .qk_norm = PL_QK_NORM_WHOLE},
        .gguf_rope_half = true,
        RULES(olmo2_rules),
        .ignored = llama_ignored,
        .hf_eps = "rms_norm_eps",
    },
    {
        .name = "stablelm",
        .gguf = "stablelm",
        .model_type = "stablelm",
        .hf_class = "StableLmForCausalLM",
        .hf_prefix = "",
        .config = {.norm = PL_NORM_LAYER,
                   .norm_eps = 1e-5f,
                   .norm_slot = {[PL_NORM_BEFORE] = true},
                   .norm_final = true,
                   .norm_bias = true,
                   .positions = PL_POSITIONS_ROTARY,
                   .rope_base = 10000.0f,
                   .rope_half = true,
                   .activation = PL_ACT_SILU,
                   .gated = true,
                   .causal = true},
        .gguf_rope_half = true,
        RULES(stablelm_rules),
        .ignored = llama_ignored,
        .may_be_parallel = true,
        .parallel_shares_norm = true,
        .hf_eps = "layer_norm_eps",
        .hf_partial = "partial_rotary_factor",
        .hf_partial_default = 0.25f,
    },
    {
        .name = "phi3",
        .gguf = "phi3",
        .model_type = "phi3",
        .hf_class = "Phi3ForCausalLM",
        .hf_prefix = "",
        .config = {LLAMA_PARTS, .norm_eps = 1e-5f},
        .gguf_rope_half = true,
        RULES(phi3_rules),
        .ignored = llama_ignored,
        .windowed = true,
        .hf_eps = "rms_norm_eps",
        .hf_partial = "partial_rotary_factor",
    },
    {
        .name = "gptneox",
        .gguf = "gptneox",
        .model_type = "gpt_neox",
        .hf_class = "GPTNeoXForCausalLM",
        .hf_prefix = "",
        .config = {.norm = PL_NORM_LAYER,
                   .norm_eps = 1e-5f,
                   .norm_slot = {[PL_NORM_BEFORE] = true},
                   .norm_final = true,
                   .positions = PL_POSITIONS_ROTARY,
                   .rope_base = 10000.0f,
                   .rope_half = true,
                   .activation = PL_ACT_GELU_ERF,
                   .qkv_bias = true,
                   .attn_out_bias = true,
                   .mlp_bias = true,
                   .norm_bias = true,
                   .parallel = true,
                   .causal = true},
        .gguf_rope_half = true,
        RULES(gptneox_rules),
        .ignored = gptneox_ignored,
        .may_be_parallel = true,
        .hf_eps = "layer_norm_eps",
        .hf_partial = "rotary_pct",
        .hf_partial_default = 0.25f,
    },
    {
        .name = "gemma2",
        .gguf = "gemma2",
        .model_type = "gemma2",
        .hf_class = "Gemma2ForCausalLM",
        .hf_prefix = "",
        .config = {GEMMA_PARTS, .rope_base = 10000.0f, .attn_softcap = 50, .logit_softcap = 30,
                   .window = 4096, .window_period = 2},
        .gguf_rope_half = true,
        RULES(gemma2_rules),
        .ignored = llama_ignored,
        .windowed = true,
        .hf_gain_offset = 1,
        .hf_eps = "rms_norm_eps",
        .gguf_wide_scale_layers = 46,
    },
    {
        .name = "gemma3",
        .gguf = "gemma3",
        .model_type = "gemma3_text",
        .hf_class = "Gemma3ForCausalLM",
        .hf_prefix = "",
        .config = {GEMMA_PARTS, .rope_base = 1000000.0f, .rope_base_local = 10000.0f,
                   .qk_norm = PL_QK_NORM_HEAD, .window = 4096, .window_period = 6},
        .gguf_rope_half = true,
        RULES(gemma3_rules),
        .ignored = llama_ignored,
        .windowed = true,
        .hf_gain_offset = 1,
        .hf_eps = "rms_norm_eps",
        .gguf_wide_scale_layers = 62,
    },
    {
        .name = "bert",
        .gguf = "bert",
        .model_type = "bert",
        .hf_class = "BertForMaskedLM",
        .hf_encoder = "BertModel",
        .hf_prefix = "bert.",
        .config = {BERT_PARTS, .n_token_types = 2},
        RULES(bert_rules),
        .ignored = bert_ignored,
        .hf_eps = "layer_norm_eps",
    },
    {
        .name = "distilbert",
        .gguf = "bert",
        .model_type = "distilbert",
        .hf_class = "DistilBertForMaskedLM",
        .hf_encoder = "DistilBertModel",
        .hf_prefix = "distilbert.",
        .config = {BERT_PARTS},
        RULES(distilbert_rules),
        .ignored = bert_ignored,
        .hf_eps = "layer_norm_eps",
    },
};

static const char *const family_names[COUNT(families)] = {
    "gpt2",     "openai-gpt", "llama",   "mistral", "mixtral", "qwen2", "qwen3",     "olmo2",
    "stablelm", "phi3",       "gptneox", "gemma2",  "gemma3",  "bert",  "distilbert"};

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

const pl_family *pl_family_find_gguf(const char *gguf, bool experts, bool windowed) {
    const pl_family *first = NULL;
    for (size_t i = 0; i < COUNT(families); i++) {
        const pl_family *f = &families[i];
        if (!f->gguf || strcmp(gguf, f->gguf) != 0) continue;
        if (!first) first = f;
        if (f->experts == experts && (experts || f->windowed == windowed)) return f;
    }
    return first;
}

bool pl_place_in_head(pl_place place) {
    return place == PL_PLACE_UNEMBED_DENSE || place == PL_PLACE_NORM_FINAL ||
           place == PL_PLACE_UNEMBED || place == PL_PLACE_UNEMBED_BIAS;
}

float pl_family_attn_scale(const pl_family *family, const pl_config *c) {
    bool wide = family->gguf_wide_scale_layers && c->n_layers == family->gguf_wide_scale_layers;
    double width = wide ? (double)c->d_model / (double)c->n_heads : (double)c->d_head;
    return (float)(1.0 / sqrt(width));
}

void pl_tensor_rule_name(char *out, size_t size, const char *pattern, int64_t layer, int64_t expert,
                         const char *ending) {
    size_t used = 0;
    for (const char *at = pattern; *at && used + 1 < size;) {
        if (*at != '%') {
            out[used++] = *at++;
            continue;
        }
        long long number = at[1] == 'd' ? layer : expert;
        used += (size_t)snprintf(out + used, size - used, "%lld", number);
        at += 2;
    }
    if (used >= size) used = size - 1;
    snprintf(out + used, size - used, ".%s", ending);
}
