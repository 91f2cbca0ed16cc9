/* Normaliser steps, each from one buffer to the other. */
#include "internal.h"

#include <string.h>

#include "../base/error.h"
#include "unicode.h"
#include "utf8.h"

static bool append(pl_buffer *out, pl_bytes s) {
    return s.size == 0 || pl_buffer_append(out, s.data, s.size);
}

static bool replace(pl_bytes in, pl_bytes from, pl_bytes to, pl_buffer *out) {
    if (from.size == 0) return append(out, in);
    const char *s = in.data, *end = in.data + in.size, *hit;
    while (s < end && (hit = memmem(s, (size_t)(end - s), from.data, from.size))) {
        if (!append(out, (pl_bytes){s, (size_t)(hit - s)}) || !append(out, to)) return false;
        s = hit + from.size;
    }
    return append(out, (pl_bytes){s, (size_t)(end - s)});
}

static pl_status replace_regex(pl_encode_call *call, const pl_norm *norm, pl_bytes in,
                               pl_buffer *out, pl_error *err) {
    pl_regex_scan scan;
    pl_status status = pl_regex_scan_init(&scan, norm->regex, call->stack, in.size, err);
    bool surround = norm->step.kind == PL_NORM_SURROUND, ok = true;
    size_t at = 0, begin, end;
    while (status == PL_OK && ok && at < in.size) {
        status = pl_regex_scan_next(&scan, in.data, &begin, &end, err);
        if (status != PL_OK) break;
        ok = append(out, (pl_bytes){in.data + at, begin - at});
        if (begin < end) ok = ok && append(out, norm->step.b);
        if (begin < end && surround)
            ok = ok && append(out, (pl_bytes){in.data + begin, end - begin}) &&
                 append(out, norm->step.b);
        at = end;
    }
    pl_regex_scan_clear(&scan);
    return status == PL_OK && !ok ? pl_no_memory(err) : status;
}

static bool is_space(uint32_t cp) {
    return (cp >= 9 && cp <= 13) || cp == 0x20 || cp == 0x85 || cp == 0xA0 || cp == 0x1680 ||
           (cp >= 0x2000 && cp <= 0x200A) || cp == 0x2028 || cp == 0x2029 || cp == 0x202F ||
           cp == 0x205F || cp == 0x3000;
}

static pl_bytes strip(pl_bytes in, unsigned flags) {
    uint32_t cp;
    for (size_t n; (flags & PL_STRIP_LEFT) && (n = pl_utf8_decode(in.data, in.size, &cp));) {
        if (!is_space(cp)) break;
        in = (pl_bytes){in.data + n, in.size - n};
    }
    while ((flags & PL_STRIP_RIGHT) && in.size > 0) {
        size_t n = 1;
        while (n < 4 && n < in.size && ((uint8_t)in.data[in.size - n] & 0xC0) == 0x80) n++;
        if (pl_utf8_decode(in.data + in.size - n, n, &cp) != n || !is_space(cp)) break;
        in.size -= n;
    }
    return in;
}

static bool single_spaces(pl_bytes in, pl_buffer *out) {
    size_t start = out->size;
    for (size_t i = 0; i < in.size; i++) {
        bool space = in.data[i] == ' ';
        if (space && (out->size == start || out->data[out->size - 1] == ' ')) continue;
        if (!pl_buffer_append(out, in.data + i, 1)) return false;
    }
    if (out->size > start && out->data[out->size - 1] == ' ') out->size--;
    return true;
}

/* ---- SentencePiece's precompiled map ----
 *
 *     u32 bytes of the trie | the trie: u32 units | replacements, each ending in a zero byte
 *
 * The trie is a double array: from a node, the child for a byte lies at node ^ byte and carries
 * the byte as its label. */

static uint32_t unit_at(pl_bytes map, size_t i) {
    uint32_t unit;
    memcpy(&unit, map.data + 4 + 4 * i, 4);
    return unit;
}

static size_t unit_offset(uint32_t unit) {
    return (size_t)(unit >> 10) << ((unit & 512u) >> 6);
}

