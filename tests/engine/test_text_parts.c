/* The parts under the tokenizers: UTF-8, normal forms, expressions, tables, and the two ways to
 * merge against the plain one. */
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
#include "../../engine/text/regex.h"
#include "../../engine/text/tables.h"
#include "../../engine/text/unicode.h"
#include "../../engine/text/utf8.h"

static void test_utf8_round_trips_and_is_strict(void **state) {
    (void)state;
    for (uint32_t cp = 0; cp < 0x110000; cp++) {
        char s[4];
        uint32_t back = 0;
        if (cp >= 0xD800 && cp <= 0xDFFF) continue;
        size_t n = pl_utf8_encode(cp, s);
        assert_int_equal(pl_utf8_decode(s, n, &back), n);
        assert_int_equal(back, cp);
        for (size_t k = 1; k < n; k++) {
            assert_int_equal(pl_utf8_decode(s, k, &back), 0);
            assert_true(pl_utf8_is_beginning(s, k));
        }
    }
    uint32_t cp;
    assert_int_equal(pl_utf8_decode("\xED\xA0\x80", 3, &cp), 0); /* a surrogate */
    assert_int_equal(pl_utf8_decode("\xC0\x80", 2, &cp), 0);     /* overlong */
    assert_int_equal(pl_utf8_decode("\xF4\x90\x80\x80", 4, &cp), 0);
    assert_false(pl_utf8_is_beginning("\xED\xA0", 2));
    assert_int_equal(pl_utf8_valid("abcdefgh\xC3\xA9x\xFFy", 13), 11);
}

static void test_alphabet_of_bytes(void **state) {
    (void)state;
    for (unsigned byte = 0; byte < 256; byte++)
        assert_int_equal(pl_char_to_byte(pl_byte_to_char((uint8_t)byte)), byte);
    assert_int_equal(pl_byte_to_char(' '), 0x120);
    assert_int_equal(pl_byte_to_char('\n'), 0x10A);
    assert_int_equal(pl_char_to_byte(' '), -1);
}

static void expect(bool (*form)(const char *, size_t, pl_buffer *), const char *in,
                   const char *want) {
    pl_buffer out = {0};
    assert_true(form(in, strlen(in), &out));
    assert_int_equal(out.size, strlen(want));
    assert_memory_equal(out.data, want, out.size);
    pl_buffer_clear(&out);
}

static void test_normal_forms(void **state) {
    (void)state;
    expect(pl_unicode_nfd, "\u00e9\u1ed7", "e\u0301o\u0302\u0303");
    expect(pl_unicode_nfc, "e\u0301o\u0302\u0303", "\u00e9\u1ed7");
    expect(pl_unicode_nfd, "\uac01", "\u1100\u1161\u11a8");
    expect(pl_unicode_nfc, "\u1100\u1161\u11a8", "\uac01");
    expect(pl_unicode_nfd, "a\u0301\u0323", "a\u0323\u0301"); /* by class */
    expect(pl_unicode_nfc, "a\u0301\u0323", "\u1ea1\u0301");
    expect(pl_unicode_nfc, "\u212b\u0958", "\u00c5\u0915\u093c"); /* synonym; excluded */
    expect(pl_unicode_nfc, "\xFFz\xCC", "\xFFz\xCC");
    expect(pl_unicode_lowercase, "A\u00c9\u0414\u0130\u1E9E", "a\u00e9\u0434i\u0307\u00df");
}

/* Matches joined by '|'. */
static void expect_matches(const char *pattern, const char *text, const char *want) {
    pl_regex *regex = NULL;
    pl_error err = {0};
    if (pl_regex_new(&regex, pattern, strlen(pattern), false, &err) != PL_OK)
        fail_msg("%s", err.message);
    pl_regex_stack *stack = pl_regex_stack_new();
    pl_regex_scan scan;
    pl_buffer out = {0};
    size_t begin = 0, end = 0, size = strlen(text);
    assert_int_equal(pl_regex_scan_init(&scan, regex, stack, size, NULL), PL_OK);
    for (;;) {
        assert_int_equal(pl_regex_scan_next(&scan, text, &begin, &end, NULL), PL_OK);
        if (begin == size) break;
        assert_true(pl_buffer_append(&out, text + begin, end - begin));
        assert_true(pl_buffer_append(&out, "|", 1));
    }
    assert_true(pl_buffer_append(&out, "", 1));
    assert_string_equal((char *)out.data, want);
    pl_buffer_clear(&out);
    pl_regex_scan_clear(&scan);
    pl_regex_stack_free(stack);
    pl_regex_free(regex);
}

