/*
 * Frozen: a program of the first days of interface 1. It calls every function that there was, checks every number that
 * it sees, and gives telemetry_stats a structure that is as short as it was then: what lies behind must stay as it is.
 *
 *   old ENDPOINT      status 0 if all is as it was; else the line is on stderr
 */
#include "telemetry.h"

#include <stdio.h>
#include <string.h>

#define CHECK(condition) \
  do { \
    if (!(condition)) { \
      fprintf(stderr, "old.c:%d: %s\n", __LINE__, #condition); \
      return 1; \
    } \
  } while (0)

enum { BEHIND = 64, FILL = 0xA5 };

static struct {
  telemetry_stats_t stats;
  unsigned char behind[BEHIND];
} memory;

static int lines;

static void on_line(telemetry_level level, const char *message, void *user) {
  if (level >= TELEMETRY_ERROR && level <= TELEMETRY_DEBUG && message && user == &lines) lines++;
}

/* How many bytes from the start were written: the counters must not be the filling. */
static int written(void) {
  const unsigned char *bytes = (const unsigned char *)&memory;
  int size = (int)sizeof memory;
  while (size > 0 && bytes[size - 1] == FILL) size--;
  return size;
}

int main(int argc, char **argv) {
  static const char event[] = "{\"event\":\"from an old program\"}";
  char config[512], why[256];
  telemetry_t *t = NULL;
  if (argc != 2) return 2;
  snprintf(config, sizeof config, "{\"endpoint\":\"%s\",\"max_event_bytes\":100}", argv[1]);

  CHECK(telemetry_abi_version() >= 1);
  CHECK(strlen(telemetry_version()) >= 5);
  telemetry_set_logger(on_line, &lines, TELEMETRY_DEBUG);
  CHECK(telemetry_open("{\"endpoimt\":1}", &t) == TELEMETRY_INVALID && t == NULL);
  CHECK(telemetry_last_error(why, sizeof why) > 0 && strstr(why, "endpoimt"));
  CHECK(strstr(telemetry_status_str(TELEMETRY_TOO_LARGE), "TELEMETRY_TOO_LARGE"));

  CHECK(telemetry_open(config, &t) == TELEMETRY_OK && t);
  for (int i = 0; i < 3; i++) CHECK(telemetry_enqueue(t, event, sizeof event - 1) == TELEMETRY_OK);
  CHECK(telemetry_enqueue(t, config, sizeof config) == TELEMETRY_TOO_LARGE);
  CHECK(telemetry_enqueue(t, NULL, 0) == TELEMETRY_INVALID);
  CHECK(telemetry_flush(t, 10000) == TELEMETRY_OK);

  memset(&memory, FILL, sizeof memory);
  CHECK(telemetry_stats(t, &memory.stats, sizeof memory.stats) == TELEMETRY_OK);
  CHECK(sizeof memory.stats == 19 * 8);
  CHECK(written() == 19 * 8);
  CHECK(memory.stats.accepted == 3 && memory.stats.delivered == 3 && memory.stats.dropped_too_large == 1);
  CHECK(memory.stats.batches >= 1 && memory.stats.bytes_in == 3 * (sizeof event - 1) && memory.stats.queue_events == 0);
  CHECK(memory.stats.sender_starts == 1 && memory.stats.circuit_open == 0);
  CHECK(memory.stats.last_success_unix_ms > 1700000000000);

  /* Shorter still, as of a program that wants to know one counter only. */
  memset(&memory, FILL, sizeof memory);
  CHECK(telemetry_stats(t, &memory.stats, 8) == TELEMETRY_OK);
  CHECK(written() == 8 && memory.stats.accepted == 3);

  CHECK(telemetry_shutdown(t, 1000) == TELEMETRY_OK);
  CHECK(telemetry_enqueue(t, event, sizeof event - 1) == TELEMETRY_CLOSED);
  telemetry_free(t);
  telemetry_free(NULL);
  return 0;
}
