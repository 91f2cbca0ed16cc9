/* Kernels: against float64, and every instruction set against plain C bit for bit. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <math.h>
#include <float.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>

#include "../../engine/base/random.h"
#include "../../engine/kernels/blocks.h"
#include "../../engine/kernels/kernels.h"
#include "../../engine/kernels/tables.h"

static const size_t lengths[] = {0, 1, 2, 7, 15, 16, 17, 31, 33, 48, 64, 70, 255, 257, 1000};
enum { N_LENGTHS = sizeof lengths / sizeof *lengths, MOST = 1024 };

/* Kinds of data: ordinary, spread over many magnitudes, denormals and zeros, with infinities. */
enum { N_KINDS = 4 };

static void fill(float *x, size_t n, int kind, uint64_t seed) {
    pl_random random = {.seed = seed, .stream = (uint64_t)kind};
    for (size_t i = 0; i < n; i++) {
        float z = pl_random_normal(&random);
        uint32_t pick = pl_random_u32(&random);
        if (kind == 1) z = ldexpf(z, (int)(pick % 60) - 30);
        if (kind == 2) z = pick % 3 == 0 ? 0.0f : pick % 3 == 1 ? -0.0f : z * 1e-39f;
        if (kind == 3 && pick % 37 == 0) z = pick % 2 ? INFINITY : -INFINITY;
        x[i] = z;
    }
}

/* The same bits, any NaN being equal to any other. */
static void assert_same(const float *a, const float *b, size_t n, const char *what, size_t length) {
    for (size_t i = 0; i < n; i++) {
        if (isnan(a[i]) && isnan(b[i])) continue;
        if (memcmp(&a[i], &b[i], sizeof *a) == 0) continue;
        fail_msg("%s, length %zu, element %zu: %a and %a", what, length, i, (double)a[i],
                 (double)b[i]);
    }
}

typedef void (*with_table)(const pl_kernels *plain, const pl_kernels *k);

static void for_each_isa(with_table run) {
    const pl_kernels *plain = pl_kernels_for(PL_ISA_PLAIN);
    for (int isa = 0; isa < PL_N_ISAS; isa++) {
        const pl_kernels *k = pl_kernels_for((pl_isa)isa);
        if (k) run(plain, k);
    }
#if defined(__x86_64__)
    if (pl_cpu_has_vnni()) run(plain, pl_kernels_avx512()); /* what processors without it use */
    if (pl_cpu_has_amx()) run(plain, pl_kernels_vnni());
#endif
}

static float a[MOST], b[MOST], c[MOST], out[MOST], want[MOST];

static void check_rows(const pl_kernels *plain, const pl_kernels *k) {
    for (int kind = 0; kind < N_KINDS; kind++) {
        for (int l = 0; l < N_LENGTHS; l++) {
            size_t n = lengths[l];
            fill(a, n, kind, 1), fill(b, n, kind, 2), fill(c, n, kind, 3);
            float x = k->sum(a, n), y = plain->sum(a, n);
            assert_same(&x, &y, 1, "sum", n);
            x = k->dot(a, b, n), y = plain->dot(a, b, n);
            assert_same(&x, &y, 1, "dot", n);
            x = k->max(a, n), y = plain->max(a, n);
            assert_same(&x, &y, 1, "max", n);
            k->add(out, a, b, n), plain->add(want, a, b, n);
            assert_same(out, want, n, "add", n);
            k->mul(out, a, b, n), plain->mul(want, a, b, n);
            assert_same(out, want, n, "mul", n);
            k->scale(out, a, 1.7f, n), plain->scale(want, a, 1.7f, n);
            assert_same(out, want, n, "scale", n);
            memcpy(out, c, sizeof c), memcpy(want, c, sizeof c);
            k->axpy(out, a, -0.3f, n), plain->axpy(want, a, -0.3f, n);
            assert_same(out, want, n, "axpy", n);
            k->exp(out, a, n), plain->exp(want, a, n);
            assert_same(out, want, n, "exp", n);
            k->softmax(out, a, n), plain->softmax(want, a, n);
            assert_same(out, want, n, "softmax", n);
            for (int f = 0; f < PL_N_ACTIVATIONS; f++) {
                k->activate[f](out, a, n), plain->activate[f](want, a, n);
                assert_same(out, want, n, "activation", n);
            }
        }
    }
}

