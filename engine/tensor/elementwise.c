#include "elementwise.h"

#include <math.h>
#include <string.h>

#include "../base/error.h"
#include "cursor.h"
#include "float_rows.h"
#include "grad_rules.h"

/* -- the functions -------------------------------------------------------------------------- */

static double sign_of(double x) {
    return (x > 0) - (x < 0);
}
static double negative(double x) {
    return -x;
}
static double reciprocal_root(double x) {
    return 1 / sqrt(x);
}
static double sigmoid(double x) {
    return 1 / (1 + exp(-x));
}
static double relu(double x) {
    return x < 0 ? 0 : x;
}
static double gelu(double x) {
    return 0.5 * x * (1 + erf(x * 0.70710678118654752));
}
static double silu(double x) {
    return x / (1 + exp(-x));
}
static double square(double x) {
    return x * x;
}
static double reciprocal(double x) {
    return 1 / x;
}
static double is_nan(double x) {
    return isnan(x);
}

/* Whole numbers wrap round, as in Lua. */
static int64_t negative_int(int64_t x) {
    return (int64_t)(0 - (uint64_t)x);
}
static int64_t absolute_int(int64_t x) {
    return x < 0 ? negative_int(x) : x;
}
static int64_t sign_int(int64_t x) {
    return (x > 0) - (x < 0);
}
static int64_t same_int(int64_t x) {
    return x;
}
static int64_t relu_int(int64_t x) {
    return x < 0 ? 0 : x;
}
static int64_t square_int(int64_t x) {
    return (int64_t)((uint64_t)x * (uint64_t)x);
}

typedef struct unary_info {
    const char *name;
    double (*run)(double);
    int64_t (*run_int)(int64_t); /* NULL: integers become floats */
} unary_info;

static const unary_info unaries[PL_N_UNARIES] = {
    [PL_NEG] = {"neg", negative, negative_int},
    [PL_ABS] = {"abs", fabs, absolute_int},
    [PL_SIGN] = {"sign", sign_of, sign_int},
    [PL_FLOOR] = {"floor", floor, same_int},
    [PL_CEIL] = {"ceil", ceil, same_int},
    [PL_ROUND] = {"round", nearbyint, same_int},
    [PL_EXP] = {"exp", exp, NULL},
    [PL_LOG] = {"log", log, NULL},
    [PL_SQRT] = {"sqrt", sqrt, NULL},
    [PL_RSQRT] = {"rsqrt", reciprocal_root, NULL},
    [PL_SIN] = {"sin", sin, NULL},
    [PL_COS] = {"cos", cos, NULL},
    [PL_TANH] = {"tanh", tanh, NULL},
    [PL_SIGMOID] = {"sigmoid", sigmoid, NULL},
    [PL_RELU] = {"relu", relu, relu_int},
    [PL_GELU] = {"gelu", gelu, NULL},
    [PL_SILU] = {"silu", silu, NULL},
    [PL_ERF] = {"erf", erf, NULL},
    [PL_SQUARE] = {"square", square, square_int},
    [PL_RECIPROCAL] = {"reciprocal", reciprocal, NULL},
    [PL_ISNAN] = {"isnan", is_nan, NULL},
};

static double add(double a, double b) {
    return a + b;
}
static double subtract(double a, double b) {
    return a - b;
}
static double multiply(double a, double b) {
    return a * b;
}
static double divide(double a, double b) {
    return a / b;
}
static double floor_divide(double a, double b) {
    return floor(a / b);
}
static double modulo(double a, double b) {
    double r = fmod(a, b);
    return r != 0 && (r < 0) != (b < 0) ? r + b : r;
}
static double maximum(double a, double b) {
    return isnan(a) || a > b ? a : b;
}
static double minimum(double a, double b) {
    return isnan(a) || a < b ? a : b;
}
static double less(double a, double b) {
    return a < b;
}
static double less_equal(double a, double b) {
    return a <= b;
}
static double greater(double a, double b) {
    return a > b;
}
static double greater_equal(double a, double b) {
    return a >= b;
}
static double equal(double a, double b) {
    return a == b;
}
static double not_equal(double a, double b) {
    return a != b;
}

