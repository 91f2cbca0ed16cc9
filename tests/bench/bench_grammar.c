/* What a JSON grammar costs a token over 151,936 tokens, the size of Qwen's vocabulary: the first
 * mask of a place, the same one again, and removing what it forbids from the candidates. The pieces
 * are made up: the 256 bytes, then words of letters with and without a space, digits, punctuation.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "../../engine/base/random.h"
#include "../../engine/sample/grammar_sampler.h"

enum { N = 151936 };

static const char json_grammar[] =
    "root ::= object\n"
    "value ::= object | array | string | number | (\"true\" | \"false\" | \"null\") ws\n"
    "object ::= \"{\" ws (string \":\" ws value (\",\" ws string \":\" ws value)*)? \"}\" ws\n"
    "array ::= \"[\" ws (value (\",\" ws value)*)? \"]\" ws\n"
    "string ::= \"\\\"\" ([^\"\\\\\\x7F\\x00-\\x1F] | \"\\\\\" ([\"\\\\bfnrt] | \"u\" "
    "[0-9a-fA-F]{4}))* \"\\\"\" ws\n"
    "number ::= (\"-\"? ([0-9] | [1-9] [0-9]{0,15})) (\".\" [0-9]+)? ([eE] [-+]? [0-9]+)? ws\n"
    "ws ::= | \" \" | \"\\n\" [ \\t]{0,20}\n";

static double now(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

/* Byte i as GPT-2's alphabet writes it, in UTF-8, escaped for JSON. */
static void write_byte(FILE *file, unsigned byte) {
    bool printable = (byte > 32 && byte < 127) || (byte > 160 && byte != 173);
    unsigned before = byte < 33 ? byte : byte < 161 ? 33 + byte - 127 : 67;
    fprintf(file, "\\u%04x", printable ? byte : 256 + before);
}

static void write_piece(FILE *file, unsigned i, pl_random *random) {
    if (i < 256) {
        write_byte(file, i);
        return;
    }
    static const char letters[] = "etaoinshrdlucmfwypvbgkjqxz";
    unsigned length = 2 + pl_random_u32(random) % 8, kind = pl_random_u32(random) % 16;
    if (kind < 9) write_byte(file, ' ');
    for (unsigned k = 0; k < length; k++) {
        double u = pl_random_uniform(random);
        unsigned mark = (uint8_t) "{}[]\":,.;()-_"[pl_random_u32(random) % 13];
        write_byte(file, kind == 15 ? mark : (uint8_t)letters[(int)(26 * u * u)]);
    }
    fprintf(file, "%u", i); /* each piece once */
}

static pl_tokenizer *make_tokenizer(void) {
    char path[] = "/tmp/bench_grammar_XXXXXX.json";
    int descriptor = mkstemps(path, 5);
    FILE *file = descriptor < 0 ? NULL : fdopen(descriptor, "w");
    if (!file) return NULL;
    pl_random random = {1, 0, 0};
    fprintf(file, "{\"pre_tokenizer\":{\"type\":\"ByteLevel\",\"add_prefix_space\":false},"
                  "\"decoder\":{\"type\":\"ByteLevel\"},\"model\":{\"type\":\"BPE\",\"merges\":[],"
                  "\"vocab\":{");
    for (unsigned i = 0; i < N; i++) {
        fprintf(file, "%s\"", i ? "," : "");
        write_piece(file, i, &random);
        fprintf(file, "\":%u", i);
    }
    fprintf(file, "}}}");
    fclose(file);
    pl_tokenizer *tok = NULL;
    pl_error err;
    if (pl_tokenizer_load(&tok, path, &err) != PL_OK) fprintf(stderr, "%s\n", err.message);
    unlink(path);
    return tok;
}

typedef struct times {
    double first, slowest, again, apply;
    int n;
} times;

static bool measure(pl_grammar_state *state, pl_candidates *c, float *logits, times *t) {
    const uint64_t *mask;
    pl_error err;
    double start = now();
    if (pl_grammar_state_mask(state, &mask, &err) != PL_OK) return false;
    double made = now();
    if (pl_grammar_state_mask(state, &mask, &err) != PL_OK) return false;
    double found = now();
    for (int i = 0; i < N; i++) logits[i] = (float)(i % 1000) * 0.01F;
    if (pl_candidates_begin(c, logits, (pl_random){1, 0, 0}, 0, &err) != PL_OK) return false;
    double ready = now();
    if (pl_grammar_state_apply(state, c, &err) != PL_OK) return false;
    t->apply += now() - ready;
    t->first += made - start;
    if (made - start > t->slowest) t->slowest = made - start;
    t->again += found - made;
    t->n++;
    return true;
}

int main(void) {
    static const char text[] =
        "{\"name\": \"perilune\", \"sizes\": [1, 2.5, {\"deep\": [\"a b c\", "
        "null]}], \"ok\": true, \"more\": {\"x\": \"y\"}}";
    static float logits[N];
    pl_error err;
    pl_tokenizer *tok = make_tokenizer();
    pl_grammar *grammar = NULL;
    pl_grammar_state *state = NULL;
    pl_token_trie *trie = NULL;
    pl_candidates candidates;
    if (!tok || pl_grammar_parse(&grammar, json_grammar, strlen(json_grammar), "json", &err))
        return 1;
    double start = now();
    if (pl_token_trie_new(&trie, tok, &err) != PL_OK) return 1;
    printf("grammar: %d tokens become a tree in %.0f ms\n", N, 1e3 * (now() - start));
    if (pl_grammar_state_new(&state, grammar, trie, &err) ||
        pl_candidates_init(&candidates, N, &err))
        return 1;
    times t = {0};
    for (const char *c = text; *c; c++)
        if (!measure(state, &candidates, logits, &t) ||
            pl_grammar_state_accept_bytes(state, c, 1, &err))
            return fprintf(stderr, "%s\n", err.message), 1;
    printf("grammar: JSON, %d places: mask %.3f ms (slowest %.2f ms), again %.2f us, applied %.3f "
           "ms\n",
           t.n, 1e3 * t.first / t.n, 1e3 * t.slowest, 1e6 * t.again / t.n, 1e3 * t.apply / t.n);
    pl_candidates_clear(&candidates);
    pl_grammar_state_free(state);
    pl_token_trie_unref(trie);
    pl_grammar_unref(grammar);
    pl_tokenizer_free(tok);
    return 0;
}
