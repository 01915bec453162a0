/*
 * How long fork() takes in the parent, in a host that has touched 16 MiB.
 *
 *   none       without the library: not even loaded
 *   unused     with a client that was opened and never used: what the library's mappings and hooks cost
 *   full       a full queue, all segments touched, while the collector stalls in the middle of a request
 *   idle       right after a flush: the sender sleeps, and fork ends its thread first
 *   mid        1 ms after a request to a stalled collector began: the longest that fork waits for it
 *
 * Reads a number of forks from each line of stdin and prints that many nanoseconds, so that the driver can
 * interleave two processes. The child calls _exit at once and is waited for after the clock has stopped.
 *
 * What could mislead: fork copies page tables, so its cost is that of the host's memory; both hosts touch the
 * same. The mappings of the library itself are part of what it costs and are not taken off.
 */
#define _GNU_SOURCE
#include "library.h"
#include "timing.h"
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

#define HOST (16u << 20)

static uint64_t one_fork(void) {
    uint64_t start = now_ns();
    pid_t child = fork();
    if (child == 0) {
        _exit(0);
    }
    uint64_t took = now_ns() - start;
    int status;
    must(child > 0 && waitpid(child, &status, 0) == child && status == 0, "a forked child failed");
    return took;
}

static telemetry_t *fill(const char *config, const char *event, size_t size) {
    telemetry_t *client = open_client(config);
    unsigned full = 0;
    /* The sender takes its first batch and then stalls; from then on full stays full. */
    while (full < 100) {
        if (lib.enqueue(client, event, size) == TELEMETRY_FULL) {
            full++;
            nap_us(1000);
        }
    }
    return client;
}

int main(int argc, char **argv) {
    if (argc != 4) {
        fputs("usage: forkcost none|unused|full|idle|mid LIBRARY CONFIG\n", stderr);
        return 2;
    }
    const char *mode = argv[1], *config = argv[3];
    unsigned char *host = mmap(NULL, HOST, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    must(host != MAP_FAILED, "mmap");
    memset(host, 1, HOST);
    char *event = make_event(1000, 1);
    telemetry_t *client = NULL;
    if (strcmp(mode, "none") != 0) {
        load_library(argv[2]);
    }
    if (strcmp(mode, "full") == 0) {
        client = fill(config, event, 1000);
    } else if (strcmp(mode, "idle") == 0 || strcmp(mode, "unused") == 0) {
        client = open_client(config);
    }

    char line[32];
    while (fgets(line, sizeof line, stdin)) {
        unsigned long forks = strtoul(line, NULL, 10);
        for (unsigned long i = 0; i < forks; i++) {
            if (strcmp(mode, "idle") == 0) {
                must(lib.enqueue(client, event, 1000) == TELEMETRY_OK, "telemetry_enqueue");
                must(lib.flush(client, 5000) == TELEMETRY_OK, "telemetry_flush");
            } else if (strcmp(mode, "mid") == 0) {
                client = open_client(config);
                must(lib.enqueue(client, event, 1000) == TELEMETRY_OK, "telemetry_enqueue");
                (void)lib.flush(client, 0);
                nap_us(1000);
            }
            printf("%s%llu", i ? " " : "", (unsigned long long)one_fork());
            if (strcmp(mode, "mid") == 0) {
                (void)lib.shutdown(client, 0);
                lib.free(client);
            }
        }
        putchar('\n');
        fflush(stdout);
    }
    /* Whatever is queued is meant to be lost here: the collector stalls. */
    _exit(0);
}
