/* Sessions, and the calls of the engine that run hooks written in Lua. */
#include <stdlib.h>
#include <string.h>

#include "../engine/base/threads.h"
#include "common.h"
#include "handles.h"
#include "tensor.h"
#include "interrupt.h"
#include "type.h"

pl_lua_session *pl_lua_check_session(lua_State *L, int arg) {
    pl_lua_session *s = luaL_checkudata(L, arg, PL_LUA_SESSION);
    if (!s->session) pl_lua_fail(L, PL_ERR_STATE, "the session is closed");
    return s;
}

/* -- making one ---------------------------------------------------------------------------- */

static const char *const precisions[] = {"default", "exact", "fast"};

static const char *precision_of(const pl_session_options *o) {
    return precisions[o->exact ? 1 : o->fast ? 2 : 0];
}

static void read_precision(lua_State *L, int options, pl_session_options *o) {
    if (lua_getfield(L, options, "precision") != LUA_TNIL) {
        const char *value = lua_tostring(L, -1);
        o->exact = value && strcmp(value, precisions[1]) == 0;
        o->fast = value && strcmp(value, precisions[2]) == 0;
        if (!o->exact && !o->fast && !(value && strcmp(value, precisions[0]) == 0))
            pl_lua_fail(L, PL_ERR_ARGUMENT, "precision = %s: expected 'exact', 'default' or 'fast'",
                        luaL_tolstring(L, -1, NULL));
    }
    lua_pop(L, 1);
}

static pl_dtype read_kv(lua_State *L, int options, pl_dtype dtype) {
    if (lua_getfield(L, options, "kv") != LUA_TNIL) {
        const char *value = lua_tostring(L, -1);
        if (!value || !pl_dtype_find(value, &dtype))
            pl_lua_fail(L, PL_ERR_ARGUMENT, "kv = %s: expected 'f16', 'f32' or 'q8_0'",
                        luaL_tolstring(L, -1, NULL));
    }
    lua_pop(L, 1);
    return dtype;
}

static pl_session_options read_options(lua_State *L, int options) {
    static const char *const known[] = {"precision", "kv",           "threads",   "n_batch",
                                        "n_ctx",     "check_finite", "recompute", NULL};
    pl_session_options o = pl_session_options_default();
    o.interrupt = pl_lua_interrupt_poll;
    if (options == 0 || lua_isnoneornil(L, options)) return o;
    options = lua_absindex(L, options);
    pl_lua_check_options(L, options, known);
    int64_t threads = 0;
    pl_lua_opt_integer(L, options, "threads", &threads);
    pl_lua_opt_integer(L, options, "n_batch", &o.n_batch);
    pl_lua_opt_integer(L, options, "n_ctx", &o.n_ctx);
    o.n_threads = threads < -1 ? -1 : threads > PL_MAX_THREADS ? PL_MAX_THREADS + 1 : (int)threads;
    read_precision(L, options, &o);
    pl_lua_opt_bool(L, options, "check_finite", &o.check_finite);
    pl_lua_opt_bool(L, options, "recompute", &o.recompute);
    o.kv_dtype = read_kv(L, options, o.kv_dtype);
    return o;
}

void pl_lua_push_session(lua_State *L, int model, int options) {
    model = lua_absindex(L, model);
    if (options) options = lua_absindex(L, options);
    pl_lua_model *m = pl_lua_check_model(L, model);
    pl_session_options o = read_options(L, options);
    pl_lua_session *s = lua_newuserdatauv(L, sizeof *s, PL_N_SESSION_UV);
    memset(s, 0, sizeof *s);
    luaL_setmetatable(L, PL_LUA_SESSION);
    lua_pushvalue(L, model);
    lua_setiuservalue(L, -2, PL_UV_MODEL);
    lua_newtable(L);
    lua_setiuservalue(L, -2, PL_UV_HOOKS);
    lua_newtable(L);
    lua_createtable(L, 0, 1);
    lua_pushliteral(L, "v");
    lua_setfield(L, -2, "__mode");
    lua_setmetatable(L, -2);
    lua_setiuservalue(L, -2, PL_UV_SEQUENCES);
    pl_error err;
    if (pl_session_new(&s->session, m->model, &o, &err) != PL_OK) pl_lua_raise(L, &err);
}

