/* One number, whatever the company: cached, uncached, forked, rolled back, chunked and batched
 * results are equal bit for bit, at every number of threads, for every weight type, on every
 * instruction set. And a failed call leaves the sequence as it was. */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>
#include <cmocka.h>

#include "../../engine/base/error.h"
#include "model_fixture.h"

/* -- counting allocations -------------------------------------------------------------------- */

/* The engine's allocations pass here: these stand before the C library's. Off under a sanitizer,
 * which has its own. */
#if defined(__SANITIZE_ADDRESS__)
enum { COUNTING = 0 };
static volatile long n_allocations;
#else
enum { COUNTING = 1 };
static volatile long n_allocations;
void *__libc_malloc(size_t size);
void *__libc_calloc(size_t n, size_t size);
void *__libc_realloc(void *old, size_t size);
void *__libc_memalign(size_t alignment, size_t size);

void *malloc(size_t size) {
    __atomic_add_fetch(&n_allocations, 1, __ATOMIC_RELAXED);
    return __libc_malloc(size);
}

void *calloc(size_t n, size_t size) {
    __atomic_add_fetch(&n_allocations, 1, __ATOMIC_RELAXED);
    return __libc_calloc(n, size);
}

void *realloc(void *old, size_t size) {
    __atomic_add_fetch(&n_allocations, 1, __ATOMIC_RELAXED);
    return __libc_realloc(old, size);
}

void *aligned_alloc(size_t alignment, size_t size) {
    __atomic_add_fetch(&n_allocations, 1, __ATOMIC_RELAXED);
    return __libc_memalign(alignment, size);
}
#endif

/* -- models ---------------------------------------------------------------------------------- */

enum { N = 70, VOCAB = 131 }; /* more than a page; a prime, which no tile divides */

static void fill_tokens(int32_t *tokens, int64_t n, int salt) {
    for (int64_t i = 0; i < n; i++) tokens[i] = (int32_t)((i * i * 5 + i * 3 + salt) % VOCAB);
}

/* Widths that tiles do not divide, as far as the blocks of the type allow. */
static pl_model *model_of(pl_dtype dtype, const char *arch) {
    pl_config c = config_of(arch);
    size_t block = pl_dtype_get(dtype)->block_elements;
    c.d_model = block == 1 ? 84 : block == 32 ? 96 : 256;
    c.d_mlp = block == 1 ? 77 : block == 32 ? 160 : 256;
    c.n_layers = 2;
    c.n_heads = block == 256 ? 4 : 6;
    c.n_kv_heads = block == 256 ? 2 : 3;
    c.d_vocab = VOCAB;
    c.n_ctx = 128;
    c.tied = false;
    return must_random(&c, dtype, 11);
}

static pl_session *session_of(pl_model *model, bool exact, pl_dtype kv, int threads, int n_batch) {
    pl_session_options o = pl_session_options_default();
    o.exact = exact;
    o.kv_dtype = kv;
    o.n_threads = threads;
    o.n_batch = n_batch;
    o.parallel_work = 0; /* every operation is shared, however small */
    return must_session(model, &o);
}

static void assert_row(const char *what, const float *got, const float *whole, int64_t pos) {
    if (memcmp(got, whole + pos * VOCAB, VOCAB * sizeof *got) == 0) return;
    fail_msg("%s: the logits at position %lld have other bits", what, (long long)pos);
}

/* Each way to the same rows; whole: the logits [N, VOCAB] of one uncached pass. */

static void token_by_token(pl_session *session, const int32_t *tokens, const float *whole) {
    float row[VOCAB];
    pl_sequence *seq = must_sequence(session);
    for (int64_t t = 0; t < N; t++) {
        must_extend(seq, &tokens[t], 1, PL_LOGITS_LAST, row);
        assert_row("token by token", row, whole, t);
    }
    pl_sequence_free(seq);
}

