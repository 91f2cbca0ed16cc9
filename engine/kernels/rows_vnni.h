/* One row of activations times sixteen rows of weights, for AVX-512 with VNNI.
 *
 * A panel that is used once costs more to interleave than to multiply. Here each row of weights is
 * multiplied as it lies, by activations that stay in registers for all sixteen, and what is turned
 * round is sums of it:
 *
 *     part[r]:  sixteen partial sums of row r     ->     product:  lane r is row r's
 *
 * Integers are exact in any order, hence the bits are those of panels. */
#ifndef PL_KERNELS_ROWS_VNNI_H
#define PL_KERNELS_ROWS_VNNI_H

#include "panels_vnni.h"

/* Lane 4 l + i is the sum of the four lanes of quarter l of part[i]. */
ALWAYS_INLINE __m512i sum_quarters(const __m512i *part) {
    __m512i a = _mm512_add_epi32(_mm512_unpacklo_epi32(part[0], part[1]),
                                 _mm512_unpackhi_epi32(part[0], part[1]));
    __m512i b = _mm512_add_epi32(_mm512_unpacklo_epi32(part[2], part[3]),
                                 _mm512_unpackhi_epi32(part[2], part[3]));
    return _mm512_add_epi32(_mm512_unpacklo_epi64(a, b), _mm512_unpackhi_epi64(a, b));
}

ALWAYS_INLINE __m512i even_quarters(__m512i a, __m512i b) {
    return _mm512_shuffle_i32x4(a, b, _MM_SHUFFLE(2, 0, 2, 0));
}
ALWAYS_INLINE __m512i odd_quarters(__m512i a, __m512i b) {
    return _mm512_shuffle_i32x4(a, b, _MM_SHUFFLE(3, 1, 3, 1));
}
ALWAYS_INLINE __m512i add_quarters(__m512i a, __m512i b) {
    return _mm512_add_epi32(even_quarters(a, b), odd_quarters(a, b));
}

/* Of quarters[k], sum_quarters of rows 4 k to 4 k + 3: their whole sums. */
ALWAYS_INLINE __m512i sum_rows(const __m512i *quarters) {
    return add_quarters(add_quarters(quarters[0], quarters[1]),
                        add_quarters(quarters[2], quarters[3]));
}

ALWAYS_INLINE __m512i two_halves(const void *low, const void *high) {
    __m512i first = _mm512_castsi256_si512(_mm256_loadu_si256(low));
    return _mm512_inserti64x4(first, _mm256_loadu_si256(high), 1);
}
ALWAYS_INLINE __m512i both_halves(const void *half) {
    return _mm512_broadcast_i64x4(_mm256_loadu_si256(half));
}

/* sum += scale * q x, where products of bytes by pairs fit 16 bits. */
ALWAYS_INLINE __m512i add_scaled(__m512i sum, __m512i q, __m512i x, __m512i scale) {
    return _mm512_dpwssd_epi32(sum, _mm512_maddubs_epi16(q, x), scale);
}

/* Four bits of every byte, with others above them from `high`; `used` says how many remain. */
ALWAYS_INLINE __m512i with_high_bits(__m512i nibbles, __m512i high, int used) {
    const __m512i low = _mm512_set1_epi8(15);
    __m512i both = _mm512_ternarylogic_epi32(low, nibbles, high, 0xca); /* low ? nibbles : high */
    return _mm512_and_si512(both, _mm512_set1_epi8((char)used));
}

ALWAYS_INLINE __m512i eight_of(int64_t low, int64_t high) {
    return _mm512_setr_epi64(low, low, low, low, high, high, high, high);
}

/* -- q4_k and q5_k ----------------------------------------------------------------------------- */

/* Scales of all rows, eight bytes each, rows in the order of unpacked 32-bit lanes. */
typedef struct row_scales {
    _Alignas(64) int64_t of[PANEL];
} row_scales;

ALWAYS_INLINE int64_t scales_of(const row_scales *s, size_t row) {
    size_t quarter = row / 4, i = row % 4;
    return s->of[i / 2 * 8 + 2 * quarter + i % 2];
}

/* The sums of groups 2 a, 2 a + 1 and 2 b, 2 b + 1 as a pair of 16-bit numbers in every lane. */
ALWAYS_INLINE __m512i sum_pair(const int16_t *sums, size_t a, size_t b) {
    uint16_t low = (uint16_t)(sums[2 * a] + sums[2 * a + 1]);
    uint16_t high = (uint16_t)(sums[2 * b] + sums[2 * b + 1]);
    return _mm512_set1_epi32((int)(low | (uint32_t)high << 16));
}

