/*
 * Puts the measured thread on one core and all others on another. Left to itself the scheduler sometimes wakes a
 * consumer on its producer's core, where it waits until the burst is over, and then nothing concurrent was
 * measured. With a single core this does nothing.
 */
#ifndef BENCH_CORES_H
#define BENCH_CORES_H

#include <dirent.h>
#include <sched.h>
#include <stdlib.h>
#include <sys/syscall.h>
#include <unistd.h>

/* The nth core this process was given at its start, or -1. */
static inline int nth_core(int n) {
    static cpu_set_t all;
    static int known;
    if (!known) {
        known = sched_getaffinity(0, sizeof all, &all) == 0;
    }
    for (int core = 0; core < CPU_SETSIZE; core++) {
        if (CPU_ISSET(core, &all) && n-- == 0) {
            return core;
        }
    }
    return -1;
}

static inline void pin_thread(pid_t tid, int core) {
    cpu_set_t one;
    CPU_ZERO(&one);
    CPU_SET(core, &one);
    sched_setaffinity(tid, sizeof one, &one);
}

/* Threads made later share the first core with their maker: call it once all are there. */
static inline void pin_apart(void) {
    if (nth_core(1) < 0) {
        return;
    }
    pid_t me = (pid_t)syscall(SYS_gettid);
    DIR *tasks = opendir("/proc/self/task");
    for (struct dirent *task; tasks && (task = readdir(tasks));) {
        pid_t tid = (pid_t)atoi(task->d_name);
        if (tid > 0) {
            pin_thread(tid, nth_core(tid == me ? 0 : 1));
        }
    }
    if (tasks) {
        closedir(tasks);
    }
}

/* For whoever makes further threads. */
static inline void unpin(void) {
    cpu_set_t both;
    CPU_ZERO(&both);
    for (int n = 0; nth_core(n) >= 0; n++) {
        CPU_SET(nth_core(n), &both);
    }
    sched_setaffinity(0, sizeof both, &both);
}

#endif
