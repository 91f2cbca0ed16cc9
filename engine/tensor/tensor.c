#include "tensor.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "../base/arena.h"
#include "../base/error.h"
#include "../base/memory.h"
#include "../base/size.h"
#include "grad.h"

static void free_storage(pl_storage *storage) {
    free(storage->data);
    free(storage);
}

/* Checks a shape and writes contiguous strides; *bytes is the memory it takes. */
static pl_status lay_out(pl_tensor *t, pl_dtype dtype, int n_dims, const int64_t *shape,
                         size_t *bytes, pl_error *err) {
    if (n_dims < 0 || n_dims > PL_MAX_DIMS) {
        return pl_fail(err, PL_ERR_SHAPE, "%d dimensions: expected 0 to %d", n_dims, PL_MAX_DIMS);
    }
    int64_t sizes[PL_MAX_DIMS], strides[PL_MAX_DIMS], stride = 1; /* shape may be t's own */
    size_t n_rows = 1;
    for (int i = n_dims - 1; i >= 0; i--) {
        if (shape[i] < 0) {
            return pl_fail(err, PL_ERR_SHAPE, "size %lld of dimension %d: expected 0 or more",
                           (long long)shape[i], i);
        }
        sizes[i] = shape[i];
        strides[i] = stride;
        if (__builtin_mul_overflow(stride, shape[i] ? shape[i] : 1, &stride)) {
            return pl_fail(err, PL_ERR_MEMORY, "a tensor too large to count");
        }
        if (i < n_dims - 1) n_rows *= (size_t)shape[i];
    }
    size_t row_bytes, width = n_dims ? (size_t)shape[n_dims - 1] : 1;
    if (!pl_dtype_row_bytes(dtype, width, &row_bytes)) {
        return pl_fail(err, PL_ERR_SHAPE, "rows of %zu elements: expected a multiple of %zu for %s",
                       width, pl_dtype_get(dtype)->block_elements, pl_dtype_get(dtype)->name);
    }
    if (!pl_size_mul(bytes, row_bytes, n_rows) || *bytes > SIZE_MAX / 4) {
        return pl_fail(err, PL_ERR_MEMORY, "a tensor too large to hold");
    }
    *t = (pl_tensor){.dtype = dtype, .n_dims = n_dims};
    for (int i = 0; i < n_dims; i++) t->shape[i] = sizes[i], t->stride[i] = strides[i];
    return PL_OK;
}

pl_status pl_tensor_new(pl_tensor *t, pl_dtype dtype, int n_dims, const int64_t *shape,
                        pl_error *err) {
    size_t bytes;
    pl_status status = lay_out(t, dtype, n_dims, shape, &bytes, err);
    if (status != PL_OK) return status;
    pl_storage *storage = calloc(1, sizeof *storage);
    /* Whole cache lines: vectors that lie across two of them cost twice as much to load. */
    void *data = pl_memory_alloc(bytes);
    if (!storage || !data) {
        free(storage), free(data);
        return pl_fail(err, PL_ERR_MEMORY, "out of memory: %zu bytes for a tensor", bytes);
    }
    *storage = (pl_storage){.refs = 1, .data = data, .bytes = bytes, .release = free_storage};
    t->storage = storage;
    t->data = data;
    return PL_OK;
}

pl_status pl_tensor_wrap(pl_tensor *t, pl_dtype dtype, int n_dims, const int64_t *shape, void *data,
                         pl_error *err) {
    size_t bytes;
    pl_status status = lay_out(t, dtype, n_dims, shape, &bytes, err);
    if (status == PL_OK) t->data = data;
    return status;
}

void pl_tensor_retain(pl_tensor *t) {
    if (t->storage) __atomic_add_fetch(&t->storage->refs, 1, __ATOMIC_RELAXED);
}

void pl_tensor_release(pl_tensor *t) {
    pl_storage *storage = t->storage;
    *t = (pl_tensor){0};
    if (!storage) return;
    bool recorded = storage->node != NULL; /* then it is this thread's, and safe to look at after */
    int left = __atomic_sub_fetch(&storage->refs, 1, __ATOMIC_ACQ_REL);
    if (left == 0) {
        pl_storage_forget(storage);
        storage->release(storage);
    } else if (recorded && left == storage->edges) {
        pl_storage_leave(storage);
    }
}

int64_t pl_tensor_count(const pl_tensor *t) {
    int64_t n = 1;
    for (int i = 0; i < t->n_dims; i++) n *= t->shape[i];
    return n;
}

bool pl_tensor_contiguous(const pl_tensor *t) {
    int64_t stride = 1;
    for (int i = t->n_dims - 1; i >= 0; i--) {
        if (t->shape[i] != 1 && t->stride[i] != stride) return false;
        stride *= t->shape[i];
    }
    return true;
}

