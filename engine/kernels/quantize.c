#include "quantize.h"

#include <float.h>
#include <math.h>
#include <string.h>

#include "blocks.h"

enum { MOST_ELEMENTS = PL_MAX_BLOCK, SUPER = 256 };

/* NaN, which no scale of a finite block gives, becomes the least. */
static int clamp(float x, int least, int most) {
    if (!(x > (float)least)) return least;
    return x > (float)most ? most : (int)lrintf(x);
}

static void put_half(uint8_t *p, float x) {
    uint16_t half = float_to_half(x);
    p[0] = (uint8_t)half, p[1] = (uint8_t)(half >> 8);
}

/* A scale as it will be read back; too large a one becomes the largest there is. */
static float as_half(float x) {
    const float most = 65504;
    return half_to_float(float_to_half(x > most ? most : x < -most ? -most : x));
}

static float inverse_of(float x) {
    float inverse = x != 0 ? 1 / x : 0;
    return isfinite(inverse) ? inverse : 0;
}

/* -- fitting ---------------------------------------------------------------------------------- */

enum { TRIES = 10 }; /* scales on either side of the one that fits the extremes */

/* The scale s for which the weighted squared error of s q, q from -most to most - 1, is least. The
 * element that is largest gets the level -most, of either sign. */
static float fit_symmetric(const float *x, const float *weight, int n, int most) {
    float extreme = 0;
    for (int i = 0; i < n; i++) {
        if (fabsf(x[i]) > fabsf(extreme)) extreme = x[i];
    }
    if (fabsf(extreme) < FLT_MIN) return 0;
    float best = 0, scale = 0;
    for (int try = -TRIES; try <= TRIES; try++) {
        float inverse = -((float)most + 0.1f * (float)try) / extreme, xq = 0, qq = 0;
        for (int i = 0; i < n; i++) {
            float q = (float)clamp(inverse * x[i], -most, most - 1);
            xq += weight[i] * x[i] * q;
            qq += weight[i] * q * q;
        }
        if (qq > 0 && xq * xq > best * qq) {
            best = xq * xq / qq;
            scale = xq / qq;
        }
    }
    return scale != 0 ? scale : extreme / (float)-most;
}

/* The sums that a least-squares line x = s q + b needs. */
typedef struct line_sums {
    float w, x, q, qq, xq;
} line_sums;

static void solve_line(const line_sums *sums, bool may_add, float *s, float *b) {
    float determinant = sums->w * sums->qq - sums->q * sums->q;
    *s = *b = 0;
    if (determinant > 0) {
        *s = (sums->w * sums->xq - sums->x * sums->q) / determinant;
        *b = (sums->qq * sums->x - sums->q * sums->xq) / determinant;
    }
    if (!may_add && *b > 0) {
        *b = 0;
        *s = sums->qq > 0 ? sums->xq / sums->qq : 0;
    }
}

/* One step: the levels nearest to the line s q + b, then the line that fits those levels best.
 * Returns the error of the new line. */
static float refine_line(const float *x, const float *weight, int n, int most, bool may_add,
                         float *s, float *b) {
    line_sums sums = {0};
    float q[32], inverse = inverse_of(*s), error = 0;
    for (int i = 0; i < n; i++) {
        q[i] = (float)clamp(inverse * (x[i] - *b), 0, most);
        sums.w += weight[i];
        sums.x += weight[i] * x[i];
        sums.q += weight[i] * q[i];
        sums.qq += weight[i] * q[i] * q[i];
        sums.xq += weight[i] * x[i] * q[i];
    }
    solve_line(&sums, may_add, s, b);
    for (int i = 0; i < n; i++) {
        float d = *s * q[i] + *b - x[i];
        error += weight[i] * d * d;
    }
    return error;
}

/* The scale s and offset b for which the error of s q + b, q from 0 to most, is least; b <= 0
 * unless may_add. */
