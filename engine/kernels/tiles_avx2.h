/* Quantised tiles for AVX2, panel by panel; also those of AVX-512 without VNNI. */
#ifndef PL_KERNELS_TILES_AVX2_H
#define PL_KERNELS_TILES_AVX2_H

#include "rows_avx2.h"

enum { CHUNK_ROWS = 64 };

ALWAYS_INLINE void fetch(const char *at, size_t n_bytes) {
    for (size_t line = 0; line < n_bytes; line += 64) _mm_prefetch(at + line, _MM_HINT_T0);
}

/* Eight columns of up to CHUNK_ROWS rows; or one, with w_row_bytes = 0, so that all eight are it.
 */
ALWAYS_INLINE void tile_panel(const layout *l, float *out, size_t out_stride, size_t width,
                              const uint8_t *w, size_t w_row_bytes, const char *x,
                              size_t x_row_bytes, size_t n_rows, size_t n_blocks) {
    size_t x_block = l->n_groups == 2 ? sizeof(pl_activations32) : sizeof(pl_activations256);
    __m256 sums[CHUNK_ROWS];
    for (size_t r = 0; r < n_rows; r++) sums[r] = _mm256_setzero_ps();
    /* Eight short streams defeat the processor's own prefetching: the next panel is fetched in a
     * straight line, as much of it as this step reads. */
    const char *ahead = (const char *)w + PANEL * w_row_bytes;
    size_t i = 0;
    if (l->rows && n_rows == 1) {
        for (; i + l->rows_blocks <= n_blocks; i += l->rows_blocks) {
            fetch(ahead + i * PANEL * l->block_bytes, l->rows_blocks * PANEL * l->block_bytes);
            sums[0] = l->rows(sums[0], w + i * l->block_bytes, w_row_bytes, x + i * x_block);
        }
    }
    for (; i < n_blocks; i++) {
        panel p;
        fetch(ahead + i * PANEL * l->block_bytes, PANEL * l->block_bytes);
        l->load(&p, w + i * l->block_bytes, w_row_bytes);
        const char *block = x + i * x_block;
        size_t r = 0;
        for (; r + STEP_ROWS <= n_rows; r += STEP_ROWS) {
            multiply_block(l, &p, STEP_ROWS, sums + r, block + r * x_row_bytes, x_row_bytes);
        }
        for (; r < n_rows; r++) {
            multiply_block(l, &p, 1, sums + r, block + r * x_row_bytes, x_row_bytes);
        }
    }
    for (size_t r = 0; r < n_rows; r++) {
        if (width == PANEL)
            _mm256_storeu_ps(out + r * out_stride, sums[r]);
        else
            out[r * out_stride] = _mm256_cvtss_f32(sums[r]);
    }
}

/* The first panel has nobody before it to fetch it: line by line of all rows, as it is read. */
static void fetch_panel(const char *w, size_t w_row_bytes, size_t n_rows) {
    for (size_t line = 0; line < w_row_bytes; line += 64) {
        for (size_t r = 0; r < n_rows; r++) _mm_prefetch(w + r * w_row_bytes + line, _MM_HINT_T0);
    }
}

/* Columns that do not fill a panel are computed with the ones before them, once more; fewer than
 * eight in all, one by one. */
ALWAYS_INLINE void tile_panels(const layout *l, float *out, size_t out_stride, const void *w,
                               size_t w_row_bytes, size_t n_out, const void *x, size_t x_row_bytes,
                               size_t n_rows, size_t n_in) {
    size_t n_blocks = n_in / ((size_t)l->n_groups * PL_GROUP);
    size_t width = n_out < PANEL ? 1 : PANEL, stride = n_out < PANEL ? 0 : w_row_bytes;
    fetch_panel(w, w_row_bytes, n_out < PANEL ? n_out : PANEL);
    for (size_t r = 0; r < n_rows; r += CHUNK_ROWS) {
        size_t rows = n_rows - r < CHUNK_ROWS ? n_rows - r : CHUNK_ROWS;
        for (size_t at = 0; at < n_out; at += width) {
            size_t j = n_out - at < width ? n_out - width : at;
            tile_panel(l, out + r * out_stride + j, out_stride, width,
                       (const uint8_t *)w + j * w_row_bytes, stride,
                       (const char *)x + r * x_row_bytes, x_row_bytes, rows, n_blocks);
        }
    }
}

