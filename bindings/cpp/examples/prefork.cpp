/*
 * Workers forked before the work: the master opens the client, forks, and hands out jobs through a pipe; each worker
 * reports its jobs through the same object.
 *
 *   c++ -std=c++17 prefork.cpp $(pkg-config --cflags --libs telemetry) -o prefork
 *   TELEMETRY_ENDPOINT=http://127.0.0.1:8080 ./prefork 4 100      4 workers, 100 jobs
 */
#include <telemetry.hpp>

#include <cerrno>
#include <chrono>
#include <csignal>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <exception>
#include <string>
#include <system_error>

#include <sys/wait.h>
#include <unistd.h>

namespace {

std::string event(const char *what, long job) {
  return R"({"event":")" + std::string(what) + R"(","pid":)" + std::to_string(getpid()) + R"(,"job":)" +
         std::to_string(job) + "}";
}

// Does jobs until there are none left. A read of a pipe this small is never torn between two workers.
void work(const telemetry::client &client, int jobs) {
  for (long job; read(jobs, &job, sizeof job) == static_cast<ssize_t>(sizeof job);)
    client.enqueue(event("job done", job)); // never blocks; what it refuses is counted in stats()
}

} // namespace

int main(int argc, char **argv) try {
  const int workers = argc > 1 ? std::atoi(argv[1]) : 4;
  const long jobs = argc > 2 ? std::atol(argv[2]) : 100;
  std::signal(SIGPIPE, SIG_IGN); // write() says it, if there is no worker left

  // What this leaves out comes from the environment: TELEMETRY_ENDPOINT, TELEMETRY_SPOOL_DIR, ...
  const telemetry::client client(R"({"context":{"worker":"$worker"}})");
  client.enqueue(event("master started", workers)); // the master's own: sent once, however many forks follow

  int pipe_ends[2];
  if (pipe(pipe_ends) != 0) throw std::system_error(errno, std::generic_category(), "pipe");
  for (int number = 1; number <= workers; number++) {
    const pid_t pid = fork();
    if (pid < 0) throw std::system_error(errno, std::generic_category(), "fork");
    if (pid > 0) continue;
    close(pipe_ends[1]);
    telemetry::set_worker(static_cast<std::uint32_t>(number));
    work(client, pipe_ends[0]);
    return 0; // destroys this process's client, which delivers its events
  }
  close(pipe_ends[0]);
  for (long job = 0; job < jobs; job++)
    if (write(pipe_ends[1], &job, sizeof job) != static_cast<ssize_t>(sizeof job)) break;
  close(pipe_ends[1]); // the workers' sign to end
  int status, failed = 0;
  while (wait(&status) > 0) failed |= status;

  if (const std::error_code error = client.shutdown(std::chrono::seconds(5)))
    std::fprintf(stderr, "not all was delivered: %s\n", error.message().c_str());
  return failed != 0;
} catch (const std::exception &error) { // such as a bad configuration: the text names the key
  std::fprintf(stderr, "%s\n", error.what());
  return 1;
}
