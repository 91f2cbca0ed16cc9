/* .npy files, read and written. */
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
#include "../../engine/format/npy.h"
#include "format_fixture.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static pl_error err;

/* A file as NumPy writes it; returns its size. */
static size_t compose(uint8_t *out, int version, const char *header, const void *data, size_t n) {
    size_t length = strlen(header), at = 8;
    memcpy(out, "\x93NUMPY", 6);
    out[6] = (uint8_t)version;
    out[7] = 0;
    for (int i = 0; i < (version == 1 ? 2 : 4); i++) out[at++] = (uint8_t)(length >> 8 * i);
    memcpy(out + at, header, length);
    if (n) memcpy(out + at + length, data, n);
    return at + length + n;
}

static pl_status parse(pl_tensor *t, int version, const char *header, const void *data, size_t n) {
    static uint8_t bytes[1024];
    err.message[0] = 0;
    return pl_npy_parse(t, bytes, compose(bytes, version, header, data, n), "x.npy", &err);
}

static void test_every_version_and_type(void **state) {
    (void)state;
    static const struct {
        int version;
        const char *header;
        uint8_t data[16];
        size_t size;
        pl_dtype dtype;
        double expected[2];
    } cases[] = {
        {1,
         "{'descr': '<f4', 'fortran_order': False, 'shape': (2,), }\n",
         {0, 0, 0x80, 0x3f, 0, 0, 0, 0xc0},
         8,
         PL_F32,
         {1, -2}},
        {2,
         "{'shape': (2,), 'fortran_order': True, 'descr': '<f8'}",
         {0, 0, 0, 0, 0, 0, 0xf0, 0x3f, 0, 0, 0, 0, 0, 0, 0, 0xc0},
         16,
         PL_F32,
         {1, -2}},
        {3,
         "{\"descr\":\"<i4\",\"fortran_order\":False,\"shape\":(2,)}",
         {7, 0, 0, 0, 0xff, 0xff, 0xff, 0xff},
         8,
         PL_I32,
         {7, -1}},
        {1,
         "{'descr': '<i2', 'fortran_order': False, 'shape': (2,), }",
         {1, 2, 0xfe, 0xff},
         4,
         PL_I32,
         {513, -2}},
        {1,
         "{'descr': '<u2', 'fortran_order': False, 'shape': (2,), }",
         {1, 2, 0xfe, 0xff},
         4,
         PL_I32,
         {513, 65534}},
        {1,
         "{'descr': '|u1', 'fortran_order': False, 'shape': (2,), }",
         {200, 3},
         2,
         PL_I32,
         {200, 3}},
        {1,
         "{'descr': '|i1', 'fortran_order': False, 'shape': (2,), }",
         {200, 3},
         2,
         PL_I32,
         {-56, 3}},
        {1, "{'descr': '|b1', 'fortran_order': False, 'shape': (2,), }", {1, 0}, 2, PL_I32, {1, 0}},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        pl_tensor t;
        assert_int_equal(parse(&t, cases[i].version, cases[i].header, cases[i].data, cases[i].size),
                         PL_OK);
        assert_int_equal(t.dtype, cases[i].dtype);
        assert_int_equal(t.shape[0], 2);
        for (int k = 0; k < 2; k++) {
            double x = t.dtype == PL_F32 ? (double)((float *)t.data)[k] : ((int32_t *)t.data)[k];
            assert_true(x == cases[i].expected[k]);
        }
        pl_tensor_release(&t);
    }
}

static void test_fortran_order_becomes_rows(void **state) {
    (void)state;
    int32_t file[24];
    pl_tensor t;
    /* element [i, j, k] of shape (2, 3, 4) has the value 100 i + 10 j + k */
    for (int k = 0; k < 4; k++)
        for (int j = 0; j < 3; j++)
            for (int i = 0; i < 2; i++) file[i + 2 * j + 6 * k] = 100 * i + 10 * j + k;
    assert_int_equal(parse(&t, 1, "{'descr': '<i4', 'fortran_order': True, 'shape': (2, 3, 4), }",
                           file, sizeof file),
                     PL_OK);
    for (int n = 0; n < 24; n++) {
        assert_int_equal(((int32_t *)t.data)[n], 100 * (n / 12) + 10 * (n / 4 % 3) + n % 4);
    }
    pl_tensor_release(&t);
}

static void test_what_is_saved_comes_back(void **state) {
    (void)state;
    static const pl_dtype dtypes[] = {PL_F32, PL_F16, PL_I32, PL_I64};
    static const int64_t shapes[][3] = {{2, 3, 4}, {1, 1, 1}, {0, 5, 1}, {7, 1, 130}};
    char *folder = make_folder();
    const char *path = in_folder(folder, "x.npy");
    for (size_t i = 0; i < 4; i++) {
        for (int n_dims = 0; n_dims <= 3; n_dims++) {
            pl_tensor t, back;
            assert_int_equal(pl_tensor_new(&t, dtypes[i], n_dims, shapes[i], &err), PL_OK);
            size_t n = (size_t)pl_tensor_count(&t) * pl_dtype_get(t.dtype)->block_bytes;
            for (size_t k = 0; k < n; k++) ((uint8_t *)t.data)[k] = (uint8_t)(k * 31);
            assert_int_equal(pl_npy_save(&t, path, &err), PL_OK);
            assert_int_equal(pl_npy_load(&back, path, &err), PL_OK);
            assert_int_equal(back.dtype, t.dtype);
            assert_int_equal(back.n_dims, n_dims);
            assert_memory_equal(back.shape, t.shape, (size_t)n_dims * sizeof *t.shape);
            assert_memory_equal(back.data, t.data, n);
            pl_tensor_release(&t), pl_tensor_release(&back);
            pl_buffer b = read_bytes(path);
            assert_int_equal((b.size - n) % 64, 0);
            pl_buffer_clear(&b);
        }
    }
    remove_folder(folder);
}

