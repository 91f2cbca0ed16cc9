/* Places and moves: see grammar_cache.h. */
#include "grammar_cache.h"

#include "../base/error.h"

#include <stdlib.h>
#include <string.h>

enum {
    MAX_CLOSURE = 1 << 16, /* nodes that one byte may lead to */
    MAX_DEPTH = 1 << 20,   /* returns on a stack */
    FULL_BYTES = 48 << 20, /* when a new cache takes over */
    MAX_BYTES = 512 << 20, /* when the walk at hand fails */
};

static size_t used_bytes(const pl_gcache *c) {
    size_t mask_bytes = c->trie ? (c->trie->n_tokens / 64 + 1) * sizeof(uint64_t) : 0;
    return c->n_nodes * sizeof *c->nodes + c->n_places * sizeof *c->places +
           (c->n_members + c->n_moves + c->cap_node_table + c->cap_place_table) * sizeof(uint32_t) +
           c->n_masks * mask_bytes;
}

bool pl_gcache_is_full(const pl_gcache *c) {
    return used_bytes(c) > FULL_BYTES;
}

static pl_status no_memory(pl_error *err) {
    return pl_fail(err, PL_ERR_MEMORY, "out of memory for the states of a grammar");
}

/* -- nodes --------------------------------------------------------------------------------- */

static size_t hash_node(uint32_t pc, uint32_t count, uint32_t parent) {
    uint64_t hash = ((uint64_t)pc << 32 | parent) * 0x9E3779B97F4A7C15u;
    hash = (hash ^ hash >> 29 ^ count) * 0xBF58476D1CE4E5B9u;
    return (size_t)(hash ^ hash >> 32);
}

static bool grow_nodes(pl_gcache *c) {
    size_t capacity = c->cap_node_table ? 2 * c->cap_node_table : 256;
    uint32_t *table = malloc(capacity * sizeof *table);
    if (!table) return false;
    memset(table, 0xFF, capacity * sizeof *table);
    for (size_t i = 0; i < c->n_nodes; i++) {
        const pl_gplace_node *node = &c->nodes[i];
        size_t slot = hash_node(node->pc, node->count, node->parent) & (capacity - 1);
        while (table[slot] != PL_GRAMMAR_NONE) slot = (slot + 1) & (capacity - 1);
        table[slot] = (uint32_t)i;
    }
    free(c->node_table);
    c->node_table = table;
    c->cap_node_table = capacity;
    return true;
}

static pl_status find_node(pl_gcache *c, uint32_t pc, uint32_t count, uint32_t parent,
                           uint32_t *out, pl_error *err) {
    if (2 * (c->n_nodes + 1) > c->cap_node_table && !grow_nodes(c)) return no_memory(err);
    size_t slot = hash_node(pc, count, parent) & (c->cap_node_table - 1);
    for (; c->node_table[slot] != PL_GRAMMAR_NONE; slot = (slot + 1) & (c->cap_node_table - 1)) {
        const pl_gplace_node *node = &c->nodes[c->node_table[slot]];
        if (node->pc == pc && node->count == count && node->parent == parent)
            return *out = c->node_table[slot], PL_OK;
    }
    uint32_t depth = parent == PL_GRAMMAR_NONE ? 0 : c->nodes[parent].depth + 1;
    if (depth > MAX_DEPTH)
        return pl_fail(err, PL_ERR_UNSUPPORTED, "the text nests over %d rules of its grammar",
                       MAX_DEPTH);
    if (!pl_grammar_grow((void **)&c->nodes, &c->cap_nodes, c->n_nodes, sizeof *c->nodes))
        return no_memory(err);
    c->nodes[c->n_nodes] =
        (pl_gplace_node){.pc = pc, .count = count, .parent = parent, .depth = depth};
    *out = c->node_table[slot] = (uint32_t)c->n_nodes++;
    return PL_OK;
}

/* -- closures: where one can be without another byte ---------------------------------------- */

static void begin_closure(pl_gcache *c) {
    c->n_work = c->n_found = 0;
    if (++c->stamp != 0) return;
    for (size_t i = 0; i < c->n_nodes; i++) c->nodes[i].stamp = 0;
    c->stamp = 1;
}

static pl_status visit(pl_gcache *c, uint32_t node, pl_error *err) {
    if (c->nodes[node].stamp == c->stamp) return PL_OK;
    c->nodes[node].stamp = c->stamp;
    if (c->n_work >= MAX_CLOSURE || c->n_found >= MAX_CLOSURE)
        return pl_fail(err, PL_ERR_UNSUPPORTED,
                       "the grammar is too ambiguous: over %d ways to go on at one place",
                       MAX_CLOSURE);
    if (!pl_grammar_grow((void **)&c->work, &c->cap_work, c->n_work, sizeof *c->work))
        return no_memory(err);
    c->work[c->n_work++] = node;
    return PL_OK;
}