static void in_pieces(pl_session *session, const int32_t *tokens, const float *whole) {
    static const int64_t pieces[] = {3, 1, 7, 20, 2, 37};
    float row[VOCAB];
    pl_sequence *seq = must_sequence(session);
    for (int64_t i = 0, at = 0; i < 6; at += pieces[i++]) {
        must_extend(seq, tokens + at, pieces[i], PL_LOGITS_LAST, row);
        assert_row("in pieces", row, whole, at + pieces[i] - 1);
    }
    pl_sequence_free(seq);
}

static void rolled_back(pl_session *session, const int32_t *tokens, const float *whole) {
    float row[VOCAB];
    int32_t other[N];
    fill_tokens(other, N, 77);
    pl_sequence *seq = must_sequence(session), *fork = NULL, *checkpoint = NULL;
    must_extend(seq, tokens, 66, PL_LOGITS_LAST, row);
    assert_int_equal(pl_sequence_fork(&checkpoint, seq, NULL), PL_OK);
    must_extend(seq, other, 4, PL_LOGITS_LAST, row); /* astray, over the shared page */
    assert_int_equal(pl_sequence_truncate(seq, 60, NULL), PL_OK);
    must_extend(seq, tokens + 60, N - 60, PL_LOGITS_LAST, row);
    assert_row("truncated", row, whole, N - 1);
    assert_int_equal(pl_sequence_fork(&fork, checkpoint, NULL), PL_OK);
    must_extend(checkpoint, other, 3, PL_LOGITS_LAST, row);
    must_extend(fork, tokens + 66, N - 66, PL_LOGITS_LAST, row);
    assert_row("forked", row, whole, N - 1);
    assert_int_equal(pl_sequence_truncate(checkpoint, 66, NULL), PL_OK);
    must_extend(checkpoint, tokens + 66, N - 66, PL_LOGITS_LAST, row);
    assert_row("rolled back", row, whole, N - 1);
    pl_sequence_free(seq);
    pl_sequence_free(fork);
    pl_sequence_free(checkpoint);
}

/* Strangers in the same pass, one of them further on. */
static void in_company(pl_session *session, const int32_t *tokens, const float *whole) {
    int32_t other[N];
    float *rows = malloc((size_t)(3 * N * VOCAB) * sizeof *rows);
    fill_tokens(other, N, 5);
    pl_sequence *seqs[3];
    for (int i = 0; i < 3; i++) seqs[i] = must_sequence(session);
    must_extend(seqs[0], other, 9, PL_LOGITS_NONE, NULL);
    must_extend(seqs[1], tokens, 31, PL_LOGITS_NONE, NULL);
    pl_extension items[] = {
        {seqs[0], other + 9, 5, PL_LOGITS_ALL, rows, NULL},
        {seqs[1], tokens + 31, N - 31, PL_LOGITS_ALL, rows + N * VOCAB, NULL},
        {seqs[2], other, 1, PL_LOGITS_LAST, rows + 2 * N * VOCAB, NULL},
    };
    pl_error err = {0};
    if (pl_session_extend(session, items, 3, &err) != PL_OK) fail_msg("%s", err.message);
    for (int64_t t = 31; t < N; t++) {
        assert_row("in company", rows + (N + t - 31) * VOCAB, whole, t);
    }
    for (int i = 0; i < 3; i++) pl_sequence_free(seqs[i]);
    free(rows);
}

static pl_status look(void *context, pl_tensor *act, const pl_hook_at *at, pl_error *err) {
    (void)act;
    (void)at;
    (void)err;
    ++*(int *)context;
    return PL_OK;
}

static void watched(pl_session *session, const int32_t *tokens, const float *whole) {
    int n_calls = 0;
    uint64_t ids[PL_N_POINTS];
    pl_hooks *hooks = pl_session_hooks(session);
    for (int i = 0; i < PL_N_POINTS; i++) {
        assert_int_equal(pl_hooks_add(hooks, &ids[i], (pl_point)i, -1, NULL, look, &n_calls, NULL),
                         PL_OK);
    }
    float *logits = engine_logits(session, tokens, N);
    assert_memory_equal(logits, whole, (size_t)(N * VOCAB) * sizeof *logits);
    assert_true(n_calls > 30);
    in_pieces(session, tokens, whole);
    for (int i = 0; i < PL_N_POINTS; i++) assert_true(pl_hooks_remove(hooks, ids[i]));
    free(logits);
}

