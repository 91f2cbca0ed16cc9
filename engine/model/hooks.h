/* The listeners of a session. What hook points are, and how one is registered, is told in
 * perilune.h. With no listener a point costs one bit test and nothing is materialised for it. */
#ifndef PL_MODEL_HOOKS_H
#define PL_MODEL_HOOKS_H

#include "../tensor/call.h"

pl_status pl_hooks_new(pl_hooks **hooks, int64_t n_layers, pl_error *err);
void pl_hooks_free(pl_hooks *hooks);

/* Bits of the points that anybody listens to in this layer (-1: outside the blocks), and of those
 * where somebody may write. */
uint64_t pl_hooks_mask(const pl_hooks *hooks, int layer);
uint64_t pl_hooks_write_mask(const pl_hooks *hooks, int layer);

/* Calls the listeners of a point in the order of registration, each once per span that it wants.
 *   act    of several spans: its first dimension is their rows; of one: all of it is that span's */
pl_status pl_hooks_fire(pl_hooks *hooks, pl_point point, int layer, pl_tensor *act,
                        const pl_span *spans, int64_t n_spans, pl_error *err);

#endif