static void test_expressions(void **state) {
    (void)state;
    expect_matches(pl_gpt2_pattern, "I'll go  2day!\n", "I|'ll| go| | 2|day|!|\n|");
    expect_matches(pl_gpt2_pattern,
                   "a\xFF"
                   "b c\xE2",
                   "a|b| c|"); /* broken bytes match nothing */
    expect_matches("\\s+", "a\u00a0\u3000b\u180e", "\u00a0\u3000|");
    expect_matches("x*", "axxb", "xx|"); /* never an empty match */
    pl_regex *regex = NULL;
    pl_error err;
    assert_int_equal(pl_regex_new(&regex, "a[", 2, false, &err), PL_ERR_FORMAT);
    assert_int_equal(pl_regex_new(&regex, "a[", 2, true, &err), PL_OK);
    pl_regex_free(regex);
}

static void test_runaway_expression_is_an_error(void **state) {
    (void)state;
    static const char pattern[] = "(?:(?:a|b|ab)*)*c";
    char text[64];
    memset(text, 'a', sizeof text);
    for (size_t i = 1; i < sizeof text; i += 2) text[i] = 'b';
    pl_regex *regex = NULL;
    assert_int_equal(pl_regex_new(&regex, pattern, sizeof pattern - 1, false, NULL), PL_OK);
    pl_regex_stack *stack = pl_regex_stack_new();
    pl_regex_scan scan;
    size_t begin, end;
    pl_error err;
    assert_int_equal(pl_regex_scan_init(&scan, regex, stack, sizeof text, NULL), PL_OK);
    pl_status status = pl_regex_scan_next(&scan, text, &begin, &end, &err);
    if (status != PL_OK) assert_int_equal(status, PL_ERR_FORMAT);
    pl_regex_scan_clear(&scan);
    pl_regex_stack_free(stack);
    pl_regex_free(regex);
}

static void test_tables_find_what_was_put(void **state) {
    (void)state;
    pl_trie trie = {0};
    pl_bytes items[2000];
    char names[2000][8];
    for (int i = 0; i < 2000; i++) {
        snprintf(names[i], sizeof names[i], "%x", i * 7);
        items[i] = (pl_bytes){names[i], strlen(names[i])};
        assert_true(pl_trie_put(&trie, items[i].data, items[i].size, i));
    }
    pl_strings strings;
    assert_true(pl_strings_init(&strings, items, 2000, true));
    for (int i = 0; i < 2000; i++) {
        assert_int_equal(pl_strings_find(&strings, items[i].data, items[i].size), i);
        uint32_t node = 0;
        for (size_t k = 0; k < items[i].size; k++)
            node = pl_trie_step(&trie, node, (uint8_t)items[i].data[k]);
        assert_int_equal(trie.values[node], i);
    }
    assert_int_equal(pl_strings_find(&strings, "nothing", 7), -1);
    assert_int_equal(pl_strings_find(&strings, "", 0), -1);
    pl_strings_clear(&strings);
    pl_trie_clear(&trie);
}

/* ---- Merging ---- */

enum { N_LETTERS = 4, N_MERGES = 60 };

typedef struct vocabulary {
    char text[N_LETTERS + N_MERGES][64];
    pl_bytes pieces[N_LETTERS + N_MERGES];
    pl_merge_pair merges[N_MERGES];
    int pairs[N_MERGES][2];
    size_t n, n_merges;
} vocabulary;

