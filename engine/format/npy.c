#include "npy.h"

#include <ctype.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "../base/error.h"
#include "../base/map.h"
#include "../base/size.h"
#include "outfile.h"

_Static_assert(__BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__, "files hold little-endian numbers");

static const char magic[] = "\x93NUMPY";
enum { MAGIC_SIZE = 6, ALIGNMENT = 64 };

/* How one type of the file becomes one of ours. */
typedef struct type_info {
    const char *descr; /* without the mark of the byte order */
    size_t bytes;
    pl_dtype dtype;
    bool widened; /* the elements are converted one by one */
} type_info;

static const type_info types[] = {
    {"f4", 4, PL_F32, false}, {"f2", 2, PL_F16, false}, {"i4", 4, PL_I32, false},
    {"i8", 8, PL_I64, false}, {"f8", 8, PL_F32, true},  {"u1", 1, PL_I32, true},
    {"i1", 1, PL_I32, true},  {"u2", 2, PL_I32, true},  {"i2", 2, PL_I32, true},
    {"b1", 1, PL_I32, true},
};

/* -- the header: a dictionary as Python writes it ------------------------------------------- */

typedef struct header {
    const char *source;
    const char *at, *end;
    const type_info *type;
    bool fortran;
    int n_dims; /* -1 until the shape was seen */
    int64_t shape[PL_MAX_DIMS];
    pl_error *err;
} header;

static pl_status bad(const header *h, const char *what) {
    return pl_fail(h->err, PL_ERR_FORMAT, "%s: %s", h->source, what);
}

static void skip_space(header *h) {
    while (h->at < h->end && isspace((unsigned char)*h->at)) h->at++;
}

static bool take(header *h, char c) {
    skip_space(h);
    if (h->at == h->end || *h->at != c) return false;
    h->at++;
    return true;
}

static bool take_word(header *h, const char *word) {
    size_t n = strlen(word);
    skip_space(h);
    if ((size_t)(h->end - h->at) < n || memcmp(h->at, word, n) != 0) return false;
    h->at += n;
    return true;
}

/* A text in single or double quotes; escapes do not occur in these headers. */
static bool take_text(header *h, const char **text, size_t *n) {
    skip_space(h);
    if (h->at == h->end || (*h->at != '\'' && *h->at != '"')) return false;
    const char *start = h->at + 1, *close = memchr(start, *h->at, (size_t)(h->end - start));
    if (!close) return false;
    *text = start;
    *n = (size_t)(close - start);
    h->at = close + 1;
    return true;
}

static pl_status read_descr(header *h) {
    const char *descr;
    size_t n;
    if (h->type) return bad(h, "descr stands there twice");
    if (!take_text(h, &descr, &n)) {
        return pl_fail(h->err, PL_ERR_UNSUPPORTED, "%s: descr is no simple type", h->source);
    }
    for (size_t i = 0; i < sizeof types / sizeof *types; i++) {
        bool order = n == 3 && (descr[0] == '<' || descr[0] == '|' || descr[0] == '=');
        if (order && memcmp(descr + 1, types[i].descr, 2) == 0) h->type = &types[i];
    }
    if (h->type) return PL_OK;
    return pl_fail(h->err, PL_ERR_UNSUPPORTED,
                   "%s: descr '%.*s': expected <f4, <f2, <f8, <i4, <i8 or a smaller integer",
                   h->source, n < 40 ? (int)n : 40, descr);
}

static pl_status read_shape(header *h) {
    if (h->n_dims >= 0) return bad(h, "shape stands there twice");
    if (!take(h, '(')) return bad(h, "shape: expected a tuple");
    for (h->n_dims = 0; !take(h, ')'); h->n_dims++) {
        if (h->n_dims == PL_MAX_DIMS) return bad(h, "shape: more than 8 dimensions");
        int64_t size = 0;
        skip_space(h);
        const char *digits = h->at;
        for (; h->at < h->end && isdigit((unsigned char)*h->at); h->at++) {
            if (__builtin_mul_overflow(size, 10, &size) ||
                __builtin_add_overflow(size, *h->at - '0', &size)) {
                return bad(h, "shape: a size too large");
            }
        }
        if (h->at == digits) return bad(h, "shape: expected whole numbers from 0");
        h->shape[h->n_dims] = size;
        skip_space(h);
        if (!take(h, ',') && (h->at == h->end || *h->at != ')')) {
            return bad(h, "shape: expected a tuple");
        }
    }
    return PL_OK;
}

