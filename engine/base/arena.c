#include "arena.h"

#include <stdlib.h>

#include "memory.h"
#include "size.h"

struct pl_arena_block {
    pl_arena_block *older;
    size_t size_bytes, used_bytes;
    _Alignas(PL_CACHE_LINE) uint8_t data[];
};

enum { FIRST_BLOCK_BYTES = 1 << 16 };

static pl_arena_block *block_new(size_t size_bytes, pl_arena_block *older) {
    size_t total;
    if (!pl_size_add(&total, size_bytes, sizeof(pl_arena_block))) return NULL;
    pl_arena_block *block = pl_memory_alloc(total);
    if (block) *block = (pl_arena_block){older, size_bytes, 0};
    return block;
}

/* A newest block with room for so many bytes. */
static pl_arena_block *add_block(pl_arena *arena, size_t bytes) {
    pl_arena_block *older = arena->newest, *block = arena->spare;
    if (block && block->size_bytes >= bytes) {
        arena->spare = NULL;
        *block = (pl_arena_block){older, block->size_bytes, 0};
    } else {
        size_t size_bytes = older ? older->size_bytes * 2 : FIRST_BLOCK_BYTES;
        block = block_new(size_bytes < bytes ? bytes : size_bytes, older);
    }
    if (block) arena->newest = block;
    return block;
}

void *pl_arena_alloc(pl_arena *arena, size_t bytes) {
    if (bytes > SIZE_MAX / 4) return NULL;
    bytes = pl_size_align(bytes, PL_CACHE_LINE);
    pl_arena_block *block = arena->newest;
    if (!block || block->size_bytes - block->used_bytes < bytes) {
        block = add_block(arena, bytes);
        if (!block) return NULL;
    }
    void *result = block->data + block->used_bytes;
    block->used_bytes += bytes;
    arena->used_bytes += bytes;
    if (arena->used_bytes > arena->peak_bytes) arena->peak_bytes = arena->used_bytes;
    return result;
}

void pl_arena_reset(pl_arena *arena) {
    size_t peak_bytes = arena->peak_bytes;
    pl_arena_block *newest = arena->newest;
    arena->used_bytes = 0;
    if (newest && !newest->older && newest->size_bytes >= peak_bytes) {
        newest->used_bytes = 0;
        free(arena->spare);
        arena->spare = NULL;
        return;
    }
    pl_arena_clear(arena);
    arena->peak_bytes = peak_bytes;
    if (!peak_bytes) return;
    size_t spare = peak_bytes / 8; /* so that slowly growing work rarely grows the block */
    arena->newest = block_new(peak_bytes + spare, NULL); /* NULL: the next alloc tries again */
}

void pl_arena_clear(pl_arena *arena) {
    pl_arena_block *block = arena->newest;
    while (block) {
        pl_arena_block *older = block->older;
        free(block);
        block = older;
    }
    free(arena->spare);
    *arena = (pl_arena){0};
}

pl_arena_mark pl_arena_save(const pl_arena *arena) {
    pl_arena_block *block = arena->newest;
    return (pl_arena_mark){block, block ? block->used_bytes : 0, arena->used_bytes};
}

static void leave_over(pl_arena *arena, pl_arena_block *block) {
    pl_arena_block *spare = arena->spare;
    bool larger = !spare || block->size_bytes > spare->size_bytes;
    free(larger ? spare : block);
    if (larger) arena->spare = block;
}

void pl_arena_rewind(pl_arena *arena, pl_arena_mark mark) {
    while (arena->newest != mark.block) {
        pl_arena_block *block = arena->newest;
        arena->newest = block->older;
        leave_over(arena, block);
    }
    if (mark.block) mark.block->used_bytes = mark.block_used_bytes;
    arena->used_bytes = mark.used_bytes;
}
