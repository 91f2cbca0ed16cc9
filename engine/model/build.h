/* The two ends of making a model; in between its weights are filled, from a file or at random. */
#ifndef PL_MODEL_BUILD_H
#define PL_MODEL_BUILD_H

#include "model.h"

/* A model with the checked description, empty weights and one owner. */
pl_status pl_model_begin(pl_model **model, const pl_config *config, pl_error *err);

/* Once every weight stands: ties the unembedding, works out sizes and rotary frequencies. */
pl_status pl_model_finish(pl_model *model, pl_error *err);

#endif
