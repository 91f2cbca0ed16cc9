/* .npy files: what is accepted is read to its last element. */
#include <stdlib.h>
#include <string.h>

#include "../../engine/format/npy.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    pl_tensor t;
    pl_error err;
    uint8_t *copy = malloc(size ? size : 1); /* of the exact size, to see reads past the end */
    if (!copy) return 0;
    memcpy(copy, data, size);
    if (pl_npy_parse(&t, copy, size, "fuzz", &err) == PL_OK) {
        volatile unsigned sum = 0;
        size_t n = (size_t)pl_tensor_count(&t) * pl_dtype_get(t.dtype)->block_bytes;
        for (size_t i = 0; i < n; i++) sum += ((const uint8_t *)t.data)[i];
        (void)sum;
        pl_tensor_release(&t);
    }
    free(copy);
    return 0;
}
