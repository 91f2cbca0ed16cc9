/* safetensors, read and written, and the reader over both formats. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include <cmocka.h>

#include "../../engine/base/error.h"
#include "../../engine/format/gguf_write.h"
#include "../../engine/format/weights_file.h"
#include "format_fixture.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static pl_error err;

/* A file with this header and n bytes of data 0, 1, 2, ...; returns its size. */
static size_t compose(uint8_t *out, const char *header, size_t n) {
    uint64_t length = strlen(header);
    memcpy(out, &length, sizeof length);
    memcpy(out + 8, header, length);
    for (size_t i = 0; i < n; i++) out[8 + length + i] = (uint8_t)i;
    return 8 + (size_t)length + n;
}

static pl_status parse(pl_safetensors **file, const char *header, size_t n) {
    static _Alignas(16) uint8_t bytes[2048];
    err.message[0] = 0;
    return pl_safetensors_parse(file, bytes, compose(bytes, header, n), "x.safetensors", &err);
}

static void test_what_is_written_comes_back(void **state) {
    (void)state;
    static const pl_dtype dtypes[] = {PL_F16, PL_F32, PL_I64, PL_BF16, PL_I32};
    static uint8_t bytes[5][3 * 5 * 8];
    char *folder = make_folder();
    const char *path = in_folder(folder, "x.safetensors");
    pl_tensor tensors[5], t;
    pl_safetensors_item items[5];
    for (size_t i = 0; i < 5; i++) {
        for (size_t k = 0; k < sizeof bytes[i]; k++) bytes[i][k] = (uint8_t)(k * 3 + i);
        assert_int_equal(
            pl_tensor_wrap(&tensors[i], dtypes[i], 2, (int64_t[]){3, 5}, bytes[i], &err), PL_OK);
        items[i] =
            (pl_safetensors_item){.name = pl_dtype_get(dtypes[i])->name, .tensor = &tensors[i]};
    }
    const char *const metadata[][2] = {{"format", "pt"}, {"made", "by hand"}};
    assert_int_equal(pl_safetensors_write(path, items, 5, metadata, 2, &err), PL_OK);

    pl_safetensors *file;
    size_t at;
    assert_int_equal(pl_safetensors_open(&file, path, &err), PL_OK);
    assert_int_equal(pl_safetensors_n_tensors(file), 5);
    assert_string_equal(pl_safetensors_metadata(file, "made"), "by hand");
    assert_null(pl_safetensors_metadata(file, "other"));
    for (size_t i = 0; i < 5; i++) {
        assert_true(pl_safetensors_find(file, items[i].name, &at));
        assert_int_equal(pl_safetensors_tensor(file, at, &t, &err), PL_OK);
        assert_int_equal(t.dtype, dtypes[i]);
        assert_int_equal(t.shape[0], 3);
        assert_int_equal(t.shape[1], 5);
        assert_memory_equal(t.data, bytes[i], 15 * pl_dtype_get(t.dtype)->block_bytes);
    }
    assert_false(pl_safetensors_find(file, "other", &at));
    pl_safetensors_close(file);

    pl_buffer b = read_bytes(path);
    feed_damaged(LLVMFuzzerTestOneInput, b.data, b.size);
    pl_buffer_clear(&b);
    remove_folder(folder);
}

static void test_what_cannot_be_written_is_refused(void **state) {
    (void)state;
    char *folder = make_folder();
    const char *path = in_folder(folder, "x.safetensors");
    uint8_t block[34] = {0};
    float x = 1;
    pl_tensor q, t;
    assert_int_equal(pl_tensor_wrap(&q, PL_Q8_0, 2, (int64_t[]){1, 32}, block, &err), PL_OK);
    assert_int_equal(pl_tensor_wrap(&t, PL_F32, 0, NULL, &x, &err), PL_OK);
    pl_safetensors_item items[] = {{.name = "a", .tensor = &t},
                                   {.name = "a", .tensor = &t},
                                   {.name = "q", .tensor = &q},
                                   {.name = "__metadata__", .tensor = &t}};
    assert_int_equal(pl_safetensors_write(path, items, 2, NULL, 0, &err), PL_ERR_ARGUMENT);
    assert_int_equal(pl_safetensors_write(path, items + 2, 1, NULL, 0, &err), PL_ERR_UNSUPPORTED);
    assert_non_null(strstr(err.message, "q8_0"));
    assert_int_equal(pl_safetensors_write(path, items + 3, 1, NULL, 0, &err), PL_ERR_ARGUMENT);
    assert_int_equal(pl_safetensors_write(in_folder(folder, "no/folder"), items, 1, NULL, 0, &err),
                     PL_ERR_IO);
    assert_int_equal(rmdir(folder), 0); /* nothing is left behind */
    free(folder);
}

