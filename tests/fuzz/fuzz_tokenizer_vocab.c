/* Any bytes as vocab.json and merges.txt, GPT-2's and GPT-1's, parted by the first zero byte. */
#include <stdint.h>
#include <stddef.h>
#include <string.h>

#include "../../engine/text/builder.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

/* Uses up tok, which may be NULL. */
static void try_out(pl_tokenizer *tok, const uint8_t *data, size_t size) {
    pl_ids ids = {0};
    pl_buffer out = {0};
    if (!tok) return;
    if (pl_tokenizer_encode(tok, (const char *)data, size, NULL, &ids, NULL) == PL_OK)
        pl_tokenizer_decode(tok, ids.data, ids.n, NULL, &out, NULL);
    pl_buffer_clear(&out);
    pl_ids_clear(&ids);
    pl_tokenizer_free(tok);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    const uint8_t *zero = size ? memchr(data, 0, size) : NULL;
    size_t n = zero ? (size_t)(zero - data) : size;
    const uint8_t *merges = zero ? zero + 1 : data + size;
    pl_tokenizer *tok = NULL;
    size_t n_merges = (size_t)(data + size - merges);
    pl_tokenizer_from_vocab(&tok, pl_vocab_merges, data, n, merges, n_merges, "fuzz", NULL);
    try_out(tok, data, size);
    pl_tokenizer_from_vocab(&tok, pl_vocab_gpt1, data, n, merges, n_merges, "fuzz", NULL);
    try_out(tok, data, size);
    return 0;
}
