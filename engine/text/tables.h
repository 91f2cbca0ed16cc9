/* The lookup tables of a tokenizer, built once: strings by id and back, merges by pair, and a
 * trie for the longest piece at a place. All end in a *_clear that accepts an empty one. */
#ifndef PL_TEXT_TABLES_H
#define PL_TEXT_TABLES_H

#include "tokenizer.h"

/* Strings numbered from 0, in one block, with an open-addressing table from string to number.
 *
 *     slots [mask + 1]: number or -1 | offsets [n + 1] -> | blob
 */
typedef struct pl_strings {
    size_t n;
    int32_t *slots;
    uint32_t *offsets;
    char *blob;
    size_t mask;
    size_t max_len; /* of any string */
} pl_strings;

/* Copies items [n]; of equal ones the first is found. False when memory is short or there are
 * more than 2 GiB. index: build the table, else pl_strings_find misses always. */
bool pl_strings_init(pl_strings *strings, const pl_bytes *items, size_t n, bool index);
void pl_strings_clear(pl_strings *strings);
int32_t pl_strings_find(const pl_strings *strings, const char *s, size_t len); /* or -1; "" is never
                                                                                found */

/* The number of a followed by b. */
int32_t pl_strings_find_joined(const pl_strings *strings, pl_bytes a, pl_bytes b);

static inline pl_bytes pl_strings_get(const pl_strings *strings, size_t i) {
    return (pl_bytes){strings->blob + strings->offsets[i],
                      strings->offsets[i + 1] - strings->offsets[i]};
}

uint64_t pl_hash_bytes(const char *s, size_t len);

/* What a pair of tokens merges into. rank: the lowest first. */
typedef struct pl_merge {
    uint64_t pair; /* left << 32 | right */
    uint32_t rank;
    int32_t id;
} pl_merge;

typedef struct pl_merges {
    pl_merge *slots; /* [mask + 1]; an empty one has pair UINT64_MAX */
    size_t mask;
    unsigned shift;
} pl_merges;

bool pl_merges_init(pl_merges *merges, size_t n);
void pl_merges_clear(pl_merges *merges);

/* Of equal pairs the last counts, as in Hugging Face's map. The table has room for n pairs. */
void pl_merges_put(pl_merges *merges, int32_t left, int32_t right, uint32_t rank, int32_t id);

static inline const pl_merge *pl_merges_find(const pl_merges *merges, int32_t left, int32_t right) {
    uint64_t pair = (uint64_t)(uint32_t)left << 32 | (uint32_t)right;
    size_t i = (size_t)(pair * 0x9E3779B97F4A7C15u >> merges->shift);
    for (;; i = (i + 1) & merges->mask) {
        const pl_merge *slot = &merges->slots[i];
        if (slot->pair == pair) return slot;
        if (slot->pair == UINT64_MAX) return NULL;
    }
}

/* A trie over bytes; its edges live in one hash table. Node 0 is the root. */
typedef struct pl_trie {
    uint64_t *edges; /* [mask + 1]: node << 8 | byte, UINT64_MAX when empty */
    uint32_t *targets;
    size_t mask, n_edges;
    int32_t *values; /* [n_nodes]: -1, or what the path to here stands for */
    size_t n_nodes, capacity;
    uint32_t roots[256]; /* first step, 0 when there is none */
} pl_trie;

/* Of equal keys the first stays; an empty key is ignored. False when memory is short. */
bool pl_trie_put(pl_trie *trie, const char *key, size_t len, int32_t value);
void pl_trie_clear(pl_trie *trie);

/* The node after byte, or 0. */
uint32_t pl_trie_step(const pl_trie *trie, uint32_t node, uint8_t byte);

#endif
