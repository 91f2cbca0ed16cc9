/* perilune: a language-model engine. The public C interface.
 *
 *     pl_error err;
 *     pl_model *model;
 *     pl_session *session;
 *     pl_sequence *seq;
 *     if (pl_model_load(&model, "gpt2.gguf", &err) != PL_OK)
 *         return fprintf(stderr, "%s\n", err.message), 1;
 *     pl_session_new(&session, model, NULL, &err);
 *     pl_sequence_new(&seq, session, &err);
 *     pl_model_encode(model, text, strlen(text), &ids, &n, &err);
 *     pl_sequence_extend(seq, ids, n, PL_LOGITS_LAST, logits, &err);
 *     ...
 *     pl_sequence_free(seq), pl_session_free(session), pl_model_free(model);
 *
 * Link with libperilune.a -lpcre2-8 -ljansson -lm -ldl -lpthread; OpenBLAS is opened when needed.
 *
 * Every function that can fail returns a pl_status and, through its last argument, a message
 * for people; err may be NULL. The library never exits, prints, or keeps global state but for
 * the table of kernels chosen at start. Every free function accepts NULL. */
#ifndef PERILUNE_H
#define PERILUNE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

/* What kind of failure it was; the message says which one. */
typedef enum pl_status {
    PL_OK = 0,
    PL_ERR_MEMORY,      /* an allocation failed, or a size overflowed */
    PL_ERR_IO,          /* a file could not be opened, read or written */
    PL_ERR_FORMAT,      /* a file's bytes break its format's rules */
    PL_ERR_ARGUMENT,    /* a value outside its range, an unknown name */
    PL_ERR_SHAPE,       /* shapes or dtypes that do not fit one another */
    PL_ERR_UNSUPPORTED, /* well-formed, but not something perilune can do */
    PL_ERR_STATE,       /* the object is closed, expired or in use */
    PL_ERR_INTERRUPTED, /* the interrupt callback asked to stop */
    PL_ERR_CALLBACK,    /* a hook, sampler or other callback failed */
} pl_status;

enum { PL_ERROR_MAX = 512 };

typedef struct pl_error {
    pl_status status;
    char message[PL_ERROR_MAX]; /* UTF-8, always terminated, cut if too long */
} pl_error;

/* The status as a word: "memory", "io", "format", ... Static storage. */
const char *pl_status_name(pl_status status);

/* -- tensors --------------------------------------------------------------------------------- */

/* Element types. Quantised types store a row as blocks of a fixed number of elements, as GGUF does.
 */
typedef enum pl_dtype {
    PL_F32,
    PL_F16,
    PL_BF16,
    PL_I32,
    PL_I64,
    PL_Q4_0,
    PL_Q4_1,
    PL_Q5_0,
    PL_Q5_1,
    PL_Q8_0,
    PL_Q2_K,
    PL_Q3_K,
    PL_Q4_K,
    PL_Q5_K,
    PL_Q6_K,
    PL_N_DTYPES
} pl_dtype;

enum { PL_MAX_DIMS = 8, PL_DIM_NAME = 16 };

typedef struct pl_storage pl_storage; /* memory that tensors share; the engine's own */

/* A shape, strides, names for the dimensions and a pointer into some storage. Element [i][j] of
 * float32 data is ((float *)data)[i * stride[0] + j * stride[1]]. */
typedef struct pl_tensor {
    pl_dtype dtype;
    int n_dims;                         /* 0: a scalar, one element */
    int64_t shape[PL_MAX_DIMS];         /* outermost first, as in NumPy */
    int64_t stride[PL_MAX_DIMS];        /* in elements */
    char dim[PL_MAX_DIMS][PL_DIM_NAME]; /* names, "" where unnamed */
    void *data;                         /* the first element */
    pl_storage *storage;                /* NULL: borrowed for the length of a call */
} pl_tensor;

/* -- models ---------------------------------------------------------------------------------- */

/* Description, weights and tokenizer: never changed once loaded, shared by any number of sessions
 * and threads. */
typedef struct pl_model pl_model;

/* Loads what a user names: a .gguf or .safetensors path, a directory in Hugging Face's layout, or
 * a hub id found in the local cache. Errors name file, field, value and what was expected. */
pl_status pl_model_load(pl_model **model, const char *name, pl_error *err);

/* Another owner; every owner calls pl_model_free. */
pl_model *pl_model_retain(pl_model *model);
void pl_model_free(pl_model *model);

