/* GGUF files, versions 2 and 3: metadata and tensors, mapped, nothing copied.
 *
 *     pl_gguf *gguf;
 *     if (pl_gguf_open(&gguf, "model.gguf", &err) != PL_OK) ...
 *     uint64_t n_layers;
 *     pl_gguf_get_uint(gguf, "llama.block_count", &n_layers, &err);
 *     pl_gguf_close(gguf);
 *
 * A file may be one of several parts (NAME-00001-of-00003.gguf): opening the first opens all.
 * Every count and offset is held against the file's size before it is used. Strings and tensors
 * that are handed out are views of the map and live until the file is closed. */
#ifndef PL_FORMAT_GGUF_H
#define PL_FORMAT_GGUF_H

#include "../tensor/tensor.h"

typedef struct pl_gguf pl_gguf;

typedef enum pl_gguf_type {
    PL_GGUF_U8,
    PL_GGUF_I8,
    PL_GGUF_U16,
    PL_GGUF_I16,
    PL_GGUF_U32,
    PL_GGUF_I32,
    PL_GGUF_F32,
    PL_GGUF_BOOL,
    PL_GGUF_STRING,
    PL_GGUF_ARRAY,
    PL_GGUF_U64,
    PL_GGUF_I64,
    PL_GGUF_F64,
    PL_GGUF_N_TYPES
} pl_gguf_type;

/* Bytes in the file, not terminated. */
typedef struct pl_gguf_string {
    const char *data;
    size_t size;
} pl_gguf_string;

typedef struct pl_gguf_value {
    pl_gguf_string key;
    pl_gguf_type type;
    pl_gguf_type element; /* of an array */
    uint64_t n;           /* elements of an array, else 1 */
    const uint8_t *data;  /* the first element, as it lies in the file (little-endian) */
    size_t size;          /* bytes from data to the value's end */
} pl_gguf_value;

/* Errors: PL_ERR_IO, PL_ERR_FORMAT (names the field that lies), PL_ERR_UNSUPPORTED (version, byte
 * order). The second form reads bytes that stay the caller's, aligned to 16, and knows no further
 * parts. */
pl_status pl_gguf_open(pl_gguf **gguf, const char *path, pl_error *err);
pl_status pl_gguf_parse(pl_gguf **gguf, const uint8_t *data, size_t size, const char *name,
                        pl_error *err);
void pl_gguf_close(pl_gguf *gguf);

uint32_t pl_gguf_version(const pl_gguf *gguf);
const char *pl_gguf_path(const pl_gguf *gguf);
size_t pl_gguf_bytes(const pl_gguf *gguf); /* of all parts */

size_t pl_gguf_n_values(const pl_gguf *gguf);
const pl_gguf_value *pl_gguf_value_at(const pl_gguf *gguf, size_t i);
/* NULL when there is no such key. */
const pl_gguf_value *pl_gguf_find(const pl_gguf *gguf, const char *key);

/* "u32", "string", ... "unknown" out of range; and the bytes of one, 0 where they vary. */
const char *pl_gguf_type_name(pl_gguf_type type);
size_t pl_gguf_type_bytes(pl_gguf_type type);

/* Typed readers. find_*: false when the key is absent or of another kind. get_*: an error that
 * names key, kind found and kind expected. Whole numbers of every width are read as uint64 when
 * they are not negative, floats of both widths as double. */
bool pl_gguf_find_uint(const pl_gguf *gguf, const char *key, uint64_t *out);
bool pl_gguf_find_float(const pl_gguf *gguf, const char *key, double *out);
bool pl_gguf_find_bool(const pl_gguf *gguf, const char *key, bool *out);
bool pl_gguf_find_string(const pl_gguf *gguf, const char *key, pl_gguf_string *out);
pl_status pl_gguf_get_uint(const pl_gguf *gguf, const char *key, uint64_t *out, pl_error *err);
pl_status pl_gguf_get_string(const pl_gguf *gguf, const char *key, pl_gguf_string *out,
                             pl_error *err);

/* The same, but PL_OK with *out as it was where the key is absent, and PL_ERR_FORMAT where it is
 * of another kind: for keys that may be missing, never ignored. */
pl_status pl_gguf_read_uint(const pl_gguf *gguf, const char *key, uint64_t *out, pl_error *err);
pl_status pl_gguf_read_float(const pl_gguf *gguf, const char *key, double *out, pl_error *err);
pl_status pl_gguf_read_bool(const pl_gguf *gguf, const char *key, bool *out, pl_error *err);
pl_status pl_gguf_read_string(const pl_gguf *gguf, const char *key, pl_gguf_string *out,
                              pl_error *err);

bool pl_gguf_string_is(pl_gguf_string s, const char *text);

/* Copies the elements of an array, out [value->n]; false where they are of another kind or do not
 * fit. i32s takes whole numbers and bools of any width, f32s all numbers. */
bool pl_gguf_array_i32s(const pl_gguf_value *value, int32_t *out);
bool pl_gguf_array_f32s(const pl_gguf_value *value, float *out);

/* An array of the given element type, or NULL. */
const pl_gguf_value *pl_gguf_find_array(const pl_gguf *gguf, const char *key, pl_gguf_type element);

/* Walks an array of strings: *at begins as value->data; false at the end. */
bool pl_gguf_next_string(const pl_gguf_value *value, const uint8_t **at, pl_gguf_string *out);

size_t pl_gguf_n_tensors(const pl_gguf *gguf);
pl_gguf_string pl_gguf_tensor_name(const pl_gguf *gguf, size_t i);
/* The index of a tensor; false when there is none. */
bool pl_gguf_find_tensor(const pl_gguf *gguf, const char *name, size_t *index);
/* A view, shape outermost first. PL_ERR_UNSUPPORTED for types that perilune does not read. */
pl_status pl_gguf_tensor(const pl_gguf *gguf, size_t i, pl_tensor *out, pl_error *err);

/* ggml's number of a type, and back; false for types that perilune does not have. */
uint32_t pl_gguf_dtype_number(pl_dtype dtype);
bool pl_gguf_dtype(uint32_t number, pl_dtype *out);

#endif
