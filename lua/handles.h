/* The userdata of models, sessions, sequences and tokenizers, for the files that bind them.
 *
 *     sequence ──▶ session ──▶ model          (uservalues keep parents alive)
 *        ▲            │  hooks: handles by address; sequences: weak, by address
 *        └── weak ────┘
 *
 * A userdata is created closed, then acquires; __gc, __close and :close() share one finaliser
 * that may run twice. Using a closed one raises. */
#ifndef PL_LUA_HANDLES_H
#define PL_LUA_HANDLES_H

#include <lauxlib.h>
#include <lua.h>

#include "../engine/model/model.h"
#include "../engine/model/hooks.h"

#define PL_LUA_MODEL "perilune.model"
#define PL_LUA_SESSION "perilune.session"
#define PL_LUA_SEQUENCE "perilune.sequence"
#define PL_LUA_TOKENIZER "perilune.tokenizer"
#define PL_LUA_DECODER "perilune.decoder"
#define PL_LUA_HOOK "perilune.hook"
#define PL_LUA_CHAIN "perilune.chain"
#define PL_LUA_GRAMMAR "perilune.grammar"

/* Uservalues: 1 the default session or nil, 2 its options (a table), 3 the tokenizer or nil. */
typedef struct pl_lua_model {
    pl_model *model; /* NULL when closed */
} pl_lua_model;
enum { PL_UV_DEFAULT_SESSION = 1, PL_UV_SESSION_OPTIONS, PL_UV_TOKENIZER, PL_N_MODEL_UV = 3 };

/* Uservalues: 1 the model, 2 {lightuserdata of a hook = its handle}, 3 {lightuserdata of a
 * pl_sequence = its userdata}, weak. */
typedef struct pl_lua_session {
    pl_session *session; /* NULL when closed */
    lua_State *L;        /* whose call runs now; NULL outside of calls */
    int tables;          /* index in L's stack of the hooks table; the sequences table follows */
    int depth;           /* calls within calls */
    int n_sequence_hooks;
    size_t told_bytes; /* keys and values that the collector has been told of */
} pl_lua_session;
enum { PL_UV_MODEL = 1, PL_UV_HOOKS, PL_UV_SEQUENCES, PL_N_SESSION_UV = 3 };

/* Uservalue 1: the session. */
typedef struct pl_lua_sequence {
    pl_sequence *seq; /* NULL when closed */
    pl_lua_session *owner;
    int busy; /* calls that run over it */
} pl_lua_sequence;

/* The field `logits` of the table of options at an index, "none", "last" or "all"; otherwise where
 * there is no table or no such field. Raises PL_ERR_ARGUMENT. */
pl_logits pl_lua_check_logits(lua_State *L, int options, pl_logits otherwise);

/* Argument arg, open; raises otherwise. [-0, +0, v] */
pl_lua_model *pl_lua_check_model(lua_State *L, int arg);
pl_lua_session *pl_lua_check_session(lua_State *L, int arg);
pl_lua_sequence *pl_lua_check_sequence(lua_State *L, int arg);

/* Pushes the userdata of a new model, which the userdata now owns (on failure too), with its
 * tokenizer and options for the default session at index `options` (0: none). [-0, +1, m] */
void pl_lua_push_model(lua_State *L, pl_model *model, int options);

/* Pushes the default session of the model at index model, made on first use. [-0, +1, e] */
void pl_lua_push_default_session(lua_State *L, int model);

/* Pushes a new session of the model at index model; options: index of a table, or 0. [-0, +1, e] */
void pl_lua_push_session(lua_State *L, int model, int options);

/* Pushes a tokenizer that lives as long as `model` does (which is retained); with model NULL the
 * userdata owns tok, on failure too. [-0, +1, m] */
void pl_lua_push_tokenizer(lua_State *L, pl_tokenizer *tok, pl_model *model);

/* The tokenizer at arg, open; raises otherwise. Borrowed. [-0, +0, v] */
const pl_tokenizer *pl_lua_check_tokenizer(lua_State *L, int arg);

/* A grammar as a sampler's state: the userdata at arg, which must stay alive, or NULL when it is
 * another thing; and what the sampler does. It goes on from where the grammar stands, and a reset
 * of its chain leaves it there. [-0, +0, -] */