/* Number of parameters (elements of all weights, a tied matrix once). */
int64_t pl_model_n_params(const pl_model *model);

/* Sizes, in the field's words. */
typedef struct pl_model_sizes {
    int64_t n_layers, n_heads, n_kv_heads, d_model, d_head, d_mlp, d_vocab, n_ctx;
} pl_model_sizes;
pl_model_sizes pl_model_get_sizes(const pl_model *model);

/* Text to ids, with the marks of beginning and end that the model's file asks for; *ids [*n] is the
 * caller's to free(). PL_ERR_UNSUPPORTED: the model has no tokenizer. */
pl_status pl_model_encode(const pl_model *model, const char *text, size_t size, int32_t **ids,
                          int64_t *n, pl_error *err);

/* Ids to text, terminated, the caller's to free(); *size may be NULL. Marks are left out.
 * PL_ERR_ARGUMENT: an id outside of the vocabulary. */
pl_status pl_model_decode(const pl_model *model, const int32_t *ids, int64_t n, char **text,
                          size_t *size, pl_error *err);

/* Whether generating this token ends a text. False without a tokenizer. */
bool pl_model_is_end(const pl_model *model, int32_t id);

/* -- saving ---------------------------------------------------------------------------------- */

typedef enum pl_save_format {
    PL_SAVE_BY_NAME, /* GGUF where the path ends in .gguf, else a folder */
    PL_SAVE_GGUF,
    PL_SAVE_SAFETENSORS
} pl_save_format;

typedef struct pl_save_options {
    pl_save_format format;
    bool cast;      /* matrices become `dtype`, else they keep the type they have */
    pl_dtype dtype; /* a float type, or in GGUF a quantised one: see below */
    bool mixed;     /* with PL_Q4_K, PL_Q5_K: llama.cpp's mixes Q4_K_M, Q5_K_M */
    /* The importance [n_in] of what meets the matrix of that name in the file, for quantising it;
     * NULL where it is not known. NULL: none is. */
    const float *(*importance)(void *context, const char *name, int64_t n_in);
    void *importance_context;
    bool without_tokenizer;
    const char *name; /* general.name; NULL: the model's */
} pl_save_options;

/* Quantised types are for matrices; vectors and learned positions stay float32, the matrix that
 * makes logits becomes Q6_K (Q8_0 in Q8_0), and rows that no block divides get a type that fits.
 * options NULL: by name, types kept. Vectors are written as float32 in GGUF, in the matrices' type
 * in safetensors.
 * Errors: PL_ERR_UNSUPPORTED (what the format cannot hold: a part of the description, a quantised
 * type in safetensors, a tokenizer), PL_ERR_ARGUMENT (a dtype that cannot be cast to; a
 * folder that holds files of another model), PL_ERR_IO.
 */
pl_status pl_model_save(const pl_model *model, const char *path, const pl_save_options *options,
                        pl_error *err);

/* -- adapters -------------------------------------------------------------------------------- */

/* Low-rank matrices that were trained beside a model's own (LoRA): y = x Wᵀ + scale (x Aᵀ) Bᵀ.
 * Belongs to the model it was loaded for, which it holds; any number of sequences may wear it, each
 * at its own scale and with others besides. */
typedef struct pl_adapter pl_adapter;

/* Loads a folder in PEFT's layout (adapter_config.json, adapter_model.safetensors), that
 * .safetensors file, a .gguf file, or a hub id that lies in the cache as for pl_model_load. Errors
 * name file, tensor or field: PL_ERR_ARGUMENT and PL_ERR_SHAPE (it was made for another base),
 * PL_ERR_FORMAT, PL_ERR_UNSUPPORTED (what is more than low-rank matrices), PL_ERR_IO. */
pl_status pl_adapter_load(pl_adapter **adapter, pl_model *model, const char *path, pl_error *err);
pl_adapter *pl_adapter_retain(pl_adapter *adapter);
void pl_adapter_free(pl_adapter *adapter);

/* Writes a GGUF file where the path ends in .gguf, else a folder in PEFT's layout.
 * PL_ERR_UNSUPPORTED: the family has no such files, or GGUF cannot say it (several alphas). */
pl_status pl_adapter_save(const pl_adapter *adapter, const char *path, pl_error *err);

typedef struct pl_adapter_use {
    pl_adapter *adapter;
    float scale; /* 1: as it was trained; any finite number */
} pl_adapter_use;

