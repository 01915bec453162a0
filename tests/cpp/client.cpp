/*
 * Everything telemetry.hpp offers, one case a run: `client CASE`. Compiled as C++17 and C++20, with and without
 * exceptions and RTTI, against the shared and the static library, with sanitizers.
 */
#include "check.hpp"

#include <atomic>
#include <cmath>
#include <cstring>
#include <limits>
#include <string_view>
#include <system_error>
#include <thread>
#include <type_traits>
#include <utility>
#include <vector>

#include <sys/stat.h>

using namespace std::chrono_literals;
using telemetry::client;
using telemetry::errc;

#if defined(__cpp_exceptions)
#define EXCEPTIONS 1
#else
#define EXCEPTIONS 0
#endif

/* ---- what the types promise ---- */

static_assert(sizeof(client) == sizeof(void *));
static_assert(!std::is_copy_constructible_v<client> && !std::is_copy_assignable_v<client>);
static_assert(std::is_nothrow_move_constructible_v<client> && std::is_nothrow_move_assignable_v<client>);
static_assert(std::is_nothrow_default_constructible_v<client> && std::is_nothrow_destructible_v<client>);
static_assert(std::is_nothrow_swappable_v<client>);
static_assert(!std::is_convertible_v<telemetry_t *, client> && !std::is_convertible_v<const char *, client>);
static_assert(!std::is_convertible_v<client, bool> && !std::is_convertible_v<client, int>);
static_assert(std::is_error_code_enum_v<errc> && !std::is_error_condition_enum_v<errc>);
static_assert(noexcept(std::declval<const client &>().enqueue(std::string_view())));
static_assert(noexcept(std::declval<const client &>().enqueue(nullptr, 0)));
constexpr auto second = 1s; // the literal itself is not noexcept
static_assert(noexcept(std::declval<const client &>().flush(second)));
static_assert(noexcept(std::declval<const client &>().shutdown(second)));
static_assert(noexcept(std::declval<const client &>().stats()) && noexcept(std::declval<client &>().reset()));
static_assert(noexcept(client::open("", std::declval<std::error_code &>())));
static_assert(noexcept(std::declval<const client &>().upload("", nullptr, 0)) && noexcept(telemetry::set_worker(1)));
// A logger that may throw does not compile.
static_assert(!std::is_convertible_v<void (*)(telemetry_level, const char *, void *), telemetry::log_function>);
static_assert(std::is_constructible_v<client, std::string_view> == EXCEPTIONS);

using telemetry::detail::milliseconds;
static_assert(milliseconds(0ms) == 0 && milliseconds(1ms) == 1 && milliseconds(2s) == 2000);
static_assert(milliseconds(1500us) == 2 && milliseconds(1ns) == 1, "a little is not a poll");
static_assert(milliseconds(-1ns) == 0 && milliseconds(-5s) == 0 && milliseconds(std::chrono::hours::min()) == 0);
static_assert(milliseconds(std::chrono::nanoseconds::min()) == 0 && milliseconds(1200h) == UINT32_MAX);
static_assert(milliseconds(std::chrono::nanoseconds::max()) == UINT32_MAX);
static_assert(milliseconds(std::chrono::hours::max()) == UINT32_MAX);
static_assert(milliseconds(4294967294ms) == UINT32_MAX - 1 && milliseconds(4294967295ms) == UINT32_MAX);
static_assert(milliseconds(4294967296ms) == UINT32_MAX && milliseconds(4294967294s) == UINT32_MAX);
static_assert(milliseconds(std::chrono::duration<double>(0.25)) == 250);
static_assert(milliseconds(std::chrono::duration<float>(std::numeric_limits<float>::infinity())) == UINT32_MAX);
static_assert(milliseconds(std::chrono::duration<unsigned char>(255)) == 255000);

/* ---- opening ---- */

