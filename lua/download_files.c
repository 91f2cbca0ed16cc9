/* What downloads need of the file system: digests, links, sizes, and a pause. */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include "../engine/format/locate.h"
#include "common.h"
#include "download.h"
#include "interrupt.h"
#include "network.h"

#define DIGEST_TYPE "perilune.digest"

enum { CHUNK = 1 << 18 };

typedef struct digest {
    const pl_crypto *lib;
    EVP_MD_CTX *context;
    FILE *file;
} digest;

static int close_digest(lua_State *L) {
    digest *d = lua_touserdata(L, 1);
    d->lib->EVP_MD_CTX_free_(d->context);
    if (d->file) fclose(d->file);
    *d = (digest){.lib = d->lib};
    return 0;
}

static digest *push_digest(lua_State *L) {
    const pl_crypto *lib = pl_lua_crypto(L);
    digest *d = lua_newuserdatauv(L, sizeof *d, 0);
    *d = (digest){.lib = lib};
    if (luaL_newmetatable(L, DIGEST_TYPE)) {
        lua_pushcfunction(L, close_digest);
        lua_setfield(L, -2, "__gc");
        lua_pushcfunction(L, close_digest);
        lua_setfield(L, -2, "__close");
    }
    lua_setmetatable(L, -2);
    return d;
}

static _Noreturn void fail_file(lua_State *L, const char *path, int number) {
    pl_lua_fail(L, PL_ERR_IO, "%s: %s", path, strerror(number));
}

/* file_digest(path, "sha256" or "sha1", prefix [, on_progress(bytes)]) -> hexadecimal digits, of
 * the prefix and the file */
static int file_digest(lua_State *L) {
    const char *path = luaL_checkstring(L, 1);
    const char *name = luaL_checkstring(L, 2);
    size_t n;
    const char *prefix = luaL_optlstring(L, 3, "", &n);
    lua_settop(L, 4);
    digest *d = push_digest(L);
    lua_toclose(L, 5);
    const EVP_MD *kind = d->lib->EVP_get_digestbyname_(name);
    if (!kind) pl_lua_fail(L, PL_ERR_ARGUMENT, "%s: no such digest", name);
    unsigned char *buffer = lua_newuserdatauv(L, CHUNK, 0), sum[EVP_MAX_MD_SIZE];
    d->context = d->lib->EVP_MD_CTX_new_();
    d->file = fopen(path, "rbe");
    if (!d->file) fail_file(L, path, errno);
    bool good = d->context && d->lib->EVP_DigestInit_ex_(d->context, kind, NULL) &&
                d->lib->EVP_DigestUpdate_(d->context, prefix, n);
    lua_Integer done = 0;
    for (size_t got; good && (got = fread(buffer, 1, CHUNK, d->file)) > 0;) {
        good = d->lib->EVP_DigestUpdate_(d->context, buffer, got) != 0;
        bool tell = done >> 26 != (done + (lua_Integer)got) >> 26 && lua_isfunction(L, 4);
        done += (lua_Integer)got;
        if (pl_lua_interrupted()) {
            pl_lua_interrupt_raised(L);
            pl_lua_fail(L, PL_ERR_INTERRUPTED, "interrupted");
        }
        if (!tell) continue;
        lua_pushvalue(L, 4);
        lua_pushinteger(L, done);
        lua_call(L, 1, 0);
    }
    if (ferror(d->file)) fail_file(L, path, errno);
    unsigned size = 0;
    if (!good || !d->lib->EVP_DigestFinal_ex_(d->context, sum, &size)) {
        pl_lua_fail(L, PL_ERR_UNSUPPORTED, "%s: OpenSSL cannot compute it", name);
    }
    char digits[2 * EVP_MAX_MD_SIZE + 1] = "";
    for (unsigned i = 0; i < size; i++) snprintf(digits + 2 * i, 3, "%02x", sum[i]);
    lua_pushstring(L, digits);
    return 1;
}

/* file_size(path) -> bytes, or nil when there is no such file */
static int file_size(lua_State *L) {
    struct stat info;
    if (stat(luaL_checkstring(L, 1), &info) == 0 && S_ISREG(info.st_mode)) {
        lua_pushinteger(L, (lua_Integer)info.st_size);
    } else {
        luaL_pushfail(L);
    }
    return 1;
}

/* link_file(target, path): path becomes a symbolic link, in one step whatever was there */
static int link_file(lua_State *L) {
    const char *target = luaL_checkstring(L, 1), *path = luaL_checkstring(L, 2);
    const char *other = lua_pushfstring(L, "%s.%d.tmp", path, (int)getpid());
    unlink(other);
    if (symlink(target, other) != 0) fail_file(L, other, errno);
    if (rename(other, path) != 0) {
        int number = errno;
        unlink(other);
        fail_file(L, path, number);
    }
    return 0;
}

/* pause(seconds): ends early, with an error, at Ctrl-C */
static int pause_for(lua_State *L) {
    double seconds = luaL_checknumber(L, 1);
    for (; seconds > 0 && !pl_lua_interrupted(); seconds -= 0.1) {
        double part = seconds < 0.1 ? seconds : 0.1;
        nanosleep(&(struct timespec){.tv_nsec = (long)(part * 1e9)}, NULL);
    }
    if (!pl_lua_interrupted()) return 0;
    pl_lua_interrupt_raised(L);
    pl_lua_fail(L, PL_ERR_INTERRUPTED, "interrupted");
}

/* hub_folder() -> the cache's path, or nil when no variable says where it is */
static int hub_folder(lua_State *L) {
    char path[PL_PATH_MAX];
    if (pl_hub_folder(path)) {
        lua_pushstring(L, path);
    } else {
        luaL_pushfail(L);
    }
    return 1;
}

void pl_lua_add_download_files(lua_State *L) {
    static const luaL_Reg functions[] = {{"file_digest", file_digest}, {"file_size", file_size},
                                         {"link_file", link_file},     {"pause", pause_for},
                                         {"hub_folder", hub_folder},   {NULL, NULL}};
    luaL_setfuncs(L, functions, 0);
}
