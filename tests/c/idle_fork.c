/* An idle parent is single-threaded at the instant of fork, unless a busy machine does not let the sender end within
 * the 5 ms that fork waits for it; with a sender in a stalled request fork does not wait. */
#include "check.h"

static int at_fork;

/* Registered before the library's handlers, so it runs after them: prepare handlers run in reverse. */
static void prepare(void) { at_fork = ck_threads(); }

int main(int argc, char **argv) {
  ck_start(argc, 1);
  CHECK_EQ(pthread_atfork(prepare, NULL, NULL), 0);
  telemetry_t *t = ck_open("\"idle_ms\":3600000,\"timeout_ms\":3600000,\"exit_timeout_ms\":300");
  if (!strcmp(argv[1], "idle")) {
    /* How often the machine is in the way is its own business; a sender that never ends is there each time. */
    int in_time = 0;
    for (int i = 0; in_time < 40; i++) {
      CHECK(i < 4000);
      ck_send(t, "parent", i, 1);
      ck_settle(t);
      CHECK_EQ(ck_threads(), 2); /* it sleeps, it has not gone */
      pid_t child = fork();
      if (child == 0) {
        alarm(CK_ALARM_S);
        CHECK_EQ(ck_threads(), 1);
        _exit(0);
      }
      ck_join(child);
      if (at_fork == 1) {
        CHECK_EQ(ck_threads(), 1); /* and is not started again without need */
        in_time++;
      }
    }
    ck_settle(t);
  } else {
    ck_fault("stall");
    CHECK_STATUS(ck_enqueue(t, "parent", 0), TELEMETRY_OK); /* never answered, and cut off in the end */
    CK_AWAIT(ck_fault_seen("stall"), CK_PATIENCE_MS);
    for (int i = 0; i < 20; i++) {
      long long started = ck_now_us();
      pid_t child = fork();
      if (child == 0) _exit(0);
      CHECK_AT_MOST(ck_now_us() - started, 60000000); /* the request may take an hour */
      ck_join(child);
    }
  }
  telemetry_free(t);
  return 0;
}
