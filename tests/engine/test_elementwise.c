/* Operations element by element, against plain loops over indices. */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>
#include <cmocka.h>

#include "../../engine/tensor/elementwise.h"
#include "tensor_fixture.h"

static const pl_dtype dtypes[] = {PL_F32, PL_I32, PL_I64};

static double reference(pl_binary op, double a, double b) {
    switch (op) {
    case PL_ADD:
        return a + b;
    case PL_SUB:
        return a - b;
    case PL_MUL:
        return a * b;
    case PL_MAXIMUM:
        return fmax(a, b);
    case PL_MINIMUM:
        return fmin(a, b);
    case PL_LT:
        return a < b;
    case PL_LE:
        return a <= b;
    case PL_GT:
        return a > b;
    case PL_GE:
        return a >= b;
    case PL_EQ:
        return a == b;
    default:
        return a != b;
    }
}

/* The index into an operand whose dimensions are fewer, or of size 1. */
static double broadcast_at(const pl_tensor *t, int n_dims, const int64_t *index) {
    int64_t own[PL_MAX_DIMS];
    for (int i = 0; i < t->n_dims; i++) {
        own[i] = t->shape[i] == 1 ? 0 : index[n_dims - t->n_dims + i];
    }
    return fixture_at(t, own);
}

static void check_binary(pl_binary op, const pl_tensor *a, const pl_tensor *b, pl_dtype dtype) {
    pl_call c = fixture_call();
    pl_tensor out = {0};
    assert_int_equal(pl_op_binary(&c, &out, a, b, op), PL_OK);
    assert_int_equal(out.dtype, dtype);
    int64_t index[PL_MAX_DIMS] = {0};
    do {
        double x = broadcast_at(a, out.n_dims, index), y = broadcast_at(b, out.n_dims, index);
        assert_true(fixture_at(&out, index) == reference(op, x, y));
    } while (fixture_step(out.n_dims, out.shape, index));
    pl_tensor_release(&out);
}

static void test_binaries_broadcast_and_promote(void **state) {
    (void)state;
    static const pl_binary ops[] = {PL_ADD, PL_SUB, PL_MUL, PL_MAXIMUM, PL_MINIMUM, PL_LT,
                                    PL_LE,  PL_GT,  PL_GE,  PL_EQ,      PL_NE};
    static const struct {
        int n_dims;
        int64_t shape[3];
    } shapes[] = {{3, {2, 3, 5}}, {1, {5}}, {2, {3, 1}}, {3, {2, 1, 5}}, {0, {0}}};
    pl_error err;
    for (size_t o = 0; o < sizeof ops / sizeof *ops; o++) {
        for (int kind = 0; kind < 9; kind++) {
            pl_dtype first = dtypes[kind / 3], second = dtypes[kind % 3];
            pl_tensor a = fixture_random(first, 3, SHAPE(5, 3, 2), o + 1);
            pl_tensor turned = a;
            assert_int_equal(pl_tensor_transpose(&turned, 0, 2, &err), PL_OK);
            pl_dtype sum = first == PL_F32 || second == PL_F32   ? PL_F32
                           : first == PL_I64 || second == PL_I64 ? PL_I64
                                                                 : PL_I32;
            for (size_t s = 0; s < sizeof shapes / sizeof *shapes; s++) {
                pl_tensor b = fixture_random(second, shapes[s].n_dims, shapes[s].shape, s + 9);
                check_binary(ops[o], &turned, &b, ops[o] >= PL_LT ? PL_I32 : sum);
                check_binary(ops[o], &b, &turned, ops[o] >= PL_LT ? PL_I32 : sum);
                pl_tensor_release(&b);
            }
            pl_tensor_release(&a);
        }
    }
}

static void test_division_is_true_or_floors(void **state) {
    (void)state;
    pl_call c = fixture_call();
    pl_tensor a = fixture_tensor(PL_I64, 1, SHAPE(4), VALUES(7, -7, 7, -7)), out = {0};
    pl_tensor b = fixture_tensor(PL_I64, 1, SHAPE(4), VALUES(2, 2, -2, -2));
    assert_int_equal(pl_op_binary(&c, &out, &a, &b, PL_DIV), PL_OK);
    fixture_expect(&out, PL_F32, 1, SHAPE(4), VALUES(3.5, -3.5, -3.5, 3.5), 0);
    pl_tensor_release(&out);
    assert_int_equal(pl_op_binary(&c, &out, &a, &b, PL_FLOOR_DIV), PL_OK);
    fixture_expect(&out, PL_I64, 1, SHAPE(4), VALUES(3, -4, -4, 3), 0);
    pl_tensor_release(&out);
    assert_int_equal(pl_op_binary(&c, &out, &a, &b, PL_MOD), PL_OK);
    fixture_expect(&out, PL_I64, 1, SHAPE(4), VALUES(1, 1, -1, -1), 0);
    pl_tensor_release(&out);
    pl_tensor zero = fixture_tensor(PL_I32, 1, SHAPE(1), VALUES(0));
    fixture_refused(&c, pl_op_binary(&c, &out, &a, &zero, PL_MOD), PL_ERR_ARGUMENT, "divided by 0");
    assert_null(out.data);
    pl_tensor_release(&zero), pl_tensor_release(&a), pl_tensor_release(&b);
}

