#include "linalg.h"

#include <limits.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "../base/error.h"
#include "../base/threads.h"
#include "cursor.h"
#include "elementwise.h"
#include "grad_rules.h"

/* -- matrices in LAPACK's order --------------------------------------------------------------- */

/* A column-major copy; empty matrices get one row so that leading dimensions are legal. */
typedef struct matrix {
    float *data;
    int m, n, ld;
} matrix;

static pl_status no_memory(pl_call *c) {
    return pl_fail(&c->err, PL_ERR_MEMORY, "out of memory for linear algebra");
}

static pl_status check_matrix(pl_call *c, const pl_tensor *t, const char *what) {
    char shape[PL_SHAPE_TEXT];
    bool number = t->dtype == PL_F32 || t->dtype == PL_I32 || t->dtype == PL_I64;
    if (number && t->n_dims == 2 && t->shape[0] <= 1 << 20 && t->shape[1] <= 1 << 20) return PL_OK;
    return pl_fail(&c->err, PL_ERR_SHAPE, "%s: expected a matrix, got %s %s", what,
                   pl_dtype_get(t->dtype)->name, pl_tensor_shape_text(t, shape));
}

static pl_status check_square(pl_call *c, const pl_tensor *t, const char *what) {
    char shape[PL_SHAPE_TEXT];
    pl_status status = check_matrix(c, t, what);
    if (status != PL_OK || t->shape[0] == t->shape[1]) return status;
    return pl_fail(&c->err, PL_ERR_SHAPE, "%s: expected a square matrix, got %s", what,
                   pl_tensor_shape_text(t, shape));
}

/* Room for at least `rows` rows; a is read as [m, n]. NaN and infinity are refused: some of
 * LAPACK's routines never end on them. */
static pl_status load_matrix(pl_call *c, matrix *out, const pl_tensor *a, int64_t rows) {
    *out = (matrix){NULL, (int)a->shape[0], (int)a->shape[1], 0};
    int64_t ld = rows > a->shape[0] ? rows : a->shape[0];
    out->ld = (int)(ld > 1 ? ld : 1);
    out->data = calloc((size_t)out->ld * (size_t)(out->n + 1), sizeof *out->data);
    if (!out->data) return no_memory(c);
    for (int64_t i = 0; i < a->shape[0]; i++) {
        for (int64_t j = 0; j < a->shape[1]; j++) {
            double x = pl_element(a, i * a->stride[0] + j * a->stride[1]);
            if (!isfinite(x)) {
                return pl_fail(&c->err, PL_ERR_ARGUMENT, "element [%lld, %lld] of a matrix is %s",
                               (long long)i, (long long)j, isnan(x) ? "nan" : "infinite");
            }
            out->data[j * out->ld + i] = (float)x;
        }
    }
    return PL_OK;
}

/* The first m rows and n columns as a tensor. */
static pl_status store_matrix(pl_call *c, pl_tensor *out, const matrix *a, int64_t m, int64_t n) {
    pl_status status = pl_call_tensor(c, out, PL_F32, 2, (int64_t[]){m, n});
    for (int64_t i = 0; i < m && status == PL_OK; i++) {
        for (int64_t j = 0; j < n; j++) ((float *)out->data)[i * n + j] = a->data[j * a->ld + i];
    }
    return status;
}

static pl_status store_vector(pl_call *c, pl_tensor *out, const float *x, int64_t n) {
    pl_status status = pl_call_tensor(c, out, PL_F32, 1, &n);
    if (status == PL_OK && n) memcpy(out->data, x, (size_t)n * sizeof *x);
    return status;
}

static pl_status failed(pl_call *c, const char *what, int info, const char *why) {
    if (info < 0) return pl_fail(&c->err, PL_ERR_ARGUMENT, "%s: argument %d refused", what, -info);
    return pl_fail(&c->err, PL_ERR_ARGUMENT, "%s: %s", what, why);
}

