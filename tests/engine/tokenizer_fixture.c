#include "tokenizer_fixture.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "../../engine/text/utf8.h"

const char *fixture_path(const char *name) {
    static char path[1024];
    const char *root = getenv("PERILUNE_TEST_DATA");
    snprintf(path, sizeof path, "%s/%s", root ? root : "../shared/data", name);
    return access(path, R_OK) == 0 ? path : NULL;
}

static char folder[64];
static char written[8][128];
static int n_written;

const char *fixture_folder(void) {
    if (!folder[0]) {
        snprintf(folder, sizeof folder, "/tmp/perilune-text-XXXXXX");
        if (!mkdtemp(folder)) abort();
    }
    return folder;
}

void fixture_write(const char *name, const char *text, size_t size) {
    if (n_written == 8) abort();
    char *path = written[n_written++];
    snprintf(path, sizeof written[0], "%s/%s", fixture_folder(), name);
    FILE *f = fopen(path, "wb");
    if (!f || fwrite(text, 1, size, f) != size || fclose(f) != 0) abort();
}

void fixture_remove(void) {
    while (n_written > 0) unlink(written[--n_written]);
    if (folder[0]) rmdir(folder);
    folder[0] = 0;
}

/* ---- Metadata ---- */

static void *keep(const void *data, size_t n) {
    void *p = malloc(n + 1);
    if (!p) abort();
    if (n) memcpy(p, data, n);
    ((char *)p)[n] = 0;
    return p;
}

static fixture_entry *add(fixture_metadata *m, const char *key, int type) {
    if (m->n == 64) abort();
    fixture_entry *e = &m->entries[m->n++];
    memset(e, 0, sizeof *e);
    snprintf(e->key, sizeof e->key, "%s", key);
    e->type = type;
    return e;
}

static pl_status put_texts(void *to, const char *key, const pl_bytes *values, size_t n,
                           pl_error *err) {
    (void)err;
    fixture_entry *e = add(to, key, 'T');
    e->n = n;
    e->texts = keep(values, n * sizeof *values);
    for (size_t i = 0; i < n; i++) e->texts[i].data = keep(values[i].data, values[i].size);
    return PL_OK;
}

static pl_status put_text(void *to, const char *key, pl_bytes value, pl_error *err) {
    put_texts(to, key, &value, 1, err);
    fixture_metadata *m = to;
    m->entries[m->n - 1].type = 't';
    return PL_OK;
}

static pl_status put_bytes(void *to, const char *key, pl_bytes value, pl_error *err) {
    put_text(to, key, value, err);
    fixture_metadata *m = to;
    m->entries[m->n - 1].type = 'b';
    return PL_OK;
}

static pl_status put_u32(void *to, const char *key, uint32_t value, pl_error *err) {
    (void)err;
    add(to, key, 'i')->integer = value;
    return PL_OK;
}

static pl_status put_boolean(void *to, const char *key, bool value, pl_error *err) {
    return put_u32(to, key, value, err);
}

static pl_status put_f32s(void *to, const char *key, const float *values, size_t n, pl_error *err) {
    (void)err;
    fixture_entry *e = add(to, key, 'f');
    e->n = n;
    e->f32s = keep(values, n * sizeof *values);
    return PL_OK;
}

static pl_status put_i32s(void *to, const char *key, const int32_t *values, size_t n,
                          pl_error *err) {
    (void)err;
    fixture_entry *e = add(to, key, 'n');
    e->n = n;
    e->i32s = keep(values, n * sizeof *values);
    return PL_OK;
}

pl_tokenizer_visitor fixture_visitor(fixture_metadata *to) {
    return (pl_tokenizer_visitor){.context = to,
                                  .text = put_text,
                                  .u32 = put_u32,
                                  .boolean = put_boolean,
                                  .texts = put_texts,
                                  .f32s = put_f32s,
                                  .i32s = put_i32s,
                                  .bytes = put_bytes};
}

