/* Panels of quantised weights for AVX2, and for AVX-512 without VNNI.
 *
 * Eight rows of weights are multiplied side by side. A block of each is unpacked to bytes and
 * interleaved, so that one register holds four consecutive elements of all eight rows:
 *
 *     q[i]:  | row 0: 4i .. 4i+3 | row 1: 4i .. 4i+3 | ... | row 7: 4i .. 4i+3 |
 *
 * maddubs multiplies it by four activations, the same for all rows, and adds pairs: two 16-bit
 * sums a row. As many of those are added up as cannot overflow (`depth`), then madd multiplies
 * them by the group's scale and adds the pair: lane r is row r's. Activations are within -127 ..
 * 127 and a pair is at most 2 * 127 * q, so 16 bits hold 8 pairs of 4-bit weights, 4 of 5 bits, 2
 * of 6 bits, and one of 8 bits as magnitude (128 at most) and sign.
 * Integers are exact, hence the bits are those of the plain tiles. */
#ifndef PL_KERNELS_PANELS_AVX2_H
#define PL_KERNELS_PANELS_AVX2_H

#include <immintrin.h>

#include "generic.h"

enum { PANEL = 8, STEP_ROWS = 4 };

typedef struct panel {
    __m256i q[PL_MAX_BLOCK / 4];
    /* Blocks of 256 only. 16-bit pairs: a run's scale twice; two neighbouring groups' minima, or
     * their scales by minus the offset. */
    __m256i scale[PL_MAX_GROUPS], pair[PL_MAX_GROUPS / 2];
    __m256 d, dmin;
} panel;

/* What a type's blocks are like, known at compile time. */
typedef struct layout {
    /* Unpacks one block of eight rows, `stride` bytes apart. */
    void (*load)(panel *p, const uint8_t *block, size_t stride);
    size_t block_bytes;
    int n_groups; /* 2 or 16 */
    int offset;   /* taken off every q */
    bool has_min;
    bool is_signed; /* q are signed bytes, and offset 0 */
    int run;        /* registers that share a scale: 4 or 8 */
    int depth;      /* registers whose products 16 bits can hold */
    /* sum + the products of rows_blocks blocks of eight rows with one row of activations; or NULL.
     * See rows_avx2.h. */
    __m256 (*rows)(__m256 sum, const uint8_t *block, size_t stride, const char *x);
    size_t rows_blocks;
} layout;

/* Sixteen bytes of eight rows, `stride` apart, as four registers of the drawing above: a 4 x 4
 * transposition of 32-bit elements in each half. */
ALWAYS_INLINE void interleave16(__m256i *out, const uint8_t *rows, size_t stride) {
    __m256i z[4], t[4];
#pragma GCC unroll 4
    for (size_t i = 0; i < 4; i++) {
        __m128i low = _mm_loadu_si128((const __m128i *)(rows + i * stride));
        __m128i high = _mm_loadu_si128((const __m128i *)(rows + (i + 4) * stride));
        z[i] = _mm256_inserti128_si256(_mm256_castsi128_si256(low), high, 1);
    }
    t[0] = _mm256_unpacklo_epi32(z[0], z[1]), t[1] = _mm256_unpackhi_epi32(z[0], z[1]);
    t[2] = _mm256_unpacklo_epi32(z[2], z[3]), t[3] = _mm256_unpackhi_epi32(z[2], z[3]);
    out[0] = _mm256_unpacklo_epi64(t[0], t[2]), out[1] = _mm256_unpackhi_epi64(t[0], t[2]);
    out[2] = _mm256_unpacklo_epi64(t[1], t[3]), out[3] = _mm256_unpackhi_epi64(t[1], t[3]);
}

ALWAYS_INLINE void interleave32(__m256i *out, const uint8_t *rows, size_t stride) {
    interleave16(out, rows, stride);
    interleave16(out + 4, rows + 16, stride);
}

/* Four bytes at the same place of each row's block. */
ALWAYS_INLINE __m256i panel_words(const uint8_t *rows, size_t stride) {
    int32_t word[PANEL];
#pragma GCC unroll 8
    for (size_t r = 0; r < PANEL; r++) memcpy(&word[r], rows + r * stride, sizeof *word);
    return _mm256_setr_epi32(word[0], word[1], word[2], word[3], word[4], word[5], word[6],
                             word[7]);
}

typedef struct half_pair {
    __m256 first, second;
} half_pair;

