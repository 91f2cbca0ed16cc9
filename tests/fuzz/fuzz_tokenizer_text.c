/* Any bytes as text: a byte-level vocabulary gives them back, token by token as at once. */
#include <stdint.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "../../engine/text/builder.h"
#include "../../engine/text/utf8.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static pl_tokenizer *make(void) {
    char json[8192], *p = json;
    p += sprintf(p, "{");
    for (unsigned byte = 0; byte < 256; byte++)
        p += sprintf(p, "\"\\u%04x\": %u, ", (unsigned)pl_byte_to_char((uint8_t)byte), byte);
    p += sprintf(p, "\"aa\": 256, \"ab\": 257, \"aaab\": 258, \"\\u0120a\": 259}");
    static const char merges[] = "a b\na a\naa ab\n\xC4\xA0 a\n";
    pl_tokenizer *tok = NULL;
    if (pl_tokenizer_from_vocab(&tok, pl_vocab_merges, json, (size_t)(p - json), merges,
                                sizeof merges - 1, "made", NULL) != PL_OK)
        abort();
    return tok;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    static pl_tokenizer *tok; /* kept between inputs */
    if (!tok) tok = make();
    pl_ids ids = {0};
    pl_buffer out = {0}, stream = {0};
    if (pl_tokenizer_encode(tok, (const char *)data, size, NULL, &ids, NULL) != PL_OK) abort();
    if (pl_tokenizer_decode(tok, ids.data, ids.n, NULL, &out, NULL) != PL_OK) abort();
    if (out.size != size || (size && memcmp(out.data, data, size) != 0)) abort();
    pl_decoder decoder;
    pl_decoder_init(&decoder, tok, NULL);
    for (size_t i = 0; i < ids.n; i++)
        if (pl_decoder_put(&decoder, ids.data[i], &stream, NULL) != PL_OK) abort();
    if (pl_decoder_flush(&decoder, &stream, NULL) != PL_OK || stream.size != size) abort();
    pl_buffer_clear(&stream);
    pl_buffer_clear(&out);
    pl_ids_clear(&ids);
    return 0;
}
