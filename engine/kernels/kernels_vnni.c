/* AVX-512 with VNNI: as AVX-512, but for quantised tiles.
 *
 * Sixteen rows of weights are multiplied side by side. A block of each is unpacked to bytes and
 * interleaved, so that one register holds four consecutive elements of all sixteen rows:
 *
 *     q[i]:  | row 0: 4i .. 4i+3 | row 1: 4i .. 4i+3 | ... | row 15: 4i .. 4i+3 |
 *
 * One dot-product instruction then multiplies it by four activations, the same for all rows, and
 * sums need no shuffling: lane r is row r's. The panel is used for all rows of activations before
 * the next block is unpacked. Integers are exact, hence the bits are those of the plain tiles. */
#include "lanes_avx512.h"

#include "generic.h"
#include "tables.h"

enum { PANEL = 16, STEP_ROWS = 4, CHUNK_ROWS = 64 };

typedef struct panel {
    __m512i q[PL_MAX_BLOCK / 4];
    __m512i scale[PL_MAX_GROUPS], min[PL_MAX_GROUPS];
    __m512 d, dmin;
} panel;

/* Thirty-two bytes of sixteen rows, `stride` apart, as eight registers of the drawing above: an
 * 8 x 8 transposition of 32-bit elements in each half. */
ALWAYS_INLINE void interleave(__m512i *out, const uint8_t *rows, size_t stride) {
    __m512i z[8], t[8], u[8];
#pragma GCC unroll 8
    for (size_t i = 0; i < 8; i++) {
        __m256i low = _mm256_loadu_si256((const __m256i *)(rows + i * stride));
        __m256i high = _mm256_loadu_si256((const __m256i *)(rows + (i + 8) * stride));
        z[i] = _mm512_inserti64x4(_mm512_castsi256_si512(low), high, 1);
    }
#pragma GCC unroll 4
    for (int i = 0; i < 8; i += 2) {
        t[i] = _mm512_unpacklo_epi32(z[i], z[i + 1]);
        t[i + 1] = _mm512_unpackhi_epi32(z[i], z[i + 1]);
    }
#pragma GCC unroll 2
    for (int i = 0; i < 8; i += 4) {
        u[i] = _mm512_unpacklo_epi64(t[i], t[i + 2]);
        u[i + 1] = _mm512_unpackhi_epi64(t[i], t[i + 2]);
        u[i + 2] = _mm512_unpacklo_epi64(t[i + 1], t[i + 3]);
        u[i + 3] = _mm512_unpackhi_epi64(t[i + 1], t[i + 3]);
    }
    const __m512i first = _mm512_setr_epi64(0, 1, 8, 9, 4, 5, 12, 13);
    const __m512i second = _mm512_setr_epi64(2, 3, 10, 11, 6, 7, 14, 15);
#pragma GCC unroll 4
    for (int i = 0; i < 4; i++) {
        out[i] = _mm512_permutex2var_epi64(u[i], first, u[i + 4]);
        out[i + 4] = _mm512_permutex2var_epi64(u[i], second, u[i + 4]);
    }
}

/* Unpacks one block of sixteen rows; rows beyond n repeat the last. */
typedef void (*load_fn)(panel *p, const uint8_t *block, size_t w_row_bytes, size_t n);

ALWAYS_INLINE const uint8_t *panel_row(const uint8_t *block, size_t w_row_bytes, size_t n,
                                       size_t r) {
    return block + (r < n ? r : n - 1) * w_row_bytes;
}

/* Half-precision numbers at the same place of each row's block. */
ALWAYS_INLINE __m512 panel_halves(const uint8_t *block, size_t w_row_bytes, size_t n) {
    uint16_t halves[PANEL];
#pragma GCC unroll 16
    for (size_t r = 0; r < PANEL; r++) {
        memcpy(&halves[r], panel_row(block, w_row_bytes, n, r), sizeof *halves);
    }
    return lanes_load_f16(halves);
}

