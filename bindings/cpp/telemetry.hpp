/*
 * libtelemetry for C++17 and later: one owning handle over telemetry.h, which has the whole story of each call.
 *
 *   telemetry::client client(R"({"endpoint":"http://127.0.0.1:8080"})");
 *   client.enqueue(R"({"event":"hello"})");      // here, and in every fork of this process
 *                                                // the destructor delivers
 *
 * Header-only: compile with -I of both headers, link with -ltelemetry (pkg-config telemetry, CMake
 * telemetry::telemetry).
 *
 * - Every member forwards to one C function, adds no lock, thread or state, and is noexcept, but for the constructor
 *   that opens. With -fno-exceptions only that one is missing: use client::open. -fno-rtti is fine.
 * - Errors are std::error_code of telemetry::errc, and text for logs: telemetry::last_error().
 * - Threads: const members may be called on one object by any number of threads at once. Move, assignment, reset and
 *   destruction need the object alone, as with any handle.
 * - Fork: an object is valid in every child, whichever way and by whichever thread it was forked. The parent's events
 *   stay the parent's, the child's queue starts empty; a child that ends through exit() or destroys its object
 *   delivers its own, one that ends through _exit() runs nothing (with `spool_dir` a sibling delivers).
 */
#ifndef TELEMETRY_HPP
#define TELEMETRY_HPP

#include "telemetry.h"

#include <chrono>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <new>
#include <string>
#include <string_view>
#include <system_error>
#include <type_traits>
#include <utility>

namespace telemetry {

/** What a call came to, as an error code: `if (ec == telemetry::errc::full)`. The numbers are those of telemetry.h. */
enum class errc : telemetry_status {
  /** Done, or the event was taken: an error code of this value is false. */
  ok = TELEMETRY_OK,
  /** The queue is full, the event was not taken. Equals std::errc::no_buffer_space. */
  full = TELEMETRY_FULL,
  /** Larger than `max_event_bytes`. Equals std::errc::message_size. */
  too_large = TELEMETRY_TOO_LARGE,
  /** Shut down, in this process or before the fork that made it. Equals std::errc::bad_file_descriptor. */
  closed = TELEMETRY_CLOSED,
  /** The deadline came first. Equals std::errc::timed_out. */
  timeout = TELEMETRY_TIMEOUT,
  /** A bad argument or configuration, or an object without a handle. Equals std::errc::invalid_argument. */
  invalid = TELEMETRY_INVALID,
  /** The operating system refused something, or there is no memory. Equals std::errc::io_error. */
  io = TELEMETRY_IO,
  /** A defect of the library was caught; this client is dead. Equals std::errc::state_not_recoverable. */
  internal = TELEMETRY_INTERNAL,
};

} // namespace telemetry

template <>
struct std::is_error_code_enum<telemetry::errc> : std::true_type {};

