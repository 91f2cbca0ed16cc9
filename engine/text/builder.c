#include "builder.h"

#include <string.h>

#include "../base/error.h"
#include "../base/size.h"
#include "internal.h"

void pl_builder_init(pl_spec_builder *b, const char *source) {
    memset(b, 0, sizeof *b);
    b->spec = pl_tokenizer_spec_default();
    b->spec.source = source;
    b->spec.norms = b->norms;
    b->spec.pres = b->pres;
    b->spec.decs = b->decs;
    b->spec.prefix = b->prefix;
    b->spec.suffix = b->suffix;
    b->spec.ends = b->ends;
}

void pl_builder_clear(pl_spec_builder *b) {
    for (size_t i = 0; i < b->n_kept; i++) json_decref(b->kept[i]);
    for (size_t i = 0; i < b->n_maps; i++) pl_map_close(&b->maps[i]);
    pl_arena_clear(&b->arena);
    b->n_kept = b->n_maps = 0;
}

pl_status pl_builder_finish(pl_spec_builder *b, pl_tokenizer **out, pl_error *err) {
    pl_builder_guess_special(b);
    if (!b->spec.pre_name) b->spec.pre_name = pl_builder_pre_name(b);
    return pl_tokenizer_new(out, &b->spec, err);
}

void *pl_builder_alloc(pl_spec_builder *b, size_t n, size_t size) {
    size_t bytes;
    if (!pl_size_mul(&bytes, n, size)) return NULL;
    void *p = pl_arena_alloc(&b->arena, bytes);
    if (p) memset(p, 0, bytes);
    return p;
}

pl_status pl_builder_tokens(pl_spec_builder *b, size_t n, pl_error *err) {
    b->pieces = pl_builder_alloc(b, n, sizeof *b->pieces);
    b->attrs = pl_builder_alloc(b, n, 1);
    if (!b->pieces || !b->attrs) return pl_no_memory(err);
    b->spec.pieces = b->pieces;
    b->spec.attrs = b->attrs;
    b->spec.n_tokens = n;
    return PL_OK;
}

bool pl_builder_norm(pl_spec_builder *b, pl_norm_step step) {
    if (b->spec.n_norms == PL_MAX_STEPS) return false;
    b->norms[b->spec.n_norms++] = step;
    return true;
}

bool pl_builder_pre(pl_spec_builder *b, pl_pre_step step) {
    if (b->spec.n_pres == PL_MAX_STEPS) return false;
    b->pres[b->spec.n_pres++] = step;
    return true;
}

bool pl_builder_dec(pl_spec_builder *b, pl_dec_step step) {
    if (b->spec.n_decs == PL_MAX_STEPS) return false;
    b->decs[b->spec.n_decs++] = step;
    return true;
}

bool pl_builder_extra(int32_t list[PL_MAX_EXTRA], size_t *n, int32_t id) {
    if (*n == PL_MAX_EXTRA) return false;
    list[(*n)++] = id;
    return true;
}

int32_t pl_builder_find(const pl_spec_builder *b, const char *piece) {
    size_t len = strlen(piece);
    for (size_t i = 0; i < b->spec.n_tokens && len; i++)
        if (b->pieces[i].size == len && memcmp(b->pieces[i].data, piece, len) == 0)
            return (int32_t)i;
    return -1;
}

/* ---- Special tokens by their usual names ---- */

static const char *const begin_names[] = {"<s>", "<|begin_of_text|>", "<bos>", "<|startoftext|>",
                                          "<|endoftext|>"};
static const char *const end_names[] = {"</s>", "<|end_of_text|>", "<eos>", "<|endoftext|>"};
static const char *const turn_names[] = {
    "<|eot_id|>",    "<|eom_id|>", "<|im_end|>",      "<|end|>",    "<end_of_turn>",
    "<|endoftext|>", "<EOT>",      "<|end_of_text|>", "<|return|>", "<|end_of_turn|>"};

static bool is_one_of(pl_bytes piece, const char *const *names, size_t n) {
    for (size_t i = 0; i < n; i++)
        if (piece.size == strlen(names[i]) && !memcmp(piece.data, names[i], piece.size))
            return true;
    return false;
}

static void guess(const pl_spec_builder *b, int32_t *id, const char *const *names, size_t n) {
    for (size_t k = 0; k < n && *id < 0; k++) {
        for (size_t i = 0; i < b->spec.n_added && *id < 0; i++) {
            const pl_added_token *added = &b->spec.added[i];
            if (!added->special || added->id < 0 || (size_t)added->id >= b->spec.n_tokens) continue;
            if (is_one_of(b->pieces[added->id], names + k, 1)) *id = added->id;
        }
    }
}

