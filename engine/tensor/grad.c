/* The record of operations: nodes, and who holds them. The walk back is in backward.c. */
#include "grad.h"

#include <stdlib.h>
#include <string.h>

#include "../base/error.h"
#include "elementwise.h"
#include "grad_internal.h"

/* -- lifetime ------------------------------------------------------------------------------- */

/* Nodes that nobody holds any more, to be taken apart one after another: a chain of operations may
 * be longer than the stack is deep. */
static void drop(pl_node *node, pl_node **doomed) {
    if (!node || --node->refs > 0) return;
    node->next = *doomed;
    *doomed = node;
}

static void drop_edge(pl_edge *edge, pl_node **doomed) {
    drop(edge->node, doomed);
    if (edge->tensor.storage) edge->tensor.storage->edges--;
    pl_tensor_release(&edge->tensor);
}

static void drop_inputs(pl_node *node, pl_node **doomed) {
    for (int i = 0; i < node->n_in; i++) drop_edge(&node->in[i], doomed);
    drop(node->before, doomed);
    node->before = NULL;
    node->n_in = 0;
    pl_tensor_release(&node->saved);
    pl_tensor_release(&node->undo);
    if (node->release_owned) node->release_owned(node->owned);
    node->release_owned = NULL;
}

static void take_apart(pl_node *doomed) {
    while (doomed) {
        pl_node *node = doomed;
        doomed = node->next;
        drop_inputs(node, &doomed);
        free(node->in);
        free(node);
    }
}

void pl_node_release(pl_node *node) {
    pl_node *doomed = NULL;
    drop(node, &doomed);
    take_apart(doomed);
}

void pl_node_spend(pl_node *node) {
    pl_node *doomed = NULL;
    pl_tensor undo = node->undo;
    if (node->undone) node->undo = (pl_tensor){0};
    drop_inputs(node, &doomed);
    if (node->undone) node->undo = undo;
    node->spent = true;
    take_apart(doomed);
}

static void drop_grad(pl_storage *storage) {
    pl_tensor grad = {.storage = storage->grad};
    storage->grad = NULL;
    pl_tensor_release(&grad);
}

void pl_storage_forget(pl_storage *storage) {
    if (!storage->node && !storage->grad) return;
    pl_node_release(storage->node);
    storage->node = NULL;
    drop_grad(storage);
}

void pl_storage_leave(pl_storage *storage) {
    pl_node *node = storage->node;
    storage->node = NULL;
    pl_node_release(node);
}

float *pl_storage_grad(pl_storage *storage) {
    if (!storage->grad) {
        pl_tensor grad;
        int64_t n = (int64_t)(storage->bytes / sizeof(float));
        if (pl_tensor_new(&grad, PL_F32, 1, &n, NULL) != PL_OK) return NULL;
        memset(grad.data, 0, storage->bytes);
        storage->grad = grad.storage;
    }
    return storage->grad->data;
}

/* -- recording ------------------------------------------------------------------------------ */

static pl_status no_memory(pl_call *c) {
    return pl_fail(&c->err, PL_ERR_MEMORY, "out of memory for a gradient's record");
}

static pl_node *new_node(const pl_rule *rule, const pl_tensor *out, int n_in) {
    pl_node *node = calloc(1, sizeof *node);
    pl_edge *in = calloc(n_in > 0 ? (size_t)n_in : 1, sizeof *in);
    if (!node || !in) {
        free(node), free(in);
        return NULL;
    }
    *node = (pl_node){.refs = 1, .rule = rule, .out = *out, .in = in};
    return node;
}

/* Values that nobody counts, such as a number's, are kept as a copy. */
static pl_status keep_values(pl_call *c, pl_tensor *t) {
    pl_call owned = {.kernels = c->kernels, .n_threads = 1};
    pl_tensor copy;
    pl_status status = pl_op_to(&owned, &copy, t, t->dtype);
    if (status != PL_OK) {
        c->err = owned.err;
        return status;
    }
    *t = copy;
    return PL_OK;
}

