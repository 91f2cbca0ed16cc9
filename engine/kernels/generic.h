/* Every kernel, written once over sixteen lanes. A file per instruction set includes its lanes_*.h
 * and then this header, and fills its table; the compiler does the rest. */
#ifndef PL_KERNELS_GENERIC_H
#define PL_KERNELS_GENERIC_H

#include <float.h>
#include <math.h>
#include <stddef.h>
#include <string.h>

#include "blocks.h"
#include "kernels.h"
#include "quantize.h"

/* Constants such as a dtype are to be known inside; under sanitizers that only takes the compiler
 * minutes. */
#ifdef __SANITIZE_ADDRESS__
#define ALWAYS_INLINE static inline
#else
#define ALWAYS_INLINE static inline __attribute__((always_inline))
#endif

/* -- loading by type ------------------------------------------------------------------------- */

/* Elements k to k + 15 of a q8_0 row, k a multiple of 16. */
ALWAYS_INLINE lanes load_bytes(const uint8_t *row, size_t k) {
    const uint8_t *block = row + k / 32 * 34;
    uint16_t d;
    memcpy(&d, block, sizeof d);
    return lanes_mul(lanes_set_f16(d), lanes_load_i8(block + 2 + k % 32));
}

ALWAYS_INLINE lanes load_as(pl_dtype dtype, const void *row, size_t k) {
    if (dtype == PL_Q8_0) return load_bytes(row, k);
    if (dtype == PL_F32) return lanes_load((const float *)row + k);
    const uint16_t *p = (const uint16_t *)row + k;
    return dtype == PL_F16 ? lanes_load_f16(p) : lanes_load_bf16(p);
}

ALWAYS_INLINE lanes load_as_n(pl_dtype dtype, const void *row, size_t k, size_t n) {
    if (dtype == PL_F32) return lanes_load_n((const float *)row + k, n);
    uint16_t tail[16] = {0};
    memcpy(tail, (const uint16_t *)row + k, n * sizeof *tail);
    return load_as(dtype, tail, 0);
}

/* -- tiles ----------------------------------------------------------------------------------- */

enum { MOST_SUMS = 20 };

/* sum[r * J + j] += the products of R rows and J columns. ahead: J columns that are fetched
 * meanwhile, which is for the first rows to do, or NULL. */
ALWAYS_INLINE void add_products(pl_dtype dtype, int R, int J, const char *ahead, lanes *sum,
                                const char *w, size_t w_row_bytes, const float *x, size_t x_stride,
                                size_t n_in) {
    size_t k = 0;
    for (; k + 16 <= n_in; k += 16) {
        lanes row[TILE_R];
        if (ahead) {
            for (int j = 0; j < J; j++) {
                __builtin_prefetch(ahead + (size_t)j * w_row_bytes + k * (dtype == PL_F32 ? 4 : 2));
            }
        }
#pragma GCC unroll 8
        for (int r = 0; r < R; r++) row[r] = lanes_load(x + (size_t)r * x_stride + k);
#pragma GCC unroll 16
        for (int j = 0; j < J; j++) {
            lanes column = load_as(dtype, w + (size_t)j * w_row_bytes, k);
#pragma GCC unroll 8
            for (int r = 0; r < R; r++) {
                sum[r * J + j] = lanes_fma(row[r], column, sum[r * J + j]);
            }
        }
    }
    if (k < n_in) {
        for (int j = 0; j < J; j++) {
            lanes column = load_as_n(dtype, w + (size_t)j * w_row_bytes, k, n_in - k);
            for (int r = 0; r < R; r++) {
                lanes row = lanes_load_n(x + (size_t)r * x_stride + k, n_in - k);
                sum[r * J + j] = lanes_fma(row, column, sum[r * J + j]);
            }
        }
    }
}

/* R rows by J columns of sums in registers. */
ALWAYS_INLINE void register_tile(pl_dtype dtype, int R, int J, const char *ahead, float *out,
                                 size_t out_stride, const char *w, size_t w_row_bytes,
                                 const float *x, size_t x_stride, size_t n_in) {
    lanes sum[MOST_SUMS];
    for (int i = 0; i < R * J; i++) sum[i] = lanes_set(0);
    add_products(dtype, R, J, ahead, sum, w, w_row_bytes, x, x_stride, n_in);
    float sums[MOST_SUMS];
    int done = 0;
    for (; done + 16 <= R * J; done += 16) lanes_sums(sums + done, sum + done);
    for (; done < R * J; done++) sums[done] = lanes_sum(sum[done]);
    for (int r = 0; r < R; r++) {
        memcpy(out + (size_t)r * out_stride, sums + r * J, (size_t)J * sizeof *sums);
    }
}

