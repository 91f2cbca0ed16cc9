/* What comes before the system's loader: any bytes are judged, and only a whole library passes. */
#include <sys/mman.h>
#include <unistd.h>

#include "../../engine/sample/elf_check.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    pl_error err;
    int file = memfd_create("fuzz", MFD_CLOEXEC);
    if (file < 0) return 0;
    if (write(file, data, size) == (ssize_t)size) pl_elf_check("fuzz", file, &err);
    close(file);
    return 0;
}
