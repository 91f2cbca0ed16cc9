#include "map.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "error.h"

static const uint8_t empty_file[1];

/* What Git leaves in place of a large file that has not been fetched. */
static bool is_pointer(const pl_map *map) {
    static const char begin[] = "version https://git-lfs.github.com/spec/";
    size_t n = sizeof begin - 1;
    return map->size_bytes > n && map->size_bytes < 1024 && memcmp(map->data, begin, n) == 0;
}

pl_status pl_map_open(pl_map *map, const char *path, pl_error *err) {
    *map = (pl_map){0};
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    if (fd < 0) return pl_fail(err, PL_ERR_IO, "%s: %s", path, strerror(errno));

    pl_status status = PL_OK;
    struct stat info;
    if (fstat(fd, &info) != 0) {
        status = pl_fail(err, PL_ERR_IO, "%s: %s", path, strerror(errno));
    } else if (!S_ISREG(info.st_mode)) {
        status = pl_fail(err, PL_ERR_IO, "%s: not a regular file", path);
    } else if (info.st_size == 0) {
        map->data = empty_file;
    } else {
        void *data = mmap(NULL, (size_t)info.st_size, PROT_READ, MAP_SHARED, fd, 0);
        if (data == MAP_FAILED) {
            status = pl_fail(err, PL_ERR_IO, "%s: cannot be mapped: %s", path, strerror(errno));
        } else {
            *map = (pl_map){data, (size_t)info.st_size};
        }
    }
    close(fd);
    if (status == PL_OK && is_pointer(map)) {
        pl_map_close(map);
        status = pl_fail(err, PL_ERR_FORMAT,
                         "%s: is a pointer that Git LFS left, not the file itself; `git lfs pull` "
                         "there fetches it",
                         path);
    }
    return status;
}

void pl_map_close(pl_map *map) {
    if (map->data && map->size_bytes) munmap((void *)map->data, map->size_bytes);
    *map = (pl_map){0};
}
