/* Operations along a dimension, against plain loops and constants worked out elsewhere. */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>
#include <cmocka.h>

#include "../../engine/tensor/reduce.h"
#include "tensor_fixture.h"

/* Constants from Python's fsum, statistics and math, of 1.5, -2, 5, 2. */
static void test_reductions_of_a_row(void **state) {
    (void)state;
    static const struct {
        pl_reduction op;
        double expected;
        pl_dtype dtype;
    } cases[] = {{PL_SUM, 6.5, PL_F32},
                 {PL_PROD, -30, PL_F32},
                 {PL_MEAN, 1.625, PL_F32},
                 {PL_VAR, 8.229166667, PL_F32},
                 {PL_STD, 2.868652413, PL_F32},
                 {PL_NORM, 5.937171044, PL_F32},
                 {PL_MAX, 5, PL_F32},
                 {PL_MIN, -2, PL_F32},
                 {PL_ARGMAX, 2, PL_I64},
                 {PL_ARGMIN, 1, PL_I64},
                 {PL_ANY, 1, PL_I32},
                 {PL_ALL, 1, PL_I32},
                 {PL_LOGSUMEXP, 5.077790636, PL_F32}};
    pl_call c = fixture_call();
    pl_tensor x = fixture_tensor(PL_F32, 1, SHAPE(4), VALUES(1.5, -2, 5, 2)), out;
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        assert_int_equal(pl_op_reduce(&c, &out, &x, cases[i].op, 0, false), PL_OK);
        double tolerance = 1e-6 * fabs(cases[i].expected) + 1e-7;
        fixture_expect(&out, cases[i].dtype, 0, NULL, &cases[i].expected, tolerance);
        pl_tensor_release(&out);
    }
    pl_tensor_release(&x);
}

static void test_sums_of_every_dimension(void **state) {
    (void)state;
    pl_call c = fixture_call();
    pl_error err;
    for (int kind = 0; kind < 2; kind++) {
        pl_tensor base = fixture_random(kind ? PL_I32 : PL_F32, 3, SHAPE(4, 3, 2), 5), x = base,
                  out;
        assert_int_equal(pl_tensor_transpose(&x, 0, 2, &err), PL_OK);
        for (int dim = 0; dim < 3; dim++) {
            int64_t index[3] = {0}, kept[3] = {2, 3, 4};
            double sums[24] = {0};
            kept[dim] = 1;
            do {
                int64_t at[3] = {index[0], index[1], index[2]};
                at[dim] = 0;
                sums[(at[0] * kept[1] + at[1]) * kept[2] + at[2]] += fixture_at(&x, index);
            } while (fixture_step(3, x.shape, index));
            assert_int_equal(pl_op_reduce(&c, &out, &x, PL_SUM, dim, true), PL_OK);
            fixture_expect(&out, kind ? PL_I64 : PL_F32, 3, kept, sums, 0);
            pl_tensor_release(&out);
        }
        assert_int_equal(pl_op_reduce(&c, &out, &x, PL_MEAN, -1, true), PL_OK);
        assert_int_equal(out.n_dims, 3);
        assert_int_equal(pl_tensor_count(&out), 1);
        pl_tensor_release(&out), pl_tensor_release(&base);
    }
}

static void test_empty_and_strange_numbers(void **state) {
    (void)state;
    pl_call c = fixture_call();
    pl_tensor none = fixture_random(PL_F32, 2, SHAPE(2, 0), 1), out = {0};
    assert_int_equal(pl_op_reduce(&c, &out, &none, PL_SUM, 1, false), PL_OK);
    fixture_expect(&out, PL_F32, 1, SHAPE(2), VALUES(0, 0), 0);
    pl_tensor_release(&out);
    fixture_refused(&c, pl_op_reduce(&c, &out, &none, PL_MAX, 1, false), PL_ERR_SHAPE,
                    "max over no elements of [2, 0]");
    float values[] = {1, NAN, 3}, lost[] = {-INFINITY, -INFINITY};
    pl_tensor x;
    assert_int_equal(pl_tensor_wrap(&x, PL_F32, 1, SHAPE(3), values, &c.err), PL_OK);
    assert_int_equal(pl_op_reduce(&c, &out, &x, PL_MAX, 0, false), PL_OK);
    assert_true(isnan(*(float *)out.data));
    pl_tensor_release(&out);
    assert_int_equal(pl_op_reduce(&c, &out, &x, PL_ARGMIN, 0, false), PL_OK);
    fixture_expect(&out, PL_I64, 0, NULL, VALUES(1), 0);
    pl_tensor_release(&out);
    assert_int_equal(pl_tensor_wrap(&x, PL_F32, 1, SHAPE(2), lost, &c.err), PL_OK);
    assert_int_equal(pl_op_reduce(&c, &out, &x, PL_LOGSUMEXP, 0, false), PL_OK);
    assert_true(*(float *)out.data == -INFINITY);
    pl_tensor_release(&out), pl_tensor_release(&none);
}