static void test_rows_are_alike_on_every_isa(void **state) {
    (void)state;
    for_each_isa(check_rows);
}

static void check_norms(const pl_kernels *plain, const pl_kernels *k) {
    for (int kind = 0; kind < N_KINDS; kind++) {
        for (int l = 1; l < N_LENGTHS; l++) {
            size_t n = lengths[l];
            float stats[4];
            fill(a, n, kind, 1), fill(b, n, 0, 2), fill(c, n, 0, 3);
            k->layer_norm_stats(&stats[0], &stats[1], a, n, 1e-5f);
            plain->layer_norm_stats(&stats[2], &stats[3], a, n, 1e-5f);
            assert_same(stats, stats + 2, 2, "layer_norm_stats", n);
            k->rms_norm_stats(&stats[0], &stats[1], a, n, 1e-5f);
            plain->rms_norm_stats(&stats[2], &stats[3], a, n, 1e-5f);
            assert_same(stats, stats + 2, 2, "rms_norm_stats", n);
            for (int with = 0; with < 4; with++) {
                const float *gain = with & 1 ? b : NULL, *bias = with & 2 ? c : NULL;
                k->normalize(out, a, 0.1f, 1.3f, gain, bias, n);
                plain->normalize(want, a, 0.1f, 1.3f, gain, bias, n);
                assert_same(out, want, n, "normalize", n);
            }
            for (int half = 0; half < 2; half++) {
                memcpy(out, a, sizeof a), memcpy(want, a, sizeof a);
                k->rotate(out, b, c, n / 2, half), plain->rotate(want, b, c, n / 2, half);
                assert_same(out, want, n, "rotate", n);
            }
        }
    }
}

static void test_norms_are_alike_on_every_isa(void **state) {
    (void)state;
    for_each_isa(check_norms);
}

/* More rows and columns than any tile has, and columns of three stretches. */
enum { MANY_ROWS = 131, COLUMNS = 41, WIDTH = 1590 };

static void check_tiles_of(int kind, const pl_kernels *plain, const pl_kernels *k) {
    static const pl_dtype types[] = {PL_F32, PL_F16, PL_BF16};
    static const size_t widths[] = {1, 2, 15, 16, 17, 33, 70, 257, 769, WIDTH};
    static float w[COLUMNS * WIDTH], x[MANY_ROWS * WIDTH], got[MANY_ROWS * COLUMNS],
        ref[MANY_ROWS * COLUMNS];
    static float flat[COLUMNS * WIDTH], turned[COLUMNS * WIDTH];
    static char packed[COLUMNS * WIDTH * 4], packed_turned[COLUMNS * WIDTH * 4];
    fill(w, COLUMNS * WIDTH, kind, 5), fill(x, MANY_ROWS * WIDTH, kind, 6);
    for (int t = 0; t < 3; t++) {
        size_t bytes = pl_dtype_get(types[t])->block_bytes;
        for (size_t l = 0; l < sizeof widths / sizeof *widths; l++) {
            size_t n = widths[l];
            k->from_f32[types[t]](packed, w, COLUMNS * n);
            k->to_f32[types[t]](flat, packed, COLUMNS * n);
            for (size_t j = 0; j < COLUMNS; j++) {
                for (size_t i = 0; i < n; i++) turned[i * COLUMNS + j] = flat[j * n + i];
            }
            k->from_f32[types[t]](packed_turned, turned, COLUMNS * n);
            void (*run)(float *, size_t, const void *, size_t, size_t, const float *, size_t,
                        size_t, size_t) = t == 0   ? k->tile_f32
                                          : t == 1 ? k->tile_f16
                                                   : k->tile_bf16;
            run(got, COLUMNS, packed, n * bytes, COLUMNS, x, n, MANY_ROWS, n);
            plain->tile_f32(ref, COLUMNS, flat, n * sizeof *flat, COLUMNS, x, n, MANY_ROWS, n);
            assert_same(got, ref, MANY_ROWS * COLUMNS, "tile", n);
            for (size_t r = 0; r < MANY_ROWS; r++) { /* one row alone, and against float64 */
                float alone[COLUMNS];
                run(alone, COLUMNS, packed, n * bytes, COLUMNS, x + r * n, n, 1, n);
                assert_same(alone, ref + r * COLUMNS, COLUMNS, "one row", n);
                for (size_t j = 0; kind == 0 && j < COLUMNS; j++) {
                    double sum = 0, size = 0;
                    for (size_t i = 0; i < n; i++) {
                        sum += (double)flat[j * n + i] * (double)x[r * n + i];
                        size += fabs((double)flat[j * n + i] * (double)x[r * n + i]);
                    }
                    assert_true(fabs(sum - (double)ref[r * COLUMNS + j]) <= 1e-6 * size);
                }
            }
            for (size_t n_rows = 1; n_rows <= MANY_ROWS; n_rows += MANY_ROWS - 1) {
                memset(got, 0, sizeof got);
                k->tile_transposed(types[t], got, COLUMNS, packed_turned, COLUMNS * bytes, COLUMNS,
                                   x, n, n_rows, n);
                assert_same(got, ref, n_rows * COLUMNS, "transposed tile", n);
            }
        }
    }
}

