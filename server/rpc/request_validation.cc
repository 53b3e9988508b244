#include "server/rpc/request_validation.h"

#include <algorithm>
#include <charconv>
#include <cmath>
#include <iterator>
#include <type_traits>
#include <utility>

#include "absl/strings/ascii.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "server/adapters/adapter_id.h"
#include "server/common/error.h"
#include "server/common/status_macros.h"

namespace graft {
namespace {

constexpr size_t kSha256Digits = 64;

// NaN and infinities are out of every range.
template <typename Number>
absl::Status CheckRange(absl::string_view field, Number value,
                        std::type_identity_t<Number> min,
                        std::type_identity_t<Number> max) {
  if (value >= min && value <= max) return absl::OkStatus();
  return InvalidField(field, absl::StrCat("must be between ", min, " and ", max,
                                          ", not ", value));
}

absl::Status CheckPrompt(absl::string_view field, const std::string& prompt,
                         const RequestLimits& limits) {
  if (static_cast<int64_t>(prompt.size()) <= limits.max_prompt_bytes) {
    return absl::OkStatus();
  }
  return InvalidField(field,
                      absl::StrCat("has ", prompt.size(), " bytes; at most ",
                                   limits.max_prompt_bytes, " are allowed"));
}

// A side in pixels; 0 stands for `default_side`.
absl::StatusOr<int> ValidateSide(absl::string_view field, uint32_t value,
                                 int default_side,
                                 const RequestLimits& limits) {
  if (value == 0) return default_side;
  GRAFT_RETURN_IF_ERROR(
      CheckRange(field, int64_t{value}, limits.min_side, limits.max_side));
  if (value % kSideMultiple != 0) {
    const uint32_t below = value - value % kSideMultiple;
    return InvalidField(
        field,
        absl::StrCat("must be a multiple of ", kSideMultiple, ", not ", value,
                     "; try ", below, " or ", below + kSideMultiple));
  }
  return static_cast<int>(value);
}

absl::StatusOr<std::string> ValidateSampler(
    const std::string& sampler, const GenerationDefaults& defaults) {
  if (sampler.empty()) return defaults.sampler;
  const std::vector<std::string>& names = SamplerNames();
  if (std::find(names.begin(), names.end(), sampler) != names.end()) {
    return sampler;
  }
  return InvalidField(
      "sampler", absl::StrCat("must be one of ", absl::StrJoin(names, ", "),
                              ", not \"", EscapeUntrusted(sampler, 64), "\""));
}

absl::StatusOr<Priority> ValidatePriority(v1::Priority priority) {
  switch (priority) {
    case v1::PRIORITY_UNSPECIFIED:
    case v1::PRIORITY_INTERACTIVE:
      return Priority::kInteractive;
    case v1::PRIORITY_BATCH:
      return Priority::kBatch;
    default:
      return InvalidField("priority",
                          absl::StrCat("must be PRIORITY_INTERACTIVE (1) or "
                                       "PRIORITY_BATCH (2), not ",
                                       static_cast<int>(priority)));
  }
}

absl::Status CheckWeights(absl::string_view field, double weight,
                          double text_encoder_weight,
                          const RequestLimits& limits) {
  const double max = limits.max_adapter_weight;
  GRAFT_RETURN_IF_ERROR(
      CheckRange(absl::StrCat(field, ".weight"), weight, -max, max));
  return CheckRange(absl::StrCat(field, ".text_encoder_weight"),
                    text_encoder_weight, -max, max);
}

// One range of a schedule; `adapter` has the weights of ranges that say none.
absl::StatusOr<WeightRange> ValidateRange(const v1::WeightRange& range,
                                          absl::string_view field,
                                          const AdapterChoice& adapter,
                                          const RequestLimits& limits) {
  WeightRange checked{.from = WidenFloat(range.from()),
                      .to = WidenFloat(range.to()),
                      .weight = adapter.weight,
                      .text_encoder_weight = adapter.text_encoder_weight};
  GRAFT_RETURN_IF_ERROR(
      CheckRange(absl::StrCat(field, ".from"), checked.from, 0.0, 1.0));
  GRAFT_RETURN_IF_ERROR(
      CheckRange(absl::StrCat(field, ".to"), checked.to, 0.0, 1.0));
  if (checked.from >= checked.to) {
    return InvalidField(absl::StrCat(field, ".to"),
                        absl::StrCat("must be above from, which is ",
                                     checked.from, ", not ", checked.to));
  }
  if (range.has_weight()) {
    checked.weight = checked.text_encoder_weight = WidenFloat(range.weight());
  }
  if (range.has_text_encoder_weight()) {
    checked.text_encoder_weight = WidenFloat(range.text_encoder_weight());
  }
  GRAFT_RETURN_IF_ERROR(
      CheckWeights(field, checked.weight, checked.text_encoder_weight, limits));
  return checked;
}

absl::StatusOr<std::vector<WeightRange>> ValidateSchedule(
    const v1::AdapterRef& ref, absl::string_view adapter_field,
    const AdapterChoice& adapter, const RequestLimits& limits) {
  const std::string schedule_field = absl::StrCat(adapter_field, ".schedule");
  if (ref.schedule_size() > kMaxScheduleRanges) {
    return InvalidField(
        schedule_field,
        absl::StrCat("at most ", kMaxScheduleRanges,
                     " ranges are allowed, not ", ref.schedule_size()));
  }
  std::vector<WeightRange> schedule;
  for (int i = 0; i < ref.schedule_size(); ++i) {
    const std::string field = absl::StrCat(schedule_field, "[", i, "]");
    GRAFT_ASSIGN_OR_RETURN(
        const WeightRange range,
        ValidateRange(ref.schedule(i), field, adapter, limits));
    for (const WeightRange& other : schedule) {
      if (range.from < other.to && other.from < range.to) {
        return InvalidField(
            field, absl::StrCat("the range ", range.from, "-", range.to,
                                " overlaps with ", other.from, "-", other.to,
                                "; ranges may touch, not overlap"));
      }
    }
    schedule.push_back(range);
  }
  std::sort(schedule.begin(), schedule.end(),
            [](const WeightRange& a, const WeightRange& b) {
              return a.from < b.from;
            });
  return schedule;
}

absl::StatusOr<AdapterChoice> ValidateAdapter(const v1::AdapterRef& ref,
                                              absl::string_view field,
                                              const RequestLimits& limits) {
  AdapterChoice choice;
  choice.name = ref.name();
  GRAFT_RETURN_IF_ERROR(
      ValidateAdapterName(ref.name(), absl::StrCat(field, ".name")));
  GRAFT_ASSIGN_OR_RETURN(
      choice.sha256,
      ValidateSha256(ref.sha256(), absl::StrCat(field, ".sha256")));
  if (ref.has_weight()) choice.weight = WidenFloat(ref.weight());
  choice.text_encoder_weight = ref.has_text_encoder_weight()
                                   ? WidenFloat(ref.text_encoder_weight())
                                   : choice.weight;
  GRAFT_RETURN_IF_ERROR(
      CheckWeights(field, choice.weight, choice.text_encoder_weight, limits));
  GRAFT_ASSIGN_OR_RETURN(choice.schedule,
                         ValidateSchedule(ref, field, choice, limits));
  return choice;
}

absl::StatusOr<std::vector<AdapterChoice>> ValidateAdapters(
    const v1::GenerateImageRequest& request, const RequestLimits& limits) {
  if (request.adapters_size() > limits.max_adapters) {
    return InvalidField(
        "adapters",
        absl::StrCat("at most ", limits.max_adapters,
                     " adapters are allowed, not ", request.adapters_size()));
  }
  std::vector<AdapterChoice> choices;
  for (int i = 0; i < request.adapters_size(); ++i) {
    const std::string field = absl::StrCat("adapters[", i, "]");
    GRAFT_ASSIGN_OR_RETURN(AdapterChoice choice,
                           ValidateAdapter(request.adapters(i), field, limits));
    for (const AdapterChoice& other : choices) {
      if (other.name == choice.name) {
        return InvalidField(
            absl::StrCat(field, ".name"),
            absl::StrCat("adapter \"", choice.name,
                         "\" is named twice; name it once, with the sum of "
                         "the weights"));
      }
    }
    choices.push_back(std::move(choice));
  }
  return choices;
}

}  // namespace

absl::StatusOr<GenerationRequest> ValidateGenerateImageRequest(
    const v1::GenerateImageRequest& request, const RequestLimits& limits,
    const GenerationDefaults& defaults, uint64_t fresh_seed) {
  GenerationRequest checked;
  GenerationParams& params = checked.params;
  GRAFT_RETURN_IF_ERROR(CheckPrompt("prompt", request.prompt(), limits));
  GRAFT_RETURN_IF_ERROR(
      CheckPrompt("negative_prompt", request.negative_prompt(), limits));
  params.prompt = request.prompt();
  params.negative_prompt = request.negative_prompt();
  GRAFT_ASSIGN_OR_RETURN(params.width, ValidateSide("width", request.width(),
                                                    defaults.width, limits));
  GRAFT_ASSIGN_OR_RETURN(params.height, ValidateSide("height", request.height(),
                                                     defaults.height, limits));
  GRAFT_RETURN_IF_ERROR(
      CheckRange("steps", int64_t{request.steps()}, 1, limits.max_steps));
  params.steps = static_cast<int>(request.steps());
  params.guidance_scale = request.has_guidance_scale()
                              ? WidenFloat(request.guidance_scale())
                              : defaults.guidance_scale;
  GRAFT_RETURN_IF_ERROR(CheckRange("guidance_scale", params.guidance_scale, 0.0,
                                   limits.max_guidance_scale));
  GRAFT_ASSIGN_OR_RETURN(params.sampler,
                         ValidateSampler(request.sampler(), defaults));
  params.seed = request.has_seed() ? request.seed() : fresh_seed;
  if (request.count() != 0) {
    GRAFT_RETURN_IF_ERROR(
        CheckRange("count", int64_t{request.count()}, 1, limits.max_count));
    checked.count = static_cast<int>(request.count());
  }
  GRAFT_ASSIGN_OR_RETURN(checked.priority,
                         ValidatePriority(request.priority()));
  GRAFT_ASSIGN_OR_RETURN(checked.adapters, ValidateAdapters(request, limits));
  // An interval beyond the last step asks for none.
  if (request.preview_interval() < request.steps()) {
    checked.preview_interval = static_cast<int>(request.preview_interval());
  }
  return checked;
}

absl::Status ValidateAdapterName(absl::string_view name,
                                 absl::string_view field) {
  if (IsValidAdapterId(name)) return absl::OkStatus();
  return InvalidField(
      field, absl::StrCat("\"", EscapeUntrusted(name, 160),
                          "\" is no adapter name: a name has 1 to 128 letters, "
                          "digits, dots, underscores and hyphens and starts "
                          "with a letter or digit"));
}

absl::StatusOr<std::string> ValidateSha256(absl::string_view sha256,
                                           absl::string_view field) {
  const bool valid =
      sha256.empty() ||
      (sha256.size() == kSha256Digits &&
       std::all_of(sha256.begin(), sha256.end(),
                   [](unsigned char c) { return absl::ascii_isxdigit(c); }));
  if (valid) return absl::AsciiStrToLower(sha256);
  return InvalidField(field, absl::StrCat("must be empty or ", kSha256Digits,
                                          " hexadecimal digits"));
}

double WidenFloat(float value) {
  char buffer[32];
  const auto end = std::to_chars(std::begin(buffer), std::end(buffer), value);
  double widened = value;
  std::from_chars(buffer, end.ptr, widened);
  return widened;
}

}  // namespace graft
