/* Tensors as text: type and shape, then the elements in columns, with the middle of long dimensions
 * left out. */
#include <lauxlib.h>
#include <math.h>
#include <stdio.h>
#include <string.h>

#include "../engine/tensor/cursor.h"
#include "../engine/tensor/elementwise.h"
#include "common.h"
#include "tensor.h"

enum { NUMBER = 32, PLENTY = 1000 };

typedef struct format {
    int width, digits;
    bool scientific, whole;
    int64_t most,
        edge; /* of a dimension longer than most, `edge` elements at either end are shown */
} format;

static void write_number(char out[NUMBER], const pl_tensor *t, int64_t at, const format *f) {
    if (f->whole) {
        snprintf(out, NUMBER, "%lld", (long long)pl_element_int(t, at));
    } else if (!isfinite(pl_element(t, at))) {
        double x = pl_element(t, at);
        snprintf(out, NUMBER, "%s", isnan(x) ? "nan" : x > 0 ? "inf" : "-inf");
    } else {
        snprintf(out, NUMBER, f->scientific ? "%.*e" : "%.*f", f->digits, pl_element(t, at));
    }
}

/* The index of the i-th thing shown of a dimension; -1 stands for those left out. */
static int64_t shown(const format *f, int64_t n, int64_t i) {
    if (n <= f->most || i < f->edge) return i;
    return i == f->edge ? -1 : n - (2 * f->edge + 1 - i);
}

static int64_t n_shown(const format *f, int64_t n) {
    return n <= f->most ? n : 2 * f->edge + 1;
}

/* Shows less of every dimension until the whole is no more than plenty. */
static void choose_edges(const pl_tensor *t, format *f) {
    f->most = 8, f->edge = 3;
    for (;;) {
        int64_t n = 1;
        for (int i = 0; i < t->n_dims; i++) n *= n_shown(f, t->shape[i]);
        if (n <= PLENTY || f->edge == 1) return;
        f->edge--;
        f->most = 2 * f->edge + 1;
    }
}

/* Decides how to write, from the elements that will be shown. */
static void survey(const format *f, const pl_tensor *t, int dim, int64_t at, double *most,
                   double *least) {
    if (dim == t->n_dims) {
        double a = fabs(pl_element(t, at));
        if (!isfinite(a)) return;
        if (a > *most) *most = a;
        if (a > 0 && a < *least) *least = a;
        return;
    }
    for (int64_t i = 0; i < n_shown(f, t->shape[dim]); i++) {
        int64_t index = shown(f, t->shape[dim], i);
        if (index >= 0) survey(f, t, dim + 1, at + index * t->stride[dim], most, least);
    }
}

static void find_width(const pl_tensor *t, int dim, int64_t at, format *f) {
    if (dim == t->n_dims) {
        char text[NUMBER];
        write_number(text, t, at, f);
        int length = (int)strlen(text);
        if (length > f->width) f->width = length;
        return;
    }
    for (int64_t i = 0; i < n_shown(f, t->shape[dim]); i++) {
        int64_t index = shown(f, t->shape[dim], i);
        if (index >= 0) find_width(t, dim + 1, at + index * t->stride[dim], f);
    }
}

static format choose_format(const pl_tensor *t) {
    double most = 0, least = INFINITY;
    format f = {.digits = 4, .whole = t->dtype != PL_F32};
    choose_edges(t, &f);
    survey(&f, t, 0, 0, &most, &least);
    f.scientific = most >= 1e5 || (least < 1e-3 && most < 1e-1) || (most > 0 && most / least > 1e7);
    find_width(t, 0, 0, &f);
    return f;
}

static void write_dim(luaL_Buffer *b, const pl_tensor *t, int dim, int64_t at, const format *f) {
    bool last = dim == t->n_dims - 1;
    luaL_addchar(b, '[');
    for (int64_t i = 0; i < n_shown(f, t->shape[dim]); i++) {
        int64_t index = shown(f, t->shape[dim], i);
        if (i > 0) luaL_addstring(b, last ? ", " : ",\n");
        for (int s = 0; s <= dim && i > 0 && !last; s++) luaL_addchar(b, ' ');
        if (index < 0) {
            luaL_addstring(b, "...");
        } else if (last) {
            char number[NUMBER], padded[2 * NUMBER];
            write_number(number, t, at + index * t->stride[dim], f);
            snprintf(padded, sizeof padded, "%*s", f->width, number);
            luaL_addstring(b, padded);
        } else {
            write_dim(b, t, dim + 1, at + index * t->stride[dim], f);
        }
    }
    luaL_addchar(b, ']');
}

int pl_lua_tensor_show(lua_State *L) {
    const pl_tensor *t = pl_lua_check_tensor(L, 1);
    char shape[PL_SHAPE_TEXT];
    pl_tensor_shape_text(t, shape);
    bool plain = t->dtype == PL_F32 || t->dtype == PL_I32 || t->dtype == PL_I64;
    lua_getfield(L, 1, "dtype");
    const char *head = lua_pushfstring(L, "%s %s", lua_tostring(L, -1), shape);
    if (!plain || pl_tensor_count(t) == 0) return 1;
    format f = choose_format(t);
    if (t->n_dims == 0) {
        char number[NUMBER];
        write_number(number, t, 0, &f);
        lua_pushfstring(L, "%s %s", head, number);
        return 1;
    }
    luaL_Buffer b;
    luaL_buffinit(L, &b);
    luaL_addstring(&b, head);
    luaL_addchar(&b, '\n');
    write_dim(&b, t, 0, 0, &f);
    luaL_pushresult(&b);
    return 1;
}
