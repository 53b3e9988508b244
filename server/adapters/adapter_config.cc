#include "server/adapters/adapter_config.h"

#include <cmath>
#include <utility>

#include "absl/status/status.h"
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
constexpr int kMaxDepth = 4;
constexpr size_t kMaxPatterns = 4096;
constexpr int64_t kMaxExpressionMemory = int64_t{1} << 16;

absl::Status Malformed(absl::string_view problem) {
  return Error(ErrorReason::kAdapterCorrupt,
               absl::StrCat("metadata \"", kEntry, "\": ", problem,
                            "; save the adapter again"));
}

absl::StatusOr<Json> ParseObject(absl::string_view text) {
  bool too_deep = false;
  const Json::parser_callback_t check_depth =
      [&too_deep](int depth, Json::parse_event_t, Json&) {
        too_deep |= depth > kMaxDepth;
        return !too_deep;
      };
  const Json json = Json::parse(text.begin(), text.end(), check_depth,
                                /*allow_exceptions=*/false);
  if (too_deep || !json.is_object()) return Malformed("not a JSON object");
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

}  // namespace

absl::StatusOr<AdapterConfig> AdapterConfig::Parse(
    const std::map<std::string, std::string>& metadata) {
  AdapterConfig config;
  const auto entry = metadata.find(std::string(kEntry));
  if (entry == metadata.end()) return config;
  GRAFT_ASSIGN_OR_RETURN(const Json json, ParseObject(entry->second));
  for (const auto& [key, value] : json.items()) {
    const auto [component_name, name] = SplitKey(key);
    Component& component = config.components_[component_name];
    if (name == "lora_alpha") {
      GRAFT_ASSIGN_OR_RETURN(component.alpha, ToAlpha(key, value));
    } else if (name == "use_rslora") {
      if (!value.is_boolean()) return Malformed("\"use_rslora\" is no boolean");
      component.rank_stabilised = value.get<bool>();
    } else if (name == "alpha_pattern" && !value.is_null()) {
      if (!value.is_object() || value.size() > kMaxPatterns) {
        return Malformed("\"alpha_pattern\" is no object of usual size");
      }
      for (const auto& [pattern, alpha] : value.items()) {
        Pattern compiled{Compile(pattern)};
        if (!compiled.expression->ok()) {
          return Malformed(absl::StrCat("\"", EscapeUntrusted(pattern),
                                        "\" is no regular expression"));
        }
        GRAFT_ASSIGN_OR_RETURN(compiled.alpha, ToAlpha(pattern, alpha));
        component.alpha_patterns.push_back(std::move(compiled));
      }
    }
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
        FullMatch(short_path, *pattern.expression)) {
      alpha = pattern.alpha;
      break;
    }
  }
  if (!alpha.has_value() || *alpha == 0) return std::nullopt;
  return *alpha / (component->rank_stabilised ? std::sqrt(rank) : rank);
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
