/* The two ends of making a model; in between its weights are filled, from a file or at random. */
#ifndef PL_MODEL_BUILD_H
#define PL_MODEL_BUILD_H

#include "model.h"

/* A model with the checked description, empty weights and one owner. */
pl_status pl_model_begin(pl_model **model, const pl_config *config, pl_error *err);

/* Once every weight stands: ties the unembedding, works out sizes and rotary frequencies. */
pl_status pl_model_finish(pl_model *model, pl_error *err);

/* Works out rope_frequencies from the description and the tables of factors. */
pl_status pl_model_make_frequencies(pl_model *model, pl_error *err);

/* A model of that description, which may differ from the source's, with weights that `fill` makes
 * of the source's. It has the source's tokenizer, name and family, and holds it. */
typedef pl_status (*pl_fill_fn)(pl_model *model, void *context, pl_error *err);
pl_status pl_model_new_copy(pl_model **model, pl_model *source, const pl_config *config,
                            pl_fill_fn fill, void *context, pl_error *err);

#endif