const fixture_entry *fixture_find(const fixture_metadata *in, const char *key, int type) {
    for (size_t i = 0; i < in->n; i++)
        if (strcmp(in->entries[i].key, key) == 0 && in->entries[i].type == type)
            return &in->entries[i];
    return NULL;
}

static bool get_text(void *from, const char *key, pl_bytes *value) {
    const fixture_entry *e = fixture_find(from, key, 't');
    if (e) *value = e->texts[0];
    return e != NULL;
}

static bool get_bytes(void *from, const char *key, pl_bytes *value) {
    const fixture_entry *e = fixture_find(from, key, 'b');
    if (e) *value = e->texts[0];
    return e != NULL;
}

static bool get_integer(void *from, const char *key, int64_t *value) {
    const fixture_entry *e = fixture_find(from, key, 'i');
    if (e) *value = e->integer;
    return e != NULL;
}

static size_t get_length(void *from, const char *key) {
    const char *types = "Tfn";
    for (int i = 0; i < 3; i++) {
        const fixture_entry *e = fixture_find(from, key, types[i]);
        if (e) return e->n;
    }
    return 0;
}

static bool get_texts(void *from, const char *key, pl_bytes *values) {
    const fixture_entry *e = fixture_find(from, key, 'T');
    if (e) memcpy(values, e->texts, e->n * sizeof *values);
    return e != NULL;
}

static bool get_f32s(void *from, const char *key, float *values) {
    const fixture_entry *e = fixture_find(from, key, 'f');
    if (e) memcpy(values, e->f32s, e->n * sizeof *values);
    return e != NULL;
}

static bool get_i32s(void *from, const char *key, int32_t *values) {
    const fixture_entry *e = fixture_find(from, key, 'n');
    if (e) memcpy(values, e->i32s, e->n * sizeof *values);
    return e != NULL;
}

pl_tokenizer_metadata fixture_source(fixture_metadata *from) {
    return (pl_tokenizer_metadata){.context = from,
                                   .text = get_text,
                                   .integer = get_integer,
                                   .length = get_length,
                                   .texts = get_texts,
                                   .f32s = get_f32s,
                                   .i32s = get_i32s,
                                   .bytes = get_bytes};
}

void fixture_clear(fixture_metadata *m) {
    for (size_t i = 0; i < m->n; i++) {
        fixture_entry *e = &m->entries[i];
        for (size_t k = 0; e->texts && k < e->n; k++) free((void *)e->texts[k].data);
        free(e->texts);
        free(e->f32s);
        free(e->i32s);
    }
    m->n = 0;
}

/* ---- A GGUF file's tokenizer keys, from a file that is known to be sound ---- */

static uint64_t take(const uint8_t **p, size_t n) {
    uint64_t v = 0;
    memcpy(&v, *p, n);
    *p += n;
    return v;
}

static pl_bytes take_string(const uint8_t **p) {
    size_t n = take(p, 8);
    pl_bytes s = {(const char *)*p, n};
    *p += n;
    return s;
}

static void take_array(fixture_metadata *to, const char *key, const uint8_t **p) {
    static const size_t sizes[] = {1, 1, 2, 2, 4, 4, 4, 1, 0, 0, 8, 8, 8};
    uint64_t type = take(p, 4), n = take(p, 8);
    if (type == 8) {
        pl_bytes *items = malloc((n + 1) * sizeof *items);
        for (size_t i = 0; i < n; i++) items[i] = take_string(p);
        put_texts(to, key, items, n, NULL);
        free(items);
        return;
    }
    void *values = keep(*p, n * sizes[type]);
    if (type == 6) put_f32s(to, key, values, n, NULL);
    if (type == 4 || type == 5) put_i32s(to, key, values, n, NULL);
    free(values);
    *p += n * sizes[type];
}

