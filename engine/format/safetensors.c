#include "safetensors.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "../base/error.h"
#include "../base/map.h"
#include "../base/size.h"
#include "json.h"

/* Every type of the format, with its bytes; dtype -1 is known by size only. */
typedef struct type_info {
    const char *name;
    int dtype;
    size_t bytes;
} type_info;

static const type_info types[] = {
    {"F32", PL_F32, 4}, {"F16", PL_F16, 2}, {"BF16", PL_BF16, 2}, {"I32", PL_I32, 4},
    {"I64", PL_I64, 8}, {"F64", -1, 8},     {"I16", -1, 2},       {"I8", -1, 1},
    {"U8", -1, 1},      {"BOOL", -1, 1},    {"U16", -1, 2},       {"U32", -1, 4},
    {"U64", -1, 8},     {"C64", -1, 8},     {"F8_E4M3", -1, 1},   {"F8_E5M2", -1, 1},
    {"F8_E8M0", -1, 1},
};

typedef struct named_tensor {
    char *name;
    const type_info *type;
    int n_dims;
    int64_t shape[PL_MAX_DIMS];
    const uint8_t *data;
    size_t bytes;
    void *copy; /* where data is not aligned to its elements, made when first asked for */
} named_tensor;

struct pl_safetensors {
    char *path;
    named_tensor *tensors; /* sorted by name */
    size_t n_tensors;
    pl_map *parts;
    size_t n_parts, bytes;
    json_t *metadata; /* texts by key, of all parts */
};

static pl_status new_file(pl_safetensors **out, const char *path, pl_error *err) {
    pl_safetensors *file = calloc(1, sizeof *file);
    if (file) file->path = strdup(path);
    if (!file || !file->path) {
        free(file);
        return pl_fail(err, PL_ERR_MEMORY, "out of memory");
    }
    *out = file;
    return PL_OK;
}

void pl_safetensors_close(pl_safetensors *file) {
    if (!file) return;
    for (size_t i = 0; i < file->n_tensors; i++) {
        free(file->tensors[i].name);
        free(file->tensors[i].copy);
    }
    for (size_t i = 0; i < file->n_parts; i++) pl_map_close(&file->parts[i]);
    json_decref(file->metadata);
    free(file->parts);
    free(file->tensors);
    free(file->path);
    free(file);
}

/* -- the header ----------------------------------------------------------------------------- */

typedef struct part {
    const char *path, *name; /* of the file, and of the tensor being read */
    const uint8_t *data;     /* the data section */
    size_t size;
    pl_error *err;
} part;

static pl_status bad(const part *p, const char *what) {
    return pl_fail(p->err, PL_ERR_FORMAT, "%s: tensor '%.80s': %s", p->path, p->name, what);
}

static pl_status read_dtype(const part *p, const json_t *entry, named_tensor *t) {
    const char *dtype = json_string_value(json_object_get(entry, "dtype"));
    if (!dtype || strlen(dtype) != json_string_length(json_object_get(entry, "dtype"))) {
        return bad(p, "dtype: expected a string");
    }
    for (size_t i = 0; i < sizeof types / sizeof *types; i++) {
        if (strcmp(types[i].name, dtype) == 0) t->type = &types[i];
    }
    if (t->type) return PL_OK;
    return pl_fail(p->err, PL_ERR_UNSUPPORTED, "%s: tensor '%.80s': unknown dtype '%.20s'", p->path,
                   p->name, dtype);
}

static pl_status read_shape(const part *p, const json_t *entry, named_tensor *t, size_t *bytes) {
    const json_t *shape = json_object_get(entry, "shape");
    if (!json_is_array(shape)) return bad(p, "shape: expected a list");
    if (json_array_size(shape) > PL_MAX_DIMS) return bad(p, "shape: too many dimensions");
    t->n_dims = (int)json_array_size(shape);
    *bytes = t->type->bytes;
    for (int i = 0; i < t->n_dims; i++) {
        const json_t *size = json_array_get(shape, (size_t)i);
        t->shape[i] = json_integer_value(size);
        if (!json_is_integer(size) || t->shape[i] < 0) {
            return bad(p, "shape: expected whole numbers from 0");
        }
        if (!pl_size_mul(bytes, *bytes, (size_t)t->shape[i])) return bad(p, "shape: too large");
    }
    return PL_OK;
}

