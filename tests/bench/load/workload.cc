#include "tests/bench/load/workload.h"

#include <algorithm>
#include <cmath>
#include <iterator>
#include <utility>

#include "absl/status/status.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"

namespace graft::load {
namespace {

constexpr absl::string_view kColours[] = {"red",    "green", "blue",
                                          "yellow", "pink",  "black"};
constexpr absl::string_view kShapes[] = {"circle", "square", "triangle",
                                         "star",   "heart",  "ring"};

template <size_t n>
absl::string_view Pick(const absl::string_view (&words)[n],
                       RandomSource& random) {
  return words[random.Bits() % n];
}

bool ParseCount(absl::string_view text, uint32_t& number) {
  return absl::SimpleAtoi(text, &number) && number > 0;
}

}  // namespace

absl::StatusOr<ImageKind> ParseImageKind(absl::string_view text) {
  ImageKind kind;
  const std::vector<absl::string_view> parts = absl::StrSplit(text, ':');
  const std::vector<absl::string_view> sides = absl::StrSplit(parts[0], 'x');
  const bool good =
      sides.size() == 2 && parts.size() >= 2 && parts.size() <= 4 &&
      ParseCount(sides[0], kind.width) && ParseCount(sides[1], kind.height) &&
      ParseCount(parts[1], kind.steps) &&
      (parts.size() < 3 || ParseCount(parts[2], kind.count)) &&
      (parts.size() < 4 || (absl::SimpleAtod(parts[3], &kind.share) &&
                            std::isfinite(kind.share) && kind.share > 0));
  if (good) return kind;
  return absl::InvalidArgumentError(
      absl::StrCat("\"", text, "\" is not WIDTHxHEIGHT:STEPS[:COUNT[:SHARE]]"));
}

Workload::Workload(Options options)
    : options_(std::move(options)),
      popularity_(std::max<size_t>(options_.adapters.size(), 1),
                  options_.zipf_exponent),
      random_(options_.seed) {}

v1::GenerateImageRequest Workload::Next() {
  const ImageKind& kind = DrawKind();
  v1::GenerateImageRequest request;
  request.set_prompt(
      absl::StrCat("a ", Pick(kColours, random_), " ", Pick(kShapes, random_)));
  request.set_width(kind.width);
  request.set_height(kind.height);
  request.set_steps(kind.steps);
  request.set_count(kind.count);
  request.set_guidance_scale(options_.guidance_scale);
  request.set_seed(random_.Bits() >> 32);
  if (!options_.adapters.empty()) {
    request.add_adapters()->set_name(
        options_.adapters[popularity_.Draw(random_)]);
  }
  return request;
}

const ImageKind& Workload::DrawKind() {
  double total = 0;
  for (const ImageKind& kind : options_.kinds) total += kind.share;
  double left = random_.Uniform() * total;
  for (const ImageKind& kind : options_.kinds) {
    left -= kind.share;
    if (left < 0) return kind;
  }
  return options_.kinds.back();  // rounding
}

}  // namespace graft::load