static pl_status make_pair(void *context, pl_tensor *t, pl_error *e) {
    pl_status status = pl_tensor_new(t, PL_F32, 1, (int64_t[]){2}, e);
    if (status != PL_OK) return status;
    memcpy(t->data, context, 2 * sizeof(float));
    return ((float *)context)[0] < 0 ? pl_fail(e, PL_ERR_STATE, "no more") : PL_OK;
}

static void test_made_tensors_must_be_as_announced(void **state) {
    (void)state;
    char *folder = make_folder();
    const char *path = in_folder(folder, "x.safetensors");
    float pair[2] = {8, 9};
    pl_tensor announced, t;
    pl_safetensors *file;
    pl_safetensors_item item = {
        .name = "w", .tensor = &announced, .make = make_pair, .context = pair};
    assert_int_equal(pl_tensor_wrap(&announced, PL_F32, 1, (int64_t[]){2}, NULL, &err), PL_OK);
    assert_int_equal(pl_safetensors_write(path, &item, 1, NULL, 0, &err), PL_OK);
    assert_int_equal(pl_safetensors_open(&file, path, &err), PL_OK);
    assert_int_equal(pl_safetensors_tensor(file, 0, &t, &err), PL_OK);
    assert_memory_equal(t.data, pair, sizeof pair);
    pl_safetensors_close(file);
    assert_int_equal(unlink(path), 0);

    pair[0] = -1;
    assert_int_equal(pl_safetensors_write(path, &item, 1, NULL, 0, &err), PL_ERR_STATE);
    pair[0] = 1;
    assert_int_equal(pl_tensor_wrap(&announced, PL_F32, 1, (int64_t[]){3}, NULL, &err), PL_OK);
    assert_int_equal(pl_safetensors_write(path, &item, 1, NULL, 0, &err), PL_ERR_SHAPE);
    assert_int_equal(rmdir(folder), 0); /* nothing is left behind */
    free(folder);
}

static void test_misaligned_tensors_are_copied(void **state) {
    (void)state;
    /* The header's length decides where the data begins: all eight remainders are tried. */
    char header[160];
    for (int spaces = 0; spaces < 8; spaces++) {
        pl_safetensors *file;
        pl_tensor t, again;
        snprintf(header, sizeof header,
                 "{\"a\":{\"dtype\":\"F32\",\"shape\":[2],\"data_offsets\":[0,8]}}%*s", spaces, "");
        assert_int_equal(parse(&file, header, 8), PL_OK);
        assert_int_equal(pl_safetensors_tensor(file, 0, &t, &err), PL_OK);
        assert_int_equal((uintptr_t)t.data % 4, 0);
        assert_memory_equal(t.data, ((uint8_t[]){0, 1, 2, 3, 4, 5, 6, 7}), 8);
        assert_int_equal(pl_safetensors_tensor(file, 0, &again, &err), PL_OK);
        assert_ptr_equal(t.data, again.data);
        pl_safetensors_close(file);
    }
}

