/* From what a user names to the files of a model; and JSON files. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>
#include <cmocka.h>

#include "../../engine/base/error.h"
#include "../../engine/format/json.h"
#include "../../engine/format/locate.h"
#include "format_fixture.h"

static pl_error err;
static pl_model_files files;

static void touch(const char *folder, const char *name) {
    write_bytes(in_folder(folder, name), "x", 1);
}

static void refused(const char *name, pl_status status, const char *words) {
    pl_status found = pl_locate_model(&files, name, &err);
    if (found != status || !strstr(err.message, words)) {
        fail_msg("'%s': %s, '%s': expected '%s'", name, pl_status_name(found), err.message, words);
    }
}

static void test_files_are_taken_as_they_are(void **state) {
    (void)state;
    char *folder = make_folder();
    touch(folder, "tiny-model.gguf");
    const char *path = in_folder(folder, "tiny-model.gguf");
    assert_int_equal(pl_locate_model(&files, path, &err), PL_OK);
    assert_string_equal(files.weights, path);
    assert_string_equal(files.folder, in_folder(folder, ""));
    refused(in_folder(folder, "tiny-modle.gguf"), PL_ERR_IO, "tiny-model.gguf?");
    refused(in_folder(folder, "no/such/folder"), PL_ERR_IO, "no such file or folder");
    refused("", PL_ERR_ARGUMENT, "empty");
    remove_folder(folder);
}

static void test_folders_prefer_the_usual_names(void **state) {
    (void)state;
    char *folder = make_folder();
    refused(folder, PL_ERR_IO, "no model.safetensors");
    touch(folder, "pytorch_model.bin");
    refused(folder, PL_ERR_UNSUPPORTED, "pytorch_model.bin");
    touch(folder, "m-00001-of-00002.safetensors");
    refused(folder, PL_ERR_UNSUPPORTED, "pytorch_model.bin");
    touch(folder, "tiny.safetensors");
    assert_int_equal(pl_locate_model(&files, folder, &err), PL_OK);
    assert_string_equal(files.weights, in_folder(folder, "tiny.safetensors"));
    touch(folder, "m-00001-of-00002.gguf");
    touch(folder, "m-00002-of-00002.gguf");
    assert_int_equal(pl_locate_model(&files, folder, &err), PL_OK);
    assert_string_equal(files.weights, in_folder(folder, "m-00001-of-00002.gguf"));
    touch(folder, "best-of-3.gguf");
    refused(folder, PL_ERR_ARGUMENT, "best-of-3.gguf");
    touch(folder, "model.safetensors.index.json");
    assert_int_equal(pl_locate_model(&files, folder, &err), PL_OK);
    assert_string_equal(files.weights, in_folder(folder, "model.safetensors.index.json"));
    touch(folder, "model.safetensors");
    assert_int_equal(pl_locate_model(&files, folder, &err), PL_OK);
    assert_string_equal(files.weights, in_folder(folder, "model.safetensors"));
    assert_string_equal(files.folder, folder);
    remove_folder(folder);
}

static void make_below(const char *folder, const char *name) {
    assert_int_equal(mkdir(in_folder(folder, name), 0777), 0);
}

static void test_hub_ids_are_found_in_the_cache(void **state) {
    (void)state;
    char *home = make_folder();
    make_below(home, "hub");
    make_below(home, "hub/models--some-org--gpt2");
    make_below(home, "hub/models--some-org--gpt2/refs");
    make_below(home, "hub/models--some-org--gpt2/snapshots");
    make_below(home, "hub/models--some-org--gpt2/snapshots/aaa");
    make_below(home, "hub/models--some-org--gpt2/snapshots/bbb");
    touch(home, "hub/models--some-org--gpt2/snapshots/aaa/model.safetensors");
    touch(home, "hub/models--some-org--gpt2/snapshots/bbb/model.safetensors");
    make_below(home, "hub/models--gpt2");
    make_below(home, "hub/models--gpt2/snapshots");
    make_below(home, "hub/models--gpt2/snapshots/ccc");
    touch(home, "hub/models--gpt2/snapshots/ccc/model.safetensors");
    unsetenv("HF_HUB_CACHE");
    setenv("HF_HOME", home, 1);
    const char *ref = in_folder(home, "hub/models--some-org--gpt2/refs/main");
    write_bytes(ref, "aaa\n", 4);
    assert_int_equal(pl_locate_model(&files, "some-org/gpt2", &err), PL_OK);
    assert_non_null(strstr(files.weights, "/snapshots/aaa/model.safetensors"));
    write_bytes(ref, "bbb", 3);
    assert_int_equal(pl_locate_model(&files, "some-org/gpt2", &err), PL_OK);
    assert_non_null(strstr(files.folder, "/snapshots/bbb"));
    write_bytes(ref, "gone", 4); /* then any that is there */
    assert_int_equal(pl_locate_model(&files, "some-org/gpt2", &err), PL_OK);
    assert_int_equal(pl_locate_model(&files, "gpt2", &err), PL_OK);
    assert_non_null(strstr(files.weights, "/snapshots/ccc/model.safetensors"));

    refused("some-org/gpt3", PL_ERR_IO, "did you mean some-org/gpt2?");
    refused("some-org/gpt3", PL_ERR_IO, home);
    refused("quite-another/thing", PL_ERR_IO, "download");
    refused("../gpt2", PL_ERR_IO, "expected a .gguf");
    setenv("HF_HUB_CACHE", in_folder(home, "elsewhere"), 1);
    refused("some-org/gpt2", PL_ERR_IO, "elsewhere");
    unsetenv("HF_HUB_CACHE");
    unsetenv("HF_HOME");
    remove_folder(home);
}