ALWAYS_INLINE void load_by_unpacking(panel *p, pl_unpack_fn unpack, int n_groups, bool has_min,
                                     const uint8_t *block, size_t w_row_bytes, size_t n) {
    uint8_t q[PANEL][PL_MAX_BLOCK];
    int32_t scale[PL_MAX_GROUPS][PANEL], min[PL_MAX_GROUPS][PANEL];
    float d[PANEL], dmin[PANEL];
    size_t width = (size_t)n_groups * PL_GROUP;
    for (size_t r = 0; r < PANEL; r++) {
        pl_block b;
        unpack(&b, panel_row(block, w_row_bytes, n, r));
        memcpy(q[r], b.q, width);
        d[r] = b.d, dmin[r] = b.dmin;
        for (int g = 0; g < n_groups; g++) {
            scale[g][r] = b.scale[g];
            if (has_min) min[g][r] = b.min[g];
        }
    }
    for (size_t at = 0; at < width; at += 32) interleave(p->q + at / 4, q[0] + at, PL_MAX_BLOCK);
    for (int g = 0; g < n_groups; g++) {
        p->scale[g] = _mm512_loadu_si512(scale[g]);
        if (has_min) p->min[g] = _mm512_loadu_si512(min[g]);
    }
    p->d = _mm512_loadu_ps(d);
    p->dmin = _mm512_loadu_ps(dmin);
}

static void load_q8_0(panel *p, const uint8_t *block, size_t w_row_bytes, size_t n) {
    p->d = panel_halves(block, w_row_bytes, n);
    if (n == PANEL) {
        interleave(p->q, block + 2, w_row_bytes);
    } else {
        uint8_t q[PANEL][32];
        for (size_t r = 0; r < PANEL; r++) {
            memcpy(q[r], panel_row(block, w_row_bytes, n, r) + 2, 32);
        }
        interleave(p->q, q[0], 32);
    }
    for (int i = 0; i < 8; i++) p->q[i] = _mm512_xor_si512(p->q[i], _mm512_set1_epi8(-128));
}

/* Sixteen bytes of nibbles as thirty-two bytes: the low ones first. */
ALWAYS_INLINE __m256i nibbles32(const uint8_t *p) {
    __m128i packed = _mm_loadu_si128((const __m128i *)p);
    __m256i both =
        _mm256_inserti128_si256(_mm256_castsi128_si256(packed), _mm_srli_epi16(packed, 4), 1);
    return _mm256_and_si256(both, _mm256_set1_epi8(15));
}

static void load_q4_0(panel *p, const uint8_t *block, size_t w_row_bytes, size_t n) {
    uint8_t q[PANEL][32];
    p->d = panel_halves(block, w_row_bytes, n);
#pragma GCC unroll 16
    for (size_t r = 0; r < PANEL; r++) {
        const uint8_t *row = panel_row(block, w_row_bytes, n, r) + 2;
        _mm256_storeu_si256((__m256i *)q[r], nibbles32(row));
    }
    interleave(p->q, q[0], 32);
}

static void load_q4_1(panel *p, const uint8_t *block, size_t w_row_bytes, size_t n) {
    uint8_t q[PANEL][32];
    p->d = panel_halves(block, w_row_bytes, n);
    p->dmin = lanes_sub(lanes_set(-0.0f), panel_halves(block + 2, w_row_bytes, n));
#pragma GCC unroll 16
    for (size_t r = 0; r < PANEL; r++) {
        const uint8_t *row = panel_row(block, w_row_bytes, n, r) + 4;
        _mm256_storeu_si256((__m256i *)q[r], nibbles32(row));
    }
    interleave(p->q, q[0], 32);
}

