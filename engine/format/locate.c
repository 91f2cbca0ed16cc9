#include "locate.h"

#include <dirent.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "../base/error.h"

__attribute__((format(printf, 2, 3))) static bool join(char out[PL_PATH_MAX], const char *format,
                                                       ...) {
    va_list args;
    va_start(args, format);
    int n = vsnprintf(out, PL_PATH_MAX, format, args);
    va_end(args);
    return n >= 0 && n < PL_PATH_MAX;
}

static bool is_folder(const char *path) {
    struct stat info;
    return stat(path, &info) == 0 && S_ISDIR(info.st_mode);
}

static bool is_file(const char *path) {
    struct stat info;
    return stat(path, &info) == 0 && S_ISREG(info.st_mode);
}

static bool ends_with(const char *text, const char *ending) {
    size_t n = strlen(text), m = strlen(ending);
    return n >= m && strcmp(text + n - m, ending) == 0;
}

/* -- folders -------------------------------------------------------------------------------- */

/* The number of a part, NAME-00002-of-00003.ENDING; 0 when the name is no part's. */
static int part_number(const char *name) {
    enum { DIGITS = 5 };
    const char *of = strstr(name, "-of-");
    if (!of || of - name <= DIGITS || of[-DIGITS - 1] != '-') return 0;
    return strspn(of - DIGITS, "0123456789") == DIGITS ? atoi(of - DIGITS) : 0;
}

static bool is_gguf(const char *name) {
    return ends_with(name, ".gguf") && part_number(name) <= 1;
}

/* A whole model: shards come through their index. */
static bool is_safetensors(const char *name) {
    return ends_with(name, ".safetensors.index.json") ||
           (ends_with(name, ".safetensors") && part_number(name) == 0);
}

typedef struct listing {
    char first[PL_PATH_MAX]; /* the first match, as a path */
    char names[200];         /* all, for a message, as far as they fit */
    int n;
} listing;

static void list(listing *out, const char *folder, bool (*wanted)(const char *)) {
    DIR *dir = opendir(folder);
    size_t used = 0;
    *out = (listing){0};
    for (const struct dirent *entry; dir && (entry = readdir(dir));) {
        if (!wanted(entry->d_name)) continue;
        if (out->n == 0 && !join(out->first, "%s/%s", folder, entry->d_name)) continue;
        int length = snprintf(out->names + used, sizeof out->names - used, "%s%s",
                              out->n ? ", " : "", entry->d_name);
        used += length > 0 ? (size_t)length : 0;
        if (used >= sizeof out->names) used = sizeof out->names - 1;
        out->n++;
    }
    if (dir) closedir(dir);
}

static pl_status nothing_in_folder(const char *folder, pl_error *err) {
    static const char *const unread[] = {"pytorch_model.bin", "pytorch_model.bin.index.json",
                                         "tf_model.h5", "flax_model.msgpack"};
    char path[PL_PATH_MAX];
    for (size_t i = 0; i < sizeof unread / sizeof *unread; i++) {
        if (join(path, "%s/%s", folder, unread[i]) && is_file(path)) {
            return pl_fail(err, PL_ERR_UNSUPPORTED,
                           "%.300s: only %s there, which perilune does not read: it reads "
                           "safetensors and GGUF",
                           folder, unread[i]);
        }
    }
    return pl_fail(err, PL_ERR_IO,
                   "%.300s: no model.safetensors, no model.safetensors.index.json and no .gguf "
                   "file there",
                   folder);
}

static pl_status locate_in_folder(pl_model_files *files, const char *folder, pl_error *err) {
    static const char *const names[] = {"model.safetensors", "model.safetensors.index.json"};
    static bool (*const kinds[])(const char *) = {is_gguf, is_safetensors};
    if (!join(files->folder, "%s", folder)) {
        return pl_fail(err, PL_ERR_IO, "%.200s...: path too long", folder);
    }
    for (size_t i = 0; i < 2; i++) {
        if (join(files->weights, "%s/%s", folder, names[i]) && is_file(files->weights))
            return PL_OK;
    }
    for (size_t i = 0; i < 2; i++) {
        listing found;
        list(&found, folder, kinds[i]);
        memcpy(files->weights, found.first, sizeof files->weights);
        if (found.n == 1) return PL_OK;
        if (found.n > 1) {
            return pl_fail(err, PL_ERR_ARGUMENT, "%.200s: %d models there, name one of them: %s",
                           folder, found.n, found.names);
        }
    }
    if (join(files->weights, "%s/params_shapes.json", folder) && is_file(files->weights))
        return PL_OK;
    return nothing_in_folder(folder, err);
}

