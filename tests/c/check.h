/*
 * What every C test program shares: checks that end the process, a deadline, ways to make a process,
 * events whose bodies prove themselves, and the ledger of what was accepted.
 *
 * Rules
 * - One scenario a process. A failed check prints one line and ends the process with 1; a hang ends in SIGALRM.
 * - Everything here works in a child of raw clone(): no malloc, no stdio, nothing that takes a lock.
 * - The ledger (a file, opened, appended to and closed again for every line) is what the collector's file is
 *   compared with:  "= tag pid first last"  every one of these was accepted and must arrive exactly once;
 *                   "? tag pid first last"  may arrive once: the call was cut before it could say;
 *                   "+ tag pid first last"  may arrive once more: two processes returned from one call.
 */
#ifndef CHECK_H
#define CHECK_H

#ifndef _GNU_SOURCE
#define _GNU_SOURCE
#endif
#include <arpa/inet.h>
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/sched.h>
#include <netinet/in.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "telemetry.h"

#define CK_UNUSED __attribute__((unused))

/* ---- checks ---- */

CK_UNUSED __attribute__((noreturn, format(printf, 3, 4))) static void ck_fail(const char *file, int line,
                                                                              const char *format, ...) {
  char text[512];
  int used = snprintf(text, sizeof text, "%s:%d: [%d] ", file, line, (int)getpid());
  va_list rest;
  va_start(rest, format);
  used += vsnprintf(text + used, sizeof text - (size_t)used - 1, format, rest);
  va_end(rest);
  if (used > (int)sizeof text - 2) used = (int)sizeof text - 2;
  text[used++] = '\n';
  if (write(2, text, (size_t)used) < 0) {
  }
  _exit(1);
}