static void test_integers_wrap_and_keep_their_digits(void **state) {
    (void)state;
    pl_call c = fixture_call();
    int64_t first[] = {INT64_MAX, INT64_MIN, (1LL << 53) + 1}, second[] = {1, -1, 1LL << 53};
    pl_tensor a, b, out = {0};
    assert_int_equal(pl_tensor_wrap(&a, PL_I64, 1, SHAPE(3), first, &c.err), PL_OK);
    assert_int_equal(pl_tensor_wrap(&b, PL_I64, 1, SHAPE(3), second, &c.err), PL_OK);
    static const struct {
        pl_binary op;
        int64_t expected[3];
    } cases[] = {{PL_ADD, {INT64_MIN, INT64_MAX, (1LL << 54) + 1}},
                 {PL_FLOOR_DIV, {INT64_MAX, INT64_MIN, 1}},
                 {PL_MOD, {0, 0, 1}}};
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        assert_int_equal(pl_op_binary(&c, &out, &a, &b, cases[i].op), PL_OK);
        assert_memory_equal(out.data, cases[i].expected, sizeof cases[i].expected);
        pl_tensor_release(&out);
    }
    assert_int_equal(pl_op_binary(&c, &out, &a, &b, PL_EQ), PL_OK);
    fixture_expect(&out, PL_I32, 1, SHAPE(3), VALUES(0, 0, 0), 0);
    pl_tensor_release(&out);
    assert_int_equal(pl_op_unary(&c, &out, &a, PL_ABS), PL_OK);
    assert_true(((int64_t *)out.data)[2] == (1LL << 53) + 1);
    pl_tensor_release(&out);
}

static void test_functions_agree_with_libm(void **state) {
    (void)state;
    static const struct {
        pl_unary op;
        double (*run)(double);
    } cases[] = {{PL_EXP, exp},   {PL_LOG, log}, {PL_SQRT, sqrt}, {PL_SIN, sin},
                 {PL_COS, cos},   {PL_ERF, erf}, {PL_TANH, tanh}, {PL_FLOOR, floor},
                 {PL_CEIL, ceil}, {PL_ABS, fabs}};
    pl_call c = fixture_call();
    pl_tensor x = fixture_tensor(PL_F32, 2, SHAPE(2, 3), VALUES(0.25, 1, 1.5, 2.75, 10, 30)), out;
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        for (int turned = 0; turned < 2; turned++) {
            pl_tensor view = x;
            if (turned) assert_int_equal(pl_tensor_transpose(&view, 0, 1, &c.err), PL_OK);
            assert_int_equal(pl_op_unary(&c, &out, &view, cases[i].op), PL_OK);
            int64_t index[2] = {0};
            do {
                double wanted = cases[i].run(fixture_at(&view, index));
                assert_true(fabs(fixture_at(&out, index) - wanted) <= 3e-7 * fabs(wanted) + 1e-7);
            } while (fixture_step(2, view.shape, index));
            pl_tensor_release(&out);
        }
    }
    fixture_refused(&c, pl_op_unary_(&c, &(pl_tensor){.dtype = PL_I32, .n_dims = 1}, PL_EXP),
                    PL_ERR_SHAPE, "float32");
    pl_tensor_release(&x);
}

static void test_writing_in_place_reads_first(void **state) {
    (void)state;
    pl_call c = fixture_call();
    pl_tensor x = fixture_tensor(PL_F32, 2, SHAPE(2, 2), VALUES(1, 2, 3, 4)), row = x, turned = x;
    assert_int_equal(pl_tensor_transpose(&turned, 0, 1, &c.err), PL_OK);
    assert_int_equal(pl_op_binary_(&c, &x, &turned, PL_ADD), PL_OK);
    fixture_expect(&x, PL_F32, 2, SHAPE(2, 2), VALUES(2, 5, 5, 8), 0);
    assert_int_equal(pl_tensor_select(&row, 0, 0, &c.err), PL_OK);
    assert_int_equal(pl_op_binary_(&c, &x, &row, PL_SUB), PL_OK);
    fixture_expect(&x, PL_F32, 2, SHAPE(2, 2), VALUES(0, 0, 3, 3), 0);
    pl_tensor line = x, head, tail;
    assert_int_equal(pl_tensor_view(&line, 1, SHAPE(4), &c.err), PL_OK);
    head = tail = line;
    line.storage = NULL; /* borrowed memory overlaps as well */
    assert_int_equal(pl_tensor_narrow(&head, 0, 0, 3, &c.err), PL_OK);
    assert_int_equal(pl_tensor_narrow(&tail, 0, 1, 3, &c.err), PL_OK);
    for (int i = 0; i < 4; i++) ((float *)x.data)[i] = (float)i;
    assert_int_equal(pl_op_copy_(&c, &tail, &head), PL_OK);
    fixture_expect(&line, PL_F32, 1, SHAPE(4), VALUES(0, 0, 1, 2), 0);
    assert_int_equal(pl_op_binary_(&c, &x, &x, PL_ADD), PL_OK);
    fixture_expect(&line, PL_F32, 1, SHAPE(4), VALUES(0, 0, 2, 4), 0);
    pl_tensor_release(&x);
}

