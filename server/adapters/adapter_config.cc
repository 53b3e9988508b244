#include "server/adapters/adapter_config.h"

#include <cmath>
#include <utility>

#include "absl/status/status.h"
#include "absl/strings/ascii.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/strip.h"
#include "nlohmann/json.hpp"
#include "server/common/error.h"
#include "server/common/status_macros.h"

namespace graft {
namespace {

// Keeps the order of members: of several patterns the first counts.
using Json = nlohmann::ordered_json;

constexpr absl::string_view kEntry = "lora_adapter_metadata";
constexpr absl::string_view kPeftFile = "adapter_config.json";
constexpr int kMaxDepth = 4;
constexpr int kMaxPeftDepth = 16;  // members that are not read may be anything
constexpr int kMaxKeys = 16384;    // inserting one compares it with the others
constexpr int kMaxValues = 32768;
// Each module is matched with the patterns, one after the other.
constexpr int kMaxPatterns = 1024;
constexpr size_t kMaxPatternBytes = 512;
constexpr int kMaxProgramSize = 65536;
constexpr int64_t kMaxExpressionMemory = int64_t{1} << 16;

std::string InConfiguration(absl::string_view problem) {
  return absl::StrCat("its configuration (\"", kEntry, "\" or ", kPeftFile,
                      "): ", problem);
}

absl::Status Malformed(absl::string_view problem) {
  return Error(
      ErrorReason::kAdapterCorrupt,
      absl::StrCat(InConfiguration(problem), "; save the adapter again"));
}

absl::Status Unsupported(absl::string_view problem) {
  return Error(ErrorReason::kAdapterKindUnsupported, InConfiguration(problem));
}

// Whether a configuration stays within the bounds, before anything is built of
// it. The parser's own filter is no help: the time that it takes grows with the
// square of an array's length.
class BoundsCheck final : public nlohmann::json_sax<Json> {
 public:
  explicit BoundsCheck(int max_depth) : max_depth_(max_depth) {}

  // Where parsing was stopped.
  const std::string& problem() const { return problem_; }

  bool start_object(size_t /*elements*/) override { return Descend(); }
  bool start_array(size_t /*elements*/) override { return Descend(); }
  bool end_object() override { return Ascend(); }
  bool end_array() override { return Ascend(); }

  bool key(Json::string_t& /*name*/) override {
    return ++keys_ <= kMaxKeys ||
           Fail(absl::StrCat("more than ", kMaxKeys, " keys"));
  }

  bool null() override { return CountValue(); }
  bool boolean(bool /*value*/) override { return CountValue(); }
  bool number_integer(Json::number_integer_t /*value*/) override {
    return CountValue();
  }
  bool number_unsigned(Json::number_unsigned_t /*value*/) override {
    return CountValue();
  }
  bool number_float(Json::number_float_t /*value*/,
                    const Json::string_t& /*literal*/) override {
    return CountValue();
  }
  bool string(Json::string_t& /*value*/) override { return CountValue(); }
  bool binary(Json::binary_t& /*value*/) override { return CountValue(); }

  bool parse_error(size_t position, const std::string& /*token*/,
                   const nlohmann::detail::exception& /*error*/) override {
    return Fail(absl::StrCat("not a JSON object (byte ", position, ")"));
  }

 private:
  bool Descend() {
    if (++depth_ > max_depth_) {
      return Fail(absl::StrCat("nested deeper than ", max_depth_));
    }
    return CountValue();
  }

  bool Ascend() {
    --depth_;
    return true;
  }

  bool CountValue() {
    return ++values_ <= kMaxValues ||
           Fail(absl::StrCat("more than ", kMaxValues, " values"));
  }

  bool Fail(std::string problem) {
    problem_ = std::move(problem);
    return false;
  }

