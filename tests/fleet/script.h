/* What a worker of worker.c does: a script, its words separated by commas.
 *
 * Invariants:
 * - Words run in order; after the last one the worker's function returns 0. "2?WORD" is done by the second incarnation of a slot
 *   only, "s3?WORD" in slot 3 only, "f?WORD" only while the file $TEST_FLAG exists.
 * - What a test must know is one line of $TEST_LOG, written by one write(): "<us> <pid> <slot> <incarnation> <text>".
 */
#ifndef SCRIPT_H
#define SCRIPT_H

#ifndef _GNU_SOURCE
#define _GNU_SOURCE
#endif
#include <arpa/inet.h>
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "telemetry.h"

static telemetry_worker_t *me;

static const char *env(const char *name) {
  const char *value = getenv(name);
  if (!value) {
    fprintf(stderr, "%s is not set: run this through pytest\n", name);
    _exit(99);
  }
  return value;
}

static long long now_us(void) {
  struct timespec now;
  clock_gettime(CLOCK_MONOTONIC, &now);
  return (long long)now.tv_sec * 1000000 + now.tv_nsec / 1000;
}

static void nap_ms(long ms) {
  struct timespec nap = {ms / 1000, ms % 1000 * 1000000};
  while (nanosleep(&nap, &nap) && errno == EINTR) {
  }
}

/* Async-signal-safe but for its formatting, which allocates nothing for these formats. */
__attribute__((format(printf, 1, 2))) static void note(const char *format, ...) {
  char line[4096];
  int size = snprintf(line, sizeof line, "%lld %d %d %llu ", now_us(), (int)getpid(),
                      me ? (int)telemetry_worker_slot(me) : -1, (unsigned long long)telemetry_worker_incarnation(me));
  va_list rest;
  va_start(rest, format);
  size += vsnprintf(line + size, sizeof line - (size_t)size - 1, format, rest);
  va_end(rest);
  if (size > (int)sizeof line - 2) size = sizeof line - 2;
  line[size++] = '\n';
  int saved = errno, fd = open(env("TEST_LOG"), O_WRONLY | O_APPEND | O_CREAT | O_CLOEXEC, 0666);
  if (fd < 0 || write(fd, line, (size_t)size) != size) _exit(98);
  close(fd);
  errno = saved;
}

static volatile sig_atomic_t usr1_came;

static void on_usr1(int signal) {
  (void)signal;
  note("usr1");
  usr1_came = 1;
}

static void *idle_thread(void *unused) {
  for (;;) pause();
  return unused;
}

static void start_thread(void) {
  pthread_t thread;
  if (pthread_create(&thread, NULL, idle_thread, NULL)) _exit(97);
}

/* Waits for `ms` or the request to stop, whichever is first. */
static void wait_stop(int ms) {
  struct pollfd stop = {.fd = telemetry_worker_stop_fd(me), .events = POLLIN};
  poll(&stop, 1, ms);
}

static int flagged(void) { return access(env("TEST_FLAG"), F_OK) == 0; }

/* Takes items of the test's server until it is to stop: each is worked at, counted, and only then acknowledged. */
static void take(int work_ms) {
  struct sockaddr_un to = {.sun_family = AF_UNIX};
  snprintf(to.sun_path, sizeof to.sun_path, "%s", env("TEST_ITEMS"));
  int fd = socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0);
  int paused = 0;
  if (fd < 0 || connect(fd, (struct sockaddr *)&to, sizeof to)) _exit(96);
  while (!telemetry_worker_stopping(me)) {
    char text[64];
    int before = paused;
    if ((paused = telemetry_worker_paused(me) != 0)) {
      if (!before) note("takes no more"); /* what it had is acknowledged */
      telemetry_worker_beat(me);
      wait_stop(10);
      continue;
    }
    if (write(fd, "take", 4) != 4) _exit(95);
    ssize_t size = read(fd, text, sizeof text - 1);
    if (size < 0 && errno == EINTR) size = read(fd, text, sizeof text - 1);
    if (size <= 0) _exit(94);
    text[size] = 0;
    telemetry_worker_count(me, 0, 1);
    uint64_t item = telemetry_worker_item_begin(me, text, 0);
    nap_ms(work_ms);
    telemetry_worker_item_end(me, item, TELEMETRY_ITEM_DONE);
    if (write(fd, text, (size_t)size) != size) _exit(93);
  }
  close(fd);
}

