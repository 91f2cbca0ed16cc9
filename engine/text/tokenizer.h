/* Tokenizers: text to token ids and back.
 *
 *     pl_tokenizer *tok = NULL;
 *     if (pl_tokenizer_load(&tok, "models/gpt2", &err) != PL_OK) ...
 *     pl_ids ids = {0};
 *     pl_encode_options options = pl_encode_options_default();
 *     pl_tokenizer_encode(tok, "Once upon a time", 16, &options, &ids, &err);
 *     pl_buffer text = {0};
 *     pl_tokenizer_decode(tok, ids.data, ids.n, NULL, &text, &err);
 *     pl_buffer_clear(&text), pl_ids_clear(&ids), pl_tokenizer_free(tok);
 *
 * A tokenizer never changes after loading and is shared by any number of threads and sessions.
 * Text is bytes with a length; it should be UTF-8, and with byte-level vocabularies any other
 * bytes survive the way to ids and back. Whatever is returned as pl_bytes is borrowed: it lives
 * as long as the tokenizer. Ids count from 0.
 */
#ifndef PL_TEXT_TOKENIZER_H
#define PL_TEXT_TOKENIZER_H

#include "../perilune.h"
#include "../base/buffer.h"

typedef struct pl_tokenizer pl_tokenizer;

/* Borrowed bytes, not terminated, possibly with zero bytes inside. */
typedef struct pl_bytes {
    const char *data;
    size_t size;
} pl_bytes;

/* A growing list of ids; begins as {0}, freed by pl_ids_clear. Owner: the caller. */
typedef struct pl_ids {
    int32_t *data; /* [n], then spare room up to capacity */
    size_t n, capacity;
} pl_ids;

/* False when memory is short; the list is then as it was. */
bool pl_ids_append(pl_ids *ids, int32_t id);
void pl_ids_clear(pl_ids *ids);

/* ---- Loading ---- */

/* From a folder as published on Hugging Face, or one file of it. A folder is searched for
 * tokenizer.json, then tokenizer.model, then vocab.json with merges.txt, then encoder.json with
 * vocab.bpe, then vocab.txt (word pieces); tokenizer_config.json, config.json and
 * generation_config.json beside them say which tokens begin and end a text, chat_template.jinja the
 * chat template. Errors: PL_ERR_IO (nothing there), PL_ERR_FORMAT, PL_ERR_UNSUPPORTED (names the
 * component). */
pl_status pl_tokenizer_load(pl_tokenizer **out, const char *path, pl_error *err);

/* Where the metadata of a GGUF file is looked up. Each returns false, or 0, when there is no such
 * key of that type; what they give is borrowed during pl_tokenizer_from_metadata. */
typedef struct pl_tokenizer_metadata {
    void *context;
    bool (*text)(void *context, const char *key, pl_bytes *value);
    bool (*integer)(void *context, const char *key, int64_t *value); /* or a bool */
    size_t (*length)(void *context, const char *key);                /* of an array */
    bool (*texts)(void *context, const char *key, pl_bytes *values); /* [length], and below */
    bool (*f32s)(void *context, const char *key, float *values);
    bool (*i32s)(void *context, const char *key, int32_t *values);
    bool (*bytes)(void *context, const char *key, pl_bytes *value); /* an array of 8-bit integers */
} pl_tokenizer_metadata;

/* From the metadata of a GGUF file, which may be closed afterwards; tokenizer.huggingface.json
 * counts before the tokenizer.ggml keys. source: the file's path, for messages.
 * Errors: PL_ERR_FORMAT (names the key), PL_ERR_UNSUPPORTED (a model or pre-tokenizer by name). */
pl_status pl_tokenizer_from_metadata(pl_tokenizer **out, const pl_tokenizer_metadata *metadata,
                                     const char *source, pl_error *err);

/* Accepts NULL. */
void pl_tokenizer_free(pl_tokenizer *tok);

/* ---- Facts ---- */

typedef enum pl_tokenizer_kind {
    PL_TOKENIZER_BPE_BYTES, /* byte-level BPE: GPT-2, Llama 3, Qwen */
    PL_TOKENIZER_BPE_CHARS, /* BPE over characters with a list of merges: tokenizer.json of Llama 2
                             */
    PL_TOKENIZER_SPM,       /* SentencePiece BPE, merged by score: Llama 2, Mistral */
    PL_TOKENIZER_UNIGRAM,   /* SentencePiece unigram: T5, XLM-R */
    PL_TOKENIZER_WORDPIECE, /* BERT */
} pl_tokenizer_kind;