static void check_tiles(const pl_kernels *plain, const pl_kernels *k) {
    for (int kind = 0; kind < N_KINDS; kind++) check_tiles_of(kind, plain, k);
}

/* More columns of a transposed matrix than are summed at a time. */
static void check_wide(const pl_kernels *plain, const pl_kernels *k) {
    enum { N_OUT = 600, N_IN = 37 };
    static float w[N_IN * N_OUT], x[2 * N_IN], flat[N_OUT * N_IN], got[2 * N_OUT], ref[2 * N_OUT];
    static uint16_t half[N_IN * N_OUT];
    fill(w, N_IN * N_OUT, 0, 15), fill(x, 2 * N_IN, 0, 16);
    k->from_f32[PL_F16](half, w, N_IN * N_OUT);
    k->to_f32[PL_F16](w, half, N_IN * N_OUT);
    for (size_t i = 0; i < N_IN * N_OUT; i++) flat[i % N_OUT * N_IN + i / N_OUT] = w[i];
    plain->tile_f32(ref, N_OUT, flat, N_IN * sizeof *flat, N_OUT, x, N_IN, 2, N_IN);
    k->tile_transposed(PL_F16, got, N_OUT, half, N_OUT * sizeof *half, N_OUT, x, N_IN, 2, N_IN);
    assert_same(got, ref, (size_t)2 * N_OUT, "wide transposed tile", N_OUT);
}

/* Products that round to -0, whose sum is -0 only where no lane was padded with zeros. */
static void check_vanishing_products(const pl_kernels *plain, const pl_kernels *k) {
    enum { N = 17 };
    static float w[COLUMNS * N], x[MANY_ROWS * N], got[MANY_ROWS * COLUMNS], ref[COLUMNS];
    for (size_t i = 0; i < COLUMNS * N; i++) w[i] = 1e-30f;
    for (size_t i = 0; i < MANY_ROWS * N; i++) x[i] = -1e-30f;
    for (size_t n = N - 1; n <= N; n++) {
        plain->tile_f32(ref, COLUMNS, w, n * sizeof *w, COLUMNS, x, n, 1, n);
        assert_true(ref[0] == 0 && !signbit(ref[0]) == (n == N));
        k->tile_f32(got, COLUMNS, w, n * sizeof *w, COLUMNS, x, n, MANY_ROWS, n);
        for (size_t r = 0; r < MANY_ROWS; r++) {
            assert_same(got + r * COLUMNS, ref, COLUMNS, "vanishing products", n);
        }
    }
}

static void test_tiles_sum_in_one_order(void **state) {
    (void)state;
    for_each_isa(check_tiles);
    for_each_isa(check_vanishing_products);
    for_each_isa(check_wide);
}

/* Random bytes are valid blocks as long as the half-precision factors are finite. */
static void random_block(uint8_t *block, pl_dtype dtype, pl_random *random) {
    static const struct {
        pl_dtype dtype;
        int at[2];
    } factors[] = {{PL_Q4_0, {0, -1}}, {PL_Q4_1, {0, 2}},   {PL_Q5_0, {0, -1}},   {PL_Q5_1, {0, 2}},
                   {PL_Q8_0, {0, -1}}, {PL_Q2_K, {80, 82}}, {PL_Q3_K, {108, -1}}, {PL_Q4_K, {0, 2}},
                   {PL_Q5_K, {0, 2}},  {PL_Q6_K, {208, -1}}};
    size_t bytes = pl_dtype_get(dtype)->block_bytes;
    for (size_t i = 0; i < bytes; i++) block[i] = (uint8_t)pl_random_u32(random);
    for (size_t i = 0; i < sizeof factors / sizeof *factors; i++) {
        for (int f = 0; f < 2 && factors[i].dtype == dtype; f++) {
            uint16_t half = float_to_half(pl_random_normal(random) * 0.01f);
            if (factors[i].at[f] >= 0) memcpy(block + factors[i].at[f], &half, 2);
        }
    }
}

