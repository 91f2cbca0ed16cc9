/* WordPiece: the longest piece that begins the word, then the longest continuing one, and so on;
 * a word that cannot be finished is one unknown token. */
#include <string.h>

#include "../base/error.h"
#include "internal.h"
#include "utf8.h"

static size_t count_chars(const char *s, size_t size) {
    size_t n = 0;
    for (size_t i = 0, step; i < size; i += step, n++) {
        uint32_t cp;
        step = pl_utf8_decode(s + i, size - i, &cp);
        if (step == 0) step = 1;
    }
    return n;
}

/* The longest piece at s[at, size), which continues a word when at > 0. */
static pl_status longest(pl_encode_call *call, const char *s, size_t size, size_t at, int32_t *id,
                         size_t *stop, pl_error *err) {
    const pl_tokenizer *tok = call->tok;
    pl_buffer *key = &call->spare[0];
    pl_bytes prefix = at > 0 ? tok->continuing_prefix : (pl_bytes){"", 0};
    size_t limit = size - at > tok->pieces.max_len ? at + tok->pieces.max_len : size;
    key->size = 0;
    if (!pl_buffer_append(key, prefix.data, prefix.size) ||
        !pl_buffer_append(key, s + at, limit - at))
        return pl_no_memory(err);
    *id = -1;
    for (*stop = limit; *stop > at; --*stop) {
        if (*stop < size && ((uint8_t)s[*stop] & 0xC0) == 0x80) continue;
        *id = pl_strings_find(&tok->pieces, (const char *)key->data, prefix.size + *stop - at);
        if (*id >= 0) break;
    }
    return PL_OK;
}

pl_status pl_wordpiece_word(pl_encode_call *call, size_t begin, size_t end, pl_error *err) {
    const pl_tokenizer *tok = call->tok;
    const char *s = pl_call_text(call) + begin;
    size_t size = end - begin, word_ids = call->ids->n;
    bool unknown = count_chars(s, size) > tok->max_word_chars;
    for (size_t at = 0; at < size && !unknown;) {
        int32_t id = -1;
        size_t stop = at;
        pl_status status = longest(call, s, size, at, &id, &stop, err);
        if (status != PL_OK) return status;
        if (id < 0)
            unknown = true;
        else if (!pl_ids_append(call->ids, id))
            return pl_no_memory(err);
        at = stop;
    }
    if (!unknown) return PL_OK;
    call->ids->n = word_ids;
    if (tok->special.unk < 0)
        return pl_fail(err, PL_ERR_ARGUMENT, "%s: the vocabulary has no unknown token",
                       tok->source);
    return pl_ids_append(call->ids, tok->special.unk) ? PL_OK : pl_no_memory(err);
}
