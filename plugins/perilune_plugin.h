/* Samplers as plugins: a shared library with one exported function. C or C++, nothing but this
 * header is needed:
 *
 *     cc -shared -fPIC -o mine.so mine.c        then drop mine.so into a folder of plugins
 *
 * plugins/template.c is one to copy. `perilune plugins` lists what was found, and why something
 * was refused.
 *
 * Versions. PERILUNE_PLUGIN_ABI only grows, and structures only grow at their ends. A host runs
 * plugins of its own version and of all before it; it refuses a newer one. A plugin therefore
 * states the lowest version that it needs and the size of the structure it was compiled with;
 * members beyond that size are 0 for the host.
 *
 * Threads. A host calls one state from one thread at a time, but may use several states at once in
 * several threads. What states share must be constant or guarded by the plugin itself.
 *
 * Lifetimes. The library stays loaded as long as one of its states lives; on a reload the old and
 * the new one may both be loaded for a while. Whatever the host passes is borrowed for the call,
 * unless its own note says otherwise. Nothing may be thrown, and no longjmp may leave a call. */
#ifndef PERILUNE_PLUGIN_H
#define PERILUNE_PLUGIN_H

#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

#define PERILUNE_PLUGIN_ABI 1u

#if defined(_WIN32)
#define PERILUNE_EXPORT __declspec(dllexport)
#else
#define PERILUNE_EXPORT __attribute__((visibility("default")))
#endif

enum {
    PERILUNE_OK = 0,
    PERILUNE_FAILED = 1, /* the error buffer says why */
    PERILUNE_MAX_PARAMS = 8,
    /* perilune_param.flags */
    PERILUNE_WHOLE = 1, /* an integer */
    /* perilune_sampler.flags */
    PERILUNE_CHOOSES = 1 /* apply always sets step->chosen, so the sampler stands last in a chain */
};

/* A parameter: a number. Constant, as long as the library is loaded. */
typedef struct perilune_param {
    const char *name; /* letters, digits and _ */
    double neutral;   /* the default: a sampler at its neutral values should change nothing */
    double min, max;  /* inclusive, neutral within them; the host refuses other values */
    uint32_t flags;
    uint32_t reserved; /* 0 */
    const char *help;  /* one line, or NULL */
} perilune_param;

/* The host, as one state sees it. Lives as long as that state; it may be kept and used in any of
 * that state's calls, not outside of them. */
typedef struct perilune_host {
    uint32_t abi_version; /* the host's own */
    uint32_t struct_size; /* of perilune_host in the host */
    void *context;        /* the host's business */
    /* A service of the host by its id, one of PERILUNE_EXT_... below: a pointer to the structure of
     * that name, or NULL where the host does not have it. Lives as long as the state. */
    const void *(*get_extension)(const struct perilune_host *host, const char *id);
} perilune_host;

/* One token to be chosen. Lives for the call of apply. */
typedef struct perilune_step {
    uint32_t struct_size; /* of perilune_step in the host */
    int32_t chosen;       /* out: -1 as it comes; an id in [0, n_vocab) chooses that token */
    float *logits;        /* [n_vocab], edited in place; -inf: removed. NaN, +inf and removing every
                             token are errors that name the plugin */
    int64_t n_vocab;      /* as given to create */
    const int32_t *tokens; /* [n_tokens] the text so far; NULL when n_tokens is 0 */
    int64_t n_tokens;
    int64_t n_prompt; /* the first n_prompt of them were given, the others chosen */
} perilune_step;

/* A sampler. Constant, as long as the library is loaded.
 *
 * Functions that return int return PERILUNE_OK or PERILUNE_FAILED, and before failing write a text
 * of at most error_size bytes, its 0 included, to `error`. The host shows it with the plugin's
 * name. */
typedef struct perilune_sampler {
    uint32_t abi_version; /* the lowest PERILUNE_PLUGIN_ABI that the plugin needs; always first */
    uint32_t struct_size; /* sizeof(perilune_sampler) */
    const char *name;     /* by which chains call it: letters, digits and _, not a built-in one's */
    const char *summary;  /* one line */
    const perilune_param *params; /* [n_params]; NULL when there are none */
    uint32_t n_params;            /* at most PERILUNE_MAX_PARAMS */
    uint32_t flags;

    /* Begins a text: makes a state. Needed. params [n_params] in the order of the table, each
     * within its range, borrowed. Any thread, also while other states are in use. */
    int (*create)(const perilune_host *host, const double *params, int64_t n_vocab, void **state,
                  char *error, size_t error_size);

    /* Looks at one step. Needed. Must not change what it remembers of the text, since the token may
     * be chosen otherwise or not at all: that is for accept. The thread that uses the state. */
    int (*apply)(void *state, perilune_step *step, char *error, size_t error_size);

    /* The text goes on with this token, whoever chose it. NULL: the sampler does not care. The
     * thread that uses the state; never called during apply. */
    int (*accept)(void *state, int32_t id, char *error, size_t error_size);

    /* A new text begins; parameters stay. NULL where accept is: there is nothing to forget. The
     * thread that uses the state. */
    int (*reset)(void *state, char *error, size_t error_size);

    /* Makes a second state that remembers the same, for a fork of the text; `host` is that state's,
     * the old one is not changed. NULL: a sampler that remembers nothing, whose copy is made by
     * create; with accept it is needed. No other call uses `state` meanwhile. */
    int (*clone)(const perilune_host *host, const void *state, void **copy, char *error,
                 size_t error_size);

    /* Frees a state; its host is gone afterwards. NULL: there is nothing to free. Called once for
     * every state that create or clone made, from any thread. */
    void (*destroy)(void *state);
} perilune_sampler;

/* The one function that a plugin exports. Called once each time the library is loaded, from one
 * thread; host_abi is the host's PERILUNE_PLUGIN_ABI. Returns a constant that lives as long as the
 * library, or NULL when the plugin cannot run in such a host. */
#define PERILUNE_PLUGIN_ENTRY "perilune_plugin_entry"
PERILUNE_EXPORT const perilune_sampler *perilune_plugin_entry(uint32_t host_abi);

/* ---- Services ------------------------------------------------------------------------------ */

/* Random numbers that depend on the seed, the sequence and the position only: the same text comes
 * out alone or in a batch, with any number of threads, after a fork. */
#define PERILUNE_EXT_RANDOM "perilune.random/1"
typedef struct perilune_random {
    /* The next number of this step in [0, 1). During apply only; at other times 0. */
    double (*uniform)(const perilune_host *host);
} perilune_random;

/* The vocabulary. NULL where the model has no tokenizer. */
#define PERILUNE_EXT_VOCABULARY "perilune.vocabulary/1"
typedef struct perilune_vocabulary {
    /* The bytes that a token stands for, not terminated, and how many; "" for ids that are none.
     * They live as long as the state. Any thread. */
    const char *(*token_bytes)(const perilune_host *host, int32_t id, size_t *n_bytes);
    /* Whether the token ends a text. Any thread. */
    int (*is_end)(const perilune_host *host, int32_t id);
} perilune_vocabulary;

#ifdef __cplusplus
}
#endif

#endif
