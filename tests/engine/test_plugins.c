/* Plugins: good ones, wrong ones, and what is none at all. Compiles them where there is a cc. */
#include <math.h>
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

#include "../../engine/sample/plugin.h"

enum { N = 20 };

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

typedef struct fixture {
    char folder[64];
    pl_plugins plugins;
    pl_candidates c;
    float logits[N];
} fixture;

/* A folder of its own outside of the tree, with nothing but the header in it. */
static int setup(void **state) {
    fixture *f = calloc(1, sizeof *f);
    *state = f;
    char command[256];
    strcpy(f->folder, "/tmp/perilune-test-XXXXXX");
    if (!mkdtemp(f->folder)) return 1;
    snprintf(command, sizeof command, "cp plugins/perilune_plugin.h %s/", f->folder);
    return system(command) != 0 || pl_candidates_init(&f->c, N, NULL) != PL_OK;
}

static int teardown(void **state) {
    fixture *f = *state;
    char command[256];
    snprintf(command, sizeof command, "rm -rf %s", f->folder);
    int failed = system(command);
    pl_plugins_clear(&f->plugins);
    pl_candidates_clear(&f->c);
    free(f);
    return failed != 0;
}

static const char *path_of(const fixture *f, const char *name) {
    static char path[128];
    snprintf(path, sizeof path, "%s/%s", f->folder, name);
    return path;
}

static void write_file(const fixture *f, const char *name, const void *bytes, size_t n) {
    FILE *file = fopen(path_of(f, name), "wb");
    assert_non_null(file);
    assert_int_equal(fwrite(bytes, 1, n, file), n);
    fclose(file);
}

/* Compiles a source into name.so with the header beside it only. */
static void build(const fixture *f, const char *compiler, const char *name, const char *source) {
    char command[400];
    bool cpp = strcmp(compiler, "g++") == 0;
    snprintf(command, sizeof command, "command -v %s >/dev/null", compiler);
    if (system(command) != 0) {
        print_message("no %s here\n", compiler);
        skip();
    }
    char file[64];
    snprintf(file, sizeof file, "%s.%s", name, cpp ? "cc" : "c");
    write_file(f, file, source, strlen(source));
    snprintf(command, sizeof command,
             "cd %s && %s -Wall -Wextra -Werror -pedantic -shared -fPIC -o %s.so %s", f->folder,
             compiler, name, file);
    assert_int_equal(system(command), 0);
}

/* Writes the bytes of one library over those of another, in place. */
static void overwrite(const fixture *f, const char *from, const char *to) {
    char command[256];
    snprintf(command, sizeof command, "cd %s && cat %s > %s", f->folder, from, to);
    assert_int_equal(system(command), 0);
}

static void assert_refused(fixture *f, const char *name, pl_status status, const char *word) {
    pl_error err;
    assert_int_equal(pl_plugins_load(&f->plugins, path_of(f, name), &err), status);
    if (!strstr(err.message, word)) fail_msg("'%s' is not in: %s", word, err.message);
    assert_non_null(strstr(err.message, name));
    assert_int_equal(f->plugins.n, 0);
}

static void test_what_is_no_library_is_told_apart(void **state) {
    fixture *f = *state;
    unsigned char elf[200] = {0x7f, 'E', 'L', 'F', 2, 1, 1};
    assert_refused(f, "absent.so", PL_ERR_IO, "No such file");
    assert_int_equal(mkdir(path_of(f, "folder.so"), 0700), 0);
    assert_refused(f, "folder.so", PL_ERR_FORMAT, "a folder, no shared library");
    write_file(f, "empty.so", "", 0);
    assert_refused(f, "empty.so", PL_ERR_FORMAT, "it has 0 bytes");
    static const char text[100] =
        "this is a text file that somebody gave the wrong name, so it is\n";
    write_file(f, "text.so", text, sizeof text);
    assert_refused(f, "text.so", PL_ERR_FORMAT, "does not begin as one");
    elf[16] = 3, elf[18] = 243;
    write_file(f, "riscv.so", elf, sizeof elf);
    assert_refused(f, "riscv.so", PL_ERR_FORMAT, "a library for RISC-V, expected ");
}

