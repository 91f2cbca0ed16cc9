/* Tokenizers in the metadata of GGUF files as other programs write them. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>

#include "../../engine/text/builder.h"
#include "tokenizer_fixture.h"

/* A vocabulary as a file has it: pieces, and in GGUF's numbers whether they are normal (1), unknown
 * (2), control (3), user-defined (4) or bytes (6). */
typedef struct vocabulary {
    const char *pieces[16];
    int32_t types[16];
    float scores[16];
    int32_t n;
} vocabulary;

static pl_bytes text(const char *s) {
    return (pl_bytes){s, strlen(s)};
}

static void put_vocabulary(fixture_metadata *to, const char *model, const vocabulary *v) {
    pl_tokenizer_visitor put = fixture_visitor(to);
    pl_bytes pieces[16];
    for (int32_t i = 0; i < v->n; i++) pieces[i] = text(v->pieces[i]);
    put.text(to, "tokenizer.ggml.model", text(model), NULL);
    put.texts(to, "tokenizer.ggml.tokens", pieces, (size_t)v->n, NULL);
    put.i32s(to, "tokenizer.ggml.token_type", v->types, (size_t)v->n, NULL);
    if (strcmp(model, "llama") == 0)
        put.f32s(to, "tokenizer.ggml.scores", v->scores, (size_t)v->n, NULL);
}

static pl_tokenizer *read(fixture_metadata *metadata) {
    pl_tokenizer_metadata source = fixture_source(metadata);
    pl_tokenizer *tok = NULL;
    pl_error err = {0};
    if (pl_tokenizer_from_metadata(&tok, &source, "x.gguf", &err) != PL_OK)
        fail_msg("%s", err.message);
    return tok;
}

static void expect(const pl_tokenizer *tok, const char *s, size_t n, const int32_t *want) {
    pl_ids ids = {0};
    pl_error err = {0};
    if (pl_tokenizer_encode(tok, s, strlen(s), NULL, &ids, &err) != PL_OK)
        fail_msg("%s: %s", s, err.message);
    bool same = ids.n == n;
    for (size_t i = 0; same && i < n; i++) same = ids.data[i] == want[i];
    if (!same) fail_msg("'%s': %zu ids, or others: %d ...", s, ids.n, ids.n ? ids.data[0] : -1);
    pl_ids_clear(&ids);
}

/* -- byte-level ------------------------------------------------------------------------------ */

/* "ab" is a piece that no merge makes: where merges are ignored for whole words it is one token.
 * A file that does not say whether a text begins with bos leaves that to the pre-tokenizer. */
static void test_what_goes_with_a_pre_tokenizer(void **state) {
    (void)state;
    static const vocabulary v = {{"<s>", "a", "b", "ab"}, {3, 1, 1, 1}, {0}, 4};
    static const struct {
        const char *name;
        bool bos, whole;
    } cases[] = {{"llama-bpe", true, true}, {"falcon3", true, true},     {"tekken", true, true},
                 {"dbrx", false, false},    {"smaug-bpe", false, false}, {"qwen2", false, false},
                 {"gpt-2", false, false},   {"stablelm2", false, false}, {"olmo", false, false},
                 {"mpt", false, false},     {"gpt-4o", false, false}};
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        fixture_metadata metadata = {0};
        pl_tokenizer_visitor put = fixture_visitor(&metadata);
        put_vocabulary(&metadata, "gpt2", &v);
        put.text(&metadata, "tokenizer.ggml.pre", text(cases[i].name), NULL);
        put.texts(&metadata, "tokenizer.ggml.merges", NULL, 0, NULL);
        put.u32(&metadata, "tokenizer.ggml.bos_token_id", 0, NULL);
        pl_tokenizer *tok = read(&metadata);
        int32_t want[3] = {0};
        size_t n = cases[i].bos;
        want[n++] = cases[i].whole ? 3 : 1;
        if (!cases[i].whole) want[n++] = 2;
        expect(tok, "ab", n, want);
        pl_tokenizer_free(tok);
        fixture_clear(&metadata);
    }
}

/* -- SentencePiece --------------------------------------------------------------------------- */

