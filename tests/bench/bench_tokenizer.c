/* Tokenizer throughput on one core: MB/s of encoding and decoding with GPT-2's vocabulary over
 * the reference texts. Prints a line and ends well where they are absent. */
#include <stdio.h>
#include <stdlib.h>
#include <time.h>

#include "../../engine/base/map.h"
#include "../../engine/text/tokenizer.h"

static double now(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

/* The best of five. */
static int measure(const pl_tokenizer *tok, const char *path, const char *name) {
    pl_map map;
    pl_error err;
    if (pl_map_open(&map, path, &err) != PL_OK) return fprintf(stderr, "%s\n", err.message), 1;
    double encode = 1e9, decode = 1e9;
    size_t n = 0;
    for (int round = 0; round < 5; round++) {
        pl_ids ids = {0};
        pl_buffer text = {0};
        double start = now();
        if (pl_tokenizer_encode(tok, (const char *)map.data, map.size_bytes, NULL, &ids, &err))
            return fprintf(stderr, "%s\n", err.message), 1;
        double middle = now();
        if (pl_tokenizer_decode(tok, ids.data, ids.n, NULL, &text, &err))
            return fprintf(stderr, "%s\n", err.message), 1;
        double end = now();
        if (middle - start < encode) encode = middle - start;
        if (end - middle < decode) decode = end - middle;
        n = ids.n;
        pl_ids_clear(&ids);
        pl_buffer_clear(&text);
    }
    printf("%-24s %8zu tokens  encode %7.1f MB/s  decode %7.1f MB/s\n", name, n,
           (double)map.size_bytes / encode / 1e6, (double)map.size_bytes / decode / 1e6);
    pl_map_close(&map);
    return 0;
}

int main(void) {
    static const char *const texts[] = {"tinyshakespeare.txt", "wikitext-2-test.txt",
                                        "wikitext-2-valid.txt", "questions-words.txt"};
    const char *root = getenv("PERILUNE_TEST_DATA");
    char path[1024];
    pl_tokenizer *tok = NULL;
    pl_error err;
    if (!root) root = "../shared/data";
    snprintf(path, sizeof path, "%s/tokenizers/gpt2", root);
    double start = now();
    if (pl_tokenizer_load(&tok, path, &err) != PL_OK)
        return printf("tokenizer: skipped: %s\n", err.message), 0;
    printf("tokenizer: GPT-2's vocabulary loads in %.1f ms\n", 1e3 * (now() - start));
    int failed = 0;
    for (int i = 0; i < 4 && !failed; i++) {
        snprintf(path, sizeof path, "%s/text/%s", root, texts[i]);
        failed = measure(tok, path, texts[i]);
    }
    pl_tokenizer_free(tok);
    return failed;
}
