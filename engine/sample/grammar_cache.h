/* The places that texts of one grammar have come to, numbered, and the moves between them.
 *
 *     node     a place in the program with its stack of returns: {pc, count, parent}
 *     place    a set of nodes that wait for a byte; numbers are equal when the sets are
 *     move     place × class of bytes -> place, filled in when first asked for
 *     mask     place -> the tokens that may come next
 *
 *     node 7 {pc 31} -> node 4 {pc 12} -> node 1 {pc 3} -> none
 *              waits        returns to       returns to
 *
 * Nodes are unique by their fields, so a stack is one number and its tail is shared. A frame of a
 * loop carries how many rounds have begun. */
#ifndef PL_SAMPLE_GRAMMAR_CACHE_H
#define PL_SAMPLE_GRAMMAR_CACHE_H

#include "grammar_program.h"

typedef struct pl_gplace_node {
    uint32_t pc, count, parent; /* parent: a node, or PL_GRAMMAR_NONE */
    uint32_t depth, stamp;
} pl_gplace_node;

typedef struct pl_gplace {
    uint32_t first, n; /* of the members */
    bool accepts;
    uint32_t moves; /* index of [n_classes], or PL_GRAMMAR_NONE */
    uint64_t *mask; /* or NULL */
} pl_gplace;

/* Shared by a state and its clones; one thread. */
typedef struct pl_gcache {
    size_t n_refs;
    pl_grammar *grammar;
    pl_token_trie *trie; /* or NULL */
    pl_gplace_node *nodes;
    pl_gplace *places;
    uint32_t *members; /* nodes of the places */
    uint32_t *moves;
    size_t n_nodes, n_places, n_members, n_moves, n_masks;
    size_t cap_nodes, cap_places, cap_members, cap_moves;
    uint32_t *node_table, *place_table; /* open addressing */
    size_t cap_node_table, cap_place_table;
    uint32_t *work, *found; /* nodes of the closure at hand */
    size_t n_work, n_found, cap_work, cap_found;
    uint32_t stamp, start;
    uint32_t *path;      /* [max_depth + 1] of the trie: the walk's places */
    uint64_t *last_mask; /* of ended texts: empty */
} pl_gcache;

enum { PL_GPLACE_DEAD = 0 }; /* the place that nothing leads out of */

/* Fills cache->start. The cache takes its own references. */
pl_status pl_gcache_new(pl_gcache **out, pl_grammar *grammar, pl_token_trie *trie, pl_error *err);
void pl_gcache_unref(pl_gcache *cache);

/* Whether it has grown so that a new one, with only the place in use, should take over. */
bool pl_gcache_is_full(const pl_gcache *cache);

/* The place's number in `to`, another cache of the same grammar. */
pl_status pl_gcache_copy_place(pl_gcache *to, const pl_gcache *from, uint32_t place, uint32_t *out,
                               pl_error *err);

/* Where a byte leads; PL_GPLACE_DEAD where it must not stand.
 * Errors: PL_ERR_MEMORY; PL_ERR_UNSUPPORTED: too many nodes at once, or too deep. */
pl_status pl_gcache_move(pl_gcache *cache, uint32_t place, uint8_t byte, uint32_t *out,
                         pl_error *err);

/* The mask of a place, from the cache or by a walk. */
pl_status pl_gcache_mask(pl_gcache *cache, uint32_t place, const uint64_t **mask, pl_error *err);

/* Adds to mask the tokens that begin the bytes, or begin with all of them and go on from the place;
 * with only set, they may go on in any way. */
pl_status pl_gcache_prefix_mask(pl_gcache *cache, uint32_t place, const char *bytes, size_t size,
                                bool only, uint64_t *mask, pl_error *err);

#endif
