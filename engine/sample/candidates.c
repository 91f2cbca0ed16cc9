/* Candidates: see candidates.h. Selection goes through a heap, because what a sampler keeps is
 * nearly always a small part of the vocabulary; nothing here sorts. */
#include "candidates.h"

#include "../base/error.h"

#include <float.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

/* How many numbers one position may draw before it would meet the next position's. */
enum { DRAWS_PER_POSITION = 4096 };

pl_status pl_candidates_init(pl_candidates *c, int64_t n_vocab, pl_error *err) {
    *c = (pl_candidates){.n_vocab = n_vocab, .chosen = -1};
    if (n_vocab < 1 || n_vocab > INT32_MAX)
        return pl_fail(err, PL_ERR_ARGUMENT, "a vocabulary of %lld tokens cannot be sampled from",
                       (long long)n_vocab);
    if (pl_kernels_choose(&c->kernels, err) != PL_OK) return PL_ERR_UNSUPPORTED;
    size_t n = (size_t)n_vocab;
    c->ids = malloc(n * sizeof *c->ids);
    c->weights = malloc(n * sizeof *c->weights);
    c->keys = malloc(n * sizeof *c->keys);
    c->heap = malloc(n * sizeof *c->heap);
    c->counts = calloc(n, sizeof *c->counts);
    if (!c->ids || !c->weights || !c->keys || !c->heap || !c->counts) {
        pl_candidates_clear(c);
        return pl_fail(err, PL_ERR_MEMORY, "no memory to sample from %zu tokens", n);
    }
    return PL_OK;
}

void pl_candidates_clear(pl_candidates *c) {
    free(c->ids);
    free(c->weights);
    free(c->keys);
    free(c->heap);
    free(c->counts);
    pl_ids_clear(&c->scratch);
    *c = (pl_candidates){.chosen = -1};
}

pl_status pl_candidates_begin(pl_candidates *c, float *logits, pl_random random, int64_t pos,
                              pl_error *err) {
    c->logits = logits;
    c->random = random;
    c->random.counter = (uint64_t)pos * DRAWS_PER_POSITION;
    c->chosen = -1;
    return pl_candidates_refresh(c, err);
}

/* Loops over the whole vocabulary are written so that compilers make vector code of them. */

static bool all_finite(const float *x, int64_t n) {
    const uint32_t exponent = 0x7f800000; /* all of it set: infinite or NaN */
    uint32_t bad = 0;
    for (int64_t i = 0; i < n; i++) {
        uint32_t bits;
        memcpy(&bits, &x[i], sizeof bits);
        bad |= (bits & exponent) == exponent;
    }
    return !bad;
}

pl_status pl_candidates_refresh(pl_candidates *c, pl_error *err) {
    bool known = c->n == c->n_vocab; /* the list is that of all ids already */
    c->n = 0;
    if (all_finite(c->logits, c->n_vocab)) {
        if (!known)
            for (int64_t id = 0; id < c->n_vocab; id++) c->ids[id] = (int32_t)id;
        c->n = c->n_vocab;
        return PL_OK;
    }
    for (int64_t id = 0; id < c->n_vocab; id++) {
        float x = c->logits[id];
        if (x > -INFINITY && x < INFINITY)
            c->ids[c->n++] = (int32_t)id;
        else if (x != -INFINITY)
            return pl_fail(err, PL_ERR_ARGUMENT, "the logit of token %lld is %s", (long long)id,
                           x > 0 ? "+inf" : "nan");
    }
    if (c->n == 0)
        return pl_fail(err, PL_ERR_ARGUMENT,
                       "no token is left to choose from: all %lld logits are -inf",
                       (long long)c->n_vocab);
    return PL_OK;
}

/* Long runs are looked over in stretches, and added up in lanes. */
enum { STRETCH = 64, LANES = 16 };

/* Whether ids are 0, 1, 2, ...: then nothing need be looked up through them. */
static bool is_whole(const pl_candidates *c) {
    return c->n == c->n_vocab;
}

void pl_candidates_set(pl_candidates *c, int64_t id, double logit) {
    if (!(logit > -INFINITY))
        c->logits[id] = -INFINITY;
    else
        c->logits[id] = (float)fmin(fmax(logit, -FLT_MAX), FLT_MAX);
}

pl_status pl_candidates_compact(pl_candidates *c, pl_error *err) {
    int64_t n = 0;
    for (int64_t i = 0; i < c->n; i++)
        if (c->logits[c->ids[i]] > -INFINITY) c->ids[n++] = c->ids[i];
    c->n = n;
    if (n == 0) return pl_fail(err, PL_ERR_ARGUMENT, "no token is left to choose from");
    return PL_OK;
}

static bool better(pl_candidate a, pl_candidate b) {
    return a.logit > b.logit || (a.logit == b.logit && a.id < b.id);
}

