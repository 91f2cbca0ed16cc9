/* Grammars: what they accept, what they refuse to be, and masks against one token at a time. */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>

#include "../../engine/base/random.h"
#include "../../engine/sample/grammar_sampler.h"
#include "tokenizer_fixture.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static pl_grammar *parse(const char *text) {
    pl_grammar *grammar = NULL;
    pl_error err;
    if (pl_grammar_parse(&grammar, text, strlen(text), "g", &err) != PL_OK)
        fail_msg("%s\n%s", text, err.message);
    return grammar;
}

/* 'y': a whole text; 'b': only the beginning of one; 'n': neither. */
static char judge(pl_grammar *grammar, const char *text) {
    pl_grammar_state *state = NULL;
    pl_error err;
    assert_int_equal(pl_grammar_state_new(&state, grammar, NULL, &err), PL_OK);
    pl_status status = pl_grammar_state_accept_bytes(state, text, strlen(text), &err);
    char verdict = status != PL_OK ? 'n' : pl_grammar_state_may_end(state) ? 'y' : 'b';
    if (status != PL_OK) assert_int_equal(status, PL_ERR_ARGUMENT);
    pl_grammar_state_free(state);
    return verdict;
}

static void test_texts_and_their_beginnings(void **state) {
    (void)state;
    static const struct {
        const char *grammar, *texts[14]; /* each text after its verdict */
    } cases[] = {
        {"root ::= \"yes\" | \"no\"", {"yyes", "yno", "bye", "b", "nyesx", "nx"}},
        {"root ::= [a-c]+ [^a-c\\n]", {"bab", "yabd", "ya\xC3\xA9", "ba\xC3", "na\n", "nd"}},
        {"root ::= \"a\"{2,4}", {"ba", "yaa", "yaaa", "yaaaa", "naaaaa"}},
        {"root ::= \"a\"{3}", {"baa", "yaaa", "naaaa"}},
        {"root ::= \"a\"{2,}", {"ba", "yaa", "yaaaaaaaaaaaaaaaaa", "nab"}},
        {"root ::= (\"a\"? \"b\"?){0,3} \"c\"", {"yc", "yababac", "bababab", "nabababab"}},
        {"root ::= (\"a\"? \"b\"?){2,3} \"c\"", {"yc", "yaac", "yaaac", "naaaa"}},
        {"root ::= (\"a\"*)* \"b\"", {"yb", "yaab", "baa"}},
        {"root ::= (\"a\"*){3,} \"b\"", {"yb", "yaaaaab", "baa"}},
        {"root ::= (\"ab\" | \"a\"){2} \"b\"{0,0}", {"yaba", "yaa", "yabab", "nabb", "ba"}},
        {"root ::= \"[\" root? \"]\"", {"y[]", "y[[]]", "b[[]", "n[]]"}},
        {"root ::= (\"(\" root \")\")*", {"y", "y()(())", "b(()", "n)"}},
        {"root ::= item | item \",\" root\nitem ::= [0-9]", {"y1", "y1,2", "b1,", "n12"}},
        {"root ::= . \"\\x41\\u00e9\\U0001F600\"", {"yzA\xC3\xA9\xF0\x9F\x98\x80", "n\xFF", "b\n"}},
        {"root ::= [\\u0800-\\U0010FFFF]",
         {"n\xED\xA0\x80", "y\xED\x9F\xBF", "y\xF4\x8F\xBF\xBF", "n\xF4\x90", "y\xE0\xA0\x80",
          "n\xE0\x9F"}},
        {"root ::= [-+] [a\\-z] [\\]^-]", {"y-a]", "y+-^", "y-z-", "n-b"}},
        {"# none\nroot ::= # here\n  a | # there\n  b\na ::= (\"x\"\n \"y\")\nb::=\"z\"#",
         {"yxy", "yz", "bx"}},
        {"root ::= \"\" | \"a\"", {"y", "ya"}},
        {"root ::= a{2,3}{2}\na ::= \"x\"", {"bxxx", "yxxxx", "yxxxxxx", "nxxxxxxx"}},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        pl_grammar *grammar = parse(cases[i].grammar);
        for (const char *const *text = cases[i].texts; *text; text++)
            if (judge(grammar, *text + 1) != **text)
                fail_msg("%s: '%s' is %c", cases[i].grammar, *text, judge(grammar, *text + 1));
        pl_grammar_unref(grammar);
    }
}

