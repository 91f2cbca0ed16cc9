#include "json.h"

#include "../base/error.h"
#include "../base/map.h"

enum { MAX_JSON_BYTES = 1 << 28 };

pl_status pl_json_parse(json_t **object, const char *data, size_t size, const char *name,
                        pl_error *err) {
    json_error_t why;
    if (size > MAX_JSON_BYTES) {
        return pl_fail(err, PL_ERR_FORMAT, "%s: %zu bytes of JSON, at most %d", name, size,
                       MAX_JSON_BYTES);
    }
    json_t *root = json_loadb(data, size, JSON_REJECT_DUPLICATES | JSON_ALLOW_NUL, &why);
    if (!root) {
        return pl_fail(err, PL_ERR_FORMAT, "%s: line %d, column %d: %s", name, why.line, why.column,
                       why.text);
    }
    if (!json_is_object(root)) {
        json_decref(root);
        return pl_fail(err, PL_ERR_FORMAT, "%s: expected a JSON object", name);
    }
    *object = root;
    return PL_OK;
}

pl_status pl_json_open(json_t **object, const char *path, pl_error *err) {
    pl_map map;
    pl_status status = pl_map_open(&map, path, err);
    if (status != PL_OK) return status;
    status = pl_json_parse(object, (const char *)map.data, map.size_bytes, path, err);
    pl_map_close(&map);
    return status;
}
