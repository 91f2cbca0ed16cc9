/* How fast models load, read prompts and generate, beside what the machine can do in the same run.
 *
 * Usage: bench_models [FILTER]   runs the lines whose name contains FILTER
 *
 * Models have random weights of published shapes, written to a temporary GGUF file and mapped from
 * there. "of max" holds generation's weight bytes per second against the machine's read bandwidth,
 * and a prompt's arithmetic against OpenBLAS's sgemm, both measured just before that line. */
#include <cblas.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "../../engine/base/threads.h"
#include "../../engine/model/model.h"
#include "../../engine/model/model.h"
#include "../../engine/model/hooks.h"

static double now(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

static void check(pl_status status, const pl_error *err) {
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

static void read_task(void *context, size_t task, int thread) {
    read_job *job = context;
    const uint64_t *p = job->data + task * job->n_words;
    uint64_t s[8] = {0};
    for (size_t i = 0; i + 8 <= job->n_words; i += 8) {
        for (int j = 0; j < 8; j++) s[j] ^= p[i + j];
    }
    for (int j = 0; j < 8; j++) job->sums[thread] ^= s[j];
}

/* Bytes per second read by n threads from a region far larger than any cache. */
static double read_bandwidth(int n_threads) {
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
    const float *a, *b;
    float *c;
    int n_rows, n_out, n_in;
} gemm_job;

static void gemm_task(void *context, size_t task, int thread) {
    (void)thread;
    const gemm_job *g = context;
    size_t first = task * (size_t)g->n_rows;
    cblas_sgemm(CblasRowMajor, CblasNoTrans, CblasTrans, g->n_rows, g->n_out, g->n_in, 1,
                g->a + first * (size_t)g->n_in, g->n_in, g->b, g->n_in, 0,
                g->c + first * (size_t)g->n_out, g->n_out);
}

/* Floating-point operations per second of OpenBLAS at a prompt's shape, one call per thread. */
static double sgemm_rate(int n_threads) {
    gemm_job g = {.n_rows = 512 / n_threads, .n_out = 3072, .n_in = 768};
    size_t n_rows = (size_t)(g.n_rows * n_threads), n_out = 3072, n_in = 768;
    float *a = calloc(n_rows * n_in, sizeof *a), *b = calloc(n_out * n_in, sizeof *b);
    float *c = calloc(n_rows * n_out, sizeof *c);
    g.a = a, g.b = b, g.c = c;
    openblas_set_num_threads(1);
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

/* -- models --------------------------------------------------------------------------------- */

typedef struct shape {
    const char *name, *arch;
    int64_t n_layers, d_model, n_heads, n_kv_heads, d_mlp, d_vocab, n_ctx;
    int64_t n_prompt;
} shape;

static const shape gpt2 = {"gpt2-small", "gpt2", 12, 768, 12, 12, 3072, 50257, 1024, 512};
static const shape tinyllama = {"tinyllama", "llama", 22, 2048, 32, 4, 5632, 32000, 2048, 128};

typedef struct line {
    const shape *shape;
    pl_dtype dtype;
} line;

static const line lines[] = {
    {&gpt2, PL_F32},       {&gpt2, PL_F16},       {&gpt2, PL_Q8_0},
    {&gpt2, PL_Q4_0},      {&gpt2, PL_Q4_K},      {&tinyllama, PL_F16},
    {&tinyllama, PL_Q8_0}, {&tinyllama, PL_Q4_0}, {&tinyllama, PL_Q4_K},
};

typedef struct figures {
    double load_s, first_token_s, prompt_s, token_s;
    double weight_bytes, prompt_flops;
    long peak_kib;
} figures;

enum { N_GENERATED = 64 };

static void write_model(const line *l, const char *path) {
    pl_error err;
    pl_config config;
    const shape *s = l->shape;
    check(pl_config_init(&config, s->arch, &err), &err);
    config.n_layers = s->n_layers, config.d_model = s->d_model, config.n_heads = s->n_heads;
    config.n_kv_heads = s->n_kv_heads, config.d_mlp = s->d_mlp, config.d_vocab = s->d_vocab;
    config.n_ctx = s->n_ctx;
    pl_model *model;
    check(pl_model_new_random(&model, &config, l->dtype, 1, 0.02f, &err), &err);
    check(pl_model_save(model, path, NULL, &err), &err);
    pl_model_free(model);
}

static int32_t best_token(const float *logits, int64_t n) {
    int32_t best = 0;
    for (int64_t i = 1; i < n; i++) best = logits[i] > logits[best] ? (int32_t)i : best;
    return best;
}

static void measure(const line *l, const char *path, int n_threads, figures *r) {
    pl_error err;
    double start = now();
    pl_model *model;
    check(pl_model_load(&model, path, &err), &err);
    r->load_s = now() - start;
    pl_session_options options = pl_session_options_default();
    options.n_threads = n_threads;
    pl_session *session;
    pl_sequence *seq;
    check(pl_session_new(&session, model, &options, &err), &err);
    check(pl_sequence_new(&seq, session, &err), &err);
    int64_t d_vocab = model->config.d_vocab, n = l->shape->n_prompt;
    float *logits = malloc((size_t)d_vocab * sizeof *logits);
    int32_t *prompt = malloc((size_t)n * sizeof *prompt);
    if (!logits || !prompt) exit(1);
    for (int64_t i = 0; i < n; i++) prompt[i] = (int32_t)(i * 37 % d_vocab);

    check(pl_sequence_extend(seq, prompt, 1, PL_LOGITS_LAST, logits, &err), &err);
    r->first_token_s = now() - start;
    check(pl_sequence_truncate(seq, 0, &err), &err);

    start = now();
    check(pl_sequence_extend(seq, prompt, n, PL_LOGITS_LAST, logits, &err), &err);
    r->prompt_s = now() - start;
    uint64_t before = pl_session_get_counters(session).weight_bytes;
    start = now();
    for (int i = 0; i < N_GENERATED; i++) {
        int32_t id = best_token(logits, d_vocab);
        check(pl_sequence_extend(seq, &id, 1, PL_LOGITS_LAST, logits, &err), &err);
    }
    r->token_s = (now() - start) / N_GENERATED;
    r->weight_bytes =
        (double)(pl_session_get_counters(session).weight_bytes - before) / N_GENERATED;
    int64_t d_embed = d_vocab * model->config.d_model;
    r->prompt_flops = 2.0 * (double)n * (double)(pl_model_n_params(model) - d_embed);
    struct rusage usage;
    getrusage(RUSAGE_SELF, &usage);
    r->peak_kib = usage.ru_maxrss;
    free(prompt), free(logits);
    pl_sequence_free(seq), pl_session_free(session), pl_model_free(model);
}

/* Runs a step in a process of its own, so that its memory is its own and the pool's threads never
 * cross a fork; what it leaves in *result comes back through a pipe. */
typedef void (*step_fn)(const void *argument, void *result);

static void in_child(step_fn run, const void *argument, void *result, size_t size) {
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
    double bandwidth, flops;
} machine;

typedef struct job {
    const line *line;
    const char *path;
    int n_threads;
} job;

static void measure_machine(const void *argument, void *result) {
    const job *j = argument;
    *(machine *)result = (machine){read_bandwidth(j->n_threads), sgemm_rate(j->n_threads)};
}

static void make_file(const void *argument, void *result) {
    const job *j = argument;
    write_model(j->line, j->path);
    *(char *)result = 1;
}

static void measure_model(const void *argument, void *result) {
    const job *j = argument;
    measure(j->line, j->path, j->n_threads, result);
}

static void run_line(const line *l, int n_threads) {
    char path[] = "/tmp/perilune_bench_XXXXXX.gguf", done;
    int fd = mkstemps(path, 5);
    if (fd < 0) exit(1);
    close(fd);
    job j = {l, path, n_threads};
    machine limit;
    figures r;
    in_child(make_file, &j, &done, 1);
    in_child(measure_machine, &j, &limit, sizeof limit); /* bandwidth swings: measured each time */
    in_child(measure_model, &j, &r, sizeof r);
    unlink(path);
    printf("%-11s %-5s %8.1f %9.1f %9.0f %6.0f%% %9.1f %6.0f%% %9.0f %10.1f %8.0f\n",
           l->shape->name, pl_dtype_get(l->dtype)->name, 1e3 * r.load_s, 1e3 * r.first_token_s,
           (double)l->shape->n_prompt / r.prompt_s, 100 * r.prompt_flops / r.prompt_s / limit.flops,
           1 / r.token_s, 100 * r.weight_bytes / r.token_s / limit.bandwidth,
           (double)r.peak_kib / 1024, limit.bandwidth / 1e9, limit.flops / 1e9);
    fflush(stdout);
}

int main(int argc, char **argv) {
    int n_threads = pl_threads_default();
    printf("%d threads; prompts of 512 (gpt2-small) and 128 tokens (tinyllama), %d generated\n",
           n_threads, N_GENERATED);
    printf("%-11s %-5s %8s %9s %9s %7s %9s %7s %9s %10s %8s\n", "model", "type", "load ms",
           "first ms", "prompt/s", "of max", "tokens/s", "of max", "peak MiB", "read GB/s",
           "sgemm G");
    for (size_t i = 0; i < sizeof lines / sizeof *lines; i++) {
        char name[64];
        snprintf(name, sizeof name, "%s %s", lines[i].shape->name,
                 pl_dtype_get(lines[i].dtype)->name);
        if (argc > 1 && !strstr(name, argv[1])) continue;
        run_line(&lines[i], n_threads);
    }
    return 0;
}
