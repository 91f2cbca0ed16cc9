/* perilune: a language-model engine. The public C interface.
 *
 *     pl_error err;
 *     pl_model *model = NULL;
 *     if (pl_model_load(&model, "gpt2.gguf", NULL, &err) != PL_OK)
 *         return fprintf(stderr, "%s\n", err.message), 1;
 *     pl_session *session = NULL;
 *     pl_session_new(&session, model, NULL, &err);
 *     ...
 *     pl_session_free(session);
 *     pl_model_free(model);
 *
 * Every function that can fail returns a pl_status and, through its last argument, a message
 * for people; err may be NULL. The library never exits, prints, or keeps global state but for
 * the table of kernels chosen at start. Every free function accepts NULL. */
#ifndef PERILUNE_H
#define PERILUNE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* What kind of failure it was; the message says which one. */
typedef enum pl_status {
    PL_OK = 0,
    PL_ERR_MEMORY,      /* an allocation failed, or a size overflowed */
    PL_ERR_IO,          /* a file could not be opened, read or written */
    PL_ERR_FORMAT,      /* a file's bytes break its format's rules */
    PL_ERR_ARGUMENT,    /* a value outside its range, an unknown name */
    PL_ERR_SHAPE,       /* shapes or dtypes that do not fit one another */
    PL_ERR_UNSUPPORTED, /* well-formed, but not something perilune can do */
    PL_ERR_STATE,       /* the object is closed, expired or in use */
    PL_ERR_INTERRUPTED, /* the interrupt callback asked to stop */
    PL_ERR_CALLBACK,    /* a hook, sampler or other callback failed */
} pl_status;

enum { PL_ERROR_MAX = 512 };

typedef struct pl_error {
    pl_status status;
    char message[PL_ERROR_MAX]; /* UTF-8, always terminated, cut if too long */
} pl_error;

/* The status as a word: "memory", "io", "format", ... Static storage. */
const char *pl_status_name(pl_status status);

#endif
