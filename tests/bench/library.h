/*
 * The shipped library, opened with dlopen as a host's plug-in would, so that every call measured goes through
 * the pointers a host gets. A call that fails where it must not ends the program with status 1: a benchmark
 * that lost events has measured nothing.
 */
#ifndef BENCH_LIBRARY_H
#define BENCH_LIBRARY_H

#include "telemetry.h"
#include <dlfcn.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static struct library {
    __typeof__(telemetry_open) *open;
    __typeof__(telemetry_enqueue) *enqueue;
    __typeof__(telemetry_flush) *flush;
    __typeof__(telemetry_shutdown) *shutdown;
    __typeof__(telemetry_free) *free;
    __typeof__(telemetry_stats) *stats;
    __typeof__(telemetry_last_error) *last_error;
} lib;

static inline void fail(const char *what) {
    char text[512] = "";
    if (lib.last_error) {
        lib.last_error(text, sizeof text);
    }
    fprintf(stderr, "%s: %s\n", what, text);
    exit(1);
}

static inline void must(int ok, const char *what) {
    if (!ok) {
        fail(what);
    }
}

static inline void load_symbol(void *handle, const char *name, void *into) {
    void *symbol = dlsym(handle, name);
    must(symbol != NULL, name);
    memcpy(into, &symbol, sizeof symbol);
}

static inline void load_library(const char *path) {
    void *handle = dlopen(path, RTLD_NOW | RTLD_LOCAL);
    must(handle != NULL, "dlopen");
    load_symbol(handle, "telemetry_open", &lib.open);
    load_symbol(handle, "telemetry_enqueue", &lib.enqueue);
    load_symbol(handle, "telemetry_flush", &lib.flush);
    load_symbol(handle, "telemetry_shutdown", &lib.shutdown);
    load_symbol(handle, "telemetry_free", &lib.free);
    load_symbol(handle, "telemetry_stats", &lib.stats);
    load_symbol(handle, "telemetry_last_error", &lib.last_error);
}

static inline telemetry_t *open_client(const char *config) {
    telemetry_t *client = NULL;
    must(lib.open(config, &client) == TELEMETRY_OK, config);
    return client;
}

static inline telemetry_stats_t stats_of(telemetry_t *client) {
    telemetry_stats_t stats;
    must(lib.stats(client, &stats, sizeof stats) == TELEMETRY_OK, "telemetry_stats");
    return stats;
}

/* Deliver everything, check that all of it was delivered and nothing refused, and give the client back. */
static inline void close_client(telemetry_t *client) {
    must(lib.flush(client, 60000) == TELEMETRY_OK, "telemetry_flush");
    telemetry_stats_t s = stats_of(client);
    must(s.accepted == s.delivered, "not everything that was accepted was delivered");
    must(s.dropped_full == 0, "the queue became full while it was measured");
    must(lib.shutdown(client, 5000) == TELEMETRY_OK, "telemetry_shutdown");
    lib.free(client);
}

/* Have the sender started, by delivering one event. */
static inline void start_sender(telemetry_t *client) {
    must(lib.enqueue(client, "{}", 2) == TELEMETRY_OK, "telemetry_enqueue");
    must(lib.flush(client, 5000) == TELEMETRY_OK, "telemetry_flush");
}

/*
 * Have a LIVE client's sender work: fill a batch, and wait until it is being sent. A sleeping core may take longer
 * to wake than a burst takes.
 */
static inline void wake_sender(telemetry_t *client, const void *event, size_t len) {
    uint64_t batches = stats_of(client).batches;
    for (int i = 0; i < 1000; i++) {
        must(lib.enqueue(client, event, len) == TELEMETRY_OK, "telemetry_enqueue");
    }
    while (stats_of(client).batches == batches) {
    }
}

/*
 * A sender that lives but sleeps until it is flushed: batches larger than any burst, no age, no idle end.
 * So the producer alone is measured, and the queue is drained between the bursts.
 */
#define PARKED(clock)                                                                                        \
    "{\"endpoint\":\"file:/dev/null\",\"clock\":\"" clock "\",\"idle_ms\":3600000,"                          \
    "\"batch\":{\"max_events\":1000000,\"max_bytes\":67108864,\"max_age_ms\":3600000}}"

/* The default settings (but no idle end): the sender wakes at 1,000 events and drains while the producer goes on. */
#define LIVE(clock) "{\"endpoint\":\"file:/dev/null\",\"clock\":\"" clock "\",\"idle_ms\":3600000}"

#endif
