/* What a model is, as data: sizes, and which parts the diagram of a transformer has.
 *
 * A block, with the norm slots that a description may fill (an empty slot is the identity):
 *
 *     resid_pre ─┬─ [before] ─ attention ─ [after sublayer] ─ + ─ resid_mid ─ [after add] ─┐
 *                └────────────────────────────────────────────┘                            │
 *     ┌────────────────────────────────────────────────────────────────────────────────────┘
 *     └──────────┬─ [before] ─ mlp ─────── [after sublayer] ─ + ─ resid_post ─ [after add] ─
 *                └────────────────────────────────────────────┘
 *
 * parallel: the mlp reads resid_pre too, and both results are added at once.
 * GPT-2, Llama fill `before`; GPT-1 and BERT fill `after add`. */
#ifndef PL_MODEL_CONFIG_H
#define PL_MODEL_CONFIG_H

#include "../kernels/kernels.h"

typedef enum pl_norm_kind { PL_NORM_LAYER, PL_NORM_RMS } pl_norm_kind;
typedef enum pl_position_kind {
    PL_POSITIONS_NONE,
    PL_POSITIONS_LEARNED, /* W_pos is added to the embedding */
    PL_POSITIONS_ROTARY   /* queries and keys are rotated */
} pl_position_kind;

/* Where norms can stand; one of each per sublayer. */
typedef enum pl_norm_slot {
    PL_NORM_BEFORE,
    PL_NORM_AFTER_SUBLAYER,
    PL_NORM_AFTER_ADD,
    PL_N_NORM_SLOTS
} pl_norm_slot;

enum { PL_ARCH_NAME = 32 };

typedef struct pl_config {
    char arch[PL_ARCH_NAME]; /* the family's name, as in GGUF: "gpt2", "llama" */

    int64_t d_model, d_mlp, d_head, d_vocab; /* widths */
    int64_t n_layers, n_heads, n_kv_heads;   /* n_kv_heads divides n_heads */
    int64_t n_ctx;                           /* positions that the model was trained for */

    pl_norm_kind norm;
    float norm_eps;
    bool norm_slot[PL_N_NORM_SLOTS]; /* which slots every block fills, both sublayers alike */
    bool norm_embed, norm_final;     /* after the embedding; before the unembedding */

    pl_position_kind positions;
    int64_t rope_dims; /* how many of d_head are rotated; even */
    float rope_base;
    bool rope_half; /* pairs (i, i + rope_dims / 2), as Hugging Face; else (2i, 2i + 1) */

    pl_activation activation;
    bool qkv_bias, attn_out_bias, mlp_bias, norm_bias; /* which maps add a bias */
    bool gated;       /* mlp: activation(x W_gate) * (x W_in), then W_out */
    bool parallel;    /* attention and mlp read the same residual */
    bool causal;      /* a position sees itself and those before it, else all of its call */
    bool tied;        /* the unembedding is W_E */
    float attn_scale; /* multiplies q.k; 1 / sqrt(d_head) unless the family says otherwise */
} pl_config;

/* GPT-2's or Llama's parts with no sizes set, by the family's name: where a description starts.
 * Errors: PL_ERR_ARGUMENT for an unknown family, naming the nearest and listing all. */
pl_status pl_config_init(pl_config *config, const char *arch, pl_error *err);

/* Whether all fields are in range and fit one another; fills what is derived when 0: d_head,
 * n_kv_heads, rope_dims, attn_scale, d_mlp (4 d_model). PL_ERR_ARGUMENT names field and value. */
pl_status pl_config_check(pl_config *config, pl_error *err);

/* The names of all families known, for messages; returns how many there are. */
size_t pl_config_families(const char *const **names);

#endif
