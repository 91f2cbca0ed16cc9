/* vocab.json with merges.txt, and the JSON files beside a tokenizer that say which tokens begin
 * and end a text. */
#include <stdlib.h>
#include <string.h>

#include "../base/error.h"
#include "builder.h"
#include "internal.h"

/* A token's name in tokenizer_config.json: "text", or {"content": "text", ...}. */
static const char *token_name(const json_t *config, const char *key) {
    const json_t *value = json_object_get(config, key);
    if (json_is_object(value)) value = json_object_get(value, "content");
    return json_string_value(value);
}

static void take_name(const pl_spec_builder *b, const json_t *config, const char *key,
                      int32_t *id) {
    const char *name = token_name(config, key);
    int32_t found = name ? pl_builder_find(b, name) : -1;
    if (found >= 0) *id = found;
}

static void take_template(pl_spec_builder *b, const json_t *config) {
    const json_t *value = json_object_get(config, "chat_template");
    for (size_t i = 0; i < json_array_size(value); i++) {
        const json_t *entry = json_array_get(value, i);
        const char *name = json_string_value(json_object_get(entry, "name"));
        if (name && strcmp(name, "default") == 0) {
            value = json_object_get(entry, "template");
            break;
        }
    }
    if (json_is_string(value))
        b->spec.chat_template = (pl_bytes){json_string_value(value), json_string_length(value)};
}

/* add_bos_token and add_eos_token count where the tokenizer's own file leaves it open. */
static void take_rule(pl_spec_builder *b, const json_t *config) {
    if (b->has_template) return;
    const json_t *bos = json_object_get(config, "add_bos_token");
    const json_t *eos = json_object_get(config, "add_eos_token");
    if (json_is_boolean(bos)) {
        b->spec.n_prefix = 0;
        if (json_is_true(bos) && b->spec.special.bos >= 0)
            pl_builder_extra(b->prefix, &b->spec.n_prefix, b->spec.special.bos);
    }
    if (json_is_boolean(eos)) {
        b->spec.n_suffix = 0;
        if (json_is_true(eos) && b->spec.special.eos >= 0)
            pl_builder_extra(b->suffix, &b->spec.n_suffix, b->spec.special.eos);
    }
}

pl_status pl_json_config(pl_spec_builder *b, json_t *root, pl_error *err) {
    (void)err;
    if (!root) return PL_OK;
    pl_special_ids *s = &b->spec.special;
    take_name(b, root, "bos_token", &s->bos);
    take_name(b, root, "eos_token", &s->eos);
    take_name(b, root, "pad_token", &s->pad);
    take_name(b, root, "sep_token", &s->sep);
    take_name(b, root, "cls_token", &s->cls);
    take_name(b, root, "mask_token", &s->mask);
    /* A byte-level vocabulary has no unknown token, even where the file names one. */
    if (b->spec.kind != PL_TOKENIZER_BPE_BYTES) take_name(b, root, "unk_token", &s->unk);
    take_template(b, root);
    take_rule(b, root);
    return PL_OK;
}

static pl_status take_id(const pl_spec_builder *b, const char *key, const json_t *value,
                         int32_t *id, pl_error *err) {
    json_int_t n = json_integer_value(value);
    if (!json_is_integer(value) || n < 0 || n >= (json_int_t)b->spec.n_tokens)
        return pl_fail(err, PL_ERR_FORMAT, "%s: config: %s: expected an id from 0 to %zu",
                       b->spec.source, key, b->spec.n_tokens - 1);
    *id = (int32_t)n;
    return PL_OK;
}

pl_status pl_json_ids(pl_spec_builder *b, json_t *root, pl_error *err) {
    const json_t *bos = json_object_get(root, "bos_token_id");
    const json_t *eos = json_object_get(root, "eos_token_id");
    pl_status status = PL_OK;
    int32_t id = -1;
    if (bos && !json_is_null(bos) && b->spec.special.bos < 0)
        status = take_id(b, "bos_token_id", bos, &b->spec.special.bos, err);
    size_t n = json_is_array(eos) ? json_array_size(eos) : eos && !json_is_null(eos);
    for (size_t i = 0; i < n && status == PL_OK; i++) {
        status =
            take_id(b, "eos_token_id", json_is_array(eos) ? json_array_get(eos, i) : eos, &id, err);
        if (status != PL_OK) break;
        if (b->spec.special.eos < 0) b->spec.special.eos = id;
        if (!pl_builder_extra(b->ends, &b->spec.n_ends, id))
            return pl_fail(err, PL_ERR_FORMAT, "%s: config: eos_token_id: more than %d ids",
                           b->spec.source, PL_MAX_EXTRA);
    }
    return status;
}

/* ---- vocab.json and merges.txt ---- */

static pl_status read_vocab(pl_spec_builder *b, json_t *vocab, pl_error *err) {
    int64_t top = -1, n = (int64_t)json_object_size(vocab);
    for (void *it = json_object_iter(vocab); it; it = json_object_iter_next(vocab, it)) {
        const json_t *value = json_object_iter_value(it);
        json_int_t id = json_is_integer(value) ? json_integer_value(value) : -1;
        if (id < 0 || id >= 4 * n + 65536)
            return pl_fail(err, PL_ERR_FORMAT, "%s: \"%.60s\": a bad id among %lld tokens",
                           b->spec.source, json_object_iter_key(it), (long long)n);
        if (id > top) top = id;
    }
    if (top < 0) return pl_fail(err, PL_ERR_FORMAT, "%s: no tokens", b->spec.source);
    pl_status status = pl_builder_tokens(b, (size_t)top + 1, err);
    if (status != PL_OK) return status;
    for (void *it = json_object_iter(vocab); it; it = json_object_iter_next(vocab, it)) {
        size_t id = (size_t)json_integer_value(json_object_iter_value(it));
        const char *key = json_object_iter_key(it);
        if (b->pieces[id].data)
            return pl_fail(err, PL_ERR_FORMAT, "%s: \"%.60s\" and \"%.60s\" both have id %zu",
                           b->spec.source, b->pieces[id].data, key, id);
        b->pieces[id] = (pl_bytes){key, strlen(key)};
    }
    for (size_t i = 0; i <= (size_t)top; i++)
        if (!b->pieces[i].data) b->attrs[i] = PL_TOKEN_UNUSED;
    return PL_OK;
}

