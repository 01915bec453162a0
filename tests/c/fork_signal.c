/*
 * A timer signal forks in the middle of enqueue, some 300 times.
 * The child returns from the handler into the call that was cut, in its own wiped pages, and goes on from there;
 * with "inside" it enqueues in the handler first. Both processes return from the same call, so that one event may
 * be delivered by both; nothing else may be lost, doubled or torn.
 */
#include "check.h"

enum { FORKS = 300, AT_ONCE = 4, EVENTS = 200000 };

static telemetry_t *client;
static enum ck_kind kind;
static bool inside;
static pid_t home;
static volatile sig_atomic_t forks, living, in_child;

static void on_tick(int signal) {
  (void)signal;
  int saved = errno;
  if (!in_child && forks < FORKS && living < AT_ONCE) {
    pid_t child = ck_fork(kind);
    if (child == 0) {
      in_child = 1;
      if (inside) ck_send(client, "handler", 0, 5);
    } else {
      forks++;
      living++;
    }
  }
  errno = saved;
}

static bool reap_one(int options) {
  bool ended = ck_reap(options);
  living -= ended;
  return ended;
}

static void reap(bool all) {
  while (living > 0 && reap_one(all ? 0 : WNOHANG)) {
  }
}

/* The child's life after the call it returned from. */
__attribute__((noreturn)) static void live_on(const char *tag, long seq, telemetry_status status) {
  if (status == TELEMETRY_OK) ck_note('+', tag, home, seq, seq);
  ck_send(client, "child", 0, 10);
  CHECK_STATUS(telemetry_flush(client, CK_PATIENCE_MS), TELEMETRY_OK);
  telemetry_stats_t stats = ck_stats(client);
  CK_BALANCE(stats);
  CHECK_EQ(stats.invalid + stats.rejected + stats.queue_events, 0);
  _exit(0);
}

int main(int argc, char **argv) {
  ck_start(argc, 2);
  kind = ck_kind_of(argv[1]);
  inside = !strcmp(argv[2], "inside");
  home = getpid();
  client = ck_open("\"idle_ms\":60000");
  ck_send(client, "first", 0, 1);
  ck_settle(client);

  struct sigaction action = {.sa_handler = on_tick, .sa_flags = SA_RESTART};
  sigaction(SIGRTMIN, &action, NULL);
  /* To this thread and no other; timers are not inherited. */
  struct sigevent event = {.sigev_notify = SIGEV_THREAD_ID, .sigev_signo = SIGRTMIN};
  event._sigev_un._tid = (pid_t)syscall(SYS_gettid);
  timer_t timer;
  CHECK_EQ(timer_create(CLOCK_MONOTONIC, &event, &timer), 0);
  struct itimerspec every = {{0, 70000}, {0, 70000}};
  CHECK_EQ(timer_settime(timer, 0, &every, NULL), 0);

  static char accepted[EVENTS];
  long seq = 0;
  for (; seq < EVENTS && forks < FORKS; seq++) {
    char body[512];
    size_t size = ck_event(body, sizeof body, "main", home, seq);
    telemetry_status status = telemetry_enqueue(client, body, size);
    if (in_child) live_on("main", seq, status);
    accepted[seq] = status == TELEMETRY_OK;
    CHECK(status == TELEMETRY_OK || status == TELEMETRY_FULL);
    reap(false);
    if (living == AT_ONCE && seq % 200 == 199) reap_one(0); /* a busy machine takes its time for them */
    if (status == TELEMETRY_FULL || seq % 200 == 199) {
      /* Room for the sender and the children, away from any call of ours. */
      ck_nap_us(2000);
      if (in_child) live_on("none", 0, TELEMETRY_FULL);
    }
  }
  sigset_t tick;
  sigemptyset(&tick);
  sigaddset(&tick, SIGRTMIN);
  sigprocmask(SIG_BLOCK, &tick, NULL);
  if (in_child) live_on("none", 0, TELEMETRY_FULL);
  timer_delete(timer);
  reap(true);
  for (long i = 0; i < seq; i++)
    if (accepted[i]) {
      long first = i;
      while (i + 1 < seq && accepted[i + 1]) i++;
      ck_note('=', "main", home, first, i);
    }
  CHECK(forks >= FORKS / 3);
  ck_settle(client);
  telemetry_free(client);
  return 0;
}
