/* Gradients of least squares and of the factors of matrices.
 *
 * Each output of a factorisation has a node of its own, which adds what its gradient says; the
 * other outputs are inputs whose values are read. Sources: Golub and Pereyra 1973 (pseudo-inverses
 * of constant rank), Giles 2008 (eigenvalues and singular values), Murray 2016 (arXiv:1602.07527,
 * Cholesky), Townsend 2016 (singular vectors), Liao et al. 2019 (arXiv:1903.09650, QR). */
#include <float.h>
#include <math.h>
#include <string.h>

#include "../base/error.h"
#include "elementwise.h"
#include "grad_rules.h"
#include "linalg.h"

/* -- formulas --------------------------------------------------------------------------------- */

/* A formula being worked out: what it has made, and the first failure, after which every step does
 * nothing. */
enum { MOST_STEPS = 24 };
typedef struct formula {
    pl_call own; /* owned outputs, nothing recorded */
    pl_status status;
    pl_tensor made[MOST_STEPS];
    int n;
} formula;

static formula begin(const pl_call *c) {
    return (formula){
        .own = {.kernels = c->kernels, .n_threads = c->n_threads, .paused = true},
        .status = PL_OK,
    };
}

static pl_status end(pl_call *c, formula *f) {
    for (int i = 0; i < f->n; i++) pl_tensor_release(&f->made[i]);
    if (f->status != PL_OK) c->err = f->own.err;
    return f->status;
}

static pl_tensor keep(formula *f, pl_status status, pl_tensor made) {
    f->status = status;
    if (status != PL_OK) return (pl_tensor){0};
    f->made[f->n++] = made;
    return made;
}

static pl_tensor times(formula *f, pl_tensor a, pl_tensor b) {
    pl_tensor out = {0};
    if (f->status != PL_OK) return out;
    pl_status status = pl_op_matmul(&f->own, &out, &a, &b);
    return keep(f, status, out);
}

static pl_tensor combined(formula *f, pl_tensor a, pl_tensor b, pl_binary op) {
    pl_tensor out = {0};
    if (f->status != PL_OK) return out;
    pl_status status = pl_op_binary(&f->own, &out, &a, &b, op);
    return keep(f, status, out);
}

static pl_tensor plus(formula *f, pl_tensor a, pl_tensor b) {
    return combined(f, a, b, PL_ADD);
}
static pl_tensor minus(formula *f, pl_tensor a, pl_tensor b) {
    return combined(f, a, b, PL_SUB);
}

static pl_tensor copy(formula *f, pl_tensor a) {
    pl_tensor out = {0};
    if (f->status != PL_OK) return out;
    pl_status status = pl_op_to(&f->own, &out, &a, PL_F32);
    return keep(f, status, out);
}

/* a^-1 b */
static pl_tensor solved(formula *f, pl_tensor a, pl_tensor b) {
    pl_tensor out = {0};
    if (f->status != PL_OK) return out;
    pl_status status = pl_op_solve(&f->own, &out, &a, &b);
    return keep(f, status, out);
}

/* a^+ b */
static pl_tensor least(formula *f, pl_tensor a, pl_tensor b) {
    pl_tensor out = {0};
    if (f->status != PL_OK) return out;
    pl_status status = pl_op_lstsq(&f->own, &out, &a, &b);
    return keep(f, status, out);
}

static pl_tensor transposed(pl_tensor t) {
    pl_tensor u = t;
    u.shape[0] = t.shape[1], u.shape[1] = t.shape[0];
    u.stride[0] = t.stride[1], u.stride[1] = t.stride[0];
    memset(u.dim, 0, sizeof u.dim);
    return u;
}

/* A vector as a matrix of one column. */
static pl_tensor as_columns(pl_tensor t) {
    if (t.n_dims == 2) return t;
    t.shape[1] = 1, t.stride[1] = 1;
    t.n_dims = 2;
    memset(t.dim, 0, sizeof t.dim);
    return t;
}

static pl_tensor columns(pl_tensor t, int64_t first, int64_t n) {
    t.data = (float *)t.data + first * t.stride[1];
    t.shape[1] = n;
    return t;
}

static float *at(const pl_tensor *t, int64_t i, int64_t j) {
    return (float *)t->data + i * t->stride[0] + j * t->stride[1];
}