/* All rows with J columns, which stay in the nearest cache meanwhile. */
ALWAYS_INLINE void tile_rows(pl_dtype dtype, int J, const char *ahead, float *out,
                             size_t out_stride, const char *w, size_t w_row_bytes, const float *x,
                             size_t x_stride, size_t n_rows, size_t n_in) {
    size_t r = 0;
    if (n_rows >= TILE_R) {
        register_tile(dtype, TILE_R, J, ahead, out, out_stride, w, w_row_bytes, x, x_stride, n_in);
        for (r = TILE_R; r + TILE_R <= n_rows; r += TILE_R) {
            register_tile(dtype, TILE_R, J, NULL, out + r * out_stride, out_stride, w, w_row_bytes,
                          x + r * x_stride, x_stride, n_in);
        }
    } else if (n_rows > 0) {
        register_tile(dtype, 1, J, ahead, out, out_stride, w, w_row_bytes, x, x_stride, n_in);
        r = 1;
    }
    for (; r < n_rows; r++) {
        register_tile(dtype, 1, J, NULL, out + r * out_stride, out_stride, w, w_row_bytes,
                      x + r * x_stride, x_stride, n_in);
    }
}

#include "packed_tiles.h"

ALWAYS_INLINE void tile_as(pl_dtype dtype, float *out, size_t out_stride, const void *w,
                           size_t w_row_bytes, size_t n_out, const float *x, size_t x_stride,
                           size_t n_rows, size_t n_in) {
    if (n_rows >= FEWEST_PACKED_ROWS) {
        tile_packed(dtype, false, out, out_stride, w, w_row_bytes, n_out, x, x_stride, n_rows,
                    n_in);
        return;
    }
    const char *column = w, *next = column + TILE_J * w_row_bytes; /* is fetched meanwhile */
    size_t j = 0;
    for (; j + TILE_J <= n_out;
         j += TILE_J, column += TILE_J * w_row_bytes, next += TILE_J * w_row_bytes) {
        tile_rows(dtype, TILE_J, next, out + j, out_stride, column, w_row_bytes, x, x_stride,
                  n_rows, n_in);
    }
    for (; j < n_out; j++, column += w_row_bytes, next += w_row_bytes) {
        tile_rows(dtype, 1, next, out + j, out_stride, column, w_row_bytes, x, x_stride, n_rows,
                  n_in);
    }
}

static void tile_f32(float *out, size_t out_stride, const void *w, size_t w_row_bytes, size_t n_out,
                     const float *x, size_t x_stride, size_t n_rows, size_t n_in) {
    tile_as(PL_F32, out, out_stride, w, w_row_bytes, n_out, x, x_stride, n_rows, n_in);
}
static void tile_f16(float *out, size_t out_stride, const void *w, size_t w_row_bytes, size_t n_out,
                     const float *x, size_t x_stride, size_t n_rows, size_t n_in) {
    tile_as(PL_F16, out, out_stride, w, w_row_bytes, n_out, x, x_stride, n_rows, n_in);
}
static void tile_bf16(float *out, size_t out_stride, const void *w, size_t w_row_bytes,
                      size_t n_out, const float *x, size_t x_stride, size_t n_rows, size_t n_in) {
    tile_as(PL_BF16, out, out_stride, w, w_row_bytes, n_out, x, x_stride, n_rows, n_in);
}

static void row_add(float *out, const float *a, const float *b, size_t n) {
    size_t k = 0;
    for (; k + 16 <= n; k += 16)
        lanes_store(out + k, lanes_add(lanes_load(a + k), lanes_load(b + k)));
    for (; k < n; k++) out[k] = a[k] + b[k];
}

/* Columns whose sums one row of activations keeps in the nearest cache. */
enum { WIDE = 256 };

/* Up to WIDE columns of one row: sums[l] holds, for each column, what lane l of the other layout
 * would. Whole stretches of w's rows are read, and the row after next is fetched. */
