/* The tables of built-in samplers, one for each file of them; samplers.c puts them in order.
 * Each sampler keeps the list of candidates true and leaves at least one, or fails. */
#ifndef PL_SAMPLE_SAMPLERS_H
#define PL_SAMPLE_SAMPLERS_H

#include "chain.h"

extern const pl_sampler_kind pl_sampler_logit_bias, pl_sampler_sequence_bias,
    pl_sampler_bad_words_ids, pl_sampler_suppress_tokens, pl_sampler_begin_suppress_tokens,
    pl_sampler_min_new_tokens, pl_sampler_exponential_decay_length_penalty, pl_sampler_forced_bos,
    pl_sampler_forced_eos;                                         /* samplers_bias.c */
extern const pl_sampler_kind pl_sampler_penalties, pl_sampler_dry, /* _penalties.c */
    pl_sampler_no_repeat_ngram_size;
extern const pl_sampler_kind pl_sampler_top_n_sigma, pl_sampler_top_k, /* _truncate.c */
    pl_sampler_typ_p, pl_sampler_top_p, pl_sampler_min_p, pl_sampler_epsilon_cutoff,
    pl_sampler_eta_cutoff, pl_sampler_xtc;
extern const pl_sampler_kind pl_sampler_temp, pl_sampler_mirostat, pl_sampler_mirostat_v2,
    pl_sampler_adaptive_p, pl_sampler_dist, pl_sampler_greedy; /* _choose.c */
extern const pl_sampler_kind pl_sampler_infill;                /* _infill.c */

#endif