static pl_status read_entry(header *h) {
    const char *key;
    size_t n;
    if (!take_text(h, &key, &n) || !take(h, ':')) return bad(h, "header: expected 'key': value");
    if (n == 5 && memcmp(key, "descr", n) == 0) return read_descr(h);
    if (n == 5 && memcmp(key, "shape", n) == 0) return read_shape(h);
    if (n == 13 && memcmp(key, "fortran_order", n) == 0) {
        h->fortran = take_word(h, "True");
        return h->fortran || take_word(h, "False")
                   ? PL_OK
                   : bad(h, "fortran_order: expected True or False");
    }
    return pl_fail(h->err, PL_ERR_FORMAT, "%s: header: unknown key '%.*s'", h->source,
                   n < 40 ? (int)n : 40, key);
}

static pl_status read_header(header *h) {
    if (!take(h, '{')) return bad(h, "header: expected a dictionary");
    while (!take(h, '}')) {
        pl_status status = read_entry(h);
        if (status != PL_OK) return status;
        skip_space(h);
        if (!take(h, ',') && (h->at == h->end || *h->at != '}')) {
            return bad(h, "header: expected a dictionary");
        }
    }
    if (!h->type) return bad(h, "header: descr is missing");
    if (h->n_dims < 0) return bad(h, "header: shape is missing");
    return PL_OK;
}

/* Sets [at, end) to the header's text; *data becomes where the elements begin. */
static pl_status find_header(header *h, const uint8_t *bytes, size_t size, size_t *data) {
    if (size < MAGIC_SIZE + 4 || memcmp(bytes, magic, MAGIC_SIZE) != 0) {
        return bad(h, "not a .npy file (it does not begin with \\x93NUMPY)");
    }
    uint8_t version = bytes[MAGIC_SIZE];
    if (version < 1 || version > 3) {
        return pl_fail(h->err, PL_ERR_UNSUPPORTED, "%s: .npy version %d: expected 1 to 3",
                       h->source, version);
    }
    size_t start = MAGIC_SIZE + (version == 1 ? 4 : 6);
    uint32_t length = bytes[8] | (uint32_t)bytes[9] << 8;
    if (version > 1 && size >= start) memcpy(&length, bytes + 8, sizeof length);
    if (size < start || length > size - start) {
        return pl_fail(h->err, PL_ERR_FORMAT,
                       "%s: the header claims %u bytes, more than the file has", h->source, length);
    }
    h->at = (const char *)bytes + start;
    h->end = h->at + length;
    *data = start + length;
    return PL_OK;
}

/* -- elements ------------------------------------------------------------------------------- */

static int32_t small_integer(const char *descr, const uint8_t *at) {
    uint16_t wide;
    memcpy(&wide, at, descr[1] == '2' ? 2 : 1);
    switch (descr[0]) {
    case 'u':
        return descr[1] == '2' ? wide : *at;
    case 'i':
        return descr[1] == '2' ? (int16_t)wide : (int8_t)*at;
    default:
        return *at != 0; /* b1 */
    }
}

static void read_element(void *out, const type_info *type, const uint8_t *at) {
    if (!type->widened) {
        memcpy(out, at, type->bytes);
    } else if (type->dtype == PL_F32) {
        double x;
        memcpy(&x, at, sizeof x);
        *(float *)out = (float)x;
    } else {
        *(int32_t *)out = small_integer(type->descr, at);
    }
}

/* Fortran order is C order with the dimensions the other way round: index counts through ours. */
static void read_elements(pl_tensor *t, const header *h, const uint8_t *data, size_t n) {
    size_t out_bytes = pl_dtype_get(t->dtype)->block_bytes;
    if (!h->type->widened && (!h->fortran || h->n_dims < 2)) {
        memcpy(t->data, data, n * out_bytes);
        return;
    }
    size_t step[PL_MAX_DIMS], at = 0;
    int64_t index[PL_MAX_DIMS] = {0};
    for (int k = 0; k < h->n_dims; k++) { /* from the fastest dimension of the file on */
        int d = h->fortran ? k : h->n_dims - 1 - k;
        int before = h->fortran ? d - 1 : d + 1;
        step[d] = k ? step[before] * (size_t)h->shape[before] : h->type->bytes;
    }
    for (size_t i = 0; i < n; i++) {
        read_element((char *)t->data + i * out_bytes, h->type, data + at);
        for (int d = h->n_dims - 1; d >= 0; d--) {
            at += step[d];
            if (++index[d] < h->shape[d]) break;
            at -= step[d] * (size_t)h->shape[d];
            index[d] = 0;
        }
    }
}