size_t pl_tensor_row_bytes(const pl_tensor *t) {
    const pl_dtype_info *info = pl_dtype_get(t->dtype);
    int64_t elements = t->n_dims >= 2 ? t->stride[t->n_dims - 2] : t->n_dims ? t->shape[0] : 1;
    return (size_t)elements / info->block_elements * info->block_bytes;
}

const char *pl_tensor_shape_text(const pl_tensor *t, char out[PL_SHAPE_TEXT]) {
    size_t used = (size_t)snprintf(out, PL_SHAPE_TEXT, "[");
    for (int i = 0; i < t->n_dims && used < PL_SHAPE_TEXT; i++) {
        used += (size_t)snprintf(out + used, PL_SHAPE_TEXT - used, "%s%s%s%lld", i ? ", " : "",
                                 t->dim[i], *t->dim[i] ? " " : "", (long long)t->shape[i]);
    }
    if (used < PL_SHAPE_TEXT) snprintf(out + used, PL_SHAPE_TEXT - used, "]");
    return out;
}

/* -- views ---------------------------------------------------------------------------------- */

static pl_status find_dim(const pl_tensor *t, int *dim, pl_error *err) {
    if (*dim >= -t->n_dims && *dim < t->n_dims) {
        if (*dim < 0) *dim += t->n_dims;
        return PL_OK;
    }
    return pl_fail(err, PL_ERR_ARGUMENT, "dimension %d of a tensor with %d dimensions", *dim,
                   t->n_dims);
}

/* Moves the first element by n elements; whole blocks, as the callers see to. */
static void advance(pl_tensor *t, int64_t n) {
    const pl_dtype_info *info = pl_dtype_get(t->dtype);
    t->data = (char *)t->data + n / (int64_t)info->block_elements * (int64_t)info->block_bytes;
}

static pl_status check_rows_only(const pl_tensor *t, int dim, pl_error *err) {
    if (!pl_dtype_get(t->dtype)->quantised || dim < t->n_dims - 1) return PL_OK;
    return pl_fail(err, PL_ERR_SHAPE, "a %s tensor has blocks in its rows: only rows can be cut",
                   pl_dtype_get(t->dtype)->name);
}

pl_status pl_tensor_narrow(pl_tensor *t, int dim, int64_t start, int64_t length, pl_error *err) {
    pl_status status = find_dim(t, &dim, err);
    if (status == PL_OK) status = check_rows_only(t, dim, err);
    if (status != PL_OK) return status;
    if (start < 0 || length < 0 || start > t->shape[dim] || length > t->shape[dim] - start) {
        return pl_fail(err, PL_ERR_ARGUMENT,
                       "narrow to %lld elements from %lld: dimension %d has %lld",
                       (long long)length, (long long)start, dim, (long long)t->shape[dim]);
    }
    if (start < t->shape[dim]) advance(t, start * t->stride[dim]);
    t->shape[dim] = length;
    return PL_OK;
}

static void drop_dim(pl_tensor *t, int dim) {
    for (int i = dim; i + 1 < t->n_dims; i++) {
        t->shape[i] = t->shape[i + 1];
        t->stride[i] = t->stride[i + 1];
        memcpy(t->dim[i], t->dim[i + 1], PL_DIM_NAME);
    }
    t->n_dims--;
}

pl_status pl_tensor_select(pl_tensor *t, int dim, int64_t index, pl_error *err) {
    pl_status status = find_dim(t, &dim, err);
    if (status == PL_OK) status = check_rows_only(t, dim, err);
    if (status != PL_OK) return status;
    int64_t n = t->shape[dim], place = index < 0 ? index + n : index;
    if (place < 0 || place >= n) {
        return pl_fail(err, PL_ERR_ARGUMENT,
                       "index %lld is outside dimension %d of size %lld (tensors count from 0)",
                       (long long)index, dim, (long long)n);
    }
    advance(t, place * t->stride[dim]);
    drop_dim(t, dim);
    return PL_OK;
}

pl_status pl_tensor_transpose(pl_tensor *t, int dim_a, int dim_b, pl_error *err) {
    pl_status status = find_dim(t, &dim_a, err);
    if (status == PL_OK) status = find_dim(t, &dim_b, err);
    if (status == PL_OK && dim_a != dim_b) status = check_rows_only(t, t->n_dims - 1, err);
    if (status != PL_OK) return status;
    pl_tensor old = *t;
    t->shape[dim_a] = old.shape[dim_b], t->shape[dim_b] = old.shape[dim_a];
    t->stride[dim_a] = old.stride[dim_b], t->stride[dim_b] = old.stride[dim_a];
    memcpy(t->dim[dim_a], old.dim[dim_b], PL_DIM_NAME);
    memcpy(t->dim[dim_b], old.dim[dim_a], PL_DIM_NAME);
    return PL_OK;
}

