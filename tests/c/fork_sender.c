/* Fork while the sender is inside a request, a connect or a name look-up that does not end. */
#include "check.h"

/* The sender stands in connect(): the kernel lists the connection as SYN_SENT (02). */
static bool connecting(void) {
  char line[256], want[32];
  snprintf(want, sizeof want, ":%04X 02", atoi(strrchr(ck_env("TEST_ENDPOINT"), ':') + 1));
  FILE *table = fopen("/proc/net/tcp", "re");
  CHECK(table);
  bool found = false;
  while (!found && fgets(line, sizeof line, table)) found = strstr(line, want) != NULL;
  fclose(table);
  return found;
}

int main(int argc, char **argv) {
  ck_start(argc, 3);
  enum ck_kind kind = ck_kind_of(argv[1]);
  char more[200];
  snprintf(more, sizeof more, "\"resolver\":\"%s\",\"timeout_ms\":3600000,\"retry\":{\"initial_ms\":20,\"max_ms\":200}", argv[3]);
  telemetry_t *t = ck_open(more);
  ck_send(t, "before", 0, 20);
  if (!strcmp(argv[2], "connect"))
    CK_AWAIT(connecting(), CK_PATIENCE_MS);
  else
    ck_wait_test(); /* the request, or the query, has arrived and is being held */

  long long started = ck_now_us();
  pid_t child = ck_fork(kind);
  if (child) CHECK_AT_MOST(ck_now_us() - started, 60000000); /* and not until the test lets go, which comes after it */
  if (child == 0) {
    /* The sender's socket was not ours to keep, where a handler could run (libc's resolver hides its own). */
    if (kind == CK_FORK && strcmp(argv[3], "system")) {
      DIR *fds = opendir("/proc/self/fd");
      CHECK(fds);
      for (struct dirent *entry; (entry = readdir(fds));) {
        char target[100] = "";
        if (readlinkat(dirfd(fds), entry->d_name, target, sizeof target - 1) > 0 && !strncmp(target, "socket:", 7))
          ck_fail(__FILE__, __LINE__, "inherited socket %s", entry->d_name);
      }
      closedir(fds);
    }
    ck_send(t, "child", 0, 20);
    ck_tell_test(); /* let go */
    ck_settle(t);
    CHECK_EQ(ck_stats(t).delivered, 20);
    _exit(0);
  }
  ck_send(t, "after", 0, 20);
  ck_join(child);
  ck_settle(t);
  telemetry_stats_t stats = ck_stats(t);
  CHECK_EQ(stats.delivered, 40);
  if (!strcmp(argv[2], "request")) CHECK_EQ(stats.retries, 0); /* the request in flight was neither awaited nor broken */
  telemetry_free(t);
  return 0;
}
