/* Signals sent to the process are handled on its own threads: ours blocks them all. */
#include "check.h"

enum { STORM = 20000, HOSTS = 3 };

static atomic_int hosts[HOSTS], strangers, handled;
static atomic_bool over;
static telemetry_t *client;

static void on_signal(int signal) {
  (void)signal;
  int me = (int)syscall(SYS_gettid);
  for (int i = 0; i < HOSTS; i++)
    if (atomic_load(&hosts[i]) == me) {
      atomic_fetch_add(&handled, 1);
      return;
    }
  atomic_fetch_add(&strangers, 1);
}

static void *producer(void *which) {
  long index = (long)(intptr_t)which;
  atomic_store(&hosts[index], (int)syscall(SYS_gettid));
  char tag[16];
  snprintf(tag, sizeof tag, "t%ld", index);
  for (long first = 0; !atomic_load(&over); first += 20) {
    ck_push(client, tag, first, 20);
    ck_nap_us(500);
  }
  return NULL;
}

/* The mask of every thread that is not the host's; how many these are. */
static int check_masks(void) {
  DIR *tasks = opendir("/proc/self/task");
  CHECK(tasks);
  int senders = 0;
  for (struct dirent *entry; (entry = readdir(tasks));) {
    int tid = atoi(entry->d_name);
    bool host = !tid;
    for (int i = 0; i < HOSTS; i++) host |= atomic_load(&hosts[i]) == tid;
    if (host) continue;
    char path[64], text[4096] = "";
    snprintf(path, sizeof path, "/proc/self/task/%d/status", tid);
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    if (fd < 0) continue;
    CHECK(read(fd, text, sizeof text - 1) > 0);
    close(fd);
    const char *at = strstr(text, "SigBlk:");
    CHECK(at);
    unsigned long long blocked = strtoull(at + 7, NULL, 16);
    /* Bits of signals 1..64; KILL (9) and STOP (19) cannot be blocked, 32 and 33 are libc's own, and a fault
     * (SEGV 11, BUS 7, FPE 8, ILL 4, TRAP 5, SYS 31) is the thread's own business. */
    unsigned long long needed = ~0ull;
    static const int free_[] = {9, 19, 32, 33, 34, 11, 7, 8, 4, 5, 31};
    for (size_t i = 0; i < sizeof free_ / sizeof *free_; i++) needed &= ~(1ull << (free_[i] - 1));
    if ((blocked & needed) != needed) ck_fail(__FILE__, __LINE__, "thread %d blocks %016llx", tid, blocked);
    senders++;
  }
  closedir(tasks);
  return senders;
}

int main(int argc, char **argv) {
  ck_start(argc, 0);
  (void)argv;
  atomic_store(&hosts[0], (int)syscall(SYS_gettid));
  struct sigaction action = {.sa_handler = on_signal, .sa_flags = SA_RESTART};
  sigaction(SIGUSR1, &action, NULL);
  client = ck_open("\"idle_ms\":60000");
  ck_send(client, "main", 0, 1);
  pthread_t threads[HOSTS - 1];
  for (int i = 1; i < HOSTS; i++) CHECK_EQ(pthread_create(&threads[i - 1], NULL, producer, (void *)(intptr_t)i), 0);
  for (int i = 1; i < HOSTS; i++) CK_AWAIT(atomic_load(&hosts[i]), CK_PATIENCE_MS);
  sigset_t none, before;
  sigemptyset(&none);
  pthread_sigmask(SIG_BLOCK, &none, &before);
  pid_t home = getpid(), storm = fork();
  if (storm == 0) {
    alarm(CK_ALARM_S);
    for (int i = 0; i < STORM; i++) {
      kill(home, SIGUSR1);
      if (i % 10 == 0) sched_yield();
    }
    _exit(0);
  }
  ck_join(storm);
  CK_AWAIT(check_masks() == 1, CK_PATIENCE_MS);
  atomic_store(&over, true);
  for (int i = 1; i < HOSTS; i++) CHECK_EQ(pthread_join(threads[i - 1], NULL), 0);
  CHECK_EQ(strangers, 0);
  CHECK(handled > 0);
  /* Our own mask came back as it was. */
  sigset_t after;
  pthread_sigmask(SIG_BLOCK, &none, &after);
  for (int i = 1; i < 65; i++) CHECK_EQ(sigismember(&after, i), sigismember(&before, i));
  ck_settle(client);
  telemetry_free(client);
  return 0;
}