static pl_status visit_at(pl_gcache *c, uint32_t pc, uint32_t count, uint32_t parent,
                          pl_error *err) {
    uint32_t node;
    pl_status status = find_node(c, pc, count, parent, &node, err);
    return status == PL_OK ? visit(c, node, err) : status;
}

/* Enters `target`, to come back to (pc, count). What would return at once is left out, so that
 * rules which end in themselves need no stack. */
static pl_status call(pl_gcache *c, uint32_t target, uint32_t pc, uint32_t count, uint32_t parent,
                      pl_error *err) {
    const pl_ginstr *code = c->grammar->code;
    while (code[pc].op == PL_GOP_JUMP) pc = code[pc].a;
    uint32_t frame = parent;
    if (code[pc].op != PL_GOP_RETURN) {
        pl_status status = find_node(c, pc, count, parent, &frame, err);
        if (status != PL_OK) return status;
    }
    return visit_at(c, target, 0, frame, err);
}

/* At a loop of which `count` rounds have begun and ended. */
static pl_status step_loop(pl_gcache *c, pl_gplace_node at, pl_error *err) {
    pl_ginstr in = c->grammar->code[at.pc];
    pl_status status = PL_OK;
    if (at.count >= in.b) status = visit_at(c, in.a, 0, at.parent, err);
    if (status != PL_OK || (in.c != PL_GRAMMAR_NONE && at.count >= in.c)) return status;
    /* Without a limit, rounds past the least number are alike. */
    uint32_t count = in.c == PL_GRAMMAR_NONE && at.count >= in.b ? at.count : at.count + 1, frame;
    if ((status = find_node(c, at.pc, count, at.parent, &frame, err)) != PL_OK) return status;
    /* A round that matched nothing need not be followed: fewer rounds can do all that more can. */
    if (in.nullable) c->nodes[frame].stamp = c->stamp;
    return visit_at(c, at.pc + 1, 0, frame, err);
}

/* Works until nothing is left to visit; found: the nodes that wait for a byte. */
static pl_status finish_closure(pl_gcache *c, bool *accepts, pl_error *err) {
    pl_status status = PL_OK;
    while (c->n_work > 0 && status == PL_OK) {
        uint32_t node = c->work[--c->n_work];
        pl_gplace_node at = c->nodes[node];
        pl_ginstr in = c->grammar->code[at.pc];
        switch ((pl_gop)in.op) {
        case PL_GOP_SET:
            if (!pl_grammar_grow((void **)&c->found, &c->cap_found, c->n_found, sizeof *c->found))
                return no_memory(err);
            c->found[c->n_found++] = node;
            break;
        case PL_GOP_JUMP:
            status = visit_at(c, in.a, 0, at.parent, err);
            break;
        case PL_GOP_SPLIT:
            status = visit_at(c, in.a, 0, at.parent, err);
            if (status == PL_OK) status = visit_at(c, at.pc + 1, 0, at.parent, err);
            break;
        case PL_GOP_CALL:
            status = call(c, in.a, at.pc + 1, 0, at.parent, err);
            break;
        case PL_GOP_LOOP:
            status = step_loop(c, at, err);
            break;
        case PL_GOP_RETURN:
            if (at.parent == PL_GRAMMAR_NONE)
                *accepts = true;
            else
                status = visit(c, at.parent, err);
            break;
        }
    }
    return status;
}

/* -- leaving out what others can do too ------------------------------------------------------- */

/* The loop that the node returns to first, or NULL. */
static const pl_gplace_node *loop_of(const pl_gcache *c, uint32_t node) {
    uint32_t parent = c->nodes[node].parent;
    if (parent == PL_GRAMMAR_NONE) return NULL;
    const pl_gplace_node *frame = &c->nodes[parent];
    return c->grammar->code[frame->pc].op == PL_GOP_LOOP ? frame : NULL;
}

static int order(uint32_t a, uint32_t b) {
    return (a > b) - (a < b);
}

/* By all but how many rounds of the loop have begun, then by that. */
static int compare_rounds(const void *a, const void *b, void *context) {
    const pl_gcache *c = context;
    uint32_t x = *(const uint32_t *)a, y = *(const uint32_t *)b;
    const pl_gplace_node *p = loop_of(c, x), *q = loop_of(c, y);
    if (!p || !q) return p ? 1 : q ? -1 : order(x, y);
    int by = order(c->nodes[x].pc, c->nodes[y].pc);
    if (by == 0) by = order(p->pc, q->pc);
    if (by == 0) by = order(p->parent, q->parent);
    return by ? by : order(p->count, q->count);
}

