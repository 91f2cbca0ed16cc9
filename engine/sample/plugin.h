/* Plugins: samplers in shared libraries, by the ABI of plugins/perilune_plugin.h.
 *
 *     pl_plugins plugins = {0};
 *     if (pl_plugins_load(&plugins, "plugins/mine.so", err) != PL_OK) ...   // says why, names it
 *     const pl_sampler_kind *kind = pl_plugins_find(&plugins, "mine");
 *     pl_sampler sampler = pl_sampler_of(kind);                             // then as any other
 *     pl_plugins_clear(&plugins);
 *
 * A library stays loaded until the set has let go of it and the last sampler of it is gone. One
 * thread at a time per set and its samplers. */
#ifndef PL_SAMPLE_PLUGIN_H
#define PL_SAMPLE_PLUGIN_H

#include "chain.h"

typedef struct pl_plugin pl_plugin;

/* Owner: the caller; begins as {0}. */
typedef struct pl_plugins {
    pl_plugin **list; /* [n] in the order they were loaded in */
    size_t n, capacity;
} pl_plugins;

/* Loads a library. What is no library for this machine is told apart before the system's loader
 * sees it. Errors, each naming the file: PL_ERR_IO (cannot be read), PL_ERR_FORMAT (no shared
 * library, cut off, for another machine), PL_ERR_UNSUPPORTED (a newer ABI; the loader's own words;
 * no entry), PL_ERR_ARGUMENT (what the plugin says of itself is wrong, or its name is taken). */
pl_status pl_plugins_load(pl_plugins *plugins, const char *path, pl_error *err);

/* Lets go of all. */
void pl_plugins_clear(pl_plugins *plugins);

/* The sampler of that name, or NULL. Lives as long as the set holds it, or a sampler of it lives.
 */
const pl_sampler_kind *pl_plugins_find(const pl_plugins *plugins, const char *name);

const pl_sampler_kind *pl_plugin_kind(const pl_plugin *plugin);
const char *pl_plugin_path(const pl_plugin *plugin);
uint32_t pl_plugin_abi(const pl_plugin *plugin);

#endif
