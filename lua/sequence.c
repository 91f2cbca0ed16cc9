/* Sequences: the tokens so far and their keys and values. */
#include <limits.h>
#include <string.h>

#include "common.h"
#include "handles.h"
#include "tensor.h"
#include "type.h"

pl_lua_sequence *pl_lua_check_sequence(lua_State *L, int arg) {
    pl_lua_sequence *s = luaL_checkudata(L, arg, PL_LUA_SEQUENCE);
    if (!s->seq) pl_lua_fail(L, PL_ERR_STATE, "the sequence is closed");
    if (!s->owner->session) pl_lua_fail(L, PL_ERR_STATE, "the sequence's session is closed");
    return s;
}

static void check_idle(lua_State *L, const pl_lua_sequence *s) {
    if (s->busy) pl_lua_fail(L, PL_ERR_STATE, "the sequence is in use by a running pass");
}

/* Pushes a closed sequence of the session at that index. */
static pl_lua_sequence *push_closed(lua_State *L, int session) {
    session = lua_absindex(L, session);
    pl_lua_sequence *s = lua_newuserdatauv(L, sizeof *s, 1);
    *s = (pl_lua_sequence){.owner = lua_touserdata(L, session)};
    luaL_setmetatable(L, PL_LUA_SEQUENCE);
    lua_pushvalue(L, session);
    lua_setiuservalue(L, -2, 1);
    return s;
}

/* Lets hooks find the userdata of a pl_sequence: at.seq. */
static void enlist(lua_State *L, int sequence, const pl_sequence *seq) {
    sequence = lua_absindex(L, sequence);
    lua_getiuservalue(L, sequence, 1);
    lua_getiuservalue(L, -1, PL_UV_SEQUENCES);
    lua_pushvalue(L, sequence);
    lua_rawsetp(L, -2, seq);
    lua_pop(L, 2);
}

/* session:sequence() */
static int new (lua_State *L) {
    pl_lua_session *owner = pl_lua_check_session(L, 1);
    pl_lua_sequence *s = push_closed(L, 1);
    pl_error err;
    if (pl_sequence_new(&s->seq, owner->session, &err) != PL_OK) pl_lua_raise(L, &err);
    enlist(L, -1, s->seq);
    return 1;
}

static void release(lua_State *L, pl_lua_sequence *s, int index) {
    if (!s->seq) return;
    lua_getiuservalue(L, index, 1);
    if (s->owner->session) pl_lua_hooks_drop(L, lua_gettop(L), s->seq);
    lua_pop(L, 1);
    pl_sequence_free(s->seq);
    s->seq = NULL;
}

static int close(lua_State *L) {
    pl_lua_sequence *s = luaL_checkudata(L, 1, PL_LUA_SEQUENCE);
    check_idle(L, s);
    release(L, s, 1);
    return 0;
}

/* seq:fork() -> a sequence with the same tokens that goes its own way; the hooks of this sequence
 * act on it too. */
static int fork(lua_State *L) {
    pl_lua_sequence *s = pl_lua_check_sequence(L, 1);
    lua_settop(L, 1);
    lua_getiuservalue(L, 1, 1);
    pl_lua_sequence *copy = push_closed(L, 2);
    pl_error err;
    if (pl_sequence_fork(&copy->seq, s->seq, &err) != PL_OK) pl_lua_raise(L, &err);
    enlist(L, 3, copy->seq);
    pl_lua_hooks_share(L, 2, s->seq, copy->seq);
    pl_lua_hooks_clone_states(L, 2, s->seq, copy->seq);
    return 1;
}

/* seq:truncate(n): keeps the first n positions; n < 0 drops -n. */
static int truncate(lua_State *L) {
    pl_lua_sequence *s = pl_lua_check_sequence(L, 1);
    lua_Integer n = luaL_checkinteger(L, 2);
    if (n < 0) n += pl_sequence_length(s->seq);
    pl_error err;
    if (pl_sequence_truncate(s->seq, n, &err) != PL_OK) pl_lua_raise(L, &err);
    lua_settop(L, 1);
    return 1;
}

