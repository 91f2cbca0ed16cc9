/* Pre-tokenizer steps, one inside the other: each cuts its stretch of text and hands the parts
 * to the next, the last one's parts are the words. */
#include "internal.h"

#include <string.h>

#include "../base/error.h"
#include "utf8.h"

typedef struct split {
    pl_encode_call *call;
    const pl_pre *pre;
    size_t step;
    bool first;                  /* the stretch begins where the caller's text begins */
    size_t begin;                /* of the stretch, in pl_call_text */
    size_t held_begin, held_end; /* a part that may grow, relative to begin */
    bool holding, held_match;
    const pl_buffer *mapped;   /* the stretch in GPT-2's alphabet, or NULL */
    size_t mapped_at, byte_at; /* the same place in both */
} split;

static pl_status encode_word(pl_encode_call *call, size_t begin, size_t end, pl_error *err);

/* Hands a part to the next step. */
static pl_status emit(split *s, size_t begin, size_t end, pl_error *err) {
    if (begin == end) return PL_OK;
    if (s->mapped) {
        /* Places in the alphabet back to places in the bytes: one character is one byte. */
        size_t ends[2] = {begin, end}, bytes[2];
        for (int i = 0; i < 2; i++) {
            for (; s->mapped_at < ends[i]; s->byte_at++)
                s->mapped_at += s->mapped->data[s->mapped_at] < 0x80 ? 1 : 2;
            bytes[i] = s->byte_at;
        }
        begin = bytes[0];
        end = bytes[1];
    }
    return pl_pretokenize(s->call, s->step + 1, s->begin + begin, s->begin + end,
                          s->first && begin == 0, err);
}

static pl_status release(split *s, pl_error *err) {
    if (!s->holding) return PL_OK;
    s->holding = false;
    return emit(s, s->held_begin, s->held_end, err);
}

static void hold(split *s, size_t begin, size_t end, bool match) {
    s->holding = true;
    s->held_match = match;
    s->held_begin = begin;
    s->held_end = end;
}

/* One stretch between or inside delimiters, in order. */
static pl_status feed(split *s, size_t begin, size_t end, bool match, pl_error *err) {
    if (begin == end) return PL_OK;
    pl_split_behavior behavior = s->pre->step.behavior;
    bool joins = false;
    if (behavior == PL_SPLIT_REMOVED && match) return PL_OK;
    if (behavior == PL_SPLIT_WITH_PREVIOUS) joins = match && !s->held_match;
    if (behavior == PL_SPLIT_WITH_NEXT) joins = !match && s->held_match;
    if (behavior == PL_SPLIT_CONTIGUOUS) joins = match && s->held_match;
    if (behavior == PL_SPLIT_ISOLATED || behavior == PL_SPLIT_REMOVED)
        return emit(s, begin, end, err);
    if (s->holding && joins) {
        s->held_end = end;
        s->held_match = match;
        return PL_OK;
    }
    pl_status status = release(s, err);
    hold(s, begin, end, match);
    return status;
}

static const char *split_text(const split *s) {
    return s->mapped ? (const char *)s->mapped->data : pl_call_text(s->call) + s->begin;
}

static pl_status run_split(split *s, size_t size, pl_error *err) {
    pl_regex_scan scan;
    pl_status status = pl_regex_scan_init(&scan, s->pre->regex, s->call->stack, size, err);
    if (status != PL_OK) return status;
    bool invert = s->pre->step.invert;
    size_t at = 0;
    while (at < size && status == PL_OK) {
        size_t begin, end;
        status = pl_regex_scan_next(&scan, split_text(s), &begin, &end, err);
        if (status == PL_OK) status = feed(s, at, begin, invert, err);
        if (status == PL_OK) status = feed(s, begin, end, !invert, err);
        at = end;
    }
    pl_regex_scan_clear(&scan);
    return status == PL_OK ? release(s, err) : status;
}

/* Appends [begin, end) of the working text to it, in GPT-2's alphabet to mapped. */
static bool map_bytes(const char *text, size_t size, pl_buffer *mapped) {
    for (size_t i = 0; i < size; i++) {
        char c[4];
        if (!pl_buffer_append(mapped, c, pl_utf8_encode(pl_byte_to_char((uint8_t)text[i]), c)))
            return false;
    }
    return true;
}

static pl_status do_split(pl_encode_call *call, size_t step, size_t begin, size_t end, bool first,
                          pl_error *err) {
    const pl_pre *pre = &call->tok->pres[step];
    split s = {.call = call, .pre = pre, .step = step, .first = first, .begin = begin};
    if (!pre->in_bytes) return run_split(&s, end - begin, err);
    pl_buffer mapped = {0};
    pl_status status = PL_OK;
    if (!map_bytes(pl_call_text(call) + begin, end - begin, &mapped)) status = pl_no_memory(err);
    s.mapped = &mapped;
    if (status == PL_OK) status = run_split(&s, mapped.size, err);
    pl_buffer_clear(&mapped);
    return status;
}

static bool begins_with(const char *s, size_t size, pl_bytes with) {
    return size >= with.size && memcmp(s, with.data, with.size) == 0;
}

/* Appends n bytes of the working text to itself, which may move it. */
static bool append_own(pl_buffer *work, size_t from, size_t n) {
    if (!pl_buffer_reserve(work, n)) return false;
    return pl_buffer_append(work, work->data + from, n);
}

