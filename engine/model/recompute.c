/* Activations forgotten and worked out again: under a record of gradients that asks for it, the
 * layers run in groups of about the root of their number, of which only the first residual stream
 * is kept. The walk back runs a group once more, recorded, and walks back through it (Chen et al.
 * 2016, arXiv:1604.06174). Groups with a listener or an adapter are kept as they are. */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "../base/error.h"
#include "../tensor/grad.h"
#include "pass.h"
#include "walk.h"

/* What it takes to run a group again. */
typedef struct group {
    pl_pass pass;
    pl_span *spans;
    pl_tensor owner;        /* of the weights, counted */
    pl_tensor rotations[2]; /* counted */
    pl_hooks *hooks;        /* none: those of the session have seen the group already */
    int64_t from, to;
} group;

static void release_group(void *owned) {
    group *g = owned;
    pl_tensor_release(&g->owner);
    for (int i = 0; i < 2; i++) pl_tensor_release(&g->rotations[i]);
    pl_hooks_free(g->hooks);
    pl_session_free(g->pass.session);
    free(g->spans);
    free(g);
}

static pl_status new_group(group **out, pl_pass *p, int64_t from, int64_t to) {
    pl_error *err = &p->call.err;
    group *g = calloc(1, sizeof *g);
    if (!g) return pl_fail(err, PL_ERR_MEMORY, "out of memory for a group of layers");
    g->pass = *p;
    g->pass.session = pl_session_retain(p->session);
    g->from = from;
    g->to = to;
    g->owner = *p->call.owner;
    pl_tensor_retain(&g->owner);
    for (int i = 0; i < 2; i++) {
        g->rotations[i] = p->rotations[i];
        pl_tensor_retain(&g->rotations[i]);
    }
    size_t bytes = (size_t)p->n_spans * sizeof *g->spans;
    g->spans = malloc(bytes);
    pl_status status = pl_hooks_new(&g->hooks, p->model->config.n_layers, err);
    if (status == PL_OK && !g->spans) {
        status = pl_fail(err, PL_ERR_MEMORY, "out of memory for a group of layers");
    }
    if (status != PL_OK) {
        release_group(g);
        return status;
    }
    memcpy(g->spans, p->spans, bytes);
    g->pass.spans = g->spans;
    g->pass.hooks = g->hooks;
    g->pass.recompute = false;
    g->pass.call.owner = &g->owner;
    *out = g;
    return PL_OK;
}

/* -- back ------------------------------------------------------------------------------------- */

/* Runs the group from x, recorded, and walks back from its end with the gradient g. */
static pl_status run_again(const group *kept, pl_tensor x, const pl_tensor *g, pl_error *err) {
    pl_keep keep = {0};
    pl_arena arena = {0};
    pl_pass p = kept->pass;
    p.call.keep = &keep;
    p.call.arena = &arena;
    p.call.paused = false;
    pl_tensor y = x;
    pl_status status = pl_forward(&p, kept->from, kept->to, &y);
    pl_tensor_retain(&y);
    pl_keep_clear(&keep); /* the record alone holds the rest, and lets it go on the way */
    if (status == PL_OK) status = pl_backward(&p.call, &y, g, false);
    if (status != PL_OK) *err = p.call.err;
    pl_tensor_release(&y);
    pl_keep_clear(&keep);
    pl_arena_clear(&arena);
    return status;
}

static pl_status group_backward(pl_call *c, pl_node *node, const pl_tensor *g) {
    const group *kept = node->owned;
    const pl_tensor *in = &node->in[0].tensor;
    pl_tensor x, grad, found;
    bool wanted;
    pl_status status = pl_tensor_new(&x, PL_F32, in->n_dims, in->shape, &c->err);
    if (status != PL_OK) return status;
    memcpy(x.data, in->data, x.storage->bytes);
    x.storage->leaf = true; /* where this group's walk ends */
    status = run_again(kept, x, g, &c->err);
    if (status == PL_OK) status = pl_input_grad(c, node, 0, &grad, &wanted);
    pl_get_grad(&x, &found);
    if (status == PL_OK && wanted && found.data) pl_accumulate(&grad, &found);
    pl_tensor_release(&found);
    pl_tensor_release(&x);
    return status;
}