#define CHECK(condition)                                                        \
  do {                                                                          \
    if (!(condition)) ck_fail(__FILE__, __LINE__, "failed: %s", #condition);    \
  } while (0)

#define CHECK_EQ(got, want)                                                                           \
  do {                                                                                                \
    long long got_ = (long long)(got), want_ = (long long)(want);                                     \
    if (got_ != want_) ck_fail(__FILE__, __LINE__, "%s is %lld, not %lld", #got, got_, want_);        \
  } while (0)

#define CHECK_AT_MOST(got, limit)                                                                     \
  do {                                                                                                \
    long long got_ = (long long)(got), limit_ = (long long)(limit);                                   \
    if (got_ > limit_) ck_fail(__FILE__, __LINE__, "%s is %lld, above %lld", #got, got_, limit_);     \
  } while (0)

#define CHECK_STATUS(call, want)                                                                      \
  do {                                                                                                \
    telemetry_status got_ = (call);                                                                   \
    if (got_ != (want)) {                                                                             \
      char why_[200] = "";                                                                            \
      telemetry_last_error(why_, sizeof why_);                                                        \
      ck_fail(__FILE__, __LINE__, "%s: status %d, not %d (%s)", #call, (int)got_, (int)(want), why_); \
    }                                                                                                 \
  } while (0)

CK_UNUSED static const char *ck_env(const char *name) {
  const char *value = getenv(name);
  if (!value) ck_fail(__FILE__, __LINE__, "%s is not set: run this through pytest", name);
  return value;
}

CK_UNUSED static long long ck_now_us(void) {
  struct timespec now;
  clock_gettime(CLOCK_MONOTONIC, &now);
  return (long long)now.tv_sec * 1000000 + now.tv_nsec / 1000;
}

CK_UNUSED static long long ck_now_ms(void) { return ck_now_us() / 1000; }

CK_UNUSED static void ck_nap_us(long us) {
  struct timespec nap = {us / 1000000, us % 1000000 * 1000};
  nanosleep(&nap, NULL);
}

/* Polls `condition` until it holds; a deadline turns a hang into a failure. */
#define CK_AWAIT(condition, deadline_ms)                                                                     \
  do {                                                                                                       \
    long long until_ = ck_now_ms() + (deadline_ms);                                                          \
    while (!(condition)) {                                                                                   \
      if (ck_now_ms() > until_) ck_fail(__FILE__, __LINE__, "after %d ms: %s", (int)(deadline_ms), #condition); \
      ck_nap_us(1000);                                                                                       \
    }                                                                                                        \
  } while (0)

/* A hang ends in SIGALRM, what must happen fails after CK_PATIENCE_MS: both far from what a busy machine needs. */
#define CK_ALARM_S 500
#define CK_PATIENCE_MS 120000

/* ---- processes ---- */

enum ck_kind { CK_FORK, CK__FORK, CK_CLONE, CK_CLONE3 };

CK_UNUSED static enum ck_kind ck_kind_of(const char *name) {
  if (!strcmp(name, "fork")) return CK_FORK;
  if (!strcmp(name, "_Fork")) return CK__FORK;
  if (!strcmp(name, "clone")) return CK_CLONE;
  if (!strcmp(name, "clone3")) return CK_CLONE3;
  ck_fail(__FILE__, __LINE__, "no such kind of fork: %s", name);
}

/* A new process in one of four ways, three of which run no pthread_atfork handler. */
CK_UNUSED static pid_t ck_fork(enum ck_kind kind) {
  pid_t pid = -1;
  struct clone_args args = {.exit_signal = SIGCHLD};
  switch (kind) {
    case CK_FORK: pid = fork(); break;
    case CK__FORK: pid = _Fork(); break;
    case CK_CLONE: pid = (pid_t)syscall(SYS_clone, SIGCHLD, 0, 0, 0, 0); break;
    case CK_CLONE3: pid = (pid_t)syscall(SYS_clone3, &args, sizeof args); break;
  }
  if (pid < 0) ck_fail(__FILE__, __LINE__, "fork kind %d: errno %d", (int)kind, errno);
  if (pid == 0) alarm(CK_ALARM_S);
  return pid;
}

CK_UNUSED static void ck_join(pid_t pid) {
  int status;
  pid_t got;
  while ((got = waitpid(pid, &status, 0)) < 0 && errno == EINTR) {
  }
  if (got != pid) ck_fail(__FILE__, __LINE__, "waitpid(%d): errno %d", (int)pid, errno);
  if (WIFSIGNALED(status)) ck_fail(__FILE__, __LINE__, "child %d died of signal %d", (int)pid, WTERMSIG(status));
  if (WEXITSTATUS(status)) ck_fail(__FILE__, __LINE__, "child %d ended with %d", (int)pid, WEXITSTATUS(status));
}

/* Entries of a directory of /proc, read without malloc. */
CK_UNUSED static int ck_entries(const char *directory) {
  int fd = open(directory, O_RDONLY | O_DIRECTORY | O_CLOEXEC), count = 0;
  CHECK(fd >= 0);
  char buffer[16384];
  long got;
  while ((got = syscall(SYS_getdents64, fd, buffer, sizeof buffer)) > 0)
    for (long at = 0; at < got;) {
      struct { uint64_t ino; int64_t off; unsigned short len; unsigned char type; char name[]; } *entry =
          (void *)(buffer + at);
      if (entry->name[0] != '.') count++;
      at += entry->len;
    }
  close(fd);
  return count;
}

CK_UNUSED static int ck_threads(void) { return ck_entries("/proc/self/task"); }
CK_UNUSED static int ck_fds(void) { return ck_entries("/proc/self/fd") - 1; }

CK_UNUSED static int ck_lines(const char *path) {
  int fd = open(path, O_RDONLY | O_CLOEXEC), count = 0;
  CHECK(fd >= 0);
  char buffer[8192];
  ssize_t got;
  while ((got = read(fd, buffer, sizeof buffer)) > 0)
    for (ssize_t i = 0; i < got; i++) count += buffer[i] == '\n';
  close(fd);
  return count;
}

CK_UNUSED static int ck_maps(void) { return ck_lines("/proc/self/maps"); }

/* Resident pages, in KiB. */
CK_UNUSED static long ck_rss_kib(void) {
  char text[100] = "";
  int fd = open("/proc/self/statm", O_RDONLY | O_CLOEXEC);
  CHECK(fd >= 0 && read(fd, text, sizeof text - 1) > 0);
  close(fd);
  long size, resident;
  CHECK(sscanf(text, "%ld %ld", &size, &resident) == 2);
  return resident * (sysconf(_SC_PAGESIZE) / 1024);
}

/* ---- events ---- */

/* Body of an event: who, which, a filler of a length that varies, and a checksum over all of it. */
CK_UNUSED static size_t ck_event(char *out, size_t cap, const char *tag, pid_t pid, long seq) {
  static const char filler[] = "abcdefghijklmnopqrstuvwxyzabcdefghijklmnopqrstuvwxyzabcdefghijklmnopqrstuvwxyz";
  int pad = (int)((unsigned long)(seq * 7 + pid) % (sizeof filler - 1));
  char core[256];
  int length = snprintf(core, sizeof core, "%s %d %ld %.*s", tag, (int)pid, seq, pad, filler);
  uint32_t low = 1, high = 0; /* Adler-32: Python has it in C */
  for (int i = 0; i < length; i++) {
    low = (low + (unsigned char)core[i]) % 65521;
    high = (high + low) % 65521;
  }
  int size = snprintf(out, cap, "{\"tag\":\"%s\",\"pid\":%d,\"seq\":%ld,\"pad\":\"%.*s\",\"sum\":%u}", tag, (int)pid,
                      seq, pad, filler, high << 16 | low);
  if (size <= 0 || (size_t)size >= cap) ck_fail(__FILE__, __LINE__, "event of %d bytes", size);
  return (size_t)size;
}

/* Where a program cannot open the ledger later (another user, no descriptors), it keeps it open. */
CK_UNUSED static int ck_ledger_kept = -1;

CK_UNUSED static int ck_ledger_open(void) {
  int fd = open(ck_env("TEST_LEDGER"), O_WRONLY | O_APPEND | O_CREAT | O_CLOEXEC, 0600);
  CHECK(fd >= 0);
  return fd;
}

CK_UNUSED static void ck_note(char mark, const char *tag, pid_t pid, long first, long last) {
  if (last < first) return;
  char line[128];
  int size = snprintf(line, sizeof line, "%c %s %d %ld %ld\n", mark, tag, (int)pid, first, last);
  int fd = ck_ledger_kept >= 0 ? ck_ledger_kept : ck_ledger_open();
  CHECK(write(fd, line, (size_t)size) == size);
  if (ck_ledger_kept < 0) close(fd);
}

CK_UNUSED static telemetry_status ck_enqueue(telemetry_t *t, const char *tag, long seq) {
  char event[512];
  size_t size = ck_event(event, sizeof event, tag, getpid(), seq);
  return telemetry_enqueue(t, event, size);
}

/* Enqueues [first, first+count), each of which must be taken. */
CK_UNUSED static void ck_send(telemetry_t *t, const char *tag, long first, long count) {
  for (long seq = first; seq < first + count; seq++) CHECK_STATUS(ck_enqueue(t, tag, seq), TELEMETRY_OK);
  ck_note('=', tag, getpid(), first, first + count - 1);
}

/* The same from a busy loop: a full queue is waited for. */
CK_UNUSED static void ck_push(telemetry_t *t, const char *tag, long first, long count) {
  for (long seq = first; seq < first + count; seq++) {
    telemetry_status status;
    while ((status = ck_enqueue(t, tag, seq)) == TELEMETRY_FULL) ck_nap_us(500);
    CHECK_EQ(status, TELEMETRY_OK);
  }
  ck_note('=', tag, getpid(), first, first + count - 1);
}

/* ---- the client ---- */

/* Opens a client on `endpoint`; `more` is further JSON members, or "". */
CK_UNUSED static telemetry_t *ck_open_at(const char *endpoint, const char *more) {
  char config[1024];
  snprintf(config, sizeof config, "{\"endpoint\":\"%s\"%s%s}", endpoint, *more ? "," : "", more);
  telemetry_t *t = NULL;
  CHECK_STATUS(telemetry_open(config, &t), TELEMETRY_OK);
  CHECK(t);
  return t;
}

#define CK_FAST "\"batch\":{\"max_age_ms\":20}"

/* Opens a client on the test's endpoint that sends soon. */
CK_UNUSED static telemetry_t *ck_open(const char *more) {
  char members[700];
  snprintf(members, sizeof members, "%s%s%s", strstr(more, "\"batch\"") ? "" : CK_FAST,
           *more && !strstr(more, "\"batch\"") ? "," : "", more);
  return ck_open_at(ck_env("TEST_ENDPOINT"), members);
}

CK_UNUSED static telemetry_stats_t ck_stats(telemetry_t *t) {
  telemetry_stats_t stats;
  memset(&stats, 0xff, sizeof stats);
  CHECK_STATUS(telemetry_stats(t, &stats, sizeof stats), TELEMETRY_OK);
  return stats;
}

/* accepted + recovered = delivered + rejected + invalid + expired + queue_events, at any time. */
#define CK_BALANCE(stats)                                                                                       \
  do {                                                                                                          \
    const telemetry_stats_t *s_ = &(stats);                                                                     \
    if (s_->accepted + s_->recovered != s_->delivered + s_->rejected + s_->invalid + s_->expired + s_->queue_events) \
      ck_fail(__FILE__, __LINE__, "accepted %llu + recovered %llu != delivered %llu + rejected %llu + invalid %llu + expired %llu + queue %llu", \
              (unsigned long long)s_->accepted, (unsigned long long)s_->recovered, (unsigned long long)s_->delivered, \
              (unsigned long long)s_->rejected, (unsigned long long)s_->invalid, (unsigned long long)s_->expired,  \
              (unsigned long long)s_->queue_events);                                                            \
  } while (0)

/* Everything out, and the books in order. */
CK_UNUSED static void ck_settle(telemetry_t *t) {
  CHECK_STATUS(telemetry_flush(t, CK_PATIENCE_MS), TELEMETRY_OK);
  telemetry_stats_t stats = ck_stats(t);
  CK_BALANCE(stats);
  CHECK_EQ(stats.queue_events, 0);
  CHECK_EQ(stats.rejected + stats.invalid + stats.expired, 0);
}

/* ---- the collector, and the test that runs this program ---- */

/* One request to the collector; returns the length of the answer, body and all, in `out`. */
CK_UNUSED static size_t ck_http(const char *method, const char *path, const char *body, char *out, size_t cap) {
  const char *url = ck_env("TEST_COLLECTOR");
  struct sockaddr_in to = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
  to.sin_port = htons((uint16_t)atoi(strrchr(url, ':') + 1));
  int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
  CHECK(fd >= 0 && connect(fd, (struct sockaddr *)&to, sizeof to) == 0);
  char request[512];
  int size = snprintf(request, sizeof request, "%s %s HTTP/1.1\r\nHost: c\r\nConnection: close\r\nContent-Length: %zu\r\n\r\n%s",
                      method, path, strlen(body), body);
  CHECK(write(fd, request, (size_t)size) == size);
  size_t used = 0;
  ssize_t got;
  while (used + 1 < cap && (got = read(fd, out + used, cap - 1 - used)) > 0) used += (size_t)got;
  out[used] = 0;
  close(fd);
  CHECK(!strncmp(out, "HTTP/1.1 20", 11));
  return used;
}

CK_UNUSED static void ck_fault(const char *fault) {
  char answer[2048];
  ck_http("PUT", "/fault", fault, answer, sizeof answer);
}

/* A child that has ended, and must have ended well; whether there was one. */
CK_UNUSED static bool ck_reap(int options) {
  int status;
  pid_t child;
  while ((child = waitpid(-1, &status, options)) < 0 && errno == EINTR) {
  }
  if (child > 0 && (!WIFEXITED(status) || WEXITSTATUS(status)))
    ck_fail(__FILE__, __LINE__, "child %d: wait status 0x%x", (int)child, status);
  return child > 0;
}

/* A counter at the top level of the collector's /stats. */
CK_UNUSED static long ck_collected(const char *name) {
  static char answer[1 << 20];
  ck_http("GET", "/stats", "", answer, sizeof answer);
  char key[64];
  snprintf(key, sizeof key, "\"%s\":", name);
  const char *at = strstr(answer, key);
  CHECK(at);
  return atol(at + strlen(key));
}

/* Whether a request has met that fault. */
CK_UNUSED static bool ck_fault_seen(const char *name) {
  static char answer[1 << 20];
  ck_http("GET", "/stats", "", answer, sizeof answer);
  char key[64];
  snprintf(key, sizeof key, "\"%s\":", name);
  const char *at = strstr(answer, "\"by_status\":");
  return at && strstr(at, key);
}

/* Two pipes to pytest: "the thing you arranged has happened", and "go on". */
CK_UNUSED static void ck_wait_test(void) {
  char byte;
  ssize_t got;
  while ((got = read(atoi(ck_env("TEST_SEEN_FD")), &byte, 1)) < 0 && errno == EINTR) {
  }
  CHECK(got == 1);
}

CK_UNUSED static void ck_tell_test(void) { CHECK(write(atoi(ck_env("TEST_GO_FD")), "g", 1) == 1); }

CK_UNUSED static void ck_start(int argc, int least) {
  CHECK(argc > least);
  alarm(CK_ALARM_S);
}

#endif