static pl_status read_offsets(const part *p, const json_t *entry, named_tensor *t) {
    const json_t *offsets = json_object_get(entry, "data_offsets");
    const json_t *first = json_array_get(offsets, 0), *last = json_array_get(offsets, 1);
    if (json_array_size(offsets) != 2 || !json_is_integer(first) || !json_is_integer(last)) {
        return bad(p, "data_offsets: expected two whole numbers");
    }
    json_int_t begin = json_integer_value(first), end = json_integer_value(last);
    if (begin < 0 || end < begin || (uint64_t)end > p->size) {
        return pl_fail(p->err, PL_ERR_FORMAT,
                       "%s: tensor '%.80s': data_offsets [%lld, %lld] lie outside the %zu bytes of "
                       "data: the file may have been cut off",
                       p->path, p->name, (long long)begin, (long long)end, p->size);
    }
    if ((size_t)(end - begin) != t->bytes) {
        return pl_fail(p->err, PL_ERR_FORMAT,
                       "%s: tensor '%.80s': data_offsets span %lld bytes, dtype and shape need %zu",
                       p->path, p->name, (long long)(end - begin), t->bytes);
    }
    t->data = p->data + begin;
    return PL_OK;
}

static pl_status read_entry(const part *p, const json_t *entry, named_tensor *t) {
    if (!json_is_object(entry)) return bad(p, "expected an object");
    pl_status status = read_dtype(p, entry, t);
    if (status == PL_OK) status = read_shape(p, entry, t, &t->bytes);
    if (status == PL_OK) status = read_offsets(p, entry, t);
    if (status == PL_OK && !(t->name = strdup(p->name))) {
        status = pl_fail(p->err, PL_ERR_MEMORY, "out of memory");
    }
    return status;
}

static pl_status read_metadata(pl_safetensors *file, const part *p, json_t *metadata) {
    const char *key;
    json_t *value;
    if (!json_is_object(metadata)) return bad(p, "expected an object");
    json_object_foreach(metadata, key, value) {
        if (!json_is_string(value)) return bad(p, "expected texts only");
    }
    if (!file->metadata) {
        file->metadata = json_incref(metadata);
    } else if (json_object_update_missing(file->metadata, metadata) != 0) {
        return pl_fail(p->err, PL_ERR_MEMORY, "out of memory");
    }
    return PL_OK;
}

static pl_status read_entries(pl_safetensors *file, part *p, json_t *header) {
    size_t most = file->n_tensors + json_object_size(header);
    named_tensor *tensors = realloc(file->tensors, (most ? most : 1) * sizeof *tensors);
    if (!tensors) return pl_fail(p->err, PL_ERR_MEMORY, "out of memory for %zu tensors", most);
    file->tensors = tensors;
    json_t *entry;
    json_object_foreach(header, p->name, entry) {
        named_tensor t = {0};
        bool metadata = strcmp(p->name, "__metadata__") == 0;
        pl_status status = metadata ? read_metadata(file, p, entry) : read_entry(p, entry, &t);
        if (status != PL_OK) return status;
        if (!metadata) tensors[file->n_tensors++] = t;
    }
    return PL_OK;
}

static pl_status read_part(pl_safetensors *file, const uint8_t *data, size_t size, const char *path,
                           pl_error *err) {
    uint64_t length;
    if (size < sizeof length) {
        return pl_fail(err, PL_ERR_FORMAT, "%s: %zu bytes are too few for a safetensors file", path,
                       size);
    }
    memcpy(&length, data, sizeof length);
    if (length > size - sizeof length && !(size > sizeof length && data[sizeof length] == '{')) {
        return pl_fail(err, PL_ERR_FORMAT, "%s: is neither a GGUF nor a safetensors file", path);
    }
    if (length > size - sizeof length) {
        return pl_fail(err, PL_ERR_FORMAT,
                       "%s: the header claims %llu bytes, the file has %zu more", path,
                       (unsigned long long)length, size - sizeof length);
    }
    json_t *header;
    pl_status status =
        pl_json_parse(&header, (const char *)data + sizeof length, (size_t)length, path, err);
    if (status != PL_OK) return status;
    size_t start = sizeof length + (size_t)length;
    part p = {.path = path, .data = data + start, .size = size - start, .err = err};
    status = read_entries(file, &p, header);
    json_decref(header);
    file->bytes += size;
    return status;
}

