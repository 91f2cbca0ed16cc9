#include "tensor_fixture.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>
#include <cmocka.h>

#include "../../engine/base/random.h"
#include "../../engine/tensor/cursor.h"

pl_call fixture_call(void) {
    pl_call c;
    pl_error err;
    assert_int_equal(pl_call_init(&c, 1, &err), PL_OK);
    return c;
}

pl_tensor fixture_tensor(pl_dtype dtype, int n_dims, const int64_t *shape, const double *values) {
    pl_tensor t;
    pl_error err;
    assert_int_equal(pl_tensor_new(&t, dtype, n_dims, shape, &err), PL_OK);
    int64_t n = pl_tensor_count(&t);
    for (int64_t i = 0; i < n; i++) pl_set_element(&t, i, values[i]);
    return t;
}

pl_tensor fixture_random(pl_dtype dtype, int n_dims, const int64_t *shape, uint64_t seed) {
    pl_tensor t;
    pl_error err;
    pl_random random = {.seed = seed};
    assert_int_equal(pl_tensor_new(&t, dtype, n_dims, shape, &err), PL_OK);
    int64_t n = pl_tensor_count(&t);
    for (int64_t i = 0; i < n; i++) {
        pl_set_element(&t, i, (double)(pl_random_u32(&random) % 11) - 5);
    }
    return t;
}

double fixture_at(const pl_tensor *t, const int64_t *index) {
    int64_t at = 0;
    for (int i = 0; i < t->n_dims; i++) at += index[i] * t->stride[i];
    return pl_element(t, at);
}

bool fixture_step(int n_dims, const int64_t *shape, int64_t *index) {
    for (int i = n_dims - 1; i >= 0; i--) {
        if (++index[i] < shape[i]) return true;
        index[i] = 0;
    }
    return false;
}

void fixture_expect(const pl_tensor *t, pl_dtype dtype, int n_dims, const int64_t *shape,
                    const double *values, double tolerance) {
    int64_t index[PL_MAX_DIMS] = {0};
    assert_int_equal(t->dtype, dtype);
    assert_int_equal(t->n_dims, n_dims);
    for (int i = 0; i < n_dims; i++) assert_int_equal(t->shape[i], shape[i]);
    if (pl_tensor_count(t) == 0) return;
    size_t n = 0;
    do {
        double got = fixture_at(t, index), wanted = values[n++];
        if (!(got - wanted <= tolerance && wanted - got <= tolerance)) {
            fail_msg("element %zu: %.9g, expected %.9g", n - 1, got, wanted);
        }
    } while (fixture_step(n_dims, shape, index));
}

void fixture_refused(const pl_call *c, pl_status status, pl_status expected, const char *part) {
    assert_int_equal(status, expected);
    if (!strstr(c->err.message, part)) fail_msg("\"%s\" lacks \"%s\"", c->err.message, part);
}
