/*
 * An event-loop server: one epoll loop a process, one process a core. Each request is reported with an event from
 * within the loop: telemetry_enqueue never blocks it, whatever the collector does.
 *
 *   cc eventloop.c $(pkg-config --cflags --libs telemetry) -o eventloop
 *   TELEMETRY_ENDPOINT=http://127.0.0.1:8080 ./eventloop 8000 2      TERM ends it, with nothing lost
 *
 * At TERM a process takes no more connections, answers for DRAIN_MS those it has, and delivers for at most
 * SHUTDOWN_MS. TELEMETRY_SPOOL_DIR=/var/spool/app keeps the events of a process that is killed, too.
 */
#define _GNU_SOURCE
#include "workers.h"

#include <string.h>
#include <sys/epoll.h>
#include <sys/signalfd.h>

#include "telemetry.h"

enum { MOST_FDS = 512, PATIENCE_MS = 5000, DRAIN_MS = 2000, SHUTDOWN_MS = 2000 }; /* FDS: well below `ulimit -n` */

struct server {
  telemetry_t *telemetry;
  int listener;
};

/* A connection, at the index of its descriptor; `deadline` is 0 where there is none. */
static struct connection {
  long deadline; /* for the whole request, in ms of now_ms */
  int answered;  /* now only the client's end is awaited */
  size_t used;
  char request[2048];
} connections[MOST_FDS];
static int open_connections;
static long answered; /* requests, by this process */

/* Reports something as this process's event number `seq`; whether it was taken. If not, telemetry_stats counts it. */
static int report(telemetry_t *t, const char *what, long seq) {
  char event[128];
  int size = snprintf(event, sizeof event, "{\"event\":\"%s\",\"pid\":%d,\"seq\":%ld}", what, (int)getpid(), seq);
  return telemetry_enqueue(t, event, (size_t)size) == TELEMETRY_OK;
}

static int watch(int epoll, int fd, uint32_t events) {
  struct epoll_event event = {.events = events, .data.fd = fd};
  return epoll_ctl(epoll, EPOLL_CTL_ADD, fd, &event);
}

static void end_connection(int fd) {
  connections[fd].deadline = 0;
  open_connections--;
  close(fd); /* which ends its place in the epoll set, too */
}

/* One at a time, so that the other processes get their share of what waits. */
static void accept_one(int epoll, int listener) {
  int fd = accept4(listener, NULL, NULL, SOCK_NONBLOCK | SOCK_CLOEXEC);
  if (fd < 0) return; /* another process was faster, or the client has gone */
  if (fd >= MOST_FDS) {
    close(fd); /* too many: refused, instead of waking the loop again and again */
    return;
  }
  connections[fd].deadline = now_ms() + PATIENCE_MS;
  connections[fd].answered = 0;
  connections[fd].used = 0;
  open_connections++;
  if (watch(epoll, fd, EPOLLIN)) end_connection(fd);
}

/* Answers, whatever the path was, with [[pid,seq]] of the event that was taken. The answer fits an empty socket. */
static int answer(telemetry_t *t, int fd) {
  char body[64] = "[]\n", text[256];
  long seq = answered++;
  if (report(t, "request", seq)) snprintf(body, sizeof body, "[[%d,%ld]]\n", (int)getpid(), seq);
  int size = snprintf(text, sizeof text,
                      "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: %zu\r\n"
                      "Connection: close\r\n\r\n%s",
                      strlen(body), body);
  return send(fd, text, (size_t)size, MSG_NOSIGNAL) == size && shutdown(fd, SHUT_WR) == 0;
}

/* Reads once what has come, perhaps a part of a request, perhaps the end; with more the loop comes back. */
static void serve(telemetry_t *t, int fd) {
  struct connection *c = &connections[fd];
  ssize_t got = recv(fd, c->request + c->used, sizeof c->request - 1 - c->used, 0);
  if (got < 0 && (errno == EAGAIN || errno == EINTR)) return;
  if (got <= 0) { /* gone, or the request is too large */
    end_connection(fd);
    return;
  }
  if (c->answered) return; /* thrown away: a close with something unread could take the answer with it */
  c->used += (size_t)got;
  c->request[c->used] = '\0';
  if (!strstr(c->request, "\r\n\r\n")) return;
  c->answered = 1;
  c->used = 0;
  if (!answer(t, fd)) end_connection(fd);
}

/* One process's loop, until TERM or INT, which arrive as a descriptor: there is no handler, so there is no race. */
static int work(void *argument, int number) {
  const struct server *server = argument;
  telemetry_set_worker((uint32_t)number); /* "$worker" of its events */
  sigset_t stops;
  sigemptyset(&stops);
  sigaddset(&stops, SIGTERM);
  sigaddset(&stops, SIGINT);
  int epoll = epoll_create1(EPOLL_CLOEXEC), stop = signalfd(-1, &stops, SFD_CLOEXEC);
  /* EPOLLEXCLUSIVE: a connection wakes one process, not all. */
  if (epoll < 0 || stop < 0 || watch(epoll, stop, EPOLLIN) ||
      watch(epoll, server->listener, EPOLLIN | EPOLLEXCLUSIVE)) {
    perror("epoll");
    return 1;
  }

  long over = 0, swept = now_ms();
  while (!over || (open_connections > 0 && now_ms() < over)) {
    struct epoll_event events[64];
    int count = epoll_wait(epoll, events, 64, over ? 100 : 1000);
    for (int i = 0; i < count; i++) {
      int fd = events[i].data.fd;
      if (fd == server->listener) {
        accept_one(epoll, fd);
      } else if (fd != stop) {
        serve(server->telemetry, fd);
      } else if (!over) {
        over = now_ms() + DRAIN_MS;
        epoll_ctl(epoll, EPOLL_CTL_DEL, stop, NULL);
        epoll_ctl(epoll, EPOLL_CTL_DEL, server->listener, NULL);
      }
    }
    if (now_ms() - swept < 1000) continue;
    swept = now_ms();
    for (int fd = 0; fd < MOST_FDS; fd++)
      if (connections[fd].deadline && connections[fd].deadline < swept) end_connection(fd);
  }
  telemetry_stats_t stats;
  if (telemetry_shutdown(server->telemetry, SHUTDOWN_MS) != TELEMETRY_OK &&
      telemetry_stats(server->telemetry, &stats, sizeof stats) == TELEMETRY_OK)
    fprintf(stderr, "telemetry: %llu events undelivered, %llu of them in the spool\n",
            (unsigned long long)stats.queue_events, (unsigned long long)stats.left_in_spool);
  telemetry_free(server->telemetry);
  return 0;
}

int main(int argc, char **argv) {
  struct server server = {.listener = -1};
  int port = argc > 1 ? atoi(argv[1]) : 0, processes = argc > 2 ? atoi(argv[2]) : (int)sysconf(_SC_NPROCESSORS_ONLN);
  if (processes > MOST_WORKERS && argc <= 2) processes = MOST_WORKERS;
  if (port < 1 || port > 65535 || processes < 1 || processes > MOST_WORKERS) {
    fprintf(stderr, "usage: eventloop PORT [PROCESSES (to %d, default: one a core)]\n", MOST_WORKERS);
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
  int failed = run_workers(processes, work, &server);
  report(server.telemetry, "master stopped", 1);
  if (telemetry_shutdown(server.telemetry, 2000) != TELEMETRY_OK) fprintf(stderr, "telemetry: not all was delivered\n");
  telemetry_free(server.telemetry);
  close(server.listener);
  return failed;
}