static float fit_affine(const float *x, const float *weight, int n, int most, bool may_add,
                        float *offset) {
    enum { STEPS = 3 };
    float low = x[0], high = x[0];
    for (int i = 1; i < n; i++) {
        low = x[i] < low ? x[i] : low;
        high = x[i] > high ? x[i] : high;
    }
    if (!may_add && low > 0) low = 0;
    *offset = low;
    if (!(high - low > FLT_MIN)) return 0;
    float scale = (high - low) / (float)most, least = INFINITY;
    for (int try = -TRIES; try <= TRIES; try++) {
        float s = (high - low) / ((float)most + 0.1f * (float)try), b = low;
        for (int step = 0; step < STEPS; step++) {
            float error = refine_line(x, weight, n, most, may_add, &s, &b);
            if (!(s > 0) || !(error < least)) break;
            least = error;
            scale = s;
            *offset = b;
        }
    }
    return scale;
}

/* How much each element counts where nobody says it: the larger ones more. */
static void weigh(float *weight, const float *x, int n, bool square) {
    float sum = 0;
    for (int i = 0; i < n; i++) sum += x[i] * x[i];
    float root = sqrtf(sum / (float)n);
    for (int i = 0; i < n; i++) weight[i] = square ? x[i] * x[i] : root + fabsf(x[i]);
}

/* -- blocks of 32 ------------------------------------------------------------------------------ */

static void put_nibbles32(uint8_t *out, const int *q) {
    for (int i = 0; i < 16; i++) out[i] = (uint8_t)((q[i] & 15) | (q[i + 16] & 15) << 4);
}

static void put_fifth_bits32(uint8_t *out, const int *q) {
    memset(out, 0, 4);
    for (int i = 0; i < 32; i++) out[i / 8] |= (uint8_t)((q[i] >> 4 & 1) << i % 8);
}

static void quantize_q8_0(uint8_t *out, const float *x, const float *weight) {
    (void)weight;
    float largest = 0;
    for (int i = 0; i < 32; i++) largest = fabsf(x[i]) > largest ? fabsf(x[i]) : largest;
    float d = largest / 127, inverse = inverse_of(d); /* as the format's reference: d not rounded */
    put_half(out, as_half(d));
    for (int i = 0; i < 32; i++) out[2 + i] = (uint8_t)(int8_t)roundf(x[i] * inverse);
}

/* q4_0 and q5_0: levels -most to most - 1, stored from 0. */
static void quantize_symmetric32(uint8_t *out, const float *x, const float *weight, int most) {
    float d = as_half(fit_symmetric(x, weight, 32, most)), inverse = inverse_of(d);
    int q[32];
    for (int i = 0; i < 32; i++) q[i] = clamp(x[i] * inverse, -most, most - 1) + most;
    put_half(out, d);
    if (most == 16) put_fifth_bits32(out + 2, q);
    put_nibbles32(out + (most == 16 ? 6 : 2), q);
}

static void quantize_q4_0(uint8_t *out, const float *x, const float *weight) {
    quantize_symmetric32(out, x, weight, 8);
}
static void quantize_q5_0(uint8_t *out, const float *x, const float *weight) {
    quantize_symmetric32(out, x, weight, 16);
}

/* q4_1 and q5_1: levels 0 to most, and an offset that is added. */
static void quantize_affine32(uint8_t *out, const float *x, const float *weight, int most) {
    float offset, d = as_half(fit_affine(x, weight, 32, most, true, &offset));
    float m = as_half(offset), inverse = inverse_of(d);
    int q[32];
    for (int i = 0; i < 32; i++) q[i] = clamp((x[i] - m) * inverse, 0, most);
    put_half(out, d);
    put_half(out + 2, m);
    if (most == 31) put_fifth_bits32(out + 4, q);
    put_nibbles32(out + (most == 31 ? 8 : 4), q);
}

static void quantize_q4_1(uint8_t *out, const float *x, const float *weight) {
    quantize_affine32(out, x, weight, 15);
}
static void quantize_q5_1(uint8_t *out, const float *x, const float *weight) {
    quantize_affine32(out, x, weight, 31);
}

/* -- blocks of 256 ----------------------------------------------------------------------------- */

/* Scales and minima of a block's groups, as whole multiples of d and dmin. */
typedef struct group_scales {
    float d, dmin;
    int scale[16], min[16];
} group_scales;

/* Groups of `width` elements with levels 0 to most; scales and minima get levels 0 to most_scale.
 */
