#include "blas.h"

#include <dlfcn.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <threads.h>

#include "../base/cpu.h"
#include "../base/error.h"

static struct {
    pl_blas blas;
    bool open;
    char reason[256]; /* why it is not */
} library;

/* Whether the variable was set here, and is to be unset. */
static bool set_unless_set(const char *name, const char *value) {
    return value && !getenv(name) && setenv(name, value, 0) == 0;
}

static void *open_library(void) {
    const char *core_type = pl_cpu_supports(PL_ISA_AVX512) ? "SkylakeX"
                            : pl_cpu_supports(PL_ISA_AVX2) ? "Haswell"
                                                           : NULL;
    bool core = set_unless_set("OPENBLAS_CORETYPE", core_type);
    bool threads = set_unless_set("OPENBLAS_NUM_THREADS", "1");
    void *handle = dlopen("libopenblas.so.0", RTLD_NOW | RTLD_LOCAL);
    if (core) unsetenv("OPENBLAS_CORETYPE");
    if (threads) unsetenv("OPENBLAS_NUM_THREADS");
    return handle;
}

static bool find(void *handle, const char *name, void *function) {
    void *symbol = dlsym(handle, name);
    memcpy(function, &symbol, sizeof symbol);
    return symbol;
}

static void open_once(void) {
    pl_blas *b = &library.blas;
    void *handle = open_library();
    library.open = handle && find(handle, "sgemm_", &b->sgemm) &&
                   find(handle, "openblas_set_num_threads", &b->set_num_threads) &&
                   find(handle, "sgesv_", &b->sgesv) && find(handle, "sgelsd_", &b->sgelsd) &&
                   find(handle, "sgesdd_", &b->sgesdd) && find(handle, "ssyevd_", &b->ssyevd) &&
                   find(handle, "sgeev_", &b->sgeev) && find(handle, "spotrf_", &b->spotrf) &&
                   find(handle, "sgeqrf_", &b->sgeqrf) && find(handle, "sorgqr_", &b->sorgqr) &&
                   find(handle, "sgetrf_", &b->sgetrf);
    if (library.open) {
        b->set_num_threads(1); /* it may have been open before */
        return;
    }
    const char *reason = dlerror();
    snprintf(library.reason, sizeof library.reason, "%s", reason ? reason : "unknown reason");
}

pl_status pl_blas_open(const pl_blas **blas, pl_error *err) {
    static once_flag once = ONCE_FLAG_INIT;
    call_once(&once, open_once);
    *blas = &library.blas;
    if (library.open) return PL_OK;
    return pl_fail(err, PL_ERR_UNSUPPORTED,
                   "linear algebra and training need OpenBLAS, which cannot be opened: %s",
                   library.reason);
}

/* Rows read as columns are the transposed matrix: c' = b' a'. */
void pl_blas_multiply(const pl_blas *blas, bool a_transposed, bool b_transposed, int m, int n,
                      int k, float factor, const float *a, int lda, const float *b, int ldb,
                      float keep, float *c, int ldc) {
    blas->sgemm(b_transposed ? "T" : "N", a_transposed ? "T" : "N", &n, &m, &k, &factor, b, &ldb, a,
                &lda, &keep, c, &ldc);
}
