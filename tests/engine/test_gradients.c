/* Gradients of whole models, held to central differences of the float64 reference: every weight,
 * and activations through weights of every type. */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>
#include <malloc.h>
#include <sys/resource.h>

#include "../../engine/model/widen.h"
#include "../../engine/tensor/elementwise.h"
#include "../../engine/tensor/grad.h"
#include "../../engine/tensor/reduce.h"
#include "gradient_fixture.h"

/* Whose allocator mallinfo2 does not know. */
#ifdef __SANITIZE_ADDRESS__
static const bool under_sanitizer = true;
#else
static const bool under_sanitizer = false;
#endif

/* -- the reference's side --------------------------------------------------------------------- */

static double reference_loss(const pl_model *model) {
    pl_error err = {0};
    reference *r = NULL;
    double logits[N * VOCAB];
    assert_int_equal(reference_new(&r, model, &err), PL_OK);
    assert_int_equal(reference_forward(r, logits, tokens, N, NULL, NULL, &err), PL_OK);
    reference_free(r);
    return loss_of(logits);
}

/* One element in `every`. */
static void hold_weight(const pl_model *model, const pl_named_weight *w, int64_t every) {
    pl_tensor grad;
    pl_get_grad(&w->tensor, &grad);
    float *value = w->tensor.data;
    for (int64_t i = 0; i < pl_tensor_count(&w->tensor); i += every) {
        float kept = value[i], up = kept + 0x1p-16f, down = kept - 0x1p-16f;
        value[i] = up;
        double slope = reference_loss(model);
        value[i] = down;
        slope = (slope - reference_loss(model)) / ((double)up - (double)down);
        value[i] = kept;
        double got = grad.data ? (double)((float *)grad.data)[i] : 0; /* an expert nobody chose */
        if (fabs(got - slope) > 2e-5 * fmax(1, fabs(slope))) {
            fail_msg("%s [%lld]: %.9g, expected %.9g", w->name, (long long)i, got, slope);
        }
    }
    pl_tensor_release(&grad);
}

static void hold_weights(const pl_config *config, uint64_t seed, int64_t every) {
    pl_error err = {0};
    pl_model *source = must_random(config, PL_F32, seed), *model = NULL;
    assert_int_equal(pl_model_new_trainable(&model, source, &err), PL_OK);
    pl_session_options options = exact_options();
    pl_session *session = must_session(model, &options);
    double loss = engine_loss(session, 1), expected = reference_loss(model);
    if (fabs(loss - expected) > 1e-5) fail_msg("loss %g, expected %g", loss, expected);
    for (size_t i = 0; i < pl_model_n_weights(model); i++) {
        pl_named_weight w;
        pl_model_weight(model, i, &w);
        hold_weight(model, &w, every);
    }
    /* A batch of the same sequence three times over has the same mean loss and gradients. */
    pl_named_weight w;
    pl_tensor first, second;
    pl_model_weight(model, 0, &w);
    pl_get_grad(&w.tensor, &first);
    pl_clear_grad(&w.tensor);
    engine_loss(session, 3);
    pl_get_grad(&w.tensor, &second);
    for (int64_t i = 0; i < pl_tensor_count(&first); i++) {
        float a = ((float *)first.data)[i], b = ((float *)second.data)[i];
        assert_true(fabsf(a - b) <= 1e-5f * fmaxf(1, fabsf(a)));
    }
    pl_tensor_release(&first);
    pl_tensor_release(&second);
    pl_session_free(session);
    pl_model_free(model);
    pl_model_free(source);
}

static void test_gpt2_weights(void **state) {
    (void)state;
    pl_config c = small_config("gpt2");
    hold_weights(&c, 1, 1);
}

static void test_llama_weights(void **state) {
    (void)state;
    pl_config c = small_config("llama");
    c.n_heads = 4;
    c.d_head = 4;
    hold_weights(&c, 2, 1);
}

/* Parts that other families have: norms in every slot, capped scores and logits, windows, scaled
 * embeddings, norms of queries and keys, parallel blocks, partial rotation. */