static int smaller(int a, int b) {
    return a < b ? a : b;
}

/* -- products ---------------------------------------------------------------------------------- */

/* A float32 copy with contiguous rows, or the tensor itself where it has them already. */
static pl_status as_rows(pl_call *c, pl_tensor *out, const pl_tensor *t) {
    if (t->dtype == PL_F32 && t->stride[t->n_dims - 1] == 1 &&
        t->stride[t->n_dims - 2] >= t->shape[t->n_dims - 1] &&
        t->stride[t->n_dims - 2] <= INT_MAX) {
        *out = *t;
        out->storage = NULL; /* borrowed: releasing it does nothing */
        return PL_OK;
    }
    return pl_op_to(c, out, t, PL_F32);
}

static void multiply(const pl_blas *blas, float *out, const pl_tensor *a, int64_t a_at,
                     const pl_tensor *b, int64_t b_at) {
    int m = (int)a->shape[a->n_dims - 2], k = (int)a->shape[a->n_dims - 1];
    int n = (int)b->shape[b->n_dims - 1];
    if (m == 0 || n == 0) return;
    if (k == 0) {
        memset(out, 0, (size_t)m * (size_t)n * sizeof *out);
        return;
    }
    int64_t lda = a->stride[a->n_dims - 2], ldb = b->stride[b->n_dims - 2];
    pl_blas_multiply(blas, false, false, m, n, k, 1, (float *)a->data + a_at,
                     (int)(lda > k ? lda : k), (float *)b->data + b_at, (int)(ldb > n ? ldb : n), 0,
                     out, n);
}

/* -- products in tiles, for training ----------------------------------------------------------- */

enum { GEMM_ROWS = 128, GEMM_COLUMNS = 512 };

typedef struct gemm_job {
    const pl_blas *blas;
    const pl_gemm *g;
    int64_t n_row_tiles;
} gemm_job;

static void run_gemm(void *context, size_t task, int thread) {
    (void)thread;
    const gemm_job *job = context;
    const pl_gemm *g = job->g;
    int64_t i = (int64_t)task % job->n_row_tiles * GEMM_ROWS;
    int64_t j = (int64_t)task / job->n_row_tiles * GEMM_COLUMNS;
    int64_t m = g->m - i < GEMM_ROWS ? g->m - i : GEMM_ROWS;
    int64_t n = g->n - j < GEMM_COLUMNS ? g->n - j : GEMM_COLUMNS;
    const float *a = g->a + (g->a_transposed ? i : i * g->lda);
    const float *b = g->b + (g->b_transposed ? j * g->ldb : j);
    pl_blas_multiply(job->blas, g->a_transposed, g->b_transposed, (int)m, (int)n, (int)g->k,
                     g->factor, a, (int)g->lda, b, (int)g->ldb, 1, g->c + i * g->ldc + j,
                     (int)g->ldc);
}

void pl_gemm_add(const pl_blas *blas, int n_threads, const pl_gemm *g) {
    if (g->m == 0 || g->n == 0 || g->k == 0) return;
    gemm_job job = {blas, g, (g->m + GEMM_ROWS - 1) / GEMM_ROWS};
    int64_t n_column_tiles = (g->n + GEMM_COLUMNS - 1) / GEMM_COLUMNS;
    pl_parallel(n_threads, (size_t)(job.n_row_tiles * n_column_tiles), run_gemm, &job);
}

/* Both at least two-dimensional, rows contiguous; `batch` is the shape before the last two. */
static void multiply_batches(const pl_blas *blas, pl_tensor *out, const pl_tensor *a,
                             const pl_tensor *b) {
    pl_tensor x = *a, y = *b, z = *out;
    x.n_dims -= 2, y.n_dims -= 2, z.n_dims -= 2;
    const pl_tensor *operands[] = {&z, &x, &y};
    pl_cursor at = pl_cursor_begin(z.n_dims, z.shape, operands, 3);
    for (int64_t r = 0; r < at.n_rows; r++, pl_cursor_next(&at)) {
        for (int64_t i = 0; i < at.width; i++) {
            multiply(blas, (float *)out->data + at.at[0] + i * at.step[0], a,
                     at.at[1] + i * at.step[1], b, at.at[2] + i * at.step[2]);
        }
    }
}

