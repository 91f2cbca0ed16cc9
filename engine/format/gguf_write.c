#include "gguf_write.h"

#include <stdlib.h>
#include <string.h>

#include "../base/buffer.h"
#include "../base/error.h"
#include "../base/size.h"
#include "outfile.h"

_Static_assert(__BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__, "files hold little-endian numbers");

enum { ALIGNMENT = 32, MAX_GGUF_DIMS = 4 };

typedef struct named {
    char *name;
    pl_tensor tensor; /* data NULL where it is made */
    pl_gguf_make_fn make;
    void *context;
    size_t bytes;
    uint64_t offset; /* from the start of the data section */
} named;

struct pl_gguf_writer {
    pl_buffer values;   /* the metadata as it will stand in the file */
    size_t *key_starts; /* [n_keys] in values, to find keys that come twice */
    size_t n_keys, key_capacity;
    named *tensors;
    size_t n_tensors, tensor_capacity;
    uint64_t data_bytes;
};

static pl_status no_memory(pl_error *err) {
    return pl_fail(err, PL_ERR_MEMORY, "out of memory for a GGUF file");
}

pl_status pl_gguf_writer_new(pl_gguf_writer **writer, pl_error *err) {
    *writer = calloc(1, sizeof **writer);
    return *writer ? PL_OK : no_memory(err);
}

void pl_gguf_writer_free(pl_gguf_writer *writer) {
    if (!writer) return;
    for (size_t i = 0; i < writer->n_tensors; i++) free(writer->tensors[i].name);
    free(writer->tensors);
    free(writer->key_starts);
    pl_buffer_clear(&writer->values);
    free(writer);
}

/* -- metadata ------------------------------------------------------------------------------- */

static bool append_u32(pl_buffer *b, uint32_t value) {
    return pl_buffer_append(b, &value, sizeof value);
}

static bool append_u64(pl_buffer *b, uint64_t value) {
    return pl_buffer_append(b, &value, sizeof value);
}

static bool append_string(pl_buffer *b, const char *text, size_t size) {
    return append_u64(b, size) && pl_buffer_append(b, text, size);
}

static bool has_key(const pl_gguf_writer *w, const char *key, size_t size) {
    for (size_t i = 0; i < w->n_keys; i++) {
        const uint8_t *at = w->values.data + w->key_starts[i];
        uint64_t length;
        memcpy(&length, at, sizeof length);
        if (length == size && memcmp(at + sizeof length, key, size) == 0) return true;
    }
    return false;
}

/* Adds a key, its type and the bytes of its value: head and then body. On failure nothing. */
static pl_status put(pl_gguf_writer *w, pl_gguf_string key, pl_gguf_type type, const void *head,
                     size_t head_size, const void *body, size_t body_size, pl_error *err) {
    int shown = key.size < 80 ? (int)key.size : 80;
    if (key.size == 0) return pl_fail(err, PL_ERR_ARGUMENT, "a GGUF key is empty");
    if (has_key(w, key.data, key.size)) {
        return pl_fail(err, PL_ERR_ARGUMENT, "key '%.*s' is there already", shown, key.data);
    }
    if (w->n_keys == w->key_capacity) {
        size_t capacity = w->key_capacity ? 2 * w->key_capacity : 64;
        size_t *starts = realloc(w->key_starts, capacity * sizeof *starts);
        if (!starts) return no_memory(err);
        w->key_starts = starts;
        w->key_capacity = capacity;
    }
    size_t start = w->values.size;
    if (!append_string(&w->values, key.data, key.size) || !append_u32(&w->values, type) ||
        !pl_buffer_append(&w->values, head, head_size) ||
        !pl_buffer_append(&w->values, body, body_size)) {
        w->values.size = start;
        return no_memory(err);
    }
    w->key_starts[w->n_keys++] = start;
    return PL_OK;
}

static pl_gguf_string string_of(const char *text) {
    return (pl_gguf_string){text, strlen(text)};
}

pl_status pl_gguf_put_scalar(pl_gguf_writer *writer, const char *key, pl_gguf_type type,
                             const void *value, pl_error *err) {
    size_t size = pl_gguf_type_bytes(type);
    if (!size) {
        return pl_fail(err, PL_ERR_ARGUMENT, "key '%.80s': expected a type of fixed size", key);
    }
    return put(writer, string_of(key), type, value, size, NULL, 0, err);
}

pl_status pl_gguf_put_u32(pl_gguf_writer *writer, const char *key, uint32_t value, pl_error *err) {
    return pl_gguf_put_scalar(writer, key, PL_GGUF_U32, &value, err);
}

