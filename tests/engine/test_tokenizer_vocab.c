/* vocab.json and merges.txt as GPT-1 has them. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>

#include "../../engine/text/builder.h"
#include "format_fixture.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static pl_error err;

/* Worked out by hand: "low" is l, o, w</w>; "o w</w>" comes first, then "l ow</w>". In "lower" the
 * w ends no word, so "l o" and then "lo w" merge, and "e r</w>". */
static const char vocab[] =
    "{\"l\": 1, \"o\": 2, \"w\": 3, \"e\": 4, \"w</w>\": 5, \"r</w>\": 6, \"ow</w>\": 7,"
    "\"low</w>\": 8, \"lo\": 9, \"low\": 10, \"er</w>\": 11, \"<unk>\": 0, \"!</w>\": 12,"
    "\"e</w>\": 13, \"o</w>\": 14, \"l</w>\": 15, \"!\": 16}";
static const char merges[] = "#version: 0.2\no w</w>\nl ow</w>\nl o\nlo w\ne r</w>\n";

static pl_tokenizer *load(const char *names[2], const char *beside, const char *settings,
                          pl_status expected) {
    char *folder = make_folder();
    pl_tokenizer *tok = NULL;
    write_bytes(in_folder(folder, names[0]), vocab, sizeof vocab - 1);
    write_bytes(in_folder(folder, names[1]), merges, sizeof merges - 1);
    if (beside) write_bytes(in_folder(folder, beside), settings, strlen(settings));
    pl_status status = pl_tokenizer_load(&tok, folder, &err);
    remove_folder(folder);
    if (status != expected) fail_msg("status %d: %s", (int)status, err.message);
    return tok;
}

static void expect(const pl_tokenizer *tok, const char *text, size_t n, const int32_t *ids) {
    pl_ids got = {0};
    if (pl_tokenizer_encode(tok, text, strlen(text), NULL, &got, &err) != PL_OK)
        fail_msg("%s", err.message);
    if (got.n != n) fail_msg("%s: %zu ids, expected %zu", text, got.n, n);
    for (size_t i = 0; i < n; i++)
        if (got.data[i] != ids[i])
            fail_msg("%s: id %zu is %d, expected %d", text, i, (int)got.data[i], (int)ids[i]);
    pl_ids_clear(&got);
}

static void expect_text(const pl_tokenizer *tok, size_t n, const int32_t *ids, const char *text) {
    pl_buffer out = {0};
    assert_int_equal(pl_tokenizer_decode(tok, ids, n, NULL, &out, &err), PL_OK);
    assert_int_equal(out.size, strlen(text));
    assert_memory_equal(out.data, text, out.size);
    pl_buffer_clear(&out);
}

static void check_small(pl_tokenizer *tok) {
    expect(tok, "low", 1, (int32_t[]){8});
    expect(tok, "LOW\n l\xC3\xB3w", 2, (int32_t[]){8, 8});
    expect(tok, "lower low", 3, (int32_t[]){10, 11, 8});
    expect(tok, "l o!!", 4, (int32_t[]){15, 14, 12, 12});
    expect(tok, "we", 2, (int32_t[]){3, 13});
    expect(tok, "lox ox l", 5, (int32_t[]){9, 0, 2, 0, 15}); /* x is unknown, also at the end */
    expect(tok, "xx r", 3, (int32_t[]){0, 0, 6});
    expect_text(tok, 4, (int32_t[]){10, 11, 8, 12}, "lower low ! ");
    assert_int_equal(pl_tokenizer_special_ids(tok).unk, 0);
    pl_tokenizer_free(tok);
}

static void test_files_and_settings(void **state) {
    (void)state;
    const char *original[] = {"encoder_bpe_40000.json", "vocab_40000.bpe"};
    const char *usual[] = {"vocab.json", "merges.txt"};
    check_small(load(original, NULL, NULL, PL_OK));
    check_small(load(usual, "config.json", "{\"model_type\": \"openai-gpt\"}", PL_OK));
    check_small(load(usual, "tokenizer_config.json",
                     "{\"tokenizer_class\": \"OpenAIGPTTokenizer\"}", PL_OK));
    check_small(load(usual, "tokenizer_config.json",
                     "{\"tokenizer_class\": \"OpenAIGPTTokenizerFast\", \"unk_token\": "
                     "{\"content\": \"<unk>\"}}",
                     PL_OK));
    load(original, "tokenizer_config.json", "{\"unk_token\": \"[UNK]\"}", PL_ERR_FORMAT);
    assert_non_null(strstr(err.message, "the unknown token, [UNK], is not in it"));
    pl_tokenizer *tok = load(usual, NULL, NULL, PL_OK);
    assert_int_equal(pl_tokenizer_get_kind(tok), PL_TOKENIZER_BPE_BYTES);
    pl_tokenizer_free(tok);
}

