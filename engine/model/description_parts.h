/* What the two readers of descriptions share: the numbers and their names, and a few rules. */
#ifndef PL_MODEL_DESCRIPTION_PARTS_H
#define PL_MODEL_DESCRIPTION_PARTS_H

#include "description.h"

/* One number of a description, under its names. Hugging Face's families spell it differently: the
 * first name of the list that is there counts. */
typedef struct pl_number {
    size_t offset; /* in pl_config */
    bool whole, required;
    bool null_is_zero; /* else null leaves what the family says */
    const char *gguf;  /* after the family's name and a dot; NULL: not in GGUF */
    const char *hf[3]; /* NULL where there are no more */
} pl_number;

extern const pl_number pl_numbers[];
extern const size_t pl_n_numbers;

/* PL_ERR_FORMAT, with the name, for what is no number or should be a whole one. */
pl_status pl_number_set(pl_config *config, const pl_number *n, double value, const char *name,
                        pl_error *err);

/* Whether the family itself has a value for what files usually say. */
bool pl_number_has_default(const pl_config *config, const pl_number *n);

/* PL_ERR_UNSUPPORTED, naming what is near. files: "GGUF". */
pl_status pl_unknown_family(const pl_families *set, const char *name, const char *files,
                            pl_error *err);

/* A description without what makes logits; loading puts it back where the file has it. */
void pl_drop_head(pl_config *config);

/* Takes a layer into the pattern of one full layer, without a window, in *period; 0: none yet.
 * PL_ERR_UNSUPPORTED where it breaks it. what: the list, for messages. */
pl_status pl_take_layer(int64_t *period, int64_t layer, bool full, const char *what, pl_error *err);

#endif
