/* Gradients of products of matrices, of einsum and of linear systems. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "../base/error.h"
#include "einsum.h"
#include "grad_rules.h"
#include "linalg.h"

/* A call for the arithmetic of a rule: owned outputs, nothing recorded. */
static pl_call quiet(const pl_call *c) {
    return (pl_call){.kernels = c->kernels, .n_threads = c->n_threads, .paused = true};
}

/* Takes over the error of a quiet call. */
static pl_status ended(pl_call *c, const pl_call *own, pl_status status) {
    if (status != PL_OK) c->err = own->err;
    return status;
}

static pl_tensor transposed(const pl_tensor *t) {
    pl_tensor u = *t;
    int i = t->n_dims - 2, j = t->n_dims - 1;
    u.shape[i] = t->shape[j], u.shape[j] = t->shape[i];
    u.stride[i] = t->stride[j], u.stride[j] = t->stride[i];
    memset(u.dim, 0, sizeof u.dim);
    return u;
}

/* t with a dimension of size 1 put in at `dim`. */
static pl_tensor unsqueezed(const pl_tensor *t, int dim) {
    pl_tensor u = *t;
    for (int i = t->n_dims; i > dim; i--) {
        u.shape[i] = t->shape[i - 1];
        u.stride[i] = t->stride[i - 1];
    }
    u.shape[dim] = 1;
    u.stride[dim] = 1;
    u.n_dims++;
    memset(u.dim, 0, sizeof u.dim);
    return u;
}

/* grad += a b */
static pl_status add_product(pl_call *c, const pl_tensor *grad, const pl_tensor *a,
                             const pl_tensor *b) {
    pl_call own = quiet(c);
    pl_tensor product;
    pl_status status = pl_op_matmul(&own, &product, a, b);
    if (status == PL_OK) {
        pl_accumulate(grad, &product);
        pl_tensor_release(&product);
    }
    return ended(c, &own, status);
}

static pl_status matmul_backward(pl_call *c, pl_node *node, const pl_tensor *g) {
    pl_tensor a = node->in[0].tensor, b = node->in[1].tensor, out = *g, grad;
    bool row = a.n_dims == 1, column = b.n_dims == 1, wanted;
    if (column) b = unsqueezed(&b, 1), out = unsqueezed(&out, out.n_dims);
    if (row) a = unsqueezed(&a, 0), out = unsqueezed(&out, out.n_dims - 1);
    pl_tensor at = transposed(&a), bt = transposed(&b);
    pl_status status = pl_input_grad(c, node, 0, &grad, &wanted);
    if (status == PL_OK && wanted) {
        if (row) grad = unsqueezed(&grad, 0);
        status = add_product(c, &grad, &out, &bt);
    }
    if (status == PL_OK) status = pl_input_grad(c, node, 1, &grad, &wanted);
    if (status == PL_OK && wanted) {
        if (column) grad = unsqueezed(&grad, 1);
        status = add_product(c, &grad, &at, &out);
    }
    return status;
}

static const pl_rule matmul_rule = {"matmul", matmul_backward, 3, false};

pl_status pl_record_matmul(pl_call *c, const pl_tensor *out, const pl_tensor *a,
                           const pl_tensor *b) {
    return pl_record(c, &matmul_rule, out, (const pl_tensor *[]){a, b}, 2, NULL);
}

/* -- einsum ----------------------------------------------------------------------------------- */

enum { MOST_LETTERS = 128, MOST_OPERANDS = 8 };

/* "ij,jk->ik" taken apart. */
typedef struct terms {
    char inputs[MOST_OPERANDS][PL_MAX_DIMS + 1];
    char output[PL_MAX_DIMS + 1];
    int n;
} terms;

static terms read_terms(const char *equation) {
    terms t = {.n = 1};
    char *out = t.inputs[0];
    size_t n = 0;
    for (const char *p = equation; *p; p++) {
        if (*p == ' ') continue;
        if (*p == ',') {
            out = t.inputs[t.n++], n = 0;
        } else if (*p == '-') {
            out = t.output, n = 0, p++;
        } else if (n < PL_MAX_DIMS) {
            out[n++] = *p;
        }
    }
    if (strchr(equation, '>')) return t;
    n = 0; /* without an arrow: the letters that stand once, in order */
    for (int letter = 'A'; letter <= 'z'; letter++) {
        int count = 0;
        for (int i = 0; i < t.n; i++) {
            for (const char *p = t.inputs[i]; *p; p++) count += *p == letter;
        }
        if (count == 1 && n < PL_MAX_DIMS) t.output[n++] = (char)letter;
    }
    return t;
}

