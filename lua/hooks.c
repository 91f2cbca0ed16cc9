/* Hooks written in Lua: functions that see activations live, and may change them.
 *
 * A handle is registered at any number of points and layers; the session's table keeps it, so
 * that no hook vanishes with the collection of its handle. Inside a pass everything that can
 * raise runs protected: an error leaves its object on the stack of the call and travels through
 * the engine as PL_ERR_CALLBACK, see pl_lua_extend. */
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "common.h"
#include "grad.h"
#include "handles.h"
#include "tensor.h"
#include "type.h"

/* One registration in the engine. */
typedef struct part {
    uint64_t id;
    pl_point point;
    int layer;              /* -1: every layer, or outside of the blocks */
    const pl_sequence *seq; /* NULL: every sequence */
} part;

/* Uservalues: the function; the session; what was asked for, for people; where the hook has a
 * state, the states by sequence, the function that makes one and the one that copies one. */
enum { UV_FUNCTION = 1, UV_SESSION, UV_TEXT, UV_STATES, UV_NEW_STATE, UV_CLONE, N_UV = 6 };

typedef struct handle {
    pl_lua_session *owner;
    part *parts; /* [n]; none: removed */
    size_t n, capacity;
    int64_t *pos; /* [n_pos]; fires for these only, each with its row; none: all rows at once */
    size_t n_pos;
    bool read;     /* never writes */
    bool batched;  /* once for all sequences */
    bool backward; /* sees gradients, on the way back of a recorded pass */
    bool stateful;
    lua_Integer fired;
    lua_Number seconds; /* in the function */
    uint64_t serial;    /* ascending with registration */
} handle;

static handle *check(lua_State *L, int arg) {
    return luaL_checkudata(L, arg, PL_LUA_HOOK);
}

/* -- firing -------------------------------------------------------------------------------- */

/* A call that begins a sequence or brings several tokens. */
static bool is_prefill(const pl_hook_at *at) {
    return at->call_pos == 0 || at->call_n > 1;
}

typedef struct firing {
    handle *hook;
    pl_tensor act;
    const pl_hook_at *at;
    int64_t pos, n; /* of the rows in act */
} firing;

static void set_integer(lua_State *L, const char *name, int64_t value) {
    lua_pushinteger(L, value);
    lua_setfield(L, -2, name);
}

/* at.spans of a batched hook: {{seq, pos, n, first}, ...}, whose rows stand where in act. */
static void push_spans(lua_State *L, const pl_hook_at *at, int sequences) {
    lua_createtable(L, (int)at->n_spans, 0);
    for (int64_t i = 0; i < at->n_spans; i++) {
        const pl_span *span = &at->spans[i];
        lua_createtable(L, 0, 4);
        lua_rawgetp(L, sequences, span->seq);
        lua_setfield(L, -2, "seq");
        set_integer(L, "pos", span->first_pos);
        set_integer(L, "n", span->n_rows);
        set_integer(L, "first", span->first_row);
        lua_rawseti(L, -2, i + 1);
    }
}

/* {point, layer, pos, n, phase, seq}; batched: {point, layer, n, spans}. sequences is the session's
 * table of them. */
static void push_at(lua_State *L, const firing *f, int sequences) {
    const pl_point_info *info = pl_point_get(f->at->point);
    lua_createtable(L, 0, 6);
    if (info->in_block)
        lua_pushfstring(L, "blocks.%d.%s%s", f->at->layer, info->part, info->name);
    else
        lua_pushfstring(L, "%s%s", info->part, info->name);
    lua_setfield(L, -2, "point");
    if (info->in_block) set_integer(L, "layer", f->at->layer);
    set_integer(L, "n", f->n);
    if (f->hook->batched) {
        push_spans(L, f->at, sequences);
        lua_setfield(L, -2, "spans");
        return;
    }
    set_integer(L, "pos", f->pos);
    lua_pushstring(L, is_prefill(f->at) ? "prefill" : "decode");
    lua_setfield(L, -2, "phase");
    lua_rawgetp(L, sequences, f->at->sequence);
    lua_setfield(L, -2, "seq");
}

void pl_lua_replace(lua_State *L, const pl_tensor *to, int arg, const char *who) {
    if (!luaL_testudata(L, arg, PL_LUA_TENSOR))
        pl_lua_fail(L, PL_ERR_ARGUMENT, "%s returned a %s", who, luaL_typename(L, arg));
    const pl_tensor *from = pl_lua_check_tensor(L, arg);
    char got[PL_SHAPE_TEXT], wanted[PL_SHAPE_TEXT];
    bool same = from->n_dims == to->n_dims;
    for (int i = 0; same && i < to->n_dims; i++) same = from->shape[i] == to->shape[i];
    if (!same)
        pl_lua_fail(L, PL_ERR_SHAPE, "%s returned %s: expected %s", who,
                    pl_tensor_shape_text(from, got), pl_tensor_shape_text(to, wanted));
    pl_lua_copy(L, to, from);
}

