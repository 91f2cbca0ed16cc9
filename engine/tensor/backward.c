/* The walk back from a result to those whose gradient is wanted. */
#include <stdlib.h>
#include <string.h>

#include "../base/error.h"
#include "cursor.h"
#include "grad.h"
#include "grad_internal.h"

/* The nodes that a result depends on, the latest first. */
typedef struct walk {
    pl_node **nodes;
    size_t n, capacity;
} walk;

/* The walk holds a node's storage until it has passed: later nodes, which hold it too, go before.
 */
static void hold(pl_node *node) {
    pl_tensor_retain(&node->out);
    node->out.storage->edges++;
}

static void free_adjoint(pl_storage *storage) {
    if (!storage->grad || storage->adjoint != storage->grad->data) free(storage->adjoint);
    storage->adjoint = NULL;
}

static void let_go(pl_node *node) {
    pl_tensor out = node->out;
    if (out.storage->refs == 1) free_adjoint(out.storage);
    out.storage->edges--;
    pl_tensor_release(&out);
}

static bool add(walk *w, pl_node *node) {
    if (!node || node->seen) return true;
    if (w->n == w->capacity) {
        size_t capacity = w->capacity ? 2 * w->capacity : 256;
        pl_node **nodes = realloc(w->nodes, capacity * sizeof *nodes);
        if (!nodes) return false;
        w->nodes = nodes;
        w->capacity = capacity;
    }
    node->seen = true;
    node->refs++;
    hold(node);
    w->nodes[w->n++] = node;
    return true;
}

static int later_first(const void *a, const void *b) {
    const pl_node *const *x = a, *const *y = b;
    return ((*x)->serial < (*y)->serial) - ((*x)->serial > (*y)->serial);
}

static pl_status collect(pl_call *c, walk *w, pl_node *last) {
    bool fits = add(w, last);
    for (size_t i = 0; i < w->n && fits; i++) {
        pl_node *node = w->nodes[i];
        if (node->spent) {
            return pl_fail(&c->err, PL_ERR_STATE,
                           "the record was freed by an earlier backward; the first may keep it "
                           "with {retain_graph = true}");
        }
        fits = add(w, node->before);
        for (int j = 0; j < node->n_in && fits; j++) {
            if (node->in[j].tracked) fits = add(w, node->in[j].node);
        }
    }
    if (!fits) return pl_fail(&c->err, PL_ERR_MEMORY, "out of memory for a backward pass");
    if (w->n) qsort(w->nodes, w->n, sizeof(pl_node *), later_first);
    return PL_OK;
}

/* -- adjoints ------------------------------------------------------------------------------- */

/* The place of t's elements in the adjoint of a storage, which is made when first needed. A
 * leaf's is the gradient that stays. */
static pl_status adjoint_of(pl_call *c, pl_storage *storage, const pl_tensor *t, pl_tensor *out) {
    if (!storage->adjoint && storage->leaf) {
        storage->adjoint = pl_storage_grad(storage);
    } else if (!storage->adjoint) {
        storage->adjoint = calloc(1, storage->bytes ? storage->bytes : 1);
    }
    if (!storage->adjoint) return pl_fail(&c->err, PL_ERR_MEMORY, "out of memory for a gradient");
    *out = *t;
    out->storage = NULL;
    out->data = (char *)storage->adjoint + ((char *)t->data - (char *)storage->data);
    return PL_OK;
}

static pl_storage *storage_of(const pl_node *node, int i) {
    pl_storage *own = node->in[i].tensor.storage;
    return own ? own : node->out.storage;
}

pl_status pl_input_grad(pl_call *c, pl_node *node, int i, pl_tensor *grad, bool *wanted) {
    *wanted = node->in[i].tracked;
    if (!*wanted) return PL_OK;
    return adjoint_of(c, storage_of(node, i), &node->in[i].tensor, grad);
}

const pl_tensor *pl_node_out(const pl_node *node) {
    return node->undone ? &node->undo : &node->out;
}

