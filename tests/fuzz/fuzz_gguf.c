/* GGUF: every key and tensor of whatever is accepted is read to its last byte; what it describes of
 * a model must stand the check or be refused by it. */
#include <stdlib.h>
#include <string.h>

#include "../../engine/format/gguf.h"
#include "../../engine/model/description.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static unsigned sum_of(const void *bytes, size_t n) {
    unsigned sum = 0;
    for (size_t i = 0; i < n; i++) sum += ((const uint8_t *)bytes)[i];
    return sum;
}

static unsigned read_key(const pl_gguf *file, const pl_gguf_value *v) {
    unsigned sum = sum_of(v->key.data, v->key.size) + sum_of(v->data, v->size);
    if (v->type == PL_GGUF_ARRAY && v->element == PL_GGUF_STRING) {
        const uint8_t *at = v->data;
        for (pl_gguf_string s; pl_gguf_next_string(v, &at, &s);) sum += sum_of(s.data, s.size);
    } else if (v->type == PL_GGUF_ARRAY && v->n < 4096) {
        float f[4096];
        int32_t i[4096];
        if (pl_gguf_array_f32s(v, f) && pl_gguf_array_i32s(v, i)) sum += (unsigned)v->n;
    }
    char key[128];
    if (v->key.size < sizeof key) {
        uint64_t u;
        double f;
        bool b;
        pl_gguf_string s;
        memcpy(key, v->key.data, v->key.size);
        key[v->key.size] = 0;
        pl_error err;
        pl_gguf_read_uint(file, key, &u, &err);
        pl_gguf_read_float(file, key, &f, &err);
        pl_gguf_read_bool(file, key, &b, &err);
        if (pl_gguf_find_string(file, key, &s)) sum += sum_of(s.data, s.size);
    }
    return sum;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    /* The reader asks for aligned memory, and a copy of its own size shows reads past the end. */
    uint8_t *copy = malloc(size ? size : 1);
    if (!copy) return 0;
    memcpy(copy, data, size);
    pl_gguf *file;
    pl_error err;
    volatile unsigned sum = 0;
    if (pl_gguf_parse(&file, copy, size, "fuzz", &err) == PL_OK) {
        for (size_t i = 0; i < pl_gguf_n_values(file); i++) {
            sum += read_key(file, pl_gguf_value_at(file, i));
        }
        for (size_t i = 0; i < pl_gguf_n_tensors(file); i++) {
            pl_tensor t;
            if (pl_gguf_tensor(file, i, &t, &err) != PL_OK) continue;
            const pl_dtype_info *info = pl_dtype_get(t.dtype);
            size_t blocks = (size_t)pl_tensor_count(&t) / info->block_elements;
            if ((uintptr_t)t.data % 8) abort();
            sum += sum_of(t.data, blocks * info->block_bytes);
        }
        (void)sum;
        pl_config config;
        const pl_family *family;
        if (pl_describe_gguf(&config, &family, NULL, file, &err) == PL_OK) {
            pl_config_check(&config, &err);
        }
        pl_gguf_close(file);
    }
    free(copy);
    return 0;
}
