/* Products, linear algebra, losses, joining: functions of pl, most of them methods too. */
#include <lauxlib.h>
#include <math.h>
#include <string.h>

#include "../engine/tensor/cursor.h"
#include "../engine/tensor/distance.h"
#include "../engine/tensor/einsum.h"
#include "../engine/tensor/elementwise.h"
#include "../engine/tensor/linalg.h"
#include "../engine/tensor/reduce.h"
#include "common.h"
#include "grad.h"
#include "tensor.h"

enum { MOST_PARTS = 1024 };

/* Operations of two tensors, or of one, with one result. */
typedef pl_status (*pair_fn)(pl_call *c, pl_tensor *out, const pl_tensor *a, const pl_tensor *b);
typedef pl_status (*single_fn)(pl_call *c, pl_tensor *out, const pl_tensor *a);
typedef pl_status (*two_fn)(pl_call *c, pl_tensor *x, pl_tensor *y, const pl_tensor *a);

static int pair(lua_State *L, pair_fn run) {
    pl_call c;
    pl_tensor out = {0};
    const pl_tensor *a = pl_lua_check_tensor(L, 1), *b = pl_lua_check_tensor(L, 2);
    pl_lua_begin_call(L, &c);
    return pl_lua_push_result(L, &c, run(&c, &out, a, b), &out);
}

static int single(lua_State *L, single_fn run) {
    pl_call c;
    pl_tensor out = {0};
    const pl_tensor *a = pl_lua_check_tensor(L, 1);
    pl_lua_begin_call(L, &c);
    return pl_lua_push_result(L, &c, run(&c, &out, a), &out);
}

static int two(lua_State *L, two_fn run) {
    pl_call c;
    pl_tensor x = {0}, y = {0};
    const pl_tensor *a = pl_lua_check_tensor(L, 1);
    pl_lua_begin_call(L, &c);
    pl_lua_check_call(L, &c, run(&c, &x, &y, a));
    pl_lua_push_tensor(L, &x);
    pl_lua_push_tensor(L, &y);
    return 2;
}

static int matmul(lua_State *L) {
    return pair(L, pl_op_matmul);
}
static int solve(lua_State *L) {
    return pair(L, pl_op_solve);
}
static int lstsq(lua_State *L) {
    return pair(L, pl_op_lstsq);
}
static int cholesky(lua_State *L) {
    return single(L, pl_op_cholesky);
}
static int inv(lua_State *L) {
    return single(L, pl_op_inv);
}
static int eig(lua_State *L) {
    return two(L, pl_op_eig);
}
static int eigvals(lua_State *L) {
    two(L, pl_op_eig);
    lua_pop(L, 1);
    return 1;
}
static int eigh(lua_State *L) {
    return two(L, pl_op_eigh);
}
static int qr(lua_State *L) {
    return two(L, pl_op_qr);
}

static int svd(lua_State *L) {
    pl_call c;
    pl_tensor u = {0}, s = {0}, vt = {0};
    const pl_tensor *a = pl_lua_check_tensor(L, 1);
    pl_lua_begin_call(L, &c);
    pl_lua_check_call(L, &c, pl_op_svd(&c, &u, &s, &vt, a));
    pl_lua_push_tensor(L, &u);
    pl_lua_push_tensor(L, &s);
    pl_lua_push_tensor(L, &vt);
    return 3;
}

static int det(lua_State *L) {
    pl_call c;
    double value;
    pl_tensor out = {0};
    const pl_tensor *a = pl_lua_check_tensor(L, 1);
    pl_lua_begin_call(L, &c);
    if (pl_tracked(a) && !c.paused) {
        return pl_lua_push_result(L, &c, pl_op_det_tensor(&c, &out, a), &out);
    }
    pl_lua_check_call(L, &c, pl_op_det(&c, &value, a));
    lua_pushnumber(L, value);
    return 1;
}