static int64_t add_int(int64_t a, int64_t b) {
    return (int64_t)((uint64_t)a + (uint64_t)b);
}
static int64_t subtract_int(int64_t a, int64_t b) {
    return (int64_t)((uint64_t)a - (uint64_t)b);
}
static int64_t multiply_int(int64_t a, int64_t b) {
    return (int64_t)((uint64_t)a * (uint64_t)b);
}
static int64_t floor_divide_int(int64_t a, int64_t b) {
    if (b == 0) return 0; /* refused before */
    if (b == -1) return subtract_int(0, a);
    return a / b - (a % b != 0 && (a % b < 0) != (b < 0));
}
static int64_t modulo_int(int64_t a, int64_t b) {
    if (b == 0 || b == -1) return 0;
    int64_t r = a % b;
    return r != 0 && (r < 0) != (b < 0) ? r + b : r;
}
static int64_t maximum_int(int64_t a, int64_t b) {
    return a > b ? a : b;
}
static int64_t minimum_int(int64_t a, int64_t b) {
    return a < b ? a : b;
}
static int64_t less_int(int64_t a, int64_t b) {
    return a < b;
}
static int64_t less_equal_int(int64_t a, int64_t b) {
    return a <= b;
}
static int64_t greater_int(int64_t a, int64_t b) {
    return a > b;
}
static int64_t greater_equal_int(int64_t a, int64_t b) {
    return a >= b;
}
static int64_t equal_int(int64_t a, int64_t b) {
    return a == b;
}
static int64_t not_equal_int(int64_t a, int64_t b) {
    return a != b;
}

typedef struct binary_info {
    const char *name;
    double (*run)(double, double);
    int64_t (*run_int)(int64_t, int64_t); /* NULL: integers are taken as floats */
    bool compares;
} binary_info;

static const binary_info binaries[PL_N_BINARIES] = {
    [PL_ADD] = {"add", add, add_int, false},
    [PL_SUB] = {"sub", subtract, subtract_int, false},
    [PL_MUL] = {"mul", multiply, multiply_int, false},
    [PL_DIV] = {"div", divide, NULL, false},
    [PL_FLOOR_DIV] = {"floor_div", floor_divide, floor_divide_int, false},
    [PL_MOD] = {"mod", modulo, modulo_int, false},
    [PL_POW] = {"pow", pow, NULL, false},
    [PL_MAXIMUM] = {"maximum", maximum, maximum_int, false},
    [PL_MINIMUM] = {"minimum", minimum, minimum_int, false},
    [PL_LT] = {"lt", less, less_int, true},
    [PL_LE] = {"le", less_equal, less_equal_int, true},
    [PL_GT] = {"gt", greater, greater_int, true},
    [PL_GE] = {"ge", greater_equal, greater_equal_int, true},
    [PL_EQ] = {"eq", equal, equal_int, true},
    [PL_NE] = {"ne", not_equal, not_equal_int, true},
};

const char *pl_unary_name(pl_unary op) {
    return unaries[op].name;
}

const char *pl_binary_name(pl_binary op) {
    return binaries[op].name;
}

/* -- shapes and types ------------------------------------------------------------------------ */

static bool is_number(const pl_tensor *t) {
    return t->dtype == PL_F32 || t->dtype == PL_I32 || t->dtype == PL_I64;
}

static pl_status check_number(pl_call *c, const pl_tensor *t) {
    if (is_number(t)) return PL_OK;
    return pl_fail(&c->err, PL_ERR_SHAPE, "a %s tensor: convert it with :float() first",
                   pl_dtype_get(t->dtype)->name);
}

