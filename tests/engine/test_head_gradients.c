/* Gradients of what single heads read and write, held to central differences of the float64
 * reference, to the bits of passes without a record, and to the gradients of weights when nobody
 * listens. */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>

#include "../../engine/model/widen.h"
#include "../../engine/tensor/grad.h"
#include "gradient_fixture.h"

static const pl_point head_points[] = {PL_HOOK_ATTN_IN, PL_HOOK_Q_INPUT, PL_HOOK_K_INPUT,
                                       PL_HOOK_V_INPUT, PL_HOOK_RESULT};
enum { N_POINTS = sizeof head_points / sizeof *head_points };

static pl_model *must_small(const pl_config *config, pl_dtype dtype) {
    pl_model *model = NULL;
    pl_error err = {0};
    pl_status status = pl_model_new_random(&model, config, dtype, 21, 0.1f, &err);
    if (status != PL_OK) print_error("%s\n", err.message);
    assert_int_equal(status, PL_OK);
    return model;
}

static uint64_t must_hook(pl_session *session, pl_point point, int layer, pl_hook_fn fn,
                          void *context) {
    uint64_t id;
    pl_error err = {0};
    pl_hook_options options = {0};
    assert_int_equal(
        pl_hooks_add(pl_session_hooks(session), &id, point, layer, &options, fn, context, &err),
        PL_OK);
    return id;
}

static pl_status do_nothing(void *context, pl_tensor *act, const pl_hook_at *at, pl_error *err) {
    (void)context, (void)act, (void)at, (void)err;
    return PL_OK;
}

/* Families of all shapes, the first with query heads that share a key-value head. */
static const char *const families[] = {"llama", "gpt2",  "gemma2", "gemma3",
                                       "qwen3", "olmo2", "gptneox"};
enum { N_FAMILIES = sizeof families / sizeof *families };

static pl_config grouped(size_t family) {
    pl_config c = small_config(families[family]);
    c.d_head = 4;
    if (c.window) c.window = 3;
    if (family == 0) c.n_heads = 4;
    return c;
}

static void hold_points(const pl_config *config, pl_dtype dtype, bool all) {
    pl_error err = {0};
    reference *r = NULL;
    pl_model *model = must_small(config, dtype);
    assert_int_equal(reference_new(&r, model, &err), PL_OK);
    pl_session_options options = exact_options();
    pl_session *session = must_session(model, &options);
    for (int i = 0; i < N_POINTS && all; i++) {
        must_hook(session, head_points[i], 0, do_nothing, NULL);
    }
    for (int layer = 0; layer < config->n_layers; layer++) {
        for (int i = 0; i < N_POINTS; i++) {
            hold_activation(session, r, head_points[i], layer, pl_dtype_get(dtype)->name);
        }
    }
    hold_activation(session, r, PL_HOOK_RESID_PRE, 0, pl_dtype_get(dtype)->name);
    hold_activation(session, r, PL_HOOK_LN1_NORMALIZED, 0, pl_dtype_get(dtype)->name);
    hold_activation(session, r, PL_HOOK_LN1_SCALE, 0, pl_dtype_get(dtype)->name);
    pl_session_free(session);
    reference_free(r);
    pl_model_free(model);
}

static void test_families(void **state) {
    (void)state;
    for (size_t i = 0; i < N_FAMILIES; i++) {
        pl_config c = grouped(i);
        hold_points(&c, PL_F32, false);
    }
}

/* The norm's own points keep their gradients beside those of the copies. */
static void test_all_at_once(void **state) {
    (void)state;
    for (size_t i = 0; i < 3; i++) {
        pl_config c = grouped(i);
        hold_points(&c, PL_F32, true);
    }
}

/* Heads that are whole blocks of quantised weights, and heads that are not. */
static void test_quantised(void **state) {
    (void)state;
    for (int d_head = 16; d_head <= 32; d_head *= 2) {
        pl_config c = small_config("llama");
        c.d_model = c.d_mlp = 64;
        c.n_layers = 1;
        c.n_heads = 64 / d_head;
        c.d_head = d_head;
        hold_points(&c, PL_Q8_0, false);
    }
}

/* -- the same bits ---------------------------------------------------------------------------- */

/* Logits [N, VOCAB] of a recorded pass; free them. */
static float *recorded_logits(pl_session *session) {
    pl_error err = {0};
    pl_extension item = {must_sequence(session), tokens, N, PL_LOGITS_ALL, NULL, NULL};
    pl_tensor logits;
    pl_status status = pl_session_record(session, &item, 1, &logits, &err);
    if (status != PL_OK) print_error("%s\n", err.message);
    assert_int_equal(status, PL_OK);
    float *copy = malloc(N * VOCAB * sizeof *copy);
    assert_non_null(copy);
    memcpy(copy, logits.data, N * VOCAB * sizeof *copy);
    pl_tensor_release(&logits);
    pl_sequence_free(item.seq);
    return copy;
}

