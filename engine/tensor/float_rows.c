#include "float_rows.h"

#include <math.h>
#include <string.h>

#include "cursor.h"

/* -- one row, operand k in steps of step[k] -----------------------------------------------------
 */

#define ROW static inline __attribute__((always_inline)) void
#define EACH(value)                                                                                \
    for (int64_t i = 0; i < n; i++) out[i * step[0]] = (value)

ROW unary_row(pl_unary op, float *out, const float *x, int64_t n, const int64_t *step) {
    switch (op) {
    case PL_NEG:
        EACH(-x[i * step[1]]);
        break;
    case PL_ABS:
        EACH(fabsf(x[i * step[1]]));
        break;
    case PL_RELU:
        EACH(x[i * step[1]] < 0 ? 0 : x[i * step[1]]);
        break;
    default:
        EACH(x[i * step[1]] * x[i * step[1]]);
    }
}

ROW binary_row(pl_binary op, float *out, const float *a, const float *b, int64_t n,
               const int64_t *step) {
    switch (op) {
    case PL_ADD:
        EACH(a[i * step[1]] + b[i * step[2]]);
        break;
    case PL_SUB:
        EACH(a[i * step[1]] - b[i * step[2]]);
        break;
    case PL_MUL:
        EACH(a[i * step[1]] * b[i * step[2]]);
        break;
    default:
        EACH(a[i * step[1]] / b[i * step[2]]);
    }
}

ROW compare_row(pl_binary op, int32_t *out, const float *a, const float *b, int64_t n,
                const int64_t *step) {
    switch (op) {
    case PL_LT:
        EACH(a[i * step[1]] < b[i * step[2]]);
        break;
    case PL_LE:
        EACH(a[i * step[1]] <= b[i * step[2]]);
        break;
    case PL_GT:
        EACH(a[i * step[1]] > b[i * step[2]]);
        break;
    case PL_GE:
        EACH(a[i * step[1]] >= b[i * step[2]]);
        break;
    case PL_EQ:
        EACH(a[i * step[1]] == b[i * step[2]]);
        break;
    default:
        EACH(a[i * step[1]] != b[i * step[2]]);
    }
}

ROW where_row(float *out, const int32_t *condition, const float *a, const float *b, int64_t n,
              const int64_t *step) {
    EACH(condition[i * step[1]] ? a[i * step[2]] : b[i * step[3]]);
}

/* -- all rows -----------------------------------------------------------------------------------
 */

/* The usual steps, for which there are loops of their own: all side by side, or one operand a
 * single number. */
static const int64_t dense[PL_CURSOR_MAX] = {1, 1, 1, 1}, by_number[] = {1, 1, 0},
                     where_number[] = {1, 1, 0, 1};

static bool has_steps(const pl_cursor *at, const int64_t *step, size_t n) {
    return memcmp(at->step, step, n * sizeof *step) == 0;
}

static float *floats(const pl_tensor *t, int64_t at) {
    return (float *)t->data + at;
}

bool pl_float_unary(const pl_tensor *out, const pl_tensor *x, pl_unary op) {
    bool known = op == PL_NEG || op == PL_ABS || op == PL_RELU || op == PL_SQUARE;
    if (!known || x->dtype != PL_F32 || out->dtype != PL_F32) return false;
    const pl_tensor *operands[] = {out, x};
    pl_cursor at = pl_cursor_begin(out->n_dims, out->shape, operands, 2);
    bool is_dense = has_steps(&at, dense, 2);
    for (int64_t r = 0; r < at.n_rows; r++, pl_cursor_next(&at)) {
        float *to = floats(out, at.at[0]);
        const float *from = floats(x, at.at[1]);
        if (is_dense)
            unary_row(op, to, from, at.width, dense);
        else
            unary_row(op, to, from, at.width, at.step);
    }
    return true;
}

static void binary_rows(const pl_tensor *out, const pl_tensor *a, const pl_tensor *b, pl_binary op,
                        pl_cursor *at) {
    bool is_dense = has_steps(at, dense, 3), is_number = has_steps(at, by_number, 3);
    for (int64_t r = 0; r < at->n_rows; r++, pl_cursor_next(at)) {
        float *z = floats(out, at->at[0]);
        const float *x = floats(a, at->at[1]), *y = floats(b, at->at[2]);
        if (is_dense)
            binary_row(op, z, x, y, at->width, dense);
        else if (is_number)
            binary_row(op, z, x, y, at->width, by_number);
        else
            binary_row(op, z, x, y, at->width, at->step);
    }
}

static void compare_rows(const pl_tensor *out, const pl_tensor *a, const pl_tensor *b, pl_binary op,
                         pl_cursor *at) {
    bool is_dense = has_steps(at, dense, 3), is_number = has_steps(at, by_number, 3);
    for (int64_t r = 0; r < at->n_rows; r++, pl_cursor_next(at)) {
        int32_t *z = (int32_t *)out->data + at->at[0];
        const float *x = floats(a, at->at[1]), *y = floats(b, at->at[2]);
        if (is_dense)
            compare_row(op, z, x, y, at->width, dense);
        else if (is_number)
            compare_row(op, z, x, y, at->width, by_number);
        else
            compare_row(op, z, x, y, at->width, at->step);
    }
}

bool pl_float_binary(const pl_tensor *out, const pl_tensor *a, const pl_tensor *b, pl_binary op) {
    if (a->dtype != PL_F32 || b->dtype != PL_F32) return false;
    const pl_tensor *operands[] = {out, a, b};
    pl_cursor at = pl_cursor_begin(out->n_dims, out->shape, operands, 3);
    if (op <= PL_DIV && out->dtype == PL_F32) {
        binary_rows(out, a, b, op, &at);
        return true;
    }
    if (op >= PL_LT && out->dtype == PL_I32) {
        compare_rows(out, a, b, op, &at);
        return true;
    }
    return false;
}

bool pl_float_where(const pl_tensor *out, const pl_tensor *condition, const pl_tensor *a,
                    const pl_tensor *b) {
    if (condition->dtype != PL_I32 || a->dtype != PL_F32 || b->dtype != PL_F32) return false;
    const pl_tensor *operands[] = {out, condition, a, b};
    pl_cursor at = pl_cursor_begin(out->n_dims, out->shape, operands, 4);
    bool is_dense = has_steps(&at, dense, 4), is_number = has_steps(&at, where_number, 4);
    for (int64_t r = 0; r < at.n_rows; r++, pl_cursor_next(&at)) {
        float *z = floats(out, at.at[0]);
        const int32_t *chosen = (const int32_t *)condition->data + at.at[1];
        const float *x = floats(a, at.at[2]), *y = floats(b, at.at[3]);
        if (is_dense)
            where_row(z, chosen, x, y, at.width, dense);
        else if (is_number)
            where_row(z, chosen, x, y, at.width, where_number);
        else
            where_row(z, chosen, x, y, at.width, at.step);
    }
    return true;
}
