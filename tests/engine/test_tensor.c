/* Tensors: shapes, storage, views and names. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>
#include <cmocka.h>

#include "tensor_fixture.h"

static void test_shapes_that_lie_are_refused(void **state) {
    (void)state;
    pl_tensor t;
    pl_error err;
    assert_int_equal(pl_tensor_new(&t, PL_F32, 9, SHAPE(1, 1, 1, 1, 1, 1, 1, 1, 1), &err),
                     PL_ERR_SHAPE);
    assert_int_equal(pl_tensor_new(&t, PL_F32, 2, SHAPE(2, -1), &err), PL_ERR_SHAPE);
    assert_int_equal(pl_tensor_new(&t, PL_F32, 2, SHAPE(1LL << 40, 1LL << 40), &err),
                     PL_ERR_MEMORY);
    assert_int_equal(pl_tensor_new(&t, PL_F32, 2, SHAPE(1LL << 62, 4), &err), PL_ERR_MEMORY);
    assert_int_equal(pl_tensor_new(&t, PL_Q8_0, 2, SHAPE(2, 33), &err), PL_ERR_SHAPE);
    assert_non_null(strstr(err.message, "33"));
}

static void test_storage_lives_as_long_as_its_last_owner(void **state) {
    (void)state;
    pl_tensor t = fixture_random(PL_F32, 2, SHAPE(3, 4), 1), view = t;
    pl_error err;
    assert_int_equal(pl_tensor_select(&view, 0, 2, &err), PL_OK);
    pl_tensor_retain(&view);
    double last = fixture_at(&view, SHAPE(3));
    pl_tensor_release(&t);
    assert_null(t.data);
    pl_tensor_release(&t); /* an empty one is accepted */
    assert_true(fixture_at(&view, SHAPE(3)) == last);
    pl_tensor_release(&view);
}

static void test_views_share_elements(void **state) {
    (void)state;
    pl_tensor t = fixture_tensor(PL_I32, 2, SHAPE(2, 3), VALUES(1, 2, 3, 4, 5, 6)), v = t;
    pl_error err;
    assert_int_equal(pl_tensor_transpose(&v, 0, -1, &err), PL_OK);
    fixture_expect(&v, PL_I32, 2, SHAPE(3, 2), VALUES(1, 4, 2, 5, 3, 6), 0);
    assert_false(pl_tensor_contiguous(&v));
    assert_int_equal(pl_tensor_narrow(&v, 0, 1, 2, &err), PL_OK);
    fixture_expect(&v, PL_I32, 2, SHAPE(2, 2), VALUES(2, 5, 3, 6), 0);
    assert_int_equal(pl_tensor_select(&v, 1, -1, &err), PL_OK);
    fixture_expect(&v, PL_I32, 1, SHAPE(2), VALUES(5, 6), 0);
    ((int32_t *)v.data)[0] = 50;
    assert_true(fixture_at(&t, SHAPE(1, 1)) == 50);
    pl_tensor_release(&t);
}

static void test_indices_outside_are_named(void **state) {
    (void)state;
    pl_tensor t = fixture_random(PL_F32, 2, SHAPE(2, 3), 1), v = t;
    pl_error err;
    assert_int_equal(pl_tensor_select(&v, 1, 3, &err), PL_ERR_ARGUMENT);
    assert_non_null(strstr(err.message, "index 3 is outside dimension 1 of size 3"));
    assert_int_equal(pl_tensor_select(&v, 1, -4, &err), PL_ERR_ARGUMENT);
    assert_int_equal(pl_tensor_select(&v, 2, 0, &err), PL_ERR_ARGUMENT);
    assert_int_equal(pl_tensor_narrow(&v, 0, 1, 2, &err), PL_ERR_ARGUMENT);
    assert_int_equal(pl_tensor_narrow(&v, 0, INT64_MAX, 1, &err), PL_ERR_ARGUMENT);
    assert_int_equal(pl_tensor_narrow(&v, 0, 1, INT64_MAX, &err), PL_ERR_ARGUMENT);
    assert_int_equal(pl_tensor_narrow(&v, 0, 2, 0, &err), PL_OK);
    assert_int_equal(pl_tensor_count(&v), 0);
    pl_tensor_release(&t);
}

/* Every shape of 24 elements over every order of the dimensions: a view must hold the elements in
 * the order in which the tensor has them, or be refused. */
