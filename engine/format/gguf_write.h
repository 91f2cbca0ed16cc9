/* Writing GGUF files, version 3.
 *
 *     pl_gguf_writer *w;
 *     if (pl_gguf_writer_new(&w, err) != PL_OK) return ...;
 *     pl_gguf_put_string(w, "general.architecture", "gpt2", 4, err);
 *     pl_gguf_put_u32(w, "gpt2.block_count", 12, err);
 *     pl_gguf_put_tensor(w, "output.weight", &weight, err);       // borrowed until the end
 *     pl_status status = pl_gguf_writer_save(w, "model.gguf", err);
 *     pl_gguf_writer_free(w);
 *
 * Metadata is copied when it is put; tensors are borrowed, or made one by one while the file is
 * written, so that never more than one is held. Keys and tensors come out in the order they went
 * in. The file appears complete or not at all. */
#ifndef PL_FORMAT_GGUF_WRITE_H
#define PL_FORMAT_GGUF_WRITE_H

#include "gguf.h"

typedef struct pl_gguf_writer pl_gguf_writer;

pl_status pl_gguf_writer_new(pl_gguf_writer **writer, pl_error *err);
void pl_gguf_writer_free(pl_gguf_writer *writer); /* accepts NULL */

/* Each fails with PL_ERR_ARGUMENT for an empty key or one that is there already, and with
 * PL_ERR_MEMORY. */
pl_status pl_gguf_put_u32(pl_gguf_writer *writer, const char *key, uint32_t value, pl_error *err);
pl_status pl_gguf_put_u64(pl_gguf_writer *writer, const char *key, uint64_t value, pl_error *err);
pl_status pl_gguf_put_i32(pl_gguf_writer *writer, const char *key, int32_t value, pl_error *err);
pl_status pl_gguf_put_f32(pl_gguf_writer *writer, const char *key, float value, pl_error *err);
pl_status pl_gguf_put_bool(pl_gguf_writer *writer, const char *key, bool value, pl_error *err);
pl_status pl_gguf_put_string(pl_gguf_writer *writer, const char *key, const char *text, size_t size,
                             pl_error *err);
pl_status pl_gguf_put_strings(pl_gguf_writer *writer, const char *key,
                              const pl_gguf_string *strings, size_t n, pl_error *err);

/* Any value of fixed size, 1 of them or an array of n: elements as they lie in memory. */
pl_status pl_gguf_put_scalar(pl_gguf_writer *writer, const char *key, pl_gguf_type type,
                             const void *value, pl_error *err);
pl_status pl_gguf_put_array(pl_gguf_writer *writer, const char *key, pl_gguf_type type,
                            const void *elements, size_t n, pl_error *err);

/* A value of another file as it is, nested arrays too. general.alignment is refused: the writer
 * sets the alignment itself, to 32. */
pl_status pl_gguf_put_value(pl_gguf_writer *writer, const pl_gguf_value *value, pl_error *err);

/* t: any strides, at most 4 dimensions; borrowed until pl_gguf_writer_save returns.
 * Errors: PL_ERR_ARGUMENT (a name twice or empty), PL_ERR_SHAPE. */
pl_status pl_gguf_put_tensor(pl_gguf_writer *writer, const char *name, const pl_tensor *t,
                             pl_error *err);

/* A tensor that is made when its turn comes: `make` fills *t with dtype and shape as announced
 * here; the writer releases it. Another status than PL_OK ends the writing. */
typedef pl_status (*pl_gguf_make_fn)(void *context, pl_tensor *t, pl_error *err);
pl_status pl_gguf_put_made_tensor(pl_gguf_writer *writer, const char *name, pl_dtype dtype,
                                  int n_dims, const int64_t *shape, pl_gguf_make_fn make,
                                  void *context, pl_error *err);

/* Writes everything; may be called again for another path. Errors: PL_ERR_IO with the path and the
 * system's reason (a full disk); PL_ERR_SHAPE where a made tensor is not what was announced. */
pl_status pl_gguf_writer_save(const pl_gguf_writer *writer, const char *path, pl_error *err);

#endif
