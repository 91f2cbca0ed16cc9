/* The tokenizer in the metadata of a GGUF file. */
#include <stdio.h>
#include <string.h>

#include "../base/error.h"
#include "builder.h"
#include "internal.h"

typedef const pl_tokenizer_metadata *source;

static const pl_bytes space = {" ", 1}, bar = {"\xE2\x96\x81", 3};

static bool flag(source meta, const char *key, bool otherwise) {
    int64_t value;
    return meta->integer(meta->context, key, &value) ? value != 0 : otherwise;
}

static pl_status bad_key(const pl_spec_builder *b, const char *key, const char *what,
                         pl_error *err) {
    return pl_fail(err, PL_ERR_FORMAT, "%s: %s: %s", b->spec.source, key, what);
}

/* ---- The vocabulary ---- */

static pl_status take_tokens(pl_spec_builder *b, source meta, pl_error *err) {
    static const char key[] = "tokenizer.ggml.tokens", types_key[] = "tokenizer.ggml.token_type";
    static const uint8_t attrs[] = {PL_TOKEN_NORMAL,  PL_TOKEN_NORMAL,       PL_TOKEN_UNKNOWN,
                                    PL_TOKEN_CONTROL, PL_TOKEN_USER_DEFINED, PL_TOKEN_UNUSED,
                                    PL_TOKEN_BYTE};
    size_t n = meta->length(meta->context, key), n_types = meta->length(meta->context, types_key);
    if (n == 0) return bad_key(b, key, "missing, or no array", err);
    pl_status status = pl_builder_tokens(b, n, err);
    if (status != PL_OK) return status;
    if (!meta->texts(meta->context, key, b->pieces))
        return bad_key(b, key, "not an array of strings", err);
    if (n_types == 0) return PL_OK;
    int32_t *types = pl_builder_alloc(b, n_types, sizeof *types);
    if (!types) return pl_no_memory(err);
    if (n_types != n || !meta->i32s(meta->context, types_key, types))
        return bad_key(b, types_key, "expected one integer a token", err);
    for (size_t i = 0; i < n; i++) {
        if (types[i] < 0 || (size_t)types[i] >= sizeof attrs)
            return bad_key(b, types_key, "a type that is not from 1 to 6", err);
        b->attrs[i] = attrs[types[i]];
    }
    return PL_OK;
}

static pl_status take_scores(pl_spec_builder *b, source meta, pl_error *err) {
    static const char key[] = "tokenizer.ggml.scores";
    float *scores = pl_builder_alloc(b, b->spec.n_tokens, sizeof *scores);
    if (!scores) return pl_no_memory(err);
    size_t n = meta->length(meta->context, key);
    memset(scores, 0, b->spec.n_tokens * sizeof *scores); /* no scores: all alike */
    if (n && (n != b->spec.n_tokens || !meta->f32s(meta->context, key, scores)))
        return bad_key(b, key, "expected one float a token", err);
    b->spec.scores = scores;
    return PL_OK;
}

static pl_status take_merges(pl_spec_builder *b, source meta, pl_error *err) {
    static const char key[] = "tokenizer.ggml.merges";
    size_t n = meta->length(meta->context, key);
    pl_bytes *lines = pl_builder_alloc(b, n, sizeof *lines);
    pl_merge_pair *merges = pl_builder_alloc(b, n, sizeof *merges);
    if (!lines || !merges) return pl_no_memory(err);
    if (!meta->texts(meta->context, key, lines)) /* an empty list is one of bytes alone */
        return bad_key(b, key, "missing, or not an array of strings", err);
    for (size_t i = 0; i < n; i++) {
        /* A piece may begin with a space in files that do not spell it "Ġ". */
        const char *at =
            lines[i].size > 1 ? memchr(lines[i].data + 1, ' ', lines[i].size - 1) : NULL;
        if (!at)
            return pl_fail(err, PL_ERR_FORMAT, "%s: %s[%zu]: expected two pieces", b->spec.source,
                           key, i);
        size_t left = (size_t)(at - lines[i].data);
        merges[i] = (pl_merge_pair){{lines[i].data, left}, {at + 1, lines[i].size - left - 1}};
    }
    b->spec.merges = merges;
    b->spec.n_merges = n;
    return PL_OK;
}

