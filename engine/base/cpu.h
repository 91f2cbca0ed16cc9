/* What this processor can do; decides once which kernels run. */
#ifndef PL_BASE_CPU_H
#define PL_BASE_CPU_H

#include "../perilune.h"

typedef enum pl_isa { PL_ISA_PLAIN, PL_ISA_NEON, PL_ISA_AVX2, PL_ISA_AVX512, PL_N_ISAS } pl_isa;

/* "plain", "neon", "avx2", "avx512". */
const char *pl_isa_name(pl_isa isa);

/* Whether processor and system support it: neon is 64-bit ARM's, avx2 means AVX2+FMA+F16C, avx512
 * means AVX-512 F+BW+DQ+VL, with VNNI and AMX used where pl_cpu_has_vnni
 * and pl_cpu_has_amx say so. */
bool pl_cpu_supports(pl_isa isa);
bool pl_cpu_has_vnni(void);
bool pl_cpu_has_bf16(void); /* AVX-512 with bfloat16 dot products */
bool pl_cpu_has_amx(void);  /* both, and tiles of their products; asks the system for them */

/* The instruction set to use: the best supported, or the one that the environment variable
 * PERILUNE_CPU names. Errors: PL_ERR_ARGUMENT for an unknown name or one not supported here. */
pl_status pl_cpu_choose(pl_isa *isa, pl_error *err);

#endif
