/* The kernels for AVX-512. */
#include "lanes_avx512.h"

#include "generic.h"
#include "tables.h"

const pl_kernels *pl_kernels_avx512(void) {
    return &generic_table;
}
