#include "kernels.h"

#include "blocks.h"
#include "tables.h"

const pl_kernels *pl_kernels_for(pl_isa isa) {
    if (!pl_cpu_supports(isa)) return NULL;
#if defined(__x86_64__)
    if (isa == PL_ISA_AVX2) return pl_kernels_avx2();
    if (isa == PL_ISA_AVX512) {
        return pl_cpu_has_amx()    ? pl_kernels_amx()
               : pl_cpu_has_vnni() ? pl_kernels_vnni()
                                   : pl_kernels_avx512();
    }
#elif defined(__aarch64__)
    if (isa == PL_ISA_NEON) return pl_kernels_neon();
#endif
    return isa == PL_ISA_PLAIN ? pl_kernels_plain() : NULL;
}

pl_status pl_kernels_choose(const pl_kernels **kernels, pl_error *err) {
    pl_isa isa;
    pl_status status = pl_cpu_choose(&isa, err);
    if (status == PL_OK) *kernels = pl_kernels_for(isa);
    return status;
}

size_t pl_activation_row_bytes(pl_dtype dtype, size_t n) {
    return pl_dtype_get(dtype)->block_elements == 32 ? n / 32 * sizeof(pl_activations32)
                                                     : n / 256 * sizeof(pl_activations256);
}

const pl_fast_kernels *pl_kernels_fast(void) {
#if defined(__x86_64__)
    static const pl_fast_kernels bf16 = {pl_pack_fast_bf16, pl_round_fast_bf16, pl_tile_fast_bf16,
                                         132};
    static const pl_fast_kernels amx = {pl_pack_fast_bf16, pl_round_fast_bf16, pl_tile_fast_amx,
                                        256};
    pl_isa isa;
    bool chosen = pl_cpu_choose(&isa, NULL) == PL_OK && isa == PL_ISA_AVX512;
    if (chosen && pl_cpu_has_amx()) return &amx;
    if (chosen && pl_cpu_has_bf16()) return &bf16;
#endif
    return NULL;
}