/* -- calls --------------------------------------------------------------------------------- */

/* The collector sees a userdata of a few bytes; the pages behind it count too. */
static void tell_collector(lua_State *L, pl_lua_session *s) {
    size_t bytes = pl_session_get_counters(s->session).kv_bytes;
    if (bytes > s->told_bytes) pl_lua_add_bytes(L, bytes - s->told_bytes);
    if (bytes < s->told_bytes) pl_lua_drop_bytes(L, s->told_bytes - bytes);
    s->told_bytes = bytes;
}

/* What a pass is asked for. */
typedef struct job {
    const pl_extension *extensions;
    const pl_partial *partials; /* or NULL */
    size_t n;
    int64_t from_layer, to_layer; /* of a partial run */
    pl_tensor *logits;            /* of a recorded pass, or NULL */
    pl_sequence *again;           /* to be computed anew, or NULL */
} job;

static pl_status run(pl_session *session, const job *j, pl_error *err) {
    if (j->again) return pl_sequence_recompute(j->again, err);
    if (j->logits) return pl_session_record(session, j->extensions, j->n, j->logits, err);
    return j->partials
               ? pl_session_partial(session, j->partials, j->n, j->from_layer, j->to_layer, err)
               : pl_session_extend(session, j->extensions, j->n, err);
}

static void run_pass(lua_State *L, int session_index, pl_lua_sequence *const *sequences,
                     const job *j) {
    pl_lua_session *s = pl_lua_check_session(L, session_index);
    luaL_checkstack(L, 16, "a forward pass");
    const pl_lua_session before = *s;
    lua_getiuservalue(L, session_index, PL_UV_HOOKS);
    lua_getiuservalue(L, session_index, PL_UV_SEQUENCES);
    s->L = L;
    s->tables = lua_gettop(L) - 1;
    s->depth++;
    for (size_t i = 0; i < j->n; i++) sequences[i]->busy++;
    pl_error err = {0};
    int top = lua_gettop(L);
    pl_status status = run(s->session, j, &err);
    for (size_t i = 0; i < j->n; i++) sequences[i]->busy--;
    s->L = before.L;
    s->tables = before.tables;
    s->depth = before.depth;
    /* A hook that failed has left its error object on the stack. */
    if (status == PL_ERR_CALLBACK && lua_gettop(L) > top) lua_error(L);
    if (status == PL_ERR_INTERRUPTED) pl_lua_interrupt_raised(L);
    if (status != PL_OK) pl_lua_raise(L, &err);
    lua_settop(L, top - 2);
    tell_collector(L, s);
}

void pl_lua_extend(lua_State *L, int session_index, pl_lua_sequence *const *sequences,
                   const pl_extension *items, size_t n) {
    run_pass(L, session_index, sequences, &(job){.extensions = items, .n = n});
}

void pl_lua_record(lua_State *L, int session_index, pl_lua_sequence *const *sequences,
                   const pl_extension *items, size_t n) {
    pl_tensor logits;
    run_pass(L, session_index, sequences, &(job){.extensions = items, .n = n, .logits = &logits});
    static const char *const names[] = {"pos", "d_vocab"};
    pl_tensor_name(&logits, names, NULL);
    pl_lua_push_tensor(L, &logits);
}

void pl_lua_partial(lua_State *L, int session_index, pl_lua_sequence *const *sequences,
                    const pl_partial *items, size_t n, int64_t from_layer, int64_t to_layer) {
    const job j = {.partials = items, .n = n, .from_layer = from_layer, .to_layer = to_layer};
    run_pass(L, session_index, sequences, &j);
}

void pl_lua_recompute(lua_State *L, int session_index, pl_lua_sequence *seq) {
    run_pass(L, session_index, &seq, &(job){.n = 1, .again = seq->seq});
}

/* -- methods ------------------------------------------------------------------------------- */

static int close(lua_State *L) {
    pl_lua_session *s = luaL_checkudata(L, 1, PL_LUA_SESSION);
    if (!s->session) return 0;
    if (s->depth > 0) pl_lua_fail(L, PL_ERR_STATE, "the session is in use by a running pass");
    pl_lua_hooks_reset(L, 1);
    pl_lua_drop_bytes(L, s->told_bytes);
    s->told_bytes = 0;
    pl_session_free(s->session);
    s->session = NULL;
    return 0;
}

