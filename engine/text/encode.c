/* A text to ids: added tokens are cut out, what lies between them is normalised, cut into words
 * and encoded. */
#include "internal.h"

#include <stdlib.h>
#include <string.h>

#include "../base/error.h"
#include "utf8.h"

bool pl_ids_append(pl_ids *ids, int32_t id) {
    if (ids->n == ids->capacity) {
        size_t capacity = ids->capacity ? 2 * ids->capacity : 64;
        if (capacity > SIZE_MAX / sizeof *ids->data) return false;
        int32_t *data = realloc(ids->data, capacity * sizeof *data);
        if (!data) return false;
        ids->data = data;
        ids->capacity = capacity;
    }
    ids->data[ids->n++] = id;
    return true;
}

void pl_ids_clear(pl_ids *ids) {
    free(ids->data);
    *ids = (pl_ids){0};
}

pl_encode_options pl_encode_options_default(void) {
    return (pl_encode_options){.add_special = true, .parse_special = true};
}

pl_status pl_tell_ids(pl_encode_call *call, size_t from, pl_error *err) {
    size_t n = call->ids->n - from;
    if (n == 0) return PL_OK;
    pl_bytes *pieces = malloc(n * sizeof *pieces);
    if (!pieces) return pl_no_memory(err);
    const int32_t *ids = call->ids->data + from;
    for (size_t i = 0; i < n; i++) pieces[i] = pl_tokenizer_piece(call->tok, ids[i]);
    pl_merge_step state = {.word = call->word, .n = n, .ids = ids, .pieces = pieces, .merged = n};
    pl_status status = call->tell(call->tell_context, &state, err);
    free(pieces);
    return status;
}

/* ---- Added tokens ---- */

static bool is_space(uint32_t cp) {
    return (cp >= 9 && cp <= 13) || cp == 0x20 || cp == 0x85 || cp == 0xA0 || cp == 0x1680 ||
           (cp >= 0x2000 && cp <= 0x200A) || cp == 0x2028 || cp == 0x2029 || cp == 0x202F ||
           cp == 0x205F || cp == 0x3000;
}

/* The character that ends at s + at; its size, 0 when there is none. */
static size_t char_before(const char *s, size_t at, uint32_t *cp) {
    for (size_t n = 1; n <= 4 && n <= at; n++)
        if (pl_utf8_decode(s + at - n, n, cp) == n) return n;
    return 0;
}

/* Letters, digits and the underscore; outside ASCII, whatever is no space or punctuation block. */
static bool is_word(uint32_t cp) {
    if (cp < 0x80)
        return (cp >= '0' && cp <= '9') || (cp >= 'A' && cp <= 'Z') || (cp >= 'a' && cp <= 'z') ||
               cp == '_';
    return !is_space(cp) && cp >= 0xAA && (cp < 0x2000 || cp > 0x206F) &&
           (cp < 0x3000 || cp > 0x3020);
}

static bool stands_alone(const char *s, size_t size, size_t begin, size_t end) {
    uint32_t cp;
    if (char_before(s, begin, &cp) && is_word(cp)) return false;
    return !(pl_utf8_decode(s + end, size - end, &cp) && is_word(cp));
}

/* The longest added token at s[at]; its index, or -1. */
static int32_t added_at(const pl_encode_call *call, const pl_trie *trie, const char *s, size_t size,
                        size_t at, size_t *end) {
    const pl_tokenizer *tok = call->tok;
    int32_t found = -1;
    uint32_t node = 0;
    for (size_t i = at; i < size; i++) {
        node = pl_trie_step(trie, node, (uint8_t)s[i]);
        if (node == 0) break;
        int32_t index = trie->values[node];
        if (index < 0 || (tok->added[index].special && !call->parse_special)) continue;
        found = index;
        *end = i + 1;
    }
    if (found >= 0 && tok->added[found].single_word && !stands_alone(s, size, at, *end)) return -1;
    return found;
}

/* The first added token in s[from, size): its index, or -1, and where it is with the white space
 * that it takes along. */
static int32_t next_added(const pl_encode_call *call, const pl_trie *trie, const char *s,
                          size_t size, size_t from, size_t *begin, size_t *end) {
    if (trie->n_nodes == 0) return -1;
    for (size_t i = from; i < size; i++) {
        if (trie->roots[(uint8_t)s[i]] == 0) continue;
        int32_t index = added_at(call, trie, s, size, i, end);
        if (index < 0) continue;
        *begin = i;
        uint32_t cp;
        if (call->tok->added[index].lstrip)
            for (size_t n; *begin > from && (n = char_before(s, *begin, &cp)) && is_space(cp);)
                *begin = n < *begin - from ? *begin - n : from;
        if (call->tok->added[index].rstrip)
            for (size_t n; (n = pl_utf8_decode(s + *end, size - *end, &cp)) && is_space(cp);)
                *end += n;
        return index;
    }
    return -1;
}

static pl_status put_added(pl_encode_call *call, int32_t index, pl_error *err) {
    size_t from = call->ids->n;
    if (!pl_ids_append(call->ids, call->tok->added[index].id)) return pl_no_memory(err);
    pl_status status = call->tell ? pl_tell_ids(call, from, err) : PL_OK;
    call->word++;
    return status;
}

/* ---- Sections: what lies between added tokens ---- */

