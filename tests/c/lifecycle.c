/* Clients come and go and leave nothing behind; they do not disturb each other. */
#include "check.h"

static void thousand(void) {
  int threads = 0, fds = 0, maps = 0;
  long rss = 0;
  for (int i = 0; i < 1000; i++) {
    telemetry_t *t = ck_open("");
    if (i % 3) ck_send(t, "loop", i, 1);
    if (i % 3 == 1) CHECK_STATUS(telemetry_flush(t, CK_PATIENCE_MS), TELEMETRY_OK);
    if (i % 7 == 1) CHECK_STATUS(telemetry_shutdown(t, CK_PATIENCE_MS), TELEMETRY_OK);
    telemetry_free(t);
    if (i == 100) threads = ck_threads(), fds = ck_fds(), maps = ck_maps(), rss = ck_rss_kib();
  }
  CK_AWAIT(ck_threads() <= threads, CK_PATIENCE_MS);
  CHECK_AT_MOST(ck_fds(), fds);
  CHECK_AT_MOST(ck_maps(), maps + 8);
  CHECK_AT_MOST(ck_rss_kib(), rss + 4096);
}

/* A hundred at the same time, then none. */
static void many(void) {
  int threads = ck_threads(), fds = ck_fds(), maps = 0;
  telemetry_t *all[100];
  for (int round = 0; round < 3; round++) {
    if (round == 1) maps = ck_maps();
    for (int i = 0; i < 100; i++) ck_send(all[i] = ck_open(""), "many", round * 100 + i, 1);
    for (int i = 0; i < 100; i++) telemetry_free(all[i]);
  }
  CK_AWAIT(ck_threads() <= threads, CK_PATIENCE_MS);
  CHECK_AT_MOST(ck_fds(), fds);
  CHECK_AT_MOST(ck_maps(), maps + 16);
}

/* TEST_OTHER is down or stalled: its client must cost ours nothing. */
static void two(void) {
  telemetry_t *bad = ck_open_at(ck_env("TEST_OTHER"), CK_FAST ",\"exit_timeout_ms\":300,\"timeout_ms\":3600000");
  telemetry_t *good = ck_open("");
  for (int i = 0; i < 20; i++) {
    CHECK_STATUS(ck_enqueue(bad, "bad", i), TELEMETRY_OK);
    ck_send(good, "good", i, 1);
    long long started = ck_now_ms();
    CHECK_STATUS(telemetry_flush(good, CK_PATIENCE_MS), TELEMETRY_OK);
    CHECK_AT_MOST(ck_now_ms() - started, 60000);
  }
  CHECK_EQ(ck_stats(bad).delivered, 0);
  CHECK_EQ(ck_stats(bad).queue_events, 20);
  long long started = ck_now_ms();
  telemetry_free(bad);
  CHECK_AT_MOST(ck_now_ms() - started, 60000);
  ck_send(good, "good", 20, 1);
  ck_settle(good);
  telemetry_free(good);
}

static void freed_in_child(enum ck_kind kind) {
  telemetry_t *t = ck_open("");
  ck_send(t, "before", 0, 10);
  for (int i = 0; i < 5; i++) {
    pid_t child = ck_fork(kind);
    if (child == 0) {
      if (i % 2) ck_send(t, "child", 0, 10); /* free flushes these */
      telemetry_free(t);
      CK_AWAIT(ck_threads() == 1, CK_PATIENCE_MS);
      _exit(0);
    }
    ck_join(child);
    ck_send(t, "parent", i * 10, 10);
    ck_settle(t);
  }
  telemetry_free(t);
}

/* free keeps its bound, and leaves no thread and no connection that waits for an answer. */
static void freed_stalled(void) {
  int fds = ck_fds();
  ck_fault("stall");
  telemetry_t *t = ck_open("\"exit_timeout_ms\":300,\"timeout_ms\":3600000");
  CHECK_STATUS(ck_enqueue(t, "stalled", 0), TELEMETRY_OK);
  CHECK_STATUS(telemetry_flush(t, 200), TELEMETRY_TIMEOUT);
  long long started = ck_now_ms();
  telemetry_free(t);
  CHECK_AT_MOST(ck_now_ms() - started, 60000);
  CK_AWAIT(ck_threads() == 1, CK_PATIENCE_MS);
  CHECK_AT_MOST(ck_fds(), fds);
}

/* Idle means no thread; the next event starts one. */
static void idle(void) {
  telemetry_t *t = ck_open("\"idle_ms\":50");
  CHECK_EQ(ck_threads(), 1);
  for (int i = 0; i < 3; i++) {
    ck_send(t, "idle", i, 1);
    ck_settle(t);
    CK_AWAIT(ck_threads() == 1, CK_PATIENCE_MS);
  }
  CHECK_EQ(ck_stats(t).sender_starts, 3);
  telemetry_free(t);
}

int main(int argc, char **argv) {
  ck_start(argc, 1);
  const char *what = argv[1];
  if (!strcmp(what, "thousand")) thousand();
  else if (!strcmp(what, "many")) many();
  else if (!strcmp(what, "two")) two();
  else if (!strcmp(what, "freed-in-child")) freed_in_child(ck_kind_of(argv[2]));
  else if (!strcmp(what, "freed-stalled")) freed_stalled();
  else if (!strcmp(what, "idle")) idle();
  else ck_fail(__FILE__, __LINE__, "no scenario %s", what);
  return 0;
}
