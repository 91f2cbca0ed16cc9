/* Ids to text. What a token adds in the middle of a text is fixed and was computed at loading;
 * only the first token of a text needs its rule applied again. */
#include "internal.h"

#include <string.h>

#include "../base/error.h"
#include "utf8.h"

pl_decode_options pl_decode_options_default(void) {
    return (pl_decode_options){.skip_special = true};
}

static bool append(pl_buffer *out, const char *s, size_t n) {
    return n == 0 || pl_buffer_append(out, s, n);
}

/* GPT-2's alphabet to bytes; a piece with any other character stays as it is. */
static bool from_alphabet(pl_bytes in, pl_buffer *out) {
    size_t start = out->size;
    for (size_t i = 0; i < in.size;) {
        uint32_t cp;
        size_t n = pl_utf8_decode(in.data + i, in.size - i, &cp);
        int byte = n ? pl_char_to_byte(cp) : -1;
        if (byte < 0) {
            out->size = start;
            return append(out, in.data, in.size);
        }
        char c = (char)byte;
        if (!append(out, &c, 1)) return false;
        i += n;
    }
    return true;
}

static bool replace_all(pl_bytes in, pl_bytes from, pl_bytes to, pl_buffer *out) {
    for (size_t i = 0; i < in.size;) {
        if (from.size && in.size - i >= from.size && !memcmp(in.data + i, from.data, from.size)) {
            if (!append(out, to.data, to.size)) return false;
            i += from.size;
        } else {
            if (!append(out, in.data + i, 1)) return false;
            i++;
        }
    }
    return true;
}

static bool wordpiece(const pl_dec_step *step, pl_bytes in, bool first, pl_buffer *out) {
    static const char *const tidy[][2] = {
        {" .", "."},     {" ?", "?"},   {" !", "!"},   {" ,", ","},     {" ' ", "'"},
        {" n't", "n't"}, {" 'm", "'m"}, {" 's", "'s"}, {" 've", "'ve"}, {" 're", "'re"},
    };
    size_t start = out->size;
    if (!first && in.size >= step->a.size && !memcmp(in.data, step->a.data, step->a.size)) {
        if (!append(out, in.data + step->a.size, in.size - step->a.size)) return false;
    } else {
        if ((!first && !append(out, " ", 1)) || !append(out, in.data, in.size)) return false;
    }
    if (!step->flag) return true;
    for (size_t k = 0; k < sizeof tidy / sizeof tidy[0]; k++) {
        /* A piece has no inner space, so only its whole beginning can match. */
        size_t n = strlen(tidy[k][0]), size = out->size - start;
        if (size < n || memcmp(out->data + start, tidy[k][0], n) != 0) continue;
        size_t m = strlen(tidy[k][1]);
        memcpy(out->data + start, tidy[k][1], m);
        memmove(out->data + start + m, out->data + start + n, size - n);
        out->size = start + m + (size - n);
    }
    return true;
}

static int hex_digit(char c) {
    return c >= '0' && c <= '9'   ? c - '0'
           : c >= 'A' && c <= 'F' ? c - 'A' + 10
           : c >= 'a' && c <= 'f' ? c - 'a' + 10
                                  : -1;
}

/* The byte that a piece like <0x0A> stands for, or -1. */
static int byte_piece(pl_bytes in) {
    if (in.size != 6 || memcmp(in.data, "<0x", 3) != 0 || in.data[5] != '>') return -1;
    int high = hex_digit(in.data[3]), low = hex_digit(in.data[4]);
    return high >= 0 && low >= 0 ? high * 16 + low : -1;
}

static bool metaspace(const pl_dec_step *step, pl_bytes in, bool first, pl_buffer *out) {
    pl_bytes space = {" ", first && step->flag ? 0 : 1};
    return replace_all(in, step->a, space, out);
}

static bool apply(const pl_tokenizer *tok, const pl_dec_step *step, int32_t id, pl_bytes in,
                  bool first, pl_buffer *out) {
    switch (step->kind) {
    case PL_DEC_BYTE_LEVEL:
        return from_alphabet(in, out);
    case PL_DEC_REPLACE:
        return replace_all(in, step->a, step->b, out);
    case PL_DEC_METASPACE:
        return metaspace(step, in, first, out);
    case PL_DEC_WORDPIECE:
        return wordpiece(step, in, first, out);
    case PL_DEC_JOIN:
        return (first || append(out, " ", 1)) && append(out, in.data, in.size);
    case PL_DEC_UNKNOWN:
        if (id == tok->special.unk) in = step->a;
        return append(out, in.data, in.size);
    case PL_DEC_BYTE_FALLBACK: {
        int byte = byte_piece(in);
        char c = (char)byte;
        return byte >= 0 ? append(out, &c, 1) : append(out, in.data, in.size);
    }
    case PL_DEC_SUFFIX: {
        size_t n = step->a.size;
        bool ends = in.size >= n && memcmp(in.data + in.size - n, step->a.data, n) == 0;
        return append(out, in.data, ends ? in.size - n : in.size) && (!ends || append(out, " ", 1));
    }
    case PL_DEC_STRIP_PIECE:
        for (uint32_t k = 0; k < step->n && step->a.size && in.size >= step->a.size &&
                             memcmp(in.data, step->a.data, step->a.size) == 0;
             k++)
            in = (pl_bytes){in.data + step->a.size, in.size - step->a.size};
        return append(out, in.data, in.size);
    case PL_DEC_STRIP:
        break; /* by the decoder, over the whole text */
    }
    return append(out, in.data, in.size);
}

