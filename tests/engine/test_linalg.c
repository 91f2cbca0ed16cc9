/* Products and linear algebra, against plain loops and the definitions of the factors. */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>
#include <cmocka.h>

#include "../../engine/base/random.h"
#include "../../engine/tensor/einsum.h"
#include "../../engine/tensor/linalg.h"
#include "tensor_fixture.h"

static pl_tensor random_matrix(int64_t m, int64_t n, uint64_t seed) {
    pl_tensor t;
    pl_error err;
    pl_random random = {.seed = seed};
    assert_int_equal(pl_tensor_new(&t, PL_F32, 2, SHAPE(m, n), &err), PL_OK);
    for (int64_t i = 0; i < m * n; i++) ((float *)t.data)[i] = pl_random_normal(&random);
    return t;
}

static pl_tensor turned(const pl_tensor *t, int a, int b) {
    pl_tensor view = *t;
    pl_error err;
    assert_int_equal(pl_tensor_transpose(&view, a, b, &err), PL_OK);
    return view;
}

/* Fails unless a b = expected. */
static void expect_product(const pl_tensor *a, const pl_tensor *b, const pl_tensor *expected,
                           double tolerance) {
    for (int64_t i = 0; i < a->shape[0]; i++) {
        for (int64_t j = 0; j < b->shape[1]; j++) {
            double sum = 0;
            for (int64_t k = 0; k < a->shape[1]; k++) {
                sum += fixture_at(a, SHAPE(i, k)) * fixture_at(b, SHAPE(k, j));
            }
            double wanted = fixture_at(expected, SHAPE(i, j));
            if (!(fabs(sum - wanted) <= tolerance)) {
                fail_msg("[%d, %d]: %.9g, expected %.9g", (int)i, (int)j, sum, wanted);
            }
        }
    }
}

static pl_tensor identity(int64_t n) {
    pl_tensor t = random_matrix(n, n, 1);
    for (int64_t i = 0; i < n * n; i++) ((float *)t.data)[i] = i % (n + 1) == 0;
    return t;
}

static void test_matmul_of_any_layout(void **state) {
    (void)state;
    static const int64_t sizes[][3] = {{1, 1, 1}, {2, 3, 4}, {5, 1, 7}, {17, 9, 3}, {3, 0, 2}};
    pl_call c = fixture_call();
    for (size_t s = 0; s < sizeof sizes / sizeof *sizes; s++) {
        for (int layout = 0; layout < 4; layout++) {
            int64_t m = sizes[s][0], k = sizes[s][1], n = sizes[s][2];
            pl_tensor left = layout & 1 ? random_matrix(k, m, 1) : random_matrix(m, k, 1);
            pl_tensor right = layout & 2 ? random_matrix(n, k, 2) : random_matrix(k, n, 2);
            pl_tensor a = layout & 1 ? turned(&left, 0, 1) : left;
            pl_tensor b = layout & 2 ? turned(&right, 0, 1) : right, out;
            assert_int_equal(pl_op_matmul(&c, &out, &a, &b), PL_OK);
            expect_product(&a, &b, &out, 1e-5);
            pl_tensor_release(&out), pl_tensor_release(&left), pl_tensor_release(&right);
        }
    }
}

static void test_matmul_broadcasts_batches(void **state) {
    (void)state;
    pl_call c = fixture_call();
    pl_tensor a = fixture_random(PL_F32, 4, SHAPE(2, 3, 4, 5), 1), out;
    pl_tensor b = fixture_random(PL_I32, 3, SHAPE(1, 5, 6), 2);
    assert_int_equal(pl_op_matmul(&c, &out, &a, &b), PL_OK);
    assert_int_equal(out.n_dims, 4);
    int64_t at[4] = {0};
    do {
        double sum = 0;
        for (int64_t k = 0; k < 5; k++) {
            sum +=
                fixture_at(&a, SHAPE(at[0], at[1], at[2], k)) * fixture_at(&b, SHAPE(0, k, at[3]));
        }
        assert_true(fixture_at(&out, at) == sum);
    } while (fixture_step(4, SHAPE(2, 3, 4, 6), at));
    pl_tensor_release(&out);
    pl_tensor row = fixture_random(PL_F32, 1, SHAPE(4), 3);
    fixture_refused(&c, pl_op_matmul(&c, &out, &a, &row), PL_ERR_SHAPE, "[2, 3, 4, 5]");
    pl_tensor_release(&a), pl_tensor_release(&b), pl_tensor_release(&row);
}

