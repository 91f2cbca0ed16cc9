/* Samplers that look at the logits alone, against plain float64 on thousands of distributions. */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>

#include "sampler_reference.h"

enum { N_SIZES = 5, ROUNDS = 60, SHAPES = 6 };
static const int sizes[N_SIZES] = {1, 2, 3, 60, 700};

typedef struct fixture {
    pl_candidates c[N_SIZES];
    float logits[REF_MOST];
    ref r;
    int judged, passed_over;
} fixture;

static int setup(void **state) {
    fixture *f = calloc(1, sizeof *f);
    *state = f;
    for (int i = 0; i < N_SIZES; i++)
        if (pl_candidates_init(&f->c[i], sizes[i], NULL) != PL_OK) return 1;
    return 0;
}

static int teardown(void **state) {
    fixture *f = *state;
    for (int i = 0; i < N_SIZES; i++) pl_candidates_clear(&f->c[i]);
    free(f);
    return 0;
}

/* Wide, narrow, in steps with many ties, all equal, one far above, with holes. */
static float shape_logit(pl_random *random, int shape, int i) {
    float x = pl_random_normal(random);
    switch (shape) {
    case 0:
        return 8 * x;
    case 1:
        return 0.3f * x;
    case 2:
        return roundf(x * 3) / 2;
    case 3:
        return 1.25f;
    case 4:
        return i == 0 ? 20 : x;
    default:
        return i % 3 == 1 ? -INFINITY : 3 * x;
    }
}

static pl_candidates *fill(fixture *f, int size, int shape, uint64_t seed) {
    pl_random random = {seed, 77, 0};
    f->r = (ref){.n = sizes[size], .margin = INFINITY};
    for (int i = 0; i < sizes[size]; i++) {
        f->logits[i] = shape_logit(&random, shape, i);
        f->r.logit[i] = f->logits[i];
    }
    pl_candidates *c = &f->c[size];
    assert_int_equal(pl_candidates_begin(c, f->logits, (pl_random){seed, 1, 0}, 3, NULL), PL_OK);
    return c;
}

/* The same are left, with the same logits, and the list of ids says so too. */
static void compare(fixture *f, const pl_candidates *c, const char *name) {
    f->judged++;
    if (f->r.margin < 3e-5) {
        f->passed_over++;
        return;
    }
    int64_t next = 0;
    for (int i = 0; i < f->r.n; i++) {
        double want = f->r.logit[i], got = f->logits[i];
        if ((want == -INFINITY) != (got == -INFINITY))
            fail_msg("%s: token %d of %d is %g, expected %g (margin %g)", name, i, f->r.n, got,
                     want, f->r.margin);
        if (got == -INFINITY) continue;
        if (fabs(got - want) > 1e-4 * fmax(1, fabs(want)))
            fail_msg("%s: token %d of %d is %g, expected %g", name, i, f->r.n, got, want);
        assert_true(next < c->n);
        assert_int_equal(c->ids[next++], i);
    }
    assert_int_equal(next, c->n);
}

static void run(pl_candidates *c, const char *name, const double *params) {
    pl_sampler sampler;
    assert_int_equal(pl_sampler_init(&sampler, name, NULL), PL_OK);
    for (int i = 0; i < sampler.kind->n_params; i++)
        assert_int_equal(pl_sampler_set(&sampler, sampler.kind->params[i].name, params[i], NULL),
                         PL_OK);
    assert_int_equal(sampler.kind->apply(&sampler, c, NULL), PL_OK);
}

static void top_k(ref *r, const double *p) {
    ref_top_k(r, (int)p[0]);
}
static void top_p(ref *r, const double *p) {
    ref_top_p(r, p[0]);
}
static void min_p(ref *r, const double *p) {
    ref_min_p(r, p[0]);
}
static void typ_p(ref *r, const double *p) {
    ref_typ_p(r, p[0]);
}
static void top_n_sigma(ref *r, const double *p) {
    ref_top_n_sigma(r, p[0]);
}
static void epsilon(ref *r, const double *p) {
    ref_epsilon(r, p[0]);
}
static void eta(ref *r, const double *p) {
    ref_eta(r, p[0]);
}
static void xtc(ref *r, const double *p) {
    if (p[0] > 0) ref_xtc(r, p[1]);
}
static void temp(ref *r, const double *p) {
    ref_temp(r, p[0], p[1], p[2]);
}

