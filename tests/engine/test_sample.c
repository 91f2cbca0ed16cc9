/* Samplers and chains, against references that sort everything in float64. */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>

#include "../../engine/sample/chain.h"

enum { N = 500 };

typedef struct fixture {
    pl_candidates c;
    float logits[N], original[N];
    int32_t order[N]; /* ids, the best first */
    double p[N];      /* softmax of the original, by id */
} fixture;

static const fixture *sorting;

static int compare(const void *a, const void *b) {
    int32_t x = *(const int32_t *)a, y = *(const int32_t *)b;
    float lx = sorting->original[x], ly = sorting->original[y];
    return lx != ly ? (lx > ly ? -1 : 1) : (x > y) - (x < y);
}

/* Logits in coarse steps, so that ties are common; every seventh is removed. */
static void fill(fixture *f, uint64_t seed) {
    pl_random random = {seed, 0, 0};
    double sum = 0;
    for (int i = 0; i < N; i++) {
        f->original[i] = i % 7 == 3 ? -INFINITY : roundf(pl_random_normal(&random) * 12) / 4;
        f->order[i] = i;
        sum += exp(f->original[i]);
    }
    for (int i = 0; i < N; i++) f->p[i] = exp(f->original[i]) / sum;
    sorting = f;
    qsort(f->order, N, sizeof *f->order, compare);
    memcpy(f->logits, f->original, sizeof f->logits);
    assert_int_equal(
        pl_candidates_begin(&f->c, f->logits, (pl_random){seed, 0, 0}, (int64_t)seed, NULL), PL_OK);
}

static int setup(void **state) {
    fixture *f = calloc(1, sizeof *f);
    *state = f;
    return pl_candidates_init(&f->c, N, NULL) != PL_OK;
}

static int teardown(void **state) {
    fixture *f = *state;
    pl_candidates_clear(&f->c);
    free(f);
    return 0;
}

static pl_sampler make(const char *name, double value) {
    pl_sampler sampler;
    assert_int_equal(pl_sampler_init(&sampler, name, NULL), PL_OK);
    if (sampler.kind->n_params)
        assert_int_equal(pl_sampler_set(&sampler, name, value, NULL), PL_OK);
    return sampler;
}

static void apply(fixture *f, const char *name, double value) {
    pl_sampler sampler = make(name, value);
    assert_int_equal(sampler.kind->apply(&sampler, &f->c, NULL), PL_OK);
}

/* The ids left are exactly the n best of the original, ascending, and the logits agree. */
static void assert_kept(const fixture *f, int n) {
    assert_int_equal(f->c.n, n);
    bool kept[N] = {false};
    for (int i = 0; i < n; i++) kept[f->order[i]] = true;
    int next = 0;
    for (int id = 0; id < N; id++) {
        if (kept[id]) {
            assert_int_equal(f->c.ids[next++], id);
            assert_true(f->logits[id] == f->original[id]);
        } else {
            assert_true(f->logits[id] == -INFINITY);
        }
    }
}

static int count_left(const fixture *f) {
    int n = 0;
    for (int i = 0; i < N; i++) n += f->original[i] > -INFINITY;
    return n;
}

static void test_top_k_keeps_the_k_best_lower_ids_first(void **state) {
    fixture *f = *state;
    for (int k = 1; k < N + 3; k += k < 20 ? 1 : 37) {
        fill(f, (uint64_t)k);
        apply(f, "top_k", k);
        assert_kept(f, k < count_left(f) ? k : count_left(f));
    }
    fill(f, 9);
    apply(f, "top_k", 0);
    assert_kept(f, count_left(f));
}

static void test_top_p_keeps_the_smallest_set_with_that_mass(void **state) {
    fixture *f = *state;
    const double ps[] = {0, 0.01, 0.2, 0.5, 0.9, 0.95, 0.999};
    for (size_t i = 0; i < sizeof ps / sizeof *ps; i++) {
        fill(f, 40 + i);
        apply(f, "top_p", ps[i]);
        int n = 0;
        double sum = 0;
        do sum += f->p[f->order[n++]];
        while (sum < ps[i]);
        assert_kept(f, n);
    }
    fill(f, 3);
    apply(f, "top_p", 1);
    assert_kept(f, count_left(f));
}

