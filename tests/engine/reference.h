/* A plain transformer in float64: naive loops over the published formulas, the measure that the
 * engine is held to. It shares with the engine the description (config.h), the names of the points
 * (hooks.h) and the decoding of quantised blocks, which other tests hold to reference values.
 *
 *     reference *r;
 *     reference_new(&r, model, &err);
 *     reference_forward(r, logits, tokens, n, NULL, NULL, &err);
 *     reference_free(r);
 */
#ifndef REFERENCE_H
#define REFERENCE_H

#include "../../engine/model/hooks.h"
#include "../../engine/model/model.h"

typedef struct reference_linear {
    double *w; /* [n_out, n_in] */
    double *b; /* [n_out], or NULL */
} reference_linear;

typedef struct reference_norm {
    double *gain; /* [d_model] */
    double *bias; /* [d_model], or NULL */
} reference_norm;

typedef struct reference_expert {
    reference_linear gate, in, out;
} reference_expert;

typedef struct reference_block {
    reference_norm norm[PL_N_SUBLAYERS][PL_N_NORM_SLOTS], q_norm, k_norm;
    reference_linear q, k, v, o, gate, in, out, router;
    reference_expert *experts; /* [n_experts] */
} reference_block;

typedef struct reference {
    pl_config config;
    double *embed;              /* [d_vocab, d_model] */
    double *positions;          /* [n_ctx, d_model], or NULL */
    double *token_types;        /* [n_token_types, d_model], or NULL */
    double *rope_factors;       /* [rope_dims / 2], or NULL */
    double *rope_factors_short; /* the same */
    bool long_context;          /* the first of the two, where there are both */
    reference_norm norm_embed, norm_final;
    reference_linear unembed_dense, unembed, pooler; /* [d_vocab or d_model, d_model] */
    reference_block *blocks;                         /* [n_layers] */
    pl_arena memory;
    const int32_t *types; /* of the tokens of each pass to come, NULL: all 0; the caller's */
} reference;

/* Copies a model's weights, widened to float64 and out of any transposed layout. */
pl_status reference_new(reference **r, const pl_model *model, pl_error *err);
void reference_free(reference *r);

/* Sees each activation where the engine's hook of the same point would, and may change it.
 *   values  row-major, of the point's shape (hooks.h) with all n positions as one sequence */
typedef void (*reference_watch)(void *context, pl_point point, int layer, double *values,
                                int n_dims, const int64_t *shape);

/* A pass over one sequence from position 0 on.
 *   logits  [n, d_vocab]; of a headless model: what the last block leaves, [n, d_model]
 *   tokens  [n], ids in range, n at most n_ctx where positions are learned */
pl_status reference_forward(const reference *r, double *logits, const int32_t *tokens, int64_t n,
                            reference_watch watch, void *context, pl_error *err);

#endif
