/* The tokenizer as the metadata of a GGUF file: what metadata.c reads. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "../base/buffer.h"
#include "../base/error.h"
#include "internal.h"

typedef const pl_tokenizer_visitor *visitor;

static pl_bytes literal(const char *s) {
    return (pl_bytes){s, strlen(s)};
}

static bool has_norm(const pl_tokenizer *tok, pl_norm_kind kind) {
    for (size_t i = 0; i < tok->n_norms; i++)
        if (tok->norms[i].step.kind == kind) return true;
    return false;
}

static bool prefixes_space(const pl_tokenizer *tok) {
    return tok->n_pres > 0 && tok->pres[0].step.kind == PL_PRE_PREFIX_SPACE;
}

/* Whether tokenizer.ggml keys leave out something that tokenizer.json says. */
static bool needs_json(const pl_tokenizer *tok) {
    if (tok->kind != PL_TOKENIZER_BPE_BYTES || !tok->pre_name || tok->n_norms > 0) return true;
    if (tok->n_decs != 1 || tok->decs[0].kind != PL_DEC_BYTE_LEVEL) return true;
    if (tok->n_prefix > 1 || tok->n_suffix > 1) return true;
    if (tok->n_prefix == 1 && tok->prefix[0] != tok->special.bos) return true;
    if (tok->n_suffix == 1 && tok->suffix[0] != tok->special.eos) return true;
    for (size_t i = 0; i < tok->n_added; i++) {
        const pl_added_token *added = &tok->added[i];
        if (added->lstrip || added->rstrip || added->single_word) return true;
    }
    return false;
}

/* ---- Arrays ---- */

static bool append_unescaped(pl_buffer *out, pl_bytes piece) {
    for (size_t i = 0; i < piece.size; i++) {
        bool bar = piece.size - i >= 3 && memcmp(piece.data + i, "\xE2\x96\x81", 3) == 0;
        if (!pl_buffer_append(out, bar ? " " : piece.data + i, 1)) return false;
        if (bar) i += 2;
    }
    return true;
}

/* A piece as GGUF spells it: holes get a name; WordPiece marks beginnings, not continuations;
 * SentencePiece's user-defined ones have spaces for bars. */
static bool gguf_piece(const pl_tokenizer *tok, size_t i, pl_buffer *out) {
    pl_bytes piece = pl_strings_get(&tok->pieces, i), prefix = tok->continuing_prefix;
    if (piece.size == 0) {
        char name[32];
        int n = snprintf(name, sizeof name, "[PAD%zu]", i);
        return pl_buffer_append(out, name, (size_t)n);
    }
    if (tok->kind == PL_TOKENIZER_WORDPIECE && tok->attrs[i] == PL_TOKEN_NORMAL) {
        if (piece.size > prefix.size && memcmp(piece.data, prefix.data, prefix.size) == 0)
            return pl_buffer_append(out, piece.data + prefix.size, piece.size - prefix.size);
        if (!pl_buffer_append(out, "\xE2\x96\x81", 3)) return false;
    }
    bool spm = tok->kind == PL_TOKENIZER_SPM || tok->kind == PL_TOKENIZER_BPE_CHARS;
    if (spm && tok->attrs[i] == PL_TOKEN_USER_DEFINED) return append_unescaped(out, piece);
    return pl_buffer_append(out, piece.data, piece.size);
}

static bool merge_line(const pl_tokenizer *tok, size_t i, pl_buffer *out) {
    pl_bytes left = pl_strings_get(&tok->pieces, (size_t)(tok->merge_list[i] >> 32));
    pl_bytes right = pl_strings_get(&tok->pieces, (size_t)(uint32_t)tok->merge_list[i]);
    return pl_buffer_append(out, left.data, left.size) && pl_buffer_append(out, " ", 1) &&
           pl_buffer_append(out, right.data, right.size);
}

static pl_status tell_texts(const pl_tokenizer *tok, visitor v, const char *key, size_t n,
                            bool (*write)(const pl_tokenizer *, size_t, pl_buffer *),
                            pl_error *err) {
    pl_buffer text = {0};
    size_t *ends = malloc((n + 1) * sizeof *ends);
    pl_bytes *items = malloc((n + 1) * sizeof *items);
    bool ok = ends && items && pl_buffer_reserve(&text, 1);
    for (size_t i = 0; i < n && ok; i++) {
        ok = write(tok, i, &text);
        ends[i] = text.size;
    }
    for (size_t i = 0; i < n && ok; i++) {
        size_t begin = i ? ends[i - 1] : 0;
        items[i] = (pl_bytes){(const char *)text.data + begin, ends[i] - begin};
    }
    pl_status status = ok ? v->texts(v->context, key, items, n, err) : pl_no_memory(err);
    free(ends);
    free(items);
    pl_buffer_clear(&text);
    return status;
}

static pl_status tell_types(const pl_tokenizer *tok, visitor v, pl_error *err) {
    static const int32_t types[] = {
        [PL_TOKEN_NORMAL] = 1,       [PL_TOKEN_UNKNOWN] = 2, [PL_TOKEN_CONTROL] = 3,
        [PL_TOKEN_USER_DEFINED] = 4, [PL_TOKEN_UNUSED] = 5,  [PL_TOKEN_BYTE] = 6};
    size_t n = tok->pieces.n;
    int32_t *values = malloc(n * sizeof *values);
    if (!values) return pl_no_memory(err);
    for (size_t i = 0; i < n; i++) values[i] = types[tok->attrs[i]];
    pl_status status = v->i32s(v->context, "tokenizer.ggml.token_type", values, n, err);
    free(values);
    return status;
}

