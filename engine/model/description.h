/* What a file says of its model, as a description. */
#ifndef PL_MODEL_DESCRIPTION_H
#define PL_MODEL_DESCRIPTION_H

#include "../format/gguf.h"
#include "../format/json.h"
#include "registry.h"

/* The family is a built-in one or one of the set, which may be NULL.
 * Errors: PL_ERR_UNSUPPORTED (a family or feature by name), PL_ERR_FORMAT (key, value, what was
 * expected). What is optional and absent is left 0, for pl_config_check to derive. */
pl_status pl_describe_gguf(pl_config *config, const pl_family **family, const pl_families *set,
                           const pl_gguf *gguf, pl_error *err);
pl_status pl_describe_hf(pl_config *config, const pl_family **family, const pl_families *set,
                         const json_t *json, pl_error *err);
/* How a text's vector is made, which sentence encoders say in 1_Pooling/config.json. */
pl_status pl_describe_pooling(pl_config *config, const json_t *json, pl_error *err);

/* A table of longrope's factors [n] from config.json, the short one or the long one. PL_ERR_FORMAT:
 * it is missing, has another length, or an entry that is no positive number. */
pl_status pl_describe_hf_factors(float *out, int64_t n, const json_t *json, bool brief,
                                 pl_error *err);

#endif