/* Each element, which belongs to the formula, is replaced by fn(element, i, j). */
typedef double (*entry_fn)(const void *context, double x, int64_t i, int64_t j);
static pl_tensor each(const formula *f, pl_tensor t, entry_fn fn, const void *context) {
    if (f->status != PL_OK) return t;
    for (int64_t i = 0; i < t.shape[0]; i++) {
        for (int64_t j = 0; j < t.shape[1]; j++) {
            float *x = at(&t, i, j);
            *x = (float)fn(context, (double)*x, i, j);
        }
    }
    return t;
}

/* A square matrix with the vector on its diagonal. */
static pl_tensor diagonal(formula *f, pl_tensor values) {
    pl_tensor out = {0};
    int64_t n = values.shape[0];
    if (f->status != PL_OK) return out;
    pl_status status = pl_tensor_new(&out, PL_F32, 2, (int64_t[]){n, n}, &f->own.err);
    for (int64_t i = 0; i < n * n && status == PL_OK; i++) {
        bool on = i % (n + 1) == 0;
        ((float *)out.data)[i] = on ? ((float *)values.data)[i / (n + 1) * values.stride[0]] : 0;
    }
    return keep(f, status, out);
}

static double halved(const void *context, double x, int64_t i, int64_t j) {
    return (void)context, (void)i, (void)j, x / 2;
}

/* (t + t^T) / 2: what a symmetric matrix hears, whichever half was read. */
static pl_tensor symmetric(formula *f, pl_tensor t) {
    return each(f, plus(f, t, transposed(t)), halved, NULL);
}

/* Adds to the gradient of input i, to its columns from the first on. */
static void give(pl_call *c, formula *f, pl_node *node, int i, int64_t first, pl_tensor gradient) {
    pl_tensor grad;
    bool wanted;
    if (f->status != PL_OK) return;
    f->status = pl_input_grad(c, node, i, &grad, &wanted);
    if (f->status != PL_OK) f->own.err = c->err;
    if (f->status != PL_OK || !wanted) return;
    grad = columns(as_columns(grad), first, gradient.shape[1]);
    pl_accumulate(&grad, &gradient);
}

/* out came from a, and the values of the other outputs are read. */
static pl_status record_factor(pl_call *c, const pl_rule *rule, const pl_tensor *out,
                               const pl_tensor *const *in, int n) {
    pl_node *node;
    pl_status status = pl_record(c, rule, out, in, n, &node);
    for (int i = 1; node && i < n; i++) node->in[i].tracked = false;
    return status;
}

/* -- least squares ---------------------------------------------------------------------------- */

/* x = A^+ b. With h = A^+T g: b hears h, A hears
 * -h x^T + (b - A x) (A^+ h)^T + (A^+T x) (g - A^T h)^T. */
static pl_status lstsq_backward(pl_call *c, pl_node *node, const pl_tensor *gradient) {
    if (node->number[0] == 0) {
        return pl_fail(&c->err, PL_ERR_UNSUPPORTED,
                       "lstsq has no gradient where the matrix is not of full rank");
    }
    formula f = begin(c);
    pl_tensor a = node->in[0].tensor, b = as_columns(node->in[1].tensor), g = as_columns(*gradient);
    pl_tensor x = as_columns(*pl_node_out(node)), across = transposed(a);
    pl_tensor h = least(&f, across, g);
    give(c, &f, node, 1, 0, h);
    pl_tensor rest = minus(&f, b, times(&f, a, x));
    pl_tensor outside = minus(&f, g, times(&f, across, h));
    pl_tensor within = times(&f, h, transposed(x));
    pl_tensor far = times(&f, rest, transposed(least(&f, a, h)));
    pl_tensor unseen = times(&f, least(&f, across, x), transposed(outside));
    give(c, &f, node, 0, 0, minus(&f, plus(&f, far, unseen), within));
    return end(c, &f);
}

static const pl_rule lstsq_rule = {"lstsq", lstsq_backward, 3, true};

pl_status pl_record_lstsq(pl_call *c, const pl_tensor *x, const pl_tensor *a, const pl_tensor *b,
                          bool full_rank) {
    pl_node *node;
    pl_status status = pl_record(c, &lstsq_rule, x, (const pl_tensor *[]){a, b}, 2, &node);
    if (node) node->number[0] = full_rank;
    return status;
}