/* The logit of the best, which is had sooner than its id. */
static float best_logit(const pl_candidates *c) {
    return is_whole(c) ? c->kernels->max(c->logits, (size_t)c->n) : pl_candidates_best(c).logit;
}

pl_candidate pl_candidates_best(const pl_candidates *c) {
    if (is_whole(c)) {
        float most = best_logit(c);
        int64_t id = 0;
        while (id + STRETCH <= c->n && c->kernels->max(c->logits + id, STRETCH) < most)
            id += STRETCH;
        while (c->logits[id] != most) id++;
        return (pl_candidate){most, (int32_t)id};
    }
    pl_candidate best = {c->logits[c->ids[0]], c->ids[0]};
    for (int64_t i = 1; i < c->n; i++)
        if (c->logits[c->ids[i]] > best.logit)
            best = (pl_candidate){c->logits[c->ids[i]], c->ids[i]};
    return best;
}

void pl_candidates_keep_from(pl_candidates *c, pl_candidate last) {
    int64_t n = 0;
    for (int64_t i = 0; i < c->n; i++) {
        int32_t id = c->ids[i];
        if (better(last, (pl_candidate){c->logits[id], id}))
            c->logits[id] = -INFINITY;
        else
            c->ids[n++] = id;
    }
    c->n = n;
}

/* -- the heap: the best candidate on top, children of i at 2 i + 1 and 2 i + 2 -------------- */

static void sift_down(pl_candidate *heap, int64_t i, int64_t n) {
    pl_candidate moving = heap[i];
    for (int64_t child; (child = 2 * i + 1) < n; i = child) {
        if (child + 1 < n && better(heap[child + 1], heap[child])) child++;
        if (!better(heap[child], moving)) break;
        heap[i] = heap[child];
    }
    heap[i] = moving;
}

/* Takes the best one off a heap of n >= 1. */
static pl_candidate heap_pop(pl_candidate *heap, int64_t n) {
    pl_candidate top = heap[0];
    heap[0] = heap[n - 1];
    if (n > 1) sift_down(heap, 0, n - 1);
    return top;
}

/* A heap with the worst on top holds the k best so far, so nearly every token costs one
 * comparison. */
static void sift_worst(pl_candidate *heap, int64_t i, int64_t n) {
    pl_candidate moving = heap[i];
    for (int64_t child; (child = 2 * i + 1) < n; i = child) {
        if (child + 1 < n && better(heap[child], heap[child + 1])) child++;
        if (!better(moving, heap[child])) break;
        heap[i] = heap[child];
    }
    heap[i] = moving;
}

/* A later id is never better at the same logit, so it enters only above the worst of the k. */
static void enter(pl_candidate *heap, int64_t k, float logit, int32_t id) {
    if (logit <= heap[0].logit) return;
    heap[0] = (pl_candidate){logit, id};
    sift_worst(heap, 0, k);
}

int64_t pl_candidates_select(pl_candidates *c, int64_t k) {
    if (k > c->n) k = c->n;
    pl_candidate *heap = c->heap;
    int64_t i = k;
    for (int64_t j = 0; j < k; j++) heap[j] = (pl_candidate){c->logits[c->ids[j]], c->ids[j]};
    for (int64_t j = k / 2; j-- > 0;) sift_worst(heap, j, k);
    for (; is_whole(c) && i + STRETCH <= c->n; i += STRETCH) {
        if (c->kernels->max(c->logits + i, STRETCH) <= heap[0].logit) continue;
        for (int l = 0; l < STRETCH; l++) enter(heap, k, c->logits[i + l], (int32_t)i + l);
    }
    for (; i < c->n; i++) enter(heap, k, c->logits[c->ids[i]], c->ids[i]);
    for (int64_t n = k; n > 1; n--) {
        pl_candidate worst = heap[0];
        heap[0] = heap[n - 1];
        heap[n - 1] = worst;
        sift_worst(heap, 0, n - 1);
    }
    return k;
}

static int by_id(const void *a, const void *b) {
    const pl_candidate *x = a, *y = b;
    return (x->id > y->id) - (x->id < y->id);
}

void pl_candidates_keep_best(pl_candidates *c, int64_t k) {
    if (k >= c->n) return;
    pl_candidates_select(c, k);
    if (k > c->n / 16) {
        pl_candidates_keep_from(c, c->heap[k - 1]);
        return;
    }
    for (int64_t i = 0; i < c->n_vocab; i++) c->logits[i] = -INFINITY;
    qsort(c->heap, (size_t)k, sizeof *c->heap, by_id);
    for (int64_t i = 0; i < k; i++) {
        c->logits[c->heap[i].id] = c->heap[i].logit;
        c->ids[i] = c->heap[i].id;
    }
    c->n = k;
}

/* -- the smallest set of a mass ------------------------------------------------------------- */

/* Tokens fall into buckets by their keys; whole buckets are kept until one reaches the mass, and
 * only that one is ordered. Which bucket a key belongs to depends on nothing but its distance from
 * the lowest, so nothing is out of order between buckets. */
