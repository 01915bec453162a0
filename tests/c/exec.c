/* vfork, posix_spawn and fork+exec of another program: no thread, no descriptor, nothing sent, nothing lost. */
#include "check.h"

#include <spawn.h>

extern char **environ;

/* The program that was started: it must hold 0, 1, 2 and nothing of ours. */
static int inspect(void) {
  int fds = ck_fds();
  if (fds != 3) {
    char command[100];
    snprintf(command, sizeof command, "ls -l /proc/%d/fd >&2", (int)getpid());
    CHECK(system(command) >= 0);
  }
  CHECK_EQ(fds, 3);
  CHECK_EQ(ck_threads(), 1);
  return 0;
}

static void spawn(const char *how, char *self) {
  char *args[] = {self, "inspect", NULL};
  pid_t child;
  if (!strcmp(how, "posix_spawn")) {
    CHECK_EQ(posix_spawn(&child, self, NULL, NULL, args, environ), 0);
  } else if (!strcmp(how, "vfork")) {
    child = vfork();
    if (child == 0) {
      execv(self, args);
      _exit(127);
    }
  } else {
    child = fork();
    if (child == 0) {
      execv(self, args);
      _exit(127);
    }
  }
  CHECK(child > 0);
  ck_join(child);
}

int main(int argc, char **argv) {
  ck_start(argc, 1);
  if (!strcmp(argv[1], "inspect")) return inspect();
  /* Whatever pytest left open is not what this is about. */
  for (int fd = 3; fd < 100; fd++) close(fd);
  telemetry_t *t = ck_open("\"idle_ms\":60000");
  ck_send(t, "before", 0, 50);
  ck_settle(t); /* a sender sleeps now, on a connection kept alive */
  int threads = ck_threads(), fds = ck_fds();
  telemetry_stats_t before = ck_stats(t);
  for (int i = 0; i < 20; i++) {
    spawn(argv[1], "/proc/self/exe");
    CHECK_AT_MOST(ck_threads(), threads);
    CHECK_AT_MOST(ck_fds(), fds);
  }
  telemetry_stats_t after = ck_stats(t);
  CHECK_EQ(after.sender_starts, before.sender_starts);
  CHECK_EQ(after.batches, before.batches);
  for (int i = 0; i < 20; i++) { /* and with the queue in motion */
    ck_send(t, "during", i * 50, 50);
    spawn(argv[1], "/proc/self/exe");
  }
  ck_settle(t);
  telemetry_free(t);
  return 0;
}
