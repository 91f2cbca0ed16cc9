/* Panels of quantised weights for AVX-512 with VNNI, and their products with a few activations.
 *
 * Sixteen rows of weights are multiplied side by side. A block of each is unpacked to bytes and
 * interleaved, so that one register holds four consecutive elements of all sixteen rows:
 *
 *     q[i]:  | row 0: 4i .. 4i+3 | row 1: 4i .. 4i+3 | ... | row 15: 4i .. 4i+3 |
 *
 * One dot-product instruction then multiplies it by four activations, the same for all rows, and
 * sums need no shuffling: lane r is row r's. The panel is used for all rows of activations before
 * the next block is unpacked. Integers are exact, hence the bits are those of the plain tiles.
 *
 * The file that includes this one says by AHEAD, a hint of _mm_prefetch, into which cache weights
 * are fetched before they are needed, and by GATHERS whether one instruction that reads sixteen
 * words is faster than sixteen. */
#ifndef PL_KERNELS_PANELS_VNNI_H
#define PL_KERNELS_PANELS_VNNI_H

#include "lanes_avx512.h"

#include "generic.h"

enum { PANEL = 16, STEP_ROWS = 4, CHUNK_ROWS = 128 };

typedef struct panel {
    __m512i q[PL_MAX_BLOCK / 4];
    /* Blocks of 256 only. 16-bit pairs: two neighbouring groups' minima, or their scales by minus
     * the offset. */
    __m512i scale[PL_MAX_GROUPS], pair[PL_MAX_GROUPS / 2];
    __m512 d, dmin;
} panel;

/* Two numbers of 16 bits in every lane. */
ALWAYS_INLINE __m512i pair_of(__m512i low, __m512i high) {
    return _mm512_mask_blend_epi16(0xaaaaaaaa, low, _mm512_slli_epi32(high, 16));
}

/* Thirty-two bytes of sixteen rows, `stride` apart, as eight registers of the drawing above: an
 * 8 x 8 transposition of 32-bit elements in each half. */
ALWAYS_INLINE void interleave(__m512i *out, const uint8_t *rows, size_t stride) {
    __m512i z[8], t[8], u[8];
#pragma GCC unroll 8
    for (size_t i = 0; i < 8; i++) {
        __m256i low = _mm256_loadu_si256((const __m256i *)(rows + i * stride));
        __m256i high = _mm256_loadu_si256((const __m256i *)(rows + (i + 8) * stride));
        z[i] = _mm512_inserti64x4(_mm512_castsi256_si512(low), high, 1);
    }
#pragma GCC unroll 4
    for (int i = 0; i < 8; i += 2) {
        t[i] = _mm512_unpacklo_epi32(z[i], z[i + 1]);
        t[i + 1] = _mm512_unpackhi_epi32(z[i], z[i + 1]);
    }
#pragma GCC unroll 2
    for (int i = 0; i < 8; i += 4) {
        u[i] = _mm512_unpacklo_epi64(t[i], t[i + 2]);
        u[i + 1] = _mm512_unpackhi_epi64(t[i], t[i + 2]);
        u[i + 2] = _mm512_unpacklo_epi64(t[i + 1], t[i + 3]);
        u[i + 3] = _mm512_unpackhi_epi64(t[i + 1], t[i + 3]);
    }
    const __m512i first = _mm512_setr_epi64(0, 1, 8, 9, 4, 5, 12, 13);
    const __m512i second = _mm512_setr_epi64(2, 3, 10, 11, 6, 7, 14, 15);
#pragma GCC unroll 4
    for (int i = 0; i < 4; i++) {
        out[i] = _mm512_permutex2var_epi64(u[i], first, u[i + 4]);
        out[i + 4] = _mm512_permutex2var_epi64(u[i], second, u[i + 4]);
    }
}

/* Unpacks one block of sixteen rows; rows beyond n repeat the last. */
typedef void (*load_fn)(panel *p, const uint8_t *block, size_t w_row_bytes, size_t n);

