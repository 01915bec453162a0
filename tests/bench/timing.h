/*
 * Clocks, order statistics and a JSON event of a wanted size, shared by the programs of this directory.
 *
 * What could mislead: a clock's own cost. now_ns() is meant for stretches of microseconds and more; ticks() for
 * single calls, whose empty pair the program measures and subtracts.
 */
#ifndef BENCH_TIMING_H
#define BENCH_TIMING_H

#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

static inline uint64_t now_ns(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (uint64_t)t.tv_sec * 1000000000u + (uint64_t)t.tv_nsec;
}

/* The finest counter there is; the fences keep the measured call between the two readings. */
static inline uint64_t ticks(void) {
#if defined(__x86_64__)
    uint32_t lo, hi;
    __asm__ volatile("lfence\n\trdtsc\n\tlfence" : "=a"(lo), "=d"(hi) : : "memory");
    return (uint64_t)hi << 32 | lo;
#else
    return now_ns();
#endif
}

/* How many nanoseconds a tick is. Takes 50 ms. */
static inline double ns_per_tick(void) {
    uint64_t t0 = now_ns(), c0 = ticks();
    while (now_ns() - t0 < 50000000u) {
    }
    uint64_t c1 = ticks(), t1 = now_ns();
    return (double)(t1 - t0) / (double)(c1 - c0);
}

/* Wait without giving the core away: a core that slept is slow at first. */
static inline void spin_us(unsigned us) {
    uint64_t end = now_ns() + us * 1000u;
    while (now_ns() < end) {
    }
}

static inline void nap_us(long us) {
    struct timespec t = {us / 1000000, us % 1000000 * 1000};
    nanosleep(&t, NULL);
}

static inline int by_value(const void *a, const void *b) {
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

/* Sorts, then the value that a part `q` of all values does not exceed. */
static inline double quantile(double *values, size_t n, double q) {
    qsort(values, n, sizeof *values, by_value);
    size_t at = (size_t)(q * (double)n);
    return n ? values[at < n ? at : n - 1] : 0;
}

static inline double median(double *values, size_t n) {
    return quantile(values, n, 0.5);
}

static inline void *need(void *p) {
    if (!p) {
        fputs("out of memory\n", stderr);
        exit(2);
    }
    return p;
}

/* One JSON object of exactly `size` (>= 32) bytes; `seed` varies the filling, so that gzip has work to do. */
static inline char *make_event(size_t size, uint64_t seed) {
    char *event = (char *)need(malloc(size + 1)); /* the cast is for C++ */
    size_t at = (size_t)snprintf(event, size + 1, "{\"event\":\"bench\",\"fill\":\"");
    for (uint64_t x = seed * 0x9e3779b97f4a7c15u + 1; at < size - 2; at++) {
        x ^= x << 13, x ^= x >> 7, x ^= x << 17;
        event[at] = "0123456789abcdef"[x & 15];
    }
    memcpy(event + size - 2, "\"}", 3);
    return event;
}

#endif
