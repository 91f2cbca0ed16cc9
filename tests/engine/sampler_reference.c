#include "sampler_reference.h"

#include <math.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>

static bool left(const ref *r, int i) {
    return r->logit[i] > -INFINITY;
}

void ref_softmax(const ref *r, double *p) {
    double top = -INFINITY, sum = 0;
    for (int i = 0; i < r->n; i++) top = fmax(top, r->logit[i]);
    for (int i = 0; i < r->n; i++) sum += p[i] = left(r, i) ? exp(r->logit[i] - top) : 0;
    for (int i = 0; i < r->n; i++) p[i] /= sum;
}

typedef struct keyed {
    double key;
    int id;
} keyed;

static int by_key(const void *a, const void *b) {
    const keyed *x = a, *y = b;
    if (x->key != y->key) return x->key > y->key ? -1 : 1;
    return (x->id > y->id) - (x->id < y->id);
}

/* Those left by falling key. */
static int sort_by(const ref *r, const double *key, int *order) {
    keyed list[REF_MOST];
    int n = 0;
    for (int i = 0; i < r->n; i++)
        if (left(r, i)) list[n++] = (keyed){key[i], i};
    qsort(list, (size_t)n, sizeof *list, by_key);
    for (int i = 0; i < n; i++) order[i] = list[i].id;
    return n;
}

int ref_sort(const ref *r, int *order) {
    return sort_by(r, r->logit, order);
}

double ref_entropy(const ref *r) {
    double p[REF_MOST], h = 0;
    ref_softmax(r, p);
    for (int i = 0; i < r->n; i++)
        if (p[i] > 0) h -= p[i] * log(p[i]);
    return h;
}

static void near(ref *r, double distance) {
    r->margin = fmin(r->margin, fabs(distance));
}

/* Removes all but the first n of the order. */
static void keep_first(ref *r, const int *order, int n, int of) {
    for (int i = n; i < of; i++) r->logit[order[i]] = -INFINITY;
}

/* Removes those below `least`, but never the best. */
static void keep_above(ref *r, const double *value, double least) {
    int order[REF_MOST], n = ref_sort(r, order);
    for (int i = 0; i < n; i++) {
        near(r, value[order[i]] - least);
        if (i > 0 && value[order[i]] < least && r->logit[order[i]] < r->logit[order[0]])
            r->logit[order[i]] = -INFINITY;
    }
}

/* The first of the order whose mass reaches p. */
static void keep_mass(ref *r, const int *order, int n, double p) {
    double prob[REF_MOST], sum = 0;
    ref_softmax(r, prob);
    int kept = 0;
    do {
        sum += prob[order[kept++]];
        near(r, sum - p);
    } while (kept < n && sum < p);
    keep_first(r, order, kept, n);
}

void ref_top_k(ref *r, int k) {
    int order[REF_MOST], n = ref_sort(r, order);
    if (k >= 1 && k < n) keep_first(r, order, k, n);
}

void ref_top_p(ref *r, double p) {
    int order[REF_MOST], n = ref_sort(r, order);
    if (p < 1) keep_mass(r, order, n, p);
}

void ref_min_p(ref *r, double p) {
    double prob[REF_MOST], top = 0;
    ref_softmax(r, prob);
    for (int i = 0; i < r->n; i++) top = fmax(top, prob[i]);
    for (int i = 0; i < r->n; i++) prob[i] /= top;
    if (p > 0) keep_above(r, prob, p);
}

void ref_typ_p(ref *r, double p) {
    double prob[REF_MOST], key[REF_MOST], h = ref_entropy(r);
    int order[REF_MOST];
    if (p >= 1) return;
    ref_softmax(r, prob);
    for (int i = 0; i < r->n; i++) key[i] = left(r, i) ? -fabs(-log(prob[i]) - h) : 0;
    int n = sort_by(r, key, order);
    for (int i = 0; i + 1 < n; i++) /* equal logits have equal keys in any precision */
        if (r->logit[order[i]] != r->logit[order[i + 1]])
            near(r, key[order[i]] - key[order[i + 1]]);
    keep_mass(r, order, n, p);
}

void ref_top_n_sigma(ref *r, double sigmas) {
    double mean = 0, variance = 0, top = -INFINITY;
    int n = 0;
    if (sigmas <= 0) return;
    for (int i = 0; i < r->n; i++)
        if (left(r, i)) mean += r->logit[i], n++, top = fmax(top, r->logit[i]);
    mean /= n;
    for (int i = 0; i < r->n; i++)
        if (left(r, i)) variance += (r->logit[i] - mean) * (r->logit[i] - mean);
    keep_above(r, r->logit, top - sigmas * sqrt(variance / n));
}

void ref_epsilon(ref *r, double epsilon) {
    double p[REF_MOST];
    ref_softmax(r, p);
    for (int i = 0; i < r->n; i++) p[i] = log(p[i]);
    if (epsilon > 0) keep_above(r, p, log(epsilon));
}

void ref_eta(ref *r, double epsilon) {
    if (epsilon > 0) ref_epsilon(r, fmin(epsilon, sqrt(epsilon) * exp(-ref_entropy(r))));
}

void ref_xtc(ref *r, double threshold) {
    double p[REF_MOST];
    int order[REF_MOST], n = ref_sort(r, order), likely = 0;
    ref_softmax(r, p);
    if (threshold > 0.5) return;
    for (int i = 0; i < n; i++) near(r, p[order[i]] - threshold);
    while (likely < n && p[order[likely]] >= threshold) likely++;
    for (int i = 0; i + 1 < likely; i++) r->logit[order[i]] = -INFINITY;
}

