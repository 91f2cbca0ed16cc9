/* JSON files, through Jansson: size-limited, duplicates refused, errors that name file and line. */
#ifndef PL_FORMAT_JSON_H
#define PL_FORMAT_JSON_H

#include <jansson.h>

#include "../perilune.h"

/* An object read from bytes or a file; json_decref it. Errors: PL_ERR_IO, PL_ERR_FORMAT. */
pl_status pl_json_parse(json_t **object, const char *data, size_t size, const char *name,
                        pl_error *err);
pl_status pl_json_open(json_t **object, const char *path, pl_error *err);

#endif
