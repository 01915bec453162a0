/*
 * Uploads and forks: each process delivers what is its own, once, and a child has no copy of its parent's.
 * What telemetry_upload took is noted in the file TEST_UPLOADS, a line for each: its id. The test compares that with what
 * the server was asked for; the server itself compares content and hash.
 */
#include "check.h"

static const char *meta = "{\"contentType\":\"image/png\",\"field\":\"input\",\"traceId\":\"t\"}";

/* Content that nobody else has: who, which, and so many bytes in all. */
static void fill(char *out, size_t size, const char *tag, long seq) {
  memset(out, 'x', size);
  int used = snprintf(out, size, "%s %d %ld", tag, (int)getpid(), seq);
  CHECK(used > 0 && (size_t)used < size);
}

static void note(const char *id) {
  char line[64];
  int length = snprintf(line, sizeof line, "%s\n", id);
  int fd = open(ck_env("TEST_UPLOADS"), O_WRONLY | O_APPEND | O_CREAT | O_CLOEXEC, 0600);
  CHECK(fd >= 0 && write(fd, line, (size_t)length) == length);
  close(fd);
}

static char content[8 << 20];

static void upload(telemetry_t *t, const char *tag, long seq, size_t size) {
  char id[23] = "";
  fill(content, size, tag, seq);
  CHECK_STATUS(telemetry_upload(t, meta, content, size, id, sizeof id), TELEMETRY_OK);
  CHECK_EQ(strlen(id), 22);
  note(id);
}

static void settle(telemetry_t *t, uint64_t uploads) {
  CHECK_STATUS(telemetry_flush(t, CK_PATIENCE_MS), TELEMETRY_OK);
  telemetry_stats_t stats = ck_stats(t);
  CK_BALANCE(stats);
  CHECK_EQ(stats.uploads, uploads);
  CHECK_EQ(stats.uploaded, uploads);
  CHECK_EQ(stats.uploads_failed, 0);
  CHECK_EQ(stats.media_bytes, 0);
}

static telemetry_t *open_client(const char *more) {
  const char *spool = getenv("TEST_SPOOL");
  /* What is held, or is slow, is not asked for again meanwhile. */
  char members[600] = "\"timeout_ms\":3600000", *end = members + strlen(members);
  if (spool) end += snprintf(end, 300, ",\"spool_dir\":\"%s\"", spool);
  if (*more) snprintf(end, 200, ",%s", more);
  return ck_open(members);
}

/* ---- a fork while uploads wait ---- */

static int waits(enum ck_kind kind) {
  telemetry_t *t = open_client("");
  for (long i = 0; i < 3; i++) upload(t, "before", i, 100000);
  ck_wait_test(); /* the first one's bytes are on their way, and are held there */
  pid_t child = ck_fork(kind);
  if (child == 0) {
    telemetry_stats_t fresh = ck_stats(t);
    CHECK_EQ(fresh.uploads + fresh.uploaded + fresh.media_bytes, 0);
    CHECK_STATUS(telemetry_flush(t, 0), TELEMETRY_OK);
    upload(t, "child", 0, 100000);
    upload(t, "child", 1, 100);
    settle(t, 2);
    upload(t, "child", 2, 100);
    CHECK_STATUS(telemetry_shutdown(t, CK_PATIENCE_MS), TELEMETRY_OK);
    CHECK_EQ(ck_stats(t).uploaded, 3);
    char id[23] = "unchanged";
    CHECK_STATUS(telemetry_upload(t, meta, "x", 1, id, sizeof id), TELEMETRY_CLOSED);
    CHECK(!strcmp(id, "unchanged"));
    _exit(0);
  }
  upload(t, "after", 0, 100);
  ck_join(child);
  CHECK_EQ(ck_stats(t).uploaded, 0);
  ck_tell_test();
  settle(t, 4);
  telemetry_free(t);
  return 0;
}

/* ---- what a child has of its parent's uploads ---- */

/* Resident KiB of the memory that forks find blank, and of how many pieces, by /proc/self/smaps; no malloc, no stdio. */
static long wiped_kib(int *pieces) {
  static char text[1 << 20];
  int fd = open("/proc/self/smaps", O_RDONLY | O_CLOEXEC);
  CHECK(fd >= 0);
  size_t used = 0;
  ssize_t got;
  while (used + 1 < sizeof text && (got = read(fd, text + used, sizeof text - 1 - used)) > 0) used += (size_t)got;
  close(fd);
  CHECK(used + 1 < sizeof text);
  text[used] = 0;
  long sum = 0, resident = 0;
  *pieces = 0;
  for (char *line = text, *end; (end = strchr(line, '\n')); line = end + 1) {
    *end = 0;
    if (!strncmp(line, "Rss:", 4)) resident = atol(line + 4);
    if (!strncmp(line, "VmFlags:", 8) && strstr(line, " wf")) {
      sum += resident;
      ++*pieces;
    }
  }
  return sum;
}

