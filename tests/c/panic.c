/* A panic inside the library: the call says INTERNAL, that client is dead, the process and other clients live. */
#include "check.h"

int main(int argc, char **argv) {
  ck_start(argc, 1);
  bool sender = !strcmp(argv[1], "sender");
  setenv("TELEMETRY_TEST_PANIC", argv[1], 1);
  telemetry_t *broken = ck_open("\"exit_timeout_ms\":500");
  unsetenv("TELEMETRY_TEST_PANIC");
  telemetry_t *sound = ck_open("");
  ck_send(sound, "before", 0, 10);

  if (sender) {
    CHECK_STATUS(ck_enqueue(broken, "broken", 0), TELEMETRY_OK);
    long long started = ck_now_ms();
    CHECK(telemetry_flush(broken, 2000) != TELEMETRY_OK);
    CHECK_AT_MOST(ck_now_ms() - started, 60000);
  } else {
    CHECK_STATUS(ck_enqueue(broken, "broken", 0), TELEMETRY_INTERNAL);
  }
  for (int i = 0; i < 100; i++) {
    telemetry_status status = ck_enqueue(broken, "broken", 1);
    CHECK(status == TELEMETRY_INTERNAL || status == TELEMETRY_CLOSED);
    CHECK(telemetry_flush(broken, CK_PATIENCE_MS) != TELEMETRY_TIMEOUT); /* nobody waits for the dead */
  }
  CHECK(*telemetry_status_str(TELEMETRY_INTERNAL));

  ck_send(sound, "after", 0, 10);
  ck_settle(sound);
  pid_t child = fork(); /* and the dead one harms no child */
  if (child == 0) {
    alarm(CK_ALARM_S);
    telemetry_status status = ck_enqueue(broken, "broken", 2);
    CHECK(status == TELEMETRY_INTERNAL || status == TELEMETRY_CLOSED);
    ck_send(sound, "child", 0, 10);
    exit(0);
  }
  ck_join(child);
  telemetry_shutdown(broken, 1000);
  telemetry_free(broken);
  ck_settle(sound);
  telemetry_free(sound);
  return 0;
}
