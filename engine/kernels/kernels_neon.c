/* The kernels for 64-bit ARM. Quantised tiles are plain C, of which the compiler makes vectors. */
#include "lanes_neon.h"

#include "block_tiles.h"
#include "tables.h"

static const pl_kernels table = GENERIC_TABLE;

const pl_kernels *pl_kernels_neon(void) {
    return &table;
}
