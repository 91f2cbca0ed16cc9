/* Temperature, and the samplers that choose the token. */
#include "samplers.h"

#include <math.h>

static void divide(pl_candidates *c, double temp) {
    pl_candidate best = pl_candidates_best(c);
    if (temp <= 0) {
        pl_candidates_keep_from(c, best);
        return;
    }
    if (temp == 1) return;
    double largest = 0;
    for (int64_t i = 0; i < c->n; i++) {
        float x = fabsf(c->logits[c->ids[i]]);
        largest = x > largest ? x : largest;
    }
    if (largest / temp <= FLT_MAX) {
        /* -inf stays what it is, so the whole vocabulary may go through when little is removed. */
        if (c->n > c->n_vocab / 2)
            for (int64_t id = 0; id < c->n_vocab; id++)
                c->logits[id] = (float)(c->logits[id] / temp);
        else
            for (int64_t i = 0; i < c->n; i++)
                c->logits[c->ids[i]] = (float)(c->logits[c->ids[i]] / temp);
        return;
    }
    /* A tiny temp would overflow to +inf; measured from the best, it only removes the others. */
    int64_t n = 0;
    for (int64_t i = 0; i < c->n; i++) {
        int32_t id = c->ids[i];
        double scaled = ((double)c->logits[id] - best.logit) / temp;
        c->logits[id] = scaled < -FLT_MAX ? -INFINITY : (float)scaled;
        if (c->logits[id] > -INFINITY) c->ids[n++] = id;
    }
    c->n = n;
}

/* Divides the logits: below 1 sharpens, above 1 flattens; 0 or less keeps the best only. With a
 * range the temperature follows the entropy (kalomaze 2023, "dynamic temperature"): temp - range
 * where the next token is certain, temp + range where all are equally likely. */
static pl_status apply_temp(pl_sampler *self, pl_candidates *c, pl_error *err) {
    (void)err;
    double temp = self->params[0], range = self->params[1], exponent = self->params[2];
    if (range > 0 && c->n > 1) {
        double low = fmax(0, temp - range), high = temp + range;
        double certain = pl_candidates_distribution(c).entropy_nats / log((double)c->n);
        temp = low + (high - low) * pow(fmin(fmax(certain, 0), 1), exponent);
    }
    divide(c, temp);
    return PL_OK;
}

static pl_status apply_dist(pl_sampler *self, pl_candidates *c, pl_error *err) {
    (void)self, (void)err;
    c->chosen = pl_candidates_draw(c);
    return PL_OK;
}

static pl_status apply_greedy(pl_sampler *self, pl_candidates *c, pl_error *err) {
    (void)self, (void)err;
    c->chosen = pl_candidates_best(c).id;
    return PL_OK;
}

/* -- mirostat: Basu et al. 2021, "Mirostat: a neural text decoding algorithm that directly
 * controls perplexity" ----------------------------------------------------------------------- */

enum { MU, PENDING, SURPRISE }; /* memory: the bound, the token chosen last, its surprise in bits */

static pl_status reset_mirostat(pl_sampler *self, pl_error *err) {
    (void)err;
    self->memory[MU] = 2 * self->params[0];
    self->memory[PENDING] = -1;
    return PL_OK;
}

static pl_status accept_mirostat(pl_sampler *self, int32_t id, pl_error *err) {
    (void)err;
    if (self->memory[PENDING] != id) return PL_OK;
    self->memory[MU] -= self->params[1] * (self->memory[SURPRISE] - self->params[0]);
    self->memory[PENDING] = -1;
    return PL_OK;
}

static pl_status choose_observed(pl_sampler *self, pl_candidates *c) {
    double top = pl_candidates_best(c).logit, sum = pl_candidates_weigh(c);
    c->chosen = pl_candidates_draw(c);
    self->memory[PENDING] = c->chosen;
    self->memory[SURPRISE] = (log(sum) - (c->logits[c->chosen] - top)) / log(2);
    return PL_OK;
}

/* Version 1: Zipf's exponent, estimated from the m likeliest tokens, says which top_k has the
 * surprise that is wanted. */
static pl_status apply_mirostat(pl_sampler *self, pl_candidates *c, pl_error *err) {
    (void)err;
    enum { M = 100 };
    int64_t n = pl_candidates_select(c, M);
    double dot = 0, square = 0;
    for (int64_t i = 0; i + 1 < n; i++) {
        double t = log((double)(i + 2) / (double)(i + 1));
        dot += t * ((double)c->heap[i].logit - c->heap[i + 1].logit);
        square += t * t;
    }
    double s = n > 1 ? dot / square : 1, epsilon = s - 1, size = (double)c->n_vocab;
    double share = fabs(epsilon) < 1e-9 ? 1 / log(size) : epsilon / (1 - pow(size, -epsilon));
    double k = s > 0 ? pow(share * exp2(self->memory[MU]), 1 / s) : (double)c->n;
    if (!(k >= 1)) k = 1;
    pl_candidates_keep_best(c, (int64_t)fmin(k, (double)c->n));
    return choose_observed(self, c);
}

