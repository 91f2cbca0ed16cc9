/* One exchange over HTTP for Lua, through libcurl; what to ask for is decided in
 * lua/perilune/hub.lua. Redirects are reported, never followed, so that the caller decides who may
 * see its token.
 *
 * A transfer lives in a userdata, so that an error that unwinds closes it. */
#include "download.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#include "common.h"
#include "interrupt.h"
#include "network.h"

#define TRANSFER_TYPE "perilune.transfer"

enum { MOST_BODY = 1 << 25, MOST_HEADERS = 500, CONNECT_SECONDS = 20, STALL_SECONDS = 60 };

typedef struct transfer {
    lua_State *L;
    const pl_curl *lib;
    CURL *curl;
    struct curl_slist *request;
    char *body;          /* of an answer that is not for the file */
    int64_t body_size;   /* bytes in body */
    int64_t most;        /* bytes that the body, or the whole file, may have */
    int fd;              /* the file; -1: none */
    int64_t offset;      /* bytes of the file that are there already */
    int64_t written;     /* bytes of the file in all, once the answer goes there */
    bool to_file;        /* this answer's body goes to the file */
    int n_headers;       /* lines seen, for the bound */
    int table;           /* index of the table of headers in L's stack */
    int progress;        /* index of the function to call, or 0 */
    double told;         /* when it was called last */
    bool failed;         /* the function raised: its error is on top of the stack */
    const char *problem; /* why this side ended it: "disk", "size", "range", "headers"; or NULL */
    int number;          /* errno with "disk" */
    char message[CURL_ERROR_SIZE];
} transfer;

static int close_transfer(lua_State *L) {
    transfer *t = lua_touserdata(L, 1);
    if (t->curl) t->lib->curl_easy_cleanup_(t->curl);
    t->lib->curl_slist_free_all_(t->request);
    free(t->body);
    if (t->fd >= 0) close(t->fd);
    t->curl = NULL;
    t->request = NULL;
    t->body = NULL;
    t->fd = -1;
    return 0;
}

static transfer *push_transfer(lua_State *L) {
    const pl_curl *lib = pl_lua_curl(L);
    transfer *t = lua_newuserdatauv(L, sizeof *t, 0);
    *t = (transfer){.L = L, .lib = lib, .fd = -1};
    if (luaL_newmetatable(L, TRANSFER_TYPE)) {
        lua_pushcfunction(L, close_transfer);
        lua_setfield(L, -2, "__gc");
        lua_pushcfunction(L, close_transfer);
        lua_setfield(L, -2, "__close");
    }
    lua_setmetatable(L, -2);
    return t;
}

/* -- what comes in --------------------------------------------------------------------------- */

typedef struct piece {
    const char *data;
    size_t size;
} piece;

/* Protected: (headers, a piece) adds the line to the table. */
static int add_header(lua_State *L) {
    const piece *p = lua_touserdata(L, 2);
    const char *line = p->data, *colon = memchr(line, ':', p->size);
    size_t n = p->size;
    if (!colon) return 0;
    luaL_Buffer name;
    luaL_buffinit(L, &name);
    for (const char *c = line; c < colon; c++) {
        luaL_addchar(&name, (char)(*c >= 'A' && *c <= 'Z' ? *c + 32 : *c));
    }
    luaL_pushresult(&name);
    const char *from = colon + 1, *to = line + n;
    while (from < to && (*from == ' ' || *from == '\t')) from++;
    while (to > from && strchr(" \t\r\n", to[-1])) to--;
    lua_pushlstring(L, from, (size_t)(to - from));
    lua_settable(L, 1);
    return 0;
}

static size_t on_header(char *data, size_t size, size_t n, void *context) {
    transfer *t = context;
    lua_State *L = t->L;
    if (++t->n_headers > MOST_HEADERS) {
        t->problem = "headers";
        return 0;
    }
    lua_pushcfunction(L, add_header);
    lua_pushvalue(L, t->table);
    lua_pushlightuserdata(L, &(piece){data, size * n});
    if (lua_pcall(L, 2, 0, 0) == LUA_OK) return size * n;
    t->failed = true;
    return 0;
}

