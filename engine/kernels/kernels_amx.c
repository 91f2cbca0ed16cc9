/* AMX: as AVX-512 with VNNI, but that many rows of activations meet the weights in tiles of 16 x 16
 * sums. A tile's sums are exact integers, or of precision "fast" in float32. */
#include "panels_vnni.h"
#include "tables.h"

enum { SIDE = 16 };

/* The shapes of the tiles, as the instruction reads them. */
typedef struct tile_shapes {
    uint8_t palette, start_row, reserved[14];
    uint16_t row_bytes[16];
    uint8_t n_rows[16];
} tile_shapes;

/* The compiler does not know that the instructions for tiles read memory: what was written before
 * stands there from here on. */
ALWAYS_INLINE void settle(void) {
    __asm__ volatile("" ::: "memory");
}

/* -- quantised tiles ---------------------------------------------------------------------------
 *
 * A panel's bytes of one run of groups, which share their scale, are what the tile unit reads as
 * its second operand; sixteen rows of activations are the first:
 *
 *     4: 4 or 8 rows of 16 weights x 4 elements     5, 6: 16 rows x 16 or 32 elements of
 * activations 0 .. 3: 16 x 16 sums, of one row of activations and sixteen of weights each
 */

typedef __m512i dots[SIDE];

ALWAYS_INLINE void begin_tile(const layout *l) {
    tile_shapes shapes = {.palette = 1};
    int width = l->n_groups == 2 ? 32 : l->run * PL_GROUP;
    for (int tile = 0; tile < 7; tile++) {
        shapes.row_bytes[tile] = (uint16_t)(tile > 4 ? width : 64);
        shapes.n_rows[tile] = (uint8_t)(tile == 4 ? width / 4 : SIDE);
    }
    settle();
    _tile_loadconfig(&shapes);
}

ALWAYS_INLINE void end_tile(void) {
    _tile_release();
}

/* The products of sixteen rows; two pairs of tiles take turns. */
ALWAYS_INLINE void even_tile(dots product, const char *rows, size_t x_row_bytes) {
    _tile_zero(0);
    _tile_loadd(5, rows, x_row_bytes);
    _tile_dpbssd(0, 5, 4);
    _tile_stored(0, product, 64);
}
ALWAYS_INLINE void odd_tile(dots product, const char *rows, size_t x_row_bytes) {
    _tile_zero(1);
    _tile_loadd(6, rows, x_row_bytes);
    _tile_dpbssd(1, 6, 4);
    _tile_stored(1, product, 64);
}

ALWAYS_INLINE void add_products32(const layout *l, const panel *p, const __m512i *product,
                                  __m512 *sums, const char *x, size_t x_row_bytes) {
#pragma GCC unroll 16
    for (size_t r = 0; r < SIDE; r++) {
        const char *row = x + r * x_row_bytes;
        pl_activations32 head;
        memcpy(&head, row, offsetof(pl_activations32, q));
        __m512i minimum = _mm512_set1_epi32(head.sums[0] + head.sums[1]);
        sums[r] = add_block(l, p, sums[r], product[r], minimum, row);
    }
}

/* sums[r] += block products, sixteen rows at a time; the tile of the next rows is on its way while
 * one's sums are added. */
ALWAYS_INLINE void multiply_tiles32(const layout *l, const panel *p, const __m512i *q,
                                    size_t n_tiles, __m512 *sums, const char *x,
                                    size_t x_row_bytes) {
    dots even, odd;
    size_t step = SIDE * x_row_bytes;
    const char *rows = x + offsetof(pl_activations32, q);
    _tile_loadd(4, q, 64);
    even_tile(even, rows, x_row_bytes);
    for (size_t i = 0; i < n_tiles; i += 2) {
        if (i + 1 < n_tiles) odd_tile(odd, rows + (i + 1) * step, x_row_bytes);
        add_products32(l, p, even, sums + i * SIDE, x + i * step, x_row_bytes);
        if (i + 1 == n_tiles) break;
        if (i + 2 < n_tiles) even_tile(even, rows + (i + 2) * step, x_row_bytes);
        add_products32(l, p, odd, sums + (i + 1) * SIDE, x + (i + 1) * step, x_row_bytes);
    }
}

