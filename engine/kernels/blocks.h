/* The quantised blocks of GGUF, byte by byte, and of rounded activations.
 *
 * Every type is read through one form, a group of sixteen elements:
 *
 *     element = d * scale[g] * (q - offset) - dmin * min[g],     q in 0 .. 255
 *
 * with integers scale, q, offset, min, so that a product with int8 activations is exact:
 *     sum over g of scale[g] * (sum of q x - offset * sum of x),  sum over g of min[g] * sum of x
 * Blocks of 32 have two groups, blocks of 256 sixteen. Types without minimum have dmin = 0; types
 * that add a minimum m have dmin = -m and min = 1. */
#ifndef PL_KERNELS_BLOCKS_H
#define PL_KERNELS_BLOCKS_H

#include "../base/dtype.h"
#include "half.h"

enum { PL_GROUP = 16, PL_MAX_GROUPS = 16, PL_MAX_BLOCK = 256 };

/* One block of weights in the common form. */
typedef struct pl_block {
    float d, dmin;
    int32_t offset;
    int32_t scale[PL_MAX_GROUPS];
    int32_t min[PL_MAX_GROUPS];
    uint8_t q[PL_MAX_BLOCK];
} pl_block;

/* One block of rounded activations: x = d * q. Blocks of 32 elements use the first part of each
 * array; the whole struct is laid out once a block of either size. */
typedef struct pl_activations32 {
    float d;
    int16_t sums[2]; /* of q, per group */
    int8_t q[32];
} pl_activations32;

typedef struct pl_activations256 {
    float d;
    int16_t sums[16];
    int8_t q[256];
} pl_activations256;

typedef void (*pl_unpack_fn)(pl_block *out, const uint8_t *block);

static inline float block_half(const uint8_t *p) {
    return half_to_float((uint16_t)(p[0] | p[1] << 8));
}

static inline void flat_groups(pl_block *b, int n_groups) {
    for (int g = 0; g < n_groups; g++) b->scale[g] = 1;
}

/* Sixteen bytes side by side; compilers make a mess of loops over them. */
typedef uint8_t bytes16 __attribute__((vector_size(16)));
typedef uint64_t words2 __attribute__((vector_size(16)));

static inline bytes16 load_bytes16(const void *p) {
    bytes16 b;
    memcpy(&b, p, sizeof b);
    return b;
}
static inline void store_bytes16(uint8_t *p, bytes16 b) {
    memcpy(p, &b, sizeof b);
}

/* Low nibbles are elements 0..15, high nibbles 16..31. */
static inline void unpack_nibbles32(pl_block *b, const uint8_t *q) {
    bytes16 packed = load_bytes16(q);
    store_bytes16(b->q, packed & 15);
    store_bytes16(b->q + 16, packed >> 4);
}

/* The fifth bit of element i is bit i of a little-endian word. */
static inline void unpack_fifth_bits32(pl_block *b, const uint8_t *h) {
    const bytes16 bit = {1, 2, 4, 8, 16, 32, 64, 128, 1, 2, 4, 8, 16, 32, 64, 128};
    for (int i = 0; i < 2; i++) {
        const words2 copies = {h[2 * i] * 0x0101010101010101u, h[2 * i + 1] * 0x0101010101010101u};
        bytes16 set = (bytes16)(((bytes16)copies & bit) != 0);
        store_bytes16(b->q + 16 * i, load_bytes16(b->q + 16 * i) | (set & 16));
    }
}

/* q4_0: half d; 16 bytes of nibbles. */
static inline void unpack_q4_0(pl_block *b, const uint8_t *p) {
    b->d = block_half(p), b->dmin = 0, b->offset = 8;
    flat_groups(b, 2);
    unpack_nibbles32(b, p + 2);
}

/* A minimum that is added: both groups take it once. */
static inline void added_minimum(pl_block *b, float m) {
    b->dmin = -m, b->offset = 0;
    b->min[0] = b->min[1] = 1;
}

/* q4_1: half d, half m; nibbles. */
static inline void unpack_q4_1(pl_block *b, const uint8_t *p) {
    b->d = block_half(p);
    added_minimum(b, block_half(p + 2));
    flat_groups(b, 2);
    unpack_nibbles32(b, p + 4);
}

/* q5_0: half d; 4 bytes of fifth bits; nibbles. */
static inline void unpack_q5_0(pl_block *b, const uint8_t *p) {
    b->d = block_half(p), b->dmin = 0, b->offset = 16;
    flat_groups(b, 2);
    unpack_nibbles32(b, p + 6);
    unpack_fifth_bits32(b, p + 2);
}

/* q5_1: half d, half m; fifth bits; nibbles. */
static inline void unpack_q5_1(pl_block *b, const uint8_t *p) {
    b->d = block_half(p);
    added_minimum(b, block_half(p + 2));
    flat_groups(b, 2);
    unpack_nibbles32(b, p + 8);
    unpack_fifth_bits32(b, p + 4);
}

/* q8_0: half d; 32 signed bytes. */
static inline void unpack_q8_0(pl_block *b, const uint8_t *p) {
    b->d = block_half(p), b->dmin = 0, b->offset = 128;
    flat_groups(b, 2);
    for (int i = 0; i < 32; i++) b->q[i] = p[2 + i] ^ 0x80;
}

