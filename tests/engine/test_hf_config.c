/* config.json of Hugging Face's repositories, well-formed and not. */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <cmocka.h>

#include "../../engine/base/error.h"
#include "../../engine/format/json.h"
#include "../../engine/model/description.h"
#include "format_fixture.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static pl_error err;

static pl_status describe(pl_config *config, const char *text) {
    json_t *json;
    const pl_family *family;
    err.message[0] = 0;
    pl_status status = pl_json_parse(&json, text, strlen(text), "config.json", &err);
    if (status != PL_OK) return status;
    status = pl_describe_hf(config, &family, NULL, json, &err);
    if (status == PL_OK) status = pl_config_check(config, &err);
    json_decref(json);
    return status;
}

#define LLAMA                                                                                      \
    "\"model_type\": \"llama\", \"num_hidden_layers\": 2, \"num_attention_heads\": 4, "            \
    "\"max_position_embeddings\": 64, \"vocab_size\": 32, \"rms_norm_eps\": 1e-5"

static void test_sizes_are_read(void **state) {
    (void)state;
    pl_config config;
    assert_int_equal(describe(&config, "{" LLAMA ", \"hidden_size\": 16, \"intermediate_size\": 24,"
                                       " \"num_key_value_heads\": 2}"),
                     PL_OK);
    assert_int_equal(config.d_model, 16);
    assert_int_equal(config.n_layers, 2);
    assert_int_equal(config.n_heads, 4);
    assert_int_equal(config.n_kv_heads, 2);
    assert_int_equal(config.d_head, 4);
    assert_int_equal(config.d_mlp, 24);
    assert_int_equal(config.d_vocab, 32);
}

/* Sizes of any family but GPT-2: 6 layers of width 32, heads of 8. */
#define SIZES(type)                                                                                \
    "{\"model_type\": \"" type "\", \"hidden_size\": 32, \"num_hidden_layers\": 6, "               \
    "\"num_attention_heads\": 4, \"intermediate_size\": 24, \"max_position_embeddings\": 64, "     \
    "\"vocab_size\": 32"

static pl_config must_describe(const char *text) {
    pl_config config;
    if (describe(&config, text) != PL_OK) fail_msg("%s: %s", text, err.message);
    return config;
}

static void test_rotations_are_read(void **state) {
    (void)state;
    pl_config c = must_describe(
        SIZES("llama") ", \"rope_theta\": 500000.0, \"rope_scaling\": {\"rope_type\": \"llama3\","
                       "\"factor\": 8.0, \"low_freq_factor\": 1.0, \"high_freq_factor\": 4.0,"
                       "\"original_max_position_embeddings\": 8192}}");
    assert_int_equal(c.rope_scaling, PL_ROPE_LLAMA3);
    assert_true(c.rope_base == 500000 && c.rope_factor == 8 && c.rope_high_freq_factor == 4);
    assert_int_equal(c.rope_original_ctx, 8192);
    c = must_describe(SIZES("qwen3") ", \"head_dim\": 16, \"rope_parameters\": {\"rope_type\": "
                                     "\"default\", \"rope_theta\": 1000000}}");
    assert_int_equal(c.rope_scaling, PL_ROPE_UNSCALED);
    assert_int_equal(c.d_head, 16);
    assert_true(c.rope_base == 1000000);
    c = must_describe(SIZES("gpt_neox") ", \"rotary_pct\": 0.5, \"rotary_emb_base\": 500}");
    assert_true(c.rope_base == 500 && c.rope_dims == 4 && c.parallel);
    c = must_describe(SIZES("gpt_neox") ", \"hidden_act\": \"gelu_fast\"}"); /* of NeoX 20B */
    assert_int_equal(c.activation, PL_ACT_GELU_TANH);
    assert_int_equal(must_describe(SIZES("stablelm") "}").rope_dims, 2);
    c = must_describe(SIZES("stablelm") ", \"use_parallel_residual\": true, \"rope_parameters\": "
                                        "{\"rope_type\": \"default\", "
                                        "\"partial_rotary_factor\": 0.75}}");
    assert_true(c.rope_dims == 6 && c.parallel && c.shared_norm);
    c = must_describe(
        SIZES("gemma3_text") ", \"rope_parameters\": {\"full_attention\": {\"rope_type\": "
                             "\"linear\", \"factor\": 8, \"rope_theta\": 1000000.0}, "
                             "\"sliding_attention\": {\"rope_type\": \"default\", "
                             "\"rope_theta\": 20000.0}}}");
    assert_true(c.rope_base_local == 20000 && c.rope_scaling == PL_ROPE_LINEAR);
    assert_true(c.rope_factor == 8 && c.rope_base == 1000000);
}

