/* Small tensors for the suites of the tensor layer. */
#ifndef PL_TESTS_TENSOR_FIXTURE_H
#define PL_TESTS_TENSOR_FIXTURE_H

#include "../../engine/tensor/call.h"

/* A call with owned outputs; fails the test when it cannot begin. */
pl_call fixture_call(void);

/* An owned tensor of the given shape with these values (converted), or with whole numbers from -5
 * to 5 that depend on the seed. */
pl_tensor fixture_tensor(pl_dtype dtype, int n_dims, const int64_t *shape, const double *values);
pl_tensor fixture_random(pl_dtype dtype, int n_dims, const int64_t *shape, uint64_t seed);

/* One element by its indices, found by the strides alone. */
double fixture_at(const pl_tensor *t, const int64_t *index);

/* Steps an index through a shape in row-major order; false when it comes round. */
bool fixture_step(int n_dims, const int64_t *shape, int64_t *index);

/* Fails the test unless shape and elements, in row-major order, are these. */
void fixture_expect(const pl_tensor *t, pl_dtype dtype, int n_dims, const int64_t *shape,
                    const double *values, double tolerance);

/* Fails the test unless status is `expected` and the message has `part`. */
void fixture_refused(const pl_call *c, pl_status status, pl_status expected, const char *part);

#define SHAPE(...) ((const int64_t[]){__VA_ARGS__})
#define VALUES(...) ((const double[]){__VA_ARGS__})

#endif
