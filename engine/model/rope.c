/* How fast the pairs of a head turn, and what scalings for longer contexts make of it. */
#include <math.h>
#include <stdlib.h>

#include "../base/error.h"
#include "build.h"

/* "The Llama 3 Herd of Models", with the factors that its configuration names. */
static double slow_down(const pl_config *c, double frequency) {
    double turns = (double)c->rope_original_ctx * frequency / (2 * M_PI);
    double low = (double)c->rope_low_freq_factor, high = (double)c->rope_high_freq_factor;
    double kept = fmin(1, fmax(0, (turns - low) / (high - low)));
    return frequency * (kept + (1 - kept) / (double)c->rope_factor);
}

/* The pair, as a fraction, that turns so many times in the original context. */
static double pair_of_turns(const pl_config *c, double turns) {
    double radians = 2 * M_PI * turns / (double)c->rope_original_ctx;
    return -(double)c->rope_dims * log(radians) / (2 * log((double)c->rope_base));
}

/* Peng et al. 2023 (YaRN, arXiv:2309.00071): pairs that turn often are kept, those that turn less
 * than once are divided, with a ramp between whole pairs. */
static double yarn(const pl_config *c, double frequency, int64_t pair) {
    double first = fmax(0, floor(pair_of_turns(c, (double)c->rope_beta_fast)));
    double last = ceil(pair_of_turns(c, (double)c->rope_beta_slow));
    last = fmin(last, (double)c->rope_dims - 1);
    double width = last > first ? last - first : last < first ? last - first : 0.001;
    double divided = fmin(1, fmax(0, ((double)pair - first) / width));
    return frequency * (1 - divided + divided / (double)c->rope_factor);
}

static double entry(const pl_tensor *factors, int64_t pair) {
    return (double)((const float *)factors->data)[pair];
}

static double scaled(const pl_model *model, double frequency, int64_t pair) {
    const pl_config *c = &model->config;
    switch (c->rope_scaling) {
    case PL_ROPE_LINEAR:
        return frequency / (double)c->rope_factor;
    case PL_ROPE_LLAMA3:
        return slow_down(c, frequency);
    case PL_ROPE_YARN:
        return yarn(c, frequency, pair);
    case PL_ROPE_TABLE:
    case PL_ROPE_LONG:
        return frequency / entry(&model->weights.rope_factors, pair);
    default:
        return frequency;
    }
}

pl_status pl_model_make_frequencies(pl_model *model, pl_error *err) {
    const pl_config *c = &model->config;
    int64_t n_pairs = c->rope_dims / 2;
    double *out = model->rope_frequencies = calloc((size_t)n_pairs + 1, 3 * sizeof *out);
    if (!out) return pl_fail(err, PL_ERR_MEMORY, "out of memory");
    for (int64_t i = 0; i < n_pairs; i++) {
        double exponent = -2.0 * (double)i / (double)c->rope_dims;
        double plain = pow((double)c->rope_base, exponent), all = scaled(model, plain, i);
        double local = pow((double)c->rope_base_local, exponent), brief = all;
        if (c->rope_scaling == PL_ROPE_LONG) {
            brief = plain / entry(&model->weights.rope_factors_short, i);
        }
        if (!(all > 0 && brief > 0 && isfinite(all) && isfinite(brief))) {
            return pl_fail(err, PL_ERR_FORMAT, "the rotary factors: entry %lld gives no frequency",
                           (long long)i);
        }
        out[i] = all;
        out[n_pairs + i] = c->rope_base_local > 0 ? local : all;
        out[2 * n_pairs + i] = brief;
    }
    return PL_OK;
}
