/* Samplers that look at the tokens so far or at given tokens, against plain float64. */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>

#include "sampler_reference.h"

enum { N = 24, LONGEST = 90, ROUNDS = 2000 };

typedef struct fixture {
    pl_candidates c;
    float logits[N];
    int32_t tokens[LONGEST];
    ref r;
    pl_random random;
} fixture;

static int setup(void **state) {
    fixture *f = calloc(1, sizeof *f);
    *state = f;
    f->random = (pl_random){9, 9, 0};
    return pl_candidates_init(&f->c, N, NULL) != PL_OK;
}

static int teardown(void **state) {
    fixture *f = *state;
    pl_candidates_clear(&f->c);
    free(f);
    return 0;
}

static int below(fixture *f, int n) {
    return (int)(pl_random_uniform_f64(&f->random) * n);
}

static double choice(fixture *f, const double *list, int n) {
    return list[below(f, n)];
}

/* A text of few different tokens, so that it repeats itself; some begin again on purpose. */
static void fill(fixture *f) {
    int n = below(f, LONGEST), kinds = 2 + below(f, N - 2), period = 1 + below(f, 20);
    for (int i = 0; i < n; i++)
        f->tokens[i] = i >= period && below(f, 8) ? f->tokens[i - period] : below(f, kinds);
    f->r = (ref){.n = N, .tokens = f->tokens, .n_tokens = n, .n_prompt = below(f, n + 1)};
    f->r.margin = INFINITY;
    for (int i = 0; i < N; i++) {
        f->logits[i] = below(f, 9) == 0 ? -INFINITY : 4 * pl_random_normal(&f->random);
        f->r.logit[i] = f->logits[i];
    }
    f->logits[0] = 1, f->r.logit[0] = 1;
    assert_int_equal(pl_candidates_begin(&f->c, f->logits, (pl_random){1, 1, 0}, 0, NULL), PL_OK);
    f->c.tokens = f->tokens;
    f->c.n_tokens = n;
    f->c.n_prompt = f->r.n_prompt;
}

static pl_sampler make(const char *name, const double *params) {
    pl_sampler sampler;
    assert_int_equal(pl_sampler_init(&sampler, name, NULL), PL_OK);
    for (int i = 0; params && i < sampler.kind->n_params; i++)
        assert_int_equal(pl_sampler_set(&sampler, sampler.kind->params[i].name, params[i], NULL),
                         PL_OK);
    return sampler;
}

/* Runs the sampler and compares; a reference that removed everything wants an error. */
static void judge(fixture *f, pl_sampler *sampler) {
    pl_error err;
    pl_status status = sampler->kind->apply(sampler, &f->c, &err);
    int64_t n = 0;
    for (int i = 0; i < N; i++) n += f->r.logit[i] > -INFINITY;
    if (n == 0) {
        assert_int_equal(status, PL_ERR_ARGUMENT);
        assert_non_null(strstr(err.message, "no token is left"));
        return;
    }
    assert_int_equal(status, PL_OK);
    assert_int_equal(f->c.n, n);
    for (int i = 0, next = 0; i < N; i++) {
        double want = f->r.logit[i], got = f->logits[i];
        assert_int_equal(want == -INFINITY, got == -INFINITY);
        if (got == -INFINITY) continue;
        assert_true(fabs(got - want) <= 1e-5 * fmax(1, fabs(want)));
        assert_int_equal(f->c.ids[next++], i);
    }
    for (int i = 0; i < N; i++) assert_int_equal(f->c.counts[i], 0);
}

static void test_penalties(void **state) {
    fixture *f = *state;
    const double last[] = {-1, 0, 1, 5, 64}, repeat[] = {1, 1.1, 2, 0.5}, flat[] = {0, 0.3, -1};
    for (int round = 0; round < ROUNDS; round++) {
        fill(f);
        double p[] = {choice(f, last, 5), choice(f, repeat, 4), choice(f, flat, 3),
                      choice(f, flat, 3)};
        ref_penalties(&f->r, (int)p[0], p[1], p[2], p[3]);
        pl_sampler sampler = make("penalties", p);
        judge(f, &sampler);
    }
}