static void opening() {
  std::error_code failed = errc::full;
  CHECK(client::open(config(), failed) && !failed);

  const client misspelt = client::open(R"({"endpont":"x"})", failed);
  CHECK(failed == errc::invalid && !misspelt);
  CHECK(telemetry::last_error().find("endpont") != std::string::npos);
  CHECK(telemetry::last_error().find("endpoint") != std::string::npos);

  // The view need not end with a NUL, and one inside is refused.
  const std::string text = config() + "and more";
  CHECK(client::open(std::string_view(text).substr(0, config().size()), failed) && !failed);
  CHECK(!client::open(text, failed) && failed == errc::invalid);
  for (const std::string &nul : {config() + '\0', R"({"endpoint":"file:/dev/null)" + std::string(1, '\0') + R"("})"}) {
    CHECK(!client::open(nul, failed) && failed == errc::invalid);
    CHECK(telemetry::last_error().find("JSON") != std::string::npos);
  }

  // Nothing means {}: the environment says the rest.
  setenv("TELEMETRY_ENDPOINT", "gopher://x", 1);
  for (std::string_view nothing : {std::string_view(), std::string_view("")}) {
    CHECK(!client::open(nothing, failed) && failed == errc::invalid);
    CHECK(telemetry::last_error().find("gopher") != std::string::npos);
  }
  setenv("TELEMETRY_ENDPOINT", endpoint().c_str(), 1);
  const client by_environment = client::open({}, failed);
  CHECK(by_environment && !failed);
  put(by_environment, 0);
  CHECK(!by_environment.flush(120s));

#if EXCEPTIONS
  client thrown(config());
  put(thrown, 1);
  bool caught = false;
  try {
    thrown = client(R"({"queue_bytes":"many"})");
  } catch (const std::system_error &error) {
    caught = true;
    CHECK(error.code() == errc::invalid && error.code() == std::errc::invalid_argument);
    CHECK(std::strstr(error.what(), "queue_bytes"));
  }
  CHECK(caught && thrown);
  put(thrown, 2); // what it had is still there
  CHECK(!thrown.shutdown(120s));
#endif
}

/* ---- error codes ---- */

const std::error_category &category_of_another_unit() noexcept; // other.cpp

/* Two segments, and nobody who takes anything: full after some 30 events of 4 KB. */
static const std::string nowhere = R"({"endpoint":"http://127.0.0.1:1","exit_timeout_ms":1,)";
static const std::string tiny = R"("queue_bytes":131072,"segment_bytes":65536,"max_event_bytes":4096)";
static const std::string event = R"({"a":")" + std::string(4000, 'x') + "\"}";

