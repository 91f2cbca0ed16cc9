/* The kernels for AVX-512 without VNNI. */
#include "lanes_avx512.h"

#include "tiles_avx2.h"
#include "tables.h"

static const pl_kernels table = GENERIC_TABLE;

const pl_kernels *pl_kernels_avx512(void) {
    return &table;
}
