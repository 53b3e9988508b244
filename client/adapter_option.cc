#include "client/adapter_option.h"

#include <algorithm>
#include <optional>
#include <utility>

#include "absl/status/status.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/string_view.h"

namespace graft {
namespace {

// One --adapter, taken apart.
struct AdapterOption {
  std::string name;
  std::optional<float> weight;
  std::optional<float> text_encoder_weight;
  std::optional<std::pair<float, float>> range;
};

absl::Status Wrong(const std::string& text, absl::string_view why) {
  return absl::InvalidArgumentError(
      absl::StrCat("--adapter ", text, ": ", why));
}

absl::StatusOr<float> ParseNumber(const std::string& text,
                                  absl::string_view number,
                                  absl::string_view what) {
  float value = 0;
  if (absl::SimpleAtof(number, &value)) return value;
  return Wrong(text, absl::StrCat(what, " is no number: \"", number,
                                  "\"; write ", kAdapterOptionForm));
}

// `weights` is "WEIGHT[:TEXT_ENCODER_WEIGHT]".
absl::Status ParseWeights(const std::string& text, absl::string_view weights,
                          AdapterOption& option) {
  const size_t colon = weights.find(':');
  const absl::StatusOr<float> weight =
      ParseNumber(text, weights.substr(0, colon), "the weight");
  if (!weight.ok()) return weight.status();
  option.weight = *weight;
  if (colon == absl::string_view::npos) return absl::OkStatus();
  const absl::StatusOr<float> text_encoder_weight =
      ParseNumber(text, weights.substr(colon + 1), "the text encoder's weight");
  if (text_encoder_weight.ok()) {
    option.text_encoder_weight = *text_encoder_weight;
  }
  return text_encoder_weight.status();
}

// `range` is "FROM-TO".
absl::Status ParseRange(const std::string& text, absl::string_view range,
                        AdapterOption& option) {
  const size_t hyphen = range.find('-');
  if (hyphen == absl::string_view::npos) {
    return Wrong(text,
                 "after \"@\" comes a range of the steps, FROM-TO with "
                 "fractions as in @0-0.4");
  }
  const absl::StatusOr<float> from =
      ParseNumber(text, range.substr(0, hyphen), "the start of the steps");
  if (!from.ok()) return from.status();
  const absl::StatusOr<float> to =
      ParseNumber(text, range.substr(hyphen + 1), "the end of the steps");
  if (!to.ok()) return to.status();
  option.range.emplace(*from, *to);
  return absl::OkStatus();
}

absl::StatusOr<AdapterOption> ParseOption(const std::string& text) {
  AdapterOption option;
  absl::string_view rest = text;
  if (const size_t at = rest.rfind('@'); at != absl::string_view::npos) {
    const absl::Status status = ParseRange(text, rest.substr(at + 1), option);
    if (!status.ok()) return status;
    rest = rest.substr(0, at);
  }
  if (const size_t equals = rest.find('='); equals != absl::string_view::npos) {
    const absl::Status status =
        ParseWeights(text, rest.substr(equals + 1), option);
    if (!status.ok()) return status;
    rest = rest.substr(0, equals);
  }
  if (rest.empty()) return Wrong(text, "there is no name");
  option.name = std::string(rest);
  return option;
}

// AdapterRef and WeightRange have the same weights.
template <typename Message>
void SetWeights(const AdapterOption& option, Message& message) {
  if (option.weight) message.set_weight(*option.weight);
  if (option.text_encoder_weight) {
    message.set_text_encoder_weight(*option.text_encoder_weight);
  }
}

void AddRange(const AdapterOption& option, v1::AdapterRef& ref) {
  v1::WeightRange& range = *ref.add_schedule();
  range.set_from(option.range->first);
  range.set_to(option.range->second);
  SetWeights(option, range);
}

}  // namespace

absl::StatusOr<std::vector<v1::AdapterRef>> ParseAdapterOptions(
    const std::vector<std::string>& texts) {
  std::vector<v1::AdapterRef> refs;
  for (const std::string& text : texts) {
    const absl::StatusOr<AdapterOption> option = ParseOption(text);
    if (!option.ok()) return option.status();
    const auto known = std::find_if(refs.begin(), refs.end(), [&](auto& ref) {
      return ref.name() == option->name;
    });
    if (known == refs.end()) {
      refs.emplace_back().set_name(option->name);
      if (option->range) {
        AddRange(*option, refs.back());
      } else {
        SetWeights(*option, refs.back());
      }
    } else if (option->range && known->schedule_size() > 0) {
      AddRange(*option, *known);
    } else {
      return Wrong(text, absl::StrCat("\"", option->name,
                                      "\" is named more than once; give each a "
                                      "part of the steps, @FROM-TO"));
    }
  }
  return refs;
}

}  // namespace graft