/* seq:rollback(checkpoint): holds again what it held then. The checkpoint stays good. */
static int rollback(lua_State *L) {
    pl_lua_sequence *s = pl_lua_check_sequence(L, 1);
    pl_lua_sequence *then = pl_lua_check_sequence(L, 2);
    check_idle(L, s);
    if (s->owner != then->owner)
        pl_lua_fail(L, PL_ERR_ARGUMENT, "the checkpoint belongs to another session");
    lua_settop(L, 2);
    lua_getiuservalue(L, 1, 1);
    /* The fork is held by a userdata until it takes the old one's place. */
    pl_lua_sequence *holder = push_closed(L, 3);
    pl_error err;
    if (pl_sequence_fork(&holder->seq, then->seq, &err) != PL_OK) pl_lua_raise(L, &err);
    pl_lua_hooks_share(L, 3, s->seq, holder->seq);
    pl_lua_hooks_clone_states(L, 3, then->seq, holder->seq);
    enlist(L, 1, holder->seq);
    pl_sequence *old = s->seq;
    s->seq = holder->seq;
    holder->seq = old;
    release(L, holder, 4);
    lua_settop(L, 1);
    return 1;
}

/* -- feeding ------------------------------------------------------------------------------- */

pl_logits pl_lua_check_logits(lua_State *L, int options, pl_logits otherwise) {
    static const char *const names[] = {"none", "last", "all", NULL};
    if (lua_isnoneornil(L, options)) return otherwise;
    pl_logits which = otherwise;
    if (lua_getfield(L, options, "logits") != LUA_TNIL) {
        const char *value = lua_tostring(L, -1);
        int i = 0;
        while (value && names[i] && strcmp(value, names[i]) != 0) i++;
        if (!value || !names[i])
            pl_lua_fail(L, PL_ERR_ARGUMENT, "logits = %s: expected 'last', 'all' or 'none'",
                        luaL_tolstring(L, -1, NULL));
        which = (pl_logits)i;
    }
    lua_pop(L, 1);
    return which;
}

static const pl_tokenizer *tokenizer_of(const pl_lua_sequence *s) {
    return pl_session_model(s->owner->session)->tokenizer;
}

/* Pushes the tensor that the logits go into: options.out, or a new one; nil for none. */
static float *push_logits(lua_State *L, int options, const pl_lua_sequence *s, pl_logits which,
                          int64_t n) {
    if (which == PL_LOGITS_NONE) {
        lua_pushnil(L);
        return NULL;
    }
    int64_t d_vocab = pl_session_model(s->owner->session)->config.d_vocab;
    if (!lua_isnoneornil(L, options)) {
        if (lua_getfield(L, options, "out") != LUA_TNIL) {
            const pl_tensor *out = pl_lua_check_writable(L, -1);
            int64_t wanted = which == PL_LOGITS_ALL ? n * d_vocab : d_vocab;
            char shape[PL_SHAPE_TEXT];
            if (out->dtype != PL_F32 || !pl_tensor_contiguous(out) ||
                pl_tensor_count(out) != wanted || out->n_dims < 1 ||
                out->shape[out->n_dims - 1] != d_vocab)
                pl_lua_fail(L, PL_ERR_SHAPE,
                            "out is %s %s: expected contiguous float32 with %lld elements",
                            pl_dtype_get(out->dtype)->name, pl_tensor_shape_text(out, shape),
                            (long long)wanted);
            return out->data;
        }
        lua_pop(L, 1);
    }
    pl_tensor t;
    pl_error err;
    bool all = which == PL_LOGITS_ALL;
    int64_t shape[] = {all ? n : d_vocab, d_vocab};
    if (pl_tensor_new(&t, PL_F32, all ? 2 : 1, shape, &err) != PL_OK) pl_lua_raise(L, &err);
    memcpy(t.dim[0], "pos", sizeof "pos");
    memcpy(t.dim[all], "d_vocab", sizeof "d_vocab");
    pl_lua_push_tensor(L, &t);
    return t.data;
}

