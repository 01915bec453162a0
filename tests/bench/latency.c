/*
 * The tail of one telemetry_enqueue: p50, p99 and p99.9 of single calls of 256 B, pages present.
 *
 * Each call stands between two readings of the finest counter; the median of empty pairs is subtracted and
 * printed, and so are the same quantiles of a function that does nothing, which are the machine's own.
 *
 * What could mislead:
 * - A virtual machine that is taken off its core shows in p99.9 of nothing, too: compare the two.
 * - The counter may have a coarse step (10 ns on some machines, printed): then all figures are multiples of it.
 * - The counter's fences keep calls from overlapping, so p50 is higher than the figure of a burst.
 * - Bursts stay inside the queue and warm pages are kept, as in enqueue.c; page faults are counted.
 */
#define _GNU_SOURCE
#include "cores.h"
#include "library.h"
#include "timing.h"
#include <sys/resource.h>

#define SIZE 256
#define BURST 10000
#define WARM_UP 20

typedef __typeof__(telemetry_enqueue) put_fn;

__attribute__((noinline)) static int32_t put_nothing(telemetry_t *target, const void *event, size_t len) {
    __asm__ volatile("" : : "r"(target), "r"(event), "r"(len) : "memory");
    return 0;
}

static double tick_ns, empty_pair_ns, step_ns;

/* What a pair of readings costs, and the smallest difference the counter can tell. */
static void measure_counter(void) {
    uint64_t step = UINT64_MAX, last = ticks();
    for (size_t i = 0; i < BURST; i++) {
        uint64_t next = ticks();
        step = next > last && next - last < step ? next - last : step;
        last = next;
    }
    step_ns = (double)step * tick_ns;
    static double pairs[BURST];
    for (size_t i = 0; i < BURST; i++) {
        uint64_t start = ticks();
        pairs[i] = (double)(ticks() - start) * tick_ns;
    }
    empty_pair_ns = median(pairs, BURST);
}

static long faults_so_far(void) {
    struct rusage usage;
    getrusage(RUSAGE_THREAD, &usage);
    return usage.ru_minflt;
}

static void measure(const char *name, put_fn *put, const char *config, size_t bursts) {
    telemetry_t *client = open_client(config);
    int live = strcmp(name, "live") == 0;
    start_sender(client);
    pin_apart();
    char *event = make_event(SIZE, 1);
    double *ns = need(malloc(bursts * BURST * sizeof *ns));
    memset(ns, 1, bursts * BURST * sizeof *ns);
    long faults = 0;
    for (size_t b = 0; b < bursts + WARM_UP; b++) {
        double *here = b < WARM_UP ? ns : ns + (b - WARM_UP) * BURST;
        if (live) {
            wake_sender(client, event, SIZE);
        }
        long before = faults_so_far();
        for (size_t i = 0; i < BURST; i++) {
            uint64_t start = ticks();
            int32_t status = put(client, event, SIZE);
            here[i] = (double)(ticks() - start) * tick_ns;
            must(status == TELEMETRY_OK, "an event was refused");
        }
        faults += b < WARM_UP ? 0 : faults_so_far() - before;
        must(lib.flush(client, 60000) == TELEMETRY_OK, "telemetry_flush");
        spin_us(200);
    }
    unpin();
    close_client(client);
    size_t n = bursts * BURST;
    double p50 = median(ns, n);
    const char *form = "{\"case\":\"%s\",\"calls\":%zu,\"p50_ns\":%.0f,\"p99_ns\":%.0f,\"p999_ns\":%.0f,"
                       "\"max_ns\":%.0f,\"subtracted_ns\":%.1f,\"step_ns\":%.1f,\"faults\":%ld}\n";
    double less = empty_pair_ns;
    printf(form, name, n, p50 - less, ns[n / 100 * 99] - less, ns[n / 1000 * 999] - less, ns[n - 1] - less, less,
           step_ns, faults);
    free(ns);
    free(event);
}

int main(int argc, char **argv) {
    if (argc != 3) {
        fputs("usage: latency LIBRARY BURSTS\n", stderr);
        return 2;
    }
    load_library(argv[1]);
    size_t bursts = (size_t)strtoul(argv[2], NULL, 10);
    tick_ns = ns_per_tick();
    measure_counter();
    measure("nothing", put_nothing, PARKED("coarse"), bursts);
    measure("coarse", lib.enqueue, PARKED("coarse"), bursts);
    measure("precise", lib.enqueue, PARKED("precise"), bursts);
    measure("live", lib.enqueue, LIVE("precise"), bursts);
    return 0;
}
