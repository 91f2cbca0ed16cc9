/* Sixteen floats as two AVX registers: lanes 0 to 7 and 8 to 15. As lanes_plain.h. */
#ifndef PL_KERNELS_LANES_AVX2_H
#define PL_KERNELS_LANES_AVX2_H

#include <immintrin.h>
#include <stdint.h>
#include <string.h>

typedef struct lanes {
    __m256 lo, hi;
} lanes;

static inline lanes lanes_set(float x) {
    return (lanes){_mm256_set1_ps(x), _mm256_set1_ps(x)};
}
static inline lanes lanes_load(const float *p) {
    return (lanes){_mm256_loadu_ps(p), _mm256_loadu_ps(p + 8)};
}
static inline lanes lanes_load_n(const float *p, size_t n) {
    float v[16] = {0};
    memcpy(v, p, n * sizeof *p);
    return lanes_load(v);
}
static inline void lanes_store(float *p, lanes a) {
    _mm256_storeu_ps(p, a.lo);
    _mm256_storeu_ps(p + 8, a.hi);
}
static inline void lanes_store_n(float *p, lanes a, size_t n) {
    float v[16];
    lanes_store(v, a);
    memcpy(p, v, n * sizeof *p);
}
static inline lanes lanes_add(lanes a, lanes b) {
    return (lanes){_mm256_add_ps(a.lo, b.lo), _mm256_add_ps(a.hi, b.hi)};
}
static inline lanes lanes_sub(lanes a, lanes b) {
    return (lanes){_mm256_sub_ps(a.lo, b.lo), _mm256_sub_ps(a.hi, b.hi)};
}
static inline lanes lanes_mul(lanes a, lanes b) {
    return (lanes){_mm256_mul_ps(a.lo, b.lo), _mm256_mul_ps(a.hi, b.hi)};
}
static inline lanes lanes_div(lanes a, lanes b) {
    return (lanes){_mm256_div_ps(a.lo, b.lo), _mm256_div_ps(a.hi, b.hi)};
}
static inline lanes lanes_fma(lanes a, lanes b, lanes c) {
    return (lanes){_mm256_fmadd_ps(a.lo, b.lo, c.lo), _mm256_fmadd_ps(a.hi, b.hi, c.hi)};
}
static inline lanes lanes_max(lanes a, lanes b) {
    return (lanes){_mm256_max_ps(a.lo, b.lo), _mm256_max_ps(a.hi, b.hi)};
}
static inline lanes lanes_min(lanes a, lanes b) {
    return (lanes){_mm256_min_ps(a.lo, b.lo), _mm256_min_ps(a.hi, b.hi)};
}
static inline lanes lanes_if_less(lanes test, lanes limit, lanes a, lanes b) {
    return (lanes){_mm256_blendv_ps(b.lo, a.lo, _mm256_cmp_ps(test.lo, limit.lo, _CMP_LT_OQ)),
                   _mm256_blendv_ps(b.hi, a.hi, _mm256_cmp_ps(test.hi, limit.hi, _CMP_LT_OQ))};
}
static inline lanes lanes_keep_nan(lanes test, lanes a) {
    return (lanes){_mm256_blendv_ps(a.lo, test.lo, _mm256_cmp_ps(test.lo, test.lo, _CMP_UNORD_Q)),
                   _mm256_blendv_ps(a.hi, test.hi, _mm256_cmp_ps(test.hi, test.hi, _CMP_UNORD_Q))};
}
static inline lanes lanes_abs(lanes a) {
    __m256 sign = _mm256_set1_ps(-0.0f);
    return (lanes){_mm256_andnot_ps(sign, a.lo), _mm256_andnot_ps(sign, a.hi)};
}
static inline lanes lanes_copy_sign(lanes a, lanes b) {
    __m256 sign = _mm256_set1_ps(-0.0f);
    a = lanes_abs(a);
    return (lanes){_mm256_or_ps(a.lo, _mm256_and_ps(sign, b.lo)),
                   _mm256_or_ps(a.hi, _mm256_and_ps(sign, b.hi))};
}
static inline __m256 pow2_half(__m256 n) {
    __m256i biased = _mm256_add_epi32(_mm256_cvttps_epi32(n), _mm256_set1_epi32(127));
    return _mm256_castsi256_ps(_mm256_slli_epi32(biased, 23));
}
static inline lanes lanes_pow2(lanes n) {
    return (lanes){pow2_half(n.lo), pow2_half(n.hi)};
}
static inline lanes lanes_load_f16(const uint16_t *p) {
    return (lanes){_mm256_cvtph_ps(_mm_loadu_si128((const __m128i *)p)),
                   _mm256_cvtph_ps(_mm_loadu_si128((const __m128i *)(p + 8)))};
}
static inline void lanes_store_f16(uint16_t *p, lanes a) {
    _mm_storeu_si128((__m128i *)p, _mm256_cvtps_ph(a.lo, _MM_FROUND_TO_NEAREST_INT));
    _mm_storeu_si128((__m128i *)(p + 8), _mm256_cvtps_ph(a.hi, _MM_FROUND_TO_NEAREST_INT));
}
static inline __m256 bf16_half(const uint16_t *p) {
    __m256i wide = _mm256_cvtepu16_epi32(_mm_loadu_si128((const __m128i *)p));
    return _mm256_castsi256_ps(_mm256_slli_epi32(wide, 16));
}
static inline lanes lanes_load_bf16(const uint16_t *p) {
    return (lanes){bf16_half(p), bf16_half(p + 8)};
}
static inline lanes lanes_load_i8(const uint8_t *p) {
    return (lanes){
        _mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(_mm_loadl_epi64((const __m128i *)p))),
        _mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(_mm_loadl_epi64((const __m128i *)(p + 8))))};
}
static inline __m256i magnitude_half(__m256 a, __m256 b) {
    const __m256i sign = _mm256_set1_epi32(INT32_MIN);
    __m256i x = _mm256_andnot_si256(sign, _mm256_castps_si256(a));
    return _mm256_max_epi32(x, _mm256_andnot_si256(sign, _mm256_castps_si256(b)));
}
static inline lanes lanes_magnitude(lanes a, lanes b) {
    return (lanes){_mm256_castsi256_ps(magnitude_half(a.lo, b.lo)),
                   _mm256_castsi256_ps(magnitude_half(a.hi, b.hi))};
}
static inline float lanes_magnitude_of(lanes a) {
    __m256i eight = magnitude_half(a.lo, a.hi);
    __m128i x = _mm_max_epi32(_mm256_castsi256_si128(eight), _mm256_extracti128_si256(eight, 1));
    x = _mm_max_epi32(x, _mm_shuffle_epi32(x, 0x4e));
    x = _mm_max_epi32(x, _mm_shuffle_epi32(x, 0xb1));
    return _mm_cvtss_f32(_mm_castsi128_ps(x));
}
static inline int lanes_store_i8(int8_t *p, lanes a) {
    __m256i words = _mm256_packs_epi32(_mm256_cvtps_epi32(a.lo), _mm256_cvtps_epi32(a.hi));
    words = _mm256_permute4x64_epi64(words, 0xd8);
    __m128i bytes =
        _mm_packs_epi16(_mm256_castsi256_si128(words), _mm256_extracti128_si256(words, 1));
    _mm_storeu_si128((__m128i *)p, bytes);
    __m128i raised = _mm_xor_si128(bytes, _mm_set1_epi8(-128)); /* by 128 */
    __m128i sums = _mm_sad_epu8(raised, _mm_setzero_si128());
    return _mm_cvtsi128_si32(sums) + _mm_extract_epi32(sums, 2) - 16 * 128;
}
static inline lanes lanes_set_f16(uint16_t half) {
    return lanes_set(_cvtsh_ss(half));
}
static inline float lanes_sum(lanes a) {
    __m256 eight = _mm256_add_ps(a.lo, a.hi);
    __m128 four = _mm_add_ps(_mm256_castps256_ps128(eight), _mm256_extractf128_ps(eight, 1));
    __m128 two = _mm_add_ps(four, _mm_movehl_ps(four, four));
    return _mm_cvtss_f32(_mm_add_ss(two, _mm_movehdup_ps(two)));
}
/* out[i] = lanes_sum(a[i]) */
static inline void lanes_sums(float out[16], const lanes a[16]) {
    __m256 two[2]; /* of a[i] to a[i + 3] and a[i + 8] to a[i + 11] in either half */
    for (int i = 0; i < 2; i++) {
        __m256 pair[4];
        for (int j = 0; j < 4; j++) { /* four sums of a[b] and four of a[b + 8] */
            int b = 4 * i + j;
            __m256 low = _mm256_add_ps(a[b].lo, a[b].hi);
            __m256 high = _mm256_add_ps(a[b + 8].lo, a[b + 8].hi);
            pair[j] = _mm256_add_ps(_mm256_permute2f128_ps(low, high, 0x20),
                                    _mm256_permute2f128_ps(low, high, 0x31));
        }
        for (int j = 0; j < 4; j += 2) { /* two of each of four */
            pair[j] = _mm256_add_ps(_mm256_shuffle_ps(pair[j], pair[j + 1], 0x44),
                                    _mm256_shuffle_ps(pair[j], pair[j + 1], 0xee));
        }
        two[i] = _mm256_add_ps(_mm256_shuffle_ps(pair[0], pair[2], 0x88),
                               _mm256_shuffle_ps(pair[0], pair[2], 0xdd));
    }
    _mm256_storeu_ps(out, _mm256_permute2f128_ps(two[0], two[1], 0x20));
    _mm256_storeu_ps(out + 8, _mm256_permute2f128_ps(two[0], two[1], 0x31));
}
static inline float lanes_max_of(lanes a) {
    __m256 eight = _mm256_max_ps(a.lo, a.hi);
    __m128 four = _mm_max_ps(_mm256_castps256_ps128(eight), _mm256_extractf128_ps(eight, 1));
    __m128 two = _mm_max_ps(four, _mm_movehl_ps(four, four));
    return _mm_cvtss_f32(_mm_max_ss(two, _mm_movehdup_ps(two)));
}

