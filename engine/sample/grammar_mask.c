/* Which tokens may come next: one walk down the vocabulary's tree. See grammar_cache.h. */
#include "grammar_cache.h"

#include "../base/error.h"

#include <stdlib.h>
#include <string.h>

enum { MAX_MASKS = 2048 };

/* The tokens of the nodes in [begin, end). */
static void add_tokens(const pl_token_trie *trie, size_t begin, size_t end, uint64_t *mask) {
    for (uint32_t t = trie->nodes[begin].tokens; t < trie->nodes[end].tokens; t++) {
        uint32_t id = (uint32_t)trie->tokens[t];
        mask[id / 64] |= (uint64_t)1 << (id % 64);
    }
}

/* Adds the tokens of the nodes in [begin, end), whose parent's place is on the path.
 * The nodes of the tree come in depth-first order, so a walk is a scan that leaves out what is
 * below a byte that must not stand. */
static pl_status walk(pl_gcache *c, size_t begin, size_t end, uint64_t *mask, pl_error *err) {
    const pl_token_trie *trie = c->trie;
    const uint8_t *classes = c->grammar->classes;
    for (size_t i = begin; i < end;) {
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
        add_tokens(trie, i, i + 1, mask);
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
        c->path[0] = place;
        pl_status status = walk(c, 0, c->trie->n_nodes, made, err);
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

pl_status pl_gcache_prefix_mask(pl_gcache *c, uint32_t place, const char *bytes, size_t size,
                                bool only, uint64_t *mask, pl_error *err) {
    const pl_token_trie *trie = c->trie;
    size_t begin = 0, end = trie->n_nodes;
    for (size_t depth = 0; depth < size; depth++) {
        size_t i = begin;
        while (i < end && trie->nodes[i].byte != (uint8_t)bytes[depth]) i = trie->nodes[i].skip;
        if (i >= end) return PL_OK;
        add_tokens(trie, i, i + 1, mask);
        begin = i + 1;
        end = trie->nodes[i].skip;
    }
    if (only) {
        add_tokens(trie, begin, end, mask);
        return PL_OK;
    }
    c->path[size] = place;
    return walk(c, begin, end, mask, err);
}
