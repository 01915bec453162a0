/*
 * enqueue makes no system call with a spool either: a thread in strict seccomp, where the kernel kills it for any call
 * but read, write and exit, fills several segments. Between two bursts it waits in read() until the sender has
 * the next segment ready: only a producer that outruns the sender makes a segment itself.
 */
#include "check.h"

#include <linux/seccomp.h>
#include <poll.h>
#include <sys/prctl.h>

enum { BURSTS = 40, BURST = 200, SEGMENT = 65536, SEGMENT_HEADER = 256, RECORD_HEADER = 40 };

static const char first[] = "{\"tag\":\"first\"}";
static const char event[] = "{\"tag\":\"strict\",\"pad\":\"xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx\"}";
static telemetry_t *client;
static int go[2], done[2];

static void *strict(void *none) {
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

/* The first and the last segment that are mapped and begun, by the numbers in their names. */
static void look(long *lowest, long *newest) {
  FILE *maps = fopen("/proc/self/maps", "re");
  CHECK(maps);
  char line[4096];
  *lowest = *newest = -1;
  while (fgets(line, sizeof line, maps)) {
    char *end = strstr(line, ".seg");
    if (!end || end - line < 8 || strstr(end, "deleted")) continue;
    const char *start = (const char *)strtoul(line, NULL, 16);
    if (memcmp(start, "tlmspool", 8) != 0) continue;
    long number = strtol(end - 8, NULL, 16);
    if (*lowest < 0 || number < *lowest) *lowest = number;
    if (number > *newest) *newest = number;
  }
  fclose(maps);
}

static long newest(void) {
  long lowest, found;
  look(&lowest, &found);
  return found;
}

/* Where the log stands: segments behind the first one, and bytes in the last. */
static long segments, offset = SEGMENT_HEADER;

static void appended(size_t len) {
  long need = RECORD_HEADER + ((long)len + 7) / 8 * 8;
  if (offset + need > SEGMENT) segments++, offset = SEGMENT_HEADER;
  offset += need;
}

int main(int argc, char **argv) {
  ck_start(argc, 0);
  (void)argv;
  alarm(400); /* a busy machine takes its time */
  char members[900];
  /* No batch becomes full meanwhile: waking the sender is the one call that enqueue may make. The coarse clock, because
     strict mode forbids the cycle counter too. */
  snprintf(members, sizeof members,
           "\"spool_dir\":\"%s\",\"segment_bytes\":%d,\"max_event_bytes\":4096,\"clock\":\"coarse\","
           "\"batch\":{\"max_age_ms\":20,\"max_events\":100000}",
           ck_env("TEST_SPOOL"), SEGMENT);
  client = ck_open_at(ck_env("TEST_ENDPOINT"), members);
  /* The sender is there already, and the first segment: making them takes system calls. */
  CHECK_STATUS(telemetry_enqueue(client, first, sizeof first - 1), TELEMETRY_OK);
  appended(sizeof first - 1);
  long base, last;
  look(&base, &last); /* nothing is removed before the first flush */
  CHECK(base >= 0);
  CHECK_STATUS(telemetry_flush(client, 120000), TELEMETRY_OK);
  CHECK(pipe(go) == 0 && pipe(done) == 0);
  pthread_t thread;
  CHECK_EQ(pthread_create(&thread, NULL, strict, NULL), 0);
  for (int burst = 0; burst < BURSTS; burst++) {
    CK_AWAIT(newest() > base + segments, 120000);
    char byte = 'g';
    CHECK(write(go[1], &byte, 1) == 1);
    struct pollfd answer = {.fd = done[0], .events = POLLIN};
    CHECK_EQ(poll(&answer, 1, 120000), 1); /* the kernel killed it, if nothing comes */
    CHECK(read(done[0], &byte, 1) == 1 && byte == 'g');
    for (int i = 0; i < BURST; i++) appended(sizeof event - 1);
  }
  close(go[1]);
  CHECK_EQ(pthread_join(thread, NULL), 0);
  CHECK(segments >= 10);
  CHECK_STATUS(telemetry_flush(client, 120000), TELEMETRY_OK);
  CHECK_EQ(ck_stats(client).delivered, BURSTS * BURST + 1);
  telemetry_free(client);
  return 0;
}
