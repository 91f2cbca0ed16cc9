/* Samplers that look into the vocabulary: infill, and the breakers of DRY. */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>

#include "sampler_reference.h"
#include "tokenizer_fixture.h"

typedef struct fixture {
    pl_tokenizer *tok;
    pl_candidates c;
    float *logits;
    ref r;
} fixture;

static int setup(void **state) {
    fixture *f = calloc(1, sizeof *f);
    *state = f;
    const char *json = fixture_byte_level_json();
    fixture_write("tokenizer.json", json, strlen(json));
    if (pl_tokenizer_load(&f->tok, fixture_folder(), NULL) != PL_OK) return 1;
    size_t n = pl_tokenizer_n_tokens(f->tok);
    f->logits = calloc(n, sizeof *f->logits);
    if (pl_candidates_init(&f->c, (int64_t)n, NULL) != PL_OK) return 1;
    f->c.tokenizer = f->tok;
    return 0;
}

static int teardown(void **state) {
    fixture *f = *state;
    pl_candidates_clear(&f->c);
    pl_tokenizer_free(f->tok);
    free(f->logits);
    free(f);
    fixture_remove();
    return 0;
}

static int32_t id_of(const fixture *f, const char *text) {
    int32_t id = -1;
    assert_int_equal(pl_tokenizer_single(f->tok, text, strlen(text), &id, NULL), PL_OK);
    return id;
}

/* The token that ends a text, if the file says which. */
static int32_t end_of(const fixture *f) {
    for (size_t id = 0; id < pl_tokenizer_n_tokens(f->tok); id++)
        if (pl_tokenizer_is_end(f->tok, (int32_t)id)) return (int32_t)id;
    return -1;
}

static void begin(fixture *f) {
    assert_int_equal(pl_candidates_begin(&f->c, f->logits, (pl_random){1, 1, 0}, 0, NULL), PL_OK);
}

static void set(fixture *f, const int32_t *ids, const double *p, int n) {
    for (int64_t i = 0; i < f->c.n_vocab; i++) f->logits[i] = -INFINITY;
    for (int i = 0; i < n; i++) f->logits[ids[i]] = (float)log(p[i]);
    begin(f);
}

static pl_status infill(fixture *f, pl_error *err) {
    pl_sampler sampler;
    assert_int_equal(pl_sampler_init(&sampler, "infill", NULL), PL_OK);
    return sampler.kind->apply(&sampler, &f->c, err);
}

static void assert_left(fixture *f, const int32_t *ids, const double *p, int n) {
    double sum = 0;
    assert_int_equal(f->c.n, n);
    for (int i = 0; i < n; i++) sum += exp(f->logits[ids[i]]);
    for (int i = 0; i < n; i++) assert_true(fabs(exp(f->logits[ids[i]]) / sum - p[i]) < 1e-5);
}

/* "he" begins "hello": the likelier of the two takes the other's probability, and so survives where
 * neither would have. */
static void test_infill_merges_beginnings(void **state) {
    fixture *f = *state;
    const int32_t he = id_of(f, "he"), hello = id_of(f, "hello"), x = id_of(f, "x"),
                  y = id_of(f, "y"), z = id_of(f, "z");
    set(f, (int32_t[]){he, hello, x, y, z}, (double[]){0.25, 0.3, 0.25, 0.15, 0.05}, 5);
    assert_int_equal(infill(f, NULL), PL_OK);
    /* 0.55 and 0.25 pass 0.2; normalised 0.6875 and 0.3125, of which the first passes 1 / 3. */
    assert_left(f, (int32_t[]){hello}, (double[]){1}, 1);
    set(f, (int32_t[]){he, hello, x, y}, (double[]){0.3, 0.15, 0.45, 0.1}, 4);
    assert_int_equal(infill(f, NULL), PL_OK);
    assert_left(f, (int32_t[]){he, x}, (double[]){0.5, 0.5}, 2);
}

