#include "library.h"

#include <dlfcn.h>
#include <string.h>

#include "error.h"

pl_status pl_library_open(const char *file, const pl_symbol *symbols, size_t n, pl_error *err) {
    void *handle = dlopen(file, RTLD_NOW | RTLD_LOCAL);
    bool complete = handle;
    for (size_t i = 0; i < n && complete; i++) {
        void *address = dlsym(handle, symbols[i].name);
        memcpy(symbols[i].function, &address, sizeof address);
        complete = address;
    }
    if (complete) return PL_OK;
    const char *reason = dlerror();
    return pl_fail(err, PL_ERR_UNSUPPORTED, "a library cannot be opened: %s",
                   reason ? reason : file);
}
