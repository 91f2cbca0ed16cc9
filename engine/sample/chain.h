/* Samplers, and chains of them: from logits to one token.
 *
 *     pl_chain chain = {0};
 *     pl_sampler top_k, temp;
 *     pl_sampler_init(&top_k, "top_k", err), top_k.params[0] = 40;
 *     pl_chain_add(&chain, &top_k, err);
 *     ...
 *     pl_chain_add(&chain, &dist, err);
 *     if (pl_chain_sample(&chain, &candidates, &id, err) != PL_OK) ...
 *     pl_chain_clear(&chain);
 *
 * A sampler is a row of a table: a name, its parameters with their neutral values, and a function
 * over candidates. The built-in ones are in samplers.c; whoever has another kind (a script's
 * function, a loaded plugin) fills a pl_sampler_kind of his own. Names and neutral values are
 * llama.cpp's: a sampler at its neutral value changes nothing. */
#ifndef PL_SAMPLE_CHAIN_H
#define PL_SAMPLE_CHAIN_H

#include "candidates.h"

enum { PL_SAMPLER_PARAMS = 4 };

typedef struct pl_sampler_param {
    const char *name;
    double neutral;
    double min, max; /* inclusive; NaN never fits */
    bool whole;      /* an integer */
} pl_sampler_param;

typedef struct pl_sampler_kind {
    const char *name;
    const char *summary; /* one line for people */
    pl_sampler_param params[PL_SAMPLER_PARAMS];
    int n_params;
    bool chooses; /* sets candidates->chosen */
    bool foreign; /* edits candidates->logits without keeping the list of ids */
    /* params in the order of the table; *err is filled when the status is not PL_OK. */
    pl_status (*apply)(void *state, const double *params, pl_candidates *c, pl_error *err);
    void (*free)(void *state); /* may be NULL */
} pl_sampler_kind;

typedef struct pl_sampler {
    const pl_sampler_kind *kind;
    double params[PL_SAMPLER_PARAMS];
    void *state; /* owned when the kind has a free function */
} pl_sampler;

/* The built-in kinds; i in [0, pl_samplers_count()). Static storage. */
size_t pl_samplers_count(void);
const pl_sampler_kind *pl_samplers_get(size_t i);

/* A built-in sampler at its neutral parameters. PL_ERR_ARGUMENT for an unknown name, naming the
 * nearest one, or this engine's word where other programs use another ("temperature"). */
pl_status pl_sampler_init(pl_sampler *sampler, const char *name, pl_error *err);

/* Sets a parameter by name. PL_ERR_ARGUMENT: no such parameter, or value outside its range. */
pl_status pl_sampler_set(pl_sampler *sampler, const char *param, double value, pl_error *err);

typedef struct pl_chain {
    pl_sampler *samplers; /* [n] */
    size_t n, capacity;
} pl_chain;

/* Appends a copy; the chain takes over sampler->state, on failure (PL_ERR_MEMORY) too. */
pl_status pl_chain_add(pl_chain *chain, const pl_sampler *sampler, pl_error *err);
void pl_chain_clear(pl_chain *chain);

/* Runs the samplers in order until one has chosen, and gives its token.
 * Errors: PL_ERR_ARGUMENT when a sampler removes every token, leaves NaN, or nothing chooses; what
 * a sampler's own function reports. The message names the sampler. */
pl_status pl_chain_sample(const pl_chain *chain, pl_candidates *c, int32_t *id, pl_error *err);

#endif
