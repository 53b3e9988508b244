// What people write on command lines: an input is a line for each --adapter of
// `graft`, and the list of `graftd --export`.

#include <cmath>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/strings/str_join.h"
#include "absl/strings/str_split.h"
#include "absl/strings/string_view.h"
#include "client/adapter_option.h"
#include "client/option_checks.h"
#include "server/adapters/adapter_id.h"
#include "server/common/error.h"
#include "server/common/utf8.h"
#include "server/weight_export.h"
#include "tests/fuzz/fuzz_target.h"

namespace graft {
namespace {

std::string Number(double value) { return absl::StrFormat("%.17g", value); }

template <typename Message>
std::string Weights(const Message& message) {
  std::string text;
  if (message.has_weight()) text = "=" + Number(message.weight());
  if (message.has_text_encoder_weight()) {
    absl::StrAppend(&text, ":", Number(message.text_encoder_weight()));
  }
  return text;
}

// The options as kAdapterOptionForm has them.
std::vector<std::string> Print(const std::vector<v1::AdapterRef>& refs) {
  std::vector<std::string> texts;
  for (const v1::AdapterRef& ref : refs) {
    if (ref.schedule().empty()) texts.push_back(ref.name() + Weights(ref));
    for (const v1::WeightRange& range : ref.schedule()) {
      texts.push_back(absl::StrCat(ref.name(), Weights(range), "@",
                                   Number(range.from()), "-",
                                   Number(range.to())));
    }
  }
  return texts;
}

void CheckAdapterOptions(absl::string_view input) {
  const std::vector<std::string> texts = absl::StrSplit(input, '\n');
  const auto refs = ParseAdapterOptions(texts);
  if (!refs.ok()) {
    GRAFT_FUZZ_CHECK(absl::IsInvalidArgument(refs.status()));
    return;
  }
  for (const v1::AdapterRef& ref : *refs) GRAFT_FUZZ_CHECK(!ref.name().empty());
  const std::vector<std::string> printed = Print(*refs);
  const auto again = ParseAdapterOptions(printed);
  // A name may have any character, even those that end one; and "e-5-1" and
  // "-0.5" do not come back as they were.
  if (again.ok() && again->size() == refs->size()) {
    GRAFT_FUZZ_CHECK(Print(*again) == printed);
  }
}

void CheckExport(absl::string_view input) {
  const auto adapters = ParseExportList(input);
  if (!adapters.ok()) {
    GRAFT_FUZZ_CHECK(GetErrorReason(adapters.status()) ==
                     ErrorReason::kInvalidField);
    GRAFT_FUZZ_CHECK(IsValidUtf8(adapters.status().message()));
    return;
  }
  const std::string printed = absl::StrJoin(
      *adapters, ",", [](std::string* out, const ExportedAdapter& adapter) {
        absl::StrAppend(out, adapter.name, "=", Number(adapter.weight), ":",
                        Number(adapter.text_encoder_weight));
      });
  for (const ExportedAdapter& adapter : *adapters) {
    GRAFT_FUZZ_CHECK(IsValidAdapterId(adapter.name));
    GRAFT_FUZZ_CHECK(std::isfinite(adapter.weight));
    GRAFT_FUZZ_CHECK(std::isfinite(adapter.text_encoder_weight));
  }
  const auto again = ParseExportList(printed);
  GRAFT_FUZZ_CHECK(again.ok() && *again == *adapters);
}

void CheckOptions(const std::string& text) {
  GRAFT_FUZZ_CHECK(CheckUtf8(text).empty() == IsValidUtf8(text));
  CheckNumber(text);
  CheckSeconds(text);
}

}  // namespace

FuzzTarget DescribeFuzzTarget() {
  return {{"ink=0.8:0.5@0-0.4\nink@0.4-1\npastel", "a=1,b=-8:0.25,c",
           "ink=1e300", "a=nan", "x@y=z@0-1", "12", "0.5"},
          {"=", ":", "@", "-", ",", "\n", "0.4", "1e-3", "nan", "inf", "-8",
           "0x1p3", "ink", "\xff", "@0-1"},
          512};
}

}  // namespace graft

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  const std::string input(reinterpret_cast<const char*>(data), size);
  graft::CheckAdapterOptions(input);
  graft::CheckExport(input);
  graft::CheckOptions(input);
  return 0;
}