void pl_accumulate(const pl_tensor *to, const pl_tensor *from) {
    const pl_tensor *operands[] = {to, from};
    const pl_tensor *shape = pl_tensor_count(to) > pl_tensor_count(from) ? to : from;
    if (to->n_dims > shape->n_dims) shape = to;
    pl_cursor at = pl_cursor_begin(shape->n_dims, shape->shape, operands, 2);
    for (int64_t r = 0; r < at.n_rows; r++, pl_cursor_next(&at)) {
        float *x = (float *)to->data + at.at[0];
        const float *y = (const float *)from->data + at.at[1];
        if (at.step[0] == 1 && at.step[1] == 1) {
            for (int64_t i = 0; i < at.width; i++) x[i] += y[i];
        } else {
            for (int64_t i = 0; i < at.width; i++) x[i * at.step[0]] += y[i * at.step[1]];
        }
    }
}

/* -- one node ------------------------------------------------------------------------------- */

static pl_status gone(pl_call *c, const pl_node *node) {
    return pl_fail(&c->err, PL_ERR_STATE,
                   "%s: a value that its gradient needs was changed in place since; clone() it "
                   "before",
                   node->rule->name);
}

/* Swaps what was written with what was there before. */
static void swap_contents(pl_node *node) {
    const pl_tensor *operands[] = {&node->out, &node->undo};
    pl_cursor at = pl_cursor_begin(node->out.n_dims, node->out.shape, operands, 2);
    for (int64_t r = 0; r < at.n_rows; r++, pl_cursor_next(&at)) {
        for (int64_t i = 0; i < at.width; i++) {
            float *x = (float *)node->out.data + at.at[0] + i * at.step[0];
            float *y = (float *)node->undo.data + at.at[1] + i * at.step[1];
            float t = *x;
            *x = *y;
            *y = t;
        }
    }
}

static pl_status undo(pl_call *c, pl_node *node) {
    pl_storage *storage = node->out.storage;
    if (!node->undo.data) return PL_OK;
    if (storage->version != node->version) return gone(c, node);
    swap_contents(node);
    storage->version--;
    node->undone = true;
    return PL_OK;
}

static pl_status check_values(pl_call *c, const pl_node *node) {
    if (!node->rule->backward) {
        return pl_fail(&c->err, PL_ERR_UNSUPPORTED, "%s has no gradient", node->rule->name);
    }
    for (int i = 0; i < node->n_in; i++) {
        if (!pl_rule_reads(node->rule, i)) continue;
        const pl_storage *storage = node->in[i].tensor.storage;
        bool own = !storage && node->in[i].tensor.data && node->in_place &&
                   node->in[i].version != node->out.storage->version;
        if (own || (storage && storage->version != node->in[i].version)) return gone(c, node);
    }
    bool kept = node->undone || !node->rule->reads_out;
    return kept || node->out.storage->version == node->version ? PL_OK : gone(c, node);
}

/* A gradient of its own for an in-place write: the adjoint's place is cleared for what was there
 * before. */
static pl_status take_gradient(pl_call *c, pl_node *node, pl_tensor *g, pl_tensor *owned) {
    pl_status status = adjoint_of(c, node->out.storage, &node->out, g);
    if (status != PL_OK || !node->in_place) return status;
    status = pl_tensor_new(owned, PL_F32, node->out.n_dims, node->out.shape, &c->err);
    if (status != PL_OK) return status;
    memset(owned->data, 0, owned->storage->bytes);
    pl_accumulate(owned, g);
    const pl_tensor *operand = g;
    pl_cursor at = pl_cursor_begin(g->n_dims, g->shape, &operand, 1);
    for (int64_t r = 0; r < at.n_rows; r++, pl_cursor_next(&at)) {
        for (int64_t i = 0; i < at.width; i++) ((float *)g->data)[at.at[0] + i * at.step[0]] = 0;
    }
    return PL_OK;
}

static pl_status visit(pl_call *c, pl_node *node) {
    pl_tensor g, owned = {0};
    pl_status status = undo(c, node);
    if (status != PL_OK || !node->out.storage->adjoint) return status;
    status = check_values(c, node);
    if (status == PL_OK && node->rule == pl_watch_rule()) { /* sees the adjoint itself */
        status = adjoint_of(c, node->out.storage, &node->out, &g);
        return status == PL_OK ? node->rule->backward(c, node, &g) : status;
    }
    if (status == PL_OK) status = take_gradient(c, node, &g, &owned);
    if (status == PL_OK) status = node->rule->backward(c, node, owned.data ? &owned : &g);
    pl_tensor_release(&owned);
    return status;
}

