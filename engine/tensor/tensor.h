/* Tensors: a shape, strides, names for the dimensions and a pointer into some storage.
 *
 *     pl_tensor x;
 *     if (pl_tensor_new(&x, PL_F32, 2, (int64_t[]){rows, d_model}, err) != PL_OK) return ...;
 *     pl_tensor head = x;                          // a view: same data, other shape
 *     pl_tensor_narrow(&head, 0, 2, 3);            // rows 2, 3 and 4
 *     pl_tensor_release(&x);
 *
 * A pl_tensor is a value, cheap to copy. A copy does not own: `storage` is counted only by
 * pl_tensor_retain and pl_tensor_release, which those who keep tensors (the Lua userdata) use.
 * Tensors of a call have storage NULL, live in its workspace, and die with it.
 *
 * Indices count from 0. Strides are in elements and may be 0 (broadcast) or negative.
 * Quantised tensors have two dimensions [rows, columns], whole blocks in a row, contiguous
 * columns, and a row stride that is a multiple of the block; only rows can be narrowed. */
#ifndef PL_TENSOR_TENSOR_H
#define PL_TENSOR_TENSOR_H

#include "../base/dtype.h"

/* Shared memory. Freed by `release` when the last owner lets go. */
struct pl_storage {
    int refs; /* changed atomically */
    void *data;
    size_t bytes;
    bool read_only;                              /* mapped from a file, or lent for reading */
    void (*release)(struct pl_storage *storage); /* frees data and the storage itself */
    void *owner;                                 /* for release */
    /* Gradients (grad.h). */
    struct pl_node *node;    /* the operation that made the content, counted; NULL: none recorded */
    int edges;               /* of refs, those of nodes that read it */
    float *adjoint;          /* of the walk that runs */
    struct pl_storage *grad; /* float32, found for those who asked; counted */
    uint32_t version;        /* writes in place so far */
    uint64_t clock;          /* serial of the last operation that read or wrote it */
    bool leaf;               /* a gradient is wanted, and no operation made it */
};

/* A new owned tensor, not cleared. Errors: PL_ERR_SHAPE (negative sizes, too many dimensions,
 * rows that are no whole blocks), PL_ERR_MEMORY (too large, or out of memory). */
pl_status pl_tensor_new(pl_tensor *t, pl_dtype dtype, int n_dims, const int64_t *shape,
                        pl_error *err);

/* A view of memory that somebody else keeps alive; contiguous, storage NULL. */
pl_status pl_tensor_wrap(pl_tensor *t, pl_dtype dtype, int n_dims, const int64_t *shape, void *data,
                         pl_error *err);

void pl_tensor_retain(pl_tensor *t);
void pl_tensor_release(pl_tensor *t); /* t becomes empty; an empty one is accepted */

int64_t pl_tensor_count(const pl_tensor *t);   /* elements */
bool pl_tensor_contiguous(const pl_tensor *t); /* row-major without gaps */

/* Bytes from the start of one row to the next, for tensors whose last dimension is contiguous. */
size_t pl_tensor_row_bytes(const pl_tensor *t);

/* "[3, 4]" or "[pos 3, d_model 4]" into out, for messages; returns out. */
enum { PL_SHAPE_TEXT = 160 };
const char *pl_tensor_shape_text(const pl_tensor *t, char out[PL_SHAPE_TEXT]);

/* Views, in place. dim may be negative (from the end). Errors: PL_ERR_ARGUMENT, PL_ERR_SHAPE. */
pl_status pl_tensor_narrow(pl_tensor *t, int dim, int64_t start, int64_t length, pl_error *err);
pl_status pl_tensor_select(pl_tensor *t, int dim, int64_t index, pl_error *err);
pl_status pl_tensor_transpose(pl_tensor *t, int dim_a, int dim_b, pl_error *err);
/* Another shape over the same elements; one size may be -1. PL_ERR_SHAPE when strides forbid. */
pl_status pl_tensor_view(pl_tensor *t, int n_dims, const int64_t *shape, pl_error *err);
/* Names the dimensions; names may be NULL to clear, each shorter than PL_DIM_NAME; "" leaves one
 * unnamed, and the others differ. */
pl_status pl_tensor_name(pl_tensor *t, const char *const *names, pl_error *err);
/* The dimension with this name, or -1. */
int pl_tensor_find_dim(const pl_tensor *t, const char *name);

#endif
