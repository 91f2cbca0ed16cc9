/* A grammar as a tree and as a program: what the files grammar_*.c share. */
#ifndef PL_SAMPLE_GRAMMAR_PROGRAM_H
#define PL_SAMPLE_GRAMMAR_PROGRAM_H

#include "grammar.h"

/* -- the tree that parsing makes ----------------------------------------------------------- */

typedef enum pl_gnode_kind {
    PL_GNODE_LITERAL,  /* bytes of the pool: first, n */
    PL_GNODE_SET,      /* characters: first, n of the ranges */
    PL_GNODE_SEQUENCE, /* of the children; none: the empty text */
    PL_GNODE_CHOICE,   /* of the children */
    PL_GNODE_REPEAT,   /* the only child, min to max times */
    PL_GNODE_RULE,     /* first: the rule's number */
} pl_gnode_kind;

enum { PL_GRAMMAR_NONE = UINT32_MAX }; /* no node; and as max: no limit */

typedef enum pl_gproperty {
    PL_GNULLABLE = 1,   /* matches the empty text */
    PL_GPRODUCTIVE = 2, /* matches some text */
} pl_gproperty;

typedef struct pl_gnode {
    pl_gnode_kind kind;
    uint8_t has; /* bits of pl_gproperty, once checked */
    uint32_t first, n;
    uint32_t min, max;
    uint32_t child, next; /* first child, next sibling; or PL_GRAMMAR_NONE */
    uint32_t at;          /* offset in the text */
} pl_gnode;

typedef struct pl_grange {
    uint32_t first, last; /* characters, inclusive */
} pl_grange;

typedef struct pl_grule {
    char *name;
    uint32_t body; /* node, or PL_GRAMMAR_NONE until it is defined */
    uint32_t at;   /* offset of the definition, or of the first use */
} pl_grule;

typedef struct pl_gtree {
    const char *text, *name; /* borrowed */
    size_t size;
    pl_gnode *nodes;
    pl_grange *ranges; /* each set's sorted, apart, within Unicode's characters */
    char *pool;
    pl_grule *rules;
    size_t n_nodes, n_ranges, n_pool, n_rules;
    size_t cap_nodes, cap_ranges, cap_pool, cap_rules;
    uint32_t *table; /* of rule numbers by name, open addressing; [cap_table], a power of two */
    size_t cap_table;
    uint32_t root;
} pl_gtree;

pl_status pl_gtree_parse(pl_gtree *tree, pl_error *err);
void pl_gtree_clear(pl_gtree *tree);

/* Undefined rules, rules without an end, rules that begin with themselves; settles `has`. */
pl_status pl_gtree_check(pl_gtree *tree, pl_error *err);

/* PL_ERR_FORMAT with name, line and column (in characters) of the offset. */
pl_status pl_gtree_fail(const pl_gtree *tree, size_t at, pl_error *err, const char *format, ...)
    __attribute__((format(printf, 4, 5)));

/* -- the program --------------------------------------------------------------------------- */

typedef enum pl_gop {
    PL_GOP_SET,    /* one byte of the set a, then the next instruction */
    PL_GOP_JUMP,   /* to a */
    PL_GOP_SPLIT,  /* both to the next instruction and to a */
    PL_GOP_CALL,   /* a, which returns to the next instruction */
    PL_GOP_RETURN, /* of a call, of a loop's body, or of the whole text */
    PL_GOP_LOOP,   /* calls the next instruction b to c times, then goes to a */
} pl_gop;

typedef struct pl_ginstr {
    uint8_t op;
    bool nullable; /* a loop's body */
    uint32_t a, b, c;
} pl_ginstr;

typedef struct pl_gset {
    uint64_t bits[4]; /* of bytes */
} pl_gset;

struct pl_grammar {
    size_t n_refs;
    pl_ginstr *code;
    size_t n_code, cap_code;
    pl_gset *sets; /* of bytes, each different */
    size_t n_sets, cap_sets;
    uint32_t start;
    uint8_t classes[256]; /* bytes that no set tells apart have the same number */
    uint32_t n_classes;
    uint8_t example[256]; /* a byte of each class */
};

static inline bool pl_gset_has(const pl_gset *set, uint8_t byte) {
    return set->bits[byte >> 6] >> (byte & 63) & 1;
}

pl_status pl_grammar_compile(pl_grammar *grammar, const pl_gtree *tree, pl_error *err);

/* Room for one more of an array; false when memory is short. */
bool pl_grammar_grow(void **data, size_t *capacity, size_t n, size_t item_bytes);

/* -- the vocabulary as a tree -------------------------------------------------------------- */

/* Nodes in depth-first order: the first child of i is i + 1, unless skip says that it has none. */
typedef struct pl_trie_node {
    uint32_t skip;   /* the first node that is not below this one */
    uint32_t tokens; /* where its tokens begin in `tokens`; up to the next node's */
    uint16_t depth;  /* 1: the first byte */
    uint8_t byte;
} pl_trie_node;

struct pl_token_trie {
    size_t n_refs, n_tokens;
    pl_trie_node *nodes; /* [n_nodes + 1], the last one an end mark */
    size_t n_nodes;
    int32_t *tokens; /* ids, grouped by node */
    uint64_t *ends;  /* bits of the ids that end a text */
    uint32_t *start; /* [n_tokens + 1]: where each token's bytes begin in `bytes` */
    char *bytes;
    uint32_t max_depth;
};

#endif
