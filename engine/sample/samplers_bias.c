/* Samplers that raise, lower, ban or force given tokens. */
#include "samplers.h"

#include "../base/error.h"

#include <math.h>

static void add(pl_candidates *c, int64_t id, double bias, bool *removed) {
    if (!pl_candidates_has(c, id)) return;
    pl_candidates_set(c, id, c->logits[id] + bias);
    *removed = *removed || c->logits[id] == -INFINITY;
}

static pl_status finish(pl_candidates *c, bool removed, pl_error *err) {
    return removed ? pl_candidates_compact(c, err) : PL_OK;
}

static pl_status ban(const pl_token_list *list, pl_candidates *c, pl_error *err) {
    bool removed = false;
    for (size_t i = 0; i < list->n; i++) add(c, list->ids[i], -INFINITY, &removed);
    return finish(c, removed, err);
}

static int64_t n_new(const pl_candidates *c) {
    return c->n_tokens - c->n_prompt;
}

/* Adds a number to the logits of single tokens, whatever came before: OpenAI's logit_bias. */
static pl_status apply_logit_bias(pl_sampler *self, pl_candidates *c, pl_error *err) {
    bool removed = false;
    for (size_t i = 0; i < self->lists.n; i++)
        add(c, self->lists.lists[i].ids[0], self->lists.lists[i].value, &removed);
    return finish(c, removed, err);
}

/* Whether the text so far ends with all of the list but its last token. */
static bool is_next(const pl_token_list *list, const pl_candidates *c) {
    int64_t before = (int64_t)list->n - 1;
    if (before > c->n_tokens) return false;
    for (int64_t i = 0; i < before; i++)
        if (list->ids[i] != c->tokens[c->n_tokens - before + i]) return false;
    return true;
}

static pl_status apply_sequences(pl_sampler *self, pl_candidates *c, bool valued, pl_error *err) {
    bool removed = false;
    for (size_t i = 0; i < self->lists.n; i++) {
        const pl_token_list *list = &self->lists.lists[i];
        if (is_next(list, c))
            add(c, list->ids[list->n - 1], valued ? list->value : -INFINITY, &removed);
    }
    return finish(c, removed, err);
}

/* Hugging Face's SequenceBiasLogitsProcessor: a number for the token that would complete one of
 * the sequences; those of several sequences add up. */
static pl_status apply_sequence_bias(pl_sampler *self, pl_candidates *c, pl_error *err) {
    return apply_sequences(self, c, true, err);
}

/* Hugging Face's NoBadWordsLogitsProcessor: the same with -inf. */
static pl_status apply_bad_words(pl_sampler *self, pl_candidates *c, pl_error *err) {
    return apply_sequences(self, c, false, err);
}

/* Hugging Face's SuppressTokensLogitsProcessor. */
static pl_status apply_suppress(pl_sampler *self, pl_candidates *c, pl_error *err) {
    pl_status status = PL_OK;
    for (size_t i = 0; i < self->lists.n && status == PL_OK; i++)
        status = ban(&self->lists.lists[i], c, err);
    return status;
}

/* Hugging Face's SuppressTokensAtBeginLogitsProcessor: for the first new token only. */
static pl_status apply_begin_suppress(pl_sampler *self, pl_candidates *c, pl_error *err) {
    return n_new(c) == 0 ? apply_suppress(self, c, err) : PL_OK;
}

/* Hugging Face's MinNewTokensLengthLogitsProcessor: no end before so many new tokens. */
static pl_status apply_min_new_tokens(pl_sampler *self, pl_candidates *c, pl_error *err) {
    return n_new(c) < self->params[0] ? apply_suppress(self, c, err) : PL_OK;
}

/* Hugging Face's ExponentialDecayLengthPenalty: from the start on, the end of the text gains
 * |logit| (factor^steps - 1). */
static pl_status apply_decay(pl_sampler *self, pl_candidates *c, pl_error *err) {
    double steps = (double)n_new(c) - self->params[0], factor = self->params[1];
    bool removed = false;
    if (steps <= 0 || factor == 1) return PL_OK;
    for (size_t i = 0; i < self->lists.n; i++) {
        const pl_token_list *list = &self->lists.lists[i];
        for (size_t t = 0; t < list->n; t++) {
            if (!pl_candidates_has(c, list->ids[t])) continue;
            /* factor^steps may overflow: the bias then is as large as a bias can be. */
            double bias = fmin(fabs(c->logits[list->ids[t]]) * (pow(factor, steps) - 1), FLT_MAX);
            add(c, list->ids[t], isnan(bias) ? 0 : bias, &removed);
        }
    }
    return finish(c, removed, err);
}

