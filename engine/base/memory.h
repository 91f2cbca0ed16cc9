/* Memory for what is large: arenas, tables, pages of keys and values, tensors. */
#ifndef PL_BASE_MEMORY_H
#define PL_BASE_MEMORY_H

#include <stddef.h>

enum { PL_CACHE_LINE = 64, PL_HUGE_PAGE = 2 << 20 };

/* At whole cache lines; what fills most of a huge page lies in the system's huge pages where it
 * lends them, for the first touch of each small page costs as much as thousands of multiplications.
 * The contents are unspecified; free() gives it back. NULL: out of memory. */
void *pl_memory_alloc(size_t bytes);

/* Makes a stretch of a mapped file ready to be read, in one go instead of fault by fault. */
void pl_memory_fetch(const void *data, size_t bytes);

/* Of the machine; 0: not known. */
size_t pl_memory_size(void);

#endif