static void every_way(pl_model *model, bool exact, pl_dtype kv) {
    static const int threads[] = {1, 2, 3, 7};
    int32_t tokens[N];
    fill_tokens(tokens, N, 1);
    pl_session *session = session_of(model, exact, kv, 1, 512);
    float *whole = engine_logits(session, tokens, N);
    for (int64_t i = 0; i < N * VOCAB; i++) assert_true(isfinite(whole[i]));
    token_by_token(session, tokens, whole);
    rolled_back(session, tokens, whole);
    watched(session, tokens, whole);
    pl_session_free(session);
    for (int i = 0; i < 4; i++) {
        session = session_of(model, exact, kv, threads[i], i % 2 ? 512 : 13); /* chunks of 13 */
        float *logits = engine_logits(session, tokens, N);
        if (memcmp(logits, whole, (size_t)(N * VOCAB) * sizeof *logits) != 0) {
            fail_msg("%d threads give other bits", threads[i]);
        }
        free(logits);
        in_pieces(session, tokens, whole);
        in_company(session, tokens, whole);
        pl_session_free(session);
    }
    free(whole);
}

static void test_plain_weights(void **state) {
    (void)state;
    static const pl_dtype dtypes[] = {PL_F32, PL_F16, PL_BF16};
    for (int i = 0; i < 3; i++) {
        pl_model *model = model_of(dtypes[i], i == 1 ? "gpt2" : "llama");
        every_way(model, false, i == 2 ? PL_F32 : PL_F16);
        pl_model_free(model);
    }
}

static void test_quantised_weights(void **state) {
    (void)state;
    for (int dtype = PL_Q4_0; dtype < PL_N_DTYPES; dtype++) {
        pl_model *model = model_of((pl_dtype)dtype, dtype % 2 ? "gpt2" : "llama");
        every_way(model, false, dtype % 3 ? PL_F16 : PL_F32);
        if (dtype % 2) every_way(model, true, PL_F32);
        pl_model_free(model);
    }
}

/* Without a causal mask a call is never cut, and a position sees all of its call. */
static void test_whole_calls_without_a_causal_mask(void **state) {
    (void)state;
    pl_config c = config_of("gpt2");
    c.d_model = 30;
    c.n_heads = 3;
    c.n_layers = 2;
    c.d_vocab = VOCAB;
    c.n_ctx = 128;
    c.causal = false;
    pl_model *model = must_random(&c, PL_F32, 12);
    int32_t tokens[N];
    fill_tokens(tokens, N, 2);
    pl_session *wide = session_of(model, true, PL_F32, 1, 512);
    pl_session *narrow = session_of(model, true, PL_F32, 3, 8);
    float *a = engine_logits(wide, tokens, N), *b = engine_logits(narrow, tokens, N);
    assert_memory_equal(a, b, (size_t)(N * VOCAB) * sizeof *a);
    free(a);
    free(b);
    pl_session_free(wide);
    pl_session_free(narrow);
    pl_model_free(model);
}

/* -- instruction sets ------------------------------------------------------------------------ */

/* All logits of all types, as one number; run in a process of its own under PERILUNE_CPU. */
static int print_digest(void) {
    uint64_t hash = 14695981039346656037u; /* FNV-1a */
    for (int dtype = 0; dtype < PL_N_DTYPES; dtype++) {
        if (dtype == PL_I32 || dtype == PL_I64) continue;
        pl_model *model = model_of((pl_dtype)dtype, dtype % 2 ? "llama" : "gpt2");
        int32_t tokens[N];
        fill_tokens(tokens, N, dtype);
        for (int exact = 0; exact < 2; exact++) {
            pl_session *session = session_of(model, exact, exact ? PL_F32 : PL_F16, 1, 512);
            float *logits = engine_logits(session, tokens, N);
            const uint8_t *bytes = (const uint8_t *)logits;
            for (size_t i = 0; i < (size_t)(N * VOCAB) * sizeof *logits; i++) {
                hash = (hash ^ bytes[i]) * 1099511628211u;
            }
            free(logits);
            pl_session_free(session);
        }
        pl_model_free(model);
    }
    printf("%016llx\n", (unsigned long long)hash);
    return 0;
}