/* Whether the gradient of operand i has this letter: it stands in the output or another operand. */
static bool elsewhere(const terms *t, int i, char letter) {
    bool found = strchr(t->output, letter) != NULL;
    for (int j = 0; j < t->n; j++) found |= j != i && strchr(t->inputs[j], letter);
    return found;
}

static pl_status einsum_operand(pl_call *c, const pl_node *node, const terms *t, int i,
                                const pl_tensor *g, const pl_tensor *grad) {
    const pl_tensor *operands[MOST_OPERANDS] = {g};
    char equation[MOST_LETTERS], kept[PL_MAX_DIMS + 1] = "";
    const char *letters = t->inputs[i];
    size_t n = 0, used = (size_t)snprintf(equation, sizeof equation, "%s", t->output);
    for (int j = 0, k = 1; j < t->n; j++) {
        if (j == i) continue;
        operands[k++] = &node->in[j].tensor;
        used += (size_t)snprintf(equation + used, sizeof equation - used, ",%s", t->inputs[j]);
    }
    for (const char *p = letters; *p; p++) {
        if (strchr(p + 1, *p)) {
            return pl_fail(&c->err, PL_ERR_UNSUPPORTED,
                           "einsum has no gradient where an operand repeats a letter: '%s'",
                           letters);
        }
        if (elsewhere(t, i, *p)) kept[n++] = *p;
    }
    snprintf(equation + used, sizeof equation - used, "->%s", kept);
    pl_call own = quiet(c);
    pl_tensor sum;
    pl_status status = pl_op_einsum(&own, &sum, equation, operands, t->n);
    if (status != PL_OK) return ended(c, &own, status);
    pl_tensor wide = sum; /* letters that stand nowhere else are broadcast */
    wide.n_dims = grad->n_dims;
    for (int d = 0, k = 0; letters[d]; d++) {
        bool has = elsewhere(t, i, letters[d]);
        wide.shape[d] = has ? sum.shape[k] : 1;
        wide.stride[d] = has ? sum.stride[k] : 0;
        k += has;
    }
    pl_accumulate(grad, &wide);
    pl_tensor_release(&sum);
    return PL_OK;
}

static pl_status einsum_backward(pl_call *c, pl_node *node, const pl_tensor *g) {
    terms t = read_terms(node->owned);
    pl_status status = PL_OK;
    for (int i = 0; i < t.n && status == PL_OK; i++) {
        pl_tensor grad;
        bool wanted;
        status = pl_input_grad(c, node, i, &grad, &wanted);
        if (status == PL_OK && wanted) status = einsum_operand(c, node, &t, i, g, &grad);
    }
    return status;
}

static const pl_rule einsum_rule = {"einsum", einsum_backward, 0xff, false};

pl_status pl_record_einsum(pl_call *c, const pl_tensor *out, const char *equation,
                           const pl_tensor *const *operands, int n) {
    pl_node *node;
    pl_status status = pl_record(c, &einsum_rule, out, operands, n, &node);
    if (!node) return status;
    node->owned = strdup(equation);
    node->release_owned = free;
    return node->owned ? PL_OK : pl_fail(&c->err, PL_ERR_MEMORY, "out of memory: einsum");
}

/* -- linear systems --------------------------------------------------------------------------- */

/* a x = b: the gradient of b solves a^T s = g, that of a is -s x^T. */
static pl_status solve_backward(pl_call *c, pl_node *node, const pl_tensor *g) {
    pl_call own = quiet(c);
    pl_tensor s = {0}, grad, x = *pl_node_out(node), at = transposed(&node->in[0].tensor);
    bool wanted;
    pl_status status = pl_op_solve(&own, &s, &at, g);
    if (status != PL_OK) return ended(c, &own, status);
    status = pl_input_grad(c, node, 1, &grad, &wanted);
    if (status == PL_OK && wanted) pl_accumulate(&grad, &s);
    if (status == PL_OK) status = pl_input_grad(c, node, 0, &grad, &wanted);
    if (status == PL_OK && wanted) {
        pl_tensor columns = s.n_dims == 1 ? unsqueezed(&s, 1) : s;
        if (x.n_dims == 1) x = unsqueezed(&x, 1);
        pl_tensor xt = transposed(&x);
        status = ended(c, &own, pl_op_unary_(&own, &columns, PL_NEG));
        if (status == PL_OK) status = add_product(c, &grad, &columns, &xt);
    }
    pl_tensor_release(&s);
    return status;
}

static const pl_rule solve_rule = {"solve", solve_backward, 1, true};

pl_status pl_record_solve(pl_call *c, const pl_tensor *x, const pl_tensor *a, const pl_tensor *b) {
    return pl_record(c, &solve_rule, x, (const pl_tensor *[]){a, b}, 2, NULL);
}