/* Adds to the second position, and sets one element of the fourth. */
static pl_status edit(void *context, pl_tensor *act, const pl_hook_at *at, pl_error *err) {
    (void)context, (void)at, (void)err;
    float *x = act->data;
    for (int64_t i = 0; i < act->shape[2]; i++) x[act->stride[0] + i] += 0.25f;
    x[3 * act->stride[0] + act->stride[1]] = -1;
    return PL_OK;
}

static pl_status set_scale(void *context, pl_tensor *act, const pl_hook_at *at, pl_error *err) {
    (void)context, (void)at, (void)err;
    for (int row = 1; row < 3; row++) ((float *)act->data)[row * act->stride[0]] = 2;
    return PL_OK;
}

static void hold_bits(pl_model *model, const float *expected, pl_hook_fn fn, const char *what) {
    pl_session_options options = exact_options();
    for (int i = 0; i < N_POINTS; i++) {
        pl_session *session = must_session(model, &options);
        must_hook(session, head_points[i], 0, fn, NULL);
        must_hook(session, head_points[i], 1, fn, NULL);
        if (fn == edit) must_hook(session, PL_HOOK_LN1_SCALE, 0, set_scale, NULL);
        float *logits = recorded_logits(session);
        float *plain = engine_logits(session, tokens, N);
        if (expected) assert_memory_equal(expected, logits, N * VOCAB * sizeof *logits);
        if (memcmp(plain, logits, N * VOCAB * sizeof *logits) != 0) {
            fail_msg("%s: %s: other bits than without a record", what,
                     pl_point_get(head_points[i])->name);
        }
        free(plain);
        free(logits);
        pl_session_free(session);
    }
}

static void test_same_bits(void **state) {
    (void)state;
    for (size_t i = 0; i < N_FAMILIES; i++) {
        pl_config c = grouped(i);
        pl_model *model = must_small(&c, PL_F32);
        pl_session_options options = exact_options();
        pl_session *session = must_session(model, &options);
        float *plain = engine_logits(session, tokens, N);
        hold_bits(model, plain, do_nothing, families[i]);
        hold_bits(model, NULL, edit, families[i]);
        free(plain);
        pl_session_free(session);
        pl_model_free(model);
    }
}

/* -- weights ---------------------------------------------------------------------------------- */

/* Gradients of all weights, one after another; free them. */
static float *weight_gradients(pl_model *model, size_t *n) {
    float *all = NULL;
    *n = 0;
    for (size_t i = 0; i < pl_model_n_weights(model); i++) {
        pl_named_weight w;
        pl_tensor grad;
        pl_model_weight(model, i, &w);
        pl_get_grad(&w.tensor, &grad);
        assert_non_null(grad.data);
        size_t count = (size_t)pl_tensor_count(&grad);
        all = realloc(all, (*n + count) * sizeof *all);
        assert_non_null(all);
        memcpy(all + *n, grad.data, count * sizeof *all);
        *n += count;
        pl_tensor_release(&grad);
        pl_clear_grad(&w.tensor);
    }
    return all;
}

/* Listening changes no gradient of any weight, also where layers are worked out again. */
static void test_weights(void **state) {
    (void)state;
    for (size_t i = 0; i < N_FAMILIES; i++) {
        pl_config c = grouped(i);
        c.n_layers = 4;
        pl_error err = {0};
        pl_model *source = must_small(&c, PL_F32), *model = NULL;
        assert_int_equal(pl_model_new_trainable(&model, source, &err), PL_OK);
        float *expected = NULL;
        size_t n;
        for (int run = 0; run < 3; run++) {
            pl_session_options options = exact_options();
            options.recompute = run == 2;
            pl_session *session = must_session(model, &options);
            for (int k = 0; run > 0 && k < N_POINTS; k++) {
                must_hook(session, head_points[k], 1, do_nothing, NULL);
            }
            if (run > 0) must_hook(session, PL_HOOK_LN1_SCALE, 1, do_nothing, NULL);
            engine_loss(session, 2);
            float *got = weight_gradients(model, &n);
            for (size_t k = 0; expected && k < n; k++) {
                float off = fabsf(got[k] - expected[k]);
                if (off > 2e-6f * fmaxf(1, fabsf(expected[k]))) {
                    fail_msg("%s: [%zu] %.9g, expected %.9g", families[i], k, (double)got[k],
                             (double)expected[k]);
                }
            }
            if (expected)
                free(got);
            else
                expected = got;
            pl_session_free(session);
        }
        free(expected);
        pl_model_free(model);
        pl_model_free(source);
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_families),  cmocka_unit_test(test_all_at_once),
        cmocka_unit_test(test_quantised), cmocka_unit_test(test_same_bits),
        cmocka_unit_test(test_weights),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