/* The descriptors that are open, as "0:pipe:[1] 1:/dev/null ...". */
static void note_descriptors(void) {
  char all[3000] = "";
  size_t used = 0;
  DIR *directory = opendir("/proc/self/fd");
  struct dirent *entry;
  while (directory && (entry = readdir(directory))) {
    int fd = atoi(entry->d_name);
    if (entry->d_name[0] == '.' || fd == dirfd(directory)) continue;
    char path[64], target[200] = "";
    snprintf(path, sizeof path, "/proc/self/fd/%d", fd);
    if (readlink(path, target, sizeof target - 1) < 0) continue;
    used += (size_t)snprintf(all + used, used < sizeof all ? sizeof all - used : 0, " %d=%s", fd, target);
    if (used >= sizeof all) break;
  }
  if (directory) closedir(directory);
  note("fds%s", all);
}

static void note_signals(void) {
  char line[200], all[400] = "";
  FILE *status = fopen("/proc/self/status", "re");
  while (status && fgets(line, sizeof line, status))
    if (!strncmp(line, "SigBlk:", 7) || !strncmp(line, "SigIgn:", 7) || !strncmp(line, "SigCgt:", 7)) {
      line[strcspn(line, "\n")] = 0;
      line[7] = '=';
      snprintf(all + strlen(all), sizeof all - strlen(all), " %.6s=%s", line, line + 8);
    }
  if (status) fclose(status);
  note("signals%s", all);
}

/* A process of the worker's own, which keeps what it inherited and ends by itself only if `orphan` is 2. With `orphan` its
 * parent is gone. Returns when it is there. */
static void grandchild(int orphan) {
  int there[2];
  char byte;
  if (pipe2(there, O_CLOEXEC)) _exit(89);
  if (fork()) {
    close(there[1]);
    while (read(there[0], &byte, 1) < 0 && errno == EINTR) {
    }
    close(there[0]);
    return;
  }
  if (orphan && fork()) _exit(0);
  signal(SIGTERM, SIG_IGN);
  telemetry_worker_count(telemetry_worker_current(), 1, 1000000); /* must do nothing: it is no worker */
  note("grandchild current=%d", telemetry_worker_current() != NULL);
  close(there[0]);
  close(there[1]);
  if (orphan == 2) _exit(0);
  for (;;) pause();
}

/* What TERM does to a process of the worker's own that is nothing to the fleet: the signal that ended it. */
static void end_child(void) {
  int there[2], status = 0;
  char byte;
  if (pipe2(there, O_CLOEXEC)) _exit(88);
  pid_t child = fork();
  if (child == 0) {
    close(there[0]);
    if (write(there[1], "", 1) != 1) _exit(87);
    for (;;) pause();
  }
  close(there[1]);
  if (read(there[0], &byte, 1) != 1 || kill(child, SIGTERM) || waitpid(child, &status, 0) != child) _exit(86);
  close(there[0]);
  struct pollfd stop = {.fd = telemetry_worker_stop_fd(me), .events = POLLIN};
  note("child ended signal=%d stopping=%d", WIFSIGNALED(status) ? WTERMSIG(status) : 0,
       telemetry_worker_stopping(me) != 0 || poll(&stop, 1, 0) != 0);
}

/* At "HOST:PORT". */
static void listen_on(const char *where) {
  char host[40];
  int port = atoi(strchr(where, ':') ? strchr(where, ':') + 1 : "0");
  snprintf(host, sizeof host, "%.*s", (int)strcspn(where, ":"), where);
  struct sockaddr_in at = {.sin_family = AF_INET, .sin_port = htons((uint16_t)port)};
  at.sin_addr.s_addr = inet_addr(host);
  int fd = socket(AF_INET, SOCK_STREAM, 0); /* inherited by grandchildren: no CLOEXEC */
  if (fd < 0 || bind(fd, (struct sockaddr *)&at, sizeof at) || listen(fd, 8)) {
    note("port %d: %s", port, strerror(errno));
    _exit(92);
  }
}

static void leak(long mb) {
  for (long i = 0; i < mb && !telemetry_worker_stopping(me); i++) {
    char *kept = malloc(1 << 20);
    if (kept) memset(kept, (int)i + 1, 1 << 20);
    telemetry_worker_beat(me);
    nap_ms(2);
  }
}

