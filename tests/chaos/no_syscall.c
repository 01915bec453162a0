/*
 * enqueue makes no system call with a spool either: a thread in strict seccomp, where the kernel kills it for any call
 * but read, write and exit, fills several segments. Between two bursts it waits in read() until the sender has
 * the next segment ready: only a producer that outruns the sender makes a segment itself.
 */
#include "check.h"

#include <linux/seccomp.h>
#include <poll.h>
#include <sys/prctl.h>

enum { BURSTS = 40, BURST = 200 };

static telemetry_t *client;
static int go[2], done[2];

static void *strict(void *none) {
  static const char event[] = "{\"tag\":\"strict\",\"pad\":\"xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx\"}";
  (void)none;
  if (prctl(PR_SET_SECCOMP, SECCOMP_MODE_STRICT) != 0) return NULL;
  char byte = 0;
  while (read(go[0], &byte, 1) == 1 && byte == 'g') {
    for (int i = 0; i < BURST; i++)
      if (telemetry_enqueue(client, event, sizeof event - 1) != TELEMETRY_OK) byte = 'x';
    if (write(done[1], &byte, 1) != 1) break;
  }
  syscall(SYS_exit, 0); /* pthread_exit would do more than strict mode allows */
  return NULL;
}

/* The newest segment of this process that is mapped, by the number in its name. */
static long newest(void) {
  FILE *maps = fopen("/proc/self/maps", "re");
  CHECK(maps);
  char line[4096];
  long found = -1;
  while (fgets(line, sizeof line, maps)) {
    char *end = strstr(line, ".seg");
    if (!end || end - line < 8) continue;
    long number = strtol(end - 8, NULL, 16);
    if (number > found) found = number;
  }
  fclose(maps);
  return found;
}

int main(int argc, char **argv) {
  ck_start(argc, 0);
  (void)argv;
  char members[900];
  /* No batch becomes full meanwhile: waking the sender is the one call that enqueue may make. The coarse clock, because
     strict mode forbids the cycle counter too. */
  snprintf(members, sizeof members, "%s,\"clock\":\"coarse\",\"batch\":{\"max_age_ms\":20,\"max_events\":100000}",
           ck_env("TEST_CONFIG"));
  client = ck_open_at(ck_env("TEST_ENDPOINT"), members);
  /* The sender is there already, and the first segment: making them takes system calls. */
  CHECK_STATUS(telemetry_enqueue(client, "{\"tag\":\"first\"}", 15), TELEMETRY_OK);
  CHECK_STATUS(telemetry_flush(client, 20000), TELEMETRY_OK);
  CHECK(pipe(go) == 0 && pipe(done) == 0);
  pthread_t thread;
  CHECK_EQ(pthread_create(&thread, NULL, strict, NULL), 0);
  long first = newest(), segments = 0;
  CHECK(first >= 0);
  for (int burst = 0; burst < BURSTS; burst++) {
    char byte = 'g';
    CHECK(write(go[1], &byte, 1) == 1);
    struct pollfd answer = {.fd = done[0], .events = POLLIN};
    CHECK_EQ(poll(&answer, 1, 20000), 1); /* it was killed, if nothing comes */
    CHECK(read(done[0], &byte, 1) == 1 && byte == 'g');
    /* A burst is less than half a segment of 64 KiB: each third one needs a new one. */
    if (burst % 2) CK_AWAIT(newest() > segments + first, 20000);
    segments = newest() - first;
  }
  close(go[1]);
  CHECK_EQ(pthread_join(thread, NULL), 0);
  CHECK(newest() - first >= 8);
  CHECK_STATUS(telemetry_flush(client, 20000), TELEMETRY_OK);
  CHECK_EQ(ck_stats(client).delivered, BURSTS * BURST + 1);
  telemetry_free(client);
  return 0;
}