ALWAYS_INLINE const uint8_t *panel_row(const uint8_t *block, size_t w_row_bytes, size_t n,
                                       size_t r) {
    return block + (r < n ? r : n - 1) * w_row_bytes;
}

/* Four bytes at the same place of each row's block. They are put together in registers: a load
 * right after sixteen narrow stores would wait for all of them. */
ALWAYS_INLINE __m512i panel_words(const uint8_t *block, size_t w_row_bytes, size_t n) {
    if (GATHERS && n == PANEL && w_row_bytes < INT32_MAX / PANEL) {
        __m512i row = _mm512_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15);
        row = _mm512_mullo_epi32(row, _mm512_set1_epi32((int)w_row_bytes));
        return _mm512_i32gather_epi32(row, block, 1);
    }
    __m128i part[4];
#pragma GCC unroll 4
    for (size_t i = 0; i < 4; i++) {
        int32_t word[4];
#pragma GCC unroll 4
        for (size_t r = 0; r < 4; r++) {
            memcpy(&word[r], panel_row(block, w_row_bytes, n, 4 * i + r), sizeof *word);
        }
        part[i] = _mm_setr_epi32(word[0], word[1], word[2], word[3]);
    }
    __m512i all = _mm512_inserti32x4(_mm512_castsi128_si512(part[0]), part[1], 1);
    return _mm512_inserti32x4(_mm512_inserti32x4(all, part[2], 2), part[3], 3);
}

/* The half-precision number in the low (0) or high (1) half of every lane. */
ALWAYS_INLINE __m512 half_of(__m512i x, int high) {
    return _mm512_cvtph_ps(_mm512_cvtepi32_epi16(_mm512_srli_epi32(x, (unsigned)(16 * high))));
}

/* For the last rows of a matrix, blocks of 256. */
ALWAYS_INLINE void load_by_unpacking(panel *p, pl_unpack_fn unpack, bool has_min,
                                     const uint8_t *block, size_t w_row_bytes, size_t n) {
    uint8_t q[PANEL][PL_MAX_BLOCK];
    int32_t scale[PL_MAX_GROUPS][PANEL];
    int16_t pair[PL_MAX_GROUPS / 2][PANEL][2];
    float d[PANEL], dmin[PANEL];
    for (size_t r = 0; r < PANEL; r++) {
        pl_block b;
        unpack(&b, panel_row(block, w_row_bytes, n, r));
        memcpy(q[r], b.q, sizeof q[r]);
        d[r] = b.d, dmin[r] = b.dmin;
        for (int g = 0; g < PL_MAX_GROUPS; g++) {
            scale[g][r] = b.scale[g];
            pair[g / 2][r][g % 2] = (int16_t)(has_min ? b.min[g] : -b.offset * b.scale[g]);
        }
    }
    for (size_t at = 0; at < PL_MAX_BLOCK; at += 32) {
        interleave(p->q + at / 4, q[0] + at, PL_MAX_BLOCK);
    }
    for (int g = 0; g < PL_MAX_GROUPS; g++) p->scale[g] = _mm512_loadu_si512(scale[g]);
    for (int j = 0; j < PL_MAX_GROUPS / 2; j++) p->pair[j] = _mm512_loadu_si512(pair[j]);
    p->d = _mm512_loadu_ps(d);
    p->dmin = _mm512_loadu_ps(dmin);
}

static void load_q8_0(panel *p, const uint8_t *block, size_t w_row_bytes, size_t n) {
    p->d = half_of(panel_words(block, w_row_bytes, n), 0);
    if (n == PANEL) {
        interleave(p->q, block + 2, w_row_bytes);
    } else {
        uint8_t q[PANEL][32];
        for (size_t r = 0; r < PANEL; r++) {
            memcpy(q[r], panel_row(block, w_row_bytes, n, r) + 2, 32);
        }
        interleave(p->q, q[0], 32);
    }
    for (int i = 0; i < 8; i++) p->q[i] = _mm512_xor_si512(p->q[i], _mm512_set1_epi8(-128));
}

