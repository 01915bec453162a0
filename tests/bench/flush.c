/*
 * One event at once: telemetry_enqueue + telemetry_flush, against the least any client can do, a POST written
 * and its answer read on a kept connection. Same collector, same body, interleaved, medians.
 *
 * What could mislead: the scheduler. Where the three threads share a core a hand-over costs little, where each
 * wakes a sleeping core it costs most of the time; the driver starts several processes and reports the median one.
 * The bare POST has no thread to wake and nothing to check; the library wakes its sender,
 * which sends and wakes the caller. Both connections are warm and have TCP_NODELAY. Bodies of one event are
 * not compressed (they are under 1 KiB).
 */
#define _GNU_SOURCE
#include "library.h"
#include "timing.h"
#include <arpa/inet.h>
#include <netinet/tcp.h>
#include <sys/socket.h>
#include <unistd.h>

static int connect_to(unsigned port) {
    struct sockaddr_in address = {.sin_family = AF_INET, .sin_port = htons((uint16_t)port)};
    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0), one = 1;
    must(fd >= 0 && connect(fd, (struct sockaddr *)&address, sizeof address) == 0, "connect");
    setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
    return fd;
}

/* Send one request, read one answer to its end. */
static void post(int fd, const char *request, size_t len) {
    static char answer[65536];
    must(write(fd, request, len) == (ssize_t)len, "write");
    size_t have = 0;
    for (;;) {
        ssize_t n = read(fd, answer + have, sizeof answer - 1 - have);
        must(n > 0, "the collector closed the connection");
        have += (size_t)n;
        answer[have] = 0;
        char *end = strstr(answer, "\r\n\r\n"), *length = strcasestr(answer, "content-length:");
        if (end && length && have >= (size_t)(end + 4 - answer) + strtoul(length + 15, NULL, 10)) {
            must(strncmp(answer, "HTTP/1.1 200", 12) == 0, "the collector did not answer 200");
            return;
        }
    }
}

int main(int argc, char **argv) {
    if (argc != 5) {
        fputs("usage: flush LIBRARY CONFIG PORT ROUNDS\n", stderr);
        return 2;
    }
    load_library(argv[1]);
    telemetry_t *client = open_client(argv[2]);
    unsigned port = (unsigned)strtoul(argv[3], NULL, 10);
    size_t rounds = (size_t)strtoul(argv[4], NULL, 10), warm_up = 50;
    int fd = connect_to(port);
    char *event = make_event(250, 1);
    double *ours = need(calloc(rounds, sizeof(double))), *bare = need(calloc(rounds, sizeof(double)));
    static char body[1024], request[2048];
    for (size_t r = 0; r < rounds + warm_up; r++) {
        size_t at = r < warm_up ? 0 : r - warm_up;
        /* What the library makes of the event: id and timestamp filled in, a line end behind. */
        int n = snprintf(body, sizeof body,
                         "{\"id\":\"0198a0c2-6d0e-7c11-8a77-%012zx\",\"timestamp\":\"2026-01-01T00:00:00.000Z\",%s\n",
                         r, event + 1);
        int len = snprintf(request, sizeof request,
                           "POST / HTTP/1.1\r\nHost: 127.0.0.1:%u\r\nContent-Type: application/x-ndjson\r\n"
                           "Content-Length: %d\r\n\r\n%s",
                           port, n, body);
        uint64_t start = now_ns();
        post(fd, request, (size_t)len);
        bare[at] = (double)(now_ns() - start);

        start = now_ns();
        must(lib.enqueue(client, event, 250) == TELEMETRY_OK, "telemetry_enqueue");
        must(lib.flush(client, 5000) == TELEMETRY_OK, "telemetry_flush");
        ours[at] = (double)(now_ns() - start);
    }
    double middle_ours = median(ours, rounds), middle_bare = median(bare, rounds);
    printf("{\"rounds\":%zu,\"flush_us\":%.1f,\"flush_p99_us\":%.1f,\"bare_us\":%.1f,\"bare_p99_us\":%.1f,"
           "\"posted\":%zu}\n",
           rounds, middle_ours / 1e3, quantile(ours, rounds, 0.99) / 1e3, middle_bare / 1e3,
           quantile(bare, rounds, 0.99) / 1e3, 2 * (rounds + warm_up));
    close_client(client);
    return 0;
}
