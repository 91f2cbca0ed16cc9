/* Quantised tiles in plain C: a block of weights is unpacked once and multiplied with every row. */
#ifndef PL_KERNELS_BLOCK_TILES_H
#define PL_KERNELS_BLOCK_TILES_H

#include "generic.h"

/* acc + the product of one block of weights and one of activations. */
ALWAYS_INLINE float block_product(float acc, const pl_block *b, float d, const int16_t *sums,
                                  const int8_t *x, int n_groups, bool has_min) {
    int32_t product = 0, minimum = 0;
    for (int g = 0; g < n_groups; g++) {
        int32_t dot = 0;
        for (int i = 0; i < PL_GROUP; i++) {
            dot += (int32_t)b->q[g * PL_GROUP + i] * (int32_t)x[g * PL_GROUP + i];
        }
        product += b->scale[g] * (dot - b->offset * sums[g]);
        if (has_min) minimum += b->min[g] * sums[g];
    }
    acc = fmaf(b->d * d, (float)product, acc);
    return has_min ? fmaf(b->dmin * d, -(float)minimum, acc) : acc;
}

enum { QUANTISED_ROWS = 64 }; /* rows whose sums are kept while a weight row is unpacked */

ALWAYS_INLINE void tile_quantised_as(pl_unpack_fn unpack, size_t block_bytes, int n_groups,
                                     bool has_min, float *out, size_t out_stride, const void *w,
                                     size_t w_row_bytes, size_t n_out, const void *x,
                                     size_t x_row_bytes, size_t n_rows, size_t n_in) {
    size_t n_blocks = n_in / (size_t)(n_groups * PL_GROUP);
    size_t x_block = n_groups == 2 ? sizeof(pl_activations32) : sizeof(pl_activations256);
    size_t head = n_groups == 2 ? offsetof(pl_activations32, q) : offsetof(pl_activations256, q);
    for (size_t first = 0; first < n_rows; first += QUANTISED_ROWS) {
        size_t n = n_rows - first < QUANTISED_ROWS ? n_rows - first : QUANTISED_ROWS;
        const char *rows = (const char *)x + first * x_row_bytes;
        for (size_t j = 0; j < n_out; j++) {
            float sums[QUANTISED_ROWS] = {0};
            const uint8_t *row = (const uint8_t *)w + j * w_row_bytes;
            for (size_t i = 0; i < n_blocks; i++) {
                pl_block b;
                unpack(&b, row + i * block_bytes);
                for (size_t r = 0; r < n; r++) {
                    const char *a = rows + r * x_row_bytes + i * x_block;
                    float d;
                    memcpy(&d, a, sizeof d);
                    sums[r] = block_product(sums[r], &b, d, (const int16_t *)(a + sizeof d),
                                            (const int8_t *)(a + head), n_groups, has_min);
                }
            }
            for (size_t r = 0; r < n; r++) out[(first + r) * out_stride + j] = sums[r];
        }
    }
}

/* One function a type, so that the compiler sees each layout's constants. */
static void tile_q4_0(float *out, size_t out_stride, const void *w, size_t w_row_bytes,
                      size_t n_out, const void *x, size_t x_row_bytes, size_t n_rows, size_t n_in) {
    tile_quantised_as(unpack_q4_0, 18, 2, false, out, out_stride, w, w_row_bytes, n_out, x,
                      x_row_bytes, n_rows, n_in);
}
static void tile_q4_1(float *out, size_t out_stride, const void *w, size_t w_row_bytes,
                      size_t n_out, const void *x, size_t x_row_bytes, size_t n_rows, size_t n_in) {
    tile_quantised_as(unpack_q4_1, 20, 2, true, out, out_stride, w, w_row_bytes, n_out, x,
                      x_row_bytes, n_rows, n_in);
}
static void tile_q5_0(float *out, size_t out_stride, const void *w, size_t w_row_bytes,
                      size_t n_out, const void *x, size_t x_row_bytes, size_t n_rows, size_t n_in) {
    tile_quantised_as(unpack_q5_0, 22, 2, false, out, out_stride, w, w_row_bytes, n_out, x,
                      x_row_bytes, n_rows, n_in);
}
static void tile_q5_1(float *out, size_t out_stride, const void *w, size_t w_row_bytes,
                      size_t n_out, const void *x, size_t x_row_bytes, size_t n_rows, size_t n_in) {
    tile_quantised_as(unpack_q5_1, 24, 2, true, out, out_stride, w, w_row_bytes, n_out, x,
                      x_row_bytes, n_rows, n_in);
}
static void tile_q8_0(float *out, size_t out_stride, const void *w, size_t w_row_bytes,
                      size_t n_out, const void *x, size_t x_row_bytes, size_t n_rows, size_t n_in) {
    tile_quantised_as(unpack_q8_0, 34, 2, false, out, out_stride, w, w_row_bytes, n_out, x,
                      x_row_bytes, n_rows, n_in);
}
static void tile_q2_k(float *out, size_t out_stride, const void *w, size_t w_row_bytes,
                      size_t n_out, const void *x, size_t x_row_bytes, size_t n_rows, size_t n_in) {
    tile_quantised_as(unpack_q2_k, 84, 16, true, out, out_stride, w, w_row_bytes, n_out, x,
                      x_row_bytes, n_rows, n_in);
}
static void tile_q3_k(float *out, size_t out_stride, const void *w, size_t w_row_bytes,
                      size_t n_out, const void *x, size_t x_row_bytes, size_t n_rows, size_t n_in) {
    tile_quantised_as(unpack_q3_k, 110, 16, false, out, out_stride, w, w_row_bytes, n_out, x,
                      x_row_bytes, n_rows, n_in);
}
static void tile_q4_k(float *out, size_t out_stride, const void *w, size_t w_row_bytes,
                      size_t n_out, const void *x, size_t x_row_bytes, size_t n_rows, size_t n_in) {
    tile_quantised_as(unpack_q4_k, 144, 16, true, out, out_stride, w, w_row_bytes, n_out, x,
                      x_row_bytes, n_rows, n_in);
}
static void tile_q5_k(float *out, size_t out_stride, const void *w, size_t w_row_bytes,
                      size_t n_out, const void *x, size_t x_row_bytes, size_t n_rows, size_t n_in) {
    tile_quantised_as(unpack_q5_k, 176, 16, true, out, out_stride, w, w_row_bytes, n_out, x,
                      x_row_bytes, n_rows, n_in);
}
static void tile_q6_k(float *out, size_t out_stride, const void *w, size_t w_row_bytes,
                      size_t n_out, const void *x, size_t x_row_bytes, size_t n_rows, size_t n_in) {
    tile_quantised_as(unpack_q6_k, 210, 16, false, out, out_stride, w, w_row_bytes, n_out, x,
                      x_row_bytes, n_rows, n_in);
}

#endif