/* -- Cholesky --------------------------------------------------------------------------------- */

/* The lower half, with half the diagonal. */
static double half_lower(const void *context, double x, int64_t i, int64_t j) {
    (void)context;
    return i > j ? x : i == j ? x / 2 : 0;
}

static double lower(const void *context, double x, int64_t i, int64_t j) {
    return (void)context, i >= j ? x : 0;
}

/* A hears L^-T half_lower(L^T G) L^-1, made symmetric; what G says of above L does not count. */
static pl_status cholesky_backward(pl_call *c, pl_node *node, const pl_tensor *g) {
    formula f = begin(c);
    pl_tensor lt = transposed(*pl_node_out(node));
    pl_tensor p = times(&f, lt, each(&f, copy(&f, *g), lower, NULL));
    p = each(&f, p, half_lower, NULL);
    pl_tensor left = solved(&f, lt, p);
    give(c, &f, node, 0, 0, symmetric(&f, transposed(solved(&f, lt, transposed(left)))));
    return end(c, &f);
}

static const pl_rule cholesky_rule = {"cholesky", cholesky_backward, 0, true};

pl_status pl_record_cholesky(pl_call *c, const pl_tensor *l, const pl_tensor *a) {
    return pl_record(c, &cholesky_rule, l, &a, 1, NULL);
}

/* -- QR --------------------------------------------------------------------------------------- */

static double upper(const void *context, double x, int64_t i, int64_t j) {
    return (void)context, i <= j ? x : 0;
}

/* The lower half twice, the second time mirrored. */
static double mirrored(const void *context, double x, int64_t i, int64_t j) {
    return i >= j ? x : (double)*at(context, j, i);
}

/* A = Q [U V] with U square; Q and R hear gq and gr. A's first columns hear
 * (gq' + Q mirrored(U gu^T - gq'^T Q)) U^-T with gq' = gq + A_rest gv^T, the rest Q gv. */
static pl_status qr_backward(pl_call *c, pl_node *node, formula *f, pl_tensor q, pl_tensor r,
                             pl_tensor gq, pl_tensor gr) {
    int64_t k = q.shape[1], n = r.shape[1];
    if (f->status != PL_OK) return end(c, f);
    pl_tensor u = columns(r, 0, k), gu = columns(gr, 0, k), gv = columns(gr, k, n - k);
    if (n > k) {
        pl_tensor rest = columns(node->in[0].tensor, k, n - k);
        gq = plus(f, gq, times(f, rest, transposed(gv)));
        give(c, f, node, 0, k, times(f, q, gv));
    }
    pl_tensor m = minus(f, times(f, u, transposed(gu)), times(f, transposed(gq), q));
    m = each(f, m, mirrored, &m);
    pl_tensor x = plus(f, gq, times(f, q, m));
    give(c, f, node, 0, 0, transposed(solved(f, u, transposed(x))));
    return end(c, f);
}

static pl_status q_backward(pl_call *c, pl_node *node, const pl_tensor *g) {
    formula f = begin(c);
    pl_tensor q = *pl_node_out(node), r = node->in[1].tensor;
    return qr_backward(c, node, &f, q, r, *g, minus(&f, r, r));
}

static pl_status r_backward(pl_call *c, pl_node *node, const pl_tensor *g) {
    formula f = begin(c);
    pl_tensor q = node->in[1].tensor, r = *pl_node_out(node);
    pl_tensor gr = each(&f, copy(&f, *g), upper, NULL);
    return qr_backward(c, node, &f, q, r, minus(&f, q, q), gr);
}

static const pl_rule q_rule = {"qr", q_backward, 3, true};
static const pl_rule r_rule = {"qr", r_backward, 3, true};

pl_status pl_record_qr(pl_call *c, const pl_tensor *q, const pl_tensor *r, const pl_tensor *a) {
    pl_status status = record_factor(c, &q_rule, q, (const pl_tensor *[]){a, r}, 2);
    return status == PL_OK ? record_factor(c, &r_rule, r, (const pl_tensor *[]){a, q}, 2) : status;
}

/* -- eigenvalues and singular values ------------------------------------------------------------
 */

