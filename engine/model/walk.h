/* A walk over every tensor that a description calls for, in the order of the diagram. Loading,
 * making random weights, counting and exporting all take this walk. */
#ifndef PL_MODEL_WALK_H
#define PL_MODEL_WALK_H

#include "model.h"

typedef enum pl_role { PL_ROLE_MATRIX, PL_ROLE_GAIN, PL_ROLE_BIAS } pl_role;

typedef struct pl_stop {
    pl_tensor *tensor; /* its place in the weights */
    bool *transposed;  /* of a matrix's pl_linear, or NULL */
    pl_role role;
    char name[64]; /* in GGUF's words: "blk.3.attn_q.weight" */
    int n_dims;
    int64_t shape[2]; /* as the description has it: [n_out, n_in] or [width] */
} pl_stop;

typedef pl_status (*pl_walk_fn)(void *context, const pl_stop *stop, pl_error *err);

/* Calls visit for every tensor; weights->blocks has config->n_layers entries. The tied unembedding
 * is no stop of its own. Another status than PL_OK stops the walk and is returned. */
pl_status pl_walk_weights(const pl_config *config, pl_weights *weights, pl_walk_fn visit,
                          void *context, pl_error *err);

#endif
