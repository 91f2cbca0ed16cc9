/* Between grad.c, which keeps nodes, and backward.c, which walks them. */
#ifndef PL_TENSOR_GRAD_INTERNAL_H
#define PL_TENSOR_GRAD_INTERNAL_H

#include "grad.h"

/* Lets go of what a node holds, but what a write that is undone needs to be done again; the node
 * stays as the mark that its record is gone. */
void pl_node_spend(pl_node *node);

/* The gradient's memory of a storage, made of zeros when first needed; NULL when memory is short.
 */
float *pl_storage_grad(pl_storage *storage);

/* The rule of those who watch a gradient. */
const pl_rule *pl_watch_rule(void);

#endif
