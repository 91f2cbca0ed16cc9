/* Reading lines with readline, and a few facts about the terminal and folders. The interactive
 * session itself is lua/perilune/interactive.lua. */
#include "repl.h"

#include <errno.h>
#include <lauxlib.h>
#include <poll.h>
#include <signal.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <termios.h>
#include <unistd.h>

#include <readline/history.h>
#include <readline/readline.h>

#include "folders.h"
#include "interrupt.h"

/* -- lines ---------------------------------------------------------------------------------- */

/* readline's callbacks carry no context, and there is one terminal: this is theirs during a read.
 */
static struct {
    lua_State *L;  /* NULL when no line is being read */
    int completer; /* index in L's stack of complete(line, start, word) -> list, or 0 */
    char *line;
    bool done;
} reading;

static void take_line(char *line) {
    reading.line = line;
    reading.done = true;
    rl_callback_handler_remove();
}

/* The next candidate of the list on top of the stack. */
static char *next_candidate(const char *word, int state) {
    (void)word;
    static lua_Integer n;
    n = state == 0 ? 1 : n + 1;
    char *copy = NULL;
    if (lua_rawgeti(reading.L, -1, n) == LUA_TSTRING) copy = strdup(lua_tostring(reading.L, -1));
    lua_pop(reading.L, 1);
    return copy;
}

static char **complete(const char *word, int start, int end) {
    (void)end;
    lua_State *L = reading.L;
    rl_attempted_completion_over = 1; /* file names only where the completer offers them */
    rl_completion_suppress_append = 1;
    if (!L || reading.completer == 0 || !lua_checkstack(L, 8)) return NULL;
    char **matches = NULL;
    int top = lua_gettop(L);
    lua_pushvalue(L, reading.completer);
    lua_pushstring(L, rl_line_buffer);
    lua_pushinteger(L, start);
    lua_pushstring(L, word);
    if (lua_pcall(L, 3, 1, 0) == LUA_OK && lua_istable(L, -1)) {
        matches = rl_completion_matches(word, next_candidate);
    }
    lua_settop(L, top);
    return matches;
}

/* In lists of candidates, what follows the last separator is enough. */
static void show_candidates(char **matches, int n, int longest) {
    (void)longest;
    int most = 0;
    for (int i = 1; i <= n; i++) {
        char *last = matches[i];
        for (char *c = matches[i]; *c; c++) {
            if (strchr(".:/\"'", *c) && c[1]) last = c + 1;
        }
        memmove(matches[i], last, strlen(last) + 1);
        int length = (int)strlen(matches[i]);
        if (length > most) most = length;
    }
    rl_display_match_list(matches, n, most);
    rl_forced_update_display();
}

static void flush_at_interrupts(bool flush) {
    struct termios terminal;
    if (tcgetattr(STDIN_FILENO, &terminal) != 0) return;
    tcflag_t flags = flush ? terminal.c_lflag & ~(tcflag_t)NOFLSH : terminal.c_lflag | NOFLSH;
    if (flags == terminal.c_lflag) return;
    terminal.c_lflag = flags;
    tcsetattr(STDIN_FILENO, TCSADRAIN, &terminal);
}

static void flush_again(void) {
    flush_at_interrupts(true);
}

/* At Ctrl-C a terminal sends the signal first and then throws away what was written and typed: the
 * answer to the signal could be lost. Not while the session lasts. */
static void keep_what_interrupts_say(void) {
    static bool kept;
    struct termios terminal;
    if (kept || tcgetattr(STDIN_FILENO, &terminal) != 0) return;
    kept = true;
    if (terminal.c_lflag & NOFLSH) return;
    flush_at_interrupts(false);
    atexit(flush_again);
}

static void set_up_readline(void) {
    keep_what_interrupts_say();
    rl_catch_signals = 0;
    rl_readline_name = "perilune";
    rl_attempted_completion_function = complete;
    rl_completion_display_matches_hook = show_candidates;
    rl_completer_word_break_characters = " \t\n+-*%^=<>~#&|;,(){}[]";
    rl_completer_quote_characters = "";
    rl_variable_bind("enable-bracketed-paste", "off");
}