/* Rounding to int8, element by element as the contract says it. */
static void check_rounding(const pl_kernels *plain, const pl_kernels *k) {
    (void)plain;
    enum { N = 256 };
    static const float odd[] = {0,     -0.0f, 1e-45f, 3e-39f,   -FLT_MIN, 0.5f,
                                -1.5f, 2.5f,  126.5f, -FLT_MAX, INFINITY, NAN};
    _Alignas(4) char rounded[sizeof(pl_activations256)];
    float x[N];
    pl_random random = {.seed = 21};
    for (size_t i = 0; i < 8 * sizeof odd / sizeof *odd; i++) {
        float size = i % 8 < 4 ? powf(10, 3 * (float)(i % 8)) : powf(10, -11 * (float)(i % 8 - 3));
        for (int j = 0; j < N; j++) x[j] = i % 8 ? size * pl_random_normal(&random) : 0;
        x[i % N] = odd[i / 8];
        float largest = 0;
        for (int j = 0; j < N; j++) {
            largest = fabsf(x[j]) > largest || isnan(x[j]) ? fabsf(x[j]) : largest;
        }
        k->round_activations[PL_Q4_K](rounded, x, N);
        pl_activations256 got;
        memcpy(&got, rounded, sizeof got);
        bool zero = largest == 0 || 127 / largest > FLT_MAX;
        if (!(largest <= FLT_MAX)) {
            assert_true(isnan(got.d));
            continue;
        }
        assert_true(got.d == (zero ? 0 : largest / 127));
        for (int j = 0, sum = 0; j < N; j++) {
            float scaled = zero ? 0 : x[j] * (127 / largest);
            assert_int_equal(got.q[j], (int)nearbyintf(scaled));
            sum = (j % 16 ? sum : 0) + got.q[j];
            if (j % 16 == 15) assert_int_equal(got.sums[j / 16], sum);
        }
    }
}

