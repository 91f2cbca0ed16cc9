/* Samplers on one core: microseconds a token of llama.cpp's default chain, and of each sampler by
 * itself, over the vocabularies of GPT-2 and Qwen 2.5. The logits are spread as a model's are. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "../../engine/sample/chain.h"

enum { ROUNDS = 200 };

static double now(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return 1e6 * (double)t.tv_sec + 1e-3 * (double)t.tv_nsec;
}

static int compare(const void *a, const void *b) {
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

static int fail(const pl_error *err) {
    fprintf(stderr, "%s\n", err->message);
    return 1;
}

typedef struct item {
    const char *name, *param;
    double value;
} item;

/* The median of one token's time, logits being taken up included. */
static int measure(const char *label, const item *items, int n_items, pl_candidates *c,
                   const float *logits, float *work) {
    double times[ROUNDS];
    pl_chain chain = {0};
    pl_error err;
    int32_t prompt[256], id;
    for (int i = 0; i < n_items; i++) {
        pl_sampler sampler;
        if (pl_sampler_init(&sampler, items[i].name, &err) != PL_OK) return fail(&err);
        if (items[i].param &&
            pl_sampler_set(&sampler, items[i].param, items[i].value, &err) != PL_OK)
            return fail(&err);
        if (pl_chain_add(&chain, &sampler, &err) != PL_OK) return fail(&err);
    }
    for (int i = 0; i < 256; i++) prompt[i] = i * i % 1000;
    if (pl_chain_reset(&chain, prompt, 256, &err) != PL_OK) return fail(&err);
    for (int round = 0; round < ROUNDS; round++) {
        memcpy(work, logits, (size_t)c->n_vocab * sizeof *work);
        double start = now();
        if (pl_candidates_begin(c, work, (pl_random){1, 0, 0}, round, &err) != PL_OK ||
            pl_chain_sample(&chain, c, &id, &err) != PL_OK)
            return fail(&err);
        times[round] = now() - start;
    }
    pl_chain_clear(&chain);
    qsort(times, ROUNDS, sizeof *times, compare);
    printf("  %-16s %8.1f us\n", label, times[ROUNDS / 2]);
    return 0;
}

static int run(int64_t n_vocab) {
    static const item whole[] = {
        {"penalties", NULL, 0},   {"dry", NULL, 0},   {"top_n_sigma", NULL, 0},
        {"top_k", "top_k", 40},   {"typ_p", NULL, 0}, {"top_p", "top_p", 0.95},
        {"min_p", "min_p", 0.05}, {"xtc", NULL, 0},   {"temp", "temp", 0.8},
        {"dist", NULL, 0},
    };
    static const item alone[][2] = {
        {{"greedy", NULL, 0}},
        {{"dist", NULL, 0}},
        {{"temp", "temp", 0.8}, {"dist", NULL, 0}},
        {{"top_k", "top_k", 40}, {"greedy", NULL, 0}},
        {{"top_p", "top_p", 0.95}, {"greedy", NULL, 0}},
        {{"min_p", "min_p", 0.05}, {"greedy", NULL, 0}},
        {{"typ_p", "typ_p", 0.9}, {"greedy", NULL, 0}},
        {{"top_n_sigma", "top_n_sigma", 1}, {"greedy", NULL, 0}},
        {{"eta_cutoff", "eta_cutoff", 6e-4}, {"greedy", NULL, 0}},
        {{"penalties", "penalty_repeat", 1.1}, {"greedy", NULL, 0}},
        {{"dry", "dry_multiplier", 0.8}, {"greedy", NULL, 0}},
        {{"xtc", "xtc_probability", 1}, {"greedy", NULL, 0}},
        {{"mirostat", NULL, 0}},
        {{"mirostat_v2", NULL, 0}},
    };
    pl_candidates c;
    pl_error err;
    pl_random random = {42, 0, 0};
    if (pl_candidates_init(&c, n_vocab, &err) != PL_OK) return fail(&err);
    float *logits = malloc(2 * (size_t)n_vocab * sizeof *logits), *work = logits + n_vocab;
    if (!logits) return 1;
    for (int64_t i = 0; i < n_vocab; i++) logits[i] = 2.5f * pl_random_normal(&random);
    printf("samplers: %lld logits, one core\n", (long long)n_vocab);
    int failed = measure("default chain", whole, 10, &c, logits, work);
    for (size_t i = 0; i < sizeof alone / sizeof *alone && !failed; i++)
        failed = measure(alone[i][0].name, alone[i], alone[i][1].name ? 2 : 1, &c, logits, work);
    free(logits);
    pl_candidates_clear(&c);
    return failed;
}

int main(void) {
    return run(50257) || run(151936);
}
