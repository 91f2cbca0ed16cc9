#include "gguf.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "../base/error.h"
#include "../base/map.h"
#include "../base/size.h"

/* The kinds that ggml numbers; the ones without a dtype are known by name only. */
typedef struct type_info {
    const char *name;
    int dtype; /* -1: perilune does not read it */
} type_info;

static const type_info types[] = {
    [0] = {"f32", PL_F32},    [1] = {"f16", PL_F16},    [2] = {"q4_0", PL_Q4_0},
    [3] = {"q4_1", PL_Q4_1},  [6] = {"q5_0", PL_Q5_0},  [7] = {"q5_1", PL_Q5_1},
    [8] = {"q8_0", PL_Q8_0},  [9] = {"q8_1", -1},       [10] = {"q2_k", PL_Q2_K},
    [11] = {"q3_k", PL_Q3_K}, [12] = {"q4_k", PL_Q4_K}, [13] = {"q5_k", PL_Q5_K},
    [14] = {"q6_k", PL_Q6_K}, [15] = {"q8_k", -1},      [16] = {"iq2_xxs", -1},
    [17] = {"iq2_xs", -1},    [18] = {"iq3_xxs", -1},   [19] = {"iq1_s", -1},
    [20] = {"iq4_nl", -1},    [21] = {"iq3_s", -1},     [22] = {"iq2_s", -1},
    [23] = {"iq4_xs", -1},    [24] = {"i8", -1},        [25] = {"i16", -1},
    [26] = {"i32", PL_I32},   [27] = {"i64", PL_I64},   [28] = {"f64", -1},
    [29] = {"iq1_m", -1},     [30] = {"bf16", PL_BF16},
};
enum { N_TYPES = sizeof types / sizeof *types, MAX_PARTS = 1024, MAX_DEPTH = 4, MAX_GGUF_DIMS = 4 };

typedef struct gguf_tensor {
    pl_gguf_string name;
    uint32_t type;
    int n_dims;
    uint64_t shape[MAX_GGUF_DIMS]; /* innermost first, as in the file */
    const uint8_t *data;           /* NULL for types that perilune does not read */
} gguf_tensor;

struct pl_gguf {
    char *path;
    uint32_t version;
    pl_gguf_value *values;        /* of the first part */
    const pl_gguf_value **by_key; /* [n_values], sorted by key */
    size_t n_values;
    gguf_tensor *tensors; /* of all parts, in the order of the files */
    size_t n_tensors;
    size_t *by_name; /* [n_tensors] indices, sorted by name */
    pl_map *parts;
    size_t n_parts, bytes;
};

/* -- reading bytes -------------------------------------------------------------------------- */

typedef struct reader {
    const char *path;
    const uint8_t *data;
    size_t size, at;
    pl_error *err;
} reader;

static pl_status cut_short(const reader *r, const char *field) {
    return pl_fail(r->err, PL_ERR_FORMAT, "%s: the file ends inside %s, at byte %zu", r->path,
                   field, r->at);
}

static pl_status read_u32(reader *r, uint32_t *out, const char *field) {
    if (r->size - r->at < sizeof *out) return cut_short(r, field);
    memcpy(out, r->data + r->at, sizeof *out);
    r->at += sizeof *out;
    return PL_OK;
}

static pl_status read_u64(reader *r, uint64_t *out, const char *field) {
    if (r->size - r->at < sizeof *out) return cut_short(r, field);
    memcpy(out, r->data + r->at, sizeof *out);
    r->at += sizeof *out;
    return PL_OK;
}

static pl_status read_string(reader *r, pl_gguf_string *out, const char *field) {
    uint64_t length;
    pl_status status = read_u64(r, &length, field);
    if (status != PL_OK) return status;
    if (length > r->size - r->at) {
        return pl_fail(r->err, PL_ERR_FORMAT, "%s: %s claims %llu bytes, the file has %zu more",
                       r->path, field, (unsigned long long)length, r->size - r->at);
    }
    *out = (pl_gguf_string){(const char *)r->data + r->at, (size_t)length};
    r->at += (size_t)length;
    return PL_OK;
}

size_t pl_gguf_type_bytes(pl_gguf_type type) {
    static const uint8_t bytes[PL_GGUF_N_TYPES] = {1, 1, 2, 2, 4, 4, 4, 1, 0, 0, 8, 8, 8};
    return (unsigned)type < PL_GGUF_N_TYPES ? bytes[type] : 0;
}