static const char *const extend_options[] = {"logits", "out", "types", NULL};

/* seq:extend(text or ids [, {logits = "last" | "all" | "none", out = tensor, types = ids}])
 * -> logits: [d_vocab], [pos, d_vocab], or nothing. A failed call leaves the sequence as it was. */
static int extend(lua_State *L) {
    pl_lua_sequence *s = pl_lua_check_sequence(L, 1);
    lua_settop(L, 3);
    pl_lua_check_options(L, 3, extend_options);
    pl_extension item = {.seq = s->seq, .which = pl_lua_check_logits(L, 3, PL_LOGITS_LAST)};
    item.tokens = pl_lua_check_ids(L, 2, tokenizer_of(s), &item.n);
    item.types = pl_lua_opt_types(L, 3, item.n);
    lua_getiuservalue(L, 1, 1);
    item.logits = push_logits(L, 3, s, item.which, item.n < 1 ? 1 : item.n);
    pl_lua_extend(L, 6, &s, &item, 1);
    return item.which == PL_LOGITS_NONE ? 0 : 1;
}

/* The items of a call with many sequences, whose logits go to a table of results or, recorded, to
 * one tensor; how many rows of it are whose is told behind it. */
static int run_many(lua_State *L, bool recorded) {
    luaL_checktype(L, 1, LUA_TTABLE);
    lua_settop(L, 1);
    lua_Integer n = (lua_Integer)lua_rawlen(L, 1);
    if (n < 1 || n > INT_MAX / 64) pl_lua_fail(L, PL_ERR_ARGUMENT, "extend: an empty list");
    static const char *const known[] = {"logits", "out", "types", "1", "2", NULL};
    lua_newtable(L);                   /* 2: the logits */
    lua_createtable(L, 2 * (int)n, 0); /* 3: what keeps ids and types alive */
    pl_extension *items = lua_newuserdatauv(L, (size_t)n * sizeof *items, 0);
    pl_lua_sequence **seqs = lua_newuserdatauv(L, (size_t)n * sizeof *seqs, 0);
    for (lua_Integer i = 1; i <= n; i++) {
        if (lua_rawgeti(L, 1, i) != LUA_TTABLE)
            pl_lua_fail(L, PL_ERR_ARGUMENT, "extend: item %lld is a %s, expected {seq, ids}",
                        (long long)i, luaL_typename(L, -1));
        int item = lua_gettop(L);
        pl_lua_check_options(L, item, known);
        lua_rawgeti(L, item, 1);
        pl_lua_sequence *s = seqs[i - 1] = pl_lua_check_sequence(L, -1);
        lua_rawgeti(L, item, 2);
        pl_extension *e = &items[i - 1];
        *e = (pl_extension){.seq = s->seq, .which = pl_lua_check_logits(L, item, PL_LOGITS_LAST)};
        e->tokens = pl_lua_check_ids(L, item + 2, tokenizer_of(s), &e->n);
        lua_rawseti(L, 3, 2 * i - 1);
        e->types = pl_lua_opt_types(L, item, e->n);
        lua_rawseti(L, 3, 2 * i);
        if (recorded) {
            e->which = PL_LOGITS_ALL;
        } else {
            e->logits = push_logits(L, item, s, e->which, e->n < 1 ? 1 : e->n);
            if (e->which == PL_LOGITS_NONE) lua_pushboolean(L, false);
            lua_rawseti(L, 2, i);
        }
        if (s->owner != seqs[0]->owner)
            pl_lua_fail(L, PL_ERR_ARGUMENT, "extend: items 1 and %lld belong to two sessions",
                        (long long)i);
        lua_settop(L, 5);
    }
    lua_rawgeti(L, 1, 1);
    lua_rawgeti(L, 6, 1);
    lua_getiuservalue(L, 7, 1);
    if (recorded) {
        pl_lua_record(L, 8, seqs, items, (size_t)n);
        for (lua_Integer i = 1; i <= n; i++) {
            lua_pushinteger(L, items[i - 1].n);
            lua_rawseti(L, 2, i);
        }
        lua_pushvalue(L, 2);
        return 2;
    }
    pl_lua_extend(L, 8, seqs, items, (size_t)n);
    lua_settop(L, 2);
    return 1;
}