static void test_folders_of_the_cache_have_hub_ids(void **state) {
    (void)state;
    static const char *const cases[][2] = {
        {"/x/models--some-org--gpt2/snapshots/aaa", "some-org/gpt2"},
        {"models--some-org--a--b/snapshots/aaa/", "some-org/a--b"},
        {"models--gpt2/snapshots/aaa", "gpt2"},
        {"/x/models--some-org--gpt2/snapshots/aaa/deeper", NULL},
        {"/x/models--some-org--gpt2", NULL},
        {"/x/some-org/snapshots/aaa", NULL},
        {"/snapshots/aaa", NULL},
        {"", NULL}};
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        char id[PL_PATH_MAX] = "";
        assert_int_equal(pl_hub_id_of_folder(id, cases[i][0]), cases[i][1] != NULL);
        if (cases[i][1]) assert_string_equal(id, cases[i][1]);
    }
}

static void test_json_errors_name_file_and_line(void **state) {
    (void)state;
    static const struct {
        const char *text, *words;
    } cases[] = {{"{\n\"a\": 1,\n}", "config.json: line 3"},
                 {"[1]", "expected a JSON object"},
                 {"{\"a\":1,\"a\":2}", "duplicate"},
                 {"{} x", "line 1"},
                 {"", "line 1"}};
    json_t *json;
    char *folder = make_folder();
    const char *path = in_folder(folder, "config.json");
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        write_bytes(path, cases[i].text, strlen(cases[i].text));
        assert_int_equal(pl_json_open(&json, path, &err), PL_ERR_FORMAT);
        if (!strstr(err.message, cases[i].words)) fail_msg("%s", err.message);
    }
    write_bytes(path, "{\"a\": {\"b\": 3}}", 15);
    assert_int_equal(pl_json_open(&json, path, &err), PL_OK);
    assert_int_equal(json_integer_value(json_object_get(json_object_get(json, "a"), "b")), 3);
    json_decref(json);
    assert_int_equal(pl_json_open(&json, in_folder(folder, "none.json"), &err), PL_ERR_IO);
    static char deep[200000];
    memset(deep, '[', sizeof deep);
    assert_int_equal(pl_json_parse(&json, deep, sizeof deep, "deep.json", &err), PL_ERR_FORMAT);
    remove_folder(folder);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_files_are_taken_as_they_are),
        cmocka_unit_test(test_folders_prefer_the_usual_names),
        cmocka_unit_test(test_hub_ids_are_found_in_the_cache),
        cmocka_unit_test(test_folders_of_the_cache_have_hub_ids),
        cmocka_unit_test(test_json_errors_name_file_and_line),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