/* Ids that the published rules give, worked out by a plain program over the original files. */
static void test_published_vocabulary(void **state) {
    (void)state;
    static const struct {
        const char *text;
        size_t n;
        int32_t ids[24];
    } cases[] = {
        {"Hello, World!", 4, {3570, 240, 1276, 267}},
        {"The quick brown fox jumps over the lazy dog.",
         10,
         {481, 2279, 2507, 8573, 11670, 715, 481, 8447, 2585, 239}},
        {"Don't you\n\tCARE?", 6, {2310, 256, 241, 512, 1533, 257}},
        {"Caf\xC3\xA9 na\xC3\xAFve \xC3\x85ngstr\xC3\xB6m", 4, {10717, 13391, 869, 12367}},
        {"antidisestablishmentarianism", 7, {2693, 15876, 4916, 10832, 1448, 40441, 37590}},
        {"\xE4\xB8\xAD\xE6\x96\x87 x", 3, {0, 0, 272}},
        {"3.14159 (pi)", 8, {281, 239, 15582, 14792, 291, 276, 19813, 275}},
        {"supercalifragilisticexpialidociousandevenlongerthanfortyeightbytes",
         22,
         {3599, 5139, 8419, 1553, 572,  659, 973,  960,  569,  814,  1020,
          1086, 2780, 1414, 2273, 1794, 696, 1805, 1022, 1895, 5329, 1383}},
        {"\xC2\xABok\xC2\xBB ~ $5", 6, {302, 773, 301, 283, 289, 284}},
    };
    const char *path = reference_path("tokenizers/gpt1");
    pl_tokenizer *tok = NULL;
    if (!path) {
        print_message("needs ../shared/data/tokenizers/gpt1\n");
        skip();
    }
    if (pl_tokenizer_load(&tok, path, &err) != PL_OK) fail_msg("%s", err.message);
    assert_int_equal(pl_tokenizer_n_tokens(tok), 40478);
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++)
        expect(tok, cases[i].text, cases[i].n, cases[i].ids);
    expect_text(tok, 4, cases[0].ids, "hello , world ! ");
    pl_tokenizer_free(tok);
}

static void test_suffix_in_tokenizer_json(void **state) {
    (void)state;
    static const char format[] =
        "{\"pre_tokenizer\": {\"type\": \"%s\"}, \"decoder\": {\"type\": \"BPEDecoder\", "
        "\"suffix\": \"@\"}, \"model\": {\"type\": \"BPE\", \"unk_token\": \"?\", %s"
        "\"end_of_word_suffix\": \"%s\", \"vocab\": {\"?\": 0, \"a\": 1, \"b@\": 2, \"ab@\": 3, "
        "\"a@\": 4}, \"merges\": [\"a b@\"]}}";
    static const struct {
        const char *pre, *more, *suffix, *fault;
    } cases[] = {
        {"WhitespaceSplit", "", "@", NULL},
        {"ByteLevel", "", "@", "the pre-tokenizer makes bytes of words"},
        {"WhitespaceSplit", "\"byte_fallback\": true, ", "@", "unknown characters become bytes"},
        {"WhitespaceSplit", "", "123456789012345678901234567890123", "33 bytes, at most 32"},
        {"WhitespaceSplit", "\"continuing_subword_prefix\": \"#\", ", "@", "is not supported"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        char json[512];
        pl_tokenizer *tok = NULL;
        int n = snprintf(json, sizeof json, format, cases[i].pre, cases[i].more, cases[i].suffix);
        pl_status status = pl_tokenizer_from_json(&tok, json, (size_t)n, "x.json", &err);
        assert_int_equal(status == PL_OK, cases[i].fault == NULL);
        if (cases[i].fault) {
            if (!strstr(err.message, cases[i].fault)) fail_msg("%s", err.message);
            continue;
        }
        expect(tok, "ab aab a", 4, (int32_t[]){3, 1, 3, 4});
        expect_text(tok, 4, (int32_t[]){3, 1, 3, 4}, "ab aab a ");
        pl_tokenizer_free(tok);
    }
}

static void test_damaged_files(void **state) {
    (void)state;
    pl_tokenizer *tok = NULL;
    assert_int_equal(pl_tokenizer_from_vocab(&tok, pl_vocab_gpt1, vocab, sizeof vocab - 1,
                                             "a \xFF\n", 4, "x", &err),
                     PL_ERR_FORMAT);
    assert_string_equal(err.message, "x: merges, byte 2: no UTF-8");
    assert_int_equal(pl_tokenizer_from_vocab(&tok, pl_vocab_gpt1, vocab, sizeof vocab - 1, "q l\n",
                                             4, "x", &err),
                     PL_ERR_FORMAT);
    assert_non_null(strstr(err.message, "the left piece is not in the vocabulary"));
    assert_int_equal(pl_tokenizer_from_vocab(&tok, pl_vocab_gpt1, "[]", 2, "", 0, "x", &err),
                     PL_ERR_FORMAT);
    assert_int_equal(
        pl_tokenizer_from_vocab(&tok, pl_vocab_gpt1, "{\"<unk>\": \"a\"}", 14, "", 0, "x", &err),
        PL_ERR_FORMAT);
    char bytes[sizeof vocab + sizeof merges];
    memcpy(bytes, vocab, sizeof vocab); /* with its zero */
    memcpy(bytes + sizeof vocab, merges, sizeof merges);
    feed_damaged(LLVMFuzzerTestOneInput, (const uint8_t *)bytes, sizeof bytes);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_files_and_settings),
        cmocka_unit_test(test_published_vocabulary),
        cmocka_unit_test(test_suffix_in_tokenizer_json),
        cmocka_unit_test(test_damaged_files),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
