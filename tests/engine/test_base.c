/* The base layer: errors, arena, mapped files, random numbers, threads. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include <pthread.h>
#include <sys/wait.h>
#include <cmocka.h>

#include "../../engine/base/arena.h"
#include "../../engine/base/library.h"
#include "../../engine/base/memory.h"
#include "../../engine/base/buffer.h"
#include "../../engine/base/cpu.h"
#include "../../engine/base/dtype.h"
#include "../../engine/base/error.h"
#include "../../engine/base/map.h"
#include "../../engine/base/random.h"
#include "../../engine/base/threads.h"

static void test_error_is_cut_never_overflows(void **state) {
    (void)state;
    char long_text[2 * PL_ERROR_MAX];
    memset(long_text, 'x', sizeof long_text);
    long_text[sizeof long_text - 1] = 0;
    pl_error err;
    assert_int_equal(pl_fail(&err, PL_ERR_IO, "%s", long_text), PL_ERR_IO);
    assert_int_equal(strlen(err.message), PL_ERROR_MAX - 1);
    assert_int_equal(pl_error_prefix(&err, PL_ERR_IO, "file"), PL_ERR_IO);
    assert_memory_equal(err.message, "file: xxx", 9);
    assert_int_equal(pl_fail(NULL, PL_ERR_IO, "nobody listens"), PL_ERR_IO);
}

static void test_nearest_name_finds_slips_only(void **state) {
    (void)state;
    const char *names[] = {"top_k", NULL, "top_p", "temp", "min_p"};
    assert_string_equal(pl_nearest_name("tmep", names, 5), "temp");
    assert_string_equal(pl_nearest_name("topk", names, 5), "top_k");
    assert_null(pl_nearest_name("frequency", names, 5));
}

static void test_libraries_are_opened_when_asked_for(void **state) {
    (void)state;
    pl_error err;
    double (*cosine)(double) = NULL, (*nothing)(double) = NULL;
    const pl_symbol there = {"cos", &cosine}, missing = {"perilune_has_no_such_function", &nothing};
    assert_int_equal(pl_library_open("libm.so.6", &there, 1, &err), PL_OK);
    assert_true(cosine(0) == 1);
    assert_int_equal(pl_library_open("libm.so.6", &missing, 1, &err), PL_ERR_UNSUPPORTED);
    assert_non_null(strstr(err.message, missing.name));
    assert_int_equal(pl_library_open("libperilune-none.so", &there, 1, &err), PL_ERR_UNSUPPORTED);
    assert_non_null(strstr(err.message, "libperilune-none.so"));
}

static void test_large_memory_lies_at_cache_lines(void **state) {
    (void)state;
    for (size_t bytes = 0; bytes <= 5 * (size_t)PL_HUGE_PAGE; bytes = 3 * bytes + 1) {
        char *data = pl_memory_alloc(bytes);
        assert_non_null(data);
        assert_int_equal((uintptr_t)data % PL_CACHE_LINE, 0);
        memset(data, 1, bytes);
        free(data);
    }
    assert_null(pl_memory_alloc(SIZE_MAX));
}

static void test_arena_keeps_memory_and_rewinds(void **state) {
    (void)state;
    pl_arena arena = {0};
    char *a = pl_arena_alloc(&arena, 100);
    memset(a, 1, 100);
    pl_arena_mark mark = pl_arena_save(&arena);
    for (int i = 0; i < 100; i++) {
        char *b = pl_arena_alloc(&arena, 10000);
        assert_int_equal((uintptr_t)b % PL_CACHE_LINE, 0);
        memset(b, 2, 10000);
    }
    assert_int_equal(a[99], 1);
    pl_arena_rewind(&arena, mark);
    assert_int_equal(arena.used_bytes, 128);
    char *spare = pl_arena_alloc(&arena, 100000); /* of a block of its own */
    pl_arena_rewind(&arena, mark);
    assert_ptr_equal(pl_arena_alloc(&arena, 100000), spare); /* the same one again */
    pl_arena_rewind(&arena, mark);
    pl_arena_reset(&arena);
    assert_null(pl_arena_alloc(&arena, SIZE_MAX - 10));
    pl_arena_clear(&arena);
}

/* Known answers of the Random123 distribution (kat_vectors, philox4x32-10). */
static void test_random_matches_published_vectors(void **state) {
    (void)state;
    uint32_t out[4];
    pl_random_words(out, 0, 0, 0);
    const uint32_t zeros[4] = {0x6627e8d5, 0xe169c58d, 0xbc57ac4c, 0x9b00dbd8};
    assert_memory_equal(out, zeros, sizeof zeros);
    pl_random_words(out, UINT64_MAX, UINT64_MAX, UINT64_MAX);
    const uint32_t ones[4] = {0x408f276d, 0x41c83b0e, 0xa20bc7c6, 0x6d5451fd};
    assert_memory_equal(out, ones, sizeof ones);
}

static void test_random_is_uniform_and_normal(void **state) {
    (void)state;
    pl_random random = {.seed = 1};
    double sum = 0, square = 0, normal = 0, normal_square = 0;
    enum { N = 100000 };
    for (int i = 0; i < N; i++) {
        double u = pl_random_uniform(&random), z = pl_random_normal(&random);
        assert_true(u >= 0 && u < 1);
        sum += u, square += u * u, normal += z, normal_square += z * z;
    }
    assert_true(sum / N > 0.497 && sum / N < 0.503);
    assert_true(square / N > 0.331 && square / N < 0.336);
    assert_true(normal / N > -0.015 && normal / N < 0.015);
    assert_true(normal_square / N > 0.98 && normal_square / N < 1.02);
}