static int memory(enum ck_kind kind) {
  enum { PIECE = 8 << 20, PIECES = 8 };
  telemetry_t *t = open_client("\"media_max_bytes\":134217728");
  for (long i = 0; i < PIECES; i++) upload(t, "large", i, PIECE);
  ck_wait_test();
  int pieces;
  CHECK(wiped_kib(&pieces) >= PIECE / 1024 * PIECES);
  CHECK_EQ(ck_stats(t).media_bytes / PIECE, PIECES);
  pid_t child = ck_fork(kind);
  if (child == 0) {
    CHECK_AT_MOST(wiped_kib(&pieces), 64); /* nothing of 64 MiB, though the mappings are there; the control page */
    CHECK(pieces > 0);
    upload(t, "child", 0, 100);
    settle(t, 1);
    CHECK_AT_MOST(wiped_kib(&pieces), 8192); /* its own queue */
    _exit(0);
  }
  ck_join(child);
  ck_tell_test();
  settle(t, PIECES);
  CHECK_AT_MOST(wiped_kib(&pieces), PIECE / 1024 + 4096); /* given back, but perhaps for the last one; and the queue */
  telemetry_free(t);
  return 0;
}

/* ---- forks by a signal handler that cuts an upload short ---- */

enum { FORKS = 60, AT_ONCE = 4, LARGE = 1 << 20 };

static telemetry_t *client;
static enum ck_kind how;
static bool inside;
static volatile sig_atomic_t forks, living, in_child;

static void on_tick(int signal) {
  (void)signal;
  int saved = errno;
  if (!in_child && forks < FORKS && living < AT_ONCE) {
    pid_t child = ck_fork(how);
    if (child == 0) {
      in_child = 1;
      if (inside) {
        static char small[100];
        char id[23];
        fill(small, sizeof small, "handler", 0);
        CHECK_STATUS(telemetry_upload(client, meta, small, sizeof small, id, sizeof id), TELEMETRY_OK);
        note(id);
      }
    } else {
      forks++;
      living++;
    }
  }
  errno = saved;
}

static bool reap_one(int options) {
  bool ended = ck_reap(options);
  living -= ended;
  return ended;
}

static void reap(bool all) {
  while (living > 0 && reap_one(all ? 0 : WNOHANG)) {
  }
}

/* The child's life after the call that it returned from. */
__attribute__((noreturn)) static void live_on(uint64_t uploads) {
  upload(client, "child", 0, 5000);
  settle(client, uploads + 1 + inside);
  _exit(0);
}

static int from_handlers(enum ck_kind kind, bool first_inside) {
  how = kind;
  inside = first_inside;
  client = open_client("\"idle_ms\":60000");
  upload(client, "first", 0, 100);
  settle(client, 1);
  struct sigaction action = {.sa_handler = on_tick, .sa_flags = SA_RESTART};
  sigaction(SIGRTMIN, &action, NULL);
  struct sigevent event = {.sigev_notify = SIGEV_THREAD_ID, .sigev_signo = SIGRTMIN};
  event._sigev_un._tid = (pid_t)syscall(SYS_gettid);
  timer_t timer;
  CHECK_EQ(timer_create(CLOCK_MONOTONIC, &event, &timer), 0);

  uint64_t taken = 1;
  for (long seq = 0; forks < FORKS && seq < 20 * FORKS; seq++) {
    char id[23] = "";
    fill(content, LARGE, "main", seq);
    /* One shot within the call, a little later each time. */
    struct itimerspec once = {{0, 0}, {0, 1000 + seq * 37000 % 3000000}}, none = {{0, 0}, {0, 0}};
    CHECK_EQ(timer_settime(timer, 0, &once, NULL), 0);
    telemetry_status status = telemetry_upload(client, meta, content, LARGE, id, sizeof id);
    CHECK(status == TELEMETRY_OK || status == TELEMETRY_FULL);
    sigset_t tick, before;
    sigemptyset(&tick);
    sigaddset(&tick, SIGRTMIN);
    sigprocmask(SIG_BLOCK, &tick, &before);
    /* A child of a signal that came between the call and the mask has not taken it: its counters say so. */
    if (in_child) {
      uint64_t own = ck_stats(client).uploads - inside;
      if (own) note(id);
      live_on(own);
    }
    if (status == TELEMETRY_OK) note(id);
    taken += status == TELEMETRY_OK;
    reap(false);
    if (living == AT_ONCE) reap_one(0); /* a busy machine takes its time for them */
    CHECK_EQ(timer_settime(timer, 0, &none, NULL), 0);
    if (status == TELEMETRY_FULL || seq % 16 == 15) CHECK_STATUS(telemetry_flush(client, CK_PATIENCE_MS), TELEMETRY_OK);
    sigprocmask(SIG_SETMASK, &before, NULL);
    if (in_child) live_on(0); /* a signal that waited came in here */
  }
  timer_delete(timer);
  reap(true);
  CHECK(forks >= FORKS / 2);
  settle(client, taken);
  telemetry_free(client);
  return 0;
}

