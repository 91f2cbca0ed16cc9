/* The kernels for any processor. */
#include "lanes_plain.h"

#include "block_tiles.h"
#include "tables.h"

static const pl_kernels table = GENERIC_TABLE;

const pl_kernels *pl_kernels_plain(void) {
    return &table;
}
