/* safetensors: every tensor of whatever is accepted is read to its last byte. */
#include <stdlib.h>
#include <string.h>

#include "../../engine/format/safetensors.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    uint8_t *copy = malloc(size ? size : 1); /* of the exact size, to see reads past the end */
    if (!copy) return 0;
    memcpy(copy, data, size);
    pl_safetensors *file;
    pl_error err;
    volatile unsigned sum = 0;
    if (pl_safetensors_parse(&file, copy, size, "fuzz", &err) == PL_OK) {
        pl_safetensors_metadata(file, "format");
        for (size_t i = 0; i < pl_safetensors_n_tensors(file); i++) {
            pl_tensor t;
            size_t at;
            if (!pl_safetensors_find(file, pl_safetensors_name(file, i), &at) || at != i) abort();
            if (pl_safetensors_tensor(file, i, &t, &err) != PL_OK) continue;
            size_t bytes = pl_dtype_get(t.dtype)->block_bytes;
            if ((uintptr_t)t.data % bytes) abort();
            bytes *= (size_t)pl_tensor_count(&t);
            for (size_t k = 0; k < bytes; k++) sum += ((const uint8_t *)t.data)[k];
        }
        (void)sum;
        pl_safetensors_close(file);
    }
    free(copy);
    return 0;
}
