/* A pool of workers that the whole process shares, made when first needed.
 *
 * A call publishes its job; workers that are awake join it and claim tasks from counters, as the
 * caller does. The call ends when every task is done: it waits for workers that joined, never for
 * those that the system did not run in time. So a busy machine costs its share and no more, where
 * a barrier over all threads would wait for the slowest to be scheduled. A worker without work
 * spins for some seventy microseconds, longer than the gaps between a token's operations, and then
 * sleeps.
 *
 *     state   | generation | open | joined |     one atomic word; joining is a compare-and-swap, so
 *                                                that no worker enters a job that has ended
 */
#include "threads.h"

#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdatomic.h>

int pl_threads_default(void) {
    cpu_set_t set;
    if (sched_getaffinity(0, sizeof set, &set) != 0) return 1;
    int n = CPU_COUNT(&set);
    return n < 1 ? 1 : n > PL_MAX_THREADS ? PL_MAX_THREADS : n;
}

enum { JOINED = 1, OPEN = 1 << 12, GENERATION = 1 << 13, SPINS = 3000 };

static struct {
    pthread_mutex_t caller; /* held while a job runs */
    pthread_mutex_t lock;   /* of sleeping workers */
    pthread_cond_t wake;
    atomic_uint sleeping;
    int n_workers;

    atomic_ulong state;
    pl_task_fn run; /* of the open job, as the next three */
    void *context;
    size_t n_tasks;
    int n_threads;
    struct {
        _Alignas(64) atomic_size_t next; /* task to claim */
    } range[PL_MAX_THREADS];             /* of one thread each */
} pool = {.caller = PTHREAD_MUTEX_INITIALIZER,
          .lock = PTHREAD_MUTEX_INITIALIZER,
          .wake = PTHREAD_COND_INITIALIZER};

static void relax(void) {
#if defined(__x86_64__)
    __builtin_ia32_pause();
#else
    sched_yield();
#endif
}

/* The tasks of range i begin here. */
static size_t range_start(size_t n_tasks, int n_ranges, int i) {
    return n_tasks / (size_t)n_ranges * (size_t)i +
           n_tasks % (size_t)n_ranges * (size_t)i / (size_t)n_ranges;
}

/* A thread runs its own range first, from which it reads memory in one stream, then what is left
 * of the others'. */
static void claim_tasks(int thread) {
    pl_task_fn run = pool.run;
    void *context = pool.context;
    size_t n_tasks = pool.n_tasks;
    int n = pool.n_threads;
    for (int i = 0; i < n; i++) {
        int range = (thread + i) % n;
        size_t end = range_start(n_tasks, n, range + 1);
        for (;;) {
            size_t task =
                atomic_fetch_add_explicit(&pool.range[range].next, 1, memory_order_relaxed);
            if (task >= end) break;
            run(context, task, thread);
        }
    }
}

/* Waits for a state with another generation than `seen`, awake at first, then asleep. */
static unsigned long await_job(unsigned long seen) {
    for (int i = 0; i < SPINS; i++) {
        unsigned long state = atomic_load_explicit(&pool.state, memory_order_acquire);
        if (state / GENERATION != seen) return state;
        relax();
    }
    pthread_mutex_lock(&pool.lock);
    atomic_fetch_add(&pool.sleeping, 1);
    unsigned long state;
    while ((state = atomic_load(&pool.state)) / GENERATION == seen) {
        pthread_cond_wait(&pool.wake, &pool.lock);
    }
    atomic_fetch_sub(&pool.sleeping, 1);
    pthread_mutex_unlock(&pool.lock);
    return state;
}

/* Whether the worker is now part of the open job. */
static bool join_job(int thread, unsigned long state) {
    unsigned long generation = state / GENERATION;
    while ((state & OPEN) && state / GENERATION == generation) {
        if (atomic_compare_exchange_weak(&pool.state, &state, state + JOINED)) {
            if (thread < pool.n_threads) return true;
            atomic_fetch_sub(&pool.state, JOINED);
            return false;
        }
    }
    return false;
}

static void *work(void *argument) {
    int thread = (int)(intptr_t)argument;
    unsigned long seen = 0;
    for (;;) {
        unsigned long state = await_job(seen);
        seen = state / GENERATION;
        if (!join_job(thread, state)) continue;
        claim_tasks(thread);
        atomic_fetch_sub_explicit(&pool.state, JOINED, memory_order_release);
    }
    return NULL;
}

/* After a fork only the caller is left. */
static void forget_workers(void) {
    pool.n_workers = 0;
    atomic_store(&pool.sleeping, 0);
    atomic_store(&pool.state, 0);
    pthread_mutex_init(&pool.caller, NULL);
    pthread_mutex_init(&pool.lock, NULL);
    pthread_cond_init(&pool.wake, NULL);
}

static void register_fork_handler(void) {
    pthread_atfork(NULL, NULL, forget_workers);
}

/* Workers 1 to n - 1; fewer when the system gives no more. Signals stay with the program's own
 * threads. */
static void hire(int n_threads) {
    static pthread_once_t once = PTHREAD_ONCE_INIT;
    pthread_once(&once, register_fork_handler);
    sigset_t all, before;
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &before);
    while (pool.n_workers < n_threads - 1) {
        pthread_t thread;
        void *number = (void *)(intptr_t)(pool.n_workers + 1); /* NOLINT: a number, no address */
        if (pthread_create(&thread, NULL, work, number) != 0) break;
        pthread_detach(thread);
        pool.n_workers++;
    }
    pthread_sigmask(SIG_SETMASK, &before, NULL);
}

static void run_alone(size_t n_tasks, pl_task_fn run, void *context) {
    for (size_t task = 0; task < n_tasks; task++) run(context, task, 0);
}

void pl_parallel(int n_threads, size_t n_tasks, pl_task_fn run, void *context) {
    if (n_threads > PL_MAX_THREADS) n_threads = PL_MAX_THREADS;
    if (n_threads <= 1 || n_tasks <= 1 || pthread_mutex_trylock(&pool.caller) != 0) {
        run_alone(n_tasks, run, context);
        return;
    }
    if (pool.n_workers < n_threads - 1) hire(n_threads);
    pool.run = run;
    pool.context = context;
    pool.n_tasks = n_tasks;
    pool.n_threads = n_threads;
    for (int i = 0; i < n_threads; i++) {
        atomic_store_explicit(&pool.range[i].next, range_start(n_tasks, n_threads, i),
                              memory_order_relaxed);
    }
    unsigned long generation = atomic_load(&pool.state) / GENERATION + 1;
    atomic_store(&pool.state, generation * GENERATION | OPEN);
    if (atomic_load(&pool.sleeping)) {
        pthread_mutex_lock(&pool.lock);
        pthread_cond_broadcast(&pool.wake);
        pthread_mutex_unlock(&pool.lock);
    }
    claim_tasks(0);
    atomic_fetch_and(&pool.state, ~(unsigned long)OPEN);
    while (atomic_load_explicit(&pool.state, memory_order_acquire) % OPEN) relax();
    pthread_mutex_unlock(&pool.caller);
}
