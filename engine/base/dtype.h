/* What element types are like. Quantised ones store a row as blocks of a fixed number of elements.
 *
 * The order within a block, and the meaning of each byte, is GGUF's; see kernels/blocks.h. */
#ifndef PL_BASE_DTYPE_H
#define PL_BASE_DTYPE_H

#include "../perilune.h"

typedef struct pl_dtype_info {
    const char *name;      /* "f32", "q4_k", ...: llama.cpp's names in lower case */
    size_t block_elements; /* 1 for plain types */
    size_t block_bytes;
    bool quantised;
} pl_dtype_info;

/* dtype must be in range. Static storage. */
const pl_dtype_info *pl_dtype_get(pl_dtype dtype);

/* The type with this name, in any case; false when there is none. */
bool pl_dtype_find(const char *name, pl_dtype *dtype);

/* Bytes of a row of n elements; false when n is no multiple of the block or it overflows. */
bool pl_dtype_row_bytes(pl_dtype dtype, size_t n, size_t *bytes);

#endif
