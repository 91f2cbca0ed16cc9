/* One row of activations times eight rows of weights, for AVX2.
 *
 * A panel that is used once costs more to interleave than to multiply. Here each row of weights is
 * multiplied as it lies, by the same activations, and what is turned round is sums of it:
 *
 *     part[r]:  eight partial sums of row r     ->     product:  lane r is row r's
 *
 * Integers are exact in any order, hence the bits are those of panels. */
#ifndef PL_KERNELS_ROWS_AVX2_H
#define PL_KERNELS_ROWS_AVX2_H

#include "panels_avx2.h"

ALWAYS_INLINE __m256i load32(const void *p) {
    return _mm256_loadu_si256(p);
}
/* Sixteen bytes here and sixteen there. */
ALWAYS_INLINE __m256i load16_pair(const void *low, const void *high) {
    return _mm256_loadu2_m128i(high, low);
}

/* Lane 4 h + i is the sum of the four lanes of half h of part[i]. */
ALWAYS_INLINE __m256i sum_halves(const __m256i *part) {
    __m256i a = _mm256_add_epi32(_mm256_unpacklo_epi32(part[0], part[1]),
                                 _mm256_unpackhi_epi32(part[0], part[1]));
    __m256i b = _mm256_add_epi32(_mm256_unpacklo_epi32(part[2], part[3]),
                                 _mm256_unpackhi_epi32(part[2], part[3]));
    return _mm256_add_epi32(_mm256_unpacklo_epi64(a, b), _mm256_unpackhi_epi64(a, b));
}

/* Of halves[k], sum_halves of rows 4 k to 4 k + 3: the sums of their low halves, of their high. */
ALWAYS_INLINE __m256i low_sums(const __m256i *halves) {
    return _mm256_permute2x128_si256(halves[0], halves[1], 0x20);
}
ALWAYS_INLINE __m256i high_sums(const __m256i *halves) {
    return _mm256_permute2x128_si256(halves[0], halves[1], 0x31);
}
ALWAYS_INLINE __m256i whole_sums(const __m256i *halves) {
    return _mm256_add_epi32(low_sums(halves), high_sums(halves));
}

/* -- blocks of 32 ---------------------------------------------------------------------------- */

ALWAYS_INLINE __m256 rows_q8_0(__m256 sum, const uint8_t *block, size_t stride, const char *x) {
    const __m256i q = load32(x + offsetof(pl_activations32, q)), one = _mm256_set1_epi16(1);
    __m256i halves[2];
#pragma GCC unroll 2
    for (size_t k = 0; k < 2; k++) {
        __m256i part[4];
#pragma GCC unroll 4
        for (size_t i = 0; i < 4; i++) {
            __m256i w = in_register(load32(block + (4 * k + i) * stride + 2));
            part[i] = _mm256_maddubs_epi16(_mm256_abs_epi8(w), _mm256_sign_epi8(q, w));
            part[i] = _mm256_madd_epi16(part[i], one);
        }
        halves[k] = sum_halves(part);
    }
    __m256 d = leading_halves(block, stride).first;
    return finish_block32(0, false, d, d, whole_sums(halves), sum, x);
}

/* The same four bytes in all of the lower half, and others in the upper. */
ALWAYS_INLINE __m256i four_bytes_pair(const uint8_t *low, const uint8_t *high) {
    int32_t words[2];
    memcpy(&words[0], low, sizeof *words);
    memcpy(&words[1], high, sizeof *words);
    return _mm256_set_m128i(_mm_set1_epi32(words[1]), _mm_set1_epi32(words[0]));
}

/* 16 in byte i of either half where bit `first` + i of its words is set; first 0 or 16. */
ALWAYS_INLINE __m256i fifth_bits_at(__m256i words, int first) {
    const __m256i bit = _mm256_set1_epi64x((int64_t)0x8040201008040201u);
    const __m256i lane = _mm256_setr_epi64x(0, 0x0101010101010101, 0, 0x0101010101010101);
    __m256i at = _mm256_add_epi8(lane, _mm256_set1_epi8((char)(first / 8)));
    __m256i set = _mm256_and_si256(_mm256_shuffle_epi8(words, at), bit);
    return _mm256_and_si256(_mm256_cmpeq_epi8(set, bit), _mm256_set1_epi8(16));
}