/* Gemma 3 of four billion parameters and more: text is but a part. */
static void test_models_of_pictures_are_named(void **state) {
    (void)state;
    pl_config c;
    assert_int_equal(describe(&c, "{\"model_type\": \"gemma3\", \"text_config\": {\"model_type\": "
                                  "\"gemma3_text\"}, \"vision_config\": {}}"),
                     PL_ERR_UNSUPPORTED);
    assert_non_null(strstr(err.message, "'gemma3' has a text_config beside other parts"));
}

static void test_windows_and_caps_are_read(void **state) {
    (void)state;
    assert_int_equal(must_describe(SIZES("mistral") ", \"sliding_window\": 9}").window, 9);
    assert_int_equal(must_describe(SIZES("mistral") ", \"sliding_window\": null}").window, 0);
    assert_int_equal(must_describe(SIZES("llama") ", \"sliding_window\": 9}").window, 0);
    assert_int_equal(
        must_describe(SIZES("qwen2") ", \"sliding_window\": 9, \"max_window_layers\": 3,"
                                     "\"use_sliding_window\": false}")
            .window,
        0);
    pl_config c = must_describe(SIZES("gemma3_text") ", \"sliding_window\": 9}");
    for (int l = 0; l < 6; l++) assert_int_equal(pl_config_windowed(&c, l), l < 5);
    c = must_describe(SIZES("gemma2") ", \"sliding_window\": 9, \"query_pre_attn_scalar\": 4, "
                                      "\"attn_logit_softcapping\": null, \"layer_types\": "
                                      "[\"sliding_attention\", \"sliding_attention\", "
                                      "\"full_attention\", \"sliding_attention\", "
                                      "\"sliding_attention\", \"full_attention\"]}");
    for (int l = 0; l < 6; l++) assert_int_equal(pl_config_windowed(&c, l), l % 3 < 2);
    assert_true(c.attn_scale == 0.5f && c.attn_softcap == 0 && c.logit_softcap == 30);
    assert_true(c.embed_scale > 5.65f && c.embed_scale < 5.66f && c.tied);
    c = must_describe(SIZES("mixtral") ", \"num_local_experts\": 4, \"num_experts_per_tok\": 1}");
    assert_true(c.n_experts == 4 && c.n_experts_used == 1);
}

/* What Qwen2.5 and Phi-3 128k say; how much warmer YaRN makes scores by 4 is in its paper, of
 * LongRoPE by 32 in Phi-3's own GGUF files. */
