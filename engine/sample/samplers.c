/* The built-in samplers in the order in which options run them: what rules tokens out or in,
 * penalties, then llama.cpp's order of truncation and temperature, then those that choose. */
#include "samplers.h"

static const pl_sampler_kind *const kinds[] = {
    &pl_sampler_logit_bias,
    &pl_sampler_sequence_bias,
    &pl_sampler_bad_words_ids,
    &pl_sampler_suppress_tokens,
    &pl_sampler_begin_suppress_tokens,
    &pl_sampler_no_repeat_ngram_size,
    &pl_sampler_min_new_tokens,
    &pl_sampler_exponential_decay_length_penalty,
    &pl_sampler_forced_bos,
    &pl_sampler_forced_eos,
    &pl_sampler_penalties,
    &pl_sampler_dry,
    &pl_sampler_top_n_sigma,
    &pl_sampler_top_k,
    &pl_sampler_typ_p,
    &pl_sampler_top_p,
    &pl_sampler_min_p,
    &pl_sampler_epsilon_cutoff,
    &pl_sampler_eta_cutoff,
    &pl_sampler_xtc,
    &pl_sampler_temp,
    &pl_sampler_infill,
    &pl_sampler_mirostat,
    &pl_sampler_mirostat_v2,
    &pl_sampler_adaptive_p,
    &pl_sampler_dist,
    &pl_sampler_greedy,
};

size_t pl_samplers_count(void) {
    return sizeof kinds / sizeof *kinds;
}

const pl_sampler_kind *pl_samplers_get(size_t i) {
    return kinds[i];
}