static pl_status check_work(const pl_encode_call *call, pl_error *err) {
    return call->work.size <= UINT32_MAX
               ? PL_OK
               : pl_fail(err, PL_ERR_ARGUMENT, "the normalised text is over 4 GiB");
}

static pl_status prefix_space(pl_encode_call *call, size_t step, size_t begin, size_t end,
                              bool first, pl_error *err) {
    if (call->work.data[begin] != ' ') {
        size_t at = call->work.size;
        if (!pl_buffer_append(&call->work, " ", 1) || !append_own(&call->work, begin, end - begin))
            return pl_no_memory(err);
        begin = at;
        end = call->work.size;
    }
    pl_status status = check_work(call, err);
    return status == PL_OK ? pl_pretokenize(call, step + 1, begin, end, first, err) : status;
}

static pl_status metaspace(pl_encode_call *call, size_t step, size_t begin, size_t end, bool first,
                           pl_error *err) {
    const pl_pre_step *pre = &call->tok->pres[step].step;
    pl_buffer *work = &call->work;
    const char *text = (const char *)work->data + begin;
    bool prepend = pre->scheme == PL_PREPEND_ALWAYS || (pre->scheme == PL_PREPEND_FIRST && first);
    if (text[0] == ' ' || begins_with(text, end - begin, pre->pattern)) prepend = false;
    size_t at = work->size;
    if (prepend && !pl_buffer_append(work, pre->pattern.data, pre->pattern.size))
        return pl_no_memory(err);
    for (size_t i = begin; i < end;) {
        size_t n = 0;
        while (i + n < end && work->data[i + n] != ' ') n++;
        if (!append_own(work, i, n)) return pl_no_memory(err);
        i += n;
        if (i < end && !pl_buffer_append(work, pre->pattern.data, pre->pattern.size))
            return pl_no_memory(err);
        i++;
    }
    pl_status status = check_work(call, err);
    return status == PL_OK ? pl_pretokenize(call, step + 1, at, work->size, first, err) : status;
}

/* The words of an SPM vocabulary whose merges never cross from something into a bar. */
static pl_status cut_at_bars(pl_encode_call *call, size_t begin, size_t end, pl_error *err) {
    while (begin < end) {
        const char *s = pl_call_text(call);
        size_t stop = begin;
        while (end - stop >= 3 && memcmp(s + stop, "\xE2\x96\x81", 3) == 0) stop += 3;
        const char *bar = memmem(s + stop, end - stop, "\xE2\x96\x81", 3);
        stop = bar ? (size_t)(bar - s) : end;
        pl_status status = encode_word(call, begin, stop, err);
        if (status != PL_OK) return status;
        begin = stop;
    }
    return PL_OK;
}

pl_status pl_pretokenize(pl_encode_call *call, size_t step, size_t begin, size_t end, bool first,
                         pl_error *err) {
    if (begin == end) return PL_OK;
    if (step == call->tok->n_pres)
        return call->tok->cut_at_bars ? cut_at_bars(call, begin, end, err)
                                      : encode_word(call, begin, end, err);
    switch (call->tok->pres[step].step.kind) {
    case PL_PRE_SPLIT:
        return do_split(call, step, begin, end, first, err);
    case PL_PRE_PREFIX_SPACE:
        return prefix_space(call, step, begin, end, first, err);
    case PL_PRE_METASPACE:
        return metaspace(call, step, begin, end, first, err);
    case PL_PRE_BYTES:
        break;
    }
    return pl_pretokenize(call, step + 1, begin, end, first, err);
}

/* ---- Words ---- */

static pl_status model_word(pl_encode_call *call, size_t begin, size_t end, pl_error *err) {
    switch (call->tok->kind) {
    case PL_TOKENIZER_UNIGRAM:
        return pl_unigram_word(call, begin, end, err);
    case PL_TOKENIZER_WORDPIECE:
        return pl_wordpiece_word(call, begin, end, err);
    default:
        return pl_bpe_word(call, begin, end, err);
    }
}

/* Encodes and, where someone listens and the model told no merges, tells the result. */
static pl_status told_word(pl_encode_call *call, size_t begin, size_t end, pl_error *err) {
    size_t from = call->ids->n;
    call->told = false;
    pl_status status = model_word(call, begin, end, err);
    if (status == PL_OK && call->tell && !call->told) status = pl_tell_ids(call, from, err);
    call->word++;
    return status;
}

/* Words come again and again. The cache remembers where in this text a word was seen and where
 * in the ids its tokens are, so it copies nothing. */
static pl_status encode_word(pl_encode_call *call, size_t begin, size_t end, pl_error *err) {
    size_t size = end - begin, from = call->ids->n;
    if (!call->cache || size > 64) return told_word(call, begin, end, err);
    const char *text = pl_call_text(call);
    uint64_t hash = pl_hash_bytes(text + begin, size);
    pl_cached_word *slot = &call->cache[hash & call->cache_mask];
    if (slot->hash == hash && slot->size == size &&
        memcmp(text + slot->begin, text + begin, size) == 0) {
        for (size_t i = 0; i < slot->n_ids; i++)
            if (!pl_ids_append(call->ids, call->ids->data[slot->first_id + i]))
                return pl_no_memory(err);
        return PL_OK;
    }
    pl_status status = model_word(call, begin, end, err);
    if (status == PL_OK && from <= UINT32_MAX)
        *slot = (pl_cached_word){hash, (uint32_t)begin, (uint32_t)size, (uint32_t)from,
                                 (uint32_t)(call->ids->n - from)};
    return status;
}
