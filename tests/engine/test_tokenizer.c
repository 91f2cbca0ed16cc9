/* Tokenizers built from small files made here: loading, encoding, decoding, errors. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>

#include "../../engine/base/random.h"
#include "../../engine/text/builder.h"
#include "tokenizer_fixture.h"

static pl_tokenizer *from_json(const char *json) {
    pl_tokenizer *tok = NULL;
    pl_error err = {0};
    if (pl_tokenizer_from_json(&tok, json, strlen(json), "small.json", &err) != PL_OK)
        fail_msg("%s", err.message);
    return tok;
}

static pl_tokenizer *from_spm(int type) {
    unsigned char model[16384];
    size_t n = fixture_spm_model(type, model);
    pl_tokenizer *tok = NULL;
    pl_error err = {0};
    if (pl_tokenizer_from_spm(&tok, model, n, "small.model", &err) != PL_OK)
        fail_msg("%s", err.message);
    return tok;
}

static pl_ids encode(const pl_tokenizer *tok, const char *text, size_t n, bool add, bool parse) {
    pl_ids ids = {0};
    pl_error err = {0};
    pl_encode_options options = {add, parse};
    if (pl_tokenizer_encode(tok, text, n, &options, &ids, &err) != PL_OK)
        fail_msg("%s", err.message);
    return ids;
}

static void expect_ids(const pl_tokenizer *tok, const char *text, bool add, bool parse, size_t n,
                       const int32_t *want) {
    pl_ids ids = encode(tok, text, strlen(text), add, parse);
    assert_int_equal(ids.n, n);
    if (n) assert_memory_equal(ids.data, want, n * sizeof *want);
    pl_ids_clear(&ids);
}

static void expect_text(const pl_tokenizer *tok, const int32_t *ids, size_t n,
                        const pl_decode_options *options, const char *want) {
    pl_buffer text = {0};
    assert_int_equal(pl_tokenizer_decode(tok, ids, n, options, &text, NULL), PL_OK);
    assert_int_equal(text.size, strlen(want));
    if (text.size) assert_memory_equal(text.data, want, text.size);
    pl_buffer_clear(&text);
}

static void test_byte_level_merges_and_special(void **state) {
    (void)state;
    pl_tokenizer *tok = from_json(fixture_byte_level_json());
    expect_ids(tok, "hello hello", false, true, 2, (int32_t[]){259, 260});
    expect_ids(tok, "hello", true, true, 2, (int32_t[]){259, 261});
    expect_ids(tok, "", true, true, 1, (int32_t[]){261});
    expect_ids(tok, "he<|end|>he", false, true, 3, (int32_t[]){256, 261, 256});
    pl_ids plain = encode(tok, "<|end|>", 7, false, false);
    assert_int_equal(plain.n, 7);
    pl_ids_clear(&plain);
    expect_ids(tok, "he<tag>he", false, false, 3, (int32_t[]){256, 262, 256});
    expect_text(tok, (int32_t[]){259, 261, 260}, 3, NULL, "hello hello");
    pl_decode_options all = {0};
    expect_text(tok, (int32_t[]){259, 261, 260}, 3, &all, "hello<|end|> hello");
    assert_int_equal(pl_tokenizer_attr(tok, 261), PL_TOKEN_CONTROL);
    assert_int_equal(pl_tokenizer_attr(tok, 262), PL_TOKEN_USER_DEFINED);
    assert_int_equal(pl_tokenizer_attr(tok, 9999), PL_TOKEN_UNUSED);
    assert_int_equal(pl_tokenizer_find_piece(tok, "\xC4\xA0hello", 7), 260);
    pl_bytes bytes = pl_tokenizer_token_bytes(tok, 260);
    assert_int_equal(bytes.size, 6);
    assert_memory_equal(bytes.data, " hello", 6);
    pl_tokenizer_free(tok);
}

static void test_single_token(void **state) {
    (void)state;
    pl_tokenizer *tok = from_json(fixture_byte_level_json());
    int32_t id = -1;
    pl_error err;
    assert_int_equal(pl_tokenizer_single(tok, " hello", 6, &id, &err), PL_OK);
    assert_int_equal(id, 260);
    assert_int_equal(pl_tokenizer_single(tok, "hello he", 8, &id, &err), PL_ERR_ARGUMENT);
    assert_non_null(strstr(err.message, "3 tokens"));
    pl_tokenizer_free(tok);
}

/* Any bytes, valid or not, survive encode and decode. */
static void test_byte_level_round_trips_any_bytes(void **state) {
    (void)state;
    pl_tokenizer *tok = from_json(fixture_byte_level_json());
    pl_random random = {.seed = 3};
    for (int round = 0; round < 300; round++) {
        char text[600];
        size_t n = pl_random_u32(&random) % sizeof text;
        for (size_t i = 0; i < n; i++) {
            uint32_t r = pl_random_u32(&random);
            text[i] = (char)(round % 2 ? r : (uint32_t) "hello \xC3\xA9\xE2\x82"[r % 10]);
        }
        pl_ids ids = encode(tok, text, n, false, false);
        pl_buffer back = {0};
        assert_int_equal(pl_tokenizer_decode(tok, ids.data, ids.n, NULL, &back, NULL), PL_OK);
        assert_int_equal(back.size, n);
        if (n) assert_memory_equal(back.data, text, n);
        pl_buffer_clear(&back);
        pl_ids_clear(&ids);
    }
    pl_tokenizer_free(tok);
}

