/* Plugins: see plugin.h. Everything that a library says of itself is checked before use. */
#include "plugin.h"

#include "../../plugins/perilune_plugin.h"
#include "../base/error.h"
#include "elf_check.h"

#include <ctype.h>
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

_Static_assert((int)PERILUNE_MAX_PARAMS <= (int)PL_SAMPLER_PARAMS, "parameters fit");

struct pl_plugin {
    pl_sampler_kind kind; /* its strings live in the library */
    perilune_sampler api; /* members beyond the library's struct_size are 0 */
    void *library;
    int memory; /* the library's bytes, open as long as it is loaded: its name; -1: none */
    char *path;
    int64_t refs; /* the set's and one for each sampler */
};

static void release(pl_plugin *plugin) {
    if (!plugin || --plugin->refs > 0) return;
    if (plugin->library) dlclose(plugin->library);
    if (plugin->memory >= 0) close(plugin->memory);
    free(plugin->path);
    free(plugin);
}

/* -- a sampler of a plugin --------------------------------------------------------------------- */

typedef struct instance {
    perilune_host host; /* host.context is the instance */
    pl_plugin *plugin;
    const pl_tokenizer *tok;
    int64_t n_vocab;
    pl_candidates *now; /* during apply */
    void *state;        /* the plugin's */
} instance;

static double uniform(const perilune_host *host) {
    const instance *self = host->context;
    return self->now ? pl_random_uniform_f64(&self->now->random) : 0;
}

static const char *token_bytes(const perilune_host *host, int32_t id, size_t *n_bytes) {
    const instance *self = host->context;
    *n_bytes = 0;
    if (id < 0 || (size_t)id >= pl_tokenizer_n_tokens(self->tok)) return "";
    pl_bytes bytes = pl_tokenizer_token_bytes(self->tok, id);
    *n_bytes = bytes.size;
    return bytes.size ? bytes.data : "";
}

static int is_end(const perilune_host *host, int32_t id) {
    const instance *self = host->context;
    return id >= 0 && (size_t)id < pl_tokenizer_n_tokens(self->tok) &&
           pl_tokenizer_is_end(self->tok, id);
}

static const void *get_extension(const perilune_host *host, const char *id) {
    static const perilune_random random = {uniform};
    static const perilune_vocabulary vocabulary = {token_bytes, is_end};
    const instance *self = host->context;
    if (strcmp(id, PERILUNE_EXT_RANDOM) == 0) return &random;
    if (strcmp(id, PERILUNE_EXT_VOCABULARY) == 0) return self->tok ? &vocabulary : NULL;
    return NULL;
}

/* An error buffer as plugins get it; whatever they leave in it is a text. */
typedef struct complaint {
    char text[256];
} complaint;

static pl_status judge(int result, const char *call, complaint *why, pl_error *err) {
    if (result == PERILUNE_OK) return PL_OK;
    why->text[sizeof why->text - 1] = 0;
    for (char *c = why->text; *c; c++)
        if (iscntrl((unsigned char)*c)) *c = ' ';
    return pl_fail(err, PL_ERR_CALLBACK, "%s: %s", call, why->text[0] ? why->text : "it failed");
}

static pl_status apply(pl_sampler *self, pl_candidates *c, pl_error *err) {
    instance *i = self->state;
    complaint why = {""};
    perilune_step step = {.struct_size = sizeof step,
                          .chosen = -1,
                          .logits = c->logits,
                          .n_vocab = c->n_vocab,
                          .tokens = c->tokens,
                          .n_tokens = c->n_tokens,
                          .n_prompt = c->n_prompt};
    i->now = c;
    int result = i->plugin->api.apply(i->state, &step, why.text, sizeof why.text);
    i->now = NULL;
    pl_status status = judge(result, "apply", &why, err);
    if (status != PL_OK || step.chosen == -1) return status;
    if (step.chosen < 0 || step.chosen >= c->n_vocab)
        return pl_fail(err, PL_ERR_CALLBACK, "it chose token %lld: expected 0 to %lld",
                       (long long)step.chosen, (long long)c->n_vocab - 1);
    c->chosen = step.chosen;
    return PL_OK;
}

