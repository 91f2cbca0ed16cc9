/* A grammar over candidates: see grammar_sampler.h. */
#include "grammar_sampler.h"

#include "../base/error.h"

#include <math.h>

static bool has(const uint64_t *mask, int64_t n_tokens, int32_t id) {
    return id < n_tokens && (mask[id / 64] >> (id % 64) & 1);
}

/* All candidates are still there: ids[i] is i. Goes by words, most of which are of one kind. */
static int64_t keep_of_all(pl_candidates *c, const uint64_t *mask, int64_t n_tokens) {
    int64_t n = 0;
    for (int64_t begin = 0; begin < c->n_vocab; begin += 64) {
        int64_t end = begin + 64 < c->n_vocab ? begin + 64 : c->n_vocab;
        uint64_t word = begin < n_tokens ? mask[begin / 64] : 0;
        if (word == 0) {
            for (int64_t id = begin; id < end; id++) c->logits[id] = -INFINITY;
            continue;
        }
        for (int64_t id = begin; id < end; id++) {
            bool keep = word >> (id - begin) & 1;
            c->ids[n] = (int32_t)id;
            c->logits[id] = keep ? c->logits[id] : -INFINITY;
            n += keep;
        }
    }
    return n;
}

static int64_t keep_of_some(pl_candidates *c, const uint64_t *mask, int64_t n_tokens) {
    int64_t n = 0;
    for (int64_t i = 0; i < c->n; i++) {
        int32_t id = c->ids[i];
        if (has(mask, n_tokens, id))
            c->ids[n++] = id;
        else
            c->logits[id] = -INFINITY;
    }
    return n;
}

pl_status pl_grammar_state_apply(pl_grammar_state *state, pl_candidates *c, pl_error *err) {
    const uint64_t *mask;
    if (pl_grammar_state_is_free(state)) return PL_OK;
    pl_status status = pl_grammar_state_mask(state, &mask, err);
    if (status != PL_OK) return status;
    int64_t n_tokens = (int64_t)pl_grammar_state_n_tokens(state), had = c->n;
    c->n = had == c->n_vocab ? keep_of_all(c, mask, n_tokens) : keep_of_some(c, mask, n_tokens);
    if (c->n > 0) return PL_OK;
    if (pl_grammar_state_has_ended(state))
        return pl_fail(err, PL_ERR_ARGUMENT, "grammar: the text has ended; reset it first");
    if (!pl_grammar_state_may_go_on(state))
        return pl_fail(err, PL_ERR_ARGUMENT,
                       "grammar: the text is complete, and the vocabulary has no end-of-text");
    return pl_fail(err, PL_ERR_ARGUMENT,
                   "grammar: none of the %lld tokens left may come next; put it first in the chain",
                   (long long)had);
}