/* Fills a single -1 in a shape; the sizes must multiply to the count. */
static pl_status complete_shape(const pl_tensor *t, int n_dims, const int64_t *shape,
                                int64_t *complete, pl_error *err) {
    int64_t count = pl_tensor_count(t), known = 1;
    int unknown = -1;
    char text[PL_SHAPE_TEXT];
    bool fits = n_dims >= 0 && n_dims <= PL_MAX_DIMS;
    for (int i = 0; fits && i < n_dims; i++) {
        complete[i] = shape[i];
        if (shape[i] == -1 && unknown < 0) {
            unknown = i;
        } else {
            fits = shape[i] >= 0 && !__builtin_mul_overflow(known, shape[i], &known);
        }
    }
    if (fits && unknown >= 0) {
        fits = known > 0 && count % known == 0;
        if (fits) complete[unknown] = count / known;
    } else if (fits) {
        fits = known == count;
    }
    if (fits) return PL_OK;
    pl_tensor wanted = {.n_dims = n_dims < 0 ? 0 : n_dims > PL_MAX_DIMS ? PL_MAX_DIMS : n_dims};
    for (int i = 0; i < wanted.n_dims; i++) wanted.shape[i] = shape[i];
    char wanted_text[PL_SHAPE_TEXT];
    return pl_fail(err, PL_ERR_SHAPE, "%s cannot be viewed as %s", pl_tensor_shape_text(t, text),
                   pl_tensor_shape_text(&wanted, wanted_text));
}

/* Strides for the new shape over the old elements. Dimensions of the old that lie in memory as one
 * run (stride[i] = stride[i + 1] * shape[i + 1]) can be cut anew; runs are matched from the end. */
static bool view_strides(const pl_tensor *t, pl_tensor *view) {
    int new_dim = view->n_dims - 1;
    int64_t run = 1, seen = 1, base = 1;
    for (int i = t->n_dims - 1; i >= 0; i--) {
        if (run == 1) base = t->stride[i];
        run *= t->shape[i];
        bool joined =
            i > 0 && (t->shape[i - 1] == 1 || t->stride[i - 1] == t->stride[i] * t->shape[i]);
        if (joined && t->shape[i] != 1) continue;
        if (i > 0 && t->shape[i] == 1 && run == 1) continue;
        while (new_dim >= 0 && (seen < run || view->shape[new_dim] == 1)) {
            view->stride[new_dim] = seen * base;
            seen *= view->shape[new_dim--];
        }
        if (seen != run) return false;
        run = seen = 1;
    }
    for (; new_dim >= 0; new_dim--) view->stride[new_dim] = 1;
    return true;
}

pl_status pl_tensor_view(pl_tensor *t, int n_dims, const int64_t *shape, pl_error *err) {
    int64_t complete[PL_MAX_DIMS];
    pl_status status = complete_shape(t, n_dims, shape, complete, err);
    if (status != PL_OK) return status;
    pl_tensor view;
    size_t bytes;
    status = lay_out(&view, t->dtype, n_dims, complete, &bytes, err);
    if (status != PL_OK) return status;
    if (!pl_tensor_contiguous(t) && pl_tensor_count(t) > 0 && !view_strides(t, &view)) {
        char from[PL_SHAPE_TEXT], to[PL_SHAPE_TEXT];
        return pl_fail(err, PL_ERR_SHAPE,
                       "%s cannot be viewed as %s because its elements do not lie in order; "
                       "make it contiguous first",
                       pl_tensor_shape_text(t, from), pl_tensor_shape_text(&view, to));
    }
    view.data = t->data;
    view.storage = t->storage;
    *t = view;
    return PL_OK;
}

/* -- names ---------------------------------------------------------------------------------- */

pl_status pl_tensor_name(pl_tensor *t, const char *const *names, pl_error *err) {
    for (int i = 0; names && i < t->n_dims; i++) {
        if (strlen(names[i]) >= PL_DIM_NAME) {
            return pl_fail(err, PL_ERR_ARGUMENT, "dimension name '%s': at most %d characters",
                           names[i], PL_DIM_NAME - 1);
        }
        for (int j = 0; j < i && *names[i]; j++) {
            if (strcmp(names[i], names[j]) == 0) {
                return pl_fail(err, PL_ERR_ARGUMENT, "two dimensions named '%s'", names[i]);
            }
        }
    }
    memset(t->dim, 0, sizeof t->dim);
    for (int i = 0; names && i < t->n_dims; i++) memcpy(t->dim[i], names[i], strlen(names[i]));
    return PL_OK;
}

int pl_tensor_find_dim(const pl_tensor *t, const char *name) {
    for (int i = 0; *name && i < t->n_dims; i++) {
        if (strcmp(t->dim[i], name) == 0) return i;
    }
    return -1;
}