namespace telemetry {
namespace detail {

class category final : public std::error_category {
public:
  constexpr category() noexcept = default;
  const char *name() const noexcept override { return "telemetry"; }
  std::string message(int value) const override { return telemetry_status_str(value); }
  std::error_condition default_error_condition(int value) const noexcept override {
    switch (static_cast<errc>(value)) {
    case errc::ok: return std::error_condition();
    case errc::full: return std::errc::no_buffer_space;
    case errc::too_large: return std::errc::message_size;
    case errc::closed: return std::errc::bad_file_descriptor;
    case errc::timeout: return std::errc::timed_out;
    case errc::invalid: return std::errc::invalid_argument;
    case errc::io: return std::errc::io_error;
    case errc::internal: return std::errc::state_not_recoverable;
    }
    return std::error_condition(value, *this); // of a newer library
  }
};

/* There before main and never destroyed: clients of static storage may use it until the very end, in any order. */
union category_holder {
  constexpr category_holder() noexcept : value() {}
  ~category_holder() {}
  category value;
};
inline category_holder the_category;

/* NUL-terminated copy of `text`, or nothing if there is no memory. A NUL inside must be refused, and not cut the text
   short: it becomes another byte that JSON forbids, so that the library's parser says where it is. */
inline std::unique_ptr<char[]> c_string(std::string_view text) noexcept {
  std::unique_ptr<char[]> copy(new (std::nothrow) char[text.size() + 1]);
  if (copy) {
    for (std::size_t i = 0; i < text.size(); i++) copy[i] = text[i] ? text[i] : '\x01';
    copy[text.size()] = '\0';
  }
  return copy;
}

/* Whole milliseconds, rounded up, within what the C functions take: nothing is negative, and nothing overflows. */
template <class Rep, class Period>
constexpr std::uint32_t milliseconds(std::chrono::duration<Rep, Period> time) noexcept {
  const double exact = std::chrono::duration<double, std::milli>(time).count();
  if (!(exact > 0)) return 0;
  if (exact >= 4294967295.0) return UINT32_MAX;
  const auto whole = static_cast<std::uint32_t>(exact);
  return static_cast<double>(whole) < exact ? whole + 1u : whole;
}

} // namespace detail

/** The category of errc: name() is "telemetry", message() what telemetry_status_str says. */
[[nodiscard]] inline const std::error_category &telemetry_category() noexcept { return detail::the_category.value; }

/** Makes `std::error_code ec = telemetry::errc::full` work. */
[[nodiscard]] inline std::error_code make_error_code(errc value) noexcept {
  return {static_cast<int>(value), telemetry_category()};
}

/**
 * This thread's last error in words, "" if there was none: for logs only, decide by the code. May throw
 * std::bad_alloc.
 */
[[nodiscard]] inline std::string last_error() {
  std::string text(telemetry_last_error(nullptr, 0), '\0');
  if (!text.empty()) telemetry_last_error(&text[0], text.size() + 1);
  return text;
}

/** The version of the library that runs, such as "0.1.0". */
[[nodiscard]] inline std::string_view version() noexcept { return telemetry_version(); }

/** The number of its binary interface, which grows when something is added. */
[[nodiscard]] inline std::uint32_t abi_version() noexcept { return telemetry_abi_version(); }

/** Gets the library's lines. noexcept by type: no exception may leave it. Must neither call the library nor fork. */
using log_function = void (*)(telemetry_level level, const char *message, void *user) noexcept;

/**
 * Sends the library's own lines, from `level` on, to `log` instead of stderr, for all clients of this process and of
 * children forked afterwards; nullptr restores stderr. `user` is handed to `log` as it is. Call it before other
 * threads use the library. A lambda without captures will do:
 *
 *   telemetry::set_logger([](telemetry_level, const char *line, void *) noexcept { std::cerr << line << '\n'; });
 */
inline void set_logger(log_function log, void *user = nullptr, telemetry_level level = TELEMETRY_WARN) noexcept {
  telemetry_set_logger(log, user, level);
}

/**
 * Says which worker of its server this process is: 1, 2, 3, ... to 65535; 0 is none. `"$worker"` in the configured
 * `context` is replaced by it. Inherited by forks: call it first thing in a new worker. Any thread may; no client need
 * be open. Errors: invalid above 65535.
 */
inline std::error_code set_worker(std::uint32_t number) noexcept {
  return make_error_code(static_cast<errc>(telemetry_set_worker(number)));
}

/** The id of an upload's content: 22 characters and a NUL; "" before it is known. */
struct upload_id {
  char text[23] = {};
  operator std::string_view() const noexcept { return text; }
};

/** An owned telemetry_t: one destination with its own queue. Move-only; as small as a pointer. */
class client {
public:
  /** Without a handle, as after a move: every call gives errc::invalid, stats() zeros. */
  constexpr client() noexcept = default;

  /** Takes over a handle of telemetry_open; nullptr is fine. */
  explicit client(telemetry_t *handle) noexcept : handle_(handle) {}

#if defined(__cpp_exceptions) || defined(__EXCEPTIONS)
  /**
   * Opens a client; `config` is one JSON object in UTF-8, "" means {}. What it leaves out is taken from the
   * environment. Starts no thread and opens no connection: a master may do it before it forks.
   *
   * Throws std::system_error: code() is errc::invalid or errc::io, what() names the key, the value and what is allowed.
   */
  explicit client(std::string_view config) {
    std::error_code failed;
    *this = open(config, failed);
    if (failed) throw std::system_error(failed, last_error());
  }
#endif

  /** The same without exceptions: on failure `failed` is set, the client has no handle, last_error() says why. */
  [[nodiscard]] static client open(std::string_view config, std::error_code &failed) noexcept {
    telemetry_t *handle = nullptr;
    const auto text = detail::c_string(config);
    failed = code(text ? telemetry_open(text.get(), &handle) : TELEMETRY_IO);
    return client(handle);
  }

  client(const client &) = delete;
  client &operator=(const client &) = delete;
  client(client &&other) noexcept : handle_(other.release()) {}

