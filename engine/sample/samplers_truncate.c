/* Samplers that remove unlikely tokens. What is left is the distribution, renormalised. */
#include "samplers.h"

#include <math.h>

/* Keeps those whose logit is `least` or more, and the best in any case. */
static void keep_above(pl_candidates *c, double least) {
    double top = pl_candidates_best(c).logit;
    pl_candidates_keep_from(c, (pl_candidate){(float)fmin(least, top), INT32_MAX});
}

/* Fan et al. 2018, "Hierarchical neural story generation". */
static pl_status apply_top_k(pl_sampler *self, pl_candidates *c, pl_error *err) {
    (void)err;
    if (self->params[0] >= 1) pl_candidates_keep_best(c, (int64_t)self->params[0]);
    return PL_OK;
}

/* Holtzman et al. 2020, "The curious case of neural text degeneration". */
static pl_status apply_top_p(pl_sampler *self, pl_candidates *c, pl_error *err) {
    (void)err;
    if (self->params[0] < 1) pl_candidates_keep_mass(c, self->params[0]);
    return PL_OK;
}

/* Nguyen et al. 2024, "Turning up the heat: min-p sampling". */
static pl_status apply_min_p(pl_sampler *self, pl_candidates *c, pl_error *err) {
    (void)err;
    if (self->params[0] <= 0) return PL_OK;
    keep_above(c, pl_candidates_best(c).logit + log(self->params[0]));
    return PL_OK;
}

/* Tang et al. 2024, "Top-n-sigma: not all logits are you need": the noise of the logits is
 * Gaussian, so what lies n standard deviations below the best is noise. */
static pl_status apply_top_n_sigma(pl_sampler *self, pl_candidates *c, pl_error *err) {
    (void)err;
    if (self->params[0] <= 0) return PL_OK;
    double mean = 0, variance = 0, n = (double)c->n;
    for (int64_t i = 0; i < c->n; i++) mean += c->logits[c->ids[i]];
    mean /= n;
    for (int64_t i = 0; i < c->n; i++) {
        double d = c->logits[c->ids[i]] - mean;
        variance += d * d;
    }
    variance /= n;
    keep_above(c, pl_candidates_best(c).logit - self->params[0] * sqrt(variance));
    return PL_OK;
}

/* Meister et al. 2023, "Locally typical sampling": the fewest tokens of mass typ_p whose surprise
 * is nearest to the entropy. */
static pl_status apply_typ_p(pl_sampler *self, pl_candidates *c, pl_error *err) {
    (void)err;
    if (self->params[0] >= 1) return PL_OK;
    pl_distribution d = pl_candidates_distribution(c);
    double sum = 0;
    for (int64_t i = 0; i < c->n; i++) {
        c->keys[i] = (float)fabs(d.log_sum - c->logits[c->ids[i]] - d.entropy_nats);
        sum += c->weights[i];
    }
    pl_candidates_keep_mass_by(c, c->keys, sum, self->params[0]);
    return PL_OK;
}

/* Hewitt et al. 2022, "Truncation sampling as language model desmoothing": epsilon sampling. */
static pl_status apply_epsilon(pl_sampler *self, pl_candidates *c, pl_error *err) {
    (void)err;
    if (self->params[0] <= 0) return PL_OK;
    keep_above(c, pl_candidates_distribution(c).log_sum + log(self->params[0]));
    return PL_OK;
}

/* The same paper's eta sampling: the bound falls where the entropy is high. */
static pl_status apply_eta(pl_sampler *self, pl_candidates *c, pl_error *err) {
    (void)err;
    double epsilon = self->params[0];
    if (epsilon <= 0) return PL_OK;
    pl_distribution d = pl_candidates_distribution(c);
    double eta = fmin(log(epsilon), 0.5 * log(epsilon) - d.entropy_nats);
    keep_above(c, d.log_sum + eta);
    return PL_OK;
}

