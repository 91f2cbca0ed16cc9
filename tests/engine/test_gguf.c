/* GGUF, read and written. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <signal.h>
#include <sys/resource.h>
#include <unistd.h>
#include <cmocka.h>

#include "../../engine/base/error.h"
#include "../../engine/format/gguf.h"
#include "../../engine/format/gguf_write.h"
#include "format_fixture.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static pl_error err;

/* -- files put together byte by byte --------------------------------------------------------- */

static void u32(pl_buffer *b, uint32_t x) {
    assert_true(pl_buffer_append(b, &x, sizeof x));
}
static void u64(pl_buffer *b, uint64_t x) {
    assert_true(pl_buffer_append(b, &x, sizeof x));
}
static void text(pl_buffer *b, const char *s) {
    u64(b, strlen(s));
    assert_true(pl_buffer_append(b, s, strlen(s)));
}
static void header(pl_buffer *b, uint32_t version, uint64_t n_tensors, uint64_t n_keys) {
    assert_true(pl_buffer_append(b, "GGUF", 4));
    u32(b, version);
    u64(b, n_tensors);
    u64(b, n_keys);
}
static void pad(pl_buffer *b) {
    while (b->size % 32) assert_true(pl_buffer_append(b, "", 1));
}
static void tensor_info(pl_buffer *b, const char *name, uint64_t width, uint64_t height,
                        uint32_t type, uint64_t offset) {
    text(b, name);
    u32(b, 2);
    u64(b, width);
    u64(b, height);
    u32(b, type);
    u64(b, offset);
}

/* Parses, expects this status and a message with these words, and clears the bytes. */
static void refused(pl_buffer *b, pl_status status, const char *words) {
    pl_gguf *file = NULL;
    err.message[0] = 0;
    pl_status found = pl_gguf_parse(&file, b->data, b->size, "bad.gguf", &err);
    if (found == PL_OK) pl_gguf_close(file);
    if (found != status || !strstr(err.message, words)) {
        fail_msg("status %s, '%s': expected %s, '%s'", pl_status_name(found), err.message,
                 pl_status_name(status), words);
    }
    assert_non_null(strstr(err.message, "bad.gguf"));
    pl_buffer_clear(b);
}

/* -- writing and reading back ----------------------------------------------------------------- */

static const char *const pieces[] = {"<s>", "", "hello", "\xE2\x96\x81world"};

static void put_all_types(pl_gguf_writer *w) {
    assert_int_equal(pl_gguf_put_scalar(w, "a.u8", PL_GGUF_U8, &(uint8_t){200}, &err), PL_OK);
    assert_int_equal(pl_gguf_put_scalar(w, "a.i8", PL_GGUF_I8, &(int8_t){-100}, &err), PL_OK);
    assert_int_equal(pl_gguf_put_scalar(w, "a.u16", PL_GGUF_U16, &(uint16_t){60000}, &err), PL_OK);
    assert_int_equal(pl_gguf_put_scalar(w, "a.i16", PL_GGUF_I16, &(int16_t){-30000}, &err), PL_OK);
    assert_int_equal(pl_gguf_put_u32(w, "a.u32", 4000000000u, &err), PL_OK);
    assert_int_equal(pl_gguf_put_i32(w, "a.i32", -7, &err), PL_OK);
    assert_int_equal(pl_gguf_put_f32(w, "a.f32", 1.5f, &err), PL_OK);
    assert_int_equal(pl_gguf_put_bool(w, "a.bool", true, &err), PL_OK);
    assert_int_equal(pl_gguf_put_string(w, "a.string", "zero\0in", 7, &err), PL_OK);
    assert_int_equal(pl_gguf_put_u64(w, "a.u64", UINT64_MAX, &err), PL_OK);
    assert_int_equal(pl_gguf_put_scalar(w, "a.i64", PL_GGUF_I64, &(int64_t){-5}, &err), PL_OK);
    assert_int_equal(pl_gguf_put_scalar(w, "a.f64", PL_GGUF_F64, &(double){0.1}, &err), PL_OK);
    assert_int_equal(
        pl_gguf_put_array(w, "a.floats", PL_GGUF_F32, (float[]){1, -2, 0.25f}, 3, &err), PL_OK);
    assert_int_equal(pl_gguf_put_array(w, "a.shorts", PL_GGUF_I16, (int16_t[]){-1, 7}, 2, &err),
                     PL_OK);
    assert_int_equal(pl_gguf_put_array(w, "a.none", PL_GGUF_U32, NULL, 0, &err), PL_OK);
    pl_gguf_string strings[4];
    for (int i = 0; i < 4; i++) strings[i] = (pl_gguf_string){pieces[i], strlen(pieces[i])};
    assert_int_equal(pl_gguf_put_strings(w, "a.strings", strings, 4, &err), PL_OK);
}