const char *pl_gguf_type_name(pl_gguf_type type) {
    static const char *const names[PL_GGUF_N_TYPES] = {"u8",  "i8",  "u16",  "i16",    "u32",
                                                       "i32", "f32", "bool", "string", "array",
                                                       "u64", "i64", "f64"};
    return (unsigned)type < PL_GGUF_N_TYPES ? names[type] : "unknown";
}

static int text_length(pl_gguf_string s) {
    return (int)(s.size < 80 ? s.size : 80);
}

static pl_status skip_value(reader *r, pl_gguf_string key, uint32_t type, int depth);

static pl_status read_array_head(reader *r, pl_gguf_string key, uint32_t *element, uint64_t *n) {
    pl_status status = read_u32(r, element, "an array's type");
    if (status == PL_OK) status = read_u64(r, n, "an array's count");
    if (status != PL_OK) return status;
    if (*element >= PL_GGUF_N_TYPES) {
        return pl_fail(r->err, PL_ERR_FORMAT, "%s: key '%.*s': unknown element type %u", r->path,
                       text_length(key), key.data, *element);
    }
    size_t least = pl_gguf_type_bytes(*element) ? pl_gguf_type_bytes(*element)
                   : *element == PL_GGUF_STRING ? 8
                                                : 12;
    if (*n > (r->size - r->at) / least) {
        return pl_fail(r->err, PL_ERR_FORMAT,
                       "%s: key '%.*s' claims %llu elements, more than the file can hold", r->path,
                       text_length(key), key.data, (unsigned long long)*n);
    }
    return PL_OK;
}

static pl_status skip_elements(reader *r, pl_gguf_string key, uint32_t element, uint64_t n,
                               int depth) {
    if (pl_gguf_type_bytes(element)) {
        r->at += (size_t)n * pl_gguf_type_bytes(element); /* checked against the size above */
        return PL_OK;
    }
    pl_status status = PL_OK;
    for (uint64_t i = 0; i < n && status == PL_OK; i++) {
        status = skip_value(r, key, element, depth);
    }
    return status;
}

static pl_status skip_value(reader *r, pl_gguf_string key, uint32_t type, int depth) {
    if (type == PL_GGUF_STRING) {
        pl_gguf_string ignored;
        return read_string(r, &ignored, "a string");
    }
    if (type == PL_GGUF_ARRAY) {
        uint32_t element;
        uint64_t n;
        if (depth == MAX_DEPTH) {
            return pl_fail(r->err, PL_ERR_FORMAT, "%s: key '%.*s': arrays nested over %d deep",
                           r->path, text_length(key), key.data, MAX_DEPTH);
        }
        pl_status status = read_array_head(r, key, &element, &n);
        return status == PL_OK ? skip_elements(r, key, element, n, depth + 1) : status;
    }
    if (r->size - r->at < pl_gguf_type_bytes(type)) return cut_short(r, "a value");
    r->at += pl_gguf_type_bytes(type);
    return PL_OK;
}

static pl_status read_value(reader *r, pl_gguf_value *v) {
    uint32_t type;
    pl_status status = read_string(r, &v->key, "a key");
    if (status == PL_OK) status = read_u32(r, &type, "a value's type");
    if (status != PL_OK) return status;
    if (type >= PL_GGUF_N_TYPES) {
        return pl_fail(r->err, PL_ERR_FORMAT, "%s: key '%.*s': unknown type %u", r->path,
                       text_length(v->key), v->key.data, type);
    }
    v->type = v->element = (pl_gguf_type)type;
    v->n = 1;
    if (type == PL_GGUF_ARRAY) {
        uint32_t element;
        status = read_array_head(r, v->key, &element, &v->n);
        if (status != PL_OK) return status;
        v->element = (pl_gguf_type)element;
        v->data = r->data + r->at;
        status = skip_elements(r, v->key, element, v->n, 1);
    } else {
        v->data = r->data + r->at;
        status = skip_value(r, v->key, type, 0);
    }
    v->size = (size_t)(r->data + r->at - v->data);
    return status;
}

/* -- one part ------------------------------------------------------------------------------- */