static void fit_groups(group_scales *g, const float *x, const float *weight, int width, int most,
                       int most_scale) {
    float scale[16], min[16], largest = 0, largest_min = 0;
    int n = SUPER / width;
    for (int i = 0; i < n; i++) {
        float offset;
        scale[i] = fit_affine(x + i * width, weight + i * width, width, most, false, &offset);
        min[i] = -offset;
        largest = scale[i] > largest ? scale[i] : largest;
        largest_min = min[i] > largest_min ? min[i] : largest_min;
    }
    g->d = as_half(largest / (float)most_scale);
    g->dmin = as_half(largest_min / (float)most_scale);
    for (int i = 0; i < n; i++) {
        g->scale[i] = clamp(scale[i] * inverse_of(g->d), 0, most_scale);
        g->min[i] = clamp(min[i] * inverse_of(g->dmin), 0, most_scale);
    }
}

static void round_to_groups(int *q, const group_scales *g, const float *x, int width, int most) {
    for (int i = 0; i < SUPER; i++) {
        int group = i / width;
        float d = g->d * (float)g->scale[group], m = g->dmin * (float)g->min[group];
        q[i] = clamp((x[i] + m) * inverse_of(d), 0, most);
    }
}

/* Groups of sixteen with levels -most to most - 1, and scales of either sign with levels
 * -most_scale to most_scale - 1. q is stored from 0. */
static void quantize_groups(group_scales *g, int *q, const float *x, const float *weight, int most,
                            int most_scale) {
    float scale[16], extreme = 0;
    for (int i = 0; i < 16; i++) {
        scale[i] = fit_symmetric(x + 16 * i, weight + 16 * i, 16, most);
        if (fabsf(scale[i]) > fabsf(extreme)) extreme = scale[i];
    }
    g->d = as_half(extreme / (float)-most_scale);
    for (int i = 0; i < 16; i++) {
        g->scale[i] = clamp(scale[i] * inverse_of(g->d), -most_scale, most_scale - 1);
    }
    for (int i = 0; i < SUPER; i++) {
        int group = i / 16;
        float inverse = inverse_of(g->d * (float)g->scale[group]);
        q[i] = clamp(x[i] * inverse, -most, most - 1) + most;
    }
}

static void put_pairs256(uint8_t *out, const int *q) {
    memset(out, 0, 64);
    for (int i = 0; i < SUPER; i++) {
        out[i / 128 * 32 + i % 32] |= (uint8_t)((q[i] & 3) << 2 * (i % 128 / 32));
    }
}

static void put_nibbles256(uint8_t *out, const int *q) {
    for (int j = 0; j < 4; j++) {
        for (int i = 0; i < 32; i++) {
            out[32 * j + i] = (uint8_t)((q[64 * j + i] & 15) | (q[64 * j + 32 + i] & 15) << 4);
        }
    }
}

static void quantize_q2_k(uint8_t *out, const float *x, const float *weight) {
    group_scales g;
    int q[SUPER];
    fit_groups(&g, x, weight, 16, 3, 15);
    round_to_groups(q, &g, x, 16, 3);
    for (int i = 0; i < 16; i++) out[i] = (uint8_t)(g.scale[i] | g.min[i] << 4);
    put_pairs256(out + 16, q);
    put_half(out + 80, g.d);
    put_half(out + 82, g.dmin);
}

static void quantize_q3_k(uint8_t *out, const float *x, const float *weight) {
    group_scales g;
    int q[SUPER];
    quantize_groups(&g, q, x, weight, 4, 32);
    memset(out, 0, 32);
    for (int i = 0; i < SUPER; i++) out[i % 32] |= (uint8_t)((q[i] >> 2) << i / 32);
    put_pairs256(out + 32, q);
    uint8_t *s = out + 96;
    memset(s, 0, 12);
    for (int i = 0; i < 16; i++) {
        int scale = g.scale[i] + 32;
        s[i % 8] |= (uint8_t)((scale & 15) << (i < 8 ? 0 : 4));
        s[8 + i % 4] |= (uint8_t)((scale >> 4) << 2 * (i / 4));
    }
    put_half(out + 108, g.d);
}