/* One line: two pieces with a space between; a first line "#version" is passed over. */
pl_status pl_merge_lines(pl_spec_builder *b, const char *text, size_t size, pl_error *err) {
    size_t n = 0, line = 0;
    for (size_t i = 0; i < size; i++) n += text[i] == '\n';
    pl_merge_pair *merges = pl_builder_alloc(b, n + 1, sizeof *merges);
    if (!merges) return pl_no_memory(err);
    b->spec.merges = merges;
    for (size_t i = 0, end; i < size; i = end + 1) {
        const char *newline = memchr(text + i, '\n', size - i);
        end = newline ? (size_t)(newline - text) : size;
        line++;
        size_t len = end - i;
        if (len > 0 && text[i + len - 1] == '\r') len--;
        if (len == 0 || (line == 1 && len >= 8 && memcmp(text + i, "#version", 8) == 0)) continue;
        const char *space = memchr(text + i, ' ', len);
        size_t left = space ? (size_t)(space - (text + i)) : 0;
        if (left == 0 || left + 1 == len)
            return pl_fail(err, PL_ERR_FORMAT, "%s: merges, line %zu: expected two pieces",
                           b->spec.source, line);
        merges[b->spec.n_merges++] = (pl_merge_pair){{text + i, left}, {space + 1, len - left - 1}};
    }
    return PL_OK;
}

typedef struct special_names {
    const char *names[5]; /* NULL: not named */
} special_names;

static special_names names_of(const json_t *config) {
    return (special_names){{"<|endoftext|>", token_name(config, "bos_token"),
                            token_name(config, "eos_token"), token_name(config, "unk_token"),
                            token_name(config, "pad_token")}};
}

static bool is_special(const special_names *special, pl_bytes piece) {
    for (size_t k = 0; k < sizeof special->names / sizeof *special->names; k++) {
        const char *name = special->names[k];
        if (name && strlen(name) == piece.size && memcmp(name, piece.data, piece.size) == 0)
            return true;
    }
    return false;
}

/* The tokens that were added to the vocabulary: those in added_tokens_decoder, <|endoftext|>, and
 * those that the configuration names. */
static pl_status find_added(pl_spec_builder *b, json_t *config, pl_error *err) {
    json_t *listed = json_object_get(config, "added_tokens_decoder");
    special_names special = names_of(config);
    b->added = pl_builder_alloc(b, b->spec.n_tokens, sizeof *b->added);
    if (!b->added) return pl_no_memory(err);
    b->spec.added = b->added;
    for (size_t i = 0; i < b->spec.n_tokens; i++) {
        if (b->pieces[i].size && is_special(&special, b->pieces[i]))
            b->added[b->spec.n_added++] = (pl_added_token){.id = (int32_t)i, .special = true};
    }
    for (void *it = json_object_iter(listed); it; it = json_object_iter_next(listed, it)) {
        const json_t *entry = json_object_iter_value(it);
        const char *content = json_string_value(json_object_get(entry, "content"));
        long id = strtol(json_object_iter_key(it), NULL, 10);
        if (!content || !content[0] || id < 0 || (size_t)id >= b->spec.n_tokens) continue;
        pl_bytes piece = b->pieces[id];
        if (piece.size != strlen(content) || memcmp(piece.data, content, piece.size) != 0 ||
            is_special(&special, piece) || b->spec.n_added == b->spec.n_tokens)
            continue;
        b->added[b->spec.n_added++] = (pl_added_token){
            .id = (int32_t)id, .special = json_is_true(json_object_get(entry, "special"))};
    }
    return PL_OK;
}

pl_status pl_vocab_merges(pl_spec_builder *b, json_t *vocab, const void *merges, size_t size,
                          json_t *config, pl_error *err) {
    b->spec.kind = PL_TOKENIZER_BPE_BYTES;
    pl_status status = read_vocab(b, vocab, err);
    if (status == PL_OK) status = pl_merge_lines(b, merges, size, err);
    if (status == PL_OK) status = find_added(b, config, err);
    if (status != PL_OK) return status;
    if (json_is_true(json_object_get(config, "add_prefix_space")))
        pl_builder_pre(b, (pl_pre_step){.kind = PL_PRE_PREFIX_SPACE});
    pl_builder_named_pre(b, "gpt-2");
    b->spec.pre_name = "gpt-2";
    pl_builder_dec(b, (pl_dec_step){.kind = PL_DEC_BYTE_LEVEL});
    return PL_OK;
}

pl_status pl_tokenizer_from_vocab(pl_tokenizer **out, pl_vocab_reader read, const void *vocab,
                                  size_t vocab_size, const void *merges, size_t merges_size,
                                  const char *source, pl_error *err) {
    *out = NULL;
    json_t *root = NULL;
    pl_spec_builder b;
    pl_builder_init(&b, source);
    pl_status status = pl_builder_parse(&b, source, vocab, vocab_size, &root, err);
    if (status == PL_OK) status = read(&b, root, merges, merges_size, NULL, err);
    if (status == PL_OK) status = pl_builder_finish(&b, out, err);
    pl_builder_clear(&b);
    return status;
}
