/*
 * The binary interface, written down a second time: this does not compile when a number, a size, an offset or a
 * signature of telemetry.h is another. What is here may never change; what is new is added at the end.
 */
#include <telemetry.h>

#include <stddef.h>
#include <stdint.h>

#define PIN(condition) _Static_assert(condition, #condition)

PIN(TELEMETRY_OK == 0);
PIN(TELEMETRY_FULL == 1);
PIN(TELEMETRY_TOO_LARGE == 2);
PIN(TELEMETRY_CLOSED == 3);
PIN(TELEMETRY_TIMEOUT == 4);
PIN(TELEMETRY_INVALID == 5);
PIN(TELEMETRY_IO == 6);
PIN(TELEMETRY_INTERNAL == 7);

PIN(TELEMETRY_ERROR == 1);
PIN(TELEMETRY_WARN == 2);
PIN(TELEMETRY_INFO == 3);
PIN(TELEMETRY_DEBUG == 4);

PIN(TELEMETRY_ITEM_DONE == 0);
PIN(TELEMETRY_ITEM_FAILED == 1);
PIN(TELEMETRY_ITEM_RETRIED == 2);
PIN(TELEMETRY_ITEM_DEAD == 3);

PIN(TELEMETRY_WORKER_DUMPS == 8);
PIN(TELEMETRY_WORKER_RUNNING == 16);
PIN(TELEMETRY_WORKER_MDQ_CONNECTED == 32);
PIN(TELEMETRY_WORKER_MDC_CONNECTED == 64);

PIN(sizeof(telemetry_status) == 4 && (telemetry_status)-1 < 0);
PIN(sizeof(telemetry_level) == 4);
PIN(sizeof(telemetry_log_fn) == sizeof(void *));

/* In this order, without a gap. */
#define MEMBER(name) ((telemetry_stats_t *)0)->name
#define COUNTER(number, name) \
  PIN(offsetof(telemetry_stats_t, name) == 8 * number && _Generic(&MEMBER(name), uint64_t *: 1, default: 0))
COUNTER(0, accepted);
COUNTER(1, delivered);
COUNTER(2, rejected);
COUNTER(3, invalid);
COUNTER(4, expired);
COUNTER(5, dropped_full);
COUNTER(6, dropped_too_large);
COUNTER(7, retries);
COUNTER(8, batches);
COUNTER(9, bytes_in);
COUNTER(10, bytes_out);
COUNTER(11, queue_events);
COUNTER(12, queue_bytes);
COUNTER(13, recovered);
COUNTER(14, left_in_spool);
COUNTER(15, forks);
COUNTER(16, sender_starts);
COUNTER(17, circuit_open);
COUNTER(18, last_success_unix_ms);
COUNTER(19, unverified);
COUNTER(20, spool_failures);
COUNTER(21, corrupt);
COUNTER(22, evicted);
COUNTER(23, sampled_out);
COUNTER(24, uploads);
COUNTER(25, uploaded);
COUNTER(26, uploads_failed);
COUNTER(27, media_bytes);
PIN(sizeof(telemetry_stats_t) == 8 * 28);
PIN(_Alignof(telemetry_stats_t) == _Alignof(uint64_t));

struct {
  telemetry_status (*open)(const char *, telemetry_t **);
  telemetry_status (*enqueue)(telemetry_t *, const void *, size_t);
  telemetry_status (*flush)(telemetry_t *, uint32_t);
  telemetry_status (*shutdown)(telemetry_t *, uint32_t);
  void (*free)(telemetry_t *);
  telemetry_status (*stats)(telemetry_t *, telemetry_stats_t *, size_t);
  telemetry_status (*upload)(telemetry_t *, const char *, const void *, size_t, char *, size_t);
  telemetry_status (*set_worker)(uint32_t);
  telemetry_status (*family_stats)(telemetry_t *, char *, size_t, size_t *);
  const char *(*status_str)(telemetry_status);
  const char *(*version)(void);
  uint32_t (*abi_version)(void);
  size_t (*last_error)(char *, size_t);
  void (*set_logger)(void (*)(telemetry_level, const char *, void *), void *, telemetry_level);

