/* A SentencePiece BPE vocabulary as a tokenizer.json: its scores become a list of merges. Of two
 * pieces that could be joined, SentencePiece joins those whose union scores highest; so every way
 * to cut a piece into two is a merge, ordered by the score of the whole. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "../base/error.h"
#include "export_plan.h"

typedef struct merge {
    float score; /* of the whole */
    int32_t whole, left, right;
} merge;

typedef struct merge_list {
    merge *list;
    size_t n, capacity;
} merge_list;

static bool add_merge(merge_list *m, merge value) {
    if (m->n == m->capacity) {
        size_t capacity = m->capacity ? 2 * m->capacity : 4096;
        merge *list = realloc(m->list, capacity * sizeof *list);
        if (!list) return false;
        m->list = list;
        m->capacity = capacity;
    }
    m->list[m->n++] = value;
    return true;
}

static int by_rank(const void *a, const void *b) {
    const merge *x = a, *y = b;
    if (x->score != y->score) return x->score < y->score ? 1 : -1;
    if (x->whole != y->whole) return x->whole < y->whole ? -1 : 1;
    if (x->left != y->left) return x->left < y->left ? -1 : 1;
    return (x->right > y->right) - (x->right < y->right);
}

/* Every way to cut every piece in two. */
static bool find_merges(merge_list *m, const pl_tokenizer *tok, const float *scores) {
    for (size_t i = 0; i < pl_tokenizer_n_tokens(tok); i++) {
        if (pl_tokenizer_attr(tok, (int32_t)i) != PL_TOKEN_NORMAL) continue;
        pl_bytes piece = pl_tokenizer_piece(tok, (int32_t)i);
        for (size_t cut = 1; cut < piece.size; cut++) {
            if (((uint8_t)piece.data[cut] & 0xC0) == 0x80) continue; /* inside a character */
            int32_t left = pl_tokenizer_find_piece(tok, piece.data, cut);
            if (left < 0) continue;
            int32_t right = pl_tokenizer_find_piece(tok, piece.data + cut, piece.size - cut);
            if (right < 0) continue;
            if (!add_merge(m, (merge){scores[i], (int32_t)i, left, right})) return false;
        }
    }
    if (m->n) qsort(m->list, m->n, sizeof *m->list, by_rank);
    return true;
}

static json_t *piece_json(const pl_tokenizer *tok, int32_t id) {
    pl_bytes piece = pl_tokenizer_piece(tok, id);
    return json_stringn(piece.data, piece.size);
}

static json_t *merges_json(const pl_tokenizer *tok, const merge_list *m) {
    json_t *array = json_array();
    for (size_t i = 0; i < m->n; i++) {
        json_t *pair = json_pack("[o, o]", piece_json(tok, m->list[i].left),
                                 piece_json(tok, m->list[i].right));
        if (json_array_append_new(array, pair) != 0) {
            json_decref(array);
            return NULL;
        }
    }
    return array;
}

/* BPE over characters, bytes for those that the vocabulary lacks. */
static json_t *model_json(const pl_tokenizer *tok, const merge_list *merges) {
    pl_special_ids ids = pl_tokenizer_special_ids(tok);
    json_t *vocab = json_object();
    bool bytes = false, ok = vocab;
    for (size_t i = 0; i < pl_tokenizer_n_tokens(tok) && ok; i++) {
        pl_bytes piece = pl_tokenizer_piece(tok, (int32_t)i);
        bytes |= pl_tokenizer_attr(tok, (int32_t)i) == PL_TOKEN_BYTE;
        ok = json_object_setn_new(vocab, piece.data, piece.size, json_integer((json_int_t)i)) == 0;
    }
    json_t *unknown = ids.unk >= 0 ? piece_json(tok, ids.unk) : json_null();
    json_t *model =
        json_pack("{s:s, s:n, s:o, s:n, s:n, s:b, s:b, s:b, s:o, s:o}", "type", "BPE", "dropout",
                  "unk_token", unknown, "continuing_subword_prefix", "end_of_word_suffix",
                  "fuse_unk", true, "byte_fallback", bytes, "ignore_merges", false, "vocab", vocab,
                  "merges", merges_json(tok, merges));
    if (ok) return model;
    json_decref(model);
    return NULL;
}