/* Once a loop may end, fewer rounds can go on in every way that more can. Without this, (x+){0,n}
 * would count each way to part a text into rounds. */
static void prune_rounds(pl_gcache *c) {
    enum { FEW = 8 };
    if (c->n_found <= FEW) return;
    qsort_r(c->found, c->n_found, sizeof *c->found, compare_rounds, c);
    size_t n = 1;
    for (size_t i = 1; i < c->n_found; i++) {
        uint32_t last = c->found[n - 1], node = c->found[i];
        const pl_gplace_node *p = loop_of(c, last), *q = loop_of(c, node);
        bool alike = p && q && c->nodes[last].pc == c->nodes[node].pc && p->pc == q->pc &&
                     p->parent == q->parent && p->count >= c->grammar->code[p->pc].b;
        if (!alike) c->found[n++] = node;
    }
    c->n_found = n;
}

/* -- places -------------------------------------------------------------------------------- */

static size_t hash_members(const uint32_t *members, size_t n, bool accepts) {
    uint64_t hash = accepts;
    for (size_t i = 0; i < n; i++) {
        hash = (hash ^ members[i]) * 0x9E3779B97F4A7C15u;
        hash ^= hash >> 32;
    }
    return (size_t)hash;
}

static bool grow_places(pl_gcache *c) {
    size_t capacity = c->cap_place_table ? 2 * c->cap_place_table : 256;
    uint32_t *table = malloc(capacity * sizeof *table);
    if (!table) return false;
    memset(table, 0xFF, capacity * sizeof *table);
    for (size_t i = 0; i < c->n_places; i++) {
        const pl_gplace *place = &c->places[i];
        size_t slot =
            hash_members(c->members + place->first, place->n, place->accepts) & (capacity - 1);
        while (table[slot] != PL_GRAMMAR_NONE) slot = (slot + 1) & (capacity - 1);
        table[slot] = (uint32_t)i;
    }
    free(c->place_table);
    c->place_table = table;
    c->cap_place_table = capacity;
    return true;
}

static int compare(const void *a, const void *b) {
    uint32_t x = *(const uint32_t *)a, y = *(const uint32_t *)b;
    return (x > y) - (x < y);
}

/* The number of the place whose nodes are `found`. */
static pl_status find_place(pl_gcache *c, bool accepts, uint32_t *out, pl_error *err) {
    size_t n = c->n_found;
    if (n > 1) qsort(c->found, n, sizeof *c->found, compare);
    if (2 * (c->n_places + 1) > c->cap_place_table && !grow_places(c)) return no_memory(err);
    size_t slot = hash_members(c->found, n, accepts) & (c->cap_place_table - 1);
    for (; c->place_table[slot] != PL_GRAMMAR_NONE; slot = (slot + 1) & (c->cap_place_table - 1)) {
        const pl_gplace *place = &c->places[c->place_table[slot]];
        if (place->n == n && place->accepts == accepts &&
            (n == 0 || memcmp(c->members + place->first, c->found, n * sizeof *c->found) == 0))
            return *out = c->place_table[slot], PL_OK;
    }
    if (used_bytes(c) > MAX_BYTES)
        return pl_fail(err, PL_ERR_UNSUPPORTED,
                       "the grammar is too ambiguous: its states need over %d MB", MAX_BYTES >> 20);
    if (!pl_grammar_grow((void **)&c->places, &c->cap_places, c->n_places, sizeof *c->places) ||
        !pl_grammar_grow((void **)&c->members, &c->cap_members, c->n_members + n,
                         sizeof *c->members))
        return no_memory(err);
    if (n > 0) memcpy(c->members + c->n_members, c->found, n * sizeof *c->found);
    c->places[c->n_places] = (pl_gplace){.first = (uint32_t)c->n_members,
                                         .n = (uint32_t)n,
                                         .accepts = accepts,
                                         .moves = PL_GRAMMAR_NONE};
    c->n_members += n;
    *out = c->place_table[slot] = (uint32_t)c->n_places++;
    return PL_OK;
}

static pl_status compute_move(pl_gcache *c, uint32_t place, uint8_t byte, uint32_t *out,
                              pl_error *err) {
    pl_gplace from = c->places[place];
    begin_closure(c);
    for (uint32_t i = 0; i < from.n; i++) {
        pl_gplace_node node = c->nodes[c->members[from.first + i]];
        if (!pl_gset_has(&c->grammar->sets[c->grammar->code[node.pc].a], byte)) continue;
        pl_status status = visit_at(c, node.pc + 1, 0, node.parent, err);
        if (status != PL_OK) return status;
    }
    bool accepts = false;
    pl_status status = finish_closure(c, &accepts, err);
    if (status != PL_OK) return status;
    prune_rounds(c);
    return find_place(c, accepts, out, err);
}