/* A list of merges as scores: what is merged sooner scores higher. */
static pl_status tell_scores(const pl_tokenizer *tok, visitor v, pl_error *err) {
    size_t n = tok->pieces.n;
    float *scores = calloc(n, sizeof *scores);
    if (!scores) return pl_no_memory(err);
    if (tok->scores) memcpy(scores, tok->scores, n * sizeof *scores);
    for (size_t i = 0; !tok->scores && i < tok->n_merges; i++) {
        const pl_merge *m = pl_merges_find(&tok->merges, (int32_t)(tok->merge_list[i] >> 32),
                                           (int32_t)(uint32_t)tok->merge_list[i]);
        if (scores[m->id] == 0) scores[m->id] = -1.0f - (float)i;
    }
    pl_status status = v->f32s(v->context, "tokenizer.ggml.scores", scores, n, err);
    free(scores);
    return status;
}

/* ---- By kind ---- */

static pl_status tell_spaces(const pl_tokenizer *tok, visitor v, pl_error *err) {
    bool prefix = has_norm(tok, PL_NORM_PREPEND), single = has_norm(tok, PL_NORM_SPACES);
    for (size_t i = 0; i < tok->n_pres; i++)
        if (tok->pres[i].step.kind == PL_PRE_METASPACE)
            prefix = tok->pres[i].step.scheme != PL_PREPEND_NEVER;
    pl_status status = v->boolean(v->context, "tokenizer.ggml.add_space_prefix", prefix, err);
    if (status == PL_OK)
        status = v->boolean(v->context, "tokenizer.ggml.remove_extra_whitespaces", single, err);
    for (size_t i = 0; i < tok->n_norms && status == PL_OK; i++)
        if (tok->norms[i].step.kind == PL_NORM_CHARSMAP)
            status = v->bytes(v->context, "tokenizer.ggml.precompiled_charsmap",
                              tok->norms[i].step.a, err);
    return status;
}

static pl_status tell_kind(const pl_tokenizer *tok, visitor v, pl_error *err) {
    static const char *const names[] = {"gpt2", "llama", "llama", "t5", "bert"};
    pl_status status = v->text(v->context, "tokenizer.ggml.model", literal(names[tok->kind]), err);
    if (status != PL_OK) return status;
    bool bytes = tok->kind == PL_TOKENIZER_BPE_BYTES;
    if (bytes)
        status = v->text(v->context, "tokenizer.ggml.pre",
                         literal(tok->pre_name ? tok->pre_name : "default"), err);
    if (status == PL_OK)
        status = tell_texts(tok, v, "tokenizer.ggml.tokens", tok->pieces.n, gguf_piece, err);
    if (status == PL_OK) status = tell_types(tok, v, err);
    if (status != PL_OK || tok->kind == PL_TOKENIZER_WORDPIECE) return status;
    if (!bytes) {
        status = tell_scores(tok, v, err);
        return status == PL_OK ? tell_spaces(tok, v, err) : status;
    }
    if (prefixes_space(tok))
        status = v->boolean(v->context, "tokenizer.ggml.add_space_prefix", true, err);
    if (status == PL_OK)
        status = tell_texts(tok, v, "tokenizer.ggml.merges", tok->n_merges, merge_line, err);
    return status;
}

static pl_status tell_ids(const pl_tokenizer *tok, visitor v, pl_error *err) {
    const pl_special_ids *s = &tok->special;
    const struct {
        const char *key;
        int32_t id;
    } ids[] = {
        {"tokenizer.ggml.bos_token_id", s->bos},     {"tokenizer.ggml.eos_token_id", s->eos},
        {"tokenizer.ggml.unknown_token_id", s->unk}, {"tokenizer.ggml.seperator_token_id", s->sep},
        {"tokenizer.ggml.padding_token_id", s->pad}, {"tokenizer.ggml.cls_token_id", s->cls},
        {"tokenizer.ggml.mask_token_id", s->mask}};
    for (size_t i = 0; i < sizeof ids / sizeof *ids; i++) {
        if (ids[i].id < 0) continue;
        pl_status status = v->u32(v->context, ids[i].key, (uint32_t)ids[i].id, err);
        if (status != PL_OK) return status;
    }
    for (size_t i = 0; i < tok->n_ends; i++) {
        if (tok->ends[i] == s->eos) continue;
        return v->u32(v->context, "tokenizer.ggml.eot_token_id", (uint32_t)tok->ends[i], err);
    }
    return PL_OK;
}

pl_status pl_tokenizer_export(const pl_tokenizer *tok, const pl_tokenizer_visitor *v,
                              pl_error *err) {
    pl_status status = tell_kind(tok, v, err);
    if (status == PL_OK) status = tell_ids(tok, v, err);
    if (status == PL_OK)
        status = v->boolean(v->context, "tokenizer.ggml.add_bos_token", tok->n_prefix > 0, err);
    if (status == PL_OK)
        status = v->boolean(v->context, "tokenizer.ggml.add_eos_token", tok->n_suffix > 0, err);
    if (status == PL_OK && tok->chat_template.size)
        status = v->text(v->context, "tokenizer.chat_template", tok->chat_template, err);
    if (status == PL_OK && tok->hf_json.size && needs_json(tok))
        status = v->text(v->context, "tokenizer.huggingface.json", tok->hf_json, err);
    return status;
}