static void test_headers_that_lie(void **state) {
    (void)state;
#define ENTRY(dtype, shape, offsets)                                                               \
    "{\"w\":{\"dtype\":\"" dtype "\",\"shape\":" shape ",\"data_offsets\":" offsets "}}"
    static const struct {
        const char *header, *words;
    } cases[] = {
        {"", "line 1"},
        {"[]", "expected a JSON object"},
        {"{\"w\":3}", "'w': expected an object"},
        {"{\"w\":{}}", "dtype"},
        {ENTRY("F32\\u0000x", "[1]", "[0,4]"), "dtype"},
        {ENTRY("F32", "3", "[0,4]"), "shape"},
        {ENTRY("F32", "[-1]", "[0,4]"), "shape"},
        {ENTRY("F32", "[1.5]", "[0,4]"), "shape"},
        {ENTRY("F32", "[1,1,1,1,1,1,1,1,1]", "[0,4]"), "shape: too many"},
        {ENTRY("F32", "[4294967296,4294967296,4]", "[0,4]"), "shape: too large"},
        {ENTRY("F32", "[2]", "[0,4]"), "span 4 bytes"},
        {ENTRY("F32", "[1]", "[4,0]"), "data_offsets"},
        {ENTRY("F32", "[1]", "[-4,0]"), "data_offsets"},
        {ENTRY("F32", "[5]", "[0,20]"), "outside the 16 bytes"},
        {ENTRY("F32", "[1]", "[0]"), "data_offsets"},
        {ENTRY("F32", "[1]", "[0,99999999999999999999]"), "line 1"},
        {"{\"w\":{},\"w\":{}}", "duplicate"},
        {"{\"__metadata__\":[]}", "__metadata__"},
        {"{\"__metadata__\":{\"a\":1}}", "__metadata__"},
        {"{\"a\":{\"dtype\":\"F32\",\"shape\":[2],\"data_offsets\":[0,8]},"
         "\"b\":{\"dtype\":\"F32\",\"shape\":[2],\"data_offsets\":[4,12]}}",
         "overlap"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        pl_safetensors *file = NULL;
        pl_status status = parse(&file, cases[i].header, 16);
        if (status == PL_OK) pl_safetensors_close(file);
        if (status != PL_ERR_FORMAT || !strstr(err.message, cases[i].words)) {
            fail_msg("%s: %s, '%s'", cases[i].header, pl_status_name(status), err.message);
        }
        assert_non_null(strstr(err.message, "x.safetensors"));
    }
    pl_safetensors *file;
    uint64_t lie[2] = {UINT64_MAX - 2, '{'};
    assert_int_equal(pl_safetensors_parse(&file, (uint8_t *)lie, sizeof lie, "x", &err),
                     PL_ERR_FORMAT);
    assert_non_null(strstr(err.message, "claims 18446744073709551613 bytes"));
    assert_int_equal(pl_safetensors_parse(&file, (uint8_t *)lie, 3, "x", &err), PL_ERR_FORMAT);
    static _Alignas(8) const uint8_t text[] = "Once upon a time there was";
    assert_int_equal(pl_safetensors_parse(&file, text, sizeof text, "x", &err), PL_ERR_FORMAT);
    assert_non_null(strstr(err.message, "neither a GGUF nor a safetensors file"));
}

static void test_unread_types_are_named_when_asked_for(void **state) {
    (void)state;
    pl_safetensors *file;
    pl_tensor t;
    assert_int_equal(parse(&file, ENTRY("BOOL", "[4]", "[0,4]"), 4), PL_OK);
    assert_int_equal(pl_safetensors_tensor(file, 0, &t, &err), PL_ERR_UNSUPPORTED);
    assert_non_null(strstr(err.message, "'w' has dtype BOOL"));
    pl_safetensors_close(file);
    assert_int_equal(parse(&file, ENTRY("F12", "[4]", "[0,4]"), 4), PL_ERR_UNSUPPORTED);
    assert_non_null(strstr(err.message, "F12"));
}

/* -- shards --------------------------------------------------------------------------------------
 */

static void write_shard(const char *path, const char *name) {
    float x[2] = {3, 4};
    pl_tensor t;
    assert_int_equal(pl_tensor_wrap(&t, PL_F32, 1, (int64_t[]){2}, x, &err), PL_OK);
    pl_safetensors_item item = {.name = name, .tensor = &t};
    assert_int_equal(pl_safetensors_write(path, &item, 1, NULL, 0, &err), PL_OK);
}

static pl_status open_index(const char *path, const char *text) {
    pl_weights_file file;
    write_bytes(path, text, strlen(text));
    pl_status status = pl_weights_file_open(&file, path, &err);
    if (status == PL_OK) pl_weights_file_close(&file);
    return status;
}

static void test_shards_open_as_one(void **state) {
    (void)state;
    char *folder = make_folder();
    const char *index = in_folder(folder, "model.safetensors.index.json");
    const char *both = "{\"weight_map\":{\"a\":\"1.safetensors\",\"b\":\"2.safetensors\"}}";
    write_shard(in_folder(folder, "1.safetensors"), "a");
    assert_int_equal(open_index(index, both), PL_ERR_IO);
    assert_non_null(strstr(err.message, "2.safetensors"));
    write_shard(in_folder(folder, "2.safetensors"), "b");
    assert_int_equal(open_index(index, both), PL_OK);
    write_shard(in_folder(folder, "2.safetensors"), "a");
    assert_int_equal(open_index(index, both), PL_ERR_FORMAT);
    write_shard(in_folder(folder, "2.safetensors"), "c");
    assert_int_equal(open_index(index, both), PL_ERR_FORMAT);
    assert_non_null(strstr(err.message, "'b'"));
    assert_int_equal(open_index(index, "{}"), PL_ERR_FORMAT);
    assert_non_null(strstr(err.message, "weight_map"));
    assert_int_equal(open_index(index, "{\"weight_map\":{\"a\":\"../1.safetensors\"}}"),
                     PL_ERR_FORMAT);
    assert_int_equal(open_index(index, "{\"weight_map\":{\"a\":1}}"), PL_ERR_FORMAT);
    remove_folder(folder);
}

static void test_weights_file_tells_formats_apart(void **state) {
    (void)state;
    char *folder = make_folder(), name[8];
    const char *plain = in_folder(folder, "blob"), *gguf = in_folder(folder, "other");
    float x[2] = {5, 6};
    pl_tensor t;
    pl_gguf_writer *w;
    assert_int_equal(pl_tensor_wrap(&t, PL_F32, 1, (int64_t[]){2}, x, &err), PL_OK);
    assert_int_equal(pl_gguf_writer_new(&w, &err), PL_OK);
    assert_int_equal(pl_gguf_put_tensor(w, "a.long.name", &t, &err), PL_OK);
    assert_int_equal(pl_gguf_writer_save(w, gguf, &err), PL_OK);
    pl_gguf_writer_free(w);
    write_shard(plain, "a.long.name");
    for (int i = 0; i < 2; i++) {
        pl_weights_file file;
        size_t at;
        assert_int_equal(pl_weights_file_open(&file, i ? gguf : plain, &err), PL_OK);
        assert_int_equal(file.gguf != NULL, i);
        assert_int_equal(file.safetensors != NULL, !i);
        assert_int_equal(pl_weights_file_n_tensors(&file), 1);
        assert_string_equal(pl_weights_file_name(&file, 0, name, sizeof name), "a.long.");
        assert_true(pl_weights_file_find(&file, "a.long.name", &at));
        assert_int_equal(pl_weights_file_tensor(&file, at, &t, &err), PL_OK);
        assert_true(((float *)t.data)[0] == (i ? 5 : 3));
        pl_weights_file_close(&file);
    }
    pl_weights_file file;
    assert_int_equal(pl_weights_file_open(&file, in_folder(folder, "none"), &err), PL_ERR_IO);
    remove_folder(folder);
}

static void test_reference_files_open_and_survive_damage(void **state) {
    (void)state;
    static const char *const names[] = {
        "fixtures/gpt2/tiny_gpt2.safetensors", "fixtures/bert/tiny_bert.safetensors",
        "fixtures/llama/tiny_llama.safetensors", "fixtures/llama/tiny_llama.safetensors.index.json",
        "models/default/model.safetensors"};
    bool any = false;
    for (size_t i = 0; i < sizeof names / sizeof *names; i++) {
        const char *path = reference_path(names[i]);
        if (!path) continue;
        any = true;
        pl_weights_file file;
        pl_tensor t;
        assert_int_equal(pl_weights_file_open(&file, path, &err), PL_OK);
        assert_true(pl_weights_file_n_tensors(&file) > 0);
        for (size_t k = 0; k < pl_weights_file_n_tensors(&file); k++) {
            assert_int_equal(pl_weights_file_tensor(&file, k, &t, &err), PL_OK);
        }
        pl_weights_file_close(&file);
    }
    if (!any) skip();
    pl_buffer b = read_bytes(reference_path(names[2]));
    feed_damaged(LLVMFuzzerTestOneInput, b.data, b.size < 4096 ? b.size : 4096);
    pl_buffer_clear(&b);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_what_is_written_comes_back),
        cmocka_unit_test(test_what_cannot_be_written_is_refused),
        cmocka_unit_test(test_made_tensors_must_be_as_announced),
        cmocka_unit_test(test_misaligned_tensors_are_copied),
        cmocka_unit_test(test_headers_that_lie),
        cmocka_unit_test(test_unread_types_are_named_when_asked_for),
        cmocka_unit_test(test_shards_open_as_one),
        cmocka_unit_test(test_weights_file_tells_formats_apart),
        cmocka_unit_test(test_reference_files_open_and_survive_damage),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
