/*
 * A process that does what the test tells it, one line at a time, through a socket that it connects itself: TEST_STAGE
 * names it. A forked child connects anew, so the test speaks to each process of a family. It ends when the
 * test closes the socket. Words of a line are separated by one blank; N is the number of a client:
 *
 *   open N MEMBERS              a client with these members of the configuration
 *   send N TAG FIRST COUNT      events, each of which must be taken; they are in the ledger afterwards
 *   fill N TAG FIRST COUNT      the same until the queue is full; answers how many
 *   stream N TAG MICROSECONDS   a thread that sends for ever at this pace; calm ends it and answers how many
 *   flush N MS  shutdown N MS  free N  stats N
 *   fork KIND  reap PID         the child connects by itself
 *   closefds  untouched         as a daemoniser closes them; the numbers are then somebody else's
 *   exit  _exit  abort  exec PROGRAM ARGUMENT  again (exec of this program)
 */
#include "check.h"

#include <sys/un.h>

enum { CLIENTS = 2, FILES = 40, LIFE_S = 900 };

static telemetry_t *clients[CLIENTS];
static int control = -1;
static char **arguments;

/* ---- the socket ---- */

__attribute__((format(printf, 1, 2))) static void answer(const char *format, ...) {
  char line[1024];
  va_list rest;
  va_start(rest, format);
  int size = vsnprintf(line, sizeof line, format, rest);
  va_end(rest);
  CHECK(size >= 0 && (size_t)size < sizeof line);
  CHECK_EQ(send(control, line, (size_t)size, MSG_NOSIGNAL), size);
}

static void greet(void) {
  if (control >= 0) close(control); /* the parent's */
  struct sockaddr_un to = {.sun_family = AF_UNIX};
  int size = snprintf(to.sun_path + 1, sizeof to.sun_path - 1, "%s", ck_env("TEST_STAGE")); /* abstract */
  int fd = socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0);
  CHECK(fd >= 0);
  CHECK_EQ(connect(fd, (struct sockaddr *)&to, (socklen_t)(offsetof(struct sockaddr_un, sun_path) + 1 + (size_t)size)), 0);
  control = fcntl(fd, F_DUPFD_CLOEXEC, 1100); /* out of the way of closefds */
  CHECK(control >= 0);
  close(fd);
  alarm(LIFE_S);
  answer("%d", (int)getpid());
}

/* ---- descriptors ---- */

static int fds[FILES], peers[FILES];

static void close_fds(void) {
  for (int fd = 3; fd < 1024; fd++) close(fd);
  for (int i = 0; i < FILES; i++) {
    if (i % 2) {
      int pair[2]; /* the dangerous kind: what is written into it has a reader */
      CHECK_EQ(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, pair), 0);
      fds[i] = pair[0];
      peers[i] = fcntl(pair[1], F_DUPFD_CLOEXEC, 1200);
      close(pair[1]);
    } else {
      char name[64];
      snprintf(name, sizeof name, "mine-%d-%d", (int)getpid(), i);
      fds[i] = open(name, O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC, 0600);
      CHECK(write(fds[i], "mine", 4) == 4);
    }
    CHECK(fds[i] >= 3 && fds[i] < 1024);
  }
}

static void untouched(void) {
  for (int i = 0; i < FILES; i++) {
    struct stat about;
    if (fstat(fds[i], &about) != 0) ck_fail(__FILE__, __LINE__, "descriptor %d was closed", fds[i]);
    if (i % 2) {
      CHECK(S_ISSOCK(about.st_mode));
      char byte;
      ssize_t got = recv(peers[i], &byte, 1, MSG_DONTWAIT);
      if (!(got < 0 && errno == EAGAIN)) ck_fail(__FILE__, __LINE__, "descriptor %d: the peer read %zd", fds[i], got);
    } else {
      CHECK(S_ISREG(about.st_mode));
      CHECK_EQ(about.st_size, 4);
      CHECK_EQ(lseek(fds[i], 0, SEEK_CUR), 4);
    }
  }
}

/* ---- a thread that sends for ever ---- */

static struct {
  pthread_t thread;
  telemetry_t *client;
  char tag[16];
  long pace_us, sent;
  atomic_bool over;
} flow;

static void *stream(void *none) {
  for (flow.sent = 0; !atomic_load(&flow.over);) {
    telemetry_status status = ck_enqueue(flow.client, flow.tag, flow.sent);
    if (status != TELEMETRY_FULL) {
      CHECK_STATUS(status, TELEMETRY_OK);
      flow.sent++;
    }
    ck_nap_us(flow.pace_us);
  }
  return none;
}

/* ---- commands ---- */

static telemetry_t *of(long n) {
  CHECK(n >= 0 && n < CLIENTS && clients[n]);
  return clients[n];
}

