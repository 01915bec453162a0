/* Fork while eight threads enqueue. */
#include "check.h"

enum { THREADS = 8, EACH = 4000, FORKS = 24 };

static telemetry_t *client;

static void *producer(void *which) {
  char tag[16];
  snprintf(tag, sizeof tag, "t%d", (int)(intptr_t)which);
  for (long first = 0; first < EACH; first += 100) {
    ck_push(client, tag, first, 100);
    ck_nap_us(1000); /* make room for the forks */
  }
  return NULL;
}

int main(int argc, char **argv) {
  ck_start(argc, 1);
  enum ck_kind kind = ck_kind_of(argv[1]);
  client = ck_open("");
  pthread_t threads[THREADS];
  for (int i = 0; i < THREADS; i++) CHECK_EQ(pthread_create(&threads[i], NULL, producer, (void *)(intptr_t)i), 0);
  for (int i = 0; i < FORKS; i += 4) {
    pid_t children[4];
    for (int j = 0; j < 4; j++)
      if ((children[j] = ck_fork(kind)) == 0) {
        ck_send(client, "child", 0, 50);
        CHECK_STATUS(telemetry_flush(client, CK_PATIENCE_MS), TELEMETRY_OK);
        CHECK_EQ(ck_stats(client).delivered, 50);
        _exit(0);
      }
    for (int j = 0; j < 4; j++) ck_join(children[j]);
  }
  for (int i = 0; i < THREADS; i++) CHECK_EQ(pthread_join(threads[i], NULL), 0);
  ck_settle(client);
  telemetry_free(client);
  return 0;
}