static void test_min_p_compares_with_the_most_likely(void **state) {
    fixture *f = *state;
    const double ps[] = {0, 0.003, 0.07, 0.4, 0.97, 1};
    for (size_t i = 0; i < sizeof ps / sizeof *ps; i++) {
        fill(f, 60 + i);
        apply(f, "min_p", ps[i]);
        int n = 0;
        while (n < count_left(f) && f->p[f->order[n]] >= ps[i] * f->p[f->order[0]] * (1 - 1e-12))
            n++;
        assert_kept(f, n);
    }
}

static void test_temp_divides_and_zero_is_greedy(void **state) {
    fixture *f = *state;
    fill(f, 1);
    apply(f, "temp", 1);
    assert_kept(f, count_left(f));
    apply(f, "temp", 0.5);
    for (int i = 0; i < N; i++) assert_true(f->logits[i] == 2 * f->original[i]);
    const double greedy[] = {0, -1};
    for (int i = 0; i < 2; i++) {
        fill(f, 5);
        apply(f, "temp", greedy[i]);
        assert_kept(f, 1);
    }
}

static void test_tiny_temp_never_overflows(void **state) {
    fixture *f = *state;
    fill(f, 2);
    apply(f, "temp", 1e-300);
    for (int i = 0; i < N; i++) assert_true(f->logits[i] < INFINITY);
    assert_true(f->c.n >= 1);
    for (int64_t i = 0; i < f->c.n; i++)
        assert_true(f->original[f->c.ids[i]] == f->original[f->order[0]]);
}

/* Chi-square over 20 bins of a fixed seed: 95 % of honest samplers stay below 30.1, and 99.99 %
 * below 52.4 (19 degrees of freedom). */
static void test_dist_follows_the_probabilities(void **state) {
    fixture *f = *state;
    enum { BINS = 20, DRAWS = 4000 };
    double expected[BINS] = {0}, seen[BINS] = {0};
    fill(f, 77);
    for (int i = 0; i < N; i++) expected[i % BINS] += DRAWS * f->p[i];
    for (int draw = 0; draw < DRAWS; draw++) {
        assert_int_equal(pl_candidates_begin(&f->c, f->logits, (pl_random){.seed = 11}, draw, NULL),
                         PL_OK);
        int32_t id = pl_candidates_draw(&f->c);
        assert_true(f->original[id] > -INFINITY);
        seen[id % BINS] += 1;
    }
    double chi2 = 0;
    for (int b = 0; b < BINS; b++)
        chi2 += (seen[b] - expected[b]) * (seen[b] - expected[b]) / expected[b];
    assert_true(chi2 < 52.4);
    assert_true(chi2 > 4);
}

static void test_draws_depend_on_seed_stream_and_position_only(void **state) {
    fixture *f = *state;
    int differ = 0;
    for (int64_t pos = 0; pos < 50; pos++) {
        int32_t id[4];
        const pl_random places[] = {{5, 1, 99}, {5, 1, 7}, {6, 1, 0}, {5, 2, 0}};
        for (int i = 0; i < 4; i++) {
            fill(f, 8);
            pl_candidates_begin(&f->c, f->logits, places[i], pos, NULL);
            id[i] = pl_candidates_draw(&f->c);
        }
        assert_int_equal(id[0], id[1]);
        differ += (id[0] != id[2]) + (id[0] != id[3]);
    }
    assert_true(differ > 50);
}

static void test_ties_go_to_the_lower_id(void **state) {
    fixture *f = *state;
    for (int i = 0; i < N; i++) f->logits[i] = 1;
    pl_candidates_begin(&f->c, f->logits, (pl_random){0}, 0, NULL);
    assert_int_equal(pl_candidates_best(&f->c).id, 0);
    pl_candidates_keep_best(&f->c, 3);
    assert_int_equal(f->c.n, 3);
    assert_int_equal(f->c.ids[2], 2);
}

static void test_distribution_matches_float64(void **state) {
    fixture *f = *state;
    fill(f, 12);
    double sum = 0, entropy = 0;
    for (int i = 0; i < N; i++) {
        sum += exp(f->original[i]);
        if (f->p[i] > 0) entropy -= f->p[i] * log(f->p[i]);
    }
    pl_distribution d = pl_candidates_distribution(&f->c);
    assert_true(fabs(d.log_sum - log(sum)) < 1e-6);
    assert_true(fabs(d.entropy_nats - entropy) < 1e-6);
}