ALWAYS_INLINE void transposed_columns(pl_dtype dtype, float *out, const char *w, size_t w_row_bytes,
                                      size_t n, const float *x, size_t n_in) {
    float sums[16][WIDE];
    size_t element_bytes = dtype == PL_F32 ? 4 : 2, n_bytes = n * element_bytes;
    for (int l = 0; l < 16; l++) memset(sums[l], 0, n * sizeof **sums);
    for (size_t k = 0; k < n_in; k++) {
        const char *row = w + k * w_row_bytes;
        float *sum = sums[k % 16];
        lanes factor = lanes_set(x[k]);
        for (size_t at = 0; at < n_bytes; at += 64) __builtin_prefetch(row + 4 * w_row_bytes + at);
        size_t j = 0;
        for (; j + 16 <= n; j += 16) {
            lanes column = load_as(dtype, row + j * element_bytes, 0);
            lanes_store(sum + j, lanes_fma(factor, column, lanes_load(sum + j)));
        }
        if (j < n) {
            lanes column = load_as_n(dtype, row + j * element_bytes, 0, n - j);
            lanes next = lanes_fma(factor, column, lanes_load_n(sum + j, n - j));
            lanes_store_n(sum + j, next, n - j);
        }
    }
    for (int half = 8; half > 0; half /= 2) {
        for (int l = 0; l < half; l++) row_add(sums[l], sums[l], sums[l + half], n);
    }
    memcpy(out, sums[0], n * sizeof *out);
}

static void tile_transposed(pl_dtype dtype, float *out, size_t out_stride, const void *w,
                            size_t w_row_bytes, size_t n_out, const float *x, size_t x_stride,
                            size_t n_rows, size_t n_in) {
    if (n_rows >= FEWEST_TURNED_ROWS) {
        tile_packed(dtype, true, out, out_stride, w, w_row_bytes, n_out, x, x_stride, n_rows, n_in);
        return;
    }
    size_t element_bytes = dtype == PL_F32 ? 4 : 2;
    for (size_t j = 0; j < n_out; j += WIDE) {
        size_t n = n_out - j < WIDE ? n_out - j : WIDE;
        const char *first = (const char *)w + j * element_bytes;
        for (size_t r = 0; r < n_rows; r++) {
            float *place = out + r * out_stride + j;
            const float *row = x + r * x_stride;
            if (dtype == PL_F32) {
                transposed_columns(PL_F32, place, first, w_row_bytes, n, row, n_in);
            } else if (dtype == PL_F16) {
                transposed_columns(PL_F16, place, first, w_row_bytes, n, row, n_in);
            } else {
                transposed_columns(PL_BF16, place, first, w_row_bytes, n, row, n_in);
            }
        }
    }
}

/* -- quantised tiles -------------------------------------------------------------------------- */

/* A block with NaN or infinity becomes NaN: d = NaN. */
ALWAYS_INLINE void round_block(float *d, int16_t *sums, int8_t *q, const float *x, int n) {
    lanes most = lanes_set(0);
    for (int i = 0; i < n; i += PL_GROUP) most = lanes_magnitude(most, lanes_load(x + i));
    float largest = lanes_magnitude_of(most);
    if (!(largest <= FLT_MAX)) {
        *d = NAN;
        memset(sums, 0, (size_t)(n / PL_GROUP) * sizeof *sums);
        memset(q, 0, (size_t)n);
        return;
    }
    float inverse = largest > 0 ? 127.0f / largest : 0;
    if (!(inverse <= FLT_MAX)) inverse = 0; /* denormals too small to tell from zero */
    *d = inverse > 0 ? largest / 127.0f : 0;
    for (int i = 0; i < n; i += PL_GROUP) {
        lanes scaled = lanes_mul(lanes_load(x + i), lanes_set(inverse));
        sums[i / PL_GROUP] = (int16_t)lanes_store_i8(q + i, scaled);
    }
}

static void round_activations32(void *out, const float *x, size_t n) {
    for (size_t i = 0; i < n; i += 32) {
        pl_activations32 *a = (pl_activations32 *)out + i / 32;
        round_block(&a->d, a->sums, a->q, x + i, 32);
    }
}

static void round_activations256(void *out, const float *x, size_t n) {
    for (size_t i = 0; i < n; i += 256) {
        pl_activations256 *a = (pl_activations256 *)out + i / 256;
        round_block(&a->d, a->sums, a->q, x + i, 256);
    }
}

/* -- conversions ------------------------------------------------------------------------------ */

