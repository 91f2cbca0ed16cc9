/* Sessions and sequences: what changes while a model runs.
 *
 *     pl_session *session;
 *     pl_sequence *seq;
 *     if (pl_session_new(&session, model, NULL, &err) != PL_OK) ...
 *     if (pl_sequence_new(&seq, session, &err) != PL_OK) ...
 *     if (pl_sequence_extend(seq, ids, n, PL_LOGITS_LAST, logits, &err) != PL_OK) ...
 *     pl_sequence_free(seq);
 *     pl_session_free(session);
 *
 * A session is used by one thread at a time and owns workspace, page pool and hooks. Sequences
 * hold their session: it is freed with the last of them. */
#ifndef PL_MODEL_SESSION_H
#define PL_MODEL_SESSION_H

#include "hooks.h"
#include "model.h"

typedef struct pl_session pl_session;
typedef struct pl_sequence pl_sequence;

typedef struct pl_session_options {
    int n_threads;     /* 0: as many as cores */
    bool exact;        /* float32 activations against quantised weights too */
    pl_dtype kv_dtype; /* PL_F16, PL_F32, or PL_Q8_0 where 32 divides d_head */
    int64_t n_batch;   /* rows of one pass at most; longer prompts run in chunks */
    int64_t n_ctx;     /* positions of a sequence at most; 0: the model's; more only with rotary */
    /* Fail with PL_ERR_ARGUMENT at the first point where a NaN or an infinity appears, whether a
     * hook wrote it or it was computed: "hook_resid_post, layer 3: NaN at position 2, column 17,
     * written by a hook". Scores and logits may be -inf. */
    bool check_finite;
    /* Polled once a layer; true stops the pass with PL_ERR_INTERRUPTED. May be NULL. */
    bool (*interrupt)(void *context);
    void *interrupt_context;
} pl_session_options;

/* n_threads 0, not exact, F16, n_batch 512. */
pl_session_options pl_session_options_default(void);

pl_status pl_session_new(pl_session **session, pl_model *model, const pl_session_options *options,
                         pl_error *err); /* options NULL: the default */
void pl_session_free(pl_session *session);
pl_model *pl_session_model(const pl_session *session);
pl_hooks *pl_session_hooks(pl_session *session);
const pl_session_options *pl_session_get_options(const pl_session *session);
pl_status pl_session_set_threads(pl_session *session, int n_threads, pl_error *err);
void pl_session_set_interrupt(pl_session *session, bool (*interrupt)(void *context), void *context);

void pl_session_set_check_finite(pl_session *session, bool check);

/* What happened so far; tests and benchmarks read it. */
typedef struct pl_session_counters {
    uint64_t passes;       /* forward passes */
    uint64_t rows;         /* rows through all of them */
    uint64_t layer_rows;   /* rows times layers computed */
    uint64_t weight_bytes; /* weight bytes read by linear maps, each matrix once per pass */
    size_t workspace_bytes, kv_bytes; /* held now */
} pl_session_counters;
pl_session_counters pl_session_get_counters(const pl_session *session);

/* Which of the rows fed get logits. */
typedef enum pl_logits { PL_LOGITS_NONE, PL_LOGITS_LAST, PL_LOGITS_ALL } pl_logits;

pl_status pl_sequence_new(pl_sequence **seq, pl_session *session, pl_error *err);
void pl_sequence_free(pl_sequence *seq); /* inside a hook: lives until its own pass has ended */
pl_session *pl_sequence_session(const pl_sequence *seq);

/* Shares all pages with the original until one of the two writes to them. */
pl_status pl_sequence_fork(pl_sequence **copy, const pl_sequence *seq, pl_error *err);

int64_t pl_sequence_length(const pl_sequence *seq);        /* positions held */
const int32_t *pl_sequence_tokens(const pl_sequence *seq); /* [length], valid until it changes */

/* Keeps the first n positions. PL_ERR_ARGUMENT when n is negative or beyond the length. */
pl_status pl_sequence_truncate(pl_sequence *seq, int64_t n, pl_error *err);

/* Memory for n positions in all, so that extending to there allocates nothing. */
pl_status pl_sequence_reserve(pl_sequence *seq, int64_t n, pl_error *err);

/* Feeds n tokens and advances the sequence.
 *   tokens  [n], ids in [0, d_vocab), n >= 1
 *   logits  PL_LOGITS_LAST: [d_vocab]; PL_LOGITS_ALL: [n, d_vocab]; PL_LOGITS_NONE: NULL
 * On error the sequence is unchanged and *err says why. */
pl_status pl_sequence_extend(pl_sequence *seq, const int32_t *tokens, int64_t n, pl_logits which,
                             float *logits, pl_error *err);

typedef struct pl_extension {
    pl_sequence *seq; /* all of one session, no sequence twice */
    const int32_t *tokens;
    int64_t n;
    pl_logits which;
    float *logits;
} pl_extension;

/* Keys and values of positions [pos, pos + n) of one layer as float32 [n, n_kv_heads, d_head], as
 * they are held: keys rotated, both rounded to kv_dtype. Setting changes this sequence only, and
 * what it computes from now on; keys or values may be NULL.
 * PL_ERR_ARGUMENT: no such layer or positions. PL_ERR_STATE: a pass is running over it. */
pl_status pl_sequence_get_kv(const pl_sequence *seq, int64_t layer, int64_t pos, int64_t n,
                             float *keys, float *values, pl_error *err);
pl_status pl_sequence_set_kv(pl_sequence *seq, int64_t layer, int64_t pos, int64_t n,
                             const float *keys, const float *values, pl_error *err);

/* Several sequences at once, in one pass as long as n_batch allows. All or none advance. */
pl_status pl_session_extend(pl_session *session, const pl_extension *items, size_t n_items,
                            pl_error *err);

/* Rows of a run through some of the layers. */
typedef struct pl_partial {
    pl_extension rows;     /* tokens NULL: the last n that the sequence holds are run again */
    const float *residual; /* [n, d_model] that enters the first layer run; NULL: the embedding,
                              only where that layer is 0 */
    float *out;            /* [n, d_model]: the residual stream after the last one, or NULL */
} pl_partial;

/* Runs layers from_layer <= l < to_layer of several sequences, together as pl_session_extend does.
 * Layers that are not run, and positions before the rows, have the keys and values that the
 * sequence holds. Nothing is kept: no sequence advances, and each has the keys and values that it
 * had. Logits need to_layer == n_layers.
 * Errors: as pl_session_extend; PL_ERR_ARGUMENT for layers or rows that are not there. */
pl_status pl_session_partial(pl_session *session, const pl_partial *items, size_t n_items,
                             int64_t from_layer, int64_t to_layer, pl_error *err);

#endif
