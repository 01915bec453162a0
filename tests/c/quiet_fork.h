/*
 * Put before a program (-include) that is built with a sanitizer: fork() then waits until the process has no thread
 * but the caller, the library's sender having ended for want of work (TELEMETRY_IDLE_MS=1).
 *
 * For sanitizers do not take part in fork as libc does: the heap of gcc 12's AddressSanitizer stays locked in the child
 * for ever if another thread was in it, and its ThreadSanitizer takes a new thread there for one of the parent's.
 */
#ifndef QUIET_FORK_H
#define QUIET_FORK_H
#include <dirent.h>
#include <stdlib.h>
#include <time.h>
#include <unistd.h>

static inline int threads_of_process(void) {
  DIR *tasks = opendir("/proc/self/task");
  int count = -2; /* . and .. */
  if (!tasks) abort();
  while (readdir(tasks)) count++;
  closedir(tasks);
  return count;
}

#ifdef __SANITIZE_THREAD__
enum { THREADS_WHEN_QUIET = 2 }; /* it has one of its own */
#else
enum { THREADS_WHEN_QUIET = 1 };
#endif

static inline pid_t quiet_fork(void) {
  struct timespec pause = {0, 1000000};
  for (int left = 120000; threads_of_process() > THREADS_WHEN_QUIET; left--) {
    if (left == 0) abort();
    nanosleep(&pause, NULL);
  }
  return fork();
}

#define fork quiet_fork

#endif
