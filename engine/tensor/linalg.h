/* Linear algebra through OpenBLAS and its LAPACK. Float32.
 *
 * Matrices come in any strides and are copied into LAPACK's column order. All failures leave the
 * outputs empty. */
#ifndef PL_TENSOR_LINALG_H
#define PL_TENSOR_LINALG_H

#include "blas.h"
#include "call.h"

/* The product of the last two dimensions, the ones before broadcast; one-dimensional operands are a
 * row and a column, as in NumPy. */
pl_status pl_op_matmul(pl_call *c, pl_tensor *out, const pl_tensor *a, const pl_tensor *b);

/* c += factor a b: a [m, k], b [k, n], c [m, n], rows lda, ldb and ldc apart; a transposed operand
 * is stored as [k, m] or [n, k]. Sizes below 2^31. Cut into fixed tiles, so that the number of
 * threads changes no bit. */
typedef struct pl_gemm {
    int64_t m, n, k;
    float factor;
    const float *a;
    int64_t lda;
    bool a_transposed;
    const float *b;
    int64_t ldb;
    bool b_transposed;
    float *c;
    int64_t ldc;
} pl_gemm;
void pl_gemm_add(const pl_blas *blas, int n_threads, const pl_gemm *g);

/* a x = b, a [n, n], b [n] or [n, m]. PL_ERR_ARGUMENT when a is singular. */
pl_status pl_op_solve(pl_call *c, pl_tensor *x, const pl_tensor *a, const pl_tensor *b);
/* The x of least norm that minimises |a x - b|, a [m, n] of any rank. */
pl_status pl_op_lstsq(pl_call *c, pl_tensor *x, const pl_tensor *a, const pl_tensor *b);
/* a = u diag(s) vt: a [m, n], u [m, k], s [k] descending, vt [k, n], k = min(m, n). */
pl_status pl_op_svd(pl_call *c, pl_tensor *u, pl_tensor *s, pl_tensor *vt, const pl_tensor *a);
/* Symmetric a [n, n] (the lower half is read): values [n] ascending, vectors [n, n] in columns. */
pl_status pl_op_eigh(pl_call *c, pl_tensor *values, pl_tensor *vectors, const pl_tensor *a);
/* General a [n, n]: values [n, 2] and vectors [n, n, 2], the last dimension real and imaginary
 * part; vector j is [:, j], of length 1. */
pl_status pl_op_eig(pl_call *c, pl_tensor *values, pl_tensor *vectors, const pl_tensor *a);
/* The inverse of a [n, n]. PL_ERR_ARGUMENT when a is singular. */
pl_status pl_op_inv(pl_call *c, pl_tensor *out, const pl_tensor *a);
/* Lower l with l lᵀ = a. PL_ERR_ARGUMENT when a is not positive definite. */
pl_status pl_op_cholesky(pl_call *c, pl_tensor *l, const pl_tensor *a);
/* a = q r: a [m, n], q [m, k], r [k, n]. */
pl_status pl_op_qr(pl_call *c, pl_tensor *q, pl_tensor *r, const pl_tensor *a);
/* The determinant of a [n, n]; and as float32 [], which gradients pass through. */
pl_status pl_op_det(pl_call *c, double *det, const pl_tensor *a);
pl_status pl_op_det_tensor(pl_call *c, pl_tensor *det, const pl_tensor *a);

#endif
