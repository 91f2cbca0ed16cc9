#include "kv.h"

#include <stdlib.h>
#include <string.h>

#include "../base/error.h"
#include "../base/memory.h"
#include "../base/size.h"

void pl_page_pool_init(pl_page_pool *pool, const pl_config *config, pl_dtype dtype) {
    *pool = (pl_page_pool){.dtype = dtype,
                           .n_layers = config->n_layers,
                           .n_kv_heads = config->n_kv_heads,
                           .d_head = config->d_head};
    pl_dtype_row_bytes(dtype, (size_t)config->d_head, &pool->row_bytes); /* checked before */
    pool->half_bytes = (size_t)config->n_kv_heads * PL_PAGE_POSITIONS * pool->row_bytes;
}

void pl_page_pool_clear(pl_page_pool *pool) {
    while (pool->slabs) {
        pl_page_slab *slab = pool->slabs;
        pool->slabs = slab->older;
        free(slab);
    }
    pool->free_list = NULL;
    pool->n_pages = 0;
}

/* As many free pages as fit one of the system's huge pages, a few for each layer, or one. */
static bool grow_pool(pl_page_pool *pool) {
    size_t bytes = pl_size_align(sizeof(pl_page) + 2 * pool->half_bytes, PL_CACHE_LINE);
    size_t n = (PL_HUGE_PAGE - sizeof(pl_page_slab)) / bytes, most = 4 * (size_t)pool->n_layers;
    if (n > most) n = most;
    if (n == 0) n = 1;
    pl_page_slab *slab = pl_memory_alloc(sizeof *slab + n * bytes);
    if (!slab) return false;
    slab->older = pool->slabs;
    pool->slabs = slab;
    pool->n_pages += n;
    while (n-- > 0) { /* the first on top */
        pl_page *page = (pl_page *)(void *)(slab->pages + n * bytes);
        page->next_free = pool->free_list;
        pool->free_list = page;
    }
    return true;
}

static pl_page *page_take(pl_page_pool *pool) {
    if (!pool->free_list && !grow_pool(pool)) return NULL;
    pl_page *page = pool->free_list;
    pool->free_list = page->next_free;
    page->next_free = NULL;
    page->refs = 1;
    return page;
}

static void page_drop(pl_page_pool *pool, pl_page *page) {
    if (--page->refs > 0) return;
    page->next_free = pool->free_list;
    pool->free_list = page;
}

static pl_status table_grow(pl_page_table *table, int64_t n_layers, int64_t capacity,
                            pl_error *err) {
    if (capacity <= table->capacity) return PL_OK;
    if (capacity < 2 * table->capacity) capacity = 2 * table->capacity;
    size_t n, bytes;
    pl_page **pages = NULL;
    if (pl_size_mul(&n, (size_t)n_layers, (size_t)capacity) &&
        pl_size_mul(&bytes, n, sizeof *pages)) {
        pages = malloc(bytes);
    }
    if (!pages) return pl_fail(err, PL_ERR_MEMORY, "out of memory for a table of pages");
    for (int64_t l = 0; l < n_layers && table->n_pages; l++) {
        memcpy(pages + l * capacity, table->pages + l * table->capacity,
               (size_t)table->n_pages * sizeof *pages);
    }
    free(table->pages);
    table->pages = pages;
    table->capacity = capacity;
    return PL_OK;
}

pl_status pl_page_table_reserve(pl_page_table *table, pl_page_pool *pool, int64_t n,
                                pl_error *err) {
    int64_t n_pages = (n + PL_PAGE_POSITIONS - 1) / PL_PAGE_POSITIONS;
    pl_status status = table_grow(table, pool->n_layers, n_pages, err);
    if (status != PL_OK) return status;
    while (table->n_pages < n_pages) {
        for (int64_t l = 0; l < pool->n_layers; l++) {
            pl_page *page = page_take(pool);
            if (!page) {
                while (l-- > 0) page_drop(pool, table->pages[l * table->capacity + table->n_pages]);
                return pl_fail(err, PL_ERR_MEMORY, "out of memory for keys and values");
            }
            table->pages[l * table->capacity + table->n_pages] = page;
        }
        table->n_pages++;
    }
    return PL_OK;
}

pl_status pl_page_table_own(pl_page_table *table, pl_page_pool *pool, int64_t from, int64_t to,
                            pl_layers layers, pl_error *err) {
    for (int64_t i = from / PL_PAGE_POSITIONS; i * PL_PAGE_POSITIONS < to; i++) {
        for (int64_t l = layers.from; l < layers.to; l++) {
            pl_page **place = &table->pages[l * table->capacity + i];
            if ((*place)->refs == 1) continue;
            pl_page *page = page_take(pool);
            if (!page) return pl_fail(err, PL_ERR_MEMORY, "out of memory for keys and values");
            memcpy(page->data, (*place)->data, 2 * pool->half_bytes);
            page_drop(pool, *place);
            *place = page;
        }
    }
    return PL_OK;
}

pl_status pl_page_table_share(pl_page_table *out, const pl_page_table *table, pl_page_pool *pool,
                              int64_t n, pl_error *err) {
    *out = (pl_page_table){0};
    int64_t n_pages = (n + PL_PAGE_POSITIONS - 1) / PL_PAGE_POSITIONS;
    pl_status status = table_grow(out, pool->n_layers, n_pages, err);
    if (status != PL_OK) return status;
    out->n_pages = n_pages;
    for (int64_t l = 0; l < pool->n_layers; l++) {
        for (int64_t i = 0; i < n_pages; i++) {
            pl_page *page = table->pages[l * table->capacity + i];
            page->refs++;
            out->pages[l * out->capacity + i] = page;
        }
    }
    return PL_OK;
}

void pl_page_table_clear(pl_page_table *table, pl_page_pool *pool) {
    for (int64_t l = 0; l < pool->n_layers; l++) {
        for (int64_t i = 0; i < table->n_pages; i++) {
            page_drop(pool, table->pages[l * table->capacity + i]);
        }
    }
    free(table->pages);
    *table = (pl_page_table){0};
}
