#include "distance.h"

#include <math.h>

#include "../base/error.h"
#include "cursor.h"
#include "grad.h"

/* Two inputs by rows, and the gradients of their elements; a vector is one row. */
typedef struct rows {
    const pl_tensor *x, *y;
    pl_tensor grads[2];
    bool wanted[2];
    int64_t n, width;
} rows;

static int64_t place(const pl_tensor *t, int64_t row, int64_t i) {
    return (t->n_dims > 1 ? row * t->stride[0] : 0) + i * t->stride[t->n_dims - 1];
}

static double get(const pl_tensor *t, int64_t row, int64_t i) {
    return pl_element(t, place(t, row, i));
}

static void give(const rows *r, int input, int64_t row, int64_t i, double gradient) {
    const pl_tensor *to = &r->grads[input];
    if (r->wanted[input]) ((float *)to->data)[place(to, row, i)] += (float)gradient;
}

static rows rows_of(const pl_tensor *x, const pl_tensor *y) {
    return (rows){
        .x = x, .y = y, .n = x->n_dims > 1 ? x->shape[0] : 1, .width = x->shape[x->n_dims - 1]};
}

static pl_status begin(pl_call *c, pl_tensor *out, rows *r, const pl_tensor *x, const pl_tensor *y,
                       const char *what) {
    bool fits = x->n_dims >= 1 && x->n_dims <= 2 && x->n_dims == y->n_dims;
    for (int i = 0; fits && i < x->n_dims; i++) fits = x->shape[i] == y->shape[i];
    if (!fits) {
        char a[PL_SHAPE_TEXT], b[PL_SHAPE_TEXT];
        *out = (pl_tensor){0};
        return pl_fail(&c->err, PL_ERR_SHAPE, "%s: shapes %s and %s do not fit", what,
                       pl_tensor_shape_text(x, a), pl_tensor_shape_text(y, b));
    }
    *r = rows_of(x, y);
    return pl_call_tensor(c, out, PL_F32, 1, &r->n);
}

/* What walks back through a row whose gradient is g. */
static pl_status for_rows(pl_call *c, pl_node *node, const pl_tensor *g,
                          void (*run)(const rows *r, int64_t row, double g)) {
    rows r = rows_of(&node->in[0].tensor, &node->in[1].tensor);
    for (int i = 0; i < 2; i++) {
        pl_status status = pl_input_grad(c, node, i, &r.grads[i], &r.wanted[i]);
        if (status != PL_OK) return status;
    }
    for (int64_t row = 0; row < r.n; row++) run(&r, row, pl_element(g, row * g->stride[0]));
    return PL_OK;
}

/* -- Kullback-Leibler divergence -------------------------------------------------------------- */

static double divergence(const rows *r, int64_t row) {
    double total = 0;
    for (int64_t i = 0; i < r->width; i++) {
        double p = get(r->x, row, i);
        if (p > 0) total += p * (log(p) - log(get(r->y, row, i)));
    }
    return total;
}

static void divergence_back(const rows *r, int64_t row, double g) {
    for (int64_t i = 0; i < r->width; i++) {
        double p = get(r->x, row, i), q = get(r->y, row, i);
        if (!(p > 0)) continue;
        give(r, 0, row, i, g * (log(p) - log(q) + 1));
        give(r, 1, row, i, -g * p / q);
    }
}

static pl_status kl_div_backward(pl_call *c, pl_node *node, const pl_tensor *g) {
    return for_rows(c, node, g, divergence_back);
}

static const pl_rule kl_div_rule = {"kl_div", kl_div_backward, 3, false};

pl_status pl_op_kl_div(pl_call *c, pl_tensor *out, const pl_tensor *p, const pl_tensor *q) {
    rows r;
    pl_status status = begin(c, out, &r, p, q, "kl_div");
    if (status != PL_OK) return status;
    for (int64_t row = 0; row < r.n; row++) ((float *)out->data)[row] = (float)divergence(&r, row);
    return pl_record(c, &kl_div_rule, out, (const pl_tensor *[]){p, q}, 2, NULL);
}

/* -- cosine ----------------------------------------------------------------------------------- */

typedef struct products {
    double xy, xx, yy;
} products;

static products products_of(const rows *r, int64_t row) {
    products of = {0};
    for (int64_t i = 0; i < r->width; i++) {
        double x = get(r->x, row, i), y = get(r->y, row, i);
        of.xy += x * y, of.xx += x * x, of.yy += y * y;
    }
    return of;
}

static void cosine_back(const rows *r, int64_t row, double g) {
    products of = products_of(r, row);
    double norms = sqrt(of.xx * of.yy), cosine = of.xy / norms;
    for (int64_t i = 0; i < r->width; i++) {
        double x = get(r->x, row, i), y = get(r->y, row, i);
        give(r, 0, row, i, g * (y / norms - cosine * x / of.xx));
        give(r, 1, row, i, g * (x / norms - cosine * y / of.yy));
    }
}

static pl_status cosine_backward(pl_call *c, pl_node *node, const pl_tensor *g) {
    return for_rows(c, node, g, cosine_back);
}

static const pl_rule cosine_rule = {"cosine", cosine_backward, 3, false};

pl_status pl_op_cosine(pl_call *c, pl_tensor *out, const pl_tensor *x, const pl_tensor *y) {
    rows r;
    pl_status status = begin(c, out, &r, x, y, "cosine");
    if (status != PL_OK) return status;
    for (int64_t row = 0; row < r.n; row++) {
        products of = products_of(&r, row);
        ((float *)out->data)[row] = (float)(of.xy / sqrt(of.xx * of.yy));
    }
    return pl_record(c, &cosine_rule, out, (const pl_tensor *[]){x, y}, 2, NULL);
}