static pl_status check_product(pl_call *c, const pl_tensor *a, const pl_tensor *b,
                               pl_tensor *shape) {
    char first[PL_SHAPE_TEXT], second[PL_SHAPE_TEXT];
    pl_tensor x = *a, y = *b;
    x.n_dims -= 2, y.n_dims -= 2;
    bool fits = a->shape[a->n_dims - 1] == b->shape[b->n_dims - 2];
    for (int i = 0; i < 2 && fits; i++) {
        fits = a->shape[a->n_dims - 1 - i] <= INT_MAX && b->shape[b->n_dims - 1 - i] <= INT_MAX;
    }
    if (fits && pl_broadcast(c, &x, &y, &shape->n_dims, shape->shape) == PL_OK) {
        shape->shape[shape->n_dims++] = a->shape[a->n_dims - 2];
        shape->shape[shape->n_dims++] = b->shape[b->n_dims - 1];
        return PL_OK;
    }
    return pl_fail(&c->err, PL_ERR_SHAPE, "matmul: shapes %s and %s do not fit",
                   pl_tensor_shape_text(a, first), pl_tensor_shape_text(b, second));
}

static pl_status multiply_matrices(pl_call *c, pl_tensor *out, const pl_tensor *a,
                                   const pl_tensor *b) {
    pl_tensor x = {0}, y = {0}, shape = {0};
    const pl_blas *blas;
    pl_status status = pl_blas_open(&blas, &c->err);
    if (status == PL_OK) status = check_product(c, a, b, &shape);
    if (status == PL_OK) status = as_rows(c, &x, a);
    if (status == PL_OK) status = as_rows(c, &y, b);
    if (status == PL_OK) status = pl_call_tensor(c, out, PL_F32, shape.n_dims, shape.shape);
    if (status == PL_OK) multiply_batches(blas, out, &x, &y);
    pl_tensor_release(&x);
    pl_tensor_release(&y);
    return status;
}

pl_status pl_op_matmul(pl_call *c, pl_tensor *out, const pl_tensor *a, const pl_tensor *b) {
    pl_tensor x = *a, y = *b;
    if (a->n_dims == 0 || b->n_dims == 0) {
        return pl_fail(&c->err, PL_ERR_SHAPE, "matmul: a number is no matrix; use *");
    }
    if (a->n_dims == 1) { /* [k] is [1, k] */
        x.n_dims = 2;
        x.shape[1] = a->shape[0], x.stride[1] = a->stride[0];
        x.shape[0] = 1, x.stride[0] = a->shape[0];
    }
    if (b->n_dims == 1) { /* [k] is [k, 1] */
        y.n_dims = 2;
        y.shape[1] = 1, y.stride[1] = 1;
    }
    bool paused = c->paused;
    c->paused = true;
    pl_status status = multiply_matrices(c, out, &x, &y);
    c->paused = paused;
    if (status != PL_OK) return status;
    if (b->n_dims == 1) status = pl_tensor_select(out, out->n_dims - 1, 0, &c->err);
    if (a->n_dims == 1 && status == PL_OK) {
        status =
            pl_tensor_select(out, b->n_dims == 1 ? out->n_dims - 1 : out->n_dims - 2, 0, &c->err);
    }
    return status == PL_OK ? pl_record_matmul(c, out, a, b) : status;
}

/* -- equations --------------------------------------------------------------------------------- */

