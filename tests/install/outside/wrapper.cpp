// A program of somebody else's with the C++ header: as app.c, and the destructor delivers.
#include <telemetry.hpp>
#include <telemetry.hpp>

#include <cstdio>
#include <string>

unsigned other_unit();

int main(int argc, char **argv) {
  if (argc != 3) return 2;
  {
    telemetry::client client("{\"endpoint\":\"" + std::string(argv[1]) + "\"}");
    if (client.enqueue("{\"event\":\"" + std::string(argv[2]) + "\"}")) return 3;
  }
  std::printf("%s %u\n", std::string(telemetry::version()).c_str(), other_unit());
}
