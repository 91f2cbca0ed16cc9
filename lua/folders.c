/* Folders, for Lua. */
#include "folders.h"

#include <dirent.h>
#include <lauxlib.h>
#include <stdbool.h>
#include <string.h>
#include <sys/stat.h>

/* list(folder) -> names in it, folders with a slash at the end; nil when it cannot be read */
int pl_lua_list_folder(lua_State *L) {
    const char *folder = luaL_checkstring(L, 1);
    lua_newtable(L); /* first: memory may run out here, before the folder is open */
    DIR *dir = opendir(folder);
    if (!dir) {
        luaL_pushfail(L);
        return 1;
    }
    struct stat info;
    lua_Integer n = 0;
    for (struct dirent *entry; (entry = readdir(dir));) {
        const char *name = entry->d_name;
        if (strcmp(name, ".") == 0 || strcmp(name, "..") == 0) continue;
        bool is_folder = fstatat(dirfd(dir), name, &info, 0) == 0 && S_ISDIR(info.st_mode);
        lua_pushfstring(L, "%s%s", name, is_folder ? "/" : "");
        lua_rawseti(L, -2, ++n);
    }
    closedir(dir);
    return 1;
}

/* make_folder(path) -> whether it is there now */
int pl_lua_make_folder(lua_State *L) {
    const char *path = luaL_checkstring(L, 1);
    struct stat info;
    mkdir(path, 0777);
    lua_pushboolean(L, stat(path, &info) == 0 && S_ISDIR(info.st_mode));
    return 1;
}
