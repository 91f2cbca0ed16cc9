/* The tables of each instruction set; a build has those of its processor. */
#ifndef PL_KERNELS_TABLES_H
#define PL_KERNELS_TABLES_H

#include "kernels.h"

const pl_kernels *pl_kernels_plain(void);
const pl_kernels *pl_kernels_avx2(void);
const pl_kernels *pl_kernels_avx512(void);
const pl_kernels *pl_kernels_neon(void);
const pl_kernels *pl_kernels_vnni(void); /* AVX-512 with int8 dot products */

#endif