static void test_stream_never_splits_a_character(void **state) {
    (void)state;
    pl_tokenizer *tok = from_json(fixture_byte_level_json());
    static const char text[] = "h\xC3\xA9\xF0\x9F\xA6\x99\xE2\x82 \xE2";
    pl_ids ids = encode(tok, text, sizeof text - 1, false, false);
    pl_decoder decoder;
    pl_decoder_init(&decoder, tok, NULL);
    pl_buffer out = {0};
    static const size_t sizes[] = {1, 1, 3, 3, 3, 3, 7, 7, 7, 10, 10};
    for (size_t i = 0; i < ids.n; i++) {
        assert_int_equal(pl_decoder_put(&decoder, ids.data[i], &out, NULL), PL_OK);
        assert_int_equal(out.size, sizes[i]);
    }
    assert_int_equal(pl_decoder_flush(&decoder, &out, NULL), PL_OK);
    assert_int_equal(out.size, sizeof text - 1);
    assert_memory_equal(out.data, text, out.size);
    pl_decode_options replace = {.skip_special = true, .replace_invalid = true};
    expect_text(tok, ids.data, ids.n, &replace,
                "h\xC3\xA9\xF0\x9F\xA6\x99\xEF\xBF\xBD \xEF\xBF\xBD");
    assert_int_equal(pl_decoder_put(&decoder, 5000, &out, NULL), PL_ERR_ARGUMENT);
    assert_int_equal(pl_decoder_put(&decoder, -1, &out, NULL), PL_ERR_ARGUMENT);
    assert_int_equal(out.size, sizeof text - 1);
    pl_buffer_clear(&out);
    pl_ids_clear(&ids);
    pl_tokenizer_free(tok);
}

static void test_sentencepiece_bpe(void **state) {
    (void)state;
    pl_tokenizer *tok = from_spm(2);
    /* ▁ 259, a 260, b 261, c 262, ab 263, ▁ab 264, abc 265, ▁c 266, XYZ 267 */
    expect_ids(tok, "ab c", true, true, 3, (int32_t[]){1, 264, 266});
    expect_ids(tok, "cabc", false, true, 2, (int32_t[]){266, 265});
    expect_ids(tok, "a\n", false, true, 3, (int32_t[]){259, 260, 13});
    expect_ids(tok, "aXYZb", false, true, 4, (int32_t[]){259, 260, 267, 261});
    expect_ids(tok, "\xC3\xA9", false, true, 3, (int32_t[]){259, 0xC3 + 3, 0xA9 + 3});
    expect_text(tok, (int32_t[]){1, 264, 266}, 3, NULL, "ab c");
    expect_text(tok, (int32_t[]){264, 0xC3 + 3, 0xA9 + 3}, 3, NULL, "ab\xC3\xA9");
    pl_decode_options middle = {.skip_special = true, .keep_leading = true};
    expect_text(tok, (int32_t[]){264}, 1, &middle, " ab");
    assert_int_equal(pl_tokenizer_attr(tok, 3), PL_TOKEN_BYTE);
    size_t n;
    assert_int_equal(pl_tokenizer_prefix(tok, &n)[0], 1);
    assert_int_equal(n, 1);
    pl_tokenizer_free(tok);
}