static void test_rotations_for_long_contexts(void **state) {
    (void)state;
    pl_config c =
        must_describe(SIZES("llama") ", \"rope_scaling\": {\"type\": \"yarn\", \"factor\": 4.0, "
                                     "\"original_max_position_embeddings\": 32768}}");
    assert_int_equal(c.rope_scaling, PL_ROPE_YARN);
    assert_int_equal(c.rope_original_ctx, 32768);
    assert_true(fabs((double)c.rope_attn_factor - 1.1386294) < 1e-6);
    assert_true(c.rope_beta_fast == 32 && c.rope_beta_slow == 1);
    static const char phi3[] =
        "{\"model_type\": \"phi3\", \"hidden_size\": 32, \"num_hidden_layers\": 2, "
        "\"num_attention_heads\": 4, \"intermediate_size\": 24, \"vocab_size\": 32, "
        "\"max_position_embeddings\": 131072, \"original_max_position_embeddings\": 4096, "
        "\"rope_scaling\": {\"type\": \"longrope\", \"short_factor\": [1, 1, 1.5, 2], "
        "\"long_factor\": [1, 1.25, 0, 4]}}";
    c = must_describe(phi3);
    assert_int_equal(c.rope_scaling, PL_ROPE_LONG);
    assert_int_equal(pl_config_default_ctx(&c), 4096);
    assert_true(fabs((double)c.rope_attn_factor - 1.1902380714) < 1e-6);
    json_t *json = json_loads(phi3, 0, NULL);
    float factors[4];
    assert_int_equal(pl_describe_hf_factors(factors, 4, json, true, &err), PL_OK);
    assert_true(factors[2] == 1.5f && factors[3] == 2);
    assert_int_equal(pl_describe_hf_factors(factors, 4, json, false, &err), PL_ERR_FORMAT);
    assert_non_null(strstr(err.message, "long_factor: entry 2"));
    assert_int_equal(pl_describe_hf_factors(factors, 3, json, true, &err), PL_ERR_FORMAT);
    assert_non_null(strstr(err.message, "expected 3 numbers, got 4"));
    json_decref(json);
}

