// Prints what policies of sharing a device would give, without a device:
//
//   schedule_simulator                        the table of loads and policies
//   schedule_simulator --model sd15 --tenants 4
//   schedule_simulator --trace arrivals.txt   for a recorded trace

#include <CLI/CLI.hpp>
#include <cstdio>
#include <fstream>
#include <iostream>
#include <iterator>
#include <string>

#include "tests/scheduling/schedule_simulation.h"

namespace graft {
namespace {

struct NamedPolicy {
  const char* name;
  SimulatedPolicy policy;
};

constexpr NamedPolicy kPolicies[] = {
    {"fifo", SimulatedPolicy::kFifo},
    {"join", SimulatedPolicy::kJoin},
    {"round robin", SimulatedPolicy::kRoundRobin},
    {"unmerged mix", SimulatedPolicy::kUnmerged},
};

void PrintPolicies(const Trace& trace, const DeviceModel& device,
                   int max_batch_size) {
  for (const auto& [name, policy] : kPolicies) {
    const SimulationResult result =
        Simulate(trace, policy, device, max_batch_size);
    std::printf(
        "  %-12s p50 %8.2f s  p99 %8.2f s  %6.2f images/s  %.2f switches per "
        "request  passed over <= %d  fairness %.3f\n",
        name, result.p50, result.p99, result.images_per_second,
        result.switches_per_request, result.max_passed_over, result.fairness);
  }
}

int Run(int argc, char** argv) {
  CLI::App app("Simulates policies of sharing one device");
  std::string model = "sdxl";
  std::string trace_file;
  int max_batch_size = 4;
  TraceOptions options;
  app.add_option("--model", model)->check(CLI::IsMember({"sdxl", "sd15"}));
  app.add_option("--trace", trace_file)->check(CLI::ExistingFile);
  app.add_option("--max_batch_size", max_batch_size)
      ->check(CLI::PositiveNumber);
  app.add_option("--requests", options.requests)->check(CLI::PositiveNumber);
  app.add_option("--adapters", options.adapters)->check(CLI::PositiveNumber);
  app.add_option("--tenants", options.tenants)->check(CLI::PositiveNumber);
  app.add_option("--seed", options.seed);
  CLI11_PARSE(app, argc, argv);

  const DeviceModel device = model == "sdxl" ? SdxlModel() : Sd15Model();
  if (!trace_file.empty()) {
    std::ifstream file(trace_file);
    const absl::StatusOr<Trace> trace =
        ParseTrace(std::string(std::istreambuf_iterator<char>(file), {}));
    if (!trace.ok()) {
      std::cerr << trace_file << ": " << trace.status().message() << "\n";
      return 1;
    }
    PrintPolicies(*trace, device, max_batch_size);
    return 0;
  }
  options.pixels = device.pixels;
  const double alone = TimeAlone({.pixels = device.pixels}, device);
  for (const double load : {0.5, 0.8, 0.95, 1.1}) {
    options.per_second = load / alone;
    std::printf("%s, load %.2f\n", model.c_str(), load);
    PrintPolicies(GenerateTrace(options), device, max_batch_size);
  }
  return 0;
}

}  // namespace
}  // namespace graft

int main(int argc, char** argv) { return graft::Run(argc, argv); }