static void check_quantised(const pl_kernels *plain, const pl_kernels *k) {
    enum { ROWS = 67, BLOCKS = 3, OUT = 37, IN = 256 * BLOCKS };
    static uint8_t w[OUT * BLOCKS * 8 * 40];
    static float got[ROWS * OUT], ref[ROWS * OUT], alone[OUT];
    static _Alignas(4) char rounded[ROWS * IN * 2], rounded_plain[ROWS * IN * 2];
    static float x[ROWS * IN], wide[OUT * IN], wide_plain[OUT * IN];
    pl_random random = {.seed = 9};
    for (int dtype = PL_Q4_0; dtype < PL_N_DTYPES; dtype++) {
        const pl_dtype_info *info = pl_dtype_get((pl_dtype)dtype);
        size_t row_bytes = IN / info->block_elements * info->block_bytes;
        for (size_t at = 0; at < OUT * row_bytes; at += info->block_bytes) {
            random_block(w + at, (pl_dtype)dtype, &random);
        }
        fill(x, ROWS * IN, dtype % 2, 11);
        memset(x + 3 * IN, 0, IN * sizeof *x);
        x[5 * IN + 7] = NAN;
        size_t act_bytes = pl_activation_row_bytes((pl_dtype)dtype, IN);
        for (size_t r = 0; r < ROWS; r++) {
            k->round_activations[dtype](rounded + r * act_bytes, x + r * IN, IN);
            plain->round_activations[dtype](rounded_plain + r * act_bytes, x + r * IN, IN);
        }
        for (size_t j = 0; j < OUT; j++) {
            k->to_f32[dtype](wide + j * IN, w + j * row_bytes, IN);
            plain->to_f32[dtype](wide_plain + j * IN, w + j * row_bytes, IN);
        }
        assert_same(wide, wide_plain, OUT * IN, info->name, IN);
        k->tile_quantised[dtype](got, OUT, w, row_bytes, OUT, rounded, act_bytes, ROWS, IN);
        plain->tile_quantised[dtype](ref, OUT, w, row_bytes, OUT, rounded_plain, act_bytes, ROWS,
                                     IN);
        assert_same(got, ref, ROWS * OUT, info->name, IN);
        for (size_t r = 0; r < ROWS; r++) {
            k->tile_quantised[dtype](alone, OUT, w, row_bytes, OUT, rounded + r * act_bytes,
                                     act_bytes, 1, IN);
            assert_same(alone, ref + r * OUT, OUT, info->name, 1);
            for (size_t j = 0; j < OUT; j++) {
                double sum = 0, size = 0;
                for (size_t i = 0; i < IN; i++) {
                    sum += (double)wide[j * IN + i] * (double)x[r * IN + i];
                    size += fabs((double)wide[j * IN + i]);
                }
                float most = 0; /* rounding is worth half of 1/127 of a block's largest */
                for (size_t i = 0; i < IN; i++) most = fmaxf(most, fabsf(x[r * IN + i]));
                if (r == 5)
                    assert_true(isnan(got[r * OUT + j]));
                else
                    assert_true(fabs(sum - (double)got[r * OUT + j]) <= size * (double)most / 250);
                if (r == 3) assert_true(got[r * OUT + j] == 0);
            }
        }
        for (size_t n = info->block_elements; n < IN; n += 96) { /* any number of blocks */
            if (n % info->block_elements) continue;
            k->tile_quantised[dtype](got, OUT, w, row_bytes, OUT, rounded, act_bytes, ROWS, n);
            plain->tile_quantised[dtype](ref, OUT, w, row_bytes, OUT, rounded, act_bytes, ROWS, n);
            assert_same(got, ref, ROWS * OUT, info->name, n);
            k->tile_quantised[dtype](alone, OUT, w, row_bytes, OUT, rounded, act_bytes, 1, n);
            assert_same(alone, ref, OUT, info->name, n);
        }
        plain->tile_quantised[dtype](ref, OUT, w, row_bytes, OUT, rounded, act_bytes, ROWS, IN);
        for (size_t n = 0; n <= ROWS; n++) { /* any number of rows */
            memset(got, 0, sizeof got);
            k->tile_quantised[dtype](got, OUT, w, row_bytes, OUT, rounded, act_bytes, n, IN);
            assert_same(got, ref, n * OUT, info->name, n);
            assert_true(n == ROWS || got[n * OUT] == 0);
        }
        for (size_t n = 0; n <= OUT; n += 3) { /* any number of columns; no elements: zeros */
            memset(got, 0, sizeof got);
            k->tile_quantised[dtype](got, OUT, w, row_bytes, n, rounded, act_bytes, 2, IN);
            assert_same(got, ref, n, info->name, n);
            assert_same(got + OUT, ref + OUT, n, info->name, n);
            assert_true(n == OUT || (got[n] == 0 && got[OUT + n] == 0));
            memset(alone, 1, sizeof alone);
            k->tile_quantised[dtype](alone, OUT, w, 0, n, rounded, 0, 1, 0);
            for (size_t j = 0; j < n; j++) assert_true(alone[j] == 0);
        }
    }
}

static void test_quantised_tiles_are_alike_and_near(void **state) {
    (void)state;
    for_each_isa(check_quantised);
}

static void check_attention(const pl_kernels *plain, const pl_kernels *k) {
    enum { KEYS = 64, D = 100 };
    static float page[KEYS * D], wide[KEYS * D], q[D], pattern[KEYS];
    static uint16_t packed[KEYS * D];
    fill(page, KEYS * D, 0, 1), fill(q, D, 0, 2), fill(pattern, KEYS, 0, 3);
    k->from_f32[PL_F16](packed, page, KEYS * D);
    for (size_t d = 1; d <= D; d += 11) {
        for (size_t n = 0; n <= KEYS; n += 7) {
            for (int half = 0; half < 2; half++) {
                const void *rows = half ? (const void *)packed : (const void *)page;
                pl_dtype dtype = half ? PL_F16 : PL_F32;
                size_t row_bytes = D * (half ? 2 : 4);
                k->to_f32[dtype](wide, rows, KEYS * D);
                k->attention_scores(out, 0, q, 0, 1, rows, dtype, row_bytes, n, d, 0.125f, NULL);
                plain->attention_scores(want, 0, q, 0, 1, rows, dtype, row_bytes, n, d, 0.125f,
                                        NULL);
                assert_same(out, want, n, "attention_scores", d);
                for (size_t p = 0; p < n; p++) {
                    double exact = 0;
                    for (size_t i = 0; i < d; i++) exact += (double)q[i] * (double)wide[p * D + i];
                    assert_true(fabs(out[p] - 0.125 * exact) < 1e-6 * (double)d);
                }
                fill(out, d, 0, 4), memcpy(want, out, sizeof out);
                k->attention_mix(out, 0, pattern, 0, 1, rows, dtype, row_bytes, &n, d, NULL);
                plain->attention_mix(want, 0, pattern, 0, 1, rows, dtype, row_bytes, &n, d, NULL);
                assert_same(out, want, d, "attention_mix", d);
            }
        }
    }
}