  /** What this object had is given back first, as by the destructor. */
  client &operator=(client &&other) noexcept {
    reset(other.release()); // right for itself, too: it has nothing by then
    return *this;
  }

  /**
   * Gives the handle back: delivers what this process enqueued, for at most `exit_timeout_ms` (default 1000 ms; at
   * once if the collector is known to be down). Other processes' copies live on. shutdown() before it says whether
   * all was delivered.
   */
  ~client() { telemetry_free(handle_); }

  /** Gives the handle back, as the destructor does, and takes over `handle`. */
  void reset(telemetry_t *handle = nullptr) noexcept { telemetry_free(std::exchange(handle_, handle)); }

  /** Whether there is a handle; a client that was shut down has one. */
  [[nodiscard]] explicit operator bool() const noexcept { return handle_ != nullptr; }

  /** The handle, for C functions; still owned by this object. */
  [[nodiscard]] telemetry_t *get() const noexcept { return handle_; }

  /** The handle, now owned by the caller, who gives it back with telemetry_free. */
  [[nodiscard]] telemetry_t *release() noexcept { return std::exchange(handle_, nullptr); }

  /**
   * Takes one event, one JSON object in UTF-8, which is copied. Never blocks (unless `on_full` is "block"), allocates
   * nothing, makes no system call on its common path. With `spool_dir` the event outlives the process once it was
   * taken.
   *
   * Not [[nodiscard]]: to go on without looking is right in most places, as what was refused is counted in stats().
   * Errors: full, too_large, closed, invalid (no bytes), internal.
   */
  std::error_code enqueue(std::string_view event) const noexcept { return enqueue(event.data(), event.size()); }

  /** The same for `size` bytes at `event`. */
  std::error_code enqueue(const void *event, std::size_t size) const noexcept {
    return code(telemetry_enqueue(handle_, event, size));
  }

  /**
   * Delivers what this process took before the call, and waits for it at most `timeout`: any std::chrono duration,
   * rounded up to milliseconds, at most 49 days. Zero or less only asks: ok if nothing is pending, else timeout, and
   * delivery is set going.
   *
   * Errors: timeout (it stays in the queue), invalid, internal.
   */
  template <class Rep, class Period>
  [[nodiscard]] std::error_code flush(std::chrono::duration<Rep, Period> timeout) const noexcept {
    return code(telemetry_flush(handle_, detail::milliseconds(timeout)));
  }

  /**
   * Closes the client in this process: takes no more events, delivers what was taken within `timeout`, ends thread and
   * connection. Idempotent. Children forked later have it closed; closing it in a child leaves the parent's open.
   *
   * Errors: timeout (not everything was delivered; with `spool_dir` the rest stays there), invalid, internal.
   */
  template <class Rep, class Period>
  [[nodiscard]] std::error_code shutdown(std::chrono::duration<Rep, Period> timeout) const noexcept {
    return code(telemetry_shutdown(handle_, detail::milliseconds(timeout)));
  }

  /** What happened in this process since the client was opened or the process was forked; zeros without a handle. */
  [[nodiscard]] telemetry_stats_t stats() const noexcept {
    telemetry_stats_t out{};
    telemetry_stats(handle_, &out, sizeof out);
    return out;
  }

  /**
   * Takes one upload for Langfuse: `size` bytes at `data`, which are copied. `meta` is one JSON object ("contentType",
   * "field", "traceId", ...: telemetry_upload in telemetry.h). On success `*id` gets the
   * content's id, if it is wanted.
   *
   * Errors: invalid (last_error() says what is allowed), too_large, full, closed, io (no memory), internal.
   */
  [[nodiscard]] std::error_code upload(std::string_view meta, const void *data, std::size_t size,
                                       upload_id *id = nullptr) const noexcept {
    const auto text = detail::c_string(meta);
    if (!text) return errc::io;
    return code(telemetry_upload(handle_, text.get(), data, size, id ? id->text : nullptr, id ? sizeof id->text : 0));
  }

  /** The same for the regular file that `meta` names in "file". */
  [[nodiscard]] std::error_code upload_file(std::string_view meta, upload_id *id = nullptr) const noexcept {
    return upload(meta, nullptr, 0, id);
  }

private:
  static std::error_code code(telemetry_status status) noexcept { return make_error_code(static_cast<errc>(status)); }

  telemetry_t *handle_ = nullptr;
};

} // namespace telemetry

#endif // TELEMETRY_HPP