typedef enum pl_token_attr {
    PL_TOKEN_NORMAL,
    PL_TOKEN_UNKNOWN,      /* stands for what the vocabulary cannot say */
    PL_TOKEN_CONTROL,      /* special: <s>, <|endoftext|>; not part of the text */
    PL_TOKEN_USER_DEFINED, /* added, always matched as a whole, part of the text */
    PL_TOKEN_UNUSED,       /* a hole in the numbering, or switched off */
    PL_TOKEN_BYTE,         /* one byte, written <0x0A> */
} pl_token_attr;

/* Tokens that begin, end, fill. An id of -1: there is none. */
typedef struct pl_special_ids {
    int32_t bos, eos, unk, pad, sep, cls, mask;
} pl_special_ids;

pl_tokenizer_kind pl_tokenizer_get_kind(const pl_tokenizer *tok);
const char *pl_tokenizer_kind_name(pl_tokenizer_kind kind); /* "byte-level BPE", ...; static */

/* The vocabulary's size, added tokens and holes included: ids are in [0, n). */
size_t pl_tokenizer_n_tokens(const pl_tokenizer *tok);

pl_special_ids pl_tokenizer_special_ids(const pl_tokenizer *tok);

/* The ids that pl_tokenizer_encode puts before and after a text when add_special is set; the
 * file's own rule. Borrowed: [*n]. */
const int32_t *pl_tokenizer_prefix(const pl_tokenizer *tok, size_t *n);
const int32_t *pl_tokenizer_suffix(const pl_tokenizer *tok, size_t *n);

/* Whether generating this token ends the text: eos and the model's other end-of-turn tokens. */
bool pl_tokenizer_is_end(const pl_tokenizer *tok, int32_t id);

/* The chat template's source, or {NULL, 0}. */
pl_bytes pl_tokenizer_chat_template(const pl_tokenizer *tok);

/* Where the tokenizer came from, for messages: a path. Terminated. */
const char *pl_tokenizer_source(const pl_tokenizer *tok);

/* The text of the tokenizer.json that it was read from, or {NULL, 0}: another format. */
pl_bytes pl_tokenizer_json(const pl_tokenizer *tok);

/* The next four need id in [0, n_tokens); others get {NULL, 0}, PL_TOKEN_UNUSED and false. */

/* The vocabulary's own spelling: "Ġupon", "▁the", "<0x0A>", "##ing". */
pl_bytes pl_tokenizer_piece(const pl_tokenizer *tok, int32_t id);

/* The bytes that the token adds in the middle of a text: " upon", " the", "\n", "ing". A control
 * token gives its name. May be part of a UTF-8 character. */
pl_bytes pl_tokenizer_token_bytes(const pl_tokenizer *tok, int32_t id);

pl_token_attr pl_tokenizer_attr(const pl_tokenizer *tok, int32_t id);

/* Whether it is an added token that swallows the white space after it, as Phi-3's do. */
bool pl_tokenizer_strips_after(const pl_tokenizer *tok, int32_t id);

/* The id with exactly this spelling in the vocabulary, or -1. */
int32_t pl_tokenizer_find_piece(const pl_tokenizer *tok, const char *piece, size_t len);

/* ---- Encoding ---- */

typedef struct pl_encode_options {
    bool add_special;   /* put the prefix (BOS) and suffix (EOS) of the file's rule around it */
    bool parse_special; /* control tokens written in the text become their ids; else plain text */
} pl_encode_options;

/* Both true: what Hugging Face's encode does. For text from strangers set parse_special false. */
pl_encode_options pl_encode_options_default(void);

/* Appends the ids of text [len] to *ids; options may be NULL. On error *ids is as it was.
 * Errors: PL_ERR_MEMORY; PL_ERR_ARGUMENT (text over 1 GiB, or a character outside a vocabulary
 * that has no unknown token); PL_ERR_FORMAT (the file's expression exceeds its match limit). */
pl_status pl_tokenizer_encode(const pl_tokenizer *tok, const char *text, size_t len,
                              const pl_encode_options *options, pl_ids *ids, pl_error *err);

/* The one id that text encodes to, without prefix and suffix; PL_ERR_ARGUMENT says how many
 * tokens it is otherwise. */
pl_status pl_tokenizer_single(const pl_tokenizer *tok, const char *text, size_t len, int32_t *id,
                              pl_error *err);

/* One state of a word on its way from characters to tokens. For a word of a BPE the first state
 * (step 0) has its bytes or characters; each next one shows a merge. Other kinds have only one
 * state, the result. */
