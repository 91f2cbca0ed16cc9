#include "tables.h"

#include <stdlib.h>
#include <string.h>

#include "../base/memory.h"
#include "../base/size.h"

uint64_t pl_hash_bytes(const char *s, size_t len) {
    uint64_t h = 0x9E3779B97F4A7C15u ^ len;
    while (len >= 8) {
        uint64_t v;
        memcpy(&v, s, 8);
        h = (h ^ v) * 0xD6E8FEB86659FD93u;
        h ^= h >> 32;
        s += 8;
        len -= 8;
    }
    uint64_t v = 0;
    memcpy(&v, s, len);
    h = (h ^ v) * 0xD6E8FEB86659FD93u;
    h ^= h >> 32;
    return h * 0xD6E8FEB86659FD93u;
}

static size_t table_size(size_t n) {
    size_t size = 16;
    while (size < 2 * n) size *= 2;
    return size;
}

bool pl_strings_init(pl_strings *strings, const pl_bytes *items, size_t n, bool index) {
    *strings = (pl_strings){.n = n};
    size_t total = 0;
    for (size_t i = 0; i < n; i++) {
        if (!pl_size_add(&total, total, items[i].size)) return false;
        if (items[i].size > strings->max_len) strings->max_len = items[i].size;
    }
    if (total > INT32_MAX || n >= INT32_MAX / 4) return false;
    size_t size = index ? table_size(n) : 1;
    strings->slots = pl_memory_alloc(size * sizeof *strings->slots +
                                     (n + 1) * sizeof *strings->offsets + total + 1);
    if (!strings->slots) return false;
    strings->offsets = (uint32_t *)(strings->slots + size);
    strings->blob = (char *)(strings->offsets + n + 1);
    strings->mask = size - 1;
    memset(strings->slots, 0xFF, size * sizeof *strings->slots);
    uint32_t at = 0;
    for (size_t i = 0; i < n; i++) {
        strings->offsets[i] = at;
        if (items[i].size) memcpy(strings->blob + at, items[i].data, items[i].size);
        at += (uint32_t)items[i].size;
    }
    strings->offsets[n] = at;
    strings->blob[at] = 0;
    for (size_t i = 0; i < n && index; i++) {
        pl_bytes s = pl_strings_get(strings, i);
        size_t k = pl_hash_bytes(s.data, s.size) & strings->mask;
        while (strings->slots[k] >= 0) {
            pl_bytes t = pl_strings_get(strings, (size_t)strings->slots[k]);
            if (t.size == s.size && memcmp(t.data, s.data, s.size) == 0) break;
            k = (k + 1) & strings->mask;
        }
        if (strings->slots[k] < 0) strings->slots[k] = (int32_t)i;
    }
    return true;
}

void pl_strings_clear(pl_strings *strings) {
    free(strings->slots); /* and the rest of the block */
    *strings = (pl_strings){0};
}

int32_t pl_strings_find(const pl_strings *strings, const char *s, size_t len) {
    if (!strings->slots || len == 0 || len > strings->max_len) return -1;
    size_t k = pl_hash_bytes(s, len) & strings->mask;
    for (size_t tries = 0; tries <= strings->mask; tries++, k = (k + 1) & strings->mask) {
        int32_t i = strings->slots[k];
        if (i < 0) return -1;
        pl_bytes t = pl_strings_get(strings, (size_t)i);
        if (t.size == len && memcmp(t.data, s, len) == 0) return i;
    }
    return -1;
}

int32_t pl_strings_find_joined(const pl_strings *strings, pl_bytes a, pl_bytes b) {
    char room[256];
    size_t size = a.size + b.size;
    if (size > strings->max_len) return -1; /* also bounds what is allocated */
    char *joined = size <= sizeof room ? room : malloc(size);
    if (!joined) return -1;
    if (a.size) memcpy(joined, a.data, a.size);
    if (b.size) memcpy(joined + a.size, b.data, b.size);
    int32_t found = pl_strings_find(strings, joined, size);
    if (joined != room) free(joined);
    return found;
}