/* What the function returned takes the activation's place. */
static void replace_act(lua_State *L, const firing *f, int arg) {
    if (lua_isnil(L, arg)) return;
    if (f->hook->read)
        pl_lua_fail(L, PL_ERR_STATE, "a hook with read = true returned a replacement");
    pl_lua_replace(L, &f->act, arg, "a hook");
}

/* Stack: firing, function, activation, at [, state]. */
static int call(lua_State *L) {
    lua_call(L, lua_gettop(L) - 2, 1);
    replace_act(L, lua_touserdata(L, 1), 2);
    return 0;
}

/* Pushes the state that the hook at index has for a sequence, which is made when first needed. */
static void push_state(lua_State *L, int hook, const void *seq) {
    lua_getiuservalue(L, hook, UV_STATES);
    if (lua_rawgetp(L, -1, seq) == LUA_TNIL) {
        lua_pop(L, 1);
        lua_getiuservalue(L, hook, UV_NEW_STATE);
        lua_call(L, 0, 1);
        lua_pushvalue(L, -1);
        lua_rawsetp(L, -3, seq);
    }
    lua_remove(L, -2);
}

static lua_Number now(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (lua_Number)t.tv_sec + 1e-9 * (lua_Number)t.tv_nsec;
}

/* Stack: firing, hooks table, sequences table. The activation expires with the call. */
static int run(lua_State *L) {
    firing *f = lua_touserdata(L, 1);
    int n_arguments = 4;
    lua_rawgetp(L, 2, f->hook);
    if (f->hook->backward) {
        f->hook->fired++;
        lua_getiuservalue(L, 4, UV_FUNCTION);
        push_at(L, f, 3);
        pl_lua_watch_grad(L, &f->act); /* which calls it when the gradient is known */
        return 0;
    }
    pl_lua_lease *lease = pl_lua_push_lease(L);
    lua_pushcfunction(L, call);
    lua_pushvalue(L, 1);
    lua_getiuservalue(L, 4, UV_FUNCTION);
    pl_lua_push_borrowed(L, &f->act, lease, f->hook->read);
    push_at(L, f, 3);
    if (f->hook->stateful) {
        push_state(L, 4, f->at->sequence);
        n_arguments++;
    }
    f->hook->fired++;
    lua_Number began = now();
    int status = lua_pcall(L, n_arguments, 0, 0);
    f->hook->seconds += now() - began;
    pl_lua_end_lease(lease);
    return status == LUA_OK ? 0 : lua_error(L);
}

static pl_status fire_rows(firing *f, pl_error *err) {
    lua_State *L = f->hook->owner->L;
    int tables = f->hook->owner->tables;
    if (!lua_checkstack(L, 8)) return pl_fail(err, PL_ERR_MEMORY, "hooks are nested too deep");
    lua_pushcfunction(L, run);
    lua_pushlightuserdata(L, f);
    lua_pushvalue(L, tables);
    lua_pushvalue(L, tables + 1);
    if (lua_pcall(L, 3, 0, 0) == LUA_OK) return PL_OK;
    return pl_fail(err, PL_ERR_CALLBACK, "a hook failed");
}

/* A negative position counts from the end of the prompt, and means none in other calls. */
static int64_t absolute(const pl_hook_at *at, int64_t pos) {
    if (pos >= 0) return pos;
    return is_prefill(at) ? at->call_pos + at->call_n + pos : -1;
}

static pl_status fire(void *context, pl_tensor *act, const pl_hook_at *at, pl_error *err) {
    firing f = {context, *act, at, at->pos, at->n_rows};
    if (f.hook->backward && !act->storage) return PL_OK; /* nothing is recorded */
    if (f.hook->n_pos == 0) return fire_rows(&f, err);
    int dim = pl_tensor_find_dim(act, "query");
    for (size_t i = 0; i < f.hook->n_pos; i++) {
        f.pos = absolute(at, f.hook->pos[i]);
        f.n = 1;
        int64_t row = f.pos - at->pos;
        if (f.pos < 0 || row < 0 || row >= at->n_rows) continue;
        f.act = *act;
        pl_status status = pl_tensor_narrow(&f.act, dim < 0 ? 0 : dim, row, 1, err);
        if (status == PL_OK) status = fire_rows(&f, err);
        if (status != PL_OK) return status;
    }
    return PL_OK;
}

