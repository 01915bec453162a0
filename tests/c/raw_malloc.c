/*
 * Raw clone while another thread holds malloc's lock (run with MALLOC_ARENA_MAX=1): in the child that lock is held
 * for ever. Enqueue and flush must come back there all the same, and within their time.
 */
#include "check.h"

enum { CHILDREN = 200 };

static atomic_bool over;

static void *churn(void *none) {
  while (!atomic_load(&over)) {
    /* Too large for the thread's own cache: each takes the arena's lock. */
    void *volatile block = malloc(4000);
    free(block);
  }
  return none;
}

int main(int argc, char **argv) {
  ck_start(argc, 0);
  (void)argv;
  telemetry_t *t = ck_open("");
  ck_send(t, "parent", 0, 10);
  pthread_t threads[2];
  for (int i = 0; i < 2; i++) CHECK_EQ(pthread_create(&threads[i], NULL, churn, NULL), 0);
  for (int i = 0; i < CHILDREN; i++) {
    pid_t child = ck_fork(CK_CLONE);
    if (child == 0) {
      alarm(CK_ALARM_S);
      ck_send(t, "child", 0, 10);
      CHECK_STATUS(telemetry_flush(t, CK_PATIENCE_MS), TELEMETRY_OK);
      CHECK_STATUS(telemetry_shutdown(t, CK_PATIENCE_MS), TELEMETRY_OK);
      _exit(0);
    }
    ck_join(child);
  }
  atomic_store(&over, true);
  for (int i = 0; i < 2; i++) CHECK_EQ(pthread_join(threads[i], NULL), 0);
  ck_settle(t);
  telemetry_free(t);
  return 0;
}
