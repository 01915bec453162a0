/* 64 children, half of them made by raw clone, enqueue 10,000 events each: the test compares all their ids. */
#include "check.h"

enum { CHILDREN = 64, EACH = 10000, AT_ONCE = 8 };

int main(int argc, char **argv) {
  ck_start(argc, 0);
  (void)argv;
  telemetry_t *t = ck_open("");
  ck_send(t, "parent", 0, 10);
  int living = 0, status;
  for (int i = 0; i < CHILDREN; i++) {
    if (living == AT_ONCE) {
      CHECK(waitpid(-1, &status, 0) > 0 && status == 0);
      living--;
    }
    if (ck_fork(i % 2 ? CK_CLONE : CK_FORK) == 0) {
      ck_push(t, "child", 0, EACH);
      ck_settle(t);
      _exit(0);
    }
    living++;
  }
  for (; living; living--) CHECK(waitpid(-1, &status, 0) > 0 && status == 0);
  ck_settle(t);
  telemetry_free(t);
  return 0;
}