/* A model that computes with the adapters put into its matrices, each in the type that it has
 * (quantised ones are rounded anew); all others are the source's, which it holds. */
pl_status pl_model_merge(pl_model **merged, pl_model *model, const pl_adapter_use *uses, size_t n,
                         pl_error *err);

/* -- hooks ----------------------------------------------------------------------------------- */

/* Hook points: places in the forward pass where somebody may look at an activation or change it.
 * Names and meanings are TransformerLens's for unprocessed weights. */

/* In the order of the pass. Shapes: pos = rows of one sequence in this call.
 *
 * attn_in, q_input, k_input and v_input hold a copy of resid_pre for each head; ln1 of a changed
 * copy goes into its head. q_input and the others are made from attn_in (a key-value head takes
 * the mean of its query heads' copies). ln1's own points keep showing the norm of resid_pre; a
 * scale that is set there holds for the copies too. A changed result takes attn_out's place as
 * the sum over heads, + b_O. */
typedef enum pl_point {
    PL_HOOK_EMBED,            /* hook_embed                [pos, d_model] */
    PL_HOOK_POS_EMBED,        /* hook_pos_embed            [pos, d_model] */
    PL_HOOK_TOKEN_TYPE_EMBED, /* hook_token_type_embed   [pos, d_model], before norm_embed */
    PL_HOOK_RESID_PRE,        /* blocks.l.hook_resid_pre   [pos, d_model] */
    PL_HOOK_ATTN_IN,          /* blocks.l.hook_attn_in    [pos, head, d_model] */
    PL_HOOK_Q_INPUT,          /* blocks.l.hook_q_input    [pos, head, d_model] */
    PL_HOOK_K_INPUT,          /* blocks.l.hook_k_input    [pos, kv_head, d_model] */
    PL_HOOK_V_INPUT,          /* blocks.l.hook_v_input    [pos, kv_head, d_model] */
    PL_HOOK_LN1_SCALE,        /* blocks.l.ln1.hook_scale   [pos, 1] */
    PL_HOOK_LN1_NORMALIZED,   /* blocks.l.ln1.hook_normalized [pos, d_model] */
    PL_HOOK_Q,                /* blocks.l.attn.hook_q      [pos, head, d_head] */
    PL_HOOK_K,                /* blocks.l.attn.hook_k      [pos, kv_head, d_head] */
    PL_HOOK_V,                /* blocks.l.attn.hook_v      [pos, kv_head, d_head] */
    PL_HOOK_Q_NORM_SCALE, /* blocks.l.attn.q_norm.hook_scale [pos, head, 1]; all heads as one: 1 */
    PL_HOOK_Q_NORMALIZED, /* blocks.l.attn.q_norm.hook_normalized [pos, head, d_head] */
    PL_HOOK_K_NORM_SCALE, /* blocks.l.attn.k_norm.hook_scale [pos, kv_head, 1]; as of q */
    PL_HOOK_K_NORMALIZED, /* blocks.l.attn.k_norm.hook_normalized [pos, kv_head, d_head] */
    PL_HOOK_ROT_Q,        /* blocks.l.attn.hook_rot_q  [pos, head, d_head] */
    PL_HOOK_ROT_K,        /* blocks.l.attn.hook_rot_k  [pos, kv_head, d_head] */
    PL_HOOK_KV_K,         /* blocks.l.attn.hook_kv_k  [pos, kv_head, d_head], as remembered */
    PL_HOOK_KV_V,         /* blocks.l.attn.hook_kv_v  [pos, kv_head, d_head], as remembered */
    PL_HOOK_ATTN_SCORES,  /* blocks.l.attn.hook_attn_scores [head, query, key], masked: -inf */
    PL_HOOK_PATTERN,      /* blocks.l.attn.hook_pattern     [head, query, key] */
    PL_HOOK_Z,            /* blocks.l.attn.hook_z      [pos, head, d_head] */
    PL_HOOK_RESULT,       /* blocks.l.attn.hook_result [pos, head, d_model], without b_O */
    PL_HOOK_LN1_POST_SCALE,      /* blocks.l.ln1_post.hook_scale [pos, 1]; a second norm */
    PL_HOOK_LN1_POST_NORMALIZED, /* blocks.l.ln1_post.hook_normalized [pos, d_model] */
    PL_HOOK_ATTN_OUT,            /* blocks.l.hook_attn_out    [pos, d_model] */
    PL_HOOK_RESID_MID,           /* blocks.l.hook_resid_mid   [pos, d_model] */
    PL_HOOK_MLP_IN,              /* blocks.l.hook_mlp_in     [pos, d_model] */
    PL_HOOK_LN2_SCALE,           /* blocks.l.ln2.hook_scale   [pos, 1] */
    PL_HOOK_LN2_NORMALIZED,      /* blocks.l.ln2.hook_normalized [pos, d_model] */
    PL_HOOK_EXPERT_WEIGHTS, /* blocks.l.mlp.hook_expert_weights [pos, expert], before the choice */
    PL_HOOK_EXPERT_INDICES, /* blocks.l.mlp.hook_expert_indices [pos, chosen], whole numbers */
    PL_HOOK_MLP_PRE,        /* blocks.l.mlp.hook_pre     [pos, d_mlp]; gated: before activation */
    PL_HOOK_MLP_PRE_LINEAR, /* blocks.l.mlp.hook_pre_linear [pos, d_mlp], gated models only */
    PL_HOOK_MLP_POST,       /* blocks.l.mlp.hook_post    [pos, d_mlp] */
    PL_HOOK_LN2_POST_SCALE, /* blocks.l.ln2_post.hook_scale [pos, 1]; a second norm */
    PL_HOOK_LN2_POST_NORMALIZED, /* blocks.l.ln2_post.hook_normalized [pos, d_model] */
    PL_HOOK_MLP_OUT,             /* blocks.l.hook_mlp_out     [pos, d_model] */
    PL_HOOK_RESID_POST,          /* blocks.l.hook_resid_post  [pos, d_model] */
    PL_HOOK_LN_FINAL_SCALE,      /* ln_final.hook_scale      [pos, 1] */
    PL_HOOK_LN_FINAL_NORMALIZED, /* ln_final.hook_normalized [pos, d_model] */
    PL_HOOK_LOGITS,              /* hook_logits               [rows with logits, d_vocab] */
    PL_N_POINTS
} pl_point;