static void test_sentencepiece_unigram(void **state) {
    (void)state;
    pl_tokenizer *tok = from_spm(1);
    expect_ids(tok, "ab", true, true, 2, (int32_t[]){264, 2});
    expect_ids(tok, "abc", false, true, 2, (int32_t[]){264, 262});
    expect_ids(tok, "XYZ", false, true, 2, (int32_t[]){259, 267});
    expect_ids(tok, "\xFF", false, true, 2, (int32_t[]){259, 0xFF + 3});
    pl_tokenizer_free(tok);
}

static void test_a_megabyte_without_a_space_is_quick(void **state) {
    (void)state;
    size_t n = 1 << 20;
    char *text = malloc(n);
    assert_non_null(text);
    memset(text, 'l', n);
    pl_tokenizer *tok = from_json(fixture_byte_level_json());
    pl_ids ids = encode(tok, text, n, false, false);
    assert_int_equal(ids.n, n / 2);
    pl_ids_clear(&ids);
    pl_tokenizer_free(tok);
    memset(text, 'a', n);
    for (int type = 1; type <= 2; type++) {
        tok = from_spm(type);
        ids = encode(tok, text, n, false, false);
        assert_int_equal(ids.n, n + 1);
        pl_ids_clear(&ids);
        pl_tokenizer_free(tok);
    }
    free(text);
}

static pl_status count_steps(void *context, const pl_merge_step *step, pl_error *err) {
    (void)err;
    size_t *counts = context;
    counts[step->word]++;
    if (step->step == 0) assert_int_equal(step->merged, step->n);
    if (step->step > 0) assert_true(step->merged < step->n);
    return PL_OK;
}

static pl_status stop_at_once(void *context, const pl_merge_step *step, pl_error *err) {
    (void)context, (void)step;
    if (err) err->status = PL_ERR_CALLBACK;
    return PL_ERR_CALLBACK;
}

static void test_explain_tells_each_merge(void **state) {
    (void)state;
    pl_tokenizer *tok = from_json(fixture_byte_level_json());
    size_t counts[4] = {0};
    assert_int_equal(pl_tokenizer_explain(tok, "hello hello<|end|>", 18, count_steps, counts, NULL),
                     PL_OK);
    assert_int_equal(counts[0], 5); /* the letters, he, ll, llo, hello */
    assert_int_equal(counts[1], 6); /* and the space */
    assert_int_equal(counts[2], 1);
    assert_int_equal(pl_tokenizer_explain(tok, "hello", 5, stop_at_once, NULL, NULL),
                     PL_ERR_CALLBACK);
    pl_tokenizer_free(tok);
}

static void expect_error(const char *json, pl_status status, const char *part) {
    pl_tokenizer *tok = NULL;
    pl_error err = {0};
    assert_int_equal(pl_tokenizer_from_json(&tok, json, strlen(json), "bad.json", &err), status);
    assert_null(tok);
    if (!strstr(err.message, part)) fail_msg("\"%s\" does not say \"%s\"", err.message, part);
    if (!strstr(err.message, "bad.json")) fail_msg("\"%s\" does not name the file", err.message);
}