/* A real library cut off at every few bytes, and with single bytes changed in its headers, is
 * refused or loaded; never more than that. */
static void test_damaged_libraries_are_refused(void **state) {
    fixture *f = *state;
    pl_error err;
    build(f, "cc", "none", "int nothing(void);\nint nothing(void) { return 1; }\n");
    assert_refused(f, "none.so", PL_ERR_UNSUPPORTED, "does not export perilune_plugin_entry");
    FILE *file = fopen(path_of(f, "none.so"), "rb");
    assert_non_null(file);
    unsigned char *bytes = malloc(1 << 20);
    size_t n = fread(bytes, 1, 1 << 20, file);
    fclose(file);
    /* Up to where the loader has all it maps; the last part holds symbols for debuggers. */
    for (size_t size = 0; size < n / 2; size += 97) {
        write_file(f, "cut.so", bytes, size);
        assert_int_not_equal(pl_plugins_load(&f->plugins, path_of(f, "cut.so"), &err), PL_OK);
    }
    for (size_t at = 0; at < 1024 && at < n; at++) {
        bytes[at] ^= 0xff;
        LLVMFuzzerTestOneInput(bytes, n);
        bytes[at] ^= 0xff;
    }
    free(bytes);
}

static const char *const head =
    "#include \"perilune_plugin.h\"\n#include <string.h>\n"
    "static int create(const perilune_host *h, const double *p, int64_t n, void **s, char *e,\n"
    "                  size_t z) { (void)h; (void)n; (void)s;\n"
    "  if (p && p[0] == 9) { strncpy(e, \"nine is not to be had\", z); return 1; } return 0; }\n"
    "static int apply(void *s, perilune_step *t, char *e, size_t z) { (void)s; (void)e; (void)z;\n"
    "  t->logits[0] = 100; t->chosen = 3; return 0; }\n"
    "static const perilune_param ps[] = {{\"level\", 0, -1, 10, PERILUNE_WHOLE, 0, \"how "
    "much\"}};\n"
    "static const perilune_param bad[] = {{\"level\", 50, -1, 10, 0, 0, 0}};\n"
    "static const perilune_param twice[] = {{\"a\", 0, 0, 1, 0, 0, 0}, {\"a\", 0, 0, 1, 0, 0, "
    "0}};\n";