static pl_status spoil(pl_sampler *self, pl_candidates *c, pl_error *err) {
    (void)err;
    for (int64_t i = 0; i < c->n_vocab; i++) c->logits[i] = *(float *)self->state;
    return PL_OK;
}

static void test_chain_runs_in_order_and_names_the_culprit(void **state) {
    fixture *f = *state;
    pl_error err;
    pl_chain chain = {0};
    int32_t id;
    fill(f, 31);
    pl_sampler top_k = make("top_k", 5), greedy = make("greedy", 0);
    assert_int_equal(pl_chain_add(&chain, &top_k, &err), PL_OK);
    assert_int_equal(pl_chain_sample(&chain, &f->c, &id, &err), PL_ERR_ARGUMENT);
    assert_non_null(strstr(err.message, "'dist' or 'greedy'"));
    assert_int_equal(pl_chain_add(&chain, &greedy, &err), PL_OK);
    assert_int_equal(pl_chain_sample(&chain, &f->c, &id, &err), PL_OK);
    assert_int_equal(id, f->order[0]);
    pl_chain_clear(&chain);

    const struct {
        float value;
        const char *word;
    } cases[] = {
        {NAN, "token 0 is nan"}, {INFINITY, "token 0 is +inf"}, {-INFINITY, "no token is left"}};
    const pl_sampler_kind spoiler = {.name = "spoiler", .foreign = true, .apply = spoil};
    for (int i = 0; i < 3; i++) {
        float value = cases[i].value;
        fill(f, 31);
        pl_sampler bad = {.kind = &spoiler, .state = &value};
        assert_int_equal(pl_chain_add(&chain, &bad, &err), PL_OK);
        assert_int_equal(pl_chain_sample(&chain, &f->c, &id, &err), PL_ERR_ARGUMENT);
        assert_non_null(strstr(err.message, "sampler 1, 'spoiler'"));
        assert_non_null(strstr(err.message, cases[i].word));
        pl_chain_clear(&chain);
    }
}

static void test_unknown_names_and_values_are_refused(void **state) {
    (void)state;
    const char *const cases[][2] = {{"tpo_k", "'top_k'"},
                                    {"temperature", "'temp'"},
                                    {"nucleus", "'top_p'"},
                                    {"zebra", "there are: logit_bias "}};
    pl_error err;
    pl_sampler sampler;
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        assert_int_equal(pl_sampler_init(&sampler, cases[i][0], &err), PL_ERR_ARGUMENT);
        assert_non_null(strstr(err.message, cases[i][1]));
    }
    sampler = make("top_p", 0.5);
    const double bad[] = {-0.1, 1.1, (double)NAN};
    for (int i = 0; i < 3; i++)
        assert_int_equal(pl_sampler_set(&sampler, "top_p", bad[i], &err), PL_ERR_ARGUMENT);
    assert_int_equal(pl_sampler_set(&sampler, "k", 1, &err), PL_ERR_ARGUMENT);
    sampler = make("top_k", 5);
    assert_int_equal(pl_sampler_set(&sampler, "top_k", 2.5, &err), PL_ERR_ARGUMENT);
    pl_candidates c;
    assert_int_equal(pl_candidates_init(&c, 0, &err), PL_ERR_ARGUMENT);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(test_top_k_keeps_the_k_best_lower_ids_first, setup,
                                        teardown),
        cmocka_unit_test_setup_teardown(test_top_p_keeps_the_smallest_set_with_that_mass, setup,
                                        teardown),
        cmocka_unit_test_setup_teardown(test_min_p_compares_with_the_most_likely, setup, teardown),
        cmocka_unit_test_setup_teardown(test_temp_divides_and_zero_is_greedy, setup, teardown),
        cmocka_unit_test_setup_teardown(test_tiny_temp_never_overflows, setup, teardown),
        cmocka_unit_test_setup_teardown(test_dist_follows_the_probabilities, setup, teardown),
        cmocka_unit_test_setup_teardown(test_draws_depend_on_seed_stream_and_position_only, setup,
                                        teardown),
        cmocka_unit_test_setup_teardown(test_ties_go_to_the_lower_id, setup, teardown),
        cmocka_unit_test_setup_teardown(test_distribution_matches_float64, setup, teardown),
        cmocka_unit_test_setup_teardown(test_chain_runs_in_order_and_names_the_culprit, setup,
                                        teardown),
        cmocka_unit_test(test_unknown_names_and_values_are_refused),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
