/* The samplers once more, in float64 and with full sorts, as their papers write them. */
#ifndef PL_TEST_SAMPLER_REFERENCE_H
#define PL_TEST_SAMPLER_REFERENCE_H

#include <stdint.h>

#include "../../engine/sample/chain.h"

enum { REF_MOST = 1024 };

typedef struct ref {
    int n;                  /* vocabulary */
    double logit[REF_MOST]; /* -inf: removed */
    const int32_t *tokens;  /* [n_tokens] */
    int n_tokens, n_prompt;
    /* How far the nearest decision was from going the other way, in the unit it is made in:
     * where it is tiny, float32 may decide otherwise with good reason. */
    double margin;
} ref;

void ref_softmax(const ref *r, double *p); /* [n] */
int ref_sort(const ref *r, int *order);    /* those left, best first; returns how many */
double ref_entropy(const ref *r);          /* nats */

void ref_top_k(ref *r, int k);
void ref_top_p(ref *r, double p);
void ref_min_p(ref *r, double p);
void ref_typ_p(ref *r, double p);
void ref_top_n_sigma(ref *r, double n);
void ref_epsilon(ref *r, double epsilon);
void ref_eta(ref *r, double epsilon);
void ref_xtc(ref *r, double threshold); /* as when the dice say so */
void ref_temp(ref *r, double temp, double range, double exponent);
void ref_penalties(ref *r, int last_n, double repeat, double freq, double present);
void ref_dry(ref *r, double multiplier, double base, int allowed, int last_n,
             const pl_token_lists *breakers);
void ref_no_repeat_ngram(ref *r, int n);
void ref_sequence_bias(ref *r, const pl_token_lists *lists);
void ref_decay(ref *r, int start, double factor, int eos);
/* What remains to be drawn from, given the bound mu. */
void ref_mirostat(ref *r, double mu);
void ref_mirostat_v2(ref *r, double mu);
/* The logits that are drawn from when the calculated target is this. */
void ref_adaptive(ref *r, double target);

#endif
