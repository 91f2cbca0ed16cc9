/* The components of a tokenizer.json: normalizer, pre_tokenizer, decoder, post_processor. Each
 * named component becomes one or more steps; one that is not known is an error with its name. */
#include <string.h>

#include "../base/error.h"
#include "builder.h"

enum { MAX_DEPTH = 8 };

/* ---- Getting at values ---- */

static pl_bytes bytes_of(const json_t *value) {
    return json_is_string(value) ? (pl_bytes){json_string_value(value), json_string_length(value)}
                                 : (pl_bytes){"", 0};
}

static pl_bytes literal(const char *s) {
    return (pl_bytes){s, strlen(s)};
}

static pl_bytes member(const json_t *object, const char *name) {
    return bytes_of(json_object_get(object, name));
}

static bool flag(const json_t *object, const char *name, bool otherwise) {
    const json_t *value = json_object_get(object, name);
    return json_is_boolean(value) ? json_is_true(value) : otherwise;
}

static const char *type_of(const json_t *object) {
    const char *type = json_string_value(json_object_get(object, "type"));
    return type ? type : "(no type)";
}

static pl_status too_many(const pl_spec_builder *b, const char *field, pl_error *err) {
    return pl_fail(err, PL_ERR_FORMAT, "%s: %s: more than %d steps", b->spec.source, field,
                   PL_MAX_STEPS);
}

static pl_status unsupported(const pl_spec_builder *b, const char *field, const char *what,
                             pl_error *err) {
    return pl_fail(err, PL_ERR_UNSUPPORTED, "%s: %s: \"%.64s\" is not supported", b->spec.source,
                   field, what);
}

/* {"String": ...} or {"Regex": ...}. */
static pl_status pattern_of(const pl_spec_builder *b, const json_t *object, const char *field,
                            pl_bytes *pattern, bool *is_literal, pl_error *err) {
    const json_t *value = json_object_get(object, "pattern");
    const json_t *string = json_object_get(value, "String"),
                 *regex = json_object_get(value, "Regex");
    *is_literal = string != NULL;
    if (!json_is_string(string ? string : regex))
        return pl_fail(err, PL_ERR_FORMAT, "%s: %s: a pattern must have a String or a Regex",
                       b->spec.source, field);
    *pattern = bytes_of(string ? string : regex);
    return PL_OK;
}

typedef pl_status (*component_fn)(pl_spec_builder *b, const json_t *object, pl_error *err);

/* Walks null, one component, or nested sequences of them. */
static pl_status each_component(pl_spec_builder *b, const json_t *object, const char *field,
                                const char *list, int depth, component_fn one, pl_error *err) {
    if (!object || json_is_null(object)) return PL_OK;
    if (!json_is_object(object))
        return pl_fail(err, PL_ERR_FORMAT, "%s: %s: not an object", b->spec.source, field);
    if (strcmp(type_of(object), "Sequence") != 0) return one(b, object, err);
    const json_t *items = json_object_get(object, list);
    if (!json_is_array(items) || depth >= MAX_DEPTH)
        return pl_fail(err, PL_ERR_FORMAT, "%s: %s: a Sequence without %s, or too deep",
                       b->spec.source, field, list);
    for (size_t i = 0; i < json_array_size(items); i++) {
        pl_status status =
            each_component(b, json_array_get(items, i), field, list, depth + 1, one, err);
        if (status != PL_OK) return status;
    }
    return PL_OK;
}

/* ---- normalizer ---- */

static bool strip_accents(pl_spec_builder *b) {
    return pl_builder_norm(b, (pl_norm_step){.kind = PL_NORM_NFD}) &&
           pl_builder_norm(b, (pl_norm_step){.kind = PL_NORM_REPLACE_REGEX,
                                             .a = literal("\\p{Mn}+"),
                                             .b = literal("")});
}