/* Version 2: what surprises by more than the bound is removed. */
static pl_status apply_mirostat_v2(pl_sampler *self, pl_candidates *c, pl_error *err) {
    (void)err;
    double top = pl_candidates_best(c).logit;
    double least = top + log(pl_candidates_weigh(c)) - self->memory[MU] * log(2);
    pl_candidates_keep_from(c, (pl_candidate){(float)fmin(least, top), INT32_MAX});
    return choose_observed(self, c);
}

/* -- adaptive_p: MrJackSpade 2025, "Adaptive-P" ---------------------------------------------- */

enum { SUM, WEIGHT, CHOSEN, P }; /* memory: decayed sums; the token chosen last, its probability */

static pl_status reset_adaptive(pl_sampler *self, pl_error *err) {
    (void)err;
    double fresh = 1 - fmin(self->params[1], 0.99);
    self->memory[SUM] = fmax(self->params[0], 0) / fresh;
    self->memory[WEIGHT] = 1 / fresh;
    self->memory[CHOSEN] = -1;
    return PL_OK;
}

static pl_status accept_adaptive(pl_sampler *self, int32_t id, pl_error *err) {
    (void)err;
    if (self->memory[CHOSEN] != id) return PL_OK;
    double decay = fmin(self->params[1], 0.99);
    self->memory[SUM] = self->memory[P] + decay * self->memory[SUM];
    self->memory[WEIGHT] = 1 + decay * self->memory[WEIGHT];
    self->memory[CHOSEN] = -1;
    return PL_OK;
}

/* Prefers tokens whose probability is near a target, which moves so that the average comes out. */
static pl_status apply_adaptive(pl_sampler *self, pl_candidates *c, pl_error *err) {
    (void)err;
    const double width = 0.3, peak = 5, sharpness = 10;
    double target = self->params[0];
    if (target < 0) {
        c->chosen = pl_candidates_draw(c);
        return PL_OK;
    }
    target = fmin(fmax(2 * target - self->memory[SUM] / self->memory[WEIGHT], 0), 1);
    double sum = pl_candidates_weigh(c);
    for (int64_t i = 0; i < c->n; i++) {
        double distance = fabs(c->weights[i] / sum - target) / width;
        c->logits[c->ids[i]] = (float)(peak - sharpness * distance * distance / (1 + distance));
        c->heap[i].logit = c->weights[i]; /* drawing weighs anew */
    }
    c->chosen = pl_candidates_draw(c);
    self->memory[CHOSEN] = c->chosen;
    for (int64_t i = 0; i < c->n; i++)
        if (c->ids[i] == c->chosen) self->memory[P] = c->heap[i].logit / sum;
    return PL_OK;
}

const pl_sampler_kind pl_sampler_temp = {
    .name = "temp",
    .summary = "divides the logits by temp",
    .params = {{"temp", 1, -FLT_MAX, FLT_MAX, false, "the divisor; 0 keeps the most likely only"},
               {"dynatemp_range", 0, 0, FLT_MAX, false,
                "how far the entropy moves temp up and down; 0: it does not"},
               {"dynatemp_exponent", 1, 0, FLT_MAX, false, "the shape of that"}},
    .n_params = 3,
    .apply = apply_temp};

const pl_sampler_kind pl_sampler_dist = {.name = "dist",
                                         .summary = "draws a token by its probability",
                                         .chooses = true,
                                         .apply = apply_dist};

const pl_sampler_kind pl_sampler_greedy = {.name = "greedy",
                                           .summary = "takes the most likely token",
                                           .chooses = true,
                                           .apply = apply_greedy};

#define MIROSTAT_PARAMS                                                                            \
    {                                                                                              \
        {"mirostat_tau", 5, 0, FLT_MAX, false, "the surprise wanted, in bits"},                    \
            {"mirostat_eta", 0.1, 0, FLT_MAX, false, "how fast the bound follows"},                \
    }

const pl_sampler_kind pl_sampler_mirostat = {
    .name = "mirostat",
    .summary = "draws from a top_k that keeps the surprise of the text steady",
    .params = MIROSTAT_PARAMS,
    .n_params = 2,
    .chooses = true,
    .apply = apply_mirostat,
    .accept = accept_mirostat,
    .reset = reset_mirostat};

const pl_sampler_kind pl_sampler_mirostat_v2 = {
    .name = "mirostat_v2",
    .summary = "draws from the tokens below a surprise that keeps that of the text steady",
    .params = MIROSTAT_PARAMS,
    .n_params = 2,
    .chooses = true,
    .apply = apply_mirostat_v2,
    .accept = accept_mirostat,
    .reset = reset_mirostat};

const pl_sampler_kind pl_sampler_adaptive_p = {
    .name = "adaptive_p",
    .summary = "draws tokens whose probability is near a target on average",
    .params = {{"adaptive_target", -1, -1, 1, false, "that probability; below 0: as dist"},
               {"adaptive_decay", 0.9, 0, 0.99, false, "how long the average remembers"}},
    .n_params = 2,
    .chooses = true,
    .apply = apply_adaptive,
    .accept = accept_adaptive,
    .reset = reset_adaptive};