/* Sixteen bytes of sixteen rows as four registers, in which lane r holds four bytes of row r. */
ALWAYS_INLINE void interleave16(__m512i *out, const uint8_t *rows, size_t stride) {
    __m512i z[4], t[4];
#pragma GCC unroll 4
    for (size_t i = 0; i < 4; i++) {
        const uint8_t *row = rows + i * stride;
        z[i] = _mm512_castsi128_si512(_mm_loadu_si128((const __m128i *)row));
        z[i] = _mm512_inserti32x4(z[i], _mm_loadu_si128((const __m128i *)(row + 4 * stride)), 1);
        z[i] = _mm512_inserti32x4(z[i], _mm_loadu_si128((const __m128i *)(row + 8 * stride)), 2);
        z[i] = _mm512_inserti32x4(z[i], _mm_loadu_si128((const __m128i *)(row + 12 * stride)), 3);
    }
    t[0] = _mm512_unpacklo_epi32(z[0], z[1]), t[1] = _mm512_unpackhi_epi32(z[0], z[1]);
    t[2] = _mm512_unpacklo_epi32(z[2], z[3]), t[3] = _mm512_unpackhi_epi32(z[2], z[3]);
    out[0] = _mm512_unpacklo_epi64(t[0], t[2]), out[1] = _mm512_unpackhi_epi64(t[0], t[2]);
    out[2] = _mm512_unpacklo_epi64(t[1], t[3]), out[3] = _mm512_unpackhi_epi64(t[1], t[3]);
}

/* Bits of every byte, moved down. */
ALWAYS_INLINE __m512i bits_of(__m512i x, int shift, int mask) {
    return _mm512_and_si512(_mm512_srli_epi32(x, (unsigned)shift), _mm512_set1_epi8((char)mask));
}

ALWAYS_INLINE __m512i byte_of(__m512i x, int i) {
    return _mm512_and_si512(_mm512_srli_epi32(x, (unsigned)(8 * i)), _mm512_set1_epi32(255));
}

/* Sixteen bytes of nibbles of each row: the low ones are the first elements. */
ALWAYS_INLINE void load_nibbles32(panel *p, const uint8_t *block, size_t w_row_bytes, size_t n) {
    __m512i packed[4];
    if (n == PANEL) {
        interleave16(packed, block, w_row_bytes);
    } else {
        uint8_t q[PANEL][16];
        for (size_t r = 0; r < PANEL; r++) {
            memcpy(q[r], panel_row(block, w_row_bytes, n, r), 16);
        }
        interleave16(packed, q[0], 16);
    }
#pragma GCC unroll 4
    for (int i = 0; i < 4; i++) {
        p->q[i] = bits_of(packed[i], 0, 15);
        p->q[4 + i] = bits_of(packed[i], 4, 15);
    }
}

/* Adds the fifth bits: bit i of a row's word belongs to its element i. */
ALWAYS_INLINE void add_fifth_bits32(panel *p, __m512i words) {
#pragma GCC unroll 8
    for (int i = 0; i < 8; i++) { /* four copies of the byte that has element 4i's bit */
        __m512i copies = _mm512_shuffle_epi8(
            words, _mm512_add_epi8(_mm512_set4_epi32(0x0c0c0c0c, 0x08080808, 0x04040404, 0),
                                   _mm512_set1_epi8((char)(i / 2))));
        __m512i bit = _mm512_set1_epi32(i % 2 ? (int)0x80402010 : 0x08040201);
        __mmask64 set = _mm512_test_epi8_mask(copies, bit);
        p->q[i] = _mm512_mask_add_epi8(p->q[i], set, p->q[i], _mm512_set1_epi8(16));
    }
}

