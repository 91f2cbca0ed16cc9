/* Float types against many rows of activations; a part of generic.h.
 *
 * Columns of weights are turned round sixteen at a time, so that a register holds the same element
 * of each, and the sixteen chains of a lane sum are computed one after another:
 *
 *     panel[l][s]:  | column 0: element 16 s + l | column 1 | ... | column 15 |
 *     sums[l]     = sum over s of x[16 s + l] * panel[l][s]
 *
 * sums[0] to sums[15] are then added up as the lanes of a lane sum are. A step reads one number of
 * each row, not sixteen, so that arithmetic is what limits it. Long columns are cut into stretches,
 * between which the sums wait in memory. */
#ifndef PL_KERNELS_PACKED_TILES_H
#define PL_KERNELS_PACKED_TILES_H

/* A stretch of PACKED_R rows is 18 KiB, which stay in the nearest cache for all chains. */
enum { PACKED_OUT = 16 * PACKED_J, STRETCH_STEPS = 288 / PACKED_R, STRETCH = 16 * STRETCH_STEPS };
/* Rows that share a panel at most; and from which packing pays, of columns that lie as rows and of
 * those that only need copying. */
enum { PACKED_ROWS = 128, FEWEST_PACKED_ROWS = 48, FEWEST_TURNED_ROWS = 4 };

typedef struct packed_panel {
    float step[16][STRETCH_STEPS][PACKED_OUT];
} packed_panel;

/* Weights of a tile: n_out columns from w on, which are rows of w or, where turned, columns. */
typedef struct packed_weights {
    pl_dtype dtype;
    bool turned;
    const char *w;
    size_t row_bytes, n_out, n_in;
} packed_weights;

/* How many of n columns are among the sixteen from j on. */
ALWAYS_INLINE size_t sixteen_of(size_t n, size_t j) {
    return n <= j ? 0 : n - j < 16 ? n - j : 16;
}

/* Elements k to k + n - 1 of n_columns columns from w on, n at most 16. */
ALWAYS_INLINE void load_square(pl_dtype dtype, float square[16][16], const char *w,
                               size_t row_bytes, size_t n_columns, size_t k, size_t n) {
    if (n_columns < 16) memset(square, 0, 16 * sizeof *square);
    for (size_t i = 0; i < n_columns; i++, w += row_bytes) {
        lanes_store(square[i], n == 16 ? load_as(dtype, w, k) : load_as_n(dtype, w, k, n));
    }
}

/* Elements k to k + n - 1 of PACKED_OUT columns from w on, or of the n_columns there are. Meanwhile
 * as many bytes at `next` are fetched. */
ALWAYS_INLINE void pack_as(pl_dtype dtype, packed_panel *panel, const packed_weights *p,
                           size_t column, size_t n_columns, size_t k, size_t n, const char *next) {
    _Alignas(64) float square[16][16];
    size_t element_bytes = dtype == PL_F32 ? 4 : 2;
    for (size_t at = 0; at < n; at += 16) {
        size_t n_steps = n - at < 16 ? n - at : 16;
        for (size_t j = 0; j < PACKED_OUT; j += 16) {
            size_t width = sixteen_of(n_columns, j);
            for (size_t i = 0; i < 16; i++) {
                __builtin_prefetch(next + (j + i) * p->row_bytes + at * element_bytes, 0, 2);
            }
            load_square(dtype, square, p->w + (column + j) * p->row_bytes, p->row_bytes, width,
                        k + at, n_steps);
            lanes_turn(panel->step[0][at / 16] + j, STRETCH_STEPS * PACKED_OUT,
                       (const float(*)[16])square);
        }
    }
}

