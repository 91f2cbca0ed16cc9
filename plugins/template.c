/* template: a sampler to copy. It makes the tokens of the last few steps less likely, and so shows
 * parameters, state that follows the text, errors and a service of the host.
 *
 *     cp plugins/template.c mine.c        change the name below, and what it does
 *     cc -shared -fPIC -I plugins -o ~/.local/share/perilune/plugins/mine.so mine.c
 *     perilune plugins                    it should be listed now
 *     perilune generate --sampler mine:penalty=2 "Once upon a time"
 *
 * perilune_plugin.h says of every function when it is called, and what it may rely on. */
#include "perilune_plugin.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { PENALTY, LAST_N, JITTER, N_PARAMS };
enum { MOST = 64 };

static const perilune_param params[N_PARAMS] = {
    {"penalty", 0, -1000, 1000, 0, 0, "taken off the logits of the last tokens; 0: nothing"},
    {"last_n", 8, 1, MOST, PERILUNE_WHOLE, 0, "how many tokens those are"},
    {"jitter", 0, 0, 1, 0, 0, "how much of the penalty is left to chance; 0: none of it"},
};

/* All that one text needs. The host makes one for each text, and a copy for each fork. */
typedef struct state {
    const perilune_host *host;
    double params[N_PARAMS];
    int32_t last[MOST]; /* a ring */
    size_t n, next;
} state;

static int fail(char *error, size_t error_size, const char *why) {
    snprintf(error, error_size, "%s", why);
    return PERILUNE_FAILED;
}

static int create(const perilune_host *host, const double *values, int64_t n_vocab, void **out,
                  char *error, size_t error_size) {
    (void)n_vocab;
    state *s = calloc(1, sizeof *s);
    if (!s) return fail(error, error_size, "out of memory");
    s->host = host;
    memcpy(s->params, values, sizeof s->params);
    *out = s;
    return PERILUNE_OK;
}

static int apply(void *self, perilune_step *step, char *error, size_t error_size) {
    const state *s = self;
    (void)error, (void)error_size;
    if (s->params[PENALTY] == 0) return PERILUNE_OK;
    const perilune_random *random = s->host->get_extension(s->host, PERILUNE_EXT_RANDOM);
    double chance = random && s->params[JITTER] > 0 ? random->uniform(s->host) : 0;
    double penalty = s->params[PENALTY] * (1 - s->params[JITTER] * chance);
    for (size_t i = 0; i < s->n; i++) {
        int32_t id = s->last[i];
        /* A removed token stays removed: -inf minus anything is -inf. */
        if (id >= 0 && id < step->n_vocab) step->logits[id] -= (float)penalty;
    }
    return PERILUNE_OK;
}

static int accept(void *self, int32_t id, char *error, size_t error_size) {
    state *s = self;
    size_t most = (size_t)s->params[LAST_N];
    (void)error, (void)error_size;
    s->last[s->next] = id;
    s->next = (s->next + 1) % most;
    if (s->n < most) s->n++;
    return PERILUNE_OK;
}

static int reset(void *self, char *error, size_t error_size) {
    state *s = self;
    (void)error, (void)error_size;
    s->n = s->next = 0;
    return PERILUNE_OK;
}

static int clone(const perilune_host *host, const void *self, void **copy, char *error,
                 size_t error_size) {
    state *s = malloc(sizeof *s);
    if (!s) return fail(error, error_size, "out of memory");
    memcpy(s, self, sizeof *s);
    s->host = host;
    *copy = s;
    return PERILUNE_OK;
}

static void destroy(void *self) {
    free(self);
}

static const perilune_sampler sampler = {
    .abi_version = 1,
    .struct_size = sizeof(perilune_sampler),
    .name = "template",
    .summary = "an example: makes the last few tokens less likely",
    .params = params,
    .n_params = N_PARAMS,
    .create = create,
    .apply = apply,
    .accept = accept,
    .reset = reset,
    .clone = clone,
    .destroy = destroy,
};

PERILUNE_EXPORT const perilune_sampler *perilune_plugin_entry(uint32_t host_abi) {
    (void)host_abi; /* a later host runs this one too; an earlier one refuses it by itself */
    return &sampler;
}