/* Random merges over four letters. */
static void grow(vocabulary *v, uint64_t seed) {
    pl_random random = {.seed = seed};
    v->n = v->n_merges = 0;
    for (; v->n < N_LETTERS; v->n++) {
        snprintf(v->text[v->n], 64, "%c", (char)('a' + (int)v->n));
        v->pieces[v->n] = (pl_bytes){v->text[v->n], 1};
    }
    for (int tries = 0; tries < 400 && v->n_merges < N_MERGES; tries++) {
        int l = (int)(pl_random_u32(&random) % v->n), r = (int)(pl_random_u32(&random) % v->n);
        size_t size = v->pieces[l].size + v->pieces[r].size;
        if (size > 12) continue;
        char *text = v->text[v->n];
        memcpy(text, v->pieces[l].data, v->pieces[l].size);
        memcpy(text + v->pieces[l].size, v->pieces[r].data, v->pieces[r].size);
        bool known = false;
        for (size_t i = 0; i < v->n; i++)
            known = known || (v->pieces[i].size == size && !memcmp(v->pieces[i].data, text, size));
        if (known) continue;
        v->pieces[v->n++] = (pl_bytes){text, size};
        v->merges[v->n_merges] = (pl_merge_pair){v->pieces[l], v->pieces[r]};
        v->pairs[v->n_merges][0] = l;
        v->pairs[v->n_merges++][1] = r;
    }
}

/* As the method is defined: the most urgent merge anywhere, leftmost first, until there is none. */
static size_t merge_plainly(const vocabulary *v, const char *text, size_t n, int32_t *ids) {
    for (size_t i = 0; i < n; i++) ids[i] = text[i] - 'a';
    for (;;) {
        size_t best = SIZE_MAX, at = 0;
        for (size_t i = 0; i + 1 < n; i++)
            for (size_t m = 0; m < v->n_merges && m < best; m++)
                if (v->pairs[m][0] == ids[i] && v->pairs[m][1] == ids[i + 1]) best = m, at = i;
        if (best == SIZE_MAX) return n;
        ids[at] = (int32_t)(N_LETTERS + best);
        memmove(ids + at + 1, ids + at + 2, (n - at - 2) * sizeof *ids);
        n--;
    }
}

static void test_merging_short_and_long_words(void **state) {
    (void)state;
    for (uint64_t seed = 0; seed < 20; seed++) {
        vocabulary v;
        grow(&v, seed);
        pl_tokenizer_spec spec = pl_tokenizer_spec_default();
        float scores[N_LETTERS + N_MERGES];
        for (size_t i = 0; i < v.n; i++) scores[i] = -(float)i;
        spec.n_tokens = v.n;
        spec.pieces = v.pieces;
        spec.merges = v.merges;
        spec.n_merges = v.n_merges;
        spec.scores = scores;
        pl_random random = {.seed = seed, .stream = 1};
        for (int round = 0; round < 40; round++) {
            char text[200];
            int32_t want[200];
            size_t n = 1 + pl_random_u32(&random) % (round % 2 ? 12 : 199);
            for (size_t i = 0; i < n; i++)
                text[i] = (char)('a' + (int)(pl_random_u32(&random) % 4));
            size_t n_want = merge_plainly(&v, text, n, want);
            for (int kind = 0; kind < 2; kind++) {
                pl_tokenizer *tok = NULL;
                pl_ids ids = {0};
                spec.kind = kind ? PL_TOKENIZER_BPE_CHARS : PL_TOKENIZER_BPE_BYTES;
                assert_int_equal(pl_tokenizer_new(&tok, &spec, NULL), PL_OK);
                assert_int_equal(pl_tokenizer_encode(tok, text, n, NULL, &ids, NULL), PL_OK);
                assert_int_equal(ids.n, n_want);
                assert_memory_equal(ids.data, want, n_want * sizeof *want);
                pl_ids_clear(&ids);
                pl_tokenizer_free(tok);
            }
        }
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_utf8_round_trips_and_is_strict),
        cmocka_unit_test(test_alphabet_of_bytes),
        cmocka_unit_test(test_normal_forms),
        cmocka_unit_test(test_expressions),
        cmocka_unit_test(test_runaway_expression_is_an_error),
        cmocka_unit_test(test_tables_find_what_was_put),
        cmocka_unit_test(test_merging_short_and_long_words),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