static void add_lists(fixture *f, pl_sampler *sampler, int most) {
    for (int i = below(f, 4); i > 0; i--) {
        int32_t ids[4];
        int n = 1 + below(f, most);
        for (int t = 0; t < n; t++) ids[t] = below(f, N);
        double value = below(f, 5) ? pl_random_normal(&f->random) : -INFINITY;
        assert_int_equal(pl_sampler_add_list(sampler, ids, (size_t)n, value, N, NULL), PL_OK);
    }
}

static void test_dry(void **state) {
    fixture *f = *state;
    const double multiplier[] = {0, 0.8, 2}, base[] = {0.5, 1, 1.75, 3}, allowed[] = {0, 1, 2, 5};
    const double last[] = {-1, 0, 3, 30};
    for (int round = 0; round < ROUNDS; round++) {
        fill(f);
        double p[] = {choice(f, multiplier, 3), choice(f, base, 4), choice(f, allowed, 4),
                      choice(f, last, 4)};
        pl_sampler sampler = make("dry", p);
        if (round % 2) add_lists(f, &sampler, 3);
        ref_dry(&f->r, p[0], p[1], (int)p[2], (int)p[3], &sampler.lists);
        judge(f, &sampler);
        pl_sampler_clear(&sampler);
    }
}

static void test_no_repeat_ngram(void **state) {
    fixture *f = *state;
    for (int round = 0; round < ROUNDS; round++) {
        fill(f);
        double n = below(f, 5);
        ref_no_repeat_ngram(&f->r, (int)n);
        pl_sampler sampler = make("no_repeat_ngram_size", &n);
        judge(f, &sampler);
    }
}

static void test_biases_and_bans(void **state) {
    fixture *f = *state;
    const char *const names[] = {"sequence_bias",         "logit_bias",
                                 "bad_words_ids",         "suppress_tokens",
                                 "begin_suppress_tokens", "min_new_tokens"};
    for (int round = 0; round < ROUNDS; round++) {
        fill(f);
        int which = round % 6;
        double few = below(f, 6);
        pl_sampler sampler = make(names[which], which == 5 ? &few : NULL);
        add_lists(f, &sampler, which == 1 ? 1 : 3);
        int n_new = f->r.n_tokens - f->r.n_prompt;
        if (which == 2)
            for (size_t i = 0; i < sampler.lists.n; i++) sampler.lists.lists[i].value = -INFINITY;
        if (which <= 2) ref_sequence_bias(&f->r, &sampler.lists);
        bool bans = which == 3 || (which == 4 && n_new == 0) || (which == 5 && n_new < few);
        for (size_t i = 0; bans && i < sampler.lists.n; i++)
            for (size_t t = 0; t < sampler.lists.lists[i].n; t++)
                f->r.logit[sampler.lists.lists[i].ids[t]] = -INFINITY;
        judge(f, &sampler);
        pl_sampler_clear(&sampler);
    }
}

static void test_decay_raises_the_end(void **state) {
    fixture *f = *state;
    for (int round = 0; round < ROUNDS; round++) {
        fill(f);
        const int32_t eos = 3;
        double p[] = {below(f, 20), 0.9 + 0.1 * below(f, 4)};
        pl_sampler sampler = make("exponential_decay_length_penalty", p);
        assert_int_equal(pl_sampler_add_list(&sampler, &eos, 1, 0, N, NULL), PL_OK);
        ref_decay(&f->r, (int)p[0], p[1], eos);
        judge(f, &sampler);
        pl_sampler_clear(&sampler);
    }
}