static pl_status read_header(reader *r, uint32_t *version, uint64_t *n_tensors,
                             uint64_t *n_values) {
    uint32_t magic = 0;
    pl_status status = read_u32(r, &magic, "the header");
    if (status != PL_OK) return status;
    if (magic != 0x46554747) {
        return pl_fail(r->err, PL_ERR_FORMAT, "%s: not a GGUF file (it does not begin with 'GGUF')",
                       r->path);
    }
    status = read_u32(r, version, "the header");
    if (status != PL_OK) return status;
    if (*version == 0x02000000 || *version == 0x03000000) {
        return pl_fail(r->err, PL_ERR_UNSUPPORTED, "%s: a big-endian GGUF file", r->path);
    }
    if (*version != 2 && *version != 3) {
        return pl_fail(r->err, PL_ERR_UNSUPPORTED, "%s: GGUF version %u: expected 2 or 3", r->path,
                       *version);
    }
    status = read_u64(r, n_tensors, "the header");
    if (status == PL_OK) status = read_u64(r, n_values, "the header");
    if (status != PL_OK) return status;
    size_t left = r->size - r->at;
    if (*n_values > left / 13 || *n_tensors > left / 24) {
        return pl_fail(r->err, PL_ERR_FORMAT,
                       "%s: %llu keys and %llu tensors are more than %zu bytes can hold", r->path,
                       (unsigned long long)*n_values, (unsigned long long)*n_tensors, r->size);
    }
    return PL_OK;
}

/* The extents of a tensor; its place in the file is settled when the data section is known. */
static pl_status read_tensor_info(reader *r, gguf_tensor *t, uint64_t *offset) {
    uint32_t n_dims;
    pl_status status = read_string(r, &t->name, "a tensor's name");
    if (status == PL_OK) status = read_u32(r, &n_dims, "a tensor's dimensions");
    if (status != PL_OK) return status;
    if (n_dims > MAX_GGUF_DIMS) {
        return pl_fail(r->err, PL_ERR_FORMAT, "%s: tensor '%.*s': %u dimensions, at most %d",
                       r->path, text_length(t->name), t->name.data, n_dims, MAX_GGUF_DIMS);
    }
    t->n_dims = (int)n_dims;
    for (int i = 0; i < t->n_dims && status == PL_OK; i++) {
        status = read_u64(r, &t->shape[i], "a tensor's shape");
        if (status == PL_OK && t->shape[i] > INT64_MAX) {
            return pl_fail(r->err, PL_ERR_FORMAT, "%s: tensor '%.*s': size %llu of dimension %d",
                           r->path, text_length(t->name), t->name.data,
                           (unsigned long long)t->shape[i], i);
        }
    }
    if (status == PL_OK) status = read_u32(r, &t->type, "a tensor's type");
    if (status == PL_OK) status = read_u64(r, offset, "a tensor's offset");
    return status;
}

static bool readable_type(uint32_t type) {
    return type < N_TYPES && types[type].name && types[type].dtype >= 0;
}

/* Finds a tensor's bytes in the data section [start, size). */
static pl_status place_tensor(const reader *r, gguf_tensor *t, uint64_t offset, size_t start,
                              size_t alignment) {
    if (!readable_type(t->type)) return PL_OK; /* refused when asked for */
    size_t bytes, n_rows = 1, width = t->n_dims ? (size_t)t->shape[0] : 1;
    bool fits = pl_dtype_row_bytes((pl_dtype)types[t->type].dtype, width, &bytes);
    if (!fits) {
        return pl_fail(r->err, PL_ERR_FORMAT, "%s: tensor '%.*s': rows of %zu elements of type %s",
                       r->path, text_length(t->name), t->name.data, width, types[t->type].name);
    }
    for (int i = 1; i < t->n_dims && fits; i++) {
        fits = pl_size_mul(&n_rows, n_rows, (size_t)t->shape[i]);
    }
    fits = fits && pl_size_mul(&bytes, bytes, n_rows);
    size_t room = start < r->size ? r->size - start : 0;
    if (!fits || offset > room || bytes > room - offset) {
        return pl_fail(r->err, PL_ERR_FORMAT,
                       "%s: tensor '%.*s' lies outside the file: offset %llu of a data section of "
                       "%zu bytes; the file may have been cut off",
                       r->path, text_length(t->name), t->name.data, (unsigned long long)offset,
                       room);
    }
    if (offset % alignment) {
        return pl_fail(r->err, PL_ERR_FORMAT,
                       "%s: tensor '%.*s': offset %llu is no multiple of %zu", r->path,
                       text_length(t->name), t->name.data, (unsigned long long)offset, alignment);
    }
    t->data = r->data + start + offset;
    return PL_OK;
}

