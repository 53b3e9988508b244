#include "server/scheduling/device_rate.h"

namespace graft {

void DeviceRate::Add(int64_t work, absl::Duration busy) {
  // About the last hundred steps count.
  constexpr double kKeep = 0.99;
  work_ = work_ * kKeep + static_cast<double>(work);
  busy_ = busy_ * kKeep + busy;
}

absl::Duration DeviceRate::TimeFor(int64_t work) const {
  if (work_ == 0) return absl::ZeroDuration();
  const absl::Duration time = busy_ * (static_cast<double>(work) / work_);
  return absl::Floor(time + absl::Nanoseconds(500), absl::Microseconds(1));
}

}  // namespace graft
