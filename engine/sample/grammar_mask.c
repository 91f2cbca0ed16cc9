/* Which tokens may come next: one walk down the vocabulary's tree. See grammar_cache.h. */
#include "grammar_cache.h"

#include "../base/error.h"

#include <stdlib.h>
#include <string.h>

enum { MAX_MASKS = 2048 };

/* The nodes of the tree come in depth-first order, so a walk is a scan that leaves out what is
 * below a byte that must not stand. */
static pl_status walk(pl_gcache *c, uint32_t place, uint64_t *mask, pl_error *err) {
    const pl_token_trie *trie = c->trie;
    const uint8_t *classes = c->grammar->classes;
    c->path[0] = place;
    for (size_t i = 0; i < trie->n_nodes;) {
        const pl_trie_node *node = &trie->nodes[i];
        uint32_t from = c->path[node->depth - 1], moves = c->places[from].moves, to;
        to = moves == PL_GRAMMAR_NONE ? PL_GRAMMAR_NONE : c->moves[moves + classes[node->byte]];
        if (to == PL_GRAMMAR_NONE) {
            pl_status status = pl_gcache_move(c, from, node->byte, &to, err);
            if (status != PL_OK) return status;
        }
        if (to == PL_GPLACE_DEAD) {
            i = node->skip;
            continue;
        }
        c->path[node->depth] = to;
        for (uint32_t t = node->tokens; t < node[1].tokens; t++) {
            uint32_t id = (uint32_t)trie->tokens[t];
            mask[id / 64] |= (uint64_t)1 << (id % 64);
        }
        i++;
    }
    return PL_OK;
}

/* All masks go when they are many: those of the texts at hand come back at once. */
static void drop_masks(pl_gcache *c) {
    for (size_t i = 0; i < c->n_places; i++) {
        free(c->places[i].mask);
        c->places[i].mask = NULL;
    }
    c->n_masks = 0;
}

pl_status pl_gcache_mask(pl_gcache *c, uint32_t place, const uint64_t **mask, pl_error *err) {
    if (!c->places[place].mask) {
        size_t n_words = c->trie->n_tokens / 64 + 1;
        if (c->n_masks >= MAX_MASKS) drop_masks(c);
        uint64_t *made = calloc(n_words, sizeof *made);
        if (!made) return pl_fail(err, PL_ERR_MEMORY, "out of memory for a mask of tokens");
        if (c->places[place].accepts) memcpy(made, c->trie->ends, n_words * sizeof *made);
        pl_status status = walk(c, place, made, err);
        if (status != PL_OK) {
            free(made);
            return status;
        }
        c->places[place].mask = made;
        c->n_masks++;
    }
    *mask = c->places[place].mask;
    return PL_OK;
}