static void test_infill_ends_when_that_is_likely(void **state) {
    fixture *f = *state;
    const int32_t end = end_of(f), x = id_of(f, "x"), y = id_of(f, "y"), z = id_of(f, "z");
    if (end < 0) skip();
    /* 3 * 0.2 * 3 > 0.8 */
    set(f, (int32_t[]){x, y, end}, (double[]){0.5, 0.3, 0.2}, 3);
    assert_int_equal(infill(f, NULL), PL_OK);
    assert_left(f, (int32_t[]){end}, (double[]){1}, 1);
    /* 3 * 0.02 * 3 < 0.98: the end stays, as unlikely as it is */
    set(f, (int32_t[]){x, y, end}, (double[]){0.58, 0.4, 0.02}, 3);
    assert_int_equal(infill(f, NULL), PL_OK);
    assert_left(f, (int32_t[]){x, y, end}, (double[]){0.58, 0.4, 0.02}, 3);
    /* nothing of the text is likely: it ends */
    const int32_t many[] = {x, y, z, id_of(f, "a"), id_of(f, "b"), id_of(f, "c")};
    set(f, many, (double[]){0.17, 0.17, 0.17, 0.17, 0.16, 0.16}, 6);
    assert_int_equal(infill(f, NULL), PL_OK);
    assert_left(f, (int32_t[]){end}, (double[]){1}, 1);
}

static void test_infill_says_what_it_needs(void **state) {
    fixture *f = *state;
    pl_error err;
    set(f, (int32_t[]){1, 2}, (double[]){0.5, 0.5}, 2);
    f->c.tokenizer = NULL;
    assert_int_equal(infill(f, &err), PL_ERR_STATE);
    assert_non_null(strstr(err.message, "a model with a tokenizer"));
    pl_candidates large;
    assert_int_equal(pl_candidates_init(&large, 2000, NULL), PL_OK);
    float *logits = calloc(2000, sizeof *logits);
    large.tokenizer = f->tok;
    assert_int_equal(pl_candidates_begin(&large, logits, (pl_random){0}, 0, NULL), PL_OK);
    pl_candidates keep = f->c;
    f->c = large;
    assert_int_equal(infill(f, &err), PL_ERR_ARGUMENT);
    assert_non_null(strstr(err.message, "put a top_k before it"));
    f->c = keep;
    pl_candidates_clear(&large);
    free(logits);
}

static bool holds(const pl_token_lists *lists, const int32_t *ids, size_t n) {
    for (size_t i = 0; i < lists->n; i++)
        if (lists->lists[i].n == n && memcmp(lists->lists[i].ids, ids, n * sizeof *ids) == 0)
            return true;
    return false;
}

/* Every way in which tokens can spell the breaker: inside of one, or over the edge of one. */
static void test_breakers_are_found_in_and_across_tokens(void **state) {
    fixture *f = *state;
    pl_token_lists lists = {0};
    const int32_t hello = id_of(f, "hello"), he = id_of(f, "he"), llo = id_of(f, "llo"),
                  e = id_of(f, "e"), x = id_of(f, "x");
    assert_int_equal(pl_token_lists_add_breaker(&lists, f->tok, "ello", 4, 8, NULL), PL_OK);
    assert_true(holds(&lists, &hello, 1));
    assert_true(holds(&lists, (int32_t[]){he, llo}, 2));
    assert_true(holds(&lists, (int32_t[]){e, llo}, 2));
    assert_false(holds(&lists, &x, 1));
    pl_token_lists_clear(&lists);
    pl_error err;
    assert_int_equal(pl_token_lists_add_breaker(&lists, f->tok, "", 0, 8, &err), PL_ERR_ARGUMENT);
    pl_sampler dry;
    assert_int_equal(pl_sampler_init(&dry, "dry", NULL), PL_OK);
    assert_int_equal(pl_sampler_complete(&dry, f->tok, f->c.n_vocab, NULL), PL_OK);
    const int32_t colon = id_of(f, ":");
    assert_true(holds(&dry.lists, &colon, 1));
    pl_sampler_clear(&dry);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(test_infill_merges_beginnings, setup, teardown),
        cmocka_unit_test_setup_teardown(test_infill_ends_when_that_is_likely, setup, teardown),
        cmocka_unit_test_setup_teardown(test_infill_says_what_it_needs, setup, teardown),
        cmocka_unit_test_setup_teardown(test_breakers_are_found_in_and_across_tokens, setup,
                                        teardown),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