static pl_tokenizer *read_spm(const vocabulary *v, bool prefix, const char *arch) {
    fixture_metadata metadata = {0};
    pl_tokenizer_visitor put = fixture_visitor(&metadata);
    put_vocabulary(&metadata, "llama", v);
    put.boolean(&metadata, "tokenizer.ggml.add_space_prefix", prefix, NULL);
    put.boolean(&metadata, "tokenizer.ggml.add_bos_token", false, NULL);
    put.text(&metadata, "general.architecture", text(arch), NULL);
    pl_tokenizer *tok = read(&metadata);
    fixture_clear(&metadata);
    return tok;
}

static void expect_decoded(const pl_tokenizer *tok, size_t n, const int32_t *ids, const char *s) {
    pl_buffer out = {0};
    assert_int_equal(pl_tokenizer_decode(tok, ids, n, NULL, &out, NULL), PL_OK);
    if (out.size != strlen(s) || memcmp(out.data, s, out.size) != 0)
        fail_msg("'%.*s': expected '%s'", (int)out.size, (const char *)out.data, s);
    pl_buffer_clear(&out);
}

/* Gemma has tokens for runs of spaces and lines, which converters since 2024 spell with spaces
 * where those before left bars. */
static void test_runs_of_spaces(void **state) {
    (void)state;
    vocabulary v = {{"<unk>", "<s>", "</s>", "\xE2\x96\x81", "a", "b", "  ", "   ", "\n\n",
                     "\xE2\x96\x81"
                     "b"},
                    {2, 3, 3, 1, 1, 1, 4, 4, 4, 1},
                    {0, 0, 0, -1, -2, -3, -1000, -1000, -1000, -4},
                    10};
    for (int bars = 0; bars < 2; bars++) {
        if (bars) {
            v.pieces[6] = "\xE2\x96\x81\xE2\x96\x81";
            v.pieces[7] = "\xE2\x96\x81\xE2\x96\x81\xE2\x96\x81";
        }
        pl_tokenizer *tok = read_spm(&v, false, "gemma2");
        expect(tok, "a  b", 3, (int32_t[]){4, 6, 5});
        expect(tok, "a b", 2, (int32_t[]){4, 9});
        expect(tok, "    a\n\nb", 5, (int32_t[]){7, 3, 4, 8, 5}); /* the longest first */
        expect_decoded(tok, 5, (int32_t[]){7, 3, 4, 8, 5}, "    a\n\nb");
        pl_tokenizer_free(tok);
    }
}

/* Llama's kind puts a space before a text, and again after each token that was cut out of it. */
static void test_tokens_that_were_added(void **state) {
    (void)state;
    static const vocabulary v = {{"<unk>", "<s>", "</s>", "\xE2\x96\x81", "x", "y", "<|start|>",
                                  "<|endoftext|>", "\n", "<|end|>"},
                                 {2, 3, 3, 1, 1, 1, 4, 3, 1, 3},
                                 {0, 0, 0, -1, -2, -3, -1000, -1000, 0, -1000},
                                 10};
    pl_tokenizer *tok = read_spm(&v, true, "llama");
    expect(tok, "x<|start|>y", 5, (int32_t[]){3, 4, 6, 3, 5});
    expect(tok, "<|end|>\ny", 4, (int32_t[]){9, 3, 8, 5});
    assert_false(pl_tokenizer_strips_after(tok, 9));
    pl_tokenizer_free(tok);
    tok = read_spm(&v, true, "phi3"); /* whose tokens take the line's end along */
    expect(tok, "<|end|>\n y<|start|>  x", 6, (int32_t[]){9, 3, 5, 6, 3, 4});
    expect(tok, "<|endoftext|>\ny", 4, (int32_t[]){7, 3, 8, 5});
    expect(tok, "<s> y", 4, (int32_t[]){1, 3, 3, 5});
    assert_true(pl_tokenizer_strips_after(tok, 9));
    assert_false(pl_tokenizer_strips_after(tok, 7));
    assert_false(pl_tokenizer_strips_after(tok, 4));
    pl_tokenizer_free(tok);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_what_goes_with_a_pre_tokenizer),
        cmocka_unit_test(test_runs_of_spaces),
        cmocka_unit_test(test_tokens_that_were_added),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