/* The longest key that begins in: its size, 0 for none, and its replacement. */
static size_t map_lookup(pl_bytes map, pl_bytes in, pl_bytes *to) {
    uint32_t trie_bytes;
    if (map.size < 8) return 0;
    memcpy(&trie_bytes, map.data, 4);
    if (trie_bytes % 4 || trie_bytes < 4 || trie_bytes > map.size - 4) return 0;
    size_t n_units = trie_bytes / 4, found = 0;
    pl_bytes texts = {map.data + 4 + trie_bytes, map.size - 4 - trie_bytes};
    size_t node = unit_offset(unit_at(map, 0));
    for (size_t i = 0; i < in.size; i++) {
        node ^= (uint8_t)in.data[i];
        if (node >= n_units) break;
        uint32_t unit = unit_at(map, node);
        if ((unit & 0x800000FFu) != (uint8_t)in.data[i]) break;
        node ^= unit_offset(unit);
        if (!(unit & 256u)) continue;
        if (node >= n_units) break;
        size_t value = unit_at(map, node) & 0x7FFFFFFFu;
        const char *end =
            value < texts.size ? memchr(texts.data + value, 0, texts.size - value) : NULL;
        if (!end) continue;
        *to = (pl_bytes){texts.data + value, (size_t)(end - (texts.data + value))};
        found = i + 1;
    }
    return found;
}

static bool charsmap(pl_bytes map, pl_bytes in, pl_buffer *out) {
    while (in.size > 0) {
        pl_bytes to = {0};
        size_t n = map_lookup(map, in, &to);
        if (n == 0) {
            uint32_t cp;
            n = pl_utf8_decode(in.data, in.size, &cp);
            to = (pl_bytes){in.data, n ? n : 1};
            if (n == 0) n = 1;
        }
        if (!append(out, to)) return false;
        in = (pl_bytes){in.data + n, in.size - n};
    }
    return true;
}

/* ---- All of them ---- */

static pl_status apply(pl_encode_call *call, const pl_norm *norm, pl_bytes in, pl_buffer *out,
                       pl_error *err) {
    const pl_norm_step *step = &norm->step;
    bool ok = true;
    switch (step->kind) {
    case PL_NORM_PREPEND:
        ok = (in.size == 0 || append(out, step->a)) && append(out, in);
        break;
    case PL_NORM_REPLACE:
        ok = replace(in, step->a, step->b, out);
        break;
    case PL_NORM_REPLACE_REGEX:
    case PL_NORM_SURROUND:
        return replace_regex(call, norm, in, out, err);
    case PL_NORM_LOWERCASE:
        ok = pl_unicode_lowercase(in.data, in.size, out);
        break;
    case PL_NORM_NFC:
        ok = pl_unicode_nfc(in.data, in.size, out);
        break;
    case PL_NORM_NFD:
        ok = pl_unicode_nfd(in.data, in.size, out);
        break;
    case PL_NORM_STRIP:
        ok = append(out, strip(in, step->flags));
        break;
    case PL_NORM_CHARSMAP:
        ok = charsmap(step->a, in, out);
        break;
    case PL_NORM_SPACES:
        ok = single_spaces(in, out);
        break;
    }
    return ok ? PL_OK : pl_no_memory(err);
}

pl_status pl_normalize(pl_encode_call *call, const char *text, size_t size, pl_buffer *out,
                       pl_error *err) {
    const pl_tokenizer *tok = call->tok;
    pl_bytes in = {text, size};
    for (size_t k = 0; k < tok->n_norms; k++) {
        pl_buffer *room = &call->spare[k & 1];
        room->size = 0;
        if (!pl_buffer_reserve(room, in.size + 1)) return pl_no_memory(err);
        pl_status status = apply(call, &tok->norms[k], in, room, err);
        if (status != PL_OK) return status;
        in = (pl_bytes){(const char *)room->data, room->size};
        /* Replacements of replacements could grow without end. */
        if (in.size > 64 * size + 65536)
            return pl_fail(err, PL_ERR_FORMAT, "%s: normalizer: %zu bytes became %zu", tok->source,
                           size, in.size);
    }
    return append(out, in) ? PL_OK : pl_no_memory(err);
}