static void set_counter(lua_State *L, const char *name, uint64_t value) {
    lua_pushinteger(L, (lua_Integer)value);
    lua_setfield(L, -2, name);
}

/* session:counters() -> {passes, rows, layer_rows, weight_bytes, workspace_bytes, kv_bytes} */
static int counters(lua_State *L) {
    pl_session_counters c = pl_session_get_counters(pl_lua_check_session(L, 1)->session);
    lua_createtable(L, 0, 6);
    set_counter(L, "passes", c.passes);
    set_counter(L, "rows", c.rows);
    set_counter(L, "layer_rows", c.layer_rows);
    set_counter(L, "weight_bytes", c.weight_bytes);
    set_counter(L, "workspace_bytes", c.workspace_bytes);
    set_counter(L, "kv_bytes", c.kv_bytes);
    return 1;
}

/* session:set_threads(n); 0: as many as cores. The results do not depend on it. */
static int set_threads(lua_State *L) {
    pl_lua_session *s = pl_lua_check_session(L, 1);
    lua_Integer n = luaL_checkinteger(L, 2);
    pl_error err;
    int n_threads = n < 0 || n > PL_MAX_THREADS ? -1 : (int)n;
    if (pl_session_set_threads(s->session, n_threads, &err) != PL_OK) pl_lua_raise(L, &err);
    return 0;
}

/* session:check_finite(true or false): whether a pass fails where a NaN or an infinity appears. */
static int check_finite(lua_State *L) {
    luaL_checktype(L, 2, LUA_TBOOLEAN);
    pl_session_set_check_finite(pl_lua_check_session(L, 1)->session, lua_toboolean(L, 2));
    return 0;
}

static int get_model(lua_State *L) {
    pl_lua_check_session(L, 1);
    lua_getiuservalue(L, 1, PL_UV_MODEL);
    return 1;
}

static const pl_session_options *options_of(lua_State *L) {
    return pl_session_get_options(pl_lua_check_session(L, 1)->session);
}

static int get_threads(lua_State *L) {
    lua_pushinteger(L, options_of(L)->n_threads);
    return 1;
}
static int get_precision(lua_State *L) {
    lua_pushstring(L, precision_of(options_of(L)));
    return 1;
}
static int get_kv(lua_State *L) {
    lua_pushstring(L, pl_dtype_get(options_of(L)->kv_dtype)->name);
    return 1;
}
static int get_n_batch(lua_State *L) {
    lua_pushinteger(L, options_of(L)->n_batch);
    return 1;
}
static int get_n_ctx(lua_State *L) {
    lua_pushinteger(L, options_of(L)->n_ctx);
    return 1;
}

static int to_string(lua_State *L) {
    const pl_lua_session *s = luaL_checkudata(L, 1, PL_LUA_SESSION);
    if (!s->session) {
        lua_pushliteral(L, "session (closed)");
        return 1;
    }
    const pl_session_options *o = pl_session_get_options(s->session);
    lua_pushfstring(L, "session (%d threads, %s precision, keys and values in %s, n_ctx %I)",
                    o->n_threads, precision_of(o), pl_dtype_get(o->kv_dtype)->name,
                    (LUAI_UACINT)o->n_ctx);
    return 1;
}

void pl_lua_open_session(lua_State *L) {
    static const luaL_Reg methods[] = {{"counters", counters},
                                       {"set_threads", set_threads},
                                       {"check_finite", check_finite},
                                       {"close", close},
                                       {NULL, NULL}};
    static const luaL_Reg getters[] = {{"model", get_model},
                                       {"threads", get_threads},
                                       {"kv", get_kv},
                                       {"precision", get_precision},
                                       {"n_batch", get_n_batch},
                                       {"n_ctx", get_n_ctx},
                                       {NULL, NULL}};
    static const luaL_Reg meta[] = {
        {"__gc", close}, {"__close", close}, {"__tostring", to_string}, {NULL, NULL}};
    pl_lua_new_type(L, PL_LUA_SESSION, methods, getters, meta);
}