static pl_status fill_edge(pl_call *c, pl_node *node, const pl_tensor *t) {
    int i = node->n_in;
    pl_edge *edge = &node->in[i];
    *edge = (pl_edge){.tensor = *t, .tracked = pl_tracked(t) && t->dtype == PL_F32};
    node->n_in++;
    if (!t->storage) {
        if (!pl_rule_reads(node->rule, i)) {
            edge->tensor.data = NULL;
            return PL_OK;
        }
        pl_status status = keep_values(c, &edge->tensor);
        if (status == PL_OK) edge->tensor.storage->edges = 1;
        return status;
    }
    pl_storage *storage = t->storage;
    edge->version = storage->version;
    if (storage->node) {
        edge->node = storage->node;
        edge->node->refs++;
    }
    if (storage != node->out.storage) {
        pl_tensor_retain(&edge->tensor);
        storage->edges++;
    }
    if (storage->clock > node->serial) node->serial = storage->clock;
    return PL_OK;
}

/* The node comes after all that its storages have met; they know of it from here on. */
static void set_serial(pl_node *node) {
    pl_storage *out = node->out.storage;
    if (out->clock > node->serial) node->serial = out->clock;
    node->serial++;
    out->clock = node->serial;
    for (int i = 0; i < node->n_in; i++) {
        if (node->in[i].tensor.storage) node->in[i].tensor.storage->clock = node->serial;
    }
}

/* An edge within the node's own storage does not count it: the storage holds the node. */
static void forget_own(pl_node *node) {
    for (int i = 0; i < node->n_in; i++) {
        pl_tensor *t = &node->in[i].tensor;
        if (t->storage == node->out.storage) t->storage = NULL;
    }
}

static bool any_tracked(const pl_tensor *const *in, int n_in) {
    for (int i = 0; i < n_in; i++) {
        if (in[i] && in[i]->dtype == PL_F32 && pl_tracked(in[i])) return true;
    }
    return false;
}

static pl_status make_node(pl_call *c, const pl_rule *rule, const pl_tensor *out,
                           const pl_tensor *const *in, int n_in, pl_node **node) {
    pl_node *made = new_node(rule, out, n_in);
    if (!made) return no_memory(c);
    for (int i = 0; i < n_in; i++) {
        pl_status status = fill_edge(c, made, in[i]);
        if (status == PL_OK) continue;
        forget_own(made);
        pl_node_release(made);
        return status;
    }
    set_serial(made);
    *node = made;
    return PL_OK;
}

pl_status pl_record(pl_call *c, const pl_rule *rule, const pl_tensor *out,
                    const pl_tensor *const *in, int n_in, pl_node **node) {
    pl_node *made = NULL;
    if (node) *node = NULL;
    if (c->paused || !out->storage || !any_tracked(in, n_in)) return PL_OK;
    pl_status status = make_node(c, rule, out, in, n_in, &made);
    if (status != PL_OK) return status;
    made->version = out->storage->version;
    out->storage->node = made;
    if (node) *node = made;
    return PL_OK;
}

pl_status pl_record_write(pl_call *c, const pl_rule *rule, const pl_tensor *x,
                          const pl_tensor *const *in, int n_in, pl_node **node) {
    pl_node *made = NULL;
    pl_storage *storage = x->storage;
    if (node) *node = NULL;
    if (!storage) return PL_OK;
    bool record = !c->paused && x->dtype == PL_F32 && any_tracked(in, n_in);
    if (record && storage->leaf) {
        return pl_fail(&c->err, PL_ERR_STATE,
                       "%s on a tensor that requires grad: its gradient would be of a value that "
                       "is gone; clone() it, or change it in pl.no_grad",
                       rule->name);
    }
    if (record) {
        pl_status status = make_node(c, rule, x, in, n_in, &made);
        pl_tensor kept = *x;
        if (status == PL_OK) status = keep_values(c, &kept);
        if (status != PL_OK) {
            if (made) forget_own(made), pl_node_release(made);
            return status;
        }
        made->undo = kept;
        made->in_place = true;
        made->before = storage->node;
        forget_own(made);
        storage->node = made;
    }
    storage->version++;
    if (made) made->version = storage->version;
    if (node) *node = made;
    return PL_OK;
}

