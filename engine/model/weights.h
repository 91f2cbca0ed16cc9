/* The weights of a model under the names of the diagram.
 *
 * Views only: the model owns or maps the memory. A tensor whose data is NULL is absent. */
#ifndef PL_MODEL_WEIGHTS_H
#define PL_MODEL_WEIGHTS_H

#include "../tensor/layers.h"
#include "config.h"

typedef enum pl_sublayer { PL_ATTENTION, PL_MLP, PL_N_SUBLAYERS } pl_sublayer;

typedef struct pl_expert_weights {
    pl_linear gate, in, out; /* as those of a block */
} pl_expert_weights;

typedef struct pl_block_weights {
    pl_norm_weights norm[PL_N_SUBLAYERS][PL_N_NORM_SLOTS];
    pl_linear q; /* [n_heads * d_head, d_model]; may be a view into a fused matrix, as k and v */
    pl_linear k; /* [n_kv_heads * d_head, d_model] */
    pl_linear v; /* [n_kv_heads * d_head, d_model] */
    pl_linear o; /* [d_model, n_heads * d_head] */
    pl_norm_weights q_norm, k_norm; /* [d_head], or [heads * d_head]: as qk_norm says */
    pl_linear gate;                 /* [d_mlp, d_model], gated models only */
    pl_linear in;                   /* [d_mlp, d_model] */
    pl_linear out;                  /* [d_model, d_mlp] */
    pl_linear router;               /* [n_experts, d_model], models with experts only */
    pl_expert_weights *experts;     /* [n_experts], in place of gate, in and out */
} pl_block_weights;

typedef struct pl_weights {
    pl_tensor embed;              /* W_E [d_vocab, d_model] */
    pl_tensor positions;          /* W_pos [n_ctx, d_model], learned positions only */
    pl_tensor token_types;        /* [n_token_types, d_model], where there are such */
    pl_tensor rope_factors;       /* [rope_dims / 2], PL_ROPE_TABLE and PL_ROPE_LONG only */
    pl_tensor rope_factors_short; /* [rope_dims / 2], PL_ROPE_LONG only */
    pl_norm_weights norm_embed, norm_final;
    pl_linear unembed_dense; /* [d_model, d_model], where there is one, as pooler */
    pl_linear unembed;       /* [d_vocab, d_model]; W_E itself when tied */
    pl_linear pooler;
    pl_block_weights *blocks; /* [n_layers] */
} pl_weights;

#endif
