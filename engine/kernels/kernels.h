/* The inner loops: pointers, sizes and strides only. One table per instruction set, chosen once.
 *
 *     const pl_kernels *k;
 *     if (pl_kernels_choose(&k, err) != PL_OK) return ...;
 *     k->tile_f32(out, n_out, w, n_in * sizeof(float), n_out, x, n_in, n_rows, n_in);
 *
 * Every function gives the same bits in every table. The order of each sum is part of its
 * contract:
 *   lane sum   element i goes to lane i mod 16; each lane is summed ascending, by fused
 *              multiply-add where there is a product, from +0; then
 *              s[l] += s[l+8] (l < 8), s[l] += s[l+4] (l < 4), s[l] += s[l+2], s[0] + s[1].
 *   block sum  exact integers inside a block, then one fused multiply-add per block, blocks
 *              ascending, from +0.
 * A tail that fills no lane adds nothing (it is not padded with -0 or NaN).
 * Sizes may be any number, 0 included, unless said otherwise; nothing needs alignment.
 * out may be x itself where the comment says "in place"; otherwise they must not overlap. */
#ifndef PL_KERNELS_KERNELS_H
#define PL_KERNELS_KERNELS_H

#include "../base/cpu.h"
#include "../base/dtype.h"

typedef enum pl_activation {
    PL_ACT_GELU_TANH, /* 0.5 x (1 + tanh(sqrt(2/pi) (x + 0.044715 x^3))), "gelu_new" */
    PL_ACT_GELU_ERF,  /* 0.5 x (1 + erf(x / sqrt 2)), "gelu" */
    PL_ACT_SILU,      /* x / (1 + exp(-x)) */
    PL_ACT_RELU,
    PL_ACT_TANH,
    PL_ACT_SIGMOID,
    PL_N_ACTIVATIONS
} pl_activation;

