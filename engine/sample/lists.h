/* Lists of tokens with a number each: what a sampler takes that is no single number.
 *
 *     logit_bias       {50256} -> -inf   {11} -> 0.5
 *     bad_words_ids    {5, 7, 1} -> 0    {9} -> 0
 *
 *     pl_token_lists lists = {0};
 *     pl_token_lists_add(&lists, ids, 3, -1.5, err);
 *     pl_token_lists_clear(&lists); */
#ifndef PL_SAMPLE_LISTS_H
#define PL_SAMPLE_LISTS_H

#include "../text/tokenizer.h"

typedef struct pl_token_list {
    int32_t *ids; /* [n], owned */
    size_t n;
    double value;
} pl_token_list;

/* Owner: the caller; begins as {0}. */
typedef struct pl_token_lists {
    pl_token_list *lists; /* [n] */
    size_t n, capacity;
} pl_token_lists;

/* Appends a copy of ids [n]. PL_ERR_MEMORY leaves the lists as they were. */
pl_status pl_token_lists_add(pl_token_lists *lists, const int32_t *ids, size_t n, double value,
                             pl_error *err);

/* *out, which must be {0}, becomes a copy. */
pl_status pl_token_lists_copy(pl_token_lists *out, const pl_token_lists *lists, pl_error *err);
void pl_token_lists_clear(pl_token_lists *lists);

/* One list with every token that ends a text; none where the vocabulary has no such token. */
pl_status pl_token_lists_add_ends(pl_token_lists *lists, const pl_tokenizer *tok, pl_error *err);

/* One list for every way in which a run of tokens holds the text [len] of a DRY sequence breaker:
 * {id} where the text lies inside the token, {id, rest...} where it begins at the token's end; the
 * rest is cut to `most` tokens. */
pl_status pl_token_lists_add_breaker(pl_token_lists *lists, const pl_tokenizer *tok,
                                     const char *text, size_t len, size_t most, pl_error *err);

#endif
