/* Quantised tiles, panel by panel. The file that includes this one has defined
 *
 *     multiply_rows(layout, panel, n_rows, sums, x, x_row_bytes)    sums[r] += block product
 *     begin_tile(layout, n_rows), end_tile()                        what that needs to stand ready
 */
#ifndef PL_KERNELS_TILES_VNNI_H
#define PL_KERNELS_TILES_VNNI_H

/* Sixteen short streams defeat the processor's own prefetching: the next panel is fetched in a
 * straight line, block by block as much of it as is read. */
ALWAYS_INLINE void fetch_ahead(const layout *l, const uint8_t *ahead, size_t i, size_t n) {
    const char *at = (const char *)ahead + i * PANEL * l->block_bytes;
    for (size_t line = 0; line < n * PANEL * l->block_bytes; line += 64) {
        _mm_prefetch(at + line, AHEAD);
    }
}

/* Up to sixteen columns of up to CHUNK_ROWS rows. */
ALWAYS_INLINE void tile_panel(const layout *l, float *out, size_t out_stride, const uint8_t *w,
                              size_t w_row_bytes, size_t n_out, const char *x, size_t x_row_bytes,
                              size_t n_rows, size_t n_blocks) {
    size_t x_block = l->n_groups == 2 ? sizeof(pl_activations32) : sizeof(pl_activations256);
    const uint8_t *ahead = w + PANEL * w_row_bytes;
    __m512 sums[CHUNK_ROWS];
    size_t i = 0;
    for (size_t r = 0; r < n_rows; r++) sums[r] = _mm512_setzero_ps();
    if (l->rows && n_rows == 1 && n_out == PANEL) {
        for (; i + l->rows_blocks <= n_blocks; i += l->rows_blocks) {
            fetch_ahead(l, ahead, i, l->rows_blocks);
            sums[0] = l->rows(sums[0], w + i * l->block_bytes, w_row_bytes, x + i * x_block);
        }
    }
    for (; l->take && n_out == PANEL && i + TOGETHER <= n_blocks; i += TOGETHER) {
        __m512i words[MOST_WORDS];
        const uint8_t *later = ahead + i * PANEL * l->block_bytes;
        size_t half = PANEL * l->block_bytes / 2;
        interleave_blocks(words, w + i * l->block_bytes, w_row_bytes, TOGETHER * l->block_bytes,
                          later);
        later += TOGETHER * half;
        for (size_t j = 0; j < TOGETHER; j += 2) {
#pragma GCC unroll 2
            for (size_t k = 0; k < 2; k++) { /* a pair is a whole number of words */
                panel p;
                fetch_lines(later + (j + k) * half, half);
                l->take(&p, words + j * l->block_bytes / 4, k * l->block_bytes);
                multiply_rows(l, &p, n_rows, sums, x + (i + j + k) * x_block, x_row_bytes);
            }
        }
    }
    for (; i < n_blocks; i++) {
        panel p;
        fetch_ahead(l, ahead, i, 1);
        l->load(&p, w + i * l->block_bytes, w_row_bytes, n_out);
        multiply_rows(l, &p, n_rows, sums, x + i * x_block, x_row_bytes);
    }
    for (size_t r = 0; r < n_rows; r++) {
        _mm512_mask_storeu_ps(out + r * out_stride, first_lanes(n_out), sums[r]);
    }
}

/* The first panel has nobody before it to fetch it: line by line of all rows, as it is read. */
static void fetch_panel(const char *w, size_t w_row_bytes, size_t n_rows) {
    for (size_t line = 0; line < w_row_bytes; line += 64) {
        for (size_t r = 0; r < n_rows; r++) _mm_prefetch(w + r * w_row_bytes + line, AHEAD);
    }
}

ALWAYS_INLINE void tile_vnni(const layout *l, float *out, size_t out_stride, const void *w,
                             size_t w_row_bytes, size_t n_out, const void *x, size_t x_row_bytes,
                             size_t n_rows, size_t n_in) {
    size_t n_blocks = n_in / ((size_t)l->n_groups * PL_GROUP);
    begin_tile(l, n_rows);
    fetch_panel(w, w_row_bytes, n_out < PANEL ? n_out : PANEL);
    for (size_t r = 0; r < n_rows; r += CHUNK_ROWS) {
        size_t rows = n_rows - r < CHUNK_ROWS ? n_rows - r : CHUNK_ROWS;
        for (size_t j = 0; j < n_out; j += PANEL) {
            size_t columns = n_out - j < PANEL ? n_out - j : PANEL;
            const uint8_t *first = (const uint8_t *)w + j * w_row_bytes;
            float *place = out + r * out_stride + j;
            const char *row = (const char *)x + r * x_row_bytes;
            if (rows == 1 && (l->take || l->rows)) { /* as a constant: sums stay in registers */
                tile_panel(l, place, out_stride, first, w_row_bytes, columns, row, x_row_bytes, 1,
                           n_blocks);
            } else {
                tile_panel(l, place, out_stride, first, w_row_bytes, columns, row, x_row_bytes,
                           rows, n_blocks);
            }
        }
    }
    end_tile();
}

