/* A model: its description, weights and tokenizer. Immutable once loaded, mapped from its file,
 * shared by any number of sessions and threads. */
#ifndef PL_MODEL_MODEL_H
#define PL_MODEL_MODEL_H

#include "../text/tokenizer.h"
#include "registry.h"
#include "weights.h"

/* One named weight, for inspection and export. */
typedef struct pl_named_weight {
    char name[64];    /* GGUF's name: "blk.3.attn_q.weight" */
    pl_tensor tensor; /* [n_out, n_in]; a transposed matrix is shown with swapped strides */
} pl_named_weight;

struct pl_model {
    pl_config config;
    pl_weights weights;
    pl_tokenizer *tokenizer;  /* NULL when the file has none */
    char *path;               /* where it came from, NULL for a random one */
    char *name;               /* general.name, the directory's name, or the family's */
    size_t weight_bytes;      /* of all weights, each tensor once */
    double *rope_frequencies; /* [3, rope_dims / 2], radians per position: layers without and
                                 with a window, and of PL_ROPE_LONG those of short contexts */
    void *file;               /* the weights file that the views point into, or NULL */
    pl_arena memory;          /* owned weights: random ones, and vectors widened to float32 */
    pl_model *source;         /* of a copy: the model whose tokenizer it shares, or NULL */
    bool writable;            /* its weights are its own, see pl_model_set_weight */
    pl_families *families;    /* held, with `family` in it: of a model of a family that was added */
    const pl_family *family;  /* whose files it can be saved as; NULL: config.arch names it */
    bool fetched;             /* its weights are ready to be read, see pl_model_fetch */
    int refs;                 /* sessions hold the model too */
};

/* As pl_model_load, for the families of a set too, which the model then holds. */
pl_status pl_model_load_with(pl_model **model, const char *name, pl_families *families,
                             pl_error *err);

/* The family of a model, which may be one of a set; NULL: it is not known. */
const pl_family *pl_model_family(const pl_model *model);
/* Makes the family of that name in a set the model's own; does nothing for a built-in one. */
void pl_model_adopt_family(pl_model *model, pl_families *families);

/* A model with random weights (normal-like, standard deviation `std`, gains near 1) of the given
 * type; quantised types get random blocks of that scale. config is checked and completed. */
pl_status pl_model_new_random(pl_model **model, const pl_config *config, pl_dtype dtype,
                              uint64_t seed, float std, pl_error *err);

/* One pass over fresh sequences, all tokens of each from position 0, whose gradients are recorded:
 * hooks see activations that may require grad, logits [rows that want them, d_vocab] are owned by
 * the caller and hold the record. The sequences stay empty; `logits` of items is not used.
 * Activations and weights are float32 or met in float32 (precision exact), and keys and values
 * are the pass's own. */
pl_status pl_session_record(pl_session *session, const pl_extension *items, size_t n_items,
                            pl_tensor *logits, pl_error *err);

/* Number of distinct weight tensors, and the i-th of them. */
size_t pl_model_n_weights(const pl_model *model);
void pl_model_weight(const pl_model *model, size_t i, pl_named_weight *out);

/* Makes the weights of a mapped file ready to be read, unless they fill half of the memory.
 * Later calls do nothing. */
void pl_model_fetch(pl_model *model);

/* The first weight that holds NaN or infinity, described in text ("blk.0.attn_q.weight [3, 7] is
 * nan"); false when all are finite. Reads every weight. */
bool pl_model_find_bad_weight(const pl_model *model, char *text, size_t text_size);

#endif
