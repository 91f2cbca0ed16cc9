#include "threads.h"

#include <sched.h>

int pl_threads_default(void) {
    cpu_set_t set;
    if (sched_getaffinity(0, sizeof set, &set) != 0) return 1;
    int n = CPU_COUNT(&set);
    return n < 1 ? 1 : n > PL_MAX_THREADS ? PL_MAX_THREADS : n;
}

#ifdef _OPENMP
#include <omp.h>

void pl_parallel(int n_threads, size_t n_tasks, pl_task_fn run, void *context) {
    if (n_threads > PL_MAX_THREADS) n_threads = PL_MAX_THREADS;
    if ((size_t)(n_threads < 1 ? 1 : n_threads) > n_tasks) n_threads = (int)n_tasks;
    if (n_threads <= 1) {
        for (size_t task = 0; task < n_tasks; task++) run(context, task, 0);
        return;
    }
#pragma omp parallel for schedule(dynamic, 1) num_threads(n_threads)
    for (size_t task = 0; task < n_tasks; task++) run(context, task, omp_get_thread_num());
}
#else
void pl_parallel(int n_threads, size_t n_tasks, pl_task_fn run, void *context) {
    (void)n_threads;
    for (size_t task = 0; task < n_tasks; task++) run(context, task, 0);
}
#endif
