/* GBNF text to a tree: see grammar_program.h. */
#include "grammar_program.h"

#include "../base/error.h"
#include "../text/utf8.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { MAX_ITEMS = 1 << 22, MAX_NAME = 200, MAX_SUFFIXES = 4 };

typedef struct parser {
    pl_gtree *tree;
    size_t at;
    int depth;
    pl_error *err;
} parser;

bool pl_grammar_grow(void **data, size_t *capacity, size_t n, size_t item_bytes) {
    if (n < *capacity) return true;
    size_t grown = *capacity ? 2 * *capacity : 16;
    while (grown <= n) grown *= 2;
    if (grown > SIZE_MAX / item_bytes) return false;
    void *moved = realloc(*data, grown * item_bytes);
    if (!moved) return false;
    *data = moved;
    *capacity = grown;
    return true;
}

pl_status pl_gtree_fail(const pl_gtree *tree, size_t at, pl_error *err, const char *format, ...) {
    size_t line = 1, column = 1;
    for (size_t i = 0; i < at && i < tree->size; i++) {
        uint8_t byte = (uint8_t)tree->text[i];
        if (byte == '\n')
            line++, column = 1;
        else if ((byte & 0xC0) != 0x80)
            column++;
    }
    char message[PL_ERROR_MAX];
    va_list args;
    va_start(args, format);
    vsnprintf(message, sizeof message, format, args);
    va_end(args);
    return pl_fail(err, PL_ERR_FORMAT, "%s:%zu:%zu: %s", tree->name, line, column, message);
}

static pl_status no_memory(parser *p) {
    return pl_fail(p->err, PL_ERR_MEMORY, "%s: out of memory, or a grammar of over %d parts",
                   p->tree->name, MAX_ITEMS);
}

#define FAIL(p, at, ...) pl_status_not_ok(pl_gtree_fail((p)->tree, at, (p)->err, __VA_ARGS__))

/* -- characters ---------------------------------------------------------------------------- */

static int peek(const parser *p) {
    return p->at < p->tree->size ? (uint8_t)p->tree->text[p->at] : -1;
}

static bool is_word(int c) {
    return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') || c == '-' ||
           c == '_';
}

/* Spaces and comments; ends of lines too if lines is set. */
static void skip_space(parser *p, bool lines) {
    for (int c = peek(p); c >= 0; c = peek(p)) {
        if (c == '#') {
            while (peek(p) >= 0 && peek(p) != '\n' && peek(p) != '\r') p->at++;
        } else if (c == ' ' || c == '\t' || (lines && (c == '\n' || c == '\r'))) {
            p->at++;
        } else {
            break;
        }
    }
}

static pl_status read_hex(parser *p, int digits, uint32_t *out) {
    size_t begin = p->at - 2;
    *out = 0;
    for (int i = 0; i < digits; i++, p->at++) {
        int c = peek(p);
        int value = c >= '0' && c <= '9'   ? c - '0'
                    : c >= 'a' && c <= 'f' ? c - 'a' + 10
                    : c >= 'A' && c <= 'F' ? c - 'A' + 10
                                           : -1;
        if (value < 0) return FAIL(p, begin, "expected %d hexadecimal digits after \\", digits);
        *out = *out << 4 | (uint32_t)value;
    }
    if (*out > 0x10FFFF || (*out >= 0xD800 && *out <= 0xDFFF))
        return FAIL(p, begin, "U+%04X is no character", *out);
    return PL_OK;
}

/* One character of a literal or class, escapes read. */
static pl_status read_char(parser *p, uint32_t *out) {
    static const char plain[] = "\\\"[]-^";
    if (peek(p) != '\\') {
        size_t n = pl_utf8_decode(p->tree->text + p->at, p->tree->size - p->at, out);
        if (n == 0) return FAIL(p, p->at, "the text is not UTF-8 here");
        p->at += n;
        return PL_OK;
    }
    p->at++;
    int c = peek(p);
    p->at++;
    if (c > 0 && strchr(plain, c)) return *out = (uint32_t)c, PL_OK;
    switch (c) {
    case 'n':
        *out = '\n';
        return PL_OK;
    case 'r':
        *out = '\r';
        return PL_OK;
    case 't':
        *out = '\t';
        return PL_OK;
    case 'x':
        return read_hex(p, 2, out);
    case 'u':
        return read_hex(p, 4, out);
    case 'U':
        return read_hex(p, 8, out);
    default:
        break;
    }
    if (c < 0) p->at--;
    return FAIL(p, p->at - 1,
                "no such escape; expected \\n \\r \\t \\\\ \\\" \\[ \\] \\- \\^ \\xHH "
                "\\uHHHH or \\UHHHHHHHH");
}

