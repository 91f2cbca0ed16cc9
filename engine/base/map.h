/* Files mapped read-only into memory. Owner: whoever opened it; views must not outlive it. */
#ifndef PL_BASE_MAP_H
#define PL_BASE_MAP_H

#include "../perilune.h"

typedef struct pl_map {
    const uint8_t *data; /* NULL when closed; an empty file has a non-NULL data and size 0 */
    size_t size_bytes;
} pl_map;

/* Errors: PL_ERR_IO with the path and the system's reason; a directory is refused. PL_ERR_FORMAT
 * for a Git LFS pointer, which stands for a file that has not been fetched. */
pl_status pl_map_open(pl_map *map, const char *path, pl_error *err);
void pl_map_close(pl_map *map);

#endif