static bool string_is(pl_gguf_string s, const char *text) {
    return strlen(text) == s.size && memcmp(s.data, text, s.size) == 0;
}

static const pl_gguf_value *find_value(const pl_gguf_value *values, size_t n, const char *key) {
    for (size_t i = 0; i < n; i++) {
        if (string_is(values[i].key, key)) return &values[i];
    }
    return NULL;
}

/* One whole number or bool as it lies in the file; false for other types, and over 2^63. */
static bool value_int(pl_gguf_type type, const uint8_t *data, int64_t *out) {
    size_t bytes = pl_gguf_type_bytes(type);
    if (!bytes || type == PL_GGUF_F32 || type == PL_GGUF_F64) return false;
    bool is_signed =
        type == PL_GGUF_I8 || type == PL_GGUF_I16 || type == PL_GGUF_I32 || type == PL_GGUF_I64;
    bool high = data[bytes - 1] & 0x80;
    uint64_t bits = is_signed && high ? UINT64_MAX : 0;
    memcpy(&bits, data, bytes);
    *out = (int64_t)bits;
    return is_signed || bits <= INT64_MAX;
}

static bool value_float(pl_gguf_type type, const uint8_t *data, double *out) {
    float x;
    int64_t whole;
    if (type == PL_GGUF_F64) {
        memcpy(out, data, sizeof *out);
    } else if (type == PL_GGUF_F32) {
        memcpy(&x, data, sizeof x);
        *out = (double)x;
    } else if (type != PL_GGUF_BOOL && value_int(type, data, &whole)) {
        *out = (double)whole;
    } else {
        return false;
    }
    return true;
}

static bool value_uint(const pl_gguf_value *v, uint64_t *out) {
    int64_t whole;
    if (!v || v->type == PL_GGUF_ARRAY || v->type == PL_GGUF_BOOL) return false;
    if (v->type == PL_GGUF_U64) {
        memcpy(out, v->data, sizeof *out);
        return true;
    }
    if (!value_int(v->type, v->data, &whole) || whole < 0) return false;
    *out = (uint64_t)whole;
    return true;
}

static pl_status find_alignment(const reader *r, const pl_gguf_value *values, size_t n_values,
                                size_t *alignment) {
    uint64_t value = 32;
    const pl_gguf_value *v = find_value(values, n_values, "general.alignment");
    if (v && (!value_uint(v, &value) || value < 8 || value > 1 << 20 || (value & (value - 1)))) {
        return pl_fail(r->err, PL_ERR_FORMAT,
                       "%s: general.alignment: expected a power of two from 8 to 2^20", r->path);
    }
    *alignment = (size_t)value;
    return PL_OK;
}

static pl_status sort_keys(const reader *r, const pl_gguf_value *values, size_t n,
                           const pl_gguf_value **sorted);

/* Room for n more tensors, cleared; NULL when memory is short. */
static gguf_tensor *grow_tensors(pl_gguf *gguf, size_t n) {
    size_t bytes;
    if (!pl_size_mul(&bytes, gguf->n_tensors + n, sizeof(gguf_tensor))) return NULL;
    gguf_tensor *tensors = realloc(gguf->tensors, bytes);
    if (!tensors) return NULL;
    gguf->tensors = tensors;
    memset(tensors + gguf->n_tensors, 0, n * sizeof *tensors);
    return tensors + gguf->n_tensors;
}

static pl_status read_values(reader *r, uint64_t n, pl_gguf_value **values,
                             const pl_gguf_value ***sorted) {
    *values = calloc(n ? (size_t)n : 1, sizeof **values);
    *sorted = calloc(n ? (size_t)n : 1, sizeof **sorted);
    if (!*values || !*sorted)
        return pl_fail(r->err, PL_ERR_MEMORY, "out of memory for %llu keys", (unsigned long long)n);
    pl_status status = PL_OK;
    for (uint64_t i = 0; i < n && status == PL_OK; i++) status = read_value(r, &(*values)[i]);
    return status == PL_OK ? sort_keys(r, *values, (size_t)n, *sorted) : status;
}