/* Several queries at once, of which later ones see more keys, give what each gives alone. */
static void check_attention_rows(const pl_kernels *plain, const pl_kernels *k) {
    enum { KEYS = 37, D = 100, QUERIES = 7 };
    static float page[KEYS * D], q[QUERIES * D], pattern[QUERIES * KEYS];
    static uint16_t packed[KEYS * D];
    (void)plain;
    fill(page, KEYS * D, 0, 1), fill(q, QUERIES * D, 0, 2), fill(pattern, QUERIES * KEYS, 0, 3);
    k->from_f32[PL_F16](packed, page, KEYS * D);
    packed[(KEYS - 1) * D] = 0x7c00; /* infinity, for those who see it */
    for (size_t d = 1; d <= D; d += 11) {
        for (size_t rows = 1; rows <= QUERIES; rows++) {
            size_t n_keys[QUERIES], row_bytes = D * sizeof *packed;
            for (size_t r = 0; r < rows; r++) n_keys[r] = KEYS - rows + 1 + r - (r == 0 ? 5 : 0);
            k->attention_scores(out, KEYS, q, D, rows, packed, PL_F16, row_bytes, KEYS, d, 0.125f,
                                NULL);
            for (size_t r = 0; r < rows; r++) {
                k->attention_scores(want, 0, q + r * D, 0, 1, packed, PL_F16, row_bytes, KEYS, d,
                                    0.125f, NULL);
                assert_same(out + r * KEYS, want, KEYS, "attention_scores of rows", d);
            }
            fill(out, QUERIES * D, 0, 4), memcpy(want, out, sizeof out);
            k->attention_mix(out, D, pattern, KEYS, rows, packed, PL_F16, row_bytes, n_keys, d,
                             NULL);
            for (size_t r = 0; r < rows; r++) {
                k->attention_mix(want + r * D, 0, pattern + r * KEYS, 0, 1, packed, PL_F16,
                                 row_bytes, &n_keys[r], d, NULL);
            }
            assert_same(out, want, QUERIES * D, "attention_mix of rows", d);
        }
    }
}

/* Eight-bit keys and values: alike, and what their widened numbers give. */
static void check_attention_q8_0(const pl_kernels *plain, const pl_kernels *k) {
    enum { KEYS = 45, D = 96, BYTES = D / 32 * 34 };
    static float page[KEYS * D], wide[KEYS * D], q[D], pattern[KEYS];
    static uint8_t packed[KEYS * BYTES];
    const size_t keys = KEYS;
    fill(page, KEYS * D, 1, 1), fill(q, D, 0, 2), fill(pattern, KEYS, 0, 3);
    for (size_t i = 0; i < KEYS; i++) {
        k->from_f32[PL_Q8_0](packed + i * BYTES, page + i * D, D);
        k->to_f32[PL_Q8_0](wide + i * D, packed + i * BYTES, D);
    }
    for (size_t d = 32; d <= D; d += 32) {
        k->attention_scores(out, 0, q, 0, 1, packed, PL_Q8_0, BYTES, KEYS, d, 0.5f, NULL);
        plain->attention_scores(want, 0, q, 0, 1, packed, PL_Q8_0, BYTES, KEYS, d, 0.5f, NULL);
        assert_same(out, want, KEYS, "attention_scores", d);
        plain->attention_scores(want, 0, q, 0, 1, wide, PL_F32, D * sizeof(float), KEYS, d, 0.5f,
                                NULL);
        assert_same(out, want, KEYS, "attention_scores", d);
        fill(out, d, 0, 4), memcpy(want, out, sizeof out);
        k->attention_mix(out, 0, pattern, 0, 1, packed, PL_Q8_0, BYTES, &keys, d, NULL);
        plain->attention_mix(want, 0, pattern, 0, 1, wide, PL_F32, D * sizeof(float), &keys, d,
                             NULL);
        assert_same(out, want, d, "attention_mix", d);
    }
}