/* d, dmin, what the minima take off, and the scales. */
ALWAYS_INLINE void row_heads_k(__m512 *d, __m512 *dmin, __m512i *minimum, row_scales *s,
                               const uint8_t *block, size_t w_row_bytes,
                               const pl_activations256 *x) {
    __m512i head[4], scales[2], mins[2];
    interleave16(head, block, w_row_bytes);
    *d = half_of(head[0], 0), *dmin = half_of(head[0], 1);
    split_scales_k(scales, mins, head);
    _mm512_store_si512(s->of, _mm512_unpacklo_epi32(scales[0], scales[1]));
    _mm512_store_si512(s->of + 8, _mm512_unpackhi_epi32(scales[0], scales[1]));
    const __m512i even = _mm512_set1_epi16(255);
    *minimum = _mm512_setzero_si512();
#pragma GCC unroll 2
    for (size_t j = 0; j < 2; j++) {
        __m512i odd = _mm512_srli_epi16(mins[j], 8);
        *minimum = _mm512_dpwssd_epi32(*minimum, _mm512_and_si512(mins[j], even),
                                       sum_pair(x->sums, 4 * j, 4 * j + 2));
        *minimum = _mm512_dpwssd_epi32(*minimum, odd, sum_pair(x->sums, 4 * j + 1, 4 * j + 3));
    }
}

/* A register of nibbles holds 32 elements and, in its upper half, those 64 further on. */
ALWAYS_INLINE __m512 rows_k(bool fifth_bits, __m512 sum, const uint8_t *block, size_t w_row_bytes,
                            const char *activations) {
    const pl_activations256 *x = (const pl_activations256 *)(const void *)activations;
    __m512 d, dmin;
    __m512i minimum, q[4], scale[4], turn[4], quarters[4];
    row_scales scales;
    row_heads_k(&d, &dmin, &minimum, &scales, block, w_row_bytes, x);
#pragma GCC unroll 4
    for (int i = 0; i < 4; i++) {
        int first = i / 2 * 4 + i % 2; /* of eight runs of 32, and first + 2 */
        q[i] = two_halves(x->q + 32 * first, x->q + 32 * first + 64);
        const uint64_t word = 0x0001000100010001u; /* a scale's byte, and a zero above it */
        scale[i] = eight_of((int64_t)(word * (0x8000u + (unsigned)first)),
                            (int64_t)(word * (0x8002u + (unsigned)first)));
        turn[i] = eight_of((68 - first) % 64, (66 - first) % 64); /* its fifth bits to bit 4 */
    }
    const __m512i low = _mm512_set1_epi8(15);
#pragma GCC unroll 4
    for (size_t k = 0; k < 4; k++) {
        __m512i part[4];
#pragma GCC unroll 4
        for (size_t i = 0; i < 4; i++) {
            const uint8_t *row = block + (4 * k + i) * w_row_bytes + 16;
            __m512i all = _mm512_set1_epi64(scales_of(&scales, 4 * k + i));
            __m512i fifth = _mm512_setzero_si512();
            if (fifth_bits) fifth = both_halves(row), row += 32;
            part[i] = _mm512_setzero_si512();
#pragma GCC unroll 2
            for (int j = 0; j < 4; j += 2) {
                __m512i w = _mm512_loadu_si512(row + 32 * j), high = _mm512_srli_epi16(w, 4);
                if (fifth_bits) {
                    w = with_high_bits(w, _mm512_rolv_epi64(fifth, turn[j]), 31);
                    high = with_high_bits(high, _mm512_rolv_epi64(fifth, turn[j + 1]), 31);
                } else {
                    w = _mm512_and_si512(w, low), high = _mm512_and_si512(high, low);
                }
                part[i] = add_scaled(part[i], w, q[j], _mm512_shuffle_epi8(all, scale[j]));
                part[i] =
                    add_scaled(part[i], high, q[j + 1], _mm512_shuffle_epi8(all, scale[j + 1]));
            }
        }
        quarters[k] = sum_quarters(part);
    }
    return add_product(true, d, dmin, sum, sum_rows(quarters), minimum, x->d);
}

ALWAYS_INLINE __m512 rows_q4_k(__m512 sum, const uint8_t *block, size_t w_row_bytes,
                               const char *x) {
    return rows_k(false, sum, block, w_row_bytes, x);
}
ALWAYS_INLINE __m512 rows_q5_k(__m512 sum, const uint8_t *block, size_t w_row_bytes,
                               const char *x) {
    return rows_k(true, sum, block, w_row_bytes, x);
}