/* Cuts the added tokens that are matched in normalised text out of [begin, end). */
static pl_status normalised_section(pl_encode_call *call, size_t begin, size_t end, bool first,
                                    pl_error *err) {
    const pl_trie *trie = &call->tok->added_normalized;
    size_t at = begin;
    while (at < end) {
        size_t b = 0, e = 0;
        int32_t index =
            next_added(call, trie, pl_call_text(call) + begin, end - begin, at - begin, &b, &e);
        size_t stop = index >= 0 ? begin + b : end;
        pl_status status = pl_pretokenize(call, 0, at, stop, first && at == begin, err);
        if (status != PL_OK) return status;
        if (index < 0) break;
        status = put_added(call, index, err);
        if (status != PL_OK) return status;
        at = begin + e;
    }
    return PL_OK;
}

static pl_status section(pl_encode_call *call, size_t begin, size_t end, pl_error *err) {
    if (begin == end) return PL_OK;
    bool first = begin == 0;
    if (!call->tok->rewrites) return normalised_section(call, begin, end, first, err);
    size_t at = call->work.size;
    pl_status status = pl_normalize(call, call->text + begin, end - begin, &call->work, err);
    if (status != PL_OK) return status;
    if (call->work.size > UINT32_MAX)
        return pl_fail(err, PL_ERR_ARGUMENT, "the normalised text is over 4 GiB");
    return normalised_section(call, at, call->work.size, first, err);
}

static pl_status encode_text(pl_encode_call *call, size_t len, pl_error *err) {
    size_t at = 0;
    while (at < len) {
        size_t begin = len, end = len;
        int32_t index = next_added(call, &call->tok->added_raw, call->text, len, at, &begin, &end);
        if (index < 0) begin = len;
        pl_status status = section(call, at, begin, err);
        if (status == PL_OK && index >= 0) status = put_added(call, index, err);
        if (status != PL_OK) return status;
        at = index >= 0 ? end : len;
    }
    return PL_OK;
}

/* ---- Calls ---- */

static bool append_all(pl_ids *ids, const int32_t *items, size_t n) {
    for (size_t i = 0; i < n; i++)
        if (!pl_ids_append(ids, items[i])) return false;
    return true;
}

static void end_call(pl_encode_call *call) {
    pl_buffer_clear(&call->work);
    pl_buffer_clear(&call->spare[0]);
    pl_buffer_clear(&call->spare[1]);
    free(call->cache);
    pl_regex_stack_free(call->stack);
    free(call->symbols);
    free(call->heap);
    free(call->best);
    free(call->back);
    free(call->via);
}

/* A cache costs its clearing, so its size follows the text's. */
static void begin_cache(pl_encode_call *call, size_t len) {
    if (len < 256 || call->tell) return;
    size_t n = 256;
    while (n < len / 16 && n < 32768) n *= 2;
    call->cache = calloc(n, sizeof *call->cache); /* without it all works, slower */
    call->cache_mask = n - 1;
}

static pl_status run_call(pl_encode_call *call, size_t len, pl_error *err) {
    if (len > (size_t)1 << 30)
        return pl_fail(err, PL_ERR_ARGUMENT, "a text of %zu bytes, at most 1 GiB", len);
    call->stack = pl_regex_stack_new();
    if (!call->stack) return pl_no_memory(err);
    begin_cache(call, len);
    return encode_text(call, len, err);
}

pl_status pl_tokenizer_encode(const pl_tokenizer *tok, const char *text, size_t len,
                              const pl_encode_options *options, pl_ids *ids, pl_error *err) {
    pl_encode_options o = options ? *options : pl_encode_options_default();
    pl_encode_call call = {.tok = tok, .text = text, .ids = ids, .ids_begin = ids->n};
    call.parse_special = o.parse_special;
    pl_status status = PL_OK;
    if (o.add_special && !append_all(ids, tok->prefix, tok->n_prefix)) status = pl_no_memory(err);
    if (status == PL_OK) status = run_call(&call, len, err);
    if (status == PL_OK && o.add_special && !append_all(ids, tok->suffix, tok->n_suffix))
        status = pl_no_memory(err);
    if (status != PL_OK) ids->n = call.ids_begin;
    end_call(&call);
    return status;
}

pl_status pl_tokenizer_explain(const pl_tokenizer *tok, const char *text, size_t len,
                               pl_merge_step_fn tell, void *context, pl_error *err) {
    pl_ids ids = {0};
    pl_encode_call call = {.tok = tok, .text = text, .ids = &ids, .parse_special = true};
    call.tell = tell;
    call.tell_context = context;
    pl_status status = run_call(&call, len, err);
    end_call(&call);
    pl_ids_clear(&ids);
    return status;
}

pl_status pl_tokenizer_single(const pl_tokenizer *tok, const char *text, size_t len, int32_t *id,
                              pl_error *err) {
    pl_ids ids = {0};
    pl_encode_options options = {.parse_special = true};
    pl_status status = pl_tokenizer_encode(tok, text, len, &options, &ids, err);
    if (status == PL_OK && ids.n != 1)
        status = pl_fail(err, PL_ERR_ARGUMENT, "\"%.*s\" is %zu tokens, not one",
                         (int)(len > 100 ? 100 : len), text, ids.n);
    if (status == PL_OK) *id = ids.data[0];
    pl_ids_clear(&ids);
    return status;
}
