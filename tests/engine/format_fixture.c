#include "format_fixture.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <dirent.h>
#include <sys/stat.h>
#include <unistd.h>
#include <cmocka.h>

char *make_folder(void) {
    char *folder = strdup("/tmp/perilune-test-XXXXXX");
    assert_non_null(folder);
    assert_non_null(mkdtemp(folder));
    return folder;
}

static void remove_all(const char *path) {
    DIR *dir = opendir(path);
    for (const struct dirent *entry; dir && (entry = readdir(dir));) {
        char inner[4096];
        if (strcmp(entry->d_name, ".") == 0 || strcmp(entry->d_name, "..") == 0) continue;
        snprintf(inner, sizeof inner, "%s/%s", path, entry->d_name);
        if (unlink(inner) != 0) remove_all(inner);
    }
    if (dir) closedir(dir);
    rmdir(path);
}

void remove_folder(char *folder) {
    remove_all(folder);
    free(folder);
}

static char *next_buffer(size_t *size) {
    static char buffers[8][4096];
    static unsigned next;
    *size = sizeof *buffers;
    return buffers[next++ % 8];
}

const char *in_folder(const char *folder, const char *name) {
    size_t size;
    char *out = next_buffer(&size);
    snprintf(out, size, "%s/%s", folder, name);
    return out;
}

const char *reference_path(const char *name) {
    const char *root = getenv("PERILUNE_TEST_DATA");
    const char *path = in_folder(root ? root : "../shared/data", name);
    return access(path, R_OK) == 0 ? path : NULL;
}

void write_bytes(const char *path, const void *bytes, size_t n) {
    FILE *f = fopen(path, "wb");
    assert_non_null(f);
    assert_int_equal(fwrite(bytes, 1, n, f), n);
    assert_int_equal(fclose(f), 0);
}

pl_buffer read_bytes(const char *path) {
    pl_buffer b = {0};
    FILE *f = fopen(path, "rb");
    assert_non_null(f);
    uint8_t piece[4096];
    for (size_t n; (n = fread(piece, 1, sizeof piece, f)) > 0;) {
        assert_true(pl_buffer_append(&b, piece, n));
    }
    fclose(f);
    return b;
}

void feed_damaged(int (*target)(const uint8_t *, size_t), const uint8_t *bytes, size_t n) {
    size_t step = n > 8192 ? n / 1024 : 1;
    for (size_t cut = 0; cut <= n; cut += step) target(bytes, cut);
    uint8_t *copy = malloc(n ? n : 1);
    assert_non_null(copy);
    memcpy(copy, bytes, n);
    for (size_t bit = 0; bit < 8 * n; bit += bit < 8 * 2048 ? 1 : 8 * step + 1) {
        copy[bit / 8] ^= (uint8_t)(1 << bit % 8);
        target(copy, n);
        copy[bit / 8] ^= (uint8_t)(1 << bit % 8);
    }
    free(copy);
}
