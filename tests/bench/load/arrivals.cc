#include "tests/bench/load/arrivals.h"

#include <cmath>
#include <cstddef>
#include <numeric>
#include <string>
#include <utility>

#include "absl/status/status.h"
#include "absl/strings/ascii.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"

namespace graft::load {
namespace {

absl::Duration Sum(const std::vector<absl::Duration>& gaps) {
  return std::accumulate(gaps.begin(), gaps.end(), absl::ZeroDuration());
}

}  // namespace

Arrivals PoissonArrivals(double rate, absl::Duration duration,
                         RandomSource& random) {
  Arrivals arrivals;
  absl::Duration at = absl::ZeroDuration();
  while (true) {
    at += absl::Seconds(-std::log1p(-random.Uniform()) / rate);
    if (at >= duration) return arrivals;
    arrivals.push_back(at);
  }
}

Arrivals RecordedArrivals(const std::vector<absl::Duration>& gaps,
                          absl::Duration duration) {
  Arrivals arrivals;
  absl::Duration at = absl::ZeroDuration();
  for (size_t i = 0;; i = (i + 1) % gaps.size()) {
    at += gaps[i];
    if (at >= duration) return arrivals;
    arrivals.push_back(at);
  }
}

std::vector<absl::Duration> ScaleGaps(std::vector<absl::Duration> gaps,
                                      double rate) {
  const double factor = static_cast<double>(gaps.size()) / rate /
                        absl::ToDoubleSeconds(Sum(gaps));
  for (absl::Duration& gap : gaps) gap *= factor;
  return gaps;
}

absl::StatusOr<std::vector<absl::Duration>> ReadGaps(std::istream& text) {
  std::vector<absl::Duration> gaps;
  std::string line;
  for (int number = 1; std::getline(text, line); ++number) {
    const absl::string_view word = absl::StripAsciiWhitespace(line);
    if (word.empty() || word.front() == '#') continue;
    double seconds = 0;
    if (!absl::SimpleAtod(word, &seconds) || !std::isfinite(seconds) ||
        seconds < 0) {
      return absl::InvalidArgumentError(absl::StrCat(
          "line ", number, ": \"", word, "\" is no gap in seconds"));
    }
    gaps.push_back(absl::Seconds(seconds));
  }
  if (Sum(gaps) <= absl::ZeroDuration()) {
    return absl::InvalidArgumentError("there is no gap above 0");
  }
  return gaps;
}

}  // namespace graft::load
