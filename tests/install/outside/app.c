/*
 * A program of somebody else's, valid in C99, C11, C++17 and C++20: delivers one event, named by its second argument,
 * to the endpoint in its first, and is content only if the library says that it arrived.
 */
#include <telemetry.h>
/* Twice on purpose. */
#include <telemetry.h>

#include <stdio.h>
#include <string.h>

unsigned other_unit(void);

int main(int argc, char **argv) {
  char config[512], event[256], why[256];
  telemetry_t *t = NULL;
  telemetry_stats_t stats;
  if (argc != 3) return 2;
  snprintf(config, sizeof config, "{\"endpoint\":\"%s\"}", argv[1]);
  snprintf(event, sizeof event, "{\"event\":\"%s\"}", argv[2]);
  if (telemetry_open(config, &t) != TELEMETRY_OK) {
    telemetry_last_error(why, sizeof why);
    fprintf(stderr, "%s\n", why);
    return 1;
  }
  if (telemetry_enqueue(t, event, strlen(event)) != TELEMETRY_OK) return 3;
  if (telemetry_flush(t, 60000) != TELEMETRY_OK) return 4;
  if (telemetry_stats(t, &stats, sizeof stats) != TELEMETRY_OK || stats.delivered != 1) return 5;
  if (telemetry_shutdown(t, 60000) != TELEMETRY_OK) return 6;
  telemetry_free(t);
  printf("%s %u\n", telemetry_version(), other_unit());
  return 0;
}
