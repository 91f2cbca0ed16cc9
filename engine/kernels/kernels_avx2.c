/* The kernels for AVX2 with FMA and F16C. */
#include "lanes_avx2.h"

#include "generic.h"
#include "tables.h"

const pl_kernels *pl_kernels_avx2(void) {
    return &generic_table;
}
