/*
 * enqueue makes no system call: a thread in strict seccomp, where the kernel kills it for any call but read, write
 * and exit, takes 20,000 events over several segments. The coarse clock, because strict mode forbids the
 * processor's cycle counter too, by which the vDSO reads the precise one.
 */
#include "check.h"

#include <linux/seccomp.h>
#include <sys/prctl.h>

enum { EVENTS = 20000 };

static telemetry_t *client;
static atomic_int refused = -1;

static void *strict(void *none) {
  static const char event[] = "{\"tag\":\"strict\",\"pad\":\"xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx\"}";
  (void)none;
  if (prctl(PR_SET_SECCOMP, SECCOMP_MODE_STRICT) != 0) return NULL;
  int bad = 0;
  for (int i = 0; i < EVENTS; i++) bad += telemetry_enqueue(client, event, sizeof event - 1) != TELEMETRY_OK;
  atomic_store(&refused, bad);
  syscall(SYS_exit, 0); /* pthread_exit would do more than strict mode allows */
  return NULL;
}

int main(int argc, char **argv) {
  ck_start(argc, 0);
  (void)argv;
  /* No batch becomes full meanwhile: waking the sender is the one call that enqueue may make. */
  client = ck_open("\"clock\":\"coarse\",\"batch\":{\"max_age_ms\":60000,\"max_events\":100000,\"max_bytes\":33554432}");
  /* The sender is there already: starting it takes system calls. */
  CHECK_STATUS(telemetry_enqueue(client, "{\"tag\":\"first\"}", 15), TELEMETRY_OK);
  CHECK_STATUS(telemetry_flush(client, CK_PATIENCE_MS), TELEMETRY_OK);
  pthread_t thread;
  CHECK_EQ(pthread_create(&thread, NULL, strict, NULL), 0);
  CHECK_EQ(pthread_join(thread, NULL), 0);
  CHECK_EQ(atomic_load(&refused), 0);
  CHECK_STATUS(telemetry_flush(client, CK_PATIENCE_MS), TELEMETRY_OK);
  telemetry_stats_t stats;
  CHECK_STATUS(telemetry_stats(client, &stats, sizeof stats), TELEMETRY_OK);
  CHECK_EQ(stats.delivered, EVENTS + 1);
  telemetry_free(client);
  return 0;
}
