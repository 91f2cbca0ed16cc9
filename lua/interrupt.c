/* Ctrl-C: see interrupt.h. */
#include "interrupt.h"

#include <lauxlib.h>
#include <signal.h>

#include "common.h"

/* What a clean-up may take between one error and the next, for the first few errors. */
enum { GRACE_INSTRUCTIONS = 1000, GRACES = 10 };

static volatile sig_atomic_t requested;
static volatile sig_atomic_t raised;    /* errors since the request */
static lua_State *volatile main_thread; /* NULL until installed */
static lua_State *volatile running;     /* the innermost coroutine, or the main thread */

static void stop(lua_State *L, lua_Debug *ar);

void pl_lua_interrupt_raised(lua_State *L) {
    if (!requested || !main_thread) return;
    lua_sethook(L, stop, LUA_MASKCOUNT, raised < GRACES ? GRACE_INSTRUCTIONS : 1);
    if (raised < GRACES) raised++;
}

static void stop(lua_State *L, lua_Debug *ar) {
    (void)ar;
    if (!requested) {
        lua_sethook(L, NULL, 0, 0);
        return;
    }
    pl_lua_interrupt_raised(L);
    pl_lua_fail(L, PL_ERR_INTERRUPTED, "interrupted");
}

/* lua_sethook is the one function of Lua that a signal handler may call. */
void pl_lua_interrupt_request(void) {
    raised = 0;
    requested = 1;
    if (!main_thread) return;
    if (running != main_thread) lua_sethook(main_thread, stop, LUA_MASKCOUNT, GRACE_INSTRUCTIONS);
    lua_sethook(running, stop, LUA_MASKCALL | LUA_MASKRET | LUA_MASKLINE | LUA_MASKCOUNT, 1);
}

bool pl_lua_interrupted(void) {
    return requested != 0;
}

bool pl_lua_interrupt_clear(void) {
    bool was = requested != 0;
    requested = 0;
    return was;
}

bool pl_lua_interrupt_poll(void *context) {
    (void)context;
    return requested != 0;
}

/* Calls upvalue 1 with the arguments while `co` counts as running. A coroutine that was resumed
 * after the request has no hook yet. */
static int call_as(lua_State *L, lua_State *co) {
    lua_State *before = running;
    lua_pushvalue(L, lua_upvalueindex(1));
    lua_insert(L, 1);
    running = co;
    if (requested) lua_sethook(co, stop, LUA_MASKCOUNT, 1);
    int status = lua_pcall(L, lua_gettop(L) - 1, LUA_MULTRET, 0);
    running = before;
    if (requested) lua_sethook(before, stop, LUA_MASKCOUNT, GRACE_INSTRUCTIONS);
    if (status != LUA_OK) return lua_error(L);
    return lua_gettop(L);
}

static int resume(lua_State *L) {
    luaL_checktype(L, 1, LUA_TTHREAD);
    return call_as(L, lua_tothread(L, 1));
}

static int call_wrapped(lua_State *L) {
    return call_as(L, lua_tothread(L, lua_upvalueindex(2)));
}

/* The function that coroutine.wrap makes keeps its coroutine as its first upvalue. */
static int wrap(lua_State *L) {
    luaL_checktype(L, 1, LUA_TFUNCTION);
    lua_pushvalue(L, lua_upvalueindex(1));
    lua_pushvalue(L, 1);
    lua_call(L, 1, 1);
    if (!lua_getupvalue(L, -1, 1) || !lua_isthread(L, -1)) {
        lua_settop(L, 2);
        return 1;
    }
    lua_pushcclosure(L, call_wrapped, 2);
    return 1;
}

static void replace(lua_State *L, const char *name, lua_CFunction fn) {
    lua_getfield(L, -1, name);
    lua_pushcclosure(L, fn, 1);
    lua_setfield(L, -2, name);
}

void pl_lua_interrupt_install(lua_State *L) {
    if (lua_getglobal(L, "coroutine") == LUA_TTABLE) {
        replace(L, "resume", resume);
        replace(L, "wrap", wrap);
    }
    lua_pop(L, 1);
    running = L;
    main_thread = L;
}
