/* What tensors a file of a model's family has, and how each comes from the model's weights. */
#ifndef PL_MODEL_EXPORT_PLAN_H
#define PL_MODEL_EXPORT_PLAN_H

#include "../format/json.h"
#include "model.h"
#include "families.h"

/* Rows of one weight: [n_rows, width], a vector as rows of width 1. */
typedef struct pl_export_part {
    const pl_tensor *t;
    bool transposed; /* stored as [width, n_rows] */
    int64_t n_rows;
    int64_t n_heads; /* rows change places within each rotated head; 0: they stay */
} pl_export_part;

typedef struct pl_export_item {
    const struct pl_export_plan *plan;
    char name[160];
    pl_place place;
    int64_t layer;         /* -1 outside of the blocks */
    pl_tensor announced;   /* dtype and shape of what is written; data NULL */
    pl_export_part *parts; /* [n_parts] */
    int64_t n_parts;
    bool conv1d;  /* written as [width, n_rows] */
    bool by_head; /* the parts' heads take turns */
    bool stacked; /* written as [n_parts, n_rows, width] */
    float offset; /* taken from every element */
} pl_export_item;

typedef struct pl_export_plan {
    const pl_model *model;
    const pl_family *family;
    const pl_kernels *kernels;
    bool gguf;
    pl_tensor rope_factors; /* of a scaling that GGUF has as a table, or the model's own */
    bool owns_factors;
    bool reorder; /* queries and keys change between the two orders of rotated pairs */
    pl_save_options options;
    pl_export_item *items; /* [n] */
    size_t n, capacity;
} pl_export_plan;

/* The plan keeps pointing at the model. Errors as pl_model_save. */
pl_status pl_export_plan_init(pl_export_plan *plan, const pl_model *model,
                              const pl_save_options *options, bool gguf, pl_error *err);
void pl_export_plan_clear(pl_export_plan *plan);

/* The type of a matrix of rows of that width in the file; now: what the model has. */
pl_dtype pl_export_dtype(const pl_export_item *item, pl_dtype now, int64_t width);

/* Whether the weight can be written as it lies, without being made. */
bool pl_export_as_is(const pl_export_item *item);

/* Makes the item's tensor, owned. context: the item. */
pl_status pl_export_make(void *context, pl_tensor *t, pl_error *err);

/* config.json; NULL: no memory. */
json_t *pl_export_config(const pl_export_plan *plan);

/* The folder's files but for the weights: config.json and the tokenizer's (NULL: it has none).
 * PL_ERR_ARGUMENT when the folder holds files of another model that would be taken for its own. */
pl_status pl_export_config_json(const pl_export_plan *plan, const char *folder, pl_error *err);
pl_status pl_export_tokenizer_files(const pl_tokenizer *tokenizer, const char *folder,
                                    pl_error *err);

/* The tokenizer.json of a SentencePiece BPE vocabulary; NULL when memory is short or a piece is no
 * UTF-8. scores: [n_tokens]. space_prefix: a space is put before the text. */
json_t *pl_export_spm_json(const pl_tokenizer *tokenizer, const float *scores, bool space_prefix);

#endif