/* pl.extend{{seq, ids, logits = ...}, ...} -> a list with the logits of each, false for none.
 * One pass over all, whatever their lengths; all advance, or none. */
static int extend_many(lua_State *L) {
    return run_many(L, false);
}

/* forward{{seq, ids}, ...} -> logits [pos of all, d_vocab] that know how they were made; the
 * sequences are new and stay empty. */
static int forward_many(lua_State *L) {
    return run_many(L, true);
}

/* -- facts --------------------------------------------------------------------------------- */

/* seq:tokens() -> int32 tensor [pos] */
static int tokens(lua_State *L) {
    pl_lua_sequence *s = pl_lua_check_sequence(L, 1);
    int64_t n = pl_sequence_length(s->seq);
    pl_tensor t;
    pl_error err;
    if (pl_tensor_new(&t, PL_I32, 1, &n, &err) != PL_OK) pl_lua_raise(L, &err);
    if (n) memcpy(t.data, pl_sequence_tokens(s->seq), (size_t)n * sizeof(int32_t));
    memcpy(t.dim[0], "pos", sizeof "pos");
    pl_lua_push_tensor(L, &t);
    return 1;
}

/* seq:reserve(n): memory for n positions in all, so that extending to there allocates nothing. */
static int reserve(lua_State *L) {
    pl_lua_sequence *s = pl_lua_check_sequence(L, 1);
    pl_error err;
    if (pl_sequence_reserve(s->seq, luaL_checkinteger(L, 2), &err) != PL_OK) pl_lua_raise(L, &err);
    return 0;
}

static int get_length(lua_State *L) {
    lua_pushinteger(L, pl_sequence_length(pl_lua_check_sequence(L, 1)->seq));
    return 1;
}
static int get_session(lua_State *L) {
    pl_lua_check_sequence(L, 1);
    lua_getiuservalue(L, 1, 1);
    return 1;
}
static int get_model(lua_State *L) {
    get_session(L);
    lua_getiuservalue(L, -1, PL_UV_MODEL);
    return 1;
}

static int to_string(lua_State *L) {
    const pl_lua_sequence *s = luaL_checkudata(L, 1, PL_LUA_SEQUENCE);
    if (s->seq)
        lua_pushfstring(L, "sequence (%I tokens)", (LUAI_UACINT)pl_sequence_length(s->seq));
    else
        lua_pushliteral(L, "sequence (closed)");
    return 1;
}

void pl_lua_open_sequence(lua_State *L) {
    static const luaL_Reg methods[] = {
        {"extend", extend},     {"fork", fork},         {"checkpoint", fork},
        {"rollback", rollback}, {"truncate", truncate}, {"tokens", tokens},
        {"reserve", reserve},   {"close", close},       {NULL, NULL}};
    static const luaL_Reg getters[] = {{"length", get_length},
                                       {"pos", get_length},
                                       {"session", get_session},
                                       {"model", get_model},
                                       {NULL, NULL}};
    static const luaL_Reg meta[] = {{"__gc", close},
                                    {"__close", close},
                                    {"__len", get_length},
                                    {"__tostring", to_string},
                                    {NULL, NULL}};
    pl_lua_new_type(L, PL_LUA_SEQUENCE, methods, getters, meta);
    lua_pushcfunction(L, extend_many);
    lua_setfield(L, -2, "extend");
    lua_pushcfunction(L, forward_many);
    lua_setfield(L, -2, "forward");
    luaL_getsubtable(L, -1, "types");
    lua_getfield(L, -1, PL_LUA_SESSION);
    lua_pushcfunction(L, new);
    lua_setfield(L, -2, "sequence");
    lua_pop(L, 2);
}