/* Rows of four, each of four rows in either half, become columns. */
static inline void turn4(__m256 a[4]) {
    __m256 b[4] = {_mm256_unpacklo_ps(a[0], a[1]), _mm256_unpackhi_ps(a[0], a[1]),
                   _mm256_unpacklo_ps(a[2], a[3]), _mm256_unpackhi_ps(a[2], a[3])};
    a[0] = _mm256_shuffle_ps(b[0], b[2], 0x44), a[1] = _mm256_shuffle_ps(b[0], b[2], 0xee);
    a[2] = _mm256_shuffle_ps(b[1], b[3], 0x44), a[3] = _mm256_shuffle_ps(b[1], b[3], 0xee);
}
/* out[l * stride + i] = in[i][l] */
static inline void lanes_turn(float *out, size_t stride, const float in[16][16]) {
    for (size_t i = 0; i < 16; i += 8) {
        for (size_t l = 0; l < 16; l += 4) {
            __m256 a[4];
            for (size_t r = 0; r < 4; r++) {
                __m256 low = _mm256_castps128_ps256(_mm_loadu_ps(in[i + r] + l));
                a[r] = _mm256_insertf128_ps(low, _mm_loadu_ps(in[i + r + 4] + l), 1);
            }
            turn4(a);
            for (size_t r = 0; r < 4; r++) _mm256_storeu_ps(out + (l + r) * stride + i, a[r]);
        }
    }
}

/* 2 x 3 tiles: 12 of 16 registers hold sums. */
enum { TILE_R = 2, TILE_J = 3, SCORE_J = 3, MIX_R = 1, PACKED_R = 6, PACKED_J = 1 };

#endif
