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

/* The one .gguf file of a folder, or the first of a split one; counts how many there are. */
static int find_gguf(char out[PL_PATH_MAX], const char *folder) {
    DIR *dir = opendir(folder);
    int n = 0;
    for (const struct dirent *entry; dir && (entry = readdir(dir));) {
        const char *part = strstr(entry->d_name, "-of-");
        bool later = part && ends_with(entry->d_name, ".gguf") && part - entry->d_name >= 6 &&
                     strncmp(part - 6, "-00001", 6) != 0;
        if (!ends_with(entry->d_name, ".gguf") || later) continue;
        if (n++ == 0 && !join(out, "%s/%s", folder, entry->d_name)) n = 0;
    }
    if (dir) closedir(dir);
    return n;
}

static pl_status locate_in_folder(pl_model_files *files, const char *folder, pl_error *err) {
    static const char *const names[] = {"model.safetensors", "model.safetensors.index.json"};
    if (!join(files->folder, "%s", folder)) {
        return pl_fail(err, PL_ERR_IO, "%.200s...: path too long", folder);
    }
    for (size_t i = 0; i < 2; i++) {
        if (join(files->weights, "%s/%s", folder, names[i]) && is_file(files->weights))
            return PL_OK;
    }
    int n = find_gguf(files->weights, folder);
    if (n == 1) return PL_OK;
    if (n > 1) {
        return pl_fail(err, PL_ERR_IO, "%s: %d .gguf files; name one of them", folder, n);
    }
    return pl_fail(
        err, PL_ERR_IO,
        "%s: no model.safetensors, no model.safetensors.index.json and no .gguf file there",
        folder);
}

static bool hub_folder(char out[PL_PATH_MAX]) {
    const char *cache = getenv("HF_HUB_CACHE"), *home = getenv("HF_HOME"), *user = getenv("HOME");
    if (cache && *cache) return join(out, "%s", cache);
    if (home && *home) return join(out, "%s/hub", home);
    return user && *user && join(out, "%s/.cache/huggingface/hub", user);
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

/* ORG/NAME, of the characters that the hub allows, and no path. */
static bool is_hub_id(const char *name) {
    const char *allowed = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-_.";
    size_t org = strspn(name, allowed);
    if (org == 0 || name[org] != '/' || name[0] == '.') return false;
    size_t rest = strspn(name + org + 1, allowed);
    return rest > 0 && name[org + 1] != '.' && name[org + 1 + rest] == 0;
}

static pl_status locate_in_hub(pl_model_files *files, const char *id, pl_error *err) {
    char hub[PL_PATH_MAX], repository[PL_PATH_MAX], snapshot[PL_PATH_MAX];
    const char *slash = strchr(id, '/');
    if (!hub_folder(hub) ||
        !join(repository, "%s/models--%.*s--%s", hub, (int)(slash - id), id, slash + 1) ||
        !find_snapshot(snapshot, repository)) {
        return pl_fail(err, PL_ERR_IO,
                       "%s: no such file or folder, and no model of that id in %.200s; download it "
                       "there first, with any Hugging Face tool",
                       id, hub);
    }
    return locate_in_folder(files, snapshot, err);
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
    return pl_fail(
        err, PL_ERR_IO,
        "%s: no such file or folder (expected a .gguf or .safetensors file, a folder, or a "
        "hub id such as openai-community/gpt2)",
        name);
}