/* The same of columns that are columns of w too. */
ALWAYS_INLINE void pack_turned_as(pl_dtype dtype, packed_panel *panel, const packed_weights *p,
                                  size_t column, size_t n_columns, size_t k, size_t n) {
    size_t element_bytes = dtype == PL_F32 ? 4 : 2;
    for (size_t i = 0; i < n; i++) {
        const char *row = p->w + (k + i) * p->row_bytes + column * element_bytes;
        for (size_t j = 0; j < PACKED_OUT; j += 16) {
            size_t width = sixteen_of(n_columns, j);
            lanes sixteen = width == 16 ? load_as(dtype, row, j) : load_as_n(dtype, row, j, width);
            lanes_store(panel->step[i % 16][i / 16] + j, sixteen);
        }
    }
}

#define PACK(name, dtype)                                                                          \
    static void pack_##name(packed_panel *panel, const packed_weights *p, size_t column,           \
                            size_t n_columns, size_t k, size_t n, const char *next) {              \
        if (p->turned)                                                                             \
            pack_turned_as(dtype, panel, p, column, n_columns, k, n);                              \
        else                                                                                       \
            pack_as(dtype, panel, p, column, n_columns, k, n, next);                               \
    }
PACK(f32, PL_F32)
PACK(f16, PL_F16)
PACK(bf16, PL_BF16)
#undef PACK

/* R rows along one chain of a stretch. Rows are addressed from every third, which the compiler must
 * not see through: one register a row is more than there are. */
ALWAYS_INLINE void add_chain(int R, bool first, lanes *sums, const float (*step)[PACKED_OUT],
                             const float *x, size_t x_stride, size_t n_steps) {
    lanes sum[PACKED_R * PACKED_J];
    const float *three[PACKED_R / 3];
#pragma GCC unroll 4
    for (int i = 0; 3 * i < R; i++) {
        three[i] = x + (size_t)(3 * i) * x_stride;
        __asm__("" : "+r"(three[i]));
    }
#pragma GCC unroll 24
    for (int i = 0; i < R * PACKED_J; i++) sum[i] = first ? lanes_set(0) : sums[i];
    for (size_t s = 0; s < n_steps; s++) {
        lanes column[PACKED_J];
#pragma GCC unroll 2
        for (int j = 0; j < PACKED_J; j++) column[j] = lanes_load(step[s] + 16 * j);
#pragma GCC unroll 12
        for (int r = 0; r < R; r++) {
            lanes row = lanes_set(three[r / 3][(size_t)(r % 3) * x_stride + 16 * s]);
#pragma GCC unroll 2
            for (int j = 0; j < PACKED_J; j++) {
                sum[r * PACKED_J + j] = lanes_fma(row, column[j], sum[r * PACKED_J + j]);
            }
        }
    }
#pragma GCC unroll 24
    for (int i = 0; i < R * PACKED_J; i++) sums[i] = sum[i];
}

/* R rows along all chains of a stretch of n elements. Where the last step has fewer than sixteen,
 * the chains without one add 0 to it, as a lane sum does. */
ALWAYS_INLINE void add_stretch(int R, bool first, lanes *sums, const packed_panel *panel,
                               const float *x, size_t x_stride, size_t n) {
    int n_sums = R * PACKED_J;
    for (size_t l = 0; l < 16; l++, sums += n_sums) {
        bool longer = l < n % 16;
        add_chain(R, first, sums, panel->step[l], x + l, x_stride, n / 16 + longer);
        if (longer || n % 16 == 0) continue;
        for (int i = 0; i < n_sums; i++) sums[i] = lanes_add(sums[i], lanes_set(0));
    }
}

/* The sixteen chains of R rows to one sum each. */
ALWAYS_INLINE void add_chains_up(int R, float *out, size_t out_stride, lanes *sums,
                                 size_t n_columns) {
    int n_sums = R * PACKED_J;
    for (int half = 8 * n_sums; half >= n_sums; half /= 2) {
        for (int i = 0; i < half; i++) sums[i] = lanes_add(sums[i], sums[half + i]);
    }
    for (int r = 0; r < R; r++, out += out_stride) {
        for (size_t j = 0; j < n_columns; j += 16) {
            lanes sum = sums[(size_t)r * PACKED_J + j / 16];
            if (n_columns - j < 16) {
                lanes_store_n(out + j, sum, n_columns - j);
            } else {
                lanes_store(out + j, sum);
            }
        }
    }
}

