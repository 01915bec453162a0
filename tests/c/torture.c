/* Four threads enqueue while a fifth forks 2,000 times; each child enqueues ten and ends through exit() or flush. */
#include "check.h"

enum { THREADS = 4, FORKS = 2000, AT_ONCE = 8 };

static telemetry_t *client;
static atomic_bool over;

static void *producer(void *which) {
  char tag[16];
  snprintf(tag, sizeof tag, "t%d", (int)(intptr_t)which);
  for (long first = 0; !atomic_load(&over); first += 20) {
    ck_push(client, tag, first, 20);
    ck_nap_us(4000);
  }
  return NULL;
}

static void *forker(void *argument) {
  enum ck_kind kind = *(enum ck_kind *)argument;
  int living = 0;
  for (int i = 0; i < FORKS + AT_ONCE; i++) {
    if (living == AT_ONCE || i >= FORKS) {
      int status;
      pid_t child = waitpid(-1, &status, 0);
      CHECK(child > 0);
      if (status) ck_fail(__FILE__, __LINE__, "child %d: wait status 0x%x at fork %d", (int)child, status, i);
      living--;
    }
    if (i >= FORKS) continue;
    if (ck_fork(kind) == 0) {
      ck_send(client, "child", 0, 10);
      if (kind == CK_FORK && i % 2) exit(0);
      CHECK_STATUS(telemetry_flush(client, CK_PATIENCE_MS), TELEMETRY_OK);
      _exit(0);
    }
    living++;
  }
  return NULL;
}

int main(int argc, char **argv) {
  ck_start(argc, 1);
  enum ck_kind kind = ck_kind_of(argv[1]);
  client = ck_open("");
  pthread_t threads[THREADS], fifth;
  for (int i = 0; i < THREADS; i++) CHECK_EQ(pthread_create(&threads[i], NULL, producer, (void *)(intptr_t)i), 0);
  CHECK_EQ(pthread_create(&fifth, NULL, forker, &kind), 0);
  CHECK_EQ(pthread_join(fifth, NULL), 0);
  atomic_store(&over, true);
  for (int i = 0; i < THREADS; i++) CHECK_EQ(pthread_join(threads[i], NULL), 0);
  ck_settle(client);
  telemetry_free(client);
  return 0;
}