pl_status pl_gcache_move(pl_gcache *c, uint32_t place, uint8_t byte, uint32_t *out, pl_error *err) {
    size_t n = c->grammar->n_classes, class = c->grammar->classes[byte];
    if (c->places[place].moves == PL_GRAMMAR_NONE) {
        if (!pl_grammar_grow((void **)&c->moves, &c->cap_moves, c->n_moves + n, sizeof *c->moves))
            return no_memory(err);
        memset(c->moves + c->n_moves, 0xFF, n * sizeof *c->moves);
        c->places[place].moves = (uint32_t)c->n_moves;
        c->n_moves += n;
    }
    size_t at = c->places[place].moves + class;
    if (c->moves[at] == PL_GRAMMAR_NONE) {
        uint32_t to;
        pl_status status = compute_move(c, place, byte, &to, err);
        if (status != PL_OK) return status;
        c->moves[at] = to;
    }
    *out = c->moves[at];
    return PL_OK;
}

/* -- the whole ----------------------------------------------------------------------------- */

pl_status pl_gcache_new(pl_gcache **out, pl_grammar *grammar, pl_token_trie *trie, pl_error *err) {
    pl_gcache *c = calloc(1, sizeof *c);
    if (!c) return no_memory(err);
    c->n_refs = 1;
    c->grammar = pl_grammar_ref(grammar);
    c->trie = trie ? pl_token_trie_ref(trie) : NULL;
    c->path = calloc(trie ? trie->max_depth + 1 : 1, sizeof *c->path);
    c->last_mask = calloc(trie ? trie->n_tokens / 64 + 1 : 1, sizeof *c->last_mask);
    uint32_t dead;
    bool accepts = false;
    pl_status status = c->path && c->last_mask ? PL_OK : no_memory(err);
    begin_closure(c);
    if (status == PL_OK) status = find_place(c, false, &dead, err);
    if (status == PL_OK) status = visit_at(c, grammar->start, 0, PL_GRAMMAR_NONE, err);
    if (status == PL_OK) status = finish_closure(c, &accepts, err);
    if (status == PL_OK) status = find_place(c, accepts, &c->start, err);
    if (status != PL_OK) {
        pl_gcache_unref(c);
        return status;
    }
    *out = c;
    return PL_OK;
}

void pl_gcache_unref(pl_gcache *c) {
    if (!c || --c->n_refs > 0) return;
    for (size_t i = 0; i < c->n_places; i++) free(c->places[i].mask);
    pl_grammar_unref(c->grammar);
    pl_token_trie_unref(c->trie);
    free(c->nodes);
    free(c->places);
    free(c->members);
    free(c->moves);
    free(c->node_table);
    free(c->place_table);
    free(c->work);
    free(c->found);
    free(c->path);
    free(c->last_mask);
    free(c);
}

/* Parents have lower numbers than their children, so one pass upwards copies all stacks. */
pl_status pl_gcache_copy_place(pl_gcache *to, const pl_gcache *from, uint32_t place, uint32_t *out,
                               pl_error *err) {
    const pl_gplace *p = &from->places[place];
    uint32_t *map = calloc(from->n_nodes + 1, sizeof *map); /* 1: wanted; then the number */
    pl_status status = map ? PL_OK : no_memory(err);
    for (uint32_t i = 0; i < p->n && status == PL_OK; i++)
        for (uint32_t n = from->members[p->first + i]; n != PL_GRAMMAR_NONE && !map[n];
             n = from->nodes[n].parent)
            map[n] = 1;
    for (size_t n = 0; n < from->n_nodes && status == PL_OK; n++) {
        if (!map[n]) continue;
        pl_gplace_node node = from->nodes[n];
        uint32_t parent = node.parent == PL_GRAMMAR_NONE ? PL_GRAMMAR_NONE : map[node.parent];
        status = find_node(to, node.pc, node.count, parent, &map[n], err);
    }
    to->n_found = 0;
    for (uint32_t i = 0; i < p->n && status == PL_OK; i++) {
        if (!pl_grammar_grow((void **)&to->found, &to->cap_found, to->n_found, sizeof *to->found))
            status = no_memory(err);
        else
            to->found[to->n_found++] = map[from->members[p->first + i]];
    }
    free(map);
    return status == PL_OK ? find_place(to, p->accepts, out, err) : status;
}