/* -- the cache of the hub ------------------------------------------------------------------- */

bool pl_hub_folder(char out[PL_PATH_MAX]) {
    static const struct {
        const char *variable, *below;
    } places[] = {{"HF_HUB_CACHE", ""},
                  {"HF_HOME", "/hub"},
                  {"XDG_CACHE_HOME", "/huggingface/hub"},
                  {"HOME", "/.cache/huggingface/hub"}};
    for (size_t i = 0; i < sizeof places / sizeof *places; i++) {
        const char *value = getenv(places[i].variable);
        if (value && *value) return join(out, "%s%s", value, places[i].below);
    }
    return false;
}

/* The snapshot that refs/main names, or the newest. */
static bool find_snapshot(char out[PL_PATH_MAX], const char *repository) {
    char path[PL_PATH_MAX], commit[128] = "";
    if (join(path, "%s/refs/main", repository)) {
        FILE *f = fopen(path, "r");
        if (f && !fgets(commit, sizeof commit, f)) *commit = 0;
        if (f) fclose(f);
        commit[strcspn(commit, " \r\n/")] = 0;
        if (*commit && join(out, "%s/snapshots/%s", repository, commit) && is_folder(out))
            return true;
    }
    if (!join(path, "%s/snapshots", repository)) return false;
    DIR *dir = opendir(path);
    time_t newest = 0;
    bool found = false;
    for (const struct dirent *entry; dir && (entry = readdir(dir));) {
        char candidate[PL_PATH_MAX];
        struct stat info;
        if (entry->d_name[0] == '.' || !join(candidate, "%s/%s", path, entry->d_name)) continue;
        if (stat(candidate, &info) != 0 || !S_ISDIR(info.st_mode)) continue;
        if (!found || info.st_mtime > newest) {
            newest = info.st_mtime;
            memcpy(out, candidate, sizeof candidate);
            found = true;
        }
    }
    if (dir) closedir(dir);
    return found;
}

/* ORG/NAME or NAME, of the characters that the hub allows, and no path. */
static bool is_hub_id(const char *name) {
    static const char allowed[] =
        "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-_.";
    size_t org = strspn(name, allowed);
    if (org == 0 || name[0] == '.' || ends_with(name, ".gguf") || ends_with(name, ".safetensors")) {
        return false;
    }
    if (name[org] == 0) return true;
    size_t rest = strspn(name + org + 1, allowed);
    return name[org] == '/' && rest > 0 && name[org + 1] != '.' && name[org + 1 + rest] == 0;
}

/* "ORG/NAME" to "models--ORG--NAME". */
static bool cache_name(char out[PL_PATH_MAX], const char *id) {
    const char *slash = strchr(id, '/');
    return slash ? join(out, "models--%.*s--%s", (int)(slash - id), id, slash + 1)
                 : join(out, "models--%s", id);
}

/* -- near misses ---------------------------------------------------------------------------- */

enum { MOST_CANDIDATES = 1000 };

/* The name in a folder that is nearest to this one, into out; false when none is near. */
static bool nearest_in_folder(char out[PL_PATH_MAX], const char *folder, const char *name) {
    char **names = calloc(MOST_CANDIDATES, sizeof *names);
    DIR *dir = names ? opendir(folder) : NULL;
    size_t n = 0;
    for (const struct dirent *entry; dir && n < MOST_CANDIDATES && (entry = readdir(dir));) {
        if (entry->d_name[0] != '.' && (names[n] = strdup(entry->d_name))) n++;
    }
    if (dir) closedir(dir);
    const char *nearest = n ? pl_nearest_name(name, (const char *const *)names, n) : NULL;
    bool found = nearest && join(out, "%s", nearest);
    for (size_t i = 0; i < n; i++) free(names[i]);
    free(names);
    return found;
}

