/*
 * What one telemetry_enqueue costs, against the floor under any queue that copies: one fetch_add and one
 * memcpy into memory that is already there.
 *
 * Everything is called through a pointer of one type, in bursts that are interleaved round by round, so that
 * a busy machine hurts all alike; the figure is the median of the rounds, beside the fastest.
 *
 * What could mislead:
 * - A full queue: a burst takes 3 of the default queue's 16 MiB, and is flushed before the next one.
 * - Fresh pages: a page's first touch costs more than ten calls. The library keeps the pages of a queue that is
 *   drained under pressure (more than two segments in use, which 3 MiB are) and gives the others back, so after
 *   some laps all are present; page faults inside the bursts are counted and printed to prove it. What first
 *   touch costs is measured apart, with new clients.
 * - The sender: it is asleep while a burst is measured ("parked"). "live" is the default instead, in which the
 *   sender works on the other core and its prefaulting keeps up or not. Threads are pinned apart, and the
 *   burst begins once the sender is awake.
 * - The floor's ring is as large as the queue; in a smaller one it would find its lines in the cache, which no
 *   queue of that size can.
 */
#define _GNU_SOURCE
#include "cores.h"
#include "library.h"
#include "timing.h"
#include <pthread.h>
#include <stdatomic.h>
#include <sys/mman.h>
#include <sys/resource.h>

#define QUEUE (16u << 20)
#define BURST_BYTES (3u << 20)
#define WARM_UP 20 /* rounds: more than three laps of the queue */
#define CASES 6

typedef __typeof__(telemetry_enqueue) put_fn;

struct ring {
    _Alignas(64) _Atomic uint64_t tail;
    _Alignas(64) unsigned char *bytes;
};

__attribute__((noinline)) static int32_t put_floor(telemetry_t *target, const void *event, size_t len) {
    struct ring *ring = (void *)target;
    uint64_t at = atomic_fetch_add(&ring->tail, (len + 7) & ~(size_t)7) & (QUEUE - 1);
    memcpy(ring->bytes + at, event, len);
    return 0;
}

__attribute__((noinline)) static int32_t put_nothing(telemetry_t *target, const void *event, size_t len) {
    __asm__ volatile("" : : "r"(target), "r"(event), "r"(len) : "memory");
    return 0;
}

/* One burst: nanoseconds a call, and the page faults of this thread meanwhile. */
static double burst(put_fn *put, void *target, const char *event, size_t len, size_t n, long *faults) {
    put_fn *volatile through = put; /* so that no call is inlined */
    put_fn *call = through;
    struct rusage before, after;
    int32_t refused = 0;
    getrusage(RUSAGE_THREAD, &before);
    uint64_t start = now_ns();
    for (size_t i = 0; i < n; i++) {
        refused |= call(target, event, len);
    }
    uint64_t end = now_ns();
    getrusage(RUSAGE_THREAD, &after);
    *faults += after.ru_minflt - before.ru_minflt;
    must(refused == 0, "an event was refused in a burst");
    return (double)(end - start) / (double)n;
}

static double clock_burst(size_t n) {
    struct timespec t;
    uint64_t start = now_ns();
    for (size_t i = 0; i < n; i++) {
        clock_gettime(CLOCK_REALTIME, &t);
        __asm__ volatile("" : : "r"(&t) : "memory");
    }
    return (double)(now_ns() - start) / (double)n;
}

/* Two threads put at once; each one's nanoseconds a call, the slower of them. */
struct half {
    put_fn *put;
    void *target;
    const char *event;
    size_t len, n;
    _Atomic int *gate;
    int core;
    long faults;
    double ns;
};

static void *run_half(void *arg) {
    struct half *h = arg;
    if (h->core >= 0) {
        pin_thread(0, h->core);
    }
    atomic_fetch_sub(h->gate, 1);
    while (atomic_load(h->gate) > 0) {
    }
    h->ns = burst(h->put, h->target, h->event, h->len, h->n, &h->faults);
    return NULL;
}

static double burst_of_two(put_fn *put, void *target, const char *event, size_t len, size_t n, long *faults) {
    _Atomic int gate = 2;
    struct half a = {put, target, event, len, n / 2, &gate, nth_core(0), 0, 0}, b = a;
    b.core = nth_core(1);
    pthread_t other;
    must(pthread_create(&other, NULL, run_half, &b) == 0, "pthread_create");
    run_half(&a);
    pthread_join(other, NULL);
    *faults += a.faults + b.faults;
    return a.ns > b.ns ? a.ns : b.ns;
}

