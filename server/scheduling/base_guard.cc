#include "server/scheduling/base_guard.h"

#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "server/common/error.h"

namespace graft {
namespace {

// "3 (a, b, ...)".
std::string Describe(const std::vector<std::string>& parameters) {
  constexpr size_t kShown = 3;
  std::vector<std::string> shown = parameters;
  if (shown.size() > kShown) {
    shown.resize(kShown);
    shown.emplace_back("...");
  }
  return absl::StrCat(parameters.size(), " (", absl::StrJoin(shown, ", "), ")");
}

absl::Status DriftError(const std::vector<std::string>& differing) {
  return Error(ErrorReason::kBaseWeightsDrift,
               absl::StrCat("parameters of the base that are not what was "
                            "loaded: ",
                            Describe(differing)),
               {{"parameters", absl::StrJoin(differing, ",")}});
}

absl::Status DamagedError(const std::string& why) {
  return Error(ErrorReason::kBaseWeightsDrift,
               absl::StrCat("the base's weights are damaged and could not be "
                            "repaired from the model's files (",
                            why, "); verify again, or restart the server"));
}

}  // namespace

absl::Status BaseGuard::status() const {
  absl::MutexLock lock(&mu_);
  return refusal_;
}

void BaseGuard::ReportDrift(const absl::Status& drift) {
  Enter(State::kSuspected, drift);
}

absl::StatusOr<VerifyReport> BaseGuard::Verify(bool repair) {
  absl::StatusOr<VerifyReport> report = resident_->VerifyBaseWeights(repair);
  if (on_verified_) on_verified_(report);
  if (!report.ok()) {
    // Says nothing about weights that nobody suspects.
    if (state_ != State::kIntact) {
      Enter(State::kDamaged,
            DamagedError(std::string(report.status().message())));
    }
    return report;
  }
  if (!report->differing.empty() && state_ == State::kIntact) {
    Enter(State::kSuspected, DriftError(report->differing));
  }
  if (report->unrepaired.empty()) {
    if (state_ != State::kIntact) Enter(State::kIntact, absl::OkStatus());
  } else if (repair) {
    Enter(State::kDamaged, DamagedError(Describe(report->unrepaired)));
  }
  return report;
}

void BaseGuard::Enter(State state, const absl::Status& status) {
  state_ = state;
  {
    absl::MutexLock lock(&mu_);
    refusal_ = state == State::kDamaged ? status : absl::OkStatus();
  }
  if (listener_) listener_(status);
}

}  // namespace graft
