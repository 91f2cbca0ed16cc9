/* The built-in samplers. Each keeps the list of candidates true and leaves at least one. */
#include "chain.h"

#include <float.h>
#include <math.h>

/* Divides the logits: below 1 sharpens, above 1 flattens; 0 or less keeps the best only. */
static pl_status apply_temp(void *state, const double *params, pl_candidates *c, pl_error *err) {
    (void)state, (void)err;
    double temp = params[0];
    pl_candidate best = pl_candidates_best(c);
    if (temp <= 0) {
        pl_candidates_keep_from(c, best);
        return PL_OK;
    }
    if (temp == 1) return PL_OK;
    double largest = 0;
    for (int64_t i = 0; i < c->n; i++) largest = fmax(largest, fabs(c->logits[c->ids[i]]));
    /* A tiny temp would overflow to +inf; measured from the best, it only removes the others. */
    double shift = largest / temp > FLT_MAX ? best.logit : 0;
    int64_t n = 0;
    for (int64_t i = 0; i < c->n; i++) {
        int32_t id = c->ids[i];
        double scaled = (c->logits[id] - shift) / temp;
        c->logits[id] = scaled < -FLT_MAX ? -INFINITY : (float)scaled;
        if (c->logits[id] > -INFINITY) c->ids[n++] = id;
    }
    c->n = n;
    return PL_OK;
}

/* Fan et al. 2018, "Hierarchical neural story generation". */
static pl_status apply_top_k(void *state, const double *params, pl_candidates *c, pl_error *err) {
    (void)state, (void)err;
    if (params[0] >= 1) pl_candidates_keep_best(c, (int64_t)params[0]);
    return PL_OK;
}

/* Holtzman et al. 2020, "The curious case of neural text degeneration". */
static pl_status apply_top_p(void *state, const double *params, pl_candidates *c, pl_error *err) {
    (void)state, (void)err;
    if (params[0] < 1) pl_candidates_keep_mass(c, params[0]);
    return PL_OK;
}

/* Nguyen et al. 2024, "Turning up the heat: min-p sampling". */
static pl_status apply_min_p(void *state, const double *params, pl_candidates *c, pl_error *err) {
    (void)state, (void)err;
    if (params[0] <= 0) return PL_OK;
    float least = (float)(pl_candidates_best(c).logit + log(params[0]));
    pl_candidates_keep_from(c, (pl_candidate){least, INT32_MAX});
    return PL_OK;
}

static pl_status apply_dist(void *state, const double *params, pl_candidates *c, pl_error *err) {
    (void)state, (void)params, (void)err;
    c->chosen = pl_candidates_draw(c);
    return PL_OK;
}

static pl_status apply_greedy(void *state, const double *params, pl_candidates *c, pl_error *err) {
    (void)state, (void)params, (void)err;
    c->chosen = pl_candidates_best(c).id;
    return PL_OK;
}

static const pl_sampler_kind kinds[] = {
    {.name = "top_k",
     .summary = "keeps the top_k most likely tokens; 0 keeps all",
     .params = {{"top_k", 0, -1, INT32_MAX, true}},
     .n_params = 1,
     .apply = apply_top_k},
    {.name = "top_p",
     .summary = "keeps the fewest most likely tokens that together have probability top_p",
     .params = {{"top_p", 1, 0, 1, false}},
     .n_params = 1,
     .apply = apply_top_p},
    {.name = "min_p",
     .summary = "keeps tokens at least min_p times as likely as the most likely one",
     .params = {{"min_p", 0, 0, 1, false}},
     .n_params = 1,
     .apply = apply_min_p},
    {.name = "temp",
     .summary = "divides the logits by temp; 0 keeps the most likely token only",
     .params = {{"temp", 1, -FLT_MAX, FLT_MAX, false}},
     .n_params = 1,
     .apply = apply_temp},
    {.name = "dist",
     .summary = "draws a token by its probability",
     .chooses = true,
     .apply = apply_dist},
    {.name = "greedy",
     .summary = "takes the most likely token",
     .chooses = true,
     .apply = apply_greedy},
};

size_t pl_samplers_count(void) {
    return sizeof kinds / sizeof *kinds;
}

const pl_sampler_kind *pl_samplers_get(size_t i) {
    return &kinds[i];
}
