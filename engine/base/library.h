/* Shared libraries that most programs never need, opened when something first asks for them: what
 * is linked is loaded, relocated and started by every process. */
#ifndef PL_BASE_LIBRARY_H
#define PL_BASE_LIBRARY_H

#include "../perilune.h"

typedef struct pl_symbol {
    const char *name;
    void *function; /* the pointer to fill, of whichever type */
} pl_symbol;

/* Opens a library by its file name, never to be closed, and fills the pointers.
 * PL_ERR_UNSUPPORTED with the system's reason: it is not installed, or lacks a function. */
pl_status pl_library_open(const char *file, const pl_symbol *symbols, size_t n, pl_error *err);

#endif