static void test_every_instruction_set_gives_the_same_bits(void **state) {
    (void)state;
    char self[512] = "", expected[64] = "";
    assert_true(readlink("/proc/self/exe", self, sizeof self - 1) > 0);
    for (int isa = 0; isa < PL_N_ISAS; isa++) {
        if (!pl_cpu_supports((pl_isa)isa)) {
            print_message("not here: %s\n", pl_isa_name((pl_isa)isa));
            continue;
        }
        char command[640], digest[64] = "";
        snprintf(command, sizeof command, "PERILUNE_CPU=%s '%s' digest", pl_isa_name((pl_isa)isa),
                 self);
        FILE *pipe = popen(command, "r");
        assert_non_null(pipe);
        assert_non_null(fgets(digest, sizeof digest, pipe));
        assert_int_equal(pclose(pipe), 0);
        assert_int_equal(strlen(digest), 17);
        if (isa == 0) memcpy(expected, digest, sizeof expected);
        assert_string_equal(digest, expected);
    }
}

/* -- what is counted ------------------------------------------------------------------------- */

static void test_several_sequences_are_one_pass_over_the_weights(void **state) {
    (void)state;
    pl_model *model = model_of(PL_F16, "llama");
    pl_session *session = session_of(model, false, PL_F16, 1, 512);
    pl_sequence *seqs[5];
    pl_extension items[5];
    static const int32_t tokens[] = {1, 2, 3};
    float logits[5][VOCAB];
    for (int i = 0; i < 5; i++) {
        seqs[i] = must_sequence(session);
        items[i] = (pl_extension){seqs[i], tokens, 1 + i % 3, PL_LOGITS_LAST, logits[i], NULL};
    }
    pl_session_counters before = pl_session_get_counters(session);
    must_extend(seqs[0], tokens, 1, PL_LOGITS_LAST, logits[0]);
    pl_session_counters one = pl_session_get_counters(session);
    assert_int_equal(pl_session_extend(session, items, 5, NULL), PL_OK);
    pl_session_counters five = pl_session_get_counters(session);
    assert_int_equal(five.passes - one.passes, 1);
    assert_int_equal(five.rows - one.rows, 1 + 2 + 3 + 1 + 2);
    assert_int_equal(five.layer_rows - one.layer_rows, 2 * 9);
    assert_int_equal(five.weight_bytes - one.weight_bytes, one.weight_bytes - before.weight_bytes);
    /* Every matrix once; the embedding's rows are looked up, vectors are no maps. */
    uint64_t bytes = 0;
    for (size_t i = 0; i < pl_model_n_weights(model); i++) {
        pl_named_weight w;
        pl_model_weight(model, i, &w);
        if (w.tensor.n_dims == 2) bytes += (uint64_t)pl_tensor_count(&w.tensor) * 2;
    }
    bytes -= (uint64_t)pl_tensor_count(&model->weights.embed) * 2;
    assert_int_equal(one.weight_bytes - before.weight_bytes, bytes);
    /* Without logits nothing is read after the last attention. */
    must_extend(seqs[0], tokens, 3, PL_LOGITS_NONE, NULL);
    pl_session_counters none = pl_session_get_counters(session);
    const pl_block_weights *last = &model->weights.blocks[model->config.n_layers - 1];
    const pl_tensor *skipped[] = {&last->gate.w, &last->in.w, &last->out.w,
                                  &model->weights.unembed.w};
    for (int i = 0; i < 4; i++) bytes -= (uint64_t)pl_tensor_count(skipped[i]) * 2;
    assert_int_equal(none.weight_bytes - five.weight_bytes, bytes);
    for (int i = 0; i < 5; i++) pl_sequence_free(seqs[i]);
    pl_session_free(session);
    pl_model_free(model);
}