  const int max_depth_;
  int depth_ = 0;
  int keys_ = 0;
  int values_ = 0;
  std::string problem_;
};

absl::StatusOr<Json> ParseObject(absl::string_view text, int max_depth) {
  if (text.size() > size_t{AdapterConfig::kMaxBytes}) {
    return Malformed(
        absl::StrCat("longer than ", AdapterConfig::kMaxBytes, " bytes"));
  }
  BoundsCheck bounds(max_depth);
  if (!Json::sax_parse(text.begin(), text.end(), &bounds)) {
    return Malformed(bounds.problem());
  }
  Json json = Json::parse(text.begin(), text.end(), /*cb=*/nullptr,
                          /*allow_exceptions=*/false);
  if (!json.is_object()) return Malformed("not a JSON object");
  return json;
}

absl::StatusOr<double> ToAlpha(absl::string_view key, const Json& value) {
  if (value.is_number()) return value.get<double>();
  return Malformed(
      absl::StrCat("\"", EscapeUntrusted(key), "\" is not a number"));
}

// PEFT matches the end of a module's path, from a dot on.
std::shared_ptr<const RE2> Compile(absl::string_view pattern) {
  RE2::Options options(RE2::Quiet);
  options.set_max_mem(kMaxExpressionMemory);
  // Modules' names are ASCII, and a "." is one instruction then.
  options.set_encoding(RE2::Options::EncodingLatin1);
  return std::make_shared<const RE2>(
      absl::StrCat("(?:.*\\.)?(?:", pattern, ")"), options);
}

bool FullMatch(absl::string_view path, const RE2& expression) {
  return RE2::FullMatch(re2::StringPiece(path.data(), path.size()), expression);
}

// Splits "unet.lora_alpha" into component and entry.
std::pair<std::string, absl::string_view> SplitKey(absl::string_view key) {
  const size_t dot = key.rfind('.');
  if (dot == absl::string_view::npos) return {"", key};
  return {std::string(key.substr(0, dot)), key.substr(dot + 1)};
}

// True for a member that is absent, null or empty: what PEFT writes for "no".
bool IsUnset(const Json& json, const char* name) {
  const auto member = json.find(name);
  return member == json.end() || member->is_null() || member->empty();
}

absl::StatusOr<bool> ToSwitch(absl::string_view name, const Json& value) {
  if (value.is_null()) return false;
  if (value.is_boolean()) return value.get<bool>();
  return Malformed(
      absl::StrCat("\"", EscapeUntrusted(name), "\" is no boolean"));
}

// Some ways to begin the factors take a part out of the base's weights and into
// them (PiSSA, arXiv:2404.02948, and the like): what was trained belongs to the
// rest, which is not the base that is served.
absl::Status CheckInitialisation(const Json& value) {
  if (value.is_null() || value.is_boolean()) return absl::OkStatus();
  if (!value.is_string()) {
    return Malformed("\"init_lora_weights\" is neither a boolean nor a name");
  }
  const auto& name = value.get_ref<const Json::string_t&>();
  const std::string lower = absl::AsciiStrToLower(name);
  if (lower == "gaussian" || lower == "eva" || lower == "orthogonal" ||
      lower == "mica") {
    return absl::OkStatus();
  }
  return Unsupported(absl::StrCat(
      "\"init_lora_weights\" is \"", EscapeUntrusted(name),
      "\", which is not supported: such an adapter is for changed base "
      "weights; ",
      // Which PEFT cannot convert.
      lower == "loftq" ? "train it without LoftQ"
                       : "save it with PEFT's "
                         "path_initial_model_for_weight_conversion"));
}

// Whatever else a folder asks for would be missing from the result.
absl::Status CheckPeftKind(const Json& json) {
  const std::string type = json.value("peft_type", Json()).is_string()
                               ? json["peft_type"].get<std::string>()
                               : "";
  if (type.empty()) return Malformed("\"peft_type\" is missing");
  if (type != "LORA") {
    return Unsupported(absl::StrCat("adapters of PEFT's type \"",
                                    EscapeUntrusted(type),
                                    "\" are not supported; save it as LORA"));
  }
  GRAFT_ASSIGN_OR_RETURN(
      const bool transposed,
      ToSwitch("fan_in_fan_out", json.value("fan_in_fan_out", Json())));
  if (transposed) {
    return Unsupported("\"fan_in_fan_out\" is not supported");
  }
  if (json.value("bias", Json("none")) != "none") {
    return Unsupported(
        "trained biases are not supported; \"bias\" must be "
        "\"none\"");
  }
  if (!IsUnset(json, "modules_to_save")) {
    return Unsupported("\"modules_to_save\" is not supported");
  }
  return absl::OkStatus();
}

}  // namespace

absl::Status AdapterConfig::ReadEntry(absl::string_view name, const Json& value,
                                      Component& component) {
  if (name == "lora_alpha") {
    GRAFT_ASSIGN_OR_RETURN(component.alpha, ToAlpha(name, value));
  } else if (name == "use_rslora") {
    GRAFT_ASSIGN_OR_RETURN(component.rank_stabilised, ToSwitch(name, value));
  } else if (name == "use_dora") {
    GRAFT_ASSIGN_OR_RETURN(component.uses_dora, ToSwitch(name, value));
  } else if (name == "lora_bias") {
    GRAFT_ASSIGN_OR_RETURN(component.uses_bias, ToSwitch(name, value));
  } else if (name == "init_lora_weights") {
    return CheckInitialisation(value);
  } else if (name == "alpha_pattern" && !value.is_null()) {
    return ReadPatterns(value, component);
  }
  return absl::OkStatus();
}

absl::Status AdapterConfig::ReadPatterns(const Json& value,
                                         Component& component) {
  if (!value.is_object()) return Malformed("\"alpha_pattern\" is no object");
  for (const auto& [pattern, alpha] : value.items()) {
    if (++num_patterns_ > kMaxPatterns) {
      return Malformed(absl::StrCat("\"alpha_pattern\" has more than ",
                                    kMaxPatterns, " patterns"));
    }
    if (pattern.size() > kMaxPatternBytes) {
      return Malformed(absl::StrCat("\"", EscapeUntrusted(pattern),
                                    "\" is longer than ", kMaxPatternBytes,
                                    " bytes"));
    }
    Pattern compiled{Compile(pattern)};
    if (!compiled.expression->ok()) {
      return Malformed(absl::StrCat("\"", EscapeUntrusted(pattern),
                                    "\" is no regular expression"));
    }
    program_size_ += compiled.expression->ProgramSize();
    if (program_size_ > kMaxProgramSize) {
      return Malformed(
          "the patterns of \"alpha_pattern\" are too complex; use plain names");
    }
    GRAFT_ASSIGN_OR_RETURN(compiled.alpha, ToAlpha(pattern, alpha));
    component.alpha_patterns.push_back(std::move(compiled));
  }
  return absl::OkStatus();
}

absl::StatusOr<AdapterConfig> AdapterConfig::ParsePeft(absl::string_view text) {
  GRAFT_ASSIGN_OR_RETURN(const Json json, ParseObject(text, kMaxPeftDepth));
  GRAFT_RETURN_IF_ERROR(CheckPeftKind(json));
  AdapterConfig config;
  // Without it the strength would be a guess.
  if (json.find("lora_alpha") == json.end()) {
    return Malformed("\"lora_alpha\" is missing");
  }
  Component& component = config.components_[""];
  for (const auto& [name, value] : json.items()) {
    GRAFT_RETURN_IF_ERROR(config.ReadEntry(name, value, component));
  }
  return config;
}

absl::StatusOr<AdapterConfig> AdapterConfig::Parse(
    const std::map<std::string, std::string>& metadata) {
  AdapterConfig config;
  const auto entry = metadata.find(std::string(kEntry));
  if (entry == metadata.end()) return config;
  GRAFT_ASSIGN_OR_RETURN(const Json json,
                         ParseObject(entry->second, kMaxDepth));
  for (const auto& [key, value] : json.items()) {
    const auto [component, name] = SplitKey(key);
    GRAFT_RETURN_IF_ERROR(
        config.ReadEntry(name, value, config.components_[component]));
  }
  return config;
}

std::optional<double> AdapterConfig::Scale(absl::string_view module,
                                           int rank) const {
  absl::string_view path;
  const Component* const component = Find(module, path);
  if (component == nullptr) return std::nullopt;
  const absl::string_view short_path = absl::StripPrefix(path, "text_model.");
  std::optional<double> alpha = component->alpha;
  for (const Pattern& pattern : component->alpha_patterns) {
    if (FullMatch(path, *pattern.expression) ||
        (short_path != path && FullMatch(short_path, *pattern.expression))) {
      alpha = pattern.alpha;
      break;
    }
  }
  if (!alpha.has_value() || *alpha == 0) return std::nullopt;
  return *alpha / (component->rank_stabilised ? std::sqrt(rank) : rank);
}

bool AdapterConfig::UsesDora(absl::string_view module) const {
  absl::string_view path;
  const Component* const component = Find(module, path);
  return component != nullptr && component->uses_dora;
}

bool AdapterConfig::UsesBias(absl::string_view module) const {
  absl::string_view path;
  const Component* const component = Find(module, path);
  return component != nullptr && component->uses_bias;
}

const AdapterConfig::Component* AdapterConfig::Find(
    absl::string_view module, absl::string_view& path) const {
  const size_t dot = module.find('.');
  path = module.substr(dot + 1);
  for (const absl::string_view name :
       {module.substr(0, dot), absl::string_view()}) {
    const auto component = components_.find(std::string(name));
    if (component != components_.end()) return &component->second;
  }
  return nullptr;
}

}  // namespace graft