static void test_other_parts(void **state) {
    (void)state;
    static const char *const families[] = {"gemma2", "gemma3", "qwen3", "olmo2", "gptneox"};
    for (size_t i = 0; i < sizeof families / sizeof *families; i++) {
        pl_config c = small_config(families[i]);
        c.d_head = 4;
        if (c.window) c.window = 3;
        hold_weights(&c, 3 + i, 7);
    }
}

/* Experts: the chosen ones only, and the router through their shares. */
static void test_experts(void **state) {
    (void)state;
    pl_config c = small_config("mixtral");
    c.d_head = 4;
    c.n_experts = 4;
    c.n_experts_used = 2;
    hold_weights(&c, 11, 3);
}

/* -- activations ------------------------------------------------------------------------------ */

static void hold_activations(const pl_config *config, pl_dtype dtype) {
    static const pl_point points[] = {
        PL_HOOK_RESID_PRE, PL_HOOK_Q,        PL_HOOK_V,         PL_HOOK_PATTERN, PL_HOOK_Z,
        PL_HOOK_ATTN_OUT,  PL_HOOK_MLP_POST, PL_HOOK_RESID_MID, PL_HOOK_ATTN_IN, PL_HOOK_Q_INPUT,
        PL_HOOK_K_INPUT,   PL_HOOK_V_INPUT,  PL_HOOK_RESULT};
    pl_error err = {0};
    reference *r = NULL;
    pl_model *model = NULL; /* small weights: where softmax saturates float32 has few digits left */
    assert_int_equal(pl_model_new_random(&model, config, dtype, 21, 0.03f, &err), PL_OK);
    assert_int_equal(reference_new(&r, model, &err), PL_OK);
    pl_session_options options = exact_options();
    pl_session *session = must_session(model, &options);
    for (size_t i = 0; i < sizeof points / sizeof *points; i++) {
        hold_activation(session, r, points[i], 0, pl_dtype_get(dtype)->name);
    }
    pl_session_free(session);
    reference_free(r);
    pl_model_free(model);
}

static void test_activations(void **state) {
    (void)state;
    static const pl_dtype types[] = {PL_F32,  PL_F16,  PL_BF16, PL_Q8_0, PL_Q4_0,
                                     PL_Q5_1, PL_Q4_K, PL_Q5_K, PL_Q6_K};
    for (size_t i = 0; i < sizeof types / sizeof *types; i++) {
        pl_config c = small_config(i % 2 ? "llama" : "gpt2");
        bool wide = types[i] == PL_Q4_K || types[i] == PL_Q5_K || types[i] == PL_Q6_K;
        if (pl_dtype_get(types[i])->quantised) {
            c.d_model = c.d_mlp = wide ? 256 : 32;
            c.d_head = c.d_model / 2;
            c.n_layers = 1;
        }
        hold_activations(&c, types[i]);
    }
}

/* -- memory ----------------------------------------------------------------------------------- */

/* With no gradient asked for nothing is recorded, and the pass gives the same bits. */
static void test_same_bits(void **state) {
    (void)state;
    pl_config config = small_config("llama");
    pl_error err = {0};
    pl_model *model = must_random(&config, PL_F32, 5);
    pl_session_options options = exact_options();
    pl_session *session = must_session(model, &options);
    float *plain = engine_logits(session, tokens, N);
    pl_extension item = {must_sequence(session), tokens, N, PL_LOGITS_ALL, NULL, NULL};
    pl_tensor logits;
    assert_int_equal(pl_session_record(session, &item, 1, &logits, &err), PL_OK);
    assert_false(pl_tracked(&logits));
    assert_memory_equal(plain, logits.data, N * VOCAB * sizeof *plain);
    pl_tensor_release(&logits);
    pl_sequence_free(item.seq);
    free(plain);
    pl_session_free(session);
    pl_model_free(model);
}