/* Of sixteen bytes at the same place of each row's block, the first two half-precision numbers or,
 * if `last`, the last two. */
ALWAYS_INLINE half_pair half_pair_of(bool last, const uint8_t *rows, size_t stride) {
    __m128i two[4], four[2];
#pragma GCC unroll 4
    for (size_t i = 0; i < 4; i++, rows += 2 * stride) {
        __m128i even = _mm_loadu_si128((const void *)rows);
        __m128i odd = _mm_loadu_si128((const void *)(rows + stride));
        two[i] = last ? _mm_unpackhi_epi16(even, odd) : _mm_unpacklo_epi16(even, odd);
    }
#pragma GCC unroll 2
    for (int i = 0; i < 2; i++) {
        four[i] = last ? _mm_unpackhi_epi32(two[2 * i], two[2 * i + 1])
                       : _mm_unpacklo_epi32(two[2 * i], two[2 * i + 1]);
    }
    return (half_pair){_mm256_cvtph_ps(_mm_unpacklo_epi64(four[0], four[1])),
                       _mm256_cvtph_ps(_mm_unpackhi_epi64(four[0], four[1]))};
}
/* The numbers a block begins with, and those it ends with at `end`. */
ALWAYS_INLINE half_pair leading_halves(const uint8_t *rows, size_t stride) {
    return half_pair_of(false, rows, stride);
}
ALWAYS_INLINE half_pair trailing_halves(const uint8_t *end, size_t stride) {
    return half_pair_of(true, end - 16, stride);
}

ALWAYS_INLINE __m256 negative(__m256 x) {
    return _mm256_xor_ps(x, _mm256_set1_ps(-0.0f));
}

/* Bits of every byte, moved down (right > 0) or up. */
ALWAYS_INLINE __m256i bits_down(__m256i x, int shift, int mask) {
    return _mm256_and_si256(_mm256_srli_epi32(x, shift), _mm256_set1_epi8((char)mask));
}
ALWAYS_INLINE __m256i bits_up(__m256i x, int shift, int mask) {
    return _mm256_and_si256(_mm256_slli_epi32(x, shift), _mm256_set1_epi8((char)mask));
}

/* Bytes a and b of every 32-bit lane as a pair of 16-bit numbers; signed, or below 128. */
ALWAYS_INLINE __m256i byte_pair(__m256i x, int a, int b) {
    const __m256i lane = _mm256_setr_epi8(0, 0, 0, 0, 4, 4, 4, 4, 8, 8, 8, 8, 12, 12, 12, 12, 0, 0,
                                          0, 0, 4, 4, 4, 4, 8, 8, 8, 8, 12, 12, 12, 12);
    const __m256i at = _mm256_set1_epi32(a << 8 | b << 24);
    __m256i high = _mm256_shuffle_epi8(x, _mm256_add_epi8(lane, at));
    return _mm256_srai_epi16(high, 8);
}

/* -- blocks of 32 ---------------------------------------------------------------------------- */

static void load_q8_0(panel *p, const uint8_t *block, size_t stride) {
    p->d = leading_halves(block, stride).first;
    interleave32(p->q, block + 2, stride);
}

/* Sixteen bytes of nibbles of each row: the low ones are the first elements. */
ALWAYS_INLINE void load_nibbles32(panel *p, const uint8_t *nibbles, size_t stride) {
    __m256i packed[4];
    interleave16(packed, nibbles, stride);
#pragma GCC unroll 4
    for (int i = 0; i < 4; i++) {
        p->q[i] = bits_down(packed[i], 0, 15);
        p->q[4 + i] = bits_down(packed[i], 4, 15);
    }
}

/* Adds the fifth bits: bit i of a row's word belongs to its element i. */
ALWAYS_INLINE void add_fifth_bits32(panel *p, __m256i words) {
    const __m256i lane = _mm256_setr_epi32(0, 0x04040404, 0x08080808, 0x0c0c0c0c, 0, 0x04040404,
                                           0x08080808, 0x0c0c0c0c);
#pragma GCC unroll 8
    for (int i = 0; i < 8; i++) { /* four copies of the byte that has element 4i's bit */
        __m256i at = _mm256_add_epi8(lane, _mm256_set1_epi8((char)(i / 2)));
        __m256i bit = _mm256_set1_epi32(i % 2 ? (int)0x80402010 : 0x08040201);
        __m256i set = _mm256_and_si256(_mm256_shuffle_epi8(words, at), bit);
        set = _mm256_and_si256(_mm256_cmpeq_epi8(set, bit), _mm256_set1_epi8(16));
        p->q[i] = _mm256_or_si256(p->q[i], set);
    }
}