pl_status pl_gguf_put_u64(pl_gguf_writer *writer, const char *key, uint64_t value, pl_error *err) {
    return pl_gguf_put_scalar(writer, key, PL_GGUF_U64, &value, err);
}

pl_status pl_gguf_put_i32(pl_gguf_writer *writer, const char *key, int32_t value, pl_error *err) {
    return pl_gguf_put_scalar(writer, key, PL_GGUF_I32, &value, err);
}

pl_status pl_gguf_put_f32(pl_gguf_writer *writer, const char *key, float value, pl_error *err) {
    return pl_gguf_put_scalar(writer, key, PL_GGUF_F32, &value, err);
}

pl_status pl_gguf_put_bool(pl_gguf_writer *writer, const char *key, bool value, pl_error *err) {
    uint8_t byte = value ? 1 : 0;
    return pl_gguf_put_scalar(writer, key, PL_GGUF_BOOL, &byte, err);
}

pl_status pl_gguf_put_string(pl_gguf_writer *writer, const char *key, const char *text, size_t size,
                             pl_error *err) {
    uint64_t length = size;
    return put(writer, string_of(key), PL_GGUF_STRING, &length, sizeof length, text, size, err);
}

/* An array begins with its element type and count. */
enum { ARRAY_HEAD = 12 };

static void array_head(uint8_t head[ARRAY_HEAD], pl_gguf_type type, size_t n) {
    uint32_t element = type;
    uint64_t count = n;
    memcpy(head, &element, sizeof element);
    memcpy(head + sizeof element, &count, sizeof count);
}

pl_status pl_gguf_put_array(pl_gguf_writer *writer, const char *key, pl_gguf_type type,
                            const void *elements, size_t n, pl_error *err) {
    uint8_t head[ARRAY_HEAD];
    size_t size = pl_gguf_type_bytes(type), bytes;
    if (!size || !pl_size_mul(&bytes, size, n)) {
        return pl_fail(err, PL_ERR_ARGUMENT, "key '%.80s': expected elements of fixed size", key);
    }
    array_head(head, type, n);
    return put(writer, string_of(key), PL_GGUF_ARRAY, head, sizeof head, elements, bytes, err);
}

pl_status pl_gguf_put_strings(pl_gguf_writer *writer, const char *key,
                              const pl_gguf_string *strings, size_t n, pl_error *err) {
    uint8_t head[ARRAY_HEAD];
    pl_buffer body = {0};
    array_head(head, PL_GGUF_STRING, n);
    bool ok = true;
    for (size_t i = 0; i < n && ok; i++) {
        ok = append_string(&body, strings[i].data, strings[i].size);
    }
    pl_status status = ok ? put(writer, string_of(key), PL_GGUF_ARRAY, head, sizeof head, body.data,
                                body.size, err)
                          : no_memory(err);
    pl_buffer_clear(&body);
    return status;
}

pl_status pl_gguf_put_value(pl_gguf_writer *writer, const pl_gguf_value *value, pl_error *err) {
    static const char alignment[] = "general.alignment";
    uint8_t head[ARRAY_HEAD];
    if (value->key.size == sizeof alignment - 1 &&
        memcmp(value->key.data, alignment, value->key.size) == 0) {
        return pl_fail(err, PL_ERR_ARGUMENT, "%s: the writer sets it itself", alignment);
    }
    if (value->type == PL_GGUF_ARRAY) array_head(head, value->element, (size_t)value->n);
    return put(writer, value->key, value->type, head,
               value->type == PL_GGUF_ARRAY ? sizeof head : 0, value->data, value->size, err);
}

/* -- tensors -------------------------------------------------------------------------------- */

static pl_status check_name(const pl_gguf_writer *w, const char *name, pl_error *err) {
    if (!*name) return pl_fail(err, PL_ERR_ARGUMENT, "a tensor's name is empty");
    for (size_t i = 0; i < w->n_tensors; i++) {
        if (strcmp(w->tensors[i].name, name) == 0) {
            return pl_fail(err, PL_ERR_ARGUMENT, "tensor '%.80s' is there already", name);
        }
    }
    return PL_OK;
}