static void check_scalars(const pl_gguf *g) {
    static const struct {
        const char *key;
        double value;
    } numbers[] = {{"a.u8", 200},     {"a.i8", -100},         {"a.u16", 60000},
                   {"a.i16", -30000}, {"a.u32", 4000000000u}, {"a.i32", -7},
                   {"a.f32", 1.5},    {"a.i64", -5},          {"a.f64", 0.1}};
    for (size_t i = 0; i < sizeof numbers / sizeof *numbers; i++) {
        double x = 0;
        uint64_t u = 0;
        assert_true(pl_gguf_find_float(g, numbers[i].key, &x));
        assert_true(x == numbers[i].value);
        bool whole = numbers[i].value >= 0 && numbers[i].value == (double)(uint64_t)x && i < 5;
        assert_int_equal(pl_gguf_find_uint(g, numbers[i].key, &u), whole);
        if (whole) assert_true((double)u == numbers[i].value);
    }
    uint64_t u = 0;
    bool b = false;
    pl_gguf_string s = {0};
    assert_true(pl_gguf_find_uint(g, "a.u64", &u) && u == UINT64_MAX);
    assert_true(pl_gguf_find_bool(g, "a.bool", &b) && b);
    assert_int_equal(pl_gguf_get_string(g, "a.string", &s, &err), PL_OK);
    assert_int_equal(s.size, 7);
    assert_memory_equal(s.data, "zero\0in", 7);
}

static void check_arrays(const pl_gguf *g) {
    float floats[3];
    int32_t shorts[2];
    const pl_gguf_value *v = pl_gguf_find_array(g, "a.floats", PL_GGUF_F32);
    assert_non_null(v);
    assert_int_equal(v->n, 3);
    assert_true(pl_gguf_array_f32s(v, floats));
    assert_true(floats[0] == 1 && floats[1] == -2 && floats[2] == 0.25f);
    assert_false(pl_gguf_array_i32s(v, (int32_t[3]){0}));
    v = pl_gguf_find_array(g, "a.shorts", PL_GGUF_I16);
    assert_true(pl_gguf_array_i32s(v, shorts) && shorts[0] == -1 && shorts[1] == 7);
    assert_int_equal(pl_gguf_find_array(g, "a.none", PL_GGUF_U32)->n, 0);
    assert_null(pl_gguf_find_array(g, "a.none", PL_GGUF_F32));
    v = pl_gguf_find_array(g, "a.strings", PL_GGUF_STRING);
    assert_false(pl_gguf_array_f32s(v, floats));
    const uint8_t *at = v->data;
    pl_gguf_string s;
    for (int i = 0; i < 4; i++) {
        assert_true(pl_gguf_next_string(v, &at, &s));
        assert_true(pl_gguf_string_is(s, pieces[i]));
    }
    assert_false(pl_gguf_next_string(v, &at, &s));
}

static void test_every_metadata_type_comes_back(void **state) {
    (void)state;
    char *folder = make_folder();
    const char *path = in_folder(folder, "a.gguf"), *copy = in_folder(folder, "b.gguf");
    pl_gguf_writer *w, *again;
    assert_int_equal(pl_gguf_writer_new(&w, &err), PL_OK);
    put_all_types(w);
    assert_int_equal(pl_gguf_put_u32(w, "a.u32", 1, &err), PL_ERR_ARGUMENT);
    assert_int_equal(pl_gguf_put_u32(w, "", 1, &err), PL_ERR_ARGUMENT);
    assert_int_equal(pl_gguf_writer_save(w, path, &err), PL_OK);
    pl_gguf_writer_free(w);

    pl_gguf *g;
    assert_int_equal(pl_gguf_open(&g, path, &err), PL_OK);
    assert_int_equal(pl_gguf_version(g), 3);
    assert_int_equal(pl_gguf_n_values(g), 16);
    check_scalars(g);
    check_arrays(g);
    assert_int_equal(pl_gguf_writer_new(&again, &err), PL_OK);
    for (size_t i = 0; i < pl_gguf_n_values(g); i++) {
        assert_int_equal(pl_gguf_put_value(again, pl_gguf_value_at(g, i), &err), PL_OK);
    }
    assert_int_equal(pl_gguf_writer_save(again, copy, &err), PL_OK);
    pl_gguf_writer_free(again);
    pl_gguf_close(g);

    pl_buffer a = read_bytes(path), b = read_bytes(copy);
    assert_int_equal(a.size, b.size);
    assert_memory_equal(a.data, b.data, a.size);
    feed_damaged(LLVMFuzzerTestOneInput, a.data, a.size);
    pl_buffer_clear(&a), pl_buffer_clear(&b);
    remove_folder(folder);
}

