/* Quantising: against the best scale that a dense search in float64 finds, and on blocks that no
 * model should have. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <float.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>

#include "../../engine/base/random.h"
#include "../../engine/kernels/kernels.h"
#include "../../engine/kernels/quantize.h"

enum { N = 1024, MOST_BYTES = 2 * N };

/* A type's elements in groups that share a scale: scale * (q - from), and a minimum where there is
 * one. slack: how far the rounding of the scales themselves may lead from the best. */
typedef struct kind {
    pl_dtype dtype;
    int group, levels, from;
    bool has_min, may_add;
    double slack;
} kind;

static const kind kinds[] = {
    {PL_Q4_0, 32, 16, 8, false, false, 1.04},  {PL_Q4_1, 32, 16, 0, true, true, 1.08},
    {PL_Q5_0, 32, 32, 16, false, false, 1.03}, {PL_Q5_1, 32, 32, 0, true, true, 1.08},
    {PL_Q8_0, 32, 255, 127, false, false, 0}, /* its scale is fixed: see below */
    {PL_Q2_K, 16, 4, 0, true, false, 1.12},    {PL_Q3_K, 16, 8, 4, false, false, 1.05},
    {PL_Q4_K, 32, 16, 0, true, false, 1.12},   {PL_Q5_K, 32, 32, 0, true, false, 1.22},
    {PL_Q6_K, 16, 64, 32, false, false, 1.25},
};
enum { N_KINDS = sizeof kinds / sizeof *kinds };

static float x[N], back[N], importance[N];
static unsigned char row[MOST_BYTES];

static void round_trip(pl_dtype dtype, const float *weights) {
    const pl_kernels *k = pl_kernels_for(PL_ISA_PLAIN);
    pl_quantize_row(dtype, row, x, N, weights);
    k->to_f32[dtype](back, row, N);
}

static double error_of(const float *values, const float *weights, int first, int n) {
    double error = 0;
    for (int i = first; i < first + n; i++) {
        double d = (double)values[i] - (double)x[i];
        error += d * d * (weights ? (double)weights[i] : 1);
    }
    return error;
}

/* The error of one scale and minimum, every element at its nearest level. */
static double error_with(const kind *k, int first, double scale, double min, const float *weights) {
    double error = 0;
    for (int i = first; i < first + k->group; i++) {
        double q = scale != 0 ? round(((double)x[i] + min) / scale) + k->from : k->from;
        q = q < 0 ? 0 : q > k->levels - 1 ? k->levels - 1 : q;
        double d = scale * (q - k->from) - min - (double)x[i];
        error += d * d * (double)weights[i];
    }
    return error;
}

/* The least error over a dense grid of scales (and minima) around what spans the group. */
static double best_error(const kind *k, int first, const float *weights) {
    double low = 0, high = 0, best = INFINITY;
    for (int i = first; i < first + k->group; i++) {
        if (i == first && k->may_add) low = high = (double)x[i];
        low = fmin(low, (double)x[i]);
        high = fmax(high, (double)x[i]);
    }
    double span = k->has_min ? high - low : 2 * fmax(high, -low);
    int n_scales = k->has_min ? 120 : 1000, n_mins = k->has_min ? 60 : 1;
    for (int s = 1; s <= n_scales; s++) {
        double scale = span / k->levels * (0.5 + 0.8 * s / n_scales);
        for (int m = 0; m < n_mins; m++) {
            double min = k->has_min ? -low + span * 0.15 * (m - 45) / 45 : 0;
            if (k->has_min && !k->may_add && min < 0) min = 0;
            best = fmin(best, error_with(k, first, scale, min, weights));
            if (!k->has_min) best = fmin(best, error_with(k, first, -scale, min, weights));
        }
    }
    return best;
}

static void fill_normal(uint64_t seed) {
    pl_random random = {.seed = seed};
    for (int i = 0; i < N; i++) {
        x[i] = pl_random_normal(&random) * 0.05f;
        importance[i] = 0.1f + pl_random_uniform(&random) * 4;
    }
}