/* Sums over every letter, by indices. */
static void expect_einsum(const char *equation, const char *letters, const int64_t *sizes,
                          const pl_tensor *const *operands, int n) {
    pl_call c = fixture_call();
    pl_tensor out;
    assert_int_equal(pl_op_einsum(&c, &out, equation, operands, n), PL_OK);
    const char *arrow = strstr(equation, "->") + 2;
    int n_letters = (int)strlen(letters), n_out = (int)strlen(arrow);
    assert_int_equal(out.n_dims, n_out);
    int64_t index[8] = {0}, at[8];
    double sums[4096] = {0};
    do {
        double product = 1;
        const char *label = equation;
        for (int o = 0; o < n; o++, label++) {
            int d = 0;
            for (; *label != ',' && *label != '-'; label++) {
                at[d++] = index[strchr(letters, *label) - letters];
            }
            product *= fixture_at(operands[o], at);
        }
        int64_t place = 0;
        for (int d = 0; d < n_out; d++) {
            place = place * out.shape[d] + index[strchr(letters, arrow[d]) - letters];
        }
        sums[place] += product;
    } while (fixture_step(n_letters, sizes, index));
    fixture_expect(&out, PL_F32, n_out, out.shape, sums, 1e-3);
    pl_tensor_release(&out);
}

static void test_einsum_sums_over_letters(void **state) {
    (void)state;
    static const char *const pairs[] = {"ij,jk->ik",    "ij,jk->ki",     "ij,kj->ik",  "ji,jk->ik",
                                        "bij,bjk->bik", "bij,bkj->kib",  "ij,j->i",    "ij,ij->",
                                        "ij,kl->ilkj",  "ii,ij->j",      "bi,bj->bij", "ij,k->k",
                                        "i,i->i",       "bhij,bkh->bkij"};
    for (size_t p = 0; p < sizeof pairs / sizeof *pairs; p++) {
        char letters[9] = "";
        int64_t sizes[8], shapes[2][4];
        pl_tensor operands[2], bases[2];
        const char *label = pairs[p];
        for (int o = 0; o < 2; o++, label++) {
            int d = 0;
            for (; *label != ',' && *label != '-'; label++) {
                if (!strchr(letters, *label)) {
                    sizes[strlen(letters)] = 2 + (int64_t)strlen(letters) % 3;
                    strncat(letters, label, 1);
                }
                shapes[o][d++] = sizes[strchr(letters, *label) - letters];
            }
            int64_t reversed[4]; /* stored the other way round, so that nothing is contiguous */
            for (int i = 0; i < d; i++) reversed[i] = shapes[o][d - 1 - i];
            bases[o] = fixture_random(o ? PL_F32 : PL_I64, d, reversed, p + 1);
            operands[o] = bases[o];
            for (int i = 0; i < d / 2; i++) operands[o] = turned(&operands[o], i, d - 1 - i);
        }
        const pl_tensor *both[] = {&operands[0], &operands[1]};
        expect_einsum(pairs[p], letters, sizes, both, 2);
        pl_tensor_release(&bases[0]), pl_tensor_release(&bases[1]);
    }
    pl_tensor a = random_matrix(2, 3, 1), b = random_matrix(3, 4, 2), d = random_matrix(4, 2, 3);
    const pl_tensor *three[] = {&a, &b, &d};
    expect_einsum("ij,jk,kl->il", "ijkl", SHAPE(2, 3, 4, 2), three, 3);
    expect_einsum("ij->ji", "ij", SHAPE(2, 3), three, 1);
    pl_tensor_release(&a), pl_tensor_release(&b), pl_tensor_release(&d);
}

static void test_einsum_names_what_is_wrong(void **state) {
    (void)state;
    static const struct {
        const char *equation, *part;
    } cases[] = {{"ij,jk->ik", "'j' is 3 and 2"}, {"ij->ij", "does not name 2"},
                 {"ijk,ij->k", "operand 1"},      {"ij,kl->m", "'m' stands in the output only"},
                 {"ij,kl->ii", "twice"},          {"i.,kl->i", "unexpected '.'"},
                 {"ij,kl,->", "does not name"},   {"ij,kl->ik ->", "unexpected"}};
    pl_call c = fixture_call();
    pl_tensor a = random_matrix(2, 3, 1), out = {0};
    const pl_tensor *operands[] = {&a, &a};
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        pl_status status = pl_op_einsum(&c, &out, cases[i].equation, operands, 2);
        assert_int_not_equal(status, PL_OK);
        if (!strstr(c.err.message, cases[i].part)) fail_msg("\"%s\"", c.err.message);
        assert_null(out.data);
    }
    pl_tensor_release(&a);
}