static void errors() {
  const std::error_category &category = telemetry::telemetry_category();
  CHECK(std::string_view(category.name()) == "telemetry" && category == category_of_another_unit());
  const struct {
    errc code;
    std::errc condition;
    const char *name;
  } all[] = {
      {errc::full, std::errc::no_buffer_space, "TELEMETRY_FULL"},
      {errc::too_large, std::errc::message_size, "TELEMETRY_TOO_LARGE"},
      {errc::closed, std::errc::bad_file_descriptor, "TELEMETRY_CLOSED"},
      {errc::timeout, std::errc::timed_out, "TELEMETRY_TIMEOUT"},
      {errc::invalid, std::errc::invalid_argument, "TELEMETRY_INVALID"},
      {errc::io, std::errc::io_error, "TELEMETRY_IO"},
      {errc::internal, std::errc::state_not_recoverable, "TELEMETRY_INTERNAL"},
  };
  int number = 0;
  for (const auto &one : all) {
    const std::error_code code = one.code;
    CHECK(code && code.value() == ++number && code.category() == category);
    CHECK(code == one.code && code == one.condition);
    CHECK(code.message().find(one.name) == 0);
    for (const auto &other : all) {
      CHECK((code == other.code) == (one.code == other.code));
      CHECK((code == other.condition) == (one.code == other.code));
    }
    CHECK(code != std::error_code(number, std::generic_category()));
  }
  CHECK(!std::error_code(errc::ok) && std::error_code(errc::ok) == std::error_condition());
  const std::error_code newer(1234, category); // of a library that knows more
  CHECK(newer && newer != std::errc::invalid_argument && newer.default_error_condition().category() == category);
  CHECK(!newer.message().empty());

  CHECK(!telemetry::version().empty() && telemetry::version() == telemetry_version());
  CHECK(telemetry::abi_version() == telemetry_abi_version() && telemetry::abi_version() > 0);

  // Each of them where it really comes from.
  const client nobody;
  CHECK(nobody.enqueue("{}") == errc::invalid && nobody.stats().accepted == 0);
  CHECK(nobody.flush(1s) == errc::invalid && nobody.shutdown(1s) == errc::invalid);
  CHECK(nobody.upload("{}", "x", 1) == errc::invalid && nobody.upload_file("{}") == errc::invalid);

  const client small = open_client(R"("max_event_bytes":1024)");
  CHECK(small.enqueue(std::string(1025, ' ')) == errc::too_large && small.enqueue("") == errc::invalid);
  CHECK(small.enqueue(std::string_view()) == errc::invalid && small.enqueue(nullptr, 5) == errc::invalid);
  CHECK(small.stats().dropped_too_large == 1);

  std::error_code failed;
  const client deaf = client::open(nowhere + tiny + "}", failed);
  CHECK(!failed);
  int taken = 0;
  while (!(failed = deaf.enqueue(event))) CHECK(++taken < 100);
  CHECK(failed == errc::full && failed == std::errc::no_buffer_space);
  CHECK(taken > 10 && deaf.stats().accepted == static_cast<std::uint64_t>(taken) && deaf.stats().dropped_full == 1);
  CHECK(deaf.flush(0s) == errc::timeout && deaf.flush(-1h) == errc::timeout);
  CHECK(deaf.flush(std::chrono::duration<double>(std::nan(""))) == errc::timeout);
  CHECK(deaf.flush(1500us) == std::errc::timed_out && deaf.shutdown(1ms) == errc::timeout);
  CHECK(deaf.enqueue("{}") == errc::closed);
  CHECK(deaf.enqueue(event.data(), event.size()) == std::errc::bad_file_descriptor);
  CHECK(deaf); // shut, and there
}

/* ---- ownership ---- */

static void ownership() {
  client a = open_client(), b;
  telemetry_t *handle = a.get();
  put(a, 0);
  b = std::move(a);
  CHECK(!a && !a.get() && b && b.get() == handle);
  CHECK(a.enqueue("{}") == errc::invalid && a.flush(1s) == errc::invalid && a.stats().accepted == 0);
  put(b, 1);
  client c(std::move(b));
  CHECK(!b && c.get() == handle && c.stats().accepted == 2);
  client &same = c;
  c = std::move(same);
  CHECK(c.get() == handle);

  client d = open_client();
  put(d, 2);
  std::swap(c, d);
  CHECK(d.get() == handle && c.stats().accepted == 1);

  // What reset and an assignment give back is delivered when they return.
  char path[] = "/tmp/telemetry-events-XXXXXX";
  const int file = mkstemp(path);
  struct stat after;
  off_t size = 0;
  for (bool assign : {false, true}) {
    std::error_code failed;
    client to_file = client::open(R"({"endpoint":"file:)" + std::string(path) + "\"}", failed);
    CHECK(!failed && !to_file.enqueue("{}"));
    if (assign) to_file = client();
    else to_file.reset();
    CHECK(!to_file && fstat(file, &after) == 0 && after.st_size > size);
    size = after.st_size;
    to_file.reset();
  }
  CHECK(unlink(path) == 0 && close(file) == 0);

  std::vector<client> many;
  for (long i = 0; i < 5; i++) many.push_back(open_client());
  for (long i = 0; i < 5; i++) put(many[static_cast<std::size_t>(i)], 10 + i);
  many.erase(many.begin());

  // To C and back.
  telemetry_t *raw = d.release();
  CHECK(raw == handle && !d && telemetry_enqueue(raw, "{}", 2) == TELEMETRY_OK);
  client adopted(raw);
  CHECK(adopted.stats().accepted == 3 && adopted.stats().invalid == 0);
  CHECK(!adopted.flush(120s) && adopted.stats().delivered == 3);
  d.reset(adopted.release());
  put(d, 3);
  telemetry_free(d.release()); // delivers
}

/* ---- stats, flush, shutdown ---- */