static pl_status read_tensors(reader *r, pl_gguf *gguf, uint64_t n, size_t alignment) {
    if (n == 0) return PL_OK;
    pl_status status = PL_OK;
    gguf_tensor *tensors = grow_tensors(gguf, (size_t)n);
    uint64_t *offsets = calloc((size_t)n, sizeof *offsets);
    if (!tensors || !offsets) {
        free(offsets);
        return pl_fail(r->err, PL_ERR_MEMORY, "out of memory for %zu tensors", (size_t)n);
    }
    for (uint64_t i = 0; i < n && status == PL_OK; i++) {
        status = read_tensor_info(r, &tensors[i], &offsets[i]);
    }
    size_t start = pl_size_align(r->at, alignment);
    for (uint64_t i = 0; i < n && status == PL_OK; i++) {
        status = place_tensor(r, &tensors[i], offsets[i], start, alignment);
    }
    free(offsets);
    if (status == PL_OK) gguf->n_tensors += (size_t)n;
    return status;
}

/* A later part says of itself which it is. */
static pl_status check_part(const reader *r, const pl_gguf_value *values, size_t n_values,
                            uint64_t number) {
    uint64_t said = 0;
    if (number == 0) return PL_OK;
    if (value_uint(find_value(values, n_values, "split.no"), &said) && said == number) return PL_OK;
    return pl_fail(r->err, PL_ERR_FORMAT, "%s: split.no: expected %llu", r->path,
                   (unsigned long long)number);
}

/* Adds the tensors of one part; the first part's keys become the file's. */
static pl_status read_part(pl_gguf *gguf, const uint8_t *data, size_t size, const char *path,
                           uint64_t number, pl_error *err) {
    reader r = {path, data, size, 0, err};
    uint64_t n_tensors = 0, n_values = 0;
    uint32_t version = 0;
    size_t alignment = 0;
    pl_gguf_value *values = NULL;
    const pl_gguf_value **sorted = NULL;
    pl_status status = read_header(&r, &version, &n_tensors, &n_values);
    if (status == PL_OK) status = read_values(&r, n_values, &values, &sorted);
    if (status == PL_OK) status = check_part(&r, values, (size_t)n_values, number);
    if (status == PL_OK) status = find_alignment(&r, values, (size_t)n_values, &alignment);
    if (status == PL_OK) status = read_tensors(&r, gguf, n_tensors, alignment);
    if (gguf->values) {
        free(values);
        free(sorted);
    } else {
        gguf->values = values;
        gguf->by_key = sorted;
        gguf->n_values = (size_t)n_values;
        gguf->version = version;
    }
    gguf->bytes += size;
    return status;
}

/* -- names ---------------------------------------------------------------------------------- */

static int compare_strings(pl_gguf_string a, pl_gguf_string b) {
    int order = memcmp(a.data, b.data, a.size < b.size ? a.size : b.size);
    return order ? order : (a.size > b.size) - (a.size < b.size);
}

static int compare_keys(const void *a, const void *b) {
    return compare_strings((*(const pl_gguf_value *const *)a)->key,
                           (*(const pl_gguf_value *const *)b)->key);
}

/* Keys that come twice are refused. */
static pl_status sort_keys(const reader *r, const pl_gguf_value *values, size_t n,
                           const pl_gguf_value **sorted) {
    for (size_t i = 0; i < n; i++) sorted[i] = &values[i];
    qsort(sorted, n, sizeof *sorted, compare_keys);
    for (size_t i = 1; i < n; i++) {
        if (compare_strings(sorted[i - 1]->key, sorted[i]->key) == 0) {
            return pl_fail(r->err, PL_ERR_FORMAT, "%s: key '%.*s' stands there twice", r->path,
                           text_length(sorted[i]->key), sorted[i]->key.data);
        }
    }
    return PL_OK;
}

static int compare_tensors(const void *a, const void *b, void *context) {
    const gguf_tensor *tensors = context;
    return compare_strings(tensors[*(const size_t *)a].name, tensors[*(const size_t *)b].name);
}

static pl_status sort_names(pl_gguf *gguf, pl_error *err) {
    size_t n = gguf->n_tensors;
    gguf->by_name = malloc((n ? n : 1) * sizeof *gguf->by_name);
    if (!gguf->by_name) return pl_fail(err, PL_ERR_MEMORY, "out of memory");
    for (size_t i = 0; i < n; i++) gguf->by_name[i] = i;
    if (n) qsort_r(gguf->by_name, n, sizeof *gguf->by_name, compare_tensors, gguf->tensors);
    for (size_t i = 1; i < n; i++) {
        pl_gguf_string name = gguf->tensors[gguf->by_name[i]].name;
        if (compare_strings(gguf->tensors[gguf->by_name[i - 1]].name, name) == 0) {
            return pl_fail(err, PL_ERR_FORMAT, "%s: tensor '%.*s' stands there twice", gguf->path,
                           text_length(name), name.data);
        }
    }
    return PL_OK;
}