/* Blocks that end in fifth bits, if they have any, and nibbles: two at a time, one in either half.
 */
ALWAYS_INLINE __m256 rows_nibbles32(size_t block_bytes, bool fifth_bits, int offset, bool has_min,
                                    __m256 sum, const uint8_t *block, size_t stride,
                                    const char *x) {
    const char *q = x + offsetof(pl_activations32, q), *next = q + sizeof(pl_activations32);
    const __m256i low = load16_pair(q, next), high = load16_pair(q + 16, next + 16);
    const __m256i one = _mm256_set1_epi16(1);
    __m256i halves[2];
#pragma GCC unroll 2
    for (size_t k = 0; k < 2; k++) {
        __m256i part[4];
#pragma GCC unroll 4
        for (size_t i = 0; i < 4; i++) {
            const uint8_t *row = block + (4 * k + i) * stride + block_bytes - 16;
            __m256i w = load16_pair(row, row + block_bytes);
            __m256i first = bits_down(w, 0, 15), second = bits_down(w, 4, 15);
            if (fifth_bits) {
                __m256i words = four_bytes_pair(row - 4, row + block_bytes - 4);
                first = _mm256_or_si256(first, fifth_bits_at(words, 0));
                second = _mm256_or_si256(second, fifth_bits_at(words, 16));
            }
            first = _mm256_maddubs_epi16(first, low);
            second = _mm256_maddubs_epi16(second, high);
            part[i] = _mm256_madd_epi16(_mm256_add_epi16(first, second), one);
        }
        halves[k] = sum_halves(part);
    }
    __m256i product[2] = {low_sums(halves), high_sums(halves)};
#pragma GCC unroll 2
    for (size_t i = 0; i < 2; i++, block += block_bytes, x += sizeof(pl_activations32)) {
        half_pair head = leading_halves(block, stride); /* d and m */
        __m256 dmin = negative(head.second);
        sum = finish_block32(offset, has_min, head.first, dmin, product[i], sum, x);
    }
    return sum;
}
ALWAYS_INLINE __m256 rows_q4_0(__m256 sum, const uint8_t *block, size_t stride, const char *x) {
    return rows_nibbles32(18, false, 8, false, sum, block, stride, x);
}
ALWAYS_INLINE __m256 rows_q4_1(__m256 sum, const uint8_t *block, size_t stride, const char *x) {
    return rows_nibbles32(20, false, 0, true, sum, block, stride, x);
}
ALWAYS_INLINE __m256 rows_q5_0(__m256 sum, const uint8_t *block, size_t stride, const char *x) {
    return rows_nibbles32(22, true, 16, false, sum, block, stride, x);
}
ALWAYS_INLINE __m256 rows_q5_1(__m256 sum, const uint8_t *block, size_t stride, const char *x) {
    return rows_nibbles32(24, true, 0, true, sum, block, stride, x);
}

/* -- q4_k and q5_k --------------------------------------------------------------------------- */