/* b as a matrix [n, m]; a vector is one column. */
static pl_status right_side(pl_call *c, pl_tensor *out, const pl_tensor *a, const pl_tensor *b,
                            const char *what) {
    char first[PL_SHAPE_TEXT], second[PL_SHAPE_TEXT];
    *out = *b;
    if (b->n_dims == 1) {
        out->n_dims = 2;
        out->shape[1] = 1, out->stride[1] = 1;
    }
    if (out->n_dims == 2 && out->shape[0] == a->shape[0]) return check_matrix(c, out, what);
    return pl_fail(&c->err, PL_ERR_SHAPE, "%s: shapes %s and %s do not fit", what,
                   pl_tensor_shape_text(a, first), pl_tensor_shape_text(b, second));
}

static pl_status store_solution(pl_call *c, pl_tensor *x, const matrix *b, int64_t n,
                                const pl_tensor *right) {
    pl_status status = store_matrix(c, x, b, n, b->n);
    if (status == PL_OK && right->n_dims == 1) status = pl_tensor_select(x, 1, 0, &c->err);
    return status;
}

pl_status pl_op_solve(pl_call *c, pl_tensor *x, const pl_tensor *a, const pl_tensor *b) {
    pl_tensor right;
    matrix left = {0}, sides = {0};
    int *pivots = NULL, info = 0;
    right = *b;
    const pl_blas *blas;
    pl_status status = pl_blas_open(&blas, &c->err);
    if (status == PL_OK) status = check_square(c, a, "solve");
    if (status == PL_OK) status = right_side(c, &right, a, b, "solve");
    if (status == PL_OK) status = load_matrix(c, &left, a, 0);
    if (status == PL_OK) status = load_matrix(c, &sides, &right, 0);
    if (status == PL_OK && !(pivots = calloc((size_t)left.n + 1, sizeof *pivots))) {
        status = no_memory(c);
    }
    if (status == PL_OK) {
        blas->sgesv(&left.n, &sides.n, left.data, &left.ld, pivots, sides.data, &sides.ld, &info);
        if (info) status = failed(c, "solve", info, "the matrix is singular");
    }
    if (status == PL_OK) status = store_solution(c, x, &sides, left.n, b);
    free(pivots), free(left.data), free(sides.data);
    return status == PL_OK ? pl_record_solve(c, x, a, b) : status;
}

pl_status pl_op_lstsq(pl_call *c, pl_tensor *x, const pl_tensor *a, const pl_tensor *b) {
    pl_tensor right;
    matrix left = {0}, sides = {0};
    float *s = NULL, *work = NULL, rcond = -1, wanted = 0;
    int info = 0, rank = 0, iwanted = 0, query = -1, *iwork = NULL;
    right = *b;
    const pl_blas *blas;
    pl_status status = pl_blas_open(&blas, &c->err);
    if (status == PL_OK) status = check_matrix(c, a, "lstsq");
    if (status == PL_OK) status = right_side(c, &right, a, b, "lstsq");
    if (status == PL_OK) status = load_matrix(c, &left, a, 0);
    if (status == PL_OK) status = load_matrix(c, &sides, &right, a->shape[1]);
    if (status == PL_OK && !(s = calloc((size_t)smaller(left.m, left.n) + 1, sizeof *s))) {
        status = no_memory(c);
    }
    if (status == PL_OK) {
        blas->sgelsd(&left.m, &left.n, &sides.n, left.data, &left.ld, sides.data, &sides.ld, s,
                     &rcond, &rank, &wanted, &query, &iwanted, &info);
        int size = (int)wanted + 1;
        work = calloc((size_t)size, sizeof *work);
        iwork = calloc((size_t)iwanted + 1, sizeof *iwork);
        if (!work || !iwork) {
            status = no_memory(c);
        } else {
            blas->sgelsd(&left.m, &left.n, &sides.n, left.data, &left.ld, sides.data, &sides.ld, s,
                         &rcond, &rank, work, &size, iwork, &info);
            if (info) status = failed(c, "lstsq", info, "the singular values did not converge");
        }
    }
    if (status == PL_OK) status = store_solution(c, x, &sides, left.n, b);
    bool full_rank = rank == smaller(left.m, left.n);
    if (status == PL_OK) status = pl_record_lstsq(c, x, a, b, full_rank);
    free(iwork), free(work), free(s), free(left.data), free(sides.data);
    return status;
}