static void test_what_does_not_fit_names_both_shapes(void **state) {
    (void)state;
    pl_call c = fixture_call();
    pl_tensor a = fixture_random(PL_F32, 2, SHAPE(2, 3), 1), out = {0};
    pl_tensor b = fixture_random(PL_F32, 1, SHAPE(4), 1);
    pl_tensor wide = fixture_random(PL_F32, 3, SHAPE(2, 2, 3), 1);
    fixture_refused(&c, pl_op_binary(&c, &out, &a, &b, PL_ADD), PL_ERR_SHAPE, "[2, 3] and [4]");
    fixture_refused(&c, pl_op_binary_(&c, &a, &wide, PL_ADD), PL_ERR_SHAPE, "[2, 2, 3]");
    fixture_refused(&c, pl_op_copy_(&c, &a, &b), PL_ERR_SHAPE, "[2, 3] and [4]");
    assert_null(out.data);
    pl_tensor half = {.dtype = PL_F16, .n_dims = 1, .shape = {1}, .stride = {1}};
    fixture_refused(&c, pl_op_binary(&c, &out, &a, &half, PL_ADD), PL_ERR_SHAPE, "f16");
    pl_tensor_release(&a), pl_tensor_release(&b), pl_tensor_release(&wide);
}

static void test_conversions_take_the_nearest(void **state) {
    (void)state;
    pl_call c = fixture_call();
    float values[] = {1.75F, -1.75F, 3e9F, -3e9F, NAN, INFINITY};
    pl_tensor x, out;
    assert_int_equal(pl_tensor_wrap(&x, PL_F32, 1, SHAPE(6), values, &c.err), PL_OK);
    assert_int_equal(pl_op_to(&c, &out, &x, PL_I32), PL_OK);
    fixture_expect(&out, PL_I32, 1, SHAPE(6), VALUES(1, -1, INT32_MAX, INT32_MIN, 0, INT32_MAX), 0);
    pl_tensor_release(&out);
    assert_int_equal(pl_op_to(&c, &out, &x, PL_I64), PL_OK);
    assert_true(((int64_t *)out.data)[2] == 3000000000 && ((int64_t *)out.data)[5] == INT64_MAX);
    pl_tensor_release(&out);
    uint16_t halves[] = {0x3e00, 0xc000};
    assert_int_equal(pl_tensor_wrap(&x, PL_F16, 1, SHAPE(2), halves, &c.err), PL_OK);
    assert_int_equal(pl_op_to(&c, &out, &x, PL_F32), PL_OK);
    fixture_expect(&out, PL_F32, 1, SHAPE(2), VALUES(1.5, -2), 0);
    pl_tensor_release(&out);
    assert_int_equal(pl_op_to(&c, &out, &x, PL_I32), PL_ERR_UNSUPPORTED);
    assert_null(out.data);
}

static void test_where_chooses(void **state) {
    (void)state;
    pl_call c = fixture_call();
    pl_tensor mask = fixture_tensor(PL_I32, 2, SHAPE(2, 1), VALUES(1, 0)), out;
    pl_tensor a = fixture_tensor(PL_I64, 1, SHAPE(2), VALUES(1, 2));
    pl_tensor b = fixture_tensor(PL_I32, 0, NULL, VALUES(9));
    assert_int_equal(pl_op_where(&c, &out, &mask, &a, &b), PL_OK);
    fixture_expect(&out, PL_I64, 2, SHAPE(2, 2), VALUES(1, 2, 9, 9), 0);
    pl_tensor_release(&out), pl_tensor_release(&mask), pl_tensor_release(&a), pl_tensor_release(&b);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_binaries_broadcast_and_promote),
        cmocka_unit_test(test_division_is_true_or_floors),
        cmocka_unit_test(test_integers_wrap_and_keep_their_digits),
        cmocka_unit_test(test_functions_agree_with_libm),
        cmocka_unit_test(test_writing_in_place_reads_first),
        cmocka_unit_test(test_what_does_not_fit_names_both_shapes),
        cmocka_unit_test(test_conversions_take_the_nearest),
        cmocka_unit_test(test_where_chooses),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
