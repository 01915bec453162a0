/* The number of a worker: each event bears that of the process that enqueued it, when it did, whoever delivers it. */
#include "check.h"

static void say(telemetry_t *t, int number) {
  char event[64];
  int size = snprintf(event, sizeof event, "{\"number\":%d}", number);
  CHECK_STATUS(telemetry_enqueue(t, event, (size_t)size), TELEMETRY_OK);
}

int main(int argc, char **argv) {
  ck_start(argc, 2);
  enum ck_kind kind = ck_kind_of(argv[2]);
  bool killed = !strcmp(argv[1], "killed");
  char config[600];
  snprintf(config, sizeof config, "{\"endpoint\":\"%s\",\"context\":{\"worker\":\"$worker\"}%s%s%s}", ck_env("TEST_ENDPOINT"),
           killed ? ",\"spool_dir\":\"" : "", killed ? ck_env("TEST_SPOOL") : "", killed ? "\"" : "");
  telemetry_t *t;
  CHECK_STATUS(telemetry_set_worker(65536), TELEMETRY_INVALID);
  char why[100];
  telemetry_last_error(why, sizeof why);
  CHECK(strstr(why, "65536") && strstr(why, "0 to 65535"));
  CHECK_STATUS(telemetry_open(config, &t), TELEMETRY_OK);
  say(t, 0);
  for (int number = 1; number <= 3; number++) {
    pid_t child = ck_fork(kind);
    if (child) {
      ck_join(child);
      continue;
    }
    CHECK_STATUS(telemetry_set_worker((uint32_t)number), TELEMETRY_OK);
    say(t, number);
    pid_t grandchild = ck_fork(kind);
    if (!grandchild) {
      say(t, number); /* inherited */
      if (!killed) CHECK_STATUS(telemetry_flush(t, CK_PATIENCE_MS), TELEMETRY_OK);
      _exit(0);
    }
    ck_join(grandchild);
    if (!killed) CHECK_STATUS(telemetry_flush(t, CK_PATIENCE_MS), TELEMETRY_OK);
    _exit(0);
  }
  CHECK_STATUS(telemetry_set_worker(65535), TELEMETRY_OK); /* what waits keeps its number */
  say(t, 65535);
  CHECK_STATUS(telemetry_flush(t, CK_PATIENCE_MS), TELEMETRY_OK);
  CHECK_STATUS(telemetry_shutdown(t, CK_PATIENCE_MS), TELEMETRY_OK);
  telemetry_free(t);
  return 0;
}