/* Does one word; the exit status if the worker ends with it, else -1. */
static int word(const char *all) {
  const char *text = all, *mark;
  while ((mark = strchr(text, '?'))) {
    if (*text == 's' ? (uint32_t)atoi(text + 1) != telemetry_worker_slot(me)
        : *text == 'f' ? !flagged()
                       : (uint64_t)atoi(text) != telemetry_worker_incarnation(me))
      return -1;
    text = mark + 1;
  }
  char name[32];
  snprintf(name, sizeof name, "%.*s", (int)strcspn(text, "="), text);
  const char *value = strchr(text, '=') ? strchr(text, '=') + 1 : "";
  long n = atol(value);
#define IS(known) (!strcmp(name, known))
  if (IS("ready")) telemetry_worker_ready(me);
  else if (IS("beat")) /* works until it is told to stop */
    while (!telemetry_worker_stopping(me)) {
      telemetry_worker_beat(me);
      wait_stop(20);
    }
  else if (IS("forever")) /* gets on, and does not care to be told to stop */
    for (;;) {
      telemetry_worker_beat(me);
      nap_ms(20);
    }
  else if (IS("hang")) for (;;) pause();
  else if (IS("sleep")) nap_ms(n);
  else if (IS("until")) wait_stop((int)n);
  else if (IS("flag")) /* starts, or hangs, until the file is there */
    while (!flagged()) nap_ms(5);
  else if (IS("beat_until_flag"))
    while (!flagged()) {
      telemetry_worker_beat(me);
      nap_ms(5);
    }
  else if (IS("until_usr1"))
    while (!usr1_came) nap_ms(5);
  else if (IS("work")) { /* an item that is open when the request to stop comes, and then takes so long */
    uint64_t item = telemetry_worker_item_begin(me, "work", 0);
    note("open");
    while (!telemetry_worker_stopping(me)) {
      telemetry_worker_beat(me);
      wait_stop(20);
    }
    nap_ms(n);
    telemetry_worker_item_end(me, item, TELEMETRY_ITEM_DONE);
    note("closed");
  }
  else if (IS("die")) raise((int)n);
  else if (IS("exit")) exit((int)n);
  else if (IS("_exit")) _exit((int)n);
  else if (IS("return")) return (int)n;
  else if (IS("item")) {
    uint64_t item = telemetry_worker_item_begin(me, "slow", 0);
    nap_ms(n);
    telemetry_worker_item_end(me, item, TELEMETRY_ITEM_DONE);
  } else if (IS("begin")) telemetry_worker_item_begin(me, "open", (uint32_t)n);
  else if (IS("items")) /* quick ones, until it is told to stop */
    for (long i = 0; !telemetry_worker_stopping(me); i++) {
      telemetry_worker_item_end(me, telemetry_worker_item_begin(me, "quick", 0), (int32_t)(i % 4));
      wait_stop((int)n);
    }
  else if (IS("take")) take((int)n);
  else if (IS("ignore")) signal((int)n, SIG_IGN);
  else if (IS("dumps")) {
    signal(SIGUSR1, on_usr1);
    telemetry_worker_flag(me, TELEMETRY_WORKER_DUMPS, 1);
  } else if (IS("usr1")) signal(SIGUSR1, on_usr1);
  else if (IS("thread")) start_thread();
  else if (IS("grandchild")) grandchild(0);
  else if (IS("orphan")) grandchild((int)n);
  else if (IS("end_child")) end_child();
  else if (IS("listen")) listen_on(value);
  else if (IS("leak")) leak(n);
  else if (IS("count")) telemetry_worker_count(me, (uint32_t)n, strchr(value, ':') ? strtoull(strchr(value, ':') + 1, NULL, 10) : 1);
  else if (IS("lease")) telemetry_worker_lease(me, (uint64_t)n, (uint64_t)n * 100, (uint32_t)n * 10);
  else if (IS("lag")) telemetry_worker_lag(me, (uint32_t)n);
  else if (IS("fds")) note_descriptors();
  else if (IS("signals")) note_signals();
  else if (IS("env")) note("env %s=%s", value, getenv(value) ? getenv(value) : "(none)");
  else if (IS("trace")) {
    char part[3][200];
    for (uint32_t i = 0; i < 3; i++) telemetry_worker_trace(me, i, part[i], sizeof part[i]);
    note("trace %s|%s|%s", part[0], part[1], part[2]);
  } else if (IS("note")) note("%s", value);
  else if (IS("paused")) note("paused=%d", telemetry_worker_paused(me) != 0);
  else {
    note("no such word: %s", text);
    return 91;
  }
  return -1;
}

static int perform(telemetry_worker_t *worker, void *script) {
  me = worker;
  char all[1000], *rest = all, *one;
  snprintf(all, sizeof all, "%s", (const char *)script);
  note("begin");
  while ((one = strsep(&rest, ","))) {
    int code = word(one);
    if (code >= 0) return code;
  }
  note("end");
  return 0;
}

#endif
