/*
 * Frozen: the library that old.c is linked with, as far as a linker looks: the names that it had then, and no more. A
 * program that works can only have met the real one.
 */
void abort(void);

#define STUB(name) \
  void name(void); \
  void name(void) { abort(); }

STUB(telemetry_abi_version)
STUB(telemetry_enqueue)
STUB(telemetry_flush)
STUB(telemetry_free)
STUB(telemetry_last_error)
STUB(telemetry_open)
STUB(telemetry_set_logger)
STUB(telemetry_shutdown)
STUB(telemetry_stats)
STUB(telemetry_status_str)
STUB(telemetry_version)
