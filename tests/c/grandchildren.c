/* A line of descendants, each made in the way its argument names; each delivers before and after the next. */
#include "check.h"

int main(int argc, char **argv) {
  ck_start(argc, 1);
  telemetry_t *t = ck_open("");
  int depth = 0;
  ck_send(t, "up", 0, 20);
  for (int i = 1; i < argc; i++) {
    pid_t child = ck_fork(ck_kind_of(argv[i]));
    if (child == 0) {
      depth = i;
      CHECK_EQ(ck_stats(t).accepted, 0);
      ck_send(t, "up", 0, 20);
      if (depth % 2) ck_settle(t); /* every other generation forks with a full queue */
      continue;
    }
    ck_send(t, "down", 0, 20);
    ck_join(child);
    break;
  }
  ck_send(t, "end", 0, 20);
  ck_settle(t);
  CHECK_EQ(ck_stats(t).delivered, depth == argc - 1 ? 40 : 60);
  CHECK_STATUS(telemetry_shutdown(t, CK_PATIENCE_MS), TELEMETRY_OK);
  if (depth) _exit(0);
  telemetry_free(t);
  return 0;
}