static void test_decoding_allocates_nothing(void **state) {
    (void)state;
    if (!COUNTING) skip();
    static const pl_dtype dtypes[] = {PL_F32, PL_F16, PL_Q4_0, PL_Q8_0, PL_Q4_K, PL_Q6_K};
    for (int i = 0; i < 12; i++) {
        pl_model *model = model_of(dtypes[i / 2], i % 4 < 2 ? "llama" : "gpt2");
        pl_session *session = session_of(model, false, PL_F16, 1 + i % 2, 512);
        pl_sequence *seq = must_sequence(session);
        float row[VOCAB];
        int32_t id = 3;
        assert_int_equal(pl_sequence_reserve(seq, 128, NULL), PL_OK);
        for (int t = 0; t < 8; t++) must_extend(seq, &id, 1, PL_LOGITS_LAST, row);
        long before = n_allocations;
        for (int t = 0; t < 100; t++) {
            must_extend(seq, &id, 1, PL_LOGITS_LAST, row);
            id = best_of(row, VOCAB);
        }
        assert_int_equal(n_allocations - before, 0);
        pl_sequence_free(seq);
        pl_session_free(session);
        pl_model_free(model);
    }
    long before = n_allocations;
    free(malloc(10));
    assert_int_equal(n_allocations - before, 1); /* the counting counts */
}

/* -- failures -------------------------------------------------------------------------------- */

typedef struct stopper {
    int left; /* calls until it stops */
} stopper;

static pl_status refuse(void *context, pl_tensor *act, const pl_hook_at *at, pl_error *err) {
    stopper *s = context;
    (void)at;
    ((float *)act->data)[0] = NAN; /* what it has done by then must not last */
    return s->left-- > 0 ? PL_OK : pl_fail(err, PL_ERR_CALLBACK, "the hook refused");
}

static bool interrupt(void *context) {
    stopper *s = context;
    return s->left-- <= 0;
}

/* The sequence holds tokens[0..n) and goes on with the same bits. */
static void assert_untouched(pl_sequence *seq, const int32_t *tokens, int64_t n,
                             const float *whole) {
    float row[VOCAB];
    pl_sequence *fork = NULL;
    assert_int_equal(pl_sequence_length(seq), n);
    assert_memory_equal(pl_sequence_tokens(seq), tokens, (size_t)n * sizeof *tokens);
    assert_int_equal(pl_sequence_fork(&fork, seq, NULL), PL_OK);
    must_extend(fork, tokens + n, 1, PL_LOGITS_LAST, row);
    assert_row("after a failure", row, whole, n);
    pl_sequence_free(fork);
}

