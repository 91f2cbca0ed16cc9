/* Sixteen floats in one AVX-512 register. As lanes_plain.h. */
#ifndef PL_KERNELS_LANES_AVX512_H
#define PL_KERNELS_LANES_AVX512_H

#include <immintrin.h>
#include <stdint.h>

typedef __m512 lanes;

static inline __mmask16 first_lanes(size_t n) {
    return (__mmask16)((1u << n) - 1);
}
static inline lanes lanes_set(float x) {
    return _mm512_set1_ps(x);
}
static inline lanes lanes_load(const float *p) {
    return _mm512_loadu_ps(p);
}
static inline lanes lanes_load_n(const float *p, size_t n) {
    return _mm512_maskz_loadu_ps(first_lanes(n), p);
}
static inline void lanes_store(float *p, lanes a) {
    _mm512_storeu_ps(p, a);
}
static inline void lanes_store_n(float *p, lanes a, size_t n) {
    _mm512_mask_storeu_ps(p, first_lanes(n), a);
}
static inline lanes lanes_add(lanes a, lanes b) {
    return _mm512_add_ps(a, b);
}
static inline lanes lanes_sub(lanes a, lanes b) {
    return _mm512_sub_ps(a, b);
}
static inline lanes lanes_mul(lanes a, lanes b) {
    return _mm512_mul_ps(a, b);
}
static inline lanes lanes_div(lanes a, lanes b) {
    return _mm512_div_ps(a, b);
}
static inline lanes lanes_fma(lanes a, lanes b, lanes c) {
    return _mm512_fmadd_ps(a, b, c);
}
static inline lanes lanes_max(lanes a, lanes b) {
    return _mm512_max_ps(a, b);
}
static inline lanes lanes_min(lanes a, lanes b) {
    return _mm512_min_ps(a, b);
}
static inline lanes lanes_if_less(lanes test, lanes limit, lanes a, lanes b) {
    return _mm512_mask_blend_ps(_mm512_cmp_ps_mask(test, limit, _CMP_LT_OQ), b, a);
}
static inline lanes lanes_keep_nan(lanes test, lanes a) {
    return _mm512_mask_blend_ps(_mm512_cmp_ps_mask(test, test, _CMP_UNORD_Q), a, test);
}
static inline lanes lanes_abs(lanes a) {
    return _mm512_abs_ps(a);
}
static inline lanes lanes_copy_sign(lanes a, lanes b) {
    return _mm512_or_ps(_mm512_abs_ps(a), _mm512_and_ps(b, _mm512_set1_ps(-0.0f)));
}
static inline lanes lanes_pow2(lanes n) {
    __m512i biased = _mm512_add_epi32(_mm512_cvttps_epi32(n), _mm512_set1_epi32(127));
    return _mm512_castsi512_ps(_mm512_slli_epi32(biased, 23));
}
static inline lanes lanes_load_f16(const uint16_t *p) {
    return _mm512_cvtph_ps(_mm256_loadu_si256((const __m256i *)p));
}
static inline void lanes_store_f16(uint16_t *p, lanes a) {
    _mm256_storeu_si256((__m256i *)p, _mm512_cvtps_ph(a, _MM_FROUND_TO_NEAREST_INT));
}
static inline lanes lanes_load_bf16(const uint16_t *p) {
    __m512i wide = _mm512_cvtepu16_epi32(_mm256_loadu_si256((const __m256i *)p));
    return _mm512_castsi512_ps(_mm512_slli_epi32(wide, 16));
}
/* Sixteen signed bytes. */
static inline lanes lanes_load_i8(const uint8_t *p) {
    return _mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(_mm_loadu_si128((const __m128i *)p)));
}
static inline lanes lanes_magnitude(lanes a, lanes b) {
    const __m512i sign = _mm512_set1_epi32(INT32_MIN);
    __m512i x = _mm512_andnot_si512(sign, _mm512_castps_si512(a));
    __m512i y = _mm512_andnot_si512(sign, _mm512_castps_si512(b));
    return _mm512_castsi512_ps(_mm512_max_epi32(x, y));
}
static inline float lanes_magnitude_of(lanes a) {
    __m512i bits = _mm512_castps_si512(lanes_magnitude(a, a));
    __m256i eight =
        _mm256_max_epi32(_mm512_castsi512_si256(bits), _mm512_extracti64x4_epi64(bits, 1));
    __m128i x = _mm_max_epi32(_mm256_castsi256_si128(eight), _mm256_extracti128_si256(eight, 1));
    x = _mm_max_epi32(x, _mm_shuffle_epi32(x, 0x4e));
    x = _mm_max_epi32(x, _mm_shuffle_epi32(x, 0xb1));
    return _mm_cvtss_f32(_mm_castsi128_ps(x));
}
static inline int lanes_store_i8(int8_t *p, lanes a) {
    __m128i bytes = _mm512_cvtepi32_epi8(_mm512_cvtps_epi32(a));
    _mm_storeu_si128((__m128i *)p, bytes);
    __m128i raised = _mm_xor_si128(bytes, _mm_set1_epi8(-128)); /* by 128 */
    __m128i sums = _mm_sad_epu8(raised, _mm_setzero_si128());
    return _mm_cvtsi128_si32(sums) + _mm_extract_epi32(sums, 2) - 16 * 128;
}
static inline lanes lanes_set_f16(uint16_t half) {
    return _mm512_set1_ps(_cvtsh_ss(half));
}
static inline float lanes_sum(lanes a) {
    __m256 eight = _mm256_add_ps(_mm512_castps512_ps256(a), _mm512_extractf32x8_ps(a, 1));
    __m128 four = _mm_add_ps(_mm256_castps256_ps128(eight), _mm256_extractf128_ps(eight, 1));
    __m128 two = _mm_add_ps(four, _mm_movehl_ps(four, four));
    return _mm_cvtss_f32(_mm_add_ss(two, _mm_movehdup_ps(two)));
}
/* out[i] = lanes_sum(a[i]), by the same additions of several at a time. */
static inline void lanes_sums(float out[16], const lanes a[16]) {
    lanes four[4], two[2];
    for (int i = 0; i < 4; i++) { /* of a[i], a[i + 4], a[i + 8], a[i + 12] */
        lanes eight[2];
        for (int j = 0; j < 2; j++) {
            lanes x = a[i + 8 * j], y = a[i + 8 * j + 4];
            eight[j] =
                _mm512_add_ps(_mm512_shuffle_f32x4(x, y, 0x44), _mm512_shuffle_f32x4(x, y, 0xee));
        }
        four[i] = _mm512_add_ps(_mm512_shuffle_f32x4(eight[0], eight[1], 0x88),
                                _mm512_shuffle_f32x4(eight[0], eight[1], 0xdd));
    }
    for (int i = 0; i < 2; i++) {
        lanes x = four[2 * i], y = four[2 * i + 1];
        two[i] = _mm512_add_ps(_mm512_shuffle_ps(x, y, 0x44), _mm512_shuffle_ps(x, y, 0xee));
    }
    lanes_store(out, _mm512_add_ps(_mm512_shuffle_ps(two[0], two[1], 0x88),
                                   _mm512_shuffle_ps(two[0], two[1], 0xdd)));
}
static inline float lanes_max_of(lanes a) {
    __m256 eight = _mm256_max_ps(_mm512_castps512_ps256(a), _mm512_extractf32x8_ps(a, 1));
    __m128 four = _mm_max_ps(_mm256_castps256_ps128(eight), _mm256_extractf128_ps(eight, 1));
    __m128 two = _mm_max_ps(four, _mm_movehl_ps(four, four));
    return _mm_cvtss_f32(_mm_max_ss(two, _mm_movehdup_ps(two)));
}

