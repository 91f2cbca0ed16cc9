/* How fast models load, read prompts and generate, beside what the machine can do in the same run.
 *
 * Usage: bench_models [FILTER]    runs the lines whose name contains FILTER
 *        bench_models --file F    a GGUF file, in the words of the JSON lines
 *
 * Models have random weights of published shapes, written to a temporary GGUF file and mapped from
 * there. "of max" holds generation's bytes per second, weights and keys and values, against the
 * machine's read bandwidth, and a prompt's arithmetic against OpenBLAS's sgemm, both measured just
 * before that line; "*" is precision "fast". "far" is generation at the end of the context, "x4"
 * and "x16" that of so many sequences together. BENCH_JSON names a file that gets one object a
 * line. */
#include <sys/resource.h>

#include "../../engine/model/model.h"
#include "machine.h"

/* -- models --------------------------------------------------------------------------------- */

typedef struct shape {
    const char *name, *arch;
    int64_t n_layers, d_model, n_heads, n_kv_heads, d_mlp, d_vocab, n_ctx;
    int64_t n_prompt;
} shape;

static const shape gpt2 = {"gpt2-small", "gpt2", 12, 768, 12, 12, 3072, 50257, 1024, 512};
static const shape tinyllama = {"tinyllama", "llama", 22, 2048, 32, 4, 5632, 32000, 2048, 128};

static const shape llama15m = {"llama-15m", "llama", 6, 288, 6, 6, 768, 32000, 256, 128};

/* dtype: a type's name, or q4_k_m, llama.cpp's mix. */
typedef struct line {
    const shape *shape;
    const char *dtype;
    bool fast; /* precision "fast" */
} line;

static const line lines[] = {
    {&gpt2, "f32", false},       {&gpt2, "f16", false},       {&gpt2, "f16", true},
    {&gpt2, "bf16", false},      {&gpt2, "q8_0", false},      {&gpt2, "q6_k", false},
    {&gpt2, "q5_1", false},      {&gpt2, "q5_0", false},      {&gpt2, "q5_k", false},
    {&gpt2, "q4_1", false},      {&gpt2, "q4_0", false},      {&gpt2, "q4_k", false},
    {&gpt2, "q4_k_m", false},    {&tinyllama, "f16", false},  {&tinyllama, "f16", true},
    {&tinyllama, "q8_0", false}, {&tinyllama, "q4_0", false}, {&tinyllama, "q4_k_m", false},
    {&llama15m, "f16", false},   {&llama15m, "q8_0", false},
};

enum { N_GENERATED = 64, MOST_TOGETHER = 16 };

/* Seconds a token, or a step of several sequences, and what is read for it. */
typedef struct generation {
    double token_s, bytes;
} generation;

typedef struct figures {
    double load_s, first_token_s, prompt_s, prompt_flops;
    int64_t n_prompt;
    generation near, far, together[2]; /* of 4 and of 16 sequences */
    long peak_kib;
} figures;

static const int together[2] = {4, MOST_TOGETHER};

static void write_model(const line *l, const char *path) {
    pl_error err;
    pl_config config;
    const shape *s = l->shape;
    check(pl_config_init(&config, s->arch, &err), &err);
    config.n_layers = s->n_layers, config.d_model = s->d_model, config.n_heads = s->n_heads;
    config.n_kv_heads = s->n_kv_heads, config.d_mlp = s->d_mlp, config.d_vocab = s->d_vocab;
    config.n_ctx = s->n_ctx;
    pl_model *model;
    pl_dtype dtype;
    bool mixed = !pl_dtype_find(l->dtype, &dtype);
    check(pl_model_new_random(&model, &config, mixed ? PL_F16 : dtype, 1, 0.02f, &err), &err);
    pl_save_options options = {.cast = true, .dtype = PL_Q4_K, .mixed = true};
    check(pl_model_save(model, path, mixed ? &options : NULL, &err), &err);
    pl_model_free(model);
}

static int32_t best_token(const pl_kernels *kernels, const float *logits, int64_t n) {
    float most = kernels->max(logits, (size_t)n);
    int32_t best = 0;
    while (best + 1 < n && logits[best] != most) best++;
    return best;
}