static pl_status make_tensor(void *context, pl_tensor *t, pl_error *e) {
    pl_status status = pl_tensor_new(t, PL_F32, 2, (int64_t[]){3, 5}, e);
    for (int i = 0; status == PL_OK && i < 15; i++) ((float *)t->data)[i] = *(float *)context;
    return status;
}

static void test_tensors_of_every_type_come_back(void **state) {
    (void)state;
    char *folder = make_folder();
    const char *path = in_folder(folder, "a.gguf");
    static uint8_t bytes[PL_N_DTYPES][3 * 512 * 8];
    pl_gguf_writer *w;
    assert_int_equal(pl_gguf_writer_new(&w, &err), PL_OK);
    pl_tensor t;
    for (int i = 0; i < PL_N_DTYPES; i++) {
        for (size_t k = 0; k < sizeof bytes[i]; k++) bytes[i][k] = (uint8_t)(k * 7 + (size_t)i);
        assert_int_equal(pl_tensor_wrap(&t, (pl_dtype)i, 2, (int64_t[]){3, 512}, bytes[i], &err),
                         PL_OK);
        assert_int_equal(pl_gguf_put_tensor(w, pl_dtype_get((pl_dtype)i)->name, &t, &err), PL_OK);
    }
    assert_int_equal(pl_gguf_put_tensor(w, "f32", &t, &err), PL_ERR_ARGUMENT);
    float one = 1.25f, table[6] = {0, 1, 2, 3, 4, 5};
    assert_int_equal(
        pl_gguf_put_made_tensor(w, "made", PL_F32, 2, (int64_t[]){3, 5}, make_tensor, &one, &err),
        PL_OK);
    assert_int_equal(pl_tensor_wrap(&t, PL_F32, 2, (int64_t[]){2, 3}, table, &err), PL_OK);
    assert_int_equal(pl_tensor_transpose(&t, 0, 1, &err), PL_OK);
    assert_int_equal(pl_gguf_put_tensor(w, "turned", &t, &err), PL_OK);
    assert_int_equal(pl_gguf_writer_save(w, path, &err), PL_OK);
    pl_gguf_writer_free(w);

    pl_gguf *g;
    size_t at;
    assert_int_equal(pl_gguf_open(&g, path, &err), PL_OK);
    assert_int_equal(pl_gguf_n_tensors(g), PL_N_DTYPES + 2);
    for (int i = 0; i < PL_N_DTYPES; i++) {
        assert_true(pl_gguf_find_tensor(g, pl_dtype_get((pl_dtype)i)->name, &at));
        assert_int_equal(pl_gguf_tensor(g, at, &t, &err), PL_OK);
        assert_int_equal(t.dtype, i);
        assert_int_equal(t.shape[0], 3);
        assert_int_equal(t.shape[1], 512);
        assert_memory_equal(t.data, bytes[i], 3 * pl_tensor_row_bytes(&t));
    }
    assert_true(pl_gguf_find_tensor(g, "made", &at));
    assert_int_equal(pl_gguf_tensor(g, at, &t, &err), PL_OK);
    for (int i = 0; i < 15; i++) assert_true(((float *)t.data)[i] == 1.25f);
    assert_true(pl_gguf_find_tensor(g, "turned", &at));
    assert_int_equal(pl_gguf_tensor(g, at, &t, &err), PL_OK);
    assert_memory_equal(t.data, ((float[]){0, 3, 1, 4, 2, 5}), 6 * sizeof(float));
    assert_false(pl_gguf_find_tensor(g, "missing", &at));
    pl_gguf_close(g);
    remove_folder(folder);
}

