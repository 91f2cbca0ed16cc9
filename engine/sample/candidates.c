/* Candidates: see candidates.h. Selection goes through a heap, because what a sampler keeps is
 * nearly always a small part of the vocabulary; nothing here sorts. */
#include "candidates.h"

#include "../base/error.h"

#include <float.h>
#include <math.h>
#include <stdlib.h>

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
    c->heap = malloc(n * sizeof *c->heap);
    c->counts = calloc(n, sizeof *c->counts);
    if (!c->ids || !c->weights || !c->heap || !c->counts) {
        pl_candidates_clear(c);
        return pl_fail(err, PL_ERR_MEMORY, "no memory to sample from %zu tokens", n);
    }
    return PL_OK;
}

void pl_candidates_clear(pl_candidates *c) {
    free(c->ids);
    free(c->weights);
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

pl_status pl_candidates_refresh(pl_candidates *c, pl_error *err) {
    c->n = 0;
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

pl_candidate pl_candidates_best(const pl_candidates *c) {
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

static void heap_fill(pl_candidates *c) {
    for (int64_t i = 0; i < c->n; i++) c->heap[i] = (pl_candidate){c->logits[c->ids[i]], c->ids[i]};
    for (int64_t i = c->n / 2; i-- > 0;) sift_down(c->heap, i, c->n);
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

int64_t pl_candidates_select(pl_candidates *c, int64_t k) {
    if (k > c->n) k = c->n;
    pl_candidate *heap = c->heap;
    for (int64_t i = 0; i < k; i++) heap[i] = (pl_candidate){c->logits[c->ids[i]], c->ids[i]};
    for (int64_t i = k / 2; i-- > 0;) sift_worst(heap, i, k);
    for (int64_t i = k; i < c->n; i++) {
        /* A later id is never better at the same logit. */
        float logit = c->logits[c->ids[i]];
        if (logit <= heap[0].logit) continue;
        heap[0] = (pl_candidate){logit, c->ids[i]};
        sift_worst(heap, 0, k);
    }
    for (int64_t n = k; n > 1; n--) {
        pl_candidate worst = heap[0];
        heap[0] = heap[n - 1];
        heap[n - 1] = worst;
        sift_worst(heap, 0, n - 1);
    }
    return k;
}

void pl_candidates_keep_best(pl_candidates *c, int64_t k) {
    if (k >= c->n) return;
    pl_candidates_select(c, k);
    pl_candidates_keep_from(c, c->heap[k - 1]);
}

void pl_candidates_keep_mass(pl_candidates *c, double p) {
    double wanted = p * pl_candidates_weigh(c);
    heap_fill(c);
    int64_t n = c->n;
    pl_candidate best = c->heap[0], last;
    double sum = 0;
    do {
        last = heap_pop(c->heap, n--);
        float weight = last.logit - best.logit;
        c->kernels->exp(&weight, &weight, 1);
        sum += weight;
    } while (n > 0 && sum < wanted);
    pl_candidates_keep_from(c, last);
}

void pl_candidates_keep_mass_by(pl_candidates *c, const float *keys, double sum, double p) {
    for (int64_t i = 0; i < c->n; i++) c->heap[i] = (pl_candidate){-keys[i], (int32_t)i};
    for (int64_t i = c->n / 2; i-- > 0;) sift_down(c->heap, i, c->n);
    double mass = 0, wanted = p * sum;
    int64_t n = c->n, kept = 0;
    do {
        mass += c->weights[heap_pop(c->heap, n--).id];
    } while (n > 0 && mass < wanted);
    for (int64_t i = 0; i < n; i++) c->logits[c->ids[c->heap[i].id]] = -INFINITY;
    for (int64_t i = 0; i < c->n; i++)
        if (c->logits[c->ids[i]] > -INFINITY) c->ids[kept++] = c->ids[i];
    c->n = kept;
}

double pl_candidates_weigh(pl_candidates *c) {
    float top = pl_candidates_best(c).logit;
    for (int64_t i = 0; i < c->n; i++) c->weights[i] = c->logits[c->ids[i]] - top;
    c->kernels->exp(c->weights, c->weights, (size_t)c->n);
    double sum = 0;
    for (int64_t i = 0; i < c->n; i++) sum += c->weights[i];
    return sum;
}

int32_t pl_candidates_draw(pl_candidates *c) {
    double left = pl_candidates_weigh(c) * pl_random_uniform_f64(&c->random);
    int64_t i = 0, last = 0;
    for (; i < c->n; i++) {
        if (c->weights[i] <= 0) continue;
        last = i;
        if ((left -= c->weights[i]) < 0) break;
    }
    return c->ids[last];
}

pl_distribution pl_candidates_distribution(pl_candidates *c) {
    double top = pl_candidates_best(c).logit, sum = pl_candidates_weigh(c), dot = 0;
    for (int64_t i = 0; i < c->n; i++)
        if (c->weights[i] > 0) dot += c->weights[i] * ((double)c->logits[c->ids[i]] - top);
    return (pl_distribution){.log_sum = top + log(sum), .entropy_nats = log(sum) - dot / sum};
}