bool pl_gguf_find_tensor(const pl_gguf *gguf, const char *name, size_t *index) {
    pl_gguf_string wanted = {name, strlen(name)};
    size_t low = 0, high = gguf->n_tensors;
    while (low < high) {
        size_t middle = low + (high - low) / 2;
        int order = compare_strings(gguf->tensors[gguf->by_name[middle]].name, wanted);
        if (order == 0) {
            *index = gguf->by_name[middle];
            return true;
        }
        if (order < 0)
            low = middle + 1;
        else
            high = middle;
    }
    return false;
}

/* -- opening -------------------------------------------------------------------------------- */

static pl_status gguf_new(pl_gguf **out, const char *path, pl_error *err) {
    pl_gguf *gguf = calloc(1, sizeof *gguf);
    if (gguf) gguf->path = strdup(path);
    if (!gguf || !gguf->path) {
        free(gguf);
        return pl_fail(err, PL_ERR_MEMORY, "out of memory");
    }
    *out = gguf;
    return PL_OK;
}

pl_status pl_gguf_parse(pl_gguf **out, const uint8_t *data, size_t size, const char *name,
                        pl_error *err) {
    pl_gguf *gguf;
    pl_status status = gguf_new(&gguf, name, err);
    if (status != PL_OK) return status;
    status = read_part(gguf, data, size, name, 0, err);
    if (status == PL_OK) status = sort_names(gguf, err);
    if (status != PL_OK) {
        pl_gguf_close(gguf);
        return status;
    }
    *out = gguf;
    return PL_OK;
}

static pl_status open_part(pl_gguf *gguf, const char *path, uint64_t number, pl_error *err) {
    pl_map *parts = realloc(gguf->parts, (gguf->n_parts + 1) * sizeof *parts);
    if (!parts) return pl_fail(err, PL_ERR_MEMORY, "out of memory");
    gguf->parts = parts;
    pl_status status = pl_map_open(&parts[gguf->n_parts], path, err);
    if (status != PL_OK) return status;
    const pl_map *map = &parts[gguf->n_parts++];
    return read_part(gguf, map->data, map->size_bytes, path, number, err);
}

/* Opens parts 2 to n, whose names follow from the first's: NAME-00001-of-0000N.gguf. */
static pl_status open_more_parts(pl_gguf *gguf, pl_error *err) {
    uint64_t count = 1, number = 0, n_tensors;
    pl_gguf_find_uint(gguf, "split.count", &count);
    pl_gguf_find_uint(gguf, "split.no", &number);
    if (count <= 1) return PL_OK;
    const char *path = gguf->path;
    size_t length = strlen(path), ending = strlen("-00001-of-00001.gguf");
    char expected[32];
    snprintf(expected, sizeof expected, "-%05u-of-%05u.gguf", 1u, (unsigned)(count % 100000));
    if (number != 0 || count > MAX_PARTS || length < ending ||
        strcmp(path + length - ending, expected) != 0) {
        return pl_fail(err, PL_ERR_FORMAT, "%s: part %llu of %llu: open the first, named ...%s",
                       path, (unsigned long long)number + 1, (unsigned long long)count, expected);
    }
    for (uint64_t i = 2; i <= count; i++) {
        char *part = malloc(length + 1);
        if (!part) return pl_fail(err, PL_ERR_MEMORY, "out of memory");
        memcpy(part, path, length - ending);
        snprintf(part + length - ending, ending + 1, "-%05u-of-%05u.gguf", (unsigned)i,
                 (unsigned)count);
        pl_status status = open_part(gguf, part, i - 1, err);
        free(part);
        if (status != PL_OK) return status;
    }
    if (pl_gguf_find_uint(gguf, "split.tensors.count", &n_tensors) &&
        n_tensors != gguf->n_tensors) {
        return pl_fail(err, PL_ERR_FORMAT, "%s: split.tensors.count = %llu, the parts hold %zu",
                       path, (unsigned long long)n_tensors, gguf->n_tensors);
    }
    return PL_OK;
}