static void load_q5_0(panel *p, const uint8_t *block, size_t w_row_bytes, size_t n) {
    load_by_unpacking(p, unpack_q5_0, 2, false, block, w_row_bytes, n);
}
static void load_q5_1(panel *p, const uint8_t *block, size_t w_row_bytes, size_t n) {
    load_by_unpacking(p, unpack_q5_1, 2, false, block, w_row_bytes, n);
}
static void load_q2_k(panel *p, const uint8_t *block, size_t w_row_bytes, size_t n) {
    load_by_unpacking(p, unpack_q2_k, 16, true, block, w_row_bytes, n);
}
static void load_q3_k(panel *p, const uint8_t *block, size_t w_row_bytes, size_t n) {
    load_by_unpacking(p, unpack_q3_k, 16, false, block, w_row_bytes, n);
}
static void load_q4_k(panel *p, const uint8_t *block, size_t w_row_bytes, size_t n) {
    load_by_unpacking(p, unpack_q4_k, 16, true, block, w_row_bytes, n);
}
static void load_q5_k(panel *p, const uint8_t *block, size_t w_row_bytes, size_t n) {
    load_by_unpacking(p, unpack_q5_k, 16, true, block, w_row_bytes, n);
}
static void load_q6_k(panel *p, const uint8_t *block, size_t w_row_bytes, size_t n) {
    load_by_unpacking(p, unpack_q6_k, 16, false, block, w_row_bytes, n);
}

/* What a type's blocks are like, known at compile time. */
typedef struct layout {
    load_fn load;
    size_t block_bytes;
    int n_groups; /* 2 or 16 */
    int offset;   /* taken off every q */
    bool has_min;
    int run; /* groups that share a scale: 1, or 2 */
} layout;

ALWAYS_INLINE __m512i four_activations(const int8_t *x) {
    int32_t four;
    memcpy(&four, x, sizeof four);
    return _mm512_set1_epi32(four);
}

ALWAYS_INLINE __m512 negated(__m512i x) {
    return _mm512_xor_ps(_mm512_cvtepi32_ps(x), _mm512_set1_ps(-0.0f));
}

/* sums[r] += block product, for R rows of activations. */
ALWAYS_INLINE void multiply_block(const layout *l, const panel *p, int R, __m512 *sums,
                                  const char *x, size_t x_row_bytes) {
    size_t head = l->n_groups == 2 ? offsetof(pl_activations32, q) : offsetof(pl_activations256, q);
    int n_runs = l->n_groups == 2 ? 1 : l->n_groups / l->run, run = l->n_groups / n_runs;
    __m512i product[STEP_ROWS], minimum[STEP_ROWS];
    for (int r = 0; r < R; r++) product[r] = minimum[r] = _mm512_setzero_si512();
    for (int g = 0; g < n_runs; g++) {
        __m512i dot[STEP_ROWS];
        int32_t total[STEP_ROWS];
#pragma GCC unroll 4
        for (int r = 0; r < R; r++) {
            const char *row = x + (size_t)r * x_row_bytes;
            int16_t groups[2] = {0};
            memcpy(groups, row + sizeof(float) + (size_t)g * (size_t)run * sizeof *groups,
                   (size_t)run * sizeof *groups);
            total[r] = groups[0] + groups[1];
            dot[r] = _mm512_set1_epi32(-l->offset * total[r]);
        }
#pragma GCC unroll 8
        for (int i = 0; i < run * PL_GROUP / 4; i++) {
            size_t at = (size_t)g * (size_t)run * PL_GROUP / 4 + (size_t)i;
            __m512i q = p->q[at];
#pragma GCC unroll 4
            for (int r = 0; r < R; r++) {
                const int8_t *four = (const int8_t *)(x + (size_t)r * x_row_bytes + head + 4 * at);
                dot[r] = _mm512_dpbusd_epi32(dot[r], q, four_activations(four));
            }
        }
#pragma GCC unroll 4
        for (int r = 0; r < R; r++) {
            if (l->n_groups == 2) {
                product[r] = dot[r];
                minimum[r] = _mm512_set1_epi32(total[r]);
            } else {
                __m512i scaled = _mm512_mullo_epi32(p->scale[g * run], dot[r]);
                product[r] = _mm512_add_epi32(product[r], scaled);
                if (!l->has_min) continue;
                scaled = _mm512_mullo_epi32(p->min[g * run], _mm512_set1_epi32(total[r]));
                minimum[r] = _mm512_add_epi32(minimum[r], scaled);
            }
        }
    }
#pragma GCC unroll 4
    for (int r = 0; r < R; r++) {
        float d;
        memcpy(&d, x + (size_t)r * x_row_bytes, sizeof d);
        __m512 dx = _mm512_set1_ps(d);
        sums[r] = lanes_fma(lanes_mul(p->d, dx), _mm512_cvtepi32_ps(product[r]), sums[r]);
        if (l->has_min) sums[r] = lanes_fma(lanes_mul(p->dmin, dx), negated(minimum[r]), sums[r]);
    }
}