pl_status pl_broadcast(pl_call *c, const pl_tensor *a, const pl_tensor *b, int *n_dims,
                       int64_t *shape) {
    *n_dims = a->n_dims > b->n_dims ? a->n_dims : b->n_dims;
    for (int i = 1; i <= *n_dims; i++) {
        int64_t x = i <= a->n_dims ? a->shape[a->n_dims - i] : 1;
        int64_t y = i <= b->n_dims ? b->shape[b->n_dims - i] : 1;
        if (x != y && x != 1 && y != 1) {
            char first[PL_SHAPE_TEXT], second[PL_SHAPE_TEXT];
            return pl_fail(&c->err, PL_ERR_SHAPE, "shapes %s and %s do not fit",
                           pl_tensor_shape_text(a, first), pl_tensor_shape_text(b, second));
        }
        shape[*n_dims - i] = x == 1 ? y : x;
    }
    return PL_OK;
}

/* The result is named as the operand that has names and as many dimensions. */
static void take_names(pl_tensor *out, const pl_tensor *a, const pl_tensor *b) {
    if (a->n_dims == out->n_dims) memcpy(out->dim, a->dim, sizeof out->dim);
    bool named = false;
    for (int i = 0; i < out->n_dims; i++) named |= *out->dim[i] != 0;
    if (!named && b && b->n_dims == out->n_dims) memcpy(out->dim, b->dim, sizeof out->dim);
}

static pl_dtype result_dtype(const pl_tensor *a, const pl_tensor *b, const binary_info *op) {
    if (op->compares) return PL_I32;
    if (!op->run_int || a->dtype == PL_F32 || b->dtype == PL_F32) return PL_F32;
    return a->dtype == PL_I64 || b->dtype == PL_I64 ? PL_I64 : PL_I32;
}

/* -- running --------------------------------------------------------------------------------- */

static void run_unary(const pl_tensor *out, const pl_tensor *x, const unary_info *op) {
    const pl_tensor *operands[] = {out, x};
    pl_cursor at = pl_cursor_begin(out->n_dims, out->shape, operands, 2);
    bool whole = op->run_int && x->dtype != PL_F32;
    for (int64_t r = 0; r < at.n_rows; r++, pl_cursor_next(&at)) {
        for (int64_t i = 0; i < at.width; i++) {
            int64_t to = at.at[0] + i * at.step[0], from = at.at[1] + i * at.step[1];
            if (whole) {
                pl_set_element_int(out, to, op->run_int(pl_element_int(x, from)));
            } else {
                pl_set_element(out, to, op->run(pl_element(x, from)));
            }
        }
    }
}

pl_status pl_op_unary(pl_call *c, pl_tensor *out, const pl_tensor *x, pl_unary op) {
    const unary_info *info = &unaries[op];
    pl_status status = check_number(c, x);
    if (status != PL_OK) return status;
    pl_dtype dtype = info->run_int ? x->dtype : op == PL_ISNAN ? PL_I32 : PL_F32;
    status = pl_call_tensor(c, out, dtype, x->n_dims, x->shape);
    if (status != PL_OK) return status;
    take_names(out, x, NULL);
    if (op == PL_EXP && x->dtype == PL_F32 && pl_tensor_contiguous(x)) {
        c->kernels->exp(out->data, x->data, (size_t)pl_tensor_count(x));
    } else if (!pl_float_unary(out, x, op)) {
        run_unary(out, x, info);
    }
    return pl_record_unary(c, out, x, op);
}

pl_status pl_op_unary_(pl_call *c, const pl_tensor *x, pl_unary op) {
    pl_status status = check_number(c, x);
    if (status == PL_OK && x->dtype != PL_F32 && !unaries[op].run_int) {
        status = pl_fail(&c->err, PL_ERR_SHAPE, "%s_ of a %s tensor: its result is float32",
                         unaries[op].name, pl_dtype_get(x->dtype)->name);
    }
    if (status == PL_OK) status = pl_record_unary_(c, x, op);
    if (status == PL_OK && !pl_float_unary(x, x, op)) run_unary(x, x, &unaries[op]);
    return status;
}

