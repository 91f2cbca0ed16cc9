/* From the tree to the program: see grammar_program.h. */
#include "grammar_program.h"

#include "../base/error.h"
#include "../text/utf8.h"

#include <stdlib.h>
#include <string.h>

typedef struct compiler {
    pl_grammar *grammar;
    const pl_gtree *tree;
    uint32_t *entries; /* [n_rules] */
    uint32_t *table;   /* of sets by their bits, open addressing */
    size_t cap_table;
    bool failed; /* out of memory, or too long a program */
} compiler;

enum { MAX_CODE = 1 << 24 };

static uint32_t emit(compiler *c, pl_gop op, uint32_t a) {
    pl_grammar *g = c->grammar;
    if (c->failed || g->n_code >= MAX_CODE ||
        !pl_grammar_grow((void **)&g->code, &g->cap_code, g->n_code, sizeof *g->code)) {
        c->failed = true;
        return 0;
    }
    g->code[g->n_code] = (pl_ginstr){.op = (uint8_t)op, .a = a};
    return (uint32_t)g->n_code++;
}

static uint32_t here(const compiler *c) {
    return (uint32_t)c->grammar->n_code;
}

static void patch(compiler *c, uint32_t at) {
    if (!c->failed) c->grammar->code[at].a = here(c);
}

/* -- sets of bytes ------------------------------------------------------------------------- */

static size_t hash_set(const pl_gset *set) {
    uint64_t hash = 0;
    for (int i = 0; i < 4; i++)
        hash = (hash ^ set->bits[i]) * 0x9E3779B97F4A7C15u, hash ^= hash >> 31;
    return (size_t)hash;
}

static bool grow_table(compiler *c) {
    size_t capacity = c->cap_table ? 2 * c->cap_table : 64;
    uint32_t *table = malloc(capacity * sizeof *table);
    if (!table) return false;
    memset(table, 0xFF, capacity * sizeof *table);
    for (size_t i = 0; i < c->grammar->n_sets; i++) {
        size_t slot = hash_set(&c->grammar->sets[i]) & (capacity - 1);
        while (table[slot] != PL_GRAMMAR_NONE) slot = (slot + 1) & (capacity - 1);
        table[slot] = (uint32_t)i;
    }
    free(c->table);
    c->table = table;
    c->cap_table = capacity;
    return true;
}

static void emit_set(compiler *c, const pl_gset *set) {
    pl_grammar *g = c->grammar;
    if (c->failed) return;
    bool full = !c->table || 2 * (g->n_sets + 1) > c->cap_table;
    if ((full && !grow_table(c)) || !c->table ||
        !pl_grammar_grow((void **)&g->sets, &g->cap_sets, g->n_sets, sizeof *g->sets)) {
        c->failed = true;
        return;
    }
    size_t slot = hash_set(set) & (c->cap_table - 1);
    while (c->table[slot] != PL_GRAMMAR_NONE) {
        if (memcmp(&g->sets[c->table[slot]], set, sizeof *set) == 0) break;
        slot = (slot + 1) & (c->cap_table - 1);
    }
    if (c->table[slot] == PL_GRAMMAR_NONE) {
        g->sets[g->n_sets] = *set;
        c->table[slot] = (uint32_t)g->n_sets++;
    }
    emit(c, PL_GOP_SET, c->table[slot]);
}

static void add_bytes(pl_gset *set, unsigned first, unsigned last) {
    for (unsigned b = first; b <= last; b++) set->bits[b >> 6] |= (uint64_t)1 << (b & 63);
}

/* -- characters as bytes ------------------------------------------------------------------- */

/* Characters of one length in UTF-8 whose encodings are the product of sets of bytes, one for each
 * place: [C3][80-BF]. */
typedef struct product {
    pl_gset sets[4];
    int n;
} product;

typedef struct products {
    product *items;
    size_t n, capacity;
} products;

static bool same_tail(const product *a, const product *b) {
    return a->n == b->n && memcmp(a->sets + 1, b->sets + 1, 3 * sizeof *a->sets) == 0;
}