static void test_views_and_bfloat16_are_saved_by_value(void **state) {
    (void)state;
    char *folder = make_folder();
    const char *path = in_folder(folder, "x.npy");
    uint16_t bf16[6] = {0x3f80, 0x4000, 0x4040, 0x4080, 0x40a0, 0x40c0}; /* 1 to 6 */
    float f32[6] = {1, 2, 3, 4, 5, 6}, turned[6] = {1, 4, 2, 5, 3, 6};
    for (int i = 0; i < 2; i++) {
        pl_tensor t, back;
        assert_int_equal(pl_tensor_wrap(&t, i ? PL_BF16 : PL_F32, 2, (int64_t[]){2, 3},
                                        i ? (void *)bf16 : (void *)f32, &err),
                         PL_OK);
        assert_int_equal(pl_tensor_transpose(&t, 0, 1, &err), PL_OK);
        assert_int_equal(pl_npy_save(&t, path, &err), PL_OK);
        assert_int_equal(pl_npy_load(&back, path, &err), PL_OK);
        assert_int_equal(back.shape[0], 3);
        assert_memory_equal(back.data, turned, sizeof turned);
        pl_tensor_release(&back);
    }
    uint8_t block[34] = {0};
    pl_tensor q;
    assert_int_equal(pl_tensor_wrap(&q, PL_Q8_0, 2, (int64_t[]){1, 32}, block, &err), PL_OK);
    assert_int_equal(pl_npy_save(&q, path, &err), PL_ERR_UNSUPPORTED);
    assert_non_null(strstr(err.message, "q8_0"));
    remove_folder(folder);
}

static void test_headers_that_lie(void **state) {
    (void)state;
    static const struct {
        const char *header, *words;
        pl_status status;
    } cases[] = {
        {"{'descr': '>f4', 'fortran_order': False, 'shape': (1,)}", ">f4", PL_ERR_UNSUPPORTED},
        {"{'descr': '<c8', 'fortran_order': False, 'shape': (1,)}", "<c8", PL_ERR_UNSUPPORTED},
        {"{'descr': [('a', '<f4')], 'shape': (1,)}", "descr", PL_ERR_UNSUPPORTED},
        {"{'descr': '<f4', 'fortran_order': False, 'shape': (9,)}", "8 bytes", PL_ERR_FORMAT},
        {"{'descr': '<f4', 'fortran_order': False, 'shape': (4294967296, 4294967296)}", "8 bytes",
         PL_ERR_FORMAT},
        {"{'descr': '<f4', 'shape': (99999999999999999999,)}", "too large", PL_ERR_FORMAT},
        {"{'descr': '<f4', 'shape': (-1,)}", "whole numbers", PL_ERR_FORMAT},
        {"{'descr': '<f4', 'shape': (1 1)}", "tuple", PL_ERR_FORMAT},
        {"{'descr': '<f4', 'shape': (1,1,1,1,1,1,1,1,1)}", "8 dimensions", PL_ERR_FORMAT},
        {"{'descr': '<f4', 'shape': (1,", "shape", PL_ERR_FORMAT},
        {"{'descr': '<f4'", "dictionary", PL_ERR_FORMAT},
        {"{'descr': '<f4'}", "shape is missing", PL_ERR_FORMAT},
        {"{'shape': (1,)}", "descr is missing", PL_ERR_FORMAT},
        {"{'shape': (1,), 'shape': (2,)}", "twice", PL_ERR_FORMAT},
        {"{'size': 3}", "'size'", PL_ERR_FORMAT},
        {"{'fortran_order': 1}", "fortran_order", PL_ERR_FORMAT},
        {"", "dictionary", PL_ERR_FORMAT},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        pl_tensor t;
        pl_status status = parse(&t, 1, cases[i].header, "12345678", 8);
        if (status != cases[i].status || !strstr(err.message, cases[i].words)) {
            fail_msg("'%s': %s, '%s'", cases[i].header, pl_status_name(status), err.message);
        }
    }
    pl_tensor t;
    assert_int_equal(parse(&t, 4, "{}", NULL, 0), PL_ERR_UNSUPPORTED);
    assert_int_equal(pl_npy_parse(&t, "PK\3\4 a zip file", 15, "x.npz", &err), PL_ERR_FORMAT);
    assert_int_equal(pl_npy_load(&t, "/nonexistent/x.npy", &err), PL_ERR_IO);
}

static void test_damaged_files(void **state) {
    (void)state;
    uint8_t bytes[256];
    int32_t data[6] = {1, 2, 3, 4, 5, 6};
    for (int version = 1; version <= 2; version++) {
        size_t n =
            compose(bytes, version, "{'descr': '<i4', 'fortran_order': True, 'shape': (2, 3), }\n",
                    data, sizeof data);
        feed_damaged(LLVMFuzzerTestOneInput, bytes, n);
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_every_version_and_type),
        cmocka_unit_test(test_fortran_order_becomes_rows),
        cmocka_unit_test(test_what_is_saved_comes_back),
        cmocka_unit_test(test_views_and_bfloat16_are_saved_by_value),
        cmocka_unit_test(test_headers_that_lie),
        cmocka_unit_test(test_damaged_files),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