static void test_errors_name_line_and_column(void **state) {
    (void)state;
    static const struct {
        const char *grammar, *message;
    } cases[] = {
        {"", "1:1: there is no rule called 'root'"},
        {"root ::= \"a\n\"", "1:10: this literal has no closing"},
        {"root ::= [a", "1:10: this class has no closing"},
        {"root ::= \"\\q\"", "no such escape"},
        {"root ::= \"\\", "no such escape"},
        {"root ::= \"\\xZ1\"", "hexadecimal"},
        {"root ::= \"\\uD800\"", "no character"},
        {"root ::= \"a\" )", "1:14: expected a literal"},
        {"root ::= (\"a\"", "expected )"},
        {"root ::= \"a\"\nb ::= \xC3\xA9 c", "2:7: expected a literal"},
        {"root ::= itm\nitem ::= \"a\"", "1:10: rule 'itm' is not defined; did you mean 'item'"},
        {"root ::= \"a\"\nroot ::= \"b\"", "2:1: rule 'root' is defined twice"},
        {"root = \"a\"", "1:6: expected ::="},
        {"root ::= \"a\"{3,2}", "never"},
        {"root ::= \"a\"{x}", "1:14: expected a number of times"},
        {"root ::= \"a\"{99999}", "more than 65535"},
        {"root ::= [z-a]", "is empty"},
        {"root ::= []", "without any character"},
        {"root ::= [^\\U00000000-\\U0010FFFF]", "without any character"},
        {"root ::= \"a\" root", "no text can end rule 'root'"},
        {"root ::= \"a\" | b\nb ::= \"x\" b", "2:1: no text can end rule 'b'"},
        {"root ::= root \"a\" | \"b\"", "begins with itself (root > root)"},
        {"root ::= \"x\" a\na ::= b? a2\na2 ::= a \"y\" | \"z\"\nb ::= \"q\"",
         "begins with itself"},
        {"root ::= (\"\" root)*", "begins with itself"},
        {"root ::= \"\xFF\"", "not UTF-8"},
        {"root ::= \"a\"*****", "repetitions of repetitions"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        pl_grammar *grammar = NULL;
        pl_error err = {PL_OK, ""};
        pl_status status =
            pl_grammar_parse(&grammar, cases[i].grammar, strlen(cases[i].grammar), "g", &err);
        if (status != PL_ERR_FORMAT || !strstr(err.message, cases[i].message))
            fail_msg("%s: %d '%s'", cases[i].grammar, status, err.message);
    }
}

static void test_what_nests_too_deep_is_refused(void **state) {
    (void)state;
    char text[2000] = "root ::= ";
    for (int i = 0; i < 300; i++) strcat(text, "(");
    strcat(text, "\"a\"");
    for (int i = 0; i < 300; i++) strcat(text, ")");
    pl_grammar *grammar = NULL;
    pl_error err;
    assert_int_equal(pl_grammar_parse(&grammar, text, strlen(text), "g", &err), PL_ERR_FORMAT);
    assert_non_null(strstr(err.message, "nested deeper"));
}

/* Every rule may begin in two ways with the next: 2^n stacks. */
static void test_an_explosion_of_stacks_is_an_error(void **state) {
    (void)state;
    char text[4000] = "root ::= r0\n";
    for (int i = 0; i < 30; i++)
        snprintf(text + strlen(text), sizeof text - strlen(text), "r%d ::= r%d \"x\" | r%d \"y\"\n",
                 i, i + 1, i + 1);
    strcat(text, "r30 ::= \"z\"\n");
    pl_grammar *grammar = parse(text);
    pl_grammar_state *s = NULL;
    pl_error err;
    assert_int_equal(pl_grammar_state_new(&s, grammar, NULL, &err), PL_ERR_UNSUPPORTED);
    assert_non_null(strstr(err.message, "ambiguous"));
    pl_grammar_unref(grammar);
}

/* Each letter may begin a round: the ways to part the text into rounds must not be counted. */
static void test_ambiguous_rounds_stay_few(void **state) {
    (void)state;
    pl_grammar *grammar = parse("root ::= ([a-z]+ [a-m]*){0,60000} \"!\" ([a-z]+){3,5}");
    pl_grammar_state *s = NULL;
    pl_error err;
    assert_int_equal(pl_grammar_state_new(&s, grammar, NULL, &err), PL_OK);
    for (int i = 0; i < 50000; i++)
        assert_int_equal(pl_grammar_state_accept_bytes(s, i % 3 ? "a" : "z", 1, &err), PL_OK);
    assert_int_equal(pl_grammar_state_accept_bytes(s, "!ab", 3, &err), PL_OK);
    assert_false(pl_grammar_state_may_end(s));
    assert_int_equal(pl_grammar_state_accept_bytes(s, "cdefgh", 6, &err), PL_OK);
    assert_true(pl_grammar_state_may_end(s));
    pl_grammar_state_free(s);
    pl_grammar_unref(grammar);
}

/* -- masks --------------------------------------------------------------------------------- */

static pl_tokenizer *load_tokenizer(void) {
    pl_tokenizer *tok = NULL;
    pl_error err;
    const char *json = fixture_byte_level_json();
    static const char config[] = "{\"eos_token\": \"<|end|>\"}";
    fixture_write("tokenizer.json", json, strlen(json));
    fixture_write("tokenizer_config.json", config, sizeof config - 1);
    if (pl_tokenizer_load(&tok, fixture_folder(), &err) != PL_OK) fail_msg("%s", err.message);
    return tok;
}

static bool allowed(const uint64_t *mask, size_t id) {
    return mask[id / 64] >> (id % 64) & 1;
}

/* Tries every token on a copy and holds the mask to it; gives one that is allowed, or -1. */
static int32_t check_mask(pl_grammar_state *s, size_t n, pl_random *random) {
    const uint64_t *mask;
    pl_error err;
    int32_t chosen = -1;
    uint32_t n_allowed = 0;
    assert_int_equal(pl_grammar_state_mask(s, &mask, &err), PL_OK);
    for (size_t id = 0; id < n; id++) {
        pl_grammar_state *copy = NULL;
        assert_int_equal(pl_grammar_state_clone(&copy, s, &err), PL_OK);
        bool good = pl_grammar_state_accept(copy, (int32_t)id, &err) == PL_OK;
        pl_grammar_state_free(copy);
        if (good != allowed(mask, id)) fail_msg("token %zu: %d", id, good);
        if (good && pl_random_u32(random) % ++n_allowed == 0) chosen = (int32_t)id;
    }
    return chosen;
}

static pl_grammar_state *begin(pl_grammar *grammar, const pl_tokenizer *tok) {
    pl_token_trie *trie = NULL;
    pl_grammar_state *s = NULL;
    pl_error err;
    assert_int_equal(pl_token_trie_new(&trie, tok, &err), PL_OK);
    assert_int_equal(pl_grammar_state_new(&s, grammar, trie, &err), PL_OK);
    pl_token_trie_unref(trie);
    return s;
}

/* Goes on by random allowed tokens, whose bytes are appended. */
static void wander(pl_grammar_state *s, const pl_tokenizer *tok, uint64_t seed, int steps,
                   pl_buffer *text) {
    pl_error err;
    pl_random random = {seed, 0, 0};
    for (int step = 0; step < steps; step++) {
        int32_t chosen = check_mask(s, pl_tokenizer_n_tokens(tok), &random);
        if (chosen < 0) break;
        assert_int_equal(pl_grammar_state_accept(s, chosen, &err), PL_OK);
        if (pl_grammar_state_has_ended(s)) break;
        pl_bytes bytes = pl_tokenizer_token_bytes(tok, chosen);
        assert_true(pl_buffer_append(text, bytes.data, bytes.size));
    }
}

static void test_masks_are_what_single_tokens_say(void **state) {
    (void)state;
    static const char *const grammars[] = {
        "root ::= (\"hello\" \" \"? | \"he\"+ | [l-o]{1,3} \"!\")+",
        "root ::= [^h]{2,5} \"hello\" [\\u0080-\\uFFFF]{2}",
        "root ::= \"{\" (root (\",\" root)*)? \"}\"",
    };
    pl_tokenizer *tok = load_tokenizer();
    for (size_t i = 0; i < sizeof grammars / sizeof *grammars; i++)
        for (uint64_t seed = 0; seed < 3; seed++) {
            pl_grammar *grammar = parse(grammars[i]);
            pl_grammar_state *s = begin(grammar, tok);
            pl_buffer text = {0};
            wander(s, tok, seed, 40, &text);
            pl_grammar_state_free(s);
            assert_true(pl_buffer_append(&text, "", 1));
            assert_int_not_equal(judge(grammar, (char *)text.data), 'n');
            pl_buffer_clear(&text);
            pl_grammar_unref(grammar);
        }
    pl_tokenizer_free(tok);
    fixture_remove();
}

static void test_ends_are_allowed_where_the_grammar_may_end(void **state) {
    (void)state;
    pl_tokenizer *tok = load_tokenizer();
    pl_grammar *grammar = parse("root ::= \"hello\" \"he\"?");
    pl_token_trie *trie = NULL;
    pl_grammar_state *s = NULL;
    pl_error err;
    const uint64_t *mask;
    int32_t end = pl_tokenizer_special_ids(tok).eos;
    int32_t hello = pl_tokenizer_find_piece(tok, "hello", 5);
    assert_int_equal(pl_token_trie_new(&trie, tok, &err), PL_OK);
    assert_int_equal(pl_grammar_state_new(&s, grammar, trie, &err), PL_OK);
    assert_true(end >= 0);
    assert_int_equal(pl_grammar_state_accept(s, end, &err), PL_ERR_ARGUMENT);
    assert_int_equal(pl_grammar_state_accept(s, hello, &err), PL_OK);
    assert_int_equal(pl_grammar_state_mask(s, &mask, &err), PL_OK);
    assert_true(allowed(mask, (size_t)end));
    assert_true(pl_grammar_state_may_go_on(s));
    assert_int_equal(pl_grammar_state_accept(s, end, &err), PL_OK);
    assert_int_equal(pl_grammar_state_mask(s, &mask, &err), PL_OK);
    assert_false(allowed(mask, (size_t)end));
    assert_int_equal(pl_grammar_state_accept(s, hello, &err), PL_ERR_ARGUMENT);
    assert_int_equal(pl_grammar_state_accept(s, -1, &err), PL_ERR_ARGUMENT);
    assert_int_equal(pl_grammar_state_accept(s, 1 << 30, &err), PL_ERR_ARGUMENT);
    pl_grammar_state_free(s);
    pl_token_trie_unref(trie);
    pl_grammar_unref(grammar);
    pl_tokenizer_free(tok);
    fixture_remove();
}

static void test_a_prefix_comes_first(void **state) {
    (void)state;
    pl_tokenizer *tok = load_tokenizer();
    pl_grammar *grammar = parse("root ::= \"llo\" [a-z]{0,3} \"!\"");
    pl_error err;
    for (uint64_t seed = 0; seed < 6; seed++) {
        pl_grammar_state *s = begin(grammar, tok);
        pl_buffer text = {0};
        assert_int_equal(pl_grammar_state_set_prefix(s, "he", 2, seed % 2, &err), PL_OK);
        assert_false(pl_grammar_state_may_end(s));
        assert_true(pl_grammar_state_may_go_on(s));
        wander(s, tok, seed, 20, &text);
        assert_true(text.size >= 2 && memcmp(text.data, "he", 2) == 0);
        assert_int_equal(pl_grammar_state_n_prefix(s), 0);
        assert_int_equal(pl_grammar_state_is_free(s), seed % 2);
        if (seed % 2 == 0) assert_memory_equal(text.data, "hello", text.size < 5 ? text.size : 5);
        pl_buffer_clear(&text);
        pl_grammar_state_free(s);
    }
    pl_grammar_unref(grammar);
    pl_tokenizer_free(tok);
    fixture_remove();
}

/* A vocabulary of the model's that is longer than the tokenizer's; all candidates, then some. */
static void test_candidates_keep_what_is_allowed(void **state) {
    (void)state;
    pl_tokenizer *tok = load_tokenizer();
    pl_grammar *grammar = parse("root ::= [a-z]+");
    pl_grammar_state *s = begin(grammar, tok);
    size_t n_tokens = pl_tokenizer_n_tokens(tok), n = n_tokens + 100;
    float *logits = calloc(n, sizeof *logits);
    const uint64_t *mask;
    pl_candidates c;
    pl_error err;
    assert_int_equal(pl_candidates_init(&c, (int64_t)n, &err), PL_OK);
    assert_int_equal(pl_grammar_state_mask(s, &mask, &err), PL_OK);
    for (int some = 0; some < 2; some++) {
        for (size_t i = 0; i < n; i++) logits[i] = some && i % 3 == 0 ? -INFINITY : (float)i;
        assert_int_equal(pl_candidates_begin(&c, logits, (pl_random){0}, 0, &err), PL_OK);
        assert_int_equal(pl_grammar_state_apply(s, &c, &err), PL_OK);
        int64_t k = 0;
        for (size_t i = 0; i < n; i++) {
            bool keep = i < n_tokens && allowed(mask, i) && !(some && i % 3 == 0);
            if (keep) assert_int_equal(c.ids[k++], i);
            assert_true(keep ? logits[i] == (float)i : logits[i] == -INFINITY);
        }
        assert_int_equal(c.n, k);
    }
    int32_t digit = pl_tokenizer_find_piece(tok, "7", 1);
    for (size_t i = 0; i < n; i++) logits[i] = (int32_t)i == digit ? 1.0F : -INFINITY;
    assert_int_equal(pl_candidates_begin(&c, logits, (pl_random){0}, 0, &err), PL_OK);
    assert_int_equal(pl_grammar_state_apply(s, &c, &err), PL_ERR_ARGUMENT);
    assert_non_null(strstr(err.message, "none of the 1 tokens left"));
    pl_candidates_clear(&c);
    free(logits);
    pl_grammar_state_free(s);
    pl_grammar_unref(grammar);
    pl_tokenizer_free(tok);
    fixture_remove();
}

/* Long nested text makes ever new states: the cache is renewed, the place kept. */
static void test_a_full_cache_is_renewed(void **state) {
    (void)state;
    pl_grammar *grammar = parse("root ::= \"[\" root \"]\" | [a-z]{1,60000} | .");
    pl_grammar_state *s = NULL;
    pl_error err;
    enum { DEPTH = 400000 };
    assert_int_equal(pl_grammar_state_new(&s, grammar, NULL, &err), PL_OK);
    for (int i = 0; i < DEPTH; i++)
        assert_int_equal(pl_grammar_state_accept_bytes(s, "[", 1, &err), PL_OK);
    assert_int_equal(pl_grammar_state_accept_bytes(s, "ab", 2, &err), PL_OK);
    for (int i = 0; i < DEPTH; i++) {
        assert_false(pl_grammar_state_may_end(s));
        assert_int_equal(pl_grammar_state_accept_bytes(s, "]", 1, &err), PL_OK);
    }
    assert_true(pl_grammar_state_may_end(s));
    assert_false(pl_grammar_state_may_go_on(s));
    pl_grammar_state_free(s);
    pl_grammar_unref(grammar);
}

/* -- published grammars -------------------------------------------------------------------- */

static pl_grammar *open_reference(const char *name) {
    pl_map map;
    pl_error err;
    char path[256];
    snprintf(path, sizeof path, "grammars/%s", name);
    const char *file = fixture_path(path);
    if (!file) return NULL;
    if (pl_map_open(&map, file, &err) != PL_OK) fail_msg("%s", err.message);
    pl_grammar *grammar = NULL;
    pl_status status =
        pl_grammar_parse(&grammar, (const char *)map.data, map.size_bytes, name, &err);
    pl_map_close(&map);
    if (status != PL_OK) fail_msg("%s", err.message);
    return grammar;
}

static void test_published_grammars(void **state) {
    (void)state;
    static const struct {
        const char *file, *texts[8];
    } cases[] = {
        {"arithmetic.gbnf", {"yx+1=2\n", "y(a*b)=3 \n", "bx+", "n*"}},
        {"c.gbnf", {"yint main(){return 1;}", "bint f(int x){while(", "nmain"}},
        {"chess.gbnf", {"y1. e4 e5\n2. Nf3 Nc6\n", "b1. e4", "n2."}},
        {"english.gbnf", {"yHello, world [1]!", "n\xC3\xA9"}},
        {"japanese.gbnf", {"y\xE3\x81\x82\xE3\x82\xA2", "na"}},
        {"json.gbnf",
         {"y{\"a\": [1, 2.5e3, null], \"b\": {\"c\": \"x\\n\\u00e9\"}}", "b{\"a\": tru", "n[1]",
          "n{\"a\": 01}", "n{a", "n{\"\n"}},
        {"json_arr.gbnf", {"y[\n1,\n2]", "n{"}},
        {"list.gbnf", {"y- one\n- two\n", "b- one", "n- \xE2\x80\xA8", "nx"}},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        pl_grammar *grammar = open_reference(cases[i].file);
        if (!grammar) skip();
        for (const char *const *text = cases[i].texts; *text; text++)
            if (judge(grammar, *text + 1) != **text) {
                fail_msg("%s: '%s' is %c", cases[i].file, *text, judge(grammar, *text + 1));
            }
        pl_grammar_unref(grammar);
    }
}

static void test_masks_over_a_published_vocabulary(void **state) {
    (void)state;
    pl_tokenizer *tok = NULL;
    pl_error err;
    const char *path = fixture_path("tokenizers/gpt2");
    if (!path) skip();
    if (pl_tokenizer_load(&tok, path, &err) != PL_OK) fail_msg("%s", err.message);
    pl_grammar *grammar = open_reference("json.gbnf");
    pl_grammar_state *s = begin(grammar, tok);
    pl_buffer text = {0};
    wander(s, tok, 1, 12, &text);
    pl_grammar_state_free(s);
    assert_true(text.size > 0 && text.data[0] == '{');
    pl_buffer_clear(&text);
    pl_grammar_unref(grammar);
    pl_tokenizer_free(tok);
}

/* -- damaged grammars ---------------------------------------------------------------------- */

static void test_damaged_grammars_do_no_harm(void **state) {
    (void)state;
    static const char text[] = "root ::= (\"a\\x41\" b? | [^c-e\\n]{2,3})* # x\n"
                               "b ::= \"(\" root \")\" | . | [\\u00e9-\\uFFFF]+\n";
    char copy[sizeof text];
    for (size_t n = 0; n < sizeof text; n++) LLVMFuzzerTestOneInput((const uint8_t *)text, n);
    for (size_t i = 0; i < 8 * (sizeof text - 1); i++) {
        memcpy(copy, text, sizeof text);
        copy[i / 8] ^= (char)(1 << i % 8);
        LLVMFuzzerTestOneInput((const uint8_t *)copy, sizeof text - 1);
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_texts_and_their_beginnings),
        cmocka_unit_test(test_errors_name_line_and_column),
        cmocka_unit_test(test_what_nests_too_deep_is_refused),
        cmocka_unit_test(test_an_explosion_of_stacks_is_an_error),
        cmocka_unit_test(test_ambiguous_rounds_stay_few),
        cmocka_unit_test(test_masks_are_what_single_tokens_say),
        cmocka_unit_test(test_ends_are_allowed_where_the_grammar_may_end),
        cmocka_unit_test(test_a_prefix_comes_first),
        cmocka_unit_test(test_candidates_keep_what_is_allowed),
        cmocka_unit_test(test_a_full_cache_is_renewed),
        cmocka_unit_test(test_published_grammars),
        cmocka_unit_test(test_masks_over_a_published_vocabulary),
        cmocka_unit_test(test_damaged_grammars_do_no_harm),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