/* Where an answer goes that may be for the file: whole (200), or from `offset` on (206). */
static bool begin_file(transfer *t) {
    long status = 0;
    t->lib->curl_easy_getinfo_(t->curl, CURLINFO_RESPONSE_CODE, &status);
    t->to_file = t->fd >= 0 && (status == 200 || status == 206);
    if (!t->to_file) return true;
    int64_t from = 0;
    if (status == 206) {
        struct curl_header *range;
        char *end = NULL;
        if (t->lib->curl_easy_header_(t->curl, "Content-Range", 0, CURLH_HEADER, -1, &range) ==
                CURLHE_OK &&
            strncmp(range->value, "bytes ", 6) == 0) {
            from = strtoll(range->value + 6, &end, 10);
        }
        if (!end || *end != '-' || from != t->offset) {
            t->problem = "range";
            return false;
        }
    }
    t->written = from;
    if (ftruncate(t->fd, from) == 0 && lseek(t->fd, from, SEEK_SET) == from) return true;
    t->problem = "disk";
    t->number = errno;
    return false;
}

static bool write_file(transfer *t, const char *data, size_t n) {
    while (n > 0) {
        ssize_t done = write(t->fd, data, n);
        if (done < 0 && errno == EINTR) continue;
        if (done <= 0) {
            t->problem = "disk";
            t->number = done < 0 ? errno : ENOSPC;
            return false;
        }
        data += done;
        n -= (size_t)done;
        t->written += done;
    }
    return true;
}

static size_t on_body(char *data, size_t size, size_t n, void *context) {
    transfer *t = context;
    n *= size;
    bool first = t->body_size == 0 && !t->to_file;
    if (first && !begin_file(t)) return 0;
    if (t->to_file) {
        if ((int64_t)n > t->most - t->written) {
            t->problem = "size";
            return 0;
        }
        return write_file(t, data, n) ? n : 0;
    }
    /* of an error's page for a file only the beginning is of use */
    int64_t most = t->fd < 0 && t->most < MOST_BODY ? t->most : MOST_BODY;
    char *body =
        (int64_t)n <= most - t->body_size ? realloc(t->body, (size_t)t->body_size + n) : NULL;
    if (!body) {
        t->problem = "size";
        return 0;
    }
    t->body = body;
    memcpy(body + t->body_size, data, n);
    t->body_size += (int64_t)n;
    return n;
}

static int on_progress(void *context, curl_off_t total, curl_off_t now, curl_off_t up_total,
                       curl_off_t up) {
    transfer *t = context;
    (void)total, (void)now, (void)up_total, (void)up;
    if (pl_lua_interrupted()) return 1;
    curl_off_t micros = 0;
    t->lib->curl_easy_getinfo_(t->curl, CURLINFO_TOTAL_TIME_T, &micros);
    double seconds = 1e-6 * (double)micros;
    if (!t->progress || !t->to_file || seconds - t->told < 0.1) return 0;
    t->told = seconds;
    lua_pushvalue(t->L, t->progress);
    lua_pushinteger(t->L, t->written);
    t->failed = lua_pcall(t->L, 1, 0, 0) != LUA_OK;
    return t->failed;
}

/* -- asking ---------------------------------------------------------------------------------- */

/* Adds the texts of the list on top of the stack as lines of the request. */
static void add_request_headers(lua_State *L, transfer *t) {
    lua_Integer n = (lua_Integer)lua_rawlen(L, -1);
    for (lua_Integer i = 1; i <= n; i++) {
        lua_rawgeti(L, -1, i);
        struct curl_slist *longer = t->lib->curl_slist_append_(t->request, luaL_checkstring(L, -1));
        if (!longer) pl_lua_fail(L, PL_ERR_MEMORY, "out of memory for a request");
        t->request = longer;
        lua_pop(L, 1);
    }
}

/* Opens the file to go on with it, locked against other processes. */
static void open_file(lua_State *L, transfer *t, const char *path) {
    t->fd = open(path, O_WRONLY | O_CREAT | O_CLOEXEC | O_NOFOLLOW, 0644);
    if (t->fd < 0) pl_lua_fail(L, PL_ERR_IO, "%s: %s", path, strerror(errno));
    if (flock(t->fd, LOCK_EX | LOCK_NB) != 0 && errno == EWOULDBLOCK) {
        pl_lua_fail(L, PL_ERR_IO, "%s: another process is downloading it", path);
    }
    struct stat info;
    if (fstat(t->fd, &info) != 0) pl_lua_fail(L, PL_ERR_IO, "%s: %s", path, strerror(errno));
    t->offset = t->written = info.st_size;
    char range[32];
    snprintf(range, sizeof range, "%lld-", (long long)t->offset);
    if (t->offset > 0) t->lib->curl_easy_setopt_(t->curl, CURLOPT_RANGE, range);
}

