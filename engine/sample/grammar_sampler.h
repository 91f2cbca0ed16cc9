/* A grammar as a sampler: removes the tokens that it does not allow. */
#ifndef PL_SAMPLE_GRAMMAR_SAMPLER_H
#define PL_SAMPLE_GRAMMAR_SAMPLER_H

#include "chain.h"
#include "grammar.h"

/* Errors: PL_ERR_ARGUMENT when no candidate is allowed; as pl_grammar_state_mask. */
pl_status pl_grammar_state_apply(pl_grammar_state *state, pl_candidates *c, pl_error *err);

#endif