static void load_q4_0(panel *p, const uint8_t *block, size_t stride) {
    p->d = leading_halves(block, stride).first;
    load_nibbles32(p, block + 2, stride);
}
/* An added m is a negative minimum. */
static void load_q4_1(panel *p, const uint8_t *block, size_t stride) {
    half_pair head = leading_halves(block, stride);
    p->d = head.first, p->dmin = negative(head.second);
    load_nibbles32(p, block + 4, stride);
}
static void load_q5_0(panel *p, const uint8_t *block, size_t stride) {
    p->d = leading_halves(block, stride).first;
    load_nibbles32(p, block + 6, stride);
    add_fifth_bits32(p, panel_words(block + 2, stride));
}
static void load_q5_1(panel *p, const uint8_t *block, size_t stride) {
    half_pair head = leading_halves(block, stride);
    p->d = head.first, p->dmin = negative(head.second);
    load_nibbles32(p, block + 8, stride);
    add_fifth_bits32(p, panel_words(block + 4, stride));
}

/* -- blocks of 256 --------------------------------------------------------------------------- */

/* The first sixteen bytes of a q4_k or q5_k block: d, dmin, eight scales and eight minima. */
ALWAYS_INLINE void load_head_k(panel *p, const uint8_t *block, size_t stride) {
    __m256i head[4], scales[2], mins[2];
    interleave16(head, block, stride);
    half_pair ends = leading_halves(block, stride);
    p->d = ends.first, p->dmin = ends.second;
    scales[0] = bits_down(head[1], 0, 63);
    mins[0] = bits_down(head[2], 0, 63);
    scales[1] = _mm256_or_si256(bits_down(head[3], 0, 15), bits_down(head[1], 2, 48));
    mins[1] = _mm256_or_si256(bits_down(head[3], 4, 15), bits_down(head[2], 2, 48));
#pragma GCC unroll 8
    for (int j = 0; j < 8; j++) {
        p->scale[j] = byte_pair(scales[j / 4], j % 4, j % 4);
        p->pair[j] = byte_pair(mins[j / 4], j % 4, j % 4);
    }
}

static void load_q4_k(panel *p, const uint8_t *block, size_t stride) {
    load_head_k(p, block, stride);
    for (int j = 0; j < 4; j++) {
        __m256i nibbles[8];
        interleave32(nibbles, block + 16 + 32 * j, stride);
#pragma GCC unroll 8
        for (int i = 0; i < 8; i++) {
            p->q[16 * j + i] = bits_down(nibbles[i], 0, 15);
            p->q[16 * j + 8 + i] = bits_down(nibbles[i], 4, 15);
        }
    }
}

static void load_q5_k(panel *p, const uint8_t *block, size_t stride) {
    __m256i fifth[8];
    load_head_k(p, block, stride);
    interleave32(fifth, block + 16, stride);
    for (int j = 0; j < 4; j++) {
        __m256i nibbles[8];
        interleave32(nibbles, block + 48 + 32 * j, stride);
#pragma GCC unroll 8
        for (int i = 0; i < 8; i++) {
            __m256i low = bits_up(fifth[i], 4, 16), high = bits_up(fifth[i], 3, 16);
            p->q[16 * j + i] = _mm256_or_si256(bits_down(nibbles[i], 0, 15), low);
            p->q[16 * j + 8 + i] = _mm256_or_si256(bits_down(nibbles[i], 4, 15), high);
            fifth[i] = _mm256_srli_epi32(fifth[i], 2);
        }
    }
}

