/* Attention over one page of keys or values; a part of generic.h. */
#ifndef PL_KERNELS_GENERIC_ATTENTION_H
#define PL_KERNELS_GENERIC_ATTENTION_H

/* R queries against J keys at a time, and the keys that are left one by one. */
ALWAYS_INLINE void scores_as(pl_dtype dtype, int R, int J, const char *ahead, float *scores,
                             size_t scores_stride, const float *q, size_t q_stride,
                             const char *keys, size_t row_bytes, size_t n_keys, size_t d) {
    size_t j = 0, step = (size_t)J;
    for (; j + step <= n_keys; j += step) {
        register_tile(dtype, R, J, ahead + j * row_bytes, scores + j, scores_stride,
                      keys + j * row_bytes, row_bytes, q, q_stride, d);
    }
    for (; j < n_keys; j++) {
        register_tile(dtype, R, 1, NULL, scores + j, scores_stride, keys + j * row_bytes, row_bytes,
                      q, q_stride, d);
    }
}

/* One query against KEYS keys, lane by lane. */
ALWAYS_INLINE void multiply_keys(pl_dtype dtype, int KEYS, lanes *sum, const float *q,
                                 const char *keys, size_t row_bytes, size_t d, const char *ahead) {
    for (int i = 0; i < KEYS; i++) sum[i] = lanes_set(0);
    add_products(dtype, 1, KEYS, NULL, sum, keys, row_bytes, q, 0, d);
    for (size_t at = 0; at < (size_t)KEYS * row_bytes; at += 64) __builtin_prefetch(ahead + at);
}

/* One query against all keys, sixteen at a time, so that their sums are added up together. */
ALWAYS_INLINE void score_row_as(pl_dtype dtype, const char *ahead, float *scores, const float *q,
                                const char *keys, size_t row_bytes, size_t n_keys, size_t d) {
    lanes sum[16];
    size_t j = 0;
    for (; j + 16 <= n_keys; j += 16) {
#pragma GCC unroll 4
        for (size_t i = 0; i < 16; i += 4) {
            size_t at = (j + i) * row_bytes;
            multiply_keys(dtype, 4, sum + i, q, keys + at, row_bytes, d, ahead + at);
        }
        lanes_sums(scores + j, sum);
    }
    for (; j < n_keys; j++) {
        size_t at = j * row_bytes;
        multiply_keys(dtype, 1, sum, q, keys + at, row_bytes, d, ahead + at);
        scores[j] = lanes_sum(sum[0]);
    }
}

ALWAYS_INLINE void scores_typed(pl_dtype dtype, const char *ahead, float *scores,
                                size_t scores_stride, const float *q, size_t q_stride, size_t n_q,
                                const char *keys, size_t row_bytes, size_t n_keys, size_t d) {
    size_t r = 0;
    for (; r + TILE_R <= n_q; r += TILE_R) {
        scores_as(dtype, TILE_R, SCORE_J, ahead, scores + r * scores_stride, scores_stride,
                  q + r * q_stride, q_stride, keys, row_bytes, n_keys, d);
    }
    for (; r < n_q; r++) {
        score_row_as(dtype, ahead, scores + r * scores_stride, q + r * q_stride, keys, row_bytes,
                     n_keys, d);
    }
}

static void attention_scores(float *scores, size_t scores_stride, const float *q, size_t q_stride,
                             size_t n_q, const void *keys, pl_dtype dtype, size_t row_bytes,
                             size_t n_keys, size_t d, float factor, const void *next) {
    const char *ahead = next ? next : keys;
    if (dtype == PL_F32) {
        scores_typed(PL_F32, ahead, scores, scores_stride, q, q_stride, n_q, keys, row_bytes,
                     n_keys, d);
    } else if (dtype == PL_Q8_0) {
        scores_typed(PL_Q8_0, ahead, scores, scores_stride, q, q_stride, n_q, keys, row_bytes,
                     n_keys, d);
    } else {
        scores_typed(PL_F16, ahead, scores, scores_stride, q, q_stride, n_q, keys, row_bytes,
                     n_keys, d);
    }
    for (size_t r = 0; r < n_q; r++) {
        row_scale(scores + r * scores_stride, scores + r * scores_stride, factor, n_keys);
    }
}

enum { MIX_LANES = 4 }; /* columns of sixteen that are summed side by side */

/* R rows, which see n_keys of these keys each, the later the more, at columns at to at + 16 *
 * n_lanes - 1. */
