/* Samplers, and chains of them: from logits to one token.
 *
 *     pl_chain chain = {0};
 *     pl_sampler top_k, dist;
 *     pl_sampler_init(&top_k, "top_k", err), pl_sampler_set(&top_k, "top_k", 40, err);
 *     pl_chain_add(&chain, &top_k, err);
 *     ...
 *     pl_chain_reset(&chain, prompt, n_prompt, err);
 *     // for every token:
 *     if (pl_chain_sample(&chain, &candidates, &id, err) != PL_OK) ...
 *     pl_chain_accept(&chain, id, err);
 *     pl_chain_clear(&chain);
 *
 * A sampler is a row of a table: a name, its parameters with their neutral values, and a function
 * over candidates. The built-in ones are in samplers*.c; whoever has another kind (a script's
 * function, a loaded plugin) fills a pl_sampler_kind of his own. Names and neutral values are
 * llama.cpp's, or Hugging Face's where llama.cpp has none: a sampler at its neutral value changes
 * nothing.
 *
 * Sampling changes no state but what accept then looks at: a token that was chosen and not
 * accepted was never there. A clone goes its own way from there on. */
#ifndef PL_SAMPLE_CHAIN_H
#define PL_SAMPLE_CHAIN_H

#include "candidates.h"
#include "lists.h"

enum { PL_SAMPLER_PARAMS = 8, PL_SAMPLER_MEMORY = 4 };

typedef struct pl_sampler_param {
    const char *name;
    double neutral;
    double min, max; /* inclusive; NaN never fits */
    bool whole;      /* an integer */
    const char *help;
} pl_sampler_param;

typedef struct pl_sampler pl_sampler;

/* What stands in the lists of a sampler that has any, and what they are when nobody gave one. */
typedef struct pl_sampler_lists {
    const char *name; /* of the parameter; NULL: the sampler takes no lists */
    bool valued;      /* each list carries a number that counts */
    bool single;      /* each is one token */
    enum { PL_LISTS_NOTHING, PL_LISTS_ENDS, PL_LISTS_BREAKERS } otherwise;
} pl_sampler_lists;

typedef struct pl_sampler_kind {
    const char *name;
    const char *summary; /* one line for people */
    pl_sampler_param params[PL_SAMPLER_PARAMS];
    int n_params;
    pl_sampler_lists lists;
    bool chooses; /* sets candidates->chosen */
    bool foreign; /* edits candidates->logits without keeping the list of ids */
    /* Makes the state once the parameters are set; NULL: there is none. */
    pl_status (*start)(pl_sampler *self, const pl_tokenizer *tok, int64_t n_vocab, pl_error *err);
    /* *err is filled when the status is not PL_OK. Never NULL. */
    pl_status (*apply)(pl_sampler *self, pl_candidates *c, pl_error *err);
    /* The token that the text went on with. NULL: the sampler does not care. */
    pl_status (*accept)(pl_sampler *self, int32_t id, pl_error *err);
    /* A new text begins. NULL: nothing is remembered. */
    pl_status (*reset)(pl_sampler *self, pl_error *err);
    /* copy is a copy of `from` already, but for its state, which this sets. May be NULL where
     * state is. */
    pl_status (*clone)(pl_sampler *copy, const pl_sampler *from, pl_error *err);
    void (*free)(pl_sampler *self); /* frees state; may be NULL */
} pl_sampler_kind;

struct pl_sampler {
    const pl_sampler_kind *kind;
    double params[PL_SAMPLER_PARAMS];
    double memory[PL_SAMPLER_MEMORY]; /* what the kind remembers from token to token */
    pl_token_lists lists;             /* owned */
    void *state;                      /* owned when the kind has a free function */
};

/* The built-in kinds; i in [0, pl_samplers_count()). Static storage. Those that do not choose come
 * in the order in which a chain made of options runs them. */
size_t pl_samplers_count(void);
const pl_sampler_kind *pl_samplers_get(size_t i);

/* The built-in kind of that name, or that alone has a parameter of that name; NULL: none. */
const pl_sampler_kind *pl_samplers_find(const char *name);
const pl_sampler_kind *pl_samplers_find_by_param(const char *param);

/* A built-in sampler at its neutral parameters. PL_ERR_ARGUMENT for an unknown name, naming the
 * nearest one, or this engine's word where other programs use another ("temperature"). */
pl_status pl_sampler_init(pl_sampler *sampler, const char *name, pl_error *err);

/* What pl_sampler_init says of an unknown name. extra [n_extra]: names that exist beside the
 * built-in ones, or NULL. */
pl_status pl_sampler_unknown(const char *name, const char *const *extra, size_t n_extra,
                             pl_error *err);

/* A sampler of any kind at its neutral parameters. */
pl_sampler pl_sampler_of(const pl_sampler_kind *kind);

/* Sets a parameter by name. PL_ERR_ARGUMENT: no such parameter, or value outside its range. */
pl_status pl_sampler_set(pl_sampler *sampler, const char *param, double value, pl_error *err);

/* Adds a list of tokens, ids in [0, n_vocab). PL_ERR_ARGUMENT: the kind takes none, an id is no
 * token, the list is empty or longer than the kind takes, or value is NaN or +inf. */
pl_status pl_sampler_add_list(pl_sampler *sampler, const int32_t *ids, size_t n, double value,
                              int64_t n_vocab, pl_error *err);

/* After the parameters: fills lists that nobody gave by the vocabulary (the tokens that end a text,
 * or those around the usual breakers of repetition; with tok NULL they stay empty) and makes the
 * state. tok must outlive the sampler. */
pl_status pl_sampler_complete(pl_sampler *sampler, const pl_tokenizer *tok, int64_t n_vocab,
                              pl_error *err);

/* Frees lists and state. */
void pl_sampler_clear(pl_sampler *sampler);

typedef struct pl_chain {
    pl_sampler *samplers; /* [n] */
    size_t n, capacity;
    pl_ids tokens;   /* the text so far */
    size_t n_prompt; /* of them, those that were given */
} pl_chain;

/* Appends a sampler, reset; the chain takes over its lists and state, on failure too.
 * Errors: PL_ERR_MEMORY; PL_ERR_ARGUMENT when a sampler before it chooses the token already. */
pl_status pl_chain_add(pl_chain *chain, const pl_sampler *sampler, pl_error *err);
void pl_chain_clear(pl_chain *chain);

/* A new text begins with the tokens of prompt [n]. */
pl_status pl_chain_reset(pl_chain *chain, const int32_t *prompt, size_t n, pl_error *err);

/* The text goes on with this token, whoever chose it. */
pl_status pl_chain_accept(pl_chain *chain, int32_t id, pl_error *err);

/* *out, which must be {0}, becomes a chain in the same state. Errors: PL_ERR_MEMORY;
 * PL_ERR_UNSUPPORTED when a sampler has state that cannot be copied, naming it. */
pl_status pl_chain_clone(pl_chain *out, const pl_chain *chain, pl_error *err);

/* Runs the samplers in order until one has chosen, and gives its token.
 * Errors: PL_ERR_ARGUMENT when a sampler removes every token, leaves NaN, or nothing chooses; what
 * a sampler's own function reports. The message names the sampler. */
pl_status pl_chain_sample(pl_chain *chain, pl_candidates *c, int32_t *id, pl_error *err);

#endif