static void test_solutions_solve(void **state) {
    (void)state;
    pl_call c = fixture_call();
    for (int64_t n = 1; n < 20; n += 6) {
        pl_tensor a = random_matrix(n, n, 7), b = random_matrix(n, 3, 8), x, one = identity(n);
        pl_tensor view = turned(&a, 0, 1);
        assert_int_equal(pl_op_solve(&c, &x, &view, &b), PL_OK);
        expect_product(&view, &x, &b, 1e-3);
        pl_tensor_release(&x);
        assert_int_equal(pl_op_inv(&c, &x, &view), PL_OK);
        expect_product(&view, &x, &one, 1e-3);
        pl_tensor_release(&x), pl_tensor_release(&a), pl_tensor_release(&b);
        pl_tensor_release(&one);
    }
    /* y = 1 + 2 x, and a matrix of rank 1: the shortest of all solutions. */
    pl_tensor a = fixture_tensor(PL_F32, 2, SHAPE(3, 2), VALUES(1, 0, 1, 1, 1, 2)), x;
    pl_tensor b = fixture_tensor(PL_I32, 1, SHAPE(3), VALUES(1, 3, 5));
    assert_int_equal(pl_op_lstsq(&c, &x, &a, &b), PL_OK);
    fixture_expect(&x, PL_F32, 1, SHAPE(2), VALUES(1, 2), 1e-5);
    pl_tensor_release(&x), pl_tensor_release(&a), pl_tensor_release(&b);
    a = fixture_tensor(PL_F32, 2, SHAPE(1, 2), VALUES(3, 4));
    b = fixture_tensor(PL_F32, 1, SHAPE(1), VALUES(25));
    assert_int_equal(pl_op_lstsq(&c, &x, &a, &b), PL_OK);
    fixture_expect(&x, PL_F32, 1, SHAPE(2), VALUES(3, 4), 1e-5);
    pl_tensor_release(&x), pl_tensor_release(&a), pl_tensor_release(&b);
}

static void test_factors_multiply_to_the_matrix(void **state) {
    (void)state;
    static const int64_t sizes[][2] = {{1, 1}, {5, 3}, {3, 5}, {40, 7}};
    pl_call c = fixture_call();
    for (size_t s = 0; s < sizeof sizes / sizeof *sizes; s++) {
        int64_t m = sizes[s][0], n = sizes[s][1], k = m < n ? m : n;
        pl_tensor a = random_matrix(m, n, s + 1), u, sv, vt, q, r, one = identity(k);
        assert_int_equal(pl_op_svd(&c, &u, &sv, &vt, &a), PL_OK);
        pl_tensor ut = turned(&u, 0, 1), v = turned(&vt, 0, 1);
        expect_product(&ut, &u, &one, 1e-5);
        expect_product(&vt, &v, &one, 1e-5);
        for (int64_t i = 0; i < m; i++) {
            for (int64_t j = 0; j < k; j++) {
                ((float *)u.data)[i * k + j] *= ((float *)sv.data)[j];
                if (j > 0) assert_true(((float *)sv.data)[j] <= ((float *)sv.data)[j - 1]);
            }
        }
        expect_product(&u, &vt, &a, 1e-4);
        assert_int_equal(pl_op_qr(&c, &q, &r, &a), PL_OK);
        pl_tensor qt = turned(&q, 0, 1);
        expect_product(&qt, &q, &one, 1e-5);
        expect_product(&q, &r, &a, 1e-4);
        if (k > 1) assert_true(fixture_at(&r, SHAPE(1, 0)) == 0);
        pl_tensor_release(&u), pl_tensor_release(&sv), pl_tensor_release(&vt);
        pl_tensor_release(&q), pl_tensor_release(&r), pl_tensor_release(&one);
        pl_tensor_release(&a);
    }
}