static void test_what_a_plugin_says_of_itself_is_checked(void **state) {
    fixture *f = *state;
    static const struct {
        const char *fields;
        pl_status status;
        const char *word;
    } cases[] = {
        {"2, sizeof(perilune_sampler), \"a\", 0, 0, 0, 0, create, apply, 0, 0, 0, 0",
         PL_ERR_UNSUPPORTED, "needs ABI version 2, this program has 1: a newer perilune runs it"},
        {"0, sizeof(perilune_sampler), \"a\", 0, 0, 0, 0, create, apply, 0, 0, 0, 0",
         PL_ERR_UNSUPPORTED, "ABI version 0"},
        {"1, 8, \"a\", 0, 0, 0, 0, create, apply, 0, 0, 0, 0", PL_ERR_ARGUMENT, "has 8 bytes"},
        {"1, sizeof(perilune_sampler), \"a b\", 0, 0, 0, 0, create, apply, 0, 0, 0, 0",
         PL_ERR_ARGUMENT, "letters, digits and _"},
        {"1, sizeof(perilune_sampler), 0, 0, 0, 0, 0, create, apply, 0, 0, 0, 0", PL_ERR_ARGUMENT,
         "letters, digits and _"},
        {"1, sizeof(perilune_sampler), \"top_k\", 0, ps, 1, 0, create, apply, 0, 0, 0, 0",
         PL_ERR_ARGUMENT, "the name of a built-in sampler"},
        {"1, sizeof(perilune_sampler), \"a\", 0, 0, 0, 0, 0, apply, 0, 0, 0, 0", PL_ERR_ARGUMENT,
         "'a' has no function create"},
        {"1, sizeof(perilune_sampler), \"a\", 0, 0, 0, 0, create, 0, 0, 0, 0, 0", PL_ERR_ARGUMENT,
         "no function apply"},
        {"1, sizeof(perilune_sampler), \"a\", 0, bad, 1, 0, create, apply, 0, 0, 0, 0",
         PL_ERR_ARGUMENT, "'level': 50 is not from -1 to 10"},
        {"1, sizeof(perilune_sampler), \"a\", 0, twice, 2, 0, create, apply, 0, 0, 0, 0",
         PL_ERR_ARGUMENT, "two parameters are called 'a'"},
        {"1, sizeof(perilune_sampler), \"a\", 0, ps, 9, 0, create, apply, 0, 0, 0, 0",
         PL_ERR_ARGUMENT, "9 parameters, expected at most 8"},
        {"1, sizeof(perilune_sampler), \"a\", 0, 0, 3, 0, create, apply, 0, 0, 0, 0",
         PL_ERR_ARGUMENT, "3 parameters"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        char source[2600], name[32], file[32];
        snprintf(source, sizeof source,
                 "%sstatic const perilune_sampler s = {%s};\n"
                 "PERILUNE_EXPORT const perilune_sampler *perilune_plugin_entry(uint32_t abi) {\n"
                 "  (void)abi; (void)create; (void)apply; (void)ps; (void)bad; (void)twice;\n"
                 "  return &s; }\n",
                 head, cases[i].fields);
        snprintf(name, sizeof name, "wrong%zu", i);
        build(f, "cc", name, source);
        snprintf(file, sizeof file, "%s.so", name);
        assert_refused(f, file, cases[i].status, cases[i].word);
    }
}

static pl_status begin(fixture *f) {
    for (int i = 0; i < N; i++) f->logits[i] = (float)i / 4;
    return pl_candidates_begin(&f->c, f->logits, (pl_random){1, 2, 0}, 5, NULL);
}

/* A plugin of C++ whose parameters, failure and choice arrive. An older structure, cut after apply,
 * runs too: what it does not have is 0. */
static void test_a_plugin_of_cpp_runs(void **state) {
    fixture *f = *state;
    char source[2600];
    snprintf(source, sizeof source,
             "%sextern \"C\" PERILUNE_EXPORT const perilune_sampler *perilune_plugin_entry(\n"
             "    uint32_t abi) {\n"
             "  static perilune_sampler s; (void)abi; (void)bad; (void)twice;\n"
             "  s.abi_version = 1; s.struct_size = offsetof(perilune_sampler, accept);\n"
             "  s.name = \"cpp\"; s.params = ps; s.n_params = 1; s.flags = PERILUNE_CHOOSES;\n"
             "  s.create = create; s.apply = apply; return &s; }\n",
             head);
    build(f, "g++", "cpp", source);
    pl_error err;
    if (pl_plugins_load(&f->plugins, path_of(f, "cpp.so"), &err) != PL_OK)
        fail_msg("%s", err.message);
    const pl_sampler_kind *kind = pl_plugins_find(&f->plugins, "cpp");
    assert_non_null(kind);
    assert_true(kind->chooses);
    pl_sampler sampler = pl_sampler_of(kind);
    assert_int_equal(pl_sampler_set(&sampler, "level", 11, &err), PL_ERR_ARGUMENT);
    assert_int_equal(pl_sampler_set(&sampler, "level", 1.5, &err), PL_ERR_ARGUMENT);
    assert_int_equal(pl_sampler_set(&sampler, "level", 9, &err), PL_OK);
    assert_int_equal(pl_sampler_complete(&sampler, NULL, N, &err), PL_ERR_CALLBACK);
    assert_non_null(strstr(err.message, "plugin 'cpp': create: nine is not to be had"));
    assert_int_equal(pl_sampler_set(&sampler, "level", 2, &err), PL_OK);
    assert_int_equal(pl_sampler_complete(&sampler, NULL, N, &err), PL_OK);
    pl_chain chain = {0}, copy = {0};
    assert_int_equal(pl_chain_add(&chain, &sampler, &err), PL_OK);
    pl_plugins_clear(&f->plugins); /* the chain keeps the library */
    assert_int_equal(pl_chain_clone(&copy, &chain, &err), PL_OK);
    int32_t id = -1;
    assert_int_equal(begin(f), PL_OK);
    assert_int_equal(pl_chain_sample(&copy, &f->c, &id, &err), PL_OK);
    assert_int_equal(id, 3);
    assert_int_equal(pl_chain_reset(&copy, NULL, 0, &err), PL_OK);
    pl_chain_clear(&chain);
    pl_chain_clear(&copy);
}

static void add(fixture *f, pl_chain *chain, const char *name, const char *param, double value) {
    pl_error err;
    const pl_sampler_kind *kind = pl_plugins_find(&f->plugins, name);
    pl_sampler sampler = pl_sampler_of(kind ? kind : pl_samplers_find(name));
    if (param) assert_int_equal(pl_sampler_set(&sampler, param, value, &err), PL_OK);
    assert_int_equal(pl_sampler_complete(&sampler, NULL, N, &err), PL_OK);
    assert_int_equal(pl_chain_add(chain, &sampler, &err), PL_OK);
}

static int32_t step(fixture *f, pl_chain *chain) {
    int32_t id = -1;
    pl_error err;
    assert_int_equal(begin(f), PL_OK);
    if (pl_chain_sample(chain, &f->c, &id, &err) != PL_OK) fail_msg("%s", err.message);
    assert_int_equal(pl_chain_accept(chain, id, &err), PL_OK);
    return id;
}

/* A plugin that does each wrong thing in turn: an error names it, and the next token is fine. */
static void test_nonsense_is_caught(void **state) {
    fixture *f = *state;
    static const char *const words[] = {
        NULL,
        "it chose token 999: expected 0 to 19",
        "it chose token -7: expected 0 to 19",
        "the logit of token 2 is nan",
        "the logit of token 2 is +inf",
        "no token is left",
        "apply: xxxxxx",
        "apply: it failed",
        "apply: a b c",
    };
    build(
        f, "cc", "mad",
        "#include \"perilune_plugin.h\"\n#include <string.h>\n#include <math.h>\n"
        "#include <stdlib.h>\n"
        "static int create(const perilune_host *h, const double *p, int64_t n, void **s, char *e,\n"
        "    size_t z) { (void)n; (void)e; (void)z; if (h->get_extension(h, \"no.such/1\")) "
        "abort();\n"
        "  *s = malloc(sizeof(double)); memcpy(*s, p, sizeof(double)); return 0; }\n"
        "static int apply(void *s, perilune_step *t, char *e, size_t z) {\n"
        "  switch ((int)*(double *)s) {\n"
        "  case 1: t->chosen = 999; return 0;\n  case 2: t->chosen = -7; return 0;\n"
        "  case 3: t->logits[2] = NAN; return 0;\n  case 4: t->logits[2] = INFINITY; return 0;\n"
        "  case 5: for (int64_t i = 0; i < t->n_vocab; i++) t->logits[i] = -INFINITY; return 0;\n"
        "  case 6: memset(e, 'x', z); return 1;\n  case 7: return -3;\n"
        "  case 8: strcpy(e, \"a\\tb\\nc\"); return 1;\n  default: return 0; } }\n"
        "static const perilune_param ps[] = {{\"mode\", 0, 0, 9, 1, 0, 0}};\n"
        "static const perilune_sampler s = {1, sizeof(perilune_sampler), \"mad\", 0, ps, 1, 0, "
        "create,\n"
        "  apply, 0, 0, 0, free};\n"
        "const perilune_sampler *perilune_plugin_entry(uint32_t abi) { (void)abi; return &s; }\n");
    pl_error err;
    if (pl_plugins_load(&f->plugins, path_of(f, "mad.so"), &err) != PL_OK)
        fail_msg("%s", err.message);
    for (int mode = 0; mode <= 8; mode++) {
        pl_chain chain = {0};
        int32_t id = -1;
        add(f, &chain, "mad", "mode", mode);
        add(f, &chain, "greedy", NULL, 0);
        assert_int_equal(begin(f), PL_OK);
        pl_status status = pl_chain_sample(&chain, &f->c, &id, &err);
        assert_int_equal(status == PL_OK, mode == 0);
        if (mode == 0) assert_int_equal(id, 19);
        if (mode > 0 && !strstr(err.message, words[mode])) fail_msg("%d: %s", mode, err.message);
        if (mode > 0) assert_non_null(strstr(err.message, "sampler 1, 'mad'"));
        pl_chain_clear(&chain);
    }
}

/* The template, compiled outside of the tree: its state follows accept, reset and clone. Loaded
 * again while a chain of the old one lives, the new library is the one of the file. */
static void test_the_template_keeps_its_state_and_is_reloaded(void **state) {
    fixture *f = *state;
    pl_error err;
    char *source = calloc(1, 65536);
    FILE *file = fopen("plugins/template.c", "rb");
    assert_non_null(file);
    assert_true(fread(source, 1, 65535, file) > 0);
    fclose(file);
    build(f, "cc", "template", source);
    assert_int_equal(pl_plugins_load(&f->plugins, path_of(f, "template.so"), &err), PL_OK);
    assert_int_equal(pl_plugins_load(&f->plugins, path_of(f, "template.so"), &err),
                     PL_ERR_ARGUMENT);
    assert_non_null(strstr(err.message, "'template' is taken"));
    pl_chain chain = {0}, copy = {0};
    add(f, &chain, "template", "penalty", 100);
    add(f, &chain, "greedy", NULL, 0);
    assert_int_equal(step(f, &chain), 19);
    assert_int_equal(step(f, &chain), 18);
    assert_int_equal(pl_chain_clone(&copy, &chain, &err), PL_OK);
    assert_int_equal(step(f, &copy), 17);
    assert_int_equal(step(f, &copy), 16);
    assert_int_equal(step(f, &chain), 17);
    assert_int_equal(pl_chain_reset(&chain, NULL, 0, &err), PL_OK);
    assert_int_equal(step(f, &chain), 19);
    assert_int_equal(step(f, &copy), 15);
    pl_plugins_clear(&f->plugins);
    char *at = strstr(source, "an example: makes");
    assert_non_null(at);
    memcpy(at, "AN EXAMPLE", 10);
    build(f, "cc", "other", source);
    overwrite(f, "other.so", "template.so");
    assert_int_equal(step(f, &copy), 14);
    assert_int_equal(pl_plugins_load(&f->plugins, path_of(f, "template.so"), &err), PL_OK);
    assert_non_null(strstr(pl_plugins_find(&f->plugins, "template")->summary, "AN EXAMPLE"));
    assert_int_equal(step(f, &copy), 13);
    pl_chain_clear(&chain);
    pl_chain_clear(&copy);
    free(source);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(test_what_is_no_library_is_told_apart, setup, teardown),
        cmocka_unit_test_setup_teardown(test_damaged_libraries_are_refused, setup, teardown),
        cmocka_unit_test_setup_teardown(test_what_a_plugin_says_of_itself_is_checked, setup,
                                        teardown),
        cmocka_unit_test_setup_teardown(test_a_plugin_of_cpp_runs, setup, teardown),
        cmocka_unit_test_setup_teardown(test_nonsense_is_caught, setup, teardown),
        cmocka_unit_test_setup_teardown(test_the_template_keeps_its_state_and_is_reloaded, setup,
                                        teardown),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