static double value(const pl_tensor *values, int64_t i) {
    return (double)((const float *)values->data)[i * values->stride[0]];
}

/* PL_ERR_UNSUPPORTED where two of the ordered values are equal, to rounding: the directions between
 * their vectors are free. */
static pl_status check_distinct(pl_call *c, const pl_tensor *values, const char *what) {
    int64_t n = values->shape[0];
    double most = n ? fmax(fabs(value(values, 0)), fabs(value(values, n - 1))) : 0;
    for (int64_t i = 0; i + 1 < n; i++) {
        double gap = fabs(value(values, i + 1) - value(values, i));
        if (gap > (double)n * (double)FLT_EPSILON * most) continue;
        return pl_fail(&c->err, PL_ERR_UNSUPPORTED,
                       "%s: the vectors have no gradient where values are equal: the %lld-th and "
                       "%lld-th are %g",
                       what, (long long)i + 1, (long long)i + 2, value(values, i));
    }
    return PL_OK;
}

/* A hears V diag(g) V^T. */
static pl_status eigenvalues_backward(pl_call *c, pl_node *node, const pl_tensor *g) {
    formula f = begin(c);
    pl_tensor v = node->in[1].tensor;
    give(c, &f, node, 0, 0, times(&f, v, times(&f, diagonal(&f, *g), transposed(v))));
    return end(c, &f);
}

static double over_gap(const void *context, double x, int64_t i, int64_t j) {
    return i == j ? 0 : x / (value(context, j) - value(context, i));
}

/* A hears V (V^T G / (l_j - l_i)) V^T, made symmetric. */
static pl_status eigenvectors_backward(pl_call *c, pl_node *node, const pl_tensor *g) {
    pl_tensor v = *pl_node_out(node), values = node->in[1].tensor;
    pl_status status = check_distinct(c, &values, "eigh");
    if (status != PL_OK) return status;
    formula f = begin(c);
    pl_tensor turns = each(&f, times(&f, transposed(v), *g), over_gap, &values);
    give(c, &f, node, 0, 0, symmetric(&f, times(&f, v, times(&f, turns, transposed(v)))));
    return end(c, &f);
}

static const pl_rule eigenvalues_rule = {"eigh", eigenvalues_backward, 2, false};
static const pl_rule eigenvectors_rule = {"eigh", eigenvectors_backward, 2, true};

pl_status pl_record_eigh(pl_call *c, const pl_tensor *values, const pl_tensor *vectors,
                         const pl_tensor *a) {
    const pl_tensor *from_vectors[] = {a, vectors}, *from_values[] = {a, values};
    pl_status status = record_factor(c, &eigenvalues_rule, values, from_vectors, 2);
    return status == PL_OK ? record_factor(c, &eigenvectors_rule, vectors, from_values, 2) : status;
}

/* A hears U diag(g) V^T. */
static pl_status singular_backward(pl_call *c, pl_node *node, const pl_tensor *g) {
    formula f = begin(c);
    pl_tensor u = node->in[1].tensor, vt = node->in[2].tensor;
    give(c, &f, node, 0, 0, times(&f, u, times(&f, diagonal(&f, *g), vt)));
    return end(c, &f);
}

static double over_squares(const void *context, double x, int64_t i, int64_t j) {
    double si = value(context, i), sj = value(context, j);
    return i == j ? 0 : x * sj / ((sj - si) * (sj + si));
}

static double over_value(const void *context, double x, int64_t i, int64_t j) {
    return (void)i, x / value(context, j);
}

/* What A hears of U: (U (U^T G - G^T U) s_j / (s_j^2 - s_i^2) + (G - U U^T G) / s_j) V^T. */
static pl_tensor of_vectors(formula *f, pl_tensor u, pl_tensor s, pl_tensor vt, pl_tensor g) {
    pl_tensor w = times(f, transposed(u), g);
    pl_tensor turns = each(f, minus(f, w, transposed(w)), over_squares, &s);
    pl_tensor outside = each(f, minus(f, g, times(f, u, w)), over_value, &s);
    return times(f, plus(f, times(f, u, turns), outside), vt);
}

