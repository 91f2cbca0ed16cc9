/* Checks a spec and compiles it into the tables that encode.c and decode.c run on. */
#include "tokenizer.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "../base/error.h"
#include "../base/size.h"
#include "../base/threads.h"
#include "internal.h"
#include "utf8.h"

enum { MAX_TOKENS = 1 << 24, MAX_STEPS = 64, MAX_CONTENT = 256 };

pl_tokenizer_spec pl_tokenizer_spec_default(void) {
    pl_tokenizer_spec spec = {.source = "tokenizer", .max_word_chars = 100};
    spec.special = (pl_special_ids){-1, -1, -1, -1, -1, -1, -1};
    return spec;
}

static void *copy(pl_tokenizer *tok, const void *data, size_t n, size_t size) {
    size_t bytes;
    if (!pl_size_mul(&bytes, n, size)) return NULL;
    void *p = pl_arena_alloc(&tok->arena, bytes + 1);
    if (p && bytes) memcpy(p, data, bytes);
    if (p) ((char *)p)[bytes] = 0;
    return p;
}

static bool copy_bytes(pl_tokenizer *tok, pl_bytes *bytes) {
    if (!bytes->data) return true;
    bytes->data = copy(tok, bytes->data, bytes->size, 1);
    return bytes->data != NULL;
}

/* ---- Steps ---- */

static pl_status compile_norms(pl_tokenizer *tok, const pl_tokenizer_spec *spec, pl_error *err) {
    tok->norms = pl_arena_alloc(&tok->arena, spec->n_norms * sizeof *tok->norms);
    if (!tok->norms) return pl_no_memory(err);
    for (size_t i = 0; i < spec->n_norms; i++) {
        pl_norm *norm = &tok->norms[i];
        *norm = (pl_norm){.step = spec->norms[i]};
        tok->n_norms = i + 1;
        if (!copy_bytes(tok, &norm->step.a) || !copy_bytes(tok, &norm->step.b))
            return pl_no_memory(err);
        if (norm->step.b.size > MAX_CONTENT)
            return pl_fail(err, PL_ERR_FORMAT,
                           "%s: normalizer: a replacement of %zu bytes, at most %d", tok->source,
                           norm->step.b.size, MAX_CONTENT);
        if (norm->step.kind != PL_NORM_REPLACE_REGEX && norm->step.kind != PL_NORM_SURROUND)
            continue;
        pl_status status =
            pl_regex_new(&norm->regex, norm->step.a.data, norm->step.a.size, false, err);
        if (status != PL_OK) return pl_error_prefix(err, status, "%s: normalizer", tok->source);
    }
    return PL_OK;
}

static pl_status compile_pres(pl_tokenizer *tok, const pl_tokenizer_spec *spec, pl_error *err) {
    tok->pres = pl_arena_alloc(&tok->arena, spec->n_pres * sizeof *tok->pres);
    if (!tok->pres) return pl_no_memory(err);
    bool in_bytes = false;
    for (size_t i = 0; i < spec->n_pres; i++) {
        pl_pre *pre = &tok->pres[i];
        *pre = (pl_pre){.step = spec->pres[i], .in_bytes = in_bytes};
        tok->n_pres = i + 1;
        if (!copy_bytes(tok, &pre->step.pattern)) return pl_no_memory(err);
        if (pre->step.kind == PL_PRE_BYTES) in_bytes = true;
        if (pre->step.kind == PL_PRE_PREFIX_SPACE || pre->step.kind == PL_PRE_METASPACE)
            tok->rewrites = true;
        if (pre->step.kind != PL_PRE_SPLIT) continue;
        pl_status status = pl_regex_new(&pre->regex, pre->step.pattern.data, pre->step.pattern.size,
                                        pre->step.literal, err);
        if (status != PL_OK) return pl_error_prefix(err, status, "%s: pre_tokenizer", tok->source);
    }
    return PL_OK;
}