pl_status pl_npy_parse(pl_tensor *t, const void *bytes, size_t size, const char *source,
                       pl_error *err) {
    header h = {.source = source, .n_dims = -1, .err = err};
    size_t data = 0, n = 1, needed;
    pl_status status = find_header(&h, bytes, size, &data);
    if (status == PL_OK) status = read_header(&h);
    if (status != PL_OK) return status;
    bool fits = true, empty = false;
    for (int d = 0; d < h.n_dims; d++) empty = empty || h.shape[d] == 0;
    for (int d = 0; d < h.n_dims && fits && !empty; d++) {
        fits = pl_size_mul(&n, n, (size_t)h.shape[d]);
    }
    if (empty) n = 0;
    fits = fits && pl_size_mul(&needed, n, h.type->bytes);
    if (!fits || needed > size - data) {
        return pl_fail(err, PL_ERR_FORMAT,
                       "%s: shape: the elements take more than the %zu bytes that follow", source,
                       size - data);
    }
    status = pl_tensor_new(t, h.type->dtype, h.n_dims, h.shape, err);
    if (status != PL_OK) return pl_error_prefix(err, status, "%s", source);
    read_elements(t, &h, (const uint8_t *)bytes + data, n);
    return PL_OK;
}

pl_status pl_npy_load(pl_tensor *t, const char *path, pl_error *err) {
    pl_map map;
    pl_status status = pl_map_open(&map, path, err);
    if (status != PL_OK) return status;
    status = pl_npy_parse(t, map.data, map.size_bytes, path, err);
    pl_map_close(&map);
    return status;
}

/* -- writing -------------------------------------------------------------------------------- */

static void write_header(pl_outfile *out, const char *descr, const pl_tensor *t) {
    char text[256] = "";
    int n =
        snprintf(text, sizeof text, "{'descr': '<%s', 'fortran_order': False, 'shape': (", descr);
    for (int d = 0; d < t->n_dims; d++) {
        n += snprintf(text + n, sizeof text - (size_t)n, d ? " %lld," : "%lld,",
                      (long long)t->shape[d]);
    }
    if (t->n_dims > 1) n--; /* only a tuple of one needs the comma */
    n += snprintf(text + n, sizeof text - (size_t)n, "), }");
    /* The text is filled with spaces and a line feed, so that the elements are aligned. */
    size_t start = MAGIC_SIZE + 4, length = pl_size_align(start + (size_t)n + 1, ALIGNMENT) - start;
    memset(text + n, ' ', length - (size_t)n);
    text[length - 1] = '\n';
    uint8_t head[4] = {1, 0, (uint8_t)(length & 255), (uint8_t)(length >> 8)};
    pl_outfile_write(out, magic, MAGIC_SIZE);
    pl_outfile_write(out, head, sizeof head);
    pl_outfile_write(out, text, length);
}

static pl_status widen(pl_tensor *wide, const pl_tensor *t, pl_error *err) {
    pl_status status = pl_tensor_new(wide, PL_F32, t->n_dims, t->shape, err);
    if (status != PL_OK) return status;
    int64_t n = pl_tensor_count(t), index[PL_MAX_DIMS] = {0};
    const uint16_t *in = t->data;
    for (int64_t i = 0; i < n; i++) {
        uint32_t bits = (uint32_t)*in << 16;
        memcpy((float *)wide->data + i, &bits, sizeof bits);
        for (int d = t->n_dims - 1; d >= 0; d--) {
            in += t->stride[d];
            if (++index[d] < t->shape[d]) break;
            in -= t->stride[d] * t->shape[d];
            index[d] = 0;
        }
    }
    return PL_OK;
}

pl_status pl_npy_save(const pl_tensor *t, const char *path, pl_error *err) {
    pl_outfile out;
    pl_tensor wide = {0};
    if (t->dtype == PL_BF16) { /* NumPy has no such type */
        pl_status status = widen(&wide, t, err);
        if (status != PL_OK) return status;
        t = &wide;
    }
    const type_info *type = NULL;
    for (size_t i = 0; i < sizeof types / sizeof *types; i++) {
        if (!types[i].widened && types[i].dtype == t->dtype) type = &types[i];
    }
    if (!type) {
        return pl_fail(err, PL_ERR_UNSUPPORTED, "%s: .npy files cannot hold %s: dequantise first",
                       path, pl_dtype_get(t->dtype)->name);
    }
    pl_status status = pl_outfile_open(&out, path, err);
    if (status == PL_OK) {
        write_header(&out, type->descr, t);
        pl_outfile_tensor(&out, t);
        status = pl_outfile_commit(&out, err);
    }
    pl_tensor_release(&wide);
    return status;
}