/* -- nodes --------------------------------------------------------------------------------- */

static pl_status add_node(parser *p, pl_gnode_kind kind, size_t at, uint32_t *out) {
    pl_gtree *t = p->tree;
    *out = 0;
    if (t->n_nodes >= MAX_ITEMS ||
        !pl_grammar_grow((void **)&t->nodes, &t->cap_nodes, t->n_nodes, sizeof *t->nodes))
        return no_memory(p);
    t->nodes[t->n_nodes] = (pl_gnode){
        .kind = kind, .child = PL_GRAMMAR_NONE, .next = PL_GRAMMAR_NONE, .at = (uint32_t)at};
    *out = (uint32_t)t->n_nodes++;
    return PL_OK;
}

static pl_status add_range(parser *p, uint32_t first, uint32_t last) {
    pl_gtree *t = p->tree;
    if (t->n_ranges >= MAX_ITEMS ||
        !pl_grammar_grow((void **)&t->ranges, &t->cap_ranges, t->n_ranges, sizeof *t->ranges))
        return no_memory(p);
    t->ranges[t->n_ranges++] = (pl_grange){first, last};
    return PL_OK;
}

static size_t hash_name(const char *name, size_t n) {
    size_t hash = 1469598103934665603u;
    for (size_t i = 0; i < n; i++) hash = (hash ^ (uint8_t)name[i]) * 1099511628211u;
    return hash ^ hash >> 29;
}

static bool grow_table(pl_gtree *t) {
    size_t capacity = t->cap_table ? 2 * t->cap_table : 64;
    uint32_t *table = malloc(capacity * sizeof *table);
    if (!table) return false;
    memset(table, 0xFF, capacity * sizeof *table);
    for (size_t r = 0; r < t->n_rules; r++) {
        size_t slot = hash_name(t->rules[r].name, strlen(t->rules[r].name)) & (capacity - 1);
        while (table[slot] != PL_GRAMMAR_NONE) slot = (slot + 1) & (capacity - 1);
        table[slot] = (uint32_t)r;
    }
    free(t->table);
    t->table = table;
    t->cap_table = capacity;
    return true;
}

/* The number of the rule that is named at the parser's place; a new one if it is not known. */
static pl_status read_rule_name(parser *p, uint32_t *rule) {
    pl_gtree *t = p->tree;
    size_t begin = p->at;
    while (is_word(peek(p))) p->at++;
    size_t n = p->at - begin;
    const char *name = t->text + begin;
    if (n == 0) return FAIL(p, begin, "expected the name of a rule");
    if (n > MAX_NAME) return FAIL(p, begin, "a name of %zu characters, at most %d", n, MAX_NAME);
    if (2 * (t->n_rules + 1) > t->cap_table && !grow_table(t)) return no_memory(p);
    size_t slot = hash_name(name, n) & (t->cap_table - 1);
    for (; t->table[slot] != PL_GRAMMAR_NONE; slot = (slot + 1) & (t->cap_table - 1)) {
        const char *other = t->rules[t->table[slot]].name;
        if (strncmp(other, name, n) == 0 && other[n] == 0) return *rule = t->table[slot], PL_OK;
    }
    if (!pl_grammar_grow((void **)&t->rules, &t->cap_rules, t->n_rules, sizeof *t->rules))
        return no_memory(p);
    char *copy = strndup(name, n);
    if (!copy) return no_memory(p);
    t->rules[t->n_rules] = (pl_grule){.name = copy, .body = PL_GRAMMAR_NONE, .at = (uint32_t)begin};
    *rule = t->table[slot] = (uint32_t)t->n_rules++;
    return PL_OK;
}

