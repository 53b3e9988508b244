#include "server/weight_export.h"

#include <cmath>
#include <filesystem>
#include <map>
#include <memory>
#include <nlohmann/json.hpp>
#include <system_error>
#include <utility>

#include "absl/strings/match.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "absl/strings/str_split.h"
#include "server/adapters/adapter_handle.h"
#include "server/adapters/adapter_id.h"
#include "server/adapters/adapter_source.h"
#include "server/adapters/adapter_store.h"
#include "server/common/error.h"
#include "server/common/status_macros.h"
#include "server/common/version.h"

namespace graft {
namespace {

constexpr absl::string_view kExtension = ".safetensors";

absl::Status Wrong(absl::string_view flag, absl::string_view why) {
  return Error(ErrorReason::kInvalidField, absl::StrCat("--", flag, ": ", why),
               {{"field", std::string(flag)}});
}

absl::StatusOr<double> ParseWeight(absl::string_view item,
                                   absl::string_view text) {
  double weight = 0;
  if (absl::SimpleAtod(text, &weight) && std::isfinite(weight)) return weight;
  return Wrong("export",
               absl::StrCat("\"", EscapeUntrusted(item), "\": the weight \"",
                            EscapeUntrusted(text), "\" is no number"));
}

absl::StatusOr<ExportedAdapter> ParseItem(absl::string_view item) {
  const std::pair<absl::string_view, absl::string_view> parts =
      absl::StrSplit(item, absl::MaxSplits('=', 1));
  ExportedAdapter adapter;
  adapter.name = std::string(parts.first);
  if (!IsValidAdapterId(parts.first)) {
    return Wrong("export",
                 absl::StrCat("\"", EscapeUntrusted(item),
                              "\" is not NAME[=WEIGHT[:TEXT_ENCODER_WEIGHT]], "
                              "with the name of a file NAME",
                              kExtension, " in --adapter_dir"));
  }
  if (!absl::StrContains(item, '=')) return adapter;
  const std::pair<absl::string_view, absl::string_view> weights =
      absl::StrSplit(parts.second, absl::MaxSplits(':', 1));
  GRAFT_ASSIGN_OR_RETURN(adapter.weight, ParseWeight(item, weights.first));
  adapter.text_encoder_weight = adapter.weight;
  if (absl::StrContains(parts.second, ':')) {
    GRAFT_ASSIGN_OR_RETURN(adapter.text_encoder_weight,
                           ParseWeight(item, weights.second));
  }
  return adapter;
}

// What tells later what is in the file.
std::map<std::string, std::string> Metadata(
    const std::vector<ExportedAdapter>& adapters,
    const std::vector<AdapterHandle>& handles, const EngineInfo& info) {
  nlohmann::ordered_json list = nlohmann::ordered_json::array();
  for (size_t i = 0; i < adapters.size(); ++i) {
    list.push_back({{"name", adapters[i].name},
                    {"sha256", handles[i].sha256()},
                    {"weight", adapters[i].weight},
                    {"text_encoder_weight", adapters[i].text_encoder_weight}});
  }
  return {{"graft_version", std::string(Version())},
          {"base_sha256", info.base_sha256},
          {"dtype", info.dtype},
          {"adapters", list.dump()}};
}

// Each adapter loaded and pinned, in order.
absl::StatusOr<std::vector<AdapterHandle>> LoadAll(
    const std::vector<ExportedAdapter>& adapters, AdapterStore& store) {
  std::vector<AdapterHandle> handles;
  for (const ExportedAdapter& adapter : adapters) {
    GRAFT_RETURN_IF_ERROR(
        store.Load({.path = absl::StrCat(adapter.name, kExtension)}).status());
    GRAFT_ASSIGN_OR_RETURN(AdapterHandle handle,
                           store.AcquireResident(adapter.name));
    handles.push_back(std::move(handle));
  }
  return handles;
}

std::string Describe(const std::vector<ExportedAdapter>& adapters) {
  if (adapters.empty()) return "the base alone";
  return absl::StrJoin(
      adapters, ", ", [](std::string* out, const ExportedAdapter& adapter) {
        absl::StrAppend(out, adapter.name, "=", adapter.weight);
        if (adapter.text_encoder_weight != adapter.weight) {
          absl::StrAppend(out, ":", adapter.text_encoder_weight);
        }
      });
}

}  // namespace

absl::StatusOr<std::vector<ExportedAdapter>> ParseExportList(
    absl::string_view text) {
  std::vector<ExportedAdapter> adapters;
  if (text.empty()) return adapters;
  for (const absl::string_view item : absl::StrSplit(text, ',')) {
    GRAFT_ASSIGN_OR_RETURN(ExportedAdapter adapter, ParseItem(item));
    for (const ExportedAdapter& other : adapters) {
      if (other.name == adapter.name) {
        return Wrong("export",
                     absl::StrCat("\"", adapter.name, "\" is named twice"));
      }
    }
    adapters.push_back(std::move(adapter));
  }
  return adapters;
}

absl::Status CheckExportFile(const std::string& file) {
  if (!absl::EndsWith(file, kExtension)) {
    return Wrong("export_to",
                 absl::StrCat("must be a FILE", kExtension, ", not \"",
                              EscapeUntrusted(file), "\""));
  }
  std::error_code error;
  const std::filesystem::path folder =
      std::filesystem::absolute(file, error).parent_path();
  if (std::filesystem::is_directory(folder, error)) return absl::OkStatus();
  return Wrong("export_to",
               absl::StrCat("there is no folder \"",
                            EscapeUntrusted(folder.string()), "\""));
}

absl::StatusOr<std::string> ExportMergedWeights(
    const std::vector<ExportedAdapter>& adapters, const std::string& file,
    const DaemonOptions& options, Engine& engine) {
  const AdapterSource source(
      {.directory = options.adapter_dir,
       .max_file_bytes = options.limits.max_adapter_file_bytes});
  AdapterStore::Options store_options;
  store_options.file_limits.max_header_bytes =
      static_cast<size_t>(options.limits.max_adapter_header_bytes);
  GRAFT_ASSIGN_OR_RETURN(const std::unique_ptr<AdapterStore> store,
                         AdapterStore::Create(&source, &engine, store_options));
  GRAFT_ASSIGN_OR_RETURN(const std::vector<AdapterHandle> handles,
                         LoadAll(adapters, *store));
  AdapterSet set;
  for (size_t i = 0; i < adapters.size(); ++i) {
    set.push_back({handles[i].prepared(), adapters[i].weight,
                   adapters[i].text_encoder_weight});
  }
  GRAFT_RETURN_IF_ERROR(engine.SwitchAdapters(set).status());
  GRAFT_RETURN_IF_ERROR(
      engine.ExportWeights(file, Metadata(adapters, handles, engine.info())));
  return absl::StrCat("exported ", Describe(adapters), " to ", file);
}

}  // namespace graft
