/* AVX-512 with bfloat16 dot products, for precision "fast": weights and activations are rounded to
 * bfloat16, and products are summed in float32, two at a time.
 *
 * A panel holds 64 rows of weights, so that one register has two consecutive elements of 16 rows:
 *
 *     panel[pair][group]:  | row 0: 2p, 2p + 1 | row 1: 2p, 2p + 1 | ... | row 15 |     group 0 ..
 * 3
 *
 * One instruction multiplies it by two activations, the same for all rows; lane r is row r's sum.
 */
#include <immintrin.h>
#include <string.h>

#include "kernels.h"
#include "tables.h"

enum { GROUPS = 4, LANES = 16, BLOCK_ROWS = 6 };

/* The first n of a mask's 16 elements. */
static inline __mmask16 first(size_t n) {
    return n >= LANES ? 0xffff : (__mmask16)((1u << n) - 1);
}

/* Sixteen pairs of bfloat16 of float32 numbers, those from element n on 0. */
static inline __m512i round_pairs(const float *x, size_t n) {
    __m512 low = _mm512_maskz_loadu_ps(first(n), x);
    __m512 high =
        n > LANES ? _mm512_maskz_loadu_ps(first(n - LANES), x + LANES) : _mm512_setzero_ps();
    return (__m512i)_mm512_cvtne2ps_pbh(high, low);
}

/* The same of one row of weights from element k on. */
static inline __m512i load_pairs(pl_dtype dtype, const void *row, size_t k, size_t n) {
    if (dtype == PL_F32) return round_pairs((const float *)row + k, n);
    __mmask32 mask = n >= 2 * LANES ? 0xffffffff : (__mmask32)((1u << n) - 1);
    __m512i raw = _mm512_maskz_loadu_epi16(mask, (const uint16_t *)row + k);
    if (dtype == PL_BF16) return raw;
    __m512 low = _mm512_cvtph_ps(_mm512_castsi512_si256(raw));
    __m512 high = _mm512_cvtph_ps(_mm512_extracti64x4_epi64(raw, 1));
    return (__m512i)_mm512_cvtne2ps_pbh(high, low);
}

/* z[i][j] <-> z[j][i], 32-bit elements. */
static inline void transpose(__m512i z[LANES]) {
    __m512i t[LANES];
    for (int i = 0; i < LANES; i += 2) {
        t[i] = _mm512_unpacklo_epi32(z[i], z[i + 1]);
        t[i + 1] = _mm512_unpackhi_epi32(z[i], z[i + 1]);
    }
    for (int i = 0; i < LANES; i += 4) {
        z[i] = _mm512_unpacklo_epi64(t[i], t[i + 2]);
        z[i + 1] = _mm512_unpackhi_epi64(t[i], t[i + 2]);
        z[i + 2] = _mm512_unpacklo_epi64(t[i + 1], t[i + 3]);
        z[i + 3] = _mm512_unpackhi_epi64(t[i + 1], t[i + 3]);
    }
    for (int i = 0; i < 4; i++) {
        t[i] = _mm512_shuffle_i32x4(z[i], z[i + 4], 0x88);
        t[i + 4] = _mm512_shuffle_i32x4(z[i], z[i + 4], 0xdd);
        t[i + 8] = _mm512_shuffle_i32x4(z[i + 8], z[i + 12], 0x88);
        t[i + 12] = _mm512_shuffle_i32x4(z[i + 8], z[i + 12], 0xdd);
    }
    for (int i = 0; i < 4; i++) {
        z[i] = _mm512_shuffle_i32x4(t[i], t[i + 8], 0x88);
        z[i + 8] = _mm512_shuffle_i32x4(t[i], t[i + 8], 0xdd);
        z[i + 4] = _mm512_shuffle_i32x4(t[i + 4], t[i + 12], 0x88);
        z[i + 12] = _mm512_shuffle_i32x4(t[i + 4], t[i + 12], 0xdd);
    }
}

void pl_pack_fast_bf16(uint32_t *panel, pl_dtype dtype, const void *w, size_t w_row_bytes,
                       size_t n_out, size_t n_in) {
    size_t n_pairs = (n_in + 1) / 2;
    for (size_t group = 0; group < GROUPS; group++) {
        for (size_t k = 0; k < n_in; k += 2 * LANES) {
            __m512i z[LANES];
            for (size_t i = 0; i < LANES; i++) {
                size_t row = group * LANES + i;
                const char *at = (const char *)w + row * w_row_bytes;
                z[i] = row < n_out ? load_pairs(dtype, at, k, n_in - k) : _mm512_setzero_si512();
            }
            transpose(z);
            for (size_t i = 0; i < LANES && k / 2 + i < n_pairs; i++) {
                _mm512_storeu_si512(panel + ((k / 2 + i) * GROUPS + group) * LANES, z[i]);
            }
        }
    }
}

void pl_round_fast_bf16(uint32_t *out, const float *x, size_t n) {
    for (size_t i = 0; i < n; i += 2 * LANES) {
        __mmask16 pairs = first((n - i + 1) / 2);
        _mm512_mask_storeu_epi32(out + i / 2, pairs, round_pairs(x + i, n - i));
    }
}

/* Up to BLOCK_ROWS rows against a panel. */
static inline __attribute__((always_inline)) void block(float *out, size_t out_stride,
                                                        const uint32_t *panel, size_t n_out,
                                                        const uint32_t *x, size_t x_stride,
                                                        size_t n_rows, size_t n_pairs) {
    __m512 sums[BLOCK_ROWS][GROUPS];
#pragma GCC unroll 6
    for (size_t r = 0; r < n_rows; r++) {
#pragma GCC unroll 4
        for (size_t g = 0; g < GROUPS; g++) sums[r][g] = _mm512_setzero_ps();
    }
    for (size_t k = 0; k < n_pairs; k++) {
        __m512bh w[GROUPS];
#pragma GCC unroll 4
        for (size_t g = 0; g < GROUPS; g++) {
            w[g] = (__m512bh)_mm512_loadu_si512(panel + (k * GROUPS + g) * LANES);
        }
#pragma GCC unroll 6
        for (size_t r = 0; r < n_rows; r++) {
            __m512bh pair = (__m512bh)_mm512_set1_epi32((int)x[r * x_stride + k]);
#pragma GCC unroll 4
            for (size_t g = 0; g < GROUPS; g++) {
                sums[r][g] = _mm512_dpbf16_ps(sums[r][g], w[g], pair);
            }
        }
    }
#pragma GCC unroll 6
    for (size_t r = 0; r < n_rows; r++) {
        for (size_t g = 0; g < GROUPS && g * LANES < n_out; g++) {
            __mmask16 mask = first(n_out - g * LANES);
            _mm512_mask_storeu_ps(out + r * out_stride + g * LANES, mask, sums[r][g]);
        }
    }
}

void pl_tile_fast_bf16(float *out, size_t out_stride, const uint32_t *panel, size_t n_out,
                       const uint32_t *x, size_t x_stride, size_t n_rows, size_t n_in) {
    size_t n_pairs = (n_in + 1) / 2, row = 0;
    for (; row + BLOCK_ROWS <= n_rows; row += BLOCK_ROWS) {
        block(out + row * out_stride, out_stride, panel, n_out, x + row * x_stride, x_stride,
              BLOCK_ROWS, n_pairs);
    }
    for (; row < n_rows; row++) {
        block(out + row * out_stride, out_stride, panel, n_out, x + row * x_stride, x_stride, 1,
              n_pairs);
    }
}
