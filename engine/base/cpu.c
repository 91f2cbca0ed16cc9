#include "cpu.h"

#include <stdlib.h>
#include <string.h>

#include "error.h"

static const char *const names[PL_N_ISAS] = {"plain", "neon", "avx2", "avx512"};

const char *pl_isa_name(pl_isa isa) {
    return names[isa];
}

#if defined(__x86_64__)
#include <cpuid.h>
#include <sys/syscall.h>
#include <unistd.h>

/* clang 14's __builtin_cpu_supports does not know f16c. */
static bool has_f16c(void) {
    unsigned a, b, c, d;
    return __get_cpuid(1, &a, &b, &c, &d) && (c & bit_F16C);
}

bool pl_cpu_supports(pl_isa isa) {
    bool avx2 = __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") && has_f16c();
    switch (isa) {
    case PL_ISA_AVX2:
        return avx2;
    case PL_ISA_AVX512:
        return avx2 && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
               __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl");
    default:
        return isa == PL_ISA_PLAIN;
    }
}

bool pl_cpu_has_vnni(void) {
    return pl_cpu_supports(PL_ISA_AVX512) && __builtin_cpu_supports("avx512vnni");
}

bool pl_cpu_has_bf16(void) {
    return pl_cpu_supports(PL_ISA_AVX512) && __builtin_cpu_supports("avx512bf16");
}

/* Linux lends a process the tiles' registers when it asks. */
static bool tiles_granted(void) {
    enum { ASK = 0x1023, TILE_DATA = 18 };
    return syscall(SYS_arch_prctl, ASK, TILE_DATA) == 0;
}

bool pl_cpu_has_amx(void) {
    enum { AMX = 1 << 22 | 1 << 24 | 1 << 25 }; /* bfloat16, tiles, int8 */
    unsigned a, b, c, d;
    return pl_cpu_has_vnni() && pl_cpu_has_bf16() && __get_cpuid_count(7, 0, &a, &b, &c, &d) &&
           (d & AMX) == AMX && tiles_granted();
}
#else
bool pl_cpu_supports(pl_isa isa) {
#if defined(__aarch64__)
    if (isa == PL_ISA_NEON) return true;
#endif
    return isa == PL_ISA_PLAIN;
}

bool pl_cpu_has_vnni(void) {
    return false;
}

bool pl_cpu_has_bf16(void) {
    return false;
}

bool pl_cpu_has_amx(void) {
    return false;
}
#endif

pl_status pl_cpu_choose(pl_isa *isa, pl_error *err) {
    const char *wanted = getenv("PERILUNE_CPU");
    for (int i = PL_N_ISAS - 1; i >= 0; i--) {
        pl_isa candidate = (pl_isa)i;
        if (wanted ? strcmp(wanted, names[i]) == 0 : pl_cpu_supports(candidate)) {
            if (!pl_cpu_supports(candidate)) {
                return pl_fail(err, PL_ERR_ARGUMENT,
                               "PERILUNE_CPU=%s: this processor does not support it", wanted);
            }
            *isa = candidate;
            return PL_OK;
        }
    }
    return pl_fail(err, PL_ERR_ARGUMENT, "PERILUNE_CPU=%s: expected plain, neon, avx2 or avx512",
                   wanted);
}