ALWAYS_INLINE void mix_as(pl_dtype dtype, const char *ahead, int R, int n_lanes, float *z,
                          size_t z_stride, const float *pattern, size_t pattern_stride,
                          const char *values, size_t row_bytes, const size_t *n_keys, size_t at) {
    lanes sum[MIX_R * MIX_LANES];
    size_t element_bytes = dtype == PL_F32 ? 4 : dtype == PL_F16 ? 2 : 1; /* or nearly so */
    for (int i = 0; i < R * n_lanes; i++) sum[i] = lanes_set(0);
    for (size_t p = 0; p < n_keys[0]; p++) { /* which all rows see */
        const char *row = values + p * row_bytes, *later = ahead + p * row_bytes;
        lanes weight[MIX_R];
#pragma GCC unroll 4
        for (int r = 0; r < R; r++) weight[r] = lanes_set(pattern[(size_t)r * pattern_stride + p]);
#pragma GCC unroll 4
        for (int j = 0; j < n_lanes; j++) {
            size_t k = at + 16 * (size_t)j;
            if (dtype == PL_F32 || j % 2 == 0) __builtin_prefetch(later + k * element_bytes);
            lanes v = load_as(dtype, row, k);
#pragma GCC unroll 4
            for (int r = 0; r < R; r++)
                sum[r * n_lanes + j] = lanes_fma(weight[r], v, sum[r * n_lanes + j]);
        }
    }
#pragma GCC unroll 4
    for (int r = 1; r < R; r++) {
        for (size_t p = n_keys[0]; p < n_keys[r]; p++) {
            lanes weight = lanes_set(pattern[(size_t)r * pattern_stride + p]);
#pragma GCC unroll 4
            for (int j = 0; j < n_lanes; j++) {
                lanes v = load_as(dtype, values + p * row_bytes, at + 16 * (size_t)j);
                sum[r * n_lanes + j] = lanes_fma(weight, v, sum[r * n_lanes + j]);
            }
        }
    }
    for (int i = 0; i < R * n_lanes; i++) {
        float *place = z + (size_t)(i / n_lanes) * z_stride + at + 16 * (size_t)(i % n_lanes);
        lanes_store(place, lanes_add(lanes_load(place), sum[i]));
    }
}

ALWAYS_INLINE void mix_rows(pl_dtype dtype, const char *ahead, int R, float *z, size_t z_stride,
                            const float *pattern, size_t pattern_stride, const char *values,
                            size_t row_bytes, const size_t *n_keys, size_t d) {
    size_t i = 0;
    for (; i + 16 * MIX_LANES <= d; i += 16 * MIX_LANES) {
        mix_as(dtype, ahead, R, MIX_LANES, z, z_stride, pattern, pattern_stride, values, row_bytes,
               n_keys, i);
    }
    for (; i + 16 <= d; i += 16) {
        mix_as(dtype, ahead, R, 1, z, z_stride, pattern, pattern_stride, values, row_bytes, n_keys,
               i);
    }
    for (int r = 0; i < d && r < R; r++) {
        float *place = z + (size_t)r * z_stride + i;
        lanes sum = lanes_set(0);
        for (size_t p = 0; p < n_keys[r]; p++) {
            lanes v = load_as_n(dtype, values + p * row_bytes, i, d - i);
            sum = lanes_fma(lanes_set(pattern[(size_t)r * pattern_stride + p]), v, sum);
        }
        lanes_store_n(place, lanes_add(lanes_load_n(place, d - i), sum), d - i);
    }
}

ALWAYS_INLINE void mix_typed(pl_dtype dtype, const char *ahead, float *z, size_t z_stride,
                             const float *pattern, size_t pattern_stride, size_t n_q,
                             const char *values, size_t row_bytes, const size_t *n_keys, size_t d) {
    size_t r = 0;
    for (; r + MIX_R <= n_q; r += MIX_R) {
        mix_rows(dtype, ahead, MIX_R, z + r * z_stride, z_stride, pattern + r * pattern_stride,
                 pattern_stride, values, row_bytes, n_keys + r, d);
    }
    for (; r < n_q; r++) {
        mix_rows(dtype, ahead, 1, z + r * z_stride, z_stride, pattern + r * pattern_stride,
                 pattern_stride, values, row_bytes, n_keys + r, d);
    }
}

static void attention_mix(float *z, size_t z_stride, const float *pattern, size_t pattern_stride,
                          size_t n_q, const void *values, pl_dtype dtype, size_t row_bytes,
                          const size_t *n_keys, size_t d, const void *next) {
    const char *ahead = next ? next : values;
    if (dtype == PL_F32) {
        mix_typed(PL_F32, ahead, z, z_stride, pattern, pattern_stride, n_q, values, row_bytes,
                  n_keys, d);
    } else if (dtype == PL_Q8_0) {
        mix_typed(PL_Q8_0, ahead, z, z_stride, pattern, pattern_stride, n_q, values, row_bytes,
                  n_keys, d);
    } else {
        mix_typed(PL_F16, ahead, z, z_stride, pattern, pattern_stride, n_q, values, row_bytes,
                  n_keys, d);
    }
}

#endif