ALWAYS_INLINE __m256 rows_k(bool fifth_bits, __m256 sum, const uint8_t *block, size_t stride,
                            const char *x) {
    const char *q = x + offsetof(pl_activations256, q);
    __m256i halves[2];
    panel p;
    load_head_k(&p, block, stride);
#pragma GCC unroll 2
    for (size_t k = 0; k < 2; k++) {
        __m256i part[4];
#pragma GCC unroll 4
        for (size_t i = 0; i < 4; i++) {
            const uint8_t *row = block + (4 * k + i) * stride + 16;
            const char *scale = (const char *)p.scale + 4 * (4 * k + i);
            __m256i fifth = _mm256_setzero_si256();
            if (fifth_bits) fifth = load32(row), row += 32;
            part[i] = _mm256_setzero_si256();
#pragma GCC unroll 4
            for (size_t j = 0; j < 4; j++) {
                __m256i w = load32(row + 32 * j);
                __m256i low = bits_down(w, 0, 15), high = bits_down(w, 4, 15);
                if (fifth_bits) {
                    low = _mm256_or_si256(low, bits_up(fifth, 4, 16));
                    high = _mm256_or_si256(high, bits_up(fifth, 3, 16));
                    fifth = _mm256_srli_epi16(fifth, 2);
                }
                low = _mm256_maddubs_epi16(low, load32(q + 64 * j));
                high = _mm256_maddubs_epi16(high, load32(q + 64 * j + 32));
                low = _mm256_madd_epi16(low, four_bytes(scale + 64 * j));
                high = _mm256_madd_epi16(high, four_bytes(scale + 64 * j + 32));
                part[i] = in_register(_mm256_add_epi32(part[i], _mm256_add_epi32(low, high)));
            }
        }
        halves[k] = sum_halves(part);
    }
    return finish_block256(0, true, &p, whole_sums(halves), sum, x);
}
ALWAYS_INLINE __m256 rows_q4_k(__m256 sum, const uint8_t *block, size_t stride, const char *x) {
    return rows_k(false, sum, block, stride, x);
}
ALWAYS_INLINE __m256 rows_q5_k(__m256 sum, const uint8_t *block, size_t stride, const char *x) {
    return rows_k(true, sum, block, stride, x);
}

/* -- q6_k ------------------------------------------------------------------------------------ */

/* Scales of groups 0, 2, ..., 14 in the low half, 1, 3, ..., 15 in the high, as 16-bit numbers. */
ALWAYS_INLINE __m256i even_and_odd(__m256i sixteen) {
    const __m256i even_first =
        _mm256_setr_epi8(0, 1, 4, 5, 8, 9, 12, 13, 2, 3, 6, 7, 10, 11, 14, 15, 0, 1, 4, 5, 8, 9, 12,
                         13, 2, 3, 6, 7, 10, 11, 14, 15);
    return _mm256_permute4x64_epi64(_mm256_shuffle_epi8(sixteen, even_first),
                                    _MM_SHUFFLE(3, 1, 2, 0));
}

ALWAYS_INLINE __m256 rows_q6_k(__m256 sum, const uint8_t *block, size_t stride, const char *x) {
    const char *q = x + offsetof(pl_activations256, q);
    const __m256i totals = even_and_odd(load32(x + offsetof(pl_activations256, sums)));
    __m256i halves[2];
#pragma GCC unroll 2
    for (size_t k = 0; k < 2; k++) {
        __m256i part[4];
#pragma GCC unroll 4
        for (size_t i = 0; i < 4; i++) {
            const uint8_t *row = block + (4 * k + i) * stride;
            __m128i bytes = _mm_loadu_si128((const void *)(row + 192));
            __m256i scales = even_and_odd(_mm256_cvtepi8_epi16(bytes));
            part[i] = _mm256_madd_epi16(_mm256_slli_epi16(scales, 5), totals);
            part[i] = _mm256_sub_epi32(_mm256_setzero_si256(), part[i]);
#pragma GCC unroll 2
            for (int h = 0; h < 2; h++) {
                __m256i high = load32(row + 128 + 32 * h);
                const __m256i ups[4] = {bits_up(high, 4, 48), bits_up(high, 2, 48),
                                        bits_down(high, 0, 48), bits_down(high, 2, 48)};
#pragma GCC unroll 4
                for (int j = 0; j < 4; j++) {
                    __m256i w = bits_down(load32(row + 64 * h + 32 * (j % 2)), j / 2 * 4, 15);
                    int run = 4 * h + j;
                    __m256i at = _mm256_set1_epi16((short)(2 * run | (2 * run + 1) << 8));
                    w = _mm256_maddubs_epi16(_mm256_or_si256(w, ups[j]), load32(q + 32 * run));
                    w = _mm256_madd_epi16(w, _mm256_shuffle_epi8(scales, at));
                    part[i] = in_register(_mm256_add_epi32(part[i], w));
                }
            }
        }
        halves[k] = sum_halves(part);
    }
    float dx;
    memcpy(&dx, x, sizeof dx);
    return add_product(sum, trailing_halves(block + 210, stride).second, dx, whole_sums(halves));
}

#endif
