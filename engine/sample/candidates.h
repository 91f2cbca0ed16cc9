/* The tokens that may still be chosen: logits over the whole vocabulary, -inf where removed.
 *
 *     pl_candidates c;
 *     if (pl_candidates_init(&c, d_vocab, err) != PL_OK) return ...;
 *     // for every token:
 *     if (pl_candidates_begin(&c, logits, (pl_random){seed, stream, 0}, pos, err) != PL_OK) ...
 *     pl_candidates_keep_best(&c, 40);
 *     int32_t id = pl_candidates_best(&c).id;
 *     pl_candidates_clear(&c);
 *
 * The logits are the state; beside them stands the list of the ids that are left, so that what
 * follows a top_k of 40 looks at 40 numbers, not at the vocabulary:
 *
 *     logits  [ -inf  2.1  -inf  0.3  -inf  -inf  1.7 ]     n_vocab = 7
 *     ids     [ 1  3  6 ]                                   n = 3, ascending
 *
 * "Better" is one total order: the higher logit, and between equal logits the lower id. */
#ifndef PL_SAMPLE_CANDIDATES_H
#define PL_SAMPLE_CANDIDATES_H

#include "../base/random.h"
#include "../kernels/kernels.h"
#include "../text/tokenizer.h"

#include <float.h>

typedef struct pl_candidate {
    float logit;
    int32_t id;
} pl_candidate;

typedef struct pl_candidates {
    float *logits; /* [n_vocab] float32, borrowed from the caller and edited in place */
    int64_t n_vocab;
    int32_t *ids; /* [n] of [n_vocab] */
    int64_t n;
    float *weights;     /* [n] of [n_vocab]: pl_candidates_weigh's result */
    float *keys;        /* [n_vocab] scratch, for the caller of pl_candidates_keep_mass_by */
    pl_candidate *heap; /* [n_vocab] scratch */
    int32_t *counts;    /* [n_vocab] scratch, all 0 between uses */
    pl_ids scratch;     /* of any length */
    const pl_kernels *kernels;
    const pl_tokenizer *tokenizer; /* borrowed; NULL where there is none */
    const int32_t *tokens;         /* [n_tokens] the text so far, borrowed; a chain sets them */
    int64_t n_tokens, n_prompt;    /* the first n_prompt were given, the others chosen */
    pl_random random;              /* numbers of this position; every draw advances it */
    int32_t chosen;                /* -1 until a sampler has chosen */
} pl_candidates;

/* All the memory that sampling from a vocabulary of this size needs. */
pl_status pl_candidates_init(pl_candidates *c, int64_t n_vocab, pl_error *err);
void pl_candidates_clear(pl_candidates *c);

/* Takes up the logits [n_vocab] of one position. Numbers are drawn from (seed, stream, pos) only:
 * the same text comes out in any batch, fork and number of threads. random.counter is not read.
 * Errors: as pl_candidates_refresh. */
pl_status pl_candidates_begin(pl_candidates *c, float *logits, pl_random random, int64_t pos,
                              pl_error *err);

/* Builds the list of ids anew after somebody else has edited the logits.
 * Errors: PL_ERR_ARGUMENT when a logit is NaN or +inf (with its id) or none is left. */
pl_status pl_candidates_refresh(pl_candidates *c, pl_error *err);

/* Whether the token is still there; false for ids outside the vocabulary. */
static inline bool pl_candidates_has(const pl_candidates *c, int64_t id) {
    return id >= 0 && id < c->n_vocab && c->logits[id] >= -FLT_MAX;
}

/* Gives a token that is left another logit: -inf or NaN removes it once pl_candidates_compact is
 * called, anything else is brought into the range of finite floats. */
void pl_candidates_set(pl_candidates *c, int64_t id, double logit);

/* Takes those whose logit is -inf by now out of the list.
 * Errors: PL_ERR_ARGUMENT when none is left. */
pl_status pl_candidates_compact(pl_candidates *c, pl_error *err);

/* The best of those left; there is always one. */
pl_candidate pl_candidates_best(const pl_candidates *c);

/* Removes all that are worse than `last`. */
void pl_candidates_keep_from(pl_candidates *c, pl_candidate last);

/* Writes the k best, at most n, into heap, the best first, and returns how many they are. */
int64_t pl_candidates_select(pl_candidates *c, int64_t k);

/* Keeps the k >= 1 best. */
void pl_candidates_keep_best(pl_candidates *c, int64_t k);

/* Keeps the smallest number of best ones that together have probability p or more. */
void pl_candidates_keep_mass(pl_candidates *c, double p);

/* The same by another order than that of the logits: the lower the key [n], beside ids, the better.
 * The weights must be those of pl_candidates_weigh, which sum to `sum`. */
void pl_candidates_keep_mass_by(pl_candidates *c, const float *keys, double sum, double p);

/* Sets weights[i] = exp(logit of ids[i] - the best logit) and returns their sum. */
double pl_candidates_weigh(pl_candidates *c);

/* One of those left, with probability proportional to its weight. */
int32_t pl_candidates_draw(pl_candidates *c);

/* Facts about the softmax of a row of logits, -inf allowed, that the samplers have not touched. */
typedef struct pl_distribution {
    double log_sum;      /* log of the sum of exp(logit) */
    double entropy_nats; /* - sum of p log p */
} pl_distribution;
pl_distribution pl_candidates_distribution(pl_candidates *c);

#endif
