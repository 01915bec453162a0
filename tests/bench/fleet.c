/*
 * A fleet to be measured from outside, its workers, and what a worker's calls cost.
 *
 *   program FIFO [LIBRARY]                              the program that supervisors start; with LIBRARY it beats
 *   supervise LIBRARY CONFIG COUNT FIFO KIND ZYGOTE_MIB  a fleet of COUNT workers
 *   calls LIBRARY CONFIG ROUNDS                         nanoseconds of each of a worker's calls
 *
 * A worker's first act is to read CLOCK_MONOTONIC; then it writes "NANOSECONDS PID" into FIFO, in one call.
 *
 * KIND is what supervise's workers are: "function" (beats once a second), "busy" (the same, with an item each second)
 * or "program" (this program, exec'd). Its commands come in stdin, which the fleet watches: 't' and a number touches
 * so many MiB in the supervisor, '+' and '-' make the fleet one worker larger and smaller, '?' says when the last '+'
 * was asked for, the end of stdin ends the fleet. Each but '+' and '-' is answered by a line on stdout.
 *
 * What could mislead:
 * - '+' counts from the callback in the supervisor's own loop, right before the request, so it holds the decision, the
 *   fork and the way to the worker's code, but no wake-up of the supervisor. It is told afterwards, to cost nothing.
 * - Touched memory is made of small pages, as many as there can be: huge ones would make a fork cheaper.
 * - A call is one through a pointer, as a host's plug-in makes it; "floor" is such a call of an empty function.
 */
#define _GNU_SOURCE
#include "library.h"
#include "timing.h"
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <sys/mman.h>
#include <unistd.h>

#define GROUP "bench"
#define CALLS 10000
#define WARM_UP 3

static struct {
    __typeof__(telemetry_fleet_new) *make;
    __typeof__(telemetry_fleet_add) *add;
    __typeof__(telemetry_fleet_add_command) *add_command;
    __typeof__(telemetry_fleet_prepare) *prepare;
    __typeof__(telemetry_fleet_watch) *watch;
    __typeof__(telemetry_fleet_run) *run;
    __typeof__(telemetry_fleet_stop) *stop;
    __typeof__(telemetry_fleet_resize) *resize;
    __typeof__(telemetry_fleet_status) *status;
    __typeof__(telemetry_fleet_free) *free;
    __typeof__(telemetry_worker_current) *current;
    __typeof__(telemetry_worker_ready) *ready;
    __typeof__(telemetry_worker_beat) *beat;
    __typeof__(telemetry_worker_stopping) *stopping;
    __typeof__(telemetry_worker_stop_fd) *stop_fd;
    __typeof__(telemetry_worker_count) *count;
    __typeof__(telemetry_worker_item_begin) *item_begin;
    __typeof__(telemetry_worker_item_end) *item_end;
} fleet;

static int fifo = -1;
static int busy;
static uint64_t asked_ns;
static uint32_t want;
static size_t zygote_mib;

static void load_fleet(const char *path) {
    load_library(path);
    void *handle = dlopen(path, RTLD_NOW | RTLD_LOCAL);
    must(handle != NULL, "dlopen");
    load_symbol(handle, "telemetry_fleet_new", &fleet.make);
    load_symbol(handle, "telemetry_fleet_add", &fleet.add);
    load_symbol(handle, "telemetry_fleet_add_command", &fleet.add_command);
    load_symbol(handle, "telemetry_fleet_prepare", &fleet.prepare);
    load_symbol(handle, "telemetry_fleet_watch", &fleet.watch);
    load_symbol(handle, "telemetry_fleet_run", &fleet.run);
    load_symbol(handle, "telemetry_fleet_stop", &fleet.stop);
    load_symbol(handle, "telemetry_fleet_resize", &fleet.resize);
    load_symbol(handle, "telemetry_fleet_status", &fleet.status);
    load_symbol(handle, "telemetry_fleet_free", &fleet.free);
    load_symbol(handle, "telemetry_worker_current", &fleet.current);
    load_symbol(handle, "telemetry_worker_ready", &fleet.ready);
    load_symbol(handle, "telemetry_worker_beat", &fleet.beat);
    load_symbol(handle, "telemetry_worker_stopping", &fleet.stopping);
    load_symbol(handle, "telemetry_worker_stop_fd", &fleet.stop_fd);
    load_symbol(handle, "telemetry_worker_count", &fleet.count);
    load_symbol(handle, "telemetry_worker_item_begin", &fleet.item_begin);
    load_symbol(handle, "telemetry_worker_item_end", &fleet.item_end);
}

