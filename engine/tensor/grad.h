/* Gradients by reverse accumulation, recorded beside the operations.
 *
 * An operation that has computed calls pl_record; when one of its inputs is tracked that makes a
 * node, which the storage of its output then holds. pl_backward walks the nodes from a scalar back
 * to those tensors for which somebody asked for a gradient.
 *
 *     w.storage ◀── node(linear) ◀── y.storage ◀── node(sum) ◀── loss.storage
 *
 * The gradient of a tensor lies in its storage's `adjoint`, at the places of the tensor's own
 * elements, so that views need no nodes. An in-place write keeps what it overwrites: walking back
 * undoes it, every earlier node finds the values that it saw, and at the end all writes are done
 * again. A value that was changed outside of the record is an error, not a wrong number: each
 * storage counts its writes.
 *
 * Nodes hold what they read: the storage, and the node that wrote it as it was read. A storage that
 * only nodes hold lets its own node go, for no new operation can read it and no walk begin at it.
 * So nodes hold earlier nodes only, and no record holds itself, not even that of a storage written
 * in place with values that were made from it.
 *
 * With no tracked input nothing is recorded or allocated. Nodes and storages of one graph belong to
 * one thread. */
#ifndef PL_TENSOR_GRAD_H
#define PL_TENSOR_GRAD_H

#include "call.h"

typedef struct pl_node pl_node;

/* What a node reads. */
typedef struct pl_edge {
    pl_tensor tensor; /* counted, but where it lies in the storage that the node writes */
    pl_node *node;    /* who wrote the tensor's storage, as it was read; counted */
    uint32_t version; /* of the storage, as it was read */
    bool tracked;     /* a gradient is wanted */
} pl_edge;

typedef struct pl_rule {
    const char *name;
    /* Adds to the gradients of the node's inputs what g, the gradient of its output, says. NULL:
     * there is no gradient, which is told when one is asked for. */
    pl_status (*backward)(pl_call *c, pl_node *node, const pl_tensor *g);
    uint32_t reads; /* bit i: backward reads the values of input i */
    bool reads_out; /* and those of the output */
} pl_rule;

/* Inputs from the 32nd on are read as the 32nd is. */
static inline bool pl_rule_reads(const pl_rule *rule, int i) {
    return rule->reads >> (i < 31 ? i : 31) & 1;
}

enum { PL_NODE_NUMBERS = 4 };

struct pl_node {
    int refs;
    const pl_rule *rule;
    uint64_t serial;  /* later operations on the same storages have larger ones */
    pl_tensor out;    /* as written; not counted: its storage holds the node */
    uint32_t version; /* of the storage with that content */
    pl_node *before;  /* in place: who wrote the storage before; counted */
    bool in_place;
    pl_tensor undo; /* in place: the other content of out, contiguous and owned */
    pl_edge *in;
    int n_in;
    /* For the rule: */
    pl_tensor saved; /* counted; no recorded one */
    double number[PL_NODE_NUMBERS];
    void *owned; /* given to release_owned when the node goes */
    void (*release_owned)(void *owned);
    /* While walking, and while being taken apart: */
    bool seen, undone, spent;
    pl_node *next;
};

/* -- recording ------------------------------------------------------------------------------ */

static inline bool pl_tracked(const pl_tensor *t) {
    return t->storage && (t->storage->node || t->storage->leaf);
}

/* Records that `out`, in new memory, was made from `in`. *node: NULL when no input is tracked or
 * recording is paused (c->paused); else filled but for what is the rule's own. out may be NULL
 * from a failed operation: then status is returned as it is. Inputs whose values the rule
 * reads are copied where nobody counts their memory. */
pl_status pl_record(pl_call *c, const pl_rule *rule, const pl_tensor *out,
                    const pl_tensor *const *in, int n_in, pl_node **node);

/* To be called before elements of x are written in place, recorded or not. in [0] is x itself.
 * PL_ERR_STATE when x is a leaf: its old value is what the gradient is for. */
pl_status pl_record_write(pl_call *c, const pl_rule *rule, const pl_tensor *x,
                          const pl_tensor *const *in, int n_in, pl_node **node);

/* -- asking --------------------------------------------------------------------------------- */

/* Wants the gradient of t as it is now. A tensor that nothing tracked has made becomes a leaf: its
 * gradient adds up over backward passes, until cleared. Errors: PL_ERR_ARGUMENT (no float32, or
 * memory that is only lent). */
pl_status pl_require_grad(pl_call *c, const pl_tensor *t);

/* The gradient found for t, a view that the caller then releases; empty when there is none. */
void pl_get_grad(const pl_tensor *t, pl_tensor *grad);
void pl_clear_grad(const pl_tensor *t);
/* Asks no more for the gradient of a leaf. */
void pl_forget_grad(const pl_tensor *t);

/* Calls back with the gradient of t as it is now, which the callback may change, when a backward
 * pass comes by. context is released with the node. */
typedef pl_status (*pl_grad_fn)(void *context, pl_tensor *g, pl_error *err);
pl_status pl_watch_grad(pl_call *c, const pl_tensor *t, pl_grad_fn fn, void *context,
                        void (*release)(void *context));

/* Walks back from out with the gradient seed (NULL: 1, out must then be one number). Unless retain
 * the graph is freed on the way, node by node; where the walk fails the rest stays. Errors:
 * PL_ERR_STATE (nothing tracked, freed already, a value that is no longer there),
 * PL_ERR_UNSUPPORTED (an operation without gradient, by name). */
pl_status pl_backward(pl_call *c, const pl_tensor *out, const pl_tensor *seed, bool retain);

/* -- for rules ------------------------------------------------------------------------------ */

/* The gradient of input i, to be added to; false when nobody wants it. */
pl_status pl_input_grad(pl_call *c, pl_node *node, int i, pl_tensor *grad, bool *wanted);
/* The values of the output. */
const pl_tensor *pl_node_out(const pl_node *node);

void pl_node_release(pl_node *node); /* NULL is accepted */

/* to += from, from broadcast to the shape of to or to to the shape of from: then what falls on one
 * element is summed. */
void pl_accumulate(const pl_tensor *to, const pl_tensor *from);

/* Storage of a tensor goes: what it holds for gradients goes with it. */
void pl_storage_forget(pl_storage *storage);
/* Only nodes hold the storage from here on, which may be gone on return. */
void pl_storage_leave(pl_storage *storage);

#endif
