/* From a file's tensors to the weights of the diagram. */
#ifndef PL_MODEL_LOAD_H
#define PL_MODEL_LOAD_H

#include "model.h"

/* Closes the file that a model's weights are views of, if there is one. */
void pl_model_close_file(pl_model *model);

#endif