bool fixture_read_gguf(fixture_metadata *to, const char *path) {
    static const size_t sizes[] = {1, 1, 2, 2, 4, 4, 4, 1, 0, 0, 8, 8, 8};
    pl_map map;
    if (pl_map_open(&map, path, NULL) != PL_OK) return false;
    const uint8_t *p = map.data + 16;
    for (uint64_t n = take(&p, 8); n > 0; n--) {
        pl_bytes name = take_string(&p);
        char key[128];
        snprintf(key, sizeof key, "%.*s", (int)name.size, name.data);
        uint64_t type = take(&p, 4);
        if (type == 8)
            put_text(to, key, take_string(&p), NULL);
        else if (type == 9)
            take_array(to, key, &p);
        else
            add(to, key, 'i')->integer = (int64_t)take(&p, sizes[type]);
    }
    pl_map_close(&map);
    return true;
}

/* ---- Small tokenizers ---- */

const char *fixture_byte_level_json(void) {
    static char json[16384];
    char *p = json;
    p +=
        sprintf(p, "{\"added_tokens\": [{\"id\": 261, \"content\": \"<|end|>\", \"special\": true},"
                   "{\"id\": 262, \"content\": \"<tag>\", \"special\": false}],"
                   "\"pre_tokenizer\": {\"type\": \"ByteLevel\", \"add_prefix_space\": false},"
                   "\"decoder\": {\"type\": \"ByteLevel\"},"
                   "\"post_processor\": {\"type\": \"TemplateProcessing\", \"single\": ["
                   "{\"Sequence\": {\"id\": \"A\"}}, {\"SpecialToken\": {\"id\": \"<|end|>\"}}],"
                   "\"special_tokens\": {\"<|end|>\": {\"ids\": [261]}}},"
                   "\"model\": {\"type\": \"BPE\", \"vocab\": {");
    for (unsigned byte = 0; byte < 256; byte++)
        p += sprintf(p, "\"\\u%04x\": %u, ", (unsigned)pl_byte_to_char((uint8_t)byte), byte);
    sprintf(p, "\"he\": 256, \"ll\": 257, \"llo\": 258, \"hello\": 259, \"\\u0120hello\": 260},"
               "\"merges\": [\"h e\", [\"l\", \"l\"], \"ll o\", \"he llo\", \"\\u0120 hello\"]}}");
    return json;
}

static size_t put_field(unsigned char *out, int number, const void *data, size_t n) {
    out[0] = (unsigned char)(number << 3 | 2);
    out[1] = (unsigned char)n; /* all fields here are short */
    memcpy(out + 2, data, n);
    return n + 2;
}

static size_t put_piece(unsigned char *out, const char *text, float score, int type) {
    unsigned char piece[64];
    size_t n = put_field(piece, 1, text, strlen(text));
    piece[n++] = 2 << 3 | 5;
    memcpy(piece + n, &score, 4);
    n += 4;
    piece[n++] = 3 << 3;
    piece[n++] = (unsigned char)type;
    return put_field(out, 1, piece, n);
}

size_t fixture_spm_model(int type, unsigned char out[16384]) {
    static const char *const pieces[] = {"\xE2\x96\x81",
                                         "a",
                                         "b",
                                         "c",
                                         "ab",
                                         "\xE2\x96\x81"
                                         "ab",
                                         "abc",
                                         "\xE2\x96\x81"
                                         "c"};
    size_t n = put_piece(out, "<unk>", 0, 2);
    n += put_piece(out + n, "<s>", 0, 3);
    n += put_piece(out + n, "</s>", 0, 3);
    for (int byte = 0; byte < 256; byte++) {
        char name[8];
        snprintf(name, sizeof name, "<0x%02X>", byte);
        n += put_piece(out + n, name, 0, 6);
    }
    for (int i = 0; i < 8; i++) n += put_piece(out + n, pieces[i], -1.0f - (float)(8 - i), 1);
    n += put_piece(out + n, "XYZ", 0, 4);
    unsigned char trainer[] = {3 << 3, (unsigned char)type, (35 << 3 & 0x7F) | 0x80, 35 >> 4, 1};
    unsigned char normalizer[] = {3 << 3, 1, 4 << 3, 0};
    n += put_field(out + n, 2, trainer, sizeof trainer);
    return n + put_field(out + n, 3, normalizer, sizeof normalizer);
}