/* Weightman 2024, "Exclude top choices" (the pull request of that name to
 * text-generation-webui): of the tokens of probability threshold or more only the least likely
 * stays, with probability xtc_probability. */
static pl_status apply_xtc(pl_sampler *self, pl_candidates *c, pl_error *err) {
    (void)err;
    double probability = self->params[0], threshold = self->params[1];
    if (probability <= 0 || threshold > 0.5 || c->n < 2) return PL_OK;
    if (pl_random_uniform_f64(&c->random) >= probability) return PL_OK;
    double least = threshold * pl_candidates_weigh(c);
    int64_t n_top = 0, last = -1, kept = 0;
    for (int64_t i = 0; i < c->n; i++) {
        if (c->weights[i] < least) continue;
        n_top++;
        if (last < 0 || c->logits[c->ids[i]] <= c->logits[c->ids[last]]) last = i;
    }
    if (n_top < 2) return PL_OK;
    for (int64_t i = 0; i < c->n; i++) {
        int32_t id = c->ids[i];
        if (c->weights[i] >= least && i != last)
            c->logits[id] = -INFINITY;
        else
            c->ids[kept++] = id;
    }
    c->n = kept;
    return PL_OK;
}

const pl_sampler_kind pl_sampler_top_k = {
    .name = "top_k",
    .summary = "keeps the top_k most likely tokens",
    .params = {{"top_k", 0, -1, INT32_MAX, true, "how many; 0 keeps all"}},
    .n_params = 1,
    .apply = apply_top_k};

const pl_sampler_kind pl_sampler_top_p = {
    .name = "top_p",
    .summary = "keeps the fewest most likely tokens that together have probability top_p",
    .params = {{"top_p", 1, 0, 1, false, "the probability; 1 keeps all"}},
    .n_params = 1,
    .apply = apply_top_p};

const pl_sampler_kind pl_sampler_min_p = {
    .name = "min_p",
    .summary = "keeps tokens at least min_p times as likely as the most likely one",
    .params = {{"min_p", 0, 0, 1, false, "the factor; 0 keeps all"}},
    .n_params = 1,
    .apply = apply_min_p};

const pl_sampler_kind pl_sampler_top_n_sigma = {
    .name = "top_n_sigma",
    .summary = "keeps tokens whose logit is within so many standard deviations of the best",
    .params = {{"top_n_sigma", -1, -1, FLT_MAX, false, "how many; 0 or less keeps all"}},
    .n_params = 1,
    .apply = apply_top_n_sigma};

const pl_sampler_kind pl_sampler_typ_p = {
    .name = "typ_p",
    .summary = "keeps the tokens whose surprise is nearest to the entropy, of probability typ_p",
    .params = {{"typ_p", 1, 0, 1, false, "the probability; 1 keeps all"}},
    .n_params = 1,
    .apply = apply_typ_p};

const pl_sampler_kind pl_sampler_epsilon_cutoff = {
    .name = "epsilon_cutoff",
    .summary = "keeps tokens of probability epsilon_cutoff or more",
    .params = {{"epsilon_cutoff", 0, 0, 1, false, "the probability; 0 keeps all"}},
    .n_params = 1,
    .apply = apply_epsilon};

const pl_sampler_kind pl_sampler_eta_cutoff = {
    .name = "eta_cutoff",
    .summary = "as epsilon_cutoff, with a bound that falls as the entropy rises",
    .params = {{"eta_cutoff", 0, 0, 1, false, "the probability; 0 keeps all"}},
    .n_params = 1,
    .apply = apply_eta};

const pl_sampler_kind pl_sampler_xtc = {
    .name = "xtc",
    .summary = "now and then removes all of the likely tokens but the least likely of them",
    .params = {{"xtc_probability", 0, 0, 1, false, "how often; 0: never"},
               {"xtc_threshold", 0.1, 0, 1, false,
                "probability of a likely token; over 0.5: none"}},
    .n_params = 2,
    .apply = apply_xtc};