/* Two bits of each of 256 elements: byte 32 h + i holds elements 128 h + 32 j + i at bits 2 j. */
static inline void unpack_pairs256(pl_block *b, const uint8_t *q) {
    for (int h = 0; h < 2; h++) {
        for (int j = 0; j < 4; j++) {
            for (int i = 0; i < 32; i++) {
                b->q[128 * h + 32 * j + i] = q[32 * h + i] >> 2 * j & 3;
            }
        }
    }
}

/* q2_k: 16 bytes, scale in the low nibble and minimum in the high; 64 bytes of pairs; half d,
 * half dmin. */
static inline void unpack_q2_k(pl_block *b, const uint8_t *p) {
    b->d = block_half(p + 80), b->dmin = block_half(p + 82), b->offset = 0;
    for (int g = 0; g < 16; g++) {
        b->scale[g] = p[g] & 15;
        b->min[g] = p[g] >> 4;
    }
    unpack_pairs256(b, p + 16);
}

/* q3_k: 32 bytes of third bits (bit j of byte i: element 32 j + i; a bit not set subtracts 4);
 * 64 bytes of pairs; 12 bytes of sixteen 6-bit scales, less 32; half d.
 * Scale g: its low four bits are a nibble of byte g mod 8 (high for g >= 8), its high two bits
 * are at bits 2 (g / 4) of byte 8 + g mod 4. */
static inline void unpack_q3_k(pl_block *b, const uint8_t *p) {
    const uint8_t *s = p + 96;
    b->d = block_half(p + 108), b->dmin = 0, b->offset = 4;
    for (int g = 0; g < 16; g++) {
        int low = g < 8 ? s[g] & 15 : s[g - 8] >> 4;
        int high = s[8 + g % 4] >> 2 * (g / 4) & 3;
        b->scale[g] = (low | high << 4) - 32;
    }
    unpack_pairs256(b, p + 32);
    for (int i = 0; i < 256; i++) b->q[i] |= (uint8_t)((p[i % 32] >> i / 32 & 1) << 2);
}

/* Eight 6-bit scales and minima in 12 bytes, one for 32 elements, hence for two groups. */
static inline void unpack_scales_k(pl_block *b, const uint8_t *s) {
    for (int j = 0; j < 8; j++) {
        int scale = j < 4 ? s[j] & 63 : (s[j + 4] & 15) | (s[j - 4] >> 6) << 4;
        int min = j < 4 ? s[j + 4] & 63 : s[j + 4] >> 4 | (s[j] >> 6) << 4;
        b->scale[2 * j] = b->scale[2 * j + 1] = scale;
        b->min[2 * j] = b->min[2 * j + 1] = min;
    }
}

/* Byte 32 j + i holds elements 64 j + i (low nibble) and 64 j + 32 + i (high). */
static inline void unpack_nibbles256(pl_block *b, const uint8_t *q) {
    for (int j = 0; j < 4; j++) {
        for (int i = 0; i < 32; i++) {
            b->q[64 * j + i] = q[32 * j + i] & 15;
            b->q[64 * j + 32 + i] = q[32 * j + i] >> 4;
        }
    }
}

/* q4_k: half d, half dmin; 12 bytes of scales and minima; 128 bytes of nibbles. */
static inline void unpack_q4_k(pl_block *b, const uint8_t *p) {
    b->d = block_half(p), b->dmin = block_half(p + 2), b->offset = 0;
    unpack_scales_k(b, p + 4);
    unpack_nibbles256(b, p + 16);
}

/* q5_k: as q4_k, with 32 bytes of fifth bits (bit j of byte i: element 32 j + i) before the
 * nibbles. */
static inline void unpack_q5_k(pl_block *b, const uint8_t *p) {
    b->d = block_half(p), b->dmin = block_half(p + 2), b->offset = 0;
    unpack_scales_k(b, p + 4);
    unpack_nibbles256(b, p + 48);
    for (int j = 0; j < 8; j++) {
        for (int i = 0; i < 32; i++) b->q[32 * j + i] |= (uint8_t)((p[16 + i] >> j & 1) << 4);
    }
}

/* q6_k: 128 bytes of low nibbles, 64 bytes of high pairs, 16 signed scales, half d. In each half
 * of 128 elements: low byte i (0..63) holds elements i and 64 + i; high byte i (0..31) holds
 * elements i, 32 + i, 64 + i, 96 + i at bits 0, 2, 4, 6. */
static inline void unpack_q6_k(pl_block *b, const uint8_t *p) {
    b->d = block_half(p + 208), b->dmin = 0, b->offset = 32;
    for (int g = 0; g < 16; g++) b->scale[g] = (int8_t)p[192 + g];
    for (int h = 0; h < 2; h++) {
        const uint8_t *low = p + 64 * h, *high = p + 128 + 32 * h;
        uint8_t *q = b->q + 128 * h;
        for (int i = 0; i < 64; i++) {
            q[i] = low[i] & 15;
            q[64 + i] = low[i] >> 4;
        }
        for (int j = 0; j < 4; j++) {
            for (int i = 0; i < 32; i++) {
                q[32 * j + i] |= (uint8_t)((high[i] >> 2 * j & 3) << 4);
            }
        }
    }
}

#endif
