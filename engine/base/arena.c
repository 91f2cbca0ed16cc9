#include "arena.h"

#include <stdlib.h>

#include "size.h"

struct pl_arena_block {
    pl_arena_block *older;
    size_t size_bytes, used_bytes;
    _Alignas(PL_ARENA_ALIGN) uint8_t data[];
};

enum { FIRST_BLOCK_BYTES = 1 << 16 };

static pl_arena_block *block_new(size_t size_bytes, pl_arena_block *older) {
    size_t total;
    if (!pl_size_add(&total, size_bytes, sizeof(pl_arena_block) + PL_ARENA_ALIGN)) return NULL;
    pl_arena_block *block =
        aligned_alloc(PL_ARENA_ALIGN, pl_size_align(total - PL_ARENA_ALIGN, PL_ARENA_ALIGN));
    if (block) *block = (pl_arena_block){older, size_bytes, 0};
    return block;
}

void *pl_arena_alloc(pl_arena *arena, size_t bytes) {
    if (bytes > SIZE_MAX / 4) return NULL;
    bytes = pl_size_align(bytes, PL_ARENA_ALIGN);
    pl_arena_block *block = arena->newest;
    if (!block || block->size_bytes - block->used_bytes < bytes) {
        size_t size_bytes = block ? block->size_bytes * 2 : FIRST_BLOCK_BYTES;
        if (size_bytes < bytes) size_bytes = bytes;
        block = block_new(size_bytes, block);
        if (!block) return NULL;
        arena->newest = block;
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
    *arena = (pl_arena){0};
}

pl_arena_mark pl_arena_save(const pl_arena *arena) {
    pl_arena_block *block = arena->newest;
    return (pl_arena_mark){block, block ? block->used_bytes : 0, arena->used_bytes};
}

void pl_arena_rewind(pl_arena *arena, pl_arena_mark mark) {
    while (arena->newest != mark.block) {
        pl_arena_block *block = arena->newest;
        arena->newest = block->older;
        free(block);
    }
    if (mark.block) mark.block->used_bytes = mark.block_used_bytes;
    arena->used_bytes = mark.used_bytes;
}