/* sums[i] += block products of 16 rows of activations. */
ALWAYS_INLINE void multiply_tiles256(const layout *l, const panel *p, const __m512i *q,
                                     __m512 *sums, const char *x, size_t x_row_bytes) {
    dots product[PL_MAX_GROUPS];
    const char *rows = x + offsetof(pl_activations256, q);
    int n_runs = PL_MAX_GROUPS / l->run, width = l->run * PL_GROUP;
    int n_pairs = l->has_min ? PL_MAX_GROUPS / 2 : 0;
    for (int g = 0; g < n_runs; g += 2) {
        _tile_loadd(4, q + g * width / 4, 64);
        even_tile(product[g], rows + g * width, x_row_bytes);
        _tile_loadd(4, q + (g + 1) * width / 4, 64);
        odd_tile(product[g + 1], rows + (g + 1) * width, x_row_bytes);
    }
    for (size_t r = 0; r < SIDE; r++) {
        const char *row = x + r * x_row_bytes;
        __m512i sum = _mm512_setzero_si512(), minimum = sum;
#pragma GCC unroll 16
        for (int g = 0; g < n_runs; g++) {
            __m512i scaled = _mm512_mullo_epi32(p->scale[g * l->run], product[g][r]);
            sum = _mm512_add_epi32(sum, scaled);
        }
#pragma GCC unroll 8
        for (int j = 0; j < n_pairs; j++) {
            const char *two = row + offsetof(pl_activations256, sums) + 4 * j;
            minimum = _mm512_dpwssd_epi32(minimum, p->pair[j], four_activations(two));
        }
        sums[r] = add_block(l, p, sums[r], sum, minimum, row);
    }
}

ALWAYS_INLINE void multiply_rows(const layout *l, const panel *p, size_t n_rows, __m512 *sums,
                                 const char *x, size_t x_row_bytes) {
    size_t n_tiles = n_rows / SIDE, done = n_tiles * SIDE;
    if (n_tiles > 0) {
        __m512i q[PL_MAX_BLOCK / 4], offset = _mm512_set1_epi8((char)l->offset);
        int n = l->n_groups * PL_GROUP / 4;
        for (int i = 0; i < n; i++) q[i] = _mm512_sub_epi8(p->q[i], offset);
        settle();
        if (l->n_groups == 2) multiply_tiles32(l, p, q, n_tiles, sums, x, x_row_bytes);
        for (size_t r = 0; l->n_groups > 2 && r < done; r += SIDE) {
            multiply_tiles256(l, p, q, sums + r, x + r * x_row_bytes, x_row_bytes);
        }
    }
    multiply_few(l, p, n_rows - done, sums + done, x + done * x_row_bytes, x_row_bytes);
}

#include "tiles_vnni.h"

static const pl_kernels table = GENERIC_TABLE;

const pl_kernels *pl_kernels_amx(void) {
    return &table;
}

/* -- precision "fast" --------------------------------------------------------------------------
 *
 * The panel of kernels_bf16.c is what the tile unit reads as its second operand. Four tiles of sums
 * share two tiles of activations and two of weights:
 *
 *                    | 6: outputs 0 .. 15 | 7: outputs 16 .. 31 |
 *     4: rows 0..15  | 0                  | 1                   |
 *     5: rows 16..31 | 2                  | 3                   |
 *
 * A step multiplies sixteen pairs of elements. Sums that the tiles hand over lie in a square of
 * floats, from which the last step, when it has fewer pairs, takes them up again. */

enum { SQUARE = 2 * SIDE, STEP_PAIRS = 16 };

typedef float square[SQUARE][SQUARE];

/* For n_rows of activations, at most SQUARE, and steps of n_pairs. */
static void configure(size_t n_rows, size_t n_pairs) {
    tile_shapes shapes = {.palette = 1};
    size_t low = n_rows < SIDE ? n_rows : SIDE, high = n_rows > SIDE ? n_rows - SIDE : SIDE;
    for (int tile = 0; tile < 8; tile++) {
        bool rows = tile == 4 || tile == 5, weights = tile > 5;
        shapes.row_bytes[tile] = (uint16_t)(4 * (rows ? n_pairs : SIDE));
        shapes.n_rows[tile] = (uint8_t)(weights ? n_pairs : tile < 2 || tile == 4 ? low : high);
    }
    settle();
    _tile_loadconfig(&shapes);
}