/* ---- workers ---- */

static void report(uint64_t began) {
    char line[64];
    int n = snprintf(line, sizeof line, "%llu %d\n", (unsigned long long)began, (int)getpid());
    must(write(fifo, line, (size_t)n) == n, "a worker's report");
}

static void live(telemetry_worker_t *worker) {
    fleet.ready(worker);
    while (!fleet.stopping(worker)) {
        struct pollfd stop = {.fd = fleet.stop_fd(worker), .events = POLLIN};
        (void)poll(&stop, 1, 1000);
        if (busy) {
            fleet.item_end(worker, fleet.item_begin(worker, "an item", 0), TELEMETRY_ITEM_DONE);
        } else {
            fleet.beat(worker);
        }
    }
}

static int work(telemetry_worker_t *worker, void *user) {
    uint64_t began = now_ns();
    (void)user;
    report(began);
    live(worker);
    return 0;
}

static int program(int argc, char **argv, uint64_t began) {
    fifo = open(argv[2], O_WRONLY | O_CLOEXEC);
    must(fifo >= 0, argv[2]);
    report(began);
    if (argc == 4) {
        load_fleet(argv[3]);
        telemetry_worker_t *worker = fleet.current();
        must(worker != NULL, "telemetry_worker_current");
        live(worker);
        return 0;
    }
    for (;;) {
        pause(); /* TERM ends it, as it ends any program */
    }
}

/* ---- a fleet ---- */

static void touch(size_t mib) {
    size_t bytes = mib << 20;
    if (bytes == 0) {
        return;
    }
    unsigned char *memory = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    must(memory != MAP_FAILED, "mmap");
    /* Not compiled in everywhere: then there are none. */
    must(madvise(memory, bytes, MADV_NOHUGEPAGE) == 0 || errno == EINVAL, "madvise");
    for (size_t at = 0; at < bytes; at += 4096) {
        memory[at] = 1;
    }
}

static int prepare(void *user) {
    (void)user;
    touch(zygote_mib);
    return 0;
}

static void answer(uint64_t number) {
    printf("%llu\n", (unsigned long long)number);
    fflush(stdout);
}

/* One command; they come one at a time, because the driver waits for what each does. */
static void command(telemetry_fleet_t *self, int fd, void *user) {
    char line[32];
    ssize_t n = read(fd, line, sizeof line - 1);
    (void)user;
    if (n <= 0) {
        must(fleet.watch(self, fd, NULL, NULL) == TELEMETRY_OK, "telemetry_fleet_watch");
        must(fleet.stop(self, NULL, 2000) == TELEMETRY_OK, "telemetry_fleet_stop");
        return;
    }
    line[n] = 0;
    switch (line[0]) {
    case '+':
        asked_ns = now_ns();
        must(fleet.resize(self, GROUP, ++want) == TELEMETRY_OK, "telemetry_fleet_resize");
        break;
    case '-':
        must(fleet.resize(self, GROUP, --want) == TELEMETRY_OK, "telemetry_fleet_resize");
        break;
    case '?':
        answer(asked_ns);
        break;
    case 't':
        touch(strtoul(line + 1, NULL, 10));
        answer(0);
        break;
    default:
        fail("a command that there is not");
    }
}

static int supervise(char **argv) {
    load_fleet(argv[2]);
    want = (uint32_t)strtoul(argv[4], NULL, 10);
    fifo = open(argv[5], O_WRONLY | O_CLOEXEC);
    must(fifo >= 0, argv[5]);
    busy = strcmp(argv[6], "busy") == 0;
    zygote_mib = strtoul(argv[7], NULL, 10);

    telemetry_fleet_t *self = NULL;
    must(fleet.make(argv[3], &self) == TELEMETRY_OK, "telemetry_fleet_new");
    telemetry_status added;
    if (strcmp(argv[6], "program") == 0) {
        const char *const own[] = {argv[0], "program", argv[5], NULL};
        added = fleet.add_command(self, GROUP, want, NULL, own);
    } else {
        added = fleet.add(self, GROUP, want, NULL, work, NULL);
    }
    must(added == TELEMETRY_OK, "telemetry_fleet_add");
    must(fleet.prepare(self, prepare, NULL) == TELEMETRY_OK, "telemetry_fleet_prepare");
    must(fleet.watch(self, STDIN_FILENO, command, NULL) == TELEMETRY_OK, "telemetry_fleet_watch");
    int code = fleet.run(self);
    must(code == 0, "telemetry_fleet_run");
    fleet.free(self);
    return code;
}

/* ---- what a worker's calls cost ---- */

