#include "blas.h"

#include <stdlib.h>
#include <threads.h>

#include "../base/cpu.h"
#include "../base/error.h"
#include "../base/library.h"

static struct {
    pl_blas blas;
    pl_status status;
    pl_error err; /* why it is not open */
} library;

/* Whether the variable was set here, and is to be unset. */
static bool set_unless_set(const char *name, const char *value) {
    return value && !getenv(name) && setenv(name, value, 0) == 0;
}

static void open_once(void) {
    pl_blas *b = &library.blas;
    const pl_symbol symbols[] = {{"sgemm_", &b->sgemm},
                                 {"sgesv_", &b->sgesv},
                                 {"sgelsd_", &b->sgelsd},
                                 {"sgesdd_", &b->sgesdd},
                                 {"ssyevd_", &b->ssyevd},
                                 {"sgeev_", &b->sgeev},
                                 {"spotrf_", &b->spotrf},
                                 {"sgeqrf_", &b->sgeqrf},
                                 {"sorgqr_", &b->sorgqr},
                                 {"sgetrf_", &b->sgetrf},
                                 {"openblas_set_num_threads", &b->set_num_threads}};
    const char *core_type = pl_cpu_supports(PL_ISA_AVX512) ? "SkylakeX"
                            : pl_cpu_supports(PL_ISA_AVX2) ? "Haswell"
                                                           : NULL;
    bool core = set_unless_set("OPENBLAS_CORETYPE", core_type);
    bool threads = set_unless_set("OPENBLAS_NUM_THREADS", "1");
    library.status = pl_library_open("libopenblas.so.0", symbols, sizeof symbols / sizeof *symbols,
                                     &library.err);
    if (core) unsetenv("OPENBLAS_CORETYPE");
    if (threads) unsetenv("OPENBLAS_NUM_THREADS");
    if (library.status == PL_OK) b->set_num_threads(1); /* it may have been open before */
}

pl_status pl_blas_open(const pl_blas **blas, pl_error *err) {
    static once_flag once = ONCE_FLAG_INIT;
    call_once(&once, open_once);
    *blas = &library.blas;
    if (library.status == PL_OK) return PL_OK;
    return pl_fail(err, library.status, "linear algebra and training need OpenBLAS: %s",
                   library.err.message);
}

/* Rows read as columns are the transposed matrix: c' = b' a'. */
void pl_blas_multiply(const pl_blas *blas, bool a_transposed, bool b_transposed, int m, int n,
                      int k, float factor, const float *a, int lda, const float *b, int ldb,
                      float keep, float *c, int ldc) {
    blas->sgemm(b_transposed ? "T" : "N", a_transposed ? "T" : "N", &n, &m, &k, &factor, b, &ldb, a,
                &lda, &keep, c, &ldc);
}
