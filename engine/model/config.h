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
 * After the blocks: [dense, activation] - [norm final] - unembedding - [+ b_U]; a headless model
 * ends with the blocks.
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

/* How rotations are slowed down for contexts longer than those of training. */
typedef enum pl_rope_scaling {
    PL_ROPE_UNSCALED,
    PL_ROPE_LINEAR, /* every frequency divided by rope_factor */
    PL_ROPE_LLAMA3, /* slow frequencies only, with a smooth passage to the fast ones */
    PL_ROPE_TABLE,  /* each frequency divided by its entry of the weight rope_factors */
    PL_ROPE_YARN,   /* by how often a pair turns in the old context, with warmer scores */
    PL_ROPE_LONG    /* two tables: rope_factors past rope_original_ctx, else rope_factors_short */
} pl_rope_scaling;

/* Norms of queries and keys, before they are rotated. */
typedef enum pl_qk_norm {
    PL_QK_NORM_NONE,
    PL_QK_NORM_HEAD, /* each head by itself, with gains that all heads share */
    PL_QK_NORM_WHOLE /* all heads as one row */
} pl_qk_norm;

/* What an encoder's vector of a text is made of: no part of the pass. */
typedef enum pl_pooling {
    PL_POOLING_MEAN, /* of all positions */
    PL_POOLING_CLS,  /* the first position's */
    PL_POOLING_OTHER /* something that is not known here */
} pl_pooling;

enum { PL_ARCH_NAME = 32 };

/* An embed_scale that stands for sqrt(d_model) until the description is checked. */
#define PL_EMBED_SCALE_SQRT_WIDTH (-1.0f)

typedef struct pl_config {
    char arch[PL_ARCH_NAME]; /* the family's name: "gpt2", "llama" */

    int64_t d_model, d_mlp, d_head, d_vocab; /* widths */
    int64_t n_layers, n_heads, n_kv_heads;   /* n_kv_heads divides n_heads */
    int64_t n_ctx;                           /* positions that the model was trained for */
    int64_t n_token_types;                   /* kinds of texts in one, embedded too; 0: none */

    pl_norm_kind norm;
    float norm_eps;
    bool norm_slot[PL_N_NORM_SLOTS]; /* which slots every block fills, both sublayers alike */
    bool norm_embed, norm_final;     /* after the embedding; before the unembedding */

    pl_position_kind positions;
    int64_t rope_dims; /* how many of d_head are rotated; even */
    float rope_base;
    bool rope_half;        /* pairs (i, i + rope_dims / 2), as Hugging Face; else (2i, 2i + 1) */
    float rope_base_local; /* of layers with a window, which are not scaled; 0: as all others */
    pl_rope_scaling rope_scaling;
    float rope_factor;           /* linear, llama3, yarn */
    float rope_low_freq_factor;  /* llama3: waves longer than original_ctx / low */
    float rope_high_freq_factor; /* are slowed, those shorter than / high are not */
    int64_t rope_original_ctx;   /* llama3, yarn, long: positions before scaling */
    float rope_beta_fast;        /* yarn: pairs that turn more often are kept; 32 */
    float rope_beta_slow;        /* yarn: those that turn less often are divided; 1 */
    float rope_attn_factor;      /* yarn, long: multiplies rotated queries and keys */

    pl_activation activation;
    bool qkv_bias, attn_out_bias, mlp_bias, norm_bias; /* which maps add a bias */
    bool gated;         /* mlp: activation(x W_gate) * (x W_in), then W_out */
    bool parallel;      /* attention and mlp read the same residual */
    bool causal;        /* a position sees itself and those before it, else all of its call */
    bool shared_norm;   /* parallel blocks: the mlp reads attention's norm before */
    bool tied;          /* the unembedding is W_E */
    bool unembed_bias;  /* the unembedding adds one */
    bool unembed_dense; /* a map [d_model, d_model] with bias and activation before norm_final */
    bool headless;      /* no unembedding and nothing before it: no logits */
    pl_pooling pooling;
    bool pooler; /* a map [d_model, d_model] with bias for the first position's tanh; no part of
                    the pass */
    float attn_scale; /* multiplies q.k; 1 / sqrt(d_head) unless the family says otherwise */
    pl_qk_norm qk_norm;

    int64_t window;        /* a position sees this many keys, itself among them; 0: all */
    int64_t window_period; /* every window_period-th layer sees all keys; 0: none does */

    float embed_scale;   /* multiplies the embedding; 1 */
    float attn_softcap;  /* scores are cap * tanh(score / cap); 0: as they are */
    float logit_softcap; /* the same for logits */

    int64_t n_experts;      /* mlps of which a router chooses for each position; 0: one mlp */
    int64_t n_experts_used; /* chosen for each position, weighted by their shares of softmax */
} pl_config;

/* Whether a layer's attention is limited to the window. */
bool pl_config_windowed(const pl_config *config, int64_t layer);

/* Positions of a sequence unless a session asks for others: n_ctx, or what was before the scaling
 * where longer contexts have rotations of their own. */
int64_t pl_config_default_ctx(const pl_config *config);

/* Files order the rotated pairs of a head in two ways, as rope_half tells. Which row of queries or
 * keys, in the model's order, is this row of a file in the other. */
int64_t pl_config_other_row(const pl_config *config, int64_t row);

/* GPT-2's or Llama's parts with no sizes set, by the family's name: where a description starts.
 * Errors: PL_ERR_ARGUMENT for an unknown family, naming the nearest and listing all. */
pl_status pl_config_init(pl_config *config, const char *arch, pl_error *err);

/* Whether all fields are in range and fit one another; fills what is derived when 0: d_head,
 * n_kv_heads, rope_dims, attn_scale, d_mlp (4 d_model). PL_ERR_ARGUMENT names field and value. */
pl_status pl_config_check(pl_config *config, pl_error *err);

/* The names of all families known, for messages; returns how many there are. */
size_t pl_config_families(const char *const **names);

#endif
