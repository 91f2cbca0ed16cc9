/* Sixteen floats as four NEON registers: lanes 0 to 3, 4 to 7, 8 to 11, 12 to 15. As lanes_plain.h.
 */
#ifndef PL_KERNELS_LANES_NEON_H
#define PL_KERNELS_LANES_NEON_H

#include <arm_neon.h>
#include <stdint.h>
#include <string.h>

typedef struct lanes {
    float32x4_t v[4];
} lanes;

#define FOR_PARTS for (int i = 0; i < 4; i++)

static inline lanes lanes_set(float x) {
    lanes r;
    FOR_PARTS r.v[i] = vdupq_n_f32(x);
    return r;
}
static inline lanes lanes_load(const float *p) {
    lanes r;
    FOR_PARTS r.v[i] = vld1q_f32(p + 4 * i);
    return r;
}
static inline lanes lanes_load_n(const float *p, size_t n) {
    float v[16] = {0};
    memcpy(v, p, n * sizeof *p);
    return lanes_load(v);
}
static inline void lanes_store(float *p, lanes a) {
    FOR_PARTS vst1q_f32(p + 4 * i, a.v[i]);
}
static inline void lanes_store_n(float *p, lanes a, size_t n) {
    float v[16];
    lanes_store(v, a);
    memcpy(p, v, n * sizeof *p);
}
static inline lanes lanes_add(lanes a, lanes b) {
    FOR_PARTS a.v[i] = vaddq_f32(a.v[i], b.v[i]);
    return a;
}
static inline lanes lanes_sub(lanes a, lanes b) {
    FOR_PARTS a.v[i] = vsubq_f32(a.v[i], b.v[i]);
    return a;
}
static inline lanes lanes_mul(lanes a, lanes b) {
    FOR_PARTS a.v[i] = vmulq_f32(a.v[i], b.v[i]);
    return a;
}
static inline lanes lanes_div(lanes a, lanes b) {
    FOR_PARTS a.v[i] = vdivq_f32(a.v[i], b.v[i]);
    return a;
}
static inline lanes lanes_fma(lanes a, lanes b, lanes c) {
    FOR_PARTS c.v[i] = vfmaq_f32(c.v[i], a.v[i], b.v[i]);
    return c;
}
/* Of two numbers that cannot be compared the second, as on the other processors. */
static inline lanes lanes_max(lanes a, lanes b) {
    FOR_PARTS a.v[i] = vbslq_f32(vcgtq_f32(a.v[i], b.v[i]), a.v[i], b.v[i]);
    return a;
}
static inline lanes lanes_min(lanes a, lanes b) {
    FOR_PARTS a.v[i] = vbslq_f32(vcltq_f32(a.v[i], b.v[i]), a.v[i], b.v[i]);
    return a;
}
static inline lanes lanes_if_less(lanes test, lanes limit, lanes a, lanes b) {
    FOR_PARTS a.v[i] = vbslq_f32(vcltq_f32(test.v[i], limit.v[i]), a.v[i], b.v[i]);
    return a;
}
static inline lanes lanes_keep_nan(lanes test, lanes a) {
    FOR_PARTS a.v[i] = vbslq_f32(vceqq_f32(test.v[i], test.v[i]), a.v[i], test.v[i]);
    return a;
}
static inline lanes lanes_abs(lanes a) {
    FOR_PARTS a.v[i] = vabsq_f32(a.v[i]);
    return a;
}
static inline lanes lanes_copy_sign(lanes a, lanes b) {
    const uint32x4_t sign = vdupq_n_u32(0x80000000u);
    FOR_PARTS a.v[i] = vbslq_f32(sign, b.v[i], a.v[i]);
    return a;
}
static inline lanes lanes_pow2(lanes n) {
    FOR_PARTS {
        int32x4_t biased = vaddq_s32(vcvtq_s32_f32(n.v[i]), vdupq_n_s32(127));
        n.v[i] = vreinterpretq_f32_s32(vshlq_n_s32(biased, 23));
    }
    return n;
}
static inline lanes lanes_load_f16(const uint16_t *p) {
    lanes r;
    FOR_PARTS r.v[i] = vcvt_f32_f16(vreinterpret_f16_u16(vld1_u16(p + 4 * i)));
    return r;
}
static inline void lanes_store_f16(uint16_t *p, lanes a) {
    FOR_PARTS vst1_u16(p + 4 * i, vreinterpret_u16_f16(vcvt_f16_f32(a.v[i])));
}
static inline lanes lanes_load_bf16(const uint16_t *p) {
    lanes r;
    FOR_PARTS r.v[i] = vreinterpretq_f32_u32(vshll_n_u16(vld1_u16(p + 4 * i), 16));
    return r;
}
static inline lanes lanes_load_i8(const uint8_t *p) {
    int8x16_t bytes = vreinterpretq_s8_u8(vld1q_u8(p));
    int16x8_t low = vmovl_s8(vget_low_s8(bytes)), high = vmovl_s8(vget_high_s8(bytes));
    return (lanes){{vcvtq_f32_s32(vmovl_s16(vget_low_s16(low))),
                    vcvtq_f32_s32(vmovl_s16(vget_high_s16(low))),
                    vcvtq_f32_s32(vmovl_s16(vget_low_s16(high))),
                    vcvtq_f32_s32(vmovl_s16(vget_high_s16(high)))}};
}
static inline lanes lanes_magnitude(lanes a, lanes b) {
    FOR_PARTS {
        uint32x4_t x = vreinterpretq_u32_f32(vabsq_f32(a.v[i]));
        uint32x4_t y = vreinterpretq_u32_f32(vabsq_f32(b.v[i]));
        a.v[i] = vreinterpretq_f32_u32(vmaxq_u32(x, y));
    }
    return a;
}
static inline float lanes_magnitude_of(lanes a) {
    a = lanes_magnitude(a, a);
    lanes low = {{a.v[0], a.v[1]}}, high = {{a.v[2], a.v[3]}};
    low = lanes_magnitude(low, high);
    uint32x4_t four = vmaxq_u32(vreinterpretq_u32_f32(low.v[0]), vreinterpretq_u32_f32(low.v[1]));
    return vgetq_lane_f32(vreinterpretq_f32_u32(vdupq_n_u32(vmaxvq_u32(four))), 0);
}
static inline int lanes_store_i8(int8_t *p, lanes a) {
    int16x8_t low =
        vcombine_s16(vmovn_s32(vcvtnq_s32_f32(a.v[0])), vmovn_s32(vcvtnq_s32_f32(a.v[1])));
    int16x8_t high =
        vcombine_s16(vmovn_s32(vcvtnq_s32_f32(a.v[2])), vmovn_s32(vcvtnq_s32_f32(a.v[3])));
    int8x16_t bytes = vcombine_s8(vmovn_s16(low), vmovn_s16(high));
    vst1q_s8(p, bytes);
    return vaddlvq_s8(bytes);
}
static inline lanes lanes_set_f16(uint16_t half) {
    lanes r;
    FOR_PARTS r.v[i] = vcvt_f32_f16(vreinterpret_f16_u16(vdup_n_u16(half)));
    return r;
}
static inline float lanes_sum(lanes a) {
    float32x4_t even = vaddq_f32(a.v[0], a.v[2]), odd = vaddq_f32(a.v[1], a.v[3]);
    float32x4_t four = vaddq_f32(even, odd);
    float32x2_t two = vadd_f32(vget_low_f32(four), vget_high_f32(four));
    return vget_lane_f32(two, 0) + vget_lane_f32(two, 1);
}
/* out[i] = lanes_sum(a[i]) */
static inline void lanes_sums(float out[16], const lanes a[16]) {
    for (int i = 0; i < 16; i++) out[i] = lanes_sum(a[i]);
}
static inline float lanes_max_of(lanes a) {
    float v[16], most;
    lanes_store(v, a);
    most = v[0];
    for (int i = 1; i < 16; i++) most = most > v[i] ? most : v[i];
    return most;
}

/* out[l * stride + i] = in[i][l] */
static inline void lanes_turn(float *out, size_t stride, const float in[16][16]) {
    for (size_t l = 0; l < 16; l++) {
        for (size_t i = 0; i < 16; i++) out[l * stride + i] = in[i][l];
    }
}

#undef FOR_PARTS

/* 2 x 2 tiles: 16 of 32 registers hold sums. */
enum { TILE_R = 2, TILE_J = 2, SCORE_J = 2, MIX_R = 1, PACKED_R = 6, PACKED_J = 1 };

#endif
