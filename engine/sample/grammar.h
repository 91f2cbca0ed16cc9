/* Grammars: which texts may be written, in GBNF, and which tokens can continue one.
 *
 *     pl_grammar *grammar = NULL;
 *     if (pl_grammar_parse(&grammar, "root ::= \"yes\" | \"no\"", 22, "answer.gbnf", err) ...
 *     pl_token_trie *trie = NULL;
 *     pl_token_trie_new(&trie, tokenizer, err);
 *     pl_grammar_state *state = NULL;
 *     pl_grammar_state_new(&state, grammar, trie, err);
 *     pl_grammar_unref(grammar), pl_token_trie_unref(trie);      // the state holds its own
 *     ...
 *     const uint64_t *mask;
 *     pl_grammar_state_mask(state, &mask, err);     // bit id: the token may come next
 *     pl_grammar_state_accept(state, id, err);
 *     pl_grammar_state_free(state);
 *
 * GBNF as llama.cpp has it: rules `name ::= ...`, "literals", [classes] and [^negated ones], `.`,
 * groups, `|`, `* + ? {m} {m,} {m,n}`, comments from `#`; escapes \n \r \t \\ \" \[ \] \- \^ \xHH
 * \uHHHH \UHHHHHHHH; the rule `root` is the text. Classes are of characters, and what matches is
 * always UTF-8.
 *
 * How it works: the rules become a program over bytes (sets of bytes, jumps, calls); where a text
 * stands in it is a set of places, each with a stack of returns. Such sets are numbered and their
 * moves kept, so that a grammar becomes, as far as it is used, a table-driven automaton. The
 * vocabulary is a tree of bytes; a mask is one walk down that tree, kept with its set. Ends of text
 * are allowed where the grammar may end.
 *
 * A grammar and a trie never change and may be shared by threads once their references are not
 * being counted at the same time; a state and its copies belong to one thread. */
#ifndef PL_SAMPLE_GRAMMAR_H
#define PL_SAMPLE_GRAMMAR_H

#include "../text/tokenizer.h"

typedef struct pl_grammar pl_grammar;
typedef struct pl_token_trie pl_token_trie;
typedef struct pl_grammar_state pl_grammar_state;

enum {
    PL_GRAMMAR_MAX_BYTES = 4 << 20, /* of text */
    PL_GRAMMAR_MAX_REPEAT = 65535,  /* in {m,n} */
    PL_GRAMMAR_MAX_NESTING = 200,   /* of groups */
};

/* text [size] need not be UTF-8; name is for messages. The result has one reference.
 * Errors: PL_ERR_FORMAT with line and column: what is no GBNF, an undefined rule, a rule that
 * begins with itself, one that no text can end; PL_ERR_MEMORY. */
pl_status pl_grammar_parse(pl_grammar **out, const char *text, size_t size, const char *name,
                           pl_error *err);
pl_grammar *pl_grammar_ref(pl_grammar *grammar);
void pl_grammar_unref(pl_grammar *grammar); /* accepts NULL */

/* The pieces of a vocabulary as a tree of bytes. Borrows nothing; one reference.
 * Tokens without text (control, unused, unknown ones) are left out; those that end a text are
 * known apart. */
pl_status pl_token_trie_new(pl_token_trie **out, const pl_tokenizer *tok, pl_error *err);
pl_token_trie *pl_token_trie_ref(pl_token_trie *trie);
void pl_token_trie_unref(pl_token_trie *trie); /* accepts NULL */
size_t pl_token_trie_n_tokens(const pl_token_trie *trie);

/* A state at the beginning of the text. trie may be NULL: then there are bytes only.
 * Errors: PL_ERR_MEMORY; PL_ERR_UNSUPPORTED when the grammar has too many ways to go on at once. */
pl_status pl_grammar_state_new(pl_grammar_state **out, pl_grammar *grammar, pl_token_trie *trie,
                               pl_error *err);
/* An independent copy in the same place; what is cached is shared. */
pl_status pl_grammar_state_clone(pl_grammar_state **out, const pl_grammar_state *state,
                                 pl_error *err);
void pl_grammar_state_free(pl_grammar_state *state); /* accepts NULL */
void pl_grammar_state_reset(pl_grammar_state *state);
size_t pl_grammar_state_n_tokens(const pl_grammar_state *state); /* 0 without a trie */

/* From here on the text must begin with these bytes before it goes on; with only set, anything may
 * follow them. For a prompt whose last token was taken back. Errors: PL_ERR_MEMORY. */
pl_status pl_grammar_state_set_prefix(pl_grammar_state *state, const char *bytes, size_t size,
                                      bool only, pl_error *err);
/* How many of those bytes are still to come; and whether everything is allowed now. */
size_t pl_grammar_state_n_prefix(const pl_grammar_state *state);
bool pl_grammar_state_is_free(const pl_grammar_state *state);

/* Whether the text may end here, and whether it can go on at all. */
bool pl_grammar_state_may_end(const pl_grammar_state *state);
bool pl_grammar_state_may_go_on(const pl_grammar_state *state);
bool pl_grammar_state_has_ended(const pl_grammar_state *state); /* an end token was accepted */

/* [n_tokens / 64 + 1] words, borrowed until the next call on this state or a copy. Bit id % 64
 * of word id / 64 is set when the token may come next; after an end token none is.
 * Errors: PL_ERR_MEMORY; PL_ERR_UNSUPPORTED as above. */
pl_status pl_grammar_state_mask(pl_grammar_state *state, const uint64_t **mask, pl_error *err);

/* Moves on by a token, or by bytes. On error the state is as it was.
 * Errors: PL_ERR_ARGUMENT: not allowed here. */
pl_status pl_grammar_state_accept(pl_grammar_state *state, int32_t id, pl_error *err);
pl_status pl_grammar_state_accept_bytes(pl_grammar_state *state, const char *bytes, size_t size,
                                        pl_error *err);

#endif