typedef struct pl_kernels {
    /* -- products with weights --------------------------------------------------------------
     * A tile: out[r * out_stride + j] = sum over k of w[j][k] * x[r][k], r < n_rows, j < n_out.
     *   w  row j at (char *)w + j * w_row_bytes, n_in elements of the table's type
     * Plain types: x float32 rows at x + r * x_stride; lane sums, weights widened exactly. */
    void (*tile_f32)(float *out, size_t out_stride, const void *w, size_t w_row_bytes, size_t n_out,
                     const float *x, size_t x_stride, size_t n_rows, size_t n_in);
    void (*tile_f16)(float *out, size_t out_stride, const void *w, size_t w_row_bytes, size_t n_out,
                     const float *x, size_t x_stride, size_t n_rows, size_t n_in);
    void (*tile_bf16)(float *out, size_t out_stride, const void *w, size_t w_row_bytes,
                      size_t n_out, const float *x, size_t x_stride, size_t n_rows, size_t n_in);

    /* The same tile for weights stored as [n_in, n_out] (Conv1D): w[k][j] at
     * (char *)w + k * w_row_bytes + j * element size. dtype F32, F16 or BF16. Same bits as the
     * other layout. */
    void (*tile_transposed)(pl_dtype dtype, float *out, size_t out_stride, const void *w,
                            size_t w_row_bytes, size_t n_out, const float *x, size_t x_stride,
                            size_t n_rows, size_t n_in);

    /* Quantised types: x rows made by round_activations for the same dtype, x_row_bytes apart;
     * block sums. Indexed by dtype; NULL for plain types. n_in is a multiple of the block. */
    void (*tile_quantised[PL_N_DTYPES])(float *out, size_t out_stride, const void *w,
                                        size_t w_row_bytes, size_t n_out, const void *x,
                                        size_t x_row_bytes, size_t n_rows, size_t n_in);
    /* Rounds one row of activations to int8 blocks (each block's largest magnitude becomes 127)
     * in the layout that tile_quantised[dtype] reads, pl_activation_row_bytes(dtype, n) bytes at a
     * multiple of 4. */
    void (*round_activations[PL_N_DTYPES])(void *out, const float *x, size_t n);

    /* Any float or quantised type to float32, exactly as the format defines it. n is a multiple of
     * the block. Indexed by dtype, NULL for the integer types. */
    void (*to_f32[PL_N_DTYPES])(float *out, const void *row, size_t n);
    /* float32 to F32, F16 (nearest even, overflow to infinity), BF16 (nearest even) or Q8_0 (see
     * quantize.h). NaN stays NaN. Indexed by dtype, NULL elsewhere. */
    void (*from_f32[PL_N_DTYPES])(void *out, const float *x, size_t n);

    /* -- rows ------------------------------------------------------------------------------- */
    float (*sum)(const float *x, size_t n);                 /* lane sum */
    float (*dot)(const float *a, const float *b, size_t n); /* lane sum */
    float (*max)(const float *x, size_t n);                 /* -inf for n = 0; NaN if any is NaN */

    void (*add)(float *out, const float *a, const float *b, size_t n); /* in place */
    void (*mul)(float *out, const float *a, const float *b, size_t n); /* in place */
    void (*scale)(float *out, const float *x, float factor, size_t n); /* in place */
    void (*axpy)(float *out, const float *x, float factor,
                 size_t n);                            /* out = fma(factor, x, out) */
    void (*exp)(float *out, const float *x, size_t n); /* in place; within 2 ulp */

    /* Normalisation in two steps, so that a hook can stand between them.
     *   layer  mean = lanesum(x) / n, scale = sqrt(lanesum((x - mean)^2) / n + eps)
     *   rms    mean = 0,              scale = sqrt(lanesum(x^2) / n + eps)
     * normalize: out = fma((x - mean) / scale, gain, bias); gain NULL: 1 and no multiplication,
     * bias NULL: plain product. In place. */
    void (*layer_norm_stats)(float *mean, float *scale, const float *x, size_t n, float eps);
    void (*rms_norm_stats)(float *mean, float *scale, const float *x, size_t n, float eps);
    void (*normalize)(float *out, const float *x, float mean, float scale, const float *gain,
                      const float *bias, size_t n);

    /* out = exp(x - max) / lanesum(exp(x - max)), in place. All -inf, or any NaN: all NaN. */
    void (*softmax)(float *out, const float *x, size_t n);

    /* In place. */
    void (*activate[PL_N_ACTIVATIONS])(float *out, const float *x, size_t n);

    /* Rotates n_pairs pairs in place: (a, b) -> (fma(a, cos, -(b * sin)), fma(b, cos, a * sin)).
     * half: pair i is x[i], x[i + n_pairs] (Hugging Face, NeoX); else x[2i], x[2i + 1]. */
    void (*rotate)(float *x, const float *cos, const float *sin, size_t n_pairs, bool half);

    /* -- attention over one page of keys or values, stored as `dtype` F32, F16 or Q8_0 ------
     * with Q8_0 d is a multiple of 32, and an element counts as scale * q, rounded to float32.
     * keys and values: row p at (char *)page + p * row_bytes, d elements.
     * next: as many rows that will be read next, fetched meanwhile, or NULL.
     * scores[r][p] = factor * lanesum(q[r] . key[p]), for n_q queries. */
    void (*attention_scores)(float *scores, size_t scores_stride, const float *q, size_t q_stride,
                             size_t n_q, const void *keys, pl_dtype dtype, size_t row_bytes,
                             size_t n_keys, size_t d, float factor, const void *next);
    /* z[r][i] = z[r][i] + sum over p < n_keys[r] of pattern[r][p] * value[p][i], with n_keys
     * ascending: a page's own sum runs over p ascending by fused multiply-add from +0 and is then
     * added to z, so that pages may be computed apart and added in order. */
    void (*attention_mix)(float *z, size_t z_stride, const float *pattern, size_t pattern_stride,
                          size_t n_q, const void *values, pl_dtype dtype, size_t row_bytes,
                          const size_t *n_keys, size_t d, const void *next);
} pl_kernels;

/* Products in less than float32, for precision "fast": rounded to bfloat16, summed in float32, in
 * an order of their own. A panel has PL_FAST_OUT rows of weights, (n_in + 1) / 2 * PL_FAST_OUT
 * words; a row of activations (n_in + 1) / 2 words. */
enum { PL_FAST_OUT = 64 };
typedef struct pl_fast_kernels {
    /* n_out (at most PL_FAST_OUT) rows of F32, F16 or BF16 weights into a panel. */
    void (*pack)(uint32_t *panel, pl_dtype dtype, const void *w, size_t w_row_bytes, size_t n_out,
                 size_t n_in);
    void (*round)(uint32_t *out, const float *x, size_t n);
    /* out[r * out_stride + j] = sum over k of w[j][k] x[r][k]; rows of x are x_stride words apart.
     */
    void (*tile)(float *out, size_t out_stride, const uint32_t *panel, size_t n_out,
                 const uint32_t *x, size_t x_stride, size_t n_rows, size_t n_in);
    size_t tile_rows; /* of one call, for a panel to be worth packing */
} pl_fast_kernels;

/* NULL where this processor or build has none, or PERILUNE_CPU forbids them. */
const pl_fast_kernels *pl_kernels_fast(void);

/* The table of the instruction set that pl_cpu_choose picks. Static storage. */
pl_status pl_kernels_choose(const pl_kernels **kernels, pl_error *err);

/* The table of one instruction set, or NULL where this processor or build lacks it. */
const pl_kernels *pl_kernels_for(pl_isa isa);

/* Bytes of a row of n activations as round_activations[dtype] lays them out; dtype quantised and
 * n a multiple of its block. */
size_t pl_activation_row_bytes(pl_dtype dtype, size_t n);

#endif
