/* Shared libraries before loading: see elf_check.h. */
#include "elf_check.h"

#include "../base/error.h"

#include <elf.h>
#include <errno.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#if defined(__x86_64__)
enum { OUR_MACHINE = EM_X86_64 };
#elif defined(__aarch64__)
enum { OUR_MACHINE = EM_AARCH64 };
#else
enum { OUR_MACHINE = EM_NONE };
#endif

static const char *machine_name(unsigned machine) {
    static const struct {
        unsigned machine;
        const char *name;
    } names[] = {{EM_X86_64, "x86-64"},    {EM_386, "32-bit x86"}, {EM_AARCH64, "64-bit ARM"},
                 {EM_ARM, "32-bit ARM"},   {EM_RISCV, "RISC-V"},   {EM_PPC64, "64-bit PowerPC"},
                 {EM_S390, "IBM System z"}};
    for (size_t i = 0; i < sizeof names / sizeof *names; i++)
        if (names[i].machine == machine) return names[i].name;
    return "another machine";
}

static pl_status check_kind(const char *path, const Elf64_Ehdr *h, pl_error *err) {
    if (memcmp(h->e_ident, ELFMAG, SELFMAG) != 0)
        return pl_fail(err, PL_ERR_FORMAT, "%s: no shared library: it does not begin as one", path);
    if (OUR_MACHINE != EM_NONE && h->e_machine != OUR_MACHINE)
        return pl_fail(err, PL_ERR_FORMAT, "%s: a library for %s, expected %s", path,
                       machine_name(h->e_machine), machine_name(OUR_MACHINE));
    if (h->e_ident[EI_CLASS] != ELFCLASS64 || h->e_ident[EI_DATA] != ELFDATA2LSB)
        return pl_fail(err, PL_ERR_FORMAT, "%s: no 64-bit little-endian library", path);
    if (h->e_type != ET_DYN)
        return pl_fail(err, PL_ERR_FORMAT, "%s: %s, no shared library (link it with -shared)", path,
                       h->e_type == ET_REL    ? "an object file"
                       : h->e_type == ET_EXEC ? "a program"
                                              : "some other ELF file");
    return PL_OK;
}

/* Every part that the loader would map lies within the file. */
static pl_status check_segments(const char *path, int file, const Elf64_Ehdr *h, uint64_t size,
                                pl_error *err) {
    enum { MOST = 64 };
    Elf64_Phdr segments[MOST];
    size_t n = h->e_phnum, bytes = n * sizeof *segments;
    if (n < 1 || n > MOST || h->e_phentsize != sizeof *segments || h->e_phoff > size ||
        bytes > size - h->e_phoff)
        return pl_fail(err, PL_ERR_FORMAT,
                       "%s: a damaged library: %zu segments at %llu of %llu bytes", path, n,
                       (unsigned long long)h->e_phoff, (unsigned long long)size);
    if (pread(file, segments, bytes, (off_t)h->e_phoff) != (ssize_t)bytes)
        return pl_fail(err, PL_ERR_IO, "%s: cannot be read", path);
    bool dynamic = false;
    for (size_t i = 0; i < n; i++) {
        const Elf64_Phdr *s = &segments[i];
        dynamic = dynamic || s->p_type == PT_DYNAMIC;
        if (s->p_type != PT_LOAD && s->p_type != PT_DYNAMIC) continue;
        if (s->p_offset > size || s->p_filesz > size - s->p_offset)
            return pl_fail(err, PL_ERR_FORMAT,
                           "%s: a library that was cut off: segment %zu ends at %llu of %llu bytes",
                           path, i, (unsigned long long)(s->p_offset + s->p_filesz),
                           (unsigned long long)size);
    }
    if (!dynamic) return pl_fail(err, PL_ERR_FORMAT, "%s: a library without a dynamic part", path);
    return PL_OK;
}

pl_status pl_elf_check(const char *path, int file, pl_error *err) {
    struct stat info;
    Elf64_Ehdr header;
    if (fstat(file, &info) != 0) return pl_fail(err, PL_ERR_IO, "%s: %s", path, strerror(errno));
    if (!S_ISREG(info.st_mode))
        return pl_fail(err, PL_ERR_FORMAT, "%s: %s, no shared library", path,
                       S_ISDIR(info.st_mode) ? "a folder" : "no file of bytes");
    ssize_t n = pread(file, &header, sizeof header, 0);
    if (n < 0) return pl_fail(err, PL_ERR_IO, "%s: %s", path, strerror(errno));
    if (n != sizeof header)
        return pl_fail(err, PL_ERR_FORMAT, "%s: no shared library: it has %zd bytes", path, n);
    pl_status status = check_kind(path, &header, err);
    return status == PL_OK ? check_segments(path, file, &header, (uint64_t)info.st_size, err)
                           : status;
}
