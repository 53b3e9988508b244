#include "server/engine/adapter_weights.h"
#include "server/engine/generation_params.h"
#include "server/engine/module_table.h"

namespace graft {

absl::string_view BaseFamilyName(BaseFamily family) {
  switch (family) {
    case BaseFamily::kSd1:
      return "SD 1.x";
    case BaseFamily::kSd2:
      return "SD 2.x";
    case BaseFamily::kSdxl:
      return "SDXL";
    case BaseFamily::kOther:
      return "other";
  }
  return "other";
}

const AdapterFactor* AdapterTarget::Find(FactorRole role) const {
  for (const AdapterFactor& factor : factors) {
    if (factor.role == role) return &factor;
  }
  return nullptr;
}

const std::vector<std::string>& SamplerNames() {
  static const auto* const names =
      new std::vector<std::string>{"ddim", "euler", "euler_a", "dpmpp_2m"};
  return *names;
}

}  // namespace graft
