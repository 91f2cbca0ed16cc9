/* A file that appears complete or not at all: written beside its place under a temporary name,
 * flushed to the disk, then renamed.
 *
 *     pl_outfile out;
 *     if (pl_outfile_open(&out, "model.gguf", err) != PL_OK) return ...;
 *     pl_outfile_write(&out, bytes, n);               // a failure is kept for the end
 *     pl_status status = pl_outfile_commit(&out, err);  // or pl_outfile_abort
 */
#ifndef PL_FORMAT_OUTFILE_H
#define PL_FORMAT_OUTFILE_H

#include <stdio.h>

#include "../tensor/tensor.h"

typedef struct pl_outfile {
    FILE *file;      /* NULL when closed */
    char *path;      /* owned: where it will stand */
    char *temporary; /* owned */
    uint64_t at;     /* bytes written so far */
    int error;       /* errno of the first write that failed, 0 while all is well */
} pl_outfile;

/* What is there already is replaced where it is a file; a folder or a device, such as /dev/null, is
 * an error. Errors: PL_ERR_IO with the path and the system's reason, PL_ERR_MEMORY; *out is then
 * closed. */
pl_status pl_outfile_open(pl_outfile *out, const char *path, pl_error *err);

/* These do nothing after a failure. */
void pl_outfile_write(pl_outfile *out, const void *bytes, size_t n);
void pl_outfile_pad(pl_outfile *out, size_t alignment); /* zeros, to a multiple of alignment */

/* The elements of t, row-major without gaps, whatever its strides. */
void pl_outfile_tensor(pl_outfile *out, const pl_tensor *t);

/* Either ends it. Commit fails with PL_ERR_IO when anything could not be written; the file that
 * stood at the path before is then untouched. Both accept a closed one. */
pl_status pl_outfile_commit(pl_outfile *out, pl_error *err);
void pl_outfile_abort(pl_outfile *out);

#endif