static pl_status compile_decs(pl_tokenizer *tok, const pl_tokenizer_spec *spec, pl_error *err) {
    tok->decs = copy(tok, spec->decs, spec->n_decs, sizeof *tok->decs);
    if (!tok->decs) return pl_no_memory(err);
    tok->n_decs = spec->n_decs;
    for (size_t i = 0; i < tok->n_decs; i++) {
        pl_dec_step *dec = &tok->decs[i];
        if (!copy_bytes(tok, &dec->a) || !copy_bytes(tok, &dec->b)) return pl_no_memory(err);
        if (dec->kind != PL_DEC_STRIP || dec->a.size == 0) continue;
        tok->strips = dec->n;
        tok->strip_text = dec->a;
    }
    return PL_OK;
}

static pl_status compile_steps(pl_tokenizer *tok, const pl_tokenizer_spec *spec, pl_error *err) {
    if (spec->n_norms > MAX_STEPS || spec->n_pres > MAX_STEPS || spec->n_decs > MAX_STEPS)
        return pl_fail(err, PL_ERR_FORMAT, "%s: %zu, %zu and %zu steps, at most %d of a kind",
                       tok->source, spec->n_norms, spec->n_pres, spec->n_decs, MAX_STEPS);
    tok->rewrites = spec->n_norms > 0;
    pl_status status = compile_norms(tok, spec, err);
    if (status == PL_OK) status = compile_pres(tok, spec, err);
    return status == PL_OK ? compile_decs(tok, spec, err) : status;
}

/* ---- The vocabulary ---- */

static pl_status check_id(const pl_tokenizer *tok, const char *field, int32_t id, pl_error *err) {
    if (id >= 0 && (size_t)id < tok->pieces.n) return PL_OK;
    return pl_fail(err, PL_ERR_FORMAT, "%s: %s: id %d, expected 0 to %zu", tok->source, field,
                   (int)id, tok->pieces.n - 1);
}

static pl_status take_scores(pl_tokenizer *tok, const pl_tokenizer_spec *spec, pl_error *err) {
    size_t n = tok->pieces.n;
    if (tok->kind != PL_TOKENIZER_SPM && tok->kind != PL_TOKENIZER_UNIGRAM) return PL_OK;
    if (!spec->scores) return pl_fail(err, PL_ERR_FORMAT, "%s: no scores", tok->source);
    tok->scores = malloc(n * sizeof *tok->scores);
    if (!tok->scores) return pl_no_memory(err);
    memcpy(tok->scores, spec->scores, n * sizeof *tok->scores);
    tok->min_score = INFINITY;
    tok->max_score = -INFINITY;
    for (size_t i = 0; i < n; i++) {
        if (!isfinite(tok->scores[i]))
            return pl_fail(err, PL_ERR_FORMAT, "%s: scores[%zu] is %g", tok->source, i,
                           (double)tok->scores[i]);
        if (tok->attrs[i] != PL_TOKEN_NORMAL) continue;
        tok->min_score = fminf(tok->min_score, tok->scores[i]);
        tok->max_score = fmaxf(tok->max_score, tok->scores[i]);
    }
    if (tok->min_score > tok->max_score) tok->min_score = tok->max_score = 0;
    return PL_OK;
}

/* The tokens of single bytes; token 10 of Llama is the byte 7, written <0x07>. */
static void find_bytes(pl_tokenizer *tok) {
    for (unsigned byte = 0; byte < 256; byte++) {
        char name[8];
        size_t n;
        if (tok->kind == PL_TOKENIZER_BPE_BYTES)
            n = pl_utf8_encode(pl_byte_to_char((uint8_t)byte), name);
        else
            n = (size_t)snprintf(name, sizeof name, "<0x%02X>", byte);
        tok->byte_ids[byte] = pl_strings_find(&tok->pieces, name, n);
    }
}

