/* Ctrl-C: stops a script, inside a forward pass and inside coroutines too, and keeps the state.
 *
 *     pl_lua_interrupt_install(L);          // once, by a program that handles SIGINT
 *     signal handler:   pl_lua_interrupt_request();
 *     at the prompt:    pl_lua_interrupt_clear();
 *
 * A request raises an error of kind "interrupted": by a hook of the interpreter in Lua code, by
 * the poll of each layer in a forward pass. Until it is cleared it is raised again, after a
 * thousand instructions at first, so that short clean-ups can run, in the end at every one, so that
 * no loop around pcall swallows it.
 *
 * The request is the one thing in this program that is global, because signals are. */
#ifndef PL_LUA_INTERRUPT_H
#define PL_LUA_INTERRUPT_H

#include <lua.h>
#include <stdbool.h>

/* Makes L, the main thread, interruptible, and every coroutine: coroutine.resume and .wrap are
 * replaced by functions that note which coroutine runs. [-0, +0, m] */
void pl_lua_interrupt_install(lua_State *L);

/* Takes note of a request; safe in a signal handler. */
void pl_lua_interrupt_request(void);

bool pl_lua_interrupted(void);

/* To be called before an error of kind "interrupted" is raised in L. */
void pl_lua_interrupt_raised(lua_State *L);

/* Forgets the request; returns whether there was one. */
bool pl_lua_interrupt_clear(void);

/* For pl_session_set_interrupt; the context is not used. */
bool pl_lua_interrupt_poll(void *context);

#endif