#define COUNT(array) (sizeof(array) / sizeof *(array))

void pl_builder_guess_special(pl_spec_builder *b) {
    pl_special_ids *s = &b->spec.special;
    if (s->eos < 0) guess(b, &s->eos, end_names, COUNT(end_names));
    if (s->bos < 0) guess(b, &s->bos, begin_names, COUNT(begin_names));
    static const char *const bert_names[] = {"[SEP]", "[PAD]", "[CLS]", "[MASK]"};
    int32_t *const bert_ids[] = {&s->sep, &s->pad, &s->cls, &s->mask};
    for (size_t i = 0; i < COUNT(bert_ids) && b->spec.kind == PL_TOKENIZER_WORDPIECE; i++)
        if (*bert_ids[i] < 0) guess(b, bert_ids[i], bert_names + i, 1);
    for (size_t i = 0; i < b->spec.n_added; i++) {
        const pl_added_token *added = &b->spec.added[i];
        if (!added->special || added->id < 0 || (size_t)added->id >= b->spec.n_tokens) continue;
        if (is_one_of(b->pieces[added->id], turn_names, COUNT(turn_names)))
            pl_builder_extra(b->ends, &b->spec.n_ends, added->id); /* 16 will do */
    }
}

/* ---- Pre-tokenizers by llama.cpp's names ---- */

const char pl_gpt2_pattern[] =
    "'s|'t|'re|'ve|'m|'ll|'d| ?\\p{L}+| ?\\p{N}+| ?[^\\s\\p{L}\\p{N}]+|\\s+(?!\\S)|\\s+";

#define SUFFIXES "(?i:'s|'t|'re|'ve|'m|'ll|'d)"
#define TAIL "| ?[^\\s\\p{L}\\p{N}]+[\\r\\n]*|\\s*[\\r\\n]+|\\s+(?!\\S)|\\s+"
#define UPPER "\\p{Lu}\\p{Lt}\\p{Lm}\\p{Lo}\\p{M}"
#define LOWER "\\p{Ll}\\p{Lm}\\p{Lo}\\p{M}"

static const char llama3[] = SUFFIXES "|[^\\r\\n\\p{L}\\p{N}]?\\p{L}+|\\p{N}{1,3}" TAIL;
static const char qwen2[] = SUFFIXES "|[^\\r\\n\\p{L}\\p{N}]?\\p{L}+|\\p{N}" TAIL;
static const char qwen35[] =
    SUFFIXES "|[^\\r\\n\\p{L}\\p{N}]?[\\p{L}\\p{M}]+|\\p{N}| ?[^\\s\\p{L}\\p{M}\\p{N}]+[\\r\\n]*"
             "|\\s*[\\r\\n]+|\\s+(?!\\S)|\\s+";
static const char o200k[] =
    "[^\\r\\n\\p{L}\\p{N}]?[" UPPER "]*[" LOWER "]+" SUFFIXES "?|[^\\r\\n\\p{L}\\p{N}]?[" UPPER
    "]+[" LOWER "]*" SUFFIXES "?|\\p{N}{1,3}| ?[^\\s\\p{L}\\p{N}]+[\\r\\n/]*|\\s*[\\r\\n]+"
    "|\\s+(?!\\S)|\\s+";
static const char tekken[] =
    "[^\\r\\n\\p{L}\\p{N}]?[" UPPER "]*[" LOWER "]+|[^\\r\\n\\p{L}\\p{N}]?[" UPPER "]+[" LOWER
    "]*|\\p{N}| ?[^\\s\\p{L}\\p{N}]+[\\r\\n/]*|\\s*[\\r\\n]+|\\s+(?!\\S)|\\s+";
static const char ascii_marks[] = "[\\p{P}\\$\\+<=>\\^~\\|]+";
static const char falcon_marks[] = "[\\p{P}\\$\\+<=>\\^~\\|`]+";
static const char han[] = "[\\x{4e00}-\\x{9fa5}\\x{0800}-\\x{4e00}\\x{ac00}-\\x{d7ff}]+";
static const char deepseek3[] =
    "[!\"#$%&'()*+,\\-./:;<=>?@\\[\\\\\\]^_`{|}~][A-Za-z]+|[^\\r\\n\\p{L}\\p{P}\\p{S}]?"
    "[\\p{L}\\p{M}]+| ?[\\p{P}\\p{S}]+[\\r\\n]*|\\s*[\\r\\n]+|\\s+(?!\\S)|\\s+";