static json_t *added_json(const pl_tokenizer *tok) {
    json_t *array = json_array();
    for (size_t i = 0; i < pl_tokenizer_n_tokens(tok); i++) {
        pl_token_attr attr = pl_tokenizer_attr(tok, (int32_t)i);
        bool user = attr == PL_TOKEN_USER_DEFINED;
        if (attr != PL_TOKEN_CONTROL && !user) continue;
        json_t *entry = json_pack(
            "{s:I, s:o, s:b, s:b, s:b, s:b, s:b}", "id", (json_int_t)i, "content",
            piece_json(tok, (int32_t)i), "single_word", false, "lstrip", false, "rstrip",
            pl_tokenizer_strips_after(tok, (int32_t)i), "normalized", false, "special", !user);
        if (json_array_append_new(array, entry) != 0) {
            json_decref(array);
            return NULL;
        }
    }
    return array;
}

/* The ids that stand around a text, as a template; JSON's null when there are none. */
static json_t *template_json(const pl_tokenizer *tok) {
    size_t n_prefix, n_suffix;
    const int32_t *prefix = pl_tokenizer_prefix(tok, &n_prefix);
    const int32_t *suffix = pl_tokenizer_suffix(tok, &n_suffix);
    if (n_prefix + n_suffix == 0) return json_null();
    json_t *single = json_array(), *pair = json_array(), *special = json_object();
    bool ok = single && pair && special;
    for (int part = 0; part < 2 && ok; part++) {
        for (size_t i = 0; i < n_prefix + 1 + n_suffix && ok; i++) {
            json_t *step;
            if (i == n_prefix) {
                step = json_pack("{s:{s:s, s:i}}", "Sequence", "id", part ? "B" : "A", "type_id",
                                 part);
            } else {
                int32_t id = i < n_prefix ? prefix[i] : suffix[i - n_prefix - 1];
                pl_bytes piece = pl_tokenizer_piece(tok, id);
                step = json_pack("{s:{s:o, s:i}}", "SpecialToken", "id", piece_json(tok, id),
                                 "type_id", part);
                ok =
                    json_object_setn_new(special, piece.data, piece.size,
                                         json_pack("{s:o, s:[i], s:[o]}", "id", piece_json(tok, id),
                                                   "ids", id, "tokens", piece_json(tok, id))) == 0;
            }
            ok = ok && json_array_append(pair, step) == 0 &&
                 (part || json_array_append(single, step) == 0);
            json_decref(step);
        }
    }
    json_t *made = json_pack("{s:s, s:o, s:o, s:o}", "type", "TemplateProcessing", "single", single,
                             "pair", pair, "special_tokens", special);
    if (ok) return made;
    json_decref(made);
    return NULL;
}

#define LOW_LINE "\xE2\x96\x81"

static json_t *normalizer_json(bool prefix) {
    json_t *steps =
        prefix ? json_pack("[{s:s, s:s}]", "type", "Prepend", "prepend", LOW_LINE) : json_array();
    json_t *spaces = json_pack("{s:s, s:{s:s}, s:s}", "type", "Replace", "pattern", "String", " ",
                               "content", LOW_LINE);
    if (json_array_append_new(steps, spaces) != 0) {
        json_decref(steps);
        return NULL;
    }
    return json_pack("{s:s, s:o}", "type", "Sequence", "normalizers", steps);
}

static json_t *decoder_json(bool prefix) {
    json_t *steps =
        json_pack("[{s:s, s:{s:s}, s:s}, {s:s}, {s:s}]", "type", "Replace", "pattern", "String",
                  LOW_LINE, "content", " ", "type", "ByteFallback", "type", "Fuse");
    if (prefix) {
        json_t *strip = json_pack("{s:s, s:s, s:i, s:i}", "type", "Strip", "content", " ", "start",
                                  1, "stop", 0);
        if (json_array_append_new(steps, strip) != 0) {
            json_decref(steps);
            return NULL;
        }
    }
    return json_pack("{s:s, s:o}", "type", "Sequence", "decoders", steps);
}

json_t *pl_export_spm_json(const pl_tokenizer *tok, const float *scores, bool space_prefix) {
    merge_list merges = {0};
    json_t *json = NULL;
    if (find_merges(&merges, tok, scores)) {
        json = json_pack("{s:s, s:n, s:n, s:o, s:o, s:n, s:o, s:o, s:o}", "version", "1.0",
                         "truncation", "padding", "added_tokens", added_json(tok), "normalizer",
                         normalizer_json(space_prefix), "pre_tokenizer", "post_processor",
                         template_json(tok), "decoder", decoder_json(space_prefix), "model",
                         model_json(tok, &merges));
    }
    free(merges.list);
    return json;
}
