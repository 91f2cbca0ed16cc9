/* The perilune program: a Lua state with the library in it, and Ctrl-C. What its arguments mean is
 * decided in lua/perilune/program.lua. */
#include <lauxlib.h>
#include <locale.h>
#include <lualib.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#include "interrupt.h"
#include "module.h"
#include "repl.h"

enum { EXIT_INTERRUPTED = 130, PATIENCE = 3 };

/* The first Ctrl-C asks the script to stop. The third without an answer means that something does
 * not ask whether it should. What a library's thread is given while the main thread holds the
 * signal back is passed on to it, which waits for it at the prompt. */
static void on_interrupt(int number) {
    static volatile sig_atomic_t presses;
    pid_t main_thread = getpid();
    if (gettid() != main_thread) {
        tgkill(main_thread, main_thread, number);
        return;
    }
    presses = pl_lua_interrupted() ? presses + 1 : 1;
    if (presses >= PATIENCE) _exit(EXIT_INTERRUPTED);
    pl_lua_interrupt_request();
}

static void catch_interrupts(void) {
    struct sigaction action = {.sa_handler = on_interrupt};
    sigaction(SIGINT, &action, NULL);
}

/* Runs in protected mode: (argc, argv) -> exit status. */
static int run(lua_State *L) {
    int argc = (int)lua_tointeger(L, 1);
    char **argv = lua_touserdata(L, 2);
    luaL_openlibs(L);
    luaL_getsubtable(L, LUA_REGISTRYINDEX, LUA_PRELOAD_TABLE);
    lua_pushcfunction(L, luaopen_perilune);
    lua_setfield(L, -2, "perilune");
    lua_pushcfunction(L, pl_lua_open_host);
    lua_setfield(L, -2, "perilune.host");
    lua_pop(L, 1);
    pl_lua_interrupt_install(L);

    lua_getglobal(L, "require");
    lua_pushliteral(L, "perilune");
    lua_call(L, 1, 0); /* from here on `require` finds the library's own files */
    lua_getglobal(L, "require");
    lua_pushliteral(L, "perilune.program");
    lua_call(L, 1, 1);
    lua_createtable(L, argc, 0);
    for (int i = 0; i < argc; i++) {
        lua_pushstring(L, argv[i]);
        lua_rawseti(L, -2, i);
    }
    lua_call(L, 1, 1);
    return 1;
}

int main(int argc, char **argv) {
    setlocale(LC_CTYPE, ""); /* numbers stay as C writes them */
    lua_State *L = luaL_newstate();
    if (!L) {
        fputs("perilune: out of memory\n", stderr);
        return 1;
    }
    catch_interrupts();
    lua_pushcfunction(L, run);
    lua_pushinteger(L, argc);
    lua_pushlightuserdata(L, argv);
    int status = 1;
    if (lua_pcall(L, 2, 1, 0) == LUA_OK) {
        status = (int)lua_tointeger(L, -1);
    } else {
        fprintf(stderr, "perilune: %s\n", luaL_tolstring(L, -1, NULL));
        if (pl_lua_interrupted()) status = EXIT_INTERRUPTED;
    }
    pl_lua_interrupt_clear(); /* finalisers run undisturbed */
    lua_close(L);
    return status;
}
