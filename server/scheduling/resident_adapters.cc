#include "server/scheduling/resident_adapters.h"

#include <algorithm>
#include <utility>

#include "server/common/status_macros.h"

namespace graft {

std::vector<AppliedAdapter> ToAppliedAdapters(
    const std::vector<RequestedAdapter>& adapters) {
  std::vector<AppliedAdapter> applied;
  applied.reserve(adapters.size());
  for (const RequestedAdapter& adapter : adapters) {
    applied.push_back({adapter.handle.name(), adapter.handle.sha256(),
                       adapter.weight, adapter.text_encoder_weight});
  }
  return applied;
}

absl::StatusOr<SwitchReport> ResidentAdapters::SwitchTo(
    const std::vector<RequestedAdapter>& adapters) {
  AdapterSet next;
  next.reserve(adapters.size());
  for (const RequestedAdapter& adapter : adapters) {
    next.push_back({adapter.handle.prepared(), adapter.weight,
                    adapter.text_encoder_weight});
  }
  GRAFT_ASSIGN_OR_RETURN(SwitchReport report, engine_->SwitchAdapters(next));
  absl::MutexLock lock(&mu_);
  adapters_ = ToAppliedAdapters(adapters);
  return report;
}

absl::Status ResidentAdapters::Release(absl::string_view sha256) {
  const std::vector<AppliedAdapter> resident = Get();
  const bool merged = std::any_of(
      resident.begin(), resident.end(),
      [&](const AppliedAdapter& adapter) { return adapter.sha256 == sha256; });
  return merged ? SwitchTo({}).status() : absl::OkStatus();
}

std::vector<AppliedAdapter> ResidentAdapters::Get() const {
  absl::MutexLock lock(&mu_);
  return adapters_;
}

}  // namespace graft
