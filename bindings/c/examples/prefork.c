/*
 * A prefork server: the master listens and opens the client, then forks workers that answer requests and
 * report each with an event. Nothing here knows that telemetry survives the fork: no hook, no second open.
 *
 *   cc prefork.c -I../../../include -L../../../target/release -ltelemetry -o prefork
 *   ./prefork http://127.0.0.1:8080 4      prints its port; TERM ends it, with nothing lost
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <netinet/in.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include "telemetry.h"

enum { MOST = 64 };

static volatile sig_atomic_t stopping;

static void on_term(int signal) {
  (void)signal;
  stopping = 1;
}

static void report(telemetry_t *t, const char *what, long number) {
  char event[160];
  int size = snprintf(event, sizeof event, "{\"event\":\"%s\",\"pid\":%d,\"number\":%ld}", what, (int)getpid(), number);
  if (telemetry_enqueue(t, event, (size_t)size) != TELEMETRY_OK) {
    /* Full, or shut: counted in telemetry_stats; a server goes on. */
  }
}

/* Answers requests until TERM comes, which is let in only while waiting. */
static int work(telemetry_t *t, int listener) {
  static const char answer[] = "HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 3\r\n\r\nok\n";
  char request[4096];
  sigset_t nothing_blocked;
  sigemptyset(&nothing_blocked);
  struct sigaction action = {.sa_handler = on_term};
  sigaction(SIGTERM, &action, NULL);
  for (long number = 0; !stopping;) {
    struct pollfd ready = {.fd = listener, .events = POLLIN};
    if (ppoll(&ready, 1, NULL, &nothing_blocked) < 0) continue;
    int client = accept(listener, NULL, NULL);
    if (client < 0) continue; /* another worker was faster */
    if (read(client, request, sizeof request) > 0 && write(client, answer, sizeof answer - 1) > 0)
      report(t, "request", number++);
    close(client);
  }
  return 0; /* through exit(), which delivers what is queued */
}

static int listen_on_any_port(void) {
  struct sockaddr_in address = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
  socklen_t size = sizeof address;
  int listener = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK, 0);
  if (listener < 0 || bind(listener, (struct sockaddr *)&address, size) || listen(listener, 128) ||
      getsockname(listener, (struct sockaddr *)&address, &size))
    return -1;
  printf("listening on http://127.0.0.1:%d\n", ntohs(address.sin_port));
  fflush(stdout);
  return listener;
}

int main(int argc, char **argv) {
  char config[256], why[256];
  int workers = argc > 2 ? atoi(argv[2]) : 4;
  snprintf(config, sizeof config, "{\"endpoint\":\"%s\",\"batch\":{\"max_age_ms\":200}}",
           argc > 1 ? argv[1] : "http://127.0.0.1:8080");
  telemetry_t *t;
  if (telemetry_open(config, &t) != TELEMETRY_OK) {
    telemetry_last_error(why, sizeof why);
    fprintf(stderr, "%s\n", why);
    return 1;
  }
  report(t, "master started", workers); /* before the fork: the master's own, sent once */

  int listener = listen_on_any_port();
  if (listener < 0 || workers < 1 || workers > MOST) return 1;
  sigset_t awaited;
  sigemptyset(&awaited);
  sigaddset(&awaited, SIGTERM);
  sigaddset(&awaited, SIGCHLD);
  sigprocmask(SIG_BLOCK, &awaited, NULL);
  pid_t pids[MOST];
  for (int i = 0; i < workers; i++) {
    pids[i] = fork();
    if (pids[i] == 0) return work(t, listener);
    if (pids[i] < 0) return 1;
  }
  int failed = 0;
  for (int left = workers; left > 0;) {
    int signal, status;
    sigwait(&awaited, &signal);
    if (signal == SIGTERM)
      for (int i = 0; i < workers; i++) kill(pids[i], SIGTERM);
    while (left > 0 && waitpid(-1, &status, WNOHANG) > 0) {
      left--;
      failed |= status;
    }
  }
  report(t, "master stopped", workers);
  telemetry_shutdown(t, 2000);
  telemetry_free(t);
  return failed != 0;
}