/* What is forgotten and worked out again gives the same bits, and takes less memory meanwhile. */
/* A trainable copy whose weights have gradients now; the bytes that a record of its pass held. */
static size_t recorded_bytes(pl_model **model, pl_model *source, bool recompute) {
    pl_error err = {0};
    assert_int_equal(pl_model_new_trainable(model, source, &err), PL_OK);
    pl_session_options options = exact_options();
    options.recompute = recompute;
    pl_session *session = must_session(*model, &options);
    pl_extension item = {must_sequence(session), tokens, N, PL_LOGITS_ALL, NULL, NULL};
    size_t before = mallinfo2().uordblks;
    pl_tensor logits;
    assert_int_equal(pl_session_record(session, &item, 1, &logits, &err), PL_OK);
    size_t held = mallinfo2().uordblks - before;
    pl_tensor_release(&logits);
    pl_sequence_free(item.seq);
    engine_loss(session, 1);
    pl_session_free(session);
    return held;
}

static pl_model *must_deep(int n_layers) {
    pl_config config = small_config("gpt2");
    config.n_layers = n_layers;
    config.d_model = 32;
    return must_random(&config, PL_F32, 8);
}

static void test_recompute(void **state) {
    (void)state;
    pl_model *source = must_deep(16), *models[2];
    size_t held[2];
    for (int i = 0; i < 2; i++) held[i] = recorded_bytes(&models[i], source, i == 1);
    for (size_t i = 0; i < pl_model_n_weights(models[0]); i++) {
        pl_named_weight w;
        pl_tensor grads[2];
        for (int k = 0; k < 2; k++) {
            pl_model_weight(models[k], i, &w);
            pl_get_grad(&w.tensor, &grads[k]);
            assert_non_null(grads[k].data);
        }
        assert_memory_equal(grads[0].data, grads[1].data, grads[0].storage->bytes);
        for (int k = 0; k < 2; k++) pl_tensor_release(&grads[k]);
    }
    if (!under_sanitizer && held[1] >= held[0] / 2) {
        fail_msg("%zu bytes held, %zu without recomputation", held[1], held[0]);
    }
    for (int i = 0; i < 2; i++) pl_model_free(models[i]);
    pl_model_free(source);
}

/* Four times as deep, the record is four times as large; with recomputation what is kept is the
 * beginnings of groups, of which there are twice as many. */
static void test_recompute_by_depth(void **state) {
    (void)state;
    if (under_sanitizer) skip();
    double ratio[2];
    for (int i = 0; i < 2; i++) {
        size_t held[2];
        for (int k = 0; k < 2; k++) {
            pl_model *source = must_deep(k ? 64 : 16), *model;
            held[k] = recorded_bytes(&model, source, i == 1);
            pl_model_free(model);
            pl_model_free(source);
        }
        ratio[i] = (double)held[1] / (double)held[0];
    }
    if (ratio[0] < 3 || ratio[1] > 2.7) fail_msg("grown %.2f and %.2f times", ratio[0], ratio[1]);
}

/* Through quantised weights the walk back holds tiles of them, never a whole matrix. */
static void test_memory_of_quantised(void **state) {
    (void)state;
    enum { WIDE = 8192 };
    pl_config config = small_config("llama");
    config.d_model = 512;
    config.d_head = 256;
    config.n_layers = 1;
    config.d_mlp = WIDE;
    pl_error err = {0};
    pl_model *model = NULL;
    assert_int_equal(pl_model_new_random(&model, &config, PL_Q4_K, 3, 0.03f, &err), PL_OK);
    pl_session_options options = exact_options();
    options.n_threads = 1;
    pl_session *session = must_session(model, &options);
    pl_tensor act = {0};
    uint64_t id;
    pl_hook_options hook = {0};
    assert_int_equal(
        pl_hooks_add(pl_session_hooks(session), &id, PL_HOOK_RESID_PRE, 0, &hook, ask, &act, &err),
        PL_OK);
    struct rusage before, after;
    malloc_trim(0);
    getrusage(RUSAGE_SELF, &before);
    engine_loss(session, 1);
    getrusage(RUSAGE_SELF, &after);
    size_t grown = (size_t)(after.ru_maxrss - before.ru_maxrss) * 1024;
    if (!under_sanitizer) assert_true(grown < WIDE * 512 * sizeof(float) / 2);
    pl_tensor_release(&act);
    pl_session_free(session);
    pl_model_free(model);
}

/* Bytes in use as a walk back comes by, at a watch in each block. */
typedef struct bytes_seen {
    size_t most, last;
} bytes_seen;

