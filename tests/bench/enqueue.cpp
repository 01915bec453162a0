/*
 * What telemetry.hpp adds to one telemetry_enqueue: both are called from the same loop as a C++ program would call them,
 * through the linker's table, with a look at the result, in bursts that are interleaved round by round.
 *
 * What could mislead: what enqueue.c says, which measures the C call itself. The sender is parked here, too.
 */
#include "telemetry.hpp"

#include "cores.h"
#include "library.h"
#include "timing.h"

#include <string_view>
#include <vector>

namespace {

constexpr std::size_t size = 256, calls = (3u << 20) / (40 + size);
constexpr int warm_up = 20; // rounds: more than three laps of the queue

// One burst: nanoseconds a call. `put` says whether an event was refused.
template <class Put>
__attribute__((noinline)) double burst(Put put) {
    bool refused = false;
    const std::uint64_t start = now_ns();
    for (std::size_t i = 0; i < calls; i++) refused |= put();
    const std::uint64_t end = now_ns();
    must(!refused, "an event was refused in a burst");
    return static_cast<double>(end - start) / static_cast<double>(calls);
}

telemetry::client open_parked() {
    std::error_code failed;
    telemetry::client client = telemetry::client::open(PARKED("coarse"), failed);
    must(!failed, "open");
    start_sender(client.get());
    return client;
}

void drain(const telemetry::client &client) {
    must(!client.flush(std::chrono::minutes(1)), "flush");
    spin_us(200); // the sender goes back to sleep
}

void print_case(const char *name, std::vector<double> &ns) {
    const double middle = median(ns.data(), ns.size());
    std::printf("{\"case\":\"%s\",\"size\":%zu,\"median_ns\":%.2f,\"min_ns\":%.2f,\"rounds\":%zu}\n", name, size, middle,
                ns[0], ns.size());
}

} // namespace

int main(int argc, char **argv) {
    if (argc != 3) {
        std::fputs("usage: enqueue++ LIBRARY ROUNDS\n", stderr);
        return 2;
    }
    load_library(argv[1]); // the one this is linked with, for library.h
    const int rounds = std::atoi(argv[2]);
    char *bytes = make_event(size, 1);
    const std::string_view event(bytes, size);
    {
        telemetry::client c = open_parked(), cpp = open_parked();
        telemetry_t *handle = c.get();
        pin_apart();
        std::vector<double> ns_c, ns_cpp;
        for (int round = 0; round < rounds + warm_up; round++) {
            const double in_c =
                burst([=] { return telemetry_enqueue(handle, event.data(), event.size()) != TELEMETRY_OK; });
            drain(c);
            const double in_cpp = burst([&] { return static_cast<bool>(cpp.enqueue(event)); });
            drain(cpp);
            if (round < warm_up) continue;
            ns_c.push_back(in_c);
            ns_cpp.push_back(in_cpp);
        }
        print_case("c", ns_c);
        print_case("c++", ns_cpp);
        close_client(c.release());
        close_client(cpp.release());
    }
    std::free(bytes);
}