pl_status pl_gguf_open(pl_gguf **out, const char *path, pl_error *err) {
    pl_gguf *gguf;
    pl_status status = gguf_new(&gguf, path, err);
    if (status != PL_OK) return status;
    status = open_part(gguf, path, 0, err);
    if (status == PL_OK) status = open_more_parts(gguf, err);
    if (status == PL_OK) status = sort_names(gguf, err);
    if (status != PL_OK) {
        pl_gguf_close(gguf);
        return status;
    }
    *out = gguf;
    return PL_OK;
}

void pl_gguf_close(pl_gguf *gguf) {
    if (!gguf) return;
    for (size_t i = 0; i < gguf->n_parts; i++) pl_map_close(&gguf->parts[i]);
    free(gguf->parts);
    free(gguf->by_name);
    free(gguf->tensors);
    free(gguf->values);
    free(gguf->by_key);
    free(gguf->path);
    free(gguf);
}

/* -- looking -------------------------------------------------------------------------------- */

uint32_t pl_gguf_version(const pl_gguf *gguf) {
    return gguf->version;
}

const char *pl_gguf_path(const pl_gguf *gguf) {
    return gguf->path;
}

size_t pl_gguf_bytes(const pl_gguf *gguf) {
    return gguf->bytes;
}

size_t pl_gguf_n_values(const pl_gguf *gguf) {
    return gguf->n_values;
}

const pl_gguf_value *pl_gguf_value_at(const pl_gguf *gguf, size_t i) {
    return &gguf->values[i];
}

const pl_gguf_value *pl_gguf_find(const pl_gguf *gguf, const char *key) {
    pl_gguf_value wanted = {.key = {key, strlen(key)}};
    const pl_gguf_value *target = &wanted;
    const pl_gguf_value **found =
        bsearch(&target, gguf->by_key, gguf->n_values, sizeof target, compare_keys);
    return found ? *found : NULL;
}

bool pl_gguf_find_uint(const pl_gguf *gguf, const char *key, uint64_t *out) {
    return value_uint(pl_gguf_find(gguf, key), out);
}

bool pl_gguf_find_float(const pl_gguf *gguf, const char *key, double *out) {
    const pl_gguf_value *v = pl_gguf_find(gguf, key);
    return v && v->type != PL_GGUF_ARRAY && value_float(v->type, v->data, out);
}

bool pl_gguf_find_bool(const pl_gguf *gguf, const char *key, bool *out) {
    const pl_gguf_value *v = pl_gguf_find(gguf, key);
    if (!v || v->type != PL_GGUF_BOOL) return false;
    *out = v->data[0] != 0;
    return true;
}

bool pl_gguf_find_string(const pl_gguf *gguf, const char *key, pl_gguf_string *out) {
    const pl_gguf_value *v = pl_gguf_find(gguf, key);
    if (!v || v->type != PL_GGUF_STRING) return false;
    *out = (pl_gguf_string){(const char *)v->data + 8, v->size - 8};
    return true;
}

static pl_status missing(const pl_gguf *gguf, const char *key, pl_error *err) {
    return pl_fail(err, PL_ERR_FORMAT, "%s: key '%s' is missing", gguf->path, key);
}

/* The end of every typed reader: absent is fine, another kind is not. */
static pl_status checked(const pl_gguf *gguf, const char *key, bool found, const char *expected,
                         pl_error *err) {
    const pl_gguf_value *v = found ? NULL : pl_gguf_find(gguf, key);
    if (!v) return PL_OK;
    double number;
    if (pl_gguf_find_float(gguf, key, &number)) {
        return pl_fail(err, PL_ERR_FORMAT, "%s: key '%s' = %g: expected %s", gguf->path, key,
                       number, expected);
    }
    return pl_fail(err, PL_ERR_FORMAT, "%s: key '%s' is of type %s: expected %s", gguf->path, key,
                   pl_gguf_type_name(v->type), expected);
}

pl_status pl_gguf_read_uint(const pl_gguf *gguf, const char *key, uint64_t *out, pl_error *err) {
    return checked(gguf, key, pl_gguf_find_uint(gguf, key, out), "a whole number from 0", err);
}

pl_status pl_gguf_read_float(const pl_gguf *gguf, const char *key, double *out, pl_error *err) {
    return checked(gguf, key, pl_gguf_find_float(gguf, key, out), "a number", err);
}