static void test_integers_keep_their_digits(void **state) {
    (void)state;
    pl_call c = fixture_call();
    int64_t big = (1LL << 53) + 1, values[] = {1LL << 53, big, -big};
    pl_tensor x, out, places;
    assert_int_equal(pl_tensor_wrap(&x, PL_I64, 1, SHAPE(3), values, &c.err), PL_OK);
    static const pl_reduction ops[] = {PL_MAX, PL_ARGMAX, PL_MIN, PL_SUM};
    const int64_t expected[] = {big, 1, -big, 1LL << 53};
    for (int i = 0; i < 4; i++) {
        assert_int_equal(pl_op_reduce(&c, &out, &x, ops[i], 0, false), PL_OK);
        assert_true(*(int64_t *)out.data == expected[i]);
        pl_tensor_release(&out);
    }
    assert_int_equal(pl_op_topk(&c, &out, &places, &x, 3, 0, true), PL_OK);
    assert_true(((int64_t *)out.data)[0] == big && ((int64_t *)out.data)[2] == -big);
    pl_tensor_release(&out), pl_tensor_release(&places);
    assert_int_equal(pl_op_cumsum(&c, &out, &x, 0), PL_OK);
    assert_true(((int64_t *)out.data)[1] == (1LL << 54) + 1);
    pl_tensor_release(&out);
}

static void test_softmax_along_any_dimension(void **state) {
    (void)state;
    pl_call c = fixture_call();
    pl_error err;
    pl_tensor base = fixture_random(PL_F32, 2, SHAPE(3, 5), 4), out, logs;
    for (int dim = 0; dim < 2; dim++) {
        pl_tensor x = base;
        if (dim == 0) assert_int_equal(pl_tensor_transpose(&x, 0, 1, &err), PL_OK);
        assert_int_equal(pl_op_softmax(&c, &out, &x, dim), PL_OK);
        assert_int_equal(pl_op_log_softmax(&c, &logs, &x, dim), PL_OK);
        int64_t index[2] = {0};
        do {
            double total = 0;
            int64_t at[2] = {index[0], index[1]};
            for (at[dim] = 0; at[dim] < x.shape[dim]; at[dim]++) total += exp(fixture_at(&x, at));
            double wanted = exp(fixture_at(&x, index)) / total;
            assert_true(fabs(fixture_at(&out, index) - wanted) < 1e-6);
            assert_true(fabs(fixture_at(&logs, index) - log(wanted)) < 1e-5);
        } while (fixture_step(2, x.shape, index));
        pl_tensor_release(&out), pl_tensor_release(&logs);
    }
    pl_tensor_release(&base);
}

/* Every k of a row with many ties: ordered, stable, and what is left out is no better. */
static void test_topk_orders_and_keeps_ties_in_place(void **state) {
    (void)state;
    pl_call c = fixture_call();
    enum { N = 40 };
    pl_tensor x = fixture_random(PL_F32, 1, SHAPE(N), 6), values, places;
    for (int largest = 0; largest < 2; largest++) {
        for (int64_t k = 0; k <= N; k++) {
            bool taken[N] = {false};
            double sign = largest ? 1 : -1, last = INFINITY;
            int64_t last_place = -1;
            assert_int_equal(pl_op_topk(&c, &values, &places, &x, k, 0, largest), PL_OK);
            for (int64_t i = 0; i < k; i++) {
                double value = sign * fixture_at(&values, &i);
                int64_t place = (int64_t)fixture_at(&places, &i);
                assert_true(value == sign * fixture_at(&x, &place) && !taken[place]);
                assert_true(value < last || (value == last && place > last_place));
                taken[place] = true, last = value, last_place = place;
            }
            for (int64_t i = 0; i < N && k > 0; i++) {
                assert_true(taken[i] || sign * fixture_at(&x, &i) <= last);
            }
            pl_tensor_release(&values), pl_tensor_release(&places);
        }
    }
    fixture_refused(&c, pl_op_topk(&c, &values, &places, &x, N + 1, 0, true), PL_ERR_ARGUMENT,
                    "k = 41");
    pl_tensor_release(&x);
}