static pl_status take_attrs(pl_tokenizer *tok, const pl_tokenizer_spec *spec, pl_error *err) {
    size_t n = tok->pieces.n;
    tok->attrs = calloc(n, 1);
    tok->skipped = calloc(n, 1);
    tok->added = copy(tok, spec->added, spec->n_added, sizeof *tok->added);
    if (!tok->attrs || !tok->skipped || !tok->added) return pl_no_memory(err);
    tok->n_added = spec->n_added;
    if (spec->attrs) memcpy(tok->attrs, spec->attrs, n);
    for (size_t i = 0; i < spec->n_added; i++) {
        const pl_added_token *added = &tok->added[i];
        pl_status status = check_id(tok, "added_tokens", added->id, err);
        if (status != PL_OK) return status;
        uint8_t *attr = &tok->attrs[added->id];
        if (*attr == PL_TOKEN_NORMAL || *attr == PL_TOKEN_UNUSED)
            *attr = added->special ? PL_TOKEN_CONTROL : PL_TOKEN_USER_DEFINED;
        tok->skipped[added->id] = added->special;
    }
    for (size_t i = 0; i < n; i++) tok->skipped[i] |= tok->attrs[i] == PL_TOKEN_CONTROL;
    return PL_OK;
}

/* Whether a bar ("▁") occurs only at the beginning of pieces, or after other bars. */
static bool bars_begin(const pl_tokenizer *tok) {
    for (size_t i = 0; i < tok->pieces.n; i++) {
        pl_bytes s = pl_strings_get(&tok->pieces, i);
        if (tok->attrs[i] != PL_TOKEN_NORMAL && tok->attrs[i] != PL_TOKEN_USER_DEFINED) continue;
        for (size_t k = 1; k + 3 <= s.size; k++) {
            bool bar = memcmp(s.data + k, "\xE2\x96\x81", 3) == 0;
            if (bar && (k < 3 || memcmp(s.data + k - 3, "\xE2\x96\x81", 3) != 0)) return false;
        }
    }
    return true;
}

static pl_status take_vocabulary(pl_tokenizer *tok, const pl_tokenizer_spec *spec, pl_error *err) {
    if (spec->n_tokens == 0 || spec->n_tokens > MAX_TOKENS)
        return pl_fail(err, PL_ERR_FORMAT, "%s: %zu tokens, expected 1 to %d", tok->source,
                       spec->n_tokens, MAX_TOKENS);
    if (!pl_strings_init(&tok->pieces, spec->pieces, spec->n_tokens, true))
        return pl_no_memory(err);
    pl_status status = take_attrs(tok, spec, err);
    if (status == PL_OK) status = take_scores(tok, spec, err);
    if (status == PL_OK) find_bytes(tok);
    /* Without a token of its own a bar would be part of a run of unknown characters. */
    if (tok->kind == PL_TOKENIZER_SPM && pl_strings_find(&tok->pieces, "\xE2\x96\x81", 3) >= 0)
        tok->cut_at_bars = bars_begin(tok);
    return status;
}

/* What each token adds in the middle of a text. */
static pl_status compile_bytes(pl_tokenizer *tok, pl_error *err) {
    size_t n = tok->pieces.n;
    pl_buffer text = {0}, rooms[2] = {{0}, {0}};
    size_t *ends = malloc(n * sizeof *ends);
    pl_bytes *items = malloc(n * sizeof *items);
    pl_status status = PL_ERR_MEMORY;
    if (!ends || !items || !pl_buffer_reserve(&text, 1)) goto done;
    for (size_t i = 0; i < n; i++) {
        pl_bytes piece = pl_strings_get(&tok->pieces, i);
        if (!pl_piece_bytes(tok, (int32_t)i, piece, false, rooms, &text)) goto done;
        ends[i] = text.size;
    }
    for (size_t i = 0; i < n; i++) {
        size_t begin = i ? ends[i - 1] : 0;
        items[i] = (pl_bytes){(const char *)text.data + begin, ends[i] - begin};
    }
    if (pl_strings_init(&tok->bytes, items, n, tok->ignore_merges)) status = PL_OK;
done:
    free(ends);
    free(items);
    pl_buffer_clear(&text);
    pl_buffer_clear(&rooms[0]);
    pl_buffer_clear(&rooms[1]);
    return status == PL_OK ? PL_OK : pl_no_memory(err);
}