static void test_made_tensor_must_be_as_announced(void **state) {
    (void)state;
    char *folder = make_folder();
    const char *path = in_folder(folder, "a.gguf");
    float one = 1;
    pl_gguf_writer *w;
    assert_int_equal(pl_gguf_writer_new(&w, &err), PL_OK);
    assert_int_equal(
        pl_gguf_put_made_tensor(w, "made", PL_F32, 2, (int64_t[]){5, 3}, make_tensor, &one, &err),
        PL_OK);
    assert_int_equal(pl_gguf_writer_save(w, path, &err), PL_ERR_SHAPE);
    assert_non_null(strstr(err.message, "[3, 5]"));
    assert_int_not_equal(access(path, F_OK), 0);
    assert_int_equal(pl_gguf_writer_save(w, in_folder(folder, "no/such/folder"), &err), PL_ERR_IO);
    pl_gguf_writer_free(w);
    assert_int_equal(rmdir(folder), 0); /* nothing is left behind */
    free(folder);
}

static void test_short_write_is_reported(void **state) {
    (void)state;
    char *folder = make_folder();
    const char *path = in_folder(folder, "a.gguf");
    write_bytes(path, "old", 3);
    static float big[4096];
    pl_tensor t;
    pl_gguf_writer *w;
    assert_int_equal(pl_gguf_writer_new(&w, &err), PL_OK);
    assert_int_equal(pl_tensor_wrap(&t, PL_F32, 1, (int64_t[]){4096}, big, &err), PL_OK);
    assert_int_equal(pl_gguf_put_tensor(w, "big", &t, &err), PL_OK);
    struct rlimit before, small;
    getrlimit(RLIMIT_FSIZE, &before);
    small = before;
    small.rlim_cur = 8192;
    signal(SIGXFSZ, SIG_IGN);
    setrlimit(RLIMIT_FSIZE, &small);
    pl_status status = pl_gguf_writer_save(w, path, &err);
    setrlimit(RLIMIT_FSIZE, &before);
    assert_int_equal(status, PL_ERR_IO);
    assert_non_null(strstr(err.message, "a.gguf: cannot be written"));
    pl_gguf_writer_free(w);
    pl_buffer b = read_bytes(path);
    assert_int_equal(b.size, 3); /* the old file is as it was, and nothing else is left */
    pl_buffer_clear(&b);
    assert_int_equal(unlink(path), 0);
    assert_int_equal(rmdir(folder), 0);
    free(folder);
}

/* -- files that lie ---------------------------------------------------------------------------- */

static void test_headers_that_lie(void **state) {
    (void)state;
    pl_buffer b = {0};
    pl_buffer_append(&b, "GGML0000", 8);
    refused(&b, PL_ERR_FORMAT, "not a GGUF file");
    header(&b, 1, 0, 0);
    refused(&b, PL_ERR_UNSUPPORTED, "version 1");
    header(&b, 0x03000000, 0, 0);
    refused(&b, PL_ERR_UNSUPPORTED, "big-endian");
    header(&b, 3, 0, UINT64_MAX);
    refused(&b, PL_ERR_FORMAT, "keys");
    header(&b, 3, UINT64_MAX / 2, 0);
    refused(&b, PL_ERR_FORMAT, "tensors");
}

static void begin_key(pl_buffer *b, const char *key, uint32_t type) {
    header(b, 3, 0, 1);
    text(b, key);
    u32(b, type);
}

static void test_metadata_that_lies(void **state) {
    (void)state;
    pl_buffer b = {0};
    begin_key(&b, "k.long", PL_GGUF_STRING);
    u64(&b, UINT64_MAX - 3);
    refused(&b, PL_ERR_FORMAT, "claims 18446744073709551612 bytes");
    begin_key(&b, "k.count", PL_GGUF_ARRAY);
    u32(&b, PL_GGUF_U64), u64(&b, UINT64_MAX / 4);
    refused(&b, PL_ERR_FORMAT, "k.count");
    begin_key(&b, "k.type", 13);
    u64(&b, 0);
    refused(&b, PL_ERR_FORMAT, "unknown type 13");
    begin_key(&b, "k.element", PL_GGUF_ARRAY);
    u32(&b, 77), u64(&b, 0);
    refused(&b, PL_ERR_FORMAT, "unknown element type 77");
    begin_key(&b, "k.deep", PL_GGUF_ARRAY);
    for (int i = 0; i < 100; i++) u32(&b, PL_GGUF_ARRAY), u64(&b, 1);
    refused(&b, PL_ERR_FORMAT, "nested");
    header(&b, 3, 0, 2);
    for (int i = 0; i < 2; i++) text(&b, "k.twice"), u32(&b, PL_GGUF_U32), u32(&b, 1);
    refused(&b, PL_ERR_FORMAT, "k.twice");
    static const uint32_t bad[] = {0, 1, 4, 33, 1u << 31};
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        begin_key(&b, "general.alignment", PL_GGUF_U32);
        u32(&b, bad[i]);
        refused(&b, PL_ERR_FORMAT, "general.alignment");
    }
}

