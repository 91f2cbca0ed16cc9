/* tfs: tail free sampling (Phenix and Egan 2019, "Tail free sampling"). Where the sorted
 * probabilities stop bending, the tail begins: it keeps the tokens before the point up to which the
 * second differences, made to sum to 1, reach tfs_z. */
#include "perilune_plugin.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>

typedef struct token {
    double p;
    int32_t id;
} token;

typedef struct state {
    double z;
    token *tokens; /* [n_vocab] */
} state;

static const perilune_param params[] = {
    {"tfs_z", 1, 0, 1, 0, 0, "share of the bend that is kept; 1 keeps all"},
};

static void destroy(void *self) {
    state *s = self;
    if (s) free(s->tokens);
    free(s);
}

static int create(const perilune_host *host, const double *values, int64_t n_vocab, void **out,
                  char *error, size_t error_size) {
    state *s = calloc(1, sizeof *s);
    (void)host;
    if (s) s->tokens = malloc((size_t)n_vocab * sizeof *s->tokens);
    if (!s || !s->tokens) {
        destroy(s);
        snprintf(error, error_size, "out of memory for %lld tokens", (long long)n_vocab);
        return PERILUNE_FAILED;
    }
    s->z = values[0];
    *out = s;
    return PERILUNE_OK;
}

static int by_probability(const void *a, const void *b) {
    const token *x = a, *y = b;
    if (x->p != y->p) return x->p > y->p ? -1 : 1;
    return (x->id > y->id) - (x->id < y->id);
}

/* How many of the sorted tokens come before the tail. */
static int64_t find_tail(const token *t, int64_t n, double z) {
    double total = 0, sum = 0;
    for (int64_t i = 0; i + 2 < n; i++) total += fabs(t[i].p - 2 * t[i + 1].p + t[i + 2].p);
    if (total <= 0) return n;
    for (int64_t i = 0; i + 2 < n; i++) {
        sum += fabs(t[i].p - 2 * t[i + 1].p + t[i + 2].p) / total;
        if (sum > z) return i > 0 ? i : 1;
    }
    return n;
}

static int apply(void *self, perilune_step *step, char *error, size_t error_size) {
    const state *s = self;
    float *logits = step->logits, top = -INFINITY;
    int64_t n = 0;
    double sum = 0;
    (void)error, (void)error_size;
    if (s->z >= 1) return PERILUNE_OK;
    for (int64_t id = 0; id < step->n_vocab; id++) top = logits[id] > top ? logits[id] : top;
    for (int64_t id = 0; id < step->n_vocab; id++) {
        if (logits[id] == -INFINITY) continue;
        s->tokens[n] = (token){exp((double)logits[id] - top), (int32_t)id};
        sum += s->tokens[n++].p;
    }
    if (n < 3) return PERILUNE_OK;
    for (int64_t i = 0; i < n; i++) s->tokens[i].p /= sum;
    qsort(s->tokens, (size_t)n, sizeof *s->tokens, by_probability);
    for (int64_t i = find_tail(s->tokens, n, s->z); i < n; i++) logits[s->tokens[i].id] = -INFINITY;
    return PERILUNE_OK;
}

static const perilune_sampler sampler = {
    .abi_version = 1,
    .struct_size = sizeof(perilune_sampler),
    .name = "tfs",
    .summary = "removes the tail, where sorted probabilities stop bending",
    .params = params,
    .n_params = 1,
    .create = create,
    .apply = apply,
    .destroy = destroy,
};

PERILUNE_EXPORT const perilune_sampler *perilune_plugin_entry(uint32_t host_abi) {
    (void)host_abi;
    return &sampler;
}
