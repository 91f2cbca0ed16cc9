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
    pl_dtype dtype; /* a float type, or in GGUF a quantised one: see below */
    bool mixed;     /* with PL_Q4_K, PL_Q5_K: llama.cpp's mixes Q4_K_M, Q5_K_M */
    /* The importance [n_in] of what meets the matrix of that name in the file, for quantising it;
     * NULL where it is not known. NULL: none is. */
    const float *(*importance)(void *context, const char *name, int64_t n_in);
    void *importance_context;
    bool without_tokenizer;
    const char *name; /* general.name; NULL: the model's */
} pl_save_options;

/* Quantised types are for matrices; vectors and learned positions stay float32, the matrix that
 * makes logits becomes Q6_K (Q8_0 in Q8_0), and rows that no block divides get a type that fits.
 * options NULL: by name, types kept. Vectors are written as float32 in GGUF, in the matrices' type
 * in safetensors.
 * Errors: PL_ERR_UNSUPPORTED (what the format cannot hold: a part of the description, a quantised
 * type in safetensors, a tokenizer), PL_ERR_ARGUMENT (a dtype that cannot be cast to; a
 * folder that holds files of another model), PL_ERR_IO.
 */
pl_status pl_model_save(const pl_model *model, const char *path, const pl_save_options *options,
                        pl_error *err);

#endif