/* Control tokens, and user-defined ones, which are cut out of the text as it comes. */
static pl_status find_added(pl_spec_builder *b, pl_error *err) {
    b->added = pl_builder_alloc(b, b->spec.n_tokens, sizeof *b->added);
    if (!b->added) return pl_no_memory(err);
    b->spec.added = b->added;
    for (size_t i = 0; i < b->spec.n_tokens; i++) {
        bool special = b->attrs[i] == PL_TOKEN_CONTROL;
        bool user = b->attrs[i] == PL_TOKEN_USER_DEFINED;
        if ((!special && !user) || b->pieces[i].size == 0) continue;
        b->added[b->spec.n_added++] = (pl_added_token){.id = (int32_t)i, .special = special};
    }
    return PL_OK;
}

static bool is_piece(const pl_spec_builder *b, int32_t id, const char *piece) {
    return b->pieces[id].size == strlen(piece) &&
           memcmp(b->pieces[id].data, piece, b->pieces[id].size) == 0;
}

/* GGUF cannot say that a token takes the white space after it along. Those of Phi-3 do. */
static void strip_after(pl_spec_builder *b, source meta) {
    pl_bytes arch;
    bool phi3 = meta->text(meta->context, "general.architecture", &arch) && arch.size == 4 &&
                memcmp(arch.data, "phi3", 4) == 0;
    for (size_t i = 0; i < b->spec.n_added && phi3; i++) {
        int32_t id = b->added[i].id;
        b->added[i].rstrip = !is_piece(b, id, "<s>") && !is_piece(b, id, "<|endoftext|>");
    }
}

/* User-defined pieces with spaces, as they are in the text: some writers leave them bars. */
static pl_status unescape(pl_spec_builder *b, pl_error *err) {
    for (size_t i = 0; i < b->spec.n_tokens; i++) {
        pl_bytes *piece = &b->pieces[i];
        if (b->attrs[i] != PL_TOKEN_USER_DEFINED) continue;
        if (!memmem(piece->data, piece->size, bar.data, bar.size)) continue;
        char *own = pl_builder_alloc(b, piece->size, 1);
        size_t n = 0;
        if (!own) return pl_no_memory(err);
        for (size_t k = 0; k < piece->size; n++) {
            bool is_bar =
                piece->size - k >= bar.size && memcmp(piece->data + k, bar.data, bar.size) == 0;
            own[n] = is_bar ? ' ' : piece->data[k];
            k += is_bar ? bar.size : 1;
        }
        *piece = (pl_bytes){own, n};
    }
    return PL_OK;
}

/* ---- The kinds ---- */

static pl_status byte_level(pl_spec_builder *b, source meta, pl_error *err) {
    char name[64] = "default"; /* what llama.cpp takes where the file does not say */
    pl_bytes pre;
    b->spec.kind = PL_TOKENIZER_BPE_BYTES;
    if (meta->text(meta->context, "tokenizer.ggml.pre", &pre))
        snprintf(name, sizeof name, "%.*s", (int)(pre.size > 63 ? 63 : pre.size), pre.data);
    if (flag(meta, "tokenizer.ggml.add_space_prefix", false))
        pl_builder_pre(b, (pl_pre_step){.kind = PL_PRE_PREFIX_SPACE});
    if (!pl_builder_named_pre(b, name))
        return pl_fail(err, PL_ERR_UNSUPPORTED,
                       "%s: tokenizer.ggml.pre: \"%s\" is not a pre-tokenizer known here",
                       b->spec.source, name);
    char *kept = pl_builder_alloc(b, sizeof name, 1);
    if (!kept) return pl_no_memory(err);
    memcpy(kept, name, sizeof name);
    b->spec.pre_name = kept;
    pl_builder_dec(b, (pl_dec_step){.kind = PL_DEC_BYTE_LEVEL});
    pl_status status = take_merges(b, meta, err);
    return status == PL_OK ? find_added(b, err) : status;
}

