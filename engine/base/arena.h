/* A bump allocator that keeps its memory between resets, so that steady work allocates nothing.
 *
 *     pl_arena arena = {0};
 *     float *x = pl_arena_alloc(&arena, n * sizeof *x);   // NULL when memory is short
 *     pl_arena_reset(&arena);                             // x is gone, its memory is kept
 *     pl_arena_clear(&arena);
 *
 *     block 2 (newest)         block 1
 *     [header|used ...|free] -> [header|used ........]
 */
#ifndef PL_BASE_ARENA_H
#define PL_BASE_ARENA_H

#include "../perilune.h"

typedef struct pl_arena_block pl_arena_block;

typedef struct pl_arena {
    pl_arena_block *newest;
    pl_arena_block *spare; /* the largest that a rewind left over, or NULL */
    size_t used_bytes;     /* since the last reset, over all blocks */
    size_t peak_bytes;     /* the most that was ever used at once */
} pl_arena;

/* A place to come back to: everything allocated after the mark goes at pl_arena_rewind. */
typedef struct pl_arena_mark {
    pl_arena_block *block;
    size_t block_used_bytes, used_bytes;
} pl_arena_mark;

/* bytes may be 0; the result is aligned to whole cache lines and not cleared. */
void *pl_arena_alloc(pl_arena *arena, size_t bytes);

/* Forgets everything and keeps one block with room for the peak, so that the same work done again
 * allocates nothing. */
void pl_arena_reset(pl_arena *arena);
void pl_arena_clear(pl_arena *arena);

pl_arena_mark pl_arena_save(const pl_arena *arena);
void pl_arena_rewind(pl_arena *arena, pl_arena_mark mark);

#endif