static void test_indices_choose_and_are_checked(void **state) {
    (void)state;
    pl_call c = fixture_call();
    pl_tensor x = fixture_tensor(PL_F32, 2, SHAPE(2, 3), VALUES(1, 2, 3, 4, 5, 6)), out = {0};
    pl_tensor list = fixture_tensor(PL_I32, 1, SHAPE(3), VALUES(2, -3, 2));
    assert_int_equal(pl_op_index_select(&c, &out, &x, 1, &list), PL_OK);
    fixture_expect(&out, PL_F32, 2, SHAPE(2, 3), VALUES(3, 1, 3, 6, 4, 6), 0);
    pl_tensor_release(&out);
    fixture_refused(&c, pl_op_index_select(&c, &out, &x, 0, &list), PL_ERR_ARGUMENT,
                    "index 2: expected 0 to 1");
    assert_null(out.data);
    pl_tensor grid = fixture_tensor(PL_I64, 2, SHAPE(1, 3), VALUES(1, 0, -1));
    assert_int_equal(pl_op_gather(&c, &out, &x, 0, &grid), PL_OK);
    fixture_expect(&out, PL_F32, 2, SHAPE(1, 3), VALUES(4, 2, 6), 0);
    pl_tensor_release(&out);
    pl_tensor nine = fixture_tensor(PL_F32, 0, NULL, VALUES(9));
    pl_tensor bad = fixture_tensor(PL_I64, 1, SHAPE(2), VALUES(0, 3));
    fixture_refused(&c, pl_op_index_fill_(&c, &x, 1, &bad, &nine), PL_ERR_ARGUMENT, "index 3");
    fixture_expect(&x, PL_F32, 2, SHAPE(2, 3), VALUES(1, 2, 3, 4, 5, 6), 0); /* none was filled */
    assert_int_equal(pl_op_index_fill_(&c, &x, 1, &list, &nine), PL_OK);
    fixture_expect(&x, PL_F32, 2, SHAPE(2, 3), VALUES(9, 2, 9, 9, 5, 9), 0);
    pl_tensor_release(&x), pl_tensor_release(&list), pl_tensor_release(&grid);
    pl_tensor_release(&nine), pl_tensor_release(&bad);
}

static void test_cat_joins_and_promotes(void **state) {
    (void)state;
    pl_call c = fixture_call();
    pl_tensor a = fixture_tensor(PL_I32, 2, SHAPE(2, 1), VALUES(1, 2)), out = {0};
    pl_tensor b = fixture_tensor(PL_F32, 2, SHAPE(2, 2), VALUES(3, 4, 5, 6.5));
    const pl_tensor *parts[] = {&a, &b, &a};
    assert_int_equal(pl_op_cat(&c, &out, parts, 3, 1), PL_OK);
    fixture_expect(&out, PL_F32, 2, SHAPE(2, 4), VALUES(1, 3, 4, 1, 2, 5, 6.5, 2), 0);
    pl_tensor_release(&out);
    fixture_refused(&c, pl_op_cat(&c, &out, parts, 3, 0), PL_ERR_SHAPE, "[2, 1] and [2, 2]");
    pl_tensor_release(&a), pl_tensor_release(&b);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_reductions_of_a_row),
        cmocka_unit_test(test_sums_of_every_dimension),
        cmocka_unit_test(test_empty_and_strange_numbers),
        cmocka_unit_test(test_integers_keep_their_digits),
        cmocka_unit_test(test_softmax_along_any_dimension),
        cmocka_unit_test(test_topk_orders_and_keeps_ties_in_place),
        cmocka_unit_test(test_indices_choose_and_are_checked),
        cmocka_unit_test(test_cat_joins_and_promotes),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
