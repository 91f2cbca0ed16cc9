/* Sixteen floats, in plain C. The other lanes_*.h files offer the same functions. */
#ifndef PL_KERNELS_LANES_PLAIN_H
#define PL_KERNELS_LANES_PLAIN_H

#include <math.h>
#include <stdint.h>
#include <string.h>

#include "half.h"

typedef struct lanes {
    float v[16];
} lanes;

#define FOR_LANES for (int i = 0; i < 16; i++)

static inline lanes lanes_set(float x) {
    lanes r;
    FOR_LANES r.v[i] = x;
    return r;
}
static inline lanes lanes_load(const float *p) {
    lanes r;
    memcpy(r.v, p, sizeof r.v);
    return r;
}
/* The first n < 16, the others 0. */
static inline lanes lanes_load_n(const float *p, size_t n) {
    lanes r = lanes_set(0);
    memcpy(r.v, p, n * sizeof *p);
    return r;
}
static inline void lanes_store(float *p, lanes a) {
    memcpy(p, a.v, sizeof a.v);
}
static inline void lanes_store_n(float *p, lanes a, size_t n) {
    memcpy(p, a.v, n * sizeof *p);
}
static inline lanes lanes_add(lanes a, lanes b) {
    FOR_LANES a.v[i] += b.v[i];
    return a;
}
static inline lanes lanes_sub(lanes a, lanes b) {
    FOR_LANES a.v[i] -= b.v[i];
    return a;
}
static inline lanes lanes_mul(lanes a, lanes b) {
    FOR_LANES a.v[i] *= b.v[i];
    return a;
}
static inline lanes lanes_div(lanes a, lanes b) {
    FOR_LANES a.v[i] /= b.v[i];
    return a;
}
/* a b + c, rounded once */
static inline lanes lanes_fma(lanes a, lanes b, lanes c) {
    FOR_LANES c.v[i] = fmaf(a.v[i], b.v[i], c.v[i]);
    return c;
}
/* a > b ? a : b, so that b is the result when either is NaN; min likewise */
static inline lanes lanes_max(lanes a, lanes b) {
    FOR_LANES b.v[i] = a.v[i] > b.v[i] ? a.v[i] : b.v[i];
    return b;
}
static inline lanes lanes_min(lanes a, lanes b) {
    FOR_LANES b.v[i] = a.v[i] < b.v[i] ? a.v[i] : b.v[i];
    return b;
}
/* test < limit ? a : b, false for NaN */
static inline lanes lanes_if_less(lanes test, lanes limit, lanes a, lanes b) {
    FOR_LANES b.v[i] = test.v[i] < limit.v[i] ? a.v[i] : b.v[i];
    return b;
}
/* test is NaN ? test : a */
static inline lanes lanes_keep_nan(lanes test, lanes a) {
    FOR_LANES a.v[i] = isnan(test.v[i]) ? test.v[i] : a.v[i];
    return a;
}
static inline lanes lanes_abs(lanes a) {
    FOR_LANES a.v[i] = fabsf(a.v[i]);
    return a;
}
/* |a| with b's sign */
static inline lanes lanes_copy_sign(lanes a, lanes b) {
    FOR_LANES a.v[i] = copysignf(a.v[i], b.v[i]);
    return a;
}
/* 2^n for whole n in [-126, 127] */
static inline lanes lanes_pow2(lanes n) {
    FOR_LANES {
        int32_t bits = (int32_t)((uint32_t)((int32_t)n.v[i] + 127) << 23);
        memcpy(&n.v[i], &bits, sizeof bits);
    }
    return n;
}
static inline lanes lanes_load_f16(const uint16_t *p) {
    lanes r;
    FOR_LANES r.v[i] = half_to_float(p[i]);
    return r;
}
static inline void lanes_store_f16(uint16_t *p, lanes a) {
    FOR_LANES p[i] = float_to_half(a.v[i]);
}
static inline lanes lanes_load_bf16(const uint16_t *p) {
    lanes r;
    FOR_LANES r.v[i] = bfloat_to_float(p[i]);
    return r;
}
static inline lanes lanes_load_i8(const uint8_t *p) {
    lanes r;
    FOR_LANES r.v[i] = (float)(int8_t)p[i];
    return r;
}
/* The larger of two magnitudes; infinity is above all numbers and NaN above infinity. */
static inline lanes lanes_magnitude(lanes a, lanes b) {
    FOR_LANES {
        float x = fabsf(a.v[i]), y = fabsf(b.v[i]);
        a.v[i] = y > x || isnan(y) ? y : x;
    }
    return a;
}
static inline float lanes_magnitude_of(lanes a) {
    float most = 0;
    FOR_LANES most = fabsf(a.v[i]) > most || isnan(a.v[i]) ? fabsf(a.v[i]) : most;
    return most;
}
/* Rounds to signed bytes, ties to even; the sum of the sixteen. |a| < 127.5. Adding and taking away
 * 1.5 * 2^23 rounds to the nearest whole number. */
static inline int lanes_store_i8(int8_t *p, lanes a) {
    int sum = 0;
    FOR_LANES {
        p[i] = (int8_t)((a.v[i] + 12582912.0f) - 12582912.0f);
        sum += p[i];
    }
    return sum;
}
static inline lanes lanes_set_f16(uint16_t half) {
    return lanes_set(half_to_float(half));
}
/* The contract's tree over the sixteen lanes. */
static inline float lanes_sum(lanes a) {
    for (int half = 8; half > 0; half /= 2) {
        for (int i = 0; i < half; i++) a.v[i] += a.v[i + half];
    }
    return a.v[0];
}
/* out[i] = lanes_sum(a[i]) */
static inline void lanes_sums(float out[16], const lanes a[16]) {
    for (int i = 0; i < 16; i++) out[i] = lanes_sum(a[i]);
}
static inline float lanes_max_of(lanes a) {
    for (int half = 8; half > 0; half /= 2) {
        for (int i = 0; i < half; i++) a.v[i] = a.v[i] > a.v[i + half] ? a.v[i] : a.v[i + half];
    }
    return a.v[0];
}

/* out[l * stride + i] = in[i][l] */
static inline void lanes_turn(float *out, size_t stride, const float in[16][16]) {
    for (size_t l = 0; l < 16; l++) {
        for (size_t i = 0; i < 16; i++) out[l * stride + i] = in[i][l];
    }
}

#undef FOR_LANES

/* Rows by columns of a register tile; here nothing is gained by more. */
enum { TILE_R = 1, TILE_J = 1, SCORE_J = 1, MIX_R = 1, PACKED_R = 3, PACKED_J = 1 };

#endif
