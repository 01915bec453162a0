/*
 * Frozen: the interface numbered 1 as its first programs were compiled with it, when telemetry_stats_t had 19 members.
 * Never to be changed: old.c and stub.c stand for a program and a library of that day.
 */
#ifndef TELEMETRY_H
#define TELEMETRY_H

#include <stddef.h>
#include <stdint.h>

typedef struct telemetry telemetry_t;
typedef int32_t telemetry_status;

typedef enum telemetry_level {
  TELEMETRY_ERROR = 1,
  TELEMETRY_WARN = 2,
  TELEMETRY_INFO = 3,
  TELEMETRY_DEBUG = 4,
} telemetry_level;

typedef struct telemetry_stats_t {
  uint64_t accepted;
  uint64_t delivered;
  uint64_t rejected;
  uint64_t invalid;
  uint64_t expired;
  uint64_t dropped_full;
  uint64_t dropped_too_large;
  uint64_t retries;
  uint64_t batches;
  uint64_t bytes_in;
  uint64_t bytes_out;
  uint64_t queue_events;
  uint64_t queue_bytes;
  uint64_t recovered;
  uint64_t left_in_spool;
  uint64_t forks;
  uint64_t sender_starts;
  uint64_t circuit_open;
  uint64_t last_success_unix_ms;
} telemetry_stats_t;

typedef void (*telemetry_log_fn)(telemetry_level level, const char *message, void *user);

#define TELEMETRY_OK 0
#define TELEMETRY_FULL 1
#define TELEMETRY_TOO_LARGE 2
#define TELEMETRY_CLOSED 3
#define TELEMETRY_TIMEOUT 4
#define TELEMETRY_INVALID 5
#define TELEMETRY_IO 6
#define TELEMETRY_INTERNAL 7

telemetry_status telemetry_open(const char *config_json, telemetry_t **out);
telemetry_status telemetry_enqueue(telemetry_t *t, const void *event, size_t len);
telemetry_status telemetry_flush(telemetry_t *t, uint32_t timeout_ms);
telemetry_status telemetry_shutdown(telemetry_t *t, uint32_t timeout_ms);
void telemetry_free(telemetry_t *t);
telemetry_status telemetry_stats(telemetry_t *t, struct telemetry_stats_t *out, size_t size_of_out);
const char *telemetry_status_str(telemetry_status status);
const char *telemetry_version(void);
uint32_t telemetry_abi_version(void);
size_t telemetry_last_error(char *buf, size_t cap);
void telemetry_set_logger(telemetry_log_fn log, void *user, telemetry_level level);

#endif