static pl_status add_tensor(pl_gguf_writer *w, const char *name, named new, pl_error *err) {
    pl_status status = check_name(w, name, err);
    if (status != PL_OK) return status;
    if (new.tensor.n_dims > MAX_GGUF_DIMS) {
        return pl_fail(err, PL_ERR_SHAPE, "tensor '%.80s': %d dimensions, GGUF has at most %d",
                       name, new.tensor.n_dims, MAX_GGUF_DIMS);
    }
    const pl_dtype_info *info = pl_dtype_get(new.tensor.dtype);
    new.bytes = (size_t)pl_tensor_count(&new.tensor) / info->block_elements * info->block_bytes;
    new.offset = w->data_bytes;
    if (w->n_tensors == w->tensor_capacity) {
        size_t capacity = w->tensor_capacity ? 2 * w->tensor_capacity : 64;
        named *tensors = realloc(w->tensors, capacity * sizeof *tensors);
        if (!tensors) return no_memory(err);
        w->tensors = tensors;
        w->tensor_capacity = capacity;
    }
    new.name = strdup(name);
    if (!new.name) return no_memory(err);
    w->tensors[w->n_tensors++] = new;
    w->data_bytes += pl_size_align(new.bytes, ALIGNMENT);
    return PL_OK;
}

pl_status pl_gguf_put_tensor(pl_gguf_writer *writer, const char *name, const pl_tensor *t,
                             pl_error *err) {
    return add_tensor(writer, name, (named){.tensor = *t}, err);
}

pl_status pl_gguf_put_made_tensor(pl_gguf_writer *writer, const char *name, pl_dtype dtype,
                                  int n_dims, const int64_t *shape, pl_gguf_make_fn make,
                                  void *context, pl_error *err) {
    named new = {.make = make, .context = context};
    pl_status status = pl_tensor_wrap(&new.tensor, dtype, n_dims, shape, NULL, err);
    if (status != PL_OK) return pl_error_prefix(err, status, "tensor '%.80s'", name);
    return add_tensor(writer, name, new, err);
}

/* -- the file ------------------------------------------------------------------------------- */

static void write_u32(pl_outfile *out, uint32_t value) {
    pl_outfile_write(out, &value, sizeof value);
}

static void write_u64(pl_outfile *out, uint64_t value) {
    pl_outfile_write(out, &value, sizeof value);
}

static void write_header(pl_outfile *out, const pl_gguf_writer *w) {
    pl_outfile_write(out, "GGUF", 4);
    write_u32(out, 3);
    write_u64(out, w->n_tensors);
    write_u64(out, w->n_keys);
    pl_outfile_write(out, w->values.data, w->values.size);
    for (size_t i = 0; i < w->n_tensors; i++) {
        const named *t = &w->tensors[i];
        write_u64(out, strlen(t->name));
        pl_outfile_write(out, t->name, strlen(t->name));
        write_u32(out, (uint32_t)t->tensor.n_dims);
        for (int d = t->tensor.n_dims - 1; d >= 0; d--) {
            write_u64(out, (uint64_t)t->tensor.shape[d]);
        }
        write_u32(out, pl_gguf_dtype_number(t->tensor.dtype));
        write_u64(out, t->offset);
    }
    pl_outfile_pad(out, ALIGNMENT);
}

static pl_status check_made(const named *t, const pl_tensor *made, pl_error *err) {
    char expected[PL_SHAPE_TEXT], found[PL_SHAPE_TEXT];
    bool same = made->dtype == t->tensor.dtype && made->n_dims == t->tensor.n_dims;
    for (int d = 0; same && d < made->n_dims; d++) same = made->shape[d] == t->tensor.shape[d];
    if (same) return PL_OK;
    return pl_fail(err, PL_ERR_SHAPE, "made as %s %s, announced as %s %s",
                   pl_dtype_get(made->dtype)->name, pl_tensor_shape_text(made, found),
                   pl_dtype_get(t->tensor.dtype)->name, pl_tensor_shape_text(&t->tensor, expected));
}

static pl_status write_made(pl_outfile *out, const named *t, pl_error *err) {
    pl_tensor made = {0};
    pl_status status = t->make(t->context, &made, err);
    if (status == PL_OK) status = check_made(t, &made, err);
    if (status == PL_OK) pl_outfile_tensor(out, &made);
    pl_tensor_release(&made);
    return status == PL_OK ? PL_OK : pl_error_prefix(err, status, "tensor '%.80s'", t->name);
}

pl_status pl_gguf_writer_save(const pl_gguf_writer *writer, const char *path, pl_error *err) {
    pl_outfile out;
    pl_status status = pl_outfile_open(&out, path, err);
    if (status != PL_OK) return status;
    write_header(&out, writer);
    for (size_t i = 0; i < writer->n_tensors && status == PL_OK && !out.error; i++) {
        const named *t = &writer->tensors[i];
        if (t->make) {
            status = write_made(&out, t, err);
        } else {
            pl_outfile_tensor(&out, &t->tensor);
        }
        pl_outfile_pad(&out, ALIGNMENT);
    }
    if (status != PL_OK) {
        pl_outfile_abort(&out);
        return status;
    }
    return pl_outfile_commit(&out, err);
}
