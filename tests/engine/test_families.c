/* The parts that families add to the diagram, held to the float64 reference: random small models,
 * every point, with the cache and without. */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>

#include "model_fixture.h"

enum { N = 70, PROMPT = 23 };

static pl_config small(const char *arch) {
    pl_config c = config_of(arch);
    c.d_model = 24;
    c.n_layers = 3;
    c.n_heads = 4;
    c.n_kv_heads = 2;
    c.d_mlp = 20;
    c.d_vocab = 13;
    c.n_ctx = 128;
    return c;
}

/* A prompt in one go, the rest token by token over the cache, in contexts of n_ctx. */
static void hold_steps(pl_model *model, const int32_t tokens[N], int64_t n_ctx) {
    pl_error err = {0};
    reference *r = NULL;
    assert_int_equal(reference_new(&r, model, &err), PL_OK);
    r->long_context = n_ctx > model->config.rope_original_ctx;
    double *expected = reference_logits(r, tokens, N);
    pl_session_options options = exact_options();
    options.n_ctx = n_ctx;
    pl_session *session = must_session(model, &options);
    pl_sequence *seq = must_sequence(session);
    float logits[PROMPT * 13];
    must_extend(seq, tokens, PROMPT, PL_LOGITS_ALL, logits);
    assert_near("prompt", logits, expected, PROMPT * 13, 2e-5);
    for (int i = PROMPT; i < N; i++) {
        must_extend(seq, &tokens[i], 1, PL_LOGITS_ALL, logits);
        assert_near("step", logits, expected + i * 13, 13, 2e-5);
    }
    free(expected);
    pl_sequence_free(seq);
    pl_session_free(session);
    reference_free(r);
}

/* All points in one go, and logits token by token over the cache. */
static void hold(const pl_config *config, uint64_t seed) {
    int32_t tokens[N];
    for (int i = 0; i < N; i++) tokens[i] = (i * i + 3 * i) % 13;
    pl_model *model = must_random(config, PL_F32, seed);
    assert_model_matches(model, tokens, 11, 2e-5);
    assert_model_matches(model, tokens, N, 2e-5); /* more than a page of keys */
    hold_steps(model, tokens, pl_config_default_ctx(&model->config));
    hold_steps(model, tokens, model->config.n_ctx);
    pl_model_free(model);
}

static void test_rotary_scaling(void **state) {
    (void)state;
    pl_config c = small("llama");
    c.d_head = 12;
    c.rope_scaling = PL_ROPE_LINEAR;
    c.rope_factor = 4;
    hold(&c, 1);
    c.rope_scaling = PL_ROPE_LLAMA3;
    c.rope_factor = 8;
    c.rope_low_freq_factor = 1;
    c.rope_high_freq_factor = 4;
    c.rope_original_ctx = 64; /* frequencies kept, between and divided */
    hold(&c, 2);
    c.rope_scaling = PL_ROPE_TABLE;
    hold(&c, 3);
}

static void test_rotations_for_long_contexts(void **state) {
    (void)state;
    pl_config c = small("llama");
    c.d_head = 32, c.rope_dims = 24;
    c.rope_scaling = PL_ROPE_YARN;
    c.rope_factor = 4;
    c.rope_original_ctx = 4096; /* pairs kept, between and divided */
    hold(&c, 4);
    c.rope_beta_fast = 4, c.rope_beta_slow = 2, c.rope_attn_factor = 0.7f;
    c.rope_original_ctx = 32;
    hold(&c, 5);
    c = small("phi3");
    c.rope_scaling = PL_ROPE_LONG;
    c.rope_original_ctx = 90;
    hold(&c, 6);
    assert_int_equal(pl_config_check(&c, NULL), PL_OK);
    assert_int_equal(pl_config_default_ctx(&c), 90);
    double expected = sqrt(1 + log(128.0 / 90) / log(90.0));
    assert_true(fabs((double)c.rope_attn_factor - expected) < 1e-6);
}

static void test_windows(void **state) {
    (void)state;
    pl_config c = small("llama");
    c.window = 5;
    hold(&c, 10);
    c.window_period = 2;
    hold(&c, 11);
    c.window = 66; /* reaches over a page */
    c.window_period = 3;
    c.rope_base_local = 100;
    c.rope_scaling = PL_ROPE_LINEAR;
    c.rope_factor = 2;
    hold(&c, 12);
    c.window = 1;
    hold(&c, 13);
}

static void test_norms_of_queries_and_keys(void **state) {
    (void)state;
    pl_config c = small("llama");
    c.qk_norm = PL_QK_NORM_HEAD;
    hold(&c, 20);
    c.qk_norm = PL_QK_NORM_WHOLE;
    c.norm_slot[PL_NORM_BEFORE] = false;
    c.norm_slot[PL_NORM_AFTER_SUBLAYER] = true;
    hold(&c, 21);
    c = small("gpt2");
    c.n_kv_heads = 1;
    c.qk_norm = PL_QK_NORM_HEAD;
    hold(&c, 22);
}

static void test_soft_caps_and_scaled_embeddings(void **state) {
    (void)state;
    pl_config c = small("llama");
    c.embed_scale = 4.9f;
    c.attn_softcap = 0.5f;
    c.logit_softcap = 3;
    c.norm_slot[PL_NORM_AFTER_SUBLAYER] = true;
    c.activation = PL_ACT_GELU_TANH;
    c.window = 4;
    c.window_period = 2;
    hold(&c, 30);
}

static void test_parallel_blocks_with_one_norm(void **state) {
    (void)state;
    pl_config c = small("gpt2");
    c.parallel = c.shared_norm = true;
    hold(&c, 40);
}

