/*
 * A process that used its client once and then has nothing to do: prints when it is so and sleeps until its
 * stdin ends. The driver counts its threads and wake-ups from outside, so that counting wakes nobody.
 *
 * What could mislead: before idle_ms has passed the sender is alive and looks around once each max_age_ms; the
 * driver reports both.
 */
#define _GNU_SOURCE
#include "library.h"
#include "timing.h"
#include <unistd.h>

int main(int argc, char **argv) {
    if (argc != 3) {
        fputs("usage: idle LIBRARY CONFIG\n", stderr);
        return 2;
    }
    load_library(argv[1]);
    telemetry_t *client = open_client(argv[2]);
    char *event = make_event(250, 1);
    for (int i = 0; i < 10; i++) {
        must(lib.enqueue(client, event, 250) == TELEMETRY_OK, "telemetry_enqueue");
    }
    must(lib.flush(client, 5000) == TELEMETRY_OK, "telemetry_flush");
    puts("{\"ready\":1}");
    fflush(stdout);
    char byte;
    while (read(STDIN_FILENO, &byte, 1) > 0) {
    }
    close_client(client);
    return 0;
}
