/*
 * Delivered events a second and CPU seconds a million events: one thread enqueues N events of SIZE bytes as fast
 * as the queue takes them, then flushes. The clock stops when the collector has answered for the last one.
 *
 * What could mislead:
 * - CPU is this process's (getrusage), producer and sender together, not the collector's.
 * - When the queue is full the producer sleeps for 200 us and tries again, as a host would rather do than spin;
 *   spinning would be counted as CPU of the library.
 * - Events differ (64 kinds of random hex, or the lines of FILE), else gzip would have nothing to do.
 */
#define _GNU_SOURCE
#include "library.h"
#include "timing.h"
#include <sys/resource.h>

#define KINDS 64

/* The lines of a file, at most KINDS of them, as events of their own lengths. */
static size_t read_lines(const char *path, char **kinds, size_t *lengths) {
    FILE *file = fopen(path, "r");
    must(file != NULL, path);
    size_t count = 0, room = 0;
    char *line = NULL;
    ssize_t len;
    while (count < KINDS && (len = getline(&line, &room, file)) > 1) {
        kinds[count] = line;
        lengths[count++] = (size_t)len - 1;
        line = NULL;
        room = 0;
    }
    free(line);
    fclose(file);
    must(count > 0, "no events in the file");
    return count;
}

static double cpu_seconds(void) {
    struct rusage u;
    getrusage(RUSAGE_SELF, &u);
    return (double)(u.ru_utime.tv_sec + u.ru_stime.tv_sec) +
           (double)(u.ru_utime.tv_usec + u.ru_stime.tv_usec) / 1e6;
}

int main(int argc, char **argv) {
    if (argc != 5 && argc != 6) {
        fputs("usage: deliver LIBRARY CONFIG EVENTS SIZE [FILE]\n", stderr);
        return 2;
    }
    load_library(argv[1]);
    telemetry_t *client = open_client(argv[2]);
    size_t events = (size_t)strtoul(argv[3], NULL, 10), size = (size_t)strtoul(argv[4], NULL, 10);
    char *kinds[KINDS];
    size_t lengths[KINDS], count = KINDS;
    for (size_t k = 0; k < KINDS; k++) {
        kinds[k] = make_event(size, k + 1);
        lengths[k] = size;
    }
    if (argc == 6) {
        count = read_lines(argv[5], kinds, lengths);
    }

    double cpu = cpu_seconds();
    uint64_t start = now_ns();
    for (size_t i = 0; i < events; i++) {
        telemetry_status status;
        while ((status = lib.enqueue(client, kinds[i % count], lengths[i % count])) == TELEMETRY_FULL) {
            nap_us(200);
        }
        must(status == TELEMETRY_OK, "telemetry_enqueue");
    }
    must(lib.flush(client, 600000) == TELEMETRY_OK, "telemetry_flush");
    double seconds = (double)(now_ns() - start) / 1e9;
    cpu = cpu_seconds() - cpu;

    telemetry_stats_t s = stats_of(client);
    must(s.accepted == events && s.delivered == events, "not every event was delivered");
    printf("{\"events\":%zu,\"seconds\":%.4f,\"cpu_seconds\":%.4f,\"full\":%llu,\"batches\":%llu,\"retries\":%llu,"
           "\"bytes_out\":%llu}\n",
           events, seconds, cpu, (unsigned long long)s.dropped_full, (unsigned long long)s.batches,
           (unsigned long long)s.retries, (unsigned long long)s.bytes_out);
    must(lib.shutdown(client, 5000) == TELEMETRY_OK, "telemetry_shutdown");
    lib.free(client);
    return 0;
}
