/* tokenizer.model: SentencePiece's protocol buffer, read by hand.
 *
 *     ModelProto      1: SentencePiece, once a piece; 2: TrainerSpec; 3: NormalizerSpec
 *     SentencePiece   1: text; 2: score, f32; 3: type
 */
#include <string.h>

#include "../base/error.h"
#include "builder.h"
#include "internal.h"

/* ---- Protocol buffers ---- */

typedef struct field {
    uint32_t number, wire; /* wire: 0 varint, 1 eight bytes, 2 bytes, 5 four bytes */
    uint64_t value;        /* of a number */
    pl_bytes bytes;        /* of wire 2 */
} field;

static bool read_varint(pl_bytes *in, uint64_t *value) {
    *value = 0;
    for (unsigned shift = 0; shift < 64; shift += 7) {
        if (in->size == 0) return false;
        uint8_t byte = (uint8_t)*in->data++;
        in->size--;
        *value |= (uint64_t)(byte & 0x7F) << shift;
        if (byte < 0x80) return true;
    }
    return false;
}

static bool take(pl_bytes *in, uint64_t n, pl_bytes *out) {
    if (n > in->size) return false;
    *out = (pl_bytes){in->data, (size_t)n};
    in->data += n;
    in->size -= (size_t)n;
    return true;
}

static bool read_field(pl_bytes *in, field *f) {
    uint64_t key, n;
    pl_bytes raw;
    *f = (field){0};
    if (!read_varint(in, &key) || key >> 3 == 0 || key >> 3 > UINT32_MAX) return false;
    f->number = (uint32_t)(key >> 3);
    f->wire = (uint32_t)(key & 7);
    switch (f->wire) {
    case 0:
        return read_varint(in, &f->value);
    case 2:
        return read_varint(in, &n) && take(in, n, &f->bytes);
    case 1:
        if (!take(in, 8, &raw)) return false;
        memcpy(&f->value, raw.data, 8);
        return true;
    case 5:
        if (!take(in, 4, &raw)) return false;
        memcpy(&f->value, raw.data, 4); /* little-endian, like the file */
        return true;
    default:
        return false;
    }
}

/* ---- The model ---- */

typedef struct model {
    uint64_t model_type; /* 1 unigram, 2 BPE */
    int32_t unk, bos, eos, pad;
    bool byte_fallback, suffix_space, dummy_prefix, remove_spaces, escape_spaces;
    pl_bytes unk_surface, charsmap;
    size_t n_pieces;
} model;

static pl_status bad_field(const pl_spec_builder *b, const char *where, pl_bytes all, pl_bytes rest,
                           pl_error *err) {
    return pl_fail(err, PL_ERR_FORMAT, "%s: %s: a broken field before byte %zu of %zu",
                   b->spec.source, where, all.size - rest.size, all.size);
}

static pl_status read_trainer(const pl_spec_builder *b, pl_bytes in, model *m, pl_error *err) {
    pl_bytes all = in;
    field f;
    while (in.size > 0) {
        if (!read_field(&in, &f)) return bad_field(b, "trainer_spec", all, in, err);
        switch (f.number) {
        case 3:
            m->model_type = f.value;
            break;
        case 24:
            m->suffix_space = f.value != 0;
            break;
        case 35:
            m->byte_fallback = f.value != 0;
            break;
        case 40:
            m->unk = (int32_t)(uint32_t)f.value;
            break;
        case 41:
            m->bos = (int32_t)(uint32_t)f.value;
            break;
        case 42:
            m->eos = (int32_t)(uint32_t)f.value;
            break;
        case 43:
            m->pad = (int32_t)(uint32_t)f.value;
            break;
        case 44:
            m->unk_surface = f.bytes;
            break;
        default:
            break;
        }
    }
    return PL_OK;
}

static pl_status read_normalizer(const pl_spec_builder *b, pl_bytes in, model *m, pl_error *err) {
    pl_bytes all = in;
    field f;
    while (in.size > 0) {
        if (!read_field(&in, &f)) return bad_field(b, "normalizer_spec", all, in, err);
        switch (f.number) {
        case 2:
            m->charsmap = f.bytes;
            break;
        case 3:
            m->dummy_prefix = f.value != 0;
            break;
        case 4:
            m->remove_spaces = f.value != 0;
            break;
        case 5:
            m->escape_spaces = f.value != 0;
            break;
        default:
            break;
        }
    }
    return PL_OK;
}

static pl_status read_piece(pl_spec_builder *b, pl_bytes in, size_t i, float *score,
                            pl_error *err) {
    static const uint8_t attrs[] = {PL_TOKEN_NORMAL,  PL_TOKEN_NORMAL,       PL_TOKEN_UNKNOWN,
                                    PL_TOKEN_CONTROL, PL_TOKEN_USER_DEFINED, PL_TOKEN_UNUSED,
                                    PL_TOKEN_BYTE};
    pl_bytes all = in;
    field f;
    while (in.size > 0) {
        if (!read_field(&in, &f)) return bad_field(b, "pieces", all, in, err);
        if (f.number == 1) b->pieces[i] = f.bytes;
        if (f.number == 2) {
            uint32_t bits = (uint32_t)f.value;
            memcpy(score, &bits, 4);
        }
        if (f.number == 3 && f.value < sizeof attrs) b->attrs[i] = attrs[f.value];
    }
    return PL_OK;
}