static void tile_q4_0(float *out, size_t out_stride, const void *w, size_t w_row_bytes,
                      size_t n_out, const void *x, size_t x_row_bytes, size_t n_rows, size_t n_in) {
    const layout l = {load_q4_0, 18, 2, 8, false, 1, take_q4_0, NULL, 0};
    tile_vnni(&l, out, out_stride, w, w_row_bytes, n_out, x, x_row_bytes, n_rows, n_in);
}
static void tile_q4_1(float *out, size_t out_stride, const void *w, size_t w_row_bytes,
                      size_t n_out, const void *x, size_t x_row_bytes, size_t n_rows, size_t n_in) {
    const layout l = {load_q4_1, 20, 2, 0, true, 1, take_q4_1, NULL, 0};
    tile_vnni(&l, out, out_stride, w, w_row_bytes, n_out, x, x_row_bytes, n_rows, n_in);
}
static void tile_q5_0(float *out, size_t out_stride, const void *w, size_t w_row_bytes,
                      size_t n_out, const void *x, size_t x_row_bytes, size_t n_rows, size_t n_in) {
    const layout l = {load_q5_0, 22, 2, 16, false, 1, take_q5_0, NULL, 0};
    tile_vnni(&l, out, out_stride, w, w_row_bytes, n_out, x, x_row_bytes, n_rows, n_in);
}
static void tile_q5_1(float *out, size_t out_stride, const void *w, size_t w_row_bytes,
                      size_t n_out, const void *x, size_t x_row_bytes, size_t n_rows, size_t n_in) {
    const layout l = {load_q5_1, 24, 2, 0, true, 1, take_q5_1, NULL, 0};
    tile_vnni(&l, out, out_stride, w, w_row_bytes, n_out, x, x_row_bytes, n_rows, n_in);
}
static void tile_q8_0(float *out, size_t out_stride, const void *w, size_t w_row_bytes,
                      size_t n_out, const void *x, size_t x_row_bytes, size_t n_rows, size_t n_in) {
    const layout l = {load_q8_0, 34, 2, 128, false, 1, NULL, rows_q8_0, 2};
    tile_vnni(&l, out, out_stride, w, w_row_bytes, n_out, x, x_row_bytes, n_rows, n_in);
}
static void tile_q2_k(float *out, size_t out_stride, const void *w, size_t w_row_bytes,
                      size_t n_out, const void *x, size_t x_row_bytes, size_t n_rows, size_t n_in) {
    const layout l = {load_q2_k, 84, 16, 0, true, 1, NULL, NULL, 0};
    tile_vnni(&l, out, out_stride, w, w_row_bytes, n_out, x, x_row_bytes, n_rows, n_in);
}
static void tile_q3_k(float *out, size_t out_stride, const void *w, size_t w_row_bytes,
                      size_t n_out, const void *x, size_t x_row_bytes, size_t n_rows, size_t n_in) {
    const layout l = {load_q3_k, 110, 16, 4, false, 1, NULL, NULL, 0};
    tile_vnni(&l, out, out_stride, w, w_row_bytes, n_out, x, x_row_bytes, n_rows, n_in);
}
static void tile_q4_k(float *out, size_t out_stride, const void *w, size_t w_row_bytes,
                      size_t n_out, const void *x, size_t x_row_bytes, size_t n_rows, size_t n_in) {
    const layout l = {load_q4_k, 144, 16, 0, true, 2, NULL, rows_q4_k, 1};
    tile_vnni(&l, out, out_stride, w, w_row_bytes, n_out, x, x_row_bytes, n_rows, n_in);
}
static void tile_q5_k(float *out, size_t out_stride, const void *w, size_t w_row_bytes,
                      size_t n_out, const void *x, size_t x_row_bytes, size_t n_rows, size_t n_in) {
    const layout l = {load_q5_k, 176, 16, 0, true, 2, NULL, rows_q5_k, 1};
    tile_vnni(&l, out, out_stride, w, w_row_bytes, n_out, x, x_row_bytes, n_rows, n_in);
}
static void tile_q6_k(float *out, size_t out_stride, const void *w, size_t w_row_bytes,
                      size_t n_out, const void *x, size_t x_row_bytes, size_t n_rows, size_t n_in) {
    const layout l = {load_q6_k, 210, 16, 32, false, 1, NULL, rows_q6_k, 1};
    tile_vnni(&l, out, out_stride, w, w_row_bytes, n_out, x, x_row_bytes, n_rows, n_in);
}

#endif
