/*
 * Kills a process that uses a spool, again and again, at random instants, and knows all the same what it was promised.
 *
 * "drive" runs lives [first, first + count) one after another: each is this program again, in a process group of its
 * own, on the same spool, so that each life adopts what the last one left; up to `together` of them live at the same
 * time. Each notes every sequence number whose enqueue returned OK in a page that is shared with the test (TEST_PAGE)
 * and outlives it: of slot s of life l the events 0 .. acked-1 must arrive, event `acked` may (it was cut before it
 * could say), no other can. "finish" adopts what is left and delivers everything.
 *
 * Who lives: "alone" two threads, "forking" the same and a third one that forks children which enqueue and _exit;
 * or a master and four workers, forked in one of four ways. TEST_CONFIG holds the members of the configuration.
 */
#include "check.h"

#include <sys/mman.h>
#include <sys/prctl.h>

enum { SLOTS = 6, WORKERS = 4, SPRINT = 1500, TOGETHER = 8, CHILD_EVENTS = 25 };

/* The test reads these as rows of 64-bit numbers. */
struct slot {
  _Atomic uint64_t acked, full, recovered, corrupt;
};
struct life {
  struct slot slots[SLOTS];
};
enum how { PACED, SPINNING };

static struct life *page;

static struct life *open_page(void) {
  int fd = open(ck_env("TEST_PAGE"), O_RDWR | O_CLOEXEC);
  struct stat about;
  CHECK(fd >= 0 && fstat(fd, &about) == 0);
  void *at = mmap(NULL, (size_t)about.st_size, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
  CHECK(at != MAP_FAILED);
  close(fd);
  return at;
}

/* ---- the victim ---- */

static char text[4096];
static telemetry_t *client;
static int life_number;
static const char *death;
static atomic_bool leave;
static bool thread_each; /* who lives is processes, with a thread each */

/* The whole body follows from life, slot and sequence number: the test makes it again and compares. */
static size_t body(char *out, int slot, long seq) {
  size_t length = seq % 97 == 96 ? 2500 + (size_t)seq % 800 : 20 + (size_t)(seq * 13) % 160;
  size_t size = (size_t)sprintf(out, "{\"life\":%d,\"slot\":%d,\"seq\":%ld,\"pad\":\"", life_number, slot, seq);
  memcpy(out + size, text + (seq + 17 * slot) % 61, length);
  memcpy(out + size + length, "\"}", 2);
  return size + length + 2;
}

/* Enqueues event `seq`; false if the client was closed. */
static bool produce_one(int slot, long seq) {
  struct slot *mine = &page[life_number].slots[slot];
  char event[4096];
  size_t size = body(event, slot, seq);
  telemetry_status status;
  while ((status = telemetry_enqueue(client, event, size)) == TELEMETRY_FULL) {
    atomic_fetch_add(&mine->full, 1);
    ck_nap_us(200);
  }
  if (status == TELEMETRY_CLOSED && (!strcmp(death, "exit") || !strcmp(death, "shutdown"))) return false;
  CHECK_STATUS(status, TELEMETRY_OK);
  atomic_store_explicit(&mine->acked, (uint64_t)seq + 1, memory_order_release);
  return true;
}

static void produce(int slot, enum how how) {
  struct slot *mine = &page[life_number].slots[slot];
  for (long seq = 0; slot || !atomic_load(&leave); seq++) {
    if (!produce_one(slot, seq)) return;
    if (seq % 32 == 0 && (thread_each || slot == 0)) { /* once a process */
      telemetry_stats_t stats;
      CHECK_STATUS(telemetry_stats(client, &stats, sizeof stats), TELEMETRY_OK);
      atomic_store(&mine->recovered, stats.recovered);
      atomic_store(&mine->corrupt, stats.corrupt);
    }
    /* A life longer than planned must not outrun the collector; there is always something in the queue. */
    if (how == PACED || seq > SPRINT) {
      long burst = 12 + (life_number + slot) % 25;
      if (seq % burst == 0) ck_nap_us(400 + seq * 37 % 600);
    }
  }
}

struct job {
  int slot;
  enum how how;
};

static void *producer(void *argument) {
  struct job *job = argument;
  produce(job->slot, job->how);
  return NULL;
}

/* Children one after another, in four ways, a slot for each way: each goes on where the one before it ended. */
static void *forker(void *none) {
  for (int turn = 0;; turn++) {
    enum ck_kind kind = (enum ck_kind)(turn % 4);
    int slot = 2 + (int)kind;
    pid_t child = ck_fork(kind);
    if (child == 0) {
      uint64_t first = atomic_load(&page[life_number].slots[slot].acked);
      for (long i = 0; i < 1 + turn * 7 % CHILD_EVENTS; i++)
        if (!produce_one(slot, (long)first + i)) break;
      _exit(0);
    }
    ck_join(child);
    if (turn % 3 == 0) ck_nap_us(500);
  }
  return none;
}

/* Runs on the first thread, which enqueues: so it cuts that call wherever it is. */
static void die(int number) {
  (void)number;
  if (!strcmp(death, "_exit")) _exit(0);
  if (!strcmp(death, "abort")) abort();
  if (!strcmp(death, "exec")) execl("/bin/true", "true", (char *)NULL);
  if (!strcmp(death, "exit") || !strcmp(death, "shutdown")) {
    atomic_store(&leave, true); /* neither may be called from here */
    return;
  }
  _exit(3);
}

static telemetry_t *open_client(void) {
  return ck_open_at(ck_env("TEST_ENDPOINT"), ck_env("TEST_CONFIG"));
}

static void victim(int life, enum how how, const char *family) {
  alarm(900);
  struct rlimit none = {0, 0};
  setrlimit(RLIMIT_CORE, &none);
  life_number = life;
  for (size_t i = 0; i < sizeof text; i++) text[i] = (char)('a' + (i * 7 + i / 26) % 26);
  client = open_client();
  bool forking = !strcmp(family, "forking");
  thread_each = !forking && strcmp(family, "alone") != 0;
  if (thread_each) {
    enum ck_kind kind = ck_kind_of(family);
    for (int worker = 1; worker <= WORKERS; worker++)
      if (ck_fork(kind) == 0) {
        produce(worker, how);
        _exit(0);
      }
    produce(0, how);
  } else {
    sigset_t usr1;
    sigemptyset(&usr1);
    sigaddset(&usr1, SIGUSR1);
    CHECK_EQ(pthread_sigmask(SIG_BLOCK, &usr1, NULL), 0);
    struct sigaction action = {.sa_handler = die};
    CHECK_EQ(sigaction(SIGUSR1, &action, NULL), 0);
    static struct job other;
    other = (struct job){1, how};
    pthread_t thread;
    CHECK_EQ(pthread_create(&thread, NULL, producer, &other), 0);
    if (forking) CHECK_EQ(pthread_create(&thread, NULL, forker, NULL), 0);
    CHECK_EQ(pthread_sigmask(SIG_UNBLOCK, &usr1, NULL), 0);
    produce(0, how);
  }
  /* Both while the other thread goes on. */
  if (strcmp(death, "shutdown")) exit(0);
  telemetry_shutdown(client, 50);
  ck_nap_us(life % 3 * 1000);
  _exit(0);
}

/* ---- the driver ---- */

static uint64_t state;

static uint64_t draw(uint64_t below) {
  state = state * 6364136223846793005u + 1442695040888963407u;
  return (state >> 33) % below;
}

static bool any_acked(struct life *life) {
  for (int i = 0; i < SLOTS; i++)
    if (atomic_load(&life->slots[i].acked)) return true;
  return false;
}

static bool all_acked(struct life *life) {
  for (int i = 0; i <= WORKERS; i++)
    if (!atomic_load(&life->slots[i].acked)) return false;
  return true;
}

/* Ends the victim as `death` says. A signal may find it dead already: of the one before. */
static void end(pid_t pid) {
  static const struct {
    const char *name;
    int signal;
  } signals[] = {{"kill", SIGKILL}, {"segv", SIGSEGV}, {"bus", SIGBUS}, {"term", SIGTERM}};
  for (size_t i = 0; i < sizeof signals / sizeof *signals; i++)
    if (!strcmp(death, signals[i].name)) {
      kill(-pid, signals[i].signal);
      return;
    }
  if (!strcmp(death, "abrt-kill")) { /* what Gunicorn does to a worker that hangs */
    kill(pid, SIGABRT);
    if (draw(2)) ck_nap_us((long)draw(300));
    kill(pid, SIGKILL);
    return;
  }
  kill(pid, SIGUSR1);
}

static bool as_expected(int status) {
  if (WIFEXITED(status)) return WEXITSTATUS(status) == 0 && strcmp(death, "kill");
  switch (WTERMSIG(status)) {
    case SIGKILL: return !strcmp(death, "kill") || !strcmp(death, "abrt-kill");
    case SIGABRT: return !strcmp(death, "abort") || !strcmp(death, "abrt-kill");
    case SIGSEGV: return !strcmp(death, "segv");
    case SIGBUS: return !strcmp(death, "bus");
    case SIGTERM: return !strcmp(death, "term");
    default: return false;
  }
}

/* A life that was begun. */
struct living {
  pid_t pid;
  int number;
  enum how how;
};

static struct living begin(char **argv, int number) {
  struct living life = {.number = number, .how = draw(2) ? SPINNING : PACED};
  char name[16], how[16];
  snprintf(name, sizeof name, "%d", number);
  snprintf(how, sizeof how, "%d", life.how);
  life.pid = fork();
  CHECK(life.pid >= 0);
  if (life.pid == 0) {
    setpgid(0, 0);
    execl("/proc/self/exe", argv[0], "victim", name, how, death, argv[5], (char *)NULL);
    _exit(2);
  }
  setpgid(life.pid, life.pid); /* whoever comes first */
  return life;
}

static void await(const struct living *life, bool all) {
  int status;
  long long until = ck_now_ms() + 120000;
  while (!(all ? all_acked(&page[life->number]) : any_acked(&page[life->number]))) {
    if (waitpid(life->pid, &status, WNOHANG) == life->pid)
      ck_fail(__FILE__, __LINE__, "life %d: wait status 0x%x", life->number, status);
    if (ck_now_ms() > until) ck_fail(__FILE__, __LINE__, "life %d: no event taken", life->number);
    ck_nap_us(50);
  }
}

static void join(const struct living *life) {
  int status;
  pid_t got;
  while ((got = waitpid(life->pid, &status, 0)) < 0 && errno == EINTR) {
  }
  CHECK_EQ(got, life->pid);
  if (!as_expected(status)) ck_fail(__FILE__, __LINE__, "life %d: wait status 0x%x", life->number, status);
  /* The other processes of its group have come to us: killed with it, or at their own end. */
  while ((got = waitpid(-life->pid, &status, 0)) > 0 || errno == EINTR)
    if (got > 0 && !as_expected(status) && status)
      ck_fail(__FILE__, __LINE__, "of life %d: wait status 0x%x", life->number, status);
}

static void drive(char **argv, int first, int count) {
  bool family = strcmp(argv[5], "alone") && strcmp(argv[5], "forking");
  state = strtoull(argv[6], NULL, 10);
  int together = atoi(argv[7]), living = 0;
  CHECK(together > 0 && together <= TOGETHER);
  struct living lives[TOGETHER];
  CHECK_EQ(prctl(PR_SET_CHILD_SUBREAPER, 1), 0);
  for (int next = first; next < first + count || living > 0;) {
    while (living < together && next < first + count) lives[living++] = begin(argv, next++);
    int which = (int)draw((uint64_t)living);
    struct living life = lives[which];
    lives[which] = lives[--living];
    if (!strcmp(death, "kill") && draw(10) == 0) {
      ck_nap_us((long)draw(6000)); /* before or in its first call */
    } else {
      await(&life, family && draw(2));
      ck_nap_us((long)draw(life.how == SPINNING ? 1000 : 30000));
    }
    end(life.pid);
    join(&life);
  }
}

static void finish(void) {
  client = open_client();
  CHECK_STATUS(telemetry_flush(client, 600000), TELEMETRY_OK);
  telemetry_stats_t stats = ck_stats(client);
  CK_BALANCE(stats);
  CHECK_EQ(stats.queue_events, 0);
  CHECK_EQ(stats.rejected + stats.invalid + stats.expired + stats.corrupt, 0);
  printf("{\"recovered\": %llu}\n", (unsigned long long)stats.recovered);
  CHECK_STATUS(telemetry_shutdown(client, 120000), TELEMETRY_OK);
  telemetry_free(client);
}

int main(int argc, char **argv) {
  ck_start(argc, 1);
  alarm(900);
  if (!strcmp(argv[1], "finish")) {
    finish();
    return 0;
  }
  page = open_page();
  if (!strcmp(argv[1], "victim")) {
    CHECK_EQ(argc, 6);
    death = argv[4];
    victim(atoi(argv[2]), (enum how)atoi(argv[3]), argv[5]);
  }
  CHECK(argc == 8 && !strcmp(argv[1], "drive"));
  death = argv[4];
  drive(argv, atoi(argv[2]), atoi(argv[3]));
  return 0;
}
