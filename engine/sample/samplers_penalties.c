/* Samplers that look back: what the text has said already becomes less likely. */
#include "samplers.h"

#include "../base/error.h"

#include <math.h>
#include <string.h>

/* Where the last n tokens of the text begin; n < 0: all. */
static int64_t window(const pl_candidates *c, double n) {
    return n < 0 || n >= (double)c->n_tokens ? 0 : c->n_tokens - (int64_t)n;
}

static bool known(const pl_candidates *c, int32_t id) {
    return id >= 0 && id < c->n_vocab;
}

/* Repetition: Keskar et al. 2019, "CTRL" (negative logits are multiplied, lest the penalty reward
 * them); frequency and presence: OpenAI's parameters of that name. */
static pl_status apply_penalties(pl_sampler *self, pl_candidates *c, pl_error *err) {
    (void)err;
    const double *p = self->params;
    double repeat = p[1], freq = p[2], present = p[3];
    if (repeat == 1 && freq == 0 && present == 0) return PL_OK;
    int64_t from = window(c, p[0]);
    for (int64_t i = from; i < c->n_tokens; i++)
        if (known(c, c->tokens[i])) c->counts[c->tokens[i]]++;
    for (int64_t i = from; i < c->n_tokens; i++) {
        int32_t id = c->tokens[i];
        if (!known(c, id) || c->counts[id] == 0) continue;
        double count = c->counts[id];
        c->counts[id] = 0;
        if (!pl_candidates_has(c, id)) continue;
        double logit = c->logits[id];
        logit = logit <= 0 ? logit * repeat : logit / repeat;
        pl_candidates_set(c, id, logit - count * freq - present);
    }
    return PL_OK;
}

/* Paulus et al. 2017, "A deep reinforced model for abstractive summarization": no n-gram twice. */
static pl_status apply_no_repeat_ngram(pl_sampler *self, pl_candidates *c, pl_error *err) {
    int64_t n = (int64_t)self->params[0], before = n - 1;
    if (n <= 0) return PL_OK;
    bool removed = false;
    for (int64_t i = 0; i + n <= c->n_tokens; i++) {
        const int32_t *gram = c->tokens + i, *end = c->tokens + c->n_tokens - before;
        if (memcmp(gram, end, (size_t)before * sizeof *gram) != 0) continue;
        int32_t id = gram[before];
        if (!pl_candidates_has(c, id)) continue;
        c->logits[id] = -INFINITY;
        removed = true;
    }
    return removed ? pl_candidates_compact(c, err) : PL_OK;
}

/* -- DRY: p-e-w 2024, "DRY: a modern repetition penalty that reliably prevents looping" (the pull
 * request of that name to text-generation-webui) --------------------------------------------- */

enum { MULTIPLIER, BASE, ALLOWED, LAST_N };

/* The token `back` places before the last one. */
static int32_t token_at(const pl_candidates *c, int64_t back) {
    return c->tokens[c->n_tokens - 1 - back];
}

/* Tokens after the last breaker within the last n; n when there is none. Lists whose first token
 * is marked in counts are looked at only. */
static int64_t find_limit(const pl_sampler *self, const pl_candidates *c, int64_t n) {
    for (int64_t back = 0; back < n; back++) {
        if (!known(c, token_at(c, back)) || !c->counts[token_at(c, back)]) continue;
        int64_t longest = -1;
        for (size_t i = 0; i < self->lists.n; i++) {
            const pl_token_list *list = &self->lists.lists[i];
            int64_t rest = (int64_t)list->n - 1, at = 0;
            if (rest > back || rest <= longest) continue;
            while (at <= rest && list->ids[at] == token_at(c, back - at)) at++;
            if (at > rest) longest = rest;
        }
        if (longest >= 0) return back - longest;
    }
    return n;
}

static int64_t limit_by_breakers(const pl_sampler *self, pl_candidates *c, int64_t n) {
    const pl_token_lists *lists = &self->lists;
    for (size_t i = 0; i < lists->n; i++)
        if (known(c, lists->lists[i].ids[0])) c->counts[lists->lists[i].ids[0]] = 1;
    int64_t limit = find_limit(self, c, n);
    for (size_t i = 0; i < lists->n; i++)
        if (known(c, lists->lists[i].ids[0])) c->counts[lists->lists[i].ids[0]] = 0;
    return limit;
}

/* z[k] for k in [1, n): how many tokens before and with the k-th last equal the last ones
 * (the Z-function of the reversed text; Gusfield 1997, "Algorithms on strings, trees and
 * sequences"). */