static void tile_q4_0(float *out, size_t out_stride, const void *w, size_t w_row_bytes,
                      size_t n_out, const void *x, size_t x_row_bytes, size_t n_rows, size_t n_in) {
    const layout l = {load_q4_0, 18, 2, 8, false, false, 8, 8, rows_q4_0, 2};
    tile_panels(&l, out, out_stride, w, w_row_bytes, n_out, x, x_row_bytes, n_rows, n_in);
}
static void tile_q4_1(float *out, size_t out_stride, const void *w, size_t w_row_bytes,
                      size_t n_out, const void *x, size_t x_row_bytes, size_t n_rows, size_t n_in) {
    const layout l = {load_q4_1, 20, 2, 0, true, false, 8, 8, rows_q4_1, 2};
    tile_panels(&l, out, out_stride, w, w_row_bytes, n_out, x, x_row_bytes, n_rows, n_in);
}
static void tile_q5_0(float *out, size_t out_stride, const void *w, size_t w_row_bytes,
                      size_t n_out, const void *x, size_t x_row_bytes, size_t n_rows, size_t n_in) {
    const layout l = {load_q5_0, 22, 2, 16, false, false, 8, 4, rows_q5_0, 2};
    tile_panels(&l, out, out_stride, w, w_row_bytes, n_out, x, x_row_bytes, n_rows, n_in);
}
static void tile_q5_1(float *out, size_t out_stride, const void *w, size_t w_row_bytes,
                      size_t n_out, const void *x, size_t x_row_bytes, size_t n_rows, size_t n_in) {
    const layout l = {load_q5_1, 24, 2, 0, true, false, 8, 4, rows_q5_1, 2};
    tile_panels(&l, out, out_stride, w, w_row_bytes, n_out, x, x_row_bytes, n_rows, n_in);
}
static void tile_q8_0(float *out, size_t out_stride, const void *w, size_t w_row_bytes,
                      size_t n_out, const void *x, size_t x_row_bytes, size_t n_rows, size_t n_in) {
    const layout l = {load_q8_0, 34, 2, 0, false, true, 8, 1, rows_q8_0, 1};
    tile_panels(&l, out, out_stride, w, w_row_bytes, n_out, x, x_row_bytes, n_rows, n_in);
}
static void tile_q2_k(float *out, size_t out_stride, const void *w, size_t w_row_bytes,
                      size_t n_out, const void *x, size_t x_row_bytes, size_t n_rows, size_t n_in) {
    const layout l = {load_q2_k, 84, 16, 0, true, false, 4, 4, NULL, 0};
    tile_panels(&l, out, out_stride, w, w_row_bytes, n_out, x, x_row_bytes, n_rows, n_in);
}
static void tile_q3_k(float *out, size_t out_stride, const void *w, size_t w_row_bytes,
                      size_t n_out, const void *x, size_t x_row_bytes, size_t n_rows, size_t n_in) {
    const layout l = {load_q3_k, 110, 16, 4, false, false, 4, 4, NULL, 0};
    tile_panels(&l, out, out_stride, w, w_row_bytes, n_out, x, x_row_bytes, n_rows, n_in);
}
static void tile_q4_k(float *out, size_t out_stride, const void *w, size_t w_row_bytes,
                      size_t n_out, const void *x, size_t x_row_bytes, size_t n_rows, size_t n_in) {
    const layout l = {load_q4_k, 144, 16, 0, true, false, 8, 8, rows_q4_k, 1};
    tile_panels(&l, out, out_stride, w, w_row_bytes, n_out, x, x_row_bytes, n_rows, n_in);
}
static void tile_q5_k(float *out, size_t out_stride, const void *w, size_t w_row_bytes,
                      size_t n_out, const void *x, size_t x_row_bytes, size_t n_rows, size_t n_in) {
    const layout l = {load_q5_k, 176, 16, 0, true, false, 8, 4, rows_q5_k, 1};
    tile_panels(&l, out, out_stride, w, w_row_bytes, n_out, x, x_row_bytes, n_rows, n_in);
}
static void tile_q6_k(float *out, size_t out_stride, const void *w, size_t w_row_bytes,
                      size_t n_out, const void *x, size_t x_row_bytes, size_t n_rows, size_t n_in) {
    const layout l = {load_q6_k, 210, 16, 32, false, false, 4, 2, rows_q6_k, 1};
    tile_panels(&l, out, out_stride, w, w_row_bytes, n_out, x, x_row_bytes, n_rows, n_in);
}

#endif