static void delivery() {
  const client client = open_client(R"("batch":{"max_age_ms":3600000})");
  CHECK(!client.flush(0s) && client.stats().accepted == 0);
  for (long i = 0; i < 100; i++) put(client, i);
  CHECK(!client.flush(std::chrono::hours::max()));
  const telemetry_stats_t stats = client.stats();
  CHECK(stats.accepted == 100 && stats.delivered == 100 && stats.queue_events == 0 && stats.sender_starts >= 1);
  put(client, 100);
  CHECK(!client.shutdown(std::chrono::duration<double>(120.0)) && !client.shutdown(0s));
  CHECK(client.stats().delivered == 101 && client.flush(0s) == std::error_code(errc::ok));
}

/* ---- the logger ---- */

static std::atomic<int> lines{0};

static void logger() {
  std::atomic<int> context{0};
  telemetry::set_logger(
      [](telemetry_level level, const char *message, void *user) noexcept {
        CHECK(level >= TELEMETRY_ERROR && level <= TELEMETRY_DEBUG && *message);
        ++*static_cast<std::atomic<int> *>(user);
        ++lines;
      },
      &context, TELEMETRY_DEBUG);
  std::error_code failed;
  client deaf = client::open(nowhere + R"("queue_bytes":2097152})", failed);
  CHECK(!failed && !deaf.enqueue("{}"));
  for (int left = 600; lines == 0; left--) CHECK(left > 0 && deaf.flush(200ms) == errc::timeout);
  deaf.reset();
  CHECK(lines > 0 && context == lines.load());
  telemetry::set_logger(nullptr);
  const int before = lines;
  deaf = client::open(nowhere + tiny + "}", failed);
  CHECK(!failed);
  while (!deaf.enqueue(event)) { // until it is full, which is said
  }
  for (int left = 600; deaf.stats().retries < 2; left--) CHECK(left > 0 && deaf.flush(200ms) == errc::timeout);
  CHECK(lines == before); // on stderr, where the test looks for it: that it is full, and why
}

/* ---- uploads ---- */

static void uploads() {
  std::error_code failed;
  const std::string as_langfuse = R"(","format":"langfuse","basic":"pk:sk"})";
  const client langfuse = client::open(R"({"endpoint":")" + endpoint() + as_langfuse, failed);
  CHECK(!failed);
  const std::string_view meta = R"({"contentType":"text/plain","field":"input","traceId":"t"})";
  telemetry::upload_id id, of_file;
  CHECK(std::string_view(id).empty());
  CHECK(!langfuse.upload(meta, "hello", 5, &id) && std::string_view(id).size() == 22);

  char path[] = "/tmp/telemetry-upload-XXXXXX";
  const int file = mkstemp(path);
  CHECK(file >= 0 && write(file, "hello", 5) == 5 && close(file) == 0);
  const std::string with_file = std::string(meta.substr(0, meta.size() - 1)) + R"(,"file":")" + path + "\"}";
  CHECK(!langfuse.upload_file(with_file, &of_file) && std::string_view(of_file) == std::string_view(id));
  CHECK(unlink(path) == 0);
  CHECK(langfuse.upload_file(with_file) == errc::invalid); // gone
  CHECK(!langfuse.upload(meta, "again", 5));

  const telemetry::upload_id before = id;
  CHECK(langfuse.upload(R"({"contentType":"text/plain"})", "x", 1, &id) == errc::invalid);
  CHECK(telemetry::last_error().find("traceId") != std::string::npos);
  CHECK(std::string_view(id) == std::string_view(before));
  CHECK(langfuse.upload(std::string(meta) + '\0', "x", 1) == errc::invalid);
  CHECK(!langfuse.flush(120s) && langfuse.stats().uploads == 3 && langfuse.stats().uploaded == 3);
}

/* ---- forks ---- */

