/* AMX: as AVX-512 with VNNI, but that many rows of activations meet the weights in tiles of 16 x 16
 * sums. A tile's sums are exact integers, or of precision "fast" in float32. */
#include <immintrin.h>

/* Processors with AMX wait less for memory when the second cache is filled: the first has room for
 * sixteen lines on their way, the second for three times as many. */
#define AHEAD _MM_HINT_T2
enum { GATHERS = 1 };

#include "rows_vnni.h"
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

ALWAYS_INLINE void clear(void) {
    _tile_zero(0);
    _tile_zero(1);
    _tile_zero(2);
    _tile_zero(3);
}

/* -- quantised tiles ---------------------------------------------------------------------------
 *
 * Four bytes of each of sixteen rows of weights, as panels hold them, are a row of the tile unit's
 * second operand; sixteen rows of activations are its first; sixteen by sixteen sums come out. */

typedef __m512i dots[SIDE];

/* Blocks of 32: tile 4 has weights, 5 and 6 activations, 0 and 1 sums. Blocks of 256, 64 elements
 * at a time: 4 and 5 have the high and low parts of weights, 6 and 7 activations, and 0 to 3 sums:
 *
 *                    | 4: high | 5: low |
 *     6: rows 0..15  | 0       | 1      |
 *     7: rows 16..31 | 2       | 3      |
 */
ALWAYS_INLINE void begin_tile(const layout *l, size_t n_rows) {
    tile_shapes shapes = {.palette = 1};
    if (n_rows < SIDE) return; /* multiply_few does without tiles */
    bool brief = l->n_groups == 2;
    for (int tile = 0; tile < 8; tile++) {
        bool activations = tile > (brief ? 4 : 5), weights = tile > 3 && !activations;
        shapes.row_bytes[tile] = activations && brief ? 32 : 64;
        shapes.n_rows[tile] = weights && brief ? 8 : SIDE;
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

/* The weights of a block of 256, times their groups' scales, as 64 high + low: both in a byte. */
typedef struct split_panel {
    __m512i high[PL_MAX_BLOCK / 4], low[PL_MAX_BLOCK / 4];
} split_panel;

/* Sixteen bits: each is a product's part, low in the lower byte. */
ALWAYS_INLINE __m512i join_bytes(__m512i even, __m512i odd) {
    return _mm512_mask_blend_epi8(0xaaaaaaaaaaaaaaaa, even, _mm512_slli_epi16(odd, 8));
}

ALWAYS_INLINE void split(const layout *l, split_panel *out, const panel *p) {
    const __m512i offset = _mm512_set1_epi16((short)l->offset), mask = _mm512_set1_epi16(63);
    for (int g = 0; g < PL_MAX_GROUPS; g++) {
        __m512i scale = p->scale[g / l->run * l->run];
        scale = pair_of(scale, scale);
#pragma GCC unroll 4
        for (int i = g * PL_GROUP / 4; i < (g + 1) * PL_GROUP / 4; i++) {
            __m512i even = _mm512_and_si512(p->q[i], _mm512_set1_epi16(255));
            __m512i odd = _mm512_srli_epi16(p->q[i], 8);
            even = _mm512_mullo_epi16(_mm512_sub_epi16(even, offset), scale);
            odd = _mm512_mullo_epi16(_mm512_sub_epi16(odd, offset), scale);
            out->high[i] = join_bytes(_mm512_srai_epi16(even, 6), _mm512_srai_epi16(odd, 6));
            out->low[i] = join_bytes(_mm512_and_si512(even, mask), _mm512_and_si512(odd, mask));
        }
    }
}

/* sums[r] += block products of sixteen rows of activations. */
ALWAYS_INLINE void add_products256(const layout *l, const panel *p, const __m512i *high,
                                   const __m512i *low, __m512 *sums, const char *x,
                                   size_t x_row_bytes) {
    int n_pairs = l->has_min ? PL_MAX_GROUPS / 2 : 0;
    for (size_t r = 0; r < SIDE; r++) {
        const char *row = x + r * x_row_bytes;
        __m512i minimum = _mm512_setzero_si512();
#pragma GCC unroll 8
        for (int j = 0; j < n_pairs; j++) {
            const char *two = row + offsetof(pl_activations256, sums) + 4 * j;
            minimum = _mm512_dpwssd_epi32(minimum, p->pair[j], four_activations(two));
        }
        __m512i product = _mm512_add_epi32(_mm512_slli_epi32(high[r], 6), low[r]);
        sums[r] = add_block(l, p, sums[r], product, minimum, row);
    }
}

/* The same of sixteen rows, or of 32 where `both`. */
ALWAYS_INLINE void multiply_tiles256(const layout *l, const panel *p, const split_panel *w,
                                     bool both, __m512 *sums, const char *x, size_t x_row_bytes) {
    dots product[4];
    const char *rows = x + offsetof(pl_activations256, q), *later = rows + SIDE * x_row_bytes;
    clear();
    for (size_t k = 0; k < PL_MAX_BLOCK; k += 64) {
        _tile_loadd(4, w->high + k / 4, 64);
        _tile_loadd(5, w->low + k / 4, 64);
        _tile_loadd(6, rows + k, x_row_bytes);
        _tile_dpbssd(0, 6, 4);
        _tile_dpbssd(1, 6, 5);
        if (!both) continue;
        _tile_loadd(7, later + k, x_row_bytes);
        _tile_dpbssd(2, 7, 4);
        _tile_dpbssd(3, 7, 5);
    }
    _tile_stored(0, product[0], 64);
    _tile_stored(1, product[1], 64);
    _tile_stored(2, product[2], 64);
    _tile_stored(3, product[3], 64);
    add_products256(l, p, product[0], product[1], sums, x, x_row_bytes);
    if (!both) return;
    add_products256(l, p, product[2], product[3], sums + SIDE, x + SIDE * x_row_bytes, x_row_bytes);
}

ALWAYS_INLINE void multiply_rows32(const layout *l, const panel *p, size_t n_tiles, __m512 *sums,
                                   const char *x, size_t x_row_bytes) {
    __m512i q[8];
    for (int i = 0; i < 8; i++) {
        q[i] = _mm512_sub_epi8(p->q[i], _mm512_set1_epi8((char)l->offset));
    }
    settle();
    multiply_tiles32(l, p, q, n_tiles, sums, x, x_row_bytes);
}

ALWAYS_INLINE void multiply_rows256(const layout *l, const panel *p, size_t n_tiles, __m512 *sums,
                                    const char *x, size_t x_row_bytes) {
    split_panel w;
    split(l, &w, p);
    settle();
    for (size_t i = 0; i < n_tiles; i += 2) {
        multiply_tiles256(l, p, &w, i + 1 < n_tiles, sums + i * SIDE, x + i * SIDE * x_row_bytes,
                          x_row_bytes);
    }
}

ALWAYS_INLINE void multiply_rows(const layout *l, const panel *p, size_t n_rows, __m512 *sums,
                                 const char *x, size_t x_row_bytes) {
    size_t n_tiles = n_rows / SIDE, done = n_tiles * SIDE;
    if (n_tiles > 0 && l->n_groups == 2) multiply_rows32(l, p, n_tiles, sums, x, x_row_bytes);
    if (n_tiles > 0 && l->n_groups > 2) multiply_rows256(l, p, n_tiles, sums, x, x_row_bytes);
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
