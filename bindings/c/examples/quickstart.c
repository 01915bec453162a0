/*
 * The smallest program that delivers an event, from itself and from a fork of itself.
 *
 *   cc quickstart.c -I../../../include -L../../../target/release -ltelemetry -o quickstart
 *   ./quickstart http://127.0.0.1:8080
 */
#include <stdio.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include "telemetry.h"

int main(int argc, char **argv) {
  char config[256], why[256];
  snprintf(config, sizeof config, "{\"endpoint\":\"%s\"}", argc > 1 ? argv[1] : "http://127.0.0.1:8080");

  telemetry_t *t;
  if (telemetry_open(config, &t) != TELEMETRY_OK) {
    telemetry_last_error(why, sizeof why);
    fprintf(stderr, "%s\n", why);
    return 1;
  }
  const char *event = fork() == 0 ? "{\"event\":\"hello from a fork\"}" : "{\"event\":\"hello\"}";
  telemetry_enqueue(t, event, strlen(event)); /* never blocks; what it refuses is counted */
  while (wait(NULL) > 0) {
  }
  return 0; /* the way out of main delivers, at most for exit_timeout_ms */
}