static bool has_zero(const pl_tensor *t) {
    pl_cursor at = pl_cursor_begin(t->n_dims, t->shape, &t, 1);
    for (int64_t r = 0; r < at.n_rows; r++, pl_cursor_next(&at)) {
        for (int64_t i = 0; i < at.width; i++) {
            if (pl_element_int(t, at.at[0] + i * at.step[0]) == 0) return true;
        }
    }
    return false;
}

static void run_binary(const pl_tensor *out, const pl_tensor *a, const pl_tensor *b,
                       const binary_info *op) {
    const pl_tensor *operands[] = {out, a, b};
    pl_cursor at = pl_cursor_begin(out->n_dims, out->shape, operands, 3);
    bool whole = op->run_int && a->dtype != PL_F32 && b->dtype != PL_F32;
    for (int64_t r = 0; r < at.n_rows; r++, pl_cursor_next(&at)) {
        for (int64_t i = 0; i < at.width; i++) {
            int64_t x = at.at[1] + i * at.step[1], y = at.at[2] + i * at.step[2];
            int64_t place = at.at[0] + i * at.step[0];
            if (whole) {
                pl_set_element_int(out, place,
                                   op->run_int(pl_element_int(a, x), pl_element_int(b, y)));
            } else {
                pl_set_element(out, place, op->run(pl_element(a, x), pl_element(b, y)));
            }
        }
    }
}

static pl_status check_binary(pl_call *c, const pl_tensor *a, const pl_tensor *b, pl_binary op) {
    pl_status status = check_number(c, a);
    if (status == PL_OK) status = check_number(c, b);
    bool whole = a->dtype != PL_F32 && b->dtype != PL_F32;
    if (status == PL_OK && whole && (op == PL_FLOOR_DIV || op == PL_MOD) && has_zero(b)) {
        status = pl_fail(&c->err, PL_ERR_ARGUMENT, "whole numbers divided by 0");
    }
    return status;
}

pl_status pl_op_binary(pl_call *c, pl_tensor *out, const pl_tensor *a, const pl_tensor *b,
                       pl_binary op) {
    int n_dims;
    int64_t shape[PL_MAX_DIMS];
    pl_status status = check_binary(c, a, b, op);
    if (status == PL_OK) status = pl_broadcast(c, a, b, &n_dims, shape);
    if (status == PL_OK) {
        status = pl_call_tensor(c, out, result_dtype(a, b, &binaries[op]), n_dims, shape);
    }
    if (status != PL_OK) return status;
    take_names(out, a, b);
    if (!pl_float_binary(out, a, b, op)) run_binary(out, a, b, &binaries[op]);
    return pl_record_binary(c, out, a, b, op);
}

static pl_status check_fits(pl_call *c, const pl_tensor *x, const pl_tensor *b) {
    int n_dims;
    int64_t shape[PL_MAX_DIMS];
    pl_status status = pl_broadcast(c, x, b, &n_dims, shape);
    if (status != PL_OK) return status;
    if (n_dims == x->n_dims && memcmp(shape, x->shape, (size_t)n_dims * sizeof *shape) == 0) {
        return PL_OK;
    }
    char first[PL_SHAPE_TEXT], second[PL_SHAPE_TEXT];
    return pl_fail(&c->err, PL_ERR_SHAPE, "%s in place: %s does not fit into it",
                   pl_tensor_shape_text(x, first), pl_tensor_shape_text(b, second));
}

/* The bytes from the first to the last element; false when there are none. */
static bool extent(const pl_tensor *t, const char **first, const char **end) {
    int64_t low = 0, high = 0, size = (int64_t)pl_dtype_get(t->dtype)->block_bytes;
    for (int i = 0; i < t->n_dims; i++) {
        if (t->shape[i] == 0) return false;
        int64_t reach = (t->shape[i] - 1) * t->stride[i];
        if (reach < 0)
            low += reach;
        else
            high += reach;
    }
    *first = (const char *)t->data + low * size;
    *end = (const char *)t->data + (high + 1) * size;
    return true;
}