/* One block to float32: d * scale * (q - offset) - dmin * min, each product rounded as the format's
 * reference does. Every q is below 128 but for q8_0, which is not unpacked here. */
ALWAYS_INLINE void block_to_f32(float *out, const pl_block *b, int n_groups) {
    lanes offset = lanes_set((float)b->offset);
    for (int g = 0; g < n_groups; g++, out += PL_GROUP) {
        float scale = b->d * (float)b->scale[g], min = b->dmin * (float)b->min[g];
        lanes q = lanes_sub(lanes_load_i8(b->q + g * PL_GROUP), offset);
        lanes y = lanes_mul(lanes_set(scale), q);
        lanes_store(out, lanes_sub(y, lanes_set(b->dmin != 0 ? min : 0)));
    }
}

ALWAYS_INLINE void blocks_to_f32(pl_unpack_fn unpack, size_t block_bytes, int n_groups, float *out,
                                 const void *row, size_t n) {
    size_t width = (size_t)(n_groups * PL_GROUP);
    for (size_t i = 0; i < n / width; i++) {
        pl_block b;
        unpack(&b, (const uint8_t *)row + i * block_bytes);
        block_to_f32(out + i * width, &b, n_groups);
    }
}

static void q4_0_to_f32(float *out, const void *row, size_t n) {
    blocks_to_f32(unpack_q4_0, 18, 2, out, row, n);
}
static void q4_1_to_f32(float *out, const void *row, size_t n) {
    blocks_to_f32(unpack_q4_1, 20, 2, out, row, n);
}
static void q5_0_to_f32(float *out, const void *row, size_t n) {
    blocks_to_f32(unpack_q5_0, 22, 2, out, row, n);
}
static void q5_1_to_f32(float *out, const void *row, size_t n) {
    blocks_to_f32(unpack_q5_1, 24, 2, out, row, n);
}
static void q8_0_to_f32(float *out, const void *row, size_t n) {
    for (size_t k = 0; k < n; k += 16) lanes_store(out + k, load_as(PL_Q8_0, row, k));
}
static void q2_k_to_f32(float *out, const void *row, size_t n) {
    blocks_to_f32(unpack_q2_k, 84, 16, out, row, n);
}
static void q3_k_to_f32(float *out, const void *row, size_t n) {
    blocks_to_f32(unpack_q3_k, 110, 16, out, row, n);
}
static void q4_k_to_f32(float *out, const void *row, size_t n) {
    blocks_to_f32(unpack_q4_k, 144, 16, out, row, n);
}
static void q5_k_to_f32(float *out, const void *row, size_t n) {
    blocks_to_f32(unpack_q5_k, 176, 16, out, row, n);
}
static void q6_k_to_f32(float *out, const void *row, size_t n) {
    blocks_to_f32(unpack_q6_k, 210, 16, out, row, n);
}

static void f32_to_f32(float *out, const void *row, size_t n) {
    memcpy(out, row, n * sizeof *out);
}

ALWAYS_INLINE void widen(pl_dtype dtype, float *out, const void *row, size_t n) {
    size_t k = 0;
    for (; k + 16 <= n; k += 16) lanes_store(out + k, load_as(dtype, row, k));
    if (k < n) lanes_store_n(out + k, load_as_n(dtype, row, k, n - k), n - k);
}
static void f16_to_f32(float *out, const void *row, size_t n) {
    widen(PL_F16, out, row, n);
}
static void bf16_to_f32(float *out, const void *row, size_t n) {
    widen(PL_BF16, out, row, n);
}

static void f32_from_f32(void *out, const float *x, size_t n) {
    memcpy(out, x, n * sizeof *x);
}
static void f16_from_f32(void *out, const float *x, size_t n) {
    size_t k = 0;
    for (; k + 16 <= n; k += 16) lanes_store_f16((uint16_t *)out + k, lanes_load(x + k));
    if (k < n) {
        uint16_t tail[16];
        lanes_store_f16(tail, lanes_load_n(x + k, n - k));
        memcpy((uint16_t *)out + k, tail, (n - k) * sizeof *tail);
    }
}
static void q8_0_from_f32(void *out, const float *x, size_t n) {
    pl_quantize_row(PL_Q8_0, out, x, n, NULL);
}
static void bf16_from_f32(void *out, const float *x, size_t n) {
    for (size_t i = 0; i < n; i++) ((uint16_t *)out)[i] = float_to_bfloat(x[i]);
}

