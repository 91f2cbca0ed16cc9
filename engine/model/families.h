/* The families of models: for each a description and the names of its tensors. Adding a family
 * adds a table here and nothing elsewhere. */
#ifndef PL_MODEL_FAMILIES_H
#define PL_MODEL_FAMILIES_H

#include "config.h"

/* The places of pl_weights that a tensor can fill. */
typedef enum pl_place {
    PL_PLACE_EMBED,
    PL_PLACE_POSITIONS,
    PL_PLACE_NORM_EMBED,
    PL_PLACE_NORM_FINAL,
    PL_PLACE_UNEMBED,
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
} pl_place;

typedef enum pl_bias { PL_BIAS_NEVER, PL_BIAS_OPTIONAL, PL_BIAS_ALWAYS } pl_bias;

/* One tensor, or one per block where the names hold a %d for the layer; ".weight" and ".bias" are
 * appended. */
typedef struct pl_tensor_rule {
    pl_place place;
    const char *gguf, *hf;
    pl_bias bias;
    bool conv1d;       /* Hugging Face stores it as [n_in, n_out] */
    pl_norm_slot slot; /* for norms */
} pl_tensor_rule;

typedef struct pl_family {
    const char *name;       /* general.architecture in GGUF */
    const char *model_type; /* in Hugging Face's config.json */
    const char *hf_prefix;  /* that some Hugging Face files put before every name, "" for none */
    pl_config config;       /* parts set, sizes 0 */
    bool gguf_rope_half;    /* the order of rotated pairs in GGUF; Hugging Face's is half */
    const pl_tensor_rule *rules;
    size_t n_rules;
    const char *const *ignored; /* endings of tensors that carry nothing; NULL at the end */
} pl_family;

/* NULL when there is none. */
const pl_family *pl_family_find(const char *name);
const pl_family *pl_family_find_model_type(const char *model_type);

#endif