static void test_eigenvectors_keep_their_direction(void **state) {
    (void)state;
    enum { N = 6 };
    pl_call c = fixture_call();
    pl_tensor a = random_matrix(N, N, 4), w, v;
    assert_int_equal(pl_op_eig(&c, &w, &v, &a), PL_OK);
    bool complex = false;
    for (int64_t j = 0; j < N; j++) {
        double re = fixture_at(&w, SHAPE(j, 0)), im = fixture_at(&w, SHAPE(j, 1)), length = 0;
        complex |= im != 0;
        for (int64_t i = 0; i < N; i++) {
            double real = 0, imaginary = 0;
            for (int64_t k = 0; k < N; k++) {
                real += fixture_at(&a, SHAPE(i, k)) * fixture_at(&v, SHAPE(k, j, 0));
                imaginary += fixture_at(&a, SHAPE(i, k)) * fixture_at(&v, SHAPE(k, j, 1));
            }
            double x = fixture_at(&v, SHAPE(i, j, 0)), y = fixture_at(&v, SHAPE(i, j, 1));
            assert_true(fabs(real - (re * x - im * y)) < 1e-4);
            assert_true(fabs(imaginary - (re * y + im * x)) < 1e-4);
            length += x * x + y * y;
        }
        assert_true(fabs(length - 1) < 1e-5);
    }
    assert_true(complex);
    pl_tensor_release(&w), pl_tensor_release(&v), pl_tensor_release(&a);
    a = fixture_tensor(PL_F32, 2, SHAPE(2, 2), VALUES(2, 99, 1, 2)); /* the lower half is read */
    assert_int_equal(pl_op_eigh(&c, &w, &v, &a), PL_OK);
    fixture_expect(&w, PL_F32, 1, SHAPE(2), VALUES(1, 3), 1e-5);
    pl_tensor_release(&w), pl_tensor_release(&v), pl_tensor_release(&a);
}

static void test_cholesky_and_determinants(void **state) {
    (void)state;
    pl_call c = fixture_call();
    pl_tensor a = fixture_tensor(PL_F32, 2, SHAPE(2, 2), VALUES(4, 2, 2, 10)), l;
    double det;
    assert_int_equal(pl_op_cholesky(&c, &l, &a), PL_OK);
    fixture_expect(&l, PL_F32, 2, SHAPE(2, 2), VALUES(2, 0, 1, 3), 1e-6);
    assert_int_equal(pl_op_det(&c, &det, &a), PL_OK);
    assert_true(fabs(det - 36) < 1e-4);
    pl_tensor_release(&l), pl_tensor_release(&a);
    a = fixture_tensor(PL_I32, 2, SHAPE(3, 3), VALUES(0, 1, 0, 1, 0, 0, 0, 0, 1));
    assert_int_equal(pl_op_det(&c, &det, &a), PL_OK);
    assert_true(det == -1); /* one exchange of rows */
    fixture_refused(&c, pl_op_cholesky(&c, &l, &a), PL_ERR_ARGUMENT, "positive definite");
    pl_tensor_release(&a);
}

static void test_matrices_without_answer_are_refused(void **state) {
    (void)state;
    pl_call c = fixture_call();
    pl_tensor zero = fixture_tensor(PL_F32, 2, SHAPE(2, 2), VALUES(0, 0, 0, 0)), x = {0}, y = {0};
    pl_tensor wide = random_matrix(2, 3, 1), cube = fixture_random(PL_F32, 3, SHAPE(2, 2, 2), 1);
    pl_tensor broken = fixture_tensor(PL_F32, 2, SHAPE(1, 2), VALUES(1, NAN)), z = {0};
    fixture_refused(&c, pl_op_solve(&c, &x, &zero, &zero), PL_ERR_ARGUMENT, "singular");
    fixture_refused(&c, pl_op_inv(&c, &x, &zero), PL_ERR_ARGUMENT, "inv: ");
    fixture_refused(&c, pl_op_inv(&c, &x, &wide), PL_ERR_SHAPE, "square");
    fixture_refused(&c, pl_op_eig(&c, &x, &y, &wide), PL_ERR_SHAPE, "[2, 3]");
    fixture_refused(&c, pl_op_svd(&c, &x, &y, &z, &cube), PL_ERR_SHAPE, "expected a matrix");
    fixture_refused(&c, pl_op_svd(&c, &x, &y, &z, &broken), PL_ERR_ARGUMENT, "[0, 1]");
    fixture_refused(&c, pl_op_solve(&c, &x, &zero, &broken), PL_ERR_SHAPE, "[2, 2] and [1, 2]");
    assert_true(!x.data && !y.data && !z.data);
    pl_tensor_release(&zero), pl_tensor_release(&wide), pl_tensor_release(&cube);
    pl_tensor_release(&broken);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_matmul_of_any_layout),
        cmocka_unit_test(test_matmul_broadcasts_batches),
        cmocka_unit_test(test_einsum_sums_over_letters),
        cmocka_unit_test(test_einsum_names_what_is_wrong),
        cmocka_unit_test(test_solutions_solve),
        cmocka_unit_test(test_factors_multiply_to_the_matrix),
        cmocka_unit_test(test_eigenvectors_keep_their_direction),
        cmocka_unit_test(test_cholesky_and_determinants),
        cmocka_unit_test(test_matrices_without_answer_are_refused),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