/* -- registering --------------------------------------------------------------------------- */

static void add_part(lua_State *L, handle *h, pl_point point, int layer, const pl_sequence *seq) {
    if (h->n == h->capacity) {
        size_t capacity = h->capacity ? 2 * h->capacity : 4;
        part *parts = realloc(h->parts, capacity * sizeof *parts);
        if (!parts) pl_lua_fail(L, PL_ERR_MEMORY, "out of memory for a hook");
        h->parts = parts;
        h->capacity = capacity;
    }
    part p = {.point = point, .layer = layer, .seq = seq};
    pl_error err;
    pl_hook_options options = {.sequence = seq, .read = h->read, .batched = h->batched};
    if (pl_hooks_add(pl_session_hooks(h->owner->session), &p.id, point, layer, &options, fire, h,
                     &err) != PL_OK)
        pl_lua_raise(L, &err);
    h->parts[h->n++] = p;
    h->owner->n_sequence_hooks += seq != NULL;
}

static void remove_part(handle *h, size_t i) {
    pl_hooks_remove(pl_session_hooks(h->owner->session), h->parts[i].id);
    h->owner->n_sequence_hooks -= h->parts[i].seq != NULL;
    memmove(h->parts + i, h->parts + i + 1, (h->n - i - 1) * sizeof *h->parts);
    h->n--;
}

/* Takes the handle out of the engine; the caller takes it out of the session's table. */
static void remove_all(handle *h) {
    if (h->owner->session)
        while (h->n) remove_part(h, h->n - 1);
    h->n = h->n_pos = 0;
    free(h->parts);
    free(h->pos);
    h->parts = NULL;
    h->pos = NULL;
    h->capacity = 0;
}

static int64_t check_pos(lua_State *L) {
    int whole;
    int64_t pos = lua_tointegerx(L, -1, &whole);
    if (!whole)
        pl_lua_fail(
            L, PL_ERR_ARGUMENT,
            "pos = %s: expected a whole number: a position from 0, or from -1, the prompt's "
            "last, downwards",
            luaL_tolstring(L, -1, NULL));
    return pos;
}

/* options.pos on top of the stack: a number or a list. */
static void read_pos(lua_State *L, handle *h) {
    bool list = lua_istable(L, -1);
    size_t n = list ? (size_t)lua_rawlen(L, -1) : 1;
    if (n == 0) pl_lua_fail(L, PL_ERR_ARGUMENT, "pos is an empty list");
    h->pos = malloc(n * sizeof *h->pos);
    if (!h->pos) pl_lua_fail(L, PL_ERR_MEMORY, "out of memory for a hook");
    for (; h->n_pos < n; h->n_pos++) {
        if (list)
            lua_rawgeti(L, -1, (lua_Integer)h->n_pos + 1);
        else
            lua_pushvalue(L, -1);
        h->pos[h->n_pos] = check_pos(L);
        lua_pop(L, 1);
    }
}

/* Options of the hook on top of the stack, from index 5: {pos, read, batched, new_state, clone}. */
static void read_options(lua_State *L, handle *h) {
    int hook = lua_gettop(L);
    if (lua_isnoneornil(L, 5)) return;
    if (lua_getfield(L, 5, "pos") != LUA_TNIL) read_pos(L, h);
    lua_getfield(L, 5, "read");
    h->read = lua_toboolean(L, -1);
    lua_getfield(L, 5, "batched");
    h->batched = lua_toboolean(L, -1);
    lua_getfield(L, 5, "backward");
    h->backward = lua_toboolean(L, -1);
    if (lua_getfield(L, 5, "new_state") == LUA_TFUNCTION) {
        h->stateful = true;
        lua_setiuservalue(L, hook, UV_NEW_STATE);
        lua_getfield(L, 5, "clone");
        lua_setiuservalue(L, hook, UV_CLONE);
        lua_newtable(L);
        lua_setiuservalue(L, hook, UV_STATES);
    }
    lua_settop(L, hook);
    if (h->batched && (h->n_pos || h->stateful))
        pl_lua_fail(L, PL_ERR_ARGUMENT, "a batched hook has no pos and no state: see at.spans");
}

/* add(session, places, fn, sequence or nil, options, text) -> handle. places: a list of
 * {index of the point, layer or -1}, which the Lua library makes from names, as it does the
 * options. */
