/* config.json: any bytes; what is described must stand the check or be refused by it, and tables of
 * rotary factors read as far as the check allows. */
#include <stdlib.h>

#include "../../engine/format/json.h"
#include "../../engine/model/description.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    json_t *json;
    pl_error err;
    if (pl_json_parse(&json, (const char *)data, size, "config.json", &err) != PL_OK) return 0;
    pl_config config;
    const pl_family *family;
    if (pl_describe_hf(&config, &family, NULL, json, &err) == PL_OK &&
        pl_config_check(&config, &err) == PL_OK) {
        int64_t n = config.rope_dims / 2;
        float *factors = n < 4096 ? malloc(((size_t)n + 1) * sizeof *factors) : NULL;
        if (factors) pl_describe_hf_factors(factors, n, json, data[size - 1] % 2, &err);
        free(factors);
        pl_describe_pooling(&config, json, &err);
    }
    json_decref(json);
    return 0;
}