static void test_activations_are_rounded_to_nearest(void **state) {
    (void)state;
    for_each_isa(check_rounding);
}
static void test_attention_is_alike_on_every_isa(void **state) {
    (void)state;
    for_each_isa(check_attention);
    for_each_isa(check_attention_rows);
    for_each_isa(check_attention_q8_0);
}

/* Every half-precision number there is, against the definition, and its way back. */
static void test_halves_are_exact(void **state) {
    (void)state;
    for (uint32_t h = 0; h < 65536; h++) {
        uint16_t half = (uint16_t)h;
        int exponent = (int)(h >> 10 & 31), mantissa = (int)(h & 1023);
        double value = exponent ? ldexp(1024 + mantissa, exponent - 25) : ldexp(mantissa, -24);
        if (exponent == 31) value = mantissa ? NAN : INFINITY;
        if (h & 0x8000) value = -value;
        float x = half_to_float(half);
        if (isnan(value)) {
            assert_true(isnan(x) && isnan(half_to_float(float_to_half(x))));
            continue;
        }
        assert_true((double)x == value);
        assert_int_equal(float_to_half(x), half);
    }
    assert_int_equal(float_to_half(65519.9f), 0x7bff);
    assert_int_equal(float_to_half(65520.0f), 0x7c00);
    for (int isa = 0; isa < PL_N_ISAS; isa++) {
        const pl_kernels *k = pl_kernels_for((pl_isa)isa);
        for (int kind = 0; k && kind < N_KINDS; kind++) {
            uint16_t halves[MOST];
            fill(a, MOST, kind, 7);
            k->from_f32[PL_F16](halves, a, MOST - 3);
            for (size_t i = 0; i < MOST - 3; i++) assert_int_equal(halves[i], float_to_half(a[i]));
        }
    }
}

static double reference_activation(int which, double x) {
    switch (which) {
    case PL_ACT_GELU_TANH:
        return 0.5 * x * (1 + tanh(sqrt(2 / acos(-1)) * (x + 0.044715 * x * x * x)));
    case PL_ACT_GELU_ERF:
        return 0.5 * x * (1 + erf(x / sqrt(2)));
    case PL_ACT_SILU:
        return x / (1 + exp(-x));
    case PL_ACT_RELU:
        return x > 0 ? x : 0;
    case PL_ACT_TANH:
        return tanh(x);
    default:
        return 1 / (1 + exp(-x));
    }
}

static void test_functions_are_near_float64(void **state) {
    (void)state;
    const pl_kernels *k;
    assert_int_equal(pl_kernels_choose(&k, NULL), PL_OK);
    for (float x = -104; x < 89; x += 0.00371f) {
        float y;
        k->exp(&y, &x, 1);
        double exact = exp((double)x), ulp = fmax(exact * 0x1p-23, 0x1p-149);
        if (exact <= FLT_MAX) assert_true(fabs((double)y - exact) <= 2 * ulp);
    }
    for (int f = 0; f < PL_N_ACTIVATIONS; f++) {
        for (float x = -20; x < 20; x += 0.00137f) {
            float y;
            k->activate[f](&y, &x, 1);
            double exact = reference_activation(f, (double)x);
            assert_true(fabs((double)y - exact) <= 4e-7 * fmax(1, fabs(exact)));
        }
    }
    const float extremes[] = {-INFINITY, INFINITY, NAN, -200, 200, 0};
    const float expected[] = {0, INFINITY, NAN, 0, INFINITY, 1};
    k->exp(out, extremes, 6);
    assert_same(out, expected, 6, "exp of extremes", 6);
}

