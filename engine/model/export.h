/* Writing a model: as a GGUF file, or as a folder in Hugging Face's layout.
 *
 *     pl_model_save(model, "model.gguf", NULL, &err);
 *     pl_save_options options = {.format = PL_SAVE_SAFETENSORS, .cast = true, .dtype = PL_F16};
 *     pl_model_save(model, "folder", &options, &err);
 *
 * What is written, loaded again, computes the same: a description that the family's files cannot
 * express is refused, with the part that they lack. Tensors are written one at a time; the model is
 * never held twice. A file appears complete or not at all. */
#ifndef PL_MODEL_EXPORT_H
#define PL_MODEL_EXPORT_H

#include "model.h"

typedef enum pl_save_format {
    PL_SAVE_BY_NAME, /* GGUF where the path ends in .gguf, else a folder */
    PL_SAVE_GGUF,
    PL_SAVE_SAFETENSORS
} pl_save_format;

typedef struct pl_save_options {
    pl_save_format format;
    bool cast;      /* matrices become `dtype`, else they keep the type they have */
    pl_dtype dtype; /* PL_F32, PL_F16 or PL_BF16 */
    bool without_tokenizer;
    const char *name; /* general.name; NULL: the model's */
} pl_save_options;

/* options NULL: by name, types kept. Vectors are written as float32 in GGUF, in the matrices' type
 * in safetensors.
 * Errors: PL_ERR_UNSUPPORTED (what the format cannot hold: a part of the description, a quantised
 * type in safetensors, a tokenizer), PL_ERR_ARGUMENT (a dtype that cannot be cast to; a
 * folder that holds files of another model), PL_ERR_IO.
 */
pl_status pl_model_save(const pl_model *model, const char *path, const pl_save_options *options,
                        pl_error *err);

#endif
