/* config.json of Hugging Face's repositories, well-formed and not. */
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
    status = pl_describe_hf(config, &family, json, &err);
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
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_sizes_are_read),
        cmocka_unit_test(test_fields_that_lie_are_named),
        cmocka_unit_test(test_damaged_files),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