/* Several names may stand for one list; the first is the one written. */
static const struct {
    const char *names[8];
    const char *patterns[6];
    bool ignore_merges, add_bos;
} named[] = {
    {{"gpt-2", "mpt", "olmo", "jais", "phi-2", "gigachat", "roberta-bpe"}, {pl_gpt2_pattern}, 0, 0},
    {{"llama-bpe", "llama3", "llama-v3", "falcon3", "pixtral"}, {llama3}, 1, 1},
    {{"dbrx", "smaug-bpe", "chatglm-bpe", "glm4"}, {llama3}, 0, 0},
    {{"qwen2", "stablelm2", "deepseek-r1-qwen", "hunyuan", "megrez"}, {qwen2}, 0, 0},
    {{"qwen35"}, {qwen35}, 0, 0},
    {{"gpt-4o", "llama4"}, {o200k}, 0, 0},
    {{"tekken"}, {tekken}, 1, 1},
    {{"starcoder", "refact", "command-r", "smollm", "codeshell", "exaone", "minerva-7b"},
     {"\\p{N}", pl_gpt2_pattern},
     0,
     0},
    {{"falcon"}, {falcon_marks, pl_gpt2_pattern, "[0-9][0-9][0-9]"}, 0, 0},
    {{"deepseek-coder"}, {"[\\r\\n]", "\\s?\\p{L}+", "\\s?\\p{P}+", han, "\\p{N}"}, 0, 0},
    {{"deepseek-v3", "joyai-llm"},
     {"\\p{N}{1,3}", "[\\x{4e00}-\\x{9fa5}\\x{3040}-\\x{309f}\\x{30a0}-\\x{30ff}]+", deepseek3},
     0,
     0},
    {{"default"}, {ascii_marks, pl_gpt2_pattern, "\\p{N}+", "[0-9][0-9][0-9]"}, 0, 0},
};

static size_t find_named(const char *name) {
    for (size_t i = 0; i < COUNT(named); i++)
        for (size_t k = 0; k < COUNT(named[i].names) && named[i].names[k]; k++)
            if (strcmp(name, named[i].names[k]) == 0) return i;
    return COUNT(named);
}

bool pl_builder_named_pre(pl_spec_builder *b, const char *name) {
    size_t i = find_named(name);
    if (i == COUNT(named)) return false;
    for (size_t k = 0; k < COUNT(named[i].patterns) && named[i].patterns[k]; k++) {
        const char *p = named[i].patterns[k];
        pl_builder_pre(b, (pl_pre_step){.kind = PL_PRE_SPLIT, .pattern = {p, strlen(p)}});
    }
    pl_builder_pre(b, (pl_pre_step){.kind = PL_PRE_BYTES});
    b->spec.ignore_merges = named[i].ignore_merges;
    b->add_bos = named[i].add_bos;
    return true;
}

const char *pl_builder_named_pattern(const char *name) {
    size_t i = find_named(name);
    return i < COUNT(named) && !named[i].patterns[1] ? named[i].patterns[0] : NULL;
}

static bool same_split(const pl_pre_step *step, const char *pattern) {
    return step->kind == PL_PRE_SPLIT && !step->literal && !step->invert &&
           step->behavior == PL_SPLIT_ISOLATED && step->pattern.size == strlen(pattern) &&
           memcmp(step->pattern.data, pattern, step->pattern.size) == 0;
}

const char *pl_builder_pre_name(const pl_spec_builder *b) {
    size_t n = b->spec.n_pres;
    if (b->spec.kind != PL_TOKENIZER_BPE_BYTES || b->spec.n_norms > 0) return NULL;
    if (n == 0 || b->pres[n - 1].kind != PL_PRE_BYTES) return NULL;
    for (size_t i = 0; i < COUNT(named); i++) {
        size_t k = 0;
        while (k < COUNT(named[i].patterns) && named[i].patterns[k] && k + 1 < n &&
               same_split(&b->pres[k], named[i].patterns[k]))
            k++;
        bool all = k == COUNT(named[i].patterns) || !named[i].patterns[k];
        if (all && k + 1 == n && named[i].ignore_merges == b->spec.ignore_merges)
            return named[i].names[0];
    }
    return NULL;
}