/* -- literals and classes ------------------------------------------------------------------ */

static pl_status read_literal(parser *p, uint32_t *out) {
    pl_gtree *t = p->tree;
    size_t begin = p->at++;
    pl_status status = add_node(p, PL_GNODE_LITERAL, begin, out);
    size_t first = t->n_pool;
    while (status == PL_OK && peek(p) != '"') {
        uint32_t c;
        char bytes[4];
        if (peek(p) < 0 || peek(p) == '\n') return FAIL(p, begin, "this literal has no closing \"");
        if ((status = read_char(p, &c)) != PL_OK) break;
        size_t n = pl_utf8_encode(c, bytes);
        if (!pl_grammar_grow((void **)&t->pool, &t->cap_pool, t->n_pool + n, 1))
            return no_memory(p);
        memcpy(t->pool + t->n_pool, bytes, n);
        t->n_pool += n;
    }
    if (status != PL_OK) return status;
    p->at++;
    t->nodes[*out].first = (uint32_t)first;
    t->nodes[*out].n = (uint32_t)(t->n_pool - first);
    return PL_OK;
}

static int compare_ranges(const void *a, const void *b) {
    const pl_grange *x = a, *y = b;
    return (x->first > y->first) - (x->first < y->first);
}

/* Adds a range without the surrogates, which are no characters. */
static pl_status add_characters(parser *p, uint32_t first, uint32_t last) {
    pl_status status = PL_OK;
    if (first < 0xD800 && last >= 0xD800) {
        status = add_range(p, first, 0xD7FF);
        first = 0xD800;
    }
    if (first >= 0xD800 && first <= 0xDFFF) first = 0xE000;
    return status == PL_OK && first <= last ? add_range(p, first, last) : status;
}

/* Sorts the ranges from `begin` on, joins those that touch, and turns them round if asked. */
static pl_status settle_ranges(parser *p, size_t begin, bool negated) {
    pl_gtree *t = p->tree;
    size_t n = t->n_ranges - begin, joined = 0;
    if (n > 0) qsort(t->ranges + begin, n, sizeof *t->ranges, compare_ranges);
    for (size_t i = begin; i < begin + n; i++) {
        pl_grange next = t->ranges[i], *last = joined ? &t->ranges[begin + joined - 1] : NULL;
        if (last && next.first <= last->last + 1)
            last->last = next.last > last->last ? next.last : last->last;
        else
            t->ranges[begin + joined++] = next;
    }
    t->n_ranges = begin + joined;
    if (!negated) return PL_OK;
    uint32_t from = 0;
    pl_status status = PL_OK;
    for (size_t i = begin; i < begin + joined && status == PL_OK; i++) {
        pl_grange range = t->ranges[i];
        if (from < range.first) status = add_characters(p, from, range.first - 1);
        from = range.last + 1;
    }
    if (status == PL_OK && from <= 0x10FFFF) status = add_characters(p, from, 0x10FFFF);
    if (status != PL_OK) return status;
    size_t left = t->n_ranges - begin - joined;
    if (left > 0) memmove(t->ranges + begin, t->ranges + begin + joined, left * sizeof *t->ranges);
    t->n_ranges = begin + left;
    return PL_OK;
}

static pl_status finish_set(parser *p, uint32_t node, size_t first, bool negated) {
    pl_status status = settle_ranges(p, first, negated);
    if (status != PL_OK) return status;
    p->tree->nodes[node].first = (uint32_t)first;
    p->tree->nodes[node].n = (uint32_t)(p->tree->n_ranges - first);
    return PL_OK;
}

