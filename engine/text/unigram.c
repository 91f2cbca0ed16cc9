/* Unigram: of all ways to write the word as pieces, the one with the greatest sum of scores
 * (Viterbi). A character that no piece covers alone costs 10 more than the worst piece. */
#include <stdlib.h>

#include "internal.h"

#include "utf8.h"

enum { UNKNOWN = -1 };

static bool reserve(pl_encode_call *call, size_t n) {
    if (n <= call->best_capacity) return true;
    free(call->best);
    free(call->back);
    free(call->via);
    call->best = malloc(n * sizeof *call->best);
    call->back = malloc(n * sizeof *call->back);
    call->via = malloc(n * sizeof *call->via);
    call->best_capacity = call->best && call->back && call->via ? n : 0;
    return call->best_capacity > 0;
}

/* back[i] == UINT32_MAX: nothing ends at i yet. */
static void offer(pl_encode_call *call, size_t from, size_t to, double score, int32_t id) {
    double total = call->best[from] + score;
    if (call->back[to] != UINT32_MAX && total <= call->best[to]) return;
    call->best[to] = total;
    call->back[to] = (uint32_t)from;
    call->via[to] = id;
}

static void offer_pieces(pl_encode_call *call, const char *s, size_t size, size_t at, size_t one) {
    const pl_tokenizer *tok = call->tok;
    bool has_single = false;
    uint32_t node = 0;
    for (size_t i = at; i < size && tok->trie.n_nodes; i++) {
        node = pl_trie_step(&tok->trie, node, (uint8_t)s[i]);
        if (node == 0) break;
        int32_t id = tok->trie.values[node];
        if (id < 0) continue;
        size_t n = i + 1 - at;
        /* A user-defined piece outdoes any other way to write the same bytes. */
        double score = tok->attrs[id] == PL_TOKEN_USER_DEFINED
                           ? (double)n * (double)tok->max_score - 0.1
                           : (double)tok->scores[id];
        offer(call, at, i + 1, score, id);
        if (n == one) has_single = true;
    }
    if (!has_single) offer(call, at, at + one, (double)tok->min_score - 10.0, UNKNOWN);
}

pl_status pl_unigram_word(pl_encode_call *call, size_t begin, size_t end, pl_error *err) {
    size_t size = end - begin;
    if (!reserve(call, size + 1)) return pl_no_memory(err);
    const char *s = pl_call_text(call) + begin;
    for (size_t i = 0; i <= size; i++) {
        call->back[i] = UINT32_MAX;
        call->via[i] = UNKNOWN;
    }
    call->back[0] = 0;
    call->best[0] = 0;
    for (size_t at = 0, one; at < size; at += one) {
        uint32_t cp;
        one = pl_utf8_decode(s + at, size - at, &cp);
        if (one == 0) one = 1;
        if (call->back[at] != UINT32_MAX) offer_pieces(call, s, size, at, one);
    }
    /* Turn the way back around: afterwards back[i] is where the piece that begins at i ends. */
    size_t to = size, next = size;
    while (to > 0 && to <= size) {
        size_t from = call->back[to];
        call->back[to] = (uint32_t)next;
        next = to;
        to = from;
    }
    call->back[0] = (uint32_t)next;
    size_t word_ids = call->ids->n;
    for (size_t at = 0; at < size;) {
        size_t stop = call->back[at];
        pl_status status = PL_OK;
        if (call->via[stop] == UNKNOWN)
            status = pl_unknown_char(call, s + at, stop - at, word_ids, err);
        else if (!pl_ids_append(call->ids, call->via[stop]))
            status = pl_no_memory(err);
        if (status != PL_OK) return status;
        at = stop;
    }
    return PL_OK;
}