/* Adds the products of pairs from to to - 1, a multiple of n_pairs; high: of rows from SIDE on too.
 */
static void multiply(const uint32_t *weights, const uint32_t *x, size_t x_stride, size_t from,
                     size_t to, size_t n_pairs, bool high) {
    for (size_t k = from; k < to; k += n_pairs) {
        const uint32_t *step = weights + k * PL_FAST_OUT;
        _tile_loadd(6, step, PL_FAST_OUT * sizeof *step);
        _tile_loadd(7, step + SIDE, PL_FAST_OUT * sizeof *step);
        _tile_loadd(4, x + k, x_stride * sizeof *x);
        _tile_dpbf16ps(0, 4, 6);
        _tile_dpbf16ps(1, 4, 7);
        if (!high) continue;
        _tile_loadd(5, x + SIDE * x_stride + k, x_stride * sizeof *x);
        _tile_dpbf16ps(2, 5, 6);
        _tile_dpbf16ps(3, 5, 7);
    }
}

static void clear(void) {
    _tile_zero(0);
    _tile_zero(1);
    _tile_zero(2);
    _tile_zero(3);
}

static void hand_over(square sums, bool high) {
    _tile_stored(0, sums[0], sizeof *sums);
    _tile_stored(1, sums[0] + SIDE, sizeof *sums);
    if (!high) return;
    _tile_stored(2, sums[SIDE], sizeof *sums);
    _tile_stored(3, sums[SIDE] + SIDE, sizeof *sums);
}

static void take_up(square sums, bool high) {
    _tile_loadd(0, sums[0], sizeof *sums);
    _tile_loadd(1, sums[0] + SIDE, sizeof *sums);
    if (!high) return;
    _tile_loadd(2, sums[SIDE], sizeof *sums);
    _tile_loadd(3, sums[SIDE] + SIDE, sizeof *sums);
}

/* n_rows by n_out sums, at most SQUARE of each. The tiles are configured for n_rows and whole
 * steps, and are so again afterwards. */
static void sum_square(float *out, size_t out_stride, const uint32_t *weights, size_t n_out,
                       const uint32_t *x, size_t x_stride, size_t n_rows, size_t n_pairs) {
    square sums;
    size_t whole = n_pairs / STEP_PAIRS * STEP_PAIRS;
    bool high = n_rows > SIDE;
    clear();
    multiply(weights, x, x_stride, 0, whole, STEP_PAIRS, high);
    hand_over(sums, high);
    if (whole < n_pairs) {
        configure(n_rows, n_pairs - whole);
        take_up(sums, high);
        multiply(weights, x, x_stride, whole, n_pairs, n_pairs - whole, high);
        hand_over(sums, high);
        configure(n_rows, STEP_PAIRS);
    }
    for (size_t r = 0; r < n_rows; r++) memcpy(out + r * out_stride, sums[r], n_out * sizeof *out);
}

void pl_tile_fast_amx(float *out, size_t out_stride, const uint32_t *weights, size_t n_out,
                      const uint32_t *x, size_t x_stride, size_t n_rows, size_t n_in) {
    size_t n_pairs = (n_in + 1) / 2, configured = 0;
    for (size_t row = 0; row < n_rows; row += SQUARE) {
        size_t rows = n_rows - row < SQUARE ? n_rows - row : SQUARE;
        if (rows != configured) configure(rows, STEP_PAIRS);
        configured = rows;
        for (size_t j = 0; j < n_out; j += SQUARE) {
            size_t columns = n_out - j < SQUARE ? n_out - j : SQUARE;
            sum_square(out + row * out_stride + j, out_stride, weights + j, columns,
                       x + row * x_stride, x_stride, rows, n_pairs);
        }
    }
    _tile_release();
}
