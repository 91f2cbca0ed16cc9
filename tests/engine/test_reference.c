/* The float64 reference against numbers that others computed: Hugging Face in float64, a trained
 * model's activations, PyTorch in float32. */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>

#include "model_fixture.h"

static const char gpt2_config[] =
    "{\"model_type\": \"gpt2\", \"n_embd\": 8, \"n_layer\": 2, \"n_head\": 2, \"n_positions\": 16,"
    " \"vocab_size\": 11}";

static reference *reference_of(const pl_model *model) {
    reference *r = NULL;
    pl_error err = {0};
    if (reference_new(&r, model, &err) != PL_OK) fail_msg("%s", err.message);
    return r;
}

/* logits[sequence][position][vocab] of a fixture, in float64. What is left is the description's
 * norm_eps, a float32. */
static void hold_to_fixture(pl_model *model, const char *logits_path, double tolerance) {
    json_t *json = need_json(logits_path);
    reference *r = reference_of(model);
    size_t i, t, v, n_sequences = 0;
    json_t *sequence, *row, *value;
    json_array_foreach(json_object_get(json, "sequences"), i, sequence) {
        int64_t n;
        int32_t *tokens = json_tokens(sequence, &n);
        double *logits = reference_logits(r, tokens, n);
        const json_t *rows = json_array_get(json_object_get(json, "logits"), i);
        json_array_foreach(rows, t, row) {
            json_array_foreach(row, v, value) {
                double got = logits[t * (size_t)r->config.d_vocab + v];
                double expected = json_number_value(value);
                if (!(fabs(got - expected) <= tolerance)) {
                    fail_msg("sequence %zu, position %zu, logit %zu is %.17g, expected %.17g", i, t,
                             v, got, expected);
                }
            }
        }
        n_sequences++;
        free(logits);
        free(tokens);
    }
    assert_true(n_sequences > 0);
    reference_free(r);
    pl_model_free(model);
    json_decref(json);
}

static void test_gpt2_equals_hugging_face_in_float64(void **state) {
    (void)state;
    pl_model *model =
        load_with_config(need_data("fixtures/gpt2/tiny_gpt2.safetensors"), gpt2_config);
    hold_to_fixture(model, need_data("fixtures/gpt2/tiny_gpt2_logits.json"), 1e-9);
}

static void test_llama_equals_hugging_face_in_float64(void **state) {
    (void)state;
    json_t *json = need_json(need_data("fixtures/llama/tiny_llama_config.json"));
    char *config = json_dumps(json, 0);
    json_decref(json);
    pl_model *model = load_with_config(need_data("fixtures/llama/tiny_llama.safetensors"), config);
    free(config);
    hold_to_fixture(model, need_data("fixtures/llama/tiny_llama_logits.json"), 1e-9);
}

static void test_default_model_equals_pytorch(void **state) {
    (void)state;
    json_t *json = need_json(need_data("models/default/reference.json"));
    const json_t *prompt = json_array_get(json_object_get(json, "prompts"), 0);
    pl_model *model = must_load(need_data("models/default"));
    reference *r = reference_of(model);
    int64_t n;
    size_t count;
    int32_t *tokens = json_tokens(json_object_get(prompt, "ids"), &n);
    float *published = json_floats(json_object_get(prompt, "all_logits"), &count);
    double *logits = reference_logits(r, tokens, n);
    assert_int_equal(count, n * model->config.d_vocab);
    assert_near("logits", published, logits, count, 2e-5);
    free(logits);
    free(published);
    free(tokens);
    reference_free(r);
    pl_model_free(model);
    json_decref(json);
}

static void edit(void *context, pl_point point, int layer, double *values, int n_dims,
                 const int64_t *shape) {
    (void)n_dims;
    (void)shape;
    int *n_calls = context;
    ++*n_calls;
    if (point == PL_HOOK_RESID_POST && layer == 1) values[0] += 1;
}

static void test_watching_sees_every_point_and_may_change_it(void **state) {
    (void)state;
    pl_config config = config_of("gpt2");
    config.d_model = 8;
    config.n_heads = 2;
    config.n_layers = 2;
    config.d_vocab = 5;
    config.n_ctx = 4;
    pl_model *model = must_random(&config, PL_F32, 1);
    reference *r = reference_of(model);
    pl_error err = {0};
    double changed[5];
    int n_calls = 0;
    double *plain = reference_logits(r, (int32_t[]){3}, 1);
    assert_int_equal(reference_forward(r, changed, (int32_t[]){3}, 1, edit, &n_calls, &err), PL_OK);
    assert_int_equal(n_calls, 2 + 2 * 25 + 3); /* outside before, in blocks, outside after */
    assert_true(fabs(changed[0] - plain[0]) > 1e-6);
    assert_int_equal(reference_forward(r, changed, (int32_t[]){5}, 1, NULL, NULL, &err),
                     PL_ERR_ARGUMENT);
    free(plain);
    reference_free(r);
    pl_model_free(model);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_gpt2_equals_hugging_face_in_float64),
        cmocka_unit_test(test_llama_equals_hugging_face_in_float64),
        cmocka_unit_test(test_default_model_equals_pytorch),
        cmocka_unit_test(test_watching_sees_every_point_and_may_change_it),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