static void one_tensor(pl_buffer *b, uint64_t width, uint64_t height, uint32_t type,
                       uint64_t offset) {
    header(b, 3, 1, 0);
    tensor_info(b, "w", width, height, type, offset);
    pad(b);
    for (int i = 0; i < 32; i++) u64(b, 0); /* 256 bytes of data */
}

static void test_tensors_that_lie(void **state) {
    (void)state;
    pl_buffer b = {0};
    one_tensor(&b, 8, 9, 0, 0);
    refused(&b, PL_ERR_FORMAT, "outside the file");
    one_tensor(&b, 8, 8, 0, 32);
    refused(&b, PL_ERR_FORMAT, "outside the file");
    one_tensor(&b, 8, 1, 0, UINT64_MAX - 31);
    refused(&b, PL_ERR_FORMAT, "outside the file");
    one_tensor(&b, (uint64_t)1 << 62, 8, 0, 0);
    refused(&b, PL_ERR_FORMAT, "'w'");
    one_tensor(&b, (uint64_t)1 << 32, (uint64_t)1 << 32, 0, 0);
    refused(&b, PL_ERR_FORMAT, "'w'");
    one_tensor(&b, UINT64_MAX, 1, 0, 0);
    refused(&b, PL_ERR_FORMAT, "'w'");
    one_tensor(&b, 8, 1, 0, 4);
    refused(&b, PL_ERR_FORMAT, "multiple of 32");
    one_tensor(&b, 33, 1, 8, 0);
    refused(&b, PL_ERR_FORMAT, "q8_0");
    header(&b, 3, 2, 0);
    for (int i = 0; i < 2; i++) tensor_info(&b, "twice", 8, 1, 0, 0);
    pad(&b);
    for (int i = 0; i < 32; i++) u64(&b, 0);
    refused(&b, PL_ERR_FORMAT, "twice");
    header(&b, 3, 1, 0);
    text(&b, "w"), u32(&b, 5);
    for (int i = 0; i < 10; i++) u64(&b, 1);
    refused(&b, PL_ERR_FORMAT, "5 dimensions");
}

static void test_unread_types_are_named_when_asked_for(void **state) {
    (void)state;
    static const struct {
        uint32_t type;
        const char *words;
    } cases[] = {{24, "i8"}, {28, "f64"}, {16, "iq2_xxs"}, {200, "type 200"}};
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        pl_buffer b = {0};
        pl_gguf *g;
        pl_tensor t;
        one_tensor(&b, 8, 1, cases[i].type, 0);
        assert_int_equal(pl_gguf_parse(&g, b.data, b.size, "x.gguf", &err), PL_OK);
        assert_int_equal(pl_gguf_tensor(g, 0, &t, &err), PL_ERR_UNSUPPORTED);
        assert_non_null(strstr(err.message, cases[i].words));
        assert_non_null(strstr(err.message, "'w'"));
        pl_gguf_close(g);
        pl_buffer_clear(&b);
    }
}

static void test_nested_arrays_are_kept(void **state) {
    (void)state;
    pl_buffer b = {0};
    pl_gguf *g;
    begin_key(&b, "k", PL_GGUF_ARRAY);
    u32(&b, PL_GGUF_ARRAY), u64(&b, 2);
    u32(&b, PL_GGUF_STRING), u64(&b, 2), text(&b, "x"), text(&b, "yz");
    u32(&b, PL_GGUF_U32), u64(&b, 1), u32(&b, 9);
    assert_int_equal(pl_gguf_parse(&g, b.data, b.size, "x.gguf", &err), PL_OK);
    const pl_gguf_value *v = pl_gguf_find_array(g, "k", PL_GGUF_ARRAY);
    assert_non_null(v);
    assert_int_equal(v->n, 2);
    assert_ptr_equal(v->data + v->size, b.data + b.size);
    pl_gguf_close(g);
    feed_damaged(LLVMFuzzerTestOneInput, b.data, b.size);
    pl_buffer_clear(&b);
}