/* -- the whole ------------------------------------------------------------------------------ */

static int compare_names(const void *a, const void *b) {
    return strcmp(((const named_tensor *)a)->name, ((const named_tensor *)b)->name);
}

static int compare_places(const void *a, const void *b) {
    const uint8_t *x = (*(const named_tensor *const *)a)->data;
    const uint8_t *y = (*(const named_tensor *const *)b)->data;
    return (x > y) - (x < y);
}

static pl_status check_overlaps(const pl_safetensors *file, pl_error *err) {
    size_t n = 0;
    const named_tensor **by_place = malloc((file->n_tensors + 1) * sizeof *by_place);
    if (!by_place) return pl_fail(err, PL_ERR_MEMORY, "out of memory");
    for (size_t i = 0; i < file->n_tensors; i++) {
        if (file->tensors[i].bytes) by_place[n++] = &file->tensors[i];
    }
    qsort(by_place, n, sizeof *by_place, compare_places);
    pl_status status = PL_OK;
    for (size_t i = 1; i < n && status == PL_OK; i++) {
        const named_tensor *a = by_place[i - 1], *b = by_place[i];
        if (a->data + a->bytes > b->data) {
            status = pl_fail(err, PL_ERR_FORMAT, "%s: tensors '%.80s' and '%.80s' overlap",
                             file->path, a->name, b->name);
        }
    }
    free(by_place);
    return status;
}

static pl_status settle(pl_safetensors *file, pl_error *err) {
    if (file->n_tensors) {
        qsort(file->tensors, file->n_tensors, sizeof *file->tensors, compare_names);
    }
    for (size_t i = 1; i < file->n_tensors; i++) {
        if (compare_names(&file->tensors[i - 1], &file->tensors[i]) == 0) {
            return pl_fail(err, PL_ERR_FORMAT, "%s: tensor '%.80s' stands there twice", file->path,
                           file->tensors[i].name);
        }
    }
    return check_overlaps(file, err);
}

pl_status pl_safetensors_parse(pl_safetensors **out, const uint8_t *data, size_t size,
                               const char *name, pl_error *err) {
    pl_safetensors *file;
    pl_status status = new_file(&file, name, err);
    if (status != PL_OK) return status;
    status = read_part(file, data, size, name, err);
    if (status == PL_OK) status = settle(file, err);
    if (status != PL_OK) {
        pl_safetensors_close(file);
        return status;
    }
    *out = file;
    return PL_OK;
}

static pl_status open_part(pl_safetensors *file, const char *path, pl_error *err) {
    pl_map *parts = realloc(file->parts, (file->n_parts + 1) * sizeof *parts);
    if (!parts) return pl_fail(err, PL_ERR_MEMORY, "out of memory");
    file->parts = parts;
    pl_status status = pl_map_open(&parts[file->n_parts], path, err);
    if (status != PL_OK) return status;
    const pl_map *map = &parts[file->n_parts++];
    return read_part(file, map->data, map->size_bytes, path, err);
}