/* -- rows ------------------------------------------------------------------------------------- */

static float row_sum(const float *x, size_t n) {
    lanes sum = lanes_set(0);
    size_t k = 0;
    for (; k + 16 <= n; k += 16) sum = lanes_add(sum, lanes_load(x + k));
    if (k < n) sum = lanes_add(sum, lanes_load_n(x + k, n - k));
    return lanes_sum(sum);
}

static float row_dot(const float *a, const float *b, size_t n) {
    lanes sum = lanes_set(0);
    size_t k = 0;
    for (; k + 16 <= n; k += 16) sum = lanes_fma(lanes_load(a + k), lanes_load(b + k), sum);
    if (k < n) sum = lanes_fma(lanes_load_n(a + k, n - k), lanes_load_n(b + k, n - k), sum);
    return lanes_sum(sum);
}

static float row_max(const float *x, size_t n) {
    lanes most = lanes_set(-INFINITY), nans = lanes_set(0);
    size_t k = 0;
    for (; k + 16 <= n; k += 16) {
        lanes v = lanes_load(x + k);
        most = lanes_max(v, most);
        nans = lanes_add(nans, lanes_sub(v, v)); /* NaN from NaN, and from infinities */
    }
    float result = lanes_max_of(most);
    bool suspect = isnan(lanes_sum(nans));
    for (size_t i = suspect ? 0 : k; i < n; i++) {
        if (isnan(x[i])) return NAN;
        if (x[i] > result) result = x[i];
    }
    return result;
}

static void row_mul(float *out, const float *a, const float *b, size_t n) {
    size_t k = 0;
    for (; k + 16 <= n; k += 16)
        lanes_store(out + k, lanes_mul(lanes_load(a + k), lanes_load(b + k)));
    for (; k < n; k++) out[k] = a[k] * b[k];
}

static void row_scale(float *out, const float *x, float factor, size_t n) {
    size_t k = 0;
    for (; k + 16 <= n; k += 16)
        lanes_store(out + k, lanes_mul(lanes_load(x + k), lanes_set(factor)));
    for (; k < n; k++) out[k] = x[k] * factor;
}

static void row_axpy(float *out, const float *x, float factor, size_t n) {
    lanes f = lanes_set(factor);
    size_t k = 0;
    for (; k + 16 <= n; k += 16) {
        lanes_store(out + k, lanes_fma(f, lanes_load(x + k), lanes_load(out + k)));
    }
    if (k < n) {
        lanes tail = lanes_fma(f, lanes_load_n(x + k, n - k), lanes_load_n(out + k, n - k));
        lanes_store_n(out + k, tail, n - k);
    }
}

/* -- transcendental functions ------------------------------------------------------------------ */

/* e^x = 2^n e^r with n = round(x / ln 2) and |r| <= ln(2) / 2; e^r by its Taylor series to r^7,
 * which is within 2^-26; 2^n in two factors so that denormals and infinity come out right. */
ALWAYS_INLINE lanes exp_of(lanes x) {
    const lanes magic = lanes_set(12582912.0f); /* 1.5 * 2^23: adding it rounds */
    lanes clamped = lanes_min(lanes_max(x, lanes_set(-110.0f)), lanes_set(100.0f));
    lanes n = lanes_sub(lanes_fma(clamped, lanes_set(1.44269504f), magic), magic);
    lanes r = lanes_fma(n, lanes_set(-0.693359375f), clamped); /* ln 2 in two parts */
    r = lanes_fma(n, lanes_set(2.12194440e-4f), r);
    lanes p = lanes_set(1.0f / 5040);
    p = lanes_fma(p, r, lanes_set(1.0f / 720));
    p = lanes_fma(p, r, lanes_set(1.0f / 120));
    p = lanes_fma(p, r, lanes_set(1.0f / 24));
    p = lanes_fma(p, r, lanes_set(1.0f / 6));
    p = lanes_fma(p, r, lanes_set(0.5f));
    p = lanes_fma(p, r, lanes_set(1.0f));
    p = lanes_fma(p, r, lanes_set(1.0f));
    lanes half = lanes_sub(lanes_fma(n, lanes_set(0.5f), magic), magic);
    p = lanes_mul(lanes_mul(p, lanes_pow2(half)), lanes_pow2(lanes_sub(n, half)));
    return lanes_keep_nan(x, p);
}

