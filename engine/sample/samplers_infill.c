/* Infill: for filling a gap in a text (Gerganov 2024, llama.cpp's sampler of that name). Ends the
 * text when that is likely, and lets tokens of which one begins another stand for one thought. */
#include "samplers.h"

#include "../base/error.h"

#include <math.h>
#include <string.h>

enum { MOST = 1024 }; /* every pair is looked at */

typedef struct infill {
    const pl_tokenizer *tok;
    pl_candidate *best; /* [n] the best first; logit holds the probability, 0: removed */
    int64_t n;
} infill;

static bool is_end(const infill *f, int32_t id) {
    return (size_t)id < pl_tokenizer_n_tokens(f->tok) && pl_tokenizer_is_end(f->tok, id);
}

static bool begins(const infill *f, int32_t a, int32_t b) {
    size_t n = pl_tokenizer_n_tokens(f->tok);
    if ((size_t)a >= n || (size_t)b >= n) return false;
    pl_bytes first = pl_tokenizer_token_bytes(f->tok, a),
             second = pl_tokenizer_token_bytes(f->tok, b);
    return first.size > 0 && first.size <= second.size &&
           memcmp(first.data, second.data, first.size) == 0;
}

/* Where one token begins another, the likelier takes the other's probability. */
static void merge_prefixes(infill *f) {
    for (int64_t a = 0; a < f->n; a++)
        for (int64_t b = 0; b < f->n && f->best[a].logit > 0; b++) {
            if (a == b || f->best[b].logit <= 0 || !begins(f, f->best[a].id, f->best[b].id))
                continue;
            int64_t to = f->best[b].logit > f->best[a].logit ? b : a, from = to == a ? b : a;
            f->best[to].logit += f->best[from].logit;
            f->best[from].logit = 0;
        }
}

/* Removes what is less likely than `least`, but no end; returns how many tokens of text are left,
 * and normalises. */
static int64_t cut(infill *f, double least) {
    int64_t n_text = 0;
    double sum = 0;
    for (int64_t i = 0; i < f->n; i++) {
        pl_candidate *t = &f->best[i];
        bool end = is_end(f, t->id);
        if (!end && t->logit < least) t->logit = 0;
        if (!end && t->logit > 0) n_text++;
        sum += t->logit;
    }
    for (int64_t i = 0; i < f->n && sum > 0; i++)
        f->best[i].logit = (float)(f->best[i].logit / sum);
    return n_text;
}

static void keep_ends(infill *f) {
    for (int64_t i = 0; i < f->n; i++)
        if (!is_end(f, f->best[i].id)) f->best[i].logit = 0;
}

/* The end of a turn, or of the text, when there is no such token. */
static int32_t find_end(const pl_tokenizer *tok) {
    pl_special_ids special = pl_tokenizer_special_ids(tok);
    if (special.eos >= 0) return special.eos;
    for (size_t id = 0; id < pl_tokenizer_n_tokens(tok); id++)
        if (pl_tokenizer_is_end(tok, (int32_t)id)) return (int32_t)id;
    return -1;
}

static void decide(infill *f, double sum) {
    double text = 0, end = 0;
    for (int64_t i = 0; i < f->n; i++) {
        f->best[i].logit = (float)(f->best[i].logit / sum);
        *(is_end(f, f->best[i].id) ? &end : &text) += f->best[i].logit;
    }
    if (3 * end * (double)f->n > text) {
        keep_ends(f);
        return;
    }
    merge_prefixes(f);
    int64_t n_text = cut(f, 0.2);
    if (n_text == 0)
        f->n = 0;
    else
        cut(f, 1.0 / (double)(n_text + 1));
}

static pl_status apply_infill(pl_sampler *self, pl_candidates *c, pl_error *err) {
    (void)self;
    if (!c->tokenizer) return pl_fail(err, PL_ERR_STATE, "it needs a model with a tokenizer");
    if (c->n > MOST)
        return pl_fail(err, PL_ERR_ARGUMENT,
                       "%lld tokens are left, expected %d at most: put a top_k before it",
                       (long long)c->n, MOST);
    infill f = {.tok = c->tokenizer, .best = c->heap, .n = c->n};
    double sum = pl_candidates_weigh(c), top = pl_candidates_best(c).logit;
    pl_candidates_select(c, c->n);
    for (int64_t i = 0; i < f.n; i++) f.best[i].logit = (float)exp(f.best[i].logit - top);
    decide(&f, sum);
    for (int64_t i = 0; i < c->n; i++) c->logits[c->ids[i]] = -INFINITY;
    for (int64_t i = 0; i < f.n; i++)
        if (f.best[i].logit > 0) c->logits[f.best[i].id] = (float)log(f.best[i].logit);
    if (f.n == 0) {
        int32_t end = find_end(c->tokenizer);
        if (end < 0 || end >= c->n_vocab)
            return pl_fail(err, PL_ERR_ARGUMENT, "the vocabulary has no token that ends a text");
        c->logits[end] = 0;
        c->ids[0] = end;
        c->n = 1;
    }
    return pl_candidates_compact(c, err);
}

const pl_sampler_kind pl_sampler_infill = {
    .name = "infill",
    .summary = "fills a gap: ends early, and keeps the few likely ways on",
    .apply = apply_infill};