/* Opens every file that the index names, once each, in its own folder. */
static pl_status open_listed(pl_safetensors *file, const json_t *index, pl_error *err) {
    json_t *map = json_object_get(index, "weight_map"), *opened = json_object();
    const char *tensor;
    json_t *value;
    pl_status status = PL_OK;
    if (!json_is_object(map) || !opened) {
        json_decref(opened);
        return pl_fail(err, PL_ERR_FORMAT, "%s: weight_map: expected an object", file->path);
    }
    const char *slash = strrchr(file->path, '/');
    int folder = slash ? (int)(slash - file->path + 1) : 0;
    json_object_foreach(map, tensor, value) {
        const char *name = json_string_value(value);
        char path[4096];
        if (!name || !*name || strchr(name, '/') || strlen(name) != json_string_length(value)) {
            status = pl_fail(err, PL_ERR_FORMAT, "%s: weight_map: '%.80s': expected a file name",
                             file->path, tensor);
            break;
        }
        if (json_object_get(opened, name)) continue;
        int n = snprintf(path, sizeof path, "%.*s%s", folder, file->path, name);
        if (n < 0 || (size_t)n >= sizeof path || json_object_set_new(opened, name, json_true())) {
            status = pl_fail(err, PL_ERR_FORMAT, "%s: a file name too long", file->path);
            break;
        }
        status = open_part(file, path, err);
        if (status != PL_OK) break;
    }
    json_decref(opened);
    return status;
}

/* What the index promises must be there. */
static pl_status check_listed(const pl_safetensors *file, json_t *index, pl_error *err) {
    json_t *map = json_object_get(index, "weight_map"), *value;
    const char *tensor;
    size_t i;
    json_object_foreach(map, tensor, value) {
        if (!pl_safetensors_find(file, tensor, &i)) {
            return pl_fail(err, PL_ERR_FORMAT, "%s: tensor '%.80s' is not in '%.80s'", file->path,
                           tensor, json_string_value(value));
        }
    }
    return PL_OK;
}

static pl_status open_index(pl_safetensors *file, const char *path, pl_error *err) {
    json_t *index;
    pl_status status = pl_json_open(&index, path, err);
    if (status != PL_OK) return status;
    status = open_listed(file, index, err);
    if (status == PL_OK) status = settle(file, err);
    if (status == PL_OK) status = check_listed(file, index, err);
    json_decref(index);
    return status;
}

pl_status pl_safetensors_open(pl_safetensors **out, const char *path, pl_error *err) {
    pl_safetensors *file;
    pl_status status = new_file(&file, path, err);
    if (status != PL_OK) return status;
    size_t length = strlen(path);
    if (length >= 5 && strcmp(path + length - 5, ".json") == 0) {
        status = open_index(file, path, err);
    } else {
        status = open_part(file, path, err);
        if (status == PL_OK) status = settle(file, err);
    }
    if (status != PL_OK) {
        pl_safetensors_close(file);
        return status;
    }
    *out = file;
    return PL_OK;
}

size_t pl_safetensors_bytes(const pl_safetensors *file) {
    return file->bytes;
}

const char *pl_safetensors_metadata(const pl_safetensors *file, const char *key) {
    return json_string_value(json_object_get(file->metadata, key));
}

size_t pl_safetensors_n_tensors(const pl_safetensors *file) {
    return file->n_tensors;
}

const char *pl_safetensors_name(const pl_safetensors *file, size_t i) {
    return file->tensors[i].name;
}

bool pl_safetensors_find(const pl_safetensors *file, const char *name, size_t *index) {
    named_tensor wanted = {.name = (char *)name};
    if (!file->n_tensors) return false;
    const named_tensor *found =
        bsearch(&wanted, file->tensors, file->n_tensors, sizeof wanted, compare_names);
    if (found) *index = (size_t)(found - file->tensors);
    return found;
}

pl_status pl_safetensors_tensor(pl_safetensors *file, size_t i, pl_tensor *out, pl_error *err) {
    named_tensor *t = &file->tensors[i];
    if (t->type->dtype < 0) {
        return pl_fail(err, PL_ERR_UNSUPPORTED,
                       "%s: tensor '%.80s' has dtype %s, which perilune does not read", file->path,
                       t->name, t->type->name);
    }
    if ((uintptr_t)t->data % t->type->bytes && !t->copy) {
        t->copy = malloc(t->bytes ? t->bytes : 1);
        if (!t->copy) return pl_fail(err, PL_ERR_MEMORY, "out of memory: %zu bytes", t->bytes);
        memcpy(t->copy, t->data, t->bytes);
    }
    return pl_tensor_wrap(out, (pl_dtype)t->type->dtype, t->n_dims, t->shape,
                          t->copy ? t->copy : (void *)t->data, err);
}