static void test_fields_that_lie_are_named(void **state) {
    (void)state;
    static const struct {
        const char *text, *words;
    } cases[] = {
        {"{}", "model_type"},
        {"{\"model_type\": 3}", "model_type"},
        {"{\"model_type\": \"lama\"}", "llama"},
        {"{" LLAMA "}", "hidden_size"},
        {"{" LLAMA ", \"hidden_size\": \"16\"}", "hidden_size"},
        {"{" LLAMA ", \"hidden_size\": -16}", "hidden_size"},
        {"{" LLAMA ", \"hidden_size\": 16.5}", "hidden_size"},
        {"{" LLAMA ", \"hidden_size\": 1e300}", "hidden_size"},
        {"{" LLAMA ", \"hidden_size\": 16, \"hidden_act\": \"mish\"}", "mish"},
        {"{" LLAMA ", \"hidden_size\": 16, \"rope_scaling\": {\"type\": \"linear\"}}",
         "rope_scaling"},
        {"{" LLAMA ", \"hidden_size\": 16, \"num_key_value_heads\": 3}", "n_kv_heads"},
        {SIZES("llama") ", \"rope_scaling\": {\"rope_type\": \"dynamic\"}}", "dynamic"},
        {SIZES("llama") ", \"rope_scaling\": {\"rope_type\": \"yarn\"}}", "factor is missing"},
        {SIZES("llama") ", \"rope_scaling\": {\"rope_type\": \"yarn\", \"factor\": 4, "
                        "\"original_max_position_embeddings\": 0.5}}",
         "original_max_position_embeddings"},
        {SIZES("llama") ", \"rope_scaling\": {\"rope_type\": \"yarn\", \"factor\": 4, "
                        "\"beta_fast\": 1, \"beta_slow\": 2}}",
         "rope_beta_slow"},
        {SIZES("llama") ", \"rope_scaling\": {\"rope_type\": \"yarn\", \"factor\": 4, "
                        "\"attention_factor\": -1}}",
         "attention_factor"},
        {SIZES("llama") ", \"rope_scaling\": {\"rope_type\": \"yarn\", \"factor\": 4, "
                        "\"truncate\": false}}",
         "truncate"},
        {SIZES("phi3") ", \"rope_scaling\": {\"type\": \"longrope\"}}",
         "original_max_position_embeddings"},
        {SIZES("llama") ", \"rope_scaling\": {\"factor\": 2}}", "rope_type"},
        {SIZES("llama") ", \"rope_scaling\": 4}", "rope_scaling"},
        {SIZES("llama") ", \"rope_scaling\": {\"type\": \"linear\", \"factor\": -2}}", "factor"},
        {SIZES("llama") ", \"rope_scaling\": {\"rope_type\": \"llama3\", \"factor\": 2, "
                        "\"low_freq_factor\": 4, \"high_freq_factor\": 1, "
                        "\"original_max_position_embeddings\": 8}}",
         "low_freq_factor"},
        {SIZES("llama") ", \"rope_scaling\": {\"rope_type\": \"llama3\", \"factor\": 2, "
                        "\"low_freq_factor\": 1, \"high_freq_factor\": 4}}",
         "original_max_position_embeddings"},
        {SIZES("llama") ", \"rope_theta\": 0}", "rope_base"},
        {SIZES("stablelm") ", \"partial_rotary_factor\": 1.5}", "partial_rotary_factor"},
        {SIZES("gpt_neox") ", \"rotary_pct\": 0.4}", "rotary_pct"},
        {SIZES("stablelm") ", \"qk_layernorm\": true}", "qk_layernorm"},
        {SIZES("gemma3_text") ", \"rope_parameters\": {\"full_attention\": {\"rope_type\": "
                              "\"default\"}, \"sliding_attention\": {\"rope_type\": "
                              "\"linear\", \"factor\": 2}}}",
         "sliding_attention"},
        {SIZES("mistral") ", \"sliding_window\": 0}", "sliding_window = 0"},
        {SIZES("mistral") ", \"sliding_window\": -4}", "sliding_window = -4"},
        {SIZES("mistral") ", \"sliding_window\": 1.5}", "sliding_window"},
        {SIZES("gemma3_text") ", \"sliding_window_pattern\": 0}", "sliding_window_pattern"},
        {SIZES("gemma2") ", \"layer_types\": [\"full_attention\"]}", "layer_types"},
        {SIZES("gemma2") ", \"layer_types\": [1, 2, 3, 4, 5, 6]}", "layer_types"},
        {SIZES("gemma2") ", \"layer_types\": [\"sliding_attention\", \"full_attention\", "
                         "\"full_attention\", \"full_attention\", \"full_attention\", "
                         "\"full_attention\"]}",
         "layer 2"},
        {SIZES("qwen2") ", \"sliding_window\": 9, \"use_sliding_window\": true, "
                        "\"max_window_layers\": 3}",
         "max_window_layers"},
        {SIZES("mixtral") ", \"num_local_experts\": 2, \"num_experts_per_tok\": 3}",
         "n_experts_used = 3"},
        {SIZES("mixtral") ", \"num_local_experts\": 0}", "n_experts"},
        {SIZES("mixtral") ", \"num_local_experts\": 4096}", "n_experts = 4096"},
        {SIZES("gemma2") ", \"query_pre_attn_scalar\": -1}", "query_pre_attn_scalar"},
        {SIZES("gemma2") ", \"final_logit_softcapping\": -1}", "logit_softcap"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        pl_config config;
        pl_status status = describe(&config, cases[i].text);
        if (status == PL_OK || !strstr(err.message, cases[i].words)) {
            fail_msg("%s: %s, '%s'", cases[i].text, pl_status_name(status), err.message);
        }
    }
}

static void test_damaged_files(void **state) {
    (void)state;
    const char *text = "{" LLAMA ", \"hidden_size\": 16, \"rope_scaling\": null}";
    feed_damaged(LLVMFuzzerTestOneInput, (const uint8_t *)text, strlen(text));
    text = SIZES("gemma3_text") ", \"sliding_window\": 9, \"query_pre_attn_scalar\": 4, "
                                "\"rope_parameters\": {\"full_attention\": {\"rope_type\": "
                                "\"linear\", \"factor\": 8}}, \"layer_types\": []}";
    feed_damaged(LLVMFuzzerTestOneInput, (const uint8_t *)text, strlen(text));
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_sizes_are_read),
        cmocka_unit_test(test_rotations_are_read),
        cmocka_unit_test(test_models_of_pictures_are_named),
        cmocka_unit_test(test_windows_and_caps_are_read),
        cmocka_unit_test(test_rotations_for_long_contexts),
        cmocka_unit_test(test_fields_that_lie_are_named),
        cmocka_unit_test(test_damaged_files),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