static const pl_rule group_rule = {"a group of layers", group_backward, UINT32_MAX, false};

/* -- forth ------------------------------------------------------------------------------------ */

/* The weights of some layers that gradients are wanted for. */
typedef struct tracked {
    const pl_tensor **list;
    size_t n, capacity;
    int64_t from, to;
    bool all_leaves;
} tracked;

static pl_status take_tracked(void *context, const pl_stop *stop, pl_error *err) {
    tracked *t = context;
    long layer = strncmp(stop->name, "blk.", 4) == 0 ? strtol(stop->name + 4, NULL, 10) : -1;
    if (layer < t->from || layer >= t->to || !pl_tracked(stop->tensor)) return PL_OK;
    if (t->n == t->capacity) {
        size_t capacity = t->capacity ? 2 * t->capacity : 32;
        const pl_tensor **list = realloc(t->list, capacity * sizeof *list);
        if (!list) return pl_fail(err, PL_ERR_MEMORY, "out of memory for a group of layers");
        t->list = list;
        t->capacity = capacity;
    }
    t->all_leaves &= stop->tensor->storage->leaf;
    t->list[t->n++] = stop->tensor;
    return PL_OK;
}

/* Runs the layers and forgets all but what leaves the last. */
static pl_status run_unrecorded(pl_pass *p, int64_t from, int64_t to, pl_tensor *residual) {
    pl_keep own = {0}, *keep = p->call.keep;
    p->call.keep = &own;
    p->call.paused = true;
    pl_status status = pl_forward_blocks(p, from, to, residual);
    p->call.keep = keep;
    p->call.paused = false;
    if (status == PL_OK) status = pl_keep_add(keep, residual, &p->call.err);
    pl_keep_clear(&own);
    return status;
}

static pl_status record_group(pl_pass *p, const tracked *t, pl_tensor *residual) {
    const pl_tensor **in = t->list, before = *residual;
    group *g;
    pl_node *node;
    pl_status status = run_unrecorded(p, t->from, t->to, residual);
    if (status != PL_OK) return status;
    in[0] = &before;
    status = pl_record(&p->call, &group_rule, residual, in, (int)t->n, &node);
    if (!node) return status;
    status = new_group(&g, p, t->from, t->to);
    if (status != PL_OK) return status;
    node->owned = g;
    node->release_owned = release_group;
    return PL_OK;
}

static bool is_heard(const pl_pass *p, int64_t from, int64_t to) {
    for (int64_t layer = from; layer < to; layer++) {
        if (pl_hooks_mask(p->hooks, (int)layer) || p->check_finite) return true;
    }
    return false;
}

static pl_status run_group(pl_pass *p, int64_t from, int64_t to, pl_tensor *residual) {
    tracked t = {.from = from, .to = to, .all_leaves = true, .n = 1, .capacity = 1};
    t.list = malloc(sizeof *t.list); /* the first place is the residual stream's */
    if (!t.list) return pl_fail(&p->call.err, PL_ERR_MEMORY, "out of memory for a group of layers");
    pl_weights weights = p->model->weights; /* the walk changes nothing */
    pl_status status = pl_walk_weights(&p->model->config, &weights, take_tracked, &t, &p->call.err);
    if (status == PL_OK) {
        bool plain = !t.all_leaves || p->adapted || is_heard(p, from, to);
        status = plain ? pl_forward_blocks(p, from, to, residual) : record_group(p, &t, residual);
    }
    free(t.list);
    return status;
}

pl_status pl_forward_recomputed(pl_pass *p, int64_t from_layer, int64_t to_layer,
                                pl_tensor *residual) {
    int64_t size = (int64_t)ceil(sqrt((double)(to_layer - from_layer)));
    for (int64_t from = from_layer; from < to_layer; from += size) {
        int64_t to = from + size < to_layer ? from + size : to_layer;
        TRY(run_group(p, from, to, residual));
    }
    return PL_OK;
}