static pl_status sentencepiece(pl_spec_builder *b, source meta, bool unigram, pl_error *err) {
    bool prefix = flag(meta, "tokenizer.ggml.add_space_prefix", true);
    bool single = flag(meta, "tokenizer.ggml.remove_extra_whitespaces", false);
    pl_bytes charsmap;
    b->spec.kind = unigram ? PL_TOKENIZER_UNIGRAM : PL_TOKENIZER_SPM;
    b->spec.fuse_unk = true;
    b->spec.byte_fallback = pl_builder_find(b, "<0x00>") >= 0;
    if (meta->bytes(meta->context, "tokenizer.ggml.precompiled_charsmap", &charsmap))
        pl_builder_norm(b, (pl_norm_step){.kind = PL_NORM_CHARSMAP, .a = charsmap});
    if (single) pl_builder_norm(b, (pl_norm_step){.kind = PL_NORM_SPACES});
    if (prefix) pl_builder_norm(b, (pl_norm_step){.kind = PL_NORM_PREPEND, .a = space});
    pl_builder_norm(b, (pl_norm_step){.kind = PL_NORM_REPLACE, .a = space, .b = bar});
    pl_bytes unknown = {" \xE2\x81\x87 ", 5};
    pl_builder_dec(b, (pl_dec_step){.kind = PL_DEC_UNKNOWN, .a = unknown});
    pl_builder_dec(b, (pl_dec_step){.kind = PL_DEC_REPLACE, .a = bar, .b = space});
    pl_builder_dec(b, (pl_dec_step){.kind = PL_DEC_BYTE_FALLBACK});
    uint32_t n = single ? 1u << 20 : prefix ? 1 : 0;
    pl_builder_dec(b, (pl_dec_step){.kind = PL_DEC_STRIP, .a = space, .n = n});
    pl_status status = take_scores(b, meta, err);
    if (status == PL_OK) status = unescape(b, err);
    if (status == PL_OK) status = find_added(b, err);
    if (status == PL_OK) strip_after(b, meta);
    return status;
}

/* GGUF writes a word's first piece with a bar before it and the others without "##"; here it is
 * the other way round, as in vocab.txt. */
static pl_status wordpiece(pl_spec_builder *b, pl_error *err) {
    static const char bert[] = "{\"normalizer\": {\"type\": \"BertNormalizer\"}, \"pre_tokenizer\":"
                               "{\"type\": \"BertPreTokenizer\"}, \"decoder\": {\"type\": "
                               "\"WordPiece\", \"prefix\": \"##\"}}";
    b->spec.kind = PL_TOKENIZER_WORDPIECE;
    b->spec.continuing_prefix = (pl_bytes){"##", 2};
    for (size_t i = 0; i < b->spec.n_tokens; i++) {
        pl_bytes *piece = &b->pieces[i];
        if (piece->size >= bar.size && memcmp(piece->data, bar.data, bar.size) == 0) {
            *piece = (pl_bytes){piece->data + bar.size, piece->size - bar.size};
        } else if (b->attrs[i] == PL_TOKEN_NORMAL) {
            char *own = pl_builder_alloc(b, piece->size + 2, 1);
            if (!own) return pl_no_memory(err);
            memcpy(own, "##", 2);
            memcpy(own + 2, piece->data, piece->size);
            *piece = (pl_bytes){own, piece->size + 2};
        }
    }
    json_t *root = NULL;
    pl_status status = pl_builder_parse(b, "bert", bert, sizeof bert - 1, &root, err);
    if (status == PL_OK) status = pl_json_steps(b, root, err);
    return status == PL_OK ? find_added(b, err) : status;
}

/* ---- Special tokens ---- */

static pl_status take_id(const pl_spec_builder *b, source meta, const char *name, int32_t *id,
                         pl_error *err) {
    char key[64];
    int64_t value;
    snprintf(key, sizeof key, "tokenizer.ggml.%s_token_id", name);
    if (!meta->integer(meta->context, key, &value)) return PL_OK;
    if (value == UINT32_MAX || value == -1) return PL_OK; /* how some writers say none */
    if (value < 0 || value >= (int64_t)b->spec.n_tokens)
        return pl_fail(err, PL_ERR_FORMAT, "%s: %s: %lld, expected 0 to %zu", b->spec.source, key,
                       (long long)value, b->spec.n_tokens - 1);
    *id = (int32_t)value;
    return PL_OK;
}

static pl_status take_ids(pl_spec_builder *b, source meta, pl_error *err) {
    pl_special_ids *s = &b->spec.special;
    int32_t turn[2] = {-1, -1};
    const struct {
        const char *name;
        int32_t *id;
    } ids[] = {{"bos", &s->bos},   {"eos", &s->eos},     {"unknown", &s->unk},
               {"cls", &s->cls},   {"padding", &s->pad}, {"seperator", &s->sep},
               {"mask", &s->mask}, {"eot", &turn[0]},    {"eom", &turn[1]}};
    for (size_t i = 0; i < sizeof ids / sizeof *ids; i++) {
        pl_status status = take_id(b, meta, ids[i].name, ids[i].id, err);
        if (status != PL_OK) return status;
    }
    for (size_t i = 0; i < 2; i++)
        if (turn[i] >= 0) pl_builder_extra(b->ends, &b->spec.n_ends, turn[i]);
    return PL_OK;
}