static void forks() {
  client parent = open_client();
  put(parent, 0);
  put(parent, 1);
  in_child([&] {
    CHECK(parent && parent.stats().accepted == 0); // it starts empty
    put(parent, 0);
    in_child([&] {
      put(parent, 0);
      client own = open_client();
      put(own, 1);
      own = std::move(parent); // both are delivered: one here, one at exit
      return 0;
    });
    put(parent, 1);
    return 0; // through exit(), which delivers
  });
  put(parent, 2);
  in_child([&] {
    put(parent, 0);
    CHECK(!parent.flush(120s) && parent.stats().delivered == 1);
    put(parent, 1);
    CHECK(!parent.shutdown(120s) && parent.enqueue("{}") == errc::closed);
    _exit(0);
    return 1;
  });
  in_child([&] {
    put(parent, 0);
    { const client here(std::move(parent)); } // delivered
    _exit(parent ? 1 : 0);
    return 1;
  });
  put(parent, 3); // neither closed nor freed by what the children did
  CHECK(!parent.shutdown(120s) && parent.stats().delivered == 4);
  in_child([&] { return parent.enqueue("{}") == errc::closed ? 0 : 1; });
}

/* Forks while other threads enqueue through the same object. */
static void forks_in_the_middle() {
  const client shared = open_client(R"("queue_bytes":67108864)");
  std::atomic<bool> over{false};
  std::atomic<int> to_come{0};
  std::vector<std::thread> threads;
  for (int i = 0; i < 3; i++) threads.emplace_back([&, i] {
    for (long seq = i * 1000000; !over; std::this_thread::yield())
      while (to_come > 0) to_come--, put(shared, seq++);
  });
  for (int i = 0; i < 20; i++) {
    to_come = 1000;
    while (to_come > 900) std::this_thread::yield();
    const pid_t pid = fork();
    CHECK(pid >= 0);
    if (pid == 0) {
      alarm(500);
      for (long seq = 0; seq < 50; seq++) put(shared, seq);
      std::exit(shared.flush(120s) ? 1 : 0);
    }
    int status = -1;
    CHECK(waitpid(pid, &status, 0) == pid && status == 0);
  }
  over = true;
  for (std::thread &thread : threads) thread.join();
  CHECK(!shared.flush(120s));
}

/* ---- threads ---- */

static void threads() {
  client client = open_client();
  std::vector<std::thread> all;
  for (int i = 0; i < 4; i++) all.emplace_back([&client, i] {
    for (long seq = 0; seq < 500; seq++) put(client, i * 1000 + seq);
    CHECK(!client.flush(120s) && client.stats().accepted >= 500);
  });
  for (std::thread &thread : all) thread.join();
  CHECK(client.stats().delivered == 2000);
  put(client, 5000);
  // Shut by one while others enqueue: each gets its answer.
  all.clear();
  std::atomic<long> next{6000};
  for (int i = 0; i < 3; i++) all.emplace_back([&] {
    while (client.enqueue("{}") != errc::closed) next++;
  });
  while (next < 6500) std::this_thread::yield();
  CHECK(!client.shutdown(120s));
  for (std::thread &thread : all) thread.join();
}

/* ---- static storage, and the worker's number ---- */

static client global; // constant-initialised: nothing runs before main

static void at_exit() {
  global = open_client();
  put(global, 0);
  in_child([] {
    put(global, 0);
    return 0; // exit() destroys `global`
  });
  put(global, 1);
}

static void worker() {
  CHECK(telemetry::set_worker(65536) == errc::invalid && !telemetry::set_worker(7));
  const client client = open_client(R"("context":{"worker":"$worker"})");
  put(client, 0);
  in_child([&] {
    put(client, 0);
    CHECK(!telemetry::set_worker(8));
    put(client, 1);
    return 0;
  });
  CHECK(!client.flush(120s));
}

int main(int argc, char **argv) {
  const struct {
    const char *name;
    void (*run)();
  } cases[] = {
      {"opening", opening},     {"errors", errors},   {"ownership", ownership},
      {"delivery", delivery},   {"logger", logger},   {"uploads", uploads},
      {"forks", forks},         {"threads", threads}, {"forks_in_the_middle", forks_in_the_middle},
      {"at_exit", at_exit},     {"worker", worker},
  };
  alarm(500);
  for (const auto &one : cases)
    if (argc == 2 && std::string_view(argv[1]) == one.name) return one.run(), 0;
  if (argc == 1)
    for (const auto &one : cases) std::puts(one.name);
  return argc == 1 ? 0 : 2;
}