  telemetry_status (*fleet_new)(const char *, telemetry_fleet_t **);
  telemetry_status (*fleet_add)(telemetry_fleet_t *, const char *, uint32_t, const char *,
                                int (*)(telemetry_worker_t *, void *), void *);
  telemetry_status (*fleet_add_command)(telemetry_fleet_t *, const char *, uint32_t, const char *, const char *const *);
  telemetry_status (*fleet_set_fork)(telemetry_fleet_t *, int32_t (*)(void *), void *);
  telemetry_status (*fleet_prepare)(telemetry_fleet_t *, int (*)(void *), void *);
  telemetry_status (*fleet_watch)(telemetry_fleet_t *, int, void (*)(telemetry_fleet_t *, int, void *), void *);
  int32_t (*fleet_run)(telemetry_fleet_t *);
  int32_t (*fleet_fd)(telemetry_fleet_t *);
  telemetry_status (*fleet_step)(telemetry_fleet_t *, uint32_t);
  telemetry_status (*fleet_stop)(telemetry_fleet_t *, const char *, uint32_t);
  telemetry_status (*fleet_resize)(telemetry_fleet_t *, const char *, uint32_t);
  telemetry_status (*fleet_status)(telemetry_fleet_t *, char *, size_t, size_t *);
  telemetry_status (*scoreboard_read)(const char *, char *, size_t, size_t *);
  void (*fleet_free)(telemetry_fleet_t *);

  telemetry_worker_t *(*worker_current)(void);
  void (*worker_ready)(telemetry_worker_t *);
  void (*worker_beat)(telemetry_worker_t *);
  int (*worker_stopping)(telemetry_worker_t *);
  int (*worker_paused)(telemetry_worker_t *);
  int (*worker_stop_fd)(telemetry_worker_t *);
  uint32_t (*worker_slot)(telemetry_worker_t *);
  uint64_t (*worker_incarnation)(telemetry_worker_t *);
  uint64_t (*worker_item_begin)(telemetry_worker_t *, const char *, uint32_t);
  void (*worker_item_end)(telemetry_worker_t *, uint64_t, int32_t);
  int (*worker_lease)(telemetry_worker_t *, uint64_t, uint64_t, uint32_t);
  void (*worker_count)(telemetry_worker_t *, uint32_t, uint64_t);
  int32_t (*worker_counter)(telemetry_worker_t *, const char *);
  void (*worker_flag)(telemetry_worker_t *, uint32_t, int);
  void (*worker_lag)(telemetry_worker_t *, uint32_t);
  size_t (*worker_trace)(telemetry_worker_t *, uint32_t, char *, size_t);
} const signatures = {
  .open = telemetry_open,
  .enqueue = telemetry_enqueue,
  .flush = telemetry_flush,
  .shutdown = telemetry_shutdown,
  .free = telemetry_free,
  .stats = telemetry_stats,
  .upload = telemetry_upload,
  .set_worker = telemetry_set_worker,
  .family_stats = telemetry_family_stats,
  .status_str = telemetry_status_str,
  .version = telemetry_version,
  .abi_version = telemetry_abi_version,
  .last_error = telemetry_last_error,
  .set_logger = telemetry_set_logger,

  .fleet_new = telemetry_fleet_new,
  .fleet_add = telemetry_fleet_add,
  .fleet_add_command = telemetry_fleet_add_command,
  .fleet_set_fork = telemetry_fleet_set_fork,
  .fleet_prepare = telemetry_fleet_prepare,
  .fleet_watch = telemetry_fleet_watch,
  .fleet_run = telemetry_fleet_run,
  .fleet_fd = telemetry_fleet_fd,
  .fleet_step = telemetry_fleet_step,
  .fleet_stop = telemetry_fleet_stop,
  .fleet_resize = telemetry_fleet_resize,
  .fleet_status = telemetry_fleet_status,
  .scoreboard_read = telemetry_scoreboard_read,
  .fleet_free = telemetry_fleet_free,

  .worker_current = telemetry_worker_current,
  .worker_ready = telemetry_worker_ready,
  .worker_beat = telemetry_worker_beat,
  .worker_stopping = telemetry_worker_stopping,
  .worker_paused = telemetry_worker_paused,
  .worker_stop_fd = telemetry_worker_stop_fd,
  .worker_slot = telemetry_worker_slot,
  .worker_incarnation = telemetry_worker_incarnation,
  .worker_item_begin = telemetry_worker_item_begin,
  .worker_item_end = telemetry_worker_item_end,
  .worker_lease = telemetry_worker_lease,
  .worker_count = telemetry_worker_count,
  .worker_counter = telemetry_worker_counter,
  .worker_flag = telemetry_worker_flag,
  .worker_lag = telemetry_worker_lag,
  .worker_trace = telemetry_worker_trace,
};