/* Whether elements of b may lie where other elements of x are about to be written. */
static bool reads_what_is_written(const pl_tensor *x, const pl_tensor *b) {
    const char *x_first, *x_end, *b_first, *b_end;
    if (!extent(x, &x_first, &x_end) || !extent(b, &b_first, &b_end)) return false;
    if (x_end <= b_first || b_end <= x_first) return false;
    bool same = x->data == b->data && x->dtype == b->dtype && x->n_dims == b->n_dims;
    for (int i = 0; i < x->n_dims && same; i++) {
        same = x->shape[i] == b->shape[i] && (x->shape[i] == 1 || x->stride[i] == b->stride[i]);
    }
    return !same;
}

/* A copy that no gradient passes through. */
static pl_status plain_copy(pl_call *c, pl_tensor *copy, const pl_tensor *t) {
    bool paused = c->paused;
    c->paused = true;
    pl_status status = pl_op_to(c, copy, t, t->dtype);
    c->paused = paused;
    return status;
}

pl_status pl_op_binary_(pl_call *c, const pl_tensor *x, const pl_tensor *b, pl_binary op) {
    pl_tensor copy = {0};
    pl_status status = check_binary(c, x, b, op);
    if (status == PL_OK) status = check_fits(c, x, b);
    if (status == PL_OK && x->dtype != PL_F32 && (b->dtype == PL_F32 || !binaries[op].run_int)) {
        status = pl_fail(&c->err, PL_ERR_SHAPE, "%s_ on a %s tensor: the result would be float32",
                         binaries[op].name, pl_dtype_get(x->dtype)->name);
    }
    if (status == PL_OK) status = pl_record_binary_(c, x, b, op);
    if (status == PL_OK && reads_what_is_written(x, b)) {
        status = plain_copy(c, &copy, b);
        b = &copy;
    }
    if (status == PL_OK && !pl_float_binary(x, x, b, op)) run_binary(x, x, b, &binaries[op]);
    pl_tensor_release(&copy);
    return status;
}

static void copy_elements(const pl_tensor *to, const pl_tensor *from) {
    const pl_tensor *operands[] = {to, from};
    pl_cursor at = pl_cursor_begin(to->n_dims, to->shape, operands, 2);
    for (int64_t r = 0; r < at.n_rows; r++, pl_cursor_next(&at)) {
        if (at.step[0] == 1 && at.step[1] == 1 && to->dtype == PL_F32 && from->dtype == PL_F32) {
            memmove((float *)to->data + at.at[0], (const float *)from->data + at.at[1],
                    (size_t)at.width * sizeof(float));
            continue;
        }
        for (int64_t i = 0; i < at.width; i++) {
            pl_move_element(to, at.at[0] + i * at.step[0], from, at.at[1] + i * at.step[1]);
        }
    }
}

pl_status pl_op_copy_(pl_call *c, const pl_tensor *x, const pl_tensor *source) {
    pl_status status = check_number(c, x);
    if (status == PL_OK) status = check_number(c, source);
    if (status == PL_OK) status = check_fits(c, x, source);
    if (status == PL_OK) status = pl_record_copy_(c, x, source);
    if (status != PL_OK) return status;
    if (reads_what_is_written(x, source)) {
        pl_tensor copy;
        status = plain_copy(c, &copy, source);
        if (status != PL_OK) return status;
        copy_elements(x, &copy);
        pl_tensor_release(&copy);
        return PL_OK;
    }
    copy_elements(x, source);
    return PL_OK;
}