/* Only these tokens are left, equally likely, whatever was done to them before. */
static void force(const pl_token_lists *lists, pl_candidates *c) {
    for (int64_t i = 0; i < c->n; i++) c->logits[c->ids[i]] = -INFINITY;
    for (size_t i = 0; i < lists->n; i++)
        for (size_t t = 0; t < lists->lists[i].n; t++)
            if (lists->lists[i].ids[t] < c->n_vocab) c->logits[lists->lists[i].ids[t]] = 0;
    c->n = 0;
    for (int64_t id = 0; id < c->n_vocab; id++)
        if (c->logits[id] == 0) c->ids[c->n++] = (int32_t)id;
}

/* Hugging Face's ForcedBOSTokenLogitsProcessor, for the first token after the prompt. */
static pl_status apply_forced_bos(pl_sampler *self, pl_candidates *c, pl_error *err) {
    (void)err;
    if (n_new(c) == 0 && self->lists.n) force(&self->lists, c);
    return PL_OK;
}

/* Hugging Face's ForcedEOSTokenLogitsProcessor: the last token that fits is an end. */
static pl_status apply_forced_eos(pl_sampler *self, pl_candidates *c, pl_error *err) {
    (void)err;
    double at = self->params[0];
    if (at > 0 && (double)n_new(c) >= at - 1 && self->lists.n) force(&self->lists, c);
    return PL_OK;
}

const pl_sampler_kind pl_sampler_logit_bias = {
    .name = "logit_bias",
    .summary = "adds a number to the logits of given tokens",
    .lists = {.name = "logit_bias", .valued = true, .single = true},
    .apply = apply_logit_bias};

const pl_sampler_kind pl_sampler_sequence_bias = {
    .name = "sequence_bias",
    .summary = "adds a number to the logit of a token that would complete a sequence",
    .lists = {.name = "sequence_bias", .valued = true},
    .apply = apply_sequence_bias};

const pl_sampler_kind pl_sampler_bad_words_ids = {.name = "bad_words_ids",
                                                  .summary = "never completes one of the sequences",
                                                  .lists = {.name = "bad_words_ids"},
                                                  .apply = apply_bad_words};

const pl_sampler_kind pl_sampler_suppress_tokens = {.name = "suppress_tokens",
                                                    .summary = "never chooses these tokens",
                                                    .lists = {.name = "suppress_tokens"},
                                                    .apply = apply_suppress};

const pl_sampler_kind pl_sampler_begin_suppress_tokens = {
    .name = "begin_suppress_tokens",
    .summary = "never begins with these tokens",
    .lists = {.name = "begin_suppress_tokens"},
    .apply = apply_begin_suppress};

const pl_sampler_kind pl_sampler_min_new_tokens = {
    .name = "min_new_tokens",
    .summary = "does not end the text before so many new tokens",
    .params = {{"min_new_tokens", 0, 0, INT32_MAX, true, "how many; 0: it may end at once"}},
    .n_params = 1,
    .lists = {.name = "eos_token_id", .otherwise = PL_LISTS_ENDS},
    .apply = apply_min_new_tokens};

const pl_sampler_kind pl_sampler_exponential_decay_length_penalty = {
    .name = "exponential_decay_length_penalty",
    .summary = "makes the end of the text ever likelier",
    .params = {{"decay_start", 0, 0, INT32_MAX, true, "new tokens before it begins"},
               {"decay_factor", 1, 0, FLT_MAX, false, "growth at each token; 1: none"}},
    .n_params = 2,
    .lists = {.name = "eos_token_id", .otherwise = PL_LISTS_ENDS},
    .apply = apply_decay};

const pl_sampler_kind pl_sampler_forced_bos = {.name = "forced_bos",
                                               .summary = "begins with this token",
                                               .lists = {.name = "forced_bos_token_id"},
                                               .apply = apply_forced_bos};

const pl_sampler_kind pl_sampler_forced_eos = {
    .name = "forced_eos",
    .summary = "ends with this token when the text has as many tokens as it may have",
    .params = {{"forced_eos_at", 0, 0, INT32_MAX, true, "how many new tokens that is; 0: never"}},
    .n_params = 1,
    .lists = {.name = "forced_eos_token_id", .otherwise = PL_LISTS_ENDS},
    .apply = apply_forced_eos};