/* Certificate authorities other than the system's, by the names that curl, OpenSSL and Python know.
 */
static void set_authorities(transfer *t) {
    static const char *const names[] = {"CURL_CA_BUNDLE", "SSL_CERT_FILE", "REQUESTS_CA_BUNDLE"};
    for (size_t i = 0; i < sizeof names / sizeof *names; i++) {
        const char *path = getenv(names[i]);
        if (!path || !*path) continue;
        t->lib->curl_easy_setopt_(t->curl, CURLOPT_CAINFO, path);
        return;
    }
}

/* The options of curl that every request has. */
static void set_up(transfer *t, const char *url, bool secure, bool head) {
    CURL *c = t->curl;
    const char *protocols = secure ? "https" : "http,https";
    t->lib->curl_easy_setopt_(c, CURLOPT_URL, url);
    t->lib->curl_easy_setopt_(c, CURLOPT_PROTOCOLS_STR, protocols);
    set_authorities(t);
    t->lib->curl_easy_setopt_(c, CURLOPT_FOLLOWLOCATION, 0L);
    t->lib->curl_easy_setopt_(c, CURLOPT_NOSIGNAL, 1L);
    t->lib->curl_easy_setopt_(c, CURLOPT_NETRC, (long)CURL_NETRC_IGNORED);
    t->lib->curl_easy_setopt_(c, CURLOPT_NOBODY, head ? 1L : 0L);
    t->lib->curl_easy_setopt_(c, CURLOPT_ERRORBUFFER, t->message);
    t->lib->curl_easy_setopt_(c, CURLOPT_CONNECTTIMEOUT, (long)CONNECT_SECONDS);
    t->lib->curl_easy_setopt_(c, CURLOPT_LOW_SPEED_LIMIT, 1L);
    t->lib->curl_easy_setopt_(c, CURLOPT_LOW_SPEED_TIME, (long)STALL_SECONDS);
    t->lib->curl_easy_setopt_(c, CURLOPT_USERAGENT, "perilune");
    t->lib->curl_easy_setopt_(c, CURLOPT_HTTPHEADER, t->request);
    t->lib->curl_easy_setopt_(c, CURLOPT_HEADERFUNCTION, on_header);
    t->lib->curl_easy_setopt_(c, CURLOPT_HEADERDATA, t);
    t->lib->curl_easy_setopt_(c, CURLOPT_WRITEFUNCTION, on_body);
    t->lib->curl_easy_setopt_(c, CURLOPT_WRITEDATA, t);
    t->lib->curl_easy_setopt_(c, CURLOPT_NOPROGRESS, 0L);
    t->lib->curl_easy_setopt_(c, CURLOPT_XFERINFOFUNCTION, on_progress);
    t->lib->curl_easy_setopt_(c, CURLOPT_XFERINFODATA, t);
}

/* Fills the table at `answer` from what came, and raises what a script's function raised. */
static void finish(lua_State *L, transfer *t, CURLcode code, int answer) {
    if (t->failed) lua_error(L);
    if (pl_lua_interrupted()) {
        pl_lua_interrupt_raised(L);
        pl_lua_fail(L, PL_ERR_INTERRUPTED, "interrupted");
    }
    if (code == CURLE_OK && t->body_size == 0 && !t->to_file && !begin_file(t)) {
        code = CURLE_WRITE_ERROR; /* an empty file */
    }
    long status = 0;
    const char *redirect = NULL;
    t->lib->curl_easy_getinfo_(t->curl, CURLINFO_RESPONSE_CODE, &status);
    t->lib->curl_easy_getinfo_(t->curl, CURLINFO_REDIRECT_URL, &redirect);
    lua_pushinteger(L, status);
    lua_setfield(L, answer, "status");
    lua_pushstring(L, redirect);
    lua_setfield(L, answer, "redirect");
    lua_pushlstring(L, t->body ? t->body : "", (size_t)t->body_size);
    lua_setfield(L, answer, "body");
    lua_pushinteger(L, t->fd >= 0 ? t->written : t->body_size);
    lua_setfield(L, answer, "received");
    if (code == CURLE_OK) return;
    const char *problem = t->problem ? t->problem : "connection";
    if (code == CURLE_UNSUPPORTED_PROTOCOL) problem = "protocol";
    if (code == CURLE_PEER_FAILED_VERIFICATION || code == CURLE_SSL_CACERT_BADFILE) {
        problem = "certificate";
    }
    const char *message = *t->message ? t->message : t->lib->curl_easy_strerror_(code);
    lua_pushstring(L, problem);
    lua_setfield(L, answer, "problem");
    lua_pushstring(L, t->number ? strerror(t->number) : message);
    lua_setfield(L, answer, "message");
}

