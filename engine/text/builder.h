/* What the readers of the file formats share: a spec being put together, and whatever its bytes
 * are borrowed from. */
#ifndef PL_TEXT_BUILDER_H
#define PL_TEXT_BUILDER_H

#include <jansson.h>

#include "../base/arena.h"
#include "../base/map.h"
#include "spec.h"

enum { PL_MAX_STEPS = 64, PL_MAX_EXTRA = 16, PL_MAX_KEPT = 8 };

typedef struct pl_spec_builder {
    pl_tokenizer_spec spec;
    pl_arena arena;
    pl_norm_step norms[PL_MAX_STEPS];
    pl_pre_step pres[PL_MAX_STEPS];
    pl_dec_step decs[PL_MAX_STEPS];
    int32_t prefix[PL_MAX_EXTRA], suffix[PL_MAX_EXTRA], ends[PL_MAX_EXTRA];
    pl_bytes *pieces; /* [spec.n_tokens], what spec.pieces points to */
    uint8_t *attrs;   /* the same, of spec.attrs */
    pl_added_token *added;
    json_t *kept[PL_MAX_KEPT];
    pl_map maps[PL_MAX_KEPT];
    size_t n_kept, n_maps;
    bool fused;        /* a decoder joins the pieces: a Strip from there on means the whole text */
    bool add_bos;      /* the named pre-tokenizer goes with a bos, unless the file says otherwise */
    bool has_template; /* a post-processor said what goes before and after */
} pl_spec_builder;

void pl_builder_init(pl_spec_builder *b, const char *source);
void pl_builder_clear(pl_spec_builder *b);

/* Makes the tokenizer of what was put together; the builder stays. */
pl_status pl_builder_finish(pl_spec_builder *b, pl_tokenizer **out, pl_error *err);

void *pl_builder_alloc(pl_spec_builder *b, size_t n, size_t size); /* cleared; or NULL */

/* Room for the tokens [0, n). Only once. */
pl_status pl_builder_tokens(pl_spec_builder *b, size_t n, pl_error *err);

bool pl_builder_norm(pl_spec_builder *b, pl_norm_step step); /* false: too many */
bool pl_builder_pre(pl_spec_builder *b, pl_pre_step step);
bool pl_builder_dec(pl_spec_builder *b, pl_dec_step step);
bool pl_builder_extra(int32_t list[PL_MAX_EXTRA], size_t *n, int32_t id);

/* The id spelt so, by a walk over all; -1 when there is none. */
int32_t pl_builder_find(const pl_spec_builder *b, const char *piece);

/* Fills what the files left open: ends of turns, and bos, eos, for word pieces also what BERT has,
 * by their usual names. */
void pl_builder_guess_special(pl_spec_builder *b);

/* GPT-2's own expression, and the pre-tokenizers that llama.cpp names. */
extern const char pl_gpt2_pattern[];

/* Adds the steps of the named pre-tokenizer; false when the name is not known. */
bool pl_builder_named_pre(pl_spec_builder *b, const char *name);

/* The one expression of a pre-tokenizer that is called so; NULL when it has several, or none is. */
const char *pl_builder_named_pattern(const char *name);

/* llama.cpp's name for the steps in b, or NULL. */
const char *pl_builder_pre_name(const pl_spec_builder *b);

/* ---- tokenizer.json ---- */

pl_status pl_builder_parse(pl_spec_builder *b, const char *what, const void *data, size_t size,
                           json_t **root, pl_error *err);
pl_status pl_builder_read(pl_spec_builder *b, const char *path, json_t **root, pl_error *err);
pl_status pl_json_steps(pl_spec_builder *b, json_t *root, pl_error *err);
pl_status pl_json_tokenizer(pl_spec_builder *b, const void *data, size_t size, pl_error *err);

/* The same from values; the builder keeps their text. */
pl_status pl_json_root(pl_spec_builder *b, const json_t *root, pl_error *err);

/* tokenizer_config.json; root may be NULL. */
pl_status pl_json_config(pl_spec_builder *b, json_t *root, pl_error *err);

/* config.json or generation_config.json: ids that begin and end. */
pl_status pl_json_ids(pl_spec_builder *b, json_t *root, pl_error *err);

/* vocab.json with merges.txt, as bytes. config: tokenizer_config.json or NULL. */
typedef pl_status (*pl_vocab_reader)(pl_spec_builder *b, json_t *vocab, const void *merges,
                                     size_t size, json_t *config, pl_error *err);
pl_status pl_vocab_merges(pl_spec_builder *b, json_t *vocab, const void *merges, size_t size,
                          json_t *config, pl_error *err);

/* The same files as GPT-1 has them, and whether they are GPT-1's by tokenizer_config.json or else
 * config.json; each NULL when it is not there. */
pl_status pl_vocab_gpt1(pl_spec_builder *b, json_t *vocab, const void *merges, size_t size,
                        json_t *config, pl_error *err);
bool pl_is_gpt1(const json_t *config, const json_t *model);

/* merges.txt into b->spec.merges, which point into text. */
pl_status pl_merge_lines(pl_spec_builder *b, const char *text, size_t size, pl_error *err);

/* vocab.txt, as bytes that stay until the builder has finished. config: as before. */
pl_status pl_vocab_words(pl_spec_builder *b, const void *text, size_t size, const json_t *config,
                         pl_error *err);

/* tokenizer.model. */
pl_status pl_spm_model(pl_spec_builder *b, const void *data, size_t size, pl_error *err);

/* In memory, from start to end: what the fuzzers call. */
pl_status pl_tokenizer_from_json(pl_tokenizer **out, const void *data, size_t size,
                                 const char *source, pl_error *err);
pl_status pl_tokenizer_from_spm(pl_tokenizer **out, const void *data, size_t size,
                                const char *source, pl_error *err);
pl_status pl_tokenizer_from_words(pl_tokenizer **out, const void *text, size_t size,
                                  const char *source, pl_error *err);
pl_status pl_tokenizer_from_vocab(pl_tokenizer **out, pl_vocab_reader read, const void *vocab,
                                  size_t vocab_size, const void *merges, size_t merges_size,
                                  const char *source, pl_error *err);

#endif
