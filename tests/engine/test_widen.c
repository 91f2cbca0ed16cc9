/* Weights as float32, and models with float32 weights of their own. */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>
#include <cmocka.h>

#include "../../engine/model/widen.h"
#include "model_fixture.h"

enum { N = 5, VOCAB = 70 };
static const int32_t tokens[N] = {3, 1, 69, 3, 12};

static pl_model *new_model(const char *arch, pl_dtype dtype) {
    pl_config config = config_of(arch);
    config.d_model = 64, config.d_mlp = 96, config.n_layers = 2, config.n_heads = 4;
    config.n_kv_heads = strcmp(arch, "llama") == 0 ? 2 : 4;
    config.d_vocab = VOCAB, config.n_ctx = 32;
    return must_random(&config, dtype, 7);
}

static void run(pl_model *model, float logits[N * VOCAB]) {
    pl_session_options options = exact_options();
    pl_session *session = must_session(model, &options);
    pl_sequence *seq = must_sequence(session);
    must_extend(seq, tokens, N, PL_LOGITS_ALL, logits);
    pl_sequence_free(seq);
    pl_session_free(session);
}

static void test_wide_models_compute_the_same_and_outlive_their_source(void **state) {
    (void)state;
    static const pl_dtype dtypes[] = {PL_F32, PL_F16, PL_Q8_0};
    static const char *const families[] = {"gpt2", "llama"};
    float before[N * VOCAB], after[N * VOCAB];
    for (size_t i = 0; i < 6; i++) {
        pl_error err;
        pl_model *model = new_model(families[i / 3], dtypes[i % 3]), *wide;
        run(model, before);
        assert_int_equal(pl_model_new_wide(&wide, model, &err), PL_OK);
        pl_model_free(model);
        run(wide, after);
        for (int j = 0; j < N * VOCAB; j++) assert_true(fabsf(before[j] - after[j]) < 1e-4f);
        assert_non_null(wide->weights.unembed.b.data);
        assert_false(wide->config.tied);
        pl_model_free(wide);
    }
}

static void test_a_lent_weight_keeps_its_model(void **state) {
    (void)state;
    pl_error err;
    pl_tensor t, rows;
    pl_model *model = new_model("gpt2", PL_F32);
    assert_int_equal(pl_model_weight_f32(&t, model, "blk.1.ffn_up.weight", &err), PL_OK);
    assert_true(t.storage->read_only);
    const int32_t ids[2] = {69, 3};
    assert_int_equal(pl_model_weight_rows_f32(&rows, model, "output.weight", ids, 2, &err), PL_OK);
    assert_memory_equal(rows.data, (float *)model->weights.embed.data + 69 * 64,
                        64 * sizeof(float));
    pl_tensor_release(&rows);
    pl_model_free(model);
    float sum = 0;
    for (int64_t i = 0; i < pl_tensor_count(&t); i++) sum += ((const float *)t.data)[i];
    assert_true(isfinite(sum));
    pl_tensor_release(&t);
}

static void test_quantised_weights_are_widened_as_the_embedding_is(void **state) {
    (void)state;
    pl_error err;
    pl_tensor all, rows;
    pl_model *model = new_model("llama", PL_Q8_0);
    assert_int_equal(pl_model_weight_f32(&all, model, "token_embd.weight", &err), PL_OK);
    assert_int_equal(pl_model_weight_rows_f32(&rows, model, "token_embd.weight", tokens, N, &err),
                     PL_OK);
    for (int i = 0; i < N; i++) {
        assert_memory_equal((float *)rows.data + i * 64, (float *)all.data + tokens[i] * 64,
                            64 * sizeof(float));
    }
    pl_tensor_release(&all);
    pl_tensor_release(&rows);
    pl_model_free(model);
}

static void test_what_cannot_be_is_refused(void **state) {
    (void)state;
    pl_error err;
    pl_tensor t, vector;
    const int32_t outside = VOCAB;
    pl_model *model = new_model("gpt2", PL_F32), *wide;
    assert_int_equal(pl_model_weight_f32(&t, model, "blk.2.attn_q.weight", &err), PL_ERR_ARGUMENT);
    assert_non_null(strstr(err.message, "blk.2.attn_q.weight"));
    assert_int_equal(pl_model_weight_f32(&t, model, "output.bias", &err), PL_ERR_ARGUMENT);
    assert_int_equal(pl_model_weight_rows_f32(&t, model, "token_embd.weight", &outside, 1, &err),
                     PL_ERR_ARGUMENT);
    assert_int_equal(pl_model_weight_rows_f32(&t, model, "output_norm.weight", tokens, 1, &err),
                     PL_ERR_ARGUMENT);
    assert_int_equal(pl_tensor_new(&vector, PL_F32, 1, (int64_t[]){64}, &err), PL_OK);
    memset(vector.data, 0, 64 * sizeof(float));
    assert_int_equal(pl_model_set_weight(model, "output_norm.weight", &vector, &err), PL_ERR_STATE);
    assert_int_equal(pl_model_new_wide(&wide, model, &err), PL_OK);
    assert_int_equal(pl_model_set_weight(wide, "output_norm.weight", &vector, &err), PL_OK);
    assert_int_equal(pl_model_set_weight(wide, "output.bias", &vector, &err), PL_ERR_SHAPE);
    assert_int_equal(pl_model_set_weight(wide, "blk.0.attn_q.weight", &vector, &err), PL_ERR_SHAPE);
    assert_int_equal(pl_model_set_weight(wide, "other", &vector, &err), PL_ERR_ARGUMENT);
    pl_tensor_release(&vector);
    pl_model_free(wide);
    pl_model_free(model);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_wide_models_compute_the_same_and_outlive_their_source),
        cmocka_unit_test(test_a_lent_weight_keeps_its_model),
        cmocka_unit_test(test_quantised_weights_are_widened_as_the_embedding_is),
        cmocka_unit_test(test_what_cannot_be_is_refused),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