/* Rows of any float or quantised type, widened by the kernels. */
static pl_status widen(pl_call *c, pl_tensor *out, const pl_tensor *x) {
    if (!c->kernels->to_f32[x->dtype] || (x->n_dims > 0 && x->stride[x->n_dims - 1] != 1)) {
        return pl_fail(&c->err, PL_ERR_UNSUPPORTED,
                       "a %s tensor in this layout cannot be converted",
                       pl_dtype_get(x->dtype)->name);
    }
    const pl_dtype_info *info = pl_dtype_get(x->dtype);
    const pl_tensor *operands[] = {out, x};
    pl_cursor at = pl_cursor_begin(out->n_dims, out->shape, operands, 2);
    for (int64_t r = 0; r < at.n_rows; r++, pl_cursor_next(&at)) {
        const char *row = (const char *)x->data +
                          at.at[1] / (int64_t)info->block_elements * (int64_t)info->block_bytes;
        c->kernels->to_f32[x->dtype]((float *)out->data + at.at[0], row, (size_t)at.width);
    }
    return PL_OK;
}

pl_status pl_op_to(pl_call *c, pl_tensor *out, const pl_tensor *x, pl_dtype dtype) {
    if (!is_number(&(pl_tensor){.dtype = dtype})) {
        return pl_fail(&c->err, PL_ERR_ARGUMENT, "dtype %s: expected f32, i32 or i64",
                       pl_dtype_get(dtype)->name);
    }
    pl_status status = pl_call_tensor(c, out, dtype, x->n_dims, x->shape);
    if (status != PL_OK) return status;
    memcpy(out->dim, x->dim, sizeof out->dim);
    if (is_number(x)) {
        copy_elements(out, x);
    } else {
        status = dtype == PL_F32
                     ? widen(c, out, x)
                     : pl_fail(&c->err, PL_ERR_UNSUPPORTED, "a %s tensor converts to f32 only",
                               pl_dtype_get(x->dtype)->name);
    }
    if (status == PL_OK) return pl_record_to(c, out, x);
    pl_tensor_release(out);
    return status;
}

void pl_op_fill_(const pl_tensor *x, double value) {
    pl_cursor at = pl_cursor_begin(x->n_dims, x->shape, &x, 1);
    for (int64_t r = 0; r < at.n_rows; r++, pl_cursor_next(&at)) {
        for (int64_t i = 0; i < at.width; i++) pl_set_element(x, at.at[0] + i * at.step[0], value);
    }
}

static void choose_elements(const pl_tensor *out, const pl_tensor *condition, const pl_tensor *a,
                            const pl_tensor *b) {
    copy_elements(out, b);
    const pl_tensor *operands[] = {out, condition, a};
    pl_cursor at = pl_cursor_begin(out->n_dims, out->shape, operands, 3);
    for (int64_t r = 0; r < at.n_rows; r++, pl_cursor_next(&at)) {
        for (int64_t i = 0; i < at.width; i++) {
            if (pl_element(condition, at.at[1] + i * at.step[1]) == 0) continue;
            pl_move_element(out, at.at[0] + i * at.step[0], a, at.at[2] + i * at.step[2]);
        }
    }
}

pl_status pl_op_where(pl_call *c, pl_tensor *out, const pl_tensor *condition, const pl_tensor *a,
                      const pl_tensor *b) {
    int n_dims;
    pl_tensor both = {0};
    pl_status status = check_number(c, condition);
    if (status == PL_OK) status = check_binary(c, a, b, PL_ADD);
    if (status == PL_OK) status = pl_broadcast(c, a, b, &both.n_dims, both.shape);
    int64_t shape[PL_MAX_DIMS];
    if (status == PL_OK) status = pl_broadcast(c, condition, &both, &n_dims, shape);
    if (status == PL_OK) {
        status = pl_call_tensor(c, out, result_dtype(a, b, &binaries[PL_ADD]), n_dims, shape);
    }
    if (status != PL_OK) return status;
    take_names(out, a, condition);
    if (!pl_float_where(out, condition, a, b)) choose_elements(out, condition, a, b);
    return pl_record_where(c, out, condition, a, b);
}
