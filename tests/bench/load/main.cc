// graft_load: drives a server of graft.v1.GenerationService and measures it.
//
//   graft_load --rate 3 --adapters style --adapter_count 200
//     open loop: Poisson arrivals, 3 a second
//   graft_load --gaps FILE [--rate 3]
//     open loop: recorded gaps, in their own tempo or in that of --rate
//   graft_load --concurrency 32
//     closed loop: how much the server can do; 1: what one client sees
//
// Prints a table on stderr and one JSON object on stdout (load_report.h).

#include <CLI/CLI.hpp>
#include <fstream>
#include <iostream>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/time/time.h"
#include "tests/bench/load/arrivals.h"
#include "tests/bench/load/load_report.h"
#include "tests/bench/load/load_runner.h"
#include "tests/bench/load/workload.h"

namespace graft::load {
namespace {

struct Flags {
  LoadRunner::Options runner;
  Workload::Options workload;
  double rate = 0;
  std::string gaps;
  int concurrency = 0;
  double seconds = 30;
  double warm_up_seconds = 0;
  double deadline_seconds = 0;
  std::vector<std::string> kinds = {"128x128:20"};
  std::string adapter_prefix = "style";
  int adapter_count = 0;
  std::string token_file;
};

void AddLoadFlags(CLI::App& app, Flags& flags) {
  app.add_option("--server", flags.runner.server, "HOST:PORT")
      ->capture_default_str();
  app.add_option("--connections", flags.runner.connections,
                 "Over which the requests are spread")
      ->capture_default_str()
      ->check(CLI::PositiveNumber);
  CLI::Option* const rate =
      app.add_option("--rate", flags.rate, "Open loop: requests a second")
          ->check(CLI::PositiveNumber);
  CLI::Option* const gaps =
      app.add_option("--gaps", flags.gaps,
                     "Open loop: a file with the seconds between requests, a "
                     "line each")
          ->check(CLI::ExistingFile);
  app.add_option("--concurrency", flags.concurrency,
                 "Closed loop: clients that each wait for their answer")
      ->check(CLI::PositiveNumber)
      ->excludes(rate)
      ->excludes(gaps);
  app.add_option("--seconds", flags.seconds, "That requests are sent for")
      ->capture_default_str()
      ->check(CLI::PositiveNumber);
  app.add_option("--warm_up", flags.warm_up_seconds,
                 "Seconds at the beginning that do not count")
      ->capture_default_str()
      ->check(CLI::NonNegativeNumber);
  app.add_option("--deadline", flags.deadline_seconds,
                 "Seconds that a request may take; 0: any")
      ->capture_default_str()
      ->check(CLI::NonNegativeNumber);
  app.add_flag("--abandon", flags.runner.abandon,
               "Cancel what is left after --seconds");
}

void AddWorkloadFlags(CLI::App& app, Flags& flags) {
  app.add_option("--image", flags.kinds,
                 "A kind of image, WIDTHxHEIGHT:STEPS[:COUNT[:SHARE]]; repeat "
                 "it for a mix")
      ->capture_default_str();
  app.add_option("--guidance", flags.workload.guidance_scale, "Guidance scale")
      ->capture_default_str();
  app.add_option("--adapters", flags.adapter_prefix,
                 "What the adapters' names begin with; three digits follow")
      ->capture_default_str();
  app.add_option("--adapter_count", flags.adapter_count,
                 "How many there are; 0: the base alone")
      ->capture_default_str()
      ->check(CLI::Range(0, 1000));
  app.add_option("--zipf", flags.workload.zipf_exponent,
                 "How uneven their popularity is; 0: not at all")
      ->capture_default_str()
      ->check(CLI::NonNegativeNumber);
  app.add_option("--seed", flags.workload.seed, "Of all random choices")
      ->capture_default_str();
  app.add_option("--token_file", flags.token_file,
                 "Bearer tokens, a line each: the tenants, in turn")
      ->check(CLI::ExistingFile);
}

std::vector<std::string> ReadLines(const std::string& path) {
  std::vector<std::string> lines;
  std::ifstream file(path);
  for (std::string line; std::getline(file, line);) {
    if (!line.empty()) lines.push_back(line);
  }
  return lines;
}

absl::StatusOr<Workload> MakeWorkload(const Flags& flags) {
  Workload::Options options = flags.workload;
  options.kinds.clear();
  for (const std::string& text : flags.kinds) {
    const absl::StatusOr<ImageKind> kind = ParseImageKind(text);
    if (!kind.ok()) return kind.status();
    options.kinds.push_back(*kind);
  }
  for (int i = 0; i < flags.adapter_count; ++i) {
    options.adapters.push_back(
        absl::StrFormat("%s%03d", flags.adapter_prefix, i));
  }
  return Workload(std::move(options));
}

absl::StatusOr<Arrivals> MakeArrivals(const Flags& flags) {
  const absl::Duration duration = absl::Seconds(flags.seconds);
  if (flags.gaps.empty()) {
    RandomSource random(flags.workload.seed);
    return PoissonArrivals(flags.rate, duration, random);
  }
  std::ifstream file(flags.gaps);
  absl::StatusOr<std::vector<absl::Duration>> gaps = ReadGaps(file);
  if (!gaps.ok()) return gaps.status();
  if (flags.rate > 0) gaps = ScaleGaps(*std::move(gaps), flags.rate);
  return RecordedArrivals(*gaps, duration);
}

absl::Status Run(const Flags& flags) {
  absl::StatusOr<Workload> workload = MakeWorkload(flags);
  if (!workload.ok()) return workload.status();
  LoadRunner::Options options = flags.runner;
  if (flags.deadline_seconds > 0) {
    options.deadline = absl::Seconds(flags.deadline_seconds);
  }
  if (!flags.token_file.empty()) options.tokens = ReadLines(flags.token_file);
  LoadRunner runner(options);
  const absl::Status connected = runner.Connect(absl::Seconds(10));
  if (!connected.ok()) return connected;

  const absl::Duration duration = absl::Seconds(flags.seconds);
  std::vector<Outcome> outcomes;
  if (flags.concurrency > 0) {
    outcomes = runner.RunClosedLoop(flags.concurrency, duration, *workload);
  } else {
    const absl::StatusOr<Arrivals> arrivals = MakeArrivals(flags);
    if (!arrivals.ok()) return arrivals.status();
    outcomes = runner.RunOpenLoop(*arrivals, duration, *workload);
  }
  const auto summary = Summarize(
      outcomes, {.from = absl::Seconds(flags.warm_up_seconds), .to = duration});
  std::cerr << ToTable(summary);
  std::cout << summary.dump(2) << std::endl;
  return absl::OkStatus();
}

int Main(int argc, char** argv) {
  CLI::App app("graft_load drives a server of graft.v1.GenerationService.",
               "graft_load");
  Flags flags;
  AddLoadFlags(app, flags);
  AddWorkloadFlags(app, flags);
  CLI11_PARSE(app, argc, argv);
  if (flags.concurrency == 0 && flags.rate == 0 && flags.gaps.empty()) {
    std::cerr << "graft_load: give --rate, --gaps or --concurrency\n";
    return 2;
  }
  const absl::Status status = Run(flags);
  if (status.ok()) return 0;
  std::cerr << "graft_load: " << status.message() << std::endl;
  return 1;
}

}  // namespace
}  // namespace graft::load

int main(int argc, char** argv) { return graft::load::Main(argc, argv); }