/* -- q6_k -------------------------------------------------------------------------------------- */

ALWAYS_INLINE __m512 rows_q6_k(__m512 sum, const uint8_t *block, size_t w_row_bytes,
                               const char *activations) {
    const pl_activations256 *x = (const pl_activations256 *)(const void *)activations;
    const __m512i turn_low = eight_of(4, 2), turn_high = eight_of(0, 62);
    __m512i group[4], quarters[4]; /* 16-bit lane i of group[v] is 4 v + i / 8 */
#pragma GCC unroll 4
    for (int v = 0; v < 4; v++) {
        __m512i first = _mm512_set1_epi16((short)(4 * v));
        group[v] = _mm512_add_epi16(first, _mm512_maskz_set1_epi16(0xff00ff00, 1));
        group[v] = _mm512_add_epi16(group[v], _mm512_maskz_set1_epi16(0xffff0000, 2));
    }
    __m512i totals = _mm512_zextsi256_si512(_mm256_loadu_si256((const void *)x->sums));
    totals = _mm512_sub_epi16(_mm512_setzero_si512(), totals);
#pragma GCC unroll 4
    for (size_t k = 0; k < 4; k++) {
        __m512i part[4];
#pragma GCC unroll 4
        for (size_t i = 0; i < 4; i++) {
            const uint8_t *row = block + (4 * k + i) * w_row_bytes;
            __m256i bytes = _mm256_cvtepi8_epi16(_mm_loadu_si128((const void *)(row + 192)));
            __m512i scales = _mm512_zextsi256_si512(bytes);
            part[i] = _mm512_dpwssd_epi32(_mm512_setzero_si512(), _mm512_slli_epi16(scales, 5),
                                          totals); /* every q is 32 too large */
#pragma GCC unroll 2
            for (int h = 0; h < 2; h++) {
                __m512i w = _mm512_loadu_si512(row + 64 * h),
                        high = both_halves(row + 128 + 32 * h);
                __m512i first = with_high_bits(w, _mm512_rolv_epi64(high, turn_low), 63);
                __m512i second =
                    with_high_bits(_mm512_srli_epi16(w, 4), _mm512_rolv_epi64(high, turn_high), 63);
                const int8_t *q = x->q + 128 * h;
                part[i] = add_scaled(part[i], first, _mm512_loadu_si512(q),
                                     _mm512_permutexvar_epi16(group[2 * h], scales));
                part[i] = add_scaled(part[i], second, _mm512_loadu_si512(q + 64),
                                     _mm512_permutexvar_epi16(group[2 * h + 1], scales));
            }
        }
        quarters[k] = sum_quarters(part);
    }
    __m512 d = half_of(panel_words(block + 206, w_row_bytes, PANEL), 1);
    return add_product(false, d, d, sum, sum_rows(quarters), quarters[0], x->d);
}

/* -- q8_0, two blocks at a time ---------------------------------------------------------------- */

ALWAYS_INLINE __m512 rows_q8_0(__m512 sum, const uint8_t *block, size_t w_row_bytes,
                               const char *activations) {
    const pl_activations32 *x = (const pl_activations32 *)(const void *)activations;
    const __m512i q = two_halves(x[0].q, x[1].q), sign = _mm512_set1_epi8(-128);
    __m512i quarters[4];
#pragma GCC unroll 4
    for (size_t k = 0; k < 4; k++) {
        __m512i part[4];
#pragma GCC unroll 4
        for (size_t i = 0; i < 4; i++) {
            const uint8_t *row = block + (4 * k + i) * w_row_bytes;
            __m512i w = _mm512_xor_si512(two_halves(row + 2, row + 36), sign);
            part[i] = _mm512_dpbusd_epi32(_mm512_setzero_si512(), w, q);
        }
        quarters[k] = sum_quarters(part);
    }
    __m512i low = add_quarters(quarters[0], quarters[1]);
    __m512i high = add_quarters(quarters[2], quarters[3]);
    __m512i product[2] = {even_quarters(low, high), odd_quarters(low, high)};
#pragma GCC unroll 2
    for (size_t i = 0; i < 2; i++) {
        __m512 d = half_of(panel_words(block + 34 * i, w_row_bytes, PANEL), 0);
        __m512i more = _mm512_set1_epi32(128 * (x[i].sums[0] + x[i].sums[1]));
        sum = add_product(false, d, d, sum, _mm512_sub_epi32(product[i], more), product[i], x[i].d);
    }
    return sum;
}

#endif
