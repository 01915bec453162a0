/* An idle parent is single-threaded at the instant of fork, unless a busy machine does not let the sender end within
 * the 5 ms that fork waits for it; with a sender in a stalled request fork does not wait. */
#include "check.h"

static int at_fork;

/* Registered before the library's handlers, so it runs after them: prepare handlers run in reverse. */
static void prepare(void) { at_fork = ck_threads(); }

int main(int argc, char **argv) {
  ck_start(argc, 1);
  CHECK_EQ(pthread_atfork(prepare, NULL, NULL), 0);
  telemetry_t *t = ck_open("\"idle_ms\":60000,\"timeout_ms\":1500");
  if (!strcmp(argv[1], "idle")) {
    int late = 0;
    for (int i = 0; i < 50; i++) {
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
      if (at_fork == 1)
        CHECK_EQ(ck_threads(), 1); /* and is not started again without need */
      else
        late++;
    }
    CHECK_AT_MOST(late, 10);
  } else {
    ck_fault("stall");
    ck_send(t, "parent", 0, 1);
    for (int i = 0; i < 20; i++) {
      long long started = ck_now_us();
      pid_t child = fork();
      if (child == 0) _exit(0);
      CHECK_AT_MOST(ck_now_us() - started, 100000);
      ck_join(child);
    }
    ck_fault("");
  }
  ck_settle(t);
  telemetry_free(t);
  return 0;
}