static int add(lua_State *L) {
    pl_lua_session *owner = pl_lua_check_session(L, 1);
    luaL_checktype(L, 2, LUA_TTABLE);
    luaL_checktype(L, 3, LUA_TFUNCTION);
    const pl_sequence *seq = lua_isnoneornil(L, 4) ? NULL : pl_lua_check_sequence(L, 4)->seq;
    lua_settop(L, 6);
    handle *h = lua_newuserdatauv(L, sizeof *h, N_UV);
    *h = (handle){.owner = owner};
    luaL_setmetatable(L, PL_LUA_HOOK);
    lua_pushvalue(L, 3), lua_setiuservalue(L, 7, UV_FUNCTION);
    lua_pushvalue(L, 1), lua_setiuservalue(L, 7, UV_SESSION);
    lua_pushvalue(L, 6), lua_setiuservalue(L, 7, UV_TEXT);
    read_options(L, h);
    lua_getiuservalue(L, 1, PL_UV_HOOKS);
    lua_pushvalue(L, 7);
    lua_rawsetp(L, -2, h);
    for (lua_Integer i = 1, n = (lua_Integer)lua_rawlen(L, 2); i <= n; i++) {
        lua_rawgeti(L, 2, i);
        lua_rawgeti(L, -1, 1);
        lua_rawgeti(L, -2, 2);
        lua_Integer point = luaL_checkinteger(L, -2), layer = luaL_checkinteger(L, -1);
        luaL_argcheck(L, point >= 0 && point < PL_N_POINTS, 2, "no such point");
        luaL_argcheck(L, layer >= -1 && layer < INT32_MAX, 2, "no such layer");
        add_part(L, h, (pl_point)point, (int)layer, seq);
        lua_pop(L, 3);
    }
    if (h->n) h->serial = h->parts[0].id;
    lua_settop(L, 7);
    return 1;
}

/* hook:remove(); a second time does nothing. */
static int remove_hook(lua_State *L) {
    handle *h = check(L, 1);
    lua_settop(L, 1);
    if (h->n) remove_all(h);
    lua_getiuservalue(L, 1, UV_SESSION);
    if (lua_getiuservalue(L, 2, PL_UV_HOOKS) == LUA_TTABLE) {
        lua_pushnil(L);
        lua_rawsetp(L, 3, h);
    }
    return 0;
}

/* Only when the session goes too: its table holds every registered handle. */
static int collect(lua_State *L) {
    handle *h = check(L, 1);
    if (h->owner) remove_all(h);
    return 0;
}

typedef void (*visitor)(lua_State *L, handle *h, const void *from, const void *to);

/* Visits the handles of the session at that index, each on top of the stack. The visitor may take
 * handles out of the table, but not add any. */
static void each(lua_State *L, int session, visitor visit, const void *from, const void *to) {
    luaL_checkstack(L, 12, NULL);
    if (lua_getiuservalue(L, session, PL_UV_HOOKS) == LUA_TTABLE) {
        lua_pushnil(L);
        while (lua_next(L, -2)) {
            int top = lua_gettop(L);
            visit(L, lua_touserdata(L, -1), from, to);
            lua_settop(L, top - 1);
        }
    }
    lua_pop(L, 1);
}

static void share(lua_State *L, handle *h, const void *from, const void *to) {
    for (size_t i = 0, n = h->n; i < n; i++)
        if (h->parts[i].seq == from) add_part(L, h, h->parts[i].point, h->parts[i].layer, to);
}

/* A hook that was for this sequence alone leaves the session's table, which stands two below it. */
static void drop(lua_State *L, handle *h, const void *from, const void *to) {
    (void)to;
    int hook = lua_gettop(L);
    bool had = h->n > 0;
    for (size_t i = h->n; i-- > 0;)
        if (h->parts[i].seq == from) remove_part(h, i);
    if (h->stateful) {
        lua_getiuservalue(L, hook, UV_STATES);
        lua_pushnil(L);
        lua_rawsetp(L, -2, from);
    }
    if (!had || h->n) return;
    remove_all(h);
    lua_pushnil(L);
    lua_rawsetp(L, hook - 2, h);
}

/* states[to] = clone(states[from]) */
static void clone_state(lua_State *L, handle *h, const void *from, const void *to) {
    if (!h->stateful) return;
    int hook = lua_gettop(L);
    lua_getiuservalue(L, hook, UV_STATES);
    lua_getiuservalue(L, hook, UV_CLONE);
    if (lua_rawgetp(L, hook + 1, from) == LUA_TNIL) return; /* never fired there */
    lua_call(L, 1, 1);
    lua_rawsetp(L, hook + 1, to);
}