/* d and m, which is added: a negative minimum. */
ALWAYS_INLINE void load_d_and_m(panel *p, const uint8_t *block, size_t w_row_bytes, size_t n) {
    __m512i both = panel_words(block, w_row_bytes, n);
    p->d = half_of(both, 0);
    p->dmin = lanes_sub(lanes_set(-0.0f), half_of(both, 1));
}

static void load_q4_0(panel *p, const uint8_t *block, size_t w_row_bytes, size_t n) {
    p->d = half_of(panel_words(block, w_row_bytes, n), 0);
    load_nibbles32(p, block + 2, w_row_bytes, n);
}
static void load_q4_1(panel *p, const uint8_t *block, size_t w_row_bytes, size_t n) {
    load_d_and_m(p, block, w_row_bytes, n);
    load_nibbles32(p, block + 4, w_row_bytes, n);
}
static void load_q5_0(panel *p, const uint8_t *block, size_t w_row_bytes, size_t n) {
    p->d = half_of(panel_words(block, w_row_bytes, n), 0);
    load_nibbles32(p, block + 6, w_row_bytes, n);
    add_fifth_bits32(p, panel_words(block + 2, w_row_bytes, n));
}
static void load_q5_1(panel *p, const uint8_t *block, size_t w_row_bytes, size_t n) {
    load_d_and_m(p, block, w_row_bytes, n);
    load_nibbles32(p, block + 8, w_row_bytes, n);
    add_fifth_bits32(p, panel_words(block + 4, w_row_bytes, n));
}

/* Eight scales and eight minima of a q4_k or q5_k block, a byte each. */
ALWAYS_INLINE void split_scales_k(__m512i *scales, __m512i *mins, const __m512i *head) {
    scales[0] = bits_of(head[1], 0, 63);
    mins[0] = bits_of(head[2], 0, 63);
    scales[1] = _mm512_or_si512(bits_of(head[3], 0, 15), bits_of(head[1], 2, 48));
    mins[1] = _mm512_or_si512(bits_of(head[3], 4, 15), bits_of(head[2], 2, 48));
}

/* The first sixteen bytes of a q4_k or q5_k block: d, dmin, scales and minima. */
ALWAYS_INLINE void load_head_k(panel *p, const uint8_t *block, size_t w_row_bytes) {
    __m512i head[4], scales[2], mins[2];
    interleave16(head, block, w_row_bytes);
    p->d = half_of(head[0], 0), p->dmin = half_of(head[0], 1);
    split_scales_k(scales, mins, head);
#pragma GCC unroll 8
    for (int j = 0; j < 8; j++) {
        __m512i min = byte_of(mins[j / 4], j % 4);
        p->scale[2 * j] = byte_of(scales[j / 4], j % 4);
        p->pair[j] = pair_of(min, min);
    }
}

/* Pairs of scales by a factor. */
ALWAYS_INLINE void pair_scales(panel *p, int factor) {
#pragma GCC unroll 8
    for (int j = 0; j < PL_MAX_GROUPS / 2; j++) {
        __m512i scales = pair_of(p->scale[2 * j], p->scale[2 * j + 1]);
        p->pair[j] = _mm512_mullo_epi16(scales, _mm512_set1_epi16((short)factor));
    }
}

static void load_q2_k(panel *p, const uint8_t *block, size_t w_row_bytes, size_t n) {
    if (n < PANEL) {
        load_by_unpacking(p, unpack_q2_k, true, block, w_row_bytes, n);
        return;
    }
    __m512i head[4], tail[4], pairs[8];
    interleave16(head, block, w_row_bytes);
    interleave16(tail, block + 68, w_row_bytes);
    p->d = half_of(tail[3], 0), p->dmin = half_of(tail[3], 1);
    __m512i min[16];
#pragma GCC unroll 16
    for (int g = 0; g < 16; g++) {
        __m512i both = byte_of(head[g / 4], g % 4);
        p->scale[g] = _mm512_and_si512(both, _mm512_set1_epi32(15));
        min[g] = _mm512_srli_epi32(both, 4);
        if (g % 2) p->pair[g / 2] = pair_of(min[g - 1], min[g]);
    }
    for (int h = 0; h < 2; h++) {
        interleave(pairs, block + 16 + 32 * h, w_row_bytes);
        for (int j = 0; j < 4; j++) {
            for (int i = 0; i < 8; i++) p->q[32 * h + 8 * j + i] = bits_of(pairs[i], 2 * j, 3);
        }
    }
}

