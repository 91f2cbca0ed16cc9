/* Samplers that choose: that they draw from the distribution that plain float64 says, that what
 * they remember follows accept, reset and clone, and that what came before is sampled from. */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>

#include "sampler_reference.h"

enum { N = 40, DRAWS = 20000 };

typedef struct fixture {
    pl_candidates c;
    pl_chain chain;
    float logits[N], work[N];
    ref r;
    int64_t pos;
} fixture;

static int setup(void **state) {
    fixture *f = calloc(1, sizeof *f);
    *state = f;
    return pl_candidates_init(&f->c, N, NULL) != PL_OK;
}

static int teardown(void **state) {
    fixture *f = *state;
    pl_candidates_clear(&f->c);
    pl_chain_clear(&f->chain);
    free(f);
    return 0;
}

static void fill(fixture *f, uint64_t seed) {
    pl_random random = {seed, 5, 0};
    f->r = (ref){.n = N, .margin = INFINITY};
    for (int i = 0; i < N; i++) f->r.logit[i] = f->logits[i] = 2 * pl_random_normal(&random);
    f->pos = 0;
}

static void add(fixture *f, const char *name, double a, double b) {
    pl_sampler sampler;
    const double values[] = {a, b};
    assert_int_equal(pl_sampler_init(&sampler, name, NULL), PL_OK);
    for (int i = 0; i < sampler.kind->n_params && i < 2; i++)
        assert_int_equal(pl_sampler_set(&sampler, sampler.kind->params[i].name, values[i], NULL),
                         PL_OK);
    assert_int_equal(pl_chain_add(&f->chain, &sampler, NULL), PL_OK);
}

static int32_t sample(fixture *f, pl_chain *chain) {
    int32_t id;
    pl_error err;
    memcpy(f->work, f->logits, sizeof f->work);
    assert_int_equal(pl_candidates_begin(&f->c, f->work, (pl_random){7, 3, 0}, f->pos++, &err),
                     PL_OK);
    if (pl_chain_sample(chain, &f->c, &id, &err) != PL_OK) fail_msg("%s", err.message);
    return id;
}

/* Pearson's statistic over the tokens expected at least 5 times must be within 5 standard
 * deviations of its mean; what has probability 0 must never be drawn. */
static void assert_drawn_by(fixture *f, const double *p) {
    int counts[N] = {0}, bins = 0;
    double chi = 0;
    for (int i = 0; i < DRAWS; i++) counts[sample(f, &f->chain)]++;
    for (int i = 0; i < N; i++) {
        double want = p[i] * DRAWS;
        if (p[i] == 0) assert_int_equal(counts[i], 0);
        if (want < 5) continue;
        chi += (counts[i] - want) * (counts[i] - want) / want;
        bins++;
    }
    if (fabs(chi - (bins - 1)) > 5 * sqrt(2.0 * bins))
        fail_msg("chi-square %g, %d bins", chi, bins);
}

static void test_dist_draws_by_probability(void **state) {
    fixture *f = *state;
    double p[N];
    fill(f, 1);
    add(f, "dist", 0, 0);
    ref_softmax(&f->r, p);
    assert_drawn_by(f, p);
}

static void test_xtc_excludes_as_often_as_it_is_told(void **state) {
    fixture *f = *state;
    double with[N], without[N];
    fill(f, 2);
    add(f, "xtc", 0.3, 0.05);
    add(f, "dist", 0, 0);
    ref_softmax(&f->r, without);
    ref_xtc(&f->r, 0.05);
    ref_softmax(&f->r, with);
    for (int i = 0; i < N; i++) with[i] = 0.3 * with[i] + 0.7 * without[i];
    assert_drawn_by(f, with);
}

static void test_mirostat_draws_below_its_bound(void **state) {
    fixture *f = *state;
    for (int version = 1; version <= 2; version++) {
        double p[N];
        fill(f, 3);
        add(f, version == 1 ? "mirostat" : "mirostat_v2", 1.5, 0.1);
        if (version == 1)
            ref_mirostat(&f->r, 3);
        else
            ref_mirostat_v2(&f->r, 3);
        assert_true(f->r.margin > 1e-4);
        ref_softmax(&f->r, p);
        assert_drawn_by(f, p); /* nothing is accepted, so the bound stays 2 tau */
        pl_chain_clear(&f->chain);
    }
}