static void test_experts(void **state) {
    (void)state;
    pl_config c = small("llama");
    c.n_experts = 4;
    c.n_experts_used = 2;
    hold(&c, 50);
    c.n_experts_used = 1;
    c.mlp_bias = true;
    hold(&c, 51);
    c.n_experts = c.n_experts_used = 3;
    hold(&c, 52);
}

static void test_gpt1(void **state) {
    (void)state;
    pl_config c = small("openai-gpt");
    c.n_kv_heads = 0;
    hold(&c, 55);
    c.activation = PL_ACT_SILU;
    c.tied = false;
    hold(&c, 56);
}

/* A text in one call, several in one pass, with kinds of tokens and without. */
static void hold_encoder(const pl_config *config, uint64_t seed) {
    enum { SHORT = 9 };
    int32_t tokens[N], types[N];
    for (int i = 0; i < N; i++) tokens[i] = (i * i + 3 * i) % 13;
    for (int i = 0; i < N; i++) types[i] = i >= 30;
    pl_error err = {0};
    reference *r = NULL;
    pl_model *model = must_random(config, PL_F32, seed);
    assert_model_matches(model, tokens, 11, 2e-5);
    assert_model_matches(model, tokens, N, 2e-5);
    assert_int_equal(reference_new(&r, model, &err), PL_OK);
    double *first = reference_logits(r, tokens, SHORT);
    if (config->n_token_types) r->types = types;
    double *second = reference_logits(r, tokens, N);
    pl_session_options options = exact_options();
    options.n_batch = 16; /* a text is never cut */
    pl_session *session = must_session(model, &options);
    pl_sequence *seqs[] = {must_sequence(session), must_sequence(session)};
    float logits[(N + SHORT) * 13];
    pl_extension items[] = {{seqs[0], tokens, SHORT, PL_LOGITS_ALL, logits, NULL},
                            {seqs[1], tokens, N, PL_LOGITS_ALL, logits + SHORT * 13, r->types}};
    assert_int_equal(pl_session_extend(session, items, 2, &err), PL_OK);
    assert_near("first", logits, first, SHORT * 13, 2e-5);
    assert_near("second", logits + SHORT * 13, second, N * 13, 2e-5);
    assert_int_equal(pl_sequence_extend(seqs[0], tokens, 1, PL_LOGITS_LAST, logits, &err),
                     PL_ERR_STATE);
    assert_non_null(strstr(err.message, "in one call"));
    assert_int_equal(pl_sequence_truncate(seqs[0], 0, &err), PL_OK);
    types[0] = 2;
    items[0].types = types;
    assert_int_equal(pl_session_extend(session, items, 1, &err), PL_ERR_ARGUMENT);
    free(first);
    free(second);
    pl_sequence_free(seqs[0]);
    pl_sequence_free(seqs[1]);
    pl_session_free(session);
    reference_free(r);
    pl_model_free(model);
}

static void test_encoders(void **state) {
    (void)state;
    pl_config c = small("bert");
    c.n_kv_heads = 0;
    c.pooler = true;
    hold_encoder(&c, 60);
    c.tied = false;
    c.activation = PL_ACT_GELU_TANH;
    hold_encoder(&c, 61);
    c = small("distilbert");
    c.n_kv_heads = 0;
    hold_encoder(&c, 62);
}

/* An encoder without a head: residual streams, and a clear word instead of logits. */
static void test_headless(void **state) {
    (void)state;
    enum { ROWS = 11, WIDTH = 24 };
    int32_t tokens[ROWS], types[ROWS];
    for (int i = 0; i < ROWS; i++) tokens[i] = (i * i + 3 * i) % 13;
    for (int i = 0; i < ROWS; i++) types[i] = i > 4;
    pl_error err = {0};
    reference *r = NULL;
    pl_config c = small("bert");
    c.headless = true;
    pl_model *model = NULL;
    assert_int_equal(pl_model_new_random(&model, &c, PL_F32, 63, 0.2f, &err), PL_ERR_ARGUMENT);
    assert_non_null(strstr(err.message, "headless: expected no norm_final"));
    c.norm_final = c.unembed_dense = c.unembed_bias = c.tied = false;
    model = must_random(&c, PL_F32, 63);
    assert_int_equal(reference_new(&r, model, &err), PL_OK);
    r->types = types;
    double expected[ROWS * WIDTH];
    assert_int_equal(reference_forward(r, expected, tokens, ROWS, NULL, NULL, &err), PL_OK);
    pl_session_options options = exact_options();
    pl_session *session = must_session(model, &options);
    pl_sequence *seq = must_sequence(session);
    float out[ROWS * WIDTH], logits[13];
    pl_partial item = {.rows = {seq, tokens, ROWS, PL_LOGITS_NONE, NULL, types}, .out = out};
    assert_int_equal(pl_session_partial(session, &item, 1, 0, 3, &err), PL_OK);
    assert_near("stream", out, expected, ROWS * WIDTH, 2e-5);
    assert_int_equal(pl_sequence_extend(seq, tokens, ROWS, PL_LOGITS_LAST, logits, &err),
                     PL_ERR_UNSUPPORTED);
    assert_string_equal(err.message, "this model has no output matrix: no logits");
    pl_sequence_free(seq);
    pl_session_free(session);
    reference_free(r);
    pl_model_free(model);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_rotary_scaling),
        cmocka_unit_test(test_rotations_for_long_contexts),
        cmocka_unit_test(test_windows),
        cmocka_unit_test(test_norms_of_queries_and_keys),
        cmocka_unit_test(test_soft_caps_and_scaled_embeddings),
        cmocka_unit_test(test_parallel_blocks_with_one_norm),
        cmocka_unit_test(test_experts),
        cmocka_unit_test(test_gpt1),
        cmocka_unit_test(test_encoders),
        cmocka_unit_test(test_headless),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
