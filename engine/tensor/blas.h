/* OpenBLAS and its LAPACK, opened by the first operation that needs them: a program that only
 * generates never pays for loading them. Fortran symbols, everything by address.
 *
 * OpenBLAS reads its environment while it is opened. For that time it is told to use a single
 * thread, as its own pool would fight the engine's, and which processor it runs on: it takes one
 * that is newer than itself for an old one, and multiplies at a half to a fifth of the speed.
 * What the user has set in OPENBLAS_CORETYPE stands. */
#ifndef PL_TENSOR_BLAS_H
#define PL_TENSOR_BLAS_H

#include "../perilune.h"

typedef struct pl_blas {
    void (*sgemm)(const char *transa, const char *transb, const int *m, const int *n, const int *k,
                  const float *alpha, const float *a, const int *lda, const float *b,
                  const int *ldb, const float *beta, float *c, const int *ldc);
    void (*set_num_threads)(int n);
    void (*sgesv)(const int *n, const int *nrhs, float *a, const int *lda, int *ipiv, float *b,
                  const int *ldb, int *info);
    void (*sgelsd)(const int *m, const int *n, const int *nrhs, float *a, const int *lda, float *b,
                   const int *ldb, float *s, const float *rcond, int *rank, float *work,
                   const int *lwork, int *iwork, int *info);
    void (*sgesdd)(const char *jobz, const int *m, const int *n, float *a, const int *lda, float *s,
                   float *u, const int *ldu, float *vt, const int *ldvt, float *work,
                   const int *lwork, int *iwork, int *info);
    void (*ssyevd)(const char *jobz, const char *uplo, const int *n, float *a, const int *lda,
                   float *w, float *work, const int *lwork, int *iwork, const int *liwork,
                   int *info);
    void (*sgeev)(const char *jobvl, const char *jobvr, const int *n, float *a, const int *lda,
                  float *wr, float *wi, float *vl, const int *ldvl, float *vr, const int *ldvr,
                  float *work, const int *lwork, int *info);
    void (*spotrf)(const char *uplo, const int *n, float *a, const int *lda, int *info);
    void (*sgeqrf)(const int *m, const int *n, float *a, const int *lda, float *tau, float *work,
                   const int *lwork, int *info);
    void (*sorgqr)(const int *m, const int *n, const int *k, float *a, const int *lda,
                   const float *tau, float *work, const int *lwork, int *info);
    void (*sgetrf)(const int *m, const int *n, float *a, const int *lda, int *ipiv, int *info);
} pl_blas;

/* The library, opened once a process, from any thread. PL_ERR_UNSUPPORTED with the system's reason
 * where it is not installed. */
pl_status pl_blas_open(const pl_blas **blas, pl_error *err);

/* c = factor a b + keep c, by rows: a [m, k], b [k, n], c [m, n]; a transposed operand is stored as
 * [k, m] or [n, k]. */
void pl_blas_multiply(const pl_blas *blas, bool a_transposed, bool b_transposed, int m, int n,
                      int k, float factor, const float *a, int lda, const float *b, int ldb,
                      float keep, float *c, int ldc);

#endif
