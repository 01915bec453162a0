/*
 * The master of a prefork server, as the two servers beside it use it: listens, forks workers, forks a new one for each
 * that ends, and on TERM or INT ends them all. It knows nothing of telemetry, as nothing in it has to.
 *
 * - All signals that matter are blocked from the start and taken with sigtimedwait: none is missed between a check
 *   and a wait. A worker starts with TERM and INT blocked and lets them in where it waits.
 * - Workers get TERM if the master dies.
 */
#ifndef WORKERS_H
#define WORKERS_H
#ifndef _GNU_SOURCE
#error "define _GNU_SOURCE before any #include"
#endif
#include <arpa/inet.h>
#include <errno.h>
#include <netinet/in.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

enum { MOST_WORKERS = 64, GRACE_MS = 10000 };

/* A listening socket on 127.0.0.1 that never blocks in accept: another worker may be faster. -1 with errno. */
static int listen_on(int port) {
  struct sockaddr_in address = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
  address.sin_port = htons((uint16_t)port);
  int listener = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0), yes = 1;
  if (listener < 0) return -1;
  if (setsockopt(listener, SOL_SOCKET, SO_REUSEADDR, &yes, sizeof yes) ||
      bind(listener, (struct sockaddr *)&address, sizeof address) || listen(listener, SOMAXCONN)) {
    close(listener);
    return -1;
  }
  return listener;
}

/* Milliseconds of a clock that nobody sets. */
static long now_ms(void) {
  struct timespec now;
  clock_gettime(CLOCK_MONOTONIC, &now);
  return now.tv_sec * 1000L + now.tv_nsec / 1000000;
}

/* What a worker does; `number` is from 1 on, and that of the one it replaces. Its result is the exit status. */
typedef int work_fn(void *argument, int number);

/* Forks one worker, which leaves through exit(): that delivers its events. */
static pid_t start_worker(work_fn *work, void *argument, int number) {
  pid_t master = getpid(), pid;
  fflush(NULL); /* or the worker's exit() would write the master's output again */
  pid = fork();
  if (pid != 0) return pid;
  prctl(PR_SET_PDEATHSIG, SIGTERM);
  if (getppid() != master) raise(SIGTERM); /* it died before that */
  exit(work(argument, number));
}

/* Keeps `count` workers until TERM or INT; 0 if then all of them ended well within GRACE_MS. */
static int run_workers(int count, work_fn *work, void *argument) {
  pid_t pids[MOST_WORKERS] = {0};
  sigset_t awaited;
  sigemptyset(&awaited);
  sigaddset(&awaited, SIGTERM);
  sigaddset(&awaited, SIGINT);
  sigaddset(&awaited, SIGCHLD);
  sigprocmask(SIG_BLOCK, &awaited, NULL);

  int failed = 0, running = 0, status;
  long over = 0; /* when to kill those that are left; 0 while serving */
  for (;;) {
    for (int i = 0; !over && i < count; i++) {
      if (pids[i] == 0 && (pids[i] = start_worker(work, argument, i + 1)) > 0) running++;
      if (pids[i] < 0) {
        perror("fork"); /* tried again in a second */
        pids[i] = 0;
      }
    }
    struct timespec second = {.tv_sec = 1};
    int got = sigtimedwait(&awaited, NULL, &second);
    if ((got == SIGTERM || got == SIGINT) && !over) {
      over = now_ms() + GRACE_MS;
      for (int i = 0; i < count; i++)
        if (pids[i]) kill(pids[i], SIGTERM);
    }
    for (pid_t ended; (ended = waitpid(-1, &status, WNOHANG)) > 0;) {
      for (int i = 0; i < count; i++)
        if (pids[i] == ended) pids[i] = 0, running--;
      if (status == 0) continue;
      fprintf(stderr, "worker %d ended with status %#x\n", (int)ended, (unsigned)status);
      failed |= over != 0;
      if (!over) nanosleep(&(struct timespec){.tv_nsec = 100000000}, NULL); /* one that cannot start is no fork bomb */
    }
    if (over && running == 0) return failed;
    if (over && now_ms() >= over)
      for (int i = 0; i < count; i++)
        if (pids[i]) kill(pids[i], SIGKILL);
  }
}

#endif