static bool bert_normalizer(pl_spec_builder *b, const json_t *object) {
    bool lowercase = flag(object, "lowercase", true), ok = true;
    if (flag(object, "clean_text", true)) {
        static const char dirt[] = "(?![\\t\\n\\r])[\\p{Cc}\\p{Cf}\\p{Cn}\\p{Co}\\x{FFFD}]";
        ok = pl_builder_norm(b, (pl_norm_step){.kind = PL_NORM_REPLACE_REGEX,
                                               .a = literal(dirt),
                                               .b = literal("")}) &&
             pl_builder_norm(b, (pl_norm_step){.kind = PL_NORM_REPLACE_REGEX,
                                               .a = literal("\\s"),
                                               .b = literal(" ")});
    }
    if (flag(object, "handle_chinese_chars", true)) {
        static const char ideograph[] =
            "[\\x{4E00}-\\x{9FFF}\\x{3400}-\\x{4DBF}\\x{20000}-\\x{2A6DF}\\x{2A700}-\\x{2B73F}"
            "\\x{2B740}-\\x{2B81F}\\x{2B920}-\\x{2CEAF}\\x{F900}-\\x{FAFF}\\x{2F800}-\\x{2FA1F}]";
        ok = ok && pl_builder_norm(b, (pl_norm_step){.kind = PL_NORM_SURROUND,
                                                     .a = literal(ideograph),
                                                     .b = literal(" ")});
    }
    if (flag(object, "strip_accents", lowercase)) ok = ok && strip_accents(b);
    if (lowercase) ok = ok && pl_builder_norm(b, (pl_norm_step){.kind = PL_NORM_LOWERCASE});
    return ok;
}

