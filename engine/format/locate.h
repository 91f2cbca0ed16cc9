/* From what a user names to the files of a model. */
#ifndef PL_FORMAT_LOCATE_H
#define PL_FORMAT_LOCATE_H

#include <stdbool.h>

#include "../perilune.h"

enum { PL_PATH_MAX = 4096 };

typedef struct pl_model_files {
    char weights[PL_PATH_MAX]; /* a .gguf, .safetensors, index or shapes file */
    char folder[PL_PATH_MAX];  /* where config.json and the tokenizer's files lie */
} pl_model_files;

/* name: a .gguf or .safetensors file; a folder in Hugging Face's layout, or with one model in it
 * (one .gguf file, else one in safetensors, else GPT-1 as OpenAI published it); or a hub id,
 * ORG/NAME or NAME, that lies in the cache: $HF_HUB_CACHE, $HF_HOME/hub,
 * $XDG_CACHE_HOME/huggingface/hub or ~/.cache/huggingface/hub, models--ORG--NAME/snapshots, the one
 * that refs/main names or else the newest. What exists as a path goes before a hub id. Errors:
 * PL_ERR_IO, which says what was looked for and where, and the nearest name there; PL_ERR_ARGUMENT
 * (an empty name, a folder with several models, by name); PL_ERR_UNSUPPORTED (a folder with weights
 * in other formats only). */
pl_status pl_locate_model(pl_model_files *files, const char *name, pl_error *err);

/* The folder of that cache, which need not exist; false where no variable says it, or it is too
 * long. */
bool pl_hub_folder(char out[PL_PATH_MAX]);

/* The hub id of a folder models--ORG--NAME/snapshots/COMMIT; false: it is none. */
bool pl_hub_id_of_folder(char out[PL_PATH_MAX], const char *folder);

#endif
