/* The surroundings of an operation: kernels, threads, memory for outputs, the place for errors.
 *
 * An operation is
 *     pl_status pl_op_NAME(pl_call *c, pl_tensor *out, const pl_tensor *in, ...);
 * It checks its inputs, asks pl_call_tensor for its output, and computes. On failure it returns
 * the status, c->err holds the message, and *out is empty. Operations know nothing of models,
 * hooks or Lua.
 *
 * Two kinds of calls share every operation:
 *   a forward pass     arena set: outputs are borrowed (storage NULL), die with the arena's reset,
 *                      and cost no malloc once the arena is warm
 *   Lua's arithmetic   arena NULL: outputs are owned (counted storage)
 * A pass under which gradients are recorded has both: the arena for scratch, owned outputs. */
#ifndef PL_TENSOR_CALL_H
#define PL_TENSOR_CALL_H

#include "../base/arena.h"
#include "../kernels/kernels.h"
#include "tensor.h"

/* Outputs of a recorded pass, which nodes may hold for longer. */
typedef struct pl_keep {
    pl_tensor *tensors;
    size_t n, capacity;
} pl_keep;
void pl_keep_clear(pl_keep *keep);
/* Keeps a share of t. */
pl_status pl_keep_add(pl_keep *keep, pl_tensor *t, pl_error *err);

typedef struct pl_call {
    const pl_kernels *kernels;
    int n_threads;
    size_t parallel_work;        /* see pl_call_threads */
    bool exact;                  /* quantised weights meet float32 activations, not rounded ones */
    const pl_fast_kernels *fast; /* many rows and plain weights meet in bfloat16; or NULL */
    pl_arena *arena;             /* NULL: outputs are owned */
    uint64_t weight_bytes;       /* weights read by linear maps so far */
    bool paused;                 /* gradients are not recorded */
    const pl_tensor *owner;      /* of weights that are not counted: nodes hold it; or NULL */
    pl_keep *keep; /* a recorded pass: outputs are owned and kept here, not in the arena */
    pl_error err;
} pl_call;

/* Calls with owned outputs, the kernels of this processor. */
pl_status pl_call_init(pl_call *c, int n_threads, pl_error *err);

/* A contiguous output, not cleared. Errors as pl_tensor_new, in c->err. */
pl_status pl_call_tensor(pl_call *c, pl_tensor *out, pl_dtype dtype, int n_dims,
                         const int64_t *shape);

/* Scratch that is gone when the operation returns: freed by pl_call_scratch_end with the mark that
 * pl_call_scratch_begin gave, in an arena or not. NULL when memory is short (c->err is set). */
typedef struct pl_scratch {
    pl_arena_mark mark;
    void *heap;
} pl_scratch;
void *pl_call_scratch_begin(pl_call *c, pl_scratch *scratch, size_t bytes);
void pl_call_scratch_end(pl_call *c, pl_scratch *scratch);

/* How many threads an operation of so many multiply-adds is worth: one, where another would hardly
 * have begun when the first is done. No result depends on it. */
static inline int pl_call_threads(const pl_call *c, size_t work) {
    return work < c->parallel_work ? 1 : c->n_threads;
}

#endif
