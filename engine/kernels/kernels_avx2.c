/* The kernels for AVX2 with FMA and F16C. */
#include "lanes_avx2.h"

#include "tiles_avx2.h"
#include "tables.h"

static const pl_kernels table = GENERIC_TABLE;

const pl_kernels *pl_kernels_avx2(void) {
    return &table;
}