/* pl.einsum("ij,jk->ik", a, b, ...) */
static int einsum(lua_State *L) {
    pl_call c;
    pl_tensor out = {0};
    const char *equation = pl_lua_check_string(L, 1, "the equation");
    const pl_tensor *operands[8];
    int n = lua_gettop(L) - 1;
    for (int i = 0; i < n && i < 8; i++) operands[i] = pl_lua_check_tensor(L, i + 2);
    pl_lua_begin_call(L, &c);
    return pl_lua_push_result(L, &c, pl_op_einsum(&c, &out, equation, operands, n), &out);
}

/* -- joining --------------------------------------------------------------------------------- */

static int check_parts(lua_State *L, const pl_tensor **parts) {
    pl_lua_check_table(L, 1, "tensors to join");
    lua_Integer n = luaL_len(L, 1);
    if (n < 1 || n > MOST_PARTS) {
        pl_lua_fail(L, PL_ERR_ARGUMENT, "expected a list of 1 to %d tensors", MOST_PARTS);
    }
    for (lua_Integer i = 0; i < n; i++) {
        lua_geti(L, 1, i + 1);
        parts[i] = pl_lua_check_tensor(L, -1); /* the list keeps it */
        lua_pop(L, 1);
    }
    return (int)n;
}

/* pl.cat({a, b}, dim or 0) */
static int cat(lua_State *L) {
    const pl_tensor *parts[MOST_PARTS];
    pl_call c;
    pl_tensor out = {0};
    int n = check_parts(L, parts);
    if (parts[0]->n_dims == 0) pl_lua_fail(L, PL_ERR_SHAPE, "cat of tensors without dimensions");
    int dim = pl_lua_opt_dim(L, 2, parts[0], 0);
    pl_lua_begin_call(L, &c);
    return pl_lua_push_result(L, &c, pl_op_cat(&c, &out, parts, n, dim), &out);
}

/* pl.stack({a, b}, dim or 0): along a new dimension */
static int stack(lua_State *L) {
    const pl_tensor *parts[MOST_PARTS];
    pl_call c;
    pl_tensor out = {0};
    int n = check_parts(L, parts), n_dims = parts[0]->n_dims;
    int64_t dim = lua_isnoneornil(L, 2) ? 0 : pl_lua_check_integer(L, 2, "dimension");
    if (dim < 0) dim += n_dims + 1;
    if (dim < 0 || dim > n_dims || n_dims == PL_MAX_DIMS) {
        pl_lua_fail(L, PL_ERR_ARGUMENT, "stack: expected a dimension from 0 to %d", n_dims);
    }
    pl_tensor *wide = lua_newuserdatauv(L, (size_t)n * sizeof *wide, 0);
    for (int p = 0; p < n; p++) {
        wide[p] = *parts[p];
        if (wide[p].n_dims == PL_MAX_DIMS)
            pl_lua_fail(L, PL_ERR_SHAPE, "stack: too many dimensions");
        for (int i = wide[p].n_dims; i > dim; i--) {
            wide[p].shape[i] = wide[p].shape[i - 1], wide[p].stride[i] = wide[p].stride[i - 1];
            memcpy(wide[p].dim[i], wide[p].dim[i - 1], PL_DIM_NAME);
        }
        wide[p].shape[dim] = 1, wide[p].stride[dim] = 1, wide[p].n_dims++;
        memset(wide[p].dim[dim], 0, PL_DIM_NAME);
        parts[p] = &wide[p];
    }
    pl_lua_begin_call(L, &c);
    return pl_lua_push_result(L, &c, pl_op_cat(&c, &out, parts, n, (int)dim), &out);
}

/* pl.where(condition, a, b) */
static int where(lua_State *L) {
    pl_call c;
    pl_tensor out = {0};
    pl_lua_scalar first, second;
    const pl_tensor *condition = pl_lua_check_tensor(L, 1);
    const pl_tensor *other = lua_isuserdata(L, 3) ? pl_lua_check_tensor(L, 3) : NULL;
    const pl_tensor *a = pl_lua_operand(L, 2, &first, other);
    const pl_tensor *b = pl_lua_operand(L, 3, &second, a);
    pl_lua_begin_call(L, &c);
    return pl_lua_push_result(L, &c, pl_op_where(&c, &out, condition, a, b), &out);
}

