/* What the machine can do, measured in the run whose figures stand beside it; and steps in
 * processes of their own. */
#ifndef PL_BENCH_MACHINE_H
#define PL_BENCH_MACHINE_H

#include <jansson.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "../../engine/base/error.h"
#include "../../engine/base/threads.h"
#include "../../engine/tensor/blas.h"

static inline double now(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

static inline void check(pl_status status, const pl_error *err) {
    if (status == PL_OK) return;
    fprintf(stderr, "bench: %s\n", err->message);
    exit(1);
}

/* -- the machine ---------------------------------------------------------------------------- */

typedef struct read_job {
    const uint64_t *data;
    size_t n_words; /* of one task */
    uint64_t sums[PL_MAX_THREADS];
} read_job;

/* Four streams side by side, which keep more of the memory busy than one. */
static inline void read_task(void *context, size_t task, int thread) {
    enum { STREAMS = 4, LINE = 8 };
    read_job *job = context;
    size_t length = job->n_words / STREAMS;
    const uint64_t *p = job->data + task * job->n_words;
    uint64_t s[LINE] = {0};
    for (size_t i = 0; i + LINE <= length; i += LINE) {
        for (size_t stream = 0; stream < STREAMS; stream++) {
            for (int j = 0; j < LINE; j++) s[j] ^= p[stream * length + i + (size_t)j];
        }
    }
    for (int j = 0; j < LINE; j++) job->sums[thread] ^= s[j];
}

/* Bytes per second read by n threads from a region far larger than any cache. */
static inline double read_bandwidth(int n_threads) {
    const size_t bytes = (size_t)1 << 30, n_tasks = 256;
    uint64_t *data = aligned_alloc(64, bytes);
    if (!data) return 0;
    memset(data, 1, bytes);
    read_job job = {.data = data, .n_words = bytes / sizeof *data / n_tasks};
    double best = 0;
    for (int i = 0; i < 5; i++) {
        double start = now();
        pl_parallel(n_threads, n_tasks, read_task, &job);
        double rate = (double)bytes / (now() - start);
        if (rate > best) best = rate;
    }
    free(data);
    return best;
}

typedef struct gemm_job {
    const pl_blas *blas;
    const float *a, *b;
    float *c;
    int n_rows, n_out, n_in;
} gemm_job;

static inline void gemm_task(void *context, size_t task, int thread) {
    (void)thread;
    const gemm_job *g = context;
    size_t first = task * (size_t)g->n_rows;
    pl_blas_multiply(g->blas, false, true, g->n_rows, g->n_out, g->n_in, 1,
                     g->a + first * (size_t)g->n_in, g->n_in, g->b, g->n_in, 0,
                     g->c + first * (size_t)g->n_out, g->n_out);
}

/* Floating-point operations per second of OpenBLAS at a prompt's shape, one call per thread. */
static inline double sgemm_rate(int n_threads) {
    gemm_job g = {.n_rows = 512 / n_threads, .n_out = 3072, .n_in = 768};
    size_t n_rows = (size_t)(g.n_rows * n_threads), n_out = 3072, n_in = 768;
    float *a = calloc(n_rows * n_in, sizeof *a), *b = calloc(n_out * n_in, sizeof *b);
    float *c = calloc(n_rows * n_out, sizeof *c);
    g.a = a, g.b = b, g.c = c;
    pl_error err;
    check(pl_blas_open(&g.blas, &err), &err);
    double best = 0;
    for (int i = 0; i < 10 && a && b && c; i++) {
        double start = now();
        pl_parallel(n_threads, (size_t)n_threads, gemm_task, &g);
        double rate = 2.0 * (double)(n_rows * n_out * n_in) / (now() - start);
        if (rate > best) best = rate;
    }
    free(a), free(b), free(c);
    return best;
}

/* Runs a step in a process of its own, so that its memory is its own and the pool's threads never
 * cross a fork; what it leaves in *result comes back through a pipe. */
typedef void (*step_fn)(const void *argument, void *result);

static inline void in_child(step_fn run, const void *argument, void *result, size_t size) {
    int ends[2];
    if (pipe(ends) != 0) exit(1);
    pid_t child = fork();
    if (child == 0) {
        run(argument, result);
        _exit(write(ends[1], result, size) == (ssize_t)size ? 0 : 1);
    }
    close(ends[1]);
    bool whole = child > 0 && read(ends[0], result, size) == (ssize_t)size;
    close(ends[0]);
    waitpid(child, NULL, 0);
    if (!whole) exit(1);
}

typedef struct machine {
    double bandwidth, flops; /* bytes and operations per second */
} machine;

/* argument: the number of threads, an int */
static inline void measure_machine(const void *argument, void *result) {
    int n_threads = *(const int *)argument;
    *(machine *)result = (machine){read_bandwidth(n_threads), sgemm_rate(n_threads)};
}

/* Adds a result to the file that BENCH_JSON names, one object a line. */
static inline void tell_json(json_t *object) {
    const char *path = getenv("BENCH_JSON");
    FILE *file = path ? fopen(path, "a") : NULL;
    if (path && !file) {
        fprintf(stderr, "bench: %s cannot be written\n", path);
        exit(1);
    }
    if (file) {
        json_dumpf(object, file, JSON_COMPACT | JSON_REAL_PRECISION(6));
        fputc('\n', file);
        if (fclose(file) != 0) exit(1);
    }
    json_decref(object);
}

#endif