static const struct {
    const char *name;
    void (*reference)(ref *r, const double *params);
    double params[6][3];
} cases[] = {
    {"top_k", top_k, {{0}, {1}, {2}, {7}, {40}, {2000}}},
    {"top_p", top_p, {{0}, {0.1}, {0.5}, {0.9}, {0.99}, {1}}},
    {"min_p", min_p, {{0}, {0.01}, {0.05}, {0.3}, {0.9}, {1}}},
    {"typ_p", typ_p, {{0}, {0.2}, {0.5}, {0.8}, {0.95}, {1}}},
    {"top_n_sigma", top_n_sigma, {{-1}, {0}, {0.5}, {1}, {2}, {5}}},
    {"epsilon_cutoff", epsilon, {{0}, {1e-4}, {3e-4}, {0.01}, {0.3}, {1}}},
    {"eta_cutoff", eta, {{0}, {1e-4}, {6e-4}, {0.01}, {0.3}, {1}}},
    {"xtc", xtc, {{0, 0.1}, {1, 0.1}, {1, 0.01}, {1, 0.5}, {1, 0.51}, {1, 0}}},
    {"temp", temp, {{1, 0, 1}, {0.7, 0, 1}, {0, 0, 1}, {-2, 0, 1}, {1, 0.5, 1}, {0.8, 3, 2}}},
};

static void test_each_equals_its_reference(void **state) {
    fixture *f = *state;
    for (size_t k = 0; k < sizeof cases / sizeof *cases; k++) {
        f->judged = f->passed_over = 0;
        for (int round = 0; round < ROUNDS; round++)
            for (int size = 0; size < N_SIZES; size++)
                for (int shape = 0; shape < SHAPES; shape++) {
                    const double *params = cases[k].params[round % 6];
                    uint64_t seed = (uint64_t)(round * 100 + size * 10 + shape);
                    pl_candidates *c = fill(f, size, shape, seed);
                    cases[k].reference(&f->r, params);
                    run(c, cases[k].name, params);
                    compare(f, c, cases[k].name);
                }
        /* All equal logits put typ_p and the bounds right on a decision. */
        assert_in_range(f->passed_over, 0, f->judged / 3);
    }
}

static void test_neutral_values_change_nothing(void **state) {
    fixture *f = *state;
    for (size_t k = 0; k < pl_samplers_count(); k++) {
        const pl_sampler_kind *kind = pl_samplers_get(k);
        if (kind->chooses || strcmp(kind->name, "infill") == 0) continue;
        for (int shape = 0; shape < SHAPES; shape++) {
            pl_candidates *c = fill(f, 4, shape, 5);
            const int32_t tokens[] = {1, 2, 3, 1, 2, 3, 1, 2};
            c->tokens = tokens, c->n_tokens = 8, c->n_prompt = 2;
            pl_sampler sampler = pl_sampler_of(kind);
            assert_int_equal(kind->apply(&sampler, c, NULL), PL_OK);
            compare(f, c, kind->name);
        }
    }
}

static void test_extreme_logits_are_survived(void **state) {
    fixture *f = *state;
    const float extremes[] = {FLT_MAX, -FLT_MAX, 0, FLT_MIN, -1e30f, 1e30f};
    for (size_t k = 0; k < sizeof cases / sizeof *cases; k++)
        for (int set = 0; set < 6; set++)
            for (int first = 0; first < 6; first++) {
                pl_candidates *c = &f->c[2];
                for (int i = 0; i < 3; i++) f->logits[i] = extremes[(first + i * 5) % 6];
                assert_int_equal(pl_candidates_begin(c, f->logits, (pl_random){1, 1, 0}, 0, NULL),
                                 PL_OK);
                run(c, cases[k].name, cases[k].params[set]);
                assert_in_range(c->n, 1, 3);
                for (int64_t i = 0; i < c->n; i++) assert_true(isfinite(f->logits[c->ids[i]]));
            }
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(test_each_equals_its_reference, setup, teardown),
        cmocka_unit_test_setup_teardown(test_neutral_values_change_nothing, setup, teardown),
        cmocka_unit_test_setup_teardown(test_extreme_logits_are_survived, setup, teardown),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