/* n_steps greedy steps of n sequences, each from its own logits. */
static generation generate(pl_session *session, pl_sequence *const *seqs, int n, float *logits,
                           int n_steps) {
    pl_error err;
    const pl_config *c = &pl_session_model(session)->config;
    pl_extension items[MOST_TOGETHER];
    int32_t ids[MOST_TOGETHER];
    uint64_t before = pl_session_get_counters(session).weight_bytes;
    const pl_kernels *kernels;
    check(pl_kernels_choose(&kernels, &err), &err);
    double kv = 0, start = now();
    for (int step = 0; step < n_steps; step++) {
        for (int i = 0; i < n; i++) {
            ids[i] = best_token(kernels, logits + i * c->d_vocab, c->d_vocab);
            items[i] = (pl_extension){.seq = seqs[i],
                                      .tokens = &ids[i],
                                      .n = 1,
                                      .which = PL_LOGITS_LAST,
                                      .logits = logits + i * c->d_vocab};
            kv += (double)pl_sequence_length(seqs[i]);
        }
        check(pl_session_extend(session, items, (size_t)n, &err), &err);
    }
    double seconds = now() - start;
    uint64_t weights = pl_session_get_counters(session).weight_bytes - before;
    kv *= 2.0 * 2 * (double)(c->n_layers * c->n_kv_heads * c->d_head); /* float16 */
    return (generation){seconds / n_steps, ((double)weights + kv) / n_steps};
}

static pl_sequence *new_sequence(pl_session *session, const int32_t *prompt, int64_t n,
                                 float *logits) {
    pl_error err;
    pl_sequence *seq;
    check(pl_sequence_new(&seq, session, &err), &err);
    check(pl_sequence_extend(seq, prompt, n, PL_LOGITS_LAST, logits, &err), &err);
    return seq;
}

static void generate_together(pl_session *session, const int32_t *prompt, float *logits,
                              figures *r) {
    pl_sequence *seqs[MOST_TOGETHER];
    const pl_config *c = &pl_session_model(session)->config;
    for (int k = 0; k < 2; k++) {
        for (int i = 0; i < together[k]; i++) {
            seqs[i] = new_sequence(session, prompt + i, 8, logits + i * c->d_vocab);
        }
        r->together[k] = generate(session, seqs, together[k], logits, N_GENERATED / 2);
        for (int i = 0; i < together[k]; i++) pl_sequence_free(seqs[i]);
    }
}

static void measure(const char *path, int64_t n_prompt, bool fast, int n_threads, figures *r) {
    pl_error err;
    double start = now();
    pl_model *model;
    check(pl_model_load(&model, path, &err), &err);
    r->load_s = now() - start;
    pl_session_options options = pl_session_options_default();
    options.n_threads = n_threads;
    options.fast = fast;
    pl_session *session;
    check(pl_session_new(&session, model, &options, &err), &err);
    int64_t d_vocab = model->config.d_vocab, n_ctx = model->config.n_ctx, n = n_prompt;
    if (n > n_ctx / 2) n = n_ctx / 2;
    r->n_prompt = n;
    float *logits = malloc(MOST_TOGETHER * (size_t)d_vocab * sizeof *logits);
    int32_t *prompt = malloc((size_t)n_ctx * sizeof *prompt);
    if (!logits || !prompt) exit(1);
    for (int64_t i = 0; i < n_ctx; i++) prompt[i] = (int32_t)(i * 37 % d_vocab);

    pl_sequence *seq = new_sequence(session, prompt, 1, logits);
    r->first_token_s = now() - start;
    for (int i = 0; i < 2; i++) { /* the second time, as llama-bench: its memory is there then */
        check(pl_sequence_truncate(seq, 0, &err), &err);
        start = now();
        check(pl_sequence_extend(seq, prompt, n, PL_LOGITS_LAST, logits, &err), &err);
        r->prompt_s = now() - start;
    }
    r->prompt_flops =
        2.0 * (double)n * (double)(pl_model_n_params(model) - d_vocab * model->config.d_model);
    check(pl_sequence_truncate(seq, 1, &err), &err);
    r->near = generate(session, &seq, 1, logits, N_GENERATED);
    check(pl_sequence_extend(seq, prompt, n_ctx - N_GENERATED - pl_sequence_length(seq),
                             PL_LOGITS_LAST, logits, &err),
          &err);
    struct rusage usage;
    getrusage(RUSAGE_SELF, &usage);
    r->peak_kib = usage.ru_maxrss;
    r->far = generate(session, &seq, 1, logits, N_GENERATED / 2);
    pl_sequence_free(seq);
    generate_together(session, prompt, logits, r);
    free(prompt), free(logits);
    pl_session_free(session), pl_model_free(model);
}

typedef struct job {
    const line *line;
    const char *path;
    int64_t n_prompt;
    int n_threads;
} job;

static void make_file(const void *argument, void *result) {
    const job *j = argument;
    write_model(j->line, j->path);
    *(char *)result = 1;
}