static pl_status accept(pl_sampler *self, int32_t id, pl_error *err) {
    instance *i = self->state;
    complaint why = {""};
    if (!i->plugin->api.accept) return PL_OK;
    return judge(i->plugin->api.accept(i->state, id, why.text, sizeof why.text), "accept", &why,
                 err);
}

static pl_status reset(pl_sampler *self, pl_error *err) {
    instance *i = self->state;
    complaint why = {""};
    if (!i || !i->plugin->api.reset) return PL_OK;
    return judge(i->plugin->api.reset(i->state, why.text, sizeof why.text), "reset", &why, err);
}

static instance *new_instance(pl_plugin *plugin, const pl_tokenizer *tok, int64_t n_vocab,
                              pl_error *err) {
    instance *i = calloc(1, sizeof *i);
    if (!i) {
        pl_fail(err, PL_ERR_MEMORY, "no memory for a sampler");
        return NULL;
    }
    i->host = (perilune_host){PERILUNE_PLUGIN_ABI, sizeof i->host, i, get_extension};
    i->plugin = plugin;
    i->tok = tok;
    i->n_vocab = n_vocab;
    return i;
}

/* Ends what create or clone began: the sampler owns the instance, or it is gone. */
static pl_status own(pl_sampler *self, instance *i, pl_status status) {
    if (status != PL_OK) {
        free(i);
        return status;
    }
    i->plugin->refs++;
    self->state = i;
    return PL_OK;
}

static pl_status start(pl_sampler *self, const pl_tokenizer *tok, int64_t n_vocab, pl_error *err) {
    pl_plugin *plugin = (pl_plugin *)self->kind; /* its first member */
    complaint why = {""};
    instance *i = new_instance(plugin, tok, n_vocab, err);
    if (!i) return PL_ERR_MEMORY;
    int result =
        plugin->api.create(&i->host, self->params, n_vocab, &i->state, why.text, sizeof why.text);
    pl_status status = judge(result, "create", &why, err);
    if (status != PL_OK) pl_error_prefix(err, status, "plugin '%s'", plugin->kind.name);
    return own(self, i, status);
}

static pl_status clone(pl_sampler *copy, const pl_sampler *from, pl_error *err) {
    const instance *old = from->state;
    complaint why = {""};
    if (!old->plugin->api.clone) return start(copy, old->tok, old->n_vocab, err);
    instance *i = new_instance(old->plugin, old->tok, old->n_vocab, err);
    if (!i) return PL_ERR_MEMORY;
    int result = old->plugin->api.clone(&i->host, old->state, &i->state, why.text, sizeof why.text);
    return own(copy, i, judge(result, "clone", &why, err));
}

static void destroy(pl_sampler *self) {
    instance *i = self->state;
    if (i->plugin->api.destroy) i->plugin->api.destroy(i->state);
    release(i->plugin);
    free(i);
}

/* -- what a plugin says of itself -------------------------------------------------------------- */

static bool is_name(const char *name) {
    if (!name || !(isalpha((unsigned char)*name) || *name == '_')) return false;
    size_t n = 0;
    while (n < 64 && (isalnum((unsigned char)name[n]) || name[n] == '_')) n++;
    return n < 64 && name[n] == 0;
}

static pl_status take_params(pl_plugin *plugin, pl_error *err) {
    const perilune_sampler *api = &plugin->api;
    pl_sampler_kind *kind = &plugin->kind;
    if (api->n_params > PERILUNE_MAX_PARAMS || (api->n_params && !api->params))
        return pl_fail(err, PL_ERR_ARGUMENT, "%u parameters, expected at most %d", api->n_params,
                       PERILUNE_MAX_PARAMS);
    for (uint32_t p = 0; p < api->n_params; p++) {
        const perilune_param *param = &api->params[p];
        if (!is_name(param->name))
            return pl_fail(err, PL_ERR_ARGUMENT, "parameter %u has no proper name", p + 1);
        if (!(param->min <= param->neutral && param->neutral <= param->max))
            return pl_fail(err, PL_ERR_ARGUMENT, "parameter '%s': %g is not from %g to %g",
                           param->name, param->neutral, param->min, param->max);
        for (uint32_t q = 0; q < p; q++)
            if (strcmp(param->name, api->params[q].name) == 0)
                return pl_fail(err, PL_ERR_ARGUMENT, "two parameters are called '%s'", param->name);
        kind->params[p] = (pl_sampler_param){param->name,
                                             param->neutral,
                                             param->min,
                                             param->max,
                                             (param->flags & PERILUNE_WHOLE) != 0,
                                             param->help ? param->help : ""};
    }
    kind->n_params = (int)api->n_params;
    return PL_OK;
}