/* Base64 into the arena. */
static pl_status charsmap(pl_spec_builder *b, const json_t *object, pl_norm_step *step,
                          pl_error *err) {
    static const char digits[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    pl_bytes text = member(object, "precompiled_charsmap");
    unsigned char *out = pl_builder_alloc(b, text.size + 1, 1);
    if (!out) return pl_fail(err, PL_ERR_MEMORY, "no memory for %s", b->spec.source);
    uint32_t bits = 0;
    size_t n = 0, n_bits = 0;
    for (size_t i = 0; i < text.size && text.data[i] != '='; i++) {
        const char *digit = memchr(digits, text.data[i], 64);
        if (!digit)
            return pl_fail(err, PL_ERR_FORMAT,
                           "%s: normalizer: precompiled_charsmap is no base64 at %zu",
                           b->spec.source, i);
        bits = bits << 6 | (uint32_t)(digit - digits);
        n_bits += 6;
        if (n_bits < 8) continue;
        n_bits -= 8;
        out[n++] = (unsigned char)(bits >> n_bits);
    }
    step->kind = PL_NORM_CHARSMAP;
    step->a = (pl_bytes){(const char *)out, n};
    return PL_OK;
}

static pl_status normalizer(pl_spec_builder *b, const json_t *object, pl_error *err) {
    const char *type = type_of(object);
    pl_norm_step step = {.kind = PL_NORM_PREPEND};
    if (!strcmp(type, "BertNormalizer"))
        return bert_normalizer(b, object) ? PL_OK : too_many(b, "normalizer", err);
    if (!strcmp(type, "StripAccents")) /* only the marks; files put NFD before it */
        step = (pl_norm_step){
            .kind = PL_NORM_REPLACE_REGEX, .a = literal("\\p{M}+"), .b = literal("")};
    else if (!strcmp(type, "Prepend"))
        step.a = member(object, "prepend");
    else if (!strcmp(type, "Lowercase"))
        step.kind = PL_NORM_LOWERCASE;
    else if (!strcmp(type, "NFC"))
        step.kind = PL_NORM_NFC;
    else if (!strcmp(type, "NFD"))
        step.kind = PL_NORM_NFD;
    else if (!strcmp(type, "Strip")) {
        step.kind = PL_NORM_STRIP;
        step.flags = (flag(object, "strip_left", true) ? PL_STRIP_LEFT : 0u) |
                     (flag(object, "strip_right", true) ? PL_STRIP_RIGHT : 0u);
    } else if (!strcmp(type, "Replace")) {
        bool plain = false;
        pl_status status = pattern_of(b, object, "normalizer", &step.a, &plain, err);
        if (status != PL_OK) return status;
        step.kind = plain ? PL_NORM_REPLACE : PL_NORM_REPLACE_REGEX;
        step.b = member(object, "content");
    } else if (!strcmp(type, "Precompiled")) {
        pl_status status = charsmap(b, object, &step, err);
        if (status != PL_OK) return status;
    } else {
        return unsupported(b, "normalizer", type, err);
    }
    return pl_builder_norm(b, step) ? PL_OK : too_many(b, "normalizer", err);
}

/* ---- pre_tokenizer ---- */

static const struct {
    const char *name;
    pl_split_behavior value;
} behaviors[] = {
    {"Isolated", PL_SPLIT_ISOLATED},
    {"Removed", PL_SPLIT_REMOVED},
    {"MergedWithPrevious", PL_SPLIT_WITH_PREVIOUS},
    {"MergedWithNext", PL_SPLIT_WITH_NEXT},
    {"Contiguous", PL_SPLIT_CONTIGUOUS},
};

static pl_status behavior_of(const pl_spec_builder *b, const json_t *object, const char *otherwise,
                             pl_split_behavior *value, pl_error *err) {
    const char *name = json_string_value(json_object_get(object, "behavior"));
    if (!name) name = otherwise;
    for (size_t i = 0; i < sizeof behaviors / sizeof *behaviors; i++) {
        if (strcmp(name, behaviors[i].name) != 0) continue;
        *value = behaviors[i].value;
        return PL_OK;
    }
    return unsupported(b, "pre_tokenizer: behavior", name, err);
}

static bool add_split(pl_spec_builder *b, const char *pattern, pl_split_behavior behavior,
                      bool invert) {
    return pl_builder_pre(b, (pl_pre_step){.kind = PL_PRE_SPLIT,
                                           .pattern = literal(pattern),
                                           .behavior = behavior,
                                           .invert = invert});
}

static pl_status byte_level(pl_spec_builder *b, const json_t *object, pl_error *err) {
    bool ok = true;
    if (flag(object, "add_prefix_space", true))
        ok = pl_builder_pre(b, (pl_pre_step){.kind = PL_PRE_PREFIX_SPACE});
    if (flag(object, "use_regex", true))
        ok = ok && add_split(b, pl_gpt2_pattern, PL_SPLIT_ISOLATED, false);
    ok = ok && pl_builder_pre(b, (pl_pre_step){.kind = PL_PRE_BYTES});
    return ok ? PL_OK : too_many(b, "pre_tokenizer", err);
}

static pl_status scheme_of(const pl_spec_builder *b, const json_t *object,
                           pl_prepend_scheme *scheme, pl_error *err) {
    const char *name = json_string_value(json_object_get(object, "prepend_scheme"));
    if (!name) name = flag(object, "add_prefix_space", true) ? "always" : "never";
    *scheme = PL_PREPEND_ALWAYS;
    if (!strcmp(name, "first")) *scheme = PL_PREPEND_FIRST;
    if (!strcmp(name, "never")) *scheme = PL_PREPEND_NEVER;
    if (*scheme == PL_PREPEND_ALWAYS && strcmp(name, "always") != 0)
        return unsupported(b, "Metaspace: prepend_scheme", name, err);
    return PL_OK;
}

static pl_bytes replacement_of(const json_t *object) {
    pl_bytes r = member(object, "replacement");
    return r.size ? r : literal("\xE2\x96\x81");
}

static pl_status metaspace(pl_spec_builder *b, const json_t *object, pl_error *err) {
    pl_pre_step step = {.kind = PL_PRE_METASPACE, .pattern = replacement_of(object)};
    pl_status status = scheme_of(b, object, &step.scheme, err);
    if (status != PL_OK) return status;
    bool ok = pl_builder_pre(b, step);
    if (flag(object, "split", true))
        ok = ok && pl_builder_pre(b, (pl_pre_step){.kind = PL_PRE_SPLIT,
                                                   .pattern = step.pattern,
                                                   .literal = true,
                                                   .behavior = PL_SPLIT_WITH_NEXT});
    return ok ? PL_OK : too_many(b, "pre_tokenizer", err);
}

static pl_status split(pl_spec_builder *b, const json_t *object, pl_error *err) {
    pl_pre_step step = {.kind = PL_PRE_SPLIT, .invert = flag(object, "invert", false)};
    pl_status status = pattern_of(b, object, "pre_tokenizer", &step.pattern, &step.literal, err);
    if (status == PL_OK) status = behavior_of(b, object, "Isolated", &step.behavior, err);
    if (status != PL_OK) return status;
    if (step.pattern.size == 0) return PL_OK; /* matches nothing that has a size */
    return pl_builder_pre(b, step) ? PL_OK : too_many(b, "pre_tokenizer", err);
}

static const char punctuation[] = "[\\p{P}$+<=>^`|~]";

static pl_status pre_tokenizer(pl_spec_builder *b, const json_t *object, pl_error *err) {
    const char *type = type_of(object);
    bool ok = true;
    if (!strcmp(type, "ByteLevel")) return byte_level(b, object, err);
    if (!strcmp(type, "Metaspace")) return metaspace(b, object, err);
    if (!strcmp(type, "Split")) return split(b, object, err);
    if (!strcmp(type, "Digits")) {
        bool each = flag(object, "individual_digits", false);
        ok = add_split(b, "\\p{N}", each ? PL_SPLIT_ISOLATED : PL_SPLIT_CONTIGUOUS, false);
    } else if (!strcmp(type, "Punctuation")) {
        pl_split_behavior behavior = PL_SPLIT_ISOLATED;
        pl_status status = behavior_of(b, object, "Isolated", &behavior, err);
        if (status != PL_OK) return status;
        ok = add_split(b, punctuation, behavior, false);
    } else if (!strcmp(type, "BertPreTokenizer")) {
        ok = add_split(b, "\\s", PL_SPLIT_REMOVED, false) &&
             add_split(b, punctuation, PL_SPLIT_ISOLATED, false);
    } else if (!strcmp(type, "WhitespaceSplit")) {
        ok = add_split(b, "\\s", PL_SPLIT_REMOVED, false);
    } else if (!strcmp(type, "Whitespace")) {
        ok = add_split(b, "\\w+|[^\\w\\s]+", PL_SPLIT_REMOVED, true);
    } else {
        return unsupported(b, "pre_tokenizer", type, err);
    }
    return ok ? PL_OK : too_many(b, "pre_tokenizer", err);
}

/* ---- decoder ---- */

static pl_status strip_decoder(pl_spec_builder *b, const json_t *object, bool fused,
                               pl_dec_step *step, pl_error *err) {
    json_int_t start = json_integer_value(json_object_get(object, "start"));
    json_int_t stop = json_integer_value(json_object_get(object, "stop"));
    if (start < 0 || start > 1000) return unsupported(b, "decoder: Strip: start", "", err);
    if (stop != 0) return unsupported(b, "decoder", "Strip with stop", err);
    step->kind = fused ? PL_DEC_STRIP : PL_DEC_STRIP_PIECE;
    step->a = member(object, "content");
    step->n = (uint32_t)start;
    return PL_OK;
}

static pl_status decoder(pl_spec_builder *b, const json_t *object, pl_error *err) {
    const char *type = type_of(object);
    pl_dec_step step = {.kind = PL_DEC_BYTE_LEVEL};
    pl_status status = PL_OK;
    if (!strcmp(type, "Fuse")) {
        b->fused = true;
        return PL_OK;
    }
    if (!strcmp(type, "Metaspace")) {
        pl_prepend_scheme scheme;
        status = scheme_of(b, object, &scheme, err);
        step.kind = PL_DEC_METASPACE;
        step.a = replacement_of(object);
        step.flag = scheme != PL_PREPEND_NEVER;
    } else if (!strcmp(type, "WordPiece")) {
        step.kind = PL_DEC_WORDPIECE;
        step.a = member(object, "prefix");
        step.flag = flag(object, "cleanup", true);
    } else if (!strcmp(type, "BPEDecoder")) {
        step.kind = PL_DEC_SUFFIX;
        step.a = member(object, "suffix");
    } else if (!strcmp(type, "ByteFallback")) {
        step.kind = PL_DEC_BYTE_FALLBACK;
    } else if (!strcmp(type, "Replace")) {
        bool plain = false;
        step.kind = PL_DEC_REPLACE;
        status = pattern_of(b, object, "decoder", &step.a, &plain, err);
        if (status == PL_OK && !plain) status = unsupported(b, "decoder", "Replace Regex", err);
        step.b = member(object, "content");
    } else if (!strcmp(type, "Strip")) {
        status = strip_decoder(b, object, b->fused, &step, err);
    } else if (strcmp(type, "ByteLevel") != 0) {
        return unsupported(b, "decoder", type, err);
    }
    if (status != PL_OK) return status;
    if (step.b.size > 256 || (step.kind == PL_DEC_REPLACE && step.a.size == 0))
        return pl_fail(err, PL_ERR_FORMAT, "%s: decoder: a bad Replace", b->spec.source);
    return pl_builder_dec(b, step) ? PL_OK : too_many(b, "decoder", err);
}

/* ---- post_processor ---- */

static pl_status add_extra(pl_spec_builder *b, bool after, int64_t id, pl_error *err) {
    bool ok = id >= 0 && id <= INT32_MAX;
    ok = ok && (after ? pl_builder_extra(b->suffix, &b->spec.n_suffix, (int32_t)id)
                      : pl_builder_extra(b->prefix, &b->spec.n_prefix, (int32_t)id));
    return ok ? PL_OK
              : pl_fail(err, PL_ERR_FORMAT, "%s: post_processor: a bad id, or more than %d tokens",
                        b->spec.source, PL_MAX_EXTRA);
}

static pl_status template_processing(pl_spec_builder *b, const json_t *object, pl_error *err) {
    const json_t *single = json_object_get(object, "single");
    const json_t *tokens = json_object_get(object, "special_tokens");
    bool after = false;
    for (size_t i = 0; i < json_array_size(single); i++) {
        const json_t *item = json_array_get(single, i);
        if (json_object_get(item, "Sequence")) {
            after = true;
            continue;
        }
        const char *name =
            json_string_value(json_object_get(json_object_get(item, "SpecialToken"), "id"));
        const json_t *ids = name ? json_object_get(json_object_get(tokens, name), "ids") : NULL;
        if (!json_is_array(ids))
            return pl_fail(err, PL_ERR_FORMAT,
                           "%s: post_processor: single[%zu] names no special token", b->spec.source,
                           i);
        for (size_t k = 0; k < json_array_size(ids); k++) {
            const json_t *id = json_array_get(ids, k);
            pl_status status =
                add_extra(b, after, json_is_integer(id) ? json_integer_value(id) : -1, err);
            if (status != PL_OK) return status;
        }
    }
    b->has_template = true;
    return PL_OK;
}

static pl_status post_processor(pl_spec_builder *b, const json_t *object, pl_error *err) {
    const char *type = type_of(object);
    if (!strcmp(type, "ByteLevel")) return PL_OK;
    if (!strcmp(type, "TemplateProcessing")) return template_processing(b, object, err);
    if (strcmp(type, "BertProcessing") != 0 && strcmp(type, "RobertaProcessing") != 0)
        return unsupported(b, "post_processor", type, err);
    const json_t *cls = json_array_get(json_object_get(object, "cls"), 1);
    const json_t *sep = json_array_get(json_object_get(object, "sep"), 1);
    pl_status status =
        add_extra(b, false, json_is_integer(cls) ? json_integer_value(cls) : -1, err);
    if (status == PL_OK)
        status = add_extra(b, true, json_is_integer(sep) ? json_integer_value(sep) : -1, err);
    b->has_template = true;
    return status;
}

pl_status pl_json_steps(pl_spec_builder *b, json_t *root, pl_error *err) {
    const json_t *decoders = json_object_get(root, "decoder");
    pl_status status = each_component(b, json_object_get(root, "normalizer"), "normalizer",
                                      "normalizers", 0, normalizer, err);
    if (status == PL_OK)
        status = each_component(b, json_object_get(root, "pre_tokenizer"), "pre_tokenizer",
                                "pretokenizers", 0, pre_tokenizer, err);
    if (status == PL_OK)
        status = each_component(b, decoders, "decoder", "decoders", 0, decoder, err);
    if (status == PL_OK && (!decoders || json_is_null(decoders)))
        pl_builder_dec(b, (pl_dec_step){.kind = PL_DEC_JOIN});
    if (status == PL_OK)
        status = each_component(b, json_object_get(root, "post_processor"), "post_processor",
                                "processors", 0, post_processor, err);
    return status;
}
