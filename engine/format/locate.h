/* From what a user names to the files of a model. */
#ifndef PL_FORMAT_LOCATE_H
#define PL_FORMAT_LOCATE_H

#include "../perilune.h"

enum { PL_PATH_MAX = 4096 };

typedef struct pl_model_files {
    char weights[PL_PATH_MAX]; /* a .gguf, .safetensors or index file */
    char folder[PL_PATH_MAX];  /* where config.json and the tokenizer's files lie */
} pl_model_files;

/* name: a .gguf or .safetensors file, a folder in Hugging Face's layout (or with one .gguf file),
 * or a hub id ORG/NAME that lies in the cache: $HF_HUB_CACHE, $HF_HOME/hub or
 * ~/.cache/huggingface/hub, models--ORG--NAME/snapshots, the one that refs/main names or else the
 * newest. Errors: PL_ERR_IO, which says what was looked for and where. */
pl_status pl_locate_model(pl_model_files *files, const char *name, pl_error *err);

#endif
