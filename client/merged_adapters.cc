#include "client/merged_adapters.h"

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "client/console.h"

namespace graft {

nlohmann::ordered_json MergedAdaptersJson(const MergedAdapters& adapters) {
  nlohmann::ordered_json json = nlohmann::ordered_json::array();
  for (const v1::ResidentAdapter& adapter : adapters) {
    json.push_back(
        {{"name", adapter.name()},
         {"sha256", adapter.sha256()},
         {"weight", AsWritten(adapter.weight())},
         {"text_encoder_weight", AsWritten(adapter.text_encoder_weight())}});
  }
  return json;
}

std::string DescribeMergedAdapters(const MergedAdapters& adapters) {
  if (adapters.empty()) return "the base alone";
  return absl::StrJoin(
      adapters, ", ", [](std::string* out, const v1::ResidentAdapter& adapter) {
        absl::StrAppend(out, adapter.name(), "=",
                        FormatFloat(adapter.weight()));
      });
}

}  // namespace graft
