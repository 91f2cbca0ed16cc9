/* Chains: see chain.h. */
#include "chain.h"

#include "../base/error.h"

#include <stdlib.h>
#include <string.h>

static pl_status grow(pl_chain *chain, pl_error *err) {
    if (chain->n < chain->capacity) return PL_OK;
    size_t capacity = chain->capacity ? 2 * chain->capacity : 8;
    pl_sampler *grown = realloc(chain->samplers, capacity * sizeof *grown);
    if (!grown) return pl_fail(err, PL_ERR_MEMORY, "no memory for a chain of samplers");
    chain->samplers = grown;
    chain->capacity = capacity;
    return PL_OK;
}

pl_status pl_chain_add(pl_chain *chain, const pl_sampler *sampler, pl_error *err) {
    pl_sampler own = *sampler;
    pl_status status = grow(chain, err);
    if (status == PL_OK && chain->n > 0 && chain->samplers[chain->n - 1].kind->chooses)
        status = pl_fail(err, PL_ERR_ARGUMENT,
                         "sampler %zu, '%s', chooses the token, so '%s' after it would never run: "
                         "put '%s' last",
                         chain->n, chain->samplers[chain->n - 1].kind->name, own.kind->name,
                         chain->samplers[chain->n - 1].kind->name);
    if (status == PL_OK && own.kind->reset) status = own.kind->reset(&own, err);
    if (status != PL_OK) {
        pl_sampler_clear(&own);
        return status;
    }
    chain->samplers[chain->n++] = own;
    return PL_OK;
}

void pl_chain_clear(pl_chain *chain) {
    for (size_t i = 0; i < chain->n; i++) pl_sampler_clear(&chain->samplers[i]);
    free(chain->samplers);
    pl_ids_clear(&chain->tokens);
    *chain = (pl_chain){0};
}

static pl_status append(pl_ids *tokens, const int32_t *ids, size_t n, pl_error *err) {
    for (size_t i = 0; i < n; i++)
        if (!pl_ids_append(tokens, ids[i]))
            return pl_fail(err, PL_ERR_MEMORY, "no memory for the tokens of a chain");
    return PL_OK;
}

static pl_status name_culprit(const pl_chain *chain, size_t i, pl_status status, pl_error *err) {
    return pl_error_prefix(err, status, "sampler %zu, '%s'", i + 1, chain->samplers[i].kind->name);
}

pl_status pl_chain_reset(pl_chain *chain, const int32_t *prompt, size_t n, pl_error *err) {
    chain->tokens.n = chain->n_prompt = 0;
    pl_status status = append(&chain->tokens, prompt, n, err);
    chain->n_prompt = chain->tokens.n;
    for (size_t i = 0; i < chain->n && status == PL_OK; i++) {
        pl_sampler *sampler = &chain->samplers[i];
        if (!sampler->kind->reset) continue;
        status = sampler->kind->reset(sampler, err);
        if (status != PL_OK) return name_culprit(chain, i, status, err);
    }
    return status;
}

pl_status pl_chain_accept(pl_chain *chain, int32_t id, pl_error *err) {
    pl_status status = append(&chain->tokens, &id, 1, err);
    for (size_t i = 0; i < chain->n && status == PL_OK; i++) {
        pl_sampler *sampler = &chain->samplers[i];
        if (!sampler->kind->accept) continue;
        status = sampler->kind->accept(sampler, id, err);
        if (status != PL_OK) return name_culprit(chain, i, status, err);
    }
    return status;
}

static pl_status clone(pl_sampler *copy, const pl_sampler *from, pl_error *err) {
    *copy = *from;
    copy->lists = (pl_token_lists){0};
    copy->state = NULL;
    pl_status status = pl_token_lists_copy(&copy->lists, &from->lists, err);
    if (status == PL_OK && from->kind->clone) status = from->kind->clone(copy, from, err);
    if (status == PL_OK && from->state && !copy->state)
        status = pl_fail(err, PL_ERR_UNSUPPORTED, "its state cannot be copied");
    if (status != PL_OK) pl_sampler_clear(copy);
    return status;
}

pl_status pl_chain_clone(pl_chain *out, const pl_chain *chain, pl_error *err) {
    pl_status status = append(&out->tokens, chain->tokens.data, chain->tokens.n, err);
    out->n_prompt = chain->n_prompt;
    for (size_t i = 0; i < chain->n && status == PL_OK; i++) {
        status = grow(out, err);
        if (status != PL_OK) break;
        status = clone(&out->samplers[out->n], &chain->samplers[i], err);
        if (status == PL_OK)
            out->n++;
        else
            name_culprit(chain, i, status, err);
    }
    if (status != PL_OK) pl_chain_clear(out);
    return status;
}

pl_status pl_chain_sample(pl_chain *chain, pl_candidates *c, int32_t *id, pl_error *err) {
    c->tokens = chain->tokens.data;
    c->n_tokens = (int64_t)chain->tokens.n;
    c->n_prompt = (int64_t)chain->n_prompt;
    pl_status status = PL_OK;
    for (size_t i = 0; i < chain->n && c->chosen < 0 && status == PL_OK; i++) {
        pl_sampler *sampler = &chain->samplers[i];
        status = sampler->kind->apply(sampler, c, err);
        if (status == PL_OK && sampler->kind->foreign && c->chosen < 0)
            status = pl_candidates_refresh(c, err);
        if (status != PL_OK) name_culprit(chain, i, status, err);
    }
    c->tokens = NULL;
    c->n_tokens = c->n_prompt = 0;
    if (status != PL_OK) return status;
    if (c->chosen < 0)
        return pl_fail(err, PL_ERR_ARGUMENT,
                       "no sampler of the chain chose a token; end it with 'dist' or 'greedy'");
    *id = c->chosen;
    return PL_OK;
}