static void test_mirostat_follows_what_is_accepted(void **state) {
    fixture *f = *state;
    for (int version = 1; version <= 2; version++) {
        fill(f, 4);
        add(f, version == 1 ? "mirostat" : "mirostat_v2", 2, 0.2);
        double mu = 4, sum = 0;
        for (int step = 0; step < 400; step++) {
            double p[N];
            fill(f, 100 + (uint64_t)step);
            f->pos = step;
            if (version == 1)
                ref_mirostat(&f->r, mu);
            else
                ref_mirostat_v2(&f->r, mu);
            ref_softmax(&f->r, p);
            int32_t id = sample(f, &f->chain);
            if (f->r.margin > 1e-4) {
                assert_true(p[id] > 0);
                mu -= 0.2 * (-log2(p[id]) - 2);
                assert_true(fabs(f->chain.samplers[0].memory[0] - 4) < 50);
            }
            assert_int_equal(pl_chain_accept(&f->chain, id, NULL), PL_OK);
            if (f->r.margin <= 1e-4) mu = f->chain.samplers[0].memory[0];
            assert_true(fabs(f->chain.samplers[0].memory[0] - mu) < 1e-3);
            sum += f->r.margin > 1e-4 ? -log2(p[id]) : 2;
        }
        assert_true(fabs(sum / 400 - 2) < 0.3); /* the surprise that was asked for */
        pl_chain_clear(&f->chain);
    }
}

static void test_adaptive_p_draws_near_its_target(void **state) {
    fixture *f = *state;
    double p[N], original[N];
    fill(f, 6);
    add(f, "adaptive_p", 0.2, 0.8);
    ref_softmax(&f->r, original);
    ref_adaptive(&f->r, 0.2);
    ref_softmax(&f->r, p);
    assert_drawn_by(f, p);
    double sum = 0.2 / 0.2, weight = 1 / 0.2;
    for (int step = 0; step < 50; step++) {
        int32_t id = sample(f, &f->chain);
        sum = original[id] + 0.8 * sum, weight = 1 + 0.8 * weight;
        assert_int_equal(pl_chain_accept(&f->chain, id, NULL), PL_OK);
        assert_true(fabs(f->chain.samplers[0].memory[0] - sum) < 1e-5);
        assert_true(fabs(f->chain.samplers[0].memory[1] - weight) < 1e-9);
    }
    fill(f, 6);
    ref_adaptive(&f->r, fmin(fmax(0.4 - sum / weight, 0), 1));
    ref_softmax(&f->r, p);
    assert_drawn_by(f, p);
    pl_chain_clear(&f->chain);
    fill(f, 6);
    add(f, "adaptive_p", -1, 0.8);
    assert_drawn_by(f, original);
}

/* A clone says what its original would have said, and then goes its own way. */
static void test_clones_carry_state_and_history(void **state) {
    fixture *f = *state;
    pl_chain copy = {0};
    const int32_t prompt[] = {1, 2, 3};
    pl_sampler penalties;
    fill(f, 8);
    assert_int_equal(pl_sampler_init(&penalties, "penalties", NULL), PL_OK);
    penalties.params[1] = 1.5;
    assert_int_equal(pl_chain_add(&f->chain, &penalties, NULL), PL_OK);
    add(f, "mirostat_v2", 1.5, 0.3);
    assert_int_equal(pl_chain_reset(&f->chain, prompt, 3, NULL), PL_OK);
    for (int i = 0; i < 20; i++)
        assert_int_equal(pl_chain_accept(&f->chain, sample(f, &f->chain), NULL), PL_OK);
    assert_int_equal(pl_chain_clone(&copy, &f->chain, NULL), PL_OK);
    assert_int_equal(copy.n_prompt, 3);
    for (int i = 0; i < 20; i++) {
        int64_t pos = f->pos;
        int32_t a = sample(f, &f->chain);
        f->pos = pos;
        assert_int_equal(sample(f, &copy), a);
        assert_int_equal(pl_chain_accept(&f->chain, a, NULL), PL_OK);
        assert_int_equal(pl_chain_accept(&copy, a, NULL), PL_OK);
    }
    double mu = copy.samplers[1].memory[0];
    assert_int_equal(pl_chain_reset(&f->chain, NULL, 0, NULL), PL_OK);
    assert_true(f->chain.samplers[1].memory[0] == 3);
    assert_true(copy.samplers[1].memory[0] == mu);
    assert_int_equal(copy.tokens.n, 43);
    pl_chain_clear(&copy);
}