/* -- factors ----------------------------------------------------------------------------------- */

pl_status pl_op_svd(pl_call *c, pl_tensor *u, pl_tensor *s, pl_tensor *vt, const pl_tensor *a) {
    matrix x = {.ld = 1}, left = {0}, right = {0};
    float *values = NULL, *work = NULL, wanted = 0;
    int *iwork = NULL, info = 0, query = -1;
    const pl_blas *blas;
    pl_status status = pl_blas_open(&blas, &c->err);
    if (status == PL_OK) status = check_matrix(c, a, "svd");
    if (status == PL_OK) status = load_matrix(c, &x, a, 0);
    int k = smaller(x.m, x.n);
    left = (matrix){calloc((size_t)x.ld * (size_t)(k + 1), sizeof(float)), x.m, k, x.ld};
    right =
        (matrix){calloc((size_t)(k + 1) * (size_t)(x.n + 1), sizeof(float)), k, x.n, k > 1 ? k : 1};
    values = calloc((size_t)k + 1, sizeof *values);
    iwork = calloc(8 * (size_t)k + 1, sizeof *iwork);
    if (status == PL_OK && (!left.data || !right.data || !values || !iwork)) status = no_memory(c);
    if (status == PL_OK) {
        blas->sgesdd("S", &x.m, &x.n, x.data, &x.ld, values, left.data, &left.ld, right.data,
                     &right.ld, &wanted, &query, iwork, &info);
        int size = (int)wanted + 1;
        work = calloc((size_t)size, sizeof *work);
        if (work) {
            blas->sgesdd("S", &x.m, &x.n, x.data, &x.ld, values, left.data, &left.ld, right.data,
                         &right.ld, work, &size, iwork, &info);
        }
        if (!work)
            status = no_memory(c);
        else if (info)
            status = failed(c, "svd", info, "the iteration did not converge");
    }
    if (status == PL_OK) status = store_matrix(c, u, &left, x.m, k);
    if (status == PL_OK) status = store_vector(c, s, values, k);
    if (status == PL_OK) status = store_matrix(c, vt, &right, k, x.n);
    if (status != PL_OK) pl_tensor_release(u), pl_tensor_release(s);
    free(work), free(iwork), free(values), free(left.data), free(right.data), free(x.data);
    return status == PL_OK ? pl_record_svd(c, u, s, vt, a) : status;
}

pl_status pl_op_eigh(pl_call *c, pl_tensor *values, pl_tensor *vectors, const pl_tensor *a) {
    matrix x = {0};
    float *w = NULL, *work = NULL, wanted = 0;
    int *iwork = NULL, iwanted = 0, info = 0, query = -1;
    const pl_blas *blas;
    pl_status status = pl_blas_open(&blas, &c->err);
    if (status == PL_OK) status = check_square(c, a, "eigh");
    if (status == PL_OK) status = load_matrix(c, &x, a, 0);
    if (status == PL_OK && !(w = calloc((size_t)x.n + 1, sizeof *w))) status = no_memory(c);
    if (status == PL_OK && x.n > 0) {
        blas->ssyevd("V", "L", &x.n, x.data, &x.ld, w, &wanted, &query, &iwanted, &query, &info);
        int size = (int)wanted + 1;
        work = calloc((size_t)size, sizeof *work);
        iwork = calloc((size_t)iwanted + 1, sizeof *iwork);
        if (work && iwork) {
            blas->ssyevd("V", "L", &x.n, x.data, &x.ld, w, work, &size, iwork, &iwanted, &info);
        }
        if (!work || !iwork)
            status = no_memory(c);
        else if (info)
            status = failed(c, "eigh", info, "the iteration did not converge");
    }
    if (status == PL_OK) status = store_vector(c, values, w, x.n);
    if (status == PL_OK) status = store_matrix(c, vectors, &x, x.n, x.n);
    if (status != PL_OK) pl_tensor_release(values);
    free(iwork), free(work), free(w), free(x.data);
    return status == PL_OK ? pl_record_eigh(c, values, vectors, a) : status;
}