/* -- losses and distances -------------------------------------------------------------------- */

/* options.reduction at idx: PL_MEAN unless said otherwise, PL_SUM, or -1 for none. */
static int check_reduction(lua_State *L, int idx) {
    if (!lua_istable(L, idx) || lua_getfield(L, idx, "reduction") == LUA_TNIL) return PL_MEAN;
    const char *name = pl_lua_check_string(L, -1, "reduction");
    if (strcmp(name, "mean") == 0) return PL_MEAN;
    if (strcmp(name, "sum") == 0) return PL_SUM;
    if (strcmp(name, "none") == 0) return -1;
    pl_lua_fail(L, PL_ERR_ARGUMENT, "reduction = '%s': expected mean, sum or none", name);
}

/* Pushes losses [n] as they are, or their sum or mean over n_counted of them. */
static int push_losses(lua_State *L, pl_tensor *losses, int reduction, int64_t n_counted) {
    pl_call c;
    pl_tensor out = {0}, mean = {0};
    pl_lua_begin_call(L, &c);
    pl_lua_push_tensor(L, losses);
    if (reduction < 0) return 1;
    pl_status status = pl_op_reduce(&c, &out, losses, PL_SUM, -1, false);
    if (status == PL_OK && reduction == PL_MEAN) {
        float n = (float)n_counted;
        status = pl_op_binary(&c, &mean, &out, &(pl_tensor){.dtype = PL_F32, .data = &n}, PL_DIV);
        pl_tensor_release(&out);
        out = mean;
    }
    return pl_lua_push_result(L, &c, status, &out);
}

/* Of [..., classes] and [...]: rows and their targets. */
static void as_rows(lua_State *L, pl_tensor *logits, pl_tensor *targets) {
    char a[PL_SHAPE_TEXT], b[PL_SHAPE_TEXT];
    bool fits = logits->n_dims == targets->n_dims + 1 && logits->n_dims > 0;
    for (int i = 0; fits && i < targets->n_dims; i++) fits = logits->shape[i] == targets->shape[i];
    if (!fits)
        pl_lua_fail(L, PL_ERR_SHAPE, "cross_entropy: logits %s and targets %s do not fit",
                    pl_tensor_shape_text(logits, a), pl_tensor_shape_text(targets, b));
    pl_error err;
    int64_t n_classes = logits->shape[logits->n_dims - 1];
    int64_t n = 1;
    for (int i = 0; i < targets->n_dims; i++) n *= targets->shape[i];
    if (pl_tensor_view(logits, 2, (int64_t[]){n, n_classes}, &err) != PL_OK ||
        pl_tensor_view(targets, 1, &n, &err) != PL_OK)
        pl_lua_raise(L, &err);
}

/* logits:cross_entropy(targets, {reduction = "mean", ignore_index = -100}): logits [..., classes],
 * targets [...] whole numbers; -log softmax(logits)[target] in nats. Rows whose target is
 * ignore_index do not count. */
static int cross_entropy(lua_State *L) {
    static const char *const known[] = {"reduction", "ignore_index", NULL};
    pl_lua_scalar room;
    pl_call c;
    pl_tensor losses = {0}, logits = *pl_lua_check_tensor(L, 1);
    pl_tensor targets = *pl_lua_operand(L, 2, &room, &(pl_tensor){.dtype = PL_I64});
    int64_t ignored = -100, n_counted = 0;
    pl_lua_check_options(L, 3, known);
    pl_lua_opt_integer(L, 3, "ignore_index", &ignored);
    int reduction = check_reduction(L, 3);
    bool single = logits.n_dims == 1;
    as_rows(L, &logits, &targets);
    pl_lua_begin_call(L, &c);
    pl_lua_check_call(L, &c, pl_op_cross_entropy(&c, &losses, &logits, &targets, ignored));
    for (int64_t i = 0; i < targets.shape[0]; i++) {
        n_counted += pl_element_int(&targets, i * targets.stride[0]) != ignored;
    }
    return push_losses(L, &losses, reduction < 0 && single ? PL_SUM : reduction, n_counted);
}

