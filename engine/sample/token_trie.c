/* A vocabulary as a tree of bytes: see grammar_program.h. */
#include "grammar_program.h"

#include "../base/error.h"

#include <stdlib.h>
#include <string.h>

typedef struct piece {
    pl_bytes bytes;
    int32_t id;
} piece;

static int compare(const void *a, const void *b) {
    const piece *x = a, *y = b;
    size_t n = x->bytes.size < y->bytes.size ? x->bytes.size : y->bytes.size;
    int order = memcmp(x->bytes.data, y->bytes.data, n);
    if (order == 0) order = (x->bytes.size > y->bytes.size) - (x->bytes.size < y->bytes.size);
    if (order == 0) order = (x->id > y->id) - (x->id < y->id);
    return order;
}

/* The tokens that have text, sorted; their number, and the sum of their bytes. */
static size_t collect(const pl_tokenizer *tok, pl_token_trie *trie, piece *pieces, size_t *bytes) {
    enum { LONGEST = 4096 }; /* longer ones cannot be chosen */
    size_t n = 0;
    *bytes = 0;
    for (size_t i = 0; i < trie->n_tokens; i++) {
        int32_t id = (int32_t)i;
        pl_token_attr attr = pl_tokenizer_attr(tok, id);
        if (pl_tokenizer_is_end(tok, id)) {
            trie->ends[i / 64] |= (uint64_t)1 << (i % 64);
            continue;
        }
        if (attr == PL_TOKEN_CONTROL || attr == PL_TOKEN_UNUSED || attr == PL_TOKEN_UNKNOWN)
            continue;
        pl_bytes text = pl_tokenizer_token_bytes(tok, id);
        if (text.size == 0 || text.size > LONGEST) continue;
        pieces[n++] = (piece){text, id};
        *bytes += text.size;
    }
    if (n > 0) qsort(pieces, n, sizeof *pieces, compare);
    return n;
}

static size_t common(pl_bytes a, pl_bytes b) {
    size_t n = a.size < b.size ? a.size : b.size, i = 0;
    while (i < n && a.data[i] == b.data[i]) i++;
    return i;
}

/* Nodes of the sorted pieces: each piece adds those of its bytes that the one before lacks. */
static void add_nodes(pl_token_trie *trie, const piece *pieces, size_t n, uint32_t *open) {
    size_t depth = 0, n_nodes = 0;
    for (size_t i = 0; i < n; i++) {
        pl_bytes text = pieces[i].bytes;
        size_t shared = i ? common(pieces[i - 1].bytes, text) : 0;
        for (; depth > shared; depth--) trie->nodes[open[depth - 1]].skip = (uint32_t)n_nodes;
        for (; depth < text.size; depth++) {
            trie->nodes[n_nodes] = (pl_trie_node){.tokens = (uint32_t)i,
                                                  .depth = (uint16_t)(depth + 1),
                                                  .byte = (uint8_t)text.data[depth]};
            open[depth] = (uint32_t)n_nodes++;
        }
        if (depth > trie->max_depth) trie->max_depth = (uint32_t)depth;
        trie->tokens[i] = pieces[i].id;
    }
    for (; depth > 0; depth--) trie->nodes[open[depth - 1]].skip = (uint32_t)n_nodes;
    trie->nodes[n_nodes].tokens = (uint32_t)n;
    trie->n_nodes = n_nodes;
}

/* Each token's own bytes, for accepting it. */
static void copy_bytes(pl_token_trie *trie, const piece *pieces, size_t n) {
    for (size_t i = 0; i < n; i++) trie->start[pieces[i].id + 1] = (uint32_t)pieces[i].bytes.size;
    for (size_t i = 0; i < trie->n_tokens; i++) trie->start[i + 1] += trie->start[i];
    for (size_t i = 0; i < n; i++)
        memcpy(trie->bytes + trie->start[pieces[i].id], pieces[i].bytes.data, pieces[i].bytes.size);
}

pl_status pl_token_trie_new(pl_token_trie **out, const pl_tokenizer *tok, pl_error *err) {
    size_t n_tokens = pl_tokenizer_n_tokens(tok), n, bytes;
    pl_token_trie *trie = calloc(1, sizeof *trie);
    piece *pieces = calloc(n_tokens + 1, sizeof *pieces);
    uint32_t *open = NULL;
    if (!trie || !pieces) goto fail;
    trie->n_refs = 1;
    trie->n_tokens = n_tokens;
    trie->ends = calloc(n_tokens / 64 + 1, sizeof *trie->ends);
    trie->start = calloc(n_tokens + 2, sizeof *trie->start);
    trie->tokens = calloc(n_tokens + 1, sizeof *trie->tokens);
    if (!trie->ends || !trie->start || !trie->tokens) goto fail;
    n = collect(tok, trie, pieces, &bytes);
    if (bytes >= UINT32_MAX) goto fail;
    trie->nodes = malloc((bytes + 1) * sizeof *trie->nodes);
    trie->bytes = malloc(bytes + 1);
    open = malloc((bytes + 1) * sizeof *open);
    if (!trie->nodes || !trie->bytes || !open) goto fail;
    memset(&trie->nodes[0], 0, sizeof *trie->nodes);
    add_nodes(trie, pieces, n, open);
    copy_bytes(trie, pieces, n);
    pl_trie_node *fitting = realloc(trie->nodes, (trie->n_nodes + 1) * sizeof *fitting);
    if (fitting) trie->nodes = fitting;
    free(open);
    free(pieces);
    *out = trie;
    return PL_OK;
fail:
    free(open);
    free(pieces);
    pl_token_trie_unref(trie);
    return pl_fail(err, PL_ERR_MEMORY, "out of memory for the bytes of %zu tokens", n_tokens);
}

pl_token_trie *pl_token_trie_ref(pl_token_trie *trie) {
    trie->n_refs++;
    return trie;
}

void pl_token_trie_unref(pl_token_trie *trie) {
    if (!trie || (trie->n_refs > 0 && --trie->n_refs > 0)) return;
    free(trie->nodes);
    free(trie->tokens);
    free(trie->ends);
    free(trie->start);
    free(trie->bytes);
    free(trie);
}

size_t pl_token_trie_n_tokens(const pl_token_trie *trie) {
    return trie->n_tokens;
}
