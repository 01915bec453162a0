/* A program with a fleet. Its workers do what their script says (script.h).
 *
 *   worker OPTIONS CONFIG [NAME COUNT KIND SCRIPT LIMITS]...
 *   worker --worker SCRIPT                        what a command's worker runs
 *
 * KIND is "call" (a function of this program), "self" (this program, exec'd) or "run" (SCRIPT is a command line). OPTIONS are
 * words separated by commas; they are the host's part, done before the fleet is made. Orders come on descriptor 0, one a line, if
 * "orders" is among them; each is answered by a line of $TEST_LOG: "order <status> <line>".
 */
#include "script.h"

static const char *self;
static telemetry_fleet_t *fleet;
static int forks;
static int leave;

static int has(const char *options, const char *name) {
  size_t size = strlen(name);
  for (const char *at = options; (at = strstr(at, name)); at++)
    if ((at == options || at[-1] == ',') && (at[size] == 0 || at[size] == ',')) return 1;
  return 0;
}

static void on_term(int signal) {
  (void)signal;
  note("handler");
}

static void at_exit(void) { note("atexit"); }

static int32_t own_fork(void *user) {
  ++*(int *)user;
  return fork();
}

static int prepare(void *user) {
  const char *how = user;
  note("prepare %s", how);
  if (!strcmp(how, "hang"))
    for (;;) pause();
  while (!strcmp(how, "slow") && !flagged()) nap_ms(5);
  return !strcmp(how, "fail") || (!strcmp(how, "flag") && flagged()) ? 7 : 0;
}

static telemetry_status add(const char *name, uint32_t count, const char *kind, const char *script, const char *limits) {
  char *kept = strdup(script); /* lives as long as the fleet */
  if (!strcmp(kind, "call")) return telemetry_fleet_add(fleet, name, count, limits, perform, kept);
  const char *argv[20] = {self, "--worker", kept, NULL};
  if (!strcmp(kind, "run")) {
    int used = 0;
    for (char *rest = kept, *part; used < 19 && (part = strsep(&rest, " "));) argv[used++] = part;
    argv[used] = NULL;
  }
  return telemetry_fleet_add_command(fleet, name, count, limits, argv);
}

static void complain(const char *what, long code) {
  char why[500] = "";
  telemetry_last_error(why, sizeof why);
  fprintf(stderr, "%s: %ld: %s\n", what, code, why);
}

/* What a call from where it is not allowed comes to. */
static void *call_from_a_thread(void *unused) {
  (void)unused;
  char json[100];
  note("thread %d %d %d %d", (int)telemetry_fleet_resize(fleet, "w", 1), (int)telemetry_fleet_stop(fleet, NULL, 0),
       (int)telemetry_fleet_status(fleet, json, sizeof json, NULL), (int)telemetry_fleet_fd(fleet));
  return NULL;
}

static void call_from_elsewhere(void) {
  pthread_t thread;
  if (pthread_create(&thread, NULL, call_from_a_thread, NULL) || pthread_join(thread, NULL)) _exit(90);
  if (fork() == 0) {
    note("child %d %d %d %d", (int)telemetry_fleet_resize(fleet, "w", 1), (int)telemetry_fleet_stop(fleet, NULL, 0),
         (int)telemetry_fleet_step(fleet, 0), (int)telemetry_fleet_run(fleet));
    telemetry_fleet_free(fleet); /* refused too: the parent's workers live on */
    _exit(0);
  }
}

static void obey(char *line) {
  char text[1000], name[64] = "", script[600] = "", kind[16] = "";
  snprintf(text, sizeof text, "%s", line);
  long n = 0;
  long status = -1;
  if (sscanf(line, "resize %63s %ld", name, &n) == 2) status = telemetry_fleet_resize(fleet, name, (uint32_t)n);
  else if (sscanf(line, "stop %63s %ld", name, &n) == 2)
    status = telemetry_fleet_stop(fleet, strcmp(name, "-") ? name : NULL, (uint32_t)n);
  else if (sscanf(line, "add %63s %ld %15s %599s", name, &n, kind, script) == 4)
    status = add(name, (uint32_t)n, kind, script, NULL);
  else if (sscanf(line, "nproc %ld", &n) == 1) {
    struct rlimit limit;
    getrlimit(RLIMIT_NPROC, &limit);
    limit.rlim_cur = n < 0 ? limit.rlim_max : (rlim_t)n;
    status = setrlimit(RLIMIT_NPROC, &limit);
  } else if (!strcmp(line, "run")) status = telemetry_fleet_run(fleet);
  else if (!strcmp(line, "step")) status = telemetry_fleet_step(fleet, 0);
  else if (!strcmp(line, "leave")) leave = 1, status = 0; /* run_by_steps: give it back while it runs */
  else if (!strcmp(line, "elsewhere")) call_from_elsewhere(), status = 0;
  else if (!strcmp(line, "thread")) start_thread(), status = 0;
  else if (!strcmp(line, "unwatch")) status = telemetry_fleet_watch(fleet, 0, NULL, NULL);
  else if (!strcmp(line, "status")) {
    static char json[1 << 20];
    size_t len = 0;
    status = telemetry_fleet_status(fleet, json, 3, &len) * 100;
    status += telemetry_fleet_status(fleet, json, sizeof json, &len);
    if (strlen(json) != len) status = -2;
    note("status %zu %.3000s", len, json);
  }
  note("order %ld %s", status, text);
}