bool pl_merges_init(pl_merges *merges, size_t n) {
    size_t size = table_size(n);
    merges->slots = pl_memory_alloc(size * sizeof *merges->slots);
    if (!merges->slots) return false;
    memset(merges->slots, 0xFF, size * sizeof *merges->slots);
    merges->mask = size - 1;
    merges->shift = 64;
    for (size_t s = size; s > 1; s /= 2) merges->shift--;
    return true;
}

void pl_merges_clear(pl_merges *merges) {
    free(merges->slots);
    *merges = (pl_merges){0};
}

void pl_merges_put(pl_merges *merges, int32_t left, int32_t right, uint32_t rank, int32_t id) {
    uint64_t pair = (uint64_t)(uint32_t)left << 32 | (uint32_t)right;
    size_t i = (size_t)(pair * 0x9E3779B97F4A7C15u >> merges->shift);
    while (merges->slots[i].pair != UINT64_MAX && merges->slots[i].pair != pair)
        i = (i + 1) & merges->mask;
    merges->slots[i] = (pl_merge){pair, rank, id};
}

static size_t edge_slot(const uint64_t *edges, size_t mask, uint64_t key) {
    size_t k = (size_t)(key * 0x9E3779B97F4A7C15u >> 20) & mask;
    while (edges[k] != UINT64_MAX && edges[k] != key) k = (k + 1) & mask;
    return k;
}

static bool grow_edges(pl_trie *trie) {
    size_t size = trie->edges ? 2 * (trie->mask + 1) : 64;
    uint64_t *edges = malloc(size * sizeof *edges);
    uint32_t *targets = malloc(size * sizeof *targets);
    if (!edges || !targets) {
        free(edges);
        free(targets);
        return false;
    }
    memset(edges, 0xFF, size * sizeof *edges);
    for (size_t i = 0; trie->edges && i <= trie->mask; i++) {
        if (trie->edges[i] == UINT64_MAX) continue;
        size_t k = edge_slot(edges, size - 1, trie->edges[i]);
        edges[k] = trie->edges[i];
        targets[k] = trie->targets[i];
    }
    free(trie->edges);
    free(trie->targets);
    trie->edges = edges;
    trie->targets = targets;
    trie->mask = size - 1;
    return true;
}

static bool new_node(pl_trie *trie, uint32_t *node) {
    if (trie->n_nodes == trie->capacity) {
        size_t capacity = trie->capacity ? 2 * trie->capacity : 64;
        int32_t *values = realloc(trie->values, capacity * sizeof *values);
        if (!values) return false;
        trie->values = values;
        trie->capacity = capacity;
    }
    trie->values[trie->n_nodes] = -1;
    *node = (uint32_t)trie->n_nodes++;
    return true;
}

static bool add_edge(pl_trie *trie, uint32_t from, uint8_t byte, uint32_t *to) {
    if (!new_node(trie, to)) return false;
    if (from == 0) {
        trie->roots[byte] = *to;
        return true;
    }
    if ((!trie->edges || 2 * trie->n_edges > trie->mask) && !grow_edges(trie)) return false;
    uint64_t key = (uint64_t)from << 8 | byte;
    size_t k = edge_slot(trie->edges, trie->mask, key);
    trie->edges[k] = key;
    trie->targets[k] = *to;
    trie->n_edges++;
    return true;
}

bool pl_trie_put(pl_trie *trie, const char *key, size_t len, int32_t value) {
    uint32_t node = 0;
    if (trie->n_nodes == 0 && !new_node(trie, &node)) return false;
    for (size_t i = 0; i < len; i++) {
        uint32_t next = pl_trie_step(trie, node, (uint8_t)key[i]);
        if (next == 0 && !add_edge(trie, node, (uint8_t)key[i], &next)) return false;
        node = next;
    }
    if (len > 0 && trie->values[node] < 0) trie->values[node] = value;
    return true;
}

void pl_trie_clear(pl_trie *trie) {
    free(trie->edges);
    free(trie->targets);
    free(trie->values);
    *trie = (pl_trie){0};
}

uint32_t pl_trie_step(const pl_trie *trie, uint32_t node, uint8_t byte) {
    if (node == 0) return trie->roots[byte];
    if (!trie->edges) return 0;
    uint64_t key = (uint64_t)node << 8 | byte;
    size_t k = edge_slot(trie->edges, trie->mask, key);
    return trie->edges[k] == key ? trie->targets[k] : 0;
}