/* The functions that this version needs to be there. */
static const char *find_lack(const perilune_sampler *api) {
    if (!api->create) return "create";
    if (!api->apply) return "apply";
    if (api->accept && !api->clone) return "clone, which accept makes necessary";
    if (api->accept && !api->reset) return "reset, which accept makes necessary";
    return NULL;
}

static pl_status take_api(pl_plugin *plugin, const perilune_sampler *said, pl_error *err) {
    if (!said)
        return pl_fail(err, PL_ERR_UNSUPPORTED, "it refuses to run in a program of ABI version %u",
                       PERILUNE_PLUGIN_ABI);
    if (said->abi_version < 1 || said->abi_version > PERILUNE_PLUGIN_ABI)
        return pl_fail(err, PL_ERR_UNSUPPORTED, "it needs ABI version %u, this program has %u: %s",
                       said->abi_version, PERILUNE_PLUGIN_ABI,
                       said->abi_version ? "a newer perilune runs it"
                                         : "there never was such a one");
    if (said->struct_size < offsetof(perilune_sampler, accept))
        return pl_fail(err, PL_ERR_ARGUMENT, "its structure has %u bytes, expected %zu",
                       said->struct_size, sizeof plugin->api);
    size_t size = said->struct_size < sizeof plugin->api ? said->struct_size : sizeof plugin->api;
    memcpy(&plugin->api, said, size);
    const perilune_sampler *api = &plugin->api;
    if (!is_name(api->name))
        return pl_fail(err, PL_ERR_ARGUMENT, "its name is not of letters, digits and _");
    const char *lack = find_lack(api);
    if (lack) return pl_fail(err, PL_ERR_ARGUMENT, "'%s' has no function %s", api->name, lack);
    plugin->kind = (pl_sampler_kind){.name = api->name,
                                     .summary = api->summary ? api->summary : "",
                                     .chooses = (api->flags & PERILUNE_CHOOSES) != 0,
                                     .foreign = true,
                                     .start = start,
                                     .apply = apply,
                                     .accept = accept,
                                     .reset = reset,
                                     .clone = clone,
                                     .free = destroy};
    return take_params(plugin, err);
}

/* -- loading ----------------------------------------------------------------------------------- */

/* The bytes of the file in memory of our own: who writes a new library over the file while the old
 * one runs does not change the code under it, and the loader, which goes by names, takes it for
 * another library. -1 where that cannot be had. */
static int copy_to_memory(int from) {
    char block[65536];
    int to = memfd_create("perilune-plugin", MFD_CLOEXEC);
    off_t at = 0;
    for (ssize_t n = 1; to >= 0 && n > 0; at += n) {
        n = pread(from, block, sizeof block, at);
        if (n < 0 || (n > 0 && write(to, block, (size_t)n) != n)) {
            close(to);
            return -1;
        }
    }
    return to;
}

static pl_status open_library(pl_plugin *plugin, const char *path, pl_error *err) {
    char name[4096];
    int file = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK);
    if (file < 0) return pl_fail(err, PL_ERR_IO, "%s: %s", path, strerror(errno));
    pl_status status = pl_elf_check(path, file, err);
    if (status == PL_OK) plugin->memory = copy_to_memory(file);
    if (status == PL_OK && plugin->memory >= 0) status = pl_elf_check(path, plugin->memory, err);
    close(file);
    if (status != PL_OK) return status;
    snprintf(name, sizeof name, "/proc/self/fd/%d", plugin->memory);
    if (plugin->memory >= 0) plugin->library = dlopen(name, RTLD_NOW | RTLD_LOCAL);
    if (plugin->library) return PL_OK;
    /* What it needs may be found from its own place only. A name without a slash would be looked
     * for in the system's folders. */
    snprintf(name, sizeof name, "%s%s", strchr(path, '/') ? "" : "./", path);
    plugin->library = dlopen(name, RTLD_NOW | RTLD_LOCAL);
    if (plugin->library) return PL_OK;
    const char *why = dlerror();
    return pl_fail(err, PL_ERR_UNSUPPORTED, "%s: %s", path, why ? why : "cannot be loaded");
}