/* The first sixteen bytes of q4_k and q5_k. */
static void put_head_k(uint8_t *out, const group_scales *g) {
    uint8_t *s = out + 4;
    put_half(out, g->d);
    put_half(out + 2, g->dmin);
    memset(s, 0, 12);
    for (int j = 0; j < 4; j++) {
        s[j] = (uint8_t)(g->scale[j] | (g->scale[j + 4] >> 4) << 6);
        s[j + 4] = (uint8_t)(g->min[j] | (g->min[j + 4] >> 4) << 6);
        s[j + 8] = (uint8_t)((g->scale[j + 4] & 15) | (g->min[j + 4] & 15) << 4);
    }
}

static void quantize_q4_k(uint8_t *out, const float *x, const float *weight) {
    group_scales g;
    int q[SUPER];
    fit_groups(&g, x, weight, 32, 15, 63);
    round_to_groups(q, &g, x, 32, 15);
    put_head_k(out, &g);
    put_nibbles256(out + 16, q);
}

static void quantize_q5_k(uint8_t *out, const float *x, const float *weight) {
    group_scales g;
    int q[SUPER];
    fit_groups(&g, x, weight, 32, 31, 63);
    round_to_groups(q, &g, x, 32, 31);
    put_head_k(out, &g);
    memset(out + 16, 0, 32);
    for (int i = 0; i < SUPER; i++) out[16 + i % 32] |= (uint8_t)((q[i] >> 4) << i / 32);
    put_nibbles256(out + 48, q);
}

static void quantize_q6_k(uint8_t *out, const float *x, const float *weight) {
    group_scales g;
    int q[SUPER];
    quantize_groups(&g, q, x, weight, 32, 128);
    memset(out + 128, 0, 64);
    for (int h = 0; h < 2; h++) {
        for (int i = 0; i < 64; i++) {
            const int *half = q + 128 * h;
            out[64 * h + i] = (uint8_t)((half[i] & 15) | (half[64 + i] & 15) << 4);
        }
    }
    for (int i = 0; i < SUPER; i++) {
        out[128 + i / 128 * 32 + i % 32] |= (uint8_t)((q[i] >> 4) << 2 * (i % 128 / 32));
    }
    for (int i = 0; i < 16; i++) out[192 + i] = (uint8_t)(int8_t)g.scale[i];
    put_half(out + 208, g.d);
}

/* -- rows -------------------------------------------------------------------------------------- */

static const struct kind {
    void (*quantize)(uint8_t *out, const float *x, const float *weight);
    size_t scale_at; /* of the half that scales the block */
    bool square;     /* without importance an element counts by its square */
} kinds[PL_N_DTYPES] = {
    [PL_Q4_0] = {quantize_q4_0, 0, true},   [PL_Q4_1] = {quantize_q4_1, 0, false},
    [PL_Q5_0] = {quantize_q5_0, 0, true},   [PL_Q5_1] = {quantize_q5_1, 0, false},
    [PL_Q8_0] = {quantize_q8_0, 0, true},   [PL_Q2_K] = {quantize_q2_k, 80, false},
    [PL_Q3_K] = {quantize_q3_k, 108, true}, [PL_Q4_K] = {quantize_q4_k, 0, false},
    [PL_Q5_K] = {quantize_q5_k, 0, false},  [PL_Q6_K] = {quantize_q6_k, 208, true},
};

static bool all_finite(const float *x, int n) {
    for (int i = 0; i < n; i++) {
        if (!isfinite(x[i])) return false;
    }
    return true;
}

void pl_quantize_row(pl_dtype dtype, void *out, const float *x, size_t n, const float *importance) {
    const struct kind *kind = &kinds[dtype];
    const pl_dtype_info *info = pl_dtype_get(dtype);
    int width = (int)info->block_elements;
    float weight[MOST_ELEMENTS];
    for (size_t i = 0; i < n; i += info->block_elements) {
        uint8_t *block = (uint8_t *)out + i / info->block_elements * info->block_bytes;
        if (!all_finite(x + i, width)) {
            memset(block, 0, info->block_bytes);
            put_half(block + kind->scale_at, NAN);
            continue;
        }
        if (!importance && dtype != PL_Q8_0) weigh(weight, x + i, width, kind->square);
        kind->quantize(block, x + i, importance ? importance + i : weight);
    }
}