/* Up to sixteen columns of up to CHUNK_ROWS rows. */
ALWAYS_INLINE void tile_panel(const layout *l, float *out, size_t out_stride, const uint8_t *w,
                              size_t w_row_bytes, size_t n_out, const char *x, size_t x_row_bytes,
                              size_t n_rows, size_t n_blocks) {
    size_t x_block = l->n_groups == 2 ? sizeof(pl_activations32) : sizeof(pl_activations256);
    __m512 sums[CHUNK_ROWS];
    for (size_t r = 0; r < n_rows; r++) sums[r] = _mm512_setzero_ps();
    /* Sixteen short streams defeat the processor's own prefetching: the next panel is fetched in a
     * straight line, as much of it as this step reads. */
    const char *ahead = (const char *)w + PANEL * w_row_bytes;
    for (size_t i = 0; i < n_blocks; i++) {
        panel p;
        for (size_t line = 0; line < PANEL * l->block_bytes && n_rows <= STEP_ROWS; line += 64) {
            _mm_prefetch(ahead + i * PANEL * l->block_bytes + line, _MM_HINT_T0);
        }
        l->load(&p, w + i * l->block_bytes, w_row_bytes, n_out);
        const char *block = x + i * x_block;
        size_t r = 0;
        for (; r + STEP_ROWS <= n_rows; r += STEP_ROWS) {
            multiply_block(l, &p, STEP_ROWS, sums + r, block + r * x_row_bytes, x_row_bytes);
        }
        for (; r < n_rows; r++) {
            multiply_block(l, &p, 1, sums + r, block + r * x_row_bytes, x_row_bytes);
        }
    }
    for (size_t r = 0; r < n_rows; r++) {
        _mm512_mask_storeu_ps(out + r * out_stride, first_lanes(n_out), sums[r]);
    }
}

ALWAYS_INLINE void tile_vnni(const layout *l, float *out, size_t out_stride, const void *w,
                             size_t w_row_bytes, size_t n_out, const void *x, size_t x_row_bytes,
                             size_t n_rows, size_t n_in) {
    size_t n_blocks = n_in / ((size_t)l->n_groups * PL_GROUP);
    for (size_t r = 0; r < n_rows; r += CHUNK_ROWS) {
        size_t rows = n_rows - r < CHUNK_ROWS ? n_rows - r : CHUNK_ROWS;
        for (size_t j = 0; j < n_out; j += PANEL) {
            size_t columns = n_out - j < PANEL ? n_out - j : PANEL;
            tile_panel(l, out + r * out_stride + j, out_stride,
                       (const uint8_t *)w + j * w_row_bytes, w_row_bytes, columns,
                       (const char *)x + r * x_row_bytes, x_row_bytes, rows, n_blocks);
        }
    }
}

