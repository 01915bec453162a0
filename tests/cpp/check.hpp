/*
 * What the C++ programs share: checks that name their line, events that are known from outside, forks that are waited
 * for. Works without exceptions.
 *
 * Each event that a client took is written to stdout as "pid seq"; the test compares that with what arrived.
 * TEST_ENDPOINT is the collector's URL, TEST_QUIET_FORK=1 lets forks wait for the sender's end (tests/c/quiet_fork.h
 * says why).
 */
#ifndef CHECK_HPP
#define CHECK_HPP

#include "quiet_fork.h"
#undef fork

#include "telemetry.hpp"

#include <cstdio>
#include <cstdlib>
#include <string>

#include <sys/wait.h>
#include <unistd.h>

#define CHECK(condition) ((condition) ? void() : check_failed(__FILE__, __LINE__, #condition))

[[noreturn]] inline void check_failed(const char *file, int line, const char *condition) {
  char text[1024];
  const int size = std::snprintf(text, sizeof text, "%s:%d: in process %d: %s (%s)\n", file, line,
                                 static_cast<int>(getpid()), condition, telemetry::last_error().c_str());
  (void)!write(2, text, static_cast<std::size_t>(size)); // unbuffered, and what it says of success is of no use
  _exit(99);
}

inline std::string endpoint() {
  const char *value = std::getenv("TEST_ENDPOINT");
  CHECK(value);
  return value;
}

/* A configuration for the collector, with `more` members. */
inline std::string config(const std::string &more = "") {
  return R"({"endpoint":")" + endpoint() + "\"" + (more.empty() ? "" : "," + more) + "}";
}

inline telemetry::client open_client(const std::string &more = "") {
  std::error_code failed;
  telemetry::client client = telemetry::client::open(config(more), failed);
  CHECK(!failed && client);
  return client;
}

/* Enqueues this process's event number `seq`, which must be taken. One write a line: threads and forks do not mix. */
inline void put(const telemetry::client &client, long seq) {
  const std::string pid = std::to_string(getpid()), number = std::to_string(seq);
  CHECK(!client.enqueue(R"({"event":"c++","pid":)" + pid + R"(,"seq":)" + number + "}"));
  const std::string line = pid + " " + number + "\n";
  CHECK(write(1, line.data(), line.size()) == static_cast<ssize_t>(line.size()));
}

inline pid_t fork_quietly() { return std::getenv("TEST_QUIET_FORK") ? quiet_fork() : fork(); }

/* Runs `child` in a fork, where it must return 0 and leaves through exit(), which destroys no local. */
template <class Function>
void in_child(Function child) {
  const pid_t pid = fork_quietly();
  CHECK(pid >= 0);
  if (pid == 0) {
    alarm(500);
    std::exit(child());
  }
  int status = -1;
  CHECK(waitpid(pid, &status, 0) == pid);
  CHECK(status == 0);
}

#endif