static pl_status read_class(parser *p, uint32_t *out) {
    size_t begin = p->at++, first = p->tree->n_ranges;
    pl_status status = add_node(p, PL_GNODE_SET, begin, out);
    bool negated = peek(p) == '^';
    if (negated) p->at++;
    while (status == PL_OK && peek(p) != ']') {
        uint32_t from = 0, to;
        size_t here = p->at;
        if (peek(p) < 0 || peek(p) == '\n') return FAIL(p, begin, "this class has no closing ]");
        if ((status = read_char(p, &from)) != PL_OK) break;
        to = from;
        if (peek(p) == '-' && p->at + 1 < p->tree->size && p->tree->text[p->at + 1] != ']') {
            p->at++;
            if ((status = read_char(p, &to)) != PL_OK) break;
            if (to < from)
                return FAIL(p, here, "the range from U+%04X to U+%04X is empty", from, to);
        }
        status = add_characters(p, from, to);
    }
    if (status == PL_OK) p->at++, status = finish_set(p, *out, first, negated);
    if (status == PL_OK && p->tree->nodes[*out].n == 0)
        return FAIL(p, begin, "a class without any character");
    return status;
}

static pl_status read_any(parser *p, uint32_t *out) {
    size_t first = p->tree->n_ranges;
    pl_status status = add_node(p, PL_GNODE_SET, p->at++, out);
    return status == PL_OK ? finish_set(p, *out, first, true) : status;
}

/* -- repetitions, sequences, rules --------------------------------------------------------- */

static pl_status read_count(parser *p, uint32_t *out) {
    size_t begin = p->at;
    *out = 0;
    while (peek(p) >= '0' && peek(p) <= '9') {
        *out = *out * 10 + (uint32_t)(peek(p) - '0');
        if (*out > PL_GRAMMAR_MAX_REPEAT)
            return FAIL(p, begin, "a repetition of more than %d times", PL_GRAMMAR_MAX_REPEAT);
        p->at++;
    }
    if (p->at == begin) return FAIL(p, begin, "expected a number of times");
    return PL_OK;
}

/* {m}, {m,} or {m,n} at the parser's place. */
static pl_status read_bounds(parser *p, uint32_t *min, uint32_t *max) {
    size_t begin = p->at++;
    skip_space(p, false);
    pl_status status = read_count(p, min);
    if (status != PL_OK) return status;
    *max = *min;
    skip_space(p, false);
    if (peek(p) == ',') {
        p->at++;
        skip_space(p, false);
        *max = PL_GRAMMAR_NONE;
        if (peek(p) != '}' && (status = read_count(p, max)) != PL_OK) return status;
        skip_space(p, false);
    }
    if (peek(p) != '}') return FAIL(p, p->at, "expected } or ,");
    p->at++;
    if (*max < *min) return FAIL(p, begin, "from %u to %u times is never", *min, *max);
    return PL_OK;
}

/* Any of * + ? {} after the node; each wraps it once more. */
static pl_status read_suffixes(parser *p, uint32_t *node) {
    for (int n = 0;; n++) {
        int c = peek(p);
        size_t at = p->at;
        uint32_t min = 0, max = PL_GRAMMAR_NONE, outer = 0;
        pl_status status = PL_OK;
        if (c != '*' && c != '+' && c != '?' && c != '{') return PL_OK;
        if (n >= MAX_SUFFIXES)
            return FAIL(p, at, "more than %d repetitions of repetitions", MAX_SUFFIXES);
        if (c == '{')
            status = read_bounds(p, &min, &max);
        else
            p->at++, min = c == '+', max = c == '?' ? 1 : max;
        if (status != PL_OK || (status = add_node(p, PL_GNODE_REPEAT, at, &outer)) != PL_OK)
            return status;
        p->tree->nodes[outer].min = min;
        p->tree->nodes[outer].max = max;
        p->tree->nodes[outer].child = *node;
        *node = outer;
        skip_space(p, p->depth > 0);
    }
}

static pl_status read_choice(parser *p, uint32_t *out);

static pl_status read_item(parser *p, uint32_t *out) {
    int c = peek(p);
    size_t begin = p->at;
    if (c == '"') return read_literal(p, out);
    if (c == '[') return read_class(p, out);
    if (c == '.') return read_any(p, out);
    if (c == '(') {
        if (++p->depth > PL_GRAMMAR_MAX_NESTING)
            return FAIL(p, begin, "groups nested deeper than %d", PL_GRAMMAR_MAX_NESTING);
        p->at++;
        skip_space(p, true);
        pl_status status = read_choice(p, out);
        if (status != PL_OK) return status;
        if (peek(p) != ')') return FAIL(p, p->at, "expected ) for the ( before");
        p->depth--;
        p->at++;
        return PL_OK;
    }
    uint32_t rule = 0;
    pl_status status = read_rule_name(p, &rule);
    if (status != PL_OK || (status = add_node(p, PL_GNODE_RULE, begin, out)) != PL_OK)
        return status;
    p->tree->nodes[*out].first = rule;
    return PL_OK;
}

