/* What the suites of the file formats share. */
#ifndef PL_TESTS_FORMAT_FIXTURE_H
#define PL_TESTS_FORMAT_FIXTURE_H

#include "../../engine/base/buffer.h"

/* A new empty folder; removed with all in it by remove_folder, which frees the name. */
char *make_folder(void);
void remove_folder(char *folder);

/* folder/name, in one of a few static buffers taken in turn. */
const char *in_folder(const char *folder, const char *name);

/* A path below the reference data, in the same static buffers; NULL where it does not exist. */
const char *reference_path(const char *name);

void write_bytes(const char *path, const void *bytes, size_t n);
pl_buffer read_bytes(const char *path);

/* Feeds target the file cut at every length (of large files at some), and with single bits
 * flipped. It must neither crash nor leak; the sanitizers watch. */
void feed_damaged(int (*target)(const uint8_t *, size_t), const uint8_t *bytes, size_t n);

#endif