static void test_failed_calls_leave_sequences_as_they_were(void **state) {
    (void)state;
    enum { HELD = 40 };
    pl_model *model = model_of(PL_F32, "gpt2");
    pl_session *session = session_of(model, false, PL_F32, 1, 8), *stranger;
    int32_t tokens[N], wrong[N], many[129] = {0};
    pl_error err = {0};
    fill_tokens(tokens, N, 4);
    fill_tokens(wrong, N, 9);
    float *whole = engine_logits(session, tokens, N), *rows = calloc(129 * VOCAB, sizeof *rows);
    pl_sequence *seq = must_sequence(session), *other = must_sequence(session);
    must_extend(seq, tokens, HELD, PL_LOGITS_NONE, NULL);

    for (int i = 0; i < 2; i++) { /* ids out of range, in the last chunk */
        wrong[29] = i ? -1 : VOCAB;
        assert_int_equal(pl_sequence_extend(seq, wrong, 30, PL_LOGITS_ALL, rows, &err),
                         PL_ERR_ARGUMENT);
        assert_non_null(strstr(err.message, i ? "token id -1 at index 29" : "token id 131"));
        assert_untouched(seq, tokens, HELD, whole);
    }
    fill_tokens(wrong, N, 9);
    assert_int_equal(pl_sequence_extend(seq, many, 129 - HELD, PL_LOGITS_ALL, rows, &err),
                     PL_ERR_ARGUMENT);
    assert_non_null(strstr(err.message, "n_ctx"));
    assert_untouched(seq, tokens, HELD, whole);
    assert_int_equal(pl_sequence_extend(seq, tokens, 0, PL_LOGITS_NONE, NULL, &err),
                     PL_ERR_ARGUMENT);

    for (int calls = 0; calls < 8; calls += 3) { /* at once, and in later chunks and layers */
        stopper s = {calls};
        uint64_t id;
        assert_int_equal(pl_hooks_add(pl_session_hooks(session), &id, PL_HOOK_RESID_POST, -1, NULL,
                                      refuse, &s, &err),
                         PL_OK);
        assert_int_equal(pl_sequence_extend(seq, wrong, 30, PL_LOGITS_ALL, rows, &err),
                         PL_ERR_CALLBACK);
        assert_string_equal(err.message, "the hook refused");
        assert_true(pl_hooks_remove(pl_session_hooks(session), id));
        assert_untouched(seq, tokens, HELD, whole);

        s.left = calls;
        pl_session_set_interrupt(session, interrupt, &s);
        pl_extension items[] = {{other, wrong, 3, PL_LOGITS_NONE, NULL, NULL},
                                {seq, wrong, 30, PL_LOGITS_ALL, rows, NULL}};
        assert_int_equal(pl_session_extend(session, items, 2, &err), PL_ERR_INTERRUPTED);
        pl_session_set_interrupt(session, NULL, NULL);
        assert_untouched(seq, tokens, HELD, whole);
        assert_int_equal(pl_sequence_length(other), 0);
    }

    pl_extension twice[] = {{seq, wrong, 1, PL_LOGITS_NONE, NULL, NULL},
                            {seq, wrong, 1, PL_LOGITS_NONE, NULL, NULL}};
    assert_int_equal(pl_session_extend(session, twice, 2, &err), PL_ERR_ARGUMENT);
    stranger = session_of(model, false, PL_F32, 1, 8);
    pl_sequence *foreign = must_sequence(stranger);
    pl_extension mixed[] = {{seq, wrong, 1, PL_LOGITS_NONE, NULL, NULL},
                            {foreign, wrong, 1, PL_LOGITS_NONE, NULL, NULL}};
    assert_int_equal(pl_session_extend(session, mixed, 2, &err), PL_ERR_ARGUMENT);
    assert_int_equal(pl_sequence_truncate(seq, HELD + 1, &err), PL_ERR_ARGUMENT);
    assert_untouched(seq, tokens, HELD, whole);

    pl_sequence_free(foreign);
    pl_session_free(stranger);
    pl_sequence_free(seq);
    pl_sequence_free(other);
    pl_session_free(session);
    free(whole);
    free(rows);
    pl_model_free(model);
}

/* A fork taken while its original has failed shares nothing half-written with it. */
static void test_failure_after_a_fork_does_not_reach_the_fork(void **state) {
    (void)state;
    pl_model *model = model_of(PL_F32, "llama");
    pl_session *session = session_of(model, false, PL_F32, 1, 512);
    int32_t tokens[N], wrong[N];
    pl_error err = {0};
    fill_tokens(tokens, N, 4);
    fill_tokens(wrong, N, 9);
    float *whole = engine_logits(session, tokens, N), row[VOCAB];
    pl_sequence *seq = must_sequence(session), *fork = NULL;
    must_extend(seq, tokens, 50, PL_LOGITS_NONE, NULL);
    assert_int_equal(pl_sequence_fork(&fork, seq, NULL), PL_OK);
    stopper s = {1};
    pl_session_set_interrupt(session, interrupt, &s);
    assert_int_equal(pl_sequence_extend(seq, wrong, 10, PL_LOGITS_LAST, row, &err),
                     PL_ERR_INTERRUPTED);
    pl_session_set_interrupt(session, NULL, NULL);
    assert_untouched(fork, tokens, 50, whole);
    assert_untouched(seq, tokens, 50, whole);
    pl_sequence_free(seq);
    assert_untouched(fork, tokens, 50, whole);
    pl_sequence_free(fork);
    pl_session_free(session);
    free(whole);
    pl_model_free(model);
}