/* Appends a product; it joins the one before where only their first bytes differ. */
static void add_product(compiler *c, products *list, const product *item) {
    if (list->n > 0 && same_tail(&list->items[list->n - 1], item)) {
        for (int i = 0; i < 4; i++)
            list->items[list->n - 1].sets[0].bits[i] |= item->sets[0].bits[i];
        return;
    }
    if (!pl_grammar_grow((void **)&list->items, &list->capacity, list->n, sizeof *list->items))
        c->failed = true;
    else
        list->items[list->n++] = *item;
}

/* Splits [first, last], all of n bytes, where the last bytes do not run from 80 to BF. */
static void add_span(compiler *c, products *list, uint32_t first, uint32_t last, int n) {
    for (int i = 1; i < n && !c->failed; i++) {
        uint32_t mask = ((uint32_t)1 << (6 * i)) - 1;
        if ((first & ~mask) == (last & ~mask)) continue;
        if ((first & mask) != 0) {
            add_span(c, list, first, first | mask, n);
            add_span(c, list, (first | mask) + 1, last, n);
            return;
        }
        if ((last & mask) != mask) {
            add_span(c, list, first, (last & ~mask) - 1, n);
            add_span(c, list, last & ~mask, last, n);
            return;
        }
    }
    if (c->failed) return;
    char low[4], high[4];
    product item = {.n = n};
    pl_utf8_encode(first, low);
    pl_utf8_encode(last, high);
    for (int i = 0; i < n; i++) add_bytes(&item.sets[i], (uint8_t)low[i], (uint8_t)high[i]);
    add_product(c, list, &item);
}

static void add_characters(compiler *c, products *list, pl_grange range) {
    static const uint32_t ends[] = {0x7F, 0x7FF, 0xFFFF, 0x10FFFF};
    for (int n = 1; n <= 4; n++) {
        uint32_t last = range.last < ends[n - 1] ? range.last : ends[n - 1];
        if (range.first > last) continue;
        add_span(c, list, range.first, last, n);
        range.first = last + 1;
        if (range.first > range.last) return;
    }
}

static void emit_characters(compiler *c, const pl_gnode *node) {
    products list = {0};
    uint32_t ends = PL_GRAMMAR_NONE; /* jumps to the end, each naming the one before */
    for (uint32_t i = 0; i < node->n && !c->failed; i++)
        add_characters(c, &list, c->tree->ranges[node->first + i]);
    for (size_t i = 0; i < list.n && !c->failed; i++) {
        bool last = i + 1 == list.n;
        uint32_t split = last ? 0 : emit(c, PL_GOP_SPLIT, 0);
        for (int k = 0; k < list.items[i].n; k++) emit_set(c, &list.items[i].sets[k]);
        if (last) break;
        ends = emit(c, PL_GOP_JUMP, ends);
        patch(c, split);
    }
    while (ends != PL_GRAMMAR_NONE && !c->failed) {
        uint32_t before = c->grammar->code[ends].a;
        patch(c, ends);
        ends = before;
    }
    free(list.items);
}

/* -- nodes --------------------------------------------------------------------------------- */

static void emit_node(compiler *c, uint32_t index);

static void emit_choice(compiler *c, const pl_gnode *node) {
    uint32_t ends = PL_GRAMMAR_NONE;
    for (uint32_t i = node->child; i != PL_GRAMMAR_NONE && !c->failed; i = c->tree->nodes[i].next) {
        bool last = c->tree->nodes[i].next == PL_GRAMMAR_NONE;
        uint32_t split = last ? 0 : emit(c, PL_GOP_SPLIT, 0);
        emit_node(c, i);
        if (last) break;
        ends = emit(c, PL_GOP_JUMP, ends);
        patch(c, split);
    }
    while (ends != PL_GRAMMAR_NONE && !c->failed) {
        uint32_t before = c->grammar->code[ends].a;
        patch(c, ends);
        ends = before;
    }
}

