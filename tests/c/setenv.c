/* A host thread changes the environment all the time: after open the library never looks. */
#include "check.h"

static atomic_bool over;

static void *storm(void *none) {
  char name[32], value[2048];
  for (long i = 0; !atomic_load(&over); i++) {
    /* Growing values and names, so that the environment's array and strings move. */
    snprintf(name, sizeof name, "STORM_%ld", i % 500);
    memset(value, 'x', sizeof value);
    value[i % (long)sizeof value] = 0;
    value[sizeof value - 1] = 0;
    if (i % 3) setenv(name, value, 1);
    else unsetenv(name);
    if (i % 7 == 0) setenv("http_proxy", "http://127.0.0.1:1", 1), setenv("TELEMETRY_ENDPOINT", "http://127.0.0.1:1", 1);
    if (i % 11 == 0) clearenv();
  }
  return none;
}

int main(int argc, char **argv) {
  ck_start(argc, 0);
  (void)argv;
  telemetry_t *t = ck_open("\"idle_ms\":1");
  ck_ledger_kept = ck_ledger_open(); /* getenv is the host's own risk: not during the storm */
  pthread_t thread;
  CHECK_EQ(pthread_create(&thread, NULL, storm, NULL), 0);
  for (int i = 0; i < 200; i++) {
    ck_send(t, "storm", i * 20, 20);
    CHECK_STATUS(telemetry_flush(t, CK_PATIENCE_MS), TELEMETRY_OK); /* a sender starts, connects, sends, ends */
    if (i % 20 == 0) {
      pid_t child = fork();
      if (child == 0) {
        alarm(CK_ALARM_S);
        ck_send(t, "child", 0, 10);
        exit(0);
      }
      ck_join(child);
    }
  }
  atomic_store(&over, true);
  CHECK_EQ(pthread_join(thread, NULL), 0);
  ck_settle(t);
  telemetry_free(t);
  return 0;
}