/* http{url =, method = "GET" or "HEAD", headers = {"Name: value"}, secure = whether only https is
 * allowed, file = path to go on with or nil, most = bytes, on_progress = function(bytes)}
 * -> {status, headers, redirect, body, received [, problem, message]} */
static int http(lua_State *L) {
    luaL_checktype(L, 1, LUA_TTABLE);
    lua_settop(L, 1);
    luaL_checkstack(L, 20, "a request");
    transfer *t = push_transfer(L);
    lua_toclose(L, 2);
    t->curl = t->lib->curl_easy_init_();
    if (!t->curl) pl_lua_fail(L, PL_ERR_MEMORY, "out of memory for a request");
    bool secure = true;
    t->most = MOST_BODY;
    pl_lua_opt_bool(L, 1, "secure", &secure);
    pl_lua_opt_integer(L, 1, "most", &t->most);
    if (lua_getfield(L, 1, "headers") == LUA_TTABLE) add_request_headers(L, t);
    lua_newtable(L); /* the answer, at 4 */
    lua_newtable(L);
    t->table = 5;
    lua_pushvalue(L, 5);
    lua_setfield(L, 4, "headers");
    lua_getfield(L, 1, "on_progress");
    if (lua_isfunction(L, 6)) t->progress = 6;
    lua_getfield(L, 1, "file");
    if (lua_isstring(L, 7)) open_file(L, t, lua_tostring(L, 7));
    lua_getfield(L, 1, "method");
    lua_getfield(L, 1, "url");
    const char *method = lua_tostring(L, 8);
    set_up(t, luaL_checkstring(L, 9), secure, method && strcmp(method, "HEAD") == 0);
    finish(L, t, t->lib->curl_easy_perform_(t->curl), 4);
    lua_settop(L, 4);
    return 1;
}

/* origin(url) -> "https://host:port", what a token may be for; nil when it is no address */
static int origin(lua_State *L) {
    const char *text = luaL_checkstring(L, 1);
    const pl_curl *lib = pl_lua_curl(L);
    char *scheme = NULL, *host = NULL, *port = NULL;
    CURLU *url = lib->curl_url_();
    char out[512];
    bool good = url && lib->curl_url_set_(url, CURLUPART_URL, text, 0) == CURLUE_OK &&
                lib->curl_url_get_(url, CURLUPART_SCHEME, &scheme, 0) == CURLUE_OK &&
                lib->curl_url_get_(url, CURLUPART_HOST, &host, 0) == CURLUE_OK &&
                lib->curl_url_get_(url, CURLUPART_PORT, &port, CURLU_DEFAULT_PORT) == CURLUE_OK;
    int n = good ? snprintf(out, sizeof out, "%s://%s:%s", scheme, host, port) : -1;
    lib->curl_free_(scheme);
    lib->curl_free_(host);
    lib->curl_free_(port);
    lib->curl_url_cleanup_(url);
    if (n > 0 && n < (int)sizeof out) {
        for (char *c = out; *c; c++) {
            if (*c >= 'A' && *c <= 'Z') *c = (char)(*c + 32);
        }
        lua_pushlstring(L, out, (size_t)n);
    } else {
        luaL_pushfail(L);
    }
    return 1;
}

void pl_lua_open_download(lua_State *L) {
    static const luaL_Reg functions[] = {{"http", http}, {"origin", origin}, {NULL, NULL}};
    luaL_setfuncs(L, functions, 0);
    pl_lua_add_download_files(L);
}
