/* The ways a process ends, and what each does with events that were not sent yet. */
#include "check.h"

static telemetry_t *client;
static bool late; /* enqueue while the process ends */
static pid_t ending;

static void last_words(const char *tag) {
  if (late && getpid() == ending) ck_send(client, tag, 0, 5);
}
static void before_open(void) { last_words("atexit-before-open"); }
static void after_open(void) { last_words("atexit-after-open"); }
__attribute__((destructor)) static void destructor(void) { last_words("destructor"); }

/* How long the exit of a child takes, from just before to its end. */
static long long exit_ms(pid_t child, int clock_fd) {
  long long started;
  CHECK(read(clock_fd, &started, sizeof started) == sizeof started);
  ck_join(child);
  return ck_now_ms() - started;
}

static void stamp(int clock_fd) {
  long long now = ck_now_ms();
  CHECK(write(clock_fd, &now, sizeof now) == sizeof now);
}

int main(int argc, char **argv) {
  ck_start(argc, 1);
  const char *what = argv[1];
  int clock_fds[2];
  CHECK_EQ(pipe(clock_fds), 0);
  atexit(before_open);
  client = ck_open("\"batch\":{\"max_age_ms\":60000},\"exit_timeout_ms\":120000");
  atexit(after_open);

  if (!strcmp(what, "exit")) { /* destructors and handlers may still enqueue, in a child and here */
    ck_send(client, "main", 0, 10);
    pid_t child = fork();
    ending = getpid();
    late = true;
    ck_send(client, "pending", 0, 10);
    if (child == 0) {
      alarm(CK_ALARM_S);
      exit(0);
    }
    ck_join(child);
    return 0;
  }

  if (!strcmp(what, "_exit")) { /* runs nothing of ours */
    pid_t child = fork();
    if (child == 0) {
      for (int i = 0; i < 10; i++) CHECK_STATUS(ck_enqueue(client, "gone", i), TELEMETRY_OK);
      stamp(clock_fds[1]);
      _exit(0);
    }
    CHECK_AT_MOST(exit_ms(child, clock_fds[0]), 60000);
    ck_send(client, "parent", 0, 10);
    return 0;
  }

  if (!strcmp(what, "down")) { /* the collector is known to be down: nothing to wait for */
    telemetry_t *dead = ck_open_at("http://127.0.0.1:1", "\"exit_timeout_ms\":300000,\"batch\":{\"max_age_ms\":20}");
    pid_t child = fork();
    if (child == 0) {
      CHECK_STATUS(ck_enqueue(dead, "dead", 0), TELEMETRY_OK);
      CK_AWAIT(ck_stats(dead).retries > 0, CK_PATIENCE_MS);
      stamp(clock_fds[1]);
      exit(0);
    }
    CHECK_AT_MOST(exit_ms(child, clock_fds[0]), 60000);
    telemetry_free(dead);
    return 0;
  }

  if (!strcmp(what, "stalled")) { /* a collector that does not answer costs the budget and no more */
    ck_fault("stall");
    telemetry_t *slow = ck_open("\"exit_timeout_ms\":300,\"timeout_ms\":3600000");
    pid_t child = fork();
    if (child == 0) {
      telemetry_free(client); /* whose budget is longer, and which has nothing to send */
      CHECK_STATUS(ck_enqueue(slow, "stalled", 0), TELEMETRY_OK);
      stamp(clock_fds[1]);
      exit(0);
    }
    CHECK_AT_MOST(exit_ms(child, clock_fds[0]), 60000);
    _exit(0);
  }

  if (!strcmp(what, "unused")) { /* a child that never used the client, of a parent with a full queue and a stalled collector */
    ck_fault("stall");
    telemetry_t *slow = ck_open("\"exit_timeout_ms\":300000,\"timeout_ms\":3600000,\"queue_bytes\":1048576");
    while (ck_enqueue(slow, "full", 0) == TELEMETRY_OK) {
    }
    for (int i = 0; i < 20; i++) {
      pid_t child = fork();
      if (child == 0) {
        alarm(CK_ALARM_S);
        stamp(clock_fds[1]);
        exit(0);
      }
      CHECK_AT_MOST(exit_ms(child, clock_fds[0]), 60000);
    }
    _exit(0);
  }
  ck_fail(__FILE__, __LINE__, "no scenario %s", what);
}