static pl_status bad_merge(const pl_tokenizer *tok, size_t i, const pl_merge_pair *m, int missing,
                           pl_error *err) {
    int l = (int)(m->left.size > 60 ? 60 : m->left.size);
    int r = (int)(m->right.size > 60 ? 60 : m->right.size);
    static const char *const what[] = {"left piece", "right piece", "result"};
    return pl_fail(err, PL_ERR_FORMAT,
                   "%s: merges[%zu], \"%.*s %.*s\": the %s is not in the vocabulary", tok->source,
                   i, l, m->left.data, r, m->right.data, what[missing]);
}

/* The ids of a merge's pieces and of what it makes, -1 where there is none. */
typedef struct found_merge {
    int32_t left, right, id;
} found_merge;

typedef struct find_job {
    const pl_tokenizer *tok;
    const pl_tokenizer_spec *spec;
    found_merge *found;
} find_job;

enum { MERGES_TOGETHER = 2048 };

static void find_merges(void *context, size_t task, int thread) {
    (void)thread;
    const find_job *job = context;
    const pl_strings *pieces = &job->tok->pieces;
    size_t end = (task + 1) * MERGES_TOGETHER;
    if (end > job->spec->n_merges) end = job->spec->n_merges;
    for (size_t i = task * MERGES_TOGETHER; i < end; i++) {
        const pl_merge_pair *m = &job->spec->merges[i];
        job->found[i] = (found_merge){pl_strings_find(pieces, m->left.data, m->left.size),
                                      pl_strings_find(pieces, m->right.data, m->right.size),
                                      pl_strings_find_joined(pieces, m->left, m->right)};
    }
}

static pl_status take_merges(pl_tokenizer *tok, const pl_tokenizer_spec *spec, pl_error *err) {
    if (spec->n_merges > MAX_TOKENS)
        return pl_fail(err, PL_ERR_FORMAT, "%s: %zu merges, at most %d", tok->source,
                       spec->n_merges, MAX_TOKENS);
    tok->merge_list = malloc((spec->n_merges + 1) * sizeof *tok->merge_list);
    if (!tok->merge_list || !pl_merges_init(&tok->merges, spec->n_merges)) return pl_no_memory(err);
    tok->n_merges = spec->n_merges;
    find_job job = {tok, spec, malloc((spec->n_merges + 1) * sizeof *job.found)};
    if (!job.found) return pl_no_memory(err);
    size_t n_tasks = (spec->n_merges + MERGES_TOGETHER - 1) / MERGES_TOGETHER;
    pl_parallel(pl_threads_default(), n_tasks, find_merges, &job);
    pl_status status = PL_OK;
    for (size_t i = 0; i < spec->n_merges && status == PL_OK; i++) {
        const found_merge *f = &job.found[i];
        if (f->id < 0 || f->left < 0 || f->right < 0) {
            int missing = f->left < 0 ? 0 : f->right < 0 ? 1 : 2;
            status = bad_merge(tok, i, &spec->merges[i], missing, err);
            break;
        }
        tok->merge_list[i] = (uint64_t)(uint32_t)f->left << 32 | (uint32_t)f->right;
        pl_merges_put(&tok->merges, f->left, f->right, (uint32_t)i, f->id);
    }
    free(job.found);
    return status;
}

/* ---- Tries and lists ---- */

static pl_status build_tries(pl_tokenizer *tok, pl_error *err) {
    for (size_t i = 0; i < tok->n_added; i++) {
        pl_bytes piece = pl_strings_get(&tok->pieces, (size_t)tok->added[i].id);
        pl_trie *trie = tok->added[i].normalized ? &tok->added_normalized : &tok->added_raw;
        if (!tok->rewrites) trie = &tok->added_raw; /* nothing is normalised: one walk will do */
        if (!pl_trie_put(trie, piece.data, piece.size, (int32_t)i)) return pl_no_memory(err);
    }
    if (tok->kind != PL_TOKENIZER_UNIGRAM && tok->kind != PL_TOKENIZER_SPM) return PL_OK;
    for (size_t i = 0; i < tok->pieces.n; i++) {
        bool wanted = tok->attrs[i] == PL_TOKEN_USER_DEFINED ||
                      (tok->kind == PL_TOKENIZER_UNIGRAM && tok->attrs[i] == PL_TOKEN_NORMAL);
        pl_bytes piece = pl_strings_get(&tok->pieces, i);
        if (wanted && !pl_trie_put(&tok->trie, piece.data, piece.size, (int32_t)i))
            return pl_no_memory(err);
    }
    return PL_OK;
}

