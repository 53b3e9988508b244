#include "tests/scheduling/schedule_trace.h"

#include <cmath>
#include <random>
#include <sstream>

#include "absl/status/status.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"

namespace graft {
namespace {

// Ranks 0, 1, ... `count` - 1, rank k with a weight of 1 / (k + 1).
std::discrete_distribution<int> Zipf(int count) {
  std::vector<double> weights;
  for (int i = 1; i <= count; ++i) weights.push_back(1.0 / i);
  return {weights.begin(), weights.end()};
}

// False if the fields are not those of a request.
bool ParseRequest(const std::vector<std::string>& fields,
                  SimulatedRequest* request) {
  if (fields.size() < 2 || fields.size() > 7) return false;
  if (!absl::SimpleAtod(fields[0], &request->arrival) ||
      !std::isfinite(request->arrival) ||
      !absl::SimpleAtoi(fields[1], &request->adapter)) {
    return false;
  }
  if (fields.size() > 2 && !absl::SimpleAtoi(fields[2], &request->steps)) {
    return false;
  }
  if (fields.size() > 3 && !absl::SimpleAtoi(fields[3], &request->images)) {
    return false;
  }
  if (fields.size() > 4 && !absl::SimpleAtoi(fields[4], &request->pixels)) {
    return false;
  }
  if (fields.size() > 5) request->tenant = fields[5];
  if (fields.size() > 6) {
    if (fields[6] != "interactive" && fields[6] != "batch") return false;
    if (fields[6] == "batch") request->priority = Priority::kBatch;
  }
  return request->steps > 0 && request->images > 0 && request->pixels > 0;
}

}  // namespace

Trace GenerateTrace(const TraceOptions& options) {
  std::mt19937_64 random(options.seed);
  std::exponential_distribution<double> gap(options.per_second);
  std::discrete_distribution<int> adapter = Zipf(options.adapters);
  std::discrete_distribution<int> tenant = Zipf(options.tenants);
  Trace trace;
  double now = 0;
  for (int i = 0; i < options.requests; ++i) {
    now += gap(random);
    SimulatedRequest request;
    request.arrival = now;
    request.pixels = options.pixels;
    request.adapter = adapter(random);
    request.tenant = absl::StrCat("tenant-", tenant(random));
    trace.push_back(std::move(request));
  }
  return trace;
}

absl::StatusOr<Trace> ParseTrace(const std::string& text) {
  Trace trace;
  std::istringstream lines(text);
  std::string line;
  for (int number = 1; std::getline(lines, line); ++number) {
    const std::vector<std::string> fields =
        absl::StrSplit(line, absl::ByAnyChar(" \t\r"), absl::SkipEmpty());
    if (fields.empty() || fields[0][0] == '#') continue;
    SimulatedRequest request;
    if (!ParseRequest(fields, &request) ||
        (!trace.empty() && request.arrival < trace.back().arrival)) {
      return absl::InvalidArgumentError(absl::StrCat(
          "line ", number,
          " is not \"arrival adapter [steps [images [pixels [tenant "
          "[interactive|batch]]]]]\", in order of arrival"));
    }
    trace.push_back(std::move(request));
  }
  return trace;
}

}  // namespace graft
