#include "dtype.h"

#include <strings.h>

#include "size.h"

static const pl_dtype_info infos[PL_N_DTYPES] = {
    [PL_F32] = {"f32", 1, 4, false},      [PL_F16] = {"f16", 1, 2, false},
    [PL_BF16] = {"bf16", 1, 2, false},    [PL_I32] = {"i32", 1, 4, false},
    [PL_I64] = {"i64", 1, 8, false},      [PL_Q4_0] = {"q4_0", 32, 18, true},
    [PL_Q4_1] = {"q4_1", 32, 20, true},   [PL_Q5_0] = {"q5_0", 32, 22, true},
    [PL_Q5_1] = {"q5_1", 32, 24, true},   [PL_Q8_0] = {"q8_0", 32, 34, true},
    [PL_Q2_K] = {"q2_k", 256, 84, true},  [PL_Q3_K] = {"q3_k", 256, 110, true},
    [PL_Q4_K] = {"q4_k", 256, 144, true}, [PL_Q5_K] = {"q5_k", 256, 176, true},
    [PL_Q6_K] = {"q6_k", 256, 210, true},
};

const pl_dtype_info *pl_dtype_get(pl_dtype dtype) {
    return &infos[dtype];
}

bool pl_dtype_find(const char *name, pl_dtype *dtype) {
    for (size_t i = 0; i < PL_N_DTYPES; i++) {
        if (strcasecmp(name, infos[i].name) == 0) {
            *dtype = (pl_dtype)i;
            return true;
        }
    }
    return false;
}

bool pl_dtype_row_bytes(pl_dtype dtype, size_t n, size_t *bytes) {
    const pl_dtype_info *info = &infos[dtype];
    if (n % info->block_elements) return false;
    return pl_size_mul(bytes, n / info->block_elements, info->block_bytes);
}