/* 1 / (1 + e^-x) */
ALWAYS_INLINE lanes sigmoid_of(lanes x) {
    lanes one = lanes_set(1.0f);
    return lanes_div(one, lanes_add(one, exp_of(lanes_sub(lanes_set(0), x))));
}

/* tanh |x|: near 0 the odd series of Cephes's tanhf, elsewhere 1 - 2 / (e^2x + 1). */
ALWAYS_INLINE lanes tanh_of(lanes x) {
    lanes a = lanes_abs(x), s = lanes_mul(x, x), one = lanes_set(1.0f);
    lanes p = lanes_set(-5.70498872745e-3f);
    p = lanes_fma(p, s, lanes_set(2.06390887954e-2f));
    p = lanes_fma(p, s, lanes_set(-5.37397155531e-2f));
    p = lanes_fma(p, s, lanes_set(1.33314422036e-1f));
    p = lanes_fma(p, s, lanes_set(-3.33332819422e-1f));
    lanes near = lanes_fma(lanes_mul(p, s), a, a);
    lanes far = lanes_add(exp_of(lanes_add(a, a)), one);
    far = lanes_sub(one, lanes_div(lanes_set(2.0f), far));
    lanes y = lanes_if_less(a, lanes_set(0.625f), near, far);
    return lanes_keep_nan(x, lanes_copy_sign(y, x));
}

/* erf: near 0 an odd polynomial, elsewhere 1 - e^-p(|x|); both minimax fits. */
ALWAYS_INLINE lanes erf_of(lanes x) {
    lanes a = lanes_abs(x), s = lanes_mul(x, x);
    lanes near = lanes_set(-5.96761703e-4f);
    near = lanes_fma(near, s, lanes_set(4.99119423e-3f));
    near = lanes_fma(near, s, lanes_set(-2.67681349e-2f));
    near = lanes_fma(near, s, lanes_set(1.12819925e-1f));
    near = lanes_fma(near, s, lanes_set(-3.76125336e-1f));
    near = lanes_fma(near, s, lanes_set(1.28379166e-1f));
    near = lanes_fma(near, a, a);
    lanes far = lanes_fma(lanes_set(-1.72853470e-5f), a, lanes_set(3.83197126e-4f));
    lanes odd = lanes_fma(lanes_set(-3.88396438e-3f), a, lanes_set(2.42546219e-2f));
    far = lanes_fma(far, s, odd);
    far = lanes_fma(far, a, lanes_set(-1.06777877e-1f));
    far = lanes_fma(far, a, lanes_set(-6.34846687e-1f));
    far = lanes_fma(far, a, lanes_set(-1.28717512e-1f));
    far = lanes_fma(far, a, lanes_sub(lanes_set(0), a));
    far = lanes_sub(lanes_set(1.0f), exp_of(far));
    lanes y = lanes_if_less(a, lanes_set(0.9277344f), near, far);
    y = lanes_if_less(a, lanes_set(4.0f), y, lanes_set(1.0f)); /* the fit ends there */
    return lanes_keep_nan(x, lanes_copy_sign(y, x));
}

/* x sigmoid(2 u) with u = sqrt(2/pi) (x + 0.044715 x^3), which equals 0.5 x (1 + tanh u). */
ALWAYS_INLINE lanes gelu_tanh_of(lanes x) {
    lanes cubic = lanes_fma(lanes_mul(lanes_mul(x, x), lanes_set(0.044715f)), x, x);
    lanes e = exp_of(lanes_mul(lanes_set(-2 * 0.79788456f), cubic));
    return lanes_div(x, lanes_add(lanes_set(1.0f), e));
}
ALWAYS_INLINE lanes gelu_erf_of(lanes x) {
    lanes half = lanes_mul(lanes_set(0.5f), x);
    return lanes_fma(half, erf_of(lanes_mul(x, lanes_set(0.70710678f))), half);
}
ALWAYS_INLINE lanes silu_of(lanes x) {
    return lanes_div(x, lanes_add(lanes_set(1.0f), exp_of(lanes_sub(lanes_set(0), x))));
}
ALWAYS_INLINE lanes relu_of(lanes x) {
    return lanes_keep_nan(x, lanes_max(x, lanes_set(0)));
}

typedef lanes (*lanes_fn)(lanes x);

