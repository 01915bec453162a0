/*
 * A fleet: workers that share a UDP socket, each datagram a job. The supervisor starts them, watches them, and replaces
 * those that die or hang; it shows all of it over HTTP, at the port of the same number.
 *
 *   cc fleet.c $(pkg-config --cflags --libs telemetry) -o fleet
 *   TELEMETRY_ENDPOINT=http://127.0.0.1:8080 ./fleet 9464 4
 *   echo paint >/dev/udp/127.0.0.1/9464                a job (bash); "crash" and "hang" are done as told
 *   curl http://127.0.0.1:9464/status?verbose          a page at /, and /livez, /readyz, /metrics
 *
 * TERM ends it, HUP replaces the workers one by one, TTIN and TTOU add and take one, WINCH pauses.
 */
#include <arpa/inet.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "telemetry.h"

struct service {
  telemetry_t *telemetry; /* opened before the forks: it works in the supervisor and in every worker */
  int jobs;
};

/* Waits for a job, the end, or the next beat: the job's length, below 0 if there is none. */
static ssize_t take(telemetry_worker_t *worker, int jobs, char *job, size_t room) {
  int paused = telemetry_worker_paused(worker);
  struct pollfd either[] = {{.fd = telemetry_worker_stop_fd(worker), .events = POLLIN},
                            {.fd = paused ? -1 : jobs, .events = POLLIN}};
  if (poll(either, 2, 1000) <= 0 || either[1].revents == 0) return -1;
  return recv(jobs, job, room, MSG_DONTWAIT); /* another worker may have been faster */
}

/* The job itself; whether it was done. */
static int carry_out(const char *job) {
  if (strcmp(job, "crash") == 0) abort();
  while (strcmp(job, "hang") == 0) pause();
  return job[0] != '\0';
}

/* A worker: the only thread of a process of its own. What it returns is the status with which that ends. */
static int work(telemetry_worker_t *worker, void *user) {
  const struct service *service = user;
  unsigned slot = telemetry_worker_slot(worker);
  char job[64], event[128];
  telemetry_worker_ready(worker); /* until here the start's deadline ran */
  while (!telemetry_worker_stopping(worker)) {
    telemetry_worker_beat(worker);
    ssize_t size = take(worker, service->jobs, job, sizeof job - 1);
    if (size < 0) continue;
    job[size] = '\0';
    job[strcspn(job, "\n")] = '\0';

    uint64_t item = telemetry_worker_item_begin(worker, job, 500); /* half a second is enough for any */
    int done = carry_out(job);
    telemetry_worker_item_end(worker, item, done ? TELEMETRY_ITEM_DONE : TELEMETRY_ITEM_FAILED);

    size = snprintf(event, sizeof event, "{\"event\":\"job\",\"slot\":%u,\"done\":%s}", slot, done ? "true" : "false");
    telemetry_enqueue(service->telemetry, event, (size_t)size);
  }
  return 0; /* its events are delivered before the process ends */
}

/* The socket; -1 with errno. */
static int receive_on(int port) {
  struct sockaddr_in address = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
  address.sin_port = htons((uint16_t)port);
  int jobs = socket(AF_INET, SOCK_DGRAM, 0);
  return jobs >= 0 && bind(jobs, (struct sockaddr *)&address, sizeof address) == 0 ? jobs : -1;
}

static int fail(void) {
  char why[512];
  telemetry_last_error(why, sizeof why);
  fprintf(stderr, "fleet: %s\n", why);
  return 1;
}

int main(int argc, char **argv) {
  int port = argc > 1 ? atoi(argv[1]) : 0, workers = argc > 2 ? atoi(argv[2]) : 4;
  if (port < 1 || port > 65535 || workers < 1) {
    fprintf(stderr, "usage: fleet PORT [WORKERS]\n");
    return 2;
  }
  struct service service = {.jobs = receive_on(port)};
  if (service.jobs < 0) {
    perror("fleet: bind");
    return 1;
  }
  /* What these leave out comes from the environment: TELEMETRY_ENDPOINT, TELEMETRY_FLEET_STALE_MS, ... */
  if (telemetry_open("{\"batch\":{\"max_age_ms\":200}}", &service.telemetry) != TELEMETRY_OK) return fail();
  char config[128];
  snprintf(config, sizeof config, "{\"name\":\"jobs\",\"health\":\"127.0.0.1:%d\",\"grace_ms\":10000}", port);

  telemetry_fleet_t *fleet;
  if (telemetry_fleet_new(config, &fleet) != TELEMETRY_OK) return fail();
  if (telemetry_fleet_add(fleet, "worker", (uint32_t)workers, NULL, work, &service) != TELEMETRY_OK) return fail();
  int status = telemetry_fleet_run(fleet);
  if (status >= 64) fail();
  telemetry_fleet_free(fleet);
  telemetry_free(service.telemetry);
  close(service.jobs);
  return status;
}