typedef struct pl_sequence pl_sequence;

/* The rows that one sequence has in a pass: a run of new positions. */
typedef struct pl_span {
    pl_sequence *seq;
    int64_t first_row, n_rows;
    int64_t first_pos;        /* absolute position of the first row */
    int64_t call_pos, call_n; /* first position and rows of the whole call, of which a pass may
                                 hold a part only */
} pl_span;

/* Where and when a hook fires. Dead after the call, as all it points to. */
typedef struct pl_hook_at {
    pl_point point;
    int layer;            /* -1 outside the blocks */
    const void *sequence; /* the pl_sequence, for identity; NULL: batched */
    int64_t pos;          /* absolute position of the first row; -1: batched */
    int64_t n_rows;
    int64_t call_pos, call_n; /* as in pl_span; not batched only */
    const pl_span *spans;     /* [n_spans], batched only: whose rows act holds, in order */
    int64_t n_spans;
} pl_hook_at;

/* act is the live view of one sequence's rows, or of every sequence's where the hook is batched:
 * writing changes the pass. It is dead after the call. A failure aborts the pass and leaves every
 * sequence as it was. */
typedef pl_status (*pl_hook_fn)(void *context, pl_tensor *act, const pl_hook_at *at, pl_error *err);

typedef struct pl_point_info {
    const char *name; /* "hook_resid_pre", after "blocks.{l}." and the part, e.g. "attn." */
    const char
        *part; /* "", "attn.", "attn.q_norm.", "mlp.", "ln1.", "ln1_post.", "ln_final.", ... */
    bool in_block;
    const char *dims;    /* names of the dimensions, "pos,head,d_head" */
    const char *formula; /* one line */
} pl_point_info;

const pl_point_info *pl_point_get(pl_point point);

typedef struct pl_hooks pl_hooks; /* of a session: pl_session_hooks */

typedef struct pl_hook_options {
    const void *sequence; /* NULL: every sequence; otherwise only this one */
    bool batched;         /* once per point with all rows, not once per sequence; not for
                             attn_scores and pattern, which are one sequence's by nature */
    bool read;            /* never writes: what is made for hooks alone need not be read back */
} pl_hook_options;

/* Registers fn at a point, for one layer or all (-1); id is for removal. options NULL: none set.
 * Inside a hook: the new one waits for the next point. PL_ERR_ARGUMENT for a layer that is not
 * there or options that contradict each other. */
pl_status pl_hooks_add(pl_hooks *hooks, uint64_t *id, pl_point point, int layer,
                       const pl_hook_options *options, pl_hook_fn fn, void *context, pl_error *err);