ALWAYS_INLINE void map_row(lanes_fn f, float *out, const float *x, size_t n) {
    size_t k = 0;
    for (; k + 16 <= n; k += 16) lanes_store(out + k, f(lanes_load(x + k)));
    if (k < n) lanes_store_n(out + k, f(lanes_load_n(x + k, n - k)), n - k);
}
static void row_exp(float *out, const float *x, size_t n) {
    map_row(exp_of, out, x, n);
}
static void act_gelu_tanh(float *out, const float *x, size_t n) {
    map_row(gelu_tanh_of, out, x, n);
}
static void act_gelu_erf(float *out, const float *x, size_t n) {
    map_row(gelu_erf_of, out, x, n);
}
static void act_silu(float *out, const float *x, size_t n) {
    map_row(silu_of, out, x, n);
}
static void act_relu(float *out, const float *x, size_t n) {
    map_row(relu_of, out, x, n);
}
static void act_tanh(float *out, const float *x, size_t n) {
    map_row(tanh_of, out, x, n);
}
static void act_sigmoid(float *out, const float *x, size_t n) {
    map_row(sigmoid_of, out, x, n);
}

/* -- norms and softmax ------------------------------------------------------------------------- */

static void layer_norm_stats(float *mean, float *scale, const float *x, size_t n, float eps) {
    float m = row_sum(x, n) / (float)n;
    lanes sum = lanes_set(0), centre = lanes_set(m);
    size_t k = 0;
    for (; k + 16 <= n; k += 16) {
        lanes d = lanes_sub(lanes_load(x + k), centre);
        sum = lanes_fma(d, d, sum);
    }
    if (k < n) { /* the lanes of no element must not count as -mean */
        float tail[16] = {0};
        for (size_t i = k; i < n; i++) tail[i - k] = x[i] - m;
        sum = lanes_fma(lanes_load(tail), lanes_load(tail), sum);
    }
    *mean = m;
    *scale = sqrtf(lanes_sum(sum) / (float)n + eps);
}

static void rms_norm_stats(float *mean, float *scale, const float *x, size_t n, float eps) {
    *mean = 0;
    *scale = sqrtf(row_dot(x, x, n) / (float)n + eps);
}

ALWAYS_INLINE lanes normalized(lanes x, lanes mean, lanes scale, const lanes *gain,
                               const lanes *bias) {
    x = lanes_div(lanes_sub(x, mean), scale);
    if (gain) return bias ? lanes_fma(x, *gain, *bias) : lanes_mul(x, *gain);
    return bias ? lanes_add(x, *bias) : x;
}

static void normalize(float *out, const float *x, float mean, float scale, const float *gain,
                      const float *bias, size_t n) {
    lanes m = lanes_set(mean), s = lanes_set(scale), g, b;
    size_t k = 0;
    for (; k + 16 <= n; k += 16) {
        if (gain) g = lanes_load(gain + k);
        if (bias) b = lanes_load(bias + k);
        lanes_store(out + k,
                    normalized(lanes_load(x + k), m, s, gain ? &g : NULL, bias ? &b : NULL));
    }
    if (k < n) {
        if (gain) g = lanes_load_n(gain + k, n - k);
        if (bias) b = lanes_load_n(bias + k, n - k);
        lanes y = normalized(lanes_load_n(x + k, n - k), m, s, gain ? &g : NULL, bias ? &b : NULL);
        lanes_store_n(out + k, y, n - k);
    }
}

static void softmax(float *out, const float *x, size_t n) {
    float most = row_max(x, n);
    lanes shift = lanes_set(most), sum = lanes_set(0);
    size_t k = 0;
    for (; k + 16 <= n; k += 16) {
        lanes e = exp_of(lanes_sub(lanes_load(x + k), shift));
        sum = lanes_add(sum, e);
        lanes_store(out + k, e);
    }
    if (k < n) {
        lanes_store_n(out + k, exp_of(lanes_sub(lanes_load_n(x + k, n - k), shift)), n - k);
        sum = lanes_add(sum, lanes_load_n(out + k, n - k));
    }
    lanes total = lanes_set(lanes_sum(sum));
    for (k = 0; k + 16 <= n; k += 16) lanes_store(out + k, lanes_div(lanes_load(out + k), total));
    if (k < n) lanes_store_n(out + k, lanes_div(lanes_load_n(out + k, n - k), total), n - k);
}

