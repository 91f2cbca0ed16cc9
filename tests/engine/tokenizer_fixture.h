/* What the tokenizer suites share: reference data, and GGUF metadata in memory. */
#ifndef TOKENIZER_FIXTURE_H
#define TOKENIZER_FIXTURE_H

#include "../../engine/base/map.h"
#include "../../engine/text/tokenizer.h"

/* The path of a file in the reference data; NULL when it is not there. Static storage. */
const char *fixture_path(const char *name);

/* A folder for one test's files, and a file written into it. */
const char *fixture_folder(void);
void fixture_write(const char *name, const char *text, size_t size);
void fixture_remove(void);

/* Metadata by key. Filled by pl_tokenizer_export through fixture_visitor, or from a GGUF file. */
typedef struct fixture_entry {
    char key[64];
    int type; /* 'i' integer, 't' text, 'T' texts, 'f' floats, 'n' integers, 'b' bytes */
    int64_t integer;
    size_t n;
    pl_bytes *texts; /* [n], or one text */
    float *f32s;
    int32_t *i32s;
} fixture_entry;

typedef struct fixture_metadata {
    fixture_entry entries[64];
    size_t n;
} fixture_metadata;

pl_tokenizer_visitor fixture_visitor(fixture_metadata *to);
pl_tokenizer_metadata fixture_source(fixture_metadata *from);
bool fixture_read_gguf(fixture_metadata *to, const char *path);
const fixture_entry *fixture_find(const fixture_metadata *in, const char *key, int type);
void fixture_clear(fixture_metadata *metadata);

/* A small byte-level tokenizer.json: the 256 bytes, "he", "ll", "llo", "hello", " hello", and
 * <|end|> (special), <tag> (not special). Static storage. */
const char *fixture_byte_level_json(void);

/* A small SentencePiece model. type: 1 unigram, 2 BPE. Returns its size in out[4096 bytes]. */
size_t fixture_spm_model(int type, unsigned char out[16384]);

#endif
