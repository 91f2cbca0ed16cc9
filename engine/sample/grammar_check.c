/* What a grammar must keep so that every text that begins well can end: see grammar_program.h.
 * Only what follows groups recurses, and their nesting is limited. */
#include "grammar_program.h"

#include "../base/error.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static pl_status check_defined(const pl_gtree *t, pl_error *err) {
    enum { MOST = 512 };
    for (size_t r = 0; r < t->n_rules; r++) {
        if (t->rules[r].body != PL_GRAMMAR_NONE) continue;
        const char *names[MOST], *name = t->rules[r].name;
        size_t n = 0;
        for (size_t i = 0; i < t->n_rules && n < MOST; i++)
            if (t->rules[i].body != PL_GRAMMAR_NONE) names[n++] = t->rules[i].name;
        const char *near = pl_nearest_name(name, names, n);
        if (near)
            return pl_gtree_fail(t, t->rules[r].at, err,
                                 "rule '%s' is not defined; did you mean '%s'?", name, near);
        return pl_gtree_fail(t, t->rules[r].at, err, "rule '%s' is not defined", name);
    }
    return PL_OK;
}

/* -- what holds of a node when it holds of its parts ---------------------------------------- */

/* Nullable, or productive. Each node is settled once, so this takes time as the grammar is long. */
typedef struct solver {
    pl_gtree *tree;
    pl_gproperty property;
    uint32_t *parent;   /* [n_nodes] */
    uint32_t *rule;     /* [n_nodes]: whose body the node is, or PL_GRAMMAR_NONE */
    uint32_t *missing;  /* [n_nodes]: parts of a sequence that do not have the property yet */
    uint32_t *next_use; /* [n_nodes]: of the same rule */
    uint32_t *uses;     /* [n_rules]: the first node that names it */
    uint32_t *queue;    /* [n_nodes]: nodes that have it and whose users do not know */
    size_t n;
} solver;

static void settle(solver *s, uint32_t node) {
    pl_gnode *g = &s->tree->nodes[node];
    if (g->has & s->property) return;
    g->has |= (uint8_t)s->property;
    s->queue[s->n++] = node;
}

static bool holds_at_once(const solver *s, const pl_gnode *g) {
    bool productive = s->property == PL_GPRODUCTIVE;
    switch (g->kind) {
    case PL_GNODE_LITERAL:
        return productive || g->n == 0;
    case PL_GNODE_SET:
        return productive;
    case PL_GNODE_REPEAT:
        return g->min == 0;
    case PL_GNODE_SEQUENCE:
        return g->child == PL_GRAMMAR_NONE;
    default:
        return false;
    }
}

static void prepare(solver *s) {
    pl_gtree *t = s->tree;
    memset(s->parent, 0xFF, t->n_nodes * sizeof *s->parent);
    memset(s->rule, 0xFF, t->n_nodes * sizeof *s->rule);
    memset(s->uses, 0xFF, t->n_rules * sizeof *s->uses);
    for (uint32_t r = 0; r < t->n_rules; r++) s->rule[t->rules[r].body] = r;
    for (uint32_t i = 0; i < t->n_nodes; i++) {
        const pl_gnode *g = &t->nodes[i];
        s->missing[i] = 0;
        for (uint32_t c = g->child; c != PL_GRAMMAR_NONE; c = t->nodes[c].next)
            s->parent[c] = i, s->missing[i]++;
        if (g->kind == PL_GNODE_RULE) s->next_use[i] = s->uses[g->first], s->uses[g->first] = i;
        if (holds_at_once(s, g)) settle(s, i);
    }
}

static void propagate(solver *s) {
    while (s->n > 0) {
        uint32_t node = s->queue[--s->n], parent = s->parent[node];
        if (parent != PL_GRAMMAR_NONE &&
            (--s->missing[parent] == 0 || s->tree->nodes[parent].kind != PL_GNODE_SEQUENCE))
            settle(s, parent);
        if (s->rule[node] == PL_GRAMMAR_NONE) continue;
        for (uint32_t use = s->uses[s->rule[node]]; use != PL_GRAMMAR_NONE; use = s->next_use[use])
            settle(s, use);
    }
}

static pl_status solve(pl_gtree *t, pl_gproperty property, pl_error *err) {
    size_t n = t->n_nodes;
    uint32_t *memory = calloc(5 * n + t->n_rules + 1, sizeof *memory);
    if (!memory) return pl_fail(err, PL_ERR_MEMORY, "%s: out of memory", t->name);
    solver s = {.tree = t,
                .property = property,
                .parent = memory,
                .rule = memory + n,
                .missing = memory + 2 * n,
                .next_use = memory + 3 * n,
                .queue = memory + 4 * n,
                .uses = memory + 5 * n};
    prepare(&s);
    propagate(&s);
    free(memory);
    return PL_OK;
}

/* -- which rules need which ---------------------------------------------------------------- */

/* Edges between rules as lists: those of rule r are to[start[r] .. start[r + 1]). */
typedef struct edges {
    uint32_t *start, *to;
    size_t n, capacity;
    bool failed;
} edges;

static void add_edge(edges *e, uint32_t to) {
    if (e->failed || !pl_grammar_grow((void **)&e->to, &e->capacity, e->n, sizeof *e->to))
        e->failed = true;
    else
        e->to[e->n++] = to;
}

