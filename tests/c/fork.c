/* Fork in each of its four ways, with the queue in each of its states: both processes deliver what is theirs. */
#include "check.h"

int main(int argc, char **argv) {
  ck_start(argc, 2);
  enum ck_kind kind = ck_kind_of(argv[1]);
  const char *state = argv[2];
  bool slow = !strcmp(state, "pending"); /* nothing leaves before flush */
  telemetry_t *t = ck_open(slow ? "\"batch\":{\"max_age_ms\":60000}" : "");
  if (strcmp(state, "unused")) ck_send(t, "before", 0, 100);
  if (!strcmp(state, "flushed")) ck_settle(t);

  pid_t child = ck_fork(kind);
  if (child == 0) {
    telemetry_stats_t fresh = ck_stats(t);
    CHECK_EQ(fresh.accepted + fresh.delivered + fresh.queue_events + fresh.queue_bytes + fresh.batches, 0);
    ck_send(t, "child", 0, 100);
    CHECK_EQ(ck_stats(t).accepted, 100);
    ck_settle(t);
    CHECK_EQ(ck_stats(t).delivered, 100);
    ck_send(t, "child-last", 0, 10);
    CHECK_STATUS(telemetry_shutdown(t, CK_PATIENCE_MS), TELEMETRY_OK);
    CHECK_STATUS(ck_enqueue(t, "late", 0), TELEMETRY_CLOSED);
    _exit(0);
  }
  ck_send(t, "after", 0, 100);
  ck_join(child);
  ck_send(t, "last", 0, 10);
  ck_settle(t);
  CHECK_EQ(ck_stats(t).delivered, strcmp(state, "unused") ? 210 : 110);
  telemetry_free(t);
  return 0;
}