static void test_map_reads_and_refuses(void **state) {
    (void)state;
    char path[] = "/tmp/perilune_map_XXXXXX";
    int fd = mkstemp(path);
    assert_true(fd >= 0);
    pl_map map;
    pl_error err;
    assert_int_equal(pl_map_open(&map, path, &err), PL_OK);
    assert_int_equal(map.size_bytes, 0);
    pl_map_close(&map);
    assert_int_equal(write(fd, "abc", 3), 3);
    close(fd);
    assert_int_equal(pl_map_open(&map, path, &err), PL_OK);
    assert_memory_equal(map.data, "abc", 3);
    pl_map_close(&map);
    FILE *pointer = fopen(path, "w");
    assert_non_null(pointer);
    fputs("version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 12345\n", pointer);
    fclose(pointer);
    assert_int_equal(pl_map_open(&map, path, &err), PL_ERR_FORMAT);
    assert_non_null(strstr(err.message, "git lfs pull"));
    assert_null(map.data);
    unlink(path);
    assert_int_equal(pl_map_open(&map, path, &err), PL_ERR_IO);
    assert_non_null(strstr(err.message, path));
    assert_int_equal(pl_map_open(&map, "/tmp", &err), PL_ERR_IO);
}

static void mark_task(void *context, size_t task, int thread) {
    (void)thread;
    ((uint8_t *)context)[task]++;
}

static void test_parallel_runs_each_task_once(void **state) {
    (void)state;
    for (int threads = -1; threads <= 9; threads++) {
        uint8_t seen[301] = {0};
        pl_parallel(threads, sizeof seen, mark_task, seen);
        for (size_t i = 0; i < sizeof seen; i++) assert_int_equal(seen[i], 1);
    }
    assert_true(pl_threads_default() >= 1);
}

static void nested_task(void *context, size_t task, int thread) {
    (void)thread;
    pl_parallel(4, 10, mark_task, (uint8_t *)context + 10 * task);
}

static void *run_many(void *context) {
    for (int i = 0; i < 2000; i++) {
        uint8_t seen[37] = {0};
        pl_parallel(3, sizeof seen, mark_task, seen);
        for (size_t t = 0; t < sizeof seen; t++) {
            if (seen[t] != 1) *(bool *)context = true;
        }
    }
    return NULL;
}

/* Nested calls, calls from several threads at once, and calls after a fork are served too. */
static void test_parallel_serves_everyone(void **state) {
    (void)state;
    uint8_t seen[100] = {0};
    pl_parallel(4, 10, nested_task, seen);
    for (size_t i = 0; i < sizeof seen; i++) assert_int_equal(seen[i], 1);
    bool wrong[3] = {false};
    pthread_t threads[3];
    for (int i = 0; i < 3; i++) pthread_create(&threads[i], NULL, run_many, &wrong[i]);
    for (int i = 0; i < 3; i++) pthread_join(threads[i], NULL);
    for (int i = 0; i < 3; i++) assert_false(wrong[i]);
    pid_t child = fork();
    if (child == 0) {
        bool bad = false;
        run_many(&bad);
        _exit(bad);
    }
    int status;
    assert_int_equal(waitpid(child, &status, 0), child);
    assert_true(WIFEXITED(status) && WEXITSTATUS(status) == 0);
}

static void test_dtype_sizes_are_checked(void **state) {
    (void)state;
    pl_dtype dtype;
    size_t bytes;
    assert_true(pl_dtype_find("Q4_K", &dtype));
    assert_int_equal(dtype, PL_Q4_K);
    assert_true(pl_dtype_row_bytes(PL_Q4_K, 512, &bytes));
    assert_int_equal(bytes, 288);
    assert_false(pl_dtype_row_bytes(PL_Q4_K, 300, &bytes));
    assert_false(pl_dtype_row_bytes(PL_F32, SIZE_MAX / 2, &bytes));
    assert_false(pl_dtype_find("q9", &dtype));
}

static void test_buffer_grows(void **state) {
    (void)state;
    pl_buffer buffer = {0};
    for (int i = 0; i < 1000; i++) assert_true(pl_buffer_append(&buffer, "abc", 3));
    assert_int_equal(buffer.size, 3000);
    assert_memory_equal(buffer.data + 2997, "abc", 3);
    assert_false(pl_buffer_reserve(&buffer, SIZE_MAX));
    pl_buffer_clear(&buffer);
}

static void test_cpu_choice_follows_the_environment(void **state) {
    (void)state;
    pl_isa isa;
    pl_error err;
    assert_int_equal(setenv("PERILUNE_CPU", "plain", 1), 0);
    assert_int_equal(pl_cpu_choose(&isa, &err), PL_OK);
    assert_int_equal(isa, PL_ISA_PLAIN);
    setenv("PERILUNE_CPU", "z80", 1);
    assert_int_equal(pl_cpu_choose(&isa, &err), PL_ERR_ARGUMENT);
    unsetenv("PERILUNE_CPU");
    assert_int_equal(pl_cpu_choose(&isa, &err), PL_OK);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_error_is_cut_never_overflows),
        cmocka_unit_test(test_nearest_name_finds_slips_only),
        cmocka_unit_test(test_arena_keeps_memory_and_rewinds),
        cmocka_unit_test(test_libraries_are_opened_when_asked_for),
        cmocka_unit_test(test_large_memory_lies_at_cache_lines),
        cmocka_unit_test(test_random_matches_published_vectors),
        cmocka_unit_test(test_random_is_uniform_and_normal),
        cmocka_unit_test(test_map_reads_and_refuses),
        cmocka_unit_test(test_parallel_runs_each_task_once),
        cmocka_unit_test(test_parallel_serves_everyone),
        cmocka_unit_test(test_dtype_sizes_are_checked),
        cmocka_unit_test(test_buffer_grows),
        cmocka_unit_test(test_cpu_choice_follows_the_environment),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