static void load_q3_k(panel *p, const uint8_t *block, size_t w_row_bytes, size_t n) {
    if (n < PANEL) {
        load_by_unpacking(p, unpack_q3_k, false, block, w_row_bytes, n);
        return;
    }
    __m512i tail[4], pairs[8], third[8], scales[4];
    interleave16(tail, block + 94, w_row_bytes); /* 2 bytes of pairs, 12 of scales, d */
    p->d = half_of(tail[3], 1);
    __m512i low[2], high;
    for (int i = 0; i < 2; i++) {
        low[i] =
            _mm512_or_si512(_mm512_srli_epi32(tail[i], 16), _mm512_slli_epi32(tail[i + 1], 16));
    }
    high = _mm512_or_si512(_mm512_srli_epi32(tail[2], 16), _mm512_slli_epi32(tail[3], 16));
#pragma GCC unroll 4
    for (int i = 0; i < 4; i++) {
        __m512i top = _mm512_slli_epi32(bits_of(high, 2 * i, 3), 4);
        scales[i] = _mm512_or_si512(bits_of(low[i % 2], i < 2 ? 0 : 4, 15), top);
    }
#pragma GCC unroll 16
    for (int g = 0; g < 16; g++) {
        p->scale[g] = _mm512_sub_epi32(byte_of(scales[g / 4], g % 4), _mm512_set1_epi32(32));
    }
    pair_scales(p, -4);
    interleave(third, block, w_row_bytes);
    for (int h = 0; h < 2; h++) {
        interleave(pairs, block + 32 + 32 * h, w_row_bytes);
        for (int j = 0; j < 4; j++) {
            for (int i = 0; i < 8; i++) {
                __m512i bit = _mm512_slli_epi32(bits_of(third[i], 4 * h + j, 1), 2);
                p->q[32 * h + 8 * j + i] = _mm512_or_si512(bits_of(pairs[i], 2 * j, 3), bit);
            }
        }
    }
}

static void load_q4_k(panel *p, const uint8_t *block, size_t w_row_bytes, size_t n) {
    if (n < PANEL) {
        load_by_unpacking(p, unpack_q4_k, true, block, w_row_bytes, n);
        return;
    }
    load_head_k(p, block, w_row_bytes);
    for (int j = 0; j < 4; j++) {
        __m512i nibbles[8];
        interleave(nibbles, block + 16 + 32 * j, w_row_bytes);
#pragma GCC unroll 8
        for (int i = 0; i < 8; i++) {
            p->q[16 * j + i] = bits_of(nibbles[i], 0, 15);
            p->q[16 * j + 8 + i] = bits_of(nibbles[i], 4, 15);
        }
    }
}

static void load_q5_k(panel *p, const uint8_t *block, size_t w_row_bytes, size_t n) {
    if (n < PANEL) {
        load_by_unpacking(p, unpack_q5_k, true, block, w_row_bytes, n);
        return;
    }
    load_head_k(p, block, w_row_bytes);
    __m512i fifth[8];
    interleave(fifth, block + 16, w_row_bytes);
    for (int j = 0; j < 4; j++) {
        __m512i nibbles[8];
        interleave(nibbles, block + 48 + 32 * j, w_row_bytes);
#pragma GCC unroll 8
        for (int i = 0; i < 8; i++) {
            __m512i low = _mm512_slli_epi32(bits_of(fifth[i], 2 * j, 1), 4);
            __m512i high = _mm512_slli_epi32(bits_of(fifth[i], 2 * j + 1, 1), 4);
            p->q[16 * j + i] = _mm512_or_si512(bits_of(nibbles[i], 0, 15), low);
            p->q[16 * j + 8 + i] = _mm512_or_si512(bits_of(nibbles[i], 4, 15), high);
        }
    }
}

