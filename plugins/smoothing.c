/* smoothing: quadratic sampling (kalomaze 2024, "smooth sampling", as in text-generation-webui).
 * The logits fall from the best one on by a parabola, with a cubic part that smoothing_curve adds:
 * likely tokens come closer together, unlikely ones fall further.
 *
 *     new logit = best - factor (k d^2 + s d^3)
 *     where d = best - logit, k = (3 - curve) / 2, s = (curve - 1) / 2 */
#include "perilune_plugin.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>

enum { FACTOR, CURVE, N_PARAMS };

static const perilune_param params[N_PARAMS] = {
    {"smoothing_factor", 0, 0, 100, 0, 0, "how steep the parabola is; 0: the logits stay"},
    {"smoothing_curve", 1, 1, 100, 0, 0, "above 1: a cubic part, which cuts off sooner"},
};

static int create(const perilune_host *host, const double *values, int64_t n_vocab, void **out,
                  char *error, size_t error_size) {
    double *s = malloc(N_PARAMS * sizeof *s);
    (void)host, (void)n_vocab;
    if (!s) {
        snprintf(error, error_size, "out of memory");
        return PERILUNE_FAILED;
    }
    for (int i = 0; i < N_PARAMS; i++) s[i] = values[i];
    *out = s;
    return PERILUNE_OK;
}

static int apply(void *self, perilune_step *step, char *error, size_t error_size) {
    const double *s = self;
    double k = (3 - s[CURVE]) / 2, cubic = (s[CURVE] - 1) / 2;
    float top = -INFINITY;
    (void)error, (void)error_size;
    if (s[FACTOR] == 0) return PERILUNE_OK;
    for (int64_t id = 0; id < step->n_vocab; id++)
        top = step->logits[id] > top ? step->logits[id] : top;
    for (int64_t id = 0; id < step->n_vocab; id++) {
        double d = (double)top - step->logits[id];
        if (step->logits[id] == -INFINITY) continue;
        step->logits[id] = (float)(top - s[FACTOR] * (k * d * d + cubic * d * d * d));
    }
    return PERILUNE_OK;
}

static const perilune_sampler sampler = {
    .abi_version = 1,
    .struct_size = sizeof(perilune_sampler),
    .name = "smoothing",
    .summary = "bends the logits by a parabola: likely tokens closer, unlikely ones further",
    .params = params,
    .n_params = N_PARAMS,
    .create = create,
    .apply = apply,
    .destroy = free,
};

PERILUNE_EXPORT const perilune_sampler *perilune_plugin_entry(uint32_t host_abi) {
    (void)host_abi;
    return &sampler;
}