void ref_temp(ref *r, double temp, double range, double exponent) {
    int order[REF_MOST], n = ref_sort(r, order);
    if (range > 0 && n > 1) {
        double low = fmax(0, temp - range), high = temp + range;
        double certain = fmin(fmax(ref_entropy(r) / log(n), 0), 1);
        temp = low + (high - low) * pow(certain, exponent);
    }
    if (temp <= 0)
        keep_first(r, order, 1, n);
    else
        for (int i = 0; i < n; i++) r->logit[order[i]] /= temp;
}

static int first_of(const ref *r, int last_n) {
    return last_n < 0 || last_n > r->n_tokens ? 0 : r->n_tokens - last_n;
}

void ref_penalties(ref *r, int last_n, double repeat, double freq, double present) {
    for (int id = 0; id < r->n; id++) {
        int count = 0;
        for (int i = first_of(r, last_n); i < r->n_tokens; i++) count += r->tokens[i] == id;
        if (count == 0 || !left(r, id)) continue;
        r->logit[id] = r->logit[id] > 0 ? r->logit[id] / repeat : r->logit[id] * repeat;
        r->logit[id] -= count * freq + present;
    }
}

/* Whether one of the lists stands in the tokens at `at`, up to before `end`: the longest. */
static int breaker_at(const ref *r, const pl_token_lists *breakers, int at) {
    int longest = 0;
    for (size_t b = 0; b < breakers->n; b++) {
        const pl_token_list *list = &breakers->lists[b];
        int n = (int)list->n, i = 0;
        while (i < n && at + i < r->n_tokens && r->tokens[at + i] == list->ids[i]) i++;
        if (i == n && n > longest) longest = n;
    }
    return longest;
}

static bool breaks_alone(const pl_token_lists *breakers, int id) {
    for (size_t b = 0; b < breakers->n; b++)
        if (breakers->lists[b].n == 1 && breakers->lists[b].ids[0] == id) return true;
    return false;
}

void ref_dry(ref *r, double multiplier, double base, int allowed, int last_n,
             const pl_token_lists *breakers) {
    int first = first_of(r, last_n), n = r->n_tokens, limit = n - first;
    if (multiplier == 0 || base < 1 || last_n == 0 || n - first <= allowed) return;
    for (int at = n - 1, length = 0; at >= first && !length; at--) {
        length = breaker_at(r, breakers, at);
        if (length) limit = n - at - length;
    }
    if (limit < allowed) return;
    int longest[REF_MOST];
    memset(longest, -1, sizeof longest);
    for (int next = first + 1; next < n; next++) { /* tokens[next] came after this repetition */
        int length = 0;
        while (length < limit && next - 1 - length >= first &&
               r->tokens[next - 1 - length] == r->tokens[n - 1 - length])
            length++;
        int id = r->tokens[next];
        if (length >= allowed && length > longest[id]) longest[id] = length;
    }
    for (int id = 0; id < r->n; id++)
        if (longest[id] >= 0 && left(r, id) && !breaks_alone(breakers, id))
            r->logit[id] -= multiplier * pow(base, longest[id] - allowed);
}

void ref_no_repeat_ngram(ref *r, int n) {
    if (n <= 0) return;
    for (int at = 0; at + n <= r->n_tokens; at++) {
        bool same = true;
        for (int i = 0; i < n - 1; i++)
            same = same && r->tokens[at + i] == r->tokens[r->n_tokens - n + 1 + i];
        if (same) r->logit[r->tokens[at + n - 1]] = -INFINITY;
    }
}

void ref_sequence_bias(ref *r, const pl_token_lists *lists) {
    for (size_t s = 0; s < lists->n; s++) {
        const pl_token_list *list = &lists->lists[s];
        int before = (int)list->n - 1;
        bool same = before <= r->n_tokens;
        for (int i = 0; i < before && same; i++)
            same = r->tokens[r->n_tokens - before + i] == list->ids[i];
        if (same) r->logit[list->ids[before]] += list->value;
    }
}

void ref_decay(ref *r, int start, double factor, int eos) {
    int steps = r->n_tokens - r->n_prompt - start;
    if (steps > 0 && left(r, eos)) r->logit[eos] += fabs(r->logit[eos]) * (pow(factor, steps) - 1);
}

void ref_mirostat(ref *r, double mu) {
    double p[REF_MOST], dot = 0, square = 0;
    int order[REF_MOST], n = ref_sort(r, order);
    ref_softmax(r, p);
    if (n < 2) return;
    for (int i = 0; i < 99 && i < n - 1; i++) {
        double t = log((i + 2.0) / (i + 1.0)), b = log(p[order[i]] / p[order[i + 1]]);
        dot += t * b;
        square += t * t;
    }
    double s = dot / square, e = s - 1;
    double k = pow(e * pow(2, mu) / (1 - pow(r->n, -e)), 1 / s);
    near(r, k - round(k));
    near(r, e);
    if (s <= 0) k = n;
    keep_first(r, order, k < 1 ? 1 : k > n ? n : (int)k, n);
}

void ref_mirostat_v2(ref *r, double mu) {
    double p[REF_MOST];
    ref_softmax(r, p);
    for (int i = 0; i < r->n; i++) p[i] = log2(p[i]);
    keep_above(r, p, -mu);
}

void ref_adaptive(ref *r, double target) {
    double p[REF_MOST];
    ref_softmax(r, p);
    for (int i = 0; i < r->n; i++) {
        double d = fabs(p[i] - target) / 0.3;
        if (left(r, i)) r->logit[i] = 5 - 10 * d * d / (1 + d);
    }
}
