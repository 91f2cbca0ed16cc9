/* The tables of each instruction set; a build has those of its processor. */
#ifndef PL_KERNELS_TABLES_H
#define PL_KERNELS_TABLES_H

#include "kernels.h"

const pl_kernels *pl_kernels_plain(void);
const pl_kernels *pl_kernels_avx2(void);
const pl_kernels *pl_kernels_avx512(void);
const pl_kernels *pl_kernels_neon(void);
const pl_kernels *pl_kernels_vnni(void); /* AVX-512 with int8 dot products */
const pl_kernels *pl_kernels_amx(void);  /* that, with tiles of them */

/* Of pl_fast_kernels, for AVX-512 with bfloat16 dot products. */
void pl_pack_fast_bf16(uint32_t *panel, pl_dtype dtype, const void *w, size_t w_row_bytes,
                       size_t n_out, size_t n_in);
void pl_round_fast_bf16(uint32_t *out, const float *x, size_t n);
void pl_tile_fast_bf16(float *out, size_t out_stride, const uint32_t *panel, size_t n_out,
                       const uint32_t *x, size_t x_stride, size_t n_rows, size_t n_in);
/* The same tile, for AMX: pl_cpu_has_amx() has said yes. */
void pl_tile_fast_amx(float *out, size_t out_stride, const uint32_t *panel, size_t n_out,
                      const uint32_t *x, size_t x_stride, size_t n_rows, size_t n_in);

#endif
