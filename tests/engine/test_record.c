/* Who holds the record of operations, and that it goes with the last who can ask for a gradient. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <cmocka.h>

#include "../../engine/tensor/elementwise.h"
#include "../../engine/tensor/grad.h"
#include "../../engine/tensor/reduce.h"
#include "tensor_fixture.h"

static int n_freed;

static void count_freed(pl_storage *storage) {
    n_freed++;
    free(storage->data);
    free(storage);
}

static void counted(pl_tensor *t) {
    t->storage->release = count_freed;
}

static void must(const pl_call *c, pl_status status) {
    if (status != PL_OK) print_error("%s\n", c->err.message);
    assert_int_equal(status, PL_OK);
}

static pl_tensor leaf(pl_call *c, float a, float b) {
    pl_tensor t;
    must(c, pl_tensor_new(&t, PL_F32, 1, SHAPE(2), &c->err));
    ((float *)t.data)[0] = a;
    ((float *)t.data)[1] = b;
    must(c, pl_require_grad(c, &t));
    counted(&t);
    return t;
}

static pl_tensor product(pl_call *c, const pl_tensor *a, const pl_tensor *b) {
    pl_tensor out;
    must(c, pl_op_binary(c, &out, a, b, PL_MUL));
    counted(&out);
    return out;
}

static void add_(pl_call *c, const pl_tensor *to, const pl_tensor *t) {
    must(c, pl_op_binary_(c, to, t, PL_ADD));
}

/* y = x x; z = y y; y += z */
static void written_from_itself(pl_call *c, pl_tensor *x, pl_tensor *y, pl_tensor *z) {
    n_freed = 0;
    *x = leaf(c, 2, 3);
    *y = product(c, x, x);
    *z = product(c, y, y);
    add_(c, y, z);
}

static void test_writes_from_themselves_are_freed(void **state) {
    (void)state;
    pl_call c = fixture_call();
    pl_tensor x, y, z;
    written_from_itself(&c, &x, &y, &z);
    for (int i = 0; i < 3; i++) { /* and once more, the record growing */
        pl_tensor again = product(&c, &y, &z);
        add_(&c, &y, &again);
        add_(&c, &z, &again);
        pl_tensor_release(&again);
    }
    pl_tensor_release(&x);
    pl_tensor_release(&z);
    assert_int_equal(n_freed, 0);
    pl_tensor_release(&y);
    assert_int_equal(n_freed, 6);
}

static void test_what_only_the_record_holds_is_walked(void **state) {
    (void)state;
    pl_call c = fixture_call();
    pl_tensor x, y, z, sum, grad;
    written_from_itself(&c, &x, &y, &z);
    must(&c, pl_op_reduce(&c, &sum, &y, PL_SUM, -1, false));
    pl_tensor_release(&y);
    pl_tensor_release(&z);
    assert_int_equal(n_freed, 0);
    must(&c, pl_backward(&c, &sum, NULL, false)); /* x^2 + x^4 */
    pl_get_grad(&x, &grad);
    assert_float_equal(((float *)grad.data)[0], 2 * 2 + 4 * 8, 0);
    assert_float_equal(((float *)grad.data)[1], 2 * 3 + 4 * 27, 0);
    assert_int_equal(n_freed, 2);
    pl_tensor_release(&grad);
    pl_tensor_release(&sum);
    pl_tensor_release(&x);
    assert_int_equal(n_freed, 3);
}

/* The writer of y is forgotten with y; that y was written is not. */
static void test_values_gone_are_still_told(void **state) {
    (void)state;
    pl_call c = fixture_call();
    pl_tensor x, y, z, sum;
    written_from_itself(&c, &x, &y, &z);
    must(&c, pl_op_reduce(&c, &sum, &z, PL_SUM, -1, false));
    pl_tensor_release(&y);
    assert_int_equal(pl_backward(&c, &sum, NULL, false), PL_ERR_STATE);
    pl_tensor_release(&sum);
    pl_tensor_release(&z);
    pl_tensor_release(&x);
    assert_int_equal(n_freed, 3);
}

static void test_views_hold_the_record(void **state) {
    (void)state;
    pl_call c = fixture_call();
    pl_tensor x, y, z, view, grad;
    written_from_itself(&c, &x, &y, &z);
    view = y;
    pl_tensor_retain(&view);
    must(&c, pl_tensor_select(&view, 0, 1, &c.err));
    pl_tensor_release(&y);
    pl_tensor_release(&z);
    must(&c, pl_backward(&c, &view, NULL, false));
    pl_get_grad(&x, &grad);
    assert_float_equal(((float *)grad.data)[0], 0, 0);
    assert_float_equal(((float *)grad.data)[1], 2 * 3 + 4 * 27, 0);
    pl_tensor_release(&grad);
    pl_tensor_release(&view);
    pl_tensor_release(&x);
    assert_int_equal(n_freed, 3);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_writes_from_themselves_are_freed),
        cmocka_unit_test(test_what_only_the_record_holds_is_walked),
        cmocka_unit_test(test_values_gone_are_still_told),
        cmocka_unit_test(test_views_hold_the_record),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