/* -- asking --------------------------------------------------------------------------------- */

typedef struct watch {
    pl_grad_fn fn;
    void *context;
    void (*release)(void *context);
} watch;

static void release_watch(void *owned) {
    watch *w = owned;
    if (w->release) w->release(w->context);
    free(w);
}

/* Shows the adjoint itself, which then goes on back as the callback leaves it. */
static pl_status watch_backward(pl_call *c, pl_node *node, const pl_tensor *g) {
    const watch *w = node->owned;
    pl_tensor shown = *g;
    return w->fn(w->context, &shown, &c->err);
}

static const pl_rule watch_rule = {.name = "a gradient hook", .backward = watch_backward};

const pl_rule *pl_watch_rule(void) {
    return &watch_rule;
}

static pl_status check_askable(pl_call *c, const pl_tensor *t) {
    if (t->dtype != PL_F32) {
        return pl_fail(&c->err, PL_ERR_ARGUMENT, "a gradient for a %s tensor: expected f32",
                       pl_dtype_get(t->dtype)->name);
    }
    if (t->storage) return PL_OK;
    return pl_fail(
        &c->err, PL_ERR_ARGUMENT,
        "this memory is only lent; an activation needs a pass inside pl.grad that goes to "
        "the logits");
}

/* A node in the chain of the storage's own contents, over all of x, that changes nothing. */
static pl_status watch_node(pl_call *c, const pl_tensor *t, watch w) {
    pl_status status = check_askable(c, t);
    pl_node *node = NULL;
    watch *owned = status == PL_OK ? malloc(sizeof *owned) : NULL;
    if (status == PL_OK && !owned) status = no_memory(c);
    if (status == PL_OK) status = make_node(c, &watch_rule, t, &t, 1, &node);
    if (status != PL_OK) {
        free(owned);
        return status;
    }
    *owned = w;
    node->owned = owned;
    node->release_owned = release_watch;
    node->in_place = true; /* without undo: nothing is written */
    node->version = t->storage->version;
    node->before = t->storage->node;
    forget_own(node);
    t->storage->node = node;
    return PL_OK;
}

pl_status pl_watch_grad(pl_call *c, const pl_tensor *t, pl_grad_fn fn, void *context,
                        void (*release)(void *context)) {
    return watch_node(c, t, (watch){fn, context, release});
}

/* Keeps what comes by in the storage's own grad: context is the storage, which holds the node. */
static pl_status keep_grad(void *context, pl_tensor *g, pl_error *err) {
    pl_storage *storage = context;
    float *grad = pl_storage_grad(storage);
    if (!grad) return pl_fail(err, PL_ERR_MEMORY, "out of memory for a gradient");
    pl_tensor to = *g;
    to.data = grad + ((float *)g->data - storage->adjoint);
    pl_accumulate(&to, g);
    return PL_OK;
}

pl_status pl_require_grad(pl_call *c, const pl_tensor *t) {
    pl_status status = check_askable(c, t);
    if (status != PL_OK) return status;
    if (!t->storage->node) {
        t->storage->leaf = true;
        return PL_OK;
    }
    pl_node *last = t->storage->node;
    bool asked = last->rule == &watch_rule && ((watch *)last->owned)->fn == keep_grad;
    return asked ? PL_OK : watch_node(c, t, (watch){keep_grad, t->storage, NULL});
}

void pl_get_grad(const pl_tensor *t, pl_tensor *grad) {
    *grad = (pl_tensor){0};
    if (!t->storage || !t->storage->grad || t->dtype != PL_F32) return;
    *grad = *t;
    grad->storage = t->storage->grad;
    grad->data = (char *)grad->storage->data + ((char *)t->data - (char *)t->storage->data);
    pl_tensor_retain(grad);
}

void pl_clear_grad(const pl_tensor *t) {
    if (t->storage && t->storage->grad) drop_grad(t->storage);
}

void pl_forget_grad(const pl_tensor *t) {
    if (t->storage) t->storage->leaf = false;
    pl_clear_grad(t);
}
