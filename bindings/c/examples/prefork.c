/*
 * A prefork server: each worker answers one request at a time, and ends after REQUESTS of them, for the master to fork
 * a new one. Each request is reported with an event. Nothing here knows that telemetry survives the forks: the master
 * opens the client, the workers use it.
 *
 *   cc prefork.c $(pkg-config --cflags --libs telemetry) -o prefork
 *   TELEMETRY_ENDPOINT=http://127.0.0.1:8080 ./prefork 8000 4 1000      TERM ends it, with nothing lost
 *
 * TELEMETRY_SPOOL_DIR=/var/spool/app keeps the events of a worker that is killed, too.
 */
#define _GNU_SOURCE
#include "workers.h"

#include <poll.h>
#include <string.h>

#include "telemetry.h"

enum { PATIENCE_MS = 5000 }; /* for a whole request */

struct server {
  telemetry_t *telemetry;
  int listener;
  long requests; /* a worker answers so many */
};

static volatile sig_atomic_t stopping;

static void on_stop(int signal) {
  (void)signal;
  stopping = 1;
}

/* Reports something as this process's event number `seq`; whether it was taken. If not, telemetry_stats counts it. */
static int report(telemetry_t *t, const char *what, long seq) {
  char event[128];
  int size = snprintf(event, sizeof event, "{\"event\":\"%s\",\"pid\":%d,\"seq\":%ld}", what, (int)getpid(), seq);
  return telemetry_enqueue(t, event, (size_t)size) == TELEMETRY_OK;
}

/* Reads at most `room` bytes that come before `deadline`: how many, 0 at the end, -1 on error or when it is over. */
static ssize_t read_until(int fd, char *to, size_t room, long deadline) {
  for (;;) {
    ssize_t got = recv(fd, to, room, MSG_DONTWAIT);
    if (got >= 0 || (errno != EAGAIN && errno != EINTR)) return got;
    struct pollfd ready = {.fd = fd, .events = POLLIN};
    long left = deadline - now_ms();
    if (left <= 0 || (poll(&ready, 1, (int)left) < 0 && errno != EINTR)) return -1;
  }
}

/* Answers one request, whatever its path is, with [[pid,seq]] of the event that was taken for it. */
static void serve(telemetry_t *t, int client, long seq) {
  char request[4096], body[64] = "[]\n", answer[256];
  long deadline = now_ms() + PATIENCE_MS;
  size_t used = 0;
  do { /* it may come in pieces */
    ssize_t got = read_until(client, request + used, sizeof request - 1 - used, deadline);
    if (got <= 0) return; /* gone, too slow, or too large */
    used += (size_t)got;
    request[used] = '\0';
  } while (!strstr(request, "\r\n\r\n"));

  if (report(t, "request", seq)) snprintf(body, sizeof body, "[[%d,%ld]]\n", (int)getpid(), seq);
  int size = snprintf(answer, sizeof answer,
                      "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: %zu\r\n"
                      "Connection: close\r\n\r\n%s",
                      strlen(body), body);
  if (send(client, answer, (size_t)size, MSG_NOSIGNAL) != size) return;
  shutdown(client, SHUT_WR);
  while (read_until(client, request, sizeof request, deadline) > 0) {
    /* A close with something unread would reset the connection and could take the answer with it. */
  }
}

/* A worker. TERM and INT are let in only while it waits, so a request that was begun is answered. */
static int work(void *argument, int number) {
  const struct server *server = argument;
  telemetry_set_worker((uint32_t)number); /* "$worker" of its events */
  sigset_t waiting;
  sigprocmask(SIG_BLOCK, NULL, &waiting);
  sigdelset(&waiting, SIGTERM);
  sigdelset(&waiting, SIGINT);
  struct sigaction action = {.sa_handler = on_stop};
  sigaction(SIGTERM, &action, NULL);
  sigaction(SIGINT, &action, NULL);
  for (long seq = 0; !stopping && seq < server->requests;) {
    struct pollfd ready = {.fd = server->listener, .events = POLLIN};
    if (ppoll(&ready, 1, NULL, &waiting) < 0) continue;
    int client = accept4(server->listener, NULL, NULL, SOCK_CLOEXEC);
    if (client < 0) continue; /* another worker was faster, or the client has gone */
    serve(server->telemetry, client, seq++);
    close(client);
  }
  return 0; /* through exit(), which delivers what is queued for at most `exit_timeout_ms` */
}

int main(int argc, char **argv) {
  struct server server = {.listener = -1, .requests = argc > 3 ? atol(argv[3]) : 1000};
  int port = argc > 1 ? atoi(argv[1]) : 0, workers = argc > 2 ? atoi(argv[2]) : 4;
  if (port < 1 || port > 65535 || workers < 1 || workers > MOST_WORKERS || server.requests < 1) {
    fprintf(stderr, "usage: prefork PORT [WORKERS (to %d) [REQUESTS of a worker]]\n", MOST_WORKERS);
    return 2;
  }
  /* What this leaves out comes from the environment: TELEMETRY_ENDPOINT, TELEMETRY_SPOOL_DIR, ... */
  static const char config[] = "{\"batch\":{\"max_age_ms\":200},\"context\":{\"worker\":\"$worker\"}}";
  if (telemetry_open(config, &server.telemetry) != TELEMETRY_OK) {
    char why[256];
    telemetry_last_error(why, sizeof why);
    fprintf(stderr, "telemetry: %s\n", why);
    return 1;
  }
  if ((server.listener = listen_on(port)) < 0) {
    perror("listen");
    return 1;
  }
  report(server.telemetry, "master started", 0); /* before the forks: the master's own, sent once */
  int failed = run_workers(workers, work, &server);
  report(server.telemetry, "master stopped", 1);
  if (telemetry_shutdown(server.telemetry, 2000) != TELEMETRY_OK) fprintf(stderr, "telemetry: not all was delivered\n");
  telemetry_free(server.telemetry);
  close(server.listener);
  return failed;
}