static void test_softmax_follows_its_contract(void **state) {
    (void)state;
    const pl_kernels *k;
    assert_int_equal(pl_kernels_choose(&k, NULL), PL_OK);
    fill(a, 100, 0, 1);
    a[17] = -INFINITY;
    k->softmax(out, a, 100);
    double total = 0;
    for (int i = 0; i < 100; i++) total += exp((double)a[i]);
    for (int i = 0; i < 100; i++)
        assert_true(fabs((double)out[i] - exp((double)a[i]) / total) < 1e-7);
    assert_true(out[17] == 0);
    for (int i = 0; i < 20; i++) a[i] = -INFINITY;
    k->softmax(out, a, 20);
    for (int i = 0; i < 20; i++) assert_true(isnan(out[i]));
    a[3] = NAN, a[4] = 1;
    k->softmax(out, a, 20);
    for (int i = 0; i < 20; i++) assert_true(isnan(out[i]));
    assert_true(k->max(a, 0) == -INFINITY && isnan(k->max(a, 20)));
}

/* bfloat16's nearest number to x, to even. */
static double to_bf16(float x) {
    uint32_t bits;
    memcpy(&bits, &x, sizeof bits);
    bits = (bits + 0x7fff + (bits >> 16 & 1)) & 0xffff0000;
    memcpy(&x, &bits, sizeof x);
    return (double)x;
}

/* Products of numbers rounded to bfloat16, within what float32 sums of them may be off. */
static void check_fast(const pl_fast_kernels *fast) {
    enum { N_X = 55, OUT = 64, IN = 257 };
    static const size_t outs[] = {64, 63, 17, 1}, ins[] = {257, 256, 64, 33, 31, 2, 1};
    static const pl_dtype types[] = {PL_F32, PL_F16, PL_BF16};
    const pl_kernels *plain = pl_kernels_for(PL_ISA_PLAIN);
    static float w[OUT * IN], x[N_X * IN], result[N_X * OUT], wide[IN];
    static float stored[OUT * IN];
    static uint32_t panel[PL_FAST_OUT * (IN + 1) / 2], rounded[N_X][(IN + 1) / 2];
    fill(w, OUT * IN, 0, 31), fill(x, N_X * IN, 0, 32);
    for (size_t run = 0; run < 3 * 4 * 7; run++) {
        pl_dtype type = types[run % 3];
        size_t n_out = outs[run / 3 % 4], n_in = ins[run / 12];
        size_t bytes = pl_dtype_get(type)->block_bytes;
        plain->from_f32[type](stored, w, n_out * n_in);
        fast->pack(panel, type, stored, n_in * bytes, n_out, n_in);
        for (size_t r = 0; r < N_X; r++) fast->round(rounded[r], x + r * n_in, n_in);
        fast->tile(result, OUT, panel, n_out, rounded[0], (IN + 1) / 2, N_X, n_in);
        for (size_t i = 0; i < N_X * n_out; i++) {
            size_t r = i / n_out, j = i % n_out;
            double sum = 0, size = 0;
            plain->to_f32[type](wide, (const char *)stored + j * n_in * bytes, n_in);
            for (size_t k = 0; k < n_in; k++) {
                double product = to_bf16(wide[k]) * to_bf16(x[r * n_in + k]);
                sum += product, size += fabs(product);
            }
            assert_true(fabs((double)result[r * OUT + j] - sum) <= 1e-6 * size + 1e-30);
        }
    }
}

static void test_fast_tiles_are_near(void **state) {
    (void)state;
#if defined(__x86_64__)
    const pl_fast_kernels bf16 = {pl_pack_fast_bf16, pl_round_fast_bf16, pl_tile_fast_bf16, 0};
    const pl_fast_kernels amx = {pl_pack_fast_bf16, pl_round_fast_bf16, pl_tile_fast_amx, 0};
    if (pl_cpu_has_bf16()) check_fast(&bf16);
    if (pl_cpu_has_amx()) check_fast(&amx);
    if (pl_cpu_has_bf16()) return;
#endif
    print_message("no bfloat16 products on this processor\n");
    skip();
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_rows_are_alike_on_every_isa),
        cmocka_unit_test(test_norms_are_alike_on_every_isa),
        cmocka_unit_test(test_tiles_sum_in_one_order),
        cmocka_unit_test(test_quantised_tiles_are_alike_and_near),
        cmocka_unit_test(test_activations_are_rounded_to_nearest),
        cmocka_unit_test(test_attention_is_alike_on_every_isa),
        cmocka_unit_test(test_halves_are_exact),
        cmocka_unit_test(test_functions_are_near_float64),
        cmocka_unit_test(test_softmax_follows_its_contract),
        cmocka_unit_test(test_fast_tiles_are_near),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