/* "models--ORG--NAME" to "ORG/NAME", in place. */
static void hub_id_of(char *name) {
    static const char prefix[] = "models--";
    size_t skip = sizeof prefix - 1;
    if (strncmp(name, prefix, skip) != 0) return;
    memmove(name, name + skip, strlen(name + skip) + 1);
    char *dashes = strstr(name, "--");
    if (!dashes) return;
    *dashes = '/';
    memmove(dashes + 1, dashes + 2, strlen(dashes + 2) + 1);
}

bool pl_hub_id_of_folder(char out[PL_PATH_MAX], const char *folder) {
    static const char middle[] = "/snapshots/";
    const char *at = strstr(folder, middle), *start = at;
    while (start && start > folder && start[-1] != '/') start--;
    if (!at || strncmp(start, "models--", 8) != 0) return false;
    const char *end = strchr(at + sizeof middle - 1, '/');
    if (end && end[1]) return false;
    if (!join(out, "%.*s", (int)(at - start), start)) return false;
    hub_id_of(out);
    return true;
}

/* What a mistyped path may have meant, as "; did you mean ...?" or "". */
static void suggest_path(char *out, size_t size, const char *name) {
    char folder[PL_PATH_MAX], near[PL_PATH_MAX];
    const char *slash = strrchr(name, '/'), *last = slash ? slash + 1 : name;
    int length = slash ? (int)(slash - name) : 0;
    *out = 0;
    if (!join(folder, "%.*s", length, name)) return;
    const char *where = *folder ? folder : slash ? "/" : ".";
    if (*last && nearest_in_folder(near, where, last)) {
        snprintf(out, size, "; did you mean %.*s%s?", slash ? length + 1 : 0, name, near);
    }
}

static pl_status locate_in_hub(pl_model_files *files, const char *id, pl_error *err) {
    char hub[PL_PATH_MAX] = "", name[PL_PATH_MAX], path[PL_PATH_MAX], hint[200];
    if (!pl_hub_folder(hub)) {
        return pl_fail(err, PL_ERR_IO,
                       "%.100s: no such file or folder, and no cache to look in: none of "
                       "HF_HUB_CACHE, HF_HOME and HOME is set",
                       id);
    }
    bool fits = cache_name(name, id) && join(path, "%s/%s", hub, name);
    if (fits && find_snapshot(files->folder, path)) {
        memcpy(path, files->folder, sizeof path);
        return locate_in_folder(files, path, err);
    }
    suggest_path(hint, sizeof hint, id);
    if (!*hint && fits && nearest_in_folder(path, hub, name)) {
        hub_id_of(path);
        snprintf(hint, sizeof hint, "; did you mean %.150s?", path);
    }
    return pl_fail(err, PL_ERR_IO,
                   "%.100s: no such file or folder, and no model of that id in %.150s; "
                   "`perilune pull %.100s` downloads it%s",
                   id, hub, id, hint);
}

pl_status pl_locate_model(pl_model_files *files, const char *name, pl_error *err) {
    *files = (pl_model_files){0};
    if (!*name) return pl_fail(err, PL_ERR_ARGUMENT, "the name of the model is empty");
    if (is_folder(name)) return locate_in_folder(files, name, err);
    if (is_file(name)) {
        const char *slash = strrchr(name, '/');
        bool fits = join(files->weights, "%s", name);
        fits = fits && (slash ? join(files->folder, "%.*s", (int)(slash - name + 1), name)
                              : join(files->folder, "."));
        return fits ? PL_OK : pl_fail(err, PL_ERR_IO, "%.200s...: path too long", name);
    }
    if (is_hub_id(name)) return locate_in_hub(files, name, err);
    char hint[200];
    suggest_path(hint, sizeof hint, name);
    return pl_fail(err, PL_ERR_IO,
                   "%.150s: no such file or folder (expected a .gguf or .safetensors file, a "
                   "folder, or a hub id such as openai-community/gpt2)%s",
                   name, hint);
}