static void append_child(pl_gtree *t, uint32_t parent, uint32_t *last, uint32_t child) {
    if (*last == PL_GRAMMAR_NONE)
        t->nodes[parent].child = child;
    else
        t->nodes[*last].next = child;
    *last = child;
}

static bool begins_item(int c) {
    return c == '"' || c == '[' || c == '.' || c == '(' || is_word(c);
}

static pl_status read_sequence(parser *p, uint32_t *out) {
    uint32_t last = PL_GRAMMAR_NONE;
    pl_status status = add_node(p, PL_GNODE_SEQUENCE, p->at, out);
    while (status == PL_OK && begins_item(peek(p))) {
        uint32_t item = 0;
        if ((status = read_item(p, &item)) != PL_OK) break;
        skip_space(p, p->depth > 0);
        if ((status = read_suffixes(p, &item)) != PL_OK) break;
        append_child(p->tree, *out, &last, item);
    }
    return status;
}

static pl_status read_choice(parser *p, uint32_t *out) {
    uint32_t last = PL_GRAMMAR_NONE, item = 0;
    pl_status status = add_node(p, PL_GNODE_CHOICE, p->at, out);
    while (status == PL_OK) {
        if ((status = read_sequence(p, &item)) != PL_OK) break;
        append_child(p->tree, *out, &last, item);
        if (peek(p) != '|') break;
        p->at++;
        skip_space(p, true);
    }
    return status;
}

static pl_status read_rule(parser *p) {
    pl_gtree *t = p->tree;
    size_t begin = p->at;
    uint32_t rule = 0, body = 0;
    pl_status status = read_rule_name(p, &rule);
    if (status != PL_OK) return status;
    if (t->rules[rule].body != PL_GRAMMAR_NONE)
        return FAIL(p, begin, "rule '%s' is defined twice", t->rules[rule].name);
    t->rules[rule].at = (uint32_t)begin;
    skip_space(p, false);
    if (t->size - p->at < 3 || memcmp(t->text + p->at, "::=", 3) != 0)
        return FAIL(p, p->at, "expected ::= after the rule's name");
    p->at += 3;
    skip_space(p, true);
    p->depth = 0;
    if ((status = read_choice(p, &body)) != PL_OK) return status;
    t->rules[rule].body = body;
    int c = peek(p);
    if (c >= 0 && c != '\n' && c != '\r')
        return FAIL(p, p->at, "expected a literal, class, group, rule, | or the end of the line");
    return PL_OK;
}

pl_status pl_gtree_parse(pl_gtree *tree, pl_error *err) {
    parser p = {.tree = tree, .err = err};
    if (tree->size > PL_GRAMMAR_MAX_BYTES)
        return pl_fail(err, PL_ERR_FORMAT, "%s: a grammar of %zu bytes, at most %d", tree->name,
                       tree->size, PL_GRAMMAR_MAX_BYTES);
    for (skip_space(&p, true); peek(&p) >= 0; skip_space(&p, true)) {
        pl_status status = read_rule(&p);
        if (status != PL_OK) return status;
    }
    tree->root = PL_GRAMMAR_NONE;
    for (size_t r = 0; r < tree->n_rules; r++)
        if (strcmp(tree->rules[r].name, "root") == 0) tree->root = (uint32_t)r;
    if (tree->root == PL_GRAMMAR_NONE)
        return FAIL(&p, p.at, "there is no rule called 'root', which is what a text must be");
    return PL_OK;
}

void pl_gtree_clear(pl_gtree *tree) {
    for (size_t r = 0; r < tree->n_rules; r++) free(tree->rules[r].name);
    free(tree->rules);
    free(tree->table);
    free(tree->nodes);
    free(tree->ranges);
    free(tree->pool);
    *tree = (pl_gtree){0};
}