static void load_q6_k(panel *p, const uint8_t *block, size_t w_row_bytes, size_t n) {
    if (n < PANEL) {
        load_by_unpacking(p, unpack_q6_k, false, block, w_row_bytes, n);
        return;
    }
    __m512i scales[4], pairs[8], nibbles[8];
    p->d = half_of(panel_words(block + 206, w_row_bytes, n), 1); /* the last two bytes */
    interleave16(scales, block + 192, w_row_bytes);
#pragma GCC unroll 16
    for (int g = 0; g < 16; g++) {
        __m512i top = _mm512_slli_epi32(scales[g / 4], (unsigned)(24 - 8 * (g % 4)));
        p->scale[g] = _mm512_srai_epi32(top, 24);
    }
    pair_scales(p, -32);
    for (int h = 0; h < 2; h++) {
        interleave(pairs, block + 128 + 32 * h, w_row_bytes);
        for (int j = 0; j < 2; j++) {
            interleave(nibbles, block + 64 * h + 32 * j, w_row_bytes);
#pragma GCC unroll 8
            for (int i = 0; i < 8; i++) {
                __m512i low = _mm512_slli_epi32(bits_of(pairs[i], 2 * j, 3), 4);
                __m512i high = _mm512_slli_epi32(bits_of(pairs[i], 2 * j + 4, 3), 4);
                __m512i *q = p->q + 32 * h + 8 * j + i;
                q[0] = _mm512_or_si512(bits_of(nibbles[i], 0, 15), low);
                q[16] = _mm512_or_si512(bits_of(nibbles[i], 4, 15), high);
            }
        }
    }
}

/* -- eight blocks of 32 at once ---------------------------------------------------------------
 *
 * Gathering the few bytes of a block's head from sixteen rows costs more than multiplying its
 * nibbles. Eight blocks of 18 to 24 bytes are interleaved whole instead, words[i] being bytes 4i to
 * 4i + 3 of every row, and a block's fields are taken from there. */
enum { TOGETHER = 8, MOST_WORDS = TOGETHER * 24 / 4 };

ALWAYS_INLINE void fetch_lines(const uint8_t *ahead, size_t n_bytes) {
    for (size_t at = 0; at < n_bytes; at += 64) _mm_prefetch((const char *)ahead + at, AHEAD);
}

/* Fetches the first half of as many bytes as it reads from `ahead`. */
ALWAYS_INLINE void interleave_blocks(__m512i *words, const uint8_t *rows, size_t stride,
                                     size_t n_bytes, const uint8_t *ahead) {
    size_t at = 0;
    for (; at + 32 <= n_bytes; at += 32) {
        fetch_lines(ahead + at * PANEL / 2, 32 * PANEL / 2);
        interleave(words + at / 4, rows + at, stride);
    }
    if (at < n_bytes) {
        fetch_lines(ahead + at * PANEL / 2, 16 * PANEL / 2);
        interleave16(words + at / 4, rows + at, stride);
    }
}

/* Bytes at to at + 3 of every row; at is even. */
ALWAYS_INLINE __m512i word_at(const __m512i *words, size_t at) {
    if (at % 4 == 0) return words[at / 4];
    __m512i swapped = _mm512_mask_blend_epi16(0x55555555, words[at / 4], words[at / 4 + 1]);
    return _mm512_ror_epi32(swapped, 16);
}

ALWAYS_INLINE __m512 half_at(const __m512i *words, size_t at) {
    return half_of(words[at / 4], at % 4 != 0);
}