static void test_errors_name_the_culprit(void **state) {
    (void)state;
    expect_error("{", PL_ERR_FORMAT, "line 1");
    expect_error("[]", PL_ERR_FORMAT, "object");
    expect_error("{\"model\": {}}", PL_ERR_FORMAT, "vocab");
    expect_error("{\"model\": {\"type\": \"BPE\", \"vocab\": {\"a\": 0, \"b\": 0}}}", PL_ERR_FORMAT,
                 "both have id 0");
    expect_error("{\"model\": {\"type\": \"BPE\", \"vocab\": {\"a\": 2000000000}}}", PL_ERR_FORMAT,
                 "2000000000");
    expect_error("{\"model\": {\"type\": \"BPE\", \"vocab\": {\"a\": -1}}}", PL_ERR_FORMAT,
                 "vocab");
    expect_error("{\"model\": {\"type\": \"BPE\", \"vocab\": {\"a\": 0}, \"merges\": [\"a b\"]}}",
                 PL_ERR_FORMAT, "merges[0], \"a b\": the right piece");
    expect_error("{\"model\": {\"type\": \"BPE\", \"vocab\": {\"a\": 0}, \"merges\": [\"aa\"]}}",
                 PL_ERR_FORMAT, "merges[0]");
    expect_error("{\"model\": {\"type\": \"Other\", \"vocab\": {\"a\": 0}}}", PL_ERR_UNSUPPORTED,
                 "Other");
    expect_error("{\"normalizer\": {\"type\": \"Nmt\"}, \"model\": {\"vocab\": {\"a\": 0}}}",
                 PL_ERR_UNSUPPORTED, "normalizer: \"Nmt\"");
    expect_error("{\"decoder\": {\"type\": \"CTC\"}, \"model\": {\"vocab\": {\"a\": 0}}}",
                 PL_ERR_UNSUPPORTED, "decoder: \"CTC\"");
    expect_error("{\"pre_tokenizer\": {\"type\": \"Split\", \"pattern\": {\"Regex\": \"(a\"}}, "
                 "\"model\": {\"vocab\": {\"a\": 0}}}",
                 PL_ERR_FORMAT, "\"(a\" does not compile");
    expect_error("{\"added_tokens\": [{\"id\": 0, \"content\": \"b\"}], "
                 "\"model\": {\"vocab\": {\"a\": 0}}}",
                 PL_ERR_FORMAT, "added_tokens[0]");
    expect_error("{\"model\": {\"type\": \"Unigram\", \"vocab\": [[\"a\"]]}}", PL_ERR_FORMAT,
                 "vocab[0]");
}

static void test_unknown_character_is_an_error_or_unknown(void **state) {
    (void)state;
    pl_tokenizer *tok = from_json("{\"model\": {\"type\": \"BPE\", \"vocab\": {\"a\": 0}, "
                                  "\"merges\": []}}");
    pl_ids ids = {0};
    pl_error err;
    assert_true(pl_ids_append(&ids, 7));
    assert_int_equal(pl_tokenizer_encode(tok, "a\xC3\xA9", 3, NULL, &ids, &err), PL_ERR_ARGUMENT);
    assert_non_null(strstr(err.message, "U+00E9"));
    assert_int_equal(ids.n, 1);
    pl_ids_clear(&ids);
    pl_tokenizer_free(tok);
    tok = from_json("{\"model\": {\"type\": \"BPE\", \"unk_token\": \"?\", \"fuse_unk\": true, "
                    "\"vocab\": {\"a\": 0, \"?\": 1}, \"merges\": []}}");
    expect_ids(tok, "axya", false, true, 3, (int32_t[]){0, 1, 0});
    pl_tokenizer_free(tok);
}

/* Every beginning and many one-bit changes of valid files: an error or a working tokenizer. */
static void try_both(bool json, const char *data, size_t size) {
    pl_tokenizer *tok = NULL;
    pl_status status = json ? pl_tokenizer_from_json(&tok, data, size, "flipped", NULL)
                            : pl_tokenizer_from_spm(&tok, data, size, "flipped", NULL);
    assert_true((status == PL_OK) == (tok != NULL));
    if (!tok) return;
    pl_ids ids = {0};
    pl_buffer text = {0};
    if (pl_tokenizer_encode(tok, "hello abc <|end|>", 17, NULL, &ids, NULL) == PL_OK)
        assert_int_equal(pl_tokenizer_decode(tok, ids.data, ids.n, NULL, &text, NULL), PL_OK);
    pl_buffer_clear(&text);
    pl_ids_clear(&ids);
    pl_tokenizer_free(tok);
}

static void test_broken_files_never_crash(void **state) {
    (void)state;
    unsigned char model[16384];
    size_t n_model = fixture_spm_model(2, model);
    char json[16384];
    size_t n_json = strlen(fixture_byte_level_json());
    memcpy(json, fixture_byte_level_json(), n_json);
    pl_random random = {.seed = 5};
    for (int i = 0; i < 600; i++) {
        bool is_json = i % 2 == 0;
        char *data = is_json ? json : (char *)model;
        size_t n = is_json ? n_json : n_model, at = pl_random_u32(&random) % n;
        try_both(is_json, data, at);
        char bit = (char)(1 << pl_random_u32(&random) % 8);
        data[at] = (char)(data[at] ^ bit);
        try_both(is_json, data, n);
        data[at] = (char)(data[at] ^ bit);
    }
}

