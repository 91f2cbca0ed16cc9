/* Whether a file is a shared library that this machine's loader may be shown: the loader itself
 * says little of a text file, and is killed by a library that was cut off. */
#ifndef PL_SAMPLE_ELF_CHECK_H
#define PL_SAMPLE_ELF_CHECK_H

#include "../perilune.h"

/* file: open for reading; path: its name, for messages.
 * Errors: PL_ERR_IO (cannot be read), PL_ERR_FORMAT (says what it is instead). */
pl_status pl_elf_check(const char *path, int file, pl_error *err);

#endif
