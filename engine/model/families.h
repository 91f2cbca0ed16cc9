/* The families of models: for each a description and the names of its tensors. Adding a family
 * adds a table here and nothing elsewhere. */
#ifndef PL_MODEL_FAMILIES_H
#define PL_MODEL_FAMILIES_H

#include "config.h"

/* The places of pl_weights that a tensor can fill. */
typedef enum pl_place {
    PL_PLACE_EMBED,
    PL_PLACE_POSITIONS,
    PL_PLACE_TOKEN_TYPES,
    PL_PLACE_NORM_EMBED,
    PL_PLACE_NORM_FINAL,
    PL_PLACE_UNEMBED_DENSE,
    PL_PLACE_UNEMBED,
    PL_PLACE_UNEMBED_BIAS,   /* where it has a name of its own */
    PL_PLACE_POOLER,         /* optional */
    PL_PLACE_NORM_ATTENTION, /* which slot: the rule's */
    PL_PLACE_NORM_MLP,
    PL_PLACE_QKV, /* queries, keys and values in one matrix */
    PL_PLACE_Q,
    PL_PLACE_K,
    PL_PLACE_V,
    PL_PLACE_O,
    PL_PLACE_GATE,
    PL_PLACE_IN,
    PL_PLACE_OUT,
    PL_PLACE_GATE_IN, /* gate and in, in one matrix */
    PL_PLACE_Q_NORM,
    PL_PLACE_K_NORM,
    PL_PLACE_ROUTER,
    PL_PLACE_EXPERT_GATE, /* of every expert */
    PL_PLACE_EXPERT_IN,
    PL_PLACE_EXPERT_OUT,
    PL_PLACE_ROPE_FACTORS,       /* optional, GGUF only; as the next two */
    PL_PLACE_ROPE_FACTORS_LONG,  /* the same, of PL_ROPE_LONG */
    PL_PLACE_ROPE_FACTORS_SHORT, /* likewise */
    PL_N_PLACES
} pl_place;

typedef enum pl_bias { PL_BIAS_NEVER, PL_BIAS_OPTIONAL, PL_BIAS_ALWAYS } pl_bias;

/* One tensor, or one per block where the names hold a %d for the layer, and one per expert where
 * they hold a %e; ".weight" and ".bias" are appended. */
typedef struct pl_tensor_rule {
    pl_place place;
    const char *gguf, *hf; /* NULL: not in such files */
    pl_bias bias;
    bool conv1d;        /* Hugging Face stores it as [n_in, n_out] */
    pl_norm_slot slot;  /* for norms */
    bool by_head;       /* Hugging Face stores queries, keys and values of a head together */
    const char *merged; /* GGUF's name of a tensor of all experts, [n_experts, n_out, n_in] */
} pl_tensor_rule;

/* The name of a rule's tensor; -1: no layer, no expert. */
void pl_tensor_rule_name(char *out, size_t size, const char *pattern, int64_t layer, int64_t expert,
                         const char *ending);

/* A number of the description, and what config.json calls it where that is unusual. */
typedef struct pl_size_name {
    size_t offset; /* in pl_config */
    const char *key;
} pl_size_name;

typedef struct pl_family {
    const char *name;       /* "mistral" */
    const char *gguf;       /* general.architecture in GGUF: "llama"; NULL: no such files */
    const char *model_type; /* in Hugging Face's config.json */
    const char *hf_class;   /* "architectures" there */
    const char *hf_encoder; /* the same without what makes logits, NULL: they always have it */
    const char *hf_prefix;  /* that some Hugging Face files put before every name, "" for none */
    pl_config config;       /* parts set, sizes 0 */
    bool gguf_rope_half;    /* the order of rotated pairs in GGUF; Hugging Face's is half */
    const pl_tensor_rule *rules;
    size_t n_rules;
    const char *const *ignored; /* endings of tensors that carry nothing; NULL at the end */
    bool experts, windowed;     /* has experts; may have a window */
    bool may_be_parallel;       /* its files say whether blocks are parallel */
    bool parallel_shares_norm;  /* and if they are, whether there is one norm */
    bool hf_gelu_tanh;          /* "gelu" in config.json is the one by tanh */
    float hf_gain_offset;       /* what Hugging Face's files leave to be added to every gain */
    float hf_partial_default;   /* where config.json leaves hf_partial out; 0: 1 */
    const char *hf_eps;         /* norm_eps in config.json */
    const char *hf_partial;     /* rope_dims / d_head there, NULL: all of a head is rotated */
    /* A size whose queries are scaled by d_model / n_heads instead of d_head, which GGUF leaves
     * unsaid: its n_layers, or 0. */
    int64_t gguf_wide_scale_layers;
    const pl_size_name *sizes; /* read before the usual names */
    size_t n_sizes;
    bool added; /* while the program runs, see registry.h: gguf, model_type may be NULL */
} pl_family;

/* Whether a place belongs to what makes logits. */
bool pl_place_in_head(pl_place place);

/* NULL when there is none. */
const pl_family *pl_family_find(const char *name);
const pl_family *pl_family_find_model_type(const char *model_type);
/* Several families may share a name in GGUF: the one with these parts, else the first. */
const pl_family *pl_family_find_gguf(const char *gguf, bool experts, bool windowed);

/* The scale that the family gives scores, by the sizes of a description: 1 / sqrt of ... */
float pl_family_attn_scale(const pl_family *family, const pl_config *config);

#endif
