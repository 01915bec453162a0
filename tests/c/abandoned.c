/*
 * A thread that leaves enqueue by another door: cancelled, or by siglongjmp out of a signal handler.
 * What it held is stepped over within about a second; everything else arrives.
 */
#include "check.h"

#include <setjmp.h>

enum { ROUNDS = 60 };

static telemetry_t *client;
static volatile long reached; /* every event below it was taken by the thread of this round */
static atomic_bool running;

static void *cancelled(void *tag) {
  pthread_setcanceltype(PTHREAD_CANCEL_ASYNCHRONOUS, NULL);
  atomic_store(&running, true);
  for (long seq = 0;; seq++) {
    char event[512];
    size_t size = ck_event(event, sizeof event, tag, getpid(), seq);
    if (telemetry_enqueue(client, event, size) != TELEMETRY_OK) {
      for (;;) pause(); /* a full queue ends the round */
    }
    reached = seq + 1;
  }
  return NULL;
}

static sigjmp_buf door;
static volatile sig_atomic_t armed;

static void on_tick(int signal) {
  (void)signal;
  if (armed) {
    armed = 0;
    siglongjmp(door, 1);
  }
}

static void jump(const char *tag) {
  if (sigsetjmp(door, 1) == 0) {
    armed = 1;
    for (long seq = 0;; seq++) {
      char event[512];
      size_t size = ck_event(event, sizeof event, tag, getpid(), seq);
      if (telemetry_enqueue(client, event, size) != TELEMETRY_OK) {
        for (;;) pause();
      }
      reached = seq + 1;
    }
  }
}

int main(int argc, char **argv) {
  ck_start(argc, 1);
  bool jumps = !strcmp(argv[1], "longjmp");
  client = ck_open("");
  ck_send(client, "first", 0, 1);
  ck_settle(client);
  timer_t timer;
  if (jumps) {
    struct sigaction action = {.sa_handler = on_tick};
    sigaction(SIGRTMIN, &action, NULL);
    struct sigevent event = {.sigev_notify = SIGEV_THREAD_ID, .sigev_signo = SIGRTMIN};
    event._sigev_un._tid = (pid_t)syscall(SYS_gettid);
    CHECK_EQ(timer_create(CLOCK_MONOTONIC, &event, &timer), 0);
  }
  for (int round = 0; round < ROUNDS; round++) {
    char tag[32];
    snprintf(tag, sizeof tag, "round%d", round);
    reached = 0;
    if (jumps) {
      /* Again and again: a tick that comes before the door is open must not be the only one. */
      struct itimerspec ticks = {{0, 5000000}, {0, 200000 + round * 7919}}, none = {{0, 0}, {0, 0}};
      CHECK_EQ(timer_settime(timer, 0, &ticks, NULL), 0);
      jump(tag);
      CHECK_EQ(timer_settime(timer, 0, &none, NULL), 0);
    } else {
      pthread_t thread;
      atomic_store(&running, false);
      CHECK_EQ(pthread_create(&thread, NULL, cancelled, tag), 0);
      CK_AWAIT(atomic_load(&running), CK_PATIENCE_MS);
      ck_nap_us(100 + round * 7); /* anywhere in the loop will do */
      CHECK_EQ(pthread_cancel(thread), 0);
      /* Not PTHREAD_CANCELED where glibc acts on the cancel in pthread_setcancelstate: it sets no result there. */
      CHECK_EQ(pthread_join(thread, NULL), 0);
    }
    /* The event in hand may have been taken before the thread could note it. */
    ck_note('=', tag, getpid(), 0, reached - 1);
    ck_note('?', tag, getpid(), reached, reached);
    ck_send(client, "others", round * 10, 10);
    if (round % 10 == 9) {
      CHECK_STATUS(telemetry_flush(client, CK_PATIENCE_MS), TELEMETRY_OK); /* ten holes at most, a second each */
    }
  }
  /* Enqueue still works on a full turn of the segments. */
  ck_push(client, "turn", 0, 100000);
  CHECK_STATUS(telemetry_flush(client, CK_PATIENCE_MS), TELEMETRY_OK);
  telemetry_stats_t stats = ck_stats(client);
  CK_BALANCE(stats);
  CHECK_EQ(stats.invalid + stats.rejected, 0);
  telemetry_free(client);
  return 0;
}