static void on_order(telemetry_fleet_t *known, int fd, void *user) {
  (void)known, (void)user;
  static char text[4000];
  static size_t used;
  ssize_t got = read(fd, text + used, sizeof text - 1 - used);
  if (got <= 0) {
    telemetry_fleet_watch(fleet, fd, NULL, NULL);
    return;
  }
  text[used += (size_t)got] = 0;
  char *line = text, *end;
  for (; (end = strchr(line, '\n')); line = end + 1) {
    *end = 0;
    obey(line);
  }
  used = strlen(line);
  memmove(text, line, used + 1);
}

/* A loop of the host's, in which the fleet is one descriptor of several. */
static int run_by_steps(void) {
  struct pollfd fleet_and_other = {.fd = telemetry_fleet_fd(fleet), .events = POLLIN};
  int turns = 0;
  telemetry_status status;
  if (fleet_and_other.fd < 0) {
    complain("fd", -1);
    return 89;
  }
  do {
    poll(&fleet_and_other, 1, 3600000);
    turns++;
  } while ((status = telemetry_fleet_step(fleet, 0)) == TELEMETRY_OK && !leave);
  if (leave) return 0;
  int code = telemetry_fleet_run(fleet);
  note("steps %d status %d code %d again %d", turns, (int)status, code, (int)telemetry_fleet_run(fleet));
  return code;
}

/* From the making of a fleet to its end; its exit status. */
static int one_fleet(const char *options, int argc, char **argv) {
  telemetry_status status = telemetry_fleet_new(argv[2], &fleet);
  if (status != TELEMETRY_OK) {
    complain("new", status);
    return 88;
  }
  if (has(options, "own_fork")) telemetry_fleet_set_fork(fleet, own_fork, &forks);
  if (has(options, "prepare")) telemetry_fleet_prepare(fleet, prepare, "well");
  if (has(options, "prepare_hangs")) telemetry_fleet_prepare(fleet, prepare, "hang");
  if (has(options, "prepare_slow")) telemetry_fleet_prepare(fleet, prepare, "slow");
  if (has(options, "prepare_fails_by_flag")) telemetry_fleet_prepare(fleet, prepare, "flag");
  if (has(options, "prepare_fails")) telemetry_fleet_prepare(fleet, prepare, "fail");
  for (int i = 3; i < argc; i += 5) {
    status = add(argv[i], (uint32_t)atoi(argv[i + 1]), argv[i + 2], argv[i + 3], argv[i + 4]);
    if (status != TELEMETRY_OK) {
      complain("add", status);
      return 87;
    }
  }
  if (has(options, "orders")) {
    fcntl(0, F_SETFL, O_NONBLOCK);
    telemetry_fleet_watch(fleet, 0, on_order, NULL);
  }
  int code = has(options, "steps") ? run_by_steps() : telemetry_fleet_run(fleet);
  if (code) complain("run", code);
  if (has(options, "own_fork")) note("forks %d", forks);
  if (has(options, "signals")) note_signals();
  telemetry_fleet_free(fleet);
  return code;
}

int main(int argc, char **argv) {
  struct rlimit none = {0, 0};
  setrlimit(RLIMIT_CORE, &none);
  self = realpath("/proc/self/exe", NULL);
  if (argc == 3 && !strcmp(argv[1], "--worker")) return perform(telemetry_worker_current(), argv[2]);
  if (argc < 3 || (argc - 3) % 5) {
    fprintf(stderr, "usage: see worker.c\n");
    return 2;
  }
  telemetry_set_logger(NULL, NULL, TELEMETRY_INFO); /* changes of state, too, on stderr */
  const char *options = argv[1];
  if (has(options, "handler")) signal(SIGTERM, on_term);
  if (has(options, "ignore_term")) signal(SIGTERM, SIG_IGN);
  if (has(options, "ignore_chld")) signal(SIGCHLD, SIG_IGN);
  if (has(options, "ignore_pipe")) signal(SIGPIPE, SIG_IGN);
  if (has(options, "block")) {
    sigset_t all;
    sigfillset(&all);
    sigprocmask(SIG_SETMASK, &all, NULL);
  }
  if (has(options, "buffered")) printf("said once\n"); /* stays in the buffer: stdout is a file */
  if (has(options, "atexit")) atexit(at_exit);
  if (has(options, "thread")) start_thread();
  int code = one_fleet(options, argc, argv);
  if (has(options, "twice")) {
    note_descriptors();
    code = one_fleet(options, argc, argv);
    note_descriptors();
  }
  return code;
}