static pl_status take_list(pl_tokenizer *tok, const char *field, const int32_t *ids, size_t n,
                           int32_t **list, size_t *n_list, pl_error *err) {
    for (size_t i = 0; i < n; i++) {
        pl_status status = check_id(tok, field, ids[i], err);
        if (status != PL_OK) return status;
    }
    *list = copy(tok, ids, n, sizeof *ids);
    *n_list = n;
    return *list ? PL_OK : pl_no_memory(err);
}

static pl_status take_special(pl_tokenizer *tok, const pl_tokenizer_spec *spec, pl_error *err) {
    const pl_special_ids *s = &spec->special;
    const int32_t ids[] = {s->bos, s->eos, s->unk, s->pad, s->sep, s->cls, s->mask};
    static const char *const names[] = {"bos", "eos", "unk", "pad", "sep", "cls", "mask"};
    for (size_t i = 0; i < sizeof ids / sizeof *ids; i++) {
        if (ids[i] == -1) continue;
        pl_status status = check_id(tok, names[i], ids[i], err);
        if (status != PL_OK) return status;
    }
    tok->special = *s;
    pl_status status =
        take_list(tok, "prefix", spec->prefix, spec->n_prefix, &tok->prefix, &tok->n_prefix, err);
    if (status == PL_OK)
        status = take_list(tok, "suffix", spec->suffix, spec->n_suffix, &tok->suffix,
                           &tok->n_suffix, err);
    if (status == PL_OK)
        status = take_list(tok, "eos", spec->ends, spec->n_ends, &tok->ends, &tok->n_ends, err);
    return status;
}

static pl_status build(pl_tokenizer *tok, const pl_tokenizer_spec *spec, pl_error *err) {
    tok->kind = spec->kind;
    tok->byte_fallback = spec->byte_fallback;
    tok->fuse_unk = spec->fuse_unk;
    tok->ignore_merges = spec->ignore_merges;
    tok->continuing_prefix = spec->continuing_prefix;
    tok->word_suffix = spec->word_suffix;
    tok->max_word_chars = spec->max_word_chars;
    tok->chat_template = spec->chat_template;
    tok->hf_json = spec->hf_json;
    tok->source = copy(tok, spec->source, strlen(spec->source), 1);
    if (!tok->source) return pl_no_memory(err);
    if (spec->pre_name && !(tok->pre_name = copy(tok, spec->pre_name, strlen(spec->pre_name), 1)))
        return pl_no_memory(err);
    if (!copy_bytes(tok, &tok->continuing_prefix) || !copy_bytes(tok, &tok->chat_template) ||
        !copy_bytes(tok, &tok->hf_json) || !copy_bytes(tok, &tok->word_suffix))
        return pl_no_memory(err);
    if (tok->word_suffix.size > PL_MAX_WORD_SUFFIX)
        return pl_fail(err, PL_ERR_FORMAT, "%s: end_of_word_suffix: %zu bytes, at most %d",
                       tok->source, tok->word_suffix.size, PL_MAX_WORD_SUFFIX);
    pl_status status = take_vocabulary(tok, spec, err);
    if (status == PL_OK) status = take_special(tok, spec, err);
    if (status == PL_OK) status = compile_steps(tok, spec, err);
    if (status == PL_OK) status = compile_bytes(tok, err);
    if (status == PL_OK) status = take_merges(tok, spec, err);
    return status == PL_OK ? build_tries(tok, err) : status;
}