/* Two walks: the first counts. */
static pl_status read_model(pl_spec_builder *b, pl_bytes all, model *m, pl_error *err) {
    pl_bytes in = all;
    field f;
    pl_status status = PL_OK;
    while (in.size > 0) {
        if (!read_field(&in, &f)) return bad_field(b, "model", all, in, err);
        if (f.number == 1) m->n_pieces++;
        if (f.number == 2 && f.wire == 2) status = read_trainer(b, f.bytes, m, err);
        if (f.number == 3 && f.wire == 2) status = read_normalizer(b, f.bytes, m, err);
        if (status != PL_OK) return status;
    }
    if (m->n_pieces == 0) return pl_fail(err, PL_ERR_FORMAT, "%s: no pieces", b->spec.source);
    status = pl_builder_tokens(b, m->n_pieces, err);
    float *scores = pl_builder_alloc(b, m->n_pieces, sizeof *scores);
    if (status == PL_OK && !scores) status = pl_no_memory(err);
    b->spec.scores = scores;
    in = all;
    for (size_t i = 0; in.size > 0 && status == PL_OK;) {
        read_field(&in, &f);
        if (f.number != 1) continue;
        status = read_piece(b, f.bytes, i, &scores[i], err);
        i++;
    }
    return status;
}

static int32_t in_range(const model *m, int32_t id) {
    return id >= 0 && (size_t)id < m->n_pieces ? id : -1;
}

static pl_status add_controls(pl_spec_builder *b, pl_error *err) {
    b->added = pl_builder_alloc(b, b->spec.n_tokens, sizeof *b->added);
    if (!b->added) return pl_no_memory(err);
    b->spec.added = b->added;
    for (size_t i = 0; i < b->spec.n_tokens; i++) {
        if (b->attrs[i] != PL_TOKEN_CONTROL || b->pieces[i].size == 0) continue;
        b->added[b->spec.n_added++] = (pl_added_token){.id = (int32_t)i, .special = true};
    }
    return PL_OK;
}

static void add_steps(pl_spec_builder *b, const model *m) {
    static const pl_bytes space = {" ", 1}, bar = {"\xE2\x96\x81", 3};
    if (m->charsmap.size)
        pl_builder_norm(b, (pl_norm_step){.kind = PL_NORM_CHARSMAP, .a = m->charsmap});
    if (m->remove_spaces) pl_builder_norm(b, (pl_norm_step){.kind = PL_NORM_SPACES});
    if (m->dummy_prefix) pl_builder_norm(b, (pl_norm_step){.kind = PL_NORM_PREPEND, .a = space});
    if (m->escape_spaces)
        pl_builder_norm(b, (pl_norm_step){.kind = PL_NORM_REPLACE, .a = space, .b = bar});
    pl_builder_dec(b, (pl_dec_step){.kind = PL_DEC_UNKNOWN, .a = m->unk_surface});
    pl_builder_dec(b, (pl_dec_step){.kind = PL_DEC_REPLACE, .a = bar, .b = space});
    pl_builder_dec(b, (pl_dec_step){.kind = PL_DEC_BYTE_FALLBACK});
    uint32_t n = m->remove_spaces ? 1u << 20 : m->dummy_prefix ? 1 : 0;
    pl_builder_dec(b, (pl_dec_step){.kind = PL_DEC_STRIP, .a = space, .n = n});
}

pl_status pl_spm_model(pl_spec_builder *b, const void *data, size_t size, pl_error *err) {
    model m = {.model_type = 1, .bos = 1, .eos = 2, .pad = -1};
    m.dummy_prefix = m.remove_spaces = m.escape_spaces = true;
    m.unk_surface = (pl_bytes){" \xE2\x81\x87 ", 5};
    pl_status status = read_model(b, (pl_bytes){data, size}, &m, err);
    if (status != PL_OK) return status;
    if (m.model_type != 1 && m.model_type != 2)
        return pl_fail(err, PL_ERR_UNSUPPORTED, "%s: model_type %llu, expected 1 or 2",
                       b->spec.source, (unsigned long long)m.model_type);
    if (m.suffix_space)
        return pl_fail(err, PL_ERR_UNSUPPORTED, "%s: treat_whitespace_as_suffix is not supported",
                       b->spec.source);
    b->spec.kind = m.model_type == 1 ? PL_TOKENIZER_UNIGRAM : PL_TOKENIZER_SPM;
    b->spec.byte_fallback = m.byte_fallback;
    b->spec.fuse_unk = true;
    b->spec.special.unk = in_range(&m, m.unk);
    b->spec.special.bos = in_range(&m, m.bos);
    b->spec.special.eos = in_range(&m, m.eos);
    b->spec.special.pad = in_range(&m, m.pad);
    add_steps(b, &m);
    /* SentencePiece itself adds nothing; the models that come with such a file do: Llama and its
     * kin (BPE) begin with bos, T5 and its kin (unigram) end with eos. */
    if (b->spec.kind == PL_TOKENIZER_SPM && b->spec.special.bos >= 0)
        pl_builder_extra(b->prefix, &b->spec.n_prefix, b->spec.special.bos);
    if (b->spec.kind == PL_TOKENIZER_UNIGRAM && b->spec.special.eos >= 0)
        pl_builder_extra(b->suffix, &b->spec.n_suffix, b->spec.special.eos);
    return add_controls(b, err);
}

pl_status pl_tokenizer_from_spm(pl_tokenizer **out, const void *data, size_t size,
                                const char *source, pl_error *err) {
    *out = NULL;
    pl_spec_builder b;
    pl_builder_init(&b, source);
    pl_status status = pl_spm_model(&b, data, size, err);
    if (status == PL_OK) status = pl_builder_finish(&b, out, err);
    pl_builder_clear(&b);
    return status;
}