/* p:kl_div(q, {reduction = "mean"}): sum of p log(p / q) along the last dimension, in nats; p and
 * q are probabilities, [n, classes] or [classes] */
static int kl_div(lua_State *L) {
    static const char *const known[] = {"reduction", NULL};
    pl_call c;
    pl_tensor losses = {0};
    pl_lua_check_options(L, 3, known);
    int reduction = check_reduction(L, 3);
    const pl_tensor *p = pl_lua_check_numbers(L, 1), *q = pl_lua_check_numbers(L, 2);
    pl_lua_begin_call(L, &c);
    pl_lua_check_call(L, &c, pl_op_kl_div(&c, &losses, p, q));
    return push_losses(L, &losses, reduction, losses.shape[0]);
}

/* a:cosine(b): of two vectors, or row by row of two matrices */
static int cosine(lua_State *L) {
    pl_call c;
    pl_tensor out = {0};
    const pl_tensor *x = pl_lua_check_numbers(L, 1), *y = pl_lua_check_numbers(L, 2);
    pl_lua_begin_call(L, &c);
    pl_status status = pl_op_cosine(&c, &out, x, y);
    if (status == PL_OK && x->n_dims == 1) status = pl_tensor_view(&out, 0, NULL, &c.err);
    return pl_lua_push_result(L, &c, status, &out);
}

/* a:allclose(b, {rtol = 1e-5, atol = 1e-8}): |a - b| <= atol + rtol |b| everywhere */
static int allclose(lua_State *L) {
    static const char *const known[] = {"rtol", "atol", NULL};
    double rtol = 1e-5, atol = 1e-8;
    pl_lua_check_options(L, 3, known);
    pl_lua_opt_number(L, 3, "rtol", &rtol);
    pl_lua_opt_number(L, 3, "atol", &atol);
    const pl_tensor *a = pl_lua_check_numbers(L, 1);
    pl_lua_scalar room;
    const pl_tensor *b = pl_lua_operand(L, 2, &room, a);
    if (lua_isuserdata(L, 2)) pl_lua_check_numbers(L, 2);
    int n_dims;
    int64_t shape[PL_MAX_DIMS];
    pl_call c;
    pl_lua_begin_call(L, &c);
    pl_lua_check_call(L, &c, pl_broadcast(&c, a, b, &n_dims, shape));
    const pl_tensor *operands[] = {a, b};
    pl_cursor at = pl_cursor_begin(n_dims, shape, operands, 2);
    bool close = true;
    for (int64_t r = 0; r < at.n_rows && close; r++, pl_cursor_next(&at)) {
        for (int64_t i = 0; i < at.width && close; i++) {
            double x = pl_element(a, at.at[0] + i * at.step[0]);
            double y = pl_element(b, at.at[1] + i * at.step[1]);
            close = x == y || fabs(x - y) <= atol + rtol * fabs(y);
        }
    }
    lua_pushboolean(L, close);
    return 1;
}

void pl_lua_tensor_algebra(lua_State *L) {
    static const luaL_Reg methods[] = {
        {"matmul", matmul},   {"solve", solve},   {"lstsq", lstsq},
        {"svd", svd},         {"eigh", eigh},     {"eig", eig},
        {"eigvals", eigvals}, {"inv", inv},       {"cholesky", cholesky},
        {"qr", qr},           {"det", det},       {"cross_entropy", cross_entropy},
        {"kl_div", kl_div},   {"cosine", cosine}, {"allclose", allclose},
        {NULL, NULL}};
    static const luaL_Reg functions[] = {{"einsum", einsum}, {"cat", cat},       {"stack", stack},
                                         {"where", where},   {"matmul", matmul}, {NULL, NULL}};
    luaL_setfuncs(L, methods, 0);
    lua_insert(L, -2);
    luaL_setfuncs(L, functions, 0);
    lua_insert(L, -2);
}