static void test_near_the_best_scales(void **state) {
    (void)state;
    for (int i = 0; i < N_KINDS; i++) {
        if (kinds[i].slack == 0) continue;
        fill_normal(11 + (uint64_t)i);
        round_trip(kinds[i].dtype, importance);
        double best = 0, got = error_of(back, importance, 0, N);
        for (int g = 0; g < N; g += kinds[i].group) best += best_error(&kinds[i], g, importance);
        if (got > kinds[i].slack * best || got < 0.9 * best)
            fail_msg("%s: error %g, the best is %g", pl_dtype_get(kinds[i].dtype)->name, got, best);
    }
}

/* q8_0: the largest element becomes 127 or -127, and the others the nearest multiple. */
static void test_q8_0_rounds(void **state) {
    (void)state;
    fill_normal(3);
    round_trip(PL_Q8_0, NULL);
    for (int i = 0; i < N; i++) {
        double largest = 0;
        for (int j = i / 32 * 32; j < i / 32 * 32 + 32; j++) {
            largest = fmax(largest, fabs((double)x[j]));
        }
        double slip = largest * 0x1p-11; /* the scale is stored in half precision */
        assert_true(fabs((double)back[i] - (double)x[i]) <= largest / 254 + slip);
    }
}

/* What matters more is kept better. */
static void test_importance_counts(void **state) {
    (void)state;
    for (int i = 0; i < N_KINDS; i++) {
        if (kinds[i].slack == 0) continue;
        fill_normal(31);
        for (int j = 0; j < N; j++) importance[j] = j % 4 ? 0.01f : 10.0f;
        round_trip(kinds[i].dtype, NULL);
        double before = error_of(back, importance, 0, N);
        round_trip(kinds[i].dtype, importance);
        assert_true(error_of(back, importance, 0, N) < before);
    }
}

/* A row of what a type can hold exactly comes back as it was. */
static void test_exact_values_survive(void **state) {
    (void)state;
    for (int i = 0; i < N_KINDS; i++) {
        const kind *k = &kinds[i];
        for (int j = 0; j < N; j++) {
            int level = j % k->group == 0   ? 0
                        : j % k->group == 1 ? k->levels - 1
                                            : j * 7 % k->levels;
            x[j] = 0.25f * (float)(level - k->from);
        }
        round_trip(k->dtype, NULL);
        if (k->group == 32 && k->dtype != PL_Q4_K && k->dtype != PL_Q5_K) {
            assert_memory_equal(x, back, sizeof x);
        } else { /* the super-block's own scale is a rounded multiple */
            assert_true(error_of(back, NULL, 0, N) < 1e-5 * error_of(importance, NULL, 0, N));
        }
    }
}

static void test_strange_blocks(void **state) {
    (void)state;
    const float odd[] = {0,        -0.0f, 1e-45f, -1e-39f, FLT_MIN, FLT_MAX,
                         -FLT_MAX, 1e30f, 65504,  1,       -1};
    pl_random random = {.seed = 5};
    for (int i = 0; i < N_KINDS; i++) {
        for (int round = 0; round < 50; round++) {
            int n_odd = 1 + (int)(pl_random_u32(&random) % 11);
            for (int j = 0; j < N; j++) x[j] = odd[pl_random_u32(&random) % (uint32_t)n_odd];
            round_trip(kinds[i].dtype, NULL);
            for (int j = 0; j < N; j++) assert_true(isfinite(back[j]));
        }
        for (int j = 0; j < N; j++) x[j] = 0;
        round_trip(kinds[i].dtype, NULL);
        for (int j = 0; j < N; j++) assert_true(back[j] == 0);
        for (int j = 0; j < N; j++) x[j] = j == 3 ? NAN : 1;
        round_trip(kinds[i].dtype, NULL);
        assert_true(isnan(back[3]));
        assert_true(fabsf(back[N - 1] - 1) < 0.02f); /* the other blocks are as ever */
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_near_the_best_scales), cmocka_unit_test(test_q8_0_rounds),
        cmocka_unit_test(test_importance_counts),    cmocka_unit_test(test_exact_values_survive),
        cmocka_unit_test(test_strange_blocks),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