static void rotate(float *x, const float *cosines, const float *sines, size_t n_pairs, bool half) {
    float *second = half ? x + n_pairs : x + 1;
    size_t step = half ? 1 : 2, i = 0;
    for (; half && i + 16 <= n_pairs; i += 16) {
        lanes a = lanes_load(x + i), b = lanes_load(second + i);
        lanes c = lanes_load(cosines + i), s = lanes_load(sines + i);
        lanes_store(x + i, lanes_fma(a, c, lanes_sub(lanes_set(-0.0f), lanes_mul(b, s))));
        lanes_store(second + i, lanes_fma(b, c, lanes_mul(a, s)));
    }
    for (; i < n_pairs; i++) {
        float a = x[i * step], b = second[i * step];
        x[i * step] = fmaf(a, cosines[i], -(b * sines[i]));
        second[i * step] = fmaf(b, cosines[i], a * sines[i]);
    }
}

#include "generic_attention.h"

/* -- the table --------------------------------------------------------------------------------- */

/* The file that fills it has tile_q4_0 and so on, from block_tiles.h, tiles_avx2.h or its own.
 */
#define GENERIC_TABLE                                                                              \
    {                                                                                              \
        .tile_f32 = tile_f32, .tile_f16 = tile_f16, .tile_bf16 = tile_bf16,                        \
        .tile_transposed = tile_transposed,                                                        \
        .tile_quantised = {[PL_Q4_0] = tile_q4_0, [PL_Q4_1] = tile_q4_1, [PL_Q5_0] = tile_q5_0,    \
                           [PL_Q5_1] = tile_q5_1, [PL_Q8_0] = tile_q8_0, [PL_Q2_K] = tile_q2_k,    \
                           [PL_Q3_K] = tile_q3_k, [PL_Q4_K] = tile_q4_k, [PL_Q5_K] = tile_q5_k,    \
                           [PL_Q6_K] = tile_q6_k},                                                 \
        .round_activations = {[PL_Q4_0] = round_activations32,  [PL_Q4_1] = round_activations32,   \
                              [PL_Q5_0] = round_activations32,  [PL_Q5_1] = round_activations32,   \
                              [PL_Q8_0] = round_activations32,  [PL_Q2_K] = round_activations256,  \
                              [PL_Q3_K] = round_activations256, [PL_Q4_K] = round_activations256,  \
                              [PL_Q5_K] = round_activations256, [PL_Q6_K] = round_activations256}, \
        .to_f32 = {[PL_F32] = f32_to_f32,   [PL_F16] = f16_to_f32,   [PL_BF16] = bf16_to_f32,      \
                   [PL_Q4_0] = q4_0_to_f32, [PL_Q4_1] = q4_1_to_f32, [PL_Q5_0] = q5_0_to_f32,      \
                   [PL_Q5_1] = q5_1_to_f32, [PL_Q8_0] = q8_0_to_f32, [PL_Q2_K] = q2_k_to_f32,      \
                   [PL_Q3_K] = q3_k_to_f32, [PL_Q4_K] = q4_k_to_f32, [PL_Q5_K] = q5_k_to_f32,      \
                   [PL_Q6_K] = q6_k_to_f32},                                                       \
        .from_f32 = {[PL_F32] = f32_from_f32,                                                      \
                     [PL_F16] = f16_from_f32,                                                      \
                     [PL_BF16] = bf16_from_f32,                                                    \
                     [PL_Q8_0] = q8_0_from_f32},                                                   \
        .sum = row_sum, .dot = row_dot, .max = row_max, .add = row_add, .mul = row_mul,            \
        .scale = row_scale, .axpy = row_axpy, .exp = row_exp,                                      \
        .layer_norm_stats = layer_norm_stats, .rms_norm_stats = rms_norm_stats,                    \
        .normalize = normalize, .softmax = softmax,                                                \
        .activate = {[PL_ACT_GELU_TANH] = act_gelu_tanh, [PL_ACT_GELU_ERF] = act_gelu_erf,         \
                     [PL_ACT_SILU] = act_silu,           [PL_ACT_RELU] = act_relu,                 \
                     [PL_ACT_TANH] = act_tanh,           [PL_ACT_SIGMOID] = act_sigmoid},          \
        .rotate = rotate, .attention_scores = attention_scores, .attention_mix = attention_mix,    \
    }

#endif