/* ---- raw clones whose heap is locked for ever ---- */

static atomic_bool over;

static void *churn(void *none) {
  while (!atomic_load(&over)) {
    void *volatile block = malloc(4000);
    free(block);
  }
  return none;
}

static int raw(void) {
  telemetry_t *t = open_client("");
  upload(t, "parent", 0, 100);
  pthread_t threads[2];
  for (int i = 0; i < 2; i++) CHECK_EQ(pthread_create(&threads[i], NULL, churn, NULL), 0);
  for (int i = 0; i < 100; i++) {
    pid_t child = ck_fork(CK_CLONE);
    if (child == 0) {
      alarm(CK_ALARM_S);
      upload(t, "child", 0, 5000);
      CHECK_STATUS(telemetry_flush(t, CK_PATIENCE_MS), TELEMETRY_OK);
      CHECK_EQ(ck_stats(t).uploaded, 1);
      upload(t, "child", 1, 50);
      CHECK_STATUS(telemetry_shutdown(t, CK_PATIENCE_MS), TELEMETRY_OK);
      CHECK_STATUS(telemetry_upload(t, meta, "x", 1, NULL, 0), TELEMETRY_CLOSED);
      _exit(0);
    }
    ck_join(child);
  }
  atomic_store(&over, true);
  for (int i = 0; i < 2; i++) CHECK_EQ(pthread_join(threads[i], NULL), 0);
  settle(t, 1);
  telemetry_free(t);
  return 0;
}

/* ---- the end ---- */

static int ends(void) {
  telemetry_t *t = open_client("\"exit_timeout_ms\":120000");
  for (long i = 0; i < 5; i++) upload(t, "end", i, 100000);
  return 0;
}

/* ---- arguments ---- */

static void refused(telemetry_status got, telemetry_status want, const char *part) {
  char why[300] = "";
  telemetry_last_error(why, sizeof why);
  if (got != want || !strstr(why, part)) ck_fail(__FILE__, __LINE__, "status %d, not %d; %s", (int)got, (int)want, why);
}

static int arguments(void) {
  telemetry_t *t = open_client("\"media_max_bytes\":1000");
  char id[23] = "unchanged";
  refused(telemetry_upload(NULL, meta, "x", 1, id, sizeof id), TELEMETRY_INVALID, "the client");
  refused(telemetry_upload(t, NULL, "x", 1, id, sizeof id), TELEMETRY_INVALID, "the meta");
  refused(telemetry_upload(t, "\xff", "x", 1, id, sizeof id), TELEMETRY_INVALID, "UTF-8");
  refused(telemetry_upload(t, "{}", "x", 1, id, sizeof id), TELEMETRY_INVALID, "meta.contentType is missing");
  refused(telemetry_upload(t, meta, "x", 1, id, 22), TELEMETRY_INVALID, "23 bytes");
  refused(telemetry_upload(t, meta, "x", 1, NULL, 23), TELEMETRY_INVALID, "NULL and 0");
  refused(telemetry_upload(t, meta, NULL, 5, id, sizeof id), TELEMETRY_INVALID, "data is NULL");
  refused(telemetry_upload(t, meta, "x", SIZE_MAX, id, sizeof id), TELEMETRY_INVALID, "len too large");
  refused(telemetry_upload(t, meta, NULL, 0, id, sizeof id), TELEMETRY_INVALID, "neither data nor meta.file");
  refused(telemetry_upload(t, meta, "", 0, id, sizeof id), TELEMETRY_INVALID, "the data is empty");
  refused(telemetry_upload(t, meta, content, 1001, id, sizeof id), TELEMETRY_TOO_LARGE, "1001 bytes");
  CHECK(!strcmp(id, "unchanged"));
  CHECK_STATUS(telemetry_upload(t, meta, "abc", 3, NULL, 0), TELEMETRY_OK);
  note("ungWv48Bz-pBQUDeXa4iI7");
  settle(t, 1);
  CHECK_EQ(ck_stats(t).dropped_too_large, 1);
  telemetry_free(t);
  t = ck_open_at("file:/dev/null", "");
  refused(telemetry_upload(t, meta, "x", 1, NULL, 0), TELEMETRY_INVALID, "/dev/null takes no uploads");
  telemetry_free(t);
  return 0;
}

int main(int argc, char **argv) {
  ck_start(argc, 1);
  const char *what = argv[1];
  enum ck_kind kind = argc > 2 ? ck_kind_of(argv[2]) : CK_FORK;
  if (!strcmp(what, "waits")) return waits(kind);
  if (!strcmp(what, "memory")) return memory(kind);
  if (!strcmp(what, "returns")) return from_handlers(kind, false);
  if (!strcmp(what, "inside")) return from_handlers(kind, true);
  if (!strcmp(what, "raw")) return raw();
  if (!strcmp(what, "ends")) return ends();
  if (!strcmp(what, "arguments")) return arguments();
  ck_fail(__FILE__, __LINE__, "no such scenario: %s", what);
}