void *pl_lua_test_grammar(lua_State *L, int arg);
struct pl_candidates;
pl_status pl_lua_apply_grammar(void *userdata, struct pl_candidates *c, pl_error *err);
pl_status pl_lua_accept_grammar(void *userdata, int32_t id, pl_error *err);

/* The ids that a script means by the value at index arg: an integer, a list of integers, a 1-D
 * integer tensor, or a text, which `tok` encodes (NULL: text is an error). Pushes whatever keeps
 * them alive, or nil. [-0, +1, v] */
const int32_t *pl_lua_check_ids(lua_State *L, int arg, const pl_tokenizer *tok, int64_t *n);

/* The kinds of n tokens, field `types` of the table at index options, which may be none; NULL where
 * it has no such field. Pushes whatever keeps them alive, or nil. [-0, +1, v] */
const int32_t *pl_lua_opt_types(lua_State *L, int options, int64_t n);

/* Runs pl_session_extend for items whose sequences are those of `sequences` [n]; raises what went
 * wrong, a hook's own error included. session_index: the session's userdata. [-0, +0, e] */
void pl_lua_extend(lua_State *L, int session_index, pl_lua_sequence *const *sequences,
                   const pl_extension *items, size_t n);
/* The same for pl_session_record; pushes the logits [rows, d_vocab]. [-0, +1, e] */
void pl_lua_record(lua_State *L, int session_index, pl_lua_sequence *const *sequences,
                   const pl_extension *items, size_t n);
/* The same for pl_session_partial. */
void pl_lua_partial(lua_State *L, int session_index, pl_lua_sequence *const *sequences,
                    const pl_partial *items, size_t n, int64_t from_layer, int64_t to_layer);
/* The same for pl_sequence_recompute. */
void pl_lua_recompute(lua_State *L, int session_index, pl_lua_sequence *seq);

/* Hooks of one sequence: a fork gets those of its original; a freed one loses its own. */
void pl_lua_hooks_share(lua_State *L, int session_index, const pl_sequence *from,
                        const pl_sequence *to);
/* The states that hooks keep for one sequence, copied for another. May raise what a copying
 * function of the script raises. */
void pl_lua_hooks_clone_states(lua_State *L, int session_index, const pl_sequence *from,
                               const pl_sequence *to);
void pl_lua_hooks_drop(lua_State *L, int session_index, const pl_sequence *seq);
/* All hooks of a session. */
void pl_lua_hooks_reset(lua_State *L, int session_index);

/* Copies the tensor at arg, which a script's function returned, into `to`: anything but a tensor of
 * the very same shape raises, and the message begins with who. [-0, +0, v] */
void pl_lua_replace(lua_State *L, const pl_tensor *to, int arg, const char *who);

/* The fields of a description: pushes {d_model = ..., ...}; reads one field from the value on top
 * of the stack (false: no such field). [-0, +1, m], [-0, +0, v] */
void pl_lua_push_config(lua_State *L, const pl_config *config);
bool pl_lua_set_config(lua_State *L, pl_config *config, const char *field);
/* Their names, for messages. [-0, +0, -] */
size_t pl_lua_config_fields(const char **names, size_t most);

/* Each pushes nothing and fills the table on top of the stack with its constructors. */
void pl_lua_open_model(lua_State *L);
void pl_lua_open_session(lua_State *L);
void pl_lua_open_sequence(lua_State *L);
void pl_lua_open_tokenizer(lua_State *L);
void pl_lua_open_trainer(lua_State *L);
void pl_lua_open_hooks(lua_State *L);
void pl_lua_open_sampler(lua_State *L);
void pl_lua_open_plugins(lua_State *L);
void pl_lua_open_partial(lua_State *L);  /* after the sequences, to whose methods it adds */
void pl_lua_open_export(lua_State *L);   /* after the models, to whose methods it adds */
void pl_lua_open_weights(lua_State *L);  /* likewise */
void pl_lua_open_adapters(lua_State *L); /* after sequences too */
void pl_lua_open_tensor_files(lua_State *L);
void pl_lua_open_json(lua_State *L);
void pl_lua_open_grammar(lua_State *L);

#endif
