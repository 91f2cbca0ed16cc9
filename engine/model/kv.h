/* Keys and values of past positions, in pages that sequences share until one writes.
 *
 *     table of a sequence            pages (counted)
 *     layer 0: [p0][p1][p2]   ──▶    p0, p1 shared with a fork; p2 its own
 *     layer 1: [q0][q1][q2]
 *
 * A page holds 64 positions of one layer:
 *     keys   [n_kv_heads][64][d_head]    rotated already, so that truncation needs no work
 *     values [n_kv_heads][64][d_head]
 * A pool belongs to a session; pages that nobody holds wait in it for their next use. */
#ifndef PL_MODEL_KV_H
#define PL_MODEL_KV_H

#include "../kernels/kernels.h"
#include "config.h"

enum { PL_PAGE_POSITIONS = 64 };

typedef struct pl_page {
    struct pl_page *next_free;
    int refs;
    _Alignas(64) uint8_t data[];
} pl_page;

/* Pages are allocated some at a time. */
typedef struct pl_page_slab {
    struct pl_page_slab *older;
    _Alignas(64) uint8_t pages[];
} pl_page_slab;

typedef struct pl_page_pool {
    pl_dtype dtype; /* PL_F16, PL_F32 or PL_Q8_0 */
    int64_t n_layers, n_kv_heads, d_head;
    size_t row_bytes;  /* one position of one head */
    size_t half_bytes; /* all keys of a page; values follow */
    pl_page *free_list;
    pl_page_slab *slabs;
    size_t n_pages; /* in use and free */
} pl_page_pool;

void pl_page_pool_init(pl_page_pool *pool, const pl_config *config, pl_dtype dtype);
void pl_page_pool_clear(pl_page_pool *pool); /* every table was cleared before */

/* Which pages a sequence has: table[layer * capacity + index]. */
typedef struct pl_page_table {
    pl_page **pages;
    int64_t n_pages;  /* per layer */
    int64_t capacity; /* per layer */
} pl_page_table;

/* Pages for positions [0, n). PL_ERR_MEMORY leaves what was there. */
pl_status pl_page_table_reserve(pl_page_table *table, pl_page_pool *pool, int64_t n, pl_error *err);

/* Makes the pages that hold positions [from, to) of some layers the table's own, copying shared
 * ones. */
typedef struct pl_layers {
    int64_t from, to; /* from <= l < to */
} pl_layers;
pl_status pl_page_table_own(pl_page_table *table, pl_page_pool *pool, int64_t from, int64_t to,
                            pl_layers layers, pl_error *err);

/* Another table over the first n positions' pages. */
pl_status pl_page_table_share(pl_page_table *out, const pl_page_table *table, pl_page_pool *pool,
                              int64_t n, pl_error *err);
void pl_page_table_clear(pl_page_table *table, pl_page_pool *pool);

/* Where one head's keys or values of a page begin; position p of the page is p * row_bytes on. */
static inline uint8_t *pl_page_keys(const pl_page_pool *pool, pl_page *page, int64_t kv_head) {
    return page->data + (size_t)kv_head * PL_PAGE_POSITIONS * pool->row_bytes;
}
static inline uint8_t *pl_page_values(const pl_page_pool *pool, pl_page *page, int64_t kv_head) {
    return pl_page_keys(pool, page, kv_head) + pool->half_bytes;
}

#endif