/* False when there is no such hook. Safe inside a hook: a removed one is not called again. */
bool pl_hooks_remove(pl_hooks *hooks, uint64_t id);

/* -- sessions and sequences ------------------------------------------------------------------- */

/* A session is used by one thread at a time and owns workspace, page pool and hooks. Sequences
 * hold their session: it is freed with the last of them. */
typedef struct pl_session pl_session;

typedef struct pl_session_options {
    int n_threads; /* 0: as many as cores */
    bool exact;    /* float32 activations against quantised weights too */
    /* Prompts meet F32, F16 and BF16 weights in bfloat16 where the processor can: at least twice as
     * fast, three digits, and a row's numbers then depend on its company. Not with exact. */
    bool fast;
    pl_dtype kv_dtype;     /* PL_F16, PL_F32, or PL_Q8_0 where 32 divides d_head */
    int64_t n_batch;       /* rows of one pass at most; longer prompts run in chunks */
    int64_t parallel_work; /* multiply-adds from which threads share an operation; no result depends
                              on it */
    int64_t n_ctx; /* positions of a sequence at most; 0: the model's, or those that it had before
                      tables of rotations for longer contexts (longrope), which more asks for; more
                      than the model's only with rotary */
    /* Fail with PL_ERR_ARGUMENT at the first point where a NaN or an infinity appears, whether a
     * hook wrote it or it was computed: "hook_resid_post, layer 3: NaN at position 2, column 17,
     * written by a hook". Scores and logits may be -inf. */
    bool check_finite;
    /* Recorded passes keep one residual stream of about the root of n_layers layers, and work the
     * rest out again on the way back; layers with hooks are kept. */
    bool recompute;
    /* Polled once a layer; true stops the pass with PL_ERR_INTERRUPTED. May be NULL. */
    bool (*interrupt)(void *context);
    void *interrupt_context;
} pl_session_options;

/* n_threads 0, not exact, F16, n_batch 512, parallel_work 2^16. */
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

/* What sequences made from now on wear, see pl_sequence_set_adapter. */
pl_status pl_session_set_adapter(pl_session *session, pl_adapter *adapter, float scale,
                                 pl_error *err);

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

/* Puts an adapter on, changes its scale, or with 0 takes it off. Positions that the sequence holds
 * keep the keys and values that they have, and count as stale. Forks wear the same.
 * PL_ERR_ARGUMENT: an adapter of another model, a scale that is not finite, more than 64 at once.
 * PL_ERR_STATE: a pass is running over it. */
pl_status pl_sequence_set_adapter(pl_sequence *seq, pl_adapter *adapter, float scale,
                                  pl_error *err);
/* What it wears, in the order put on: adapters [n] at least, NULL to count only. Returns n. */
size_t pl_sequence_adapters(const pl_sequence *seq, pl_adapter_use *uses, size_t n);

/* How many positions, from the first on, were computed before the adapters last changed. */
int64_t pl_sequence_stale(const pl_sequence *seq);

/* Runs all tokens again, so that nothing is stale and keys and values are what they would be had
 * the sequence begun with its adapters. On error it is as it was. */
pl_status pl_sequence_recompute(pl_sequence *seq, pl_error *err);

/* Memory for n positions in all, so that extending to there allocates nothing. */
pl_status pl_sequence_reserve(pl_sequence *seq, int64_t n, pl_error *err);

/* Feeds n tokens and advances the sequence.
 *   tokens  [n], ids in [0, d_vocab), n >= 1
 *   logits  PL_LOGITS_LAST: [d_vocab]; PL_LOGITS_ALL: [n, d_vocab]; PL_LOGITS_NONE: NULL
 * A model without a causal mask (config: causal) reads a text in one call: PL_ERR_STATE where the
 * sequence holds positions already. PL_ERR_UNSUPPORTED: logits of a model without an unembedding.
 * On error the sequence is unchanged and *err says why. */
pl_status pl_sequence_extend(pl_sequence *seq, const int32_t *tokens, int64_t n, pl_logits which,
                             float *logits, pl_error *err);

typedef struct pl_extension {
    pl_sequence *seq; /* all of one session, no sequence twice */
    const int32_t *tokens;
    int64_t n;
    pl_logits which;
    float *logits;
    const int32_t *types; /* [n], kinds of tokens in [0, n_token_types); NULL: all 0 */
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

#ifdef __cplusplus
}
#endif

#endif