bool pl_piece_bytes(const pl_tokenizer *tok, int32_t id, pl_bytes piece, bool first,
                    pl_buffer rooms[2], pl_buffer *out) {
    pl_bytes in = piece;
    bool ok = true;
    for (size_t k = 0; k < tok->n_decs && ok; k++) {
        pl_buffer *room = &rooms[k & 1];
        room->size = 0;
        ok = apply(tok, &tok->decs[k], id, in, first, room);
        in = (pl_bytes){(const char *)room->data, room->size};
    }
    return ok && append(out, in.data, in.size);
}

/* ---- The stream ---- */

void pl_decoder_init(pl_decoder *decoder, const pl_tokenizer *tok,
                     const pl_decode_options *options) {
    *decoder = (pl_decoder){.tok = tok};
    decoder->options = options ? *options : pl_decode_options_default();
    decoder->started = decoder->options.keep_leading;
    decoder->strips = decoder->options.keep_leading ? 0 : (int32_t)tok->strips;
}

/* Gives out what is complete of the held bytes and s; keeps the beginning of a character. */
static bool give(pl_decoder *d, const char *s, size_t size, pl_buffer *out) {
    char joined[8];
    while (d->n_held > 0 && size > 0) {
        /* One byte at a time, until the held character is complete or broken. */
        memcpy(joined, d->held, d->n_held);
        joined[d->n_held] = s[0];
        size_t n = d->n_held + 1u;
        uint32_t cp;
        if (pl_utf8_decode(joined, n, &cp) == n) {
            if (!append(out, joined, n)) return false;
            d->n_held = 0;
        } else if (pl_utf8_is_beginning(joined, n)) {
            memcpy(d->held, joined, n);
            d->n_held = (uint8_t)n;
        } else {
            bool replace = d->options.replace_invalid;
            if (!append(out, replace ? "\xEF\xBF\xBD" : joined, replace ? 3 : d->n_held))
                return false;
            d->n_held = 0;
            continue; /* s[0] begins anew */
        }
        s++;
        size--;
    }
    while (size > 0) {
        size_t n = pl_utf8_valid(s, size);
        if (!append(out, s, n)) return false;
        s += n;
        size -= n;
        if (size == 0) break;
        size_t tail = 0;
        for (size_t k = 1; k <= 3 && k <= size; k++)
            if (pl_utf8_is_beginning(s, k)) tail = k;
        if (tail == size) {
            memcpy(d->held, s, tail);
            d->n_held = (uint8_t)tail;
            break;
        }
        size_t bad = tail ? tail : 1;
        bool replace = d->options.replace_invalid;
        if (!append(out, replace ? "\xEF\xBF\xBD" : s, replace ? 3 : bad)) return false;
        s += bad;
        size -= bad;
    }
    return true;
}

static pl_status check_id(const pl_tokenizer *tok, int32_t id, pl_error *err) {
    if (id >= 0 && (size_t)id < tok->pieces.n) return PL_OK;
    return pl_fail(err, PL_ERR_ARGUMENT, "token id %d is outside the vocabulary, 0 to %zu", (int)id,
                   tok->pieces.n - 1);
}

pl_status pl_decoder_put(pl_decoder *decoder, int32_t id, pl_buffer *text, pl_error *err) {
    const pl_tokenizer *tok = decoder->tok;
    pl_status status = check_id(tok, id, err);
    if (status != PL_OK) return status;
    if (decoder->options.skip_special && tok->skipped[id]) return PL_OK;
    pl_decoder next = *decoder;
    size_t before = text->size;
    pl_buffer first = {0}, rooms[2] = {{0}, {0}};
    pl_bytes in = pl_strings_get(&tok->bytes, (size_t)id);
    if (!next.started) {
        next.started = true;
        bool ok =
            pl_piece_bytes(tok, id, pl_strings_get(&tok->pieces, (size_t)id), true, rooms, &first);
        pl_buffer_clear(&rooms[0]);
        pl_buffer_clear(&rooms[1]);
        if (!ok) goto fail;
        in = (pl_bytes){(const char *)first.data, first.size};
    }
    pl_bytes strip = tok->strip_text;
    while (next.strips > 0 && in.size > 0) {
        if (in.size < strip.size || memcmp(in.data, strip.data, strip.size) != 0) {
            next.strips = 0;
        } else {
            in = (pl_bytes){in.data + strip.size, in.size - strip.size};
            next.strips--;
        }
    }
    if (!give(&next, in.data, in.size, text)) goto fail;
    pl_buffer_clear(&first);
    *decoder = next;
    return PL_OK;
fail:
    pl_buffer_clear(&first);
    text->size = before;
    return pl_no_memory(err);
}

pl_status pl_decoder_flush(pl_decoder *decoder, pl_buffer *text, pl_error *err) {
    bool replace = decoder->options.replace_invalid && decoder->n_held > 0;
    if (!append(text, replace ? "\xEF\xBF\xBD" : (const char *)decoder->held,
                replace ? 3 : decoder->n_held))
        return pl_no_memory(err);
    decoder->n_held = 0;
    return PL_OK;
}

pl_status pl_tokenizer_decode(const pl_tokenizer *tok, const int32_t *ids, size_t n,
                              const pl_decode_options *options, pl_buffer *text, pl_error *err) {
    pl_decoder decoder;
    pl_decoder_init(&decoder, tok, options);
    size_t before = text->size;
    pl_status status = PL_OK;
    for (size_t i = 0; i < n && status == PL_OK; i++) {
        status = pl_decoder_put(&decoder, ids[i], text, err);
        if (status == PL_ERR_ARGUMENT) pl_error_prefix(err, status, "ids[%zu]", i);
    }
    if (status == PL_OK) status = pl_decoder_flush(&decoder, text, err);
    if (status != PL_OK) text->size = before;
    return status;
}