static void test_views_keep_the_order_of_elements(void **state) {
    (void)state;
    static const int64_t shapes[][4] = {{24, 1, 1, 1}, {2, 3, 4, 1},  {4, 6, 1, 1}, {3, 2, 2, 2},
                                        {1, 24, 1, 1}, {2, 1, 12, 1}, {6, 1, 1, 4}, {1, 2, 3, 4}};
    enum { N = sizeof shapes / sizeof *shapes };
    int n_viewed = 0, n_refused = 0;
    pl_error err;
    for (int from = 0; from < N; from++) {
        pl_tensor whole = fixture_random(PL_I64, 4, shapes[from], 1);
        for (int64_t i = 0; i < 24; i++) ((int64_t *)whole.data)[i] = i;
        for (int turn = 0; turn < 16; turn++) {
            pl_tensor t = whole;
            assert_int_equal(pl_tensor_transpose(&t, turn % 4, turn / 4, &err), PL_OK);
            for (int to = 0; to < N; to++) {
                pl_tensor v = t;
                if (pl_tensor_view(&v, 4, shapes[to], &err) != PL_OK) {
                    assert_false(pl_tensor_contiguous(&t));
                    n_refused++;
                    continue;
                }
                int64_t a[4] = {0}, b[4] = {0};
                do {
                    assert_true(fixture_at(&t, a) == fixture_at(&v, b));
                } while (fixture_step(4, t.shape, a) | fixture_step(4, v.shape, b));
                n_viewed++;
            }
        }
        pl_tensor_release(&whole);
    }
    assert_true(n_viewed > 8 * 8 * 4 && n_refused > 0);
}

static void test_views_complete_one_size(void **state) {
    (void)state;
    pl_tensor t = fixture_random(PL_F32, 2, SHAPE(4, 6), 1), v = t;
    pl_error err;
    assert_int_equal(pl_tensor_view(&v, 3, SHAPE(2, -1, 3), &err), PL_OK);
    assert_int_equal(v.shape[1], 4);
    assert_int_equal(pl_tensor_view(&v, 2, SHAPE(-1, -1), &err), PL_ERR_SHAPE);
    assert_int_equal(pl_tensor_view(&v, 2, SHAPE(-1, 5), &err), PL_ERR_SHAPE);
    assert_int_equal(pl_tensor_view(&v, 2, SHAPE(1LL << 62, 1LL << 62), &err), PL_ERR_SHAPE);
    assert_int_equal(pl_tensor_view(&v, 1, SHAPE(25), &err), PL_ERR_SHAPE);
    assert_non_null(strstr(err.message, "[2, 4, 3] cannot be viewed as [25]"));
    pl_tensor_release(&t);
}

static void test_names_follow_their_dimensions(void **state) {
    (void)state;
    pl_tensor t = fixture_random(PL_F32, 3, SHAPE(2, 3, 4), 1);
    pl_error err;
    char text[PL_SHAPE_TEXT];
    assert_int_equal(pl_tensor_name(&t, (const char *[]){"pos", "head", ""}, &err), PL_OK);
    assert_string_equal(pl_tensor_shape_text(&t, text), "[pos 2, head 3, 4]");
    assert_int_equal(pl_tensor_transpose(&t, 0, 1, &err), PL_OK);
    assert_int_equal(pl_tensor_find_dim(&t, "pos"), 1);
    assert_int_equal(pl_tensor_find_dim(&t, ""), -1);
    pl_tensor row = t;
    assert_int_equal(pl_tensor_select(&row, 0, 0, &err), PL_OK);
    assert_int_equal(pl_tensor_find_dim(&row, "pos"), 0);
    assert_int_equal(pl_tensor_find_dim(&row, "head"), -1);
    assert_int_equal(pl_tensor_name(&t, (const char *[]){"a", "b", "a"}, &err), PL_ERR_ARGUMENT);
    assert_int_equal(pl_tensor_name(&t, (const char *[]){"a", "b", "sixteen letters!"}, &err),
                     PL_ERR_ARGUMENT);
    assert_int_equal(pl_tensor_find_dim(&t, "pos"), 1); /* a failed naming changes nothing */
    pl_tensor_release(&t);
}

static void test_quantised_rows_are_cut_whole(void **state) {
    (void)state;
    pl_tensor t, v;
    pl_error err;
    assert_int_equal(pl_tensor_new(&t, PL_Q8_0, 2, SHAPE(4, 64), &err), PL_OK);
    assert_int_equal(pl_tensor_row_bytes(&t), 68);
    v = t;
    assert_int_equal(pl_tensor_narrow(&v, 0, 1, 2, &err), PL_OK);
    assert_ptr_equal(v.data, (char *)t.data + 68);
    assert_int_equal(pl_tensor_narrow(&v, 1, 0, 32, &err), PL_ERR_SHAPE);
    assert_int_equal(pl_tensor_transpose(&v, 0, 1, &err), PL_ERR_SHAPE);
    pl_tensor_release(&t);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_shapes_that_lie_are_refused),
        cmocka_unit_test(test_storage_lives_as_long_as_its_last_owner),
        cmocka_unit_test(test_views_share_elements),
        cmocka_unit_test(test_indices_outside_are_named),
        cmocka_unit_test(test_views_keep_the_order_of_elements),
        cmocka_unit_test(test_views_complete_one_size),
        cmocka_unit_test(test_names_follow_their_dimensions),
        cmocka_unit_test(test_quantised_rows_are_cut_whole),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