static void emit_repeat(compiler *c, const pl_gnode *node) {
    uint32_t begin, min = node->min, max = node->max;
    if (max == 0) return;
    if (max == 1) {
        uint32_t split = min == 0 ? emit(c, PL_GOP_SPLIT, 0) : 0;
        emit_node(c, node->child);
        if (min == 0) patch(c, split);
    } else if (max == PL_GRAMMAR_NONE && min == 0) {
        begin = emit(c, PL_GOP_SPLIT, 0);
        emit_node(c, node->child);
        emit(c, PL_GOP_JUMP, begin);
        patch(c, begin);
    } else if (max == PL_GRAMMAR_NONE && min == 1) {
        begin = here(c);
        emit_node(c, node->child);
        uint32_t split = emit(c, PL_GOP_SPLIT, 0);
        emit(c, PL_GOP_JUMP, begin);
        patch(c, split);
    } else {
        bool nullable = c->tree->nodes[node->child].has & PL_GNULLABLE;
        begin = emit(c, PL_GOP_LOOP, 0);
        emit_node(c, node->child);
        emit(c, PL_GOP_RETURN, 0);
        patch(c, begin);
        if (c->failed) return;
        c->grammar->code[begin].nullable = nullable;
        c->grammar->code[begin].b = nullable ? 0 : min;
        c->grammar->code[begin].c = max;
    }
}

static void emit_node(compiler *c, uint32_t index) {
    const pl_gnode *node = &c->tree->nodes[index];
    if (c->failed) return;
    switch (node->kind) {
    case PL_GNODE_LITERAL:
        for (uint32_t i = 0; i < node->n; i++) {
            pl_gset set = {{0}};
            uint8_t byte = (uint8_t)c->tree->pool[node->first + i];
            add_bytes(&set, byte, byte);
            emit_set(c, &set);
        }
        break;
    case PL_GNODE_SET:
        emit_characters(c, node);
        break;
    case PL_GNODE_SEQUENCE:
        for (uint32_t i = node->child; i != PL_GRAMMAR_NONE; i = c->tree->nodes[i].next)
            emit_node(c, i);
        break;
    case PL_GNODE_CHOICE:
        emit_choice(c, node);
        break;
    case PL_GNODE_REPEAT:
        emit_repeat(c, node);
        break;
    case PL_GNODE_RULE:
        emit(c, PL_GOP_CALL, node->first);
        break;
    }
}

/* Two bytes have one number when they are in the same sets. */
static void make_classes(pl_grammar *g) {
    g->n_classes = 1;
    for (size_t s = 0; s < g->n_sets && g->n_classes < 256; s++) {
        int inside[256];
        memset(inside, -1, sizeof inside);
        uint32_t seen[256] = {0}; /* 1: outside was met, 2: inside */
        for (unsigned b = 0; b < 256; b++)
            seen[g->classes[b]] |= pl_gset_has(&g->sets[s], (uint8_t)b) ? 2 : 1;
        for (unsigned b = 0; b < 256; b++) {
            unsigned class = g->classes[b];
            if (seen[class] != 3 || !pl_gset_has(&g->sets[s], (uint8_t)b)) continue;
            if (inside[class] < 0) inside[class] = (int)g->n_classes++;
            g->classes[b] = (uint8_t)inside[class];
        }
    }
    for (unsigned b = 0; b < 256; b++) g->example[g->classes[b]] = (uint8_t)b;
}

pl_status pl_grammar_compile(pl_grammar *g, const pl_gtree *tree, pl_error *err) {
    compiler c = {.grammar = g, .tree = tree};
    c.entries = calloc(tree->n_rules + 1, sizeof *c.entries);
    c.failed = !c.entries;
    for (size_t r = 0; r < tree->n_rules && !c.failed; r++) {
        c.entries[r] = here(&c);
        emit_node(&c, tree->rules[r].body);
        emit(&c, PL_GOP_RETURN, 0);
    }
    for (size_t i = 0; i < g->n_code && !c.failed; i++)
        if (g->code[i].op == PL_GOP_CALL) g->code[i].a = c.entries[g->code[i].a];
    if (!c.failed) {
        g->start = c.entries[tree->root];
        make_classes(g);
    }
    free(c.entries);
    free(c.table);
    if (c.failed)
        return pl_fail(err, PL_ERR_MEMORY,
                       "%s: out of memory, or a grammar of over %d instructions", tree->name,
                       MAX_CODE);
    return PL_OK;
}