static pl_status open_plugin(pl_plugin *plugin, const char *path, pl_error *err) {
    pl_status status = open_library(plugin, path, err);
    if (status != PL_OK) return status;
    const perilune_sampler *(*entry)(uint32_t) = NULL;
    void *symbol = dlsym(plugin->library, PERILUNE_PLUGIN_ENTRY);
    memcpy(&entry, &symbol, sizeof entry); /* ISO C does not convert one into the other */
    if (!entry)
        return pl_fail(err, PL_ERR_UNSUPPORTED, "%s: no plugin: it does not export %s", path,
                       PERILUNE_PLUGIN_ENTRY);
    status = take_api(plugin, entry(PERILUNE_PLUGIN_ABI), err);
    return status == PL_OK ? PL_OK : pl_error_prefix(err, status, "%s", path);
}

static pl_status keep(pl_plugins *plugins, pl_plugin *plugin, pl_error *err) {
    if (plugins->n == plugins->capacity) {
        size_t capacity = plugins->capacity ? 2 * plugins->capacity : 8;
        pl_plugin **grown = realloc(plugins->list, capacity * sizeof(pl_plugin *));
        if (!grown) return pl_fail(err, PL_ERR_MEMORY, "no memory for plugins");
        plugins->list = grown;
        plugins->capacity = capacity;
    }
    plugins->list[plugins->n++] = plugin;
    return PL_OK;
}

static pl_status check_free(const pl_plugins *plugins, const pl_plugin *plugin, pl_error *err) {
    const char *name = plugin->kind.name;
    if (!name) return pl_fail(err, PL_ERR_ARGUMENT, "%s: it has no name", plugin->path);
    if (pl_samplers_find(name))
        return pl_fail(err, PL_ERR_ARGUMENT, "%s: '%s' is the name of a built-in sampler",
                       plugin->path, name);
    if (pl_plugins_find(plugins, name))
        return pl_fail(err, PL_ERR_ARGUMENT, "%s: the name '%s' is taken by a plugin before it",
                       plugin->path, name);
    return PL_OK;
}

pl_status pl_plugins_load(pl_plugins *plugins, const char *path, pl_error *err) {
    pl_plugin *plugin = calloc(1, sizeof *plugin);
    if (!plugin) return pl_fail(err, PL_ERR_MEMORY, "no memory for a plugin");
    plugin->refs = 1;
    plugin->memory = -1;
    plugin->path = strdup(path);
    pl_status status = plugin->path ? open_plugin(plugin, path, err)
                                    : pl_fail(err, PL_ERR_MEMORY, "no memory for a plugin");
    if (status == PL_OK) status = check_free(plugins, plugin, err);
    if (status == PL_OK) status = keep(plugins, plugin, err);
    if (status != PL_OK) release(plugin);
    return status;
}

void pl_plugins_clear(pl_plugins *plugins) {
    for (size_t i = 0; i < plugins->n; i++) release(plugins->list[i]);
    free(plugins->list);
    *plugins = (pl_plugins){0};
}

const pl_sampler_kind *pl_plugins_find(const pl_plugins *plugins, const char *name) {
    for (size_t i = 0; i < plugins->n; i++)
        if (strcmp(plugins->list[i]->kind.name, name) == 0) return &plugins->list[i]->kind;
    return NULL;
}

const pl_sampler_kind *pl_plugin_kind(const pl_plugin *plugin) {
    return &plugin->kind;
}

const char *pl_plugin_path(const pl_plugin *plugin) {
    return plugin->path;
}

uint32_t pl_plugin_abi(const pl_plugin *plugin) {
    return plugin->api.abi_version;
}
