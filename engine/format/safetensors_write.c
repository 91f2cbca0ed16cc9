#include "safetensors.h"

#include <jansson.h>
#include <stdlib.h>
#include <string.h>

#include "../base/error.h"
#include "outfile.h"

_Static_assert(__BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__, "files hold little-endian numbers");

enum { ALIGNMENT = 8, LARGEST = 8, SMALLEST = 2 }; /* bytes */
static const char metadata_key[] = "__metadata__";

static pl_status no_memory(pl_error *err) {
    return pl_fail(err, PL_ERR_MEMORY, "out of memory for the header of a safetensors file");
}

static const char *dtype_name(pl_dtype dtype) {
    switch (dtype) {
    case PL_F32:
        return "F32";
    case PL_F16:
        return "F16";
    case PL_BF16:
        return "BF16";
    case PL_I32:
        return "I32";
    case PL_I64:
        return "I64";
    default:
        return NULL;
    }
}

static size_t element_bytes(const pl_safetensors_item *item) {
    return pl_dtype_get(item->tensor->dtype)->block_bytes;
}

static pl_status check_item(const pl_safetensors_item *item, pl_error *err) {
    if (dtype_name(item->tensor->dtype)) return PL_OK;
    return pl_fail(err, PL_ERR_UNSUPPORTED,
                   "tensor '%.80s': safetensors files cannot hold %s: dequantise first", item->name,
                   pl_dtype_get(item->tensor->dtype)->name);
}

/* Adds one entry to the header; *at is where its elements begin, and then where they end. */
static pl_status add_entry(json_t *header, const pl_safetensors_item *item, size_t *at,
                           pl_error *err) {
    const pl_tensor *t = item->tensor;
    if (json_object_get(header, item->name) || strcmp(item->name, metadata_key) == 0) {
        return pl_fail(err, PL_ERR_ARGUMENT, "tensor '%.80s' is there already", item->name);
    }
    json_t *shape = json_array();
    int failed = !shape;
    for (int d = 0; d < t->n_dims && !failed; d++) {
        failed = json_array_append_new(shape, json_integer(t->shape[d]));
    }
    size_t begin = *at;
    *at += (size_t)pl_tensor_count(t) * element_bytes(item);
    json_t *entry = failed
                        ? NULL
                        : json_pack("{s:s, s:O, s:[I, I]}", "dtype", dtype_name(t->dtype), "shape",
                                    shape, "data_offsets", (json_int_t)begin, (json_int_t)*at);
    json_decref(shape);
    if (!entry) return no_memory(err);
    if (json_object_set_new(header, item->name, entry) == 0) return PL_OK;
    return pl_fail(err, PL_ERR_ARGUMENT, "a tensor's name is no UTF-8, or out of memory");
}

static pl_status add_metadata(json_t *header, const char *const (*metadata)[2], size_t n,
                              pl_error *err) {
    if (n == 0) return PL_OK;
    json_t *texts = json_object();
    if (json_object_set_new(header, metadata_key, texts) != 0) return no_memory(err);
    for (size_t i = 0; i < n; i++) {
        if (json_object_set_new(texts, metadata[i][0], json_string(metadata[i][1])) != 0) {
            return pl_fail(err, PL_ERR_ARGUMENT, "metadata %zu is no UTF-8, or out of memory",
                           i + 1);
        }
    }
    return PL_OK;
}

static bool same_kind(const pl_tensor *a, const pl_tensor *b) {
    bool same = a->dtype == b->dtype && a->n_dims == b->n_dims;
    for (int d = 0; same && d < a->n_dims; d++) same = a->shape[d] == b->shape[d];
    return same;
}

static pl_status write_item(pl_outfile *out, const pl_safetensors_item *item, pl_error *err) {
    if (!item->make) {
        pl_outfile_tensor(out, item->tensor);
        return PL_OK;
    }
    pl_tensor made = {0};
    pl_status status = item->make(item->context, &made, err);
    if (status == PL_OK && !same_kind(&made, item->tensor)) {
        status = pl_fail(err, PL_ERR_SHAPE, "tensor '%.80s' is not what was announced", item->name);
    }
    if (status == PL_OK) pl_outfile_tensor(out, &made);
    pl_tensor_release(&made);
    return status;
}

static pl_status write_all(pl_outfile *out, const char *header, const pl_safetensors_item *items,
                           size_t n_items, pl_error *err) {
    size_t length = strlen(header), padded = (length + ALIGNMENT - 1) / ALIGNMENT * ALIGNMENT;
    uint64_t head = padded;
    pl_outfile_write(out, &head, sizeof head);
    pl_outfile_write(out, header, length);
    pl_outfile_write(out, "        ", padded - length);
    pl_status status = PL_OK;
    for (size_t size = LARGEST; size >= SMALLEST; size /= 2) {
        for (size_t i = 0; i < n_items && status == PL_OK; i++) {
            if (element_bytes(&items[i]) == size) status = write_item(out, &items[i], err);
        }
    }
    return status;
}

pl_status pl_safetensors_write(const char *path, const pl_safetensors_item *items, size_t n_items,
                               const char *const (*metadata)[2], size_t n_metadata, pl_error *err) {
    size_t at = 0;
    char *text = NULL;
    json_t *header = json_object();
    pl_status status = header ? add_metadata(header, metadata, n_metadata, err) : no_memory(err);
    for (size_t i = 0; i < n_items && status == PL_OK; i++) {
        status = check_item(&items[i], err);
    }
    /* The largest elements first: so all are aligned without gaps, which readers refuse. */
    for (size_t size = LARGEST; size >= SMALLEST; size /= 2) {
        for (size_t i = 0; i < n_items && status == PL_OK; i++) {
            if (element_bytes(&items[i]) == size) status = add_entry(header, &items[i], &at, err);
        }
    }
    if (status != PL_OK) goto done;
    text = json_dumps(header, JSON_COMPACT);
    if (!text) {
        status = no_memory(err);
        goto done;
    }
    pl_outfile out;
    status = pl_outfile_open(&out, path, err);
    if (status != PL_OK) goto done;
    status = write_all(&out, text, items, n_items, err);
    if (status == PL_OK) {
        status = pl_outfile_commit(&out, err);
    } else {
        pl_outfile_abort(&out);
    }
done:
    free(text);
    json_decref(header);
    return status;
}