static void measure_model(const void *argument, void *result) {
    const job *j = argument;
    *(figures *)result = (figures){0};
    measure(j->path, j->n_prompt, j->line && j->line->fast, j->n_threads, result);
}

static double share(generation g, machine limit) {
    return g.bytes / g.token_s / limit.bandwidth;
}

static void tell(const char *name, const char *dtype, const figures *r, machine limit) {
    double prompt = (double)r->n_prompt / r->prompt_s, of_flops = r->prompt_flops / r->prompt_s;
    printf("%-10s %-6s %6.1f %6.1f %7.0f %4.0f%% %7.1f %4.0f%% %7.1f %4.0f%% %6.0f %6.0f %6.0f "
           "%5.1f %5.0f\n",
           name, dtype, 1e3 * r->load_s, 1e3 * r->first_token_s, prompt,
           100 * of_flops / limit.flops, 1 / r->near.token_s, 100 * share(r->near, limit),
           1 / r->far.token_s, 100 * share(r->far, limit), together[0] / r->together[0].token_s,
           together[1] / r->together[1].token_s, (double)r->peak_kib / 1024, limit.bandwidth / 1e9,
           limit.flops / 1e9);
    fflush(stdout);
    tell_json(json_pack(
        "{s:s, s:s, s:I, s:f, s:f, s:f, s:f, s:f, s:f, s:f, s:f, s:f, s:f, s:f, s:f, "
        "s:f}",
        "model", name, "type", dtype, "prompt", (json_int_t)r->n_prompt, "load_s", r->load_s,
        "first_token_s", r->first_token_s, "prompt_tokens_per_s", prompt, "prompt_flops", of_flops,
        "tokens_per_s", 1 / r->near.token_s, "bytes_per_token", r->near.bytes, "far_tokens_per_s",
        1 / r->far.token_s, "far_bytes_per_token", r->far.bytes, "tokens_per_s_of_4",
        together[0] / r->together[0].token_s, "tokens_per_s_of_16",
        together[1] / r->together[1].token_s, "peak_bytes", (double)r->peak_kib * 1024,
        "read_bytes_per_s", limit.bandwidth, "sgemm_flops", limit.flops));
}

/* The machine's bandwidth swings: it is measured before each line. */
static void run_file(const char *name, const char *dtype, const job *j) {
    machine limit;
    figures r;
    in_child(measure_machine, &j->n_threads, &limit, sizeof limit);
    in_child(measure_model, j, &r, sizeof r);
    tell(name, dtype, &r, limit);
}

static void run_line(const line *l, int n_threads) {
    char path[] = "/tmp/perilune_bench_XXXXXX.gguf", done;
    int fd = mkstemps(path, 5);
    if (fd < 0) exit(1);
    close(fd);
    job j = {l, path, l->shape->n_prompt, n_threads};
    in_child(make_file, &j, &done, 1);
    char dtype[32];
    snprintf(dtype, sizeof dtype, "%s%s", l->dtype, l->fast ? "*" : "");
    run_file(l->shape->name, dtype, &j);
    unlink(path);
}

int main(int argc, char **argv) {
    int n_threads = pl_threads_default();
    printf("%d threads; prompts of 512 (gpt2-small) and 128 tokens, %d generated\n", n_threads,
           N_GENERATED);
    printf("%-10s %-6s %6s %6s %7s %5s %7s %5s %7s %5s %6s %6s %6s %5s %5s\n", "model", "type",
           "load", "first", "prompt", "of", "tok/s", "of", "far", "of", "x4", "x16", "peak", "read",
           "sgemm");
    printf("%-10s %-6s %6s %6s %7s %5s %7s %5s %7s %5s %6s %6s %6s %5s %5s\n", "", "", "ms", "ms",
           "tok/s", "max", "", "max", "tok/s", "max", "tok/s", "tok/s", "MiB", "GB/s", "GF/s");
    if (argc > 2 && strcmp(argv[1], "--file") == 0) {
        const char *slash = strrchr(argv[2], '/');
        run_file(slash ? slash + 1 : argv[2], "file", &(job){NULL, argv[2], 512, n_threads});
        return 0;
    }
    for (size_t i = 0; i < sizeof lines / sizeof *lines; i++) {
        char name[64];
        snprintf(name, sizeof name, "%s %s", lines[i].shape->name, lines[i].dtype);
        if (argc > 1 && !strstr(name, argv[1])) continue;
        run_line(&lines[i], n_threads);
    }
    return 0;
}