static void test_nothing_may_follow_a_choice(void **state) {
    fixture *f = *state;
    pl_error err;
    pl_sampler top_k;
    add(f, "dist", 0, 0);
    assert_int_equal(pl_sampler_init(&top_k, "top_k", NULL), PL_OK);
    assert_int_equal(pl_chain_add(&f->chain, &top_k, &err), PL_ERR_ARGUMENT);
    assert_non_null(strstr(err.message, "sampler 1, 'dist', chooses the token, so 'top_k' after"));
    assert_non_null(strstr(err.message, "put 'dist' last"));
}

static void test_bad_logits_are_refused(void **state) {
    fixture *f = *state;
    const float bad[] = {NAN, INFINITY};
    const char *const words[] = {"nan", "+inf"};
    pl_error err;
    for (int i = 0; i < 2; i++) {
        fill(f, 9);
        f->logits[5] = bad[i];
        assert_int_equal(pl_candidates_begin(&f->c, f->logits, (pl_random){0}, 0, &err),
                         PL_ERR_ARGUMENT);
        assert_non_null(strstr(err.message, words[i]));
    }
    for (int i = 0; i < N; i++) f->logits[i] = -INFINITY;
    assert_int_equal(pl_candidates_begin(&f->c, f->logits, (pl_random){0}, 0, &err),
                     PL_ERR_ARGUMENT);
    assert_non_null(strstr(err.message, "no token is left"));
    pl_candidates none;
    assert_int_equal(pl_candidates_init(&none, 0, &err), PL_ERR_ARGUMENT);
    assert_int_equal(pl_candidates_init(&none, -4, &err), PL_ERR_ARGUMENT);
}

/* A single token, one far above the others, all equal: each chooser takes them in stride. */
static void test_choosers_survive_degenerate_distributions(void **state) {
    fixture *f = *state;
    const char *const names[] = {"dist", "greedy", "mirostat", "mirostat_v2", "adaptive_p"};
    for (int k = 0; k < 5; k++)
        for (int shape = 0; shape < 4; shape++) {
            pl_chain_clear(&f->chain);
            add(f, names[k], k == 4 ? 0.3 : 0, k == 4 ? 0.5 : 3e38);
            for (int i = 0; i < N; i++)
                f->logits[i] = shape == 0   ? (i == 7 ? 1 : -INFINITY)
                               : shape == 1 ? (i == 7 ? FLT_MAX : -FLT_MAX)
                               : shape == 2 ? 0
                                            : -FLT_MAX;
            for (int i = 0; i < 30; i++) {
                int32_t id = sample(f, &f->chain);
                assert_in_range(id, 0, N - 1);
                if (shape < (k == 4 ? 1 : 2)) assert_int_equal(id, 7);
                assert_int_equal(pl_chain_accept(&f->chain, id, NULL), PL_OK);
            }
        }
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(test_dist_draws_by_probability, setup, teardown),
        cmocka_unit_test_setup_teardown(test_xtc_excludes_as_often_as_it_is_told, setup, teardown),
        cmocka_unit_test_setup_teardown(test_mirostat_draws_below_its_bound, setup, teardown),
        cmocka_unit_test_setup_teardown(test_mirostat_follows_what_is_accepted, setup, teardown),
        cmocka_unit_test_setup_teardown(test_adaptive_p_draws_near_its_target, setup, teardown),
        cmocka_unit_test_setup_teardown(test_clones_carry_state_and_history, setup, teardown),
        cmocka_unit_test_setup_teardown(test_nothing_may_follow_a_choice, setup, teardown),
        cmocka_unit_test_setup_teardown(test_bad_logits_are_refused, setup, teardown),
        cmocka_unit_test_setup_teardown(test_choosers_survive_degenerate_distributions, setup,
                                        teardown),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