pl_status pl_gguf_read_bool(const pl_gguf *gguf, const char *key, bool *out, pl_error *err) {
    return checked(gguf, key, pl_gguf_find_bool(gguf, key, out), "a bool", err);
}

pl_status pl_gguf_read_string(const pl_gguf *gguf, const char *key, pl_gguf_string *out,
                              pl_error *err) {
    return checked(gguf, key, pl_gguf_find_string(gguf, key, out), "a string", err);
}

pl_status pl_gguf_get_uint(const pl_gguf *gguf, const char *key, uint64_t *out, pl_error *err) {
    if (!pl_gguf_find(gguf, key)) return missing(gguf, key, err);
    return pl_gguf_read_uint(gguf, key, out, err);
}

pl_status pl_gguf_get_string(const pl_gguf *gguf, const char *key, pl_gguf_string *out,
                             pl_error *err) {
    if (!pl_gguf_find(gguf, key)) return missing(gguf, key, err);
    return pl_gguf_read_string(gguf, key, out, err);
}

bool pl_gguf_string_is(pl_gguf_string s, const char *text) {
    return string_is(s, text);
}

bool pl_gguf_array_f32s(const pl_gguf_value *value, float *out) {
    size_t step = pl_gguf_type_bytes(value->element);
    if (value->type != PL_GGUF_ARRAY || !step) return false;
    for (size_t i = 0; i < value->n; i++) {
        double x;
        if (!value_float(value->element, value->data + i * step, &x)) return false;
        out[i] = (float)x;
    }
    return true;
}

bool pl_gguf_array_i32s(const pl_gguf_value *value, int32_t *out) {
    size_t step = pl_gguf_type_bytes(value->element);
    if (value->type != PL_GGUF_ARRAY || !step) return false;
    for (size_t i = 0; i < value->n; i++) {
        int64_t x;
        if (!value_int(value->element, value->data + i * step, &x)) return false;
        if (x < INT32_MIN || x > INT32_MAX) return false;
        out[i] = (int32_t)x;
    }
    return true;
}

const pl_gguf_value *pl_gguf_find_array(const pl_gguf *gguf, const char *key,
                                        pl_gguf_type element) {
    const pl_gguf_value *v = pl_gguf_find(gguf, key);
    return v && v->type == PL_GGUF_ARRAY && v->element == element ? v : NULL;
}

bool pl_gguf_next_string(const pl_gguf_value *value, const uint8_t **at, pl_gguf_string *out) {
    if (value->element != PL_GGUF_STRING || *at >= value->data + value->size) return false;
    uint64_t length;
    memcpy(&length, *at, sizeof length);
    *out = (pl_gguf_string){(const char *)*at + 8, (size_t)length};
    *at += 8 + length;
    return true;
}

size_t pl_gguf_n_tensors(const pl_gguf *gguf) {
    return gguf->n_tensors;
}

pl_gguf_string pl_gguf_tensor_name(const pl_gguf *gguf, size_t i) {
    return gguf->tensors[i].name;
}

pl_status pl_gguf_tensor(const pl_gguf *gguf, size_t i, pl_tensor *out, pl_error *err) {
    const gguf_tensor *t = &gguf->tensors[i];
    if (!t->data) {
        bool known = t->type < N_TYPES && types[t->type].name;
        return pl_fail(err, PL_ERR_UNSUPPORTED,
                       "%s: tensor '%.*s' has type %u%s%s%s, which perilune "
                       "does not read",
                       gguf->path, text_length(t->name), t->name.data, t->type, known ? " (" : "",
                       known ? types[t->type].name : "", known ? ")" : "");
    }
    int64_t shape[MAX_GGUF_DIMS];
    for (int d = 0; d < t->n_dims; d++) shape[d] = (int64_t)t->shape[t->n_dims - 1 - d];
    return pl_tensor_wrap(out, (pl_dtype)types[t->type].dtype, t->n_dims, shape, (void *)t->data,
                          err);
}

uint32_t pl_gguf_dtype_number(pl_dtype dtype) {
    uint32_t number = 0;
    while (!readable_type(number) || types[number].dtype != (int)dtype) number++;
    return number;
}

bool pl_gguf_dtype(uint32_t number, pl_dtype *out) {
    if (!readable_type(number)) return false;
    *out = (pl_dtype)types[number].dtype;
    return true;
}