static pl_status note_bytes(void *context, pl_tensor *g, pl_error *err) {
    (void)g, (void)err;
    bytes_seen *seen = context;
    seen->last = mallinfo2().uordblks;
    if (seen->last > seen->most) seen->most = seen->last;
    return PL_OK;
}

static pl_status watch_bytes(void *context, pl_tensor *act, const pl_hook_at *at, pl_error *err) {
    (void)at;
    pl_call c;
    pl_status status = pl_call_init(&c, 1, err);
    if (status == PL_OK) status = pl_watch_grad(&c, act, note_bytes, context, NULL);
    if (status != PL_OK) *err = c.err;
    return status;
}

/* An edit that is part of the record. */
static pl_status double_it(void *context, pl_tensor *act, const pl_hook_at *at, pl_error *err) {
    (void)context, (void)at;
    pl_call c;
    pl_tensor two;
    float factor = 2;
    pl_status status = pl_call_init(&c, 1, err);
    if (status == PL_OK) status = pl_tensor_wrap(&two, PL_F32, 0, NULL, &factor, err);
    return status == PL_OK ? pl_op_binary_(&c, act, &two, PL_MUL) : status;
}

/* What the record of a pass holds goes on the way back: the walk takes hardly more than the record
 * did, and near its end next to nothing of it is left. With writes in place by a hook too. */
static void test_memory_on_the_way(void **state) {
    (void)state;
    pl_config config = small_config("gpt2");
    config.n_layers = 16;
    config.d_model = 64;
    config.d_mlp = 256;
    pl_error err = {0};
    pl_model *model = must_random(&config, PL_F32, 8);
    pl_session_options options = exact_options();
    options.n_threads = 1;
    pl_session *session = must_session(model, &options);
    pl_hooks *hooks = pl_session_hooks(session);
    pl_hook_options hook = {0};
    uint64_t id;
    pl_tensor act = {0}, logits;
    bytes_seen seen = {0};
    assert_int_equal(pl_hooks_add(hooks, &id, PL_HOOK_EMBED, -1, &hook, ask, &act, &err), PL_OK);
    for (int layer = 0; layer < config.n_layers; layer++) {
        pl_point point = layer % 2 ? PL_HOOK_MLP_POST : PL_HOOK_RESID_PRE;
        assert_int_equal(pl_hooks_add(hooks, &id, point, layer, &hook,
                                      layer % 4 ? watch_bytes : double_it, &seen, &err),
                         PL_OK);
    }
    engine_loss(session, 1); /* what stays is there */
    pl_tensor_release(&act);
    seen = (bytes_seen){0};
    pl_extension item = {must_sequence(session), tokens, N, PL_LOGITS_ALL, NULL, NULL};
    size_t before = mallinfo2().uordblks;
    assert_int_equal(pl_session_record(session, &item, 1, &logits, &err), PL_OK);
    size_t record = mallinfo2().uordblks - before;
    pl_call c;
    pl_tensor loss;
    assert_int_equal(pl_call_init(&c, 1, &err), PL_OK);
    assert_int_equal(pl_op_reduce(&c, &loss, &logits, PL_SUM, -1, false), PL_OK);
    pl_tensor_release(&logits);
    assert_int_equal(pl_backward(&c, &loss, NULL, false), PL_OK);
    if (!under_sanitizer && seen.most - before > record + record / 16) {
        fail_msg("%zu bytes on the way, %zu in the record", seen.most - before, record);
    }
    if (!under_sanitizer && seen.last - before > record / 5) {
        fail_msg("%zu bytes near the end, %zu in the record", seen.last - before, record);
    }
    pl_tensor_release(&loss);
    pl_tensor_release(&act);
    pl_sequence_free(item.seq);
    pl_session_free(session);
    pl_model_free(model);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_gpt2_weights),        cmocka_unit_test(test_llama_weights),
        cmocka_unit_test(test_other_parts),         cmocka_unit_test(test_experts),
        cmocka_unit_test(test_activations),         cmocka_unit_test(test_same_bits),
        cmocka_unit_test(test_recompute),           cmocka_unit_test(test_recompute_by_depth),
        cmocka_unit_test(test_memory_of_quantised), cmocka_unit_test(test_memory_on_the_way),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
