/* The kernels for any processor. */
#include "lanes_plain.h"

#include "generic.h"
#include "tables.h"

const pl_kernels *pl_kernels_plain(void) {
    return &generic_table;
}