static void stats(telemetry_t *t) {
  telemetry_stats_t s = ck_stats(t);
  CK_BALANCE(s);
#define SHOW(name) #name, (unsigned long long)s.name
  answer("{\"%s\":%llu,\"%s\":%llu,\"%s\":%llu,\"%s\":%llu,\"%s\":%llu,\"%s\":%llu,\"%s\":%llu,\"%s\":%llu}",
         SHOW(accepted), SHOW(delivered), SHOW(recovered), SHOW(queue_events), SHOW(left_in_spool), SHOW(dropped_full),
         SHOW(retries), SHOW(sender_starts));
}

static void command(char *line) {
  char word[16] = "", tag[128] = "";
  long n = 0, first = 0, count = 0;
  int rest = 0;
  CHECK(sscanf(line, "%15s %n", word, &rest) == 1);
  const char *more = line + rest;
#define IS(text) (!strcmp(word, text))
  if (IS("open")) {
    CHECK(sscanf(more, "%ld %n", &n, &rest) == 1 && n >= 0 && n < CLIENTS);
    clients[n] = ck_open_at(ck_env("TEST_ENDPOINT"), more + rest);
    answer("ok");
  } else if (IS("send") || IS("fill")) {
    CHECK(sscanf(more, "%ld %127s %ld %ld", &n, tag, &first, &count) == 4);
    long taken = count;
    if (IS("send")) {
      ck_send(of(n), tag, first, count);
    } else {
      for (taken = 0; taken < count; taken++) {
        telemetry_status status = ck_enqueue(of(n), tag, first + taken);
        if (status == TELEMETRY_FULL) break;
        CHECK_STATUS(status, TELEMETRY_OK);
      }
      ck_note('=', tag, getpid(), first, first + taken - 1);
    }
    answer("%ld", taken);
  } else if (IS("stream")) {
    CHECK(sscanf(more, "%ld %15s %ld", &n, flow.tag, &flow.pace_us) == 3);
    flow.client = of(n);
    atomic_store(&flow.over, false);
    CHECK_EQ(pthread_create(&flow.thread, NULL, stream, NULL), 0);
    answer("ok");
  } else if (IS("calm")) {
    atomic_store(&flow.over, true);
    CHECK_EQ(pthread_join(flow.thread, NULL), 0);
    ck_note('=', flow.tag, getpid(), 0, flow.sent - 1);
    answer("%ld", flow.sent);
  } else if (IS("flush") || IS("shutdown")) {
    CHECK(sscanf(more, "%ld %ld", &n, &count) == 2);
    long long started = ck_now_ms();
    telemetry_status status =
        IS("flush") ? telemetry_flush(of(n), (uint32_t)count) : telemetry_shutdown(of(n), (uint32_t)count);
    answer("%d %lld", (int)status, ck_now_ms() - started);
  } else if (IS("free")) {
    CHECK(sscanf(more, "%ld", &n) == 1);
    telemetry_free(of(n));
    clients[n] = NULL;
    answer("ok");
  } else if (IS("stats")) {
    CHECK(sscanf(more, "%ld", &n) == 1);
    stats(of(n));
  } else if (IS("fork")) {
    CHECK(sscanf(more, "%127s", tag) == 1);
    pid_t child = ck_fork(ck_kind_of(tag));
    if (child == 0) {
      greet();
    } else {
      answer("%d", (int)child);
    }
  } else if (IS("reap")) {
    CHECK(sscanf(more, "%ld", &n) == 1);
    int status;
    CHECK_EQ(waitpid((pid_t)n, &status, 0), n);
    answer("%d", status);
  } else if (IS("closefds")) {
    close_fds();
    answer("ok");
  } else if (IS("untouched")) {
    untouched();
    answer("ok");
  } else if (IS("exit")) {
    exit(0);
  } else if (IS("_exit")) {
    _exit(0);
  } else if (IS("abort")) {
    struct rlimit none = {0, 0};
    setrlimit(RLIMIT_CORE, &none);
    abort();
  } else if (IS("exec")) {
    char argument[16] = "";
    CHECK(sscanf(more, "%127s %15s", tag, argument) == 2);
    execl(tag, tag, argument, (char *)NULL);
    ck_fail(__FILE__, __LINE__, "exec %s: errno %d", tag, errno);
  } else if (IS("again")) {
    execv(arguments[0], arguments); /* nothing tells it from the first time */
    ck_fail(__FILE__, __LINE__, "exec: errno %d", errno);
  } else {
    ck_fail(__FILE__, __LINE__, "no such command: %s", word);
  }
}

int main(int argc, char **argv) {
  CHECK_EQ(argc, 1);
  arguments = argv;
  greet();
  char line[1024];
  for (;;) {
    ssize_t got = recv(control, line, sizeof line - 1, 0);
    if (got < 0 && errno == EINTR) continue;
    if (got <= 0) _exit(0);
    line[got] = 0;
    command(line);
  }
}