/* LAPACK gives the eigenvectors of a conjugate pair as two real columns: real part, imaginary. */
static void store_eigen(const pl_tensor *values, const pl_tensor *vectors, const float *real,
                        const float *imaginary, const matrix *x) {
    float *value = values->data, *vector = vectors->data;
    int n = x->n, sign = 1;
    for (int j = 0; j < n; j++) {
        value[2 * j] = real[j];
        value[2 * j + 1] = imaginary[j];
        bool pair = imaginary[j] != 0;
        int first = pair && sign < 0 ? j - 1 : j;
        for (int i = 0; i < n; i++) {
            float *to = vector + 2 * ((int64_t)i * n + j);
            to[0] = x->data[(int64_t)first * x->ld + i];
            to[1] = pair ? (float)sign * x->data[(int64_t)(first + 1) * x->ld + i] : 0;
        }
        sign = pair ? -sign : 1;
    }
}

pl_status pl_op_eig(pl_call *c, pl_tensor *values, pl_tensor *vectors, const pl_tensor *a) {
    matrix x = {.ld = 1}, right = {.ld = 1};
    float *parts = NULL, *work = NULL;
    int info = 0, one = 1, size = 0;
    const pl_blas *blas;
    pl_status status = pl_blas_open(&blas, &c->err);
    if (status == PL_OK) status = check_square(c, a, "eig");
    if (status == PL_OK) status = load_matrix(c, &x, a, 0);
    if (status == PL_OK) {
        size = 8 * (x.n + 1);
        right = (matrix){calloc((size_t)x.ld * (size_t)(x.n + 1), sizeof(float)), x.n, x.n, x.ld};
        parts = calloc(2 * ((size_t)x.n + 1), sizeof *parts);
        work = calloc((size_t)size, sizeof *work);
        if (!parts || !work || !right.data) status = no_memory(c);
    }
    if (status == PL_OK) {
        blas->sgeev("N", "V", &x.n, x.data, &x.ld, parts, parts + x.n, NULL, &one, right.data,
                    &right.ld, work, &size, &info);
        if (info) status = failed(c, "eig", info, "the iteration did not converge");
    }
    if (status == PL_OK) status = pl_call_tensor(c, values, PL_F32, 2, (int64_t[]){x.n, 2});
    if (status == PL_OK) {
        status = pl_call_tensor(c, vectors, PL_F32, 3, (int64_t[]){x.n, x.n, 2});
        if (status != PL_OK) pl_tensor_release(values);
    }
    if (status == PL_OK) store_eigen(values, vectors, parts, parts + x.n, &right);
    free(work), free(parts), free(right.data), free(x.data);
    if (status == PL_OK) status = pl_record_eig(c, values, a);
    if (status == PL_OK) status = pl_record_eig(c, vectors, a);
    return status;
}

pl_status pl_op_inv(pl_call *c, pl_tensor *out, const pl_tensor *a) {
    pl_tensor one = {0};
    pl_status status = check_square(c, a, "inv");
    if (status == PL_OK) status = pl_call_tensor(c, &one, PL_F32, 2, a->shape);
    if (status != PL_OK) return status;
    for (int64_t i = 0; i < a->shape[0] * a->shape[0]; i++) {
        ((float *)one.data)[i] = i % (a->shape[0] + 1) == 0;
    }
    status = pl_op_solve(c, out, a, &one);
    if (status != PL_OK) pl_error_prefix(&c->err, status, "inv");
    pl_tensor_release(&one);
    return status;
}