static void load_q6_k(panel *p, const uint8_t *block, size_t stride) {
    __m256i scales[4], pairs[8], nibbles[8];
    p->d = trailing_halves(block + 210, stride).second;
    interleave16(scales, block + 192, stride);
#pragma GCC unroll 16
    for (int g = 0; g < 16; g++) p->scale[g] = byte_pair(scales[g / 4], g % 4, g % 4);
#pragma GCC unroll 8
    for (int g = 0; g < 16; g += 2) {
        __m256i two = byte_pair(scales[g / 4], g % 4, g % 4 + 1);
        p->pair[g / 2] = _mm256_mullo_epi16(two, _mm256_set1_epi16(-32));
    }
    for (int h = 0; h < 2; h++) {
        interleave32(pairs, block + 128 + 32 * h, stride);
        for (int j = 0; j < 2; j++) {
            interleave32(nibbles, block + 64 * h + 32 * j, stride);
#pragma GCC unroll 8
            for (int i = 0; i < 8; i++) {
                __m256i low = bits_up(pairs[i], 4, 48), high = bits_down(pairs[i], 0, 48);
                __m256i *q = p->q + 32 * h + 8 * j + i;
                q[0] = _mm256_or_si256(bits_down(nibbles[i], 0, 15), low);
                q[16] = _mm256_or_si256(bits_down(nibbles[i], 4, 15), high);
                pairs[i] = _mm256_srli_epi32(pairs[i], 2);
            }
        }
    }
}

static void load_q2_k(panel *p, const uint8_t *block, size_t stride) {
    __m256i head[4], pairs[8];
    half_pair tail = trailing_halves(block + 84, stride);
    p->d = tail.first, p->dmin = tail.second;
    interleave16(head, block, stride);
#pragma GCC unroll 16
    for (int g = 0; g < 16; g++) {
        p->scale[g] = byte_pair(bits_down(head[g / 4], 0, 15), g % 4, g % 4);
    }
#pragma GCC unroll 8
    for (int g = 0; g < 16; g += 2) {
        p->pair[g / 2] = byte_pair(bits_down(head[g / 4], 4, 15), g % 4, g % 4 + 1);
    }
    for (int h = 0; h < 2; h++) {
        interleave32(pairs, block + 16 + 32 * h, stride);
        for (int j = 0; j < 4; j++) {
#pragma GCC unroll 8
            for (int i = 0; i < 8; i++) {
                p->q[32 * h + 8 * j + i] = bits_down(pairs[i], 0, 3);
                pairs[i] = _mm256_srli_epi32(pairs[i], 2);
            }
        }
    }
}

static void load_q3_k(panel *p, const uint8_t *block, size_t stride) {
    __m256i low[4], pairs[8], third[8], scales[4];
    p->d = trailing_halves(block + 110, stride).second;
    interleave16(low, block + 94, stride); /* 2 bytes of pairs, 12 of scales, d */
#pragma GCC unroll 3
    for (int i = 0; i < 3; i++) {
        low[i] = _mm256_or_si256(_mm256_srli_epi32(low[i], 16), _mm256_slli_epi32(low[i + 1], 16));
    }
#pragma GCC unroll 4
    for (int i = 0; i < 4; i++) {
        __m256i top = _mm256_slli_epi32(bits_down(low[2], 2 * i, 3), 4);
        top = _mm256_or_si256(bits_down(low[i % 2], i < 2 ? 0 : 4, 15), top);
        scales[i] = _mm256_sub_epi8(top, _mm256_set1_epi8(32));
    }
#pragma GCC unroll 16
    for (int g = 0; g < 16; g++) p->scale[g] = byte_pair(scales[g / 4], g % 4, g % 4);
#pragma GCC unroll 8
    for (int g = 0; g < 16; g += 2) {
        __m256i two = byte_pair(scales[g / 4], g % 4, g % 4 + 1);
        p->pair[g / 2] = _mm256_mullo_epi16(two, _mm256_set1_epi16(-4));
    }
    interleave32(third, block, stride);
    for (int h = 0; h < 2; h++) {
        interleave32(pairs, block + 32 + 32 * h, stride);
        for (int j = 0; j < 4; j++) {
#pragma GCC unroll 8
            for (int i = 0; i < 8; i++) {
                __m256i bit = bits_up(third[i], 2, 4);
                p->q[32 * h + 8 * j + i] = _mm256_or_si256(bits_down(pairs[i], 0, 3), bit);
                pairs[i] = _mm256_srli_epi32(pairs[i], 2);
                third[i] = _mm256_srli_epi32(third[i], 1);
            }
        }
    }
}

/* -- products -------------------------------------------------------------------------------- */

ALWAYS_INLINE __m256i four_bytes(const char *p) {
    int32_t four;
    memcpy(&four, p, sizeof four);
    return _mm256_set1_epi32(four);
}

/* Keeps a number in its register: integer additions have no order of their own, so that the
 * compiler would first compute all terms of an unrolled sum, which do not fit; and it would load a
 * number anew for each use. */
ALWAYS_INLINE __m256i in_register(__m256i x) {
    __asm__("" : "+x"(x));
    return x;
}