ALWAYS_INLINE void take_nibbles32(panel *p, const __m512i *words, size_t at) {
#pragma GCC unroll 4
    for (size_t i = 0; i < 4; i++) {
        __m512i packed = word_at(words, at + 4 * i);
        p->q[i] = bits_of(packed, 0, 15);
        p->q[4 + i] = bits_of(packed, 4, 15);
    }
}

/* Fills a panel with the block that begins at byte `at` of the words. */
typedef void (*take_fn)(panel *p, const __m512i *words, size_t at);

ALWAYS_INLINE void take_q4_0(panel *p, const __m512i *words, size_t at) {
    p->d = half_at(words, at);
    take_nibbles32(p, words, at + 2);
}

ALWAYS_INLINE void take_q4_1(panel *p, const __m512i *words, size_t at) {
    p->d = half_at(words, at);
    p->dmin = lanes_sub(lanes_set(-0.0f), half_at(words, at + 2));
    take_nibbles32(p, words, at + 4);
}

ALWAYS_INLINE void take_q5_0(panel *p, const __m512i *words, size_t at) {
    p->d = half_at(words, at);
    take_nibbles32(p, words, at + 6);
    add_fifth_bits32(p, word_at(words, at + 2));
}

ALWAYS_INLINE void take_q5_1(panel *p, const __m512i *words, size_t at) {
    p->d = half_at(words, at);
    p->dmin = lanes_sub(lanes_set(-0.0f), half_at(words, at + 2));
    take_nibbles32(p, words, at + 8);
    add_fifth_bits32(p, word_at(words, at + 4));
}

/* sum[r] + the products of row r's blocks, of sixteen rows, with a row of activations. */
typedef __m512 (*rows_fn)(__m512 sum, const uint8_t *block, size_t w_row_bytes, const char *x);

/* What a type's blocks are like, known at compile time. */
typedef struct layout {
    load_fn load;
    size_t block_bytes;
    int n_groups; /* 2 or 16 */
    int offset;   /* taken off every q */
    bool has_min;
    int run;      /* groups that share a scale: 1, or 2 */
    take_fn take; /* eight blocks at once; or NULL */
    rows_fn rows; /* of `rows_blocks` at once, for one row of activations; or NULL */
    size_t rows_blocks;
} layout;

/* Four bytes, or two numbers of 16 bits, in every lane. */
ALWAYS_INLINE __m512i four_activations(const char *x) {
    int32_t four;
    memcpy(&four, x, sizeof four);
    return _mm512_set1_epi32(four);
}

ALWAYS_INLINE __m512 negated(__m512i x) {
    return _mm512_xor_ps(_mm512_cvtepi32_ps(x), _mm512_set1_ps(-0.0f));
}

/* The product of a row and a block of 32, whose groups share their scale. */
ALWAYS_INLINE void multiply_block32(const layout *l, const panel *p, int R, __m512i *product,
                                    __m512i *minimum, const char *x, size_t x_row_bytes) {
#pragma GCC unroll 4
    for (int r = 0; r < R; r++) {
        pl_activations32 head;
        memcpy(&head, x + (size_t)r * x_row_bytes, offsetof(pl_activations32, q));
        int total = head.sums[0] + head.sums[1];
        product[r] = _mm512_set1_epi32(-l->offset * total);
        if (l->has_min) minimum[r] = _mm512_set1_epi32(total);
    }
#pragma GCC unroll 8
    for (size_t i = 0; i < 8; i++) {
        __m512i q = p->q[i];
#pragma GCC unroll 4
        for (int r = 0; r < R; r++) {
            const char *four = x + (size_t)r * x_row_bytes + offsetof(pl_activations32, q) + 4 * i;
            product[r] = _mm512_dpbusd_epi32(product[r], q, four_activations(four));
        }
    }
}