static int32_t existing(const pl_spec_builder *b, int32_t id) {
    return (size_t)id < b->spec.n_tokens ? id : -1;
}

/* The ids that a file of this kind has where it names none. */
static void default_ids(pl_spec_builder *b) {
    pl_special_ids *s = &b->spec.special;
    if (b->spec.kind == PL_TOKENIZER_SPM)
        *s = (pl_special_ids){existing(b, 1), existing(b, 2), 0, -1, -1, -1, -1};
    if (b->spec.kind == PL_TOKENIZER_UNIGRAM)
        *s = (pl_special_ids){-1, existing(b, 1), existing(b, 2), existing(b, 0), -1, -1, -1};
    if (b->spec.kind == PL_TOKENIZER_WORDPIECE)
        *s = (pl_special_ids){-1,
                              -1,
                              pl_builder_find(b, "[UNK]"),
                              pl_builder_find(b, "[PAD]"),
                              pl_builder_find(b, "[SEP]"),
                              pl_builder_find(b, "[CLS]"),
                              pl_builder_find(b, "[MASK]")};
}

static void add_rule(pl_spec_builder *b, source meta) {
    const pl_special_ids *s = &b->spec.special;
    pl_tokenizer_kind kind = b->spec.kind;
    bool words = kind == PL_TOKENIZER_WORDPIECE;
    bool begin = kind == PL_TOKENIZER_SPM || words || b->add_bos;
    bool end = kind == PL_TOKENIZER_UNIGRAM || words;
    int32_t first = words ? s->cls : s->bos, last = words ? s->sep : s->eos;
    if (b->has_template) return;
    if (flag(meta, "tokenizer.ggml.add_bos_token", begin) && first >= 0)
        pl_builder_extra(b->prefix, &b->spec.n_prefix, first);
    /* llama.cpp heeds no such key for word pieces; beside a tokenizer.json it is ours. */
    bool always = words && !b->spec.hf_json.size;
    if ((always || flag(meta, "tokenizer.ggml.add_eos_token", end)) && last >= 0)
        pl_builder_extra(b->suffix, &b->spec.n_suffix, last);
}

/* ---- All of it ---- */

static pl_status read_kind(pl_spec_builder *b, source meta, pl_error *err) {
    pl_bytes json, name;
    if (meta->text(meta->context, "tokenizer.huggingface.json", &json))
        return pl_json_tokenizer(b, json.data, json.size, err);
    if (!meta->text(meta->context, "tokenizer.ggml.model", &name))
        return bad_key(b, "tokenizer.ggml.model", "missing: the file has no tokenizer", err);
    static const struct {
        const char *name;
        pl_tokenizer_kind kind;
    } kinds[] = {{"gpt2", PL_TOKENIZER_BPE_BYTES},
                 {"llama", PL_TOKENIZER_SPM},
                 {"t5", PL_TOKENIZER_UNIGRAM},
                 {"bert", PL_TOKENIZER_WORDPIECE}};
    for (size_t i = 0; i < sizeof kinds / sizeof *kinds; i++) {
        if (strlen(kinds[i].name) != name.size || memcmp(kinds[i].name, name.data, name.size) != 0)
            continue;
        b->spec.kind = kinds[i].kind;
        pl_status status = take_tokens(b, meta, err);
        if (status != PL_OK) return status;
        default_ids(b);
        if (b->spec.kind == PL_TOKENIZER_BPE_BYTES) return byte_level(b, meta, err);
        if (b->spec.kind != PL_TOKENIZER_WORDPIECE)
            return sentencepiece(b, meta, b->spec.kind == PL_TOKENIZER_UNIGRAM, err);
        return wordpiece(b, err);
    }
    return pl_fail(err, PL_ERR_UNSUPPORTED, "%s: tokenizer.ggml.model: \"%.*s\" is not supported",
                   b->spec.source, (int)(name.size > 60 ? 60 : name.size), name.data);
}

pl_status pl_tokenizer_from_metadata(pl_tokenizer **out, const pl_tokenizer_metadata *meta,
                                     const char *path, pl_error *err) {
    *out = NULL;
    pl_spec_builder b;
    pl_builder_init(&b, path);
    pl_status status = read_kind(&b, meta, err);
    if (status == PL_OK) status = take_ids(&b, meta, err);
    if (status == PL_OK) {
        pl_builder_guess_special(&b);
        add_rule(&b, meta);
        meta->text(meta->context, "tokenizer.chat_template", &b.spec.chat_template);
        status = pl_builder_finish(&b, out, err);
    }
    pl_builder_clear(&b);
    return status;
}