static void nothing(telemetry_worker_t *worker) {
    __asm__ volatile("" : : "r"(worker) : "memory");
}

enum { FLOOR, BEAT, COUNT, ITEM, CASES };
static const char *const names[CASES] = {"floor", "beat", "count", "item"};

static double each(int which, telemetry_worker_t *worker, void (*volatile *empty)(telemetry_worker_t *)) {
    void (*floor_of)(telemetry_worker_t *) = *empty; /* read once, and not known to the compiler */
    uint64_t start = now_ns();
    switch (which) {
    case FLOOR:
        for (int i = 0; i < CALLS; i++) {
            floor_of(worker);
        }
        break;
    case BEAT:
        for (int i = 0; i < CALLS; i++) {
            fleet.beat(worker);
        }
        break;
    case COUNT:
        for (int i = 0; i < CALLS; i++) {
            fleet.count(worker, 7, 1);
        }
        break;
    default:
        for (int i = 0; i < CALLS; i++) {
            fleet.item_end(worker, fleet.item_begin(worker, "POST batch 9f3c", 0), TELEMETRY_ITEM_DONE);
        }
    }
    return (double)(now_ns() - start) / CALLS;
}

struct loops {
    size_t rounds;
    int done[2]; /* a pipe: the worker has said all */
};

static int loops(telemetry_worker_t *worker, void *user) {
    struct loops *to = user;
    static void (*volatile empty)(telemetry_worker_t *) = nothing;
    double *ns[CASES];
    for (int which = 0; which < CASES; which++) {
        ns[which] = need(malloc(to->rounds * sizeof **ns));
    }
    fleet.ready(worker);
    for (size_t round = 0; round < to->rounds + WARM_UP; round++) {
        for (int which = 0; which < CASES; which++) {
            double took = each(which, worker, &empty);
            if (round >= WARM_UP) {
                ns[which][round - WARM_UP] = took;
            }
        }
    }
    for (int which = 0; which < CASES; which++) {
        double middle = median(ns[which], to->rounds); /* sorts */
        printf("{\"case\":\"%s\",\"median_ns\":%.2f,\"min_ns\":%.2f,\"rounds\":%zu,\"calls\":%zu}\n", names[which], middle,
               ns[which][0], to->rounds, (to->rounds + WARM_UP) * CALLS);
    }
    fflush(stdout);
    must(write(to->done[1], "", 1) == 1, "write");
    while (!fleet.stopping(worker)) {
        struct pollfd stop = {.fd = fleet.stop_fd(worker), .events = POLLIN};
        (void)poll(&stop, 1, 1000);
        fleet.beat(worker);
    }
    return 0;
}

/* The worker is done: the fleet's own word for what it counted, and the end. */
static void said(telemetry_fleet_t *self, int fd, void *user) {
    static char status[65536];
    (void)user;
    must(fleet.watch(self, fd, NULL, NULL) == TELEMETRY_OK, "telemetry_fleet_watch");
    must(fleet.status(self, status, sizeof status, NULL) == TELEMETRY_OK, "telemetry_fleet_status");
    printf("%s%s", status, status[strlen(status) - 1] == '\n' ? "" : "\n");
    fflush(stdout);
    must(fleet.stop(self, NULL, 5000) == TELEMETRY_OK, "telemetry_fleet_stop");
}

static int calls(char **argv) {
    load_fleet(argv[2]);
    struct loops to = {.rounds = strtoul(argv[4], NULL, 10)};
    must(to.rounds > 0 && pipe(to.done) == 0, "pipe");
    telemetry_fleet_t *self = NULL;
    must(fleet.make(argv[3], &self) == TELEMETRY_OK, "telemetry_fleet_new");
    must(fleet.add(self, GROUP, 1, NULL, loops, &to) == TELEMETRY_OK, "telemetry_fleet_add");
    must(fleet.watch(self, to.done[0], said, NULL) == TELEMETRY_OK, "telemetry_fleet_watch");
    int code = fleet.run(self);
    must(code == 0, "telemetry_fleet_run");
    fleet.free(self);
    return code;
}

int main(int argc, char **argv) {
    uint64_t began = now_ns();
    if ((argc == 3 || argc == 4) && strcmp(argv[1], "program") == 0) {
        return program(argc, argv, began);
    }
    if (argc == 8 && strcmp(argv[1], "supervise") == 0) {
        return supervise(argv);
    }
    if (argc == 5 && strcmp(argv[1], "calls") == 0) {
        return calls(argv);
    }
    fputs("usage: fleet program|supervise|calls ...\n", stderr);
    return 2;
}