/* out[l * stride + i] = in[i][l] */
static inline void lanes_turn(float *out, size_t stride, const float in[16][16]) {
    lanes a[16], b[16];
    for (int i = 0; i < 16; i++) a[i] = lanes_load(in[i]);
    for (int i = 0; i < 16; i += 2) {
        b[i] = _mm512_unpacklo_ps(a[i], a[i + 1]);
        b[i + 1] = _mm512_unpackhi_ps(a[i], a[i + 1]);
    }
    for (int i = 0; i < 16;
         i += 4) { /* a[i + c]: columns c, 4 + c, 8 + c, 12 + c of rows i to i + 3 */
        for (int c = 0; c < 2; c++) {
            __m512d x = _mm512_castps_pd(b[i + c]), y = _mm512_castps_pd(b[i + 2 + c]);
            a[i + 2 * c] = _mm512_castpd_ps(_mm512_unpacklo_pd(x, y));
            a[i + 2 * c + 1] = _mm512_castpd_ps(_mm512_unpackhi_pd(x, y));
        }
    }
    for (int c = 0; c < 4; c++) {
        b[c] = _mm512_shuffle_f32x4(a[c], a[4 + c], 0x88); /* columns c, 8 + c of rows 0 to 7 */
        b[4 + c] = _mm512_shuffle_f32x4(a[c], a[4 + c], 0xdd);
        b[8 + c] = _mm512_shuffle_f32x4(a[8 + c], a[12 + c], 0x88);
        b[12 + c] = _mm512_shuffle_f32x4(a[8 + c], a[12 + c], 0xdd);
    }
    for (size_t c = 0; c < 8; c++) {
        lanes_store(out + c * stride, _mm512_shuffle_f32x4(b[c], b[8 + c], 0x88));
        lanes_store(out + (8 + c) * stride, _mm512_shuffle_f32x4(b[c], b[8 + c], 0xdd));
    }
}

/* 4 x 5 tiles: 20 of 32 registers hold sums, and 9 loads feed 20 multiply-adds. */
enum { TILE_R = 4, TILE_J = 5, SCORE_J = 4, MIX_R = 4, PACKED_R = 12, PACKED_J = 2 };

#endif
