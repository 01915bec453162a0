/* A full queue says so at once and counts it; what was taken arrives; the books balance at every moment. */
#include "check.h"

enum { THREADS = 3, TRIES = 30000 };

static telemetry_t *client;
static atomic_bool over;
static atomic_long taken, refused, slowest_us;

static void *producer(void *which) {
  char tag[16];
  snprintf(tag, sizeof tag, "t%d", (int)(intptr_t)which);
  long first = 0; /* of the run of taken events that ends at seq */
  for (long seq = 0; seq < TRIES; seq++) {
    long long started = ck_now_us();
    telemetry_status status = ck_enqueue(client, tag, seq);
    long took = (long)(ck_now_us() - started), slowest = atomic_load(&slowest_us);
    while (took > slowest && !atomic_compare_exchange_weak(&slowest_us, &slowest, took)) {
    }
    if (status == TELEMETRY_OK) {
      atomic_fetch_add(&taken, 1);
    } else {
      CHECK_EQ(status, TELEMETRY_FULL);
      atomic_fetch_add(&refused, 1);
      ck_note('=', tag, getpid(), first, seq - 1);
      first = seq + 1;
    }
  }
  ck_note('=', tag, getpid(), first, TRIES - 1);
  return NULL;
}

static void *auditor(void *none) {
  long samples = 0;
  telemetry_stats_t last = {0};
  while (!atomic_load(&over) || samples < 1000) {
    telemetry_stats_t now = ck_stats(client);
    CK_BALANCE(now);
    CHECK(now.accepted >= last.accepted && now.delivered >= last.delivered && now.dropped_full >= last.dropped_full);
    last = now;
    if (++samples % 64 == 0) ck_nap_us(100);
  }
  return none;
}

int main(int argc, char **argv) {
  ck_start(argc, 1);
  bool stalled = !strcmp(argv[1], "stalled");
  if (stalled) ck_fault("stall");
  client = ck_open(
      "\"queue_bytes\":1048576,\"segment_bytes\":65536,\"max_event_bytes\":16384,"
      "\"timeout_ms\":5000,\"block_timeout_ms\":3600000,\"retry\":{\"initial_ms\":20,\"max_ms\":100}");
  pthread_t threads[THREADS], audit;
  CHECK_EQ(pthread_create(&audit, NULL, auditor, NULL), 0);
  for (int i = 0; i < THREADS; i++) CHECK_EQ(pthread_create(&threads[i], NULL, producer, (void *)(intptr_t)i), 0);
  for (int i = 0; i < THREADS; i++) CHECK_EQ(pthread_join(threads[i], NULL), 0);
  telemetry_stats_t stats = ck_stats(client);
  CHECK_EQ(stats.accepted, taken);
  CHECK_EQ(stats.dropped_full, refused);
  CHECK_AT_MOST(slowest_us, 60000000); /* nobody waited for room, for which one would wait an hour */
  if (stalled) {
    CHECK(refused > 0);
    CHECK(stats.queue_bytes <= 1048576 && stats.queue_bytes >= 1048576 / 2);
    CHECK_EQ(stats.delivered, 0);
    ck_fault("");
  }
  CHECK_STATUS(telemetry_flush(client, CK_PATIENCE_MS), TELEMETRY_OK);
  atomic_store(&over, true);
  CHECK_EQ(pthread_join(audit, NULL), 0);
  ck_send(client, "again", 0, 100); /* there is room again */
  ck_settle(client);
  CHECK_EQ(ck_stats(client).delivered, taken + 100);
  telemetry_free(client);
  return 0;
}
