/* Chains: see chain.h. */
#include "chain.h"

#include "../base/error.h"

#include <math.h>
#include <stdlib.h>
#include <stdio.h>
#include <string.h>
#include <strings.h>

/* The same thing under the names of other programs. */
static const struct {
    const char *theirs, *ours;
} synonyms[] = {
    {"temperature", "temp"}, {"topk", "top_k"},       {"topp", "top_p"},
    {"minp", "min_p"},       {"nucleus", "top_p"},    {"multinomial", "dist"},
    {"random", "dist"},      {"categorical", "dist"}, {"argmax", "greedy"},
};

static const char *find_synonym(const char *name) {
    for (size_t i = 0; i < sizeof synonyms / sizeof *synonyms; i++)
        if (strcasecmp(name, synonyms[i].theirs) == 0) return synonyms[i].ours;
    return NULL;
}

pl_status pl_sampler_init(pl_sampler *sampler, const char *name, pl_error *err) {
    enum { MOST = 64 };
    const char *names[MOST];
    size_t n = pl_samplers_count();
    for (size_t i = 0; i < n; i++) {
        const pl_sampler_kind *kind = pl_samplers_get(i);
        if (strcmp(kind->name, name) == 0) {
            *sampler = (pl_sampler){.kind = kind};
            for (int p = 0; p < kind->n_params; p++) sampler->params[p] = kind->params[p].neutral;
            return PL_OK;
        }
        if (i < MOST) names[i] = kind->name;
    }
    const char *near = find_synonym(name);
    if (!near) near = pl_nearest_name(name, names, n < MOST ? n : MOST);
    if (near)
        return pl_fail(err, PL_ERR_ARGUMENT, "no sampler is called '%s'; did you mean '%s'?", name,
                       near);
    char list[256] = "";
    size_t used = 0;
    for (size_t i = 0; i < n && used < sizeof list; i++)
        used += (size_t)snprintf(list + used, sizeof list - used, "%s%s", i ? " " : "",
                                 pl_samplers_get(i)->name);
    return pl_fail(err, PL_ERR_ARGUMENT, "no sampler is called '%s'; there are: %s", name, list);
}

static pl_status check_param(const pl_sampler_kind *kind, const pl_sampler_param *param,
                             double value, pl_error *err) {
    if (!(value >= param->min && value <= param->max))
        return pl_fail(err, PL_ERR_ARGUMENT, "%s: %s is %g, expected a number from %g to %g",
                       kind->name, param->name, value, param->min, param->max);
    if (param->whole && value != floor(value))
        return pl_fail(err, PL_ERR_ARGUMENT, "%s: %s is %g, expected a whole number", kind->name,
                       param->name, value);
    return PL_OK;
}

pl_status pl_sampler_set(pl_sampler *sampler, const char *param, double value, pl_error *err) {
    const pl_sampler_kind *kind = sampler->kind;
    for (int i = 0; i < kind->n_params; i++) {
        if (strcmp(kind->params[i].name, param) != 0) continue;
        pl_status status = check_param(kind, &kind->params[i], value, err);
        if (status == PL_OK) sampler->params[i] = value;
        return status;
    }
    if (kind->n_params == 0)
        return pl_fail(err, PL_ERR_ARGUMENT, "%s has no parameters, got '%s'", kind->name, param);
    return pl_fail(err, PL_ERR_ARGUMENT, "%s has no parameter '%s'; its first is '%s'", kind->name,
                   param, kind->params[0].name);
}

static void free_state(const pl_sampler *sampler) {
    if (sampler->kind->free) sampler->kind->free(sampler->state);
}

pl_status pl_chain_add(pl_chain *chain, const pl_sampler *sampler, pl_error *err) {
    if (chain->n == chain->capacity) {
        size_t capacity = chain->capacity ? 2 * chain->capacity : 8;
        pl_sampler *grown = realloc(chain->samplers, capacity * sizeof *grown);
        if (!grown) {
            free_state(sampler);
            return pl_fail(err, PL_ERR_MEMORY, "no memory for a chain of samplers");
        }
        chain->samplers = grown;
        chain->capacity = capacity;
    }
    chain->samplers[chain->n++] = *sampler;
    return PL_OK;
}

void pl_chain_clear(pl_chain *chain) {
    for (size_t i = 0; i < chain->n; i++) free_state(&chain->samplers[i]);
    free(chain->samplers);
    *chain = (pl_chain){0};
}

pl_status pl_chain_sample(const pl_chain *chain, pl_candidates *c, int32_t *id, pl_error *err) {
    for (size_t i = 0; i < chain->n && c->chosen < 0; i++) {
        const pl_sampler *sampler = &chain->samplers[i];
        pl_status status = sampler->kind->apply(sampler->state, sampler->params, c, err);
        if (status != PL_OK) return status;
        if (sampler->kind->foreign && c->chosen < 0) {
            status = pl_candidates_refresh(c, err);
            if (status != PL_OK)
                return pl_error_prefix(err, status, "after sampler %zu, '%s'", i + 1,
                                       sampler->kind->name);
        }
    }
    if (c->chosen < 0)
        return pl_fail(err, PL_ERR_ARGUMENT,
                       "no sampler of the chain chose a token; end it with 'dist' or 'greedy'");
    *id = c->chosen;
    return PL_OK;
}