enum { BUCKETS = 2048 };
static const float BUCKETS_PER_UNIT = 64; /* a factor of e in probability, where keys are logits */

static int bucket_of(float key, float lowest) {
    float place = (key - lowest) * BUCKETS_PER_UNIT;
    return place < BUCKETS - 1 ? (int)place : BUCKETS - 1;
}

void pl_candidates_keep_mass_by(pl_candidates *c, const float *keys, double sum, double p) {
    double masses[BUCKETS] = {0}, mass = 0, wanted = p * sum;
    float lowest = keys[0];
    for (int64_t i = 1; i < c->n; i++) lowest = keys[i] < lowest ? keys[i] : lowest;
    for (int64_t i = 0; i < c->n; i++) masses[bucket_of(keys[i], lowest)] += c->weights[i];
    int cut = 0;
    while (cut < BUCKETS - 1 && mass + masses[cut] < wanted) mass += masses[cut++];
    int64_t n = 0, kept = 0;
    for (int64_t i = 0; i < c->n; i++)
        if (bucket_of(keys[i], lowest) == cut) c->heap[n++] = (pl_candidate){-keys[i], (int32_t)i};
    for (int64_t i = n / 2; i-- > 0;) sift_down(c->heap, i, n);
    pl_candidate last = {-lowest, -1}; /* an empty bucket at the very end cuts nothing off */
    if (n == 0) last = (pl_candidate){-INFINITY, INT32_MAX};
    while (n > 0) {
        last = heap_pop(c->heap, n--);
        mass += c->weights[last.id];
        if (mass >= wanted) break;
    }
    for (int64_t i = 0; i < c->n; i++) {
        int32_t id = c->ids[i];
        if (better(last, (pl_candidate){-keys[i], (int32_t)i}))
            c->logits[id] = -INFINITY;
        else
            c->ids[kept++] = id;
    }
    c->n = kept;
}

void pl_candidates_keep_mass(pl_candidates *c, double p) {
    double sum = pl_candidates_weigh(c);
    for (int64_t i = 0; i < c->n; i++) c->keys[i] = -c->logits[c->ids[i]];
    pl_candidates_keep_mass_by(c, c->keys, sum, p);
}

/* -- weights -------------------------------------------------------------------------------- */

/* The sum of x, in lanes: one after the other, each addition would wait for the one before. */
static double sum_of(const float *x, int64_t n) {
    double lanes[LANES] = {0}, sum = 0;
    int64_t whole = n - n % LANES;
    for (int64_t i = 0; i < whole; i += LANES)
        for (int l = 0; l < LANES; l++) lanes[l] += x[i + l];
    for (int64_t i = whole; i < n; i++) sum += x[i];
    for (int l = 0; l < LANES; l++) sum += lanes[l];
    return sum;
}

static double weigh(pl_candidates *c, float top) {
    if (is_whole(c))
        for (int64_t i = 0; i < c->n; i++) c->weights[i] = c->logits[i] - top;
    else
        for (int64_t i = 0; i < c->n; i++) c->weights[i] = c->logits[c->ids[i]] - top;
    c->kernels->exp(c->weights, c->weights, (size_t)c->n);
    return sum_of(c->weights, c->n);
}

double pl_candidates_weigh(pl_candidates *c) {
    return weigh(c, best_logit(c));
}

int32_t pl_candidates_draw(pl_candidates *c) {
    double left = pl_candidates_weigh(c) * pl_random_uniform_f64(&c->random);
    int64_t i = 0, last = 0;
    for (; i + STRETCH <= c->n; i += STRETCH) {
        double sum = sum_of(c->weights + i, STRETCH);
        if (left < sum) break;
        left -= sum;
    }
    for (; i < c->n; i++) {
        if (c->weights[i] <= 0) continue;
        last = i;
        if ((left -= c->weights[i]) < 0) return c->ids[i];
    }
    /* Rounding has carried the draw past the end: the last that has any weight. */
    for (i = c->n - 1; last == 0 && i > 0; i--)
        if (c->weights[i] > 0) last = i;
    return c->ids[last];
}

pl_distribution pl_candidates_distribution(pl_candidates *c) {
    double top = best_logit(c), sum = weigh(c, (float)top), dot = 0;
    double lanes[LANES] = {0};
    const float *w = c->weights, *x = c->logits;
    int64_t i = 0;
    if (is_whole(c))
        for (; i + LANES <= c->n; i += LANES)
            for (int l = 0; l < LANES; l++) lanes[l] += w[i + l] * ((double)x[i + l] - top);
    for (; i < c->n; i++) dot += w[i] * ((double)x[c->ids[i]] - top);
    for (int l = 0; l < LANES; l++) dot += lanes[l];
    return (pl_distribution){.log_sum = top + log(sum), .entropy_nats = log(sum) - dot / sum};
}
