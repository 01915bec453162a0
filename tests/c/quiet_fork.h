/*
 * Put before a program (-include) that is built with AddressSanitizer: fork() then waits until the process has one
 * thread, the library's sender having ended for want of work (TELEMETRY_IDLE_MS=1).
 *
 * For the sanitizer's heap, unlike libc's, may be locked in a child for ever if another thread of the parent was in it
 * at the time of the fork (gcc before 14, clang before 17).
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

static inline pid_t quiet_fork(void) {
  struct timespec pause = {0, 1000000};
  for (int left = 20000; threads_of_process() > 1; left--) {
    if (left == 0) abort();
    nanosleep(&pause, NULL);
  }
  return fork();
}

#define fork quiet_fork

#endif