/* -- the walk ------------------------------------------------------------------------------- */

static pl_status seed_result(pl_call *c, const pl_tensor *out, const pl_tensor *seed) {
    char a[PL_SHAPE_TEXT], b[PL_SHAPE_TEXT];
    pl_tensor g;
    if (!seed && pl_tensor_count(out) != 1) {
        return pl_fail(&c->err, PL_ERR_SHAPE,
                       "backward from %s: expected one number, or a gradient of that shape",
                       pl_tensor_shape_text(out, a));
    }
    bool same = !seed || (seed->dtype == PL_F32 && seed->n_dims == out->n_dims);
    for (int i = 0; seed && same && i < out->n_dims; i++) same = seed->shape[i] == out->shape[i];
    if (!same) {
        return pl_fail(&c->err, PL_ERR_SHAPE, "backward from %s: the gradient is %s %s",
                       pl_tensor_shape_text(out, a), pl_dtype_get(seed->dtype)->name,
                       pl_tensor_shape_text(seed, b));
    }
    pl_status status = adjoint_of(c, out->storage, out, &g);
    if (status != PL_OK) return status;
    float one = 1;
    pl_accumulate(&g, seed ? seed : &(pl_tensor){.dtype = PL_F32, .data = &one});
    return PL_OK;
}

/* No content that was undone is ever read again where nodes alone hold the storage. */
static void forget_undone(pl_node *node) {
    const pl_storage *storage = node->out.storage;
    if (node->undone && storage->refs == storage->edges) node->undone = false;
}

/* Adjoints go as soon as nobody adds to them any more, with the node that made the storage; unless
 * the record is retained the node goes too, and what it read. */
static void finish(pl_node **place, bool retain) {
    pl_node *node = *place;
    if (!node->before && !node->in_place) free_adjoint(node->out.storage);
    if (retain) return;
    for (int i = 0; i < node->n_in; i++) { /* no node is to come that reads a leaf's */
        if (node->in[i].tracked && !node->in[i].node) free_adjoint(storage_of(node, i));
    }
    forget_undone(node);
    pl_node_spend(node);
    if (node->undone) return;
    let_go(node);
    node->seen = false;
    pl_node_release(node);
    *place = NULL;
}

/* Does again, the earliest first, what was undone. */
static void redo(const walk *w) {
    for (size_t i = w->n; i-- > 0;) {
        pl_node *node = w->nodes[i];
        if (!node || !node->undone) continue;
        swap_contents(node);
        node->out.storage->version++;
        node->undone = false;
    }
}

static void end_walk(walk *w, bool retain) {
    redo(w);
    for (size_t i = 0; i < w->n; i++) {
        const pl_node *node = w->nodes[i];
        for (int j = 0; node && j < node->n_in; j++) {
            if (node->in[j].tracked) free_adjoint(storage_of(node, j));
        }
        if (node) free_adjoint(node->out.storage);
    }
    for (size_t i = 0; i < w->n; i++) {
        pl_node *node = w->nodes[i];
        if (!node) continue;
        node->seen = false;
        if (!retain) pl_node_spend(node);
        let_go(node);
    }
    for (size_t i = 0; i < w->n; i++) pl_node_release(w->nodes[i]);
    free(w->nodes);
}

pl_status pl_backward(pl_call *c, const pl_tensor *out, const pl_tensor *seed, bool retain) {
    walk w = {0};
    if (out->dtype != PL_F32 || !pl_tracked(out)) {
        return pl_fail(&c->err, PL_ERR_STATE,
                       "backward: nothing that requires grad went into this tensor");
    }
    pl_status status = collect(c, &w, out->storage->node);
    if (status == PL_OK) status = seed_result(c, out, seed);
    for (size_t i = 0; i < w.n && status == PL_OK; i++) {
        status = visit(c, w.nodes[i]);
        if (status == PL_OK) finish(&w.nodes[i], retain);
    }
    if (out->storage->leaf) free_adjoint(out->storage);
    end_walk(&w, retain || status != PL_OK);
    return status;
}