static void test_keys_of_another_kind_are_errors(void **state) {
    (void)state;
    pl_buffer b = {0};
    pl_gguf *g;
    uint64_t u = 42;
    double f = 0.5;
    bool flag = true;
    pl_gguf_string s = {"kept", 4};
    begin_key(&b, "k.text", PL_GGUF_STRING);
    text(&b, "12");
    assert_int_equal(pl_gguf_parse(&g, b.data, b.size, "x.gguf", &err), PL_OK);
    assert_int_equal(pl_gguf_read_uint(g, "k.text", &u, &err), PL_ERR_FORMAT);
    assert_string_equal(err.message, "x.gguf: key 'k.text' is of type string: expected a "
                                     "whole number from 0");
    assert_int_equal(pl_gguf_read_float(g, "k.text", &f, &err), PL_ERR_FORMAT);
    assert_int_equal(pl_gguf_read_bool(g, "k.text", &flag, &err), PL_ERR_FORMAT);
    assert_int_equal(pl_gguf_read_uint(g, "k.other", &u, &err), PL_OK);
    assert_int_equal(pl_gguf_read_string(g, "k.other", &s, &err), PL_OK);
    assert_int_equal(pl_gguf_get_uint(g, "k.other", &u, &err), PL_ERR_FORMAT);
    assert_non_null(strstr(err.message, "'k.other' is missing"));
    assert_int_equal(pl_gguf_get_string(g, "k.other", &s, &err), PL_ERR_FORMAT);
    assert_true(u == 42 && f == 0.5 && flag && pl_gguf_string_is(s, "kept"));
    pl_gguf_close(g);
    pl_buffer_clear(&b);

    begin_key(&b, "k.negative", PL_GGUF_I32);
    u32(&b, (uint32_t)-3);
    assert_int_equal(pl_gguf_parse(&g, b.data, b.size, "x.gguf", &err), PL_OK);
    assert_int_equal(pl_gguf_read_uint(g, "k.negative", &u, &err), PL_ERR_FORMAT);
    assert_string_equal(err.message, "x.gguf: key 'k.negative' = -3: expected a whole number "
                                     "from 0");
    pl_gguf_close(g);
    pl_buffer_clear(&b);
}

/* -- parts --------------------------------------------------------------------------------------
 */

static void write_part(const char *path, uint16_t number, uint16_t count, int32_t n_tensors,
                       const char *tensor) {
    static float data[8] = {1, 2, 3, 4, 5, 6, 7, 8};
    pl_gguf_writer *w;
    pl_tensor t;
    assert_int_equal(pl_gguf_writer_new(&w, &err), PL_OK);
    pl_gguf_put_scalar(w, "split.no", PL_GGUF_U16, &number, &err);
    pl_gguf_put_scalar(w, "split.count", PL_GGUF_U16, &count, &err);
    pl_gguf_put_i32(w, "split.tensors.count", n_tensors, &err);
    assert_int_equal(pl_tensor_wrap(&t, PL_F32, 1, (int64_t[]){8}, data, &err), PL_OK);
    assert_int_equal(pl_gguf_put_tensor(w, tensor, &t, &err), PL_OK);
    assert_int_equal(pl_gguf_writer_save(w, path, &err), PL_OK);
    pl_gguf_writer_free(w);
}