static void match_lengths(const pl_candidates *c, int32_t *z, int64_t n) {
    int64_t left = 0, right = 0; /* the match that reaches furthest is [left, right) */
    z[0] = 0;
    for (int64_t k = 1; k < n; k++) {
        int64_t length = 0;
        if (k < right) length = z[k - left] < right - k ? z[k - left] : right - k;
        while (k + length < n && token_at(c, length) == token_at(c, k + length)) length++;
        z[k] = (int32_t)length;
        if (k + length > right) left = k, right = k + length;
    }
}

static pl_status apply_dry(pl_sampler *self, pl_candidates *c, pl_error *err) {
    const double *p = self->params;
    if (p[MULTIPLIER] == 0 || p[BASE] < 1 || p[LAST_N] == 0) return PL_OK;
    int64_t n = c->n_tokens - window(c, p[LAST_N]), allowed = (int64_t)p[ALLOWED];
    if (n <= allowed || n > INT32_MAX) return PL_OK;
    int64_t limit = limit_by_breakers(self, c, n);
    if (limit < allowed) return PL_OK;
    while ((int64_t)c->scratch.n < n)
        if (!pl_ids_append(&c->scratch, 0))
            return pl_fail(err, PL_ERR_MEMORY, "no memory for %lld tokens", (long long)n);
    int32_t *z = c->scratch.data;
    match_lengths(c, z, n);
    /* counts: the longest repetition that each token would go on with, plus one. */
    for (int64_t k = 1; k < n; k++) {
        int64_t length = z[k] < limit ? z[k] : limit;
        int32_t next = token_at(c, k - 1);
        if (length >= allowed && known(c, next) && c->counts[next] <= length)
            c->counts[next] = (int32_t)length + 1;
    }
    for (size_t i = 0; i < self->lists.n; i++) {
        const pl_token_list *list = &self->lists.lists[i];
        if (list->n == 1 && known(c, list->ids[0])) c->counts[list->ids[0]] = 0;
    }
    double most = p[BASE] > 1.000001 ? floor(log(FLT_MAX) / log(p[BASE])) : HUGE_VAL;
    for (int64_t k = 1; k < n; k++) {
        int32_t next = token_at(c, k - 1);
        if (!known(c, next) || c->counts[next] == 0) continue;
        double length = c->counts[next] - 1, exponent = fmin(length - (double)allowed, most);
        c->counts[next] = 0;
        if (pl_candidates_has(c, next))
            pl_candidates_set(c, next, c->logits[next] - p[MULTIPLIER] * pow(p[BASE], exponent));
    }
    return PL_OK;
}

const pl_sampler_kind pl_sampler_penalties = {
    .name = "penalties",
    .summary = "makes tokens of the text so far less likely",
    .params = {{"penalty_last_n", 64, -1, INT32_MAX, true, "tokens looked back at; -1: all"},
               {"penalty_repeat", 1, 1e-3, 1e3, false, "divides their logits; 1: not"},
               {"penalty_freq", 0, -FLT_MAX, FLT_MAX, false, "taken off for each time; 0: nothing"},
               {"penalty_present", 0, -FLT_MAX, FLT_MAX, false, "taken off once; 0: nothing"}},
    .n_params = 4,
    .apply = apply_penalties};

const pl_sampler_kind pl_sampler_no_repeat_ngram_size = {
    .name = "no_repeat_ngram_size",
    .summary = "never says the same so many tokens twice",
    .params = {{"no_repeat_ngram_size", 0, 0, INT32_MAX, true, "how many; 0: it may"}},
    .n_params = 1,
    .apply = apply_no_repeat_ngram};

const pl_sampler_kind pl_sampler_dry = {
    .name = "dry",
    .summary = "makes going on with a repetition less likely the longer it is",
    .params = {{"dry_multiplier", 0, 0, FLT_MAX, false, "of the penalty; 0: none"},
               {"dry_base", 1.75, 0, FLT_MAX, false, "its growth with each token; below 1: none"},
               {"dry_allowed_length", 2, 0, INT32_MAX, true, "repeated tokens that are free"},
               {"dry_penalty_last_n", -1, -1, INT32_MAX, true, "tokens looked back at; -1: all"}},
    .n_params = 4,
    .lists = {.name = "dry_sequence_breakers", .otherwise = PL_LISTS_BREAKERS},
    .apply = apply_dry};