static pl_status check_singular(pl_call *c, const pl_tensor *s, const pl_tensor *a) {
    int64_t k = s->shape[0], n = a->shape[0] > a->shape[1] ? a->shape[0] : a->shape[1];
    pl_status status = check_distinct(c, s, "svd");
    if (status != PL_OK || !k) return status;
    if (value(s, k - 1) > (double)n * (double)FLT_EPSILON * value(s, 0)) return PL_OK;
    return pl_fail(&c->err, PL_ERR_UNSUPPORTED,
                   "svd: the vectors have no gradient where a singular value is 0");
}

static pl_status left_backward(pl_call *c, pl_node *node, const pl_tensor *g) {
    pl_tensor s = node->in[1].tensor, vt = node->in[2].tensor;
    pl_status status = check_singular(c, &s, &node->in[0].tensor);
    if (status != PL_OK) return status;
    formula f = begin(c);
    give(c, &f, node, 0, 0, of_vectors(&f, *pl_node_out(node), s, vt, *g));
    return end(c, &f);
}

/* The same of A^T = V S U^T. */
static pl_status right_backward(pl_call *c, pl_node *node, const pl_tensor *g) {
    pl_tensor u = node->in[1].tensor, s = node->in[2].tensor, v = transposed(*pl_node_out(node));
    pl_status status = check_singular(c, &s, &node->in[0].tensor);
    if (status != PL_OK) return status;
    formula f = begin(c);
    pl_tensor turned = of_vectors(&f, v, s, transposed(u), transposed(*g));
    give(c, &f, node, 0, 0, transposed(turned));
    return end(c, &f);
}

static const pl_rule left_rule = {"svd", left_backward, 6, true};
static const pl_rule singular_rule = {"svd", singular_backward, 6, false};
static const pl_rule right_rule = {"svd", right_backward, 6, true};

pl_status pl_record_svd(pl_call *c, const pl_tensor *u, const pl_tensor *s, const pl_tensor *vt,
                        const pl_tensor *a) {
    pl_status status = record_factor(c, &left_rule, u, (const pl_tensor *[]){a, s, vt}, 3);
    if (status == PL_OK)
        status = record_factor(c, &singular_rule, s, (const pl_tensor *[]){a, u, vt}, 3);
    if (status == PL_OK)
        status = record_factor(c, &right_rule, vt, (const pl_tensor *[]){a, u, s}, 3);
    return status;
}

/* -- determinants ----------------------------------------------------------------------------- */

static double sign_of_det(formula *f, pl_tensor t) {
    double det = 0;
    if (f->status == PL_OK) f->status = pl_op_det(&f->own, &det, &t);
    return det < 0 ? -1 : 1;
}

/* A hears g times its cofactors, which there are for singular matrices too: of A = U S V^T they are
 * det(U) det(V) U diag(product of the other values) V^T. */
static pl_status det_backward(pl_call *c, pl_node *node, const pl_tensor *g) {
    formula f = begin(c);
    pl_tensor u = {0}, s = {0}, vt = {0};
    f.status = pl_op_svd(&f.own, &u, &s, &vt, &node->in[0].tensor);
    u = keep(&f, f.status, u), s = keep(&f, f.status, s), vt = keep(&f, f.status, vt);
    double factor = sign_of_det(&f, u) * sign_of_det(&f, vt) * value(g, 0);
    pl_tensor others = diagonal(&f, s);
    for (int64_t i = 0; f.status == PL_OK && i < s.shape[0]; i++) {
        double product = factor;
        for (int64_t j = 0; j < s.shape[0]; j++) product *= j == i ? 1 : value(&s, j);
        *at(&others, i, i) = (float)product;
    }
    give(c, &f, node, 0, 0, times(&f, u, times(&f, others, vt)));
    return end(c, &f);
}

static const pl_rule det_rule = {"det", det_backward, 1, false};

pl_status pl_record_det(pl_call *c, const pl_tensor *det, const pl_tensor *a) {
    return pl_record(c, &det_rule, det, &a, 1, NULL);
}

/* -- none ------------------------------------------------------------------------------------- */

/* Asking for a gradient of eigenvalues in general is an error that says so. */
static const pl_rule eig_rule = {.name = "eig"};

pl_status pl_record_eig(pl_call *c, const pl_tensor *out, const pl_tensor *a) {
    return pl_record(c, &eig_rule, out, &a, 1, NULL);
}