void pl_lua_hooks_share(lua_State *L, int session, const pl_sequence *from, const pl_sequence *to) {
    const pl_lua_session *s = lua_touserdata(L, session);
    if (s->n_sequence_hooks) each(L, session, share, from, to);
}

void pl_lua_hooks_clone_states(lua_State *L, int session, const pl_sequence *from,
                               const pl_sequence *to) {
    each(L, session, clone_state, from, to);
}

void pl_lua_hooks_drop(lua_State *L, int session, const pl_sequence *seq) {
    each(L, session, drop, seq, NULL);
}

/* In place: a running pass looks its hooks up in this very table. */
void pl_lua_hooks_reset(lua_State *L, int session) {
    luaL_checkstack(L, 6, NULL);
    if (lua_getiuservalue(L, session, PL_UV_HOOKS) == LUA_TTABLE) {
        lua_pushnil(L);
        while (lua_next(L, -2)) {
            remove_all(lua_touserdata(L, -1));
            lua_pop(L, 1);
            lua_pushvalue(L, -1);
            lua_pushnil(L);
            lua_rawset(L, -4);
        }
    }
    lua_pop(L, 1);
}

/* reset_hooks(session) */
static int reset_hooks(lua_State *L) {
    pl_lua_check_session(L, 1);
    pl_lua_hooks_reset(L, 1);
    return 0;
}

/* hooks(session) -> list of the registered handles, in no order */
static int list(lua_State *L) {
    pl_lua_check_session(L, 1);
    lua_newtable(L);
    int out = lua_gettop(L);
    lua_getiuservalue(L, 1, PL_UV_HOOKS);
    lua_pushnil(L);
    while (lua_next(L, -2))
        if (((handle *)lua_touserdata(L, -1))->n)
            lua_rawseti(L, out, (lua_Integer)lua_rawlen(L, out) + 1);
        else
            lua_pop(L, 1);
    lua_settop(L, out);
    return 1;
}

/* points() -> list of {name, part, in_block, dims, formula}; a point's index counts from 0. */
static int points(lua_State *L) {
    lua_createtable(L, PL_N_POINTS, 0);
    for (int i = 0; i < PL_N_POINTS; i++) {
        const pl_point_info *info = pl_point_get((pl_point)i);
        lua_createtable(L, 0, 5);
        lua_pushstring(L, info->name), lua_setfield(L, -2, "name");
        lua_pushstring(L, info->part), lua_setfield(L, -2, "part");
        lua_pushboolean(L, info->in_block), lua_setfield(L, -2, "in_block");
        lua_pushstring(L, info->dims), lua_setfield(L, -2, "dims");
        lua_pushstring(L, info->formula), lua_setfield(L, -2, "formula");
        lua_rawseti(L, -2, i + 1);
    }
    return 1;
}

/* -- facts --------------------------------------------------------------------------------- */

static int get_fired(lua_State *L) {
    lua_pushinteger(L, check(L, 1)->fired);
    return 1;
}
static int get_seconds(lua_State *L) {
    lua_pushnumber(L, check(L, 1)->seconds);
    return 1;
}
static int get_serial(lua_State *L) {
    lua_pushinteger(L, (lua_Integer)check(L, 1)->serial);
    return 1;
}
static int get_active(lua_State *L) {
    lua_pushboolean(L, check(L, 1)->n > 0);
    return 1;
}
static int get_point(lua_State *L) {
    check(L, 1);
    lua_getiuservalue(L, 1, UV_TEXT);
    return 1;
}

static int to_string(lua_State *L) {
    const handle *h = check(L, 1);
    lua_getiuservalue(L, 1, UV_TEXT);
    lua_pushfstring(L, "hook (%s, %s, fired %I times)", lua_tostring(L, -1),
                    h->n ? "active" : "removed", (LUAI_UACINT)h->fired);
    return 1;
}

void pl_lua_open_hooks(lua_State *L) {
    static const luaL_Reg methods[] = {{"remove", remove_hook}, {NULL, NULL}};
    static const luaL_Reg getters[] = {{"fired", get_fired},   {"seconds", get_seconds},
                                       {"active", get_active}, {"point", get_point},
                                       {"serial", get_serial}, {NULL, NULL}};
    static const luaL_Reg meta[] = {
        {"__gc", collect}, {"__close", remove_hook}, {"__tostring", to_string}, {NULL, NULL}};
    pl_lua_new_type(L, PL_LUA_HOOK, methods, getters, meta);
    static const luaL_Reg functions[] = {
        {"add", add}, {"reset", reset_hooks}, {"list", list}, {"points", points}, {NULL, NULL}};
    luaL_newlib(L, functions);
    lua_setfield(L, -2, "hooks");
}
