#include "memory.h"

#include <stdint.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <unistd.h>

#include "size.h"

void *pl_memory_alloc(size_t bytes) {
    if (bytes > SIZE_MAX / 2) return NULL;
    bytes = pl_size_align(bytes + !bytes, PL_CACHE_LINE);
    size_t whole = (bytes + PL_HUGE_PAGE / 2) / PL_HUGE_PAGE * PL_HUGE_PAGE; /* rounded */
    if (!whole) return aligned_alloc(PL_CACHE_LINE, bytes);
    void *data;
    if (posix_memalign(&data, PL_HUGE_PAGE, bytes > whole ? bytes : whole) != 0) return NULL;
    madvise(data, whole, MADV_HUGEPAGE); /* a refusal is harmless */
    return data;
}

void pl_memory_fetch(const void *data, size_t bytes) {
#ifdef MADV_POPULATE_READ
    size_t before = (uintptr_t)data % (size_t)sysconf(_SC_PAGESIZE); /* whole pages */
    if (bytes) madvise((char *)data - before, before + bytes, MADV_POPULATE_READ);
#else
    (void)data, (void)bytes;
#endif
}

size_t pl_memory_size(void) {
    long pages = sysconf(_SC_PHYS_PAGES), page = sysconf(_SC_PAGESIZE);
    return pages > 0 && page > 0 ? (size_t)pages * (size_t)page : 0;
}
