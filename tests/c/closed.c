/* A client shut down before a fork stays shut in the child; a flush may be the first call there. */
#include "check.h"

int main(int argc, char **argv) {
  ck_start(argc, 2);
  enum ck_kind kind = ck_kind_of(argv[2]);
  telemetry_t *t = ck_open("");
  ck_send(t, "before", 0, 10);
  if (!strcmp(argv[1], "shutdown")) {
    CHECK_STATUS(telemetry_shutdown(t, CK_PATIENCE_MS), TELEMETRY_OK);
    CHECK_STATUS(telemetry_shutdown(t, CK_PATIENCE_MS), TELEMETRY_OK);
    for (int depth = 0; depth < 2; depth++) {
      CHECK_STATUS(ck_enqueue(t, "closed", 0), TELEMETRY_CLOSED);
      pid_t child = ck_fork(kind);
      if (child) {
        ck_join(child);
        CHECK_STATUS(ck_enqueue(t, "closed", 1), TELEMETRY_CLOSED);
        if (depth) _exit(0);
        telemetry_free(t);
        return 0;
      }
      CHECK_STATUS(ck_enqueue(t, "closed", 2), TELEMETRY_CLOSED);
      telemetry_flush(t, 100);
      CHECK_STATUS(telemetry_shutdown(t, 100), TELEMETRY_OK);
      CHECK_EQ(ck_threads(), 1);
    }
    _exit(0);
  }
  pid_t child = ck_fork(kind);
  if (child == 0) {
    CHECK_STATUS(telemetry_flush(t, CK_PATIENCE_MS), TELEMETRY_OK);
    CHECK_STATUS(telemetry_flush(t, 0), TELEMETRY_OK);
    CHECK_EQ(ck_stats(t).delivered, 0);
    ck_send(t, "child", 0, 10);
    ck_settle(t);
    CHECK_STATUS(telemetry_shutdown(t, CK_PATIENCE_MS), TELEMETRY_OK);
    _exit(0);
  }
  ck_join(child);
  ck_send(t, "after", 0, 10); /* the child's shutdown is the child's */
  ck_settle(t);
  telemetry_free(t);
  return 0;
}
