/* GPT-1's vocabulary: {piece: id} and a list of merges, whose pieces end in "</w>" where a word
 * ends. Put in the words of tokenizer.json, which says the same in one file, and read from there.
 *
 * How a text becomes words is what Hugging Face's tokenizers do with these files, those of the
 * library "tokenizers" always and the older ones where neither ftfy nor spaCy is installed:
 *
 *   1. control characters are dropped, white space becomes spaces, Chinese characters become words;
 *   2. accents are stripped (normal form D without non-spacing marks), letters made lower-case;
 *   3. white space parts words and is dropped, every punctuation mark is a word;
 *   4. a word is its characters, the last one with "</w>"; of two neighbours that the list of
 * merges has, those named first become one piece, until there are none;
 *   5. a character without a piece is the unknown token.
 *
 * OpenAI's own program mended texts with ftfy and cut them with spaCy's English rules, which part
 * "don't" into "do" and "n't" and keep line feeds as words; those rules are code, not data, and no
 * file of the model has them. Decoding writes a space for "</w>", after the last word too. */
#include <string.h>

#include "../base/error.h"
#include "builder.h"
#include "internal.h"
#include "utf8.h"

static const char word_end[] = "</w>";

bool pl_is_gpt1(const json_t *config, const json_t *model) {
    const char *class = json_string_value(json_object_get(config, "tokenizer_class"));
    const char *type = json_string_value(json_object_get(model, "model_type"));
    if (class) return strncmp(class, "OpenAIGPTTokenizer", 18) == 0;
    return type && strcmp(type, "openai-gpt") == 0;
}

/* ["left right", ...]; NULL when memory is short. */
static json_t *merge_lines(const pl_spec_builder *b) {
    json_t *list = json_array();
    pl_buffer line = {0};
    bool ok = list;
    for (size_t i = 0; i < b->spec.n_merges && ok; i++) {
        pl_bytes left = b->spec.merges[i].left, right = b->spec.merges[i].right;
        line.size = 0;
        ok = pl_buffer_append(&line, left.data, left.size) && pl_buffer_append(&line, " ", 1) &&
             pl_buffer_append(&line, right.data, right.size) &&
             json_array_append_new(list, json_stringn((const char *)line.data, line.size)) == 0;
    }
    pl_buffer_clear(&line);
    if (ok) return list;
    json_decref(list);
    return NULL;
}

/* tokenizer.json; NULL when memory is short. */
static json_t *make_root(const pl_spec_builder *b, json_t *vocab, const char *unknown) {
    json_t *merges = merge_lines(b);
    if (!merges) return NULL;
    return json_pack("{s:[{s:O, s:s, s:b}], s:{s:s, s:b}, s:{s:s}, s:{s:s, s:s},"
                     " s:{s:s, s:s, s:s, s:b, s:O, s:o}}",
                     "added_tokens", "id", json_object_get(vocab, unknown), "content", unknown,
                     "special", 1, "normalizer", "type", "BertNormalizer", "lowercase", 1,
                     "pre_tokenizer", "type", "BertPreTokenizer", "decoder", "type", "BPEDecoder",
                     "suffix", word_end, "model", "type", "BPE", "unk_token", unknown,
                     "end_of_word_suffix", word_end, "fuse_unk", 0, "vocab", vocab, "merges",
                     merges);
}

pl_status pl_vocab_gpt1(pl_spec_builder *b, json_t *vocab, const void *merges, size_t size,
                        json_t *config, pl_error *err) {
    const json_t *named = json_object_get(config, "unk_token");
    if (json_is_object(named)) named = json_object_get(named, "content");
    const char *unknown = json_string_value(named);
    if (!unknown) unknown = "<unk>";
    if (!json_object_get(vocab, unknown))
        return pl_fail(err, PL_ERR_FORMAT, "%s: the unknown token, %.60s, is not in it",
                       b->spec.source, unknown);
    if (pl_utf8_valid(merges, size) != size)
        return pl_fail(err, PL_ERR_FORMAT, "%s: merges, byte %zu: no UTF-8", b->spec.source,
                       pl_utf8_valid(merges, size));
    pl_status status = pl_merge_lines(b, merges, size, err);
    if (status != PL_OK) return status;
    json_t *root = make_root(b, vocab, unknown);
    status = root ? pl_json_root(b, root, err) : pl_no_memory(err);
    json_decref(root);
    return status;
}
