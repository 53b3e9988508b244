#include "server/scheduling/resident_adapters.h"

#include <algorithm>
#include <utility>

#include "server/common/status_macros.h"
#include "server/scheduling/adapters_at_step.h"

namespace graft {

absl::StatusOr<SwitchReport> ResidentAdapters::SwitchTo(
    absl::Span<const RequestedAdapter> adapters, int step, int steps) {
  const absl::StatusOr<SwitchReport> report =
      engine_->SwitchAdapters(EngineSetAtStep(adapters, step, steps));
  // Else before every step, in vain.
  if (report.ok() && (report->changed || !known_)) {
    Set(AdaptersAtStep(adapters, step, steps));
  }
  known_ = report.ok();
  return report;
}

absl::Status ResidentAdapters::Release(absl::string_view sha256) {
  const std::vector<AppliedAdapter> resident = Get();
  const bool merged = std::any_of(
      resident.begin(), resident.end(),
      [&](const AppliedAdapter& adapter) { return adapter.sha256 == sha256; });
  return merged ? SwitchTo({}, 0, 1).status() : absl::OkStatus();
}

absl::StatusOr<VerifyReport> ResidentAdapters::VerifyBaseWeights(bool repair) {
  GRAFT_ASSIGN_OR_RETURN(VerifyReport report,
                         engine_->VerifyBaseWeights(repair));
  Set({});
  known_ = true;
  return report;
}

bool ResidentAdapters::empty() const {
  absl::MutexLock lock(&mu_);
  return adapters_.empty();
}

std::vector<AppliedAdapter> ResidentAdapters::Get() const {
  absl::MutexLock lock(&mu_);
  return adapters_;
}

void ResidentAdapters::Set(std::vector<AppliedAdapter> adapters) {
  absl::MutexLock lock(&mu_);
  adapters_ = std::move(adapters);
}

}  // namespace graft