static void test_bad_weights_are_named(void **state) {
    (void)state;
    char text[128];
    pl_model *model = model_of(PL_F32, "llama");
    assert_false(pl_model_find_bad_weight(model, text, sizeof text));
    pl_tensor *w = &model->weights.blocks[1].in.w;
    ((float *)w->data)[3 * w->stride[0] + 7] = NAN;
    assert_true(pl_model_find_bad_weight(model, text, sizeof text));
    assert_string_equal(text, "blk.1.ffn_up.weight [3, 7] is nan");
    ((float *)model->weights.embed.data)[5] = -INFINITY;
    assert_true(pl_model_find_bad_weight(model, text, sizeof text));
    assert_string_equal(text, "token_embd.weight [0, 5] is infinite");
    pl_model_free(model);
    model = model_of(PL_Q4_0, "llama");
    w = &model->weights.blocks[0].q.w;
    memset(w->data, 0xFF, 2); /* the first block's factor */
    assert_true(pl_model_find_bad_weight(model, text, sizeof text));
    assert_non_null(strstr(text, "blk.0.attn_q.weight [0, 0] is nan"));
    pl_model_free(model);
}

/* Eight-bit keys and values: every way to the same bits, and near float32. */
static void test_q8_0_keys_and_values(void **state) {
    (void)state;
    pl_config c = config_of("llama");
    c.d_model = 128, c.d_mlp = 96, c.n_layers = 2, c.n_heads = 4, c.n_kv_heads = 2;
    c.d_vocab = VOCAB, c.n_ctx = 128;
    pl_model *model = must_random(&c, PL_F32, 11);
    every_way(model, false, PL_Q8_0);
    float rows[2][VOCAB];
    int32_t tokens[N];
    fill_tokens(tokens, N, 3);
    for (int i = 0; i < 2; i++) {
        pl_session *session = session_of(model, false, i ? PL_Q8_0 : PL_F32, 1, 512);
        pl_sequence *seq = must_sequence(session);
        must_extend(seq, tokens, N, PL_LOGITS_LAST, rows[i]);
        pl_sequence_free(seq);
        pl_session_free(session);
    }
    double error = 0, size = 0;
    for (int i = 0; i < VOCAB; i++) {
        error += pow((double)rows[0][i] - (double)rows[1][i], 2);
        size += pow((double)rows[0][i], 2);
    }
    assert_true(error > 0 && sqrt(error / size) < 0.05);
    pl_model_free(model);

    pl_error err;
    c.d_model = 80, c.d_head = 20;
    model = must_random(&c, PL_F32, 11);
    pl_session_options o = pl_session_options_default();
    o.kv_dtype = PL_Q8_0;
    pl_session *session = NULL;
    assert_int_equal(pl_session_new(&session, model, &o, &err), PL_ERR_ARGUMENT);
    assert_non_null(strstr(err.message, "d_head = 20"));
    pl_model_free(model);
}

int main(int argc, char **argv) {
    if (argc == 2 && strcmp(argv[1], "digest") == 0) return print_digest();
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_plain_weights),
        cmocka_unit_test(test_quantised_weights),
        cmocka_unit_test(test_whole_calls_without_a_causal_mask),
        cmocka_unit_test(test_every_instruction_set_gives_the_same_bits),
        cmocka_unit_test(test_several_sequences_are_one_pass_over_the_weights),
        cmocka_unit_test(test_decoding_allocates_nothing),
        cmocka_unit_test(test_failed_calls_leave_sequences_as_they_were),
        cmocka_unit_test(test_failure_after_a_fork_does_not_reach_the_fork),
        cmocka_unit_test(test_bad_weights_are_named),
        cmocka_unit_test(test_q8_0_keys_and_values),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
