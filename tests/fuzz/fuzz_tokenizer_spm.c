/* Any bytes as tokenizer.model; what loads must encode and decode without harm. */
#include <stdint.h>
#include <stddef.h>

#include "../../engine/text/builder.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    static const char text[] = "Hello\xE2\x96\x81\xC3\xA9\xE4\xBD\xA0 <s>\xFF  end\n";
    pl_tokenizer *tok = NULL;
    if (pl_tokenizer_from_spm(&tok, data, size, "fuzz", NULL) != PL_OK) return 0;
    pl_ids ids = {0};
    pl_buffer out = {0};
    if (pl_tokenizer_encode(tok, text, sizeof text - 1, NULL, &ids, NULL) == PL_OK)
        pl_tokenizer_decode(tok, ids.data, ids.n, NULL, &out, NULL);
    pl_buffer_clear(&out);
    pl_ids_clear(&ids);
    pl_tokenizer_free(tok);
    return 0;
}