/* Feeds readline from the terminal until a line is whole; Ctrl-C throws away what was typed. It is
 * let in only while waiting, so that none is missed between looking and waiting. Returns false when
 * interrupted. */
static bool read_line(const char *prompt) {
    sigset_t block, usual;
    sigemptyset(&block);
    sigaddset(&block, SIGINT);
    sigprocmask(SIG_BLOCK, &block, &usual);
    reading.line = NULL;
    reading.done = false;
    bool interrupted = false;
    rl_callback_handler_install(prompt, take_line);
    while (!reading.done && !interrupted) {
        struct pollfd input = {STDIN_FILENO, POLLIN, 0};
        int ready = ppoll(&input, 1, NULL, &usual);
        if (ready > 0) rl_callback_read_char();
        interrupted = ready < 0 && errno == EINTR && pl_lua_interrupt_clear();
    }
    if (interrupted) {
        rl_free_line_state();
        rl_callback_sigcleanup();
        rl_callback_handler_remove();
        fputs("^C\n", stdout);
    }
    sigprocmask(SIG_SETMASK, &usual, NULL);
    pl_lua_interrupt_clear(); /* one that came with the last key is not for the line's code */
    return !interrupted;
}

/* read(prompt [, complete]) -> line; nil at the end of input; false when interrupted */
static int host_read(lua_State *L) {
    const char *prompt = luaL_checkstring(L, 1);
    lua_settop(L, 2);
    set_up_readline();
    reading.L = L;
    reading.completer = lua_isfunction(L, 2) ? 2 : 0;
    bool finished = read_line(prompt);
    reading.L = NULL;
    if (!finished) {
        lua_pushboolean(L, 0);
    } else if (!reading.line) {
        lua_pushnil(L);
    } else {
        lua_pushstring(L, reading.line);
        free(reading.line);
        reading.line = NULL;
    }
    return 1;
}

/* add(line): to the history, unless it repeats the last one */
static int host_add(lua_State *L) {
    const char *line = luaL_checkstring(L, 1);
    HIST_ENTRY *last = history_length > 0 ? history_get(history_base + history_length - 1) : NULL;
    if (!last || strcmp(last->line, line) != 0) add_history(line);
    return 0;
}

/* load(path), save(path, most): whether it worked */
static int host_load(lua_State *L) {
    const char *path = luaL_checkstring(L, 1);
    using_history();
    lua_pushboolean(L, read_history(path) == 0);
    return 1;
}

static int host_save(lua_State *L) {
    const char *path = luaL_checkstring(L, 1);
    stifle_history((int)luaL_checkinteger(L, 2));
    lua_pushboolean(L, write_history(path) == 0);
    return 1;
}

/* -- terminal, folders, interrupts ------------------------------------------------------------ */

/* is_terminal(fd) -> boolean */
static int host_is_terminal(lua_State *L) {
    lua_pushboolean(L, isatty((int)luaL_checkinteger(L, 1)));
    return 1;
}

/* width(fd) -> columns, or nil when it is no terminal */
static int host_width(lua_State *L) {
    struct winsize size = {0};
    if (ioctl((int)luaL_checkinteger(L, 1), TIOCGWINSZ, &size) == 0 && size.ws_col > 0)
        lua_pushinteger(L, size.ws_col);
    else
        lua_pushnil(L);
    return 1;
}

/* clear_interrupt() -> whether Ctrl-C had been pressed */
static int host_clear_interrupt(lua_State *L) {
    lua_pushboolean(L, pl_lua_interrupt_clear());
    return 1;
}

int pl_lua_open_host(lua_State *L) {
    static const luaL_Reg functions[] = {{"read", host_read},
                                         {"add", host_add},
                                         {"load", host_load},
                                         {"save", host_save},
                                         {"is_terminal", host_is_terminal},
                                         {"width", host_width},
                                         {"list", pl_lua_list_folder},
                                         {"make_folder", pl_lua_make_folder},
                                         {"clear_interrupt", host_clear_interrupt},
                                         {NULL, NULL}};
    luaL_newlib(L, functions);
    return 1;
}