/* product[r] = sum over the block of scale * q * x, of R rows of activations at x. */
ALWAYS_INLINE void multiply_bytes(const layout *l, const panel *p, int R, __m256i *product,
                                  const char *x, size_t x_row_bytes) {
    int n = l->n_groups * PL_GROUP / 4;
    for (int i = 0; i < n; i += l->depth) {
        __m256i pairs[STEP_ROWS];
#pragma GCC unroll 8
        for (int j = i; j < i + l->depth; j++) {
            __m256i q = p->q[j], size = l->is_signed ? _mm256_abs_epi8(q) : q;
#pragma GCC unroll 4
            for (int r = 0; r < R; r++) {
                __m256i four = four_bytes(x + (size_t)r * x_row_bytes + 4 * (size_t)j);
                if (l->is_signed) four = _mm256_sign_epi8(four, q);
                four = _mm256_maddubs_epi16(size, four);
                pairs[r] = j == i ? four : in_register(_mm256_add_epi16(pairs[r], four));
            }
        }
        __m256i scale = l->n_groups == 2 ? _mm256_set1_epi16(1) : p->scale[i / l->run];
#pragma GCC unroll 4
        for (int r = 0; r < R; r++) {
            __m256i scaled = _mm256_madd_epi16(pairs[r], scale);
            product[r] = in_register(_mm256_add_epi32(product[r], scaled));
        }
    }
}

/* sum + product, scaled by the block's weights' d and its activations' dx. */
ALWAYS_INLINE __m256 add_product(__m256 sum, __m256 d, float dx, __m256i product) {
    __m256 scale = _mm256_mul_ps(d, _mm256_set1_ps(dx));
    return _mm256_fmadd_ps(scale, _mm256_cvtepi32_ps(product), sum);
}

/* sum + the product of a block of 32, but for the offset and the minimum. */
ALWAYS_INLINE __m256 finish_block32(int offset, bool has_min, __m256 d, __m256 dmin,
                                    __m256i product, __m256 sum, const char *x) {
    float dx;
    memcpy(&dx, x, sizeof dx);
    __m256i sums = four_bytes(x + offsetof(pl_activations32, sums)); /* a pair in every lane */
    if (offset) {
        __m256i excess = _mm256_madd_epi16(sums, _mm256_set1_epi16((short)offset));
        product = _mm256_sub_epi32(product, excess);
    }
    sum = add_product(sum, d, dx, product);
    if (!has_min) return sum;
    return add_product(sum, dmin, dx, _mm256_madd_epi16(sums, _mm256_set1_epi16(-1)));
}

/* The same of a block of 256; pair as in a panel. */
ALWAYS_INLINE __m256 finish_block256(int offset, bool has_min, const panel *p, __m256i product,
                                     __m256 sum, const char *x) {
    __m256i paired = _mm256_setzero_si256();
#pragma GCC unroll 8
    for (size_t k = 0; k < PL_MAX_GROUPS / 2; k++) {
        __m256i two = four_bytes(x + offsetof(pl_activations256, sums) + 4 * k);
        paired = _mm256_add_epi32(paired, _mm256_madd_epi16(p->pair[k], two));
    }
    float d;
    memcpy(&d, x, sizeof d);
    if (offset) product = _mm256_add_epi32(product, paired);
    sum = add_product(sum, p->d, d, product);
    if (!has_min) return sum;
    return add_product(sum, p->dmin, d, _mm256_sub_epi32(_mm256_setzero_si256(), paired));
}

/* sums[r] += block product, for R rows of activations. */
ALWAYS_INLINE void multiply_block(const layout *l, const panel *p, int R, __m256 *sums,
                                  const char *x, size_t x_row_bytes) {
    size_t head = l->n_groups == 2 ? offsetof(pl_activations32, q) : offsetof(pl_activations256, q);
    __m256i product[STEP_ROWS];
    for (int r = 0; r < R; r++) product[r] = _mm256_setzero_si256();
    multiply_bytes(l, p, R, product, x + head, x_row_bytes);
#pragma GCC unroll 4
    for (int r = 0; r < R; r++) {
        const char *row = x + (size_t)r * x_row_bytes;
        if (l->n_groups == 2)
            sums[r] =
                finish_block32(l->offset, l->has_min, p->d, p->dmin, product[r], sums[r], row);
        else
            sums[r] = finish_block256(l->offset, l->has_min, p, product[r], sums[r], row);
    }
}

#endif
