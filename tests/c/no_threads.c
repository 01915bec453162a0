/*
 * No thread can be created: events are kept, flush delivers on the caller's thread, and a sender starts once it can.
 * root is exempt from RLIMIT_NPROC, so root becomes nobody first.
 */
#include "check.h"

static void allow_threads(bool yes) {
  struct rlimit limit;
  CHECK_EQ(getrlimit(RLIMIT_NPROC, &limit), 0);
  limit.rlim_cur = yes ? limit.rlim_max : 0;
  CHECK_EQ(setrlimit(RLIMIT_NPROC, &limit), 0);
}

static void *nothing(void *none) { return none; }

int main(int argc, char **argv) {
  ck_start(argc, 1);
  ck_ledger_kept = ck_ledger_open();
  if (getuid() == 0) CHECK_EQ(setresuid(65534, 65534, 65534), 0);
  allow_threads(false);
  pthread_t thread;
  CHECK_EQ(pthread_create(&thread, NULL, nothing, NULL), EAGAIN);

  telemetry_t *t = ck_open("\"idle_ms\":60000,\"timeout_ms\":3600000");
  ck_send(t, "kept", 0, 100);
  CHECK_EQ(ck_threads(), 1);
  CHECK_EQ(ck_stats(t).queue_events, 100); /* kept: nobody is there to send them */
  ck_fault("stall");
  long long started = ck_now_ms();
  CHECK_STATUS(telemetry_flush(t, 0), TELEMETRY_TIMEOUT); /* a poll may try, but waits for nobody */
  CHECK_AT_MOST(ck_now_ms() - started, 60000);
  ck_fault("");
  CHECK_STATUS(telemetry_flush(t, CK_PATIENCE_MS), TELEMETRY_OK);
  telemetry_stats_t stats = ck_stats(t);
  CHECK_EQ(stats.delivered, 100);
  CHECK_EQ(stats.sender_starts, 0);
  CK_BALANCE(stats);
  ck_send(t, "kept", 100, 100);
  if (!strcmp(argv[1], "shutdown")) { /* which delivers on the caller's thread as well */
    CHECK_STATUS(telemetry_shutdown(t, CK_PATIENCE_MS), TELEMETRY_OK);
    CHECK_EQ(ck_stats(t).delivered, 200);
    telemetry_free(t);
    return 0;
  }
  if (!strcmp(argv[1], "exit")) return 0;

  allow_threads(true);
  /* No flush: the next events find that a thread can be had again. */
  long seq = 200;
  long long until = ck_now_ms() + CK_PATIENCE_MS;
  while (ck_stats(t).sender_starts == 0 && ck_now_ms() < until) {
    ck_send(t, "kept", seq++, 1);
    ck_nap_us(10000);
  }
  CHECK(ck_stats(t).sender_starts > 0);
  CK_AWAIT(ck_stats(t).queue_events == 0, CK_PATIENCE_MS);
  telemetry_free(t);
  return 0;
}
