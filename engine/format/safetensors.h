/* safetensors files: a JSON header and the bytes of named tensors, mapped.
 *
 *     u64 length | header {"name": {"dtype", "shape", "data_offsets": [begin, end]}, ...} | data
 *
 * A model may be cut into several files that `model.safetensors.index.json` lists. Tensors handed
 * out are views of the map, or, where the file has them at an odd address, of a copy that belongs
 * to this object; both live until it is closed. */
#ifndef PL_FORMAT_SAFETENSORS_H
#define PL_FORMAT_SAFETENSORS_H

#include "../tensor/tensor.h"

typedef struct pl_safetensors pl_safetensors;

/* path: a .safetensors file or an index. Errors: PL_ERR_IO, PL_ERR_FORMAT (names the tensor and the
 * field that lies). The second form reads bytes that stay the caller's. */
pl_status pl_safetensors_open(pl_safetensors **file, const char *path, pl_error *err);
pl_status pl_safetensors_parse(pl_safetensors **file, const uint8_t *data, size_t size,
                               const char *name, pl_error *err);
void pl_safetensors_close(pl_safetensors *file);

size_t pl_safetensors_bytes(const pl_safetensors *file);
size_t pl_safetensors_n_tensors(const pl_safetensors *file);
const char *pl_safetensors_name(const pl_safetensors *file, size_t i);
bool pl_safetensors_find(const pl_safetensors *file, const char *name, size_t *index);
/* A read-only view. A misaligned tensor is copied when it is first asked for, so only one thread at
 * a time may ask. PL_ERR_UNSUPPORTED for types that perilune does not read. */
pl_status pl_safetensors_tensor(pl_safetensors *file, size_t i, pl_tensor *out, pl_error *err);

/* The value in the header's __metadata__, of the first shard that has it, or NULL. */
const char *pl_safetensors_metadata(const pl_safetensors *file, const char *key);

/* -- writing -------------------------------------------------------------------------------- */

typedef struct pl_safetensors_item {
    const char *name;
    const pl_tensor *tensor; /* any strides; not quantised */
    /* Unless NULL: the tensor announces dtype and shape only; `make` fills *t with the elements
     * when its turn comes, and the writer releases it, so that never more than one is held. */
    pl_status (*make)(void *context, pl_tensor *t, pl_error *err);
    void *context;
} pl_safetensors_item;

/* Writes one file, complete or not at all. metadata: [n_metadata] pairs of key and value.
 * Errors: PL_ERR_ARGUMENT (a name twice, or __metadata__), PL_ERR_UNSUPPORTED (a quantised tensor),
 * PL_ERR_SHAPE (a made tensor is not what was announced), PL_ERR_IO. */
pl_status pl_safetensors_write(const char *path, const pl_safetensors_item *items, size_t n_items,
                               const char *const (*metadata)[2], size_t n_metadata, pl_error *err);

#endif
