/* Work shared between threads: a fixed list of tasks, claimed from a counter. Which thread runs
 * a task never changes its result; no reduction crosses tasks. */
#ifndef PL_BASE_THREADS_H
#define PL_BASE_THREADS_H

#include "../perilune.h"

enum { PL_MAX_THREADS = 256 };

/* task in [0, n_tasks); thread in [0, n_threads), for per-thread scratch. */
typedef void (*pl_task_fn)(void *context, size_t task, int thread);

/* Runs every task once and returns when all are done; n_threads is clamped to
 * [1, PL_MAX_THREADS]. With one thread or one task nothing is started. The workers are one pool for
 * the process: while it serves one call, calls from other threads and from inside tasks run alone.
 */
void pl_parallel(int n_threads, size_t n_tasks, pl_task_fn run, void *context);

/* Cores this process may run on, at least 1: the default number of threads. */
int pl_threads_default(void);

#endif