pl_status pl_tokenizer_new(pl_tokenizer **out, const pl_tokenizer_spec *spec, pl_error *err) {
    *out = NULL;
    pl_tokenizer *tok = calloc(1, sizeof *tok);
    if (!tok) return pl_no_memory(err);
    pl_status status = build(tok, spec, err);
    if (status != PL_OK) {
        pl_tokenizer_free(tok);
        return status;
    }
    *out = tok;
    return PL_OK;
}

void pl_tokenizer_free(pl_tokenizer *tok) {
    if (!tok) return;
    for (size_t i = 0; i < tok->n_norms; i++) pl_regex_free(tok->norms[i].regex);
    for (size_t i = 0; i < tok->n_pres; i++) pl_regex_free(tok->pres[i].regex);
    pl_strings_clear(&tok->pieces);
    pl_strings_clear(&tok->bytes);
    pl_merges_clear(&tok->merges);
    pl_trie_clear(&tok->trie);
    pl_trie_clear(&tok->added_raw);
    pl_trie_clear(&tok->added_normalized);
    free(tok->attrs);
    free(tok->skipped);
    free(tok->scores);
    free(tok->merge_list);
    pl_arena_clear(&tok->arena);
    free(tok);
}

/* ---- Facts ---- */

pl_tokenizer_kind pl_tokenizer_get_kind(const pl_tokenizer *tok) {
    return tok->kind;
}

const char *pl_tokenizer_kind_name(pl_tokenizer_kind kind) {
    static const char *const names[] = {"byte-level BPE", "BPE", "SentencePiece BPE", "unigram",
                                        "WordPiece"};
    return (size_t)kind < sizeof names / sizeof *names ? names[kind] : "unknown";
}

size_t pl_tokenizer_n_tokens(const pl_tokenizer *tok) {
    return tok->pieces.n;
}

pl_special_ids pl_tokenizer_special_ids(const pl_tokenizer *tok) {
    return tok->special;
}

const int32_t *pl_tokenizer_prefix(const pl_tokenizer *tok, size_t *n) {
    *n = tok->n_prefix;
    return tok->prefix;
}

const int32_t *pl_tokenizer_suffix(const pl_tokenizer *tok, size_t *n) {
    *n = tok->n_suffix;
    return tok->suffix;
}

bool pl_tokenizer_is_end(const pl_tokenizer *tok, int32_t id) {
    if (id >= 0 && id == tok->special.eos) return true;
    for (size_t i = 0; i < tok->n_ends; i++)
        if (tok->ends[i] == id) return true;
    return false;
}

pl_bytes pl_tokenizer_chat_template(const pl_tokenizer *tok) {
    return tok->chat_template;
}

pl_bytes pl_tokenizer_json(const pl_tokenizer *tok) {
    return tok->hf_json;
}

const char *pl_tokenizer_source(const pl_tokenizer *tok) {
    return tok->source;
}

static bool in_range(const pl_tokenizer *tok, int32_t id) {
    return id >= 0 && (size_t)id < tok->pieces.n;
}

pl_bytes pl_tokenizer_piece(const pl_tokenizer *tok, int32_t id) {
    return in_range(tok, id) ? pl_strings_get(&tok->pieces, (size_t)id) : (pl_bytes){NULL, 0};
}

pl_bytes pl_tokenizer_token_bytes(const pl_tokenizer *tok, int32_t id) {
    return in_range(tok, id) ? pl_strings_get(&tok->bytes, (size_t)id) : (pl_bytes){NULL, 0};
}

pl_token_attr pl_tokenizer_attr(const pl_tokenizer *tok, int32_t id) {
    return in_range(tok, id) ? (pl_token_attr)tok->attrs[id] : PL_TOKEN_UNUSED;
}

bool pl_tokenizer_strips_after(const pl_tokenizer *tok, int32_t id) {
    for (size_t i = 0; i < tok->n_added; i++)
        if (tok->added[i].id == id) return tok->added[i].rstrip;
    return false;
}

int32_t pl_tokenizer_find_piece(const pl_tokenizer *tok, const char *piece, size_t len) {
    return pl_strings_find(&tok->pieces, piece, len);
}