static void test_forced_tokens_come_at_their_place(void **state) {
    fixture *f = *state;
    for (int round = 0; round < ROUNDS; round++) {
        fill(f);
        const int32_t id = below(f, N);
        double at = below(f, 30);
        bool bos = round % 2, forced;
        int n_new = f->r.n_tokens - f->r.n_prompt;
        pl_sampler sampler = make(bos ? "forced_bos" : "forced_eos", bos ? NULL : &at);
        assert_int_equal(pl_sampler_add_list(&sampler, &id, 1, 0, N, NULL), PL_OK);
        forced = bos ? n_new == 0 : at > 0 && n_new >= at - 1;
        for (int i = 0; forced && i < N; i++) f->r.logit[i] = i == id ? 0 : -INFINITY;
        judge(f, &sampler);
        pl_sampler_clear(&sampler);
    }
}

/* Whatever the text and parameters, finite numbers or an error: never NaN, never nothing. */
static void test_absurd_parameters_and_tokens_are_survived(void **state) {
    fixture *f = *state;
    const double big = FLT_MAX;
    const double penalties[] = {-1, 1e3, big, -big}, dry[] = {big, big, 0, -1};
    const double decay[] = {0, big};
    for (int round = 0; round < 200; round++) {
        fill(f);
        for (int i = 0; i < f->r.n_tokens; i += 7)
            f->tokens[i] = i % 2 ? INT32_MAX : i % 3 ? -1 : N;
        const int32_t eos = 0;
        pl_sampler samplers[] = {make("penalties", penalties), make("dry", dry),
                                 make("exponential_decay_length_penalty", decay),
                                 make("no_repeat_ngram_size", (const double[]){1})};
        assert_int_equal(pl_sampler_add_list(&samplers[2], &eos, 1, 0, N, NULL), PL_OK);
        for (int s = 0; s < 4; s++) {
            pl_error err;
            if (samplers[s].kind->apply(&samplers[s], &f->c, &err) != PL_OK) continue;
            for (int64_t i = 0; i < f->c.n; i++) assert_true(isfinite(f->logits[f->c.ids[i]]));
        }
        for (int s = 0; s < 4; s++) pl_sampler_clear(&samplers[s]);
    }
}

static void test_lists_are_checked(void **state) {
    (void)state;
    pl_sampler bias = make("logit_bias", NULL), top_k = make("top_k", NULL);
    const int32_t good[] = {1, 2}, bad[] = {N}, negative[] = {-1};
    pl_error err;
    assert_int_equal(pl_sampler_add_list(&bias, bad, 1, 0, N, &err), PL_ERR_ARGUMENT);
    assert_non_null(strstr(err.message, "token 24: expected 0 to 23"));
    assert_int_equal(pl_sampler_add_list(&bias, negative, 1, 0, N, &err), PL_ERR_ARGUMENT);
    assert_int_equal(pl_sampler_add_list(&bias, good, 2, 0, N, &err), PL_ERR_ARGUMENT);
    assert_int_equal(pl_sampler_add_list(&bias, good, 0, 0, N, &err), PL_ERR_ARGUMENT);
    assert_int_equal(pl_sampler_add_list(&bias, good, 1, (double)NAN, N, &err), PL_ERR_ARGUMENT);
    assert_int_equal(pl_sampler_add_list(&bias, good, 1, INFINITY, N, &err), PL_ERR_ARGUMENT);
    assert_int_equal(pl_sampler_add_list(&top_k, good, 1, 0, N, &err), PL_ERR_ARGUMENT);
    assert_non_null(strstr(err.message, "top_k takes no list"));
    pl_sampler_clear(&bias);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(test_penalties, setup, teardown),
        cmocka_unit_test_setup_teardown(test_dry, setup, teardown),
        cmocka_unit_test_setup_teardown(test_no_repeat_ngram, setup, teardown),
        cmocka_unit_test_setup_teardown(test_biases_and_bans, setup, teardown),
        cmocka_unit_test_setup_teardown(test_decay_raises_the_end, setup, teardown),
        cmocka_unit_test_setup_teardown(test_forced_tokens_come_at_their_place, setup, teardown),
        cmocka_unit_test_setup_teardown(test_absurd_parameters_and_tokens_are_survived, setup,
                                        teardown),
        cmocka_unit_test(test_lists_are_checked),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