static void test_folder_with_vocab_and_configuration(void **state) {
    (void)state;
    static const char vocab[] = "{\"a\": 0, \"b\": 1, \"ab\": 2, \"<s>\": 3, \"<e>\": 4}";
    static const char config[] = "{\"bos_token\": \"<s>\", \"eos_token\": {\"content\": \"<e>\"}, "
                                 "\"add_bos_token\": true, \"chat_template\": \"{{ x }}\"}";
    fixture_write("vocab.json", vocab, sizeof vocab - 1);
    fixture_write("merges.txt", "#version: 0.2\na b\n", 18);
    fixture_write("tokenizer_config.json", config, sizeof config - 1);
    pl_tokenizer *tok = NULL;
    pl_error err = {0};
    pl_status status = pl_tokenizer_load(&tok, fixture_folder(), &err);
    if (status != PL_OK) fail_msg("%s", err.message);
    expect_ids(tok, "abba", true, true, 4, (int32_t[]){3, 2, 1, 0});
    assert_true(pl_tokenizer_is_end(tok, 4));
    assert_int_equal(pl_tokenizer_chat_template(tok).size, 7);
    pl_tokenizer_free(tok);
    fixture_remove();
    assert_int_equal(pl_tokenizer_load(&tok, fixture_folder(), &err), PL_ERR_IO);
    assert_non_null(strstr(err.message, "tokenizer.json"));
    fixture_remove();
    assert_int_equal(pl_tokenizer_load(&tok, "/nonexistent/x", &err), PL_ERR_IO);
}

static void test_export_and_metadata(void **state) {
    (void)state;
    pl_tokenizer *tok = from_json(fixture_byte_level_json()), *again = NULL;
    fixture_metadata metadata = {0};
    pl_tokenizer_visitor visitor = fixture_visitor(&metadata);
    assert_int_equal(pl_tokenizer_export(tok, &visitor, NULL), PL_OK);
    assert_null(fixture_find(&metadata, "tokenizer.ggml.bos_token_id", 'i'));
    assert_memory_equal(fixture_find(&metadata, "tokenizer.ggml.pre", 't')->texts[0].data, "gpt-2",
                        5);
    assert_int_equal(fixture_find(&metadata, "tokenizer.ggml.merges", 'T')->n, 5);
    pl_tokenizer_metadata source = fixture_source(&metadata);
    assert_int_equal(pl_tokenizer_from_metadata(&again, &source, "x.gguf", NULL), PL_OK);
    expect_ids(again, "hello<tag> hello<|end|>", true, true, 5,
               (int32_t[]){259, 262, 260, 261, 261});
    pl_tokenizer_free(again);
    pl_error err;
    pl_bytes *pre = fixture_find(&metadata, "tokenizer.ggml.pre", 't')->texts;
    pre->size = 2;
    for (size_t i = 0; i < metadata.n; i++) /* else tokenizer.json would be read */
        if (!strcmp(metadata.entries[i].key, "tokenizer.huggingface.json"))
            metadata.entries[i].key[0] = 'x';
    assert_int_equal(pl_tokenizer_from_metadata(&again, &source, "x.gguf", &err),
                     PL_ERR_UNSUPPORTED);
    assert_non_null(strstr(err.message, "\"gp\""));
    fixture_clear(&metadata);
    assert_int_equal(pl_tokenizer_from_metadata(&again, &source, "x.gguf", &err), PL_ERR_FORMAT);
    pl_tokenizer_free(tok);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_byte_level_merges_and_special),
        cmocka_unit_test(test_single_token),
        cmocka_unit_test(test_byte_level_round_trips_any_bytes),
        cmocka_unit_test(test_stream_never_splits_a_character),
        cmocka_unit_test(test_sentencepiece_bpe),
        cmocka_unit_test(test_sentencepiece_unigram),
        cmocka_unit_test(test_a_megabyte_without_a_space_is_quick),
        cmocka_unit_test(test_explain_tells_each_merge),
        cmocka_unit_test(test_errors_name_the_culprit),
        cmocka_unit_test(test_unknown_character_is_an_error_or_unknown),
        cmocka_unit_test(test_broken_files_never_crash),
        cmocka_unit_test(test_folder_with_vocab_and_configuration),
        cmocka_unit_test(test_export_and_metadata),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
