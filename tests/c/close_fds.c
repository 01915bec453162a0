/*
 * Daemonisers close every descriptor; the numbers are then somebody else's. "child": in a forked child;
 * "self": under the process that holds an open connection. Own files and sockets take the numbers and must stay untouched.
 */
#include "check.h"

enum { FILES = 40 };

static int fds[FILES];
static int peers[FILES];

static void take_the_numbers(void) {
  for (int fd = 3; fd < 1024; fd++) close(fd);
  for (int i = 0; i < FILES; i++) {
    if (i % 2) {
      /* The dangerous kind: a send() to a socket works. */
      int pair[2];
      CHECK_EQ(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, pair), 0);
      fds[i] = pair[0];
      peers[i] = fcntl(pair[1], F_DUPFD_CLOEXEC, 512);
      close(pair[1]);
    } else {
      char name[64];
      snprintf(name, sizeof name, "mine-%d-%d", (int)getpid(), i);
      fds[i] = open(name, O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC, 0600);
      CHECK(write(fds[i], "mine", 4) == 4);
    }
    CHECK(fds[i] >= 3);
  }
}

static void check_untouched(void) {
  for (int i = 0; i < FILES; i++) {
    struct stat about;
    if (fstat(fds[i], &about) != 0) ck_fail(__FILE__, __LINE__, "descriptor %d was closed", fds[i]);
    if (i % 2) {
      CHECK(S_ISSOCK(about.st_mode));
      char byte;
      ssize_t got = recv(peers[i], &byte, 1, MSG_DONTWAIT);
      if (!(got < 0 && errno == EAGAIN)) ck_fail(__FILE__, __LINE__, "descriptor %d: the peer read %zd", fds[i], got);
    } else {
      CHECK(S_ISREG(about.st_mode));
      CHECK_EQ(about.st_size, 4);
      CHECK_EQ(lseek(fds[i], 0, SEEK_CUR), 4);
    }
  }
}

int main(int argc, char **argv) {
  ck_start(argc, 2);
  bool child = !strcmp(argv[1], "child");
  enum ck_kind kind = ck_kind_of(argv[2]);
  telemetry_t *t = ck_open("\"idle_ms\":60000");
  ck_send(t, "before", 0, 20);
  ck_settle(t); /* the connection is open and idle now */
  if (child) {
    ck_send(t, "pending", 0, 20); /* and perhaps in use */
    pid_t pid = ck_fork(kind);
    if (pid) {
      ck_send(t, "parent", 0, 20);
      ck_join(pid);
      ck_settle(t);
      telemetry_free(t);
      return 0;
    }
  }
  take_the_numbers();
  for (int round = 0; round < 5; round++) {
    ck_send(t, "taken", round * 20, 20);
    ck_settle(t);
    check_untouched();
  }
  CHECK_STATUS(telemetry_shutdown(t, CK_PATIENCE_MS), TELEMETRY_OK);
  check_untouched();
  if (child && kind != CK_FORK) _exit(0);
  telemetry_free(t);
  check_untouched();
  return 0;
}