/* A stretch of all rows, and their sums once it is the last. */
typedef struct packed_stretch {
    float *out;
    size_t out_stride, n_columns;
    const float *x;
    size_t x_stride, n;
    bool first, last;
    lanes *sums; /* [n_rows, 16, PACKED_J] */
} packed_stretch;

/* From `row` on, R at a time; returns the first row that is left. */
ALWAYS_INLINE size_t multiply_rows_of(int R, const packed_stretch *s, const packed_panel *panel,
                                      size_t row, size_t n_rows) {
    for (; row + (size_t)R <= n_rows; row += (size_t)R) {
        size_t place = s->first && s->last ? 0 : row; /* sums that need not wait */
        lanes *sums = s->sums + place * 16 * PACKED_J;
        add_stretch(R, s->first, sums, panel, s->x + row * s->x_stride, s->x_stride, s->n);
        if (!s->last) continue;
        add_chains_up(R, s->out + row * s->out_stride, s->out_stride, sums, s->n_columns);
    }
    return row;
}

static void multiply_stretch(const packed_stretch *s, const packed_panel *panel, size_t n_rows) {
    size_t row = multiply_rows_of(PACKED_R, s, panel, 0, n_rows);
    row = multiply_rows_of(PACKED_R / 3, s, panel, row, n_rows);
    multiply_rows_of(1, s, panel, row, n_rows);
}

/* Columns `column` to `column` + PACKED_OUT - 1, or as many as there are. */
static void tile_packed_columns(const packed_weights *p, size_t column, float *out,
                                size_t out_stride, const float *x, size_t x_stride, size_t n_rows) {
    packed_panel panel;
    lanes sums[PACKED_ROWS * 16 * PACKED_J];
    size_t left = p->n_out - column, element_bytes = p->dtype == PL_F32 ? 4 : 2;
    packed_stretch s = {.out = out, .out_stride = out_stride, .x_stride = x_stride, .sums = sums};
    s.n_columns = left < PACKED_OUT ? left : PACKED_OUT;
    for (size_t k = 0; k == 0 || k < p->n_in; k += STRETCH) {
        s.first = k == 0, s.last = p->n_in - k <= STRETCH;
        s.n = s.last ? p->n_in - k : STRETCH;
        s.x = x + k;
        const char *next = p->w + (s.last ? (column + PACKED_OUT) * p->row_bytes
                                          : column * p->row_bytes + (k + STRETCH) * element_bytes);
        void (*pack)(packed_panel *, const packed_weights *, size_t, size_t, size_t, size_t,
                     const char *) = p->dtype == PL_F32   ? pack_f32
                                     : p->dtype == PL_F16 ? pack_f16
                                                          : pack_bf16;
        pack(&panel, p, column, s.n_columns, k, s.n, next);
        multiply_stretch(&s, &panel, n_rows);
    }
}

static void tile_packed(pl_dtype dtype, bool turned, float *out, size_t out_stride, const void *w,
                        size_t w_row_bytes, size_t n_out, const float *x, size_t x_stride,
                        size_t n_rows, size_t n_in) {
    packed_weights p = {dtype, turned, w, w_row_bytes, n_out, n_in};
    for (size_t r = 0; r < n_rows; r += PACKED_ROWS) {
        size_t rows = n_rows - r < PACKED_ROWS ? n_rows - r : PACKED_ROWS;
        for (size_t j = 0; j < n_out; j += PACKED_OUT) {
            tile_packed_columns(&p, j, out + r * out_stride + j, out_stride, x + r * x_stride,
                                x_stride, rows);
        }
    }
}

#endif