/* The product of a row and a block of 256, by runs of groups that share their scale. */
ALWAYS_INLINE void multiply_block256(const layout *l, const panel *p, int R, __m512i *product,
                                     __m512i *minimum, const char *x, size_t x_row_bytes) {
    int run = l->run;
    for (int r = 0; r < R; r++) product[r] = minimum[r] = _mm512_setzero_si512();
    for (int j = 0; j < PL_MAX_GROUPS / 2; j++) {
#pragma GCC unroll 4
        for (int r = 0; r < R; r++) {
            const char *two = x + (size_t)r * x_row_bytes + offsetof(pl_activations256, sums);
            __m512i *sum = l->has_min ? &minimum[r] : &product[r];
            *sum = _mm512_dpwssd_epi32(*sum, p->pair[j], four_activations(two + 4 * j));
        }
    }
    for (int g = 0; g < PL_MAX_GROUPS; g += run) {
        __m512i dot[STEP_ROWS];
#pragma GCC unroll 4
        for (int r = 0; r < R; r++) dot[r] = _mm512_setzero_si512();
#pragma GCC unroll 8
        for (int i = 0; i < run * PL_GROUP / 4; i++) {
            size_t at = (size_t)g * PL_GROUP / 4 + (size_t)i;
            __m512i q = p->q[at];
#pragma GCC unroll 4
            for (int r = 0; r < R; r++) {
                const char *four =
                    x + (size_t)r * x_row_bytes + offsetof(pl_activations256, q) + 4 * at;
                dot[r] = _mm512_dpbusd_epi32(dot[r], q, four_activations(four));
            }
        }
#pragma GCC unroll 4
        for (int r = 0; r < R; r++) {
            product[r] = _mm512_add_epi32(product[r], _mm512_mullo_epi32(p->scale[g], dot[r]));
        }
    }
}

/* sum += product, and its minimum if it has one, by the scales of weights and of activations. */
ALWAYS_INLINE __m512 add_product(bool has_min, __m512 d, __m512 dmin, __m512 sum, __m512i product,
                                 __m512i minimum, float x_scale) {
    __m512 dx = _mm512_set1_ps(x_scale);
    sum = lanes_fma(lanes_mul(d, dx), _mm512_cvtepi32_ps(product), sum);
    return has_min ? lanes_fma(lanes_mul(dmin, dx), negated(minimum), sum) : sum;
}

/* The same of a panel and a row whose activations have their scale at x. */
ALWAYS_INLINE __m512 add_block(const layout *l, const panel *p, __m512 sum, __m512i product,
                               __m512i minimum, const char *x) {
    float x_scale;
    memcpy(&x_scale, x, sizeof x_scale);
    return add_product(l->has_min, p->d, p->dmin, sum, product, minimum, x_scale);
}

/* sums[r] += block product, for R rows of activations. */
ALWAYS_INLINE void multiply_block(const layout *l, const panel *p, int R, __m512 *sums,
                                  const char *x, size_t x_row_bytes) {
    __m512i product[STEP_ROWS], minimum[STEP_ROWS];
    if (l->n_groups == 2) {
        multiply_block32(l, p, R, product, minimum, x, x_row_bytes);
    } else {
        multiply_block256(l, p, R, product, minimum, x, x_row_bytes);
    }
#pragma GCC unroll 4
    for (int r = 0; r < R; r++) {
        sums[r] = add_block(l, p, sums[r], product[r], minimum[r], x + (size_t)r * x_row_bytes);
    }
}

/* The same for any number of rows, a few at a time. */
ALWAYS_INLINE void multiply_few(const layout *l, const panel *p, size_t n_rows, __m512 *sums,
                                const char *x, size_t x_row_bytes) {
    size_t r = 0;
    for (; r + STEP_ROWS <= n_rows; r += STEP_ROWS) {
        multiply_block(l, p, STEP_ROWS, sums + r, x + r * x_row_bytes, x_row_bytes);
    }
    for (; r < n_rows; r++) multiply_block(l, p, 1, sums + r, x + r * x_row_bytes, x_row_bytes);
}

#endif
