/*
 * What the spool costs, and what it gives back.
 *
 *   spool enqueue LIBRARY DIR ROUNDS   one call, against the memory mode, interleaved burst by burst
 *   spool paced   LIBRARY CONFIG S     one call at 100,000 events/s for S seconds, with whatever CONFIG syncs
 *   spool fill    LIBRARY CONFIG SIZE  enqueue events of SIZE bytes until the spool is full, then die by SIGKILL
 *   spool recover LIBRARY CONFIG       a new process delivers what is there
 *
 * What could mislead:
 * - In the row that the budget is about the segment is there: a burst is 1 MiB, segments are 4 MiB, and the sender has made the
 *   next one before the burst begins. "outrun" is what it costs to write faster than segments are made: default segments,
 *   bursts of 8 MiB, a sleeping sender, so that the producer itself makes every file.
 * - `paced` measures single calls, by the time-stamp counter; a call that waits for the disk is in its maximum.
 * - `fill` dies before anybody could deliver: its endpoint is a port where nobody listens.
 */
#define _GNU_SOURCE
#include "cores.h"
#include "library.h"
#include "timing.h"
#include <signal.h>
#include <unistd.h>

#define EVENT 256
#define QUIET "\"idle_ms\":3600000,\"batch\":{\"max_events\":1000000,\"max_bytes\":67108864,\"max_age_ms\":3600000}"

static double burst(telemetry_t *client, const char *event, size_t n) {
    int32_t refused = 0;
    uint64_t start = now_ns();
    for (size_t i = 0; i < n; i++) {
        refused |= lib.enqueue(client, event, EVENT);
    }
    uint64_t end = now_ns();
    must(refused == 0, "an event was refused in a burst");
    return (double)(end - start) / (double)n;
}

static void drain(telemetry_t *client) {
    must(lib.flush(client, 60000) == TELEMETRY_OK, "telemetry_flush");
    spin_us(3000); /* the next segment is made, the sender sleeps again */
}

static telemetry_t *spooled(const char *dir, const char *more) {
    char config[1024];
    snprintf(config, sizeof config, "{\"endpoint\":\"file:/dev/null\",\"spool_dir\":\"%s\",%s%s}", dir, more, QUIET);
    telemetry_t *client = open_client(config);
    start_sender(client);
    return client;
}

static void enqueue(const char *dir, size_t rounds) {
    const char *const names[] = {"memory", "spool", "outrun"};
    const size_t calls[] = {(1u << 20) / 296, (1u << 20) / 296, (8u << 20) / 296};
    telemetry_t *clients[] = {open_client(PARKED("precise")), spooled(dir, "\"segment_bytes\":4194304,"),
                              spooled(dir, "")};
    start_sender(clients[0]);
    char *event = make_event(EVENT, 1);
    double *ns[3];
    for (int c = 0; c < 3; c++) {
        ns[c] = need(calloc(rounds, sizeof(double)));
    }
    pin_apart();
    for (size_t r = 0; r < rounds + 10; r++) {
        for (int c = 0; c < 3; c++) {
            ns[c][r < 10 ? 0 : r - 10] = burst(clients[c], event, calls[c]);
            drain(clients[c]);
        }
    }
    unpin();
    for (int c = 0; c < 3; c++) {
        double middle = median(ns[c], rounds);
        printf("{\"case\":\"%s\",\"median_ns\":%.2f,\"min_ns\":%.2f}\n", names[c], middle, ns[c][0]);
        close_client(clients[c]);
    }
}

static void paced(const char *config, double seconds) {
    telemetry_t *client = open_client(config);
    start_sender(client);
    char *event = make_event(EVENT, 1);
    size_t most = (size_t)(seconds * 100000), n = 0;
    double *ns = need(calloc(most, sizeof(double))), tick = ns_per_tick(), sum = 0;
    uint64_t begin = now_ns();
    while (n < most) {
        for (int i = 0; i < 100 && n < most; i++) {
            uint64_t before = ticks();
            must(lib.enqueue(client, event, EVENT) == TELEMETRY_OK, "telemetry_enqueue");
            ns[n] = (double)(ticks() - before) * tick;
            sum += ns[n++];
        }
        while (now_ns() < begin + (uint64_t)n * 10000u) {
            nap_us(100);
        }
    }
    must(lib.flush(client, 60000) == TELEMETRY_OK, "telemetry_flush");
    double p99 = quantile(ns, n, 0.99);
    printf("{\"mean_ns\":%.1f,\"p50_ns\":%.1f,\"p99_ns\":%.1f,\"p999_ns\":%.1f,\"max_us\":%.1f}\n", sum / (double)n,
           ns[n / 2], p99, ns[(size_t)(0.999 * (double)n)], ns[n - 1] / 1000);
    close_client(client);
}

static void fill(const char *config, size_t size) {
    telemetry_t *client = open_client(config);
    char *event = make_event(size, 1);
    unsigned long long taken = 0;
    uint64_t start = now_ns();
    while (lib.enqueue(client, event, size) == TELEMETRY_OK) {
        taken++;
    }
    printf("{\"taken\":%llu,\"seconds\":%.4f}\n", taken, (double)(now_ns() - start) / 1e9);
    fflush(stdout);
    kill(getpid(), SIGKILL);
}

static void recover(const char *config) {
    telemetry_t *client = open_client(config);
    uint64_t start = now_ns();
    must(lib.flush(client, 600000) == TELEMETRY_OK, "telemetry_flush");
    double seconds = (double)(now_ns() - start) / 1e9;
    telemetry_stats_t s = stats_of(client);
    must(s.recovered == s.delivered && s.corrupt == 0, "not everything that was recovered was delivered");
    printf("{\"recovered\":%llu,\"seconds\":%.4f}\n", (unsigned long long)s.recovered, seconds);
    must(lib.shutdown(client, 5000) == TELEMETRY_OK, "telemetry_shutdown");
    lib.free(client);
}

int main(int argc, char **argv) {
    if (argc < 4) {
        fputs("usage: spool enqueue|paced|fill|recover LIBRARY DIR|CONFIG [ROUNDS|SECONDS|SIZE]\n", stderr);
        return 2;
    }
    load_library(argv[2]);
    double number = argc > 4 ? strtod(argv[4], NULL) : 0;
    if (!strcmp(argv[1], "enqueue")) {
        enqueue(argv[3], (size_t)number);
    } else if (!strcmp(argv[1], "paced")) {
        paced(argv[3], number);
    } else if (!strcmp(argv[1], "fill")) {
        fill(argv[3], (size_t)number);
    } else {
        recover(argv[3]);
    }
    return 0;
}