pl_status pl_op_cholesky(pl_call *c, pl_tensor *l, const pl_tensor *a) {
    matrix x = {0};
    int info = 0;
    const pl_blas *blas;
    pl_status status = pl_blas_open(&blas, &c->err);
    if (status == PL_OK) status = check_square(c, a, "cholesky");
    if (status == PL_OK) status = load_matrix(c, &x, a, 0);
    if (status == PL_OK) {
        blas->spotrf("L", &x.n, x.data, &x.ld, &info);
        if (info) status = failed(c, "cholesky", info, "the matrix is not positive definite");
    }
    for (int j = 1; j < x.n && status == PL_OK; j++) {
        for (int i = 0; i < j; i++) x.data[j * x.ld + i] = 0;
    }
    if (status == PL_OK) status = store_matrix(c, l, &x, x.n, x.n);
    free(x.data);
    return status == PL_OK ? pl_record_cholesky(c, l, a) : status;
}

pl_status pl_op_qr(pl_call *c, pl_tensor *q, pl_tensor *r, const pl_tensor *a) {
    matrix x = {0};
    float *tau = NULL, *work = NULL;
    int info = 0;
    const pl_blas *blas;
    pl_status status = pl_blas_open(&blas, &c->err);
    if (status == PL_OK) status = check_matrix(c, a, "qr");
    if (status == PL_OK) status = load_matrix(c, &x, a, 0);
    int k = smaller(x.m, x.n), size = 32 * (x.n + 1);
    tau = calloc((size_t)k + 1, sizeof *tau);
    work = calloc((size_t)size, sizeof *work);
    if (status == PL_OK && (!tau || !work)) status = no_memory(c);
    if (status == PL_OK) {
        blas->sgeqrf(&x.m, &x.n, x.data, &x.ld, tau, work, &size, &info);
        status = store_matrix(c, r, &x, k, x.n);
    }
    for (int i = 1; i < k && status == PL_OK; i++) {
        for (int j = 0; j < i; j++) ((float *)r->data)[i * x.n + j] = 0;
    }
    if (status == PL_OK) {
        blas->sorgqr(&x.m, &k, &k, x.data, &x.ld, tau, work, &size, &info);
        status = info ? failed(c, "qr", info, "failed") : store_matrix(c, q, &x, x.m, k);
        if (status != PL_OK) pl_tensor_release(r);
    }
    free(work), free(tau), free(x.data);
    return status == PL_OK ? pl_record_qr(c, q, r, a) : status;
}

pl_status pl_op_det(pl_call *c, double *det, const pl_tensor *a) {
    matrix x = {0};
    int *pivots = NULL, info = 0;
    const pl_blas *blas;
    pl_status status = pl_blas_open(&blas, &c->err);
    if (status == PL_OK) status = check_square(c, a, "det");
    if (status == PL_OK) status = load_matrix(c, &x, a, 0);
    if (status == PL_OK && !(pivots = calloc((size_t)x.n + 1, sizeof *pivots)))
        status = no_memory(c);
    if (status == PL_OK) blas->sgetrf(&x.n, &x.n, x.data, &x.ld, pivots, &info);
    *det = 1;
    for (int i = 0; i < x.n && status == PL_OK; i++) {
        *det *= (double)x.data[i * x.ld + i] * (pivots[i] == i + 1 ? 1 : -1);
    }
    free(pivots), free(x.data);
    return status;
}

pl_status pl_op_det_tensor(pl_call *c, pl_tensor *det, const pl_tensor *a) {
    double value;
    *det = (pl_tensor){0};
    pl_status status = pl_op_det(c, &value, a);
    if (status == PL_OK) status = pl_call_tensor(c, det, PL_F32, 0, NULL);
    if (status != PL_OK) return status;
    *(float *)det->data = (float)value;
    return pl_record_det(c, det, a);
}