static void tile_q4_0(float *out, size_t out_stride, const void *w, size_t w_row_bytes,
                      size_t n_out, const void *x, size_t x_row_bytes, size_t n_rows, size_t n_in) {
    const layout l = {load_q4_0, 18, 2, 8, false, 1};
    tile_vnni(&l, out, out_stride, w, w_row_bytes, n_out, x, x_row_bytes, n_rows, n_in);
}
static void tile_q4_1(float *out, size_t out_stride, const void *w, size_t w_row_bytes,
                      size_t n_out, const void *x, size_t x_row_bytes, size_t n_rows, size_t n_in) {
    const layout l = {load_q4_1, 20, 2, 0, true, 1};
    tile_vnni(&l, out, out_stride, w, w_row_bytes, n_out, x, x_row_bytes, n_rows, n_in);
}
static void tile_q5_0(float *out, size_t out_stride, const void *w, size_t w_row_bytes,
                      size_t n_out, const void *x, size_t x_row_bytes, size_t n_rows, size_t n_in) {
    const layout l = {load_q5_0, 22, 2, 16, false, 1};
    tile_vnni(&l, out, out_stride, w, w_row_bytes, n_out, x, x_row_bytes, n_rows, n_in);
}
static void tile_q5_1(float *out, size_t out_stride, const void *w, size_t w_row_bytes,
                      size_t n_out, const void *x, size_t x_row_bytes, size_t n_rows, size_t n_in) {
    const layout l = {load_q5_1, 24, 2, 0, true, 1};
    tile_vnni(&l, out, out_stride, w, w_row_bytes, n_out, x, x_row_bytes, n_rows, n_in);
}
static void tile_q8_0(float *out, size_t out_stride, const void *w, size_t w_row_bytes,
                      size_t n_out, const void *x, size_t x_row_bytes, size_t n_rows, size_t n_in) {
    const layout l = {load_q8_0, 34, 2, 128, false, 1};
    tile_vnni(&l, out, out_stride, w, w_row_bytes, n_out, x, x_row_bytes, n_rows, n_in);
}
static void tile_q2_k(float *out, size_t out_stride, const void *w, size_t w_row_bytes,
                      size_t n_out, const void *x, size_t x_row_bytes, size_t n_rows, size_t n_in) {
    const layout l = {load_q2_k, 84, 16, 0, true, 1};
    tile_vnni(&l, out, out_stride, w, w_row_bytes, n_out, x, x_row_bytes, n_rows, n_in);
}
static void tile_q3_k(float *out, size_t out_stride, const void *w, size_t w_row_bytes,
                      size_t n_out, const void *x, size_t x_row_bytes, size_t n_rows, size_t n_in) {
    const layout l = {load_q3_k, 110, 16, 4, false, 1};
    tile_vnni(&l, out, out_stride, w, w_row_bytes, n_out, x, x_row_bytes, n_rows, n_in);
}
static void tile_q4_k(float *out, size_t out_stride, const void *w, size_t w_row_bytes,
                      size_t n_out, const void *x, size_t x_row_bytes, size_t n_rows, size_t n_in) {
    const layout l = {load_q4_k, 144, 16, 0, true, 2};
    tile_vnni(&l, out, out_stride, w, w_row_bytes, n_out, x, x_row_bytes, n_rows, n_in);
}
static void tile_q5_k(float *out, size_t out_stride, const void *w, size_t w_row_bytes,
                      size_t n_out, const void *x, size_t x_row_bytes, size_t n_rows, size_t n_in) {
    const layout l = {load_q5_k, 176, 16, 0, true, 2};
    tile_vnni(&l, out, out_stride, w, w_row_bytes, n_out, x, x_row_bytes, n_rows, n_in);
}
static void tile_q6_k(float *out, size_t out_stride, const void *w, size_t w_row_bytes,
                      size_t n_out, const void *x, size_t x_row_bytes, size_t n_rows, size_t n_in) {
    const layout l = {load_q6_k, 210, 16, 32, false, 1};
    tile_vnni(&l, out, out_stride, w, w_row_bytes, n_out, x, x_row_bytes, n_rows, n_in);
}

static const pl_kernels table = GENERIC_TABLE;

const pl_kernels *pl_kernels_vnni(void) {
    return &table;
}
