/* AVX-512 with VNNI: as AVX-512, but for quantised tiles. */
#include <immintrin.h>

#define AHEAD _MM_HINT_T0
enum { GATHERS = 0 };

#include "rows_vnni.h"
#include "tables.h"

ALWAYS_INLINE void multiply_rows(const layout *l, const panel *p, size_t n_rows, __m512 *sums,
                                 const char *x, size_t x_row_bytes) {
    multiply_few(l, p, n_rows, sums, x, x_row_bytes);
}

ALWAYS_INLINE void begin_tile(const layout *l, size_t n_rows) {
    (void)l, (void)n_rows;
}

ALWAYS_INLINE void end_tile(void) {
}

#include "tiles_vnni.h"

static const pl_kernels table = GENERIC_TABLE;

const pl_kernels *pl_kernels_vnni(void) {
    return &table;
}