static void test_split_files_open_as_one(void **state) {
    (void)state;
    char *folder = make_folder();
    const char *one = in_folder(folder, "m-00001-of-00002.gguf");
    const char *two = in_folder(folder, "m-00002-of-00002.gguf");
    pl_gguf *g;
    write_part(one, 0, 2, 2, "a");
    assert_int_equal(pl_gguf_open(&g, one, &err), PL_ERR_IO);
    assert_non_null(strstr(err.message, "m-00002-of-00002.gguf"));
    write_part(two, 1, 2, 2, "b");
    assert_int_equal(pl_gguf_open(&g, one, &err), PL_OK);
    assert_int_equal(pl_gguf_n_tensors(g), 2);
    size_t at;
    pl_tensor t;
    assert_true(pl_gguf_find_tensor(g, "b", &at));
    assert_int_equal(pl_gguf_tensor(g, at, &t, &err), PL_OK);
    assert_true(((float *)t.data)[7] == 8);
    pl_gguf_close(g);

    assert_int_equal(pl_gguf_open(&g, two, &err), PL_ERR_FORMAT);
    assert_non_null(strstr(err.message, "open the first"));
    write_part(two, 0, 2, 2, "b");
    assert_int_equal(pl_gguf_open(&g, one, &err), PL_ERR_FORMAT);
    assert_non_null(strstr(err.message, "split.no"));
    write_part(two, 1, 2, 2, "a");
    assert_int_equal(pl_gguf_open(&g, one, &err), PL_ERR_FORMAT);
    write_part(one, 0, 2, 3, "a"), write_part(two, 1, 2, 3, "b");
    assert_int_equal(pl_gguf_open(&g, one, &err), PL_ERR_FORMAT);
    assert_non_null(strstr(err.message, "split.tensors.count"));
    remove_folder(folder);
}

/* -- files that others wrote ---------------------------------------------------------------------
 */

static void test_reference_files_open_and_survive_damage(void **state) {
    (void)state;
    static const char *const names[] = {
        "fixtures/llama/tiny_llama_f32.gguf", "fixtures/llama/tiny_llama_f16.gguf",
        "fixtures/llama/tiny_llama_q8.gguf", "fixtures/kquant/tiny_kquant.gguf",
        "models/stories260K/stories260K.gguf"};
    bool any = false;
    for (size_t i = 0; i < sizeof names / sizeof *names; i++) {
        const char *path = reference_path(names[i]);
        if (!path) continue;
        any = true;
        pl_gguf *g;
        pl_tensor t;
        pl_gguf_string s;
        assert_int_equal(pl_gguf_open(&g, path, &err), PL_OK);
        assert_true(pl_gguf_n_tensors(g) > 0);
        assert_int_equal(pl_gguf_get_string(g, "general.architecture", &s, &err), PL_OK);
        for (size_t k = 0; k < pl_gguf_n_tensors(g); k++) {
            assert_int_equal(pl_gguf_tensor(g, k, &t, &err), PL_OK);
        }
        pl_gguf_close(g);
        pl_buffer b = read_bytes(path);
        if (b.size < 8192) feed_damaged(LLVMFuzzerTestOneInput, b.data, b.size);
        pl_buffer_clear(&b);
    }
    if (!any) skip();
}

static void test_vocabulary_of_gpt2_has_all_its_strings(void **state) {
    (void)state;
    const char *path = reference_path("tokenizers/llama.cpp/ggml-vocab-gpt-2.gguf");
    if (!path) skip();
    pl_gguf *g;
    assert_int_equal(pl_gguf_open(&g, path, &err), PL_OK);
    const pl_gguf_value *v = pl_gguf_find_array(g, "tokenizer.ggml.tokens", PL_GGUF_STRING);
    assert_non_null(v);
    assert_int_equal(v->n, 50257);
    const uint8_t *at = v->data;
    pl_gguf_string s = {0};
    size_t n = 0;
    while (pl_gguf_next_string(v, &at, &s)) n++;
    assert_int_equal(n, 50257);
    assert_true(pl_gguf_string_is(s, "<|endoftext|>"));
    pl_gguf_close(g);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_every_metadata_type_comes_back),
        cmocka_unit_test(test_tensors_of_every_type_come_back),
        cmocka_unit_test(test_made_tensor_must_be_as_announced),
        cmocka_unit_test(test_short_write_is_reported),
        cmocka_unit_test(test_headers_that_lie),
        cmocka_unit_test(test_metadata_that_lies),
        cmocka_unit_test(test_tensors_that_lie),
        cmocka_unit_test(test_unread_types_are_named_when_asked_for),
        cmocka_unit_test(test_nested_arrays_are_kept),
        cmocka_unit_test(test_keys_of_another_kind_are_errors),
        cmocka_unit_test(test_split_files_open_as_one),
        cmocka_unit_test(test_reference_files_open_and_survive_damage),
        cmocka_unit_test(test_vocabulary_of_gpt2_has_all_its_strings),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
