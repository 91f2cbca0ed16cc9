#include "outfile.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "../base/error.h"
#include "../base/size.h"

static void clear(pl_outfile *out) {
    free(out->path);
    free(out->temporary);
    *out = (pl_outfile){0};
}

/* Not mkstemp, whose files are for their owner alone: a result gets the rights of any new file. */
static pl_status create(pl_outfile *out, int *fd, pl_error *err) {
    enum { MOST_TRIES = 100 };
    *fd = -1;
    errno = EEXIST;
    for (int i = 0; i < MOST_TRIES && *fd < 0 && errno == EEXIST; i++) {
        free(out->temporary);
        if (asprintf(&out->temporary, "%s.%ld-%d.part", out->path, (long)getpid(), i) < 0) {
            out->temporary = NULL;
            return pl_fail(err, PL_ERR_MEMORY, "%s: out of memory", out->path);
        }
        *fd = open(out->temporary, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0666);
    }
    if (*fd >= 0) return PL_OK;
    return pl_fail(err, PL_ERR_IO, "%s: cannot be written: %s", out->path, strerror(errno));
}

pl_status pl_outfile_open(pl_outfile *out, const char *path, pl_error *err) {
    int fd = -1;
    struct stat info;
    *out = (pl_outfile){0};
    if (stat(path, &info) == 0 && !S_ISREG(info.st_mode))
        return pl_fail(err, PL_ERR_IO, "%s: cannot be written: %s", path,
                       S_ISDIR(info.st_mode) ? "it is a folder" : "it is a device, not a file");
    out->path = strdup(path);
    pl_status status =
        out->path ? create(out, &fd, err) : pl_fail(err, PL_ERR_MEMORY, "%s: out of memory", path);
    if (status == PL_OK && !(out->file = fdopen(fd, "wb"))) {
        status = pl_fail(err, PL_ERR_MEMORY, "%s: out of memory", path);
        close(fd);
        unlink(out->temporary);
    }
    if (status != PL_OK) clear(out);
    return status;
}

void pl_outfile_write(pl_outfile *out, const void *bytes, size_t n) {
    if (!out->file || out->error || n == 0) return;
    if (fwrite(bytes, 1, n, out->file) != n) {
        out->error = errno ? errno : EIO;
    } else {
        out->at += n;
    }
}

void pl_outfile_pad(pl_outfile *out, size_t alignment) {
    static const uint8_t zeros[64];
    size_t n = (size_t)(out->at % alignment ? alignment - out->at % alignment : 0);
    for (; n > sizeof zeros; n -= sizeof zeros) pl_outfile_write(out, zeros, sizeof zeros);
    pl_outfile_write(out, zeros, n);
}

/* The sub-tensor at dimension dim, its first element at data. */
static void write_from(pl_outfile *out, const pl_tensor *t, int dim, const char *data) {
    const pl_dtype_info *info = pl_dtype_get(t->dtype);
    if (dim == t->n_dims) {
        pl_outfile_write(out, data, info->block_bytes);
        return;
    }
    int64_t n = t->shape[dim], step = t->stride[dim];
    if (dim == t->n_dims - 1 && step == 1) {
        size_t blocks = (size_t)n / info->block_elements;
        pl_outfile_write(out, data, blocks * info->block_bytes);
        return;
    }
    for (int64_t i = 0; i < n && !out->error; i++) {
        int64_t elements = i * step;
        write_from(out, t, dim + 1,
                   data + elements / (int64_t)info->block_elements * (int64_t)info->block_bytes);
    }
}

void pl_outfile_tensor(pl_outfile *out, const pl_tensor *t) {
    if (pl_tensor_contiguous(t)) {
        const pl_dtype_info *info = pl_dtype_get(t->dtype);
        size_t blocks = (size_t)pl_tensor_count(t) / info->block_elements;
        pl_outfile_write(out, t->data, blocks * info->block_bytes);
    } else if (pl_tensor_count(t)) {
        write_from(out, t, 0, t->data);
    }
}

/* Makes the new name itself last; a folder that cannot be synced is no failure of the file. */
static void sync_folder(const char *path) {
    char *folder = strdup(path);
    if (!folder) return;
    char *slash = strrchr(folder, '/');
    if (slash) slash[slash == folder ? 1 : 0] = 0;
    int fd = open(slash ? folder : ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (fd >= 0) {
        fsync(fd);
        close(fd);
    }
    free(folder);
}

pl_status pl_outfile_commit(pl_outfile *out, pl_error *err) {
    if (!out->file) return pl_fail(err, PL_ERR_STATE, "the file is closed");
    if (!out->error && (fflush(out->file) != 0 || fsync(fileno(out->file)) != 0)) {
        out->error = errno;
    }
    if (fclose(out->file) != 0 && !out->error) out->error = errno;
    if (!out->error && rename(out->temporary, out->path) != 0) out->error = errno;
    pl_status status = PL_OK;
    if (out->error) {
        status =
            pl_fail(err, PL_ERR_IO, "%s: cannot be written: %s", out->path, strerror(out->error));
        unlink(out->temporary);
    } else {
        sync_folder(out->path);
    }
    clear(out);
    return status;
}

void pl_outfile_abort(pl_outfile *out) {
    if (out->file) {
        fclose(out->file);
        unlink(out->temporary);
    }
    clear(out);
}