typedef struct pl_merge_step {
    size_t word, step;      /* both from 0 */
    size_t n;               /* symbols in this state */
    const int32_t *ids;     /* [n]; -1 for a character that is no token by itself */
    const pl_bytes *pieces; /* [n]: the vocabulary's spelling, or the character */
    size_t merged;          /* index of the symbol made by this step; n in step 0 */
    double rank;            /* the merge's rank (lower first), or score (higher first) */
} pl_merge_step;

/* Everything in *step is borrowed during the call. Another status than PL_OK stops and is
 * returned. */
typedef pl_status (*pl_merge_step_fn)(void *context, const pl_merge_step *step, pl_error *err);

/* Encodes slowly and tells each merge. Control tokens are parsed and told as words of one
 * state. */
pl_status pl_tokenizer_explain(const pl_tokenizer *tok, const char *text, size_t len,
                               pl_merge_step_fn tell, void *context, pl_error *err);

/* ---- Decoding ---- */

typedef struct pl_decode_options {
    bool skip_special;    /* leave control tokens out */
    bool replace_invalid; /* what is no UTF-8 becomes U+FFFD, one for each broken sequence */
    bool keep_leading;    /* keep the space that the vocabulary's rule puts before the text: for
                             decoding the middle of a text */
} pl_decode_options;

/* skip_special true, the others false. */
pl_decode_options pl_decode_options_default(void);

/* Appends the text of ids [n] to *text; options may be NULL. On error *text is as it was.
 * Errors: PL_ERR_ARGUMENT (an id outside the vocabulary, with its place), PL_ERR_MEMORY. */
pl_status pl_tokenizer_decode(const pl_tokenizer *tok, const int32_t *ids, size_t n,
                              const pl_decode_options *options, pl_buffer *text, pl_error *err);

/* Decodes a stream, token by token, and never splits a UTF-8 character. It is a plain value:
 * a copy continues independently, nothing is to be freed.
 *
 *     pl_decoder d;
 *     pl_decoder_init(&d, tok, NULL);
 *     for each id: pl_decoder_put(&d, id, &text, &err);     // appends what is complete
 *     pl_decoder_flush(&d, &text, &err);                    // the rest, as pl_tokenizer_decode
 *
 * The concatenation equals pl_tokenizer_decode of all ids at once with the same options. */
typedef struct pl_decoder {
    const pl_tokenizer *tok;
    pl_decode_options options;
    uint8_t held[4]; /* the beginning of a UTF-8 character */
    uint8_t n_held;
    bool started;   /* some token was decoded */
    int32_t strips; /* how many leading spaces may still be dropped */
} pl_decoder;

void pl_decoder_init(pl_decoder *decoder, const pl_tokenizer *tok,
                     const pl_decode_options *options);

/* On error (as pl_tokenizer_decode) neither decoder nor text has changed. */
pl_status pl_decoder_put(pl_decoder *decoder, int32_t id, pl_buffer *text, pl_error *err);

/* Appends an unfinished character as it is, or as U+FFFD with replace_invalid. */
pl_status pl_decoder_flush(pl_decoder *decoder, pl_buffer *text, pl_error *err);

/* ---- Writing a GGUF file ---- */

/* Receives each key of the tokenizer's GGUF metadata in order; all values are borrowed during
 * the call. A status other than PL_OK stops and is returned. */
typedef struct pl_tokenizer_visitor {
    void *context;
    pl_status (*text)(void *context, const char *key, pl_bytes value, pl_error *err);
    pl_status (*u32)(void *context, const char *key, uint32_t value, pl_error *err);
    pl_status (*boolean)(void *context, const char *key, bool value, pl_error *err);
    pl_status (*texts)(void *context, const char *key, const pl_bytes *values, size_t n,
                       pl_error *err);
    pl_status (*f32s)(void *context, const char *key, const float *values, size_t n, pl_error *err);
    pl_status (*i32s)(void *context, const char *key, const int32_t *values, size_t n,
                      pl_error *err);
    pl_status (*bytes)(void *context, const char *key, pl_bytes value, pl_error *err);
} pl_tokenizer_visitor;

/* Tells tokenizer.ggml.model, .pre, .tokens, .token_type, .scores or .merges, the special ids,
 * add_bos_token, add_eos_token, tokenizer.chat_template, and, where those cannot say all,
 * tokenizer.huggingface.json with the text of the tokenizer.json. */
pl_status pl_tokenizer_export(const pl_tokenizer *tok, const pl_tokenizer_visitor *visitor,
                              pl_error *err);

#endif