static void print_case(const char *name, size_t size, int threads, double *ns, size_t rounds, long faults) {
    double middle = median(ns, rounds);
    printf("{\"case\":\"%s\",\"size\":%zu,\"threads\":%d,\"median_ns\":%.2f,\"min_ns\":%.2f,\"rounds\":%zu,"
           "\"faults\":%ld}\n",
           name, size, threads, middle, ns[0], rounds, faults);
}

static void drain(telemetry_t *client) {
    must(lib.flush(client, 60000) == TELEMETRY_OK, "telemetry_flush");
    spin_us(200); /* the sender goes back to sleep */
}

static size_t calls_in_burst(size_t size) {
    return BURST_BYTES / ((40 + size + 7) & ~(size_t)7);
}

/* The rows: floor, coarse, precise, clock, interleaved. */
static void measure(size_t size, int threads, size_t rounds) {
    struct ring ring = {0};
    ring.bytes = mmap(NULL, QUEUE + size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    must(ring.bytes != MAP_FAILED, "mmap");
    memset(ring.bytes, 1, QUEUE + size);
    telemetry_t *coarse = open_client(PARKED("coarse")), *precise = open_client(PARKED("precise"));
    telemetry_t *live = open_client(LIVE("coarse"));
    char *event = make_event(size, 1);
    size_t n = calls_in_burst(size);
    start_sender(coarse);
    start_sender(precise);
    start_sender(live);
    pin_apart();
    double *ns[CASES];
    long faults[CASES] = {0};
    for (int c = 0; c < CASES; c++) {
        ns[c] = need(calloc(rounds, sizeof(double)));
    }
    double (*run)(put_fn *, void *, const char *, size_t, size_t, long *) = threads == 2 ? burst_of_two : burst;
    for (size_t r = 0; r < rounds + WARM_UP; r++) {
        size_t at = r < WARM_UP ? 0 : r - WARM_UP;
        if (r == WARM_UP) {
            memset(faults, 0, sizeof faults);
        }
        ns[0][at] = run(put_nothing, &ring, event, size, n, &faults[0]);
        ns[1][at] = run(put_floor, &ring, event, size, n, &faults[1]);
        ns[2][at] = run(lib.enqueue, coarse, event, size, n, &faults[2]);
        drain(coarse);
        ns[3][at] = run(lib.enqueue, precise, event, size, n, &faults[3]);
        drain(precise);
        wake_sender(live, event, size);
        ns[4][at] = run(lib.enqueue, live, event, size, n, &faults[4]);
        drain(live);
        ns[5][at] = clock_burst(n);
    }
    static const char *const names[CASES] = {"nothing", "floor", "coarse", "precise", "live", "clock"};
    for (int c = 0; c < CASES; c++) {
        print_case(names[c], size, threads, ns[c], rounds, faults[c]);
        free(ns[c]);
    }
    unpin();
    close_client(coarse);
    close_client(precise);
    close_client(live);
    free(event);
    munmap(ring.bytes, QUEUE + size);
}

/* New clients: behind the first two segments every page is touched for the first time. */
static void first_touch(size_t size, size_t rounds) {
    double *ns = need(calloc(rounds, sizeof(double)));
    char *event = make_event(size, 1);
    long faults = 0;
    for (size_t r = 0; r < rounds; r++) {
        telemetry_t *client = open_client(PARKED("coarse"));
        start_sender(client);
        spin_us(200);
        ns[r] = burst(lib.enqueue, client, event, size, calls_in_burst(size), &faults);
        close_client(client);
    }
    print_case("first_touch", size, 1, ns, rounds, faults);
    free(event);
    free(ns);
}

int main(int argc, char **argv) {
    if (argc != 3) {
        fputs("usage: enqueue LIBRARY ROUNDS\n", stderr);
        return 2;
    }
    load_library(argv[1]);
    size_t rounds = (size_t)strtoul(argv[2], NULL, 10);
    measure(256, 1, rounds);
    measure(64, 1, rounds / 4 + 1);
    measure(1024, 1, rounds / 4 + 1);
    measure(256, 2, rounds / 4 + 1);
    first_touch(256, rounds / 8 + 1);
    return 0;
}
