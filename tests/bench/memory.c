/*
 * Resident memory: anonymous and private pages of the process (smaps_rollup), before the library is loaded, once
 * it is loaded, with a client opened, used lightly (10 events, flushed), and idle again.
 *
 * What could mislead: Rss counts file pages that all processes share, and they come in as they are touched; they
 * are "the library's own pages" and shown apart. Private pages of the library (relocations) are part of
 * "loaded", so that "opened" shows what a client adds.
 */
#define _GNU_SOURCE
#include "library.h"
#include "timing.h"
#include <fcntl.h>
#include <unistd.h>

static long field(const char *text, const char *name) {
    const char *at = strstr(text, name);
    return at ? strtol(at + strlen(name), NULL, 10) : -1;
}

static void show(const char *when) {
    static char text[8192];
    int fd = open("/proc/self/smaps_rollup", O_RDONLY | O_CLOEXEC);
    ssize_t n = read(fd, text, sizeof text - 1);
    must(n > 0, "smaps_rollup");
    close(fd);
    text[n] = 0;
    printf("{\"when\":\"%s\",\"rss_kib\":%ld,\"pss_kib\":%ld,\"anonymous_kib\":%ld,\"private_dirty_kib\":%ld}\n", when,
           field(text, "Rss:"), field(text, "Pss:"), field(text, "Anonymous:"), field(text, "Private_Dirty:"));
    fflush(stdout);
}

int main(int argc, char **argv) {
    if (argc != 3) {
        fputs("usage: memory LIBRARY CONFIG\n", stderr);
        return 2;
    }
    char *event = make_event(250, 1);
    show("start"); /* also allocates what show() needs */
    show("before");
    load_library(argv[1]);
    show("loaded");
    telemetry_t *client = open_client(argv[2]);
    show("opened");
    for (int i = 0; i < 10; i++) {
        must(lib.enqueue(client, event, 250) == TELEMETRY_OK, "telemetry_enqueue");
    }
    must(lib.flush(client, 5000) == TELEMETRY_OK, "telemetry_flush");
    nap_us(50000);
    show("used");
    nap_us(1500000); /* longer than the idle_ms of the configuration given */
    show("idle");
    close_client(client);
    return 0;
}