/* The rules that may stand at the very beginning of the node. */
static void collect(const pl_gtree *t, uint32_t node, edges *e) {
    const pl_gnode *g = &t->nodes[node];
    if (g->kind == PL_GNODE_RULE) add_edge(e, g->first);
    if (g->kind == PL_GNODE_REPEAT && g->max == 0) return;
    for (uint32_t c = g->child; c != PL_GRAMMAR_NONE; c = t->nodes[c].next) {
        collect(t, c, e);
        if (g->kind == PL_GNODE_SEQUENCE && !(t->nodes[c].has & PL_GNULLABLE)) return;
    }
}

static void clear_edges(edges *e) {
    free(e->start);
    free(e->to);
}

static bool make_edges(const pl_gtree *t, edges *e) {
    *e = (edges){.start = calloc(t->n_rules + 1, sizeof *e->start)};
    if (!e->start) return false;
    for (size_t r = 0; r < t->n_rules; r++) {
        e->start[r] = (uint32_t)e->n;
        collect(t, t->rules[r].body, e);
    }
    e->start[t->n_rules] = (uint32_t)e->n;
    return !e->failed;
}

/* The same edges, backwards. */
static bool reverse(const pl_gtree *t, const edges *e, edges *back) {
    *back = (edges){.start = calloc(t->n_rules + 2, sizeof *back->start),
                    .to = calloc(e->n + 1, sizeof *back->to),
                    .n = e->n};
    if (!back->start || !back->to) return false;
    for (size_t i = 0; i < e->n; i++) back->start[e->to[i] + 2]++;
    for (size_t r = 1; r < t->n_rules + 2; r++) back->start[r] += back->start[r - 1];
    for (uint32_t r = 0; r < t->n_rules; r++)
        for (uint32_t i = e->start[r]; i < e->start[r + 1]; i++)
            back->to[back->start[e->to[i] + 1]++] = r;
    return true;
}

/* Follows the edges among the rules still marked until one comes again, and names the circle. */
static pl_status fail_circle(const pl_gtree *t, const edges *e, uint32_t *left, uint32_t r,
                             pl_error *err) {
    enum { LEFT = 1, SEEN = 2 };
    for (size_t i = 0; i < t->n_rules; i++) left[i] = left[i] ? LEFT : 0;
    while (left[r] != SEEN) {
        left[r] = SEEN;
        uint32_t i = e->start[r];
        while (!left[e->to[i]]) i++;
        r = e->to[i];
    }
    char path[300];
    size_t used = (size_t)snprintf(path, sizeof path, "%.60s", t->rules[r].name);
    uint32_t first = r;
    do {
        uint32_t i = e->start[r];
        while (!left[e->to[i]]) i++;
        r = e->to[i];
        if (used < sizeof path)
            used += (size_t)snprintf(path + used, sizeof path - used, " > %.60s", t->rules[r].name);
    } while (r != first);
    return pl_gtree_fail(t, t->rules[first].at, err,
                         "rule '%s' begins with itself (%s): put something before it, or write it "
                         "with * or +",
                         t->rules[first].name, path);
}

/* Rules that begin with themselves: removes rules that lead to none until only circles, and what
 * leads to them, are left. */
static pl_status check_left_recursion(const pl_gtree *t, pl_error *err) {
    edges e, back = {0};
    pl_status status = PL_OK;
    uint32_t *degree = calloc(t->n_rules + 1, sizeof *degree);
    uint32_t *queue = calloc(t->n_rules + 1, sizeof *queue);
    if (!make_edges(t, &e) || !reverse(t, &e, &back) || !degree || !queue) {
        status = pl_fail(err, PL_ERR_MEMORY, "%s: out of memory", t->name);
        goto done;
    }
    size_t n = 0, removed = 0;
    for (uint32_t r = 0; r < t->n_rules; r++) {
        degree[r] = e.start[r + 1] - e.start[r];
        if (degree[r] == 0) queue[n++] = r;
    }
    while (n > 0) {
        uint32_t r = queue[--n];
        removed++;
        for (uint32_t i = back.start[r]; i < back.start[r + 1]; i++)
            if (--degree[back.to[i]] == 0) queue[n++] = back.to[i];
    }
    if (removed < t->n_rules) {
        uint32_t r = 0;
        while (degree[r] == 0) r++;
        status = fail_circle(t, &e, degree, r, err);
    }
done:
    clear_edges(&e);
    clear_edges(&back);
    free(degree);
    free(queue);
    return status;
}

pl_status pl_gtree_check(pl_gtree *t, pl_error *err) {
    pl_status status = check_defined(t, err);
    if (status != PL_OK) return status;
    if ((status = solve(t, PL_GNULLABLE, err)) != PL_OK) return status;
    if ((status = solve(t, PL_GPRODUCTIVE, err)) != PL_OK) return status;
    for (size_t r = 0; r < t->n_rules; r++)
        if (!(t->nodes[t->rules[r].body].has & PL_GPRODUCTIVE))
            return pl_gtree_fail(t, t->rules[r].at, err,
                                 "no text can end rule '%s': every way through it needs it again",
                                 t->rules[r].name);
    return check_left_recursion(t, err);
}
